"""Trips, lock-out and the ends of leases through a whole node: module, relay, flash and broker."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.sim.loads import steady_curve
from tests.firmware.node_site import LOAD_W, Site
from tests.firmware.stage import INTERPRETERS
from tests.south.mosquitto import needs_broker

pytestmark = [pytest.mark.slow, needs_broker]

HOLD_S: Final = 3
OVERLOAD: Final = {
    "limit_w": 1_000,
    "limit_delay_s": 1,
    "limit_hold_s": HOLD_S,
    "trip_most": 2,
    "trip_window_s": 600,
}
VOLTAGE: Final = {
    "voltage_low_dv": 1_900,
    "voltage_high_dv": 2_500,
    "voltage_delay_s": 1,
    "voltage_hold_s": HOLD_S,
}


@pytest.fixture(params=INTERPRETERS)
async def site(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """A site of the test's own, with its node on either interpreter."""
    made = Site(tmp_path, request.param)
    try:
        yield made
    finally:
        await made.stop()


async def stays(site: Site, *, closed: bool, seconds: float) -> None:
    """The relay does not move for so long."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        assert site.node.relay_closed is closed
        await asyncio.sleep(0.05)


async def measured(site: Site) -> None:
    """The node has a good reading."""
    await site.gateway.wait("telemetry", lambda t: t["quality"] == "good")


async def granted(site: Site, session: str, seq: int, cutoff_wh: int, **more: Any) -> None:
    """A lease is in force."""
    assert (await site.gateway.grant(session, seq, cutoff_wh, **more))["code"] == "DONE"


async def test_an_overload_trips_returns_locks_out_and_no_restart_lifts_it(site: Site) -> None:
    """Two trips and a lease between; then a watchdog and a power cut; a command brings it back."""
    site.node.settings(**OVERLOAD)
    session = await site.start()
    await measured(site)
    began_s = time.monotonic()
    await site.wait_relay(closed=False)
    first = await site.gateway.wait("event", lambda e: e["kind"] == "trip")
    assert (first["reason"], first["locked"]) == ("overload", False)
    assert first["power_dw"] == pytest.approx(LOAD_W * 10, rel=0.01)
    await granted(site, session, 1, site.counter_wh + 1_000)
    await site.wait_relay(closed=True)
    assert time.monotonic() - began_s >= HOLD_S
    await site.wait_relay(closed=False)
    second = await site.gateway.wait("event", lambda e: e["kind"] == "trip" and e["locked"])
    assert second["seq"] > first["seq"]
    moves = site.node.moves
    await stays(site, closed=False, seconds=HOLD_S + 2)
    await site.node.watchdog()
    await stays(site, closed=False, seconds=HOLD_S + 2)
    await site.node.power_off()
    await site.node.power_on()
    session = await site.gateway.session(len(site.gateway.heard))
    await stays(site, closed=False, seconds=HOLD_S + 2)
    assert site.node.moves == moves
    site.module.set_load(site.now_s, steady_curve(500.0))
    assert (await site.gateway.command(session, "relay", closed=True))["ok"]
    await site.wait_relay(closed=True)
    await site.node.watchdog()
    await stays(site, closed=True, seconds=HOLD_S + 1)
    assert len(site.gateway.events("trip")) == 2


async def test_bad_voltage_opens_refuses_commands_and_returns_by_itself(site: Site) -> None:
    """Above and below; it is measured before the relay, so the hold begins when it is good."""
    site.node.settings(**VOLTAGE)
    session = await site.start()
    await measured(site)
    for voltage_dv in (2_600, 1_800):
        since = len(site.gateway.heard)
        site.module.mains.voltage_dv = voltage_dv
        await site.wait_relay(closed=False)
        told = await site.gateway.wait("event", lambda e: e["kind"] == "trip", since)
        assert (told["reason"], told["voltage_dv"]) == ("voltage", voltage_dv)
        assert (await site.gateway.command(session, "relay", closed=True))["code"] == "TRIPPED"
        await stays(site, closed=False, seconds=HOLD_S + 1)
        site.module.mains.voltage_dv = 2_300
        began_s = time.monotonic()
        await site.wait_relay(closed=True)
        assert time.monotonic() - began_s >= HOLD_S - 1


async def test_a_lease_that_holds_cuts_nobody_at_its_end(site: Site) -> None:
    """The cut-off stays: supply goes on after `expires`, and ends at the watt-hour."""
    session = await site.start()
    await measured(site)
    now_s = 1_800_000_000
    assert (await site.gateway.command(session, "time", unix_s=now_s))["ok"]
    cutoff_wh = site.counter_wh + 4
    await granted(site, session, 1, cutoff_wh, expires=now_s + 2)
    await stays(site, closed=True, seconds=4)
    await site.wait_relay(closed=False)
    assert site.counter_wh == cutoff_wh
    await site.gateway.wait("event", lambda e: e["kind"] == "lease_reached")


async def test_grace_begins_at_the_end_of_a_lease_and_not_before(site: Site) -> None:
    """Cut at the cut-off while it runs; granted anew and over, `grace_wh` more are there."""
    session = await site.start()
    await measured(site)
    now_s = 1_800_000_000
    assert (await site.gateway.command(session, "time", unix_s=now_s))["ok"]
    cutoff_wh = site.counter_wh + 1
    more = {"policy": "grace", "grace_wh": 3}
    await granted(site, session, 1, cutoff_wh, expires=now_s + 1_000, **more)
    await site.wait_relay(closed=False)
    assert site.counter_wh == cutoff_wh
    await granted(site, session, 2, cutoff_wh, expires=now_s + 1, **more)
    await asyncio.sleep(2)
    assert (await site.gateway.command(session, "relay", closed=True))["ok"]
    await site.wait_relay(closed=True)
    await site.wait_relay(closed=False)
    assert site.counter_wh == cutoff_wh + 3


async def test_a_lease_that_opens_does_so_at_its_end_also_after_a_power_cut(site: Site) -> None:
    """With an unset clock after it: not before the time that is known to have passed."""
    session = await site.start()
    await measured(site)
    now_s = 1_800_000_000
    assert (await site.gateway.command(session, "time", unix_s=now_s))["ok"]
    await granted(site, session, 1, site.counter_wh + 1_000, expires=now_s + 7, policy="open")
    await site.broker_away()
    await site.node.power_off()
    await site.node.power_on()
    await site.wait_relay(closed=True)
    began_s = time.monotonic()
    await site.wait_relay(closed=False)
    # Its uptime alone must have reached what was left when the lease came.
    assert 5 <= time.monotonic() - began_s <= 14
    session = await site.broker_back()
    told = await site.gateway.wait("event", lambda e: e["kind"] == "lease_expired")
    assert told["at"] is None
    refused = await site.gateway.command(session, "relay", closed=True)
    assert (refused["code"], refused["message"]) == ("LEASE_REACHED", "expired")
    await granted(site, session, 2, site.counter_wh + 1_000, policy="open")
    assert not site.node.relay_closed
    assert (await site.gateway.command(session, "relay", closed=True))["ok"]
    await site.wait_relay(closed=True)


async def test_a_lease_granted_under_an_unset_clock_ends_with_the_clock(site: Site) -> None:
    """While no clock is known nobody is cut by time; the moment it is, the end counts."""
    session = await site.start()
    await measured(site)
    now_s = 1_800_000_000
    await granted(site, session, 1, site.counter_wh + 1_000, expires=now_s - 1, policy="open")
    await stays(site, closed=True, seconds=4)
    assert (await site.gateway.command(session, "time", unix_s=now_s))["ok"]
    await site.wait_relay(closed=False)
    await site.gateway.wait("event", lambda e: e["kind"] == "lease_expired")


async def test_a_trip_without_a_broker_is_told_after_a_power_cut(site: Site) -> None:
    """Once, with the session, number and counter of its own boot, before what is new."""
    # Late enough that the broker is gone before, on a busy machine too.
    site.node.settings(**(OVERLOAD | {"limit_delay_s": 5}))
    session = await site.start()
    await measured(site)
    await site.broker_away()
    assert site.node.relay_closed
    await site.wait_relay(closed=False)
    await asyncio.sleep(1)
    counter_wh = site.counter_wh
    await site.node.power_off()
    await site.node.power_on()
    after = await site.broker_back()
    assert after != session
    told = await site.gateway.wait("event", lambda e: e["kind"] == "trip")
    assert (told["session"], told["boot_id"]) == (session, 1)
    # As of the reading that tripped it; a watt-hour may have been counted until the relay moved.
    assert counter_wh - 1 <= told["energy_wh"] <= counter_wh
    await site.gateway.wait("event", lambda e: e["kind"] == "boot" and e["session"] == after)
    await site.node.power_off()
    await site.node.power_on()
    await site.gateway.wait("event", lambda e: e["kind"] == "boot" and e["boot_id"] == 3)
    found = [e for e in site.gateway.events("trip") if e["session"] == session]
    assert len(found) == 1
