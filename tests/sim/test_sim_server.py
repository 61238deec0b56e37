"""Simulated meters on the wire: pymodbus' client as the oracle, raw bytes for the faults."""

import asyncio
import struct
import time

import pytest
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.pdu.mei_message import ReadDeviceInformationResponse

from gateway.app.clock import SystemClock, seeded
from gateway.core.errors import ConfigurationError
from gateway.sim.faults import FAULTS, Layer, fault_named
from gateway.sim.server import Reach
from gateway.sim.site import Site, SiteOptions
from gateway.sim.wire import SPOILERS, Reply, spoil
from tests.sim.sim_sites import RawClient, free_port, own_network, running_site

READ_ENERGY = struct.pack(">BHH", 3, 801, 4)
REPLY_BYTES = 7 + 2 + 8
# uvloop counts whole ms from the time its loop last woke: a timer may fire that much early.
TIMER_GRAIN_S = 0.002


def announced_bytes(octets: bytes) -> int:
    """What an MBAP header says will follow it."""
    return int.from_bytes(octets[4:6], "big")


async def connected(site: Site) -> RawClient:
    """A raw client at the site's first meter."""
    port = site.customers()[0].port
    return await RawClient.connect(port.host, port.port)


async def with_fault(site: Site, kind: str, **arguments: float) -> RawClient:
    """A raw client at a meter that has a fault."""
    client = await connected(site)
    await site.add_fault("flat-101", fault_named(kind, **arguments))  # type: ignore[arg-type]
    return client


async def test_pymodbus_reads_what_is_true() -> None:
    """An independent client decodes doubles, floats and words to the simulator's own truth."""
    async with running_site() as site:
        port, meter = site.customers()[0].port, site.customers()[0].meter
        client = AsyncModbusTcpClient(port.host, port=port.port, timeout=2, retries=0)
        assert await client.connect()
        try:
            before_wh = meter.track.energy(site.now_s())[0].active_wh
            energy = await client.read_holding_registers(801, count=8, device_id=1)
            after_wh = meter.track.energy(site.now_s())[0].active_wh
            floats = await client.read_input_registers(1, count=74, device_id=1)
            words = await client.read_holding_registers(51711, count=3, device_id=1)
            doubles = client.convert_from_registers(
                energy.registers, client.DATATYPE.FLOAT64, word_order="big"
            )
            singles = client.convert_from_registers(
                floats.registers, client.DATATYPE.FLOAT32, word_order="big"
            )
            assert isinstance(doubles, list)
            assert isinstance(singles, list)
            assert before_wh - 0.5 <= doubles[0] <= after_wh
            assert 198 < singles[0] < 242
            assert 0 < singles[32] < 7_360
            assert words.registers == [0, 2, 0]
        finally:
            client.close()


async def test_pymodbus_writes_and_identifies() -> None:
    """FC 06, 10, 05, 01, 02 and 2B of an independent client do what they should."""
    async with running_site() as site:
        port = site.customers()[0].port
        client = AsyncModbusTcpClient(port.host, port=port.port, timeout=2, retries=0)
        assert await client.connect()
        try:
            assert not (await client.write_register(60008, 0x0000, device_id=1)).isError()
            outputs = await client.read_holding_registers(207, count=2, device_id=1)
            assert outputs.registers == [0, 0]
            assert not (await client.write_coil(300, True, device_id=1)).isError()
            assert (await client.read_coils(300, count=2, device_id=1)).bits[:2] == [True, False]
            preset = client.convert_to_registers(
                123_456.0, client.DATATYPE.FLOAT64, word_order="big"
            )
            assert not (await client.write_registers(801, preset, device_id=1)).isError()
            energy = await client.read_holding_registers(801, count=4, device_id=1)
            shown = client.convert_from_registers(
                energy.registers, client.DATATYPE.FLOAT64, word_order="big"
            )
            assert shown == pytest.approx(123_456, abs=1)
            refused = await client.read_holding_registers(2, count=2, device_id=1)
            assert refused.exception_code == 2
            found = await client.read_device_information(read_code=1, device_id=1)
            assert isinstance(found, ReadDeviceInformationResponse)
            assert found.information[1] == b"SENTRON PAC3220"
        finally:
            client.close()


