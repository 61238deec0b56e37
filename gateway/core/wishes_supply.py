"""Wishes about supply, meters and the clock; see `requests.py`."""

from dataclasses import dataclass
from typing import ClassVar

from gateway.core.roles import Role


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Open the supply for a stated reason (MANUAL); stays until Reconnect."""

    TYPE: ClassVar[str] = "disconnect"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER, Role.TECHNICIAN})
    service_point_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Clear the MANUAL reason; supply follows its own rules (credit, confirmation)."""

    TYPE: ClassVar[str] = "reconnect"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER, Role.TECHNICIAN})
    service_point_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ConfirmReconnect:
    """A person at the point says that supply may be closed now."""

    TYPE: ClassVar[str] = "confirm_reconnect"
    ROLES: ClassVar[frozenset[Role]] = frozenset(
        {Role.TENANT, Role.OPERATOR, Role.MANAGER, Role.TECHNICIAN}
    )
    service_point_id: str


@dataclass(frozen=True, slots=True)
class CommissionPoint:
    """Say that a service point's wiring was proved: from now on supply is enforced there."""

    TYPE: ClassVar[str] = "commission_point"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.TECHNICIAN, Role.MANAGER})
    service_point_id: str


@dataclass(frozen=True, slots=True)
class ReleaseQuarantine:
    """Decide on held energy of a meter: charge it (`accept`) or rebase without charge."""

    TYPE: ClassVar[str] = "release_quarantine"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    meter_id: str
    accept: bool
    reason: str


@dataclass(frozen=True, slots=True)
class ReplaceMeter:
    """Exchange the device behind a meter id: closing registers of the old, opening of the new."""

    TYPE: ClassVar[str] = "replace_meter"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER, Role.TECHNICIAN})
    meter_id: str
    closing_wh: tuple[int, ...]
    opening_wh: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class ReleaseHalt:
    """One of two managers releases a mass-cut halt."""

    TYPE: ClassVar[str] = "release_halt"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    reason: str


@dataclass(frozen=True, slots=True)
class ReleaseRecovery:
    """A manager has reconciled the site after a restore: cuts for credit go on."""

    TYPE: ClassVar[str] = "release_recovery"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    reason: str


@dataclass(frozen=True, slots=True)
class ConfirmClock:
    """A person confirms that the gateway's wall clock is right."""

    TYPE: ClassVar[str] = "confirm_clock"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER, Role.ADMIN, Role.TECHNICIAN})
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AcknowledgeChanges:
    """Answer for a meter's signs of tampering; with `for_s` announce work of so many seconds."""

    TYPE: ClassVar[str] = "acknowledge_changes"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.TECHNICIAN, Role.MANAGER})
    meter_id: str
    reason: str
    for_s: int = 0
