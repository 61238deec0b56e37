"""One Modbus TCP connection. The only file that imports pymodbus.

pymodbus encodes the requests and frames them. Replies are checked here, byte by byte: its decoder
takes a reply with another function or fewer registers for good, and its framer waits for ever
for a frame whose protocol identifier is wrong or whose length is absurd.

    open ── request ──> in flight ── reply fits ──> open
                            ├── exception reply ──> open      (MeterExceptionError)
                            ├── deadline ─────────> closed    (MeterTimeoutError)
                            ├── wrong bytes ──────> closed    (MeterProtocolError)
                            └── peer hangs up ────> closed    (MeterUnreachableError)
"""

import asyncio
import struct
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, cast

from pymodbus.framer import FramerSocket
from pymodbus.pdu import DecodePDU, ModbusPDU, ReadDeviceInformationRequest
from pymodbus.pdu import ReadHoldingRegistersRequest as ReadHolding
from pymodbus.pdu.register_message import WriteSingleRegisterRequest

from gateway.core.clock import Clock
from gateway.core.errors import (
    MeterError,
    MeterExceptionError,
    MeterProtocolError,
    MeterTimeoutError,
    MeterUnreachableError,
)
from gateway.south.pacing import RoundTrips

_FRAMER: Final = FramerSocket(DecodePDU(is_server=False))
# Modbus Messaging on TCP/IP V1.0b, 3.1.3: transaction, protocol, length of the rest, unit.
_MBAP: Final = struct.Struct(">HHHB")
_PDU_MAX: Final = 253
_EXCEPTION_FLAG: Final = 0x80
_EXCEPTION_BYTES: Final = 2
_IDENTIFICATION_BYTES_MIN: Final = 7
_MEI_DEVICE_IDENTIFICATION: Final = 0x0E
_TRANSACTIONS: Final = 0x10000

# A poll, a switch, an acknowledgement and a commissioning report: more at once is a defect.
QUEUE_MAX: Final = 8
PIPELINE_MAX: Final = 3


EXCEPTIONS: Final[Mapping[int, str]] = {
    0x01: "function not supported",
    0x02: "no such register",
    0x03: "value or count not allowed",
    0x04: "device failure",
    0x06: "device busy",
    0xF0: "write protection is on: release it at the meter",
}


class _Kind(Enum):
    READ = "read"
    WRITE = "write"
    IDENTIFICATION = "identification"


@dataclass(frozen=True, slots=True)
class Request:
    """A request PDU and what its reply must look like."""

    pdu: bytes
    kind: _Kind
    reply_bytes: int

    def allows(self, reply_bytes: int) -> bool:
        """Whether a reply PDU of this many bytes can answer the request."""
        if self.kind is _Kind.IDENTIFICATION:
            return reply_bytes == _EXCEPTION_BYTES or reply_bytes >= _IDENTIFICATION_BYTES_MIN
        return reply_bytes in {self.reply_bytes, _EXCEPTION_BYTES}


class Reply(NamedTuple):
    """The checked content of a reply, and when its last byte arrived (clock's monotonic ns).

    Register bytes for a read, the echoed address and value for a write, the object list for a
    device identification.
    """

    payload: bytes
    mono_ns: int


class DeviceObjects(NamedTuple):
    """One answer of function 0x2B: objects by number, and where to go on (None: complete)."""

    objects: dict[int, bytes]
    next_object: int | None


def read_request(address: int, count: int) -> Request:
    """Read `count` (1 … 125) registers from `address`, function 3."""
    pdu = _encoded(ReadHolding(address=address, count=count))
    return Request(pdu, _Kind.READ, 2 + 2 * count)


def write_request(address: int, value: int) -> Request:
    """Write one register, function 6: the form that commands take (PAC3220 EM p138)."""
    pdu = _encoded(WriteSingleRegisterRequest(address=address, registers=[value]))
    return Request(pdu, _Kind.WRITE, len(pdu))


