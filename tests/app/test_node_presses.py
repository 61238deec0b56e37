"""Who pressed a node's button stands there still, or does not: by which clock, and without any."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.app.control.node_words import Presses
from gateway.core.node_message import NodeEvent, NodeTelemetry
from gateway.core.proof import NS
from gateway.core.reading import Quality
from gateway.core.requests import Recharge
from tests.app.control_site import PRICE_NANO
from tests.app.node_site import NodeSite, ScriptedNode, alive, until
from tests.south.mosquitto import Mosquitto, needs_broker

SESSION = "a" * 16
NOW_S = 1_800_000_000
TOLD = NodeTelemetry("node-1", 1_000, Quality.GOOD, session=SESSION)
PRESS = NodeEvent("node-1", SESSION, "button", None, 1_000)


def heard(presses: Presses, *at_s: float, told: NodeTelemetry = TOLD) -> None:
    """Telemetry at these seconds."""
    for second in at_s:
        presses.heard(0, told, round(second * NS))


def test_the_gateways_clock_decides_where_it_is_trusted() -> None:
    """A minute either way, whatever was heard."""
    presses = Presses()
    for apart_s, fresh in ((0, True), (60, True), (-60, True), (61, False), (-3_600, False)):
        event = replace(PRESS, node_ms=(NOW_S - apart_s) * 1_000)
        assert presses.is_fresh(0, event, 0, NOW_S) is fresh


def test_the_nodes_own_clock_decides_where_the_gateways_is_in_doubt() -> None:
    """However wrong it is: press and telemetry are told by the same one."""
    presses = Presses()
    wrong_ms = 1_000_000_000_000
    heard(presses, 0, told=replace(TOLD, node_ms=wrong_ms))
    for age_s, fresh in ((0, True), (50, True), (51, False), (3_600, False)):
        event = replace(PRESS, node_ms=wrong_ms - age_s * 1_000)
        assert presses.is_fresh(0, event, 10 * NS, 0) is fresh
    other = replace(PRESS, node_ms=wrong_ms, session="b" * 16)
    assert not presses.is_fresh(0, other, 10 * NS, 0)


def test_without_any_clock_only_a_node_that_was_never_away_is_believed() -> None:
    """Who was away keeps presses and sends them first; a minute of telemetry lies behind them."""
    presses = Presses()
    assert not presses.is_fresh(0, PRESS, 0, 0)
    heard(presses, 0, 10, 20, 30, 40, 50)
    assert not presses.is_fresh(0, PRESS, 55 * NS, 0)
    heard(presses, 60)
    assert presses.is_fresh(0, PRESS, 62 * NS, 0)
    assert not presses.is_fresh(0, replace(PRESS, session="b" * 16), 62 * NS, 0)
    assert not presses.is_fresh(0, replace(PRESS, session=""), 62 * NS, 0)
    assert not presses.is_fresh(0, PRESS, 86 * NS, 0)
    heard(presses, 90)
    assert not presses.is_fresh(0, PRESS, 91 * NS, 0)
    heard(presses, *range(100, 160, 10))
    assert presses.is_fresh(0, PRESS, 151 * NS, 0)
    heard(presses, 160, told=replace(TOLD, session="b" * 16))
    assert not presses.is_fresh(0, replace(PRESS, session="b" * 16), 161 * NS, 0)


def test_without_any_clock_a_node_that_tells_much_may_keep_presses_back() -> None:
    """It sends fifteen events a minute: the next one may be older than the telemetry before it."""
    presses = Presses()
    heard(presses, *range(0, 130, 10))
    for number in range(14):
        assert presses.is_fresh(0, PRESS, (121 + number) * NS // 1, 0)
        heard(presses, 121 + number)
    assert not presses.is_fresh(0, PRESS, 135 * NS, 0)


async def press(node: ScriptedNode, at_s: int | None, kind: str = "button") -> None:
    """Tell of a press of the button, or of something else."""
    told = {"device_id": node.device_id, "session": node.session, "kind": kind, "at": at_s}
    await node.publish("event", told)


async def paid_again(site: NodeSite, node: ScriptedNode) -> None:
    """The node was cut for credit, which is there again: a person has to confirm."""
    await until(lambda: site.point(1).last is not None)
    await site.open_flat(10 * PRICE_NANO, index=1)
    node.step_wh = 1
    await until(lambda: site.events("SUPPLY_CUT"))
    node.step_wh = 0
    await site.do(Recharge("flat-2", 1_000 * PRICE_NANO, "counter", "r-1"))
    await until(lambda: not site.point(1).supply.reasons)


@needs_broker
@pytest.mark.slow
async def test_the_button_works_while_nobody_knows_the_time(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Neither the gateway nor the node: as after a power cut of a site without time service."""
    site = NodeSite(tmp_path, broker.port, speed=10)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await paid_again(site, node)
        site.sweeper._confirmed = False
        site.sweeper._judged_ns = 0
        await until(lambda: not site.engine.gate.clock.trusted)
        await press(node, None)
        await until(lambda: site.events("NODE_EVENT"))
        await asyncio.sleep(0.5)
        assert not node.closed
        # It has been heard for a minute.
        await asyncio.sleep(6.0)
        await press(node, None)
        await until(lambda: node.closed)
    assert site.proof().problem_count == 0
    site.crash()


@needs_broker
@pytest.mark.slow
async def test_a_noisy_node_keeps_its_button(broker: Mosquitto, tmp_path: Path) -> None:
    """What else it tells is bounded, and costs no press; what is left out is counted."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await paid_again(site, node)
        for _ in range(25):
            await press(node, None, "meter_back")
        await press(node, site.clock.utc_ms() // 1_000)
        await until(lambda: node.closed)
        assert len(site.events("NODE_EVENT")) == 21
        assert site.nodes.figures()["node_events_dropped_total"] == 5
    site.crash()
