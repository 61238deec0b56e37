"""A TCP proxy between the gateway and a meter that does to the traffic what networks do.

It knows every wire fault of the simulator (gateway/sim/faults.py) and, beside them, what only
something between two honest ends can do: a bent bit, a stalled direction, replies in another order,
a thin line, another meter behind the same address. Faults come and go while it runs, by hand or by
a schedule; chance follows a seed.
"""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from random import Random
from typing import Final

from gateway.app.clock import seeded
from gateway.sim.faults import FAULTS, Fault, FaultKind, Layer, fault_named
from gateway.sim.wire import HEADER, HEADER_BYTES, After, Chunk, Reply, spoil

HOST: Final = "127.0.0.1"
HEAD_BYTES: Final = 9  # header, function and byte count: what a checking client can prove wrong
HOLD_S: Final = 0.04
JITTER_S: Final = 0.08
LINE_BYTES_PER_S: Final = 20_000.0
FILLERS: Final = 3
TURNS: Final = 3
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close(2) sends RST at once


class Trick(StrEnum):
    """What only a proxy can do. Half-open: one direction is lost, the connection stands."""

    BIT_FLIP = "bit_flip"
    JITTER = "jitter"
    THIN_LINE = "thin_line"
    REORDERED = "reordered"
    STALLED_REQUESTS = "stalled_requests"
    STALLED_REPLIES = "stalled_replies"


NAMES: Final[Sequence[str]] = (
    FaultKind.REFUSED,
    FaultKind.BLACK_HOLE,
    *(kind for kind, rule in FAULTS.items() if rule.layer is Layer.WIRE),
    *Trick,
)


