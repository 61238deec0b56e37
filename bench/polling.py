"""CPU of polling: our poller beside a plain pymodbus loop, in one run on one machine.

    python -m bench.polling --meters 100 --seconds 10

Every client polls the same simulated meters once a second with the same three reads and decodes
every value. Meters are a process of their own that answers after 15 to 25 ms. CPU is user plus
system time of the client's process in the steady state; connecting is not counted.
"""

import argparse
import asyncio
import json
import math
import os
import platform
import random
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from typing import Final, NamedTuple, cast

import uvloop
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException

from gateway.app.clock import SystemClock
from gateway.south.meter import MeterClient, MeterEndpoint
from gateway.south.models import meter_model
from gateway.south.poller import Poller, PollerOptions
from gateway.south.registers import Format

HOST: Final = "127.0.0.1"
WARM_UP_S: Final = 3.0
READS: Final = ((1, 74), (203, 26), (799, 42))
CLIENTS: Final = {
    "ours, asyncio": ("ours", False, 1),
    "ours, uvloop": ("ours", True, 1),
    "ours, uvloop, 3 in flight": ("ours", True, 3),
    "pymodbus, asyncio": ("pymodbus", False, 1),
    "pymodbus, uvloop": ("pymodbus", True, 1),
}


class Result(NamedTuple):
    """What one client did in the steady state."""

    cpu_s: float
    user_s: float
    wall_s: float
    polls: int
    requests: int
    max_rss_kb: int
    lateness_p99_ms: float


class Responder(asyncio.Protocol):
    """A meter that answers every read of its map after 15 to 25 ms, and says what it is."""

    objects: Final = bytes((0x2B, 14, 1, 1, 0, 0, 2, 0, 7)) + b"SIEMENS\x01\x07PAC3220"

    def __init__(self, seed: random.Random) -> None:
        self._seed = seed
        self._partial = b""
        self._transport: asyncio.Transport | None = None
        self._words = bytes(0x40 if at % 4 == 0 else 0 for at in range(250))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are no subclass of asyncio.Transport.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every whole frame."""
        data = self._partial + data
        at = 0
        while len(data) - at >= 8:
            transaction, _, length, unit = struct.unpack_from(">HHHB", data, at)
            end = at + 6 + length
            if len(data) < end:
                break
            reply = self._reply(data[at + 7 : end])
            head = struct.pack(">HHHB", transaction, 0, len(reply) + 1, unit)
            delay_s = 0.015 + 0.010 * self._seed.random()
            asyncio.get_running_loop().call_later(delay_s, self._send, head + reply)
            at = end
        self._partial = data[at:]

    def _reply(self, pdu: bytes) -> bytes:
        if pdu[0] == 0x2B:
            return self.objects
        address, count = struct.unpack(">HH", pdu[1:5])
        if address > 1000:
            return bytes((pdu[0] | 0x80, 2))
        return bytes((3, 2 * count)) + self._words[: 2 * count]

    def _send(self, raw: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(raw)


async def respond() -> None:
    """Serve meters on one port until the parent ends this process."""
    seed = random.Random(1)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Responder(seed), HOST, 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class Spent(NamedTuple):
    """Processor time of this process so far."""

    user_s: float
    system_s: float


def spent() -> Spent:
    """Read the books of the operating system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Spent(used.ru_utime, used.ru_stime)


def result(before: Spent, wall_s: float, polls: int, lateness_p99_ms: float) -> Result:
    """Close the books of a client."""
    now = spent()
    rss_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    user_s = now.user_s - before.user_s
    return Result(
        cpu_s=user_s + now.system_s - before.system_s,
        user_s=user_s,
        wall_s=wall_s,
        polls=polls,
        requests=polls * len(READS),
        max_rss_kb=rss_kb,
        lateness_p99_ms=lateness_p99_ms,
    )


async def measure_ours(port: int, meters: int, seconds: float, pipeline: int) -> Result:
    """Our poller with everything it does for a reading."""
    clock = SystemClock()
    clients = [
        MeterClient(
            MeterEndpoint(
                meter_id=f"m{at}", model="pac3220", host=HOST, port=port, pipeline=pipeline
            ),
            clock,
        )
        for at in range(meters)
    ]
    poller = Poller(
        clients,
        clock,
        lambda _index, _reading: None,
        lambda index, error: print(f"meter {index}: {error}", file=sys.stderr),
        jitter=random.Random(2),
        options=PollerOptions(slow_every_s=1e9),
    )
    running = asyncio.create_task(poller.run())
    loop = asyncio.get_running_loop()
    await asyncio.sleep(WARM_UP_S)
    start_s, before, polls = loop.time(), spent(), poller.metrics.polls
    lateness = list(poller.metrics.lateness.counts)
    await asyncio.sleep(seconds)
    steady = poller.metrics.lateness
    steady.counts = [now - then for now, then in zip(steady.counts, lateness, strict=True)]
    done = result(
        before,
        loop.time() - start_s,
        poller.metrics.polls - polls,
        steady.quantile_ms(0.99),
    )
    await poller.aclose()
    await running
    return done


