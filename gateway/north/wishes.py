"""Wishes of the API: checked, made durable in north.db, answered with control's outcome."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.core.errors import RefusedError, StoreAwayError
from gateway.core.requests import Body, Outcome, Request, check_role, decode_body, encode_body
from gateway.north.context import NorthContext
from gateway.north.http.auth import NOT_YET_BOUND, Principal
from gateway.store.db import Connection
from gateway.store.requests import insert_request

# How long a caller waits for control before it is told to come back (contract.md, North: HTTP).
OUTCOME_WAIT_S: Final = 2.0
# A switch that was asked for so long ago would surprise whoever stands at the point by now.
SWITCH_EXPIRY_MS: Final = 120_000
# So is a person's word about what is at this moment: held energy, the clock.
PRESENT_EXPIRY_MS: Final = 120_000


class AnsweredError(RefusedError):
    """Control refused a wish, or it came too late: control has that on record."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a wish: `outcome` None means that control has not answered yet."""

    key: str
    type: str
    repeat: bool
    outcome: Outcome | None


async def submit(
    context: NorthContext,
    caller: Principal,
    body: Body,
    key: str,
    *,
    expiry_ms: int | None = None,
    also: Callable[[Connection], None] | None = None,
) -> Answer:
    """Store a wish durably and wait up to OUTCOME_WAIT_S for what control makes of it.

    `also` is stored in the same commit, unless the wish is a repeat.
    Raises RefusedError (FORBIDDEN, REQUEST_FIELD, IDEMPOTENCY_CONFLICT) and StoreError.
    """
    role = caller.role_for(body.ROLES - NOT_YET_BOUND)
    check_role(body, role)
    checked = decode_body(body.TYPE, encode_body(body))
    now_utc_ms = context.clock.utc_ms()
    request = Request(
        key=key,
        body=checked,
        actor=caller.actor,
        role=role,
        source=caller.source,
        created_utc_ms=now_utc_ms,
        expires_utc_ms=None if expiry_ms is None else now_utc_ms + expiry_ms,
    )

    def store(connection: Connection) -> bool:
        is_new = insert_request(connection, request)
        if is_new and also is not None:
            also(connection)
        return is_new

    repeat = not await context.write(store)
    outcome = await _outcome_now(context, key) if repeat or context.control_away() else None
    if outcome is None and not context.control_away():
        outcome = await context.watch.wait(key, OUTCOME_WAIT_S)
        context.answered.set()
    # With control away nobody would answer: the wish is kept and executed when it is back.
    return Answer(key, body.TYPE, repeat, outcome)


async def _outcome_now(context: NorthContext, key: str) -> Outcome | None:
    try:
        return await context.records.outcome(key)
    except StoreAwayError:
        return None
