"""One Modbus TCP connection: what is in flight on it, until when, and what waits.

Replies are checked byte by byte (`gateway/south/modbus.py`) against the request whose transaction
they carry; nothing else is ever taken for an answer.

    open ── request ──> in flight ── reply fits ──> open
                            ├── exception reply ──> open      (MeterExceptionError)
                            ├── deadline ─────────> closed    (MeterTimeoutError)
                            ├── wrong bytes ──────> closed    (MeterProtocolError)
                            └── peer hangs up ────> closed    (MeterUnreachableError)

This path runs thousands of times a second, so it makes no task, no future and no context manager
of its own: an exchange ends in a call.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple, cast

from gateway.core.clock import Clock
from gateway.core.errors import (
    MeterError,
    MeterExceptionError,
    MeterProtocolError,
    MeterTimeoutError,
    MeterUnreachableError,
)
from gateway.south.modbus import HEAD, PDU_MAX, TRANSACTIONS, Request, check_reply
from gateway.south.pacing import RoundTrips

# A poll, a switch, an acknowledgement and a commissioning report: more at once is a defect.
QUEUE_MAX: Final = 8
PIPELINE_MAX: Final = 3
# A deadline that is looked at this much too late says that our own loop stood still.
LATE_S: Final = 0.02


class Reply(NamedTuple):
    """The checked content of a reply, when its last byte arrived and when it was asked for.

    Both times are the clock's monotonic ns: what the reply tells was so in between.
    Register bytes for a read, the echoed address and value for a write, the object list for a
    device identification.
    """

    payload: bytes
    mono_ns: int
    asked_ns: int


# How an exchange ended: all replies in the order of the requests, or the error.
Outcome = list[Reply] | MeterError


class Job:
    """Requests that belong together; answered as one. `done` is None once nobody waits any more."""

    __slots__ = ("done", "missing", "replies", "requests", "sent")

    def __init__(self, requests: Sequence[Request], done: Callable[[Outcome], None]) -> None:
        self.requests = requests
        self.done: Callable[[Outcome], None] | None = done
        self.sent = 0
        self.missing = len(requests)
        self.replies: list[Reply | None] = [None] * len(requests)

    def withdraw(self) -> None:
        """Give it up: what of it is not on the wire yet is not sent, and nobody is told."""
        self.done = None

    def finish(self, outcome: Outcome) -> None:
        """Tell the one who waits, once."""
        done, self.done = self.done, None
        if done is not None:
            done(outcome)


# Of a request on the wire: its job, its place there, itself, when it was sent, its deadline (both
# in seconds of the event loop), when it was sent by the clock. A plain tuple: one is made for every
# request.
_InFlight = tuple[Job, int, Request, float, float, int]


class ModbusLink(asyncio.Protocol):
    """One open connection to one unit; made by `open_link`.

    `pipeline` is how many requests may be in flight (1 … 3); replies are matched by transaction,
    never by order. Each request has the deadline that `round_trips` gives at the moment it is
    sent, in seconds of the event loop: a network does not run faster in a demo. Once closed, for
    whatever reason, a link stays closed.
    """

    __slots__ = (
        "_clock",
        "_fault",
        "_in_flight",
        "_loop",
        "_lost",
        "_partial",
        "_pipeline",
        "_round_trips",
        "_timer",
        "_timer_at_s",
        "_transaction",
        "_transport",
        "_unit",
        "_urgent",
        "_waiting",
    )

    def __init__(self, unit: int, pipeline: int, round_trips: RoundTrips, clock: Clock) -> None:
        self._loop = asyncio.get_running_loop()
        self._unit = unit
        self._pipeline = pipeline
        self._round_trips = round_trips
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._partial = b""
        self._transaction = 0
        self._in_flight: dict[int, _InFlight] = {}
        self._urgent: list[Job] = []
        self._waiting: list[Job] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = 0.0
        self._fault: MeterError | None = None
        self._lost: asyncio.Future[None] = self._loop.create_future()

    @property
    def fault(self) -> MeterError | None:
        """Why the link is closed; None while it is open."""
        return self._fault

    @property
    def local_address(self) -> str:
        """The gateway's own address on this connection; empty once closed."""
        name = self._transport.get_extra_info("sockname") if self._transport else None
        return str(name[0]) if name else ""

    async def exchange(self, requests: Sequence[Request], *, urgent: bool = False) -> list[Reply]:
        """Send the requests and return their replies in the same order.

        An urgent exchange goes before everything that is not yet on the wire.
        Raises MeterTimeoutError, MeterProtocolError and MeterUnreachableError, after each of which
        the link is closed, and MeterExceptionError, after which it is open. MeterError itself means
        that too much is queued here; nothing of it was sent.
        """
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        job = Job(requests, partial(_settle, future))
        self._enter(job, self._urgent if urgent else self._waiting)
        try:
            return await future
        finally:
            # Of an exchange whose caller gave up, nothing more is sent.
            job.withdraw()

    def begin(self, requests: Sequence[Request], done: Callable[[Outcome], None]) -> Job:
        """As `exchange`, without a task: `done` is called once, from the event loop, with the end.

        What the exchange itself would refuse at once (a closed link, too much queued) is raised.
        `done` must not raise. What is returned may be withdrawn.
        """
        job = Job(requests, done)
        self._enter(job, self._waiting)
        return job

    def close(self) -> None:
        """Close at once; what waits fails with MeterUnreachableError."""
        self._fail(MeterUnreachableError("closed by the gateway"))

    async def wait_closed(self) -> None:
        """Return when the socket is closed, so that a meter never holds two of our connections."""
        await asyncio.shield(self._lost)

    # The rest is called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection. Both event loops have turned Nagle's algorithm off by now."""
        # uvloop's transports have the methods of asyncio.Transport but are no subclass of it.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take apart what arrived; anything that no request asked for closes the link."""
        if self._partial:
            data = self._partial + data
        at = 0
        size = len(data)
        while size - at >= HEAD.size and self._fault is None:
            transaction, protocol, length, unit = HEAD.unpack_from(data, at)
            entry = self._in_flight.get(transaction)
            if entry is None or protocol != 0 or unit != self._unit:
                self._fail(
                    MeterProtocolError(
                        f"frame of transaction {transaction}, protocol {protocol}, unit {unit} "
                        f"answers no request"
                    )
                )
                return
            # The length counts the unit byte. Checked before the body is awaited or kept.
            if not 1 < length <= PDU_MAX + 1 or not entry[2].allows(length - 1):
                self._fail(MeterProtocolError(f"reply of {length - 1} bytes does not fit"))
                return
            end = at + 6 + length
            if end > size:
                break
            self._accept(transaction, entry, data[at + 7 : end])
            at = end
        self._partial = data[at:] if self._fault is None else b""

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed; by whom says the fault, if we did not do it ourselves."""
        reason = f"connection lost: {exc}" if exc else "closed by the meter"
        self._fail(MeterUnreachableError(reason))
        if not self._lost.done():
            self._lost.set_result(None)

    def _enter(self, job: Job, queue: list[Job]) -> None:
        if self._fault is not None or self._transport is None:
            raise MeterUnreachableError(f"link is closed: {self._fault}")
        if len(self._waiting) + len(self._urgent) >= QUEUE_MAX:
            raise MeterError(f"more than {QUEUE_MAX} exchanges wait for one meter")
        queue.append(job)
        self._pump()

    def _pump(self) -> None:
        """Send what may be sent, in one write."""
        frames: list[bytes] = []
        while len(self._in_flight) < self._pipeline:
            queue = self._urgent or self._waiting
            if not queue:
                break
            job = queue[0]
            # A caller that gave up, or whose earlier request failed, sends nothing more.
            if job.done is None:
                queue.pop(0)
                continue
            frames.append(self._put_in_flight(job))
            if job.sent == len(job.requests):
                queue.pop(0)
        if frames and self._transport is not None:
            self._transport.write(frames[0] if len(frames) == 1 else b"".join(frames))

    def _put_in_flight(self, job: Job) -> bytes:
        request = job.requests[job.sent]
        transaction = self._transaction = (self._transaction + 1) % TRANSACTIONS
        now_s = self._loop.time()
        deadline_at_s = now_s + self._round_trips.deadline_s
        asked_ns = self._clock.mono_ns()
        self._in_flight[transaction] = (job, job.sent, request, now_s, deadline_at_s, asked_ns)
        job.sent += 1
        if self._timer is None or self._timer_at_s > deadline_at_s:
            self._arm(deadline_at_s)
        return HEAD.pack(transaction, 0, len(request.pdu) + 1, self._unit) + request.pdu

    def _accept(self, transaction: int, entry: _InFlight, pdu: bytes) -> None:
        job, place, request, sent_at_s, _, asked_ns = entry
        outcome: Outcome | None = None
        try:
            payload = check_reply(request, pdu)
        except MeterExceptionError as error:
            outcome = error
        except MeterProtocolError as error:
            self._fail(error)
            return
        else:
            job.replies[place] = Reply(payload, self._clock.mono_ns(), asked_ns)
            job.missing -= 1
            if job.missing == 0:
                outcome = [reply for reply in job.replies if reply is not None]
        del self._in_flight[transaction]
        self._round_trips.observe(self._loop.time() - sent_at_s)
        if outcome is None:
            self._pump()
            return
        # Whoever waits behind this exchange, a switch command above all, does not wait for what
        # becomes of its outcome.
        done, job.done = job.done, None
        self._pump()
        if done is not None:
            done(outcome)

    def _arm(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at_s, self._expire)
        self._timer_at_s = at_s

    def _expire(self) -> None:
        # One timer a link: it is not moved at every reply, it looks again when it fires.
        self._timer = None
        if not self._in_flight:
            return
        first_s = min(entry[4] for entry in self._in_flight.values())
        now_s = self._loop.time()
        if first_s > now_s:
            self._arm(first_s)
            return
        late_s = now_s - self._timer_at_s
        if late_s > LATE_S:
            # The reply may lie in the socket: what our loop took is given back.
            self._arm(now_s + min(late_s, self._round_trips.deadline_s))
            return
        waited_s = self._round_trips.deadline_s
        self._round_trips.timed_out()
        self._fail(MeterTimeoutError(f"no reply within {waited_s:.3f} s"))

    def _fail(self, fault: MeterError) -> None:
        if self._fault is not None:
            return
        self._fault = fault
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        on_the_wire = [entry[0] for entry in self._in_flight.values()]
        queued = (*self._urgent, *self._waiting)
        self._in_flight.clear()
        self._urgent.clear()
        self._waiting.clear()
        if self._transport is not None:
            self._transport.abort()
        # Later, not within: whoever closes a link is not called back in the midst of it.
        for job in on_the_wire:
            self._loop.call_soon(job.finish, fault)
        for job in queued:
            unsent = MeterUnreachableError(f"not sent, link closed: {fault}")
            self._loop.call_soon(job.finish, unsent)


async def open_link(
    host: str,
    port: int,
    *,
    unit: int,
    pipeline: int,
    round_trips: RoundTrips,
    clock: Clock,
    timeout_s: float,
) -> ModbusLink:
    """Connect to a meter within `timeout_s` seconds of the event loop.

    Raises MeterUnreachableError when the connection is refused, reset or not made in time, and
    ValueError when `unit` (0 … 255) or `pipeline` (1 … 3) is out of range.
    """
    if not 0 <= unit <= 0xFF or not 1 <= pipeline <= PIPELINE_MAX:
        raise ValueError(f"unit {unit} or pipeline {pipeline} is out of range")
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, link = await loop.create_connection(
                lambda: ModbusLink(unit, pipeline, round_trips, clock), host, port
            )
    except TimeoutError:
        raise MeterUnreachableError(f"{host}:{port}: no connection in {timeout_s} s") from None
    except OSError as error:
        raise MeterUnreachableError(f"{host}:{port}: {error}") from error
    return link


def _settle(future: asyncio.Future[list[Reply]], outcome: Outcome) -> None:
    if future.done():
        return
    if isinstance(outcome, MeterError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
