"""A quarter of the meters swallowed by the network: the others are read on (promise 12)."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

from gateway.app.clock import SystemClock, seeded
from gateway.core.reading import Reading
from gateway.south.poller import Poller, PollerOptions
from tests.faults.dead_quarter import clients_of, simulated, swallow

pytestmark = pytest.mark.slow

METERS: Final = 60
DEAD: Final = range(0, METERS, 4)
LIVING: Final = sorted(set(range(METERS)) - set(DEAD))
# Whoever waits for a dead meter waits for longer than this test may take.
TIMEOUT_S: Final = 600.0
DEADLINE_S: Final = 60.0


class Readings:
    """How often each meter was read."""

    def __init__(self) -> None:
        self.counts = [0] * METERS
        self._came = asyncio.Event()

    def add(self, index: int, _reading: Reading) -> None:
        """One has come."""
        self.counts[index] += 1
        self._came.set()

    async def until(self, indices: Iterable[int], counts: list[int], more: int) -> None:
        """Each of these was read `more` times since `counts`."""
        while any(self.counts[index] < counts[index] + more for index in indices):
            self._came.clear()
            await self._came.wait()


async def test_a_black_holed_quarter_holds_up_nobody(tmp_path: Path) -> None:
    """15 of 60 hang for ten minutes, more than may connect anew at once: 45 are read on."""
    clock, readings = SystemClock(), Readings()
    async with simulated(METERS, tmp_path) as (control, rows), asyncio.timeout(DEADLINE_S):
        poller = Poller(
            clients_of(rows, clock, TIMEOUT_S),
            clock,
            readings.add,
            lambda _index, _error: None,
            jitter=seeded(12),
            options=PollerOptions(reconnect_limit=len(DEAD) // 2),
        )
        running = asyncio.create_task(poller.run())
        await readings.until(range(METERS), [0] * METERS, 2)
        await swallow(control, rows, DEAD)
        before = list(readings.counts)
        await readings.until(LIVING, before, 5)
        # One answer may have been on its way.
        assert all(readings.counts[index] <= before[index] + 1 for index in DEAD)
        await poller.aclose()
        await running
