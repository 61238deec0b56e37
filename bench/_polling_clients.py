"""The clients that are compared: our poller, and a plain loop around pymodbus' client."""

import asyncio
import gc
import random
import resource
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Final, NamedTuple

import uvloop
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException

from bench._machine import Spent, rss_kb, spent
from gateway.app.clock import SystemClock
from gateway.core.errors import MeterError
from gateway.core.figures import Histogram
from gateway.core.reading import Reading
from gateway.south.meter import MeterClient, MeterEndpoint
from gateway.south.models import meter_model
from gateway.south.pacing import PollerMetrics
from gateway.south.poller import Poller, PollerOptions
from gateway.south.registers import Format

HOST: Final = "127.0.0.1"
PERIOD_S: Final = 1.0
# How long to wait for all connections, and for one: thousands at once are no part of the figures.
ALL_CONNECTED_S: Final = 60.0
CONNECT_S: Final = 10.0
READS: Final = ((1, 74), (203, 26), (799, 42))
NAIVE: Final = "pymodbus, asyncio"


class Asked(NamedTuple):
    """What a client is to do. `dead` of the meters do not answer: every other one refuses."""

    ports: tuple[int, ...]
    meters: int
    warm_up_s: float
    seconds: float
    dead: int = 0


class Result(NamedTuple):
    """What one client did in the steady state.

    Lateness is the upper bound, in ms, that half and 99 % of the starts keep. `missed` polls were
    due and left out, or began more than a period late. `link_kb` is the growth of the process's
    memory per meter, from before the first connection on.
    """

    cpu_s: float
    user_s: float
    wall_s: float
    polls: int
    missed: int
    late_p50_ms: float
    late_p99_ms: float
    link_kb: float

    @property
    def core_percent(self) -> float:
        """Share of one core."""
        return 100 * self.cpu_s / self.wall_s

    @property
    def us_per_request(self) -> float:
        """CPU per request."""
        return 1e6 * self.cpu_s / max(1, self.polls * len(READS))


class _Books:
    """Opened in the steady state, closed at the end of the measurement."""

    def __init__(self) -> None:
        # As control does it: what was built so far stays, the collector need not look at it.
        gc.collect()
        gc.freeze()
        self._start_s = asyncio.get_running_loop().time()
        self._before: Spent = spent()

    def close(self, polls: int, missed: int, lateness: Histogram, link_kb: float) -> Result:
        now = spent()
        user_s = now.user_s - self._before.user_s
        return Result(
            cpu_s=user_s + now.system_s - self._before.system_s,
            user_s=user_s,
            wall_s=asyncio.get_running_loop().time() - self._start_s,
            polls=polls,
            missed=missed,
            late_p50_ms=lateness.quantile_ms(0.5),
            late_p99_ms=lateness.quantile_ms(0.99),
            link_kb=link_kb,
        )


class _Seen:
    """Counts the polls that healthy meters missed, by the gaps between their readings."""

    def __init__(self, healthy: int) -> None:
        self.missed = 0
        self._healthy = healthy
        self._last_ns = [0] * healthy

    def on_reading(self, index: int, reading: Reading) -> None:
        if index < self._healthy:
            before_ns, self._last_ns[index] = self._last_ns[index], reading.mono_ns
            if before_ns:
                gap_s = (reading.mono_ns - before_ns) / 1e9
                self.missed += max(0, round(gap_s / PERIOD_S) - 1)


def _lost(metrics: PollerMetrics) -> int:
    """Regular polls that brought no reading, whatever the reason."""
    return metrics.skipped + metrics.held_back + sum(metrics.failures.values())


def _nothing(_index: int, _subject: Reading | MeterError) -> None:
    """Where readings and failures go that nobody looks at."""


async def measure_ours(asked: Asked, pipeline: int) -> Result:
    """Our poller with everything it does for a reading."""
    refusing, hole = _closed_port(), _black_hole()
    healthy = asked.meters - asked.dead
    dead_ports = (refusing, hole.getsockname()[1])
    before_kb = rss_kb()
    clock = SystemClock()
    clients = [
        MeterClient(
            MeterEndpoint(
                meter_id=f"m{at}",
                model="pac3220",
                host=HOST,
                port=asked.ports[at % len(asked.ports)] if at < healthy else dead_ports[at % 2],
                pipeline=pipeline,
                timeout_s=CONNECT_S,
            ),
            clock,
        )
        for at in range(asked.meters)
    ]
    seen = _Seen(healthy)
    poller = Poller(
        clients,
        clock,
        seen.on_reading if asked.dead else _nothing,
        _nothing,
        jitter=random.Random(2),
        options=PollerOptions(period_s=PERIOD_S, slow_every_s=1e9),
    )
    running = asyncio.create_task(poller.run())
    async with asyncio.timeout(ALL_CONNECTED_S):
        while not all(c.is_connected for c in clients[:healthy]):  # noqa: ASYNC110 - peers do it
            await asyncio.sleep(0.2)
    await asyncio.sleep(asked.warm_up_s)
    metrics = poller.metrics
    link_kb = (rss_kb() - before_kb) / asked.meters
    books = _Books()
    polls, lost, gaps = metrics.polls, _lost(metrics), seen.missed
    metrics.lateness = Histogram()
    await asyncio.sleep(asked.seconds)
    missed = seen.missed - gaps if asked.dead else _lost(metrics) - lost
    done = books.close(metrics.polls - polls, missed, metrics.lateness, link_kb)
    await poller.aclose()
    await running
    hole.close()
    return done


