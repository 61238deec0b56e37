"""A whole node with a real broker, a simulated module and a scripted gateway."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.sim.pzem import PzemFault
from tests.firmware.node_site import DEVICE, START_WH, Site, sealed
from tests.firmware.stage import INTERPRETERS
from tests.south.mosquitto import needs_broker

pytestmark = [pytest.mark.slow, needs_broker]


@pytest.fixture(params=INTERPRETERS)
async def site(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """A site of the test's own, with its node on either interpreter."""
    made = Site(tmp_path, request.param)
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
    assert (len(session), session[:8]) == (16, "00000001")
    assert (told["voltage"], told["frequency_hz"], told["power_factor"]) == (230.0, 50.0, 0.9)
    assert told["power_w"] == pytest.approx(1_800, rel=0.01)
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
    cutoff_wh = site.counter_wh + 2
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
    since = len(site.gateway.heard)
    assert (await site.gateway.grant(session, 2, cutoff_wh + 1_000))["ok"]
    assert not site.node.relay_closed
    assert (await site.gateway.command(session, "relay", closed=True))["ok"]
    await site.wait_relay(closed=True)
    told = await site.gateway.wait("telemetry", lambda t: t["relay"] == "closed", since)
    assert told["energy_wh"] >= cutoff_wh


async def test_commands_are_refused_with_their_codes(site: Site) -> None:
    """Replayed, expired, foreign, unknown, malformed, forged and huge ones."""
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
    for spoilt in (b"{", b"\xff" * 100, b"[" * 2_000, b"x" * 200_000):
        await gateway.publish("command", spoilt)
    assert await code() == "DONE"
    told = await gateway.wait("event", lambda e: e["kind"] == "command_refused")
    assert told["code"] == "BAD_SEAL"
    assert site.node.relay_closed


async def test_a_retained_command_is_not_carried_out(site: Site) -> None:
    """Right in everything else, but kept by the broker for whoever comes."""
    session = await site.start()
    site.node.wifi(up=False)
    await site.broker_away()
    await site.open()
    relay = site.gateway.body(session, "relay", {"closed": False})
    await site.gateway.publish("command", sealed(relay), retain=True)
    site.node.wifi(up=True)
    told = await site.gateway.wait("event", lambda e: e["kind"] == "command_refused")
    assert (told["code"], told["session"]) == ("BAD_FORM", session)
    assert (await site.gateway.command(session, "read"))["ok"]
    assert site.node.relay_closed


async def test_records_of_days_alone_come_in_order_and_once(site: Site) -> None:
    """Kept while broker and gateway are away and through a power cut; next only after its ack."""
    gateway = site.gateway
    site.node.settings(record_s=60, spool_files=4)
    session = await site.start()
    await gateway.wait("telemetry", lambda t: t["quality"] == "good")
    assert gateway.all("backlog") == []
    await site.broker_away()
    for _ in range(70):
        site.node.keep_record()
    await asyncio.sleep(1)
    await site.node.power_off()
    await site.node.power_on()
    await asyncio.sleep(4)
    site.node.keep_record()
    await asyncio.sleep(1)
    session = await site.broker_back()
    # What the node sent before we subscribed it sends again once it has heard us.
    await gateway.command(session, "read")
    seen: list[list[int]] = []
    for segment in (0, 1):
        told = await gateway.wait("backlog", lambda b, s=segment: b["segment"] == s)  # type: ignore[misc]
        seen += told["records"]
        assert (await gateway.command(session, "ack", segment=segment))["ok"]
    await gateway.wait("status", lambda s: s["session"] == session and s["spooled"] == 0)
    assert [record[0] for record in seen] == list(range(1, 72))
    assert {record[1] for record in seen[:70]} == {1}
    assert seen[70][1] == 2
    assert [record[4] for record in seen] == sorted(record[4] for record in seen)
    assert seen[0][4] >= START_WH
    count = len(gateway.all("backlog"))
    assert (await gateway.command(session, "ack", segment=1))["message"] != ""
    await asyncio.sleep(1)
    assert len(gateway.all("backlog")) == count