async def test_replies_take_the_configured_latency() -> None:
    """No reply comes before the least latency, each soon after the most."""
    async with running_site(latency_s=(0.03, 0.04)) as site:
        client = await connected(site)
        for _ in range(5):
            start_s = time.monotonic()
            client.send(READ_ENERGY)
            await client.frame()
            assert 0.03 - TIMER_GRAIN_S <= time.monotonic() - start_s < 0.5
        client.close()


async def test_pipelined_and_split_requests_are_answered_in_order() -> None:
    """Three requests in one segment, and one in many, come back whole and in their order."""
    async with running_site(latency_s=(0.0, 0.01)) as site:
        client = await connected(site)
        for transaction in (1, 2, 3):
            client.send(READ_ENERGY, transaction=transaction)
        assert [(await client.frame())[0] for _ in range(3)] == [1, 2, 3]
        for octet in b"\x00\x09\x00\x00\x00\x06\x01" + READ_ENERGY:
            client.send_raw(bytes((octet,)))
            await asyncio.sleep(0.001)
        assert (await client.frame())[0] == 9
        client.close()


async def test_another_unit_gets_no_answer() -> None:
    """A request for unit 2 is ignored; the next one for unit 1 is served."""
    async with running_site() as site:
        client = await connected(site)
        client.send(READ_ENERGY, unit=2, transaction=1)
        client.send(READ_ENERGY, unit=1, transaction=2)
        assert (await client.frame())[:2] == (2, 1)
        client.close()


@pytest.mark.parametrize("octets", [b"GET / HTTP/1.1\r\n\r\n", b"\x00\x01\x00\x00\xff\xff\x01\x03"])
async def test_what_is_no_modbus_ends_the_connection(octets: bytes) -> None:
    """Another protocol or an impossible length hangs up; others are served on."""
    async with running_site() as site:
        stranger, client = await connected(site), await connected(site)
        stranger.send_raw(octets)
        assert await stranger.ended()
        client.send(READ_ENERGY)
        await client.frame()
        client.close()


async def test_a_flood_without_reading_is_dropped() -> None:
    """A connection holds a bounded number of unanswered requests."""
    async with running_site(latency_s=(1.0, 1.0)) as site:
        client = await connected(site)
        for transaction in range(40):
            client.send(READ_ENERGY, transaction=transaction)
        assert await client.ended(0.9)


async def test_a_fourth_connection_is_turned_away() -> None:
    """Three are served at a time (p99); when one leaves there is room again."""
    async with running_site() as site:
        clients = [await connected(site) for _ in range(3)]
        for client in clients:
            client.send(READ_ENERGY)
            await client.frame()
        assert await (await connected(site)).ended()
        assert site.customers()[0].port.turned_away == 1
        clients[0].close()
        await asyncio.sleep(0.05)
        fourth = await connected(site)
        fourth.send(READ_ENERGY)
        await fourth.frame()
        for client in (*clients[1:], fourth):
            client.close()


def test_every_wire_fault_has_its_bytes() -> None:
    """No fault on the wire is listed without saying what goes out."""
    assert set(SPOILERS) == {kind for kind, rule in FAULTS.items() if rule.layer is Layer.WIRE}


class LeastRandom:
    """A generator that always draws its least number."""

    def random(self) -> float:
        """Zero."""
        return 0.0


def test_garbage_is_never_a_header_by_chance() -> None:
    """Even zeros throughout leave the protocol field wrong, and 8 bytes are always sent."""
    (chunk,) = spoil(fault_named("garbage"), Reply(7, 1, b"\x83"), LeastRandom())
    assert len(chunk.payload) >= 8
    assert chunk.payload[2:4] != b"\x00\x00"


