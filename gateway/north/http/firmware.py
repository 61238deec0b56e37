"""Firmware of ESP32 nodes: signed images, and how they are rolled out in stages."""

import hashlib
from collections import Counter
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field, StrictInt
from starlette.responses import Response

from gateway.core.errors import RefusedError
from gateway.core.requests import (
    AddImage,
    BeginRollout,
    PauseRollout,
    RemoveImage,
    ResumeRollout,
    StopRollout,
)
from gateway.core.rollout_plan import (
    DEVICES_MAX,
    OBSERVE_S_MAX,
    OFFLINE_S_MAX,
    PARALLEL_MAX,
    STAGES_MAX,
    Member,
    Phase,
    Plan,
)
from gateway.north.http.auth import NOT_YET_BOUND, VIEWERS, Caller, access
from gateway.north.http.context import context_of
from gateway.north.http.forms import (
    INT64_MAX,
    PREFIX,
    Form,
    Key,
    ReasonForm,
    rfc3339,
    rfc3339_or_none,
)
from gateway.north.http.results import RequestStatus, wish_response
from gateway.north.records import RolloutFigures
from gateway.north.wishes import submit
from gateway.store.devices import DeviceRecord
from gateway.store.firmware import ImageRecord
from gateway.store.uploads import put_upload

router = APIRouter(tags=["firmware"])

