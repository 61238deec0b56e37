"""A simulated site: its customers, its generator, its truth, its control socket."""

import asyncio
import csv
import io
import math
import socket
import stat
import struct
from pathlib import Path

import orjson
import pytest

from gateway.app.clock import SystemClock, seeded
from gateway.core.errors import ConfigurationError, RefusedError
from gateway.sim.control import LINE_BYTES, MAX_CLIENTS, ask, serve
from gateway.sim.faults import FAULTS
from gateway.sim.meter import OutputOn
from gateway.sim.site import Site, SiteOptions
from tests.sim.sim_sites import RawClient, free_port, own_network, running_site

SWITCH_OFF = struct.pack(">BHH", 6, 60008, 0x0000)
SWITCH_ON = struct.pack(">BHH", 6, 60008, 0x0100)


def site_of(**options: object) -> Site:
    return Site(SiteOptions(**options), SystemClock(), seeded)  # type: ignore[arg-type]


async def switch(site: Site, request: bytes) -> None:
    """Switch the first meter over the wire."""
    port = site.customers()[0].port
    client = await RawClient.connect(port.host, port.port)
    client.send(request)
    assert (await client.frame())[2] == request
    client.close()


def test_a_seed_makes_the_same_customers() -> None:
    """The same seed gives the same loads and registers at any size, another seed others."""
    small, large = site_of(meters=5, seed=9), site_of(meters=40, seed=9)
    other = site_of(meters=5, seed=10)
    for a, b, c in zip(small.customers(), large.customers(), other.customers(), strict=False):
        assert a.meter.options.start_wh == b.meter.options.start_wh
        assert a.meter.track.last.curve.peak_w == b.meter.track.last.curve.peak_w
        assert a.meter.options.start_wh != c.meter.options.start_wh


@pytest.mark.slow
def test_addresses_are_one_per_meter() -> None:
    """Meter i answers at 127.20.(i // 250).(i % 250 + 1); ids and serial numbers do not repeat."""
    customers = site_of(meters=800).customers()
    assert [customers[i].port.host for i in (0, 249, 250, 799)] == [
        "127.20.0.1",
        "127.20.0.250",
        "127.20.1.1",
        "127.20.3.50",
    ]
    assert len({customer.id for customer in customers}) == 800
    assert len({customer.meter.options.serial for customer in customers}) == 800


def test_the_meters_file_lists_what_the_gateway_needs() -> None:
    """One row per meter with id, model, address, p_max and feeder."""
    site = site_of(meters=60, port=5021, meters_per_feeder=50)
    rows = list(csv.DictReader(io.StringIO(site.meters_csv())))
    assert len(rows) == 60
    assert rows[0] == {
        "id": "flat-101",
        "model": "pac3220",
        "host": "127.20.0.1",
        "port": "5021",
        "p_max_w": "7360",
        "feeder": "riser-1",
    }
    assert rows[9]["id"] == "shop-10"
    assert rows[9]["p_max_w"] == "22080"
    assert rows[50]["feeder"] == "riser-2"


def test_p_max_covers_a_load_that_was_asked_for() -> None:
    """A mean load with its swing never exceeds the p_max that is listed."""
    for customer in site_of(meters=20, load_w=23_000, shop_every=0).customers():
        assert customer.meter.track.last.curve.peak_w <= customer.p_max_w <= 34_501


def test_bad_options_are_all_named_at_once() -> None:
    """Every value out of range is one problem."""
    with pytest.raises(ConfigurationError) as refusal:
        SiteOptions(
            meters=0, port=0, swing=1.0, latency_s=(0.2, 0.1), network="10.0", load_w=-1,
            generator_hours=((14.0, 13.0),),
        )  # fmt: skip
    problems = refusal.value.problems
    assert len(problems) == 7
    assert all(problem.startswith("simulation.") for problem in problems)


