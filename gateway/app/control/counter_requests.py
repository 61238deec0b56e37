"""Requests of the counter: open a shift, count and close it; who forgot to."""

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol

import structlog

from gateway.app.control.department import Method
from gateway.app.control.desk import Desk
from gateway.core import requests as wishes
from gateway.core.civil import local_date
from gateway.core.errors import RefusedError
from gateway.core.requests import Request, Role
from gateway.core.shift import (
    Closing,
    MeansTotal,
    Shift,
    cash_up,
    check_count,
    difference_of,
)
from gateway.store.db import Connection
from gateway.store.ledger import append_transaction
from gateway.store.reader import StoreReader
from gateway.store.shifts import (
    ShiftRecord,
    close_shift,
    known_providers,
    open_shift,
    open_shifts,
    read_shift,
    shift_transactions,
)

log = structlog.get_logger()

# Requests after which a drawer holds other money than before.
TAKINGS: Final = (
    wishes.Recharge,
    wishes.ReverseTransaction,
    wishes.IssueVoucher,
    wishes.CancelVoucher,
    wishes.CloseAccount,
)


class EventLog(Protocol):
    """Where events go."""

    def event(self, kind: str, subject: str, severity: str, **facts: object) -> None:
        """Keep an event."""
        ...


class CounterRequests:
    """Carries out the requests about shifts, and tells of one that was left open overnight.

    `begin` reads the open shifts from the ledger. `look` is called with every sweep.
    """

    def __init__(self, desk: Desk, events: EventLog) -> None:
        self._desk = desk
        self._events = events
        self._open: dict[int, Shift] = {}
        self._told: set[int] = set()
        self._under_way: dict[str, asyncio.Event] = {}

    def begin(self, ledger: StoreReader) -> None:
        """Know the open shifts. Raises StoreAwayError."""
        self._open = {record.shift.number: record.shift for record in ledger.read(open_shifts)}

    # -- takings under way -----------------------------------------------------------------

    def begun(self, request: Request) -> None:
        """A request is being carried out; a count waits for those that came before it."""
        if isinstance(request.body, TAKINGS):
            self._under_way[request.key] = asyncio.Event()

    def ended(self, request: Request) -> None:
        """It has its outcome."""
        over = self._under_way.pop(request.key, None)
        if over is not None:
            over.set()

    # -- requests --------------------------------------------------------------------------

    @property
    def methods(self) -> Mapping[type, Method]:
        """What this carries out, by the type of the body."""
        return {
            wishes.OpenShift: self.open,
            wishes.CloseShift: self.close,
        }

    async def open(self, body: wishes.OpenShift, request: Request) -> None:
        """Begin a shift. Refuses AMOUNT_RANGE, SHIFT_OPEN."""
        desk = self._desk
        if body.float_nano < 0:
            raise RefusedError("AMOUNT_RANGE", "a float is zero or more", "float")
        desk.check_amount(body.float_nano, "float")
        utc_ms = desk.books.label()
        opened: list[Shift] = []

        def effect(connection: Connection) -> dict[str, object]:
            shift = open_shift(
                connection,
                drawer=body.drawer,
                cashier=request.actor,
                float_nano=body.float_nano,
                cash_provider=desk.till.rules.cash_provider,
                utc_ms=utc_ms,
                request_key=request.key,
            )
            opened[:] = [shift]
            return {
                "shift_number": shift.number,
                "drawer": shift.drawer,
                "float_nano": shift.float_nano,
                "opened_utc_ms": utc_ms,
            }

        made = {"utc_ms": utc_ms, "cash_provider": desk.till.rules.cash_provider}
        await desk.commit(request, effect, made=made)
        for shift in opened:
            self._open[shift.number] = shift
            log.info("shift.opened", number=shift.number, drawer=shift.drawer, by=request.actor)

    async def close(self, body: wishes.CloseShift, request: Request) -> None:
        """Count a drawer, post the difference, end the shift; the same count again changes nothing.

        Refuses REQUEST_FIELD, AMOUNT_RANGE, SHIFT_UNKNOWN, SHIFT_OTHERS, SHIFT_CLOSED,
        COUNT_MISSING, PROVIDER_UNKNOWN.
        """
        desk = self._desk
        for amount_nano in counted_of(body).values():
            desk.check_amount(amount_nano, "counted")
        # What was asked for before the count is in the drawer that is counted.
        for over in tuple(self._under_way.values()):
            await over.wait()
        utc_ms = desk.books.label()

        await desk.commit(
            request,
            lambda connection: count_and_close(connection, body, request, utc_ms=utc_ms),
            made={"utc_ms": utc_ms},
        )
        self._ended(body.shift_number, request)

    def look(self) -> None:
        """Tell once of each shift that was opened on an earlier day and is open still."""
        if not self._open.keys() - self._told:
            return
        zone = self._desk.till.rules.zone
        today = local_date(zone, self._desk.books.label())
        for number, shift in self._open.items():
            if number not in self._told and local_date(zone, shift.opened_utc_ms) < today:
                self._told.add(number)
                self._tell(shift, "warning")

    # -- inside ----------------------------------------------------------------------------

    def _ended(self, number: int, request: Request) -> None:
        shift = self._open.pop(number, None)
        if shift is None:
            return
        log.info("shift.closed", number=number, drawer=shift.drawer, by=request.actor)
        if number in self._told:
            self._told.discard(number)
            self._tell(shift, "cleared")

    def _tell(self, shift: Shift, severity: str) -> None:
        self._events.event(
            "SHIFT_OPEN_LONG",
            "site",
            severity,
            shift=shift.number,
            drawer=shift.drawer,
            cashier=shift.cashier,
            opened_utc_ms=shift.opened_utc_ms,
        )