def identification_request(first_object: int = 0) -> Request:
    """Read the basic device identification, function 0x2B / 0x0E, from `first_object` on."""
    pdu = _encoded(ReadDeviceInformationRequest(read_code=1, object_id=first_object))
    return Request(pdu, _Kind.IDENTIFICATION, 0)


def device_objects(payload: bytes) -> DeviceObjects:
    """Take apart the object list of a checked identification reply."""
    more, following, count = payload[0], payload[1], payload[2]
    objects: dict[int, bytes] = {}
    at = 3
    for _ in range(count):
        size = payload[at + 1]
        objects[payload[at]] = payload[at + 2 : at + 2 + size]
        at += 2 + size
    return DeviceObjects(objects, following if more else None)


def check_reply(request: Request, pdu: bytes) -> bytes:
    """The payload of a reply PDU that fits the request.

    Raises MeterExceptionError for a Modbus exception and MeterProtocolError for everything that is
    neither the exception nor exactly the reply that was asked for.
    """
    function = request.pdu[0]
    if not pdu:
        raise MeterProtocolError("empty reply")
    if pdu[0] == function | _EXCEPTION_FLAG:
        if len(pdu) != _EXCEPTION_BYTES:
            raise MeterProtocolError(f"exception reply of {len(pdu)} bytes")
        raise MeterExceptionError(
            f"function {function}: exception 0x{pdu[1]:02X} ({_meaning(pdu[1])})", pdu[1]
        )
    if pdu[0] != function:
        raise MeterProtocolError(f"function {pdu[0]} in reply to {function}")
    match request.kind:
        case _Kind.READ:
            if len(pdu) != request.reply_bytes or pdu[1] != request.reply_bytes - 2:
                raise MeterProtocolError(
                    f"{len(pdu) - 2} register bytes, {request.reply_bytes - 2} expected"
                )
            return pdu[2:]
        case _Kind.WRITE:
            if pdu != request.pdu:
                raise MeterProtocolError(f"write echoed as {pdu.hex()}, sent {request.pdu.hex()}")
            return pdu[1:]
        case _Kind.IDENTIFICATION:
            _check_identification(request.pdu, pdu)
            return pdu[4:]


def _check_identification(asked: bytes, pdu: bytes) -> None:
    if len(pdu) < _IDENTIFICATION_BYTES_MIN or pdu[1] != _MEI_DEVICE_IDENTIFICATION:
        raise MeterProtocolError("no device identification")
    if pdu[2] != asked[2]:
        raise MeterProtocolError(f"identification code {pdu[2]}, asked for {asked[2]}")
    at = _IDENTIFICATION_BYTES_MIN
    for _ in range(pdu[6]):
        if at + 2 > len(pdu):
            raise MeterProtocolError("identification objects cut short")
        at += 2 + pdu[at + 1]
    if at != len(pdu):
        raise MeterProtocolError("identification objects do not fill their frame")


def _encoded(pdu: ModbusPDU) -> bytes:
    return bytes((pdu.function_code,)) + pdu.encode()


class _Job:
    """Requests that belong together; answered as one."""

    __slots__ = ("future", "missing", "replies", "requests", "sent")

    def __init__(self, requests: Sequence[Request], future: asyncio.Future[list[Reply]]) -> None:
        self.requests = requests
        self.future = future
        self.sent = 0
        self.missing = len(requests)
        self.replies: list[Reply | None] = [None] * len(requests)


class _InFlight(NamedTuple):
    job: _Job
    place: int
    request: Request
    sent_at_s: float
    deadline_at_s: float


