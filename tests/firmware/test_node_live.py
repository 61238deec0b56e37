"""A whole node with a real broker, a simulated module and a scripted gateway."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.firmware.broker import needs_mosquitto
from tests.firmware.node_site import DEVICE, START_WH, Site, sealed

pytestmark = [pytest.mark.slow, needs_mosquitto]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A site of the test's own."""
    made = Site(tmp_path)
    try:
        yield made
    finally:
        await made.stop()


async def test_a_node_comes_up_and_tells_what_it_measures(site: Site) -> None:
    """Status, boot event and telemetry, with every figure as the module has it."""
    session = await site.start()
    told = await site.gateway.wait("telemetry", lambda t: t["quality"] == "good")
    assert told["device_id"] == DEVICE
    assert told["session"] == session
    assert (told["voltage"], told["frequency_hz"], told["power_factor"]) == (230.0, 50.0, 0.9)
    assert told["power_w"] == pytest.approx(3_600, rel=0.01)
    assert START_WH <= told["energy_wh"] <= site.counter_wh
    assert told["energy_kwh"] == pytest.approx(told["energy_wh"] / 1_000)
    assert (told["relay"], told["reasons"], told["firmware"]) == ("closed", [], "1.0.0")
    status = site.gateway.all("status")[0]
    assert (status["online"], status["boot_id"], status["lease"]) == (True, 1, None)
    assert site.gateway.events("boot")[0]["reset"] == "power_on"
    assert (await site.gateway.command(session, "read"))["ok"]


async def test_the_relay_opens_at_the_watt_hour_of_the_lease_without_anyone(site: Site) -> None:
    """Cut without gateway and broker, held through restarts, closed by lease and command only."""
    session = await site.start()
    await site.gateway.wait("telemetry", lambda t: t["quality"] == "good")
    cutoff_wh = site.counter_wh + 4
    assert (await site.gateway.grant(session, 1, cutoff_wh))["code"] == "DONE"
    await site.broker_away()
    await site.wait_relay(closed=False)
    assert site.counter_wh == cutoff_wh
    await site.node.watchdog()
    await asyncio.sleep(2)
    assert not site.node.relay_closed
    await site.node.power_off()
    await site.node.power_on()
    await asyncio.sleep(2)
    assert not site.node.relay_closed
    assert site.counter_wh == cutoff_wh
    session = await site.broker_back()
    status = await site.gateway.wait("status", lambda s: s["session"] == session)
    assert (status["boot_id"], status["relay"], status["reasons"]) == (3, "open", ["lease"])
    assert status["lease"]["cutoff_wh"] == cutoff_wh
    refused = await site.gateway.command(session, "relay", closed=True)
    assert (refused["ok"], refused["code"]) == (False, "LEASE_REACHED")
    assert (await site.gateway.grant(session, 2, cutoff_wh + 1_000))["ok"]
    assert not site.node.relay_closed
    assert (await site.gateway.command(session, "relay", closed=True))["ok"]
    await site.wait_relay(closed=True)
    told = await site.gateway.wait("telemetry", lambda t: t["relay"] == "closed", 0)
    assert told["energy_wh"] >= START_WH


async def test_commands_are_refused_with_their_codes(site: Site) -> None:
    """Replayed, expired, foreign, unknown, malformed, forged, retained and huge ones."""
    gateway = site.gateway
    session = await site.start()

    async def code(kind: str = "read", args: object = None, **changes: object) -> str:
        body = gateway.body(session, kind, {}) | {"args": args or {}} | changes
        return str((await gateway.send(body))["code"])

    assert await code() == "DONE"
    assert await code(seq=1) == "REPLAYED"
    assert await code(expires=1_900_000_000) == "CLOCK_UNSET"
    assert await code("time", {"unix_s": 1_800_000_000}) == "DONE"
    assert await code(expires=1_799_999_000) == "EXPIRED"
    assert await code(expires=1_800_001_000) == "DONE"
    assert await code(session="0" * 16) == "WRONG_SESSION"
    assert await code(device="node-2") == "NOT_MINE"
    assert await code("dance") == "UNKNOWN_TYPE"
    assert await code("relay", {"closed": 1}) == "BAD_FORM"
    assert await code("lease", {"epoch": "E"}) == "BAD_FORM"
    assert await code("settings", {"poll_s": 0}) == "BAD_FORM"
    update = {"version": "2", "size": 9_999, "sha256": "x", "security": 1}
    assert await code("update", update) == "UPDATE_FORM"
    relay = gateway.body(session, "relay", {"closed": False})
    await gateway.publish("command", sealed(relay, b"\0" * 32))
    await gateway.publish("command", sealed(relay), retain=True)
    await gateway.publish("command", b"", retain=True)
    for spoilt in (b"{", b"\xff" * 100, b"[" * 2_000, b"x" * 200_000):
        await gateway.publish("command", spoilt)
    assert await code() == "DONE"
    told = await gateway.wait("event", lambda e: e["kind"] == "command_refused")
    assert told["code"] == "BAD_SEAL"
    assert site.node.relay_closed