async def measure_pymodbus(asked: Asked, _pipeline: int) -> Result:
    """A task a meter, pymodbus' client as its documentation shows it, its own decoding."""
    layout = _layout()
    polls = missed = 0
    lateness = Histogram()
    results: list[Result] = []
    before_kb = rss_kb()
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    end_s = begin_s + asked.warm_up_s + asked.seconds + PERIOD_S

    async def poll_meter(at: int) -> None:
        nonlocal polls, missed
        port = asked.ports[at % len(asked.ports)]
        client = AsyncModbusTcpClient(HOST, port=port, timeout=1, retries=0)
        due_s = begin_s + PERIOD_S * at / asked.meters
        await asyncio.sleep(due_s - loop.time())
        await client.connect()
        # A flag of time and no cancellation: the client takes a cancellation for a lost reply.
        while loop.time() < end_s:
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            late_s = max(0.0, loop.time() - due_s)
            lateness.observe(late_s)
            missed += late_s >= PERIOD_S
            try:
                for address, count in READS:
                    reply = await client.read_holding_registers(address, count=count, device_id=1)
                    for start, size, kind in layout[address]:
                        client.convert_from_registers(reply.registers[start : start + size], kind)
                polls += 1
            except ModbusException:
                missed += 1
            due_s += PERIOD_S
        client.close()

    async with asyncio.TaskGroup() as group:
        for at in range(asked.meters):
            group.create_task(poll_meter(at))
        await asyncio.sleep(asked.warm_up_s)
        link_kb = (rss_kb() - before_kb) / asked.meters
        books = _Books()
        polls_before, missed_before, lateness = polls, missed, Histogram()
        await asyncio.sleep(asked.seconds)
        result = books.close(polls - polls_before, missed - missed_before, lateness, link_kb)
        # The tasks end by themselves; leaving the group waits for them.
        results.append(result)
    return results[0]


def _layout() -> dict[int, list[tuple[int, int, AsyncModbusTcpClient.DATATYPE]]]:
    """What pymodbus is to decode: place, size and kind of every value of each read."""
    model = meter_model("pac3220")
    kinds = {
        Format.FLOAT32: AsyncModbusTcpClient.DATATYPE.FLOAT32,
        Format.FLOAT64: AsyncModbusTcpClient.DATATYPE.FLOAT64,
        Format.UINT32: AsyncModbusTcpClient.DATATYPE.UINT32,
    }
    return {
        read.address: [
            (item.address - read.address, item.format.registers, kinds[item.format])
            for item in model.tile(read)
        ]
        for read in model.full
    }


def _closed_port() -> int:
    """A port at which connections are refused."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def _black_hole() -> socket.socket:
    """A port that takes one connection in silence and drops the attempts of everybody else."""
    hole = socket.socket()
    hole.bind((HOST, 0))
    hole.listen(0)
    return hole


Measure = Callable[[Asked, int], Coroutine[None, None, Result]]
LoopFactory = Callable[[], asyncio.AbstractEventLoop]

# Name: what measures it, on which event loop, how many requests in flight.
CLIENTS: Final[dict[str, tuple[Measure, LoopFactory, int]]] = {
    "ours, 1 in flight": (measure_ours, uvloop.new_event_loop, 1),
    "ours, 3 in flight": (measure_ours, uvloop.new_event_loop, 3),
    "ours, 1 in flight, asyncio": (measure_ours, asyncio.new_event_loop, 1),
    "pymodbus, uvloop": (measure_pymodbus, uvloop.new_event_loop, 1),
    NAIVE: (measure_pymodbus, asyncio.new_event_loop, 1),
}


def run_client(name: str, asked: Asked) -> Result:
    """In a process of its own: measure one client."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    measure, factory, pipeline = CLIENTS[name]
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(measure(asked, pipeline))


def asked_of(words: Sequence[float], ports: Sequence[int]) -> Asked:
    """An `Asked` from the command line: meters, warm-up, seconds, dead."""
    meters, warm_up_s, seconds, dead = words
    return Asked(tuple(ports), int(meters), warm_up_s, seconds, int(dead))
