"""From the bench to metering, enforced nodes: every command of docs/nodes.md, over real TLS.

Boards are simulated while they are flashed; then the node's real firmware runs, on CPython, with
exactly what the bench wrote into each board's NVS and file system.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.app.clock import SystemClock
from gateway.app.firmware.bench import load_bench
from gateway.app.firmware.bench_run import run_ports
from gateway.app.firmware.image import IMAGE_OFFSET, read_image
from gateway.app.firmware.record import Record, read_boards
from gateway.app.firmware.simulated import SimulatedBoard, SimulatedBoards
from gateway.app.firmware.station import Order, Station
from gateway.app.node_key import load_node_key
from gateway.app.placing.service import PROOF_REASON
from gateway.core.errors import RefusedError
from gateway.core.switching import ControlState
from gateway.sim.loads import steady_curve
from gateway.sim.node_board import NVS_FILE, NodeBoard, live
from gateway.sim.pzem import PzemLine, PzemModule
from node import app
from tests.app.broker_site import open_directory
from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import Gateway
from tests.e2e.processes import AT_A_TERMINAL, free_port
from tests.e2e.test_node_whole import mosquitto
from tests.firmware.bench_site import write_bench
from tests.south.mosquitto import needs_broker

pytestmark = [needs_broker, pytest.mark.slow, pytest.mark.timeout(400)]

BOARDS: Final = 10
START_WH: Final = 1_000
LOAD_W: Final = 20_000.0
BALANCE: Final = "0.16"  # 20 Wh
TENANTS: Final = "account,tariff,name,opening_balance\n"


@dataclass(frozen=True)
class Unit:
    """A board on the wall: the firmware's board and the module on its line."""

    device_id: str
    board: NodeBoard
    module: PzemModule


class Wall:
    """Boards that live, in a thread with a loop of its own."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._clock = SystemClock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._tasks: list[asyncio.Task[None]] = []
        self._thread.start()

    def hang(self, flashed: SimulatedBoard, *, secret: bytes | None = None) -> Unit:
        """Mains for a board as it left the bench, perhaps with another one's secret."""
        device_id = flashed.nvs["device_id"].decode()
        place = self._place / device_id
        for path, content in read_image(bytes(flashed.flash[IMAGE_OFFSET:])).items():
            kept = place / "flash" / path.lstrip("/")
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(content)
        nvs = flashed.nvs | ({} if secret is None else {"secret": secret})
        nvs_hex = {name: value.hex() for name, value in nvs.items()}
        (place / NVS_FILE).write_text(json.dumps(nvs_hex))
        module = PzemModule(steady_curve(0), energy_wh=START_WH)
        mac = bytes.fromhex(flashed.mac())
        board = NodeBoard(place, self._clock, PzemLine([module]), mac=mac)
        board.ntp_answers = True
        self._do(self._begin(board))
        return Unit(device_id, board, module)

    def load(self, unit: Unit, power_w: float) -> None:
        """Let a customer draw so much."""
        self._do(self._load(unit, power_w))

    def counter_wh(self, unit: Unit) -> int:
        """What its module counts."""
        return unit.module.counter_wh(self._clock.mono_ns() / 1e9)

    def close(self) -> None:
        """End all."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _begin(self, board: NodeBoard) -> None:
        self._tasks.append(asyncio.create_task(live(board, app.run)))

    async def _load(self, unit: Unit, power_w: float) -> None:
        unit.module.set_load(self._clock.mono_ns() / 1e9, steady_curve(power_w))

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


class Watched:
    """A bench's view that keeps how boards ended."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def step(self, port: str, step: str) -> None:
        """Nothing to see."""

    def ended(self, port: str, line: dict[str, Any]) -> None:
        """A board ended."""
        assert line["port"] == port
        self.lines.append(line)

    def refused(self, port: str, error: RefusedError) -> None:
        """No board was begun."""
        raise AssertionError(port, error)

    def waiting(self, port: str) -> None:
        """The next one."""


