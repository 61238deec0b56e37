"""Cashier shifts: what a drawer should hold by means of payment, and the difference at the count.

A recharge that a cashier takes while a shift of theirs is open carries the shift's number in its
memo, and so does its reversal while that shift is open: the money is given back from the drawer
that took it. What is expected is the sum of those transactions' `cash:<provider>` entries, and for
the means that is cash also the float (change) that the drawer began with.

A difference is posted as the books of every till post it ("cash over and short"). Missing money
leaves the cash account and is a loss, money too much enters it and is a gain, each means with a
pair of its own, so that a card slip counted as cash shows as two differences and not as none:

    100 counted, 105 expected:  cash:counter +5   income:cash_difference -5
    (a cash account is negative by what it holds: see `core/ledger.py`)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from gateway.core.errors import RefusedError
from gateway.core.ledger import Entry, Transaction, TransactionKind, cash

SHIFT_MEMO: Final = "shift"
CASH_DIFFERENCE: Final = "income:cash_difference"
# What was paid for vouchers that nobody has redeemed yet.
VOUCHERS: Final = "vouchers"
_CASH: Final = cash("")


@dataclass(frozen=True, slots=True)
class Shift:
    """A cashier at a drawer. `number` counts without gaps over the site.

    `float_nano` is the change in the drawer at the beginning, money of `cash_provider`.
    """

    number: int
    drawer: str
    cashier: str
    opened_utc_ms: int
    float_nano: int
    cash_provider: str


@dataclass(frozen=True, slots=True)
class MeansTotal:
    """One means of payment in a shift; amounts are above zero. `counted_nano` None: not counted."""

    provider: str
    float_nano: int = 0
    recharges: int = 0
    recharged_nano: int = 0
    vouchers: int = 0
    vouchers_nano: int = 0
    reversals: int = 0
    reversed_nano: int = 0
    counted_nano: int | None = None

    @property
    def taken_nano(self) -> int:
        """What customers paid less what they were given back."""
        return self.recharged_nano + self.vouchers_nano - self.reversed_nano

    @property
    def expected_nano(self) -> int:
        """What must be there at the count."""
        return self.float_nano + self.taken_nano

    @property
    def difference_nano(self) -> int | None:
        """Counted less expected: negative where money is missing. None before the count."""
        return None if self.counted_nano is None else self.counted_nano - self.expected_nano


@dataclass(frozen=True, slots=True)
class Closing:
    """How a shift ended. `means` is the count as it was made, which nothing later changes."""

    utc_ms: int
    closed_by: str
    note: str
    means: tuple[MeansTotal, ...]
    difference_seq: int | None


def shift_of(transaction: Transaction) -> int | None:
    """The shift that a transaction belongs to, by its memo."""
    number = dict(transaction.memo).get(SHIFT_MEMO, "")
    return int(number) if number.isdecimal() else None


def stamped(transaction: Transaction, number: int) -> Transaction:
    """The transaction as one of a shift."""
    return replace(transaction, memo=(*transaction.memo, (SHIFT_MEMO, str(number))))


def money_taken(transaction: Transaction) -> dict[str, int]:
    """What a transaction brought into the till by provider; negative: it was given back."""
    taken: dict[str, int] = {}
    for entry in transaction.entries:
        if entry.ledger_account.startswith(_CASH):
            provider = entry.ledger_account.removeprefix(_CASH)
            taken[provider] = taken.get(provider, 0) - entry.amount_nano
    return taken


def cash_up(
    shift: Shift, transactions: Iterable[Transaction], counted: Mapping[str, int] | None = None
) -> tuple[MeansTotal, ...]:
    """Every means of payment of a shift by name, from its transactions in any order.

    `counted` is the count by provider, in nano-units; None before it (an X report). Raises
    ValueError for a transaction of another shift.
    """
    means = {shift.cash_provider: MeansTotal(shift.cash_provider, float_nano=shift.float_nano)}
    for transaction in transactions:
        if shift_of(transaction) != shift.number:
            raise ValueError(f"a transaction of shift {shift_of(transaction)}, not {shift.number}")
        for provider, taken_nano in money_taken(transaction).items():
            before = means.get(provider, MeansTotal(provider))
            means[provider] = _with(before, transaction, taken_nano)
    for provider, counted_nano in (counted or {}).items():
        before = means.get(provider, MeansTotal(provider))
        means[provider] = replace(before, counted_nano=counted_nano)
    return tuple(means[provider] for provider in sorted(means))


def check_count(means: Iterable[MeansTotal], known: Iterable[str]) -> None:
    """Refuse a count that leaves a means out or names one that never took money.

    No amount is told: whoever counts must not learn from a refusal what is expected. Raises
    RefusedError COUNT_MISSING, PROVIDER_UNKNOWN.
    """
    heard = frozenset(known)
    for total in means:
        used = bool(total.recharges or total.vouchers or total.reversals or total.float_nano)
        if total.counted_nano is None:
            raise RefusedError(
                "COUNT_MISSING", f"{total.provider} is not counted; count 0 for none", "counted"
            )
        if not used and total.counted_nano and total.provider not in heard:
            raise RefusedError(
                "PROVIDER_UNKNOWN", f"nobody ever paid by {total.provider!r}", "counted"
            )


def difference_of(
    shift: Shift, means: Iterable[MeansTotal], *, utc_ms: int, request_key: str
) -> Transaction | None:
    """What takes the count into the books; None where everything is there."""
    entries: list[Entry] = []
    for total in means:
        if total.difference_nano:
            entries.append(Entry(cash(total.provider), -total.difference_nano))
            entries.append(Entry(CASH_DIFFERENCE, total.difference_nano))
    if not entries:
        return None
    return Transaction(
        kind=TransactionKind.ADJUSTMENT,
        utc_ms=utc_ms,
        entries=tuple(entries),
        request_key=request_key,
        memo=(
            ("cashier", shift.cashier),
            ("closes_shift", str(shift.number)),
            ("drawer", shift.drawer),
        ),
    )


def _with(total: MeansTotal, transaction: Transaction, taken_nano: int) -> MeansTotal:
    if taken_nano < 0:
        return replace(
            total,
            reversals=total.reversals + 1,
            reversed_nano=total.reversed_nano - taken_nano,
        )
    if any(entry.ledger_account == VOUCHERS for entry in transaction.entries):
        return replace(
            total,
            vouchers=total.vouchers + 1,
            vouchers_nano=total.vouchers_nano + taken_nano,
        )
    return replace(
        total, recharges=total.recharges + 1, recharged_nano=total.recharged_nano + taken_nano
    )
