"""The units in systemd/: valid, tight, and working as they are under systemd's own manager."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from gateway.app.limits import descriptors_needed
from gateway.app.supervise import WATCHDOG_S
from tests.app.unit_machine import ROOT, UNITS, UnitMachine, tool_path, unusable

UNIT_FILES: Final = tuple(ROOT / "systemd" / name for name in UNITS)
CONTROL, NORTH = UNITS
# Promise 17: exposure at most 1.5 of 10.
EXPOSURE: Final = 15
RECOVERY_S: Final = 45
START_S: Final = 10

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd"
)


def settings(path: Path) -> dict[str, str]:
    """The last value of every key of a unit."""
    text = path.read_text(encoding="utf-8")
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


@needs_analyze
@pytest.mark.parametrize("path", UNIT_FILES, ids=lambda path: path.stem)
def test_exposure_is_within_the_promise(path: Path) -> None:
    """systemd's own measure, without a running system."""
    answer = subprocess.run(
        [
            tool_path("systemd-analyze"),
            "security",
            "--offline=yes",
            f"--threshold={EXPOSURE}",
            str(path),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


@needs_analyze
@pytest.mark.parametrize("path", UNIT_FILES, ids=lambda path: path.stem)
def test_systemd_accepts_every_line(path: Path, tmp_path: Path) -> None:
    """A key that is misspelt is ignored at run time, with nothing but a line in the journal."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n", encoding="ascii")
    program.chmod(0o755)
    for other in UNIT_FILES:
        text = other.read_text(encoding="utf-8")
        (tmp_path / other.name).write_text(
            text.replace("/opt/prepaid-gateway/bin/prepaid-gateway", str(program))
        )
    answer = subprocess.run(
        [tool_path("systemd-analyze"), "verify", "--man=no", str(tmp_path / path.name)],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (answer.returncode, answer.stderr) == (0, "")


def test_a_hang_ends_within_the_promise() -> None:
    """Watchdog, time to say where, pause and a start fit into 45 s, here and under `run`."""
    for path in UNIT_FILES:
        unit = settings(path)
        silent_s = int(unit["WatchdogSec"])
        assert silent_s == WATCHDOG_S
        assert silent_s + int(unit["TimeoutAbortSec"]) + int(unit["RestartSec"]) + START_S <= (
            RECOVERY_S
        )


def test_two_thousand_meters_have_their_descriptors() -> None:
    """The limit of the unit holds three links to each of 2,000 meters."""
    assert int(settings(UNIT_FILES[0])["LimitNOFILE"]) >= descriptors_needed(2_000)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnitMachine]:
    """Both units started, and two simulated meters."""
    reason = unusable()
    if reason is not None:
        pytest.skip(reason)
    made = UnitMachine(tmp_path_factory.mktemp("machine"))
    try:
        made.systemctl("start", *UNITS)
        yield made
    finally:
        made.close()


@pytest.mark.slow
def test_units_start_and_say_so(machine: UnitMachine) -> None:
    """Filters, users and directories of the units let both processes do all their work."""
    control, north = machine.show(CONTROL), machine.show(NORTH)
    assert (control["ActiveState"], north["ActiveState"]) == ("active", "active")
    assert control["StatusText"] == "polling 2 meters"
    assert north["StatusText"].startswith("serving http://127.0.0.1:8080")
    status = machine.run("cat", f"/proc/{control['MainPID']}/status").stdout
    assert "\nSeccomp:\t2\n" in status
    assert "\nNoNewPrivs:\t1\n" in status
    machine.until(lambda: has_readings(machine), "a reading of every meter")
    said = machine.run("cat", "/run/control.log", "/run/north.log").stdout
    assert "Traceback" not in said
    assert not re.search(r'"level": "(error|critical)"', said), said


def has_readings(machine: UnitMachine) -> bool:
    """Whether north, asked by root, shows good readings of both meters."""
    answer = machine.run(
        *("curl", "--silent", "--unix-socket", "/run/prepaid-gateway/north/north.sock"),
        "http://localhost/api/v1/measurements/latest",
    )
    return answer.stdout.count('"good"') == 2


@pytest.mark.slow
def test_a_replay_is_counted_behind_the_filter(machine: UnitMachine) -> None:
    """North starts a process that reads control's stores and says that nobody is under a tariff."""
    machine.until(lambda: has_readings(machine), "readings")
    draft = {
        "id": "villa",
        "name": "Villa",
        "currency": "INR",
        "timezone": "Asia/Kolkata",
        "effective_from": "2026-01-01",
        "grid": {"price": "8.00"},
    }
    answer = machine.run(
        *("curl", "--silent", "--unix-socket", "/run/prepaid-gateway/north/north.sock"),
        *("--header", "content-type: application/json"),
        *("--data", json.dumps({"document": draft})),
        "http://localhost/api/v1/tariffs/replay",
    )
    assert json.loads(answer.stdout)["code"] == "NO_ACCOUNTS", answer.stdout


@pytest.mark.slow
def test_the_clock_may_be_asked_and_not_set(machine: UnitMachine) -> None:
    """The filter lets adjtimex read: without it no clock would ever count as synchronised."""
    unit = machine.run("cat", f"/run/units/{CONTROL}").stdout
    probe = (
        "import ctypes, time\nlibc = ctypes.CDLL(None)\n"
        "assert libc.adjtimex(ctypes.create_string_buffer(512)) >= 0\n"
        "try:\n    time.clock_settime(0, time.time())\n"
        "except PermissionError:\n    raise SystemExit(0)\nraise SystemExit(1)\n"
    )
    filters = re.findall(r"^(?:SystemCall|CapabilityBounding|User|Memory).*$", unit, re.MULTILINE)
    assert any("adjtimex" in line for line in filters)
    text = "[Service]\nType=oneshot\n" + "\n".join(filters) + "\nExecStart=/run/probe\n"
    script = (
        f"cat > /run/probe.py <<'END'\n{probe}END\n"
        f"cat > /run/units/probe.service <<'END'\n{text}END\n"
        "sed 's/-m gateway.*/\\/run\\/probe.py/' /opt/prepaid-gateway/bin/prepaid-gateway "
        "> /run/probe; chmod 755 /run/probe"
    )
    assert machine.run("sh", "-c", script).returncode == 0
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "probe")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("user", "group", "own", "foreign"),
    [
        ("prepaid-north", "prepaid-control", "north", "control"),
        ("prepaid-control", "prepaid-north", "control", "north"),
    ],
)
def test_neither_user_can_write_what_the_other_owns(
    machine: UnitMachine, user: str, group: str, own: str, foreign: str
) -> None:
    """A compromised north cannot rewrite money: it reads, and writes nothing of control's."""
    machine.until(lambda: has_readings(machine), "readings")
    for tree in ("/var/lib/prepaid-gateway", "/run/prepaid-gateway"):
        listed = machine.run("find", f"{tree}/{foreign}").stdout.split()
        assert len(listed) > 1
        # The command line's socket is for everybody in the group; who calls is asked of the kernel.
        for path in (path for path in listed if not path.endswith("/north.sock")):
            assert machine.as_user(user, [group], "test", "-w", path) != 0, path
        assert machine.as_user(user, [group], "touch", f"{tree}/{foreign}/planted") != 0
        assert machine.as_user(user, [group], "mv", f"{tree}/{foreign}", f"{tree}/gone") != 0
        assert machine.as_user(user, [group], "touch", f"{tree}/{own}/mine") == 0
    for store in ("control/ledger.db", "north/north.db"):
        path = f"/var/lib/prepaid-gateway/{store}"
        assert machine.as_user(user, [group], "test", "-r", path) == 0
    for name in ("site-key.pem", "voucher-key"):
        key = f"/var/lib/prepaid-gateway/control/{name}"
        assert machine.run("test", "-f", key).returncode == 0
        assert machine.as_user("prepaid-north", ["prepaid-control"], "test", "-r", key) != 0
    assert machine.as_user("nobody", [], "ls", f"/var/lib/prepaid-gateway/{foreign}") != 0