async def test_refused() -> None:
    """Open connections are reset, new ones refused; cleared, the meter is back."""
    async with running_site() as site:
        client = await with_fault(site, "refused")
        assert await client.ended()
        with pytest.raises(ConnectionRefusedError):
            await connected(site)
        await site.clear_faults("flat-101")
        client = await connected(site)
        client.send(READ_ENERGY)
        await client.frame()
        client.close()


@pytest.mark.slow
async def test_black_hole() -> None:
    """Requests and new connections vanish without a reset; cleared, the meter is back."""
    async with running_site() as site:
        client = await with_fault(site, "black_hole")
        client.send(READ_ENERGY)
        assert not await client.ended(0.3)
        port = site.customers()[0].port
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.open_connection(port.host, port.port), 0.5)
        await site.clear_faults("flat-101")
        assert await client.ended()
        client = await connected(site)
        client.send(READ_ENERGY)
        await client.frame()
        client.close()


async def test_silent() -> None:
    """Connections are taken, requests never answered, nothing is closed."""
    async with running_site() as site:
        client = await with_fault(site, "silent")
        client.send(READ_ENERGY)
        assert not await client.ended(0.3)
        (await connected(site)).close()
        client.close()


async def test_close_mid_reply() -> None:
    """Half of the frame, then the end."""
    async with running_site() as site:
        client = await with_fault(site, "close_mid_reply")
        client.send(READ_ENERGY)
        assert len(await client.octets(100)) == REPLY_BYTES // 2
        assert await client.ended()


async def test_drop_out() -> None:
    """A reset instead of a reply."""
    async with running_site() as site:
        client = await with_fault(site, "drop_out")
        client.send(READ_ENERGY)
        assert await client.octets(1) == b""
        assert await client.ended()


async def test_garbage() -> None:
    """As many bytes as a reply has, and never a Modbus header."""
    async with running_site() as site:
        client = await with_fault(site, "garbage")
        seen = set()
        for _ in range(20):
            client.send(READ_ENERGY)
            octets = await client.octets(REPLY_BYTES)
            assert len(octets) == REPLY_BYTES
            assert octets[2:4] != b"\x00\x00"
            seen.add(octets)
        assert len(seen) == 20
        client.close()


async def test_truncated() -> None:
    """The header announces what never comes; the connection stays."""
    async with running_site() as site:
        client = await with_fault(site, "truncated", amount=3)
        client.send(READ_ENERGY)
        octets = await client.octets(REPLY_BYTES, 0.3)
        assert len(octets) == REPLY_BYTES - 3
        assert announced_bytes(octets) == REPLY_BYTES - 6
        assert not await client.ended(0.1)
        client.close()


async def test_byte_by_byte() -> None:
    """The reply is right, and takes as long as its bytes."""
    async with running_site() as site:
        client = await with_fault(site, "byte_by_byte", amount=0.005)
        start_s = time.monotonic()
        client.send(READ_ENERGY)
        transaction, unit, pdu = await client.frame()
        assert (transaction, unit, len(pdu)) == (7, 1, 10)
        assert time.monotonic() - start_s >= 0.005 * (REPLY_BYTES - 1) - TIMER_GRAIN_S
        client.close()


@pytest.mark.parametrize(
    ("kind", "transaction", "unit", "function", "size"),
    [
        ("wrong_transaction", 8, 1, 3, 10),
        ("wrong_unit", 7, 2, 3, 10),
        ("wrong_function", 7, 1, 4, 10),
        ("fewer_registers", 7, 1, 3, 8),
        ("busy", 7, 1, 0x83, 2),
    ],
)
async def test_well_formed_lies(
    kind: str, transaction: int, unit: int, function: int, size: int
) -> None:
    """One field is wrong, all others and the framing are right."""
    async with running_site() as site:
        client = await with_fault(site, kind)
        client.send(READ_ENERGY)
        answered = await client.frame()
        assert answered[:2] == (transaction, unit)
        assert answered[2][0] == function
        assert len(answered[2]) == size
        if kind == "busy":
            assert answered[2][1] == 6
        else:
            assert answered[2][1] == size - 2
        client.close()


