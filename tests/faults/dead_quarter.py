"""Promise 12 measured: what a quarter of black-holed meters does to the others.

    python -m tests.faults.dead_quarter [meters] [seconds]

polls a simulated site twice, all alive and with a quarter swallowed, and prints both.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import uvloop

from gateway.app.clock import SystemClock, seeded
from gateway.core.clock import Clock
from gateway.core.reading import Reading
from gateway.sim.control import ask
from gateway.sim.site import raise_file_limit
from gateway.south.meter import MeterClient, MeterEndpoint
from gateway.south.poller import Poller, PollerOptions
from tests.e2e.processes import LAUNCH, free_port

PERIOD_NS: Final = 1_000_000_000
WARM_UP: Final = 3  # readings of each meter that are not counted: connecting, identifying
START_S: Final = 60.0

Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Round:
    """The living meters of one run: counted readings, polls missed, times in milliseconds.

    `lag` is how much later than at its best a meter's reading came within its period.
    """

    meters: int
    dead: int
    readings: int
    missed: int
    trip_p50_ms: float
    trip_p99_ms: float
    lag_p99_ms: float

    def __str__(self) -> str:
        return (
            f"{self.meters} meters, {self.dead} dead: {self.readings} readings, "
            f"{self.missed} missed, round trip p50 {self.trip_p50_ms:.1f} p99 "
            f"{self.trip_p99_ms:.1f} ms, lag p99 {self.lag_p99_ms:.1f} ms"
        )


@asynccontextmanager
async def simulated(meters: int, directory: Path) -> AsyncIterator[tuple[Path, list[Row]]]:
    """A simulator of so many meters: its control socket and its meters as it lists them."""
    raise_file_limit(2 * meters + 256)
    control, port = directory / "sim.sock", free_port("127.20.0.1")
    arguments = ("simulate", "--meters", str(meters), "--port", str(port), "--load-w", "3000")
    # Not asyncio's: its watcher would outlive a loop that is closed by a failed test.
    simulator = subprocess.Popen(  # noqa: ASYNC220 - starts at once, ends below
        [sys.executable, "-c", LAUNCH, *arguments, "--control-socket", str(control)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(START_S):
            while not control.exists():
                await asyncio.sleep(0.05)
            rows = (await ask(control, "list", timeout_s=START_S))["meters"]
        assert isinstance(rows, list)
        yield control, rows
    finally:
        simulator.kill()
        simulator.wait()


async def swallow(control: Path, rows: Sequence[Row], dead: Iterable[int]) -> None:
    """From now on the network swallows what goes to these meters, new connections too."""
    for index in dead:
        await ask(control, "fault", meter=rows[index]["id"], kind="black_hole", timeout_s=10)


def clients_of(rows: Sequence[Row], clock: Clock, timeout_s: float = 1.0) -> list[MeterClient]:
    """A client of each meter."""
    return [
        MeterClient(
            MeterEndpoint(
                meter_id=str(row["id"]),
                model="pac3220",
                host=str(row["host"]),
                port=int(str(row["port"])),
                timeout_s=timeout_s,
            ),
            clock,
        )
        for row in rows
    ]


async def measure(meters: int, dead: int, seconds: float, directory: Path) -> tuple[Round, Round]:
    """Poll all of them for `seconds`, then again with `dead` of them black-holed."""
    async with simulated(meters, directory) as (control, rows):
        alive = await _poll(rows, set(), seconds)
        chosen = set(range(0, meters, meters // dead)[:dead]) if dead else set()
        await swallow(control, rows, chosen)
        return alive, await _poll(rows, chosen, seconds)


async def _poll(rows: Sequence[Row], dead: set[int], seconds: float) -> Round:
    clock = SystemClock()
    readings: list[list[Reading]] = [[] for _ in rows]
    trips_s: list[float] = []

    def on_reading(index: int, reading: Reading) -> None:
        readings[index].append(reading)
        if index not in dead and len(readings[index]) > WARM_UP:
            trips_s.append(poller.client(index).round_trips.latest_s)

    poller = Poller(
        clients_of(rows, clock),
        clock,
        on_reading,
        lambda _index, _error: None,
        jitter=seeded(12),
        options=PollerOptions(),
    )
    running = asyncio.create_task(poller.run())
    await asyncio.sleep(seconds)
    await poller.aclose()
    await running
    living = [
        [reading.mono_ns for reading in of[WARM_UP:]]
        for index, of in enumerate(readings)
        if index not in dead
    ]
    gaps = [round((b - a) / PERIOD_NS) for times in living for a, b in pairwise(times)]
    lags_ms = [lag for times in living for lag in _lags_ms(times)]
    short = sum(len(times) < seconds - WARM_UP - 2 for times in living)
    return Round(
        meters=len(rows),
        dead=len(dead),
        readings=sum(len(times) for times in living),
        missed=sum(gap - 1 for gap in gaps if gap > 1) + short,
        trip_p50_ms=_quantile(trips_s, 0.5) * 1e3,
        trip_p99_ms=_quantile(trips_s, 0.99) * 1e3,
        lag_p99_ms=_quantile(lags_ms, 0.99),
    )


def _lags_ms(times_ns: Sequence[int]) -> list[float]:
    """How late each reading came in its period, against the earliest of this meter."""
    if not times_ns:
        return []
    first = times_ns[0]
    places = [(at - first + PERIOD_NS // 2) % PERIOD_NS for at in times_ns]
    return [(place - min(places)) / 1e6 for place in places]


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def main() -> None:
    """Print both rounds and the ratio."""
    meters = int(sys.argv[1]) if len(sys.argv) > 1 else 800
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 30.0
    with TemporaryDirectory() as directory:
        alive, quarter = uvloop.run(measure(meters, meters // 4, seconds, Path(directory)))
    print(alive)  # noqa: T201 - a measurement's result
    print(quarter)  # noqa: T201
    ratio = quarter.trip_p99_ms / alive.trip_p99_ms
    print(f"p99 of the others: x {ratio:.2f}")  # noqa: T201


if __name__ == "__main__":
    main()
