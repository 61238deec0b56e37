"""What stands in front of every route: limits and authentication. Nothing passes by default."""

import os
from collections.abc import Mapping
from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.core.errors import Retry
from gateway.core.rollout_plan import IMAGE_BYTES_MAX
from gateway.north.http.auth import (
    ALL_ROLES,
    FailureLimiter,
    Principal,
    TokenBook,
    bearer_of,
)
from gateway.north.http.denied import note_stranger
from gateway.north.http.problems import problem_response
from gateway.north.peer import Peer

# A supervisor and a load balancer ask these without a token; they tell nothing but up or not.
ANONYMOUS_PATHS: Final = frozenset({"/healthz", "/readyz"})
MAX_BODY_BYTES: Final = 64 * 1024
# A firmware image is the one thing that is larger.
IMAGES_PATH: Final = "/api/v1/firmware-images"
MAX_BODY_BYTES_OF: Final[Mapping[str, int]] = {IMAGES_PATH: IMAGE_BYTES_MAX}
MAX_REQUESTS_AT_ONCE: Final = 64
LOCAL_SOURCE: Final = "local socket"
# One failed attempt is allowed again after so long (FailureLimiter).
RETRY_AFTER_S: Final = 6

_log = structlog.get_logger("gateway.north.http")


class Gate:
    """ASGI middleware: at most MAX_REQUESTS_AT_ONCE, a known caller, a bounded body.

    Streams do not count as requests at once: they have a limit of their own.
    """

    def __init__(
        self, app: ASGIApp, *, tokens: TokenBook, failures: FailureLimiter, stream_path: str
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._failures = failures
        self._stream_path = stream_path
        self._running = 0
        self.refused_busy = 0
        self.refused_caller = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request of a known caller on, answer any other with a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._running >= MAX_REQUESTS_AT_ONCE:
            self.refused_busy += 1
            busy = problem_response("BUSY", "too many requests at once", retry=Retry.BACKOFF)
            await busy(scope, receive, send)
            return
        counted = scope["path"] != self._stream_path
        self._running += counted
        try:
            await self._admit(scope, receive, send)
        finally:
            self._running -= counted

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if scope["path"] not in ANONYMOUS_PATHS:
            principal = self._caller(request)
            if principal is None:
                await self._refuse(request, receive, send)
                return
            request.state.principal = principal
        await self._app(scope, _bounded(request, receive), send)

    def _caller(self, request: Request) -> Principal | None:
        peer = getattr(request.state, "peer", None)
        if isinstance(peer, Peer):
            if peer.uid in (0, os.geteuid()):
                return Principal(f"uid:{peer.uid}", ALL_ROLES, LOCAL_SOURCE)
            return None
        secret = bearer_of(request.headers.get("authorization", ""))
        token = self._tokens.find(secret) if secret else None
        if token is None:
            return None
        return Principal(f"token:{token.token_id}", frozenset({token.role}), address_of(request))

    async def _refuse(self, request: Request, receive: Receive, send: Send) -> None:
        self.refused_caller += 1
        scope = request.scope
        peer = getattr(request.state, "peer", None)
        if isinstance(peer, Peer):
            _log.warning("local caller refused", uid=peer.uid, pid=peer.pid)
            note_stranger(request, "FORBIDDEN", actor=f"uid:{peer.uid}", source=LOCAL_SOURCE)
            detail = "only the gateway's own user and root may use the local socket"
            await problem_response("FORBIDDEN", detail)(scope, receive, send)
            return
        address = address_of(request)
        # A caller without any token guesses nothing, so it uses up no allowance.
        guessed = "authorization" in request.headers
        if guessed and not self._failures.failed(address):
            note_stranger(request, "RATE_LIMITED", source=address)
            limited = problem_response(
                "RATE_LIMITED",
                "too many failed attempts from this address",
                retry=Retry.BACKOFF,
                headers={"retry-after": str(RETRY_AFTER_S)},
            )
            await limited(scope, receive, send)
            return
        if guessed:
            _log.warning("unknown token", address=address)
        note_stranger(request, "UNAUTHENTICATED", source=address)
        detail = "send a valid token as `Authorization: Bearer …`"
        await problem_response("UNAUTHENTICATED", detail)(scope, receive, send)


def address_of(request: Request) -> str:
    """The caller's address, or a word for it where there is none."""
    return request.client.host if request.client is not None else "unknown"


def _bounded(request: Request, receive: Receive) -> Receive:
    """`receive` that fails with 413 once more came than the path may, whatever was declared."""
    most = MAX_BODY_BYTES_OF.get(request.scope["path"], MAX_BODY_BYTES)
    declared = request.headers.get("content-length", "0")
    too_long = declared.isdecimal() and (len(declared) > 9 or int(declared) > most)
    taken_bytes = 0

    async def bounded_receive() -> Message:
        nonlocal taken_bytes
        if too_long:
            raise HTTPException(413, f"a body may have {most} bytes")
        message = await receive()
        if message["type"] == "http.request":
            taken_bytes += len(message.get("body", b""))
            if taken_bytes > most:
                raise HTTPException(413, f"a body may have {most} bytes")
        return message

    return bounded_receive
