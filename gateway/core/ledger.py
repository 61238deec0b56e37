"""Double-entry transactions and the hash chain over them.

A transaction is balanced: its entries sum to zero. Every transaction is chained to the one before
it by SHA-256 over a canonical JSON body, so a changed, missing or added row is found by anyone
who recomputes the chain. Corrections are linked reversals, never edits.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

GENESIS = bytes(32)
# What was taken in for vouchers that are sold and not redeemed.
VOUCHERS = "vouchers"
# Faces the money of vouchers that another machine sold: it has the cash.
VOUCHER_PROVIDER = "voucher"


class TransactionKind(StrEnum):
    """What a transaction records."""

    RECHARGE = "recharge"
    SETTLEMENT = "settlement"
    REVERSAL = "reversal"
    OPENING = "opening"
    ADJUSTMENT = "adjustment"
    EMERGENCY_DRAW = "emergency_draw"
    DEBT = "debt"
    DEBT_COLLECTION = "debt_collection"
    WRITE_OFF = "write_off"
    TRANSFER = "transfer"
    CLOSING = "closing"
    REFUND = "refund"
    VOUCHER = "voucher"


class RebaseFlag(StrEnum):
    """A person's decision that moved the registers of a settlement line without their advance."""

    RELEASED = "RELEASED"
    METER_REPLACED = "METER_REPLACED"
    # No decision: export registers are followed from here on (another account or meter, `credited`
    # set again), whatever went before.
    EXPORT_BEGUN = "EXPORT_BEGUN"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a transaction: `amount_nano` credited (positive) to `ledger_account`.

    A wallet holds what the customer may still use: a recharge credits `wallet:<account>` and
    debits `cash:<provider>`; consumption debits the wallet and credits `income:…` and `tax:…`.
    """

    ledger_account: str
    amount_nano: int


@dataclass(frozen=True, slots=True)
class ExportRegisters:
    """Export registers of a settlement line, as its import registers: from, to, what was settled.

    A line without one fed in nothing. It begins where the last one of its meter ended.
    """

    from_wh: tuple[int, ...]
    to_wh: tuple[int, ...]
    advance_wh: tuple[int, ...]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SettlementLine:
    """Energy of one meter that a settlement charges, with the registers that prove it.

    `from_wh`/`to_wh` are the cumulative registers (T1, T2, …) between which `cells` (key
    `version/source/band/block` -> Wh) were priced. `advance_wh` is what was settled per register;
    it differs from `to_wh - from_wh` only where `flags` say why (rollover, regression, reset,
    replacement). `facts` are the tariff version and what was known of the period (`Facts` in
    `gateway/core/fees.py`): with them and the cells up to here every charge can be computed again.
    Empty in lines of older versions. `export` is what was fed in, at the feed-in price of that
    version.
    """

    account_id: str
    service_point_id: str
    meter_id: str
    tariff_id: str
    period: str
    from_utc_ms: int
    to_utc_ms: int
    from_wh: tuple[int, ...]
    to_wh: tuple[int, ...]
    advance_wh: tuple[int, ...]
    cells: tuple[tuple[str, int], ...]
    charges: tuple[tuple[str, int], ...]
    flags: tuple[str, ...] = ()
    facts: tuple[int, ...] = ()
    export: ExportRegisters | None = None

    @property
    def fed_wh(self) -> int:
        """What was fed in."""
        return sum(self.export.advance_wh) if self.export else 0


@dataclass(frozen=True, slots=True)
class Transaction:
    """What is appended to the ledger in one piece."""

    kind: TransactionKind
    utc_ms: int
    entries: tuple[Entry, ...]
    account_id: str | None = None
    request_key: str | None = None
    reverses_seq: int | None = None
    memo: tuple[tuple[str, str], ...] = ()
    settlements: tuple[SettlementLine, ...] = ()

    def __post_init__(self) -> None:
        total = sum(entry.amount_nano for entry in self.entries)
        if total != 0:
            raise ValueError(f"transaction {self.kind} does not balance: {total} nano left over")


def wallet(account_id: str) -> str:
    """Name of the ledger account that holds a customer's credit."""
    return f"wallet:{account_id}"


def cash(provider: str) -> str:
    """Name of the ledger account that faces the money a provider (counter, bank, app) took in."""
    return f"cash:{provider}"


