"""The link to the nodes' broker, against a real mosquitto."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import aiomqtt
import pytest

from gateway.app.clock import SystemClock
from gateway.south.mqtt import Broker, MqttLink
from tests.south.mosquitto import Mosquitto, needs_broker

pytestmark = [needs_broker, pytest.mark.slow]


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """A broker that runs."""
    made = Mosquitto(tmp_path, {"gateway": "right"})
    await made.start()
    yield made
    await made.kill()


def link_to(broker: Mosquitto, directory: Path, states: list[tuple[bool, str]]) -> MqttLink:
    """A link whose receiver fails at every message as a defect of ours would."""

    def defect(topic: str, payload: bytes, retained: bool) -> None:
        raise ValueError(f"a defect at {topic}")

    password = directory / "password"
    password.write_text("right\n", encoding="utf-8")
    return MqttLink(
        Broker("127.0.0.1", broker.port, "control", "gateway", password),
        ("smartmeter/+/telemetry",),
        SystemClock(),
        defect,
        lambda connected, reason: states.append((connected, reason)),
        admits=lambda topic: topic != "smartmeter/loud/telemetry",
        jitter=Random(1),
    )


async def test_a_defect_of_ours_is_not_taken_for_the_brokers(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """It ends the link, and with it control: no connection after another hides it."""
    states: list[tuple[bool, str]] = []
    running = asyncio.create_task(link_to(broker, tmp_path, states).run())
    async with asyncio.timeout(10):
        while not states:
            await asyncio.sleep(0.01)
        async with aiomqtt.Client(
            "127.0.0.1", broker.port, username="gateway", password="right"
        ) as client:
            await client.publish("smartmeter/loud/telemetry", b"{}", 1)
            await client.publish("smartmeter/node-1/telemetry", b"{}", 1)
        with pytest.raises(ValueError, match="a defect at smartmeter/node-1/telemetry"):
            await running
    assert states == [(True, "")]


async def test_a_password_that_is_wrong_or_gone_is_the_brokers_state(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Told with its reason, tried again, and the right one is taken up."""
    states: list[tuple[bool, str]] = []
    link = link_to(broker, tmp_path, states)
    password = tmp_path / "password"
    password.write_text("wrong\n", encoding="utf-8")
    running = asyncio.create_task(link.run())
    async with asyncio.timeout(30):
        while not states:
            await asyncio.sleep(0.01)
        assert "Not authorized" in states[0][1]
        password.unlink()
        while "No such file" not in states[-1][1]:
            await asyncio.sleep(0.01)
        password.write_text("right\n", encoding="utf-8")
        while not link.is_connected:
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
