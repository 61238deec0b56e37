"""Peers on real sockets: a PAC3220 that answers by the book, and ways to make it misbehave."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

HOST = "127.0.0.1"

# What a test does with a finished reply: write it, spoil it, keep it, hang up.
Twist = Callable[[asyncio.StreamWriter, bytes, bytes], Awaitable[None]]


def float32(value: float) -> list[int]:
    """Two registers, high word first (PAC3220 manual: IEEE 754, big-endian)."""
    return list(struct.unpack(">2H", struct.pack(">f", value)))


def float64(value: float) -> list[int]:
    """Four registers, high word first."""
    return list(struct.unpack(">4H", struct.pack(">d", value)))


def uint32(value: int) -> list[int]:
    """Two registers, high word first."""
    return [value >> 16, value & 0xFFFF]


def im0_block(
    order: bytes = b"7KM3220-0BA01-1DA0", serial: bytes = b"LQN/180200110001"
) -> list[int]:
    """The 27 registers of I&M0 as the manual lays them out (PAC2200 p115)."""
    raw = struct.pack(">H20s16sH4B5H", 42, order, serial, 3, ord("V"), 3, 2, 1, 1, 0, 0, 257, 31)
    return list(struct.unpack(">27H", raw))


def device_objects(*texts: bytes) -> bytes:
    """An answer to function 0x2B / 0x0E with these texts as objects 0, 1, 2."""
    parts = b"".join(bytes((at, len(text))) + text for at, text in enumerate(texts))
    return bytes((0x2B, 0x0E, 1, 1, 0, 0, len(texts))) + parts


PAC3220_OBJECTS = device_objects(b"SIEMENS AG", b"SENTRON PAC3220", b"V3.2.1 / V1.1.0")


def frame(transaction: int, pdu: bytes, unit: int = 1) -> bytes:
    """A Modbus TCP frame."""
    return struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + pdu


class Peer:
    """One scripted meter. `registers` holds one 16-bit word per documented address.

    `requests` lists the PDUs in the order of their arrival, `most_open` the largest number of
    connections at once. With `latency_s` a reply takes that long; `twist` replaces its sending.
    """

    def __init__(self) -> None:
        self.port = 0
        self.unit = 1
        self.registers: dict[int, int] = {}
        self.objects = PAC3220_OBJECTS
        self.latency_s = 0.0
        self.twist: Twist | None = None
        self.refuses: dict[int, int] = {}
        self.requests: list[bytes] = []
        self.writes: list[tuple[int, int]] = []
        self.connections = 0
        self.open = 0
        self.most_open = 0
        self.set(1, [word for _ in range(37) for word in float32(1.0)])
        self.set(203, [0] * 20 + float32(0.5) * 3)
        self.set(231, [0] * 10)
        self.set(799, uint32(1_790_000_000) + float64(0.0) * 10)
        self.set(841, float64(0.0) * 30)
        self.set(64001, im0_block())
        self.set(51711, [0, 2, 0])
        self.set(51715, [0, 1, 100, 0, 0])
        self.set(63001, uint32(0x7F000002) + uint32(0xFF000000))

    def set(self, address: int, words: list[int]) -> None:
        """Put words from this address on."""
        self.registers.update(enumerate(words, address))

    def energy(self, t1_wh: float, t2_wh: float = 0.0) -> None:
        """Set the two import registers."""
        self.set(801, float64(t1_wh) + float64(t2_wh))

    def answer(self, pdu: bytes) -> bytes:
        """The reply PDU of a meter that follows the manual."""
        function = pdu[0]
        if function in self.refuses:
            return bytes((function | 0x80, self.refuses[function]))
        if function == 0x2B:
            return self.objects
        address, value = struct.unpack_from(">HH", pdu, 1)
        if function == 6:
            self.writes.append((address, value))
            if address == 60008:
                bit = 1 << (value & 0xFF)
                word = self.registers[208]
                self.registers[208] = word | bit if value >> 8 else word & ~bit
            return pdu
        words = [self.registers.get(at) for at in range(address, address + value)]
        known = [word for word in words if word is not None]
        if function != 3 or len(known) != len(words):
            return bytes((function | 0x80, 2 if function == 3 else 1))
        return struct.pack(f">BB{value}H", 3, 2 * value, *known)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until either side hangs up."""
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            while True:
                head = await reader.readexactly(7)
                transaction, _, length, _ = struct.unpack(">HHHB", head)
                pdu = await reader.readexactly(length - 1)
                self.requests.append(pdu)
                if self.latency_s:
                    await asyncio.sleep(self.latency_s)
                reply = frame(transaction, self.answer(pdu), self.unit)
                if self.twist is None:
                    writer.write(reply)
                else:
                    await self.twist(writer, head + pdu, reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def serving(*peers: Peer) -> AsyncIterator[None]:
    """Let peers listen on free loopback ports while the block runs."""
    servers = []
    tasks: set[asyncio.Task[None]] = set()
    for peer in peers:

        async def accept(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer = peer
        ) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await peer.serve(reader, writer)
            except asyncio.CancelledError:
                # The block ended; asyncio.streams would log a cancelled connection as an error.
                writer.transport.abort()
            finally:
                tasks.discard(task)

        server = await asyncio.start_server(accept, HOST, 0)
        peer.port = server.sockets[0].getsockname()[1]
        servers.append(server)
    try:
        yield
    finally:
        for server in servers:
            server.close()
        pending = tuple(tasks)
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=2)


def free_port() -> int:
    """A loopback port on which nobody listens."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


@asynccontextmanager
async def black_hole() -> AsyncIterator[int]:
    """A port that accepts connections and never answers a byte."""
    writers: list[asyncio.StreamWriter] = []

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(swallow, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    """Wait for a condition of the outside; fail after `within_s`."""
    async with asyncio.timeout(within_s):
        # What is waited for happens in another task's sockets: nothing here could signal it.
        while not condition():
            await asyncio.sleep(0.002)
