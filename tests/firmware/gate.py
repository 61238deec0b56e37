"""A relay of TCP between a node and its broker."""

import asyncio
import socket
import struct
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Final

from tests.faults.proxy import turns

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
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.target = 0
        self.coming: list[Hearing] = []  # of the next connections; all goes through of later ones
        self.latest = Hearing()
        self.piece = PIECE
        # What the node sent, connection by connection.
        self.said: list[bytearray] = []
        self._passes = asyncio.Event()
        self._passes.set()
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

    async def stop(self) -> None:
        """End it with all connections."""
        if self._server:
            self._server.close()
        await turns()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await turns()

    def swallow(self) -> None:
        """From now on nothing passes, and nobody is told."""
        self._passes.clear()

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
            node = asyncio.create_task(self._up(reader, telling, said))
            broker = asyncio.create_task(self._down(heard, hearing, writer))
            try:
                await asyncio.wait({node, broker}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (node, broker):
                    task.cancel()
                await asyncio.gather(node, broker, return_exceptions=True)

    async def _up(
        self, reader: asyncio.StreamReader, telling: asyncio.StreamWriter, said: bytearray
    ) -> None:
        while piece := await reader.read(PIECE):
            await self._passes.wait()
            said += piece
            telling.write(piece)
            await telling.drain()

    async def _down(
        self, heard: Hearing, hearing: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while piece := await hearing.read(self.piece):
            await self._passes.wait()
            if heard.most is not None:
                piece = piece[: heard.most]
                heard.most -= len(piece)
            writer.write(piece)
            await writer.drain()
            if heard.most == 0:
                return


async def _finish(end: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if end == "silence":
        while await reader.read(PIECE):
            pass
    elif end == "reset":
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
