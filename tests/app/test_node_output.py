"""A node whose energy is in doubt, or waits behind kept readings, still shows its relay."""

import asyncio
from pathlib import Path

import pytest

from gateway.core.requests import ConfirmReconnect, Disconnect, Reconnect
from gateway.core.switching import Reason
from tests.app.control_site import PRICE_NANO
from tests.app.node_site import NodeSite, ScriptedNode, alive, until
from tests.south.mosquitto import Mosquitto, needs_broker

pytestmark = [needs_broker, pytest.mark.slow]

SILENT: dict[str, object] = {
    "quality": "bad",
    "voltage": None,
    "current": None,
    "power_w": None,
    "energy_wh": None,
    "energy_kwh": None,
}
DOUBTED: dict[str, object] = {"quality": "uncertain"}


async def served(site: NodeSite, *, balance_nano: int = 10_000 * PRICE_NANO) -> None:
    """flat-2 is read and has an account."""
    await until(lambda: site.point(1).last is not None)
    await site.open_flat(balance_nano, index=1)


def orders(node: ScriptedNode) -> list[object]:
    """The positions that its relay was told."""
    return [args["closed"] for kind, args in node.told if kind == "relay"]


def cut(site: NodeSite) -> dict[str, object]:
    """What the one proof of a cut says."""
    (told,) = [facts for kind, _, _, facts in site.happened if kind == "SUPPLY_CUT"]
    return told


@pytest.mark.parametrize(
    ("doubt", "verified_by", "load_unproven"),
    [(SILENT, ["output"], True), (DOUBTED, ["output", "current"], False)],
)
async def test_a_persons_cut_is_proved_by_a_relay_whose_energy_is_in_doubt(
    broker: Mosquitto,
    tmp_path: Path,
    doubt: dict[str, object],
    verified_by: list[str],
    load_unproven: bool,
) -> None:
    """By what can be measured; one command, no alarm, and nothing charged or closed on it."""
    site = NodeSite(tmp_path, broker.port, speed=3)
    node = site.node("node-2")
    async with site.running(), alive(node):
        node.step_wh = 1
        await served(site)
        seen = site.point(1).last_sequence
        await until(lambda: site.point(1).last_sequence > seen + 3)
        node.says = doubt
        await until(lambda: site.events("METER_AWAY"))
        registers_wh = site.point(1).guard.registers_wh
        node.told.clear()
        await site.do(Disconnect("flat-2", "fire"))
        await until(lambda: site.events("SUPPLY_CUT"))
        assert cut(site)["verified_by"] == verified_by
        assert cut(site)["load_unproven"] is load_unproven
        assert orders(node) == [False]
        assert not site.events("FAILED_TO_OPEN")
        await site.do(Reconnect("flat-2"))
        await site.do(ConfirmReconnect("flat-2"))
        await asyncio.sleep(1)
        assert orders(node) == [False]
        assert site.point(1).guard.registers_wh == registers_wh
        # Its energy is good again: what the person has said still holds.
        node.says = {}
        await until(lambda: site.events("SUPPLY_RESTORED"))
        assert node.closed
    site.crash()


async def test_a_cut_that_stands_is_sent_after_a_restart_beside_a_silent_module(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """A relay that somebody closed meanwhile is opened again, though nothing measures."""
    site = NodeSite(tmp_path, broker.port, speed=3)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site)
        await site.do(Disconnect("flat-2", "fire"))
        await until(lambda: site.events("SUPPLY_CUT"))
    site.restart()
    node.closed, node.says = True, SILENT
    node.reasons.clear()
    node.told.clear()
    async with site.running(), alive(node):
        await until(lambda: orders(node))
        assert orders(node) == [False]
        await until(lambda: len(site.events("SUPPLY_CUT")) == 2)
        assert site.point(1).supply.reasons == {Reason.MANUAL}
    site.crash()


async def test_nobody_is_cut_for_credit_on_a_doubted_counter(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Nor is it charged: only what the gateway has judged counts."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site, balance_nano=10 * PRICE_NANO)
        node.says = DOUBTED
        # Not as much as the lease allows: the node does not cut by itself.
        node.energy_wh += 50
        await asyncio.sleep(1.5)
        assert node.closed
        assert orders(node) == []
        assert site.point(1).supply.reasons == set()
        assert site.point(1).running_nano == 0
        node.says = {}
        await until(lambda: not node.closed)
    site.crash()


async def test_a_cut_is_proved_while_kept_readings_drain(broker: Mosquitto, tmp_path: Path) -> None:
    """Only energy waits: the relay shows at once, by one command."""
    site = NodeSite(tmp_path, broker.port, speed=3)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site)
        node.spool = {place: [] for place in range(1, 200)}
        await node.publish("status", node.status() | {"spooled": 200}, retain=True)

        async def drain() -> None:
            while True:
                segment = min(node.spool)
                now_s, wh = site.clock.utc_ms() // 1_000, node.energy_wh
                node.spool[segment] = [[1, 1, now_s, 0, wh, 2_300, 0, 0, 100, 7]]
                await node.send_backlog()
                await asyncio.sleep(0.7)

        draining = asyncio.create_task(drain())
        await until(lambda: site.group.counts["telemetry waiting"] > 3)
        node.told.clear()
        await site.do(Disconnect("flat-2", "fire"))
        await until(lambda: site.events("SUPPLY_CUT"))
        assert orders(node) == [False]
        waiting = site.group.counts["telemetry waiting"]
        await site.do(Reconnect("flat-2"))
        await site.do(ConfirmReconnect("flat-2"))
        await asyncio.sleep(1)
        # Whoever is to be given supply is judged on what was used first.
        assert orders(node) == [False]
        assert site.group.counts["telemetry waiting"] > waiting
        draining.cancel()
        node.spool.clear()
        await node.publish("status", node.status(), retain=True)
        await until(lambda: node.closed)
        assert not site.events("FAILED_TO_OPEN")
    site.crash()


async def test_a_command_of_a_run_that_died_is_judged_beside_a_silent_module(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """It is looked at and not repeated, as with a meter that answers."""
    site = NodeSite(tmp_path, broker.port, speed=3)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site)
        node.answers = False
        await site.do(Disconnect("flat-2", "fire"))
        await until(lambda: not node.closed)
    site.restart()
    node.says, node.answers = SILENT, True
    node.told.clear()
    assert site.engine.inherited
    async with site.running(), alive(node):
        await until(lambda: not site.engine.inherited)
        await asyncio.sleep(0.5)
        assert orders(node) == []
    site.crash()
