"""The transactions that follow from what people asked for: part of a replay (`replay.py`).

Each maker builds the transaction anew with the functions of `ledger.py`, from the body of the
request and the credit of its customers as the replay knows it. Where the ledger alone does not
tell which of several is right (the order of a site's meters, say), all of them are given.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from zoneinfo import ZoneInfo

from gateway.core import requests as wishes
from gateway.core.charges import recharge_tax_entries
from gateway.core.civil import local_time
from gateway.core.credit import CreditBook, accumulated, debt
from gateway.core.ledger import (
    Entry,
    Transaction,
    TransactionKind,
    closing_of,
    debt_of,
    opening_of,
    recharge_of,
    reversal_of,
    transfer_of,
    voucher_redemption_of,
    voucher_sale_of,
    wallet,
    write_off_of,
)
from gateway.core.replay_energy import Stay
from gateway.core.shift import Shift, cash_up, difference_of, money_taken, shift_of, stamped
from gateway.core.tariff import Tariff


class NothingFollowsError(Exception):
    """The rules make no transaction of this request here."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What a replay knows beside the transactions.

    `tariffs` are all versions by id, oldest first, `stays` in their order. `transaction_of` reads
    an earlier transaction, `shift_of` who opened a shift with which float; None for none.
    """

    zone: ZoneInfo
    tariffs: Mapping[str, Sequence[Tariff]]
    stays: Sequence[Stay]
    transaction_of: Callable[[int], Transaction | None]
    shift_of: Callable[[int], Shift | None]


@dataclass(slots=True)
class Money:
    """What is known so far: credit by account, vouchers that wait, shifts, reversals.

    `notes` are reasons why a part of the last transaction was taken as it stands.
    """

    sources: Sources
    credits: dict[str, CreditBook] = field(default_factory=dict)
    vouchers: dict[tuple[str, str], Transaction] = field(default_factory=dict)
    shifts: dict[int, list[Transaction]] = field(default_factory=dict)
    reversed_seqs: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def credit(self, account_id: str) -> CreditBook:
        """The credit of an account as it stands."""
        found = self.credits.get(account_id)
        if found is None:
            found = self.credits[account_id] = CreditBook(account_id)
        return found

    def day(self, transaction: Transaction) -> int:
        """The local day of a transaction."""
        return local_time(self.sources.zone, transaction.utc_ms).day

    def expected(self, body: wishes.Body, found: Transaction) -> list[Transaction]:
        """What a request makes; one of these is right. Raises NothingFollowsError."""
        make = _MAKERS.get(type(body))
        if make is None:
            raise NothingFollowsError(f"a request {body.TYPE} makes no transaction")
        when = {"utc_ms": found.utc_ms, "request_key": found.request_key or ""}
        return make(self, body, found, when)

    def took(self, transaction: Transaction) -> None:
        """Keep what later transactions follow from, and let the credit follow."""
        memo = dict(transaction.memo)
        voucher = (memo.get("service_point", ""), memo.get("voucher", ""))
        if transaction.kind is TransactionKind.VOUCHER:
            self.vouchers[voucher] = transaction
        elif transaction.kind is TransactionKind.RECHARGE:
            self.vouchers.pop(voucher, None)
        if transaction.reverses_seq is not None:
            self.reversed_seqs.add(transaction.reverses_seq)
        number = shift_of(transaction)
        if number is not None:
            self.shifts.setdefault(number, []).append(transaction)
        closed = memo.get("closes_shift", "")
        if closed.isdecimal():
            self.shifts.pop(int(closed), None)
        for account_id in _customers(transaction):
            credit = self.credit(account_id)
            if transaction.kind in RECEIVED:
                credit.received(transaction.entries, self.day(transaction))
            else:
                credit.apply(transaction.entries)


# What goes through `Account.received`: it counts against weekly caps and ends emergency credit.
RECEIVED: Final = frozenset(
    {
        TransactionKind.RECHARGE,
        TransactionKind.TRANSFER,
        TransactionKind.REVERSAL,
    }
)
_CUSTOMERS: Final = frozenset({"wallet", "emergency", "accumulated", "debt"})


class Drawers:
    """Which shift takes the money of a transaction, by who opened and closed one; given every
    request in its order."""

    def __init__(self, shift_of: Callable[[int], Shift | None]) -> None:
        self._shift_of = shift_of
        self._open: dict[int, str] = {}
        self._count = 0

    def learn(self, body: wishes.Body | None, actor: str) -> None:
        """The next request was carried out."""
        if isinstance(body, wishes.OpenShift):
            self._count += 1
            self._open[self._count] = actor
        elif isinstance(body, wishes.CloseShift):
            self._open.pop(body.shift_number, None)

    def stamp(self, made: Transaction, actor: str, taken_in: int | None = None) -> Transaction:
        """A transaction with its shift; `taken_in` is that of what it reverses."""
        taken = money_taken(made)
        if not taken or made.kind is TransactionKind.ADJUSTMENT:
            return made
        own = next((number for number, name in self._open.items() if name == actor), None)
        if made.reverses_seq is not None:
            if taken_in in self._open:
                own = taken_in
            elif own is not None:
                shift = self._shift_of(own)
                own = own if shift is None or shift.cash_provider in taken else None
        return made if own is None else stamped(made, own)


def _customers(transaction: Transaction) -> list[str]:
    names: dict[str, None] = {}
    for entry in transaction.entries:
        kind, _, rest = entry.ledger_account.partition(":")
        if kind in _CUSTOMERS:
            names[rest.partition(":")[0]] = None
    return list(names)


Made = list[Transaction]
When = Mapping[str, Any]  # utc_ms and request_key


def _recharge(money: Money, body: wishes.Recharge, found: Transaction, when: When) -> Made:
    return [
        recharge_of(
            body.account_id,
            body.amount_nano,
            body.provider,
            credited,
            reference=body.payment_reference,
            **when,
        )
        for credited in _credited(money, body.account_id, body.amount_nano, found)
    ]


def _credited(
    money: Money, account_id: str, amount_nano: int, found: Transaction
) -> list[tuple[Entry, ...]]:
    """Taxes on recharges are those of the tariff of the account's first meter in the site's order,
    which the ledger does not tell: one for each tariff that the account ever had."""
    sources, credit = money.sources, money.credit(account_id)
    tariffs = dict.fromkeys(
        stay.tariff_id for stay in reversed(sources.stays) if stay.account_id == account_id
    )
    made: dict[tuple[Entry, ...], None] = {}
    for tariff_id in tariffs or ("",):
        versions = sources.tariffs.get(tariff_id, ())
        taxes = recharge_tax_entries(versions, amount_nano, found.utc_ms)
        net_nano = amount_nano - sum(entry.amount_nano for entry in taxes)
        made[*taxes, *credit.split(net_nano, money.day(found))] = None
    return list(made)


def _reversal(money: Money, body: wishes.ReverseTransaction, _: Transaction, when: When) -> Made:
    seq = body.transaction_seq
    original = money.sources.transaction_of(seq)
    if original is None or original.kind is not TransactionKind.RECHARGE:
        raise NothingFollowsError(f"transaction {seq} is no recharge that can be reversed")
    if seq in money.reversed_seqs:
        raise NothingFollowsError(f"transaction {seq} was reversed before")
    return [reversal_of(original, seq, **when)]


def _opening(_money: Money, body: wishes.OpenAccount, _: Transaction, when: When) -> Made:
    return [opening_of(body.account_id, body.opening_balance_nano, **when)]


def _debt(_money: Money, body: wishes.AddDebt, _: Transaction, when: When) -> Made:
    owed = debt(body.account_id, body.debt_id)
    return [debt_of(body.account_id, owed, body.amount_nano, reason=body.reason, **when)]


def _write_off(_money: Money, body: wishes.WriteOff, _: Transaction, when: When) -> Made:
    named = {"wallet": wallet(body.account_id), "accumulated": accumulated(body.account_id)}
    owed = named.get(body.debt_id, debt(body.account_id, body.debt_id))
    return [write_off_of(body.account_id, owed, body.amount_nano, reason=body.reason, **when)]


def _transfer(money: Money, body: wishes.Transfer, found: Transaction, when: When) -> Made:
    split = money.credit(body.to_account_id).split(body.amount_nano, money.day(found))
    accounts = (body.from_account_id, body.to_account_id)
    return [transfer_of(*accounts, body.amount_nano, split, reason=body.reason, **when)]


def _closing(money: Money, body: wishes.CloseAccount, _: Transaction, when: When) -> Made:
    credit = money.credit(body.account_id)
    settled = credit.final_payments()
    spent_nano = sum(e.amount_nano for e in settled if e.ledger_account.startswith("wallet:"))
    left_nano = max(0, credit.wallet_nano + spent_nano)
    return [closing_of(body.account_id, settled, left_nano, body.refund_provider, **when)]


def _sale(money: Money, body: wishes.IssueVoucher, found: Transaction, when: When) -> Made:
    point, memo = body.service_point_id, dict(found.memo)
    if memo.get("service_point") != point:
        raise NothingFollowsError("the voucher was asked for another service point")
    account_id = _holder(money, point, found.utc_ms)
    named = (
        ("reference", body.payment_reference),
        ("service_point", point),
        ("voucher", memo.get("voucher", "")),
    )
    return [voucher_sale_of(account_id, body.amount_nano, body.provider, memo=named, **when)]


def _holder(money: Money, service_point_id: str, utc_ms: int) -> str:
    """The account that pays for a point at an instant."""
    for stay in reversed(money.sources.stays):
        if stay.service_point_id == service_point_id and stay.from_utc_ms <= utc_ms:
            return stay.account_id
    return ""


def _redemption(money: Money, body: wishes.RedeemVoucher, found: Transaction, when: When) -> Made:
    """A voucher that was sold here is worth what it was sold for; the digits are not on record."""
    counter = dict(found.memo).get("voucher", "")
    sale = money.vouchers.get((body.service_point_id, counter))
    if sale is not None:
        account_id = sale.account_id or ""
        amount_nano = sum(e.amount_nano for e in sale.entries if e.amount_nano > 0)
    else:
        account_id = _holder(money, body.service_point_id, found.utc_ms)
        amount_nano = sum(e.amount_nano for e in found.entries if e.amount_nano > 0)
        money.notes.append(FOREIGN_VOUCHER)
    named = (("voucher", counter), ("service_point", body.service_point_id))
    return [
        voucher_redemption_of(
            account_id, amount_nano, credited, sold_here=sale is not None, memo=named, **when
        )
        for credited in _credited(money, account_id, amount_nano, found)
    ]


def _cancellation(money: Money, body: wishes.CancelVoucher, found: Transaction, when: When) -> Made:
    sale = money.vouchers.pop((body.service_point_id, str(body.counter)), None)
    if sale is None:
        raise NothingFollowsError(f"voucher {body.counter} was not sold, or is used up")
    original = money.sources.transaction_of(found.reverses_seq or 0)
    if original is None or original.request_key != sale.request_key:
        raise NothingFollowsError(f"it does not reverse the sale of voucher {body.counter}")
    return [reversal_of(original, found.reverses_seq or 0, **when)]


def _count(money: Money, body: wishes.CloseShift, _: Transaction, when: When) -> Made:
    shift = money.sources.shift_of(body.shift_number)
    if shift is None:
        raise NothingFollowsError(f"there is no shift {body.shift_number}")
    counted = dict(zip(body.providers, body.counted_nano, strict=False))
    means = cash_up(shift, money.shifts.get(shift.number, ()), counted)
    difference = difference_of(shift, means, **when)
    if difference is None:
        raise NothingFollowsError(f"nothing differs in shift {shift.number}")
    return [difference]


FOREIGN_VOUCHER: Final = "vouchers of another machine: what they are worth is not on record here"
_MAKERS: Final[Mapping[type, Callable[[Money, Any, Transaction, When], Made]]] = {
    wishes.Recharge: _recharge,
    wishes.ReverseTransaction: _reversal,
    wishes.OpenAccount: _opening,
    wishes.AddDebt: _debt,
    wishes.WriteOff: _write_off,
    wishes.Transfer: _transfer,
    wishes.CloseAccount: _closing,
    wishes.IssueVoucher: _sale,
    wishes.RedeemVoucher: _redemption,
    wishes.CancelVoucher: _cancellation,
    wishes.CloseShift: _count,
}