def flashed(folder: Path) -> list[SimulatedBoard]:
    """A box of boards after the bench, and `boards.jsonl` beside it."""
    bench, boards, view = load_bench(folder / "bench.json"), SimulatedBoards(), Watched()
    assert bench.warnings == ()
    with Record.open(bench.record, bench.file.serials) as record:
        station = Station(bench, record, Order(operator="ann"), SystemClock())
        ports = [f"simulated-{number}" for number in range(1, 6)]
        run_ports(station, ports, boards.board_at, view, boards=BOARDS // len(ports))
    assert [line["result"] for line in view.lines] == ["done"] * BOARDS
    return boards.taken


def configure(site: Gateway, directory: Path) -> int:
    """The site's broker as docs/broker.md has it; its port with TLS."""
    port = free_port()
    plain = site.config.read_text(encoding="utf-8")
    south: dict[str, object] = {"broker": {"names": ["localhost"], "port": port}}
    site.config.write_text(f"{plain}south: {json.dumps(south)}\n", encoding="utf-8")
    said(site, "broker", "write", str(directory))
    south["mqtt"] = {
        "host": "localhost",
        "port": port,
        "username": "gateway",
        "password_file": str(site.paths.control_dir / "broker.password"),
        "tls": {"ca": str(directory / "ca.pem")},
    }
    site.config.write_text(f"{plain}south: {json.dumps(south)}\n", encoding="utf-8")
    return port


def said(site: Gateway, *words: str, status: int = 0) -> str:
    """What a command prints, which ends as expected."""
    done = site.cli(*words, timeout_s=120)
    assert done.returncode == status, f"{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def devices(site: Gateway) -> Mapping[str, str]:
    """Status of every device on record."""
    found = json.loads(site.cli("device", "list", "--json").stdout)
    return {item["id"]: item["status"] for item in found["items"]}


def is_ready(site: Gateway, meter: str) -> bool:
    """Whether a supply only waits for a person's word."""
    return site.row(meter).control_state is ControlState.READY_FOR_RECONNECTION


@contextmanager
def wall(place: Path) -> Iterator[Wall]:
    """Where boards hang."""
    made = Wall(place)
    try:
        yield made
    finally:
        made.close()


def test_a_box_of_boards_becomes_metering_enforced_nodes(
    make_site: MakeSite, tmp_path: Path
) -> None:
    """Flashed, let in, heard, approved, served, proved, cut and restored; a thief is not let in."""
    site = make_site(meters=1).start()
    with open_directory() as open_place, wall(tmp_path / "wall") as hung:
        directory = open_place / "broker"
        port = configure(site, directory)
        boards = flashed(bench_of(site, directory, port, tmp_path))
        record = str(tmp_path / "boards.jsonl")
        with mosquitto(open_place, directory, port) as broker:
            for name in ("control", "north"):
                os.kill(site.pid(name), signal.SIGHUP)
            told = said(site, "broker", "add-user", str(directory), "--record", record)
            assert f"the gateway and {BOARDS} nodes may log in" in told
            assert told.count("systemctl reload mosquitto") == 1
            broker.send_signal(signal.SIGHUP)
            again = said(site, "broker", "add-user", str(directory), "--record", record)
            assert "changed: nothing" in again
            thief, *honest = boards
            hung.hang(thief, secret=honest[0].nvs["secret"])
            units = [hung.hang(board) for board in honest]
            heard = {unit.device_id: "pending" for unit in units}
            site.until(lambda: devices(site) == heard, "all pending", 90)
            log = (open_place / "mosquitto.log").read_text(encoding="utf-8")
            assert "not authorised" in log
            put_up(site, tmp_path, Path(record), boards)
            serve(site, tmp_path, hung, units)
            looked = json.loads(site.cli("doctor", "--json").stdout)["findings"]
            of_nodes = [one["sentence"] for one in looked if one["area"] == "nodes"]
            assert (
                f"Control is logged in at localhost:{port} as gateway; its login was not tried."
                in (of_nodes)
            )
            assert f"{BOARDS - 1} of {BOARDS} nodes are heard." in of_nodes
            assert "Never came: kiosk-0." in of_nodes
            for number, unit in enumerate(units, 1):
                hung.load(unit, LOAD_W if number % 2 else 0.0)
            odd = [(f"kiosk-{n}", unit) for n, unit in enumerate(units, 1) if n % 2]
            even = [(f"kiosk-{n}", unit) for n, unit in enumerate(units, 1) if not n % 2]
            for name, unit in odd:
                site.until(lambda u=unit: not u.board.relay_get(), f"{name} cut", 60)  # type: ignore[misc]
                assert hung.counter_wh(unit) >= START_WH + 20
            assert all(unit.board.relay_get() for _, unit in even)
            for name, unit in odd:
                hung.load(unit, 0)
                site.recharge(name, "100.00", f"r-{name}")
            for name, unit in odd:
                site.until(lambda n=name: is_ready(site, n), f"{name} waits for a person", 60)  # type: ignore[misc]
                site.order(name, "confirm_reconnect", f"c-{name}")
                site.until(unit.board.relay_get, f"{name} restored", 60)
            for name, unit in (*odd, *even):
                site.until(
                    lambda n=name, u=unit: site.row(n).energy_wh == (hung.counter_wh(u),),  # type: ignore[misc]
                    f"the last watt-hour of {name}",
                    60,
                )
            assert thief.nvs["device_id"].decode() not in devices(site)
        assert site.stop("control") == 0
        site.verify()


def bench_of(site: Gateway, directory: Path, port: int, folder: Path) -> Path:
    """A bench with the site's own key, broker and authority."""
    write_bench(
        folder,
        broker={"host": "localhost", "port": port, "ca": "ca.pem", "ntp": "localhost"},
        wifi={"ssid": "sim", "password": "simulated"},
    )
    (folder / "ca.pem").write_bytes((directory / "ca.pem").read_bytes())
    key = load_node_key(site.paths.control_dir)
    (folder / "node.key").write_text(f"{key.hex()}\n")
    return folder


def put_up(site: Gateway, folder: Path, record: Path, boards: list[SimulatedBoard]) -> None:
    """One list says which board hangs where; the rest is one command, given as often as one likes.

    The first board is in the list too: it was never heard.
    """
    # Five ports at once: who was first at the bench has not always the first serial.
    serials = {line["mac"]: line["serial"] for line in read_boards(record)}
    heard = len(boards) - 1
    places = folder / "places.csv"
    lines = [
        f"{serials[board.mac()]},kiosk-{number},{25_000 if number == 1 else ''}\n"
        for number, board in enumerate(boards)
    ]
    places.write_text("serial,meter_id,p_max_w\n" + "".join(lines))
    words = ("device", "approve", "--record", str(record), "--assign", str(places))
    refused = said(site, *words, status=1)
    assert refused.count("the configuration has no node") == heard + 1
    assert f"{places}:2:9: meter_id: the configuration has no node 'kiosk-0': --new" in refused
    meters = site.directory / "meters.csv"
    before, mode = meters.read_bytes(), meters.stat().st_mode
    dry = said(site, *words, "--new", "--dry-run")
    assert dry.count("would be added") == heard + 1
    assert meters.read_bytes() == before
    told = json.loads(site.cli(*words, "--new", "--json", timeout_s=120).stdout)
    fates = [item["fate"] for item in told["devices"]]
    assert fates == ["unheard"] + ["approved"] * heard
    written = meters.read_bytes()
    assert written.startswith(before)
    assert (meters.stat().st_mode, b"kiosk-1,pzem-node,,,25000,\n" in written) == (mode, True)
    again = json.loads(site.cli(*words, "--new", "--json").stdout)
    assert [item["fate"] for item in again["devices"]] == ["unheard"] + ["there"] * heard
    assert meters.read_bytes() == written


def serve(site: Gateway, folder: Path, hung: Wall, units: list[Unit]) -> None:
    """Accounts from a table, then every point in service with its relay proved, twice harmless."""
    names = [f"kiosk-{n}" for n in range(1, len(units) + 1)]
    for name in names:
        site.until(lambda name=name: site.row(name).energy_wh == (START_WH,), "its reading", 60)  # type: ignore[misc]
    tenants = folder / "tenants.csv"
    tenants.write_text(TENANTS + "".join(f"{name},home,{name},{BALANCE}\n" for name in names))
    said(site, "account", "import", str(tenants))
    proved(site, units, names)


def proved(site: Gateway, units: list[Unit], names: list[str]) -> None:
    """All relays switched once; broken off in the middle, gone on with, and repeated."""
    words = ("device", "commission", "--all", "--proof", "--yes")
    first, second = names[:2]
    said(site, "device", "commission", first, "--yes")
    said(site, "meter", "switch", first, "off", "--reason", PROOF_REASON)
    said(site, "device", "commission", second, "--yes")
    said(site, "meter", "switch", second, "off", "--reason", "work on the line")
    command = [sys.executable, "-c", AT_A_TERMINAL, *words, "--config", str(site.config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as begun:
        try:
            site.until(lambda: not all(u.board.relay_get() for u in units[2:]), "one open", 60)
            begun.send_signal(signal.SIGINT)
            told = begun.communicate(timeout=120)[0].decode()
        finally:
            begun.kill()
    assert (begun.returncode != 0, "what is open for its proof is closed first" in told) == (
        True,
        True,
    ), told
    assert [u.board.relay_get() for u in units] == [True, False] + [True] * (len(units) - 2)
    left = site.cli(*words, "--json", timeout_s=180)
    served = {one["meter"]: one for one in json.loads(left.stdout)["nodes"]}
    assert left.returncode == 1
    assert served[second]["problem"] == "supply is off (MANUAL): switch it on, then run this again"
    assert all(one["proof"] for name, one in served.items() if name != second)
    said(site, "meter", "switch", second, "on")
    done = json.loads(site.cli(*words, "--json", timeout_s=180).stdout)["nodes"]
    assert [(one["meter"], one["in_service"], one["problem"]) for one in done] == [
        (name, "before", None) for name in names
    ]
    assert {one["proof"] for one in done if one["meter"] != second} == {"before"}
    assert "output" in done[1]["proof"]
    assert [u.board.moves for u in units] == [2, 4] + [2] * (len(units) - 2)