async def measure_pymodbus(port: int, meters: int, seconds: float, _pipeline: int) -> Result:
    """A task a meter, pymodbus' client as its documentation shows it, its own decoding."""
    model = meter_model("pac3220")
    kinds = {
        Format.FLOAT32: AsyncModbusTcpClient.DATATYPE.FLOAT32,
        Format.FLOAT64: AsyncModbusTcpClient.DATATYPE.FLOAT64,
        Format.UINT32: AsyncModbusTcpClient.DATATYPE.UINT32,
    }
    layout = {
        read.address: [
            (item.address - read.address, item.format.registers, kinds[item.format])
            for item in model.tile(read)
        ]
        for read in model.full
    }
    polls = 0
    lost = 0
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    end_s = begin_s + WARM_UP_S + seconds + 1.0

    async def poll_meter(at: int) -> None:
        nonlocal polls, lost
        client = AsyncModbusTcpClient(HOST, port=port, timeout=1, retries=0)
        due_s = begin_s + at / meters
        await asyncio.sleep(at / meters)
        await client.connect()
        # A flag of time and no cancellation: the client takes a cancellation for a lost reply.
        while loop.time() < end_s:
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            try:
                for address, count in READS:
                    reply = await client.read_holding_registers(address, count=count, device_id=1)
                    for start, size, kind in layout[address]:
                        client.convert_from_registers(reply.registers[start : start + size], kind)
                polls += 1
            except ModbusException:
                lost += 1
            due_s += 1.0
        client.close()

    async with asyncio.TaskGroup() as group:
        for at in range(meters):
            group.create_task(poll_meter(at))
        await asyncio.sleep(WARM_UP_S)
        start_s, before, counted = loop.time(), spent(), polls
        await asyncio.sleep(seconds)
        done = result(before, loop.time() - start_s, polls - counted, math.nan)
    if lost:
        print(f"pymodbus lost {lost} polls", file=sys.stderr)
    return done


Measure = Callable[[int, int, float, int], Coroutine[None, None, Result]]


def run_client(name: str, port: int, meters: int, seconds: float) -> None:
    """In the child: measure one client and print its result as JSON."""
    kind, is_uvloop, pipeline = CLIENTS[name]
    measure: Measure = measure_ours if kind == "ours" else measure_pymodbus
    factory = uvloop.new_event_loop if is_uvloop else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        print(json.dumps(runner.run(measure(port, meters, seconds, pipeline))))


def cpu_model() -> str:
    """The processor's name as Linux knows it."""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - one line is read
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def show(meters: int, results: dict[str, Result]) -> None:
    """Print the table."""
    print(f"{meters} meters at 1 s x {len(READS)} reads, each answered after 15-25 ms")
    print(f"{cpu_model()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}")
    print(
        f"Python {platform.python_version()}, pymodbus {version('pymodbus')}, "
        f"uvloop {version('uvloop')}"
    )
    base_us = 1e6 * results["pymodbus, asyncio"].cpu_s / results["pymodbus, asyncio"].requests
    head = ("client", "core %", "us/request", "of it user", "ratio", "polls %", "late p99 ms", "MB")
    print("{:28}{:>8}{:>12}{:>12}{:>8}{:>9}{:>13}{:>6}".format(*head))
    for name, done in results.items():
        each_us = 1e6 * done.cpu_s / max(1, done.requests)
        late = "-" if math.isnan(done.lateness_p99_ms) else f"{done.lateness_p99_ms:.0f}"
        print(
            f"{name:28}{100 * done.cpu_s / done.wall_s:8.1f}{each_us:12.1f}"
            f"{1e6 * done.user_s / max(1, done.requests):12.1f}"
            f"{base_us / each_us:8.1f}{100 * done.polls / (meters * done.wall_s):9.1f}"
            f"{late:>13}{done.max_rss_kb // 1024:6}"
        )
    print("ratio: CPU per request of the plain pymodbus loop on asyncio over that of the row;")
    print("late p99: upper bound of the start lateness that 99 % keep")


def main() -> None:
    """Run the meters and one client after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--meters", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--role", choices=("table", "responder", *CLIENTS), default="table")
    parser.add_argument("--port", type=int, default=0)
    asked = parser.parse_args()
    if asked.role == "responder":
        uvloop.run(respond())
        return
    if asked.role != "table":
        run_client(asked.role, asked.port, asked.meters, asked.seconds)
        return
    me = [sys.executable, "-m", "bench.polling"]
    results: dict[str, Result] = {}
    with subprocess.Popen([*me, "--role", "responder"], stdout=subprocess.PIPE, text=True) as peer:
        try:
            assert peer.stdout is not None
            port = peer.stdout.readline().strip()
            for name in CLIENTS:
                command = [*me, "--role", name, "--port", port, "--meters", str(asked.meters)]
                command += ["--seconds", str(asked.seconds)]
                limit_s = asked.seconds + WARM_UP_S + 30
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=limit_s, check=False
                )
                if done.returncode:
                    sys.exit(f"{name}: {done.stderr}")
                sys.stderr.write(done.stderr)
                results[name] = Result(*json.loads(done.stdout))
        finally:
            peer.terminate()
    show(asked.meters, results)


if __name__ == "__main__":
    main()
