"""Nothing scripted: firmware in MicroPython, a mosquitto as we write it, and the whole gateway."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.app.clock import SystemClock
from gateway.app.node_key import load_node_key
from gateway.core.sealing import device_secret
from gateway.core.switching import ControlState
from gateway.sim.loads import steady_curve
from gateway.sim.pzem import PzemLine, PzemModule
from gateway.store.commands import SwitchAction
from gateway.store.telemetry_reader import StoredEvent, TelemetryReader
from tests.app.broker_site import MAIN, is_open, open_directory
from tests.e2e.books import PRICE_NANO, charged_nano
from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import Gateway
from tests.e2e.processes import free_port
from tests.firmware.chip_node import ChipNode
from tests.firmware.esp_node import EspNode
from tests.firmware.unix_node import HAS_UNIX, UnixNode
from tests.south.mosquitto import PROGRAM, needs_broker

pytestmark = [needs_broker, pytest.mark.slow, pytest.mark.timeout(240)]

DEVICE: Final = "node-24a160012345"
NODE: Final = "kiosk-7"
START_WH: Final = 12_345
GIVEN_NANO: Final = 100_160_000_000  # 0.16, and 100.00 at the counter
HEAVY_W: Final = 22_000.0
# A watt-hour in two seconds: no poll misses one.
LIGHT_W: Final = 1_800.0
STEP_S: Final = 0.02


class Field:
    """The node with its module, in a thread with a loop of its own."""

    def __init__(self, place: Path, made: type[ChipNode] = EspNode) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._clock = SystemClock()
        self._module = PzemModule(steady_curve(0), energy_wh=START_WH)
        self.node = made(place, self._clock, PzemLine([self._module]))
        self._thread.start()

    @property
    def counter_wh(self) -> int:
        """What the module counts."""
        return self._module.counter_wh(self._now_s)

    def power_on(self) -> None:
        """Mains."""
        self._do(self.node.power_on())

    def power_off(self) -> None:
        """SIGKILL, wherever the firmware is."""
        self._do(self.node.power_off())

    def load(self, power_w: float) -> None:
        """Draw so much from now on, while the relay is closed."""
        self._do(self._load(power_w))

    def exchange_module(self, by_wh: int) -> None:
        """Another module, with another counter."""
        self._loop.call_soon_threadsafe(self._module.move_counter, by_wh)

    def button(self, *, down: bool) -> None:
        """Somebody's finger."""
        self._do(self._button(down=down))

    def keep_record(self) -> None:
        """A quarter of an hour is over."""
        self._loop.call_soon_threadsafe(self.node.keep_record)

    def close(self) -> None:
        """End node and thread."""
        self.power_off()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def _now_s(self) -> float:
        return self._clock.mono_ns() / 1e9

    async def _load(self, power_w: float) -> None:
        self._module.set_load(self._now_s, steady_curve(power_w))

    async def _button(self, *, down: bool) -> None:
        self.node.button(down=down)

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)


