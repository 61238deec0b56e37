"""uvicorn's HTTP/1.1 protocol with this gateway's limits, and the peer of a Unix socket.

The only file that depends on uvicorn's protocol class; `tests/north/test_serve.py` pins what it
relies on.
"""

import asyncio
import http
import socket
import struct
from dataclasses import dataclass
from typing import Final

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

# Longest time for a whole request to arrive: a client that sends byte by byte holds a connection
# no longer. uvicorn itself only limits the idle time between requests.
REQUEST_DEADLINE_S: Final = 15.0
# Longest time that a client may leave its answer unread before the connection is dropped.
UNREAD_DEADLINE_S: Final = 20.0
MAX_CONNECTIONS: Final = 256
_UCRED: Final = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a Unix socket, as the kernel states it (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class GatewayProtocol(H11Protocol):
    """One HTTP/1.1 connection: bounded in number and time, errors as problems.

    On a Unix socket `request.state.peer` holds the Peer; on TCP it is absent.
    """

    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse beyond MAX_CONNECTIONS, note the peer, start the request deadline."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503, "BUSY", "too many connections", b"retry-after: 1\r\n")
            return
        peer = peer_of(transport)
        if peer is not None:
            self.app_state = {**self.app_state, "peer": peer}
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Feed uvicorn, then see whether a request is still incomplete."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """A pipelined or slow next request gets its own deadline."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the deadline with the connection."""
        self._cancel_deadline()
        self._cancel_unread()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read: give it a while."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(UNREAD_DEADLINE_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._cancel_unread()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP with a problem document and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(400, "VALIDATION", msg.rstrip("."), b"")
        else:
            self.transport.close()

    def _current(self) -> RequestResponseCycle | None:
        # uvicorn declares it as never None, and sets it to None.
        return self.cycle

    def _watch(self) -> None:
        cycle = self._current()
        idle = cycle is not None and cycle.response_complete
        if idle and not self.conn.trailing_data[0]:
            # Between requests: uvicorn's keep-alive timer closes it.
            self._cancel_deadline()
        elif cycle is not None and not cycle.response_complete and not cycle.more_body:
            self._cancel_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_DEADLINE_S, self._too_slow)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cancel_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _too_slow(self) -> None:
        self._deadline = None
        self.transport.abort()

    def _refuse(self, status: int, code: str, detail: str, more_headers: bytes) -> None:
        # Written past h11: no request exists yet that this could answer.
        phrase = http.HTTPStatus(status).phrase
        body = orjson.dumps(
            {
                "type": f"urn:prepaid-gateway:problem:{code.lower()}",
                "title": phrase,
                "status": status,
                "detail": detail,
                "code": code,
                "retry": "backoff" if status == 503 else "never",
            }
        )
        head = (
            f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n"
        ).encode()
        self.transport.write(head + more_headers + b"\r\n" + body)
        self.transport.close()


def peer_of(transport: asyncio.BaseTransport) -> Peer | None:
    """The kernel's word on who is at the other end; None for anything but a Unix socket.

    Linux only: unix(7), SO_PEERCRED.
    """
    wrapped = transport.get_extra_info("socket")
    if wrapped is None or wrapped.family != socket.AF_UNIX:
        return None
    # uvloop hands out a stand-in without getsockopt, so the option is read on a duplicate.
    with socket.socket(fileno=socket.dup(wrapped.fileno())) as duplicate:
        raw = duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return Peer(pid, uid, gid)
