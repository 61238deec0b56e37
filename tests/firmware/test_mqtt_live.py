"""The node's MQTT client against a real mosquitto, on CPython and inside MicroPython.

The scenes are in same/mqtt_scenarios.py; this file plays the world around them: broker, network in
between, a subscriber who sees everything and a sender, ordered about over one TCP connection.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from tests.firmware.gate import Gate
from tests.firmware.same import mqtt_scenarios
from tests.firmware.stage import INTERPRETERS, play, scenes
from tests.south.mosquitto import Mosquitto, needs_broker

pytestmark = [pytest.mark.slow, needs_broker]

SCENES = scenes(mqtt_scenarios)


class World:
    """Everything around one node; its methods are the orders of a scene."""

    def __init__(self, place: Path) -> None:
        self.broker = Mosquitto(place, {"node-1": "secret", "gateway": "other"})
        self.network = Gate()
        self.port = 0
        self._seen: list[list[Any]] = []
        self._watcher: asyncio.Task[None] | None = None
        self._watching = asyncio.Event()

    async def begin(self) -> None:
        """Start broker, network, subscriber."""
        await self.network.start(self.broker.port)
        self.port = self.network.port
        await self.start()

    async def end(self) -> None:
        """Stop everything."""
        if self._watcher:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self.network.stop()
        await self.broker.kill()

    async def start(self) -> None:
        """The broker, and somebody who sees all."""
        await self.broker.start()
        self._watching.clear()
        self._watcher = asyncio.create_task(self._watch())
        await asyncio.wait_for(self._watching.wait(), 5)

    async def order_port(self) -> int:
        """Where the node finds the broker."""
        return self.port

    async def order_start(self) -> None:
        """A new broker in the place of the killed one."""
        await self.start()

    async def order_kill(self) -> None:
        """The broker is gone."""
        self._seen.clear()
        await self.broker.kill()
        await asyncio.gather(self._watcher or asyncio.sleep(0), return_exceptions=True)

    async def order_freeze(self) -> None:
        """The broker hangs."""
        self.broker.signal(signal.SIGSTOP)

    async def order_thaw(self) -> None:
        """And goes on."""
        self.broker.signal(signal.SIGCONT)

    async def order_blackhole(self) -> None:
        """Nothing passes."""
        self.network.swallow()

    async def order_drop(self) -> None:
        """Connections break off."""
        self.network.cut()

    async def order_send(
        self, topic: str, payload: str, *, qos: int = 1, retain: bool = False, times: int = 1
    ) -> None:
        """The gateway publishes a payload, so many times in one message."""
        async with self._client("sender") as client:
            await client.publish(topic, bytes.fromhex(payload) * times, qos=qos, retain=retain)

    async def order_seen(self, count: int) -> list[list[Any]]:
        """What the subscriber has seen, once it is so many messages."""
        for _ in range(200):
            if len(self._seen) >= count:
                break
            await asyncio.sleep(0.02)
        return self._seen

    async def order_retained(self, topic: str) -> str:
        """What a new subscriber gets at once."""
        async with self._client("late") as client:
            await client.subscribe(topic, qos=1)
            message = await asyncio.wait_for(anext(aiter(client.messages)), 5)
            assert message.retain
            assert isinstance(message.payload, bytes)
            return message.payload.hex()

    def _client(self, name: str) -> aiomqtt.Client:
        return aiomqtt.Client(
            "127.0.0.1", self.broker.port, username="gateway", password="other", identifier=name
        )

    async def _watch(self) -> None:
        async with self._client("watcher") as client:
            await client.subscribe("smartmeter/#", qos=1)
            self._watching.set()
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                self._seen.append(
                    [str(message.topic), message.payload.hex(), message.qos, message.retain]
                )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A broker and a network of the test's own."""
    made = World(tmp_path)
    try:
        await made.begin()
        yield made
    finally:
        await made.end()


def test_every_scene_is_played() -> None:
    """A scene that is written takes part."""
    assert len(SCENES) == 13


@pytest.mark.parametrize("interpreter", INTERPRETERS)
@pytest.mark.parametrize("scene", SCENES)
async def test_scene(world: World, scene: str, interpreter: str) -> None:
    """The client does the same on both interpreters."""
    await play(world, f"mqtt_scenarios.{scene}", interpreter)
