"""API tokens in `north.db`: only the SHA-256 of a token is kept."""

import sqlite3
from dataclasses import dataclass

from gateway.core.errors import RefusedError
from gateway.core.requests import Role


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A bearer token as stored; `token_hash` has 32 bytes. No expiry: until revoked."""

    token_id: str
    token_hash: bytes
    label: str
    role: Role
    created_utc_ms: int
    expires_utc_ms: int | None = None
    revoked_utc_ms: int | None = None


def add_token(connection: sqlite3.Connection, token: ApiToken) -> None:
    """Store a new token.

    Raises sqlite3.IntegrityError (a StoreError through the writer) for a known id or hash.
    """
    connection.execute(
        "INSERT INTO api_token VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            token.token_id,
            token.token_hash,
            token.label,
            token.role.value,
            token.created_utc_ms,
            token.expires_utc_ms,
            token.revoked_utc_ms,
        ),
    )


def revoke_token(connection: sqlite3.Connection, token_id: str, *, utc_ms: int) -> ApiToken:
    """End a token's validity; what is stored then. Revoking again changes nothing.

    Raises RefusedError TOKEN_UNKNOWN.
    """
    connection.execute(
        "UPDATE api_token SET revoked_utc_ms = ? WHERE token_id = ? AND revoked_utc_ms IS NULL",
        (utc_ms, token_id),
    )
    for token in read_tokens(connection):
        if token.token_id == token_id:
            return token
    raise RefusedError("TOKEN_UNKNOWN", f"there is no token {token_id}", "token_id")


def read_tokens(connection: sqlite3.Connection) -> list[ApiToken]:
    """Every token ever made, by id."""
    rows = connection.execute(
        "SELECT token_id, token_hash, label, role, created_utc_ms, expires_utc_ms, revoked_utc_ms "
        "FROM api_token ORDER BY token_id"
    )
    return [ApiToken(row[0], row[1], row[2], Role(row[3]), row[4], row[5], row[6]) for row in rows]