async def test_huge_length() -> None:
    """The header announces 65,535 bytes."""
    async with running_site() as site:
        client = await with_fault(site, "huge_length")
        client.send(READ_ENERGY)
        assert announced_bytes(await client.octets(REPLY_BYTES)) == 0xFFFF
        client.close()


async def test_duplicate() -> None:
    """The same frame twice."""
    async with running_site() as site:
        client = await with_fault(site, "duplicate")
        client.send(READ_ENERGY)
        assert await client.frame() == await client.frame()
        client.close()


async def test_late_reply() -> None:
    """The right reply, but only after the time given."""
    async with running_site() as site:
        client = await with_fault(site, "late_reply", amount=0.3)
        start_s = time.monotonic()
        client.send(READ_ENERGY)
        assert (await client.frame())[0] == 7
        assert 0.3 - TIMER_GRAIN_S <= time.monotonic() - start_s < 1.5
        client.close()


async def test_a_fault_strikes_as_often_as_asked() -> None:
    """`count` is used up, `function` spares other requests."""
    async with running_site() as site:
        client = await connected(site)
        await site.add_fault("flat-101", fault_named("busy", count=2, function=4))
        functions = []
        for function in (3, 4, 3, 4, 4):
            client.send(struct.pack(">BHH", function, 801, 4))
            functions.append((await client.frame())[2][0])
        assert functions == [3, 0x84, 3, 0x84, 4]
        assert site.customers()[0].meter.faults.names() == ()
        client.close()


async def test_a_fault_strikes_a_share() -> None:
    """`rate` spoils about that share of the replies."""
    async with running_site() as site:
        client = await with_fault(site, "busy", rate=0.3)
        busy = 0
        for _ in range(200):
            client.send(READ_ENERGY)
            busy += (await client.frame())[2][0] == 0x83
        assert 30 <= busy <= 95
        client.close()


async def test_a_restarted_meter_is_away_and_comes_back() -> None:
    """60001 over the wire: silence while it starts, then fresh connections and the restart bit."""
    async with running_site(restart_s=0.4) as site:
        client = await connected(site)
        client.send(struct.pack(">BHH", 6, 60001, 0))
        await client.frame()
        assert await client.ended(1.5)
        client = await connected(site)
        client.send(struct.pack(">BHH", 3, 205, 4))
        _, _, pdu = await client.frame()
        assert struct.unpack(">2I", pdu[2:]) == (0x800, 0)
        client.close()


async def test_a_faster_clock_makes_faster_meters() -> None:
    """At speed 50 a meter uses 50 times the energy in a real second."""
    async with running_site(speed=50.0, load_w=3_600, swing=0.0) as site:
        meter = site.customers()[0].meter
        start_s, start_wh = time.monotonic(), meter.track.total_wh(site.now_s())
        await asyncio.sleep(0.4)
        used_wh = meter.track.total_wh(site.now_s()) - start_wh
        assert used_wh == pytest.approx(50 * (time.monotonic() - start_s), rel=0.05)


async def test_an_address_in_use_is_named() -> None:
    """A second site on the same addresses says which one is taken, and leaves nothing behind."""
    network = own_network()
    port = free_port(network)
    async with running_site(network=network, port=port):
        other = Site(SiteOptions(meters=1, network=network, port=port), SystemClock(), seeded)
        with pytest.raises(ConfigurationError, match=rf"{network}\.0\.1:{port}"):
            await asyncio.wait_for(other.run(asyncio.Event(), asyncio.Event()), 5)


async def test_a_start_that_ends_while_it_is_looked_at_is_not_missed() -> None:
    """The meter finishes starting between two looks at the time: it still opens its port again."""
    async with running_site(restart_s=0.4) as site:
        customer = site.customers()[0]
        port, meter = customer.port, customer.meter
        await site.restart("flat-101")
        looks = iter((meter.ready_s - 0.0001, meter.ready_s + 0.0001))
        port.now_s = lambda: next(looks, meter.ready_s + 1.0)
        await port.follow()  # before the timer of the restart
        async with asyncio.timeout(0.3):
            while port.reach is not Reach.LISTENING:
                await asyncio.sleep(0.01)
