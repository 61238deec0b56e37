"""Which answers are denials that belong on record, and what is kept of the call.

On record: a failed authentication, a forbidden call of any kind, and whatever north refuses of a
change (POST, PUT, PATCH, DELETE) by a known caller. Not: a read with a wrong cursor or of something
unknown, a failure or overload of the gateway, and what control refused: that is on record already.
Never the body: only who, from where, the route, its parameters, the code and the place.
"""

import http
from typing import Final

from fastapi import Request

from gateway.core.denials import OBJECT_MAX, Denial, shown
from gateway.core.requests import KEY_PATTERN
from gateway.north.http.auth import ALL_ROLES, Principal
from gateway.north.http.context import context_of

CHANGING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
AUTHENTICATION: Final = "authentication"
NO_ROUTE: Final = "(no route)"
LOCAL_ROLE: Final = "all"


def note_stranger(request: Request, code: str, *, actor: str = "", source: str) -> None:
    """Take up a failed authentication."""
    guessed = "authorization" in request.headers
    context = context_of(request)
    utc_ms = context.clock.utc_ms()
    context.denials.note(
        Denial(
            actor=actor,
            role="",
            source=shown(source),
            action=AUTHENTICATION,
            code=code,
            place="header.authorization" if guessed else "",
            request="",
            object={},
            count=1,
            first_utc_ms=utc_ms,
            last_utc_ms=utc_ms,
        ),
        stranger=True,
    )


def note_refusal(request: Request, code: str, status: int, place: str) -> None:
    """Take up what a known caller was refused, where that belongs on record."""
    caller = getattr(request.state, "principal", None)
    changing = request.method in CHANGING and 400 <= status < 500
    if not isinstance(caller, Principal) or not (changing or status == http.HTTPStatus.FORBIDDEN):
        return
    route = getattr(request.scope.get("route"), "path", NO_ROUTE)
    key = request.headers.get("idempotency-key", "")
    named = list(request.path_params.items())[:OBJECT_MAX]
    context = context_of(request)
    utc_ms = context.clock.utc_ms()
    context.denials.note(
        Denial(
            actor=caller.actor,
            role=LOCAL_ROLE if caller.roles == ALL_ROLES else ",".join(sorted(caller.roles)),
            source=shown(caller.source),
            action=f"{request.method} {route}",
            code=code,
            place=shown(place),
            request=shown(key) if KEY_PATTERN.fullmatch(key) else "",
            object={name: shown(str(value)) for name, value in named},
            count=1,
            first_utc_ms=utc_ms,
            last_utc_ms=utc_ms,
        ),
        stranger=False,
    )
