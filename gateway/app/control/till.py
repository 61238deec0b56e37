"""What every taking of money passes on its way into the ledger: shift, reference, daily limit.

Everything is looked up inside the transaction that posts, on the writer's connection: two cashiers
at the same moment cannot both pass, and a shift that closes meanwhile is closed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo

from gateway.app.config import Config
from gateway.core.civil import local_date
from gateway.core.errors import RefusedError
from gateway.core.ledger import Transaction
from gateway.core.money import Currency, display_amount, parse_amount
from gateway.core.requests import Request, Role
from gateway.core.shift import Shift, money_taken, stamped
from gateway.store.db import Connection
from gateway.store.ledger import append_transaction, read_transaction
from gateway.store.shifts import (
    Payment,
    open_shift_of,
    payment_known,
    read_payment,
    read_shift,
    record_payment,
    taken_on,
)


@dataclass(frozen=True, slots=True)
class CounterRules:
    """How a site's counter works; see the section `counter` of the configuration.

    `operator_daily_limit_nano` None: no limit. `cash_provider` is the means that a float is of.
    """

    zone: ZoneInfo
    shift_required: bool = False
    operator_daily_limit_nano: int | None = None
    unique_references: bool = False
    cash_provider: str = "counter"


def counter_rules(config: Config, currency: Currency) -> CounterRules:
    """The rules as the configuration has them. Raises RefusedError MONEY_RANGE."""
    counter, limit = config.counter, config.counter.operator_daily_limit
    return CounterRules(
        zone=ZoneInfo(config.site.timezone),
        shift_required=counter.shift_required,
        operator_daily_limit_nano=None if limit is None else parse_amount(limit, currency),
        unique_references=counter.unique_references,
        cash_provider=counter.cash_provider,
    )


class Till:
    """Appends what takes money in or gives it back, as the counter's rules allow."""

    def __init__(self, rules: CounterRules, currency: Currency) -> None:
        self.rules: Final = rules
        self._currency = currency

    def append(self, connection: Connection, request: Request, transaction: Transaction) -> int:
        """Append a transaction with the shift it belongs to; its sequence number.

        Raises RefusedError SHIFT_REQUIRED, PAYMENT_KNOWN, DAILY_LIMIT, and as `append_transaction`.
        """
        taken = money_taken(transaction)
        if not taken:
            return append_transaction(connection, transaction)
        reverses = transaction.reverses_seq
        if reverses is None:
            shift = open_shift_of(connection, request.actor)
            self._check(connection, request, transaction, shift)
        else:
            shift = self._shift_of_reversal(connection, reverses, request.actor, taken)
        if shift is not None:
            transaction = stamped(transaction, shift.number)
        seq = append_transaction(connection, transaction)
        record_payment(
            connection,
            Payment(
                seq=seq,
                actor=request.actor,
                role=request.role.value,
                day=self._day(request),
                provider=next(iter(taken)),
                reference=_reference(transaction),
                amount_nano=sum(taken.values()),
                shift=None if shift is None else shift.number,
            ),
        )
        return seq

    def _shift_of_reversal(
        self, connection: Connection, reverses_seq: int, actor: str, taken: Mapping[str, int]
    ) -> Shift | None:
        """The drawer that gives the money back: the one that took it while its shift is open.

        After that, cash comes from the drawer of whoever reverses; other money goes back its own
        way and is in no drawer.
        """
        payment = read_payment(connection, reverses_seq)
        if payment is not None and payment.shift is not None:
            record = read_shift(connection, payment.shift)
            if record is not None and record.closing is None:
                return record.shift
        return open_shift_of(connection, actor) if self.rules.cash_provider in taken else None

    def _check(
        self,
        connection: Connection,
        request: Request,
        transaction: Transaction,
        shift: Shift | None,
    ) -> None:
        is_operator = request.role is Role.OPERATOR
        if self.rules.shift_required and is_operator and shift is None:
            raise RefusedError(
                "SHIFT_REQUIRED", "open a shift at your drawer before you take money"
            )
        taken = money_taken(transaction)
        if self.rules.unique_references:
            for provider in taken:
                _check_reference(connection, provider, _reference(transaction))
        if is_operator:
            self._check_limit(connection, request, sum(taken.values()))

    def _check_limit(self, connection: Connection, request: Request, amount_nano: int) -> None:
        limit_nano = self.rules.operator_daily_limit_nano
        if limit_nano is None:
            return
        taken_nano = taken_on(connection, request.actor, request.role.value, self._day(request))
        left_nano = max(0, limit_nano - taken_nano)
        if amount_nano > left_nano:
            left, limit = (display_amount(a, self._currency) for a in (left_nano, limit_nano))
            raise RefusedError(
                "DAILY_LIMIT",
                f"{left} {self._currency.code} of your daily limit of {limit} are left today; a "
                "manager may take more",
                "amount",
            )

    def _day(self, request: Request) -> str:
        # When it was asked for: what is carried out again after a restore, days late, would
        # otherwise all fall on one day.
        return local_date(self.rules.zone, request.created_utc_ms).isoformat()


def _check_reference(connection: Connection, provider: str, reference: str) -> None:
    known = payment_known(connection, provider, reference)
    if known is None:
        return
    first = read_transaction(connection, known.seq)
    whose = first.account_id if first is not None else None
    raise RefusedError(
        "PAYMENT_KNOWN",
        f"payment {reference!r} by {provider} was credited to {whose or 'nobody'} by transaction "
        f"{known.seq}",
        "payment_reference",
    )


def _reference(transaction: Transaction) -> str:
    return dict(transaction.memo).get("reference", "")
