"""The one vocabulary of wishes from outside: recharge, disconnect, new tariff, …

HTTP, the command line, MQTT commands and OPC UA methods all make a `Request`; control executes
each exactly once and answers with an `Outcome`. North checks role against type before it stores
a request; control checks again with the same matrix, since it trusts nothing in `north.db`. The
bodies are in `wishes_money.py`, `wishes_supply.py` and `wishes_firmware.py`; this file is what they
share.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from enum import StrEnum
from typing import Final, get_args

from gateway.core.errors import RefusedError
from gateway.core.ledger import canonical_json
from gateway.core.roles import Role
from gateway.core.voucher import masked
from gateway.core.wishes_firmware import (
    AddImage,
    BeginRollout,
    PauseRollout,
    RemoveImage,
    ResumeRollout,
    StopRollout,
)
from gateway.core.wishes_money import (
    AddDebt,
    AddPoint,
    CancelVoucher,
    ChangeTariff,
    CloseAccount,
    CloseShift,
    ConfigureAccount,
    DecideTariff,
    InvokeEmergency,
    IssueVoucher,
    OpenAccount,
    OpenShift,
    PublishTariff,
    Recharge,
    RedeemVoucher,
    RemovePoint,
    ReverseTransaction,
    ServeNotice,
    Transfer,
    UnlockVouchers,
    WriteOff,
)
from gateway.core.wishes_nodes import IdentifyDevice, ReleaseDevice, RestartDevice, SetDevice
from gateway.core.wishes_supply import (
    AcknowledgeChanges,
    ApproveDevice,
    CommissionPoint,
    ConfirmClock,
    ConfirmReconnect,
    Disconnect,
    EndOverride,
    EndShed,
    Reconnect,
    RefuseDevice,
    ReleaseHalt,
    ReleaseQuarantine,
    ReleaseRecovery,
    ReplaceMeter,
    RestoreAll,
    SetLimits,
    SetOverride,
    ShedLoad,
    UnlockOverload,
)

__all__ = [
    "BODIES",
    "ID_PATTERN",
    "KEY_PATTERN",
    "AcknowledgeChanges",
    "AddDebt",
    "AddImage",
    "AddPoint",
    "ApproveDevice",
    "BeginRollout",
    "Body",
    "CancelVoucher",
    "ChangeTariff",
    "CloseAccount",
    "CloseShift",
    "CommissionPoint",
    "ConfigureAccount",
    "ConfirmClock",
    "ConfirmReconnect",
    "DecideTariff",
    "Disconnect",
    "EndOverride",
    "EndShed",
    "IdentifyDevice",
    "InvokeEmergency",
    "IssueVoucher",
    "OpenAccount",
    "OpenShift",
    "Outcome",
    "OutcomeStatus",
    "PauseRollout",
    "PublishTariff",
    "Recharge",
    "Reconnect",
    "RedeemVoucher",
    "RefuseDevice",
    "ReleaseDevice",
    "ReleaseHalt",
    "ReleaseQuarantine",
    "ReleaseRecovery",
    "RemoveImage",
    "RemovePoint",
    "ReplaceMeter",
    "Request",
    "RestartDevice",
    "RestoreAll",
    "ResumeRollout",
    "ReverseTransaction",
    "Role",
    "ServeNotice",
    "SetDevice",
    "SetLimits",
    "SetOverride",
    "ShedLoad",
    "StopRollout",
    "Transfer",
    "UnlockOverload",
    "UnlockVouchers",
    "WriteOff",
    "audited_body",
    "body_hash",
    "check_role",
    "decode_body",
    "encode_body",
]

ID_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
KEY_PATTERN: Final = re.compile(r"[\x21-\x7e]{1,128}")
MAX_TEXT: Final = 500


class OutcomeStatus(StrEnum):
    """How a request ended."""

    EXECUTED = "executed"
    REFUSED = "refused"
    EXPIRED = "expired"


Body = (
    Recharge
    | ReverseTransaction
    | OpenAccount
    | PublishTariff
    | IssueVoucher
    | RedeemVoucher
    | CancelVoucher
    | UnlockVouchers
    | DecideTariff
    | SetLimits
    | UnlockOverload
    | ShedLoad
    | EndShed
    | SetOverride
    | EndOverride
    | RestoreAll
    | ConfigureAccount
    | AddPoint
    | RemovePoint
    | ChangeTariff
    | CloseAccount
    | Transfer
    | InvokeEmergency
    | AddDebt
    | WriteOff
    | ServeNotice
    | OpenShift
    | CloseShift
    | Disconnect
    | Reconnect
    | ConfirmReconnect
    | CommissionPoint
    | ReleaseQuarantine
    | ReplaceMeter
    | ReleaseHalt
    | ReleaseRecovery
    | ConfirmClock
    | AcknowledgeChanges
    | ApproveDevice
    | RefuseDevice
    | SetDevice
    | IdentifyDevice
    | RestartDevice
    | ReleaseDevice
    | AddImage
    | RemoveImage
    | BeginRollout
    | PauseRollout
    | ResumeRollout
    | StopRollout
)
# From the union itself: what has no entry here could be asked for and never be stored.
BODIES: Final[Mapping[str, type[Body]]] = {kind.TYPE: kind for kind in get_args(Body)}
MAX_DOCUMENT: Final = 64_000
INT64_MAX: Final = 2**63 - 1
DOCUMENT_FIELDS: Final = frozenset({"document", "terms"})
SUMMARY_FIELDS: Final = frozenset({"replay"})
MAX_SUMMARY: Final = 4_000
# How many names a list of them has, at least and at most.
NAMES: Final = (1, 8)
NAMES_OF: Final[Mapping[str, tuple[int, int]]] = {"device_ids": (0, 1_000)}
DIGEST_PATTERN: Final = re.compile(r"[0-9a-f]{64}")
ID_FIELDS: Final = frozenset(
    {
        "account_id",
        "from_account_id",
        "to_account_id",
        "service_point_id",
        "meter_id",
        "tariff_id",
        "debt_id",
        "device_id",
        "drawer",
    }
)


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
    """What control made of a request; stored with its effect in one commit.

    `place` names the field that a refusal is about, empty where it is about none.
    """

    key: str
    type: str
    body_hash: str
    status: OutcomeStatus
    code: str
    message: str
    result: Mapping[str, object]
    utc_ms: int
    place: str = ""


def encode_body(body: Body) -> dict[str, object]:
    """The body as plain JSON values.

    Fields that a later version of this program added (`LATER`) are left out while they have their
    default: a request that was made before keeps its hash, so that its repeat is no conflict.
    """
    later: frozenset[str] = getattr(body, "LATER", frozenset())
    defaults = {field.name: field.default for field in fields(body)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(body).items()
        if name not in later or value != defaults[name]
    }


def audited_body(body: Body) -> dict[str, object]:
    """The body as it may stand in the audit record: what is worth money to know is masked."""
    plain = encode_body(body)
    if isinstance(body, RedeemVoucher):
        plain["token"] = masked(body.token)
    return plain


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
    limit = MAX_DOCUMENT if name in DOCUMENT_FIELDS else MAX_TEXT
    if name in SUMMARY_FIELDS:
        limit = MAX_SUMMARY
    if not isinstance(value, str) or len(value) > limit:
        raise RefusedError("REQUEST_FIELD", f"expected text of at most {limit} characters", name)
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise RefusedError("REQUEST_FIELD", "text with half a character cannot be stored", name)
    if name in ID_FIELDS and not ID_PATTERN.fullmatch(value):
        raise RefusedError(
            "REQUEST_FIELD", "an id has lower-case letters, digits and dashes, at most 63", name
        )
    if name == "sha256" and not DIGEST_PATTERN.fullmatch(value):
        raise RefusedError("REQUEST_FIELD", "expected a SHA-256: 64 hex digits, small", name)
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


def _names(name: str, value: object) -> tuple[str, ...]:
    least, most = NAMES_OF.get(name, NAMES)
    if not isinstance(value, list | tuple) or not least <= len(value) <= most:
        raise RefusedError("REQUEST_FIELD", f"expected a list of {least} to {most} names", name)
    for item in value:
        if not isinstance(item, str) or not ID_PATTERN.fullmatch(item):
            raise RefusedError(
                "REQUEST_FIELD", "a name has lower-case letters, digits and dashes", name
            )
    if len(set(value)) != len(value):
        raise RefusedError("REQUEST_FIELD", "a name stands twice", name)
    return tuple(value)


_CHECKS: Final[Mapping[str, Callable[[str, object], object]]] = {
    "str": _text,
    "int": _integer,
    "bool": _truth,
    "tuple[int, ...]": _integers,
    "tuple[str, ...]": _names,
}
