"""Clocks of nodes: set at the start, kept right for weeks, within bounds; a real broker."""

import asyncio
import json
from pathlib import Path

import aiomqtt
import pytest

from gateway.app.control.engine import UNJUDGED
from gateway.core.errors import MeterError
from gateway.core.requests import ConfirmReconnect, Disconnect, Reconnect
from gateway.south.node_device import CLOCK_OFF_MS, SEQUENCE_LEAPS
from gateway.south.nodes import TOLD_PER_SWEEP, WAITING_MAX
from tests.app.control_site import NS, PRICE_NANO
from tests.app.node_site import NodeSite, ScriptedNode, alive, until
from tests.south.mosquitto import Mosquitto, needs_broker

pytestmark = [needs_broker, pytest.mark.slow]


async def served(site: NodeSite) -> None:
    """flat-2 is read and has an account."""
    await until(lambda: site.point(1).last is not None)
    await site.open_flat(10_000 * PRICE_NANO, index=1)


def times(node: ScriptedNode) -> int:
    """How often a node was told the time."""
    return [kind for kind, _ in node.told].count("time")


async def test_a_node_is_told_the_time_once_the_gateways_own_is_trusted(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Heard before that, as at every start of both: it is told then, and once."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        trusted, site.engine.gate.clock = site.engine.gate.clock, UNJUDGED
        await until(lambda: site.point(1).last is not None)
        assert times(node) == 0
        site.engine.gate.clock = trusted
        await until(lambda: times(node) == 1)
        await asyncio.sleep(0.5)
        assert times(node) == 1
        assert abs(node.ahead_s or 0) <= 1
    site.crash()


async def test_a_session_hears_the_time_once_though_its_clock_is_right(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """What it sent while the gateway was away is sent again for it."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    node.ahead_s = 0
    async with site.running(), alive(node):
        await until(lambda: times(node) == 1)
    site.crash()


async def test_the_time_is_told_again_until_it_is_answered(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Once a minute, and no more once it was answered and is right."""
    site = NodeSite(tmp_path, broker.port, speed=30)
    node = site.node("node-2")
    node.deaf.add("time")
    async with site.running(), alive(node):
        await until(lambda: times(node) == 1)
        begun_ns = site.clock.mono_ns()
        await until(lambda: times(node) == 4)
        assert site.clock.mono_ns() - begun_ns >= 170 * NS
        node.deaf.clear()
        await until(lambda: times(node) == 5)
        await asyncio.sleep(4)
        assert times(node) == 5
    site.crash()


async def test_a_clock_that_drifts_is_set_and_one_that_is_a_little_off_is_left(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Weeks after its session began; at most once a minute, though it goes wrong at once again."""
    site = NodeSite(tmp_path, broker.port, speed=30)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await until(lambda: times(node) == 1)
        node.ahead_s = 3
        await asyncio.sleep(6)
        assert times(node) == 1
        for wrong_s in (-(CLOCK_OFF_MS // 1_000) - 4, CLOCK_OFF_MS // 1_000 + 4):
            told, node.ahead_s = times(node), wrong_s
            await until(lambda: abs(node.ahead_s or 0) <= 1)
            assert times(node) == told + 1
        node.deaf.add("time")
        node.ahead_s, node.refuses["time"] = 4_000_000, "STORAGE_FULL"
        told, begun_ns = times(node), site.clock.mono_ns()
        await asyncio.sleep(6)
        minutes = (site.clock.mono_ns() - begun_ns) / (60 * NS)
        assert 1 < times(node) - told <= minutes + 1
    site.crash()


async def test_a_node_whose_clock_is_ahead_is_cut_and_restored_as_ordered(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """By 40 s, more than an order is valid: it is told the time, and the order comes again."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site)
        await until(lambda: times(node) == 1)
        node.ahead_s = 40
        await site.do(Disconnect("flat-2", "works"))
        await until(lambda: not node.closed)
        assert node.refused == ["EXPIRED"]
        assert times(node) == 2
        node.ahead_s = 40
        await site.do(Reconnect("flat-2"))
        await site.do(ConfirmReconnect("flat-2"))
        await until(lambda: node.closed)
        await until(lambda: site.events("SUPPLY_RESTORED"))
        assert node.refused == ["EXPIRED"] * 2
        assert not site.events("FAILED_TO_OPEN")
        assert not site.events("FAILED_TO_CLOSE")
    site.crash()


async def test_no_time_is_sent_into_a_broker_that_is_away(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """It would be an old one when it arrives; the node is told when the broker is back."""
    site = NodeSite(tmp_path, broker.port, speed=10)
    node = site.node("node-2")
    node.deaf.add("time")
    async with site.running(), alive(node):
        await until(lambda: times(node) == 1)
        device = site.group.devices["node-2"]
        await broker.kill()
        await until(lambda: not site.group._link.is_connected)
        told_ns = device.timed_ns
        await asyncio.sleep(4)
        assert device.timed_ns == told_ns
        node.deaf.clear()
        await broker.start()
        await until(lambda: device.timed_session == node.session, 30)
    site.crash()


async def test_a_start_with_many_nodes_tells_them_in_turn_and_cuts_meanwhile(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """A bounded number after each sweep, everyone once; none answers, and a cut goes out."""
    names = [f"n-{place}" for place in range(1_100)]
    site = NodeSite(tmp_path, broker.port, more=names)
    node = site.node("node-2")
    async with site.running(sweeps=False), aiomqtt.Client("127.0.0.1", broker.port) as client:
        await until(lambda: site.group._link.is_connected)
        for place, name in enumerate(names):
            told = {"device_id": name, "online": True, "session": f"{place:016x}"}
            await client.publish(f"smartmeter/{name}/status", json.dumps(told), 1)
        async with alive(node):
            group = site.group
            await until(lambda: len(group.devices) == len(names) + 1, 30)
            for sweep in range(1, 1 + len(group.devices) // TOLD_PER_SWEEP):
                group.swept()
                await asyncio.sleep(0.02)
                assert group.counts["commands"] == sweep * TOLD_PER_SWEEP
            group.swept()
            await asyncio.sleep(0)
            assert all(device.timed_ns is not None for device in group.devices.values())
            assert len(group._waiting) > WAITING_MAX
            group.swept()
            await until(lambda: site.point(1).last is not None)
            await group.switch(1, closed=False, deadline_s=5)
            assert not node.closed
    site.crash()


async def test_a_sequence_of_a_run_with_a_wrong_clock_is_leapt_over(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Its clock stood at 2099: the first command goes through all the same, and a cut at once."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    node.last_seq = 4_070_908_800 * 10
    async with site.running(), alive(node):
        await until(lambda: times(node) == 1)
        assert node.refused.count("REPLAYED") <= 16
        assert set(node.refused) == {"REPLAYED"}
        node.last_seq *= 20
        refused = len(node.refused)
        await site.group.switch(1, closed=False, deadline_s=5)
        assert not node.closed
        assert len(node.refused) - refused <= 16
    site.crash()


async def test_a_node_that_calls_everything_replayed_ends_by_itself(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """A bounded number of tries a command; its next session begins anew."""
    site = NodeSite(tmp_path, broker.port)
    node, again = site.node("node-2"), site.node("node-2", boot_id=2)
    node.last_seq = 2**62
    async with site.running():
        async with alive(node):
            await until(lambda: site.point(1).last is not None)
            before = site.group.counts["commands"]
            with pytest.raises(MeterError, match="REPLAYED"):
                await site.group.command(1, "read", {})
            assert site.group.counts["commands"] - before <= 2 * (len(SEQUENCE_LEAPS) + 1)
        async with alive(again):
            device = site.group.devices["node-2"]
            await until(lambda: device.session == again.session)
            await site.group.command(1, "read", {})
            assert again.refused == []
            assert again.last_seq < site.clock.utc_ms()
    site.crash()


async def test_a_clock_is_right_by_when_a_message_was_sent_not_by_when_it_was_measured(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """A node that polls each minute has a right clock: it is told nothing more, for minutes."""
    site = NodeSite(tmp_path, broker.port, speed=60.0)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await until(lambda: times(node) == 1)
        now_s = site.clock.utc_ms() // 1_000
        node.says = {"timestamp": now_s - 40, "sent": now_s}
        device = site.group.devices["node-2"]
        await until(lambda: device.clock_ms == now_s * 1_000)
        mono_ns = site.clock.mono_ns() + 61 * NS
        assert device.heard_ns is not None
        its_ms = now_s * 1_000 + (mono_ns - device.heard_ns) // 1_000_000
        assert not device.needs_time(mono_ns, its_ms)
        assert device.needs_time(mono_ns, its_ms + CLOCK_OFF_MS + 1)
    site.crash()