def charge_entries(account_id: str, charges: Mapping[str, int]) -> tuple[Entry, ...]:
    """Entries that move charge components (`energy:grid`, `fixed`, `tax:VAT` -> nano) to income."""
    total = sum(charges.values())
    entries = [Entry(wallet(account_id), -total)]
    for component, amount_nano in sorted(charges.items()):
        name = component if component.startswith("tax:") else f"income:{component}"
        entries.append(Entry(name, amount_nano))
    return tuple(entry for entry in entries if entry.amount_nano != 0)


def merge_entries(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The same entries with one line per ledger account, sorted, zero lines left out."""
    sums: dict[str, int] = {}
    for entry in entries:
        sums[entry.ledger_account] = sums.get(entry.ledger_account, 0) + entry.amount_nano
    return tuple(Entry(name, sums[name]) for name in sorted(sums) if sums[name] != 0)


def settlement_of(lines: Sequence[SettlementLine], *, utc_ms: int) -> Transaction | None:
    """One transaction for a posting round: every line's charges leave its account's wallet."""
    if not lines:
        return None
    entries: list[Entry] = []
    for line in lines:
        entries += charge_entries(line.account_id, dict(line.charges))
    return Transaction(
        kind=TransactionKind.SETTLEMENT,
        utc_ms=utc_ms,
        entries=merge_entries(entries),
        settlements=tuple(lines),
    )


def recharge_of(
    account_id: str,
    amount_nano: int,
    provider: str,
    credited: Sequence[Entry] = (),
    *,
    utc_ms: int,
    request_key: str,
    reference: str,
) -> Transaction:
    """Money that a provider took in becomes credit of an account.

    `credited` says where it goes (debts, taxes, the wallet); nothing said, all is the wallet's.
    """
    where = credited or (Entry(wallet(account_id), amount_nano),)
    return Transaction(
        kind=TransactionKind.RECHARGE,
        utc_ms=utc_ms,
        entries=(*where, Entry(cash(provider), -amount_nano)),
        account_id=account_id,
        request_key=request_key,
        memo=(("provider", provider), ("reference", reference)),
    )


def opening_of(account_id: str, amount_nano: int, *, utc_ms: int, request_key: str) -> Transaction:
    """The balance that an account brings along when it is opened (negative: it owes energy)."""
    return Transaction(
        kind=TransactionKind.OPENING,
        utc_ms=utc_ms,
        entries=_without_zeros((wallet(account_id), amount_nano), ("opening", -amount_nano)),
        account_id=account_id,
        request_key=request_key,
    )


def debt_of(
    account_id: str,
    ledger_account: str,
    amount_nano: int,
    *,
    utc_ms: int,
    request_key: str,
    reason: str,
) -> Transaction:
    """A debt that was agreed or brought along: it is owed, and nothing flows."""
    return Transaction(
        kind=TransactionKind.DEBT,
        utc_ms=utc_ms,
        entries=(Entry(ledger_account, -amount_nano), Entry("opening", amount_nano)),
        account_id=account_id,
        request_key=request_key,
        memo=(("reason", reason),),
    )


def write_off_of(
    account_id: str,
    ledger_account: str,
    amount_nano: int,
    *,
    utc_ms: int,
    request_key: str,
    reason: str,
) -> Transaction:
    """What is owed is given up."""
    return Transaction(
        kind=TransactionKind.WRITE_OFF,
        utc_ms=utc_ms,
        entries=(Entry(ledger_account, amount_nano), Entry("write_off", -amount_nano)),
        account_id=account_id,
        request_key=request_key,
        memo=(("reason", reason),),
    )


def transfer_of(
    from_account_id: str,
    to_account_id: str,
    amount_nano: int,
    credited: Sequence[Entry],
    *,
    utc_ms: int,
    request_key: str,
    reason: str,
) -> Transaction:
    """Credit of one account becomes another's; `credited` says of what kind there."""
    return Transaction(
        kind=TransactionKind.TRANSFER,
        utc_ms=utc_ms,
        entries=(Entry(wallet(from_account_id), -amount_nano), *credited),
        account_id=from_account_id,
        request_key=request_key,
        memo=(("reason", reason), ("to", to_account_id)),
    )


def closing_of(
    account_id: str,
    settled: Sequence[Entry],
    refund_nano: int,
    provider: str,
    *,
    utc_ms: int,
    request_key: str,
) -> Transaction:
    """The end of an account: what is owed is paid from its credit, the rest is paid out."""
    refund = _without_zeros((wallet(account_id), -refund_nano), (cash(provider), refund_nano))
    return Transaction(
        kind=TransactionKind.CLOSING,
        utc_ms=utc_ms,
        entries=merge_entries((*settled, *refund)),
        account_id=account_id,
        request_key=request_key,
        memo=(("provider", provider),),
    )


def _without_zeros(*amounts: tuple[str, int]) -> tuple[Entry, ...]:
    return tuple(Entry(name, amount_nano) for name, amount_nano in amounts if amount_nano)


def reversal_of(original: Transaction, seq: int, *, utc_ms: int, request_key: str) -> Transaction:
    """The transaction that undoes `original` (ledger sequence `seq`), linked to it."""
    return Transaction(
        kind=TransactionKind.REVERSAL,
        utc_ms=utc_ms,
        entries=tuple(Entry(e.ledger_account, -e.amount_nano) for e in original.entries),
        account_id=original.account_id,
        request_key=request_key,
        reverses_seq=seq,
        memo=(("reverses", str(seq)),),
    )


def voucher_sale_of(
    account_id: str,
    amount_nano: int,
    provider: str,
    *,
    utc_ms: int,
    request_key: str,
    memo: tuple[tuple[str, str], ...],
) -> Transaction:
    """Money that a provider took in for a voucher of an account; its wallet has it later."""
    return Transaction(
        kind=TransactionKind.VOUCHER,
        utc_ms=utc_ms,
        entries=(Entry(VOUCHERS, amount_nano), Entry(cash(provider), -amount_nano)),
        account_id=account_id,
        request_key=request_key,
        memo=(("provider", provider), *memo),
    )


def voucher_redemption_of(
    account_id: str,
    amount_nano: int,
    credited: Sequence[Entry] = (),
    *,
    sold_here: bool,
    utc_ms: int,
    request_key: str,
    memo: tuple[tuple[str, str], ...],
) -> Transaction:
    """A voucher becomes credit of its account: a recharge that was paid for earlier.

    `credited` says where it goes, as with `recharge_of`.
    `sold_here` tells whether this ledger took the money in; for a voucher of another machine it is
    owed by that one.
    """
    source = VOUCHERS if sold_here else cash(VOUCHER_PROVIDER)
    where = credited or (Entry(wallet(account_id), amount_nano),)
    return Transaction(
        kind=TransactionKind.RECHARGE,
        utc_ms=utc_ms,
        entries=(*where, Entry(source, -amount_nano)),
        account_id=account_id,
        request_key=request_key,
        memo=(("provider", VOUCHER_PROVIDER), *memo),
    )


def canonical_json(body: object) -> bytes:
    """JSON with sorted keys, no spaces, UTF-8: one text for one meaning."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def chain_hash(previous: bytes, body: Mapping[str, object]) -> bytes:
    """SHA-256 over the previous hash's 32 bytes and the canonical JSON of `body`."""
    return hashlib.sha256(previous + canonical_json(body)).digest()


def transaction_body(seq: int, transaction: Transaction) -> dict[str, object]:
    """Everything of a transaction that its hash covers."""
    return {
        "seq": seq,
        "kind": transaction.kind.value,
        "utc_ms": transaction.utc_ms,
        "account": transaction.account_id,
        "request_key": transaction.request_key,
        "reverses": transaction.reverses_seq,
        "memo": dict(transaction.memo),
        "entries": [[e.ledger_account, e.amount_nano] for e in transaction.entries],
        "settlements": [settlement_body(line) for line in transaction.settlements],
    }


def settlement_body(line: SettlementLine) -> dict[str, object]:
    """A settlement line as its transaction's hash covers it."""
    body: dict[str, object] = {
        "account": line.account_id,
        "service_point": line.service_point_id,
        "meter": line.meter_id,
        "tariff": line.tariff_id,
        "period": line.period,
        "from_utc_ms": line.from_utc_ms,
        "to_utc_ms": line.to_utc_ms,
        "from_wh": list(line.from_wh),
        "to_wh": list(line.to_wh),
        "advance_wh": list(line.advance_wh),
        "cells": dict(line.cells),
        "charges": dict(line.charges),
        "flags": list(line.flags),
    }
    if line.facts:
        body["facts"] = list(line.facts)
    if line.export is not None:
        body["export"] = export_body(line.export)
    return body


def export_body(fed: ExportRegisters) -> dict[str, object]:
    """Export registers of a line as its transaction's hash covers them, and as they are kept."""
    return {
        "from_wh": list(fed.from_wh),
        "to_wh": list(fed.to_wh),
        "advance_wh": list(fed.advance_wh),
        "flags": list(fed.flags),
    }