DIGEST_EXPRESSION: Final = r"^[0-9a-f]{64}$"
ImageName = Annotated[
    str, Path(pattern=DIGEST_EXPRESSION, description="SHA-256 of the bundle, in hex")
]
RolloutNumber = Annotated[int, Path(ge=1, le=INT64_MAX)]
DeviceId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,31}$")]
PLAN: Final = Plan()
BUNDLE_BODY: Final = {
    "required": True,
    "description": "A signed bundle, as `firmware release` and `firmware sign` write it",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


class ImageView(BaseModel):
    """A signed image that nodes may be given."""

    sha256: str
    version: str
    hardware: str
    security: int = Field(description="Its security counter")
    size: int = Field(description="Bytes")
    signer: str = Field(description="Mark of the key that signed it")
    added_at: str
    added_by: str


class ImageList(BaseModel):
    """All images, oldest first."""

    items: list[ImageView]


class RolloutForm(Form):
    """Which image goes to which devices, and how."""

    image: str = Field(pattern=DIGEST_EXPRESSION, description="SHA-256 of an image")
    devices: list[DeviceId] | None = Field(
        default=None,
        min_length=1,
        max_length=DEVICES_MAX,
        description="Device ids, in the order of their turns; without it all approved ones",
    )
    stages: list[Annotated[StrictInt, Field(ge=0, le=100)]] = Field(
        default=list(PLAN.stages),
        min_length=1,
        max_length=STAGES_MAX,
        description="Rising percentages of the devices, the last 100; 0 is one device",
    )
    observe_s: Annotated[StrictInt, Field(ge=0, le=OBSERVE_S_MAX)] = Field(
        default=PLAN.observe_s, description="Seconds without a failure between two stages"
    )
    failures_max: Annotated[StrictInt, Field(ge=1, le=DEVICES_MAX)] = Field(
        default=PLAN.failures_max, description="So many devices that failed stop it"
    )
    parallel_max: Annotated[StrictInt, Field(ge=1, le=PARALLEL_MAX)] = Field(
        default=PLAN.parallel_max, description="So many devices at once"
    )
    offline_s: Annotated[StrictInt, Field(ge=1, le=OFFLINE_S_MAX)] = Field(
        default=PLAN.offline_s,
        description="So long a stage waits for devices that are not there",
    )


class PlanView(BaseModel):
    """How a roll-out goes on."""

    stages: list[int]
    observe_s: int
    failures_max: int
    parallel_max: int
    offline_s: int


class RolloutDevice(BaseModel):
    """Where one device stands."""

    id: str
    meter_id: str | None
    phase: Phase
    offset: int = Field(description="Bytes of the image that it has")
    code: str | None = Field(description="Why it failed or was left out")
    reason: str | None = Field(description="What it said to that")


class RolloutView(BaseModel):
    """A roll-out as a whole."""

    number: int
    state: str = Field(description="running, paused, stopped or completed")
    why: str | None = Field(description="Why it was stopped")
    image: str = Field(description="SHA-256 of the image")
    version: str
    hardware: str
    size: int = Field(description="Bytes of the image")
    plan: PlanView
    stage: int = Field(description="The stage that it is in, from 1")
    observed_s: int = Field(description="Of the time that it is observed before the next stage")
    begun_at: str
    begun_by: str
    ended_at: str | None
    counts: dict[Phase, int] = Field(description="Devices by phase")


class RolloutList(BaseModel):
    """Roll-outs, newest first; of those that have ended the last fifty."""

    items: list[RolloutView]


class RolloutDetail(RolloutView):
    """A roll-out with its devices in the order of their turns."""

    devices: list[RolloutDevice]


@router.get(f"{PREFIX}/firmware-images", response_model=ImageList, **access(VIEWERS))
async def list_images(request: Request) -> ImageList:
    """The images that nodes may be given."""
    images = await context_of(request).records.images()
    return ImageList(items=[_image_view(record) for record in images.values()])


@router.get(f"{PREFIX}/firmware-images/{{sha256}}", response_model=ImageView, **access(VIEWERS))
async def show_image(request: Request, sha256: ImageName) -> ImageView:
    """One image."""
    record = (await context_of(request).records.images()).get(sha256)
    if record is None:
        raise RefusedError("IMAGE_UNKNOWN", f"there is no image {sha256}", "image")
    return _image_view(record)


_ADD = access(AddImage.ROLES - NOT_YET_BOUND)


@router.post(
    f"{PREFIX}/firmware-images",
    status_code=201,
    response_model=RequestStatus,
    dependencies=_ADD["dependencies"],
    openapi_extra={**_ADD["openapi_extra"], "requestBody": BUNDLE_BODY},
)
async def add_image(request: Request, caller: Caller, key: Key) -> Response:
    """Keep a signed bundle; the same one again changes nothing.

    Its form, every file and the signature are checked against the keys in the configuration.
    """
    context = context_of(request)
    content = await request.body()
    if not content:
        raise RefusedError("VALIDATION", "the body is the bundle itself, and it is empty", "body")
    sha256 = hashlib.sha256(content).hexdigest()
    answer = await submit(
        context,
        caller,
        AddImage(sha256, len(content)),
        key,
        also=partial(put_upload, sha256=sha256, content=content),
    )
    return wish_response(answer, context.settings.currency)


@router.delete(
    f"{PREFIX}/firmware-images/{{sha256}}",
    status_code=201,
    response_model=RequestStatus,
    **access(RemoveImage.ROLES - NOT_YET_BOUND),
)
async def remove_image(request: Request, caller: Caller, key: Key, sha256: ImageName) -> Response:
    """Forget an image that no roll-out needs."""
    context = context_of(request)
    answer = await submit(context, caller, RemoveImage(sha256), key)
    return wish_response(answer, context.settings.currency)


@router.get(f"{PREFIX}/firmware-rollouts", response_model=RolloutList, **access(VIEWERS))
async def list_rollouts(request: Request) -> RolloutList:
    """Roll-outs, newest first."""
    found = await context_of(request).records.rollouts()
    return RolloutList(items=[RolloutView.model_validate(_fields(one)) for one in found])


@router.get(
    f"{PREFIX}/firmware-rollouts/{{number}}", response_model=RolloutDetail, **access(VIEWERS)
)
async def show_rollout(request: Request, number: RolloutNumber) -> RolloutDetail:
    """One roll-out with all of its devices."""
    records = context_of(request).records
    found = await records.rollout(number)
    if found is None:
        raise RefusedError("ROLLOUT_UNKNOWN", f"there is no roll-out {number}", "rollout")
    devices = await records.devices()
    shown = [_device(member, devices.get(member.device_id)) for member in found.members]
    return RolloutDetail.model_validate({**_fields(found), "devices": shown})


@router.post(
    f"{PREFIX}/firmware-rollouts",
    status_code=201,
    response_model=RequestStatus,
    **access(BeginRollout.ROLES - NOT_YET_BOUND),
)
async def begin_rollout(request: Request, caller: Caller, key: Key, form: RolloutForm) -> Response:
    """Bring an image to nodes, stage by stage; the result's `rollout` is its number."""
    context = context_of(request)
    body = BeginRollout(
        sha256=form.image,
        stages=tuple(form.stages),
        observe_s=form.observe_s,
        failures_max=form.failures_max,
        parallel_max=form.parallel_max,
        offline_s=form.offline_s,
        device_ids=tuple(form.devices or ()),
    )
    return wish_response(await submit(context, caller, body, key), context.settings.currency)


@router.post(
    f"{PREFIX}/firmware-rollouts/{{number}}/pause",
    status_code=201,
    response_model=RequestStatus,
    **access(PauseRollout.ROLES - NOT_YET_BOUND),
)
async def pause_rollout(
    request: Request, caller: Caller, key: Key, number: RolloutNumber, form: ReasonForm
) -> Response:
    """Begin and serve no node for now; what nodes install already they finish."""
    context = context_of(request)
    answer = await submit(context, caller, PauseRollout(number, form.reason), key)
    return wish_response(answer, context.settings.currency)


@router.post(
    f"{PREFIX}/firmware-rollouts/{{number}}/resume",
    status_code=201,
    response_model=RequestStatus,
    **access(ResumeRollout.ROLES - NOT_YET_BOUND),
)
async def resume_rollout(
    request: Request, caller: Caller, key: Key, number: RolloutNumber, form: ReasonForm
) -> Response:
    """Go on with a roll-out that was paused."""
    context = context_of(request)
    answer = await submit(context, caller, ResumeRollout(number, form.reason), key)
    return wish_response(answer, context.settings.currency)


@router.post(
    f"{PREFIX}/firmware-rollouts/{{number}}/stop",
    status_code=201,
    response_model=RequestStatus,
    **access(StopRollout.ROLES - NOT_YET_BOUND),
)
async def stop_rollout(
    request: Request, caller: Caller, key: Key, number: RolloutNumber, form: ReasonForm
) -> Response:
    """End a roll-out for good; nodes that did not install yet stay as they are."""
    context = context_of(request)
    answer = await submit(context, caller, StopRollout(number, form.reason), key)
    return wish_response(answer, context.settings.currency)


def _image_view(record: ImageRecord) -> ImageView:
    image = record.image
    return ImageView(
        sha256=image.sha256,
        version=image.version,
        hardware=image.hardware,
        security=image.security,
        size=image.size,
        signer=record.signer,
        added_at=rfc3339(record.utc_ms),
        added_by=record.actor,
    )


def _fields(found: RolloutFigures) -> dict[str, object]:
    record, plan = found.record, found.record.plan
    return {
        "number": record.number,
        "state": record.head.state.value,
        "why": record.head.why or None,
        "image": record.image.sha256,
        "version": record.image.version,
        "hardware": record.image.hardware,
        "size": record.image.size,
        "plan": {
            "stages": list(plan.stages),
            "observe_s": plan.observe_s,
            "failures_max": plan.failures_max,
            "parallel_max": plan.parallel_max,
            "offline_s": plan.offline_s,
        },
        "stage": record.head.stage + 1,
        "observed_s": record.head.observed_ms // 1_000,
        "begun_at": rfc3339(record.utc_ms),
        "begun_by": record.actor,
        "ended_at": rfc3339_or_none(record.ended_utc_ms),
        "counts": dict(Counter(member.phase for member in found.members)),
    }


def _device(member: Member, record: DeviceRecord | None) -> RolloutDevice:
    return RolloutDevice(
        id=member.device_id,
        meter_id=None if record is None else record.meter_id,
        phase=member.phase,
        offset=member.offset,
        code=member.code or None,
        reason=member.reason or None,
    )
