"""What a whole node holds in MicroPython's heap: a word there has the size of one on the ESP32.

This build of MicroPython grows its heap and collects between tasks only, so a heap that is too
small cannot be tried. What can be measured to the byte is what lives in it.
"""

import sys
from pathlib import Path
from typing import Final

import pytest

from tests.soak.node_world import World
from tests.south.mosquitto import needs_broker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), needs_broker]

# An ESP32 without more memory gives Python some 160 KB beside Wi-Fi; TLS takes 40 of them.
HELD_BYTES: Final = 105_000
GROWTH_BYTES: Final = 4_096


async def test_a_node_at_work_lives_in_its_budget(tmp_path: Path) -> None:
    """Connected, alone with records to keep, and back: nothing stays behind."""
    world = World(tmp_path, "memory")
    try:
        await world.start()
        await world.pass_s(700)
        for _ in range(3):
            world.node.wifi(up=False)
            await world.pass_s(1_000)
            world.node.wifi(up=True)
            await world.recovered()
            await world.pass_s(400)
        held = [sample["bytes"] for sample in world.node.samples]
        sys.stdout.write(f"bytes held by the node: {held}, of {HELD_BYTES:,}\n")
        assert len(held) >= 12
        assert min(held) > 60_000
        assert max(held) <= HELD_BYTES
        assert max(held[-4:]) - min(held[:2]) <= GROWTH_BYTES
    finally:
        await world.stop()
