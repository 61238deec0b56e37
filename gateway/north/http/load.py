"""Load: limits and lock-outs of points, shedding of feeders, overrides, restoring the site."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request
from pydantic import AwareDatetime, BaseModel, Field, StrictInt
from starlette.responses import Response

from gateway.core.limiter import LIMIT_MAX_W
from gateway.core.override import Scope
from gateway.core.requests import (
    EndOverride,
    EndShed,
    RestoreAll,
    SetLimits,
    SetOverride,
    ShedLoad,
    UnlockOverload,
)
from gateway.core.shedding import PRIORITY_MAX
from gateway.north.http.auth import NOT_YET_BOUND, VIEWERS, Caller, access
from gateway.north.http.context import context_of
from gateway.north.http.forms import (
    ID_EXPRESSION,
    INT64_MAX,
    PAGE_DEFAULT,
    PREFIX,
    Cursor,
    Key,
    Limit,
    Page,
    ReasonForm,
    decode_number,
    encode_cursor,
    rfc3339,
)
from gateway.north.http.meters import MeterId, entry_of
from gateway.north.http.results import RequestStatus, wish_response
from gateway.north.wishes import SWITCH_EXPIRY_MS, submit

router = APIRouter(tags=["supply"])

FeederName = Annotated[str, Path(pattern=ID_EXPRESSION, max_length=63)]
OverrideNumber = Annotated[int, Path(ge=1, le=INT64_MAX)]
Watts = Annotated[StrictInt, Field(ge=0, le=LIMIT_MAX_W)]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Kind(StrEnum):
    """What an override may be asked for."""

    KEEP_CONNECTED = "KEEP_CONNECTED"
    MAINTENANCE = "MAINTENANCE"


class LimitsForm(ReasonForm):
    """Load limits in W; 0 is none. They stand in place of the configuration's."""

    limit_t1_w: Watts = Field(description="While tariff register 1 counts (grid)")
    limit_t2_w: Watts = Field(description="While tariff register 2 counts (generator)")
    limit_emergency_w: Watts = Field(description="While emergency credit is in use, if lower")


class LimitsOrder(BaseModel):
    """Load limits as a person set them."""

    limit_t1_w: int
    limit_t2_w: int
    limit_emergency_w: int
    set_at: str
    set_by: str
    reason: str


class LimitsView(BaseModel):
    """The load limits of a meter's point."""

    meter_id: str
    service_point_id: str
    ordered: LimitsOrder | None = Field(description="null: the configuration's hold")


class ShedForm(ReasonForm):
    """How far to shed: down to a power, or every point of a priority below one."""

    to_w: Annotated[StrictInt, Field(ge=0, le=1_000 * LIMIT_MAX_W)] | None = None
    below_priority: Annotated[StrictInt, Field(ge=2, le=PRIORITY_MAX + 1)] | None = None


class OverrideForm(ReasonForm):
    """Which supplies are kept from being cut, and until when."""

    kind: Kind
    scope: Scope
    target: str = Field(
        default="", max_length=63, description="Service point or feeder; empty for the site"
    )
    until: AwareDatetime


class OverrideView(BaseModel):
    """An override that stands."""

    number: int
    kind: str
    scope: Scope
    target: str
    since: str
    until: str
    reason: str
    owner: str
    role: str


class OverridePage(Page):
    """Overrides that stand, oldest first."""

    items: list[OverrideView]


class RestorationForm(ReasonForm):
    """Until when nobody is cut for credit or shed after a restoration."""

    until: AwareDatetime


@router.get(f"{PREFIX}/meters/{{meter_id}}/limits", response_model=LimitsView, **access(VIEWERS))
async def show_limits(request: Request, meter_id: MeterId) -> LimitsView:
    """The load limits that a person set at a meter's point."""
    context = context_of(request)
    point_id = entry_of(context, meter_id).service_point_id
    kept = await context.records.limits(point_id)
    ordered = None
    if kept is not None:
        ordered = LimitsOrder(
            limit_t1_w=kept.t1_w,
            limit_t2_w=kept.t2_w,
            limit_emergency_w=kept.emergency_w,
            set_at=rfc3339(kept.utc_ms),
            set_by=kept.actor,
            reason=kept.reason,
        )
    return LimitsView(meter_id=meter_id, service_point_id=point_id, ordered=ordered)


@router.post(
    f"{PREFIX}/meters/{{meter_id}}/limits",
    status_code=201,
    response_model=RequestStatus,
    **access(SetLimits.ROLES - NOT_YET_BOUND),
)
async def set_limits(
    request: Request, caller: Caller, key: Key, meter_id: MeterId, form: LimitsForm
) -> Response:
    """Limit the power of a meter's point, from now on."""
    context = context_of(request)
    body = SetLimits(
        entry_of(context, meter_id).service_point_id,
        form.limit_t1_w,
        form.limit_t2_w,
        form.limit_emergency_w,
        form.reason,
    )
    return wish_response(await submit(context, caller, body, key), context.settings.currency)


