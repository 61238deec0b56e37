"""ESP32 nodes by device id: who was heard, who waits to be approved, what each told last."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, cast

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field, JsonValue, StrictBool, StrictInt
from starlette.responses import Response

from gateway.core.errors import RefusedError
from gateway.core.lease import UNLIMITED_WH
from gateway.core.node_settings import MODULE_ADDRESS_MAX, NUMBERS, check_settings
from gateway.core.requests import (
    ApproveDevice,
    IdentifyDevice,
    RefuseDevice,
    ReleaseDevice,
    RestartDevice,
    SetDevice,
)
from gateway.north.http.auth import NOT_YET_BOUND, VIEWERS, Caller, access
from gateway.north.http.context import context_of
from gateway.north.http.forms import PREFIX, Form, Key, ReasonForm, rfc3339
from gateway.north.http.results import RequestStatus, wish_response
from gateway.north.wishes import PRESENT_EXPIRY_MS, submit
from gateway.store.devices import DeviceRecord

router = APIRouter(tags=["devices"])

DeviceName = Annotated[
    str, Path(pattern=r"^[a-z0-9][a-z0-9-]{1,31}$", description="Device id of a node")
]


class LeaseView(BaseModel):
    """The credit lease that a node says to hold."""

    cutoff_wh: int | None = Field(description="Counter at which it opens; null: at none")
    expires_at: str
    limit_w: int | None = Field(description="While the gateway is away; null: none")
    emergency_limit_w: int | None = Field(description="From `emergency_wh` on; null: none")
    emergency_wh: int | None = Field(description="Counter at which emergency credit begins")


class HeldView(BaseModel):
    """A module's counter that the node holds until a person has looked: `counter-release`."""

    counter_wh: int = Field(description="The module's last good counter")
    held_wh: int = Field(description="What it shows now")


class ModuleView(BaseModel):
    """One of several modules of a node; the first is the meter's, the others charge nobody."""

    address: int
    quality: str = Field(description="good, uncertain (its counter is held) or bad (silent)")
    energy_wh: int | None
    voltage_v: float | None
    current_a: float | None
    power_w: float | None
    held: bool


class DeviceView(BaseModel):
    """A device that was heard."""

    id: str
    status: str = Field(description="pending, approved, refused or quarantined")
    meter_id: str | None = Field(description="The meter that it serves, once it is approved")
    generation: int = Field(description="Of its secret; a new one revokes the one before")
    firmware: str
    first_seen_at: str
    last_seen_at: str = Field(description="Kept once a minute")
    note: str = Field(description="Who approved it, or why it is shut out")
    online: bool | None
    output: str | None = Field(description="closed or open; null where it has told none")
    can_be_cut: bool | None = Field(description="False: it has no relay; null: not known yet")
    reasons: list[str] = Field(description="Why its relay is open")
    waiting_records: int = Field(description="Readings that it keeps until they are taken")
    lease: LeaseView | None
    held: HeldView | None = Field(description="Null: no counter is held")
    modules: list[ModuleView] = Field(
        description="Where there are several; values are renewed once a minute, quality at once"
    )
    settings: dict[str, JsonValue] = Field(
        description="What it was told from here and took; the others are as provisioned"
    )


class DeviceList(BaseModel):
    """All devices on record, by id."""

    items: list[DeviceView]


class ApprovalForm(BaseModel):
    """Which meter a device is."""

    meter_id: str = Field(min_length=1, max_length=63, description="A node of the configuration")


class SettingsForm(Form):
    """Settings to change; the others stay."""

    settings: dict[str, JsonValue] = Field(
        min_length=1,
        max_length=len(NUMBERS) + 1,
        description="By name: whole numbers, and `modules` with 1 to 3 addresses",
    )


class IdentificationForm(Form):
    """How long the lamp blinks."""

    for_s: StrictInt = Field(default=60, ge=1, le=600)


class CounterForm(ReasonForm):
    """What a held counter is, and what was found at the module."""

    count: StrictBool = Field(
        description="true: the advance to it was energy; false: go on from it, nothing is charged"
    )
    module_address: StrictInt = Field(
        default=0, ge=0, le=MODULE_ADDRESS_MAX, description="0: the first module"
    )


@router.get(f"{PREFIX}/devices", response_model=DeviceList, **access(VIEWERS))
async def list_devices(request: Request) -> DeviceList:
    """Devices that were heard, pending ones included."""
    records = await context_of(request).records.devices()
    return DeviceList(items=[_view(record) for record in records.values()])


@router.get(f"{PREFIX}/devices/{{device_id}}", response_model=DeviceView, **access(VIEWERS))
async def show_device(request: Request, device_id: DeviceName) -> DeviceView:
    """One device."""
    record = (await context_of(request).records.devices()).get(device_id)
    if record is None:
        raise RefusedError("DEVICE_UNKNOWN", f"no device {device_id} was ever heard", "device_id")
    return _view(record)


