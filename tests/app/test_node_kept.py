"""Kept readings and the gateway's clock: neither judged nor lost while that is in doubt."""

import asyncio
from pathlib import Path

import pytest

from gateway.south.node_device import KEPT_MAX_MS
from tests.app.control_site import NS, PRICE_NANO
from tests.app.node_site import NodeSite, alive, until
from tests.south.mosquitto import Mosquitto, needs_broker

pytestmark = [needs_broker, pytest.mark.slow]


def kept(unix_s: int, energy_wh: int) -> list[int]:
    """A good record of a node's memory: 230 V, 10 A, relay closed."""
    return [1, 1, unix_s, 0, energy_wh, 2_300, 10_000, 23_000, 100, 7]


async def served(site: NodeSite) -> None:
    """flat-2 is read and has an account."""
    await until(lambda: site.point(1).last is not None)
    await site.open_flat(1_000_000 * PRICE_NANO, index=1)


async def test_kept_readings_wait_for_our_clock_and_are_rated_at_their_own_times(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Neither counted nor acknowledged in doubt; the node is told the time, and sends again."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with alive(node):
        async with site.running():
            await served(site)
        begun_wh = node.energy_wh
        await asyncio.sleep(3)
        node.energy_wh += 90
        now_s = site.clock.utc_ms() // 1_000
        node.spool = {4: [kept(now_s - 2, begun_wh + 30), kept(now_s - 1, begun_wh + 60)]}
        await node.publish("status", node.status(), retain=True)
        site.restart(boot="boot-2")
        async with site.running(is_clock_right=False):
            assert not site.engine.gate.clock.trusted
            await until(lambda: site.group.counts["telemetry waiting"] > 2)
            label_ms = site.point(1).label_utc_ms
            node.told.clear()
            await node.send_backlog()
            await until(lambda: site.group.counts["backlog waiting"] == 1)
            await asyncio.sleep(0.5)
            assert site.point(1).last is None
            assert node.told == []
            site.sweeper.confirm_clock()
            await until(lambda: "time" in [kind for kind, _ in node.told])
            await node.send_backlog()
            await until(lambda: not node.spool)
            point = site.point(1)
            assert point.guard.registers_wh == (begun_wh + 60,)
            assert point.label_utc_ms == (now_s - 1) * 1_000 > label_ms
            await node.publish("status", node.status(), retain=True)
            await until(lambda: point.guard.registers_wh == (begun_wh + 90,))
            assert not point.guard.held
    assert site.proof().problem_count == 0
    lines = site.settlements(1)
    assert sum(line.advance_wh[0] for line in lines) == 90
    assert not [flag for line in lines for flag in line.flags if "CLOCK" in flag]
    site.crash()


async def test_live_readings_wait_five_minutes_for_a_clock_and_no_longer(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Then they settle without the kept ones, which are let go of once the clock is trusted."""
    site = NodeSite(tmp_path, broker.port, speed=30)
    node = site.node("node-2")
    node.spool = {1: [kept(site.clock.utc_ms() // 1_000 - 60, 900)]}
    async with site.running(is_clock_right=False), alive(node):
        begun_ns = site.clock.mono_ns()
        await until(lambda: "node-2" in site.group.devices)
        await node.send_backlog()
        await until(lambda: site.point(1).last is not None)
        assert 290 * NS < site.clock.mono_ns() - begun_ns < 340 * NS
        await node.send_backlog()
        seen = site.point(1).last_sequence
        await until(lambda: site.point(1).last_sequence > seen + 3, 2)
        assert node.spool
        site.sweeper.confirm_clock()
        await until(lambda: site.engine.gate.clock.trusted)
        registers_wh = site.point(1).guard.registers_wh
        await node.send_backlog()
        await until(lambda: not node.spool)
        assert site.group.counts["backlog passed over"] == 1
        assert site.point(1).guard.registers_wh == registers_wh
    site.crash()


async def test_how_long_we_were_off_is_seen_by_the_nodes_own_clock(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Ours stood still for an hour; what was used in it is charged and nothing is held."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    node.ahead_s = 0
    async with site.running(), alive(node):
        await served(site)
        seen = site.point(1).last_sequence
        await until(lambda: site.point(1).last_sequence > seen + 10)
    site.restart(boot="boot-2")
    node.ahead_s = 3_600
    node.energy_wh += 200_000
    async with site.running(is_clock_right=False), alive(node):
        await until(lambda: site.point(1).last is not None)
        assert not site.point(1).guard.held
        assert site.point(1).guard.registers_wh == (node.energy_wh,)
        # It says nothing of what time it is: two clocks that the same hand had set.
        await asyncio.sleep(0.5)
        assert not site.engine.gate.clock.trusted
    site.crash()


async def test_records_older_than_a_node_keeps_them_are_passed_over(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """A node that lies of decades makes neither files of days nor prices of a time long ago."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    now_s, oldest_s = site.clock.utc_ms() // 1_000, KEPT_MAX_MS // 1_000
    node.spool = {
        1: [kept(1 + 70 * 86_400 * place, 100) for place in range(100)],
        2: [kept(now_s - oldest_s - 60, 200), kept(now_s - oldest_s + 60, 300)],
    }
    async with site.running(), alive(node):
        await until(lambda: "node-2" in site.group.devices)
        await until(lambda: site.engine.gate.clock.trusted)
        await node.send_backlog()
        await until(lambda: 1 not in node.spool)
        assert site.group.counts["backlog passed over"] == 100
        assert site.point(1).label_utc_ms == 0
        await node.send_backlog()
        await until(lambda: not node.spool)
        assert site.group.counts["backlog taken"] == 1
        assert site.point(1).guard.registers_wh == (300,)
    site.crash()


async def test_what_a_power_cut_took_back_after_kept_readings_is_no_hold(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Away, kept up to the cut, and a little lower after it: charged up to what was kept, once."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with alive(node):
        async with site.running():
            await served(site)
        begun_wh = node.energy_wh
        await asyncio.sleep(2)
        now_s = site.clock.utc_ms() // 1_000
        node.spool = {4: [kept(now_s - 1, begun_wh + 60)]}
        node.boot_id, node.seq, node.session = 2, 0, "b" * 16
        node.energy_wh += 45
        await node.publish("status", node.status(), retain=True)
        site.restart(boot="boot-2")
        async with site.running():
            await until(lambda: site.group.counts["telemetry waiting"] > 2)
            await node.send_backlog()
            await until(lambda: not node.spool)
            await node.publish("status", node.status(), retain=True)
            await until(lambda: site.point(1).guard.registers_wh == (begun_wh + 45,))
            assert not site.point(1).guard.held
            assert ("flat-2", "warning") in site.events("REGISTER_REGRESSION")
    lines = site.settlements(1)
    assert sum(line.advance_wh[0] for line in lines) == 60
    site.crash()