@pytest.mark.slow
def test_reload_goes_on_in_the_same_process(machine: UnitMachine) -> None:
    """`systemctl reload` ends when the new file is in force; a wrong one changes nothing."""
    before = machine.show(CONTROL)
    file = "/etc/prepaid-gateway/config.yaml"
    assert machine.run("sh", "-c", f"echo 'supply: {{retries: 3}}' >> {file}").returncode == 0
    machine.systemctl("reload", *UNITS)
    machine.until(lambda: "config.applied" in machine.run("cat", "/run/control.log").stdout, "it")
    machine.until(lambda: machine.show(CONTROL)["StatusText"] == "polling 2 meters", "polling")
    assert machine.run("sh", "-c", f"echo 'suply: {{}}' >> {file}").returncode == 0
    machine.systemctl("reload", CONTROL)
    machine.until(lambda: "refused" in machine.show(CONTROL)["StatusText"], "the refusal")
    after = machine.show(CONTROL)
    assert (after["MainPID"], after["NRestarts"]) == (before["MainPID"], "0")
    assert after["ActiveState"] == "active"
    assert machine.run("sed", "-i", "/suply/d", file).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS)
def test_a_process_that_stands_still_is_started_again(machine: UnitMachine, unit: str) -> None:
    """SIGSTOP: the watchdog (3 s here) ends it, the next one polls or serves again."""
    machine.until(lambda: machine.show(unit)["ActiveState"] == "active", "the unit")
    before = machine.show(unit)
    began_s = time.monotonic()
    assert machine.run("kill", "-STOP", before["MainPID"]).returncode == 0
    machine.until(
        lambda: machine.show(unit)["MainPID"] not in ("0", before["MainPID"]), "another process"
    )
    machine.until(lambda: machine.show(unit)["ActiveState"] == "active", "its start")
    machine.until(lambda: has_readings(machine), "readings")
    assert time.monotonic() - began_s > 2
    assert machine.show(unit)["NRestarts"] == "1"


@pytest.mark.slow
def test_stopping_is_orderly(machine: UnitMachine) -> None:
    """Both units end by themselves with status 0, and keep the live table for the next start."""
    machine.systemctl("stop", *UNITS)
    for unit in UNITS:
        shown = machine.show(unit)
        assert (shown["Result"], shown["ExecMainStatus"]) == ("success", "0")
    assert machine.run("ls", "/run/prepaid-gateway/control").stdout.strip()