async def test_the_crossing_is_when_the_true_energy_got_there() -> None:
    """A crossing is dated to the instant: energy asked for / power after the start."""
    async with running_site(load_w=3_600, swing=0.0) as site:
        meter = site.customers()[0].meter
        start_wh = sum(meter.options.start_wh)
        await asyncio.sleep(0.25)
        now_ms = site.utc_ms(site.now_s())
        crossed_ms = site.crossing_utc_ms("flat-101", start_wh + 0.1)
        assert crossed_ms is not None
        assert crossed_ms == pytest.approx(site.utc_ms(0.0) + 100, abs=3)
        assert crossed_ms < now_ms
        assert site.crossing_utc_ms("flat-101", start_wh + 3_600) is None
        assert site.crossing_utc_ms("flat-101", meter.options.start_wh[0] + 0.1, 0) is not None


async def test_a_cut_over_the_wire_is_in_the_truth() -> None:
    """The opening of output and contacts is dated, and the energy stops where it says."""
    async with running_site(load_w=7_200, swing=0.0) as site:
        before_ms = site.utc_ms(site.now_s())
        await switch(site, SWITCH_OFF)
        after_ms = site.utc_ms(site.now_s())
        await asyncio.sleep(0.1)
        (cut,) = site.openings("flat-101")
        assert cut.contactor_s is not None
        assert cut.contactor_wh is not None
        assert before_ms - 2 <= site.utc_ms(cut.output_s) <= after_ms + 2
        assert 0.02 <= cut.contactor_s - cut.output_s <= 0.06
        passed_wh = 2.0 * (cut.contactor_s - cut.output_s)
        assert cut.contactor_wh - cut.output_wh == pytest.approx(passed_wh, abs=1e-6)
        assert site.customers()[0].meter.track.total_wh(site.now_s()) == cut.contactor_wh


@pytest.mark.slow
async def test_generator_hours_move_every_meter() -> None:
    """At the start of its hours the generator's contact closes at every meter, by hand it opens."""
    clock = SystemClock()
    one_pm_s = 13 * 3_600
    utc_offset_s = math.floor(one_pm_s - (clock.utc_ms() / 1000) % 86_400)
    async with running_site(
        meters=3, generator_hours=((13.0, 14.0),), utc_offset_s=utc_offset_s
    ) as site:
        meters = [customer.meter for customer in site.customers()]
        await asyncio.sleep(1.1)  # the offset is whole seconds: 13:00 is less than one away
        assert [meter.tariff for meter in meters] == [1, 1, 1]
        site.set_generator(running=False)
        assert [meter.tariff for meter in meters] == [0, 0, 0]
        site.set_generator(running=None)
        assert [meter.tariff for meter in meters] == [1, 1, 1]


@pytest.mark.slow
async def test_a_power_cut_is_silence_and_a_start_with_open_outputs() -> None:
    """Dark: no reset, no answer. Back: the restart bit, output off, and it can be closed again."""
    async with running_site(restart_s=0.2) as site:
        port = site.customers()[0].port
        client = await RawClient.connect(port.host, port.port)
        await site.cut_power("flat-101")
        client.send(SWITCH_ON)
        assert not await client.ended(0.2)
        await site.restore_power("flat-101")
        assert await client.ended(1.0)
        client = await RawClient.connect(port.host, port.port)
        client.send(struct.pack(">BHH", 3, 205, 4))
        assert struct.unpack(">2I", (await client.frame())[2][2:]) == (0x800, 0)
        client.close()
        await switch(site, SWITCH_ON)
        await asyncio.sleep(0.1)
        meter = site.customers()[0].meter
        meter.advance(site.now_s())
        assert meter.contactor.closed


async def test_drop_outs_are_as_frequent_as_asked() -> None:
    """`drop_out_rate` resets a share of the connections in place of a reply, at every meter."""
    async with running_site(drop_out_rate=0.5) as site:
        port = site.customers()[0].port
        lost = 0
        for _ in range(40):
            client = await RawClient.connect(port.host, port.port)
            client.send(struct.pack(">BHH", 3, 801, 4))
            lost += await client.octets(17) == b""
            client.close()
        assert 8 <= lost <= 32


async def test_disconnecting_wiring_starts_connected() -> None:
    """With output_on: disconnects the supply is on while the output is off."""
    async with running_site(output_on=OutputOn.DISCONNECTS) as site:
        meter = site.customers()[0].meter
        assert (meter.outputs(0), meter.contactor.closed) == (0, True)


