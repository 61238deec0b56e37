"""Boards are provisioned through the real mpremote over a socket, in real MicroPython."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.app.clock import SystemClock
from gateway.app.firmware.bench import Bench, load_bench
from gateway.app.firmware.bench_run import Tally, run_ports
from gateway.app.firmware.record import Record, read_boards
from gateway.app.firmware.station import Order, Station
from gateway.app.firmware.tools import SerialBoard
from gateway.core.errors import RefusedError
from gateway.core.sealing import device_secret
from tests.e2e.processes import AT_A_TERMINAL
from tests.firmware.bench_site import (
    CERTIFICATE,
    MAC,
    NODE_KEY,
    SSID,
    VERSION,
    WIFI_PASSWORD,
    board,
    write_bench,
)
from tests.firmware.micropython import ROOT

pytestmark = pytest.mark.slow

OTHER_MAC: Final = "a0b1c2d3e4f6"
DEVICE: Final = f"node-{MAC}"
SECRET: Final = device_secret(NODE_KEY, DEVICE, 1)


class Watch:
    """Keeps what a bench shows."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []
        self.lines: list[dict[str, Any]] = []
        self.refusals: list[str] = []

    def step(self, port: str, step: str) -> None:
        """A step began."""
        self.steps.append((port, step))

    def ended(self, port: str, line: dict[str, Any]) -> None:
        """A board ended."""
        assert port == line["port"]
        self.lines.append(line)

    def refused(self, port: str, error: RefusedError) -> None:
        """No board was begun."""
        assert port
        self.refusals.append(f"{error.refusal_code}: {error.message}")

    def waiting(self, port: str) -> None:
        """The next board."""


def board_at(port: str) -> SerialBoard:
    """A board by mpremote; the simulated module answers at once, the access point too."""
    return SerialBoard(port, settle_s=0, wait_s=1)


def provision(bench: Bench, *ports: str, again: bool = False) -> Watch:
    """Provision the boards at these ports."""
    watch = Watch()
    with Record.open(bench.record, bench.file.serials) as record:
        order = Order(operator="ann", flash=False, again=again)
        run_ports(Station(bench, record, order, SystemClock()), ports, board_at, watch)
    return watch


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench that tests meter, relay and Wi-Fi."""
    return load_bench(write_bench(tmp_path))


def test_a_board_gets_what_makes_it_a_node_of_this_site(bench: Bench) -> None:
    """Keys, Wi-Fi, broker and its CA are in its NVS, byte for byte; the relay is left open."""
    with board(load_ma=260) as live:
        watch = provision(bench, live.port)
        kept = live.ask("{key: value.hex() for key, value in esp32.values.items()}")
        assert live.ask("machine.moves") == [[26, 1, True], [26, 0, True]]
        assert live.ask("machine.resets") == [1]
    [line] = watch.lines
    assert line["result"] == "done", line
    found = {name: bytes.fromhex(value) for name, value in kept.items()}
    assert json.loads(found.pop("wifi")) == {"ssid": SSID, "password": WIFI_PASSWORD}
    assert json.loads(found.pop("broker")) == {
        "host": "gateway.example",
        "port": 8883,
        "ca": CERTIFICATE,
        "ntp": "time.example",
    }
    # It dates the broker's certificate by the bench's clock until somebody tells it the time.
    floor_s = int.from_bytes(found.pop("time"), "big")
    assert 0 <= SystemClock().utc_ms() // 1_000 - floor_s < 600
    assert found == {
        "device_id": DEVICE.encode(),
        "secret": SECRET,
        "hardware": b"esp32-pzem-1",
        "security": b"\0\0\0\3",
        "relay_pin": b"\x1a\1",
    }
    assert line["test"]["rssi"] == -61
    assert line["test"]["meter"]["voltage_dv"] == 2301
    assert line["test"]["relay"] == "switched the load"


def test_a_watchdog_that_runs_is_fed(bench: Bench) -> None:
    """The application was interrupted, its watchdog was not: it would restart the board."""
    with board() as live:
        assert live.ask("setattr(__import__('loader'), 'timer', machine.Timer())") is None
        assert provision(bench, live.port).lines[0]["result"] == "done"
        assert set(live.ask("machine.Timer.started")) == {1000}


def test_the_record_has_who_what_and_hashes_and_no_secret(bench: Bench) -> None:
    """Serial, MAC, device id, hashes, operator, duration, result; nothing that opens a door."""
    with board() as live:
        provision(bench, live.port)
    text = bench.record.read_text()
    last = json.loads(text.splitlines()[-1])
    assert (last["serial"], last["mac"], last["device_id"]) == ("PG-0001", MAC, DEVICE)
    assert last["operator"] == "ann"
    assert last["image_sha256"] == hashlib.sha256(bench.image).hexdigest()
    assert last["base_sha256"] == hashlib.sha256(bench.base).hexdigest()
    assert last["seconds"] >= 0
    assert last["test"]["relay"] == "pin only, no load"
    for secret in (WIFI_PASSWORD, SECRET.hex(), NODE_KEY.hex(), bench.setup_secret(DEVICE, 1)):
        assert secret not in text
    assert bench.record.stat().st_mode & 0o777 == 0o600


def test_no_secret_stands_in_a_command_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every user of the bench's computer can read the command lines of others."""
    commands: list[str] = []
    start = subprocess.run

    def watched(command: Sequence[str], **options: Any) -> Any:
        commands.append(" ".join(command))
        return start(command, **options)

    monkeypatch.setattr("gateway.app.firmware.tools.subprocess.run", watched)
    with board() as live:
        assert provision(bench, live.port).lines[0]["result"] == "done"
    # Making the board's release starts a compiler too.
    assert sum(" -m mpremote " in command for command in commands) == 6
    for secret in (WIFI_PASSWORD, SECRET.hex(), repr(SECRET)):
        assert secret not in "\n".join(commands)


