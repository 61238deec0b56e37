"""One connection: what it accepts, what closes it, what goes first."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.app.clock import SystemClock
from gateway.core.errors import (
    MeterError,
    MeterExceptionError,
    MeterProtocolError,
    MeterTimeoutError,
    MeterUnreachableError,
)
from gateway.south.link import QUEUE_MAX, ModbusLink, open_link
from gateway.south.modbus import identification_request, read_request, write_request
from gateway.south.pacing import RoundTrips
from tests.south.south_peers import HOST, Peer, float64, free_port, serving, until

READ = read_request(801, 8)
SHORT_TIMEOUT_S = 0.15


@asynccontextmanager
async def link_to(
    peer: Peer, *, pipeline: int = 1, timeout_s: float = SHORT_TIMEOUT_S
) -> AsyncIterator[ModbusLink]:
    """Serve a peer and connect to it."""
    async with serving(peer):
        link = await open_link(
            HOST,
            peer.port,
            unit=1,
            pipeline=pipeline,
            round_trips=RoundTrips(timeout_s),
            clock=SystemClock(),
            timeout_s=1.0,
        )
        try:
            yield link
        finally:
            link.close()
            await link.wait_closed()


Spoil = Callable[[bytes], bytes]


def spoiling(spoil: Spoil) -> Callable[[asyncio.StreamWriter, bytes, bytes], Awaitable[None]]:
    """Send every reply spoiled."""

    async def twist(writer: asyncio.StreamWriter, _request: bytes, reply: bytes) -> None:
        writer.write(spoil(reply))

    return twist


def patched(at: int, *values: int) -> Spoil:
    """Replace bytes of the frame from `at` on."""
    return lambda reply: reply[:at] + bytes(values) + reply[at + len(values) :]


def resized(pdu: Callable[[bytes], bytes]) -> Spoil:
    """Replace the PDU and correct the length of the frame."""

    def spoil(reply: bytes) -> bytes:
        body = pdu(reply[7:])
        return reply[:4] + struct.pack(">H", len(body) + 1) + reply[6:7] + body

    return spoil


WRONG = {
    "another transaction": patched(0, 0x7F, 0x01),
    "another protocol": patched(2, 0, 1),
    "another unit": patched(6, 9),
    "another function of the same size": patched(7, 4),
    "the function of a write": patched(7, 0x10),
    "a byte count that does not fit": patched(8, 14),
    "fewer registers, honestly framed": resized(lambda pdu: b"\x03\x0e" + pdu[2:16]),
    "more registers, honestly framed": resized(lambda pdu: b"\x03\x12" + pdu[2:] + b"\0\0"),
    "one byte too many": resized(lambda pdu: pdu + b"\0"),
    "no content": resized(lambda _pdu: b""),
    "length 0": patched(4, 0, 0),
    "length 65535": patched(4, 0xFF, 0xFF),
    "an exception of another function": resized(lambda _pdu: b"\x84\x02"),
    "an exception without code": resized(lambda _pdu: b"\x83"),
    "an exception of three bytes": resized(lambda _pdu: b"\x83\x02\x00"),
    "random bytes": lambda _reply: bytes(range(200, 240)),
    "something before the frame": lambda reply: b"\x00" + reply,
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_reply_that_does_not_fit_is_refused_and_the_link_closed(name: str) -> None:
    """Every wrong reply raises MeterProtocolError, well before the deadline, and closes."""
    peer = Peer()
    peer.twist = spoiling(WRONG[name])
    async with link_to(peer, timeout_s=2.0) as link:
        async with asyncio.timeout(1.0):
            with pytest.raises(MeterProtocolError):
                await link.exchange((READ,))
        assert link.fault is not None
        with pytest.raises(MeterUnreachableError):
            await link.exchange((READ,))
        await until(lambda: peer.open == 0)


async def test_an_honest_reply_arrives_as_register_bytes() -> None:
    """The payload of a read is exactly its registers, with the time of arrival."""
    peer = Peer()
    peer.energy(1234.5, 7.25)
    clock = SystemClock()
    async with link_to(peer) as link:
        before_ns = clock.mono_ns()
        replies = await link.exchange((READ,))
        assert replies[0].payload == struct.pack(">2d", 1234.5, 7.25)
        assert before_ns <= replies[0].asked_ns < replies[0].mono_ns <= clock.mono_ns()


async def test_a_reply_in_single_bytes_is_put_together() -> None:
    """A frame may arrive one byte at a time."""
    peer = Peer()
    peer.energy(42.0)

    async def dribble(writer: asyncio.StreamWriter, _request: bytes, reply: bytes) -> None:
        for byte in reply:
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0.0005)

    peer.twist = dribble
    async with link_to(peer, timeout_s=2.0) as link:
        replies = await link.exchange((READ,))
        assert replies[0].payload == struct.pack(">2d", 42.0, 0.0)


async def test_silence_times_out_and_closes() -> None:
    """No reply within the deadline: MeterTimeoutError, and the socket is closed."""
    peer = Peer()

    async def silent(_writer: asyncio.StreamWriter, _request: bytes, _reply: bytes) -> None:
        return

    peer.twist = silent
    async with link_to(peer) as link:
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        with pytest.raises(MeterTimeoutError):
            await link.exchange((READ,))
        assert SHORT_TIMEOUT_S <= loop.time() - start_s + 0.001 < SHORT_TIMEOUT_S + 0.3
        await until(lambda: peer.open == 0)


async def test_a_truncated_reply_times_out() -> None:
    """A frame that stops half-way is never delivered."""
    peer = Peer()
    peer.twist = spoiling(lambda reply: reply[:-3])
    async with link_to(peer) as link:
        with pytest.raises(MeterTimeoutError):
            await link.exchange((READ,))


async def test_a_late_reply_finds_the_link_closed() -> None:
    """A reply after the deadline reaches nobody, not even the next request."""
    peer = Peer()
    peer.energy(666.0)
    peer.latency_s = SHORT_TIMEOUT_S + 0.1
    async with link_to(peer) as link:
        with pytest.raises(MeterTimeoutError):
            await link.exchange((READ,))
        peer.energy(1.0)
        await asyncio.sleep(0.15)
        with pytest.raises(MeterUnreachableError):
            await link.exchange((READ,))


async def test_hanging_up_in_mid_reply_is_unreachable() -> None:
    """A connection that is closed within a frame fails at once, not at the deadline."""
    peer = Peer()

    async def hang_up(writer: asyncio.StreamWriter, _request: bytes, reply: bytes) -> None:
        writer.write(reply[:9])
        await writer.drain()
        writer.close()

    peer.twist = hang_up
    async with link_to(peer, timeout_s=2.0) as link, asyncio.timeout(1.0):
        with pytest.raises(MeterUnreachableError):
            await link.exchange((READ,))


async def test_a_duplicate_reply_closes_the_link_after_the_first_counted() -> None:
    """The first of two equal replies is good; the second answers nothing and closes the link."""
    peer = Peer()
    peer.energy(5.0)
    peer.twist = spoiling(lambda reply: reply + reply)
    async with link_to(peer) as link:
        replies = await link.exchange((READ,))
        assert replies[0].payload == struct.pack(">2d", 5.0, 0.0)
        await until(lambda: link.fault is not None)
        assert isinstance(link.fault, MeterProtocolError)


async def test_refused_connection_is_unreachable() -> None:
    """Nobody listens: MeterUnreachableError that names the address."""
    port = free_port()
    with pytest.raises(MeterUnreachableError, match=f"{HOST}:{port}"):
        await open_link(
            HOST,
            port,
            unit=1,
            pipeline=1,
            round_trips=RoundTrips(1.0),
            clock=SystemClock(),
            timeout_s=1.0,
        )


@pytest.mark.parametrize("code", [0x02, 0x06, 0xF0])
async def test_an_exception_is_told_and_the_link_goes_on(code: int) -> None:
    """A Modbus exception carries its code; the next request on the same link is answered."""
    peer = Peer()
    peer.refuses = {3: code}
    async with link_to(peer) as link:
        with pytest.raises(MeterExceptionError) as caught:
            await link.exchange((READ, READ))
        assert caught.value.exception_code == code
        peer.refuses = {}
        assert len(await link.exchange((READ,))) == 1
        assert peer.connections == 1


async def test_a_write_whose_echo_differs_is_refused() -> None:
    """Function 6 must come back byte for byte."""
    peer = Peer()
    peer.twist = spoiling(patched(10, 0x00, 0x01))
    async with link_to(peer) as link:
        with pytest.raises(MeterProtocolError, match="echoed"):
            await link.exchange((write_request(60008, 0x0100),))


@pytest.mark.parametrize(
    "pdu",
    [
        bytes((0x2B, 0x0E, 1, 1, 0, 0, 1, 0, 9)) + b"SIEMENS",
        bytes((0x2B, 0x0E, 1, 1, 0, 0, 2, 0, 7)) + b"SIEMENS",
        bytes((0x2B, 0x0E, 1, 1, 0, 0, 1, 0, 7)) + b"SIEMENS!",
        bytes((0x2B, 0x0E, 2, 1, 0, 0, 1, 0, 7)) + b"SIEMENS",
        bytes((0x2B, 0x0D, 1, 1, 0, 0, 1, 0, 7)) + b"SIEMENS",
    ],
    ids=["object too long", "object missing", "bytes left over", "other code", "other MEI type"],
)
async def test_an_identification_that_does_not_add_up_is_refused(pdu: bytes) -> None:
    """Objects of function 0x2B must fill their frame exactly."""
    peer = Peer()
    peer.objects = pdu
    async with link_to(peer) as link:
        with pytest.raises(MeterProtocolError):
            await link.exchange((identification_request(),))


async def test_an_urgent_request_waits_only_for_the_one_in_flight() -> None:
    """A switch command goes before reads that are queued, within a poll too."""
    peer = Peer()
    peer.latency_s = 0.02
    async with link_to(peer, timeout_s=2.0) as link:
        polls = [asyncio.create_task(link.exchange((READ, READ, READ))) for _ in range(2)]
        await until(lambda: len(peer.requests) == 1)
        await link.exchange((write_request(60008, 0x0000),), urgent=True)
        await asyncio.gather(*polls)
    assert [pdu[0] for pdu in peer.requests] == [3, 6, 3, 3, 3, 3, 3]


async def test_one_request_is_in_flight_unless_more_are_allowed() -> None:
    """By default the next request leaves after the reply to the one before."""
    peer = Peer()
    peer.latency_s = 0.05
    async with link_to(peer, timeout_s=2.0) as link:
        poll = asyncio.create_task(link.exchange((READ, READ, READ)))
        await until(lambda: len(peer.requests) == 1)
        await asyncio.sleep(0.02)
        assert len(link._in_flight) == 1
        await poll


async def test_pipelined_replies_are_matched_by_transaction() -> None:
    """Replies in reverse order find their requests."""
    peer = Peer()
    peer.energy(1.0, 2.0)
    peer.set(809, float64(3.0))
    held: list[bytes] = []

    async def reversed_order(writer: asyncio.StreamWriter, _request: bytes, reply: bytes) -> None:
        held.append(reply)
        if len(held) == 3:
            writer.write(b"".join(reversed(held)))

    peer.twist = reversed_order
    requests = [read_request(address, 4) for address in (801, 805, 809)]
    async with link_to(peer, pipeline=3, timeout_s=2.0) as link:
        replies = await link.exchange(requests)
    assert [struct.unpack(">d", reply.payload)[0] for reply in replies] == [1.0, 2.0, 3.0]


async def test_the_queue_is_bounded() -> None:
    """Beyond eight waiting exchanges a caller is refused and nothing of it is sent."""
    peer = Peer()
    peer.latency_s = 0.02
    async with link_to(peer, timeout_s=2.0) as link:
        waiting = [asyncio.create_task(link.exchange((READ,))) for _ in range(QUEUE_MAX + 1)]
        await until(lambda: len(peer.requests) == 1)
        with pytest.raises(MeterError, match="exchanges wait"):
            await link.exchange((READ,))
        await asyncio.gather(*waiting)
    assert len(peer.requests) == QUEUE_MAX + 1


async def test_a_caller_that_gave_up_does_not_disturb_the_next() -> None:
    """The reply to a cancelled exchange is taken off the wire and dropped."""
    peer = Peer()
    peer.latency_s = 0.03
    peer.energy(8.0)
    async with link_to(peer, timeout_s=2.0) as link:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await link.exchange((read_request(799, 42), READ))
        replies = await link.exchange((READ,))
        assert replies[0].payload == struct.pack(">2d", 8.0, 0.0)
        assert [pdu[:3] for pdu in peer.requests] == [b"\x03\x03\x1f", b"\x03\x03\x21"]


@pytest.mark.slow
async def test_the_deadline_holds_for_a_link_that_was_idle() -> None:
    """The one timer of a link is right for a request that is sent long after it was armed."""
    peer = Peer()
    async with link_to(peer, timeout_s=0.3) as link:
        await link.exchange((READ,))
        await asyncio.sleep(0.2)

        async def silent(_writer: asyncio.StreamWriter, _request: bytes, _reply: bytes) -> None:
            return

        peer.twist = silent
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        with pytest.raises(MeterTimeoutError):
            await link.exchange((READ,))
        assert 0.29 <= loop.time() - start_s < 0.6


async def test_a_deadline_that_became_shorter_holds_at_once() -> None:
    """A timer armed for the first, long deadline does not stretch the later, short one."""
    peer = Peer()
    async with link_to(peer, timeout_s=2.0) as link:
        for _ in range(20):
            await link.exchange((READ,))

        async def silent(_writer: asyncio.StreamWriter, _request: bytes, _reply: bytes) -> None:
            return

        peer.twist = silent
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        with pytest.raises(MeterTimeoutError, match=r"0\.250 s"):
            await link.exchange((READ,))
        assert 0.24 <= loop.time() - start_s < 0.8


@pytest.mark.parametrize(("unit", "pipeline"), [(256, 1), (-1, 1), (1, 0), (1, 4)])
async def test_a_unit_or_pipeline_out_of_range_is_refused(unit: int, pipeline: int) -> None:
    """Wiring mistakes are found before a socket is opened."""
    with pytest.raises(ValueError, match="out of range"):
        await open_link(
            HOST,
            1,
            unit=unit,
            pipeline=pipeline,
            round_trips=RoundTrips(1.0),
            clock=SystemClock(),
            timeout_s=1.0,
        )