@contextmanager
def mosquitto(place: Path, directory: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The broker as Debian starts it, with our file among its own."""
    assert PROGRAM is not None
    included = place / "conf.d"
    included.mkdir()
    (included / "prepaid-gateway.conf").symlink_to(directory / "broker.conf")
    (place / "mosquitto.conf").write_text(MAIN.format(directory=place), encoding="utf-8")
    log = place / "mosquitto.log"
    log.touch()
    if os.geteuid() == 0:
        shutil.chown(log, "mosquitto")
    with subprocess.Popen([PROGRAM, "-c", str(place / "mosquitto.conf")]) as process:
        try:
            end_s = time.monotonic() + 10
            while not is_open(port):
                assert time.monotonic() < end_s, log.read_text(encoding="utf-8")
                time.sleep(STEP_S)
            yield process
        finally:
            process.kill()


def configure(site: Gateway, directory: Path) -> tuple[int, int]:
    """Let the site write its broker's files and use them; the ports with TLS and without."""
    port, plain_port = free_port(), free_port()
    plain = site.config.read_text(encoding="utf-8")
    south: dict[str, object] = {
        "broker": {"names": ["localhost"], "port": port, "plain_port": plain_port}
    }
    site.config.write_text(f"{plain}south: {json.dumps(south)}\n", encoding="utf-8")
    for words in (("write", str(directory)), ("add-user", str(directory), DEVICE)):
        done = site.cli("broker", *words)
        assert done.returncode == 0, done.stderr
    south["mqtt"] = {
        "host": "127.0.0.1",
        "port": port,
        "username": "gateway",
        "password_file": str(site.paths.control_dir / "broker.password"),
        "tls": {"ca": str(directory / "ca.pem")},
    }
    meters = [{"id": NODE, "model": "pzem-node"}]
    text = f"{plain}south: {json.dumps(south)}\nmeters: {json.dumps(meters)}\n"
    site.config.write_text(text, encoding="utf-8")
    return port, plain_port


def shown(site: Gateway) -> dict[str, Any]:
    """What `device show` tells; empty while the device is unknown."""
    ended = site.cli("device", "show", DEVICE, "--json")
    found: dict[str, Any] = json.loads(ended.stdout) if ended.returncode == 0 else {}
    return found


def all_events(site: Gateway) -> list[StoredEvent]:
    """Every event, oldest first."""
    reader = TelemetryReader(site.paths.telemetry_dir)
    found: list[StoredEvent] = []
    before: int | None = None
    while page := reader.events(before_seq=before, limit=100):
        found += page
        before = page[-1].seq
    return found[::-1]


def wait(what: Callable[[], bool], described: str, seconds: float = 40.0) -> None:
    """Until something of the field holds."""
    end_s = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end_s, described
        time.sleep(STEP_S)


@contextmanager
def powered(site: Gateway, place: Path, made: type[ChipNode] = EspNode) -> Iterator[Field]:
    """Broker and node run, the site knows its broker; nobody has approved the node."""
    with open_directory() as open_place:
        port, plain_port = configure(site, open_place / "broker")
        broker: dict[str, object] = {"host": "127.0.0.1", "port": plain_port}
        if made is UnixNode:
            ca = (open_place / "broker" / "ca.pem").read_text(encoding="ascii")
            broker = {"host": "localhost", "port": port, "ca": ca}
        with mosquitto(open_place, open_place / "broker", port):
            for name in ("control", "north"):
                os.kill(site.pid(name), signal.SIGHUP)
            field = Field(place, made)
            try:
                secret = device_secret(load_node_key(site.paths.control_dir), DEVICE, 1)
                field.node.provision(DEVICE, secret, broker, int(time.time()))
                field.power_on()
                yield field
            finally:
                field.close()


def test_a_whole_node_from_its_first_power_up_to_its_reconnection(
    make_site: MakeSite, tmp_path: Path
) -> None:
    """Pending, approved, leased, alone, open at its watt-hour, settled, recharged, confirmed.

    Over TLS where the unix port of MicroPython is there.
    """
    site = make_site(meters=1).start()
    with powered(site, tmp_path, UnixNode if HAS_UNIX else EspNode) as field:
        cutoff_wh = served(site, field)
        told = len(all_events(site))
        assert (site.stop("north"), site.stop("control")) == (0, 0)
        begun_ms = time.time_ns() // 1_000_000
        records = left_alone(field, cutoff_wh)
        ended_ms = time.time_ns() // 1_000_000
        moves = field.node.moves
        site.start_process("control")
        site.start_process("north")
        site.ready()
        site.until(lambda: site.row(NODE).energy_wh == (cutoff_wh,), "its last watt-hour", 60)
        site.until(lambda: shown(site).get("waiting_records") == 0, "all records taken")
        time.sleep(3)
        row = site.row(NODE)
        assert (row.output_closed, row.intended_closed, row.fault) == (False, False, None)
        assert row.control_state is ControlState.DISCONNECTED
        assert (field.node.relay_closed, field.node.moves) == (False, moves)
        assert site.commands(NODE) == []
        reader = TelemetryReader(site.paths.telemetry_dir)
        points = reader.registers(NODE, begun_ms, ended_ms)
        assert len(points) == records
        assert all(before.utc_ms < after.utc_ms for before, after in pairwise(points))
        assert all(before.energy_wh < after.energy_wh for before, after in pairwise(points))
        assert points[-1].energy_wh == (cutoff_wh,)
        site.recharge(NODE, "100.00", "r-1")
        time.sleep(1)
        assert not field.node.relay_closed
        site.order(NODE, "confirm_reconnect", "c-1")
        wait(lambda: field.node.relay_closed, "the relay closes")
        site.until(lambda: site.row(NODE).output_closed, "supply shown")
        wait(lambda: field.counter_wh > cutoff_wh, "energy flows")
        field.load(0)
        site.until(lambda: site.row(NODE).energy_wh == (field.counter_wh,), "the last watt-hour")
        (command,) = site.commands(NODE)
        assert (command.action, command.state.value) == (SwitchAction.CLOSE, "verified")
        assert (command.attempts, field.node.moves) == (1, moves + 1)
        # Nothing else was told: no alarm of an output, a silence, a counter or a message.
        happened = [(event.kind, event.subject) for event in all_events(site)[told:]]
        assert sorted(happened) == [
            ("CLOCK_UNTRUSTED", "site"),
            ("SUPPLY_CUT", NODE),
            ("SUPPLY_RESTORED", NODE),
        ]
        used_nano = (field.counter_wh - START_WH) * PRICE_NANO
        assert site.row(NODE).available_nano == GIVEN_NANO - used_nano
        assert site.stop("control") == 0
        check(site, cutoff_wh)


def test_people_tell_a_whole_node_what_to_do(make_site: MakeSite, tmp_path: Path) -> None:
    """Settings, a module exchanged, a restart, and the button: by command line, on record."""
    site = make_site(meters=1).start()
    with powered(site, tmp_path) as field:
        served(site, field)
        field.load(0)
        assert "has its settings" in told(site, "settings", DEVICE, "telemetry_s=2", "modules=1")
        assert "blinks for 5 s" in told(site, "identify", DEVICE, "--for", "5")
        refused = site.cli("device", "settings", DEVICE, "poll_s=0")
        assert (refused.returncode, "poll_s" in refused.stderr) == (1, True)
        site.until(lambda: site.row(NODE).energy_wh == (field.counter_wh,), "the last watt-hour")
        total_wh, available_nano = field.counter_wh, site.row(NODE).available_nano
        field.exchange_module(500_000)
        held = site.until(lambda: shown(site)["held"], "a held counter")
        assert held == {"counter_wh": total_wh, "held_wh": total_wh + 500_000}
        words = told(site, "release", DEVICE, "--no-count", "--reason", "PZEM exchanged")
        assert f"counts on from {total_wh + 500_000} Wh" in words
        site.until(lambda: shown(site)["held"] is None, "nothing held")
        field.load(LIGHT_W)
        site.until(lambda: site.row(NODE).energy_wh[0] > total_wh, "energy metered")
        field.load(0)
        site.until(
            lambda: site.row(NODE).energy_wh == (field.counter_wh - 500_000,), "the same total"
        )
        used_wh = site.row(NODE).energy_wh[0] - total_wh
        assert site.row(NODE).available_nano == available_nano - used_wh * PRICE_NANO
        boots = [event.body.get("what") for event in all_events(site)].count("boot")
        assert "restarts" in told(site, "restart", DEVICE)
        site.until(
            lambda: [event.body.get("what") for event in all_events(site)].count("boot") > boots,
            "another boot",
        )
        assert shown(site)["settings"] == {"telemetry_s": 2, "modules": [1]}
        off = site.cli("meter", "switch", NODE, "off", "--reason", "work")
        assert off.returncode == 0, off.stderr
        site.order(NODE, "reconnect", "r-1")
        site.until(
            lambda: site.row(NODE).control_state is ControlState.READY_FOR_RECONNECTION,
            "a reconnection that waits",
        )
        field.button(down=True)
        wait(lambda: field.node.relay_closed, "the relay closes")
        field.button(down=False)
        site.until(lambda: site.row(NODE).output_closed, "supply shown")
        assert site.stop("control") == 0
        proof = site.cli("ledger", "verify", "--replay", "--json")
        assert proof.returncode == 0, proof.stdout


def told(site: Gateway, *words: str) -> str:
    """What a command about the device answers."""
    done = site.cli("device", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def served(site: Gateway, field: Field) -> int:
    """Approved, metered, an account with its lease, and a power cut; the lease's cut-off."""
    site.until(lambda: shown(site).get("status") == "pending", "a pending device")
    done = site.cli("device", "approve", DEVICE, NODE)
    assert done.returncode == 0, done.stderr
    site.until(lambda: site.row(NODE).energy_wh == (START_WH,), "its readings")
    site.open_account(NODE, "0.16")
    done = site.cli("device", "commission", NODE, "--yes")
    assert done.returncode == 0, done.stderr
    lease = site.until(lambda: shown(site)["lease"], "a lease")
    # 0.16 buys 20 Wh, and a margin is on top.
    assert START_WH + 120 <= lease["cutoff_wh"] <= START_WH + 122
    field.load(LIGHT_W)
    site.until(lambda: site.row(NODE).energy_wh[0] > START_WH, "energy metered")
    told = len(all_events(site))
    field.power_off()
    field.power_on()

    def of_node() -> list[object]:
        found = [event for event in all_events(site)[told:] if event.subject == NODE]
        return [(event.kind, event.body.get("what")) for event in found]

    booted: list[object] = [("NODE_EVENT", "boot"), ("NODE_EVENT", "clock_set")]
    site.until(lambda: of_node() == booted, "the node back with the time")
    assert shown(site)["lease"] == lease
    assert field.node.relay_closed
    return int(lease["cutoff_wh"])


def left_alone(field: Field, cutoff_wh: int) -> int:
    """Without a gateway the node keeps records and opens at its watt-hour. How many records."""
    field.load(HEAVY_W)
    records = 0
    while field.counter_wh < cutoff_wh - 4:
        time.sleep(STEP_S)
        if field.counter_wh >= START_WH + 20 * (records + 1):
            field.keep_record()
            records += 1
    assert field.node.relay_closed
    field.load(LIGHT_W)
    wait(lambda: not field.node.relay_closed, "the relay opens by its lease")
    assert field.counter_wh == cutoff_wh
    time.sleep(1.1)  # records have whole seconds
    field.keep_record()
    time.sleep(1.1)
    return records + 1


def check(site: Gateway, cutoff_wh: int) -> None:
    """Lines join in their order, up to the lease's end; the ledger computes to the same again."""
    transactions = site.transactions(NODE)
    lines = [line for transaction in transactions for line in transaction.settlements]
    assert lines[0].from_wh == (START_WH,)
    assert all(after.from_wh == before.to_wh for before, after in pairwise(lines))
    assert all(after.from_utc_ms >= before.to_utc_ms for before, after in pairwise(lines))
    assert (cutoff_wh,) in [line.to_wh for line in lines]
    settled_wh = lines[-1].to_wh[0] - START_WH
    assert charged_nano(transactions) == settled_wh * PRICE_NANO
    proof = site.cli("ledger", "verify", "--replay", "--json")
    assert proof.returncode == 0, proof.stdout
    replay = json.loads(proof.stdout)["replay"]
    assert replay["transactions"] == len(transactions)
    assert (replay["difference_count"], replay["unproved"]) == (0, {})