@pytest.mark.parametrize(
    ("traits", "step", "why"),
    [
        ({"version": "1.1.0"}, "greet", "BOARD_REFUSED: the board has esp32-pzem-1 1.1.0 of"),
        ({"macs": [MAC, OTHER_MAC]}, "greet", f"BOARD_REFUSED: the board has MAC {OTHER_MAC} now"),
        ({"spoiled": "/boot.py"}, "files", "BOARD_REFUSED: /boot.py on the board is another file"),
        ({"forgets": "secret"}, "keys", "BOARD_FAILED: the board did not keep secret"),
        ({"silent": True}, "test", "TEST_FAILED: the meter module does not answer"),
        ({"wifi": [SSID, "another"]}, "test", "TEST_FAILED: the board does not get into the Wi-Fi"),
        ({"shorted": True}, "test", "TEST_FAILED: the relay's pin does not follow"),
        (
            {"stuck": True, "load_ma": 260},
            "test",
            "TEST_FAILED: 260 mA flow though the relay is open: it sticks",
        ),
    ],
)
def test_a_board_that_is_not_right_is_told_and_not_done(
    bench: Bench, traits: dict[str, Any], step: str, why: str
) -> None:
    """Another release, a swapped board, an altered file, each part that fails its test."""
    with board(**traits) as live:
        [line] = provision(bench, live.port).lines
        assert live.ask("machine.resets") == []
    assert (line["result"], line["step"]) == ("failed", step)
    assert line["why"].startswith(why)


def test_what_is_no_esp32_is_refused_before_a_serial_is_spent(bench: Bench) -> None:
    """MicroPython on something else."""
    with board(without="esp32") as live:
        watch = provision(bench, live.port)
    assert watch.refusals == [f"BOARD_REFUSED: {live.port}: that is no ESP32 with MicroPython"]
    assert read_boards(bench.record) == []


def test_a_board_that_is_done_is_not_done_again_unless_told(bench: Bench) -> None:
    """Its MAC is known; with --again it keeps its serial."""
    with board() as live:
        assert provision(bench, live.port).lines[0]["result"] == "done"
        refused = provision(bench, live.port)
        assert refused.lines == []
        assert refused.refusals[0].startswith(f"BOARD_DONE: MAC {MAC} is done, as PG-0001: ")
        assert live.ask("machine.resets") == [1]
        assert provision(bench, live.port, again=True).lines[0]["serial"] == "PG-0001"


def test_two_ports_work_at_once(bench: Bench) -> None:
    """Both boards are in work at the same time, and get serials of their own."""
    with board() as first, board(macs=[OTHER_MAC]) as second:
        watch = provision(bench, first.port, second.port)
        secrets = [there.ask("esp32.values['secret'].hex()") for there in (first, second)]
    assert {line["serial"] for line in watch.lines} == {"PG-0001", "PG-0002"}
    assert {line["mac"] for line in watch.lines} == {MAC, OTHER_MAC}
    assert len(set(secrets)) == 2
    order = [port for port, _ in watch.steps]
    last = {port: len(order) - order[::-1].index(port) for port in order}
    assert all(order.index(port) < min(last.values()) for port in order)


