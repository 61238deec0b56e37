"""Simulated sites on loopback addresses of their own, driven by the real clock."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.app.clock import SystemClock, seeded
from gateway.sim.site import Site, SiteOptions

HEADER = struct.Struct(">HHHB")


def own_network() -> str:
    """A /16 of 127/8 that no other test process uses."""
    return f"127.{60 + os.getpid() % 150}"


def free_port(network: str) -> int:
    """A port that is free at the first address of a network."""
    with socket.socket() as probe:
        probe.bind((f"{network}.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def running_site(*, speed: float = 1.0, **options: object) -> AsyncIterator[Site]:
    """A site that serves, from SiteOptions keywords: one quick meter unless said otherwise."""
    network = own_network()
    chosen: dict[str, object] = {
        "meters": 1,
        "network": network,
        "port": free_port(network),
        "latency_s": (0.0, 0.001),
        **options,
    }
    site = Site(SiteOptions(**chosen), SystemClock(speed), seeded)  # type: ignore[arg-type]
    ready, stop = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(site.run(ready, stop))
    waiter = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waiter}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if task.done():
        await task
    try:
        yield site
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


class RawClient:
    """A Modbus TCP client that sees every byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, host: str, port: int) -> "RawClient":
        """Connect within 2 s. Raises TimeoutError or OSError."""
        return cls(*await asyncio.wait_for(asyncio.open_connection(host, port), 2))

    def send(self, pdu: bytes, *, transaction: int = 7, unit: int = 1) -> None:
        """Send one request."""
        self._writer.write(HEADER.pack(transaction, 0, len(pdu) + 1, unit) + pdu)

    def send_raw(self, octets: bytes) -> None:
        """Send bytes that need not be Modbus."""
        self._writer.write(octets)

    async def frame(self, timeout_s: float = 2.0) -> tuple[int, int, bytes]:
        """Transaction, unit and PDU of the next frame.

        Raises TimeoutError, or IncompleteReadError or OSError where the connection ended.
        """
        async with asyncio.timeout(timeout_s):
            transaction, _, length, unit = HEADER.unpack(await self._reader.readexactly(7))
            return transaction, unit, await self._reader.readexactly(length - 1)

    async def octets(self, count: int, timeout_s: float = 2.0) -> bytes:
        """Up to `count` bytes: what came before the time, the end or a reset."""
        received = b""
        try:
            async with asyncio.timeout(timeout_s):
                while len(received) < count:
                    more = await self._reader.read(count - len(received))
                    if not more:
                        break
                    received += more
        except (TimeoutError, ConnectionError):
            pass
        return received

    async def ended(self, timeout_s: float = 2.0) -> bool:
        """Whether the meter ended the connection within the time; if so we hang up too."""
        try:
            async with asyncio.timeout(timeout_s):
                while await self._reader.read(1024):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        self.close()
        return True

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
