"""Simulated meters that cost as little as a process can: fixed answers after 15 to 25 ms."""

import asyncio
import random
import resource
import struct
from typing import Final, cast

HOST: Final = "127.0.0.1"
DELAY_MS: Final = (15, 25)
HEAD: Final = struct.Struct(">HHHB")
IDENTIFICATION: Final = bytes((0x2B, 14, 1, 1, 0, 0, 2, 0, 7)) + b"SIEMENS\x01\x07PAC3220"
WORDS: Final = bytes(0x40 if at % 4 == 0 else 0 for at in range(250))
# Registers above this answer with an exception: these meters have no I&M block.
LAST_REGISTER: Final = 1000


def answer(pdu: bytes) -> bytes:
    """The reply to a request."""
    if pdu[0] == IDENTIFICATION[0]:
        return IDENTIFICATION
    address, count = struct.unpack_from(">HH", pdu, 1)
    if address > LAST_REGISTER:
        return bytes((pdu[0] | 0x80, 2))
    return bytes((pdu[0], 2 * count)) + WORDS[: 2 * count]


class Answers:
    """Replies that wait for their millisecond: one timer for all of one millisecond."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._seed = random.Random(1)
        self._due: dict[int, list[tuple[asyncio.Transport, bytes]]] = {}
        self._known: dict[bytes, bytes] = {}

    def send(self, transport: asyncio.Transport, transaction: int, unit: int, pdu: bytes) -> None:
        """Answer a request later."""
        reply = self._known.get(pdu)
        if reply is None:
            reply = self._known[pdu] = answer(pdu)
        raw = HEAD.pack(transaction, 0, len(reply) + 1, unit) + reply
        low_ms, high_ms = DELAY_MS
        due_ms = int(self._loop.time() * 1e3 + low_ms + (high_ms - low_ms) * self._seed.random())
        waiting = self._due.get(due_ms)
        if waiting is None:
            waiting = self._due[due_ms] = []
            self._loop.call_at(due_ms / 1e3, self._flush, due_ms)
        waiting.append((transport, raw))

    def _flush(self, due_ms: int) -> None:
        for transport, raw in self._due.pop(due_ms):
            if not transport.is_closing():
                transport.write(raw)


class Responder(asyncio.Protocol):
    """One connection to one meter."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._partial = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are no subclass of asyncio.Transport.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every whole frame."""
        data = self._partial + data
        at = 0
        while len(data) - at >= HEAD.size:
            transaction, _, length, unit = HEAD.unpack_from(data, at)
            end = at + 6 + length
            if len(data) < end or self._transport is None:
                break
            self._answers.send(self._transport, transaction, unit, data[at + 7 : end])
            at = end
        self._partial = data[at:]


async def respond() -> None:
    """Serve meters on one port, said on standard output, until the parent ends this process."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    answers = Answers()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Responder(answers), HOST, 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
