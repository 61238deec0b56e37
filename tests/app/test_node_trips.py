"""A relay that the node's own protection opened, over a real broker: nobody closes it unasked."""

import asyncio
from pathlib import Path

import pytest

from gateway.core.requests import Reconnect
from tests.app.control_site import PRICE_NANO
from tests.app.node_site import NodeSite, ScriptedNode, alive, until
from tests.south.mosquitto import Mosquitto, needs_broker

pytestmark = [needs_broker, pytest.mark.slow]


async def served(site: NodeSite, node: ScriptedNode) -> None:
    """The node of the file has an account and a lease; what it was told before is forgotten."""
    await until(lambda: site.point(1).last is not None)
    await site.open_flat(10_000 * PRICE_NANO, index=1)
    await until(lambda: node.lease is not None and site.point(1).supply.output_closed)
    node.told.clear()


def relays(node: ScriptedNode) -> list[dict[str, object]]:
    """What the node's relay was told."""
    return [args for kind, args in node.told if kind == "relay"]


@pytest.mark.parametrize("reason", ["overload", "voltage", "safety"])
async def test_a_trip_while_the_gateway_was_away_waits_for_a_person(
    broker: Mosquitto, tmp_path: Path, reason: str
) -> None:
    """Control starts anew and finds it open: an alarm, no command; closed by request."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with alive(node):
        async with site.running():
            await served(site, node)
        node.closed, node.reasons = False, {reason}
        site.restart(boot="boot-1")
        async with site.running():
            await until(lambda: site.events("OUTPUT_DIFFERS"))
            await asyncio.sleep(1.0)
            assert relays(node) == []
            await site.do(Reconnect("flat-2", "it was the kettle"))
            await until(lambda: node.closed)
            await until(lambda: len(site.events("OUTPUT_DIFFERS")) == 2)
            assert relays(node) == [{"closed": True}]
    site.crash()


async def test_a_trip_after_a_doubtful_message_waits_for_a_person(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """One reading that failed is a disturbance; it opened nothing."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site, node)
        node.period_s = 30.0
        await asyncio.sleep(0.3)
        await node.publish("telemetry", node.telemetry(quality="uncertain"))
        node.closed, node.reasons = False, {"overload"}
        await node.publish("telemetry", node.telemetry())
        await until(lambda: site.events("OUTPUT_DIFFERS"))
        await asyncio.sleep(1.0)
        assert relays(node) == []
    site.crash()


async def test_a_relay_that_is_open_without_a_word_is_restored(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """As after a restart of any meter: closed was intended all along."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with alive(node):
        async with site.running():
            await served(site, node)
        node.closed = False
        site.restart(boot="boot-1")
        async with site.running():
            await until(lambda: node.closed)
            assert not site.events("OUTPUT_DIFFERS")
    site.crash()
