"""The one vocabulary of wishes from outside: recharge, disconnect, new tariff, …

HTTP, the command line, MQTT commands and OPC UA methods all make a `Request`; control executes
each exactly once and answers with an `Outcome`. North checks role against type before it stores
a request; control checks again with the same matrix, since it trusts nothing in `north.db`.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from enum import StrEnum
from typing import ClassVar, Final

from gateway.core.errors import RefusedError
from gateway.core.ledger import canonical_json

ID_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
KEY_PATTERN: Final = re.compile(r"[\x21-\x7e]{1,128}")
MAX_TEXT: Final = 500


class Role(StrEnum):
    """Who may what (domain.md section 8)."""

    ADMIN = "admin"
    MANAGER = "manager"
    OPERATOR = "operator"
    TECHNICIAN = "technician"
    AUDITOR = "auditor"
    TENANT = "tenant"
    DEVICE = "device"


class OutcomeStatus(StrEnum):
    """How a request ended."""

    EXECUTED = "executed"
    REFUSED = "refused"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Recharge:
    """Credit an account with money that was taken in."""

    TYPE: ClassVar[str] = "recharge"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.OPERATOR, Role.MANAGER})
    account_id: str
    amount_nano: int
    provider: str = "counter"
    payment_reference: str = ""


@dataclass(frozen=True, slots=True)
class ReverseTransaction:
    """Undo one recharge by a linked reversal; at most once."""

    TYPE: ClassVar[str] = "reverse_transaction"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    transaction_seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Open the supply for a stated reason; stays until Reconnect.

    `cause` is MANUAL, SAFETY, LEGAL or TAMPER (the last two a manager's). `owner` names who alone
    takes it back, such as one switch proof; empty is anybody.
    """

    TYPE: ClassVar[str] = "disconnect"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER, Role.TECHNICIAN})
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
class OpenAccount:
    """Open a prepaid account on a service point under a published tariff."""

    TYPE: ClassVar[str] = "open_account"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.OPERATOR, Role.MANAGER})
    account_id: str
    service_point_id: str
    tariff_id: str
    name: str = ""
    opening_balance_nano: int = 0
    disablement_threshold_nano: int = 0


@dataclass(frozen=True, slots=True)
class PublishTariff:
    """Publish a new immutable version of a tariff. `document` is its JSON text."""

    TYPE: ClassVar[str] = "publish_tariff"
    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.MANAGER})
    document: str


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


Body = (
    Recharge
    | ReverseTransaction
    | Disconnect
    | Reconnect
    | ConfirmReconnect
    | OpenAccount
    | PublishTariff
    | CommissionPoint
    | ReleaseQuarantine
    | ReplaceMeter
    | ReleaseHalt
    | ReleaseRecovery
    | ConfirmClock
    | SetLimits
    | UnlockOverload
    | ShedLoad
    | EndShed
    | SetOverride
    | EndOverride
    | RestoreAll
)
BODIES: Final[Mapping[str, type[Body]]] = {
    kind.TYPE: kind
    for kind in (
        Recharge,
        ReverseTransaction,
        Disconnect,
        Reconnect,
        ConfirmReconnect,
        OpenAccount,
        PublishTariff,
        CommissionPoint,
        ReleaseQuarantine,
        ReplaceMeter,
        ReleaseHalt,
        ReleaseRecovery,
        ConfirmClock,
        SetLimits,
        UnlockOverload,
        ShedLoad,
        EndShed,
        SetOverride,
        EndOverride,
        RestoreAll,
    )
}
MAX_DOCUMENT: Final = 64_000
INT64_MAX: Final = 2**63 - 1
ID_FIELDS: Final = frozenset({"account_id", "service_point_id", "meter_id", "tariff_id"})


@dataclass(frozen=True, slots=True)
class Request:
    """A wish with who made it. `key` is the caller's idempotency key, unique for ever.

    `expires_utc_ms` is set for switching (a late cut or closing is worse than none), never for
    money.
    """

    key: str
    body: Body
    actor: str
    role: Role
    source: str
    created_utc_ms: int
    expires_utc_ms: int | None = None
    approver: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What control made of a request; stored with its effect in one commit."""

    key: str
    type: str
    body_hash: str
    status: OutcomeStatus
    code: str
    message: str
    result: Mapping[str, object]
    utc_ms: int


def encode_body(body: Body) -> dict[str, object]:
    """The body as plain JSON values."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(body).items()
    }


def body_hash(body: Body) -> str:
    """SHA-256 hex over type and canonical body: tells a repeat from a conflict."""
    return hashlib.sha256(canonical_json([body.TYPE, encode_body(body)])).hexdigest()


def decode_body(kind: str, document: Mapping[str, object]) -> Body:
    """Rebuild a body from JSON values, checking every field's type, length and range.

    Raises RefusedError (REQUEST_TYPE, REQUEST_FIELD) naming the field.
    """
    body_class = BODIES.get(kind)
    if body_class is None:
        raise RefusedError("REQUEST_TYPE", f"unknown request type {kind!r}", "type")
    known = {field.name: field for field in fields(body_class)}
    for name in document:
        if name not in known:
            raise RefusedError("REQUEST_FIELD", f"unknown field {name!r}", str(name))
    values: dict[str, object] = {}
    for name, field in known.items():
        if name in document:
            values[name] = _CHECKS[str(_type_name(field.type))](name, document[name])
        elif field.default is MISSING:
            raise RefusedError("REQUEST_FIELD", f"field {name!r} is missing", name)
    return body_class(**values)  # type: ignore[arg-type]


def check_role(body: Body, role: Role) -> None:
    """Raise RefusedError FORBIDDEN unless `role` may make this request."""
    if role not in body.ROLES:
        allowed = ", ".join(sorted(body.ROLES))
        raise RefusedError("FORBIDDEN", f"role {role} may not {body.TYPE}; allowed: {allowed}")


def _type_name(annotation: object) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _text(name: str, value: object) -> str:
    limit = MAX_DOCUMENT if name == "document" else MAX_TEXT
    if not isinstance(value, str) or len(value) > limit:
        raise RefusedError("REQUEST_FIELD", f"expected text of at most {limit} characters", name)
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise RefusedError("REQUEST_FIELD", "text with half a character cannot be stored", name)
    if name in ID_FIELDS and not ID_PATTERN.fullmatch(value):
        raise RefusedError(
            "REQUEST_FIELD", "an id has lower-case letters, digits and dashes, at most 63", name
        )
    if name == "reason" and value != value.strip():
        return value.strip()
    return value


def _integer(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > INT64_MAX:
        raise RefusedError("REQUEST_FIELD", "expected a 64-bit integer", name)
    return value


def _truth(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise RefusedError("REQUEST_FIELD", "expected true or false", name)
    return value


def _integers(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= 8:
        raise RefusedError("REQUEST_FIELD", "expected a list of 1 to 8 integers", name)
    return tuple(_integer(name, item) for item in value)


_CHECKS: Final[Mapping[str, Callable[[str, object], object]]] = {
    "str": _text,
    "int": _integer,
    "bool": _truth,
    "tuple[int, ...]": _integers,
}
