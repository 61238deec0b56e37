"""What it costs to serve simulated meters.

    python -m bench.simulator --meters 800 --seconds 10

One process serves all meters; this one asks each of them three reads a second, one at a time, and
checks length and transaction of every reply. CPU is user plus system time of the serving process
while it is asked; starting is not counted.
"""

import argparse
import asyncio
import os
import platform
import socket
import sys
import time
from importlib.metadata import version
from struct import Struct
from typing import Final, NamedTuple

import uvloop

from bench._machine import cpu_s, rss_kb
from gateway.app.clock import SystemClock, seeded
from gateway.sim.control import serve
from gateway.sim.site import SiteOptions, raise_file_limit

NETWORK: Final = "127.21"
METERS_PER_NET: Final = 250
READS: Final = ((1, 74), (203, 26), (799, 42))
PERIOD_S: Final = 1.0
REPLY_S: Final = 2.0
START_S: Final = 60.0
STOP_S: Final = 10.0
REQUEST: Final = Struct(">HHHBBHH")


class Figures(NamedTuple):
    """What was seen. `late` polls began after their period; `failed` requests had no good reply."""

    meters: int
    seconds: float
    answered: int
    failed: int
    late: int
    start_s: float
    cpu_s: float
    rss_mb: float

    @property
    def core_share(self) -> float:
        """Share of one core that serving took."""
        return self.cpu_s / self.seconds

    @property
    def cpu_us_per_request(self) -> float:
        """CPU of the serving process per answered request, in µs."""
        return self.cpu_s * 1e6 / max(1, self.answered)


class Asker:
    """Counts what a number of meters answer."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0
        self.late = 0

    async def poll(self, host: str, port: int, phase_s: float, seconds: float) -> None:
        """Ask one meter once a period, from `phase_s` on."""
        async with asyncio.timeout(START_S):
            reader, writer = await asyncio.open_connection(host, port)
        loop = asyncio.get_running_loop()
        begin_s = loop.time() + phase_s
        for turn in range(int(seconds / PERIOD_S)):
            due_s = begin_s + turn * PERIOD_S
            if loop.time() > due_s + PERIOD_S:
                self.late += 1
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            for number, (start, count) in enumerate(READS):
                await self._ask(reader, writer, turn * len(READS) + number, start, count)
        writer.close()

    async def _ask(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        transaction: int,
        start: int,
        count: int,
    ) -> None:
        writer.write(REQUEST.pack(transaction, 0, 6, 1, 3, start, count))
        try:
            async with asyncio.timeout(REPLY_S):
                reply = await reader.readexactly(9 + 2 * count)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            self.failed += 1
            return
        if int.from_bytes(reply[:2], "big") == transaction and reply[7] == 3:
            self.answered += 1
        else:
            self.failed += 1


def address(index: int) -> str:
    """Where meter `index` answers."""
    return f"{NETWORK}.{index // METERS_PER_NET}.{index % METERS_PER_NET + 1}"


async def measure(meters: int, seconds: float) -> Figures:
    """Serve `meters` in a child process and ask them for `seconds`.

    Raises RuntimeError where the child does not start.
    """
    raise_file_limit(meters + 128)
    with socket.socket() as probe:
        probe.bind((address(0), 0))
        port = int(probe.getsockname()[1])
    began_s = time.monotonic()
    command = (sys.executable, "-m", "bench.simulator", "--serve", str(meters), "--port", str(port))
    child = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            if await child.stdout.readline() != b"ready\n":
                raise RuntimeError("the simulator did not start")
        start_s = time.monotonic() - began_s
        asker = Asker()
        before_s, first_s = cpu_s(child.pid), time.monotonic()
        async with asyncio.TaskGroup() as group:
            for index in range(meters):
                phase_s = PERIOD_S * index / meters
                group.create_task(asker.poll(address(index), port, phase_s, seconds))
        spent_s, wall_s = cpu_s(child.pid) - before_s, time.monotonic() - first_s
        memory_mb = rss_kb(child.pid) / 1e3
    finally:
        if child.stdin is not None:
            child.stdin.close()
        async with asyncio.timeout(STOP_S):
            await child.wait()
    return Figures(
        meters, wall_s, asker.answered, asker.failed, asker.late, start_s, spent_s, memory_mb
    )


async def serve_until_hung_up(meters: int, port: int) -> None:
    """The child: serve until standard input closes."""
    ready, stop = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
    options = SiteOptions(meters=meters, network=NETWORK, port=port)
    task = asyncio.create_task(serve(options, SystemClock(), stop, seeded=seeded, ready=ready))
    waiter = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    print("ready" if not task.done() else "failed", flush=True)
    await task


def show(figures: Figures) -> None:
    """Print a table for people."""
    print(f"{platform.platform()}, Python {platform.python_version()}, uvloop {version('uvloop')}")
    print(f"{os.cpu_count()} cores; 3 reads per meter and second, replies after 15 to 25 ms")
    rows = (
        ("meters", f"{figures.meters}"),
        ("started in", f"{figures.start_s:.2f} s"),
        ("requests answered", f"{figures.answered} in {figures.seconds:.1f} s"),
        ("requests failed", f"{figures.failed}"),
        ("polls late", f"{figures.late}"),
        ("share of a core", f"{100 * figures.core_share:.1f} %"),
        ("CPU per request", f"{figures.cpu_us_per_request:.0f} µs"),
        ("memory", f"{figures.rss_mb:.0f} MB"),
    )
    for name, figure in rows:
        print(f"  {name:20} {figure}")


def main() -> None:
    """Run the bench, or the child of one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--meters", type=int, default=800)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=5020, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve is not None:
        uvloop.run(serve_until_hung_up(chosen.serve, chosen.port))
    else:
        show(uvloop.run(measure(chosen.meters, chosen.seconds)))


if __name__ == "__main__":
    main()
