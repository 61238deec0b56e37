"""The MQTT client over a stream that says what no good broker says; the rest is tested live."""

import asyncio

from node import packets
from node.mqtt import MOST_SENT, MOST_WAITING, Client, MqttError

WELCOME = b"\x20\x02\x00\x00"


class Peer:
    """A board whose stream ends at this object: it sends what it is told and keeps what it gets."""

    def __init__(self, *says):
        self.got = b""
        self.open_error = self.write_error = self.read_error = None
        self.hangs = False
        self.closed = self.awaited = False
        self._buffer = b"".join(says)
        self._ended = False
        self._moved = asyncio.Event()
        self._ms = 0

    def ticks_ms(self):
        self._ms += 1
        return self._ms

    def ticks_diff(self, later, earlier):
        return later - earlier

    async def open_stream(self, *_where):
        if self.open_error:
            raise self.open_error
        while self.hangs:
            await asyncio.sleep(1)
        return self, self

    def say(self, said):
        self._buffer += said
        self._moved.set()

    def end(self):
        self._ended = True
        self._moved.set()

    async def readexactly(self, count):
        while len(self._buffer) < count:
            if self.read_error:
                raise self.read_error
            if self._ended:
                raise EOFError
            self.awaited = True
            self._moved.clear()
            await self._moved.wait()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def write(self, sent):
        self.got += sent

    async def drain(self):
        if self.write_error:
            raise self.write_error

    def close(self):
        self.closed = True
        self.end()


def made(peer, timeout_s=0.1):
    """A client with short deadlines."""
    return Client(peer, "n", None, None, keepalive_s=60, timeout_s=timeout_s, most_bytes=64)


async def connected(*says):
    """A client that is logged in at a peer, and the peer."""
    peer = Peer(WELCOME, *says)
    client = made(peer)
    await client.connect("h", 1)
    return client, peer


async def failure(waiting):
    """What a call of the client raises."""
    try:
        await waiting
    except MqttError as error:
        return str(error)
    raise AssertionError("no MqttError")


async def test_a_login_that_fails_says_why_and_closes():
    """Refused by code, another packet, the end, nothing at all."""
    for says, ends, why in (
        (b"\x20\x02\x00\x05", False, "not authorised"),
        (b"\x20\x02\x00\x09", False, "code 9"),
        (b"\x20\x01\x00", False, "CONNACK"),
        (b"\xd0\x00", False, "no CONNACK"),
        (b"", True, "EOFError"),
        (b"", False, "TimeoutError"),
    ):
        peer = Peer(says)
        if ends:
            peer.end()
        client = made(peer)
        text = await failure(client.connect("h", 1))
        assert why in text
        assert client.closed == text
        assert peer.closed
        assert peer.got == packets.connect("n", None, None, 60, None)


async def test_a_stream_that_does_not_open_has_a_deadline():
    """An error of the network, or nothing for ever."""
    for error in (OSError(113), None):
        peer = Peer()
        peer.open_error, peer.hangs = error, True
        assert "no connection" in await failure(made(peer).connect("h", 1))


async def test_a_cancelled_login_closes_its_stream():
    """A node has few sockets."""
    peer = Peer()
    waiting = asyncio.create_task(made(peer, timeout_s=60).connect("h", 1))
    while not peer.awaited:
        await asyncio.sleep(0)
    waiting.cancel()
    try:
        await waiting
    except asyncio.CancelledError:
        assert peer.closed
        return
    raise AssertionError("not cancelled")


async def test_what_no_broker_sends_ends_the_connection():
    """Each at once; whoever waits is told."""
    for said in (
        b"\x10\x00",  # CONNECT
        b"\x30\x80\x80\x80\x80\x01",  # a length of five bytes
        b"\x34\x05\x00\x01t\x00\x01",  # QoS 2
        b"\x32\x05\x00\x01t\x00\x00",  # packet id 0
        b"\x40\x01\x00",  # a PUBACK of one byte
    ):
        client, peer = await connected()
        waiting = asyncio.create_task(failure(client.receive(5)))
        await asyncio.sleep(0)
        peer.say(said)
        assert "lost" in await waiting
        assert peer.closed
        assert "lost" in await failure(client.publish("t", b""))


