"""Making and revoking bearer tokens: durable first, valid then."""

import asyncio
from pathlib import Path
from typing import Final

from ulid import ULID

from gateway.core.requests import Role
from gateway.north.context import NorthContext
from gateway.north.http.auth import hash_secret, new_secret, write_secret
from gateway.store.tokens import ApiToken, add_token, revoke_token

SETUP_LABEL: Final = "set-up"
SETUP_HOURS: Final = 24
MS_PER_HOUR: Final = 3_600_000


async def create_token(
    context: NorthContext, *, label: str, role: Role, hours: int | None = None
) -> tuple[ApiToken, str]:
    """A new token and its secret, which is kept nowhere. `hours` None: valid until revoked.

    Raises StoreError.
    """
    now_utc_ms = context.clock.utc_ms()
    secret = new_secret()
    token = ApiToken(
        token_id=str(ULID.from_timestamp(now_utc_ms / 1000)),
        token_hash=hash_secret(secret),
        label=label,
        role=role,
        created_utc_ms=now_utc_ms,
        expires_utc_ms=None if hours is None else now_utc_ms + hours * MS_PER_HOUR,
    )
    await context.write(lambda connection: add_token(connection, token))
    context.tokens.put(token)
    return token, secret


async def revoke(context: NorthContext, token_id: str) -> ApiToken:
    """End a token's validity at once; harmless when repeated.

    Raises RefusedError TOKEN_UNKNOWN, StoreError.
    """
    now_utc_ms = context.clock.utc_ms()
    token = await context.write(
        lambda connection: revoke_token(connection, token_id, utc_ms=now_utc_ms)
    )
    context.tokens.put(token)
    return token


async def create_setup_token(context: NorthContext, path: Path) -> bool:
    """On the first start, write an administrator's token for 24 hours to `path` (mode 0600).

    There is no default password: with this token the first keys are made (POST /api-keys). False,
    and nothing written, when any token was ever made. Raises StoreError, OSError.
    """
    if context.tokens.all():
        return False
    _, secret = await create_token(context, label=SETUP_LABEL, role=Role.ADMIN, hours=SETUP_HOURS)
    await asyncio.to_thread(write_secret, path, secret)
    return True
