"""A transaction as one account sees it: what every document and every explanation is made of."""

from dataclasses import dataclass
from typing import Final

from gateway.core.ledger import Entry, SettlementLine, Transaction, TransactionKind, wallet

WALLET: Final = "wallet"
EMERGENCY: Final = "emergency"
ACCUMULATED: Final = "accumulated"
DEBT: Final = "debt"
_WHOLE: Final = frozenset({WALLET, EMERGENCY, ACCUMULATED})


@dataclass(frozen=True, slots=True)
class Posted:
    """One transaction of an account, in the order of `seq`.

    `own` are the entries on the account's ledger accounts (wallet, emergency credit, debts).
    `others` are the entries on the other side; they are left out for a settlement, whose other
    side is summed over all accounts of the posting round. `lines` are this account's alone.
    """

    seq: int
    kind: str
    utc_ms: int
    own: tuple[Entry, ...]
    others: tuple[Entry, ...] = ()
    lines: tuple[SettlementLine, ...] = ()
    request_key: str | None = None
    reverses_seq: int | None = None
    reversed_by_seq: int | None = None
    memo: tuple[tuple[str, str], ...] = ()

    @property
    def own_nano(self) -> int:
        """What the account as a whole gained: wallet, emergency credit and debts together."""
        return sum(entry.amount_nano for entry in self.own)

    @property
    def charged_nano(self) -> int:
        """What the settlement lines charge."""
        return sum(amount for line in self.lines for _, amount in line.charges)

    def noted(self, name: str) -> str:
        """A note of the memo; empty where there is none."""
        return dict(self.memo).get(name, "")


def is_own(ledger_account: str, account_id: str) -> bool:
    """Whether a ledger account belongs to this customer's account."""
    kind, _, rest = ledger_account.partition(":")
    if kind == DEBT:
        return rest.partition(":")[0] == account_id
    return kind in _WHOLE and rest == account_id


def seen_by(
    account_id: str, seq: int, transaction: Transaction, *, reversed_by_seq: int | None = None
) -> Posted:
    """A transaction of the ledger as this account sees it."""
    own = tuple(e for e in transaction.entries if is_own(e.ledger_account, account_id))
    settles = transaction.kind is TransactionKind.SETTLEMENT
    return Posted(
        seq=seq,
        kind=transaction.kind.value,
        utc_ms=transaction.utc_ms,
        own=own,
        others=() if settles else tuple(e for e in transaction.entries if e not in own),
        lines=tuple(line for line in transaction.settlements if line.account_id == account_id),
        request_key=transaction.request_key,
        reverses_seq=transaction.reverses_seq,
        reversed_by_seq=reversed_by_seq,
        memo=transaction.memo,
    )


def on_account(posted: Posted, ledger_account: str) -> int:
    """What a transaction added to one ledger account, in nano-units."""
    return sum(e.amount_nano for e in posted.own if e.ledger_account == ledger_account)


def wallet_nano(posted: Posted, account_id: str) -> int:
    """What a transaction added to the account's wallet, in nano-units."""
    return on_account(posted, wallet(account_id))
