"""Wishes about supply, meters and the clock; see `requests.py`."""

from dataclasses import dataclass
from typing import ClassVar

from gateway.core.roles import Role


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Open the supply for a stated reason; stays until Reconnect.

    `cause` is MANUAL, SAFETY, LEGAL or TAMPER (the last two a manager's). `owner` names who alone
    takes it back, such as one switch proof; empty is anybody.
    """

    TYPE: ClassVar[str] = "disconnect"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER, Role.TECHNICIAN})
    LATER: ClassVar[frozenset[str]] = frozenset({"cause", "owner"})
    service_point_id: str
    reason: str
    cause: str = "MANUAL"
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Clear the cause of a disconnection; supply follows its own rules (credit, confirmation).

    With an `owner` only what that owner had set is cleared, without one everybody's.
    """

    TYPE: ClassVar[str] = "reconnect"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER, Role.TECHNICIAN})
    LATER: ClassVar[frozenset[str]] = frozenset({"cause", "owner"})
    service_point_id: str
    reason: str = ""
    cause: str = "MANUAL"
    owner: str = ""


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


@dataclass(frozen=True, slots=True)
class SetLimits:
    """Limit the power of a point: by tariff register, and while emergency credit is in use.

    W; 0 is no limit. They stand in place of the configuration's from now on.
    """

    TYPE: ClassVar[str] = "set_limits"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER, Role.TECHNICIAN})
    service_point_id: str
    limit_t1_w: int
    limit_t2_w: int
    limit_emergency_w: int
    reason: str


@dataclass(frozen=True, slots=True)
class UnlockOverload:
    """End the lock-out of a point that went over its limit too often."""

    TYPE: ClassVar[str] = "unlock_overload"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER, Role.TECHNICIAN})
    service_point_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ShedLoad:
    """Shed load of a feeder: down to `to_w`, or every point of a priority below `below_priority`.

    Exactly one of the two is given; -1 and 0 stand for not given.
    """

    TYPE: ClassVar[str] = "shed_load"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER, Role.TECHNICIAN})
    feeder: str
    reason: str
    to_w: int = -1
    below_priority: int = 0


@dataclass(frozen=True, slots=True)
class EndShed:
    """End an order to shed: points come back one after the other."""

    TYPE: ClassVar[str] = "end_shed"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER, Role.TECHNICIAN})
    feeder: str
    reason: str


@dataclass(frozen=True, slots=True)
class SetOverride:
    """Keep supplies from being cut by rules until an end (core/override.py).

    `kind` is KEEP_CONNECTED or MAINTENANCE, `scope` point, feeder or site, `target` the id of the
    point or feeder.
    """

    TYPE: ClassVar[str] = "set_override"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER, Role.TECHNICIAN})
    kind: str
    scope: str
    target: str
    until_utc_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class EndOverride:
    """End an override before its time."""

    TYPE: ClassVar[str] = "end_override"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER, Role.TECHNICIAN})
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class RestoreAll:
    """Be one of the two managers who bring every supply back that a rule had cut, in an emergency.

    Until the end nobody is cut for credit or shed; closing is staggered as always.
    """

    TYPE: ClassVar[str] = "restore_all"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    until_utc_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class ApproveDevice:
    """Say that a device (an ESP32 node) is the one of a meter: from now on its readings count."""

    TYPE: ClassVar[str] = "approve_device"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.TECHNICIAN, Role.MANAGER})
    device_id: str
    meter_id: str


@dataclass(frozen=True, slots=True)
class RefuseDevice:
    """Say that a device is not to be heard; one that was approved loses its secret by it."""

    TYPE: ClassVar[str] = "refuse_device"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.TECHNICIAN, Role.MANAGER})
    device_id: str
    reason: str