def counted_of(body: wishes.CloseShift) -> dict[str, int]:
    """The count by provider. Raises RefusedError REQUEST_FIELD, AMOUNT_RANGE."""
    if len(body.providers) != len(body.counted_nano):
        raise RefusedError("REQUEST_FIELD", "one amount for each provider", "counted")
    if min(body.counted_nano) < 0:
        raise RefusedError("AMOUNT_RANGE", "a count is zero or more", "counted")
    return dict(zip(body.providers, body.counted_nano, strict=True))


def count_and_close(
    connection: Connection, body: wishes.CloseShift, request: Request, *, utc_ms: int
) -> dict[str, object]:
    """Close a shift in the transaction under way; what came of it. Raises as `close` does."""
    counted = counted_of(body)
    record = _own_shift(connection, body.shift_number, request)
    if record.closing is not None:
        return _closed_before(record, counted)
    shift = record.shift
    means = cash_up(shift, shift_transactions(connection, shift.number), counted)
    check_count(means, known_providers(connection))
    difference = difference_of(shift, means, utc_ms=utc_ms, request_key=request.key)
    seq = None if difference is None else append_transaction(connection, difference)
    closing = Closing(utc_ms, request.actor, body.note, means, seq)
    close_shift(connection, shift.number, closing, request_key=request.key)
    return _result(shift, closing)


def _own_shift(connection: Connection, number: int, request: Request) -> ShiftRecord:
    record = read_shift(connection, number)
    if record is None:
        raise RefusedError("SHIFT_UNKNOWN", f"there is no shift {number}", "shift_number")
    if request.role is Role.OPERATOR and record.shift.cashier != request.actor:
        raise RefusedError(
            "SHIFT_OTHERS",
            f"shift {number} is {record.shift.cashier}'s: its cashier or a manager closes it",
            "shift_number",
        )
    return record


def _closed_before(record: ShiftRecord, counted: dict[str, int]) -> dict[str, object]:
    """The stored result for the same count; another count is refused."""
    closing = record.closing
    stored = {} if closing is None else _counts_of(closing.means)
    if closing is None or stored != counted:
        raise RefusedError(
            "SHIFT_CLOSED",
            f"shift {record.shift.number} was closed with another count; a count is final",
            "shift_number",
        )
    return {**_result(record.shift, closing), "closed_before": True}


def _counts_of(means: tuple[MeansTotal, ...]) -> dict[str, int]:
    return {total.provider: total.counted_nano for total in means if total.counted_nano is not None}


def _result(shift: Shift, closing: Closing) -> dict[str, object]:
    counted_nano = sum(total.counted_nano or 0 for total in closing.means)
    expected_nano = sum(total.expected_nano for total in closing.means)
    return {
        "shift_number": shift.number,
        "drawer": shift.drawer,
        "expected_nano": expected_nano,
        "counted_nano": counted_nano,
        "difference_nano": counted_nano - expected_nano,
        "difference_seq": closing.difference_seq,
        "closed_utc_ms": closing.utc_ms,
    }
