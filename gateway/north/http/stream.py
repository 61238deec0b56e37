"""GET /stream: live events (server-sent events, WHATWG HTML section 9.2)."""

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.core.errors import RefusedError
from gateway.north.http.auth import MONEY_VIEWERS, VIEWERS, Caller, access
from gateway.north.http.context import context_of
from gateway.north.http.forms import PREFIX
from gateway.north.hub import BALANCE, KINDS, Hub, Listener

STREAM_PATH: Final = f"{PREFIX}/stream"
HEARTBEAT_S: Final = 15.0
RETRY_MS: Final = 2000

router = APIRouter(tags=["live"])


class EventStream(Response):
    """Sends a listener's events until the client leaves, stalls, or the hub closes."""

    media_type = "text/event-stream"

    def __init__(self, hub: Hub, listener: Listener) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._hub = hub
        self._listener = listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the stream; the listener is forgotten whatever happens.

        A client that stops reading is cut off by the connection's own deadline (peer.py), which
        `receive` then reports.
        """
        del scope
        leaving = asyncio.create_task(self._watch_client(receive), name="stream client")
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _send_body(send, f"retry: {RETRY_MS}\n\n".encode(), more=True)
            await self._send_events(send)
        finally:
            self._hub.leave(self._listener)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)

    async def _send_events(self, send: Send) -> None:
        while True:
            frames = await self._listener.take(HEARTBEAT_S)
            if frames:
                await _send_body(send, frames, more=True)
            elif self._listener.closed:
                await _send_body(send, b"", more=False)
                return
            else:
                await _send_body(send, b": still here\n\n", more=True)

    async def _watch_client(self, receive: Receive) -> None:
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            self._listener.close()


async def _send_body(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


@router.get(
    STREAM_PATH,
    status_code=200,
    response_class=EventStream,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    **access(VIEWERS),
)
async def stream(
    request: Request,
    caller: Caller,
    events: Annotated[
        str, Query(max_length=200, description="Kinds to send, separated by commas; empty: all")
    ] = "",
    last_event_id: Annotated[
        str, Header(max_length=100, description="Id of the last event that was received")
    ] = "",
) -> EventStream:
    """Follow measurements, balances, supplies and commands as they change.

    With `Last-Event-ID` the events missed since come first; where they are forgotten,
    `stream.reset` says to read the resources again.
    """
    kinds = frozenset(events.split(",")) if events else KINDS
    unknown = kinds - KINDS
    if unknown:
        known = ", ".join(sorted(KINDS))
        raise RefusedError("VALIDATION", f"events are {known}", "query.events")
    if not caller.roles & MONEY_VIEWERS:
        kinds -= {BALANCE}
    hub = context_of(request).hub
    return EventStream(hub, hub.listen(kinds, last_event_id))
