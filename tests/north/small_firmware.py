"""Requests about firmware as the small site carries them out: what is kept, not what it does."""

from gateway.core.errors import RefusedError
from gateway.core.requests import (
    AddImage,
    BeginRollout,
    PauseRollout,
    RemoveImage,
    Request,
    ResumeRollout,
    StopRollout,
)
from gateway.core.rollout import Rollout
from gateway.core.rollout_plan import Image, Member, Plan, check_plan
from gateway.store.db import Connection
from gateway.store.devices import read_devices
from gateway.store.firmware import (
    ImageRecord,
    RolloutRecord,
    add_rollout,
    put_image,
    put_progress,
    read_images,
    read_members,
    read_rollout,
    read_rollouts,
    remove_image,
)

Steering = PauseRollout | ResumeRollout | StopRollout
FirmwareBody = AddImage | RemoveImage | BeginRollout | Steering
FIRMWARE_BODIES = (
    AddImage,
    RemoveImage,
    BeginRollout,
    PauseRollout,
    ResumeRollout,
    StopRollout,
)


def execute_firmware(
    connection: Connection, request: Request, body: FirmwareBody, now: int
) -> dict[str, object]:
    """Keep images and roll-outs; a bundle is what it says it is, and nodes get nothing here."""
    if isinstance(body, AddImage):
        return _add(connection, request, body, now)
    if isinstance(body, BeginRollout):
        return _begin(connection, request, body, now)
    if isinstance(body, RemoveImage):
        _known(connection, body.sha256)
        remove_image(connection, body.sha256)
        return {"sha256": body.sha256}
    found = read_rollout(connection, body.rollout)
    if found is None:
        raise RefusedError("ROLLOUT_UNKNOWN", f"there is no roll-out {body.rollout}", "rollout")
    members = read_members(connection, body.rollout)
    rollout = Rollout(found.number, found.image, found.plan, members, head=found.head)
    if isinstance(body, PauseRollout):
        rollout.pause()
    elif isinstance(body, ResumeRollout):
        rollout.resume()
    else:
        rollout.stop(body.reason)
    _keep(connection, rollout, now)
    return {"rollout": body.rollout, "state": rollout.state.value}


def _add(connection: Connection, request: Request, body: AddImage, now: int) -> dict[str, object]:
    known = read_images(connection).get(body.sha256)
    if known is not None:
        return {
            "sha256": body.sha256,
            "version": known.image.version,
            "hardware": known.image.hardware,
            "known": True,
        }
    version = f"1.0.{len(read_images(connection))}"
    image = Image(body.sha256, version, "esp32-pzem-1", 1, body.size)
    record = ImageRecord(image, "0" * 16, now, request.actor)
    put_image(connection, record, bytes(body.size))
    return {
        "sha256": body.sha256,
        "version": version,
        "hardware": image.hardware,
        "known": False,
    }


def _begin(
    connection: Connection, request: Request, body: BeginRollout, now: int
) -> dict[str, object]:
    record = _known(connection, body.sha256)
    plan = Plan(body.stages, body.observe_s, body.failures_max, body.parallel_max, body.offline_s)
    check_plan(plan)
    names = body.device_ids or tuple(read_devices(connection))
    number = len(read_rollouts(connection)) + 1
    rollout = Rollout(number, record.image, plan, [Member(name) for name in names])
    rollout.begin({})
    on_file = RolloutRecord(number, record.image, plan, rollout.head, request.actor, now)
    add_rollout(connection, on_file)
    _keep(connection, rollout, now)
    return {
        "rollout": number,
        "version": record.image.version,
        "devices": len(names),
        "skipped": 0,
    }


def _known(connection: Connection, sha256: str) -> ImageRecord:
    record = read_images(connection).get(sha256)
    if record is None:
        raise RefusedError("IMAGE_UNKNOWN", f"there is no image {sha256}", "image")
    return record


def _keep(connection: Connection, rollout: Rollout, now: int) -> None:
    changes = rollout.take_changes() or []
    ended_ms = None if rollout.is_open else now
    put_progress(connection, rollout.number, rollout.head, changes, ended_utc_ms=ended_ms)
