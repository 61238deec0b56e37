"""Overrides: who may keep supplies from being cut, of what, how long, and why.

An override suspends the cuts that a rule would make (CREDIT, SHED). It never brings supply back;
only a restoration of the whole site, ordered by two managers, does. What a person ordered (MANUAL,
LEGAL, TAMPER, SAFETY) and what protects the wires (OVERLOAD) is not suspended.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.core.errors import RefusedError
from gateway.core.requests import Role
from gateway.core.switching import Reason

HOUR_MS: Final = 3_600_000
# How long each role may answer for (domain.md section 8).
HOURS_MAX: Final = {Role.TECHNICIAN: 8, Role.MANAGER: 72}
SUSPENDED: Final = frozenset({Reason.CREDIT, Reason.SHED})
NOTHING: Final[frozenset[Reason]] = frozenset()
# More at once are no exceptions any more.
OVERRIDES_MAX: Final = 1_000


class OverrideKind(StrEnum):
    """What an override is for."""

    KEEP_CONNECTED = "KEEP_CONNECTED"
    MAINTENANCE = "MAINTENANCE"
    RESTORE_ALL = "RESTORE_ALL"


class Scope(StrEnum):
    """What an override covers."""

    POINT = "point"
    FEEDER = "feeder"
    SITE = "site"


@dataclass(frozen=True, slots=True)
class Override:
    """One override: `target` names the point or feeder, and is empty for the site."""

    number: int
    kind: OverrideKind
    scope: Scope
    target: str
    from_utc_ms: int
    until_utc_ms: int
    reason: str
    actor: str
    role: Role

    def covers(self, service_point_id: str, feeder: str) -> bool:
        """Whether it holds at this point."""
        if self.scope is Scope.SITE:
            return True
        return self.target == (service_point_id if self.scope is Scope.POINT else feeder)


def check_override(wanted: Override) -> None:
    """Refuse an override that may not stand; its targets are the caller's to know.

    Raises RefusedError REASON_MISSING, OVERRIDE_SCOPE, OVERRIDE_PAST or OVERRIDE_TOO_LONG.
    """
    if not wanted.reason:
        raise RefusedError("REASON_MISSING", "say why supply is kept on", "reason")
    if (wanted.scope is Scope.SITE) is not (wanted.target == ""):
        raise RefusedError(
            "OVERRIDE_SCOPE", "name a point or a feeder; the site has no name", "target"
        )
    if wanted.scope is Scope.SITE and wanted.kind is OverrideKind.KEEP_CONNECTED:
        raise RefusedError(
            "OVERRIDE_SCOPE", "KEEP_CONNECTED is for a point or a feeder; take MAINTENANCE", "scope"
        )
    if wanted.until_utc_ms <= wanted.from_utc_ms:
        raise RefusedError("OVERRIDE_PAST", "the end of this override has passed already", "until")
    hours = HOURS_MAX.get(wanted.role, 0)
    if wanted.until_utc_ms - wanted.from_utc_ms > hours * HOUR_MS:
        raise RefusedError(
            "OVERRIDE_TOO_LONG", f"a {wanted.role} may answer for {hours} h at most", "until"
        )


class Overrides:
    """The overrides that stand, by number."""

    def __init__(self, standing: Iterable[Override] = ()) -> None:
        self._standing = {override.number: override for override in standing}

    def __bool__(self) -> bool:
        return bool(self._standing)

    @property
    def standing(self) -> tuple[Override, ...]:
        """Those that stand, oldest first."""
        return tuple(self._standing.values())

    def check_room(self) -> None:
        """Raise RefusedError OVERRIDES_FULL when no further one can stand."""
        if len(self._standing) >= OVERRIDES_MAX:
            raise RefusedError("OVERRIDES_FULL", f"{OVERRIDES_MAX} overrides stand already")

    def add(self, override: Override) -> None:
        """Let one stand."""
        self._standing[override.number] = override

    def named(self, number: int) -> Override:
        """The one of this number. Raises RefusedError OVERRIDE_UNKNOWN."""
        found = self._standing.get(number)
        if found is None:
            raise RefusedError("OVERRIDE_UNKNOWN", f"no override {number} stands", "override")
        return found

    def end(self, number: int) -> None:
        """Let one end."""
        self._standing.pop(number, None)

    def expire(self, utc_ms: int) -> tuple[Override, ...]:
        """Those whose time is over; they stand no longer."""
        over = tuple(one for one in self._standing.values() if utc_ms >= one.until_utc_ms)
        for override in over:
            del self._standing[override.number]
        return over

    def covering(self, service_point_id: str, feeder: str) -> Override | None:
        """The override that keeps this point on longest; None for none."""
        found = (one for one in self._standing.values() if one.covers(service_point_id, feeder))
        return max(found, key=lambda one: one.until_utc_ms, default=None)