class Served:
    """A site behind its control socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.options = SiteOptions(
            meters=2,
            network=own_network(),
            port=free_port(own_network()),
            control_socket=path,
            latency_s=(0.0, 0.001),
            restart_s=0.2,
        )
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Path:
        ready = asyncio.Event()
        self._task = asyncio.create_task(
            serve(self.options, SystemClock(), self._stop, seeded=seeded, ready=ready)
        )
        await asyncio.wait_for(ready.wait(), 10)
        return self.path

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        assert self._task is not None
        await asyncio.wait_for(self._task, 10)


async def test_the_control_socket_is_private_and_goes_with_the_site(tmp_path: Path) -> None:
    """Mode 0600 while it serves, gone afterwards; a path left by a dead one is taken over."""
    path = tmp_path / "sim.sock"
    async with Served(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        second = SiteOptions(meters=1, network=own_network(), control_socket=path)
        with pytest.raises(ConfigurationError, match="another simulator"):
            await serve(second, SystemClock(), asyncio.Event(), seeded=seeded)
    assert not path.exists()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    async with Served(path):
        assert (await ask(path, "list"))["meters"]


async def test_commands_bend_a_meter_and_show_it(tmp_path: Path) -> None:
    """Every command does what it says, seen through `state`."""
    async with Served(tmp_path / "sim.sock") as path:

        async def state() -> dict[str, object]:
            return await ask(path, "state", meter="flat-101")

        assert (await state())["contactor_closed"] is True
        await ask(path, "load", meter="flat-101", power_w=1_234)
        assert (await state())["power_w"] == 1_234
        await ask(path, "fault", meter="flat-101", kind="energy_jump", amount=500)
        bent = await state()
        assert bent["faults"] == ["energy_jump"]
        await ask(path, "fault", meter="flat-101", kind="refused")
        assert (await state())["reach"] == "refused"
        await ask(path, "clear", meter="flat-101", kind="refused")
        assert (await state())["faults"] == ["energy_jump"]
        await ask(path, "clear", meter="flat-101")
        assert (await state())["faults"] == []
        assert (await ask(path, "generator", state="on")) == {"running": True}
        assert (await state())["tariff"] == 1
        await ask(path, "generator", state="auto")
        assert (await state())["tariff"] == 0
        await ask(path, "power_cut", meter="flat-101")
        dark = await state()
        assert (dark["powered"], dark["reach"], dark["power_w"]) == (False, "black_hole", 0)
        await ask(path, "restore", meter="flat-101")
        assert (await state())["diagnostics"] == 0x800
        await ask(path, "restart", meter="flat-102")


async def test_the_truth_is_told_over_the_socket(tmp_path: Path) -> None:
    """`crossing`, `openings`, `list`, `faults` and `meters_csv` carry what the site knows."""
    async with Served(tmp_path / "sim.sock") as path:
        listed = (await ask(path, "list"))["meters"]
        assert isinstance(listed, list)
        assert [row["id"] for row in listed] == ["flat-101", "flat-102"]
        await ask(path, "load", meter="flat-101", power_w=36_000)
        true_wh = (await ask(path, "state", meter="flat-101"))["true_wh"]
        assert isinstance(true_wh, float)
        later_wh = true_wh + 0.5
        assert await ask(path, "crossing", meter="flat-101", energy_wh=later_wh + 1e6) == {
            "utc_ms": None
        }
        await asyncio.sleep(0.1)
        crossed = await ask(path, "crossing", meter="flat-101", energy_wh=later_wh)
        assert isinstance(crossed["utc_ms"], float)
        await switch_at(listed[0], SWITCH_OFF)
        await asyncio.sleep(0.1)
        openings = (await ask(path, "openings", meter="flat-101"))["openings"]
        assert isinstance(openings, list)
        assert openings[0]["utc_ms"] > crossed["utc_ms"]
        assert openings[0]["contactor_utc_ms"] > openings[0]["utc_ms"]
        assert openings[0]["contactor_true_wh"] > openings[0]["true_wh"] > later_wh
        kinds = (await ask(path, "faults"))["faults"]
        assert isinstance(kinds, list)
        assert {row["kind"] for row in kinds} == set(FAULTS)
        assert str((await ask(path, "meters_csv"))["csv"]).startswith("id,model,host,port")


async def switch_at(row: dict[str, object], request: bytes) -> None:
    """Switch the meter of a `list` row over the wire."""
    port = row["port"]
    assert isinstance(port, int)
    client = await RawClient.connect(str(row["host"]), port)
    client.send(request)
    await client.frame()
    client.close()


@pytest.mark.parametrize(
    ("command", "arguments", "code"),
    [
        ("dance", {}, "ARGUMENT"),
        ("state", {}, "ARGUMENT"),
        ("state", {"meter": "flat-999"}, "METER_UNKNOWN"),
        ("fault", {"meter": "flat-101", "kind": "sloth"}, "UNKNOWN_FAULT"),
        ("fault", {"meter": "flat-101", "kind": "busy", "rate": 2}, "FAULT_ARGUMENT"),
        ("fault", {"meter": "flat-101", "kind": "busy", "count": 0}, "FAULT_ARGUMENT"),
        ("fault", {"meter": "flat-101", "kind": "busy", "count": 1.5}, "ARGUMENT"),
        ("fault", {"meter": "flat-101", "kind": "nan", "count": 2}, "FAULT_ARGUMENT"),
        ("fault", {"meter": "flat-101", "kind": "busy", "amount": -1}, "FAULT_ARGUMENT"),
        ("load", {"meter": "flat-101", "power_w": True}, "ARGUMENT"),
        ("load", {"meter": "flat-101", "power_w": 1e9}, "ARGUMENT"),
        ("crossing", {"meter": "flat-101", "energy_wh": 1, "register": "t3"}, "ARGUMENT"),
        ("generator", {"state": "loud"}, "ARGUMENT"),
        ("clear", {"meter": "flat-101", "kind": "sloth"}, "ARGUMENT"),
    ],
)
async def test_bad_commands_are_refused_with_a_code(
    tmp_path: Path, command: str, arguments: dict[str, object], code: str
) -> None:
    """A refusal names its code, and the socket goes on answering."""
    async with Served(tmp_path / "sim.sock") as path:
        with pytest.raises(RefusedError) as refusal:
            await ask(path, command, timeout_s=2.0, **arguments)
        assert refusal.value.refusal_code == code
        assert refusal.value.message
        assert "meters" in await ask(path, "list")


async def test_lines_that_are_no_request(tmp_path: Path) -> None:
    """No JSON and no object are refused on the same connection; an endless line ends it."""
    async with Served(tmp_path / "sim.sock") as path:
        reader, writer = await asyncio.open_unix_connection(str(path))
        for line in (b"hello\n", b"[1]\n", b"\n"):
            writer.write(line)
            answer = orjson.loads(await asyncio.wait_for(reader.readline(), 2))
            assert (answer["ok"], answer["code"]) == (False, "ARGUMENT")
        writer.write(b"x" * (2 * LINE_BYTES))
        assert await asyncio.wait_for(reader.read(), 2) == b""
        writer.close()
        assert "meters" in await ask(path, "list")


async def test_clients_of_the_socket_are_bounded(tmp_path: Path) -> None:
    """Beyond MAX_CLIENTS idle connections a further one is closed at once."""
    async with Served(tmp_path / "sim.sock") as path:
        idle = [await asyncio.open_unix_connection(str(path)) for _ in range(MAX_CLIENTS)]
        await asyncio.sleep(0.05)
        with pytest.raises(RefusedError) as refusal:
            await ask(path, "list")
        assert refusal.value.refusal_code == "SIMULATOR_AWAY"
        for _, writer in idle:
            writer.close()


async def test_nobody_at_the_socket_is_said(tmp_path: Path) -> None:
    """Asking a path where no simulator is gives SIMULATOR_AWAY."""
    with pytest.raises(RefusedError) as refusal:
        await ask(tmp_path / "none.sock", "list")
    assert refusal.value.refusal_code == "SIMULATOR_AWAY"
