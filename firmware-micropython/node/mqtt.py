"""MQTT 3.1.1 client: Will, keep-alive, QoS 1 both ways, over a stream that the board opens.

One object is one connection; when it is over (`closed`), the caller makes a new one. Every wait has
a deadline, every queue a bound; a message that is too large is acknowledged, counted and thrown
away as it comes. QoS 1 means here: `publish` returns after the broker's PUBACK or raises, and what
raised is the caller's to send again; a message that came is acknowledged once it is in the queue.
One that finds the queue full is acknowledged too, as a broker sends only so many without, and gets
no result: its sender repeats it.
"""

import asyncio

from node import packets
from node.port import const

MOST_WAITING = const(8)  # messages nobody has taken; publishes without PUBACK
MOST_SENT = const(8_192)
_PIECE_BYTES = const(512)
_BROKEN = (OSError, EOFError, asyncio.TimeoutError, packets.PacketError)


class MqttError(Exception):
    """The connection did not come about or is over; `str` says why."""


class Client:
    """A client for one connection.

    `board` gives open_stream, ticks_ms, ticks_diff. `login`: (user, password), `will`: (topic,
    payload, retain); either may be None.
    `most_bytes` bounds a packet that comes; `timeout_s` every wait for the broker, `keepalive_s`
    how long a dead peer goes unnoticed.
    """

    def __init__(self, board, client_id, login, will, *, keepalive_s, timeout_s, most_bytes):
        user, password = login or (None, None)
        self._board = board
        self._hello = packets.connect(client_id, user, password, keepalive_s, will)
        self.keepalive_s = keepalive_s
        self.timeout_s = timeout_s
        self.most_bytes = most_bytes
        self.closed = None  # why the connection is over; None while it stands
        self.dropped = 0  # messages that were too large or found the queue full
        self._writer = self._reader = self._task = None
        self._write_lock = asyncio.Lock()
        self._messages = []
        self._arrived = asyncio.Event()
        self._waiting = {}  # packet id -> [Event, outcome]
        self._last_id = 0
        self._cut = False  # whether the packet just read was longer than `most_bytes`
        self._sent_ms = self._heard_ms = 0

    async def connect(self, host, port, tls=None):
        """Open the stream and log in.

        Raises MqttError, and ValueError as MicroPython does for a certificate that is refused.
        """
        try:
            self._reader, self._writer = await asyncio.wait_for(
                self._board.open_stream(host, port, tls, self.timeout_s * 1_000), self.timeout_s
            )
        except (OSError, asyncio.TimeoutError) as error:
            self.closed = f"no connection: {error!r}"
            raise MqttError(self.closed) from None
        self._sent_ms = self._heard_ms = self._board.ticks_ms()
        try:
            await self._write(self._hello)
            kind, _, body = await asyncio.wait_for(self._packet(), self.timeout_s)
            refusal = packets.read_connack(body) if kind == packets.CONNACK else "no CONNACK"
        except asyncio.CancelledError:
            self._close("cancelled")
            raise
        except _BROKEN as error:
            refusal = repr(error)
        if refusal:
            self._close(f"refused: {refusal}")
            raise MqttError(self.closed)
        self._task = asyncio.create_task(self._listen())

    async def subscribe(self, topic):
        """Subscribe with QoS 1. Raises MqttError, also when the broker refuses the filter."""
        packet_id = self._next_id()
        if not await self._exchange(packet_id, packets.subscribe(packet_id, topic)):
            raise MqttError(f"refused: {topic}")

    async def publish(self, topic, payload, retain=False):
        """Publish bytes with QoS 1; returns when the broker has them. Raises MqttError.

        At most 8 wait for their PUBACK: one more is refused at once.
        """
        if len(self._waiting) >= MOST_WAITING or len(payload) > MOST_SENT:
            raise MqttError("too much for one connection")
        packet_id = self._next_id()
        await self._exchange(packet_id, packets.publish(topic, payload, 1, retain, packet_id))

    async def receive(self, timeout_s):
        """The next (topic, payload, retained), or None when none came in time. Raises MqttError."""
        if not self._messages and not self.closed:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), timeout_s)
            except asyncio.TimeoutError:
                return None
        if self._messages:
            return self._messages.pop(0)
        raise MqttError(self.closed)

    async def disconnect(self):
        """Say goodbye, so that the broker keeps the Will to itself, and close. Never raises."""
        try:
            await self._write(packets.GOODBYE)
        except MqttError:
            pass
        self._close("disconnected")

    def abort(self):
        """Close without a goodbye: the broker tells the Will."""
        if self._writer:
            self._close("aborted")

    async def _exchange(self, packet_id, sent):
        """Send a packet and wait for its acknowledgement: whether it is a success."""
        entry = self._waiting[packet_id] = [asyncio.Event(), None]
        try:
            await self._write(sent)
            await asyncio.wait_for(entry[0].wait(), self.timeout_s)
        except asyncio.TimeoutError:
            self._close("no acknowledgement")
        finally:
            self._waiting.pop(packet_id, None)
        if entry[1] is None:
            raise MqttError(self.closed)
        return entry[1]

    async def _write(self, sent):
        """Hand bytes to the stream, one packet after the other. Raises MqttError."""
        try:
            await asyncio.wait_for(self._write_in_turn(sent), self.timeout_s)
        except (OSError, asyncio.TimeoutError) as error:
            self._close(f"cannot send: {error!r}")
            raise MqttError(self.closed) from None

    async def _write_in_turn(self, sent):
        async with self._write_lock:
            if self.closed:
                raise MqttError(self.closed)
            self._writer.write(sent)
            await self._writer.drain()
            self._sent_ms = self._board.ticks_ms()

    async def _listen(self):
        """Take every packet until the connection ends; keep it alive meanwhile."""
        half_s = self.keepalive_s / 2
        try:
            while not self.closed:
                try:
                    header = await asyncio.wait_for(self._reader.readexactly(1), half_s)
                except asyncio.TimeoutError:
                    header = None
                if header:
                    packet = await asyncio.wait_for(self._rest(header[0]), self.timeout_s)
                    self._heard_ms = self._board.ticks_ms()
                    await self._take(*packet)
                elif self._since_s(self._heard_ms) >= self.keepalive_s:
                    self._close("lost: silent peer")
                    return
                if header is None or self._since_s(self._sent_ms) >= half_s:
                    await self._write(packets.PING)
        except MqttError:
            pass  # it has closed the connection
        except Exception as error:
            # Whatever it was: nobody listens any longer.
            self._close(f"lost: {error!r}")

    async def _packet(self):
        return await self._rest((await self._reader.readexactly(1))[0])

    async def _rest(self, header):
        """(kind, flags, body) of the packet that begins so; what is too long is cut off."""
        digits = b""
        length = None
        while length is None:
            digits += await self._reader.readexactly(1)
            length = packets.read_length(digits)
        kept = min(length, self.most_bytes)
        body = await self._reader.readexactly(kept) if kept else b""
        while kept < length:
            piece = min(length - kept, _PIECE_BYTES)
            await self._reader.readexactly(piece)
            kept += piece
        self._cut = length > self.most_bytes
        return header >> 4, header & 15, body

    async def _take(self, kind, flags, body):
        if kind == packets.PUBLISH:
            topic, payload, packet_id, retained = packets.read_publish(flags, body)
            if self._cut or len(self._messages) >= MOST_WAITING:
                self.dropped += 1
            else:
                self._messages.append((topic, payload, retained))
                self._arrived.set()
            if packet_id:
                await self._write(packets.puback(packet_id))
        elif kind in (packets.PUBACK, packets.SUBACK):
            packet_id, success = packets.read_ack(body)
            entry = self._waiting.get(packet_id)
            if entry:
                entry[1] = success
                entry[0].set()
        elif kind != packets.PINGRESP:
            raise packets.PacketError(f"kind {kind}")

    def _close(self, reason):
        """The connection is over; whoever waits is told."""
        if self.closed:
            return
        self.closed = reason
        self._writer.close()
        if self._task and self._task is not asyncio.current_task():
            self._task.cancel()
        self._arrived.set()
        for entry in self._waiting.values():
            entry[0].set()

    def _next_id(self):
        while True:
            self._last_id = self._last_id % 0xFFFF + 1
            if self._last_id not in self._waiting:
                return self._last_id

    def _since_s(self, then_ms):
        return self._board.ticks_diff(self._board.ticks_ms(), then_ms) / 1_000
