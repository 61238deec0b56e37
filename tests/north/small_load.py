"""Requests about load as the small site carries them out: what is kept, not what it does."""

from gateway.core.errors import RefusedError
from gateway.core.override import Override, OverrideKind, Scope, check_override
from gateway.core.requests import (
    EndOverride,
    EndShed,
    Request,
    RestoreAll,
    SetLimits,
    SetOverride,
    ShedLoad,
    UnlockOverload,
)
from gateway.store.db import Connection
from gateway.store.supply_orders import (
    PointLimits,
    end_override,
    put_limits,
    put_override,
    standing_overrides,
)
from tests.north.small_devices import DEVICE_BODIES, DeviceBody, decide_device
from tests.north.small_firmware import FIRMWARE_BODIES, FirmwareBody, execute_firmware

LoadBody = (
    DeviceBody
    | SetLimits
    | UnlockOverload
    | ShedLoad
    | EndShed
    | SetOverride
    | EndOverride
    | RestoreAll
)
LOAD_BODIES = (
    SetLimits,
    UnlockOverload,
    ShedLoad,
    EndShed,
    SetOverride,
    EndOverride,
    RestoreAll,
    *DEVICE_BODIES,
    *FIRMWARE_BODIES,
)


def execute_load(
    connection: Connection, request: Request, body: LoadBody | FirmwareBody, now: int
) -> dict[str, object]:
    """Keep limits and overrides; no point is locked out and nothing is shed here."""
    if isinstance(body, FirmwareBody):
        return execute_firmware(connection, request, body, now)
    return _execute(connection, request, body, now)


def _execute(
    connection: Connection, request: Request, body: LoadBody, now: int
) -> dict[str, object]:
    if isinstance(body, DeviceBody):
        return decide_device(connection, body)
    if isinstance(body, SetLimits):
        limits = PointLimits(
            body.service_point_id,
            body.limit_t1_w,
            body.limit_t2_w,
            body.limit_emergency_w,
            now,
            request.actor,
            body.reason,
        )
        put_limits(connection, limits, request.key)
        return {"service_point_id": body.service_point_id}
    if isinstance(body, SetOverride):
        wanted = Override(
            0,
            OverrideKind(body.kind),
            Scope(body.scope),
            body.target,
            now,
            body.until_utc_ms,
            body.reason,
            request.actor,
            request.role,
        )
        check_override(wanted)
        return {"override": put_override(connection, wanted, request.key).number}
    if isinstance(body, EndOverride):
        if body.number not in {one.number for one in standing_overrides(connection)}:
            raise RefusedError("OVERRIDE_UNKNOWN", f"no override {body.number} stands", "number")
        end_override(connection, body.number, utc_ms=now, actor=request.actor, reason=body.reason)
        return {"override": body.number}
    if isinstance(body, RestoreAll):
        return {"restored": False}
    if isinstance(body, UnlockOverload):
        raise RefusedError("NOT_LOCKED", "no lock-out for overload stands at this point")
    if body.feeder != "riser-a":
        raise RefusedError("FEEDER_UNKNOWN", f"no meter is on feeder {body.feeder!r}", "feeder")
    if isinstance(body, EndShed):
        raise RefusedError("NO_SHED", f"nobody ordered to shed on {body.feeder}", "feeder")
    return {"feeder": body.feeder}
