"""Who calls, and whether they may: bearer tokens, roles, and a limit on failures per address.

A token is 256 random bits; north.db holds only its SHA-256, so the file gives no access away.
"""

import hashlib
import hmac
import os
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypedDict

from fastapi import Depends, Request
from fastapi.params import Depends as DependsParameter

from gateway.core.address import site_of
from gateway.core.clock import Clock
from gateway.core.errors import RefusedError
from gateway.core.requests import Role
from gateway.store.tokens import ApiToken

TOKEN_PREFIX: Final = "pgw_"  # noqa: S105 a mark for secret scanners, not a secret
TOKEN_BYTES: Final = 32
MAX_LABEL: Final = 80
NS_PER_S: Final = 1_000_000_000

ALL_ROLES: Final = frozenset(Role)
# Money is not the administrator's; a tenant's own view needs tokens that are bound to an account,
# which do not exist yet; a device speaks MQTT.
MONEY_VIEWERS: Final = frozenset({Role.MANAGER, Role.OPERATOR, Role.TECHNICIAN, Role.AUDITOR})
VIEWERS: Final = MONEY_VIEWERS | {Role.ADMIN}
NOT_YET_BOUND: Final = frozenset({Role.TENANT})


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of one request. `source` is where from: an address or the local socket."""

    actor: str
    roles: frozenset[Role]
    source: str

    def role_for(self, allowed: frozenset[Role]) -> Role:
        """The first of this caller's roles, by the order of Role, that is allowed.

        Raises RefusedError FORBIDDEN when there is none.
        """
        for role in Role:
            if role in self.roles and role in allowed:
                return role
        names = ", ".join(sorted(allowed))
        raise RefusedError("FORBIDDEN", f"this needs one of the roles: {names}")


class FailureLimiter:
    """Counts failed authentications per address in a sliding bucket.

    `burst` failures at once, then one per `refill_s`. The table of addresses is bounded; the
    address silent for longest is forgotten first (`forgotten` counts them).
    """

    def __init__(
        self, clock: Clock, *, burst: int = 10, refill_s: float = 6.0, max_addresses: int = 4096
    ) -> None:
        self._clock = clock
        self._burst = burst
        self._refill_ns = int(refill_s * NS_PER_S)
        self._max_addresses = max_addresses
        self._used: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self.forgotten = 0

    def failed(self, address: str) -> bool:
        """Count one failure; False when the address has used up its allowance."""
        place = site_of(address)
        now_ns = self._clock.mono_ns()
        used, since_ns = self._used.pop(place, (0.0, now_ns))
        used = max(0.0, used - (now_ns - since_ns) / self._refill_ns)
        within = used + 1 <= self._burst
        self._used[place] = (used + 1 if within else used, now_ns)
        if len(self._used) > self._max_addresses:
            self._used.popitem(last=False)
            self.forgotten += 1
        return within


class TokenBook:
    """The valid tokens in memory: north is the only writer of north.db, so it may keep them."""

    def __init__(self, clock: Clock, tokens: Iterable[ApiToken]) -> None:
        self._clock = clock
        self._by_hash = {token.token_hash: token for token in tokens}

    def put(self, token: ApiToken) -> None:
        """Add a token or replace the one with its hash (after it was committed to north.db)."""
        self._by_hash[token.token_hash] = token

    def all(self) -> tuple[ApiToken, ...]:
        """Every token ever made, oldest first."""
        return tuple(sorted(self._by_hash.values(), key=lambda token: token.token_id))

    def find(self, secret: str) -> ApiToken | None:
        """The token of this secret, if it is known, not revoked and not expired.

        The look-up is by SHA-256 of the secret, so its timing tells nothing about the secret;
        the final comparison takes constant time all the same.
        """
        digest = hash_secret(secret)
        token = self._by_hash.get(digest)
        if token is None or not hmac.compare_digest(token.token_hash, digest):
            return None
        if token.revoked_utc_ms is not None:
            return None
        if token.expires_utc_ms is not None and self._clock.utc_ms() >= token.expires_utc_ms:
            return None
        return token


def hash_secret(secret: str) -> bytes:
    """SHA-256 of a token: enough, since a token is random and not a password."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


def new_secret() -> str:
    """A new bearer token of 256 random bits from the operating system."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def write_secret(path: Path, secret: str) -> None:
    """Write a token to a new file of mode 0600; an older file of that name is replaced."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret + "\n")


def bearer_of(header: str) -> str:
    """The token in an Authorization header, or an empty string."""
    scheme, _, secret = header.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


class Access(TypedDict):
    """Keyword arguments of a route that only some roles may call."""

    dependencies: list[DependsParameter]
    openapi_extra: dict[str, list[str]]


def access(allowed: frozenset[Role]) -> Access:
    """Restrict a route to `allowed` and write that into the OpenAPI document (`x-roles`).

    Use as `@router.get("/meters", **access(VIEWERS))`.
    """
    return Access(
        dependencies=[Depends(_require(allowed))],
        openapi_extra={"x-roles": sorted(role.value for role in allowed)},
    )


async def principal_of(request: Request) -> Principal:
    """The caller, as the gate in front of the routes established it."""
    principal = request.state.principal
    if not isinstance(principal, Principal):
        raise RefusedError("UNAUTHENTICATED", "no caller is known")
    return principal


Caller = Annotated[Principal, Depends(principal_of)]


def _require(allowed: frozenset[Role]) -> Callable[[Request], Awaitable[None]]:
    async def check(request: Request) -> None:
        (await principal_of(request)).role_for(allowed)

    return check