def test_two_boards_of_one_address_are_not_both_done(bench: Bench) -> None:
    """The second is refused, whether the first is still in work or done."""
    with board() as first, board() as second:
        watch = provision(bench, first.port, second.port)
        kept = [there.ask("len(esp32.values)") for there in (first, second)]
    assert sorted(kept) == [0, 8]
    assert [line["result"] for line in watch.lines] == ["done"]
    [refusal] = watch.refusals
    assert refusal.startswith(("BOARD_DUPLICATE: ", "BOARD_DONE: "))


def test_a_pulled_cable_fails_and_the_next_try_goes_on_with_the_serial(bench: Bench) -> None:
    """The link dies while the keys are written."""
    with board(drop="nvs.set_blob") as live:
        [line] = provision(bench, live.port).lines
    assert (line["result"], line["step"], line["serial"]) == ("failed", "keys", "PG-0001")
    assert line["why"].startswith(f"BOARD_FAILED: {live.port}: mpremote: ")
    with board(macs=[OTHER_MAC]) as other, board() as live:
        assert provision(bench, other.port).lines[0]["serial"] == "PG-0002"
        [line] = provision(bench, live.port).lines
    assert (line["result"], line["serial"]) == ("done", "PG-0001")


def test_a_killed_bench_goes_on_with_the_serial_that_it_gave(tmp_path: Path) -> None:
    """The command line, killed in the middle; then once more to the end."""
    write_bench(tmp_path)
    arguments = [sys.executable, "-m", "gateway", "firmware", "provision", "--operator", "ann"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with board(stall="nvs.set_blob") as live:
        killed = subprocess.Popen(
            [*arguments, "--port", live.port], cwd=tmp_path, env=environment, start_new_session=True
        )
        record = tmp_path / "boards.jsonl"
        begun = threading.Event()
        while not (record.exists() and record.read_bytes()) and killed.poll() is None:
            begun.wait(0.05)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    assert [line["result"] for line in read_boards(record)] == ["begun"]
    with board(load_ma=260) as live:
        done = subprocess.run(
            [*arguments, "--port", live.port],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, "1 done, 0 failed, 0 refused\n"), done.stderr
    assert f"DONE    PG-0001  {MAC}" in done.stderr
    assert [line["result"] for line in read_boards(record)] == ["done"]


def test_an_interrupt_is_told_and_recorded(tmp_path: Path) -> None:
    """Ctrl-C at the terminal reaches the tools too; the board is failed, not lost."""
    write_bench(tmp_path)
    record = tmp_path / "boards.jsonl"
    with board(stall="nvs.set_blob") as live:
        stopped = subprocess.Popen(
            [sys.executable, "-c", AT_A_TERMINAL, "firmware", "provision", "--port", live.port],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        live.wait_stalled()
        os.killpg(stopped.pid, signal.SIGINT)
        out, err = stopped.communicate(timeout=30)
    assert (stopped.returncode, out) == (1, "0 done, 1 failed, 0 refused\n"), err
    assert err.endswith("interrupted: the same command goes on with the next board\n")
    assert "Traceback" not in err
    [line] = read_boards(record)
    assert (line["result"], line["step"]) == ("failed", "keys")


def test_an_interrupt_between_boards_is_no_end(tmp_path: Path) -> None:
    """Nothing failed, and yet not every board that was asked for is done: status 1."""
    write_bench(tmp_path)
    record = tmp_path / "simulated-boards.jsonl"
    words = ("firmware", "flash", "--simulate", "1", "--boards", "1000")
    with subprocess.Popen(
        [sys.executable, "-c", AT_A_TERMINAL, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as stopped:
        while not record.exists() or b'"done"' not in record.read_bytes():
            time.sleep(0.02)
            assert stopped.poll() is None
        os.killpg(stopped.pid, signal.SIGINT)
        out, err = stopped.communicate(timeout=30)
    assert (stopped.returncode, " done, 0 failed, 0 refused\n" in out) == (1, True), (out, err)
    assert "interrupted: " in err
    assert len(read_boards(record)) < 1_000


def test_an_unreachable_board_is_one_line(bench: Bench) -> None:
    """Nobody listens there."""
    with board() as live:
        gone = live.port
    watch = Watch()
    with Record.open(bench.record, bench.file.serials) as record:
        order = Order(operator="ann", flash=False)
        station = Station(bench, record, order, SystemClock())
        tally: Tally = run_ports(station, [gone], board_at, watch)
    assert len(tally.refused) == 1
    assert watch.refusals[0].startswith(f"BOARD_FAILED: {gone}: mpremote: ")
    assert "\n" not in watch.refusals[0]
    assert VERSION not in watch.refusals[0]
