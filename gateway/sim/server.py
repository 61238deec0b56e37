"""A Modbus TCP server per simulated meter: cheap enough for hundreds in one process.

Delays are seconds of the site's clock, so a faster clock makes a faster meter.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import cast

from gateway.core.clock import Clock
from gateway.core.errors import ConfigurationError
from gateway.sim.device import WRITE_REGISTER, Device
from gateway.sim.faults import FaultKind
from gateway.sim.loads import Random, between
from gateway.sim.wire import HEADER, HEADER_BYTES, After, Chunk, Reply, frame, spoil

MAX_WAITING = 16  # requests of one connection: who sends more without reading is dropped
MIN_LENGTH, MAX_LENGTH = 2, 254  # unit and PDU, as the MBAP header counts them
BACKLOG = 8
HOLE_FILLERS = 2


class Reach(StrEnum):
    """How the network meets a meter."""

    CLOSED = "closed"
    LISTENING = "listening"
    REFUSED = "refused"
    BLACK_HOLE = "black_hole"


class Port:
    """The network side of one meter.

    `now_s` is the site's time, `spawn` starts a named task in the site's task group.
    `connections` is how many a meter holds at a time: a PAC3220 three (manual p99); the next one is
    reset at once. Requests for another unit than `unit` are not answered.
    """

    def __init__(
        self,
        device: Device,
        *,
        host: str,
        port: int,
        clock: Clock,
        now_s: Callable[[], float],
        spawn: Callable[[Coroutine[None, None, None], str], None],
        random: Random,
        latency_s: tuple[float, float] = (0.015, 0.025),
        connections: int = 3,
        unit: int = 1,
    ) -> None:
        self.device = device
        self.meter = device.meter
        self.host = host
        self.port = port
        self.clock = clock
        self.now_s = now_s
        self.random = random
        self.unit = unit
        self.answered = 0
        self.turned_away = 0
        self.reach = Reach.CLOSED
        self._spawn = spawn
        self._latency_s = latency_s
        self._limit = connections
        self._open: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._hole: list[socket.socket] = []
        self._lock = asyncio.Lock()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._open)

    def delay_s(self) -> float:
        """Event loop seconds until the next reply."""
        return self.clock.loop_delay_s(between(self.random, *self._latency_s))

    def admit(self, connection: "Connection") -> bool:
        """Take a new connection, if there is a place left."""
        if len(self._open) >= self._limit or self.reach is not Reach.LISTENING:
            self.turned_away += 1
            return False
        self._open.add(connection)
        return True

    def release(self, connection: "Connection") -> None:
        """A connection is gone; one that was never admitted changes nothing."""
        self._open.discard(connection)

    def notice(self) -> None:
        """The meter may have gone away or come back by what it was just asked: follow it."""
        if self._wanted(self.now_s()) is not self.reach:
            self._spawn(self.follow(), f"sim-follow-{self.host}")

    async def follow(self) -> None:
        """Bring the listener in line with the meter's power and faults.

        Raises ConfigurationError where the address cannot be had.
        """
        async with self._lock:
            # One reading of the time for both: a start that ends between two would be seen by
            # neither, and the meter would stay away for good.
            now_s = self.now_s()
            wanted = self._wanted(now_s)
            if wanted is not self.reach:
                await self._move_to(wanted)
        wait_s = self.meter.ready_s - now_s
        if self.meter.powered and wait_s > 0:
            self._spawn(self._follow_later(wait_s), f"sim-start-{self.host}")

    def exchange(self, other: "Port") -> None:
        """Two network cables are exchanged: each meter answers at the other's address."""
        for port in (self, other):
            port.close()
        self.device, other.device = other.device, self.device
        self.meter, other.meter = other.meter, self.meter

    def close(self) -> None:
        """Give up the address and reset every connection."""
        self._leave()
        self.reach = Reach.CLOSED

    async def _follow_later(self, wait_s: float) -> None:
        """Open again when the meter has started."""
        await self.clock.sleep(wait_s)
        await self.follow()

    def _wanted(self, now_s: float) -> Reach:
        """How the network should meet the meter now. Without power a host sends no resets."""
        faults = self.meter.faults
        if FaultKind.BLACK_HOLE in faults or not self.meter.answers(now_s):
            return Reach.BLACK_HOLE
        return Reach.REFUSED if FaultKind.REFUSED in faults else Reach.LISTENING

    async def _move_to(self, wanted: Reach) -> None:
        """Change the listener. Into a black hole connections stay open, and silent."""
        if wanted is Reach.BLACK_HOLE:
            self._stop_listening()
            self._hole = _black_hole(self.host, self.port)
        elif wanted is Reach.REFUSED:
            self._leave()
        else:
            self._leave()
            listener = _listener(self.host, self.port, BACKLOG)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: Connection(self), sock=listener, backlog=BACKLOG
            )
        self.reach = wanted

    def _leave(self) -> None:
        """Nobody listens, nobody is connected."""
        self._stop_listening()
        for connection in list(self._open):
            connection.reset()
        self._open.clear()

    def _stop_listening(self) -> None:
        """Close the listener or the black hole."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for filler in self._hole:
            filler.close()
        self._hole = []


class Connection(asyncio.Protocol):
    """One client of one meter. Replies leave in the order of the requests."""

    __slots__ = ("_buffer", "_due", "_loop", "_peer", "_port", "_transport", "_waiting")

    def __init__(self, port: Port) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._due = 0.0
        self._waiting = 0
        self._peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection or turn it away."""
        stream = cast("asyncio.Transport", transport)  # uvloop's own class is no subclass of it
        if not self._port.admit(self):
            stream.abort()
            return
        self._transport = stream
        self._peer = transport.get_extra_info("peername")[0]

    def connection_lost(self, _: Exception | None) -> None:
        """The client went away, or was sent away."""
        self._transport = None
        self._port.release(self)

    def reset(self) -> None:
        """End the connection without a farewell."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def data_received(self, data: bytes) -> None:
        """Cut the stream into requests; a header that is no Modbus ends the connection."""
        if self._transport is None or self._port.reach is not Reach.LISTENING:
            return
        buffer = self._buffer
        buffer += data
        while len(buffer) > HEADER_BYTES:
            transaction, protocol, length, unit = HEADER.unpack_from(buffer)
            if protocol != 0 or not MIN_LENGTH <= length <= MAX_LENGTH:
                self.reset()
                return
            end = HEADER_BYTES - 1 + length
            if len(buffer) < end:
                return
            request = bytes(buffer[HEADER_BYTES:end])
            del buffer[:end]
            if unit != self._port.unit:
                continue
            if self._waiting >= MAX_WAITING:
                self.reset()
                return
            self._waiting += 1
            self._due = max(self._due, self._loop.time() + self._port.delay_s())
            self._loop.call_at(self._due, self._reply, transaction, request)

    def _reply(self, transaction: int, request: bytes) -> None:
        """Answer one request with what the meter holds at this moment."""
        self._waiting -= 1
        port, transport = self._port, self._transport
        if transport is None or port.reach is not Reach.LISTENING:
            return
        now_s = port.now_s()
        port.meter.advance(now_s)
        if not port.meter.powered:  # it died with its own contactor, which nobody looked at
            port.notice()
            return
        pdu = port.device.answer(now_s, request, self._peer)
        port.answered += 1
        faults = port.meter.faults
        fault = faults.strike(request[0], port.random) if faults.on_wire else None
        if fault is None:
            transport.write(frame(transaction, port.unit, pdu))
        else:
            for chunk in spoil(fault, Reply(transaction, port.unit, pdu), port.random):
                self._send_later(chunk)
        if request[0] == WRITE_REGISTER:  # a command may have been a restart
            port.notice()

    def _send_later(self, chunk: Chunk) -> None:
        """Send a chunk when its time has come."""
        if chunk.delay_s > 0:
            self._loop.call_later(self._port.clock.loop_delay_s(chunk.delay_s), self._send, chunk)
        else:
            self._send(chunk)

    def _send(self, chunk: Chunk) -> None:
        """Send a chunk, unless the connection or the meter is gone by now."""
        if self._transport is None or self._port.reach is not Reach.LISTENING:
            return
        if chunk.payload:
            self._transport.write(chunk.payload)
        if chunk.after is After.CLOSE:
            self._transport.close()
        elif chunk.after is After.RESET:
            self.reset()


def _listener(host: str, port: int, backlog: int) -> socket.socket:
    """A listening socket. Raises ConfigurationError where the address cannot be had."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.settimeout(0)
        listener.bind((host, port))
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        problem = f"simulated meter cannot listen on {host}:{port}: {error.strerror}"
        raise ConfigurationError((problem,)) from error
    return listener


def _black_hole(host: str, port: int) -> list[socket.socket]:
    """Sockets that make an address swallow connection attempts, as an unpowered host would.

    A listener that nobody accepts from and whose queue we fill ourselves: the kernel drops every
    further SYN (tcp(7), listen(2) on Linux).
    """
    sockets = [_listener(host, port, 0)]
    for _ in range(HOLE_FILLERS):
        filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        filler.settimeout(0)
        filler.connect_ex((host, port))
        sockets.append(filler)
    return sockets
