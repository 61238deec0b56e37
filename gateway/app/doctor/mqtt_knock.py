"""One short visit at a broker by hand: MQTT 5 tells whether a publication was allowed, 3.1.1 not.

Nothing of it reaches a node: what is published is empty and for a device that does not exist.
"""

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

VISIT_S: Final = 5.0
PACKETS_MAX: Final = 10_000
_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _SUBSCRIBE, _SUBACK, _DISCONNECT = 1, 2, 3, 4, 8, 9, 14
_REFUSED: Final = 0x80
# Of MQTT 5, and the return codes of 3.1.1 (below 0x80) that a broker without 5 answers with.
REASONS: Final = {
    0x01: "it speaks no MQTT 5",
    0x84: "it speaks no MQTT 5",
    0x86: "user name or password is wrong",
    0x87: "not authorised (its password?)",
}
NO_MQTT_5: Final = frozenset({0x01, 0x84})


@dataclass(frozen=True, slots=True)
class Visit:
    """What a broker answered: `code` 0 is a login; topics that we may not hear or speak on."""

    code: int
    deaf: tuple[str, ...] = ()
    mute: tuple[str, ...] = ()


def visit(
    stream: socket.socket,
    user: str,
    password: str | None,
    hears: Sequence[str],
    says: Sequence[str],
) -> Visit:
    """Log in, ask to hear, say nothing on `says`, and leave.

    Raises OSError (TimeoutError included) and ValueError (it is no broker).
    """
    stream.settimeout(VISIT_S)
    stream.sendall(_connect(user, password))
    packets = _packets(stream)
    code = _until(packets, _CONNACK)[1]
    if code:
        return Visit(code)
    asked = b"".join(_text(topic) + b"\x01" for topic in hears)
    stream.sendall(_packet(_SUBSCRIBE << 4 | 2, b"\x00\x01\x00" + asked))
    granted = _until(packets, _SUBACK)
    deaf = [
        topic
        for topic, one in zip(hears, granted[3 + granted[2] :], strict=False)
        if one >= _REFUSED
    ]
    mute: list[str] = []
    for number, topic in enumerate(says, 2):
        head = _text(topic) + number.to_bytes(2, "big") + b"\x00"
        stream.sendall(_packet(_PUBLISH << 4 | 2, head))
        answer = _until(packets, _PUBACK)
        if len(answer) > 2 and answer[2] >= _REFUSED:
            mute.append(topic)
    stream.sendall(_packet(_DISCONNECT << 4, b""))
    return Visit(0, tuple(deaf), tuple(mute))


def _connect(user: str, password: str | None) -> bytes:
    flags, rest = 0x02, _text(user)  # a clean start; the client is named as its user
    if user:
        flags, rest = flags | 0x80, rest + _text(user)
    if password is not None:
        flags, rest = flags | 0x40, rest + _text(password)
    return _packet(_CONNECT << 4, _text("MQTT") + bytes((5, flags, 0, 30, 0)) + rest)


def _text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw


def _packet(first: int, body: bytes) -> bytes:
    size, left = bytearray(), len(body)
    while True:
        left, digit = divmod(left, 128)
        size.append(digit | (0x80 if left else 0))
        if not left:
            return bytes((first,)) + bytes(size) + body


def _packets(stream: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Type and body of what comes, at most so many."""
    for _ in range(PACKETS_MAX):
        first = _read(stream, 1)[0]
        size, shift = 0, 0
        while True:
            digit = _read(stream, 1)[0]
            size |= (digit & 0x7F) << shift
            shift += 7
            if digit < 0x80:
                break
            if shift > 21:
                raise ValueError("no MQTT")
        yield first >> 4, _read(stream, size)


def _until(packets: Iterator[tuple[int, bytes]], wanted: int) -> bytes:
    """The body of the next packet of a type; kept messages may come before it."""
    for kind, body in packets:
        if kind == wanted and len(body) >= 2:
            return body
        if kind != _PUBLISH:
            raise ValueError(f"it answered with a packet of type {kind}")
    raise ValueError("it did not answer")


def _read(stream: socket.socket, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        piece = stream.recv(count - len(got))
        if not piece:
            raise ConnectionError("it ended the connection")
        got += piece
    return bytes(got)
