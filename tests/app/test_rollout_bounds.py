"""Bounds of roll-outs over a real broker: wrong wishes, floods, how many, and RECOVERY."""

import asyncio
from pathlib import Path

import pytest

from gateway.core.recovery import RecoveryReason
from gateway.core.requests import Role, StopRollout
from gateway.core.rollout_plan import ROLLOUTS_MAX, Phase
from gateway.store.firmware import ROLLOUTS_KEPT, read_rollouts
from gateway.store.recovery import recovery_now
from tests.app.node_site import until
from tests.app.rollout_site import RolloutSite, ended, heard, living
from tests.firmware.releases import bundle
from tests.south.mosquitto import Mosquitto, needs_broker

pytestmark = [needs_broker, pytest.mark.slow]

NEW = bundle("2.0.0", 1)


async def test_wishes_that_are_wrong_get_nothing_and_metering_goes_on(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Told once an hour; what cannot be read is told as any such message."""
    site = RolloutSite(tmp_path, broker.port, 2)
    node, stranger = site.updating()
    node.chunks_max = 2
    async with living(site, node, stranger):
        await heard(site, [node, stranger])
        await site.add(NEW)
        await site.begin(NEW, device_ids=("node-1",))
        await until(lambda: node.chunks == 2)
        await stranger.want("2.0.0", 0, 1_024)
        await stranger.want("2.0.0", 0, 1_024)
        size = len(NEW.raw)
        for version, offset, count in (
            ("2.0.0", 0, 1_025),
            ("2.0.0", 0, 0),
            ("2.0.0", size, 1),
            ("2.0.0", size - 1, 2),
            ("9.9.9", 0, 1_024),
        ):
            await node.want(version, offset, count)
        before = site.point(0).last_sequence
        for nothing in (-1, "x", None, 1.5, 2**70, True):
            await node.want("2.0.0", nothing, 1)
        old, node.session = node.session, "f" * 16
        await node.want("2.0.0", 0, 1_024)
        node.session = old
        await until(lambda: site.events("NODE_MESSAGE_REFUSED"))
        await until(lambda: site.point(0).last_sequence > before + 2)
        assert (node.chunks, stranger.chunks) == (2, 0)
        told = site.facts("FIRMWARE_WISH_REFUSED")
        assert [(one["device"], one["reason"]) for one in told] == [
            ("node-2", "it is in no roll-out"),
            ("node-1", "it asks for 1025 bytes at once, at most 1024"),
        ]
        assert site.nodes.rollouts.counts["wishes refused"] == 7
        node.chunks_max = 10_000
        await node._ask()
        await until(lambda: ended(site), 30)
    assert site.phases() == [Phase.DONE]
    site.crash()


async def test_a_node_that_floods_with_wishes_gets_five_chunks_a_second(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """The newest wish counts, those between are dropped, and another node is served meanwhile."""
    site = RolloutSite(tmp_path, broker.port, 2)
    node, other = site.updating()
    node.chunks_max = 1
    async with living(site, node, other):
        await heard(site, [node, other])
        await site.add(NEW)
        await site.begin(NEW)
        await until(lambda: node.chunks == 1)
        begun = site.clock.mono_ns()
        for _ in range(500):
            await node.want("2.0.0", 1_024, 1_024)
        await until(lambda: other.installed, 30)
        seconds = (site.clock.mono_ns() - begun) / 1e9
        assert node.chunks - 1 <= 5 * seconds + 2
    site.crash()


async def test_old_rollouts_are_forgotten(broker: Mosquitto, tmp_path: Path) -> None:
    """Of those that have ended the newest stay, and numbers go on after a restart."""
    site = RolloutSite(tmp_path, broker.port, 1)
    (node,) = site.updating()
    node.chunks_max = 0
    async with living(site, node):
        await heard(site, [node])
        await site.add(NEW)
        for number in range(1, ROLLOUTS_KEPT + 3):
            assert await site.begin(NEW) == ""
            await site.do(StopRollout(number, "next"), Role.MANAGER, f"s-{number}")
    kept = [one.number for one in read_rollouts(site.file.connection)]
    assert kept == list(range(ROLLOUTS_KEPT + 2, 2, -1))
    site.restart()
    assert site.nodes.rollouts.last_number == ROLLOUTS_KEPT + 2
    assert site.nodes.rollouts.opened == {}
    site.crash()


async def test_at_most_four_rollouts_at_once(broker: Mosquitto, tmp_path: Path) -> None:
    """Each holds its image in memory."""
    site = RolloutSite(tmp_path, broker.port, ROLLOUTS_MAX + 1)
    nodes = site.updating()
    for node in nodes:
        node.chunks_max = 0
    async with living(site, *nodes):
        await heard(site, nodes)
        await site.add(NEW)
        codes = [await site.begin(NEW, device_ids=(node.device_id,)) for node in nodes]
    assert codes == [""] * ROLLOUTS_MAX + ["ROLLOUTS_FULL"]
    site.crash()


async def test_in_recovery_nothing_goes_on(broker: Mosquitto, tmp_path: Path) -> None:
    """A restored file may tell of a roll-out that was stopped since: a person looks first."""
    site = RolloutSite(tmp_path, broker.port, 2)
    nodes = site.updating()
    nodes[0].chunks_max = 2
    async with living(site, *nodes):
        await heard(site, nodes)
        await site.add(NEW)
        await site.begin(NEW, parallel_max=1)
        await until(lambda: nodes[0].chunks == 2)
        site.engine.gate.recovery = recovery_now(
            site.file.connection, RecoveryReason.RESTORED, utc_ms=site.clock.utc_ms()
        )
        nodes[0].chunks_max = 10_000
        await nodes[0]._ask()
        await asyncio.sleep(0.5)
        assert (nodes[0].chunks, nodes[1].orders) == (2, 0)
        site.engine.gate.recovery = None
        await nodes[0]._ask()
        await until(lambda: ended(site), 30)
    assert site.phases() == [Phase.DONE] * 2
    site.crash()
