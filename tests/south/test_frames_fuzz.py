"""Wrong bytes never become a reading (promise 13; `make soak` runs the long version)."""

import asyncio
import struct
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.app.clock import SystemClock
from gateway.core.errors import MeterError, MeterExceptionError, MeterProtocolError
from gateway.south.link import ModbusLink, Reply, open_link
from gateway.south.modbus import (
    Request,
    check_reply,
    device_objects,
    identification_request,
    read_request,
    write_request,
)
from gateway.south.pacing import RoundTrips
from tests.south.south_peers import HOST, PAC3220_OBJECTS, frame

READ = read_request(801, 8)
GOOD_PDU = b"\x03\x10" + struct.pack(">2d", 1234.5, 6.0)
requests = st.one_of(
    st.builds(read_request, st.integers(0, 65535), st.integers(1, 125)),
    st.builds(write_request, st.integers(0, 65535), st.integers(0, 65535)),
    st.just(identification_request()),
)


@given(requests, st.binary(max_size=253))
def test_random_pdus_are_refused_or_are_the_reply(request: Request, pdu: bytes) -> None:
    """What passes has the function, the length and the echo that were asked for."""
    try:
        payload = check_reply(request, pdu)
    except (MeterProtocolError, MeterExceptionError):
        return
    assert pdu[0] == request.pdu[0]
    match pdu[0]:
        case 3:
            count = int.from_bytes(request.pdu[3:5], "big")
            assert (len(pdu), pdu[1], len(payload)) == (2 + 2 * count, 2 * count, 2 * count)
        case 6:
            assert pdu == request.pdu
        case _:
            listed = device_objects(payload).objects
            assert sum(2 + len(text) for text in listed.values()) <= len(pdu) - 7


@given(st.integers(0, len(PAC3220_OBJECTS) - 1), st.integers(0, 255))
def test_a_flipped_identification_never_escapes_its_frame(at: int, value: int) -> None:
    """Object lengths that lie are refused; what passes can be taken apart."""
    pdu = PAC3220_OBJECTS[:at] + bytes((value,)) + PAC3220_OBJECTS[at + 1 :]
    try:
        payload = check_reply(identification_request(), pdu)
    except (MeterProtocolError, MeterExceptionError):
        return
    assert all(isinstance(text, bytes) for text in device_objects(payload).objects.values())


async def _answered_with(raw: bytes) -> tuple[list[Reply] | MeterError, MeterError | None]:
    """Ask once over a real socket; the peer sends `raw` whatever it was asked, and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(12)
        writer.write(raw)
        writer.write_eof()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0)
    link: ModbusLink | None = None
    try:
        link = await open_link(
            HOST,
            server.sockets[0].getsockname()[1],
            unit=1,
            pipeline=1,
            round_trips=RoundTrips(0.5),
            clock=SystemClock(),
            timeout_s=2.0,
        )
        try:
            replies: list[Reply] | MeterError = await link.exchange((READ,))
        except MeterError as error:
            replies = error
        await asyncio.wait_for(link.wait_closed(), 2)
        return replies, link.fault
    finally:
        if link is not None:
            link.close()
        server.close()
        await asyncio.sleep(0)


GOOD = frame(1, GOOD_PDU)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_on_the_wire_are_no_reply(raw: bytes) -> None:
    """Noise of any length ends in an error and a closed link."""
    assume(not raw.startswith(GOOD[:9]))
    outcome, fault = asyncio.run(_answered_with(raw))
    assert isinstance(outcome, MeterError)
    assert fault is not None


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(GOOD) * 8 - 1))
def test_a_flipped_bit_in_front_of_the_registers_is_noticed(bit: int) -> None:
    """Header, function and count are covered; a flip inside the registers is TCP's to notice."""
    at, mask = bit // 8, 1 << bit % 8
    raw = bytearray(GOOD)
    raw[at] ^= mask
    outcome, _ = asyncio.run(_answered_with(bytes(raw)))
    if at >= 9:
        assert isinstance(outcome, list)
        assert outcome[0].payload == bytes(raw[9:])
    else:
        assert isinstance(outcome, MeterError)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(GOOD) - 1))
def test_a_cut_frame_is_no_reply(size: int) -> None:
    """However many bytes of it arrived."""
    outcome, _ = asyncio.run(_answered_with(GOOD[:size]))
    assert isinstance(outcome, MeterError)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=60))
def test_what_follows_a_good_reply_closes_the_link(rest: bytes) -> None:
    """The reply counts; bytes that nobody asked for end the connection."""
    outcome, fault = asyncio.run(_answered_with(GOOD + rest))
    assert isinstance(outcome, list)
    assert outcome[0].payload == GOOD_PDU[2:]
    assert fault is not None


def changed_frames(seed: str, count: int) -> int:
    """Check replies with one to four bytes changed; how many passed (they differ in registers).

    Raises AssertionError when one passes whose function, length or count is wrong.
    """
    chance = Random(seed)
    accepted = 0
    for _ in range(count):
        raw = bytearray(GOOD_PDU)
        for _ in range(chance.randint(1, 4)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        if chance.random() < 0.2:
            raw = raw[: chance.randrange(len(raw))]
        try:
            payload = check_reply(READ, bytes(raw))
        except (MeterProtocolError, MeterExceptionError):
            continue
        accepted += 1
        assert raw[:2] == GOOD_PDU[:2]
        assert len(payload) == 16
    return accepted


@pytest.mark.slow
def test_no_wrong_frame_of_many_is_accepted() -> None:
    """A million damaged frames; `make soak` checks ten million."""
    assert changed_frames("20", 1_000_000) > 0