class FaultProxy:
    """Forwards connections to `upstream` (host, port) and spoils what a fault says.

    `connections` counts what was accepted, `open` those that stand, `struck` replies by the fault
    that met them.
    """

    def __init__(self, upstream: tuple[str, int], *, seed: int | str = 1) -> None:
        self.upstream = upstream
        self.port = 0
        self.connections = 0
        self.open = 0
        self.struck: Counter[str] = Counter()
        self._random: Random = seeded(f"proxy {seed}")
        self._fault: Fault | Trick | None = None
        self._server: asyncio.Server | None = None
        self._hole: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    # -- what a test does ------------------------------------------------------------------

    async def put(self, name: str, *, amount: float | None = None) -> None:
        """Put a fault in force, in place of another; a trick's name or a simulator's."""
        self._fault = Trick(name) if name in set(Trick) else fault_named(name, amount=amount)
        await self._follow()

    async def clear(self) -> None:
        """Be an honest line again."""
        self._fault = None
        await self._follow()

    async def move(self, upstream: tuple[str, int]) -> None:
        """Another meter stands at the address: it knows nothing of the connections."""
        self.upstream = upstream
        self._reset_all()

    async def follow(self, schedule: Sequence[tuple[float, str]]) -> None:
        """Take one state after the other, each for so many seconds; "" is an honest line."""
        for seconds, name in schedule:
            await (self.put(name) if name else self.clear())
            await asyncio.sleep(seconds)

    def storm(self, seconds: float, longest_s: float = 0.8) -> list[tuple[float, str]]:
        """A schedule by seed: every state of the proxy in any order, for `seconds` in all."""
        schedule: list[tuple[float, str]] = []
        left_s = seconds
        while left_s > 0:
            step_s = min(left_s, self._random.uniform(0.05, longest_s))
            schedule.append((step_s, self._random.choice(("", *NAMES))))
            left_s -= step_s
        return schedule

    async def start(self) -> None:
        """Listen on a free loopback port."""
        await self._listen()

    async def close(self) -> None:
        """Reset every connection and give up the port."""
        self._deaf()
        await turns()
        self._reset_all()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await turns()

    # -- being reached ---------------------------------------------------------------------

    def _is(self, kind: FaultKind) -> bool:
        return isinstance(self._fault, Fault) and self._fault.kind is kind

    async def _follow(self) -> None:
        if self._is(FaultKind.REFUSED):
            self._deaf()
            self._reset_all()
        elif self._is(FaultKind.BLACK_HOLE):
            self._deaf()
            self._hole = _hole(self.port)
        elif self._server is None:
            self._deaf()
            await self._listen()

    async def _listen(self) -> None:
        listener = _bound(self.port)
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._accept, sock=listener)

    def _deaf(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for filler in self._hole:
            filler.close()
        self._hole = []

    def _reset_all(self) -> None:
        for writer in tuple(self._writers):
            _reset(writer)

    # -- one connection --------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        self._writers.add(writer)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # either end went away, or the test is over
        finally:
            self.open -= 1
            self._writers.discard(writer)
            self._tasks.discard(task)
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        meter_reader, meter_writer = await asyncio.open_connection(*self.upstream)
        requests = asyncio.create_task(self._pass_requests(reader, meter_writer))
        replies = asyncio.create_task(self._pass_replies(meter_reader, writer))
        both = {requests, replies}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Before the wait: whoever closes the proxy may end it.
            _reset(meter_writer)
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _pass_requests(
        self, reader: asyncio.StreamReader, meter: asyncio.StreamWriter
    ) -> None:
        while octets := await reader.read(4096):
            if self._fault is Trick.STALLED_REQUESTS or self._is(FaultKind.BLACK_HOLE):
                continue
            meter.write(octets)
            await meter.drain()

    async def _pass_replies(
        self, meter: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        held = b""
        while True:
            try:
                frame = await asyncio.wait_for(_frame(meter), HOLD_S if held else None)
            except TimeoutError:
                writer.write(held)
                held = b""
                continue
            fault = self._fault
            if fault is not None:
                self.struck[fault if isinstance(fault, Trick) else fault.kind] += 1
            if fault is Trick.REORDERED and not held:
                held = frame
                continue
            for chunk in self._spoiled(fault, frame):
                await asyncio.sleep(chunk.delay_s)
                writer.write(chunk.payload)
                await writer.drain()
                if chunk.after is not After.STAY:
                    if chunk.after is After.RESET:
                        _reset(writer)
                    return
            writer.write(held)
            held = b""

    def _spoiled(self, fault: Fault | Trick | None, frame: bytes) -> Sequence[Chunk]:
        """What leaves in place of a reply; delays count from the chunk before."""
        random = self._random
        if fault is None or fault is Trick.REORDERED or fault is Trick.STALLED_REQUESTS:
            return (Chunk(frame),)
        if fault is Trick.STALLED_REPLIES or self._is(FaultKind.BLACK_HOLE):
            return ()
        if fault is Trick.JITTER:
            return (Chunk(frame, random.uniform(0, JITTER_S)),)
        if fault is Trick.THIN_LINE:
            return (Chunk(frame, len(frame) / LINE_BYTES_PER_S),)
        if fault is Trick.BIT_FLIP:
            bent = bytearray(frame)
            bent[random.randrange(min(HEAD_BYTES, len(bent)))] ^= 1 << random.randrange(8)
            return (Chunk(bytes(bent)),)
        assert isinstance(fault, Fault)
        transaction, _, _, unit = HEADER.unpack_from(frame)
        chunks = spoil(fault, Reply(transaction, unit, frame[HEADER_BYTES:]), random)
        # The simulator's delays count from the reply.
        starts_s = [0.0, *(chunk.delay_s for chunk in chunks)]
        return [
            Chunk(chunk.payload, chunk.delay_s - before_s, chunk.after)
            for chunk, before_s in zip(chunks, starts_s, strict=False)
        ]


@asynccontextmanager
async def proxied(
    *upstreams: tuple[str, int], seed: int | str = 1
) -> AsyncIterator[list[FaultProxy]]:
    """A proxy before each upstream while the block runs."""
    proxies = [FaultProxy(upstream, seed=f"{seed} {at}") for at, upstream in enumerate(upstreams)]
    try:
        for proxy in proxies:
            await proxy.start()
        yield proxies
    finally:
        for proxy in proxies:
            await proxy.close()


async def turns() -> None:
    """Let the loop carry out what was begun: an accepted connection served, a closed one let go."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """One Modbus TCP frame of an honest meter."""
    head = await reader.readexactly(HEADER_BYTES)
    return head + await reader.readexactly(HEADER.unpack(head)[2] - 1)


def _reset(writer: asyncio.StreamWriter) -> None:
    taken = writer.get_extra_info("socket")
    if taken is not None:
        with suppress(OSError):
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


def _bound(port: int) -> socket.socket:
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind((HOST, port))
    return taken


def _hole(port: int) -> list[socket.socket]:
    """Nobody accepts and the queue is full: the kernel drops every further SYN (listen(2))."""
    listener = _bound(port)
    listener.listen(0)
    sockets = [listener]
    for _ in range(FILLERS):
        filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        filler.settimeout(0)
        filler.connect_ex((HOST, port))
        sockets.append(filler)
    return sockets