async def test_a_silent_module_cuts_nobody(site: Site) -> None:
    """Quality bad, values null, the last energy; no cut although the lease is used up meanwhile."""
    gateway = site.gateway
    session = await site.start()
    await gateway.wait("telemetry", lambda t: t["quality"] == "good")
    cutoff_wh = site.counter_wh + 2
    assert (await gateway.grant(session, 1, cutoff_wh))["ok"]
    site.module.add_fault(PzemFault.SILENT)
    told = await gateway.wait("telemetry", lambda t: t["quality"] == "bad")
    assert (told["voltage"], told["power_w"]) == (None, None)
    assert told["energy_wh"] >= START_WH
    await gateway.wait("event", lambda e: e["kind"] == "meter_silent")
    while site.counter_wh <= cutoff_wh:
        await asyncio.sleep(0.1)
    assert site.node.relay_closed
    site.module.clear_faults()
    await gateway.wait("event", lambda e: e["kind"] == "meter_back")
    await site.wait_relay(closed=False)
    await gateway.wait("event", lambda e: e["kind"] == "lease_reached")


async def test_a_counter_that_jumps_is_held(site: Site) -> None:
    """It counts for nothing, cuts nobody, and comes back by itself."""
    gateway = site.gateway
    session = await site.start()
    await gateway.wait("telemetry", lambda t: t["quality"] == "good")
    assert (await gateway.grant(session, 1, site.counter_wh + 500))["ok"]
    site.module.move_counter(1_000_000)
    told = await gateway.wait("telemetry", lambda t: t["quality"] == "uncertain")
    assert told["energy_wh"] < START_WH + 500
    await gateway.wait("event", lambda e: e["kind"] == "register_jump")
    assert site.node.relay_closed
    since = len(gateway.heard)
    site.module.move_counter(-1_000_000)
    told = await gateway.wait("telemetry", lambda t: t["quality"] == "good", since)
    assert START_WH <= told["energy_wh"] <= site.counter_wh


async def test_a_full_flash_stops_neither_lease_nor_relay(site: Site) -> None:
    """One copy of the lease is kept; settings are refused with the reason; supply goes on."""
    session = await site.start()
    await site.gateway.wait("telemetry", lambda t: t["quality"] == "good")
    site.node.flash_full(full=True)
    assert (await site.gateway.command(session, "settings", poll_s=2))["code"] == "STORAGE_FULL"
    cutoff_wh = site.counter_wh + 2
    assert (await site.gateway.grant(session, 1, cutoff_wh))["code"] == "DONE"
    await site.wait_relay(closed=False)
    assert site.counter_wh == cutoff_wh
    await site.node.power_off()
    await site.node.power_on()
    session = await site.gateway.session(len(site.gateway.heard))
    status = await site.gateway.wait("status", lambda s: s["session"] == session)
    assert status["lease"]["cutoff_wh"] == cutoff_wh


async def test_a_restart_by_command_answers_first_and_moves_nothing(site: Site) -> None:
    """The result comes, the status says offline, the next boot says so."""
    session = await site.start()
    await site.gateway.wait("telemetry", lambda t: t["quality"] == "good")
    assert (await site.gateway.command(session, "relay", closed=False))["ok"]
    await site.wait_relay(closed=False)
    moves = site.node.moves
    assert (await site.gateway.command(session, "restart"))["ok"]
    await site.gateway.wait("status", lambda s: s["online"] is False)
    after = await site.gateway.wait("status", lambda s: s["online"] and s["session"] != session)
    assert (after["boot_id"], after["relay"], after["reasons"]) == (2, "open", ["command"])
    assert site.node.moves == moves


async def test_the_button_is_told_as_an_event(site: Site) -> None:
    """A press is a confirmation, told once however long it lasts."""
    await site.start()
    site.node.button(down=True)
    await site.gateway.wait("event", lambda e: e["kind"] == "button")
    await asyncio.sleep(0.5)
    assert len(site.gateway.events("button")) == 1


