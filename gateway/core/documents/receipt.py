"""The receipt of a recharge: what was paid, and where it went."""

from dataclasses import dataclass
from typing import Final

from gateway.core.documents.posted import Posted, wallet_nano
from gateway.core.errors import RefusedError
from gateway.core.ledger import Entry, TransactionKind

# Kinds of transaction that take money in and get a receipt.
PAID_IN: Final = frozenset({TransactionKind.RECHARGE.value})


@dataclass(frozen=True, slots=True)
class Receipt:
    """A recharge. `went_to` sums to `amount_nano`; so does `came_from`, which paid for it.

    Ledger accounts tell where: `wallet:…`, `debt:…`, `emergency:…`, `tax:…`; and from where:
    `cash:<provider>`, `vouchers`. `reversed_by_seq` names the transaction that undid it.
    """

    account_id: str
    seq: int
    utc_ms: int
    amount_nano: int
    came_from: tuple[Entry, ...]
    went_to: tuple[Entry, ...]
    balance_before_nano: int
    balance_after_nano: int
    provider: str
    reference: str
    request_key: str | None
    reversed_by_seq: int | None = None


def receipt_of(account_id: str, posted: Posted, balance_before_nano: int) -> Receipt:
    """The receipt of a recharge; `balance_before_nano` is the wallet just before it.

    Raises RefusedError NO_RECEIPT for any other kind of transaction.
    """
    if posted.kind not in PAID_IN:
        raise RefusedError(
            "NO_RECEIPT",
            f"transaction {posted.seq} is a {posted.kind}; only a recharge has a receipt",
            "transaction_id",
        )
    entries = (*posted.own, *posted.others)
    went_to = tuple(entry for entry in entries if entry.amount_nano > 0)
    return Receipt(
        account_id=account_id,
        seq=posted.seq,
        utc_ms=posted.utc_ms,
        amount_nano=sum(entry.amount_nano for entry in went_to),
        came_from=tuple(
            Entry(e.ledger_account, -e.amount_nano) for e in entries if e.amount_nano < 0
        ),
        went_to=went_to,
        balance_before_nano=balance_before_nano,
        balance_after_nano=balance_before_nano + wallet_nano(posted, account_id),
        provider=posted.noted("provider"),
        reference=posted.noted("reference"),
        request_key=posted.request_key,
        reversed_by_seq=posted.reversed_by_seq,
    )
