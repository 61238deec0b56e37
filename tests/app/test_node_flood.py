"""One device that floods the broker: told once, left out, and all others go on."""

import asyncio
import json
from pathlib import Path

import aiomqtt
import pytest

from gateway.south.budget import BURST, PER_S
from tests.app.control_site import PRICE_NANO
from tests.app.node_site import NodeSite, alive, until
from tests.south.mosquitto import Mosquitto, needs_broker

pytestmark = [needs_broker, pytest.mark.slow]
SECONDS = 6


async def test_a_device_that_floods_is_left_out_and_the_others_are_heard(tmp_path: Path) -> None:
    """By a thousand a second, with its own credentials: a cut beside it is proved in time."""
    broker = Mosquitto(tmp_path)
    await broker.start()
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    node.period_s = 0.5
    async with site.running(), alive(node):
        await until(lambda: site.point(1).last is not None)
        await site.open_flat(10_000 * PRICE_NANO, index=1)
        await until(lambda: node.lease is not None or node.told)
        before, sent, heard = site.group.counts.copy(), node.seq, site.point(1).last_sequence
        async with aiomqtt.Client("127.0.0.1", broker.port) as loud:
            for turn in range(SECONDS * 10):
                for place in range(100):
                    told = {
                        "device_id": "flat-1",
                        "energy_wh": 1_000,
                        "seq": turn * 100 + place,
                        "boot_id": 1,
                        "session": "c" * 16,
                        "relay": "closed",
                    }
                    await loud.publish("smartmeter/flat-1/telemetry", json.dumps(told), 0)
                await asyncio.sleep(0.05)
                if turn == SECONDS * 5:
                    await site.group.switch(1, closed=False, deadline_s=5)
        counts = site.group.counts - before
        assert counts["refused METER_PROTOCOL"] > SECONDS * 500
        assert counts["messages"] < BURST + 4 * SECONDS * PER_S + 100
        assert not node.closed
        assert site.point(1).last_sequence - heard >= node.seq - sent - 2
        assert site.events("NODE_MESSAGE_REFUSED") == [("flat-1", "warning")]
        assert not site.events("METER_AWAY")
    await broker.kill()
    site.crash()