class ModbusLink(asyncio.Protocol):
    """One open connection to one unit; made by `open_link`.

    `pipeline` is how many requests may be in flight (1 … 3); replies are matched by transaction,
    never by order. Each request has the deadline that `round_trips` gives at the moment it is
    sent, in seconds of the event loop: a network does not run faster in a demo. Once closed, for
    whatever reason, a link stays closed.
    """

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
        self._urgent: deque[_Job] = deque()
        self._waiting: deque[_Job] = deque()
        self._timer: asyncio.TimerHandle | None = None
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
        if self._fault is not None or self._transport is None:
            raise MeterUnreachableError(f"link is closed: {self._fault}")
        if len(self._waiting) + len(self._urgent) >= QUEUE_MAX:
            raise MeterError(f"more than {QUEUE_MAX} exchanges wait for one meter")
        job = _Job(requests, self._loop.create_future())
        (self._urgent if urgent else self._waiting).append(job)
        self._pump()
        return await job.future

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
        while size - at >= _MBAP.size and self._fault is None:
            transaction, protocol, length, unit = _MBAP.unpack_from(data, at)
            entry = self._in_flight.get(transaction)
            if protocol != 0 or unit != self._unit or entry is None:
                self._fail(
                    MeterProtocolError(
                        f"frame of transaction {transaction}, protocol {protocol}, unit {unit} "
                        f"answers no request"
                    )
                )
                return
            # The length counts the unit byte. Checked before the body is awaited or kept.
            if not 1 < length <= _PDU_MAX + 1 or not entry.request.allows(length - 1):
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

    def _pump(self) -> None:
        frames: list[bytes] = []
        while len(self._in_flight) < self._pipeline:
            queue = self._urgent or self._waiting
            if not queue:
                break
            job = queue[0]
            # A caller that gave up, or whose earlier request failed, sends nothing more.
            if job.future.done():
                queue.popleft()
                continue
            frames.append(self._put_in_flight(job))
            if job.sent == len(job.requests):
                queue.popleft()
        if frames and self._transport is not None:
            self._transport.write(frames[0] if len(frames) == 1 else b"".join(frames))

    def _put_in_flight(self, job: _Job) -> bytes:
        request = job.requests[job.sent]
        transaction = self._transaction = (self._transaction + 1) % _TRANSACTIONS
        now_s = self._loop.time()
        deadline_at_s = now_s + self._round_trips.deadline_s
        self._in_flight[transaction] = _InFlight(job, job.sent, request, now_s, deadline_at_s)
        job.sent += 1
        if self._timer is None or self._timer.when() > deadline_at_s:
            self._arm(deadline_at_s)
        return _FRAMER.encode(request.pdu, self._unit, transaction)

    def _accept(self, transaction: int, entry: _InFlight, pdu: bytes) -> None:
        job = entry.job
        try:
            payload = check_reply(entry.request, pdu)
        except MeterExceptionError as error:
            if not job.future.done():
                job.future.set_exception(error)
        except MeterProtocolError as error:
            self._fail(error)
            return
        else:
            job.replies[entry.place] = Reply(payload, self._clock.mono_ns())
            job.missing -= 1
            if job.missing == 0 and not job.future.done():
                job.future.set_result([reply for reply in job.replies if reply is not None])
        del self._in_flight[transaction]
        self._round_trips.observe(self._loop.time() - entry.sent_at_s)
        self._pump()

    def _arm(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at_s, self._expire)

    def _expire(self) -> None:
        # One timer a link: it is not moved at every reply, it looks again when it fires.
        self._timer = None
        if not self._in_flight:
            return
        first_s = min(entry.deadline_at_s for entry in self._in_flight.values())
        if first_s > self._loop.time():
            self._arm(first_s)
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
        for entry in self._in_flight.values():
            if not entry.job.future.done():
                entry.job.future.set_exception(fault)
        for job in (*self._urgent, *self._waiting):
            if not job.future.done():
                job.future.set_exception(MeterUnreachableError(f"not sent, link closed: {fault}"))
        self._in_flight.clear()
        self._urgent.clear()
        self._waiting.clear()
        if self._transport is not None:
            self._transport.abort()


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


def _meaning(code: int) -> str:
    """A Modbus exception in words. Source: PAC3220 EM p112, Modbus specification section 7."""
    return EXCEPTIONS.get(code, "no meaning known")
