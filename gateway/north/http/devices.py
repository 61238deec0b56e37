"""ESP32 nodes by device id: who was heard, who waits to be approved, what each told last."""

from collections.abc import Mapping, Sequence
from typing import Annotated, cast

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from gateway.core.errors import RefusedError
from gateway.core.lease import UNLIMITED_WH
from gateway.core.requests import ApproveDevice, RefuseDevice
from gateway.north.http.auth import NOT_YET_BOUND, VIEWERS, Caller, access
from gateway.north.http.context import context_of
from gateway.north.http.forms import PREFIX, Key, ReasonForm, rfc3339
from gateway.north.http.results import RequestStatus, wish_response
from gateway.north.wishes import submit
from gateway.store.devices import DeviceRecord

router = APIRouter(tags=["devices"])

DeviceName = Annotated[
    str, Path(pattern=r"^[a-z0-9][a-z0-9-]{1,31}$", description="Device id of a node")
]


class LeaseView(BaseModel):
    """The credit lease that a node says to hold."""

    cutoff_wh: int | None = Field(description="Counter at which it opens; null: at none")
    expires_at: str


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


class DeviceList(BaseModel):
    """All devices on record, by id."""

    items: list[DeviceView]


class ApprovalForm(BaseModel):
    """Which meter a device is."""

    meter_id: str = Field(min_length=1, max_length=63, description="A node of the configuration")


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
    )


def _lease(kept: Sequence[object] | None) -> LeaseView | None:
    if kept is None:
        return None
    _, _, cutoff_wh, expires_s = cast("tuple[str, int, int, int]", tuple(kept))
    return LeaseView(
        cutoff_wh=None if cutoff_wh == UNLIMITED_WH else cutoff_wh,
        expires_at=rfc3339(expires_s * 1_000),
    )
