"""The demo's broker has the rules of a site's mosquitto."""

import asyncio
from collections.abc import AsyncIterator

import aiomqtt
import pytest

from gateway.app.broker.mosquitto import NODE_HEARS, NODE_SAYS
from gateway.app.demo.broker import DemoBroker, may
from gateway.app.demo.nodes import demo_nodes
from gateway.core.node_message import DEVICE_ID
from tests.app.broker_site import Ear, free_port

USERS = {"gateway": "g", "node-a": "a", "node-b": "b"}


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Where a broker for `USERS` listens."""
    found = free_port()
    broker = DemoBroker(found, USERS)
    await broker.start()
    yield found
    await broker.stop()


def client(port: int, user: str, password: str | None = None) -> aiomqtt.Client:
    """A client that calls itself by its user's name."""
    return aiomqtt.Client(
        "127.0.0.1",
        port,
        username=user,
        password=USERS.get(user) if password is None else password,
        identifier=user,
        protocol=aiomqtt.ProtocolVersion.V311,
        timeout=3,
    )


@pytest.mark.parametrize("kind", [*NODE_SAYS, *NODE_HEARS, "else"])
def test_each_side_says_what_the_other_hears(kind: str) -> None:
    """A node under its own name, the gateway for all, and nobody anything else."""
    own, other = f"smartmeter/node-a/{kind}", f"smartmeter/node-b/{kind}"
    assert may("node-a", own, speaks=True) == (kind in NODE_SAYS)
    assert may("node-a", own, speaks=False) == (kind in NODE_HEARS)
    assert may("gateway", f"smartmeter/+/{kind}", speaks=False) == (kind in NODE_SAYS)
    assert may("gateway", own, speaks=True) == (kind in NODE_HEARS)
    for speaks in (True, False):
        assert not may("node-a", other, speaks=speaks)
        assert not may("node-a", f"smartmeter/+/{kind}", speaks=speaks)
        assert not may("node-a", f"{own}/more", speaks=speaks)
        assert not may("gateway", f"other/node-a/{kind}", speaks=speaks)


async def test_a_stranger_stays_outside(port: int) -> None:
    """A wrong password, and a user that there is not."""
    for user, password in (("node-a", "b"), ("nobody", ""), ("gateway", "a")):
        with pytest.raises(aiomqtt.MqttError):
            async with client(port, user, password):
                pass
    async with client(port, "node-a"):
        pass


async def test_a_node_reaches_the_gateway_and_no_other_node(port: int) -> None:
    """What is another's is neither sent nor heard."""
    office, second = Ear(), Ear()
    async with (
        client(port, "gateway") as gateway,
        client(port, "node-a") as node_a,
        client(port, "node-b") as node_b,
        office.listening(gateway, "smartmeter/+/telemetry"),
        second.listening(node_b, "smartmeter/node-b/command", "smartmeter/node-a/command"),
    ):
        await node_b.publish("smartmeter/node-a/telemetry", b"forged", 0)
        await node_a.publish("smartmeter/node-a/telemetry", b"true", 1)
        await gateway.publish("smartmeter/node-a/command", b"for a", 1)
        await gateway.publish("smartmeter/node-b/command", b"for b", 1)
        assert await office.has("smartmeter/node-a/telemetry", b"true")
        assert await second.has("smartmeter/node-b/command", b"for b")
        await asyncio.sleep(0.2)
    assert office.heard == [("smartmeter/node-a/telemetry", b"true")]
    assert second.heard == [("smartmeter/node-b/command", b"for b")]


def test_nodes_of_the_demo_are_ones_that_the_gateway_accepts() -> None:
    """As many as asked, no name twice, and no MAC that a maker has given out."""
    nodes = demo_nodes(500)
    assert len({node.meter_id for node in nodes}) == len({node.mac for node in nodes}) == 500
    assert all(DEVICE_ID.fullmatch(node.device_id) for node in nodes)
    assert all(node.mac[0] & 0b11 == 0b10 for node in nodes)