async def test_a_held_counter_goes_on_by_a_persons_word(site: Site) -> None:
    """A module was exchanged: the total stands still, goes on from it, and survives a power cut."""
    gateway = site.gateway
    session = await site.start()
    first = await gateway.wait("telemetry", lambda t: t["quality"] == "good")
    assert "held_wh" not in first
    assert (await gateway.command(session, "release", count=False))["code"] == "NOTHING_HELD"
    site.module.move_counter(1_000_000)
    told = await gateway.wait("telemetry", lambda t: t["quality"] == "uncertain")
    assert told["counter_wh"] == told["energy_wh"]
    assert told["held_wh"] >= START_WH + 1_000_000
    assert (await gateway.command(session, "release", count="x"))["code"] == "BAD_FORM"
    since = len(gateway.heard)
    done = await gateway.command(session, "release", count=False, address=1)
    assert (done["code"], done["message"][:14]) == ("DONE", "counts on from")
    told = await gateway.wait("telemetry", lambda t: t["quality"] == "good", since)
    assert START_WH <= told["energy_wh"] <= START_WH + 60
    assert "held_wh" not in told
    released = await gateway.wait("event", lambda e: e["kind"] == "register_released")
    assert released["base_wh"] < released["base_before_wh"]
    await site.node.power_off()
    since = len(gateway.heard)
    await site.node.power_on()
    after = await gateway.wait("telemetry", lambda t: t["quality"] == "good", since)
    assert told["energy_wh"] <= after["energy_wh"] <= START_WH + 60


async def test_a_leases_limit_holds_while_nobody_else_sees_to_it(site: Site) -> None:
    """Not beside a gateway; without one it opens, returns, locks out; a command ends it at once."""
    gateway = site.gateway
    site.node.settings(limit_delay_s=1, limit_hold_s=3, trip_most=2)
    session = await site.start()
    await gateway.wait("telemetry", lambda t: t["quality"] == "good")
    status = await gateway.wait("status", lambda s: s["online"])
    assert status["can"] == ["limits", "release"]
    granted = await gateway.grant(session, 1, 0x7FFFFFFF, limit_w=1_000)
    assert granted["code"] == "DONE"
    status = await gateway.wait("status", lambda s: s["online"] and s["lease"])
    assert (status["lease"]["limit_w"], status["lease"]["emergency_wh"]) == (1_000, 0)
    await asyncio.sleep(3)
    assert site.node.relay_closed
    await site.broker_away()
    await site.wait_relay(closed=False)
    await site.wait_relay(closed=True)
    await site.wait_relay(closed=False)
    session = await site.broker_back()
    told = await gateway.wait("status", lambda s: s["session"] == session and s["relay"] == "open")
    assert told["reasons"] == ["limit"]
    assert (await gateway.command(session, "relay", closed=True))["ok"]
    await site.wait_relay(closed=True)
    await asyncio.sleep(3)
    assert site.node.relay_closed
    trips = [(event["reason"], event["locked"]) for event in gateway.events("trip")]
    assert trips == [("limit", False), ("limit", True)]


async def test_a_relay_that_moved_is_told_with_a_reading_from_afterwards(site: Site) -> None:
    """At a poll each minute too: values have the time at which they were measured."""
    site.node.settings(poll_s=60)
    session = await site.start()
    gateway = site.gateway
    await gateway.wait("telemetry")
    assert (await gateway.command(session, "time", unix_s=1_800_000_000))["ok"]
    since = len(gateway.heard)
    assert (await gateway.command(session, "read"))["ok"]
    taken_s = (await gateway.wait("telemetry", since=since))["timestamp"]
    assert (await gateway.grant(session, 1, site.counter_wh))["ok"]
    await asyncio.sleep(3)
    since = len(gateway.heard)
    assert (await gateway.command(session, "read"))["ok"]
    gone = await gateway.wait("telemetry", lambda t: t["power_w"] == 0, since)
    assert (gone["relay"], gone["reasons"]) == ("open", ["lease"])
    moved_s = gone["timestamp"]
    assert 3 <= moved_s - taken_s <= 6
    since = len(gateway.heard)
    assert (await gateway.command(session, "settings", telemetry_s=1))["ok"]
    for _ in range(3):
        again = await gateway.wait("telemetry", since=since)
        since = len(gateway.heard)
        assert abs(again["timestamp"] - moved_s) <= 1  # two clocks tell whole seconds
