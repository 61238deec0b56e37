"""`device …` at a terminal: what it shows of a node, and what it asks for."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.app.cli import app
from gateway.app.clock import SystemClock
from gateway.core.errors import RefusedError
from gateway.core.reading import Quality
from gateway.core.requests import IdentifyDevice, ReleaseDevice, RestartDevice, SetDevice
from gateway.store.devices import DeviceRecord, DeviceStatus, put_devices
from tests.app.terminal import terminal

pytestmark = pytest.mark.slow

AT = 1_800_000_000_000
STATE = {
    "online": True,
    "session": "a" * 16,
    "relay": True,
    "can_switch": True,
    "reasons": [],
    "spooled": 0,
    "lease": ["E" * 26, 4, 5_000, 1_800_000_000, 3_000, 1_000, 4_000],
    "held": {"counter_wh": 500, "held_wh": 88_000},
    "modules": [
        {
            "address": address,
            "quality": quality,
            "energy_wh": 5,
            "voltage_v": 229.8,
            "current_a": None,
            "power_w": None,
            "held": False,
        }
        for address, quality in ((1, "uncertain"), (7, "bad"))
    ],
    "settings": {"poll_s": 2, "modules": [1, 7]},
}


async def test_a_device_is_shown_with_limits_modules_settings_and_what_is_held(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And with the next step for a person."""
    async with terminal(tmp_path, capsys, meters=1) as desk:
        one = DeviceRecord("node-1", DeviceStatus.APPROVED, "flat-1", 1, "", AT, AT, state=STATE)
        desk.executor.ledger.write(lambda connection: put_devices(connection, [one]))
        ended = await desk.run("device", "show", "node-1")
        assert (ended.status, ended.err) == (0, "")
        shown = " ".join(ended.out.split())
        for part in (
            "3000 W while the gateway is away",
            "1000 W from 4000 Wh on",
            "the module shows 88000 Wh, 500 Wh were good last: look at it, then `device release`",
            "set poll_s 2",
            "set modules 1, 7",
            "Modules",
            "7 bad 5 229.8",
        ):
            assert part in shown


async def test_a_list_of_devices_fits_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line each at 80 columns, ids whole, and since when one is away."""
    monkeypatch.setenv("COLUMNS", "80")
    now = SystemClock().utc_ms()
    away = {40_000: "no for 4. s", 3_590_000: "no for 59 min", 7_300_000: "no for 2 h"}
    told = {3_000: "yes", **away, 3 * 86_400_000: "no for 3 d", -5_000: "no for 0 s"}
    async with terminal(tmp_path, capsys, meters=1) as desk:
        for number, ago_ms in enumerate(told):
            name, seen = f"node-aabbccddee{number:02d}", now - ago_ms
            one = DeviceRecord(name, DeviceStatus.APPROVED, "shop-50", 1, "1.2.0", AT, seen)
            one = replace(one, state={**STATE, "online": told[ago_ms] == "yes"})
            desk.executor.ledger.write(
                lambda connection, one=one: put_devices(connection, [one])  # type: ignore[misc]
            )
        ended = await desk.run("device", "list")
    rows = [" ".join(line.split()) for line in ended.out.splitlines() if "node-" in line]
    for number, (row, online) in enumerate(zip(rows, told.values(), strict=True)):
        wanted = rf"node-aabbccddee{number:02d} approved shop-50 {online} closed 1.2.0"
        assert re.fullmatch(wanted, row), row
    assert max(map(len, ended.out.splitlines())) <= 80


async def test_a_device_is_told_things_from_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each as a request of its kind; the node's own words are shown."""
    async with terminal(tmp_path, capsys, meters=1) as desk:
        one = DeviceRecord("node-1", DeviceStatus.APPROVED, "flat-1", 1, "", AT, AT)
        desk.executor.ledger.write(lambda connection: put_devices(connection, [one]))
        asked = [
            (("settings", "node-1", "poll_s=2", "modules=1,7"), "node-1 has its settings: done"),
            (("identify", "node-1", "--for", "5"), "node-1 blinks for 5 s"),
            (("restart", "node-1"), "node-1 restarts"),
            (
                ("release", "node-1", "--count", "--reason", "was off", "--address", "7"),
                "node-1: the counter is released: done",
            ),
        ]
        bodies = []
        for number, (words, said) in enumerate(asked):
            ended = await desk.run("device", *words, "--key", f"k-{number}")
            assert (ended.status, ended.out, ended.err) == (0, f"{said}\n", "")
            stored = await desk.site.context.records.request(f"k-{number}")
            assert stored is not None
            assert stored.request.expires_utc_ms is not None
            bodies.append(stored.request.body)
        assert bodies == [
            SetDevice("node-1", '{"modules": [1, 7], "poll_s": 2}'),
            IdentifyDevice("node-1", 5),
            RestartDevice("node-1"),
            ReleaseDevice("node-1", count=True, reason="was off", module_address=7),
        ]


@pytest.mark.parametrize(
    "words",
    [
        ("settings", "node-1"),
        ("settings", "node-1", "poll_s"),
        ("settings", "node-1", "poll_s="),
        ("settings", "node-1", "=2"),
        ("settings", "node-1", "poll_s=-2"),
        ("settings", "node-1", "poll_s=1,2"),
        ("settings", "node-1", "modules=1,,2"),
        ("settings", "node-1", "poll_s=" + "9" * 5_000),
        ("identify", "node-1", "--for", "601"),
        ("release", "node-1", "--reason", "x"),
        ("release", "node-1", "--count"),
    ],
)
async def test_what_is_no_command_is_not_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    """Status 2; nothing reaches the site."""
    async with terminal(tmp_path, capsys, meters=1) as desk:
        before = desk.executor.executed
        ended = await desk.run("device", *words)
        assert ended.status == 2
        assert desk.executor.executed == before


@pytest.mark.parametrize("act", ["read", "commission"])
def test_a_node_is_told_from_a_meter_that_is_not_there(tmp_path: Path, act: str) -> None:
    """It is not polled, and the line says what takes the command's place."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "site: {id: palm, name: Palm, timezone: Asia/Kolkata, currency: INR}\n"
        "south: {mqtt: {host: 127.0.0.1}}\n"
        "meters: [{id: kiosk-7, model: pzem-node}]\n"
    )
    told = {}
    for name in ("kiosk-7", "kiosk-8"):
        done = CliRunner().invoke(app, ["meter", act, name, "-c", str(path)])
        assert isinstance(done.exception, RefusedError)
        assert done.exception.refusal_code == "METER_UNKNOWN"
        told[name] = done.exception.message
    assert "`device commission`" in told["kiosk-7"]
    assert told["kiosk-8"] == "the configuration has no meter kiosk-8"


async def test_a_switch_of_a_meter_that_is_away_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only that nobody follows any longer: nothing proves a switch without readings."""
    monkeypatch.setattr("gateway.app.cli.meter.FOLLOW_ON_S", 1)
    async with terminal(tmp_path, capsys, meters=1) as desk:
        await desk.run("meter", "switch", "flat-1", "off", "--reason", "works")
        desk.executor.min_off_s = 60.0
        desk.executor.show(0, replace(desk.executor.rows[0], quality=Quality.BAD))
        ended = await desk.run("meter", "switch", "flat-1", "on")
        assert ended.status == 1
        assert "not followed beyond 1 s" in ended.err
        assert ended.err.endswith("flat-1: no good reading comes from it: `doctor` says why\n")