async def test_an_error_that_nobody_expects_ends_the_connection_too():
    """Whoever waits is told, and the next one is made."""
    client, peer = await connected()
    waiting = asyncio.create_task(failure(client.receive(5)))
    await asyncio.sleep(0)
    peer.read_error = RuntimeError("of the TLS")
    peer.say(b"")
    assert "of the TLS" in await waiting
    assert peer.closed
    assert "of the TLS" in client.closed


async def test_a_message_that_breaks_off_ends_the_connection():
    """By its end, or by its deadline."""
    for ends in (True, False):
        client, peer = await connected(b"\x32\x05\x00")
        if ends:
            peer.end()
        assert "lost" in await failure(client.receive(5))


async def test_an_acknowledgement_of_nothing_is_ignored():
    """It may be late; the right one still counts."""
    client, peer = await connected(b"\x40\x02\x00\x63")
    waiting = asyncio.create_task(client.publish("t", b"x"))
    await asyncio.sleep(0.01)
    peer.say(b"\x40\x02\x00\x01")
    await waiting
    assert client.closed is None
    await client.disconnect()
    assert peer.got.endswith(packets.GOODBYE)


async def test_a_refused_subscription_is_told():
    """The connection goes on."""
    client, peer = await connected()
    waiting = asyncio.create_task(failure(client.subscribe("no/#")))
    await asyncio.sleep(0.01)
    peer.say(b"\x90\x03\x00\x01\x80")
    assert await waiting == "refused: no/#"
    assert client.closed is None
    await client.disconnect()


async def test_a_ping_is_answered_by_nothing_else():
    """PINGRESP is taken silently."""
    client, _ = await connected(b"\xd0\x00", b"\x30\x04\x00\x01tx")
    assert await client.receive(1) == ("t", b"x", False)
    await client.disconnect()


async def test_what_finds_the_queue_full_is_acknowledged_and_counted():
    """A broker stops sending once so many have no acknowledgement."""
    client, peer = await connected()
    for packet_id in range(1, MOST_WAITING + 4):
        peer.say(packets.publish("t", b"x", 1, False, packet_id))
    for _ in range(300):
        if client.dropped == 3:
            break
        await asyncio.sleep(0.01)
    await asyncio.sleep(0)
    assert [peer.got.count(packets.puback(n)) for n in range(1, MOST_WAITING + 4)] == [1] * 11
    await client.disconnect()


async def test_packet_ids_go_round_and_leave_out_those_that_wait():
    """From 65,535 to 1."""
    client, peer = await connected()
    client._last_id = 0xFFFE
    waiting = [asyncio.create_task(failure(client.publish("t", b""))) for _ in range(3)]
    await asyncio.sleep(0.01)
    client._last_id = 0xFFFE
    waiting.append(asyncio.create_task(failure(client.publish("t", b""))))
    await asyncio.sleep(0.01)
    sent = peer.got[len(packets.connect("n", None, None, 60, None)) :]
    ids = [sent[i + 5] << 8 | sent[i + 6] for i in range(0, len(sent), 7)]
    assert ids == [0xFFFF, 1, 2, 3]
    for task in waiting:
        assert await task == "no acknowledgement"


async def test_what_waits_has_a_bound():
    """In number and in size; what is refused costs no connection."""
    client, _ = await connected()
    assert "too much" in await failure(client.publish("t", bytes(MOST_SENT + 1)))
    waiting = [asyncio.create_task(failure(client.publish("t", b""))) for _ in range(MOST_WAITING)]
    await asyncio.sleep(0.01)
    assert "too much" in await failure(client.publish("t", b""))
    assert client.closed is None
    for task in waiting:
        assert await task == "no acknowledgement"


async def test_a_broken_wire_is_told_while_sending():
    """Both to the one who sends and to the one who listens."""
    client, peer = await connected()
    peer.write_error = OSError(104)
    waiting = asyncio.create_task(failure(client.receive(5)))
    await asyncio.sleep(0)
    assert "cannot send" in await failure(client.publish("t", b""))
    assert "cannot send" in await waiting
    await client.disconnect()
    assert "cannot send" in client.closed
