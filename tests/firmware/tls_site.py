"""A site whose node speaks TLS with a broker as `broker write` makes it, through a gate."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.app.broker.users import gateway_password
from gateway.app.paths import paths_of
from gateway.store.devices import DeviceStatus
from tests.app.broker_site import BrokerSite, is_open, open_directory
from tests.firmware.node_site import DEVICE, SECRET, SITE_KEY, WAIT_S, Gateway, Site
from tests.firmware.unix_node import UnixNode

PIECE: Final = 4_096


@dataclass
class Hearing:
    """What goes through of one connection: `most` bytes more of the broker's, None: all of them.

    Then comes the `end`: "silence" (nothing goes either way), "close" or "reset".
    """

    most: int | None = None
    end: str = "silence"


class Gate:
    """A relay of TCP before a broker: keeps what the node says, and may spoil what it hears."""

    def __init__(self) -> None:
        self.port = 0
        self.target = 0
        self.coming: list[Hearing] = []  # of the next connections; all goes through of later ones
        self.latest = Hearing()
        self.piece = PIECE
        # What the node sent, connection by connection.
        self.said: list[bytearray] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many of the node there are."""
        return len(self._tasks)

    @property
    def records(self) -> set[int]:
        """The types of all TLS records that the node sent."""
        found = set()
        for said in self.said:
            at = 0
            while at < len(said):
                found.add(said[at])
                at += 5 + int.from_bytes(said[at + 3 : at + 5], "big")
        return found

    async def start(self, target: int) -> None:
        """Listen, and relay to a port."""
        self.target = target
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End it with all connections."""
        if self._server:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """End all connections that there are."""
        for task in self._tasks:
            task.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.latest = self.coming.pop(0) if self.coming else Hearing()
        task = asyncio.create_task(self._serve(self.latest, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.close())

    async def _serve(
        self, heard: Hearing, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        said = bytearray()
        self.said.append(said)
        with suppress(OSError):
            if heard.most == 0:
                # The other side need not be there.
                said += await reader.read(PIECE)
            else:
                await self._relay(heard, reader, writer, said)
            if heard.most == 0:
                await _finish(heard.end, reader, writer)

    async def _relay(
        self,
        heard: Hearing,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        said: bytearray,
    ) -> None:
        hearing, telling = await asyncio.open_connection("127.0.0.1", self.target)
        with closing(telling):
            node = asyncio.create_task(_up(reader, telling, said))
            broker = asyncio.create_task(self._down(heard, hearing, writer))
            try:
                await asyncio.wait({node, broker}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (node, broker):
                    task.cancel()
                await asyncio.gather(node, broker, return_exceptions=True)

    async def _down(
        self, heard: Hearing, hearing: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while piece := await hearing.read(self.piece):
            if heard.most is not None:
                piece = piece[: heard.most]
                heard.most -= len(piece)
            writer.write(piece)
            await writer.drain()
            if heard.most == 0:
                return


async def _up(reader: asyncio.StreamReader, telling: asyncio.StreamWriter, said: bytearray) -> None:
    while piece := await reader.read(PIECE):
        said += piece
        telling.write(piece)
        await telling.drain()


async def _finish(end: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if end == "silence":
        while await reader.read(PIECE):
            pass
    elif end == "reset":
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


@asynccontextmanager
async def tls_site() -> AsyncIterator["TlsSite"]:
    """A site that is not on yet; off afterwards."""
    with open_directory() as place:
        made = TlsSite(place)
        try:
            yield made
        finally:
            await made.stop()


class TlsSite(Site):
    """The node is MicroPython's unix port; the gateway uses the broker's plain port."""

    broker: BrokerSite
    node: UnixNode

    def __init__(self, place: Path) -> None:
        self.gate = Gate()
        super().__init__(place, "unix")

    async def start(self) -> str:
        """Everything on; the node's session."""
        await self.open()
        await self.broker_on()
        await self.gateway.start()
        await self.node.power_on()
        return await self.gateway.session()

    async def broker_back(self) -> str:
        """They come back; the node's session."""
        since = len(self.gateway.heard)
        await self.broker_on()
        await self.gateway.start()
        return await self.gateway.session(since)

    async def broker_on(self) -> None:
        """The broker takes connections."""
        await self.broker.start()
        # Its second listener comes after its first.
        async with asyncio.timeout(WAIT_S):
            while not is_open(self.broker.plain_port):
                await asyncio.sleep(0.02)

    async def open(self) -> None:
        """The gate, and what the node knows of it."""
        await self.gate.start(self.broker.port)
        self.provision()

    def provision(self, *, time_s: int | None = None, **changes: object) -> None:
        """What the bench writes; it has `broker write` behind it. Raises OSError without."""
        ca = (self.broker.directory / "ca.pem").read_text(encoding="ascii")
        broker = {"host": "localhost", "port": self.gate.port, "ca": ca} | changes
        time_s = self.clock.utc_ms() // 1_000 if time_s is None else time_s
        self.node.provision(DEVICE, SECRET, broker, time_s)

    async def stop(self) -> None:
        """Everything off."""
        try:
            await super().stop()
        finally:
            await self.gate.stop()

    def _make_broker(self, place: Path) -> None:
        broker = self.broker = BrokerSite(place)
        broker.configure(more=f", plain_port: {broker.plain_port}")
        kept = paths_of(broker.config).control_dir / "node.key"
        kept.write_text(SITE_KEY.hex() + "\n", encoding="ascii")
        kept.chmod(0o600)
        broker.record(DEVICE, DeviceStatus.APPROVED)
        broker.write()
        self.gateway = Gateway(broker.plain_port, gateway_password(SITE_KEY))

    def _told_of_broker(self) -> dict[str, object]:
        return {}
