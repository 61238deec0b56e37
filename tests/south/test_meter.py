"""One meter over a real socket: identity, readings, switching, commissioning."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Literal

import pytest

from gateway.app.clock import SystemClock
from gateway.core.errors import (
    MeterCounterError,
    MeterError,
    MeterExceptionError,
    MeterIdentityError,
    MeterProtocolError,
    MeterTimeoutError,
    MeterUnreachableError,
)
from gateway.core.reading import Lane
from gateway.south.meter import MeterClient, MeterEndpoint
from gateway.south.models import meter_model
from tests.south.south_peers import (
    HOST,
    Peer,
    device_objects,
    float32,
    float64,
    im0_block,
    serving,
    uint32,
    until,
)


@asynccontextmanager
async def client_of(
    peer: Peer,
    *,
    model: str = "pac3220",
    output: str = "0.0",
    output_on: Literal["connects", "disconnects"] = "connects",
    feedback: str | None = None,
    serial_number: str | None = None,
    timeout_s: float = 1.0,
) -> AsyncIterator[MeterClient]:
    """Serve a peer and make its client."""
    async with serving(peer):
        endpoint = MeterEndpoint(
            meter_id="flat-101",
            model=model,
            host=HOST,
            port=peer.port,
            output=output,
            output_on=output_on,
            feedback=feedback,
            serial_number=serial_number,
            timeout_s=timeout_s,
        )
        client = MeterClient(endpoint, SystemClock(), first_sequence=7)
        try:
            yield client
        finally:
            await client.close()


async def test_a_full_poll_becomes_a_reading() -> None:
    """Energy, output, phases, clock, diagnostics and all values stand in the reading."""
    peer = Peer()
    peer.energy(1500.9, 20.1)
    peer.set(1, float32(228.0) + float32(231.5) + float32(230.0))
    peer.set(13, float32(4.0) + float32(9.5) + float32(math.nan))
    peer.set(65, float32(3000.5))
    peer.set(205, uint32(0x0800) + uint32(1))
    peer.set(799, uint32(1_790_000_123))
    async with client_of(peer) as client:
        reading = await client.poll(Lane.FULL)
        later = await client.poll(Lane.FULL)
    assert (reading.sequence, later.sequence, client.next_sequence) == (7, 8, 9)
    assert reading.energy_wh == (1500, 20)
    assert reading.output_closed is True
    assert reading.feedback_closed is None
    assert (reading.voltage_v, reading.current_a, reading.power_w) == (231.5, 9.5, 3000.5)
    assert reading.restarted is True
    assert reading.diagnostics == 0x0800
    assert reading.meter_clock_s == 1_790_000_123
    assert len(reading.values) == len(meter_model("pac3220").names(Lane.FULL))
    assert math.isnan(reading.values[8])
    assert later.mono_ns > reading.mono_ns


async def test_the_short_lane_holds_energy_and_output_only() -> None:
    """Two requests, no values, nothing that was not read."""
    peer = Peer()
    peer.energy(5.0, 6.0)
    async with client_of(peer) as client:
        await client.connect()
        peer.requests.clear()
        reading = await client.poll(Lane.SHORT)
    assert len(peer.requests) == 2
    assert reading.energy_wh == (5, 6)
    assert reading.output_closed is False
    assert (reading.values, reading.current_a, reading.power_w) == ((), None, None)
    assert (reading.voltage_v, reading.meter_clock_s, reading.diagnostics) == (None, None, 0)


async def test_the_slow_lane_is_a_whole_reading_and_more() -> None:
    """Its values begin with those of the full lane; the phase counters follow."""
    peer = Peer()
    peer.energy(5.0)
    peer.set(841, float64(77.0))
    async with client_of(peer) as client:
        full = await client.poll(Lane.FULL)
        slow = await client.poll(Lane.SLOW)
    assert slow.values[: len(full.values)] == full.values
    assert slow.values[len(full.values)] == 77.0
    assert slow.energy_wh == (5, 0)


@pytest.mark.parametrize(
    ("output_on", "word", "closed"),
    [
        ("connects", 1, True),
        ("connects", 0, False),
        ("disconnects", 1, False),
        ("disconnects", 0, True),
        ("connects", 2, False),
    ],
)
async def test_the_output_is_read_by_its_wiring(
    output_on: Literal["connects", "disconnects"], word: int, *, closed: bool
) -> None:
    """`output_closed` is the supply, not the coil, and only of the wired output."""
    peer = Peer()
    peer.set(207, uint32(word))
    async with client_of(peer, output_on=output_on) as client:
        for lane in Lane:
            assert (await client.poll(lane)).output_closed is closed


@pytest.mark.parametrize("word", [0, 2])
async def test_the_contactor_feedback_is_in_every_lane(word: int) -> None:
    """A wired auxiliary contact on input 0.1 is reported even by the short lane."""
    peer = Peer()
    peer.set(209, uint32(word))
    async with client_of(peer, feedback="0.1") as client:
        for lane in Lane:
            assert (await client.poll(lane)).feedback_closed is (word == 2)


@pytest.mark.parametrize(
    ("output", "output_on", "closed", "word"),
    [
        ("0.0", "connects", True, 0x0100),
        ("0.0", "connects", False, 0x0000),
        ("0.0", "disconnects", True, 0x0000),
        ("0.0", "disconnects", False, 0x0100),
        ("8.1", "connects", True, 0x0181),
    ],
)
async def test_switching_writes_register_60008(
    output: str, output_on: Literal["connects", "disconnects"], word: int, *, closed: bool
) -> None:
    """One write by function 6, whose value follows from output and wiring."""
    peer = Peer()
    async with client_of(peer, output=output, output_on=output_on) as client:
        await client.switch(closed=closed)
    assert peer.writes == [(60008, word)]
    assert [pdu[0] for pdu in peer.requests].count(6) == 1


async def test_a_renewal_repeats_the_command_behind_what_is_queued() -> None:
    """The state that is held, once, after a poll that came before; the end is told."""
    peer = Peer()
    ended: list[object] = []
    async with client_of(peer) as client:
        await client.connect()
        poll = asyncio.create_task(client.poll(Lane.FULL))
        await asyncio.sleep(0)
        assert client.begin_renewal(closed=True, done=ended.append)
        await poll
        assert peer.writes == []
        await until(lambda: ended == [None])
        assert peer.writes == [(60008, 0x0100)]
        peer.refuses = {6: 0xF0}
        assert client.begin_renewal(closed=True, done=ended.append)
        await until(lambda: len(ended) == 2)
    assert isinstance(ended[1], MeterExceptionError)


async def test_a_switch_takes_the_place_of_a_renewal() -> None:
    """A renewal that waits is never sent after a cut, and none begins while one is under way."""
    peer = Peer()
    ended: list[object] = []
    async with client_of(peer) as client:
        await client.connect()
        peer.latency_s = 0.02
        poll = asyncio.create_task(client.poll(Lane.FULL))
        await asyncio.sleep(0)
        assert client.begin_renewal(closed=True, done=ended.append)
        cut = asyncio.create_task(client.switch(closed=False))
        await asyncio.sleep(0)
        assert not client.begin_renewal(closed=True, done=ended.append)
        await asyncio.gather(poll, cut)
        await client.poll(Lane.SHORT)
    assert peer.writes == [(60008, 0x0000)]
    assert ended == []


async def test_a_renewal_that_is_lost_with_the_link_is_told() -> None:
    """Without a connection it is refused at once; lost meanwhile, it ends with the error."""
    peer = Peer()
    ended: list[object] = []
    async with client_of(peer) as client:
        with pytest.raises(MeterUnreachableError):
            client.begin_renewal(closed=True, done=ended.append)
        await client.connect()
        peer.latency_s = 0.2
        assert client.begin_renewal(closed=True, done=ended.append)
        client.abort()
        await until(lambda: len(ended) == 1)
        assert isinstance(ended[0], MeterUnreachableError)
        with pytest.raises(MeterUnreachableError):
            client.begin_renewal(closed=True, done=ended.append)


async def test_write_protection_refuses_a_switch_and_says_so() -> None:
    """Exception 0xF0 comes back as such; readings go on over the same connection."""
    peer = Peer()
    async with client_of(peer) as client:
        await client.connect()
        peer.refuses = {6: 0xF0}
        with pytest.raises(MeterExceptionError) as caught:
            await client.switch(closed=False)
        assert caught.value.exception_code == 0xF0
        await client.poll(Lane.SHORT)
    assert peer.connections == 1


async def test_diagnostics_are_acknowledged_by_mask() -> None:
    """60007 gets the latched bits; bits beyond the register are refused here."""
    peer = Peer()
    async with client_of(peer) as client:
        await client.acknowledge_diagnostics(0x0800)
        with pytest.raises(ValueError, match="does not fit"):
            await client.acknowledge_diagnostics(0x1_0000)
    assert peer.writes == [(60007, 0x0800)]


async def test_identity_holds_both_sources() -> None:
    """Function 0x2B and the I&M0 block, without padding."""
    peer = Peer()
    async with client_of(peer) as client:
        identity = await client.identify()
    assert identity.manufacturer == "SIEMENS AG"
    assert identity.device_name == "SENTRON PAC3220"
    assert identity.firmware == "V3.2.1 / V1.1.0"
    assert identity.order_number == "7KM3220-0BA01-1DA0"
    assert identity.serial_number == "LQN/180200110001"
    assert (identity.vendor_id, identity.hardware_revision) == (42, 3)
    assert identity.software_revision == "V3.2.1"


OTHERS = {
    "another model": (device_objects(b"SIEMENS AG", b"SENTRON PAC2200", b"V3"), im0_block()),
    "another make": (device_objects(b"Janitza", b"UMG 604 PAC3220", b"V3"), im0_block()),
    "another order number": (Peer().objects, im0_block(order=b"7KM2200-2EA00-1JA1")),
    "no texts at all": (device_objects(b"", b"", b""), im0_block(order=b"")),
}


@pytest.mark.parametrize("name", OTHERS)
async def test_another_device_gives_no_readings_until_the_right_one_is_back(name: str) -> None:
    """MeterIdentityError, the connection closed, nothing polled; then all is well again."""
    peer = Peer()
    right = peer.objects
    peer.objects, block = OTHERS[name]
    peer.set(64001, block)
    async with client_of(peer) as client:
        with pytest.raises(MeterIdentityError):
            await client.poll(Lane.FULL)
        with pytest.raises(MeterIdentityError):
            await client.switch(closed=False)
        await until(lambda: peer.open == 0)
        assert peer.writes == []
        assert {pdu[:3] for pdu in peer.requests} == {b"\x2b\x0e\x01", b"\x03\xfa\x01"}
        peer.objects = right
        peer.set(64001, im0_block())
        assert (await client.poll(Lane.FULL)).sequence == 7


async def test_a_device_that_answers_only_one_of_both_is_known_by_it() -> None:
    """Without function 0x2B the order number decides; without I&M0 the texts do."""
    peer = Peer()
    peer.refuses = {0x2B: 1}
    async with client_of(peer) as client:
        assert (await client.connect()).order_number == "7KM3220-0BA01-1DA0"
        del peer.registers[64001]
        await client.close()
        with pytest.raises(MeterIdentityError):
            await client.connect()
    peer = Peer()
    del peer.registers[64001]
    async with client_of(peer) as client:
        assert (await client.connect()).serial_number == ""
        assert (await client.poll(Lane.SHORT)).sequence == 7


async def test_another_serial_number_is_another_meter() -> None:
    """A swap behind our back is refused, whether the serial was configured or seen before."""
    peer = Peer()
    async with client_of(peer, serial_number="LQN/999") as client:
        with pytest.raises(MeterIdentityError, match="LQN/999"):
            await client.connect()
    async with client_of(peer) as client:
        await client.connect()
        await client.close()
        peer.set(64001, im0_block(serial=b"LQN/180200110002"))
        with pytest.raises(MeterIdentityError, match="replacement"):
            await client.poll(Lane.FULL)


async def test_all_share_one_connection() -> None:
    """Polls and a switch that find the link down share the one they make; so after a loss."""
    peer = Peer()
    peer.latency_s = 0.01
    async with client_of(peer) as client:
        for made in (1, 2, 3):
            await asyncio.gather(
                client.poll(Lane.FULL), client.switch(closed=True), client.poll(Lane.SHORT)
            )
            assert peer.connections == made
            client.abort()
        await until(lambda: peer.open == 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 2e12, 1e-300])
async def test_a_bad_energy_register_is_no_reading(bad: float) -> None:
    """Rejected and counted; the connection stays, the sequence too."""
    peer = Peer()
    async with client_of(peer) as client:
        await client.connect()
        peer.energy(10.0, bad)
        with pytest.raises(MeterProtocolError, match="no possible counter"):
            await client.poll(Lane.FULL)
        assert (client.readings_rejected, client.next_sequence) == (1, 7)
        peer.energy(10.0, 0.0)
        assert (await client.poll(Lane.FULL)).sequence == 7
    assert peer.connections == 1


async def test_a_counter_that_is_none_still_shows_the_supply() -> None:
    """The output as it reads, the current where the counter is undefined, and nothing of it where
    it is impossible: then no other number is believed."""
    peer = Peer()
    peer.set(13, float32(4.5) * 3)
    async with client_of(peer) as client:
        for bad, current_a in ((math.nan, 4.5), (1e-300, None)):
            peer.energy(10.0, bad)
            for lane, shown_a in ((Lane.FULL, current_a), (Lane.SHORT, None)):
                with pytest.raises(MeterCounterError) as caught:
                    await client.poll(lane)
                seen = caught.value.seen
                assert (seen.output_closed, seen.energy_wh) == (False, None)
                assert (seen.current_a, seen.trusted) == (shown_a, False)
                assert caught.value.measures is (lane is Lane.FULL)


async def test_undefined_floats_are_none_not_zero() -> None:
    """A meter without any defined phase reports no current, voltage or power."""
    peer = Peer()
    peer.set(1, float32(math.nan) * 37)
    async with client_of(peer) as client:
        reading = await client.poll(Lane.FULL)
    assert (reading.voltage_v, reading.current_a, reading.power_w) == (None, None, None)


async def test_read_values_names_everything() -> None:
    """All values of the slow lane, by name."""
    peer = Peer()
    peer.set(55, float32(50.25))
    async with client_of(peer) as client:
        values = await client.read_values()
    assert list(values) == list(meter_model("pac3220").names(Lane.SLOW))
    assert values["frequency_hz"] == 50.25


async def test_an_output_that_will_obey_has_no_problems() -> None:
    """Mode 2, no protection, same subnet."""
    peer = Peer()
    peer.set(51718, [30])
    peer.set(207, uint32(1))
    async with client_of(peer) as client:
        report = await client.check_output()
    assert (report.problems, report.notes) == ((), ())
    assert (report.mode, report.remote_timeout_s, report.is_closed) == (2, 30, True)
    assert report.is_in_own_subnet is True


async def test_every_reason_not_to_obey_is_told() -> None:
    """Mode and both protections each give a sentence."""
    peer = Peer()
    peer.set(51711, [0, 4, 0])
    peer.set(205, uint32(0xC0000000))
    async with client_of(peer) as client:
        report = await client.check_output()
    assert report.mode == 4
    assert report.is_write_protected
    assert report.is_password_protected
    text = " ".join(report.problems)
    assert len(report.problems) == 3
    for word in ("mode 4", "hardware write protection", "password"):
        assert word in text
    assert report.notes == ()


async def test_another_subnet_is_a_note_and_no_problem() -> None:
    """Whether the IP filter is on cannot be read: it is told and speaks against nothing."""
    peer = Peer()
    peer.set(63001, uint32(0x0A0A010B) + uint32(0xFFFFFF00))
    async with client_of(peer) as client:
        report = await client.check_output()
    assert report.is_in_own_subnet is False
    assert report.problems == ()
    (note,) = report.notes
    assert note.startswith(f"{HOST} is outside the meter's subnet")
    assert "IP filter" in note


async def test_a_model_without_mode_register_reports_it_unknown() -> None:
    """The PAC2200 file names no setting registers: unknown, not wrong."""
    peer = Peer()
    peer.objects = device_objects(b"Siemens AG", b"SENTRON PAC2200", b"V3.2.2")
    peer.set(64001, im0_block(order=b"7KM2200-2EA00-1JA1"))
    peer.energy(3.0)
    async with client_of(peer, model="pac2200") as client:
        assert (await client.poll(Lane.SLOW)).energy_wh == (3, 0)
        report = await client.check_output()
    assert (report.mode, report.remote_timeout_s, report.is_in_own_subnet) == (None, None, None)
    assert "cannot be read" in report.problems[0]


async def test_a_meter_that_falls_silent_while_identifying_leaves_nothing_open() -> None:
    """A deadline holds for the identification too; the socket is closed after it."""
    peer = Peer()

    async def silent(_writer: asyncio.StreamWriter, _request: bytes, _reply: bytes) -> None:
        return

    peer.twist = silent
    async with client_of(peer, timeout_s=0.1) as client:
        with pytest.raises(MeterTimeoutError):
            await client.connect()
        assert not client.is_connected
        await until(lambda: peer.open == 0)


async def test_an_endless_identification_is_refused() -> None:
    """A device that always has more objects is stopped after four frames."""
    peer = Peer()
    peer.objects = bytes((0x2B, 0x0E, 1, 1, 0xFF, 0, 1, 0, 1)) + b"x"
    async with client_of(peer) as client:
        with pytest.raises(MeterError, match="goes on"):
            await client.connect()
    assert sum(pdu[0] == 0x2B for pdu in peer.requests) == 4


def test_wrong_wiring_is_refused_before_anything_is_opened() -> None:
    """An unknown model, output or input is a ValueError at construction."""
    good = MeterEndpoint(meter_id="m", model="pac2200", host=HOST)
    for wrong in (
        replace(good, model="pac1"),
        replace(good, output="0.1"),
        replace(good, feedback="0.1"),
    ):
        with pytest.raises(ValueError, match=r"model|output|input"):
            MeterClient(wrong, SystemClock())