@router.post(
    f"{PREFIX}/devices/{{device_id}}/approval",
    status_code=201,
    response_model=RequestStatus,
    **access(ApproveDevice.ROLES - NOT_YET_BOUND),
)
async def approve_device(
    request: Request, caller: Caller, key: Key, device_id: DeviceName, form: ApprovalForm
) -> Response:
    """Say that a device is the one of a meter: from now on its readings count."""
    context = context_of(request)
    body = ApproveDevice(device_id, form.meter_id)
    return wish_response(await submit(context, caller, body, key), context.settings.currency)


@router.post(
    f"{PREFIX}/devices/{{device_id}}/refusal",
    status_code=201,
    response_model=RequestStatus,
    **access(RefuseDevice.ROLES - NOT_YET_BOUND),
)
async def refuse_device(
    request: Request, caller: Caller, key: Key, device_id: DeviceName, form: ReasonForm
) -> Response:
    """Shut a device out; one that was approved has to be provisioned anew to come back."""
    context = context_of(request)
    body = RefuseDevice(device_id, form.reason)
    return wish_response(await submit(context, caller, body, key), context.settings.currency)


@router.post(
    f"{PREFIX}/devices/{{device_id}}/settings",
    status_code=201,
    response_model=RequestStatus,
    **access(SetDevice.ROLES - NOT_YET_BOUND),
)
async def set_device(
    request: Request, caller: Caller, key: Key, device_id: DeviceName, form: SettingsForm
) -> Response:
    """Change a node's settings; the result's `message` is the node's own.

    Expires unexecuted after two minutes, as the other commands to a node.
    """
    context = context_of(request)
    # Before it is stored anywhere: whatever was typed by mistake, it is no setting.
    document = json.dumps(check_settings(form.settings), sort_keys=True)
    body = SetDevice(device_id, document)
    answer = await submit(context, caller, body, key, expiry_ms=PRESENT_EXPIRY_MS)
    return wish_response(answer, context.settings.currency)


@router.post(
    f"{PREFIX}/devices/{{device_id}}/identification",
    status_code=201,
    response_model=RequestStatus,
    **access(IdentifyDevice.ROLES - NOT_YET_BOUND),
)
async def identify_device(
    request: Request, caller: Caller, key: Key, device_id: DeviceName, form: IdentificationForm
) -> Response:
    """Let a node's lamp blink quickly."""
    context = context_of(request)
    body = IdentifyDevice(device_id, form.for_s)
    answer = await submit(context, caller, body, key, expiry_ms=PRESENT_EXPIRY_MS)
    return wish_response(answer, context.settings.currency)


@router.post(
    f"{PREFIX}/devices/{{device_id}}/restart",
    status_code=201,
    response_model=RequestStatus,
    **access(RestartDevice.ROLES - NOT_YET_BOUND),
)
async def restart_device(
    request: Request, caller: Caller, key: Key, device_id: DeviceName
) -> Response:
    """Restart a node; its relay stays as it is."""
    context = context_of(request)
    answer = await submit(
        context, caller, RestartDevice(device_id), key, expiry_ms=PRESENT_EXPIRY_MS
    )
    return wish_response(answer, context.settings.currency)


@router.post(
    f"{PREFIX}/devices/{{device_id}}/counter-release",
    status_code=201,
    response_model=RequestStatus,
    **access(ReleaseDevice.ROLES - NOT_YET_BOUND),
)
async def release_device(
    request: Request, caller: Caller, key: Key, device_id: DeviceName, form: CounterForm
) -> Response:
    """Say that the counter which a node holds is its module's: an exchange, a reset, a jump."""
    context = context_of(request)
    body = ReleaseDevice(device_id, form.count, form.reason, form.module_address)
    answer = await submit(context, caller, body, key, expiry_ms=PRESENT_EXPIRY_MS)
    return wish_response(answer, context.settings.currency)


def _view(record: DeviceRecord) -> DeviceView:
    state: Mapping[str, object] = record.state
    relay = cast("bool | None", state.get("relay"))
    return DeviceView(
        id=record.device_id,
        status=record.status.value,
        meter_id=record.meter_id,
        generation=record.generation,
        firmware=record.firmware,
        first_seen_at=rfc3339(record.first_utc_ms),
        last_seen_at=rfc3339(record.seen_utc_ms),
        note=record.note,
        online=cast("bool | None", state.get("online")),
        output=None if relay is None else "closed" if relay else "open",
        can_be_cut=cast("bool | None", state.get("can_switch")),
        reasons=list(cast("Sequence[str]", state.get("reasons", ()))),
        waiting_records=cast("int", state.get("spooled", 0)),
        lease=_lease(cast("Sequence[object] | None", state.get("lease"))),
        held=cast("HeldView | None", state.get("held")),
        modules=cast("list[ModuleView]", state.get("modules", [])),
        settings=cast("dict[str, JsonValue]", state.get("settings", {})),
    )


def _lease(kept: Sequence[object] | None) -> LeaseView | None:
    if kept is None:
        return None
    # Rows of older programs have no limits.
    cutoff_wh, expires_s, *limits = cast("list[int]", [*kept[2:], 0, 0, 0])
    return LeaseView(
        cutoff_wh=None if cutoff_wh == UNLIMITED_WH else cutoff_wh,
        expires_at=rfc3339(expires_s * 1_000),
        limit_w=limits[0] or None,
        emergency_limit_w=limits[1] or None,
        emergency_wh=limits[2] or None,
    )
