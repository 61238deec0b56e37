"""The node's PZEM driver against simulated modules, on CPython and inside MicroPython.

The scenes are in same/pzem_scenarios.py; this file is the line and its modules, in real time.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.sim.loads import steady_curve
from gateway.sim.pzem import PzemFault, PzemLine, PzemModule, PzemReply
from tests.firmware.same import pzem_scenarios
from tests.firmware.stage import INTERPRETERS, play, scenes

pytestmark = pytest.mark.slow

SCENES = scenes(pzem_scenarios)


class World:
    """Two modules on a line behind a TCP port; their clock stands still, replies take time."""

    def __init__(self) -> None:
        self.first = PzemModule(steady_curve(2_400.0, power_factor=0.8), energy_wh=38)
        self.second = PzemModule(steady_curve(1_200.0), address=2, energy_wh=9_999_000)
        self.line = PzemLine([self.first, self.second])
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def order_line(self) -> int:
        """Where the line is."""
        return self.port

    async def order_fault(self, fault: str, count: int) -> None:
        """The first module answers wrongly."""
        self.first.add_fault(PzemFault(fault), count)

    async def order_mains(self, *, live: bool) -> None:
        """The first module's mains."""
        if live:
            self.first.restore_mains(0.0)
        else:
            self.first.cut_mains(0.0)

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The wire of one driver."""
        while piece := await reader.read(64):
            # One clock for the line's gaps; the modules' energy stands still at 0.
            for reply in self.line.receive(0.0, piece):
                task = asyncio.create_task(self._send(writer, reply))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        writer.close()

    async def _send(self, writer: asyncio.StreamWriter, reply: PzemReply) -> None:
        await asyncio.sleep(reply.delay_s)
        if not writer.is_closing():
            writer.write(reply.frame)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A line of the test's own."""
    made = World()
    server = await asyncio.start_server(made.join, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


def test_every_scene_is_played() -> None:
    """A scene that is written takes part."""
    assert len(SCENES) == 3


@pytest.mark.parametrize("interpreter", INTERPRETERS)
@pytest.mark.parametrize("scene", SCENES)
async def test_scene(world: World, scene: str, interpreter: str) -> None:
    """The driver does the same on both interpreters."""
    await play(world, f"pzem_scenarios.{scene}", interpreter)