@router.post(
    f"{PREFIX}/meters/{{meter_id}}/overload-release",
    status_code=201,
    response_model=RequestStatus,
    **access(UnlockOverload.ROLES - NOT_YET_BOUND),
)
async def unlock(
    request: Request, caller: Caller, key: Key, meter_id: MeterId, form: ReasonForm
) -> Response:
    """End the lock-out of a point that went over its limit too often."""
    context = context_of(request)
    body = UnlockOverload(entry_of(context, meter_id).service_point_id, form.reason)
    answer = await submit(context, caller, body, key, expiry_ms=SWITCH_EXPIRY_MS)
    return wish_response(answer, context.settings.currency)


@router.post(
    f"{PREFIX}/feeders/{{feeder}}/shedding",
    status_code=201,
    response_model=RequestStatus,
    **access(ShedLoad.ROLES - NOT_YET_BOUND),
)
async def shed(
    request: Request, caller: Caller, key: Key, feeder: FeederName, form: ShedForm
) -> Response:
    """Shed load of a feeder, the points of the lowest priority first, until the order is ended."""
    context = context_of(request)
    body = ShedLoad(
        feeder,
        form.reason,
        -1 if form.to_w is None else form.to_w,
        form.below_priority or 0,
    )
    answer = await submit(context, caller, body, key, expiry_ms=SWITCH_EXPIRY_MS)
    return wish_response(answer, context.settings.currency)


@router.post(
    f"{PREFIX}/feeders/{{feeder}}/shedding/end",
    status_code=201,
    response_model=RequestStatus,
    **access(EndShed.ROLES - NOT_YET_BOUND),
)
async def end_shed(
    request: Request, caller: Caller, key: Key, feeder: FeederName, form: ReasonForm
) -> Response:
    """End an order to shed: the points come back in the opposite order."""
    context = context_of(request)
    body = EndShed(feeder, form.reason)
    answer = await submit(context, caller, body, key, expiry_ms=SWITCH_EXPIRY_MS)
    return wish_response(answer, context.settings.currency)


@router.get(f"{PREFIX}/overrides", response_model=OverridePage, **access(VIEWERS))
async def list_overrides(
    request: Request, limit: Limit = PAGE_DEFAULT, cursor: Cursor = ""
) -> OverridePage:
    """The overrides that stand: who keeps which supplies from being cut, and until when."""
    context = context_of(request)
    after = decode_number("overrides", cursor, 0)
    rest = [one for one in await context.records.overrides() if one.number > after]
    chosen = rest[:limit]
    last = chosen[-1].number if len(rest) > limit else None
    return OverridePage(
        items=[
            OverrideView(
                number=one.number,
                kind=one.kind.value,
                scope=one.scope,
                target=one.target,
                since=rfc3339(one.from_utc_ms),
                until=rfc3339(one.until_utc_ms),
                reason=one.reason,
                owner=one.actor,
                role=one.role.value,
            )
            for one in chosen
        ],
        next_cursor=None if last is None else encode_cursor("overrides", last),
    )


@router.post(
    f"{PREFIX}/overrides",
    status_code=201,
    response_model=RequestStatus,
    **access(SetOverride.ROLES - NOT_YET_BOUND),
)
async def set_override(request: Request, caller: Caller, key: Key, form: OverrideForm) -> Response:
    """Keep supplies from being cut by rules until an end; brings no supply back.

    A technician answers for 8 hours at most, a manager for 72. The result's `override` is the
    number under which it can be ended.
    """
    context = context_of(request)
    body = SetOverride(
        form.kind.value, form.scope.value, form.target, utc_ms_of(form.until), form.reason
    )
    answer = await submit(context, caller, body, key, expiry_ms=SWITCH_EXPIRY_MS)
    return wish_response(answer, context.settings.currency)


@router.post(
    f"{PREFIX}/overrides/{{number}}/end",
    status_code=201,
    response_model=RequestStatus,
    **access(EndOverride.ROLES - NOT_YET_BOUND),
)
async def end_override(
    request: Request, caller: Caller, key: Key, number: OverrideNumber, form: ReasonForm
) -> Response:
    """End an override before its time: what it held back is cut."""
    context = context_of(request)
    body = EndOverride(number, form.reason)
    answer = await submit(context, caller, body, key, expiry_ms=SWITCH_EXPIRY_MS)
    return wish_response(answer, context.settings.currency)


@router.post(
    f"{PREFIX}/restoration",
    status_code=201,
    response_model=RequestStatus,
    **access(RestoreAll.ROLES - NOT_YET_BOUND),
)
async def restore_all(
    request: Request, caller: Caller, key: Key, form: RestorationForm
) -> Response:
    """Be one of the two managers who bring every supply back that rules had cut."""
    context = context_of(request)
    body = RestoreAll(utc_ms_of(form.until), form.reason)
    answer = await submit(context, caller, body, key, expiry_ms=SWITCH_EXPIRY_MS)
    return wish_response(answer, context.settings.currency)


def utc_ms_of(moment: datetime) -> int:
    """Milliseconds since 1970 UTC, exactly."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)
