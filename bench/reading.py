"""Microseconds that each department of control takes for one reading of a commissioned meter.

Run by `make bench`, or alone: `python -m bench.reading`. The site is that of the tests of control:
real stores, engine and departments; readings are fed by hand, a second apart.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bench._machine import machine
from gateway.core.point import Step
from gateway.core.reading import Reading
from tests.app.control_site import ControlSite

READINGS = 20_000
ROUNDS = 5
NS = 1_000_000_000


Taken = list[tuple[Reading, Step]]


def best_us(run: Callable[[Taken], object], fresh: Callable[[], Taken]) -> float:
    """Microseconds of the processor per reading, the best of a few rounds of fresh readings."""
    best_ns = 0
    for _ in range(ROUNDS):
        taken = fresh()
        begun_ns = time.thread_time_ns()
        run(taken)
        took_ns = time.thread_time_ns() - begun_ns
        best_ns = took_ns if best_ns == 0 else min(best_ns, took_ns)
    return best_ns / READINGS / 1_000


class Feed:
    """Readings of the first flat, a second and a Wh apart."""

    def __init__(self, site: ControlSite) -> None:
        point = site.engine.points[0]
        assert point.last is not None
        self._point = point
        self._last = point.last

    def next(self) -> Reading:
        """The next reading."""
        last = self._last
        self._last = replace(
            last,
            sequence=last.sequence + 1,
            mono_ns=last.mono_ns + NS,
            utc_ms=last.utc_ms + 1_000,
            energy_wh=(last.energy_wh[0] + 1, last.energy_wh[1]),
            asked_ns=last.mono_ns + NS,
        )
        return self._last

    def taken(self) -> Taken:
        """Readings with what the point made of them."""
        found: Taken = []
        for _ in range(READINGS):
            reading = self.next()
            found.append((reading, self._point.on_reading(reading, rates_known=True)))
        return found


async def measured() -> list[tuple[str, float]]:
    """The departments one by one."""
    with tempfile.TemporaryDirectory() as folder:
        site = ControlSite(Path(folder))
        site.read(0)
        await site.sweeper.sweep()
        await site.open_flat(10**15)
        site.clock.pass_s(1)
        site.read(1)
        feed, point = Feed(site), site.engine.points[0]

        def nothing() -> Taken:
            return []

        def make(_: Taken) -> None:
            for _number in range(READINGS):
                feed.next()

        def take(_: Taken) -> None:
            assert all(step.settled for _, step in feed.taken())

        def govern(taken: Taken) -> None:
            for _, step in taken:
                site.engine.governor.on_reading(0, step, 0)

        def watch(taken: Taken) -> None:
            for reading, step in taken:
                site.watchman.reading(0, point, reading, step)

        rows = [
            (
                "point: guard, price, credit, supply",
                best_us(take, nothing) - best_us(make, nothing),
            ),
            ("governor: limits, feeder, generator", best_us(govern, feed.taken)),
            ("watchman: tamper, feed-in, transformers", best_us(watch, feed.taken)),
        ]
        site.crash()
    return rows


def main() -> None:
    """Print the table."""
    print(f"one reading in control; {machine()}")
    for name, took_us in asyncio.run(measured()):
        print(f"  {name:<42}{took_us:8.2f} us")


if __name__ == "__main__":
    main()
