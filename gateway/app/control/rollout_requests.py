"""Requests about firmware: images that nodes may be given, and their roll-outs.

All of them one at a time: an image is not removed while a roll-out of it begins.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from gateway.app.control.department import Method
from gateway.app.control.desk import Desk
from gateway.app.control.rollouts import Opened, RolloutOffice
from gateway.core import requests as wishes
from gateway.core.errors import RefusedError, StoreError
from gateway.core.requests import Request
from gateway.core.rollout import Rollout
from gateway.core.rollout_plan import (
    IMAGE_BYTES_MAX,
    IMAGES_MAX,
    ROLLOUTS_MAX,
    Image,
    Plan,
    check_plan,
)
from gateway.store.db import Connection
from gateway.store.firmware import (
    ImageRecord,
    RolloutRecord,
    add_rollout,
    put_image,
    read_image_bytes,
    remove_image,
)
from gateway.store.requests import RequestReader
from gateway.store.uploads import read_upload

# North's file is read within 20 ms or not at all; an upload is worth a few tries.
TRIES: Final = 10
TRY_EVERY_S: Final = 0.1


class RolloutRequests:
    """Carries out what persons decide about firmware. `keys` are files of public keys."""

    def __init__(
        self,
        desk: Desk,
        office: RolloutOffice,
        requests: RequestReader,
        keys: Sequence[Path],
    ) -> None:
        self._desk = desk
        self._office = office
        self._requests = requests
        self._keys = tuple(keys)
        self._lock = asyncio.Lock()

    @property
    def methods(self) -> Mapping[type, Method]:
        """What this carries out, by the type of the body."""
        return {
            wishes.AddImage: self.add_image,
            wishes.RemoveImage: self.remove_image,
            wishes.BeginRollout: self.begin,
            wishes.PauseRollout: self.pause,
            wishes.ResumeRollout: self.resume,
            wishes.StopRollout: self.stop,
        }

    # -- images ----------------------------------------------------------------------------

    async def add_image(self, body: wishes.AddImage, request: Request) -> None:
        """Keep a signed bundle; the same bytes again change nothing.

        Refuses IMAGE_MISSING, IMAGE_KEYS_MISSING, IMAGES_FULL, IMAGE_VERSION, BUNDLE_INVALID,
        BUNDLE_UNSIGNED, BUNDLE_FORGED, FILE_REFUSED, KEY_REFUSED.
        """
        images = self._office.images
        async with self._lock:
            known = images.get(body.sha256)
            if known is not None:
                await self._desk.commit(request, lambda _connection: _told(known, known=True))
                return
            if not self._keys:
                raise RefusedError(
                    "IMAGE_KEYS_MISSING",
                    "the configuration names no key that signs firmware: south.firmware.public",
                )
            content = await self._uploaded(body)
            image, signer = await asyncio.to_thread(_checked, content, self._keys)
            self._check_room(image)
            utc_ms = self._desk.books.label()
            record = ImageRecord(image, signer, utc_ms, request.actor)

            def effect(connection: Connection) -> dict[str, object]:
                put_image(connection, record, content)
                return _told(record, known=False)

            await self._desk.commit(request, effect)
            images[image.sha256] = record
        self._office.tell_image(record, by=request.actor, added=True)

    async def remove_image(self, body: wishes.RemoveImage, request: Request) -> None:
        """Forget an image. Refuses IMAGE_UNKNOWN, IMAGE_IN_USE."""
        office = self._office
        async with self._lock:
            record = self._image(body.sha256)
            using = [
                number
                for number, one in office.opened.items()
                if one.rollout.image.sha256 == body.sha256
            ]
            if using:
                raise RefusedError(
                    "IMAGE_IN_USE", f"roll-out {using[0]} needs this image: stop it first", "sha256"
                )

            def effect(connection: Connection) -> dict[str, object]:
                remove_image(connection, body.sha256)
                return _told(record, known=True)

            await self._desk.commit(request, effect)
            del office.images[body.sha256]
        office.tell_image(record, by=request.actor, added=False)

    async def _uploaded(self, body: wishes.AddImage) -> bytes:
        """The bytes that came with the request. Raises RefusedError IMAGE_MISSING."""
        content: bytes | None = None
        for _ in range(TRIES):
            try:
                content = self._requests.read(
                    lambda connection: read_upload(connection, body.sha256, IMAGE_BYTES_MAX)
                )
                break
            except StoreError:
                # Away for a moment, or not as we write it: north's file is trusted in nothing.
                await self._desk.clock.sleep(TRY_EVERY_S)
        found = b"" if content is None else content
        if len(found) != body.size or hashlib.sha256(found).hexdigest() != body.sha256:
            raise RefusedError(
                "IMAGE_MISSING",
                "the bytes that came with this request are not there any more: send it again under "
                "another key",
            )
        return found

    def _check_room(self, image: Image) -> None:
        images = self._office.images
        if len(images) >= IMAGES_MAX:
            raise RefusedError(
                "IMAGES_FULL", f"{IMAGES_MAX} images are kept: remove one that is not needed"
            )
        for one in images.values():
            if (one.image.version, one.image.hardware) == (image.version, image.hardware):
                raise RefusedError(
                    "IMAGE_VERSION",
                    f"another image of version {image.version} for {image.hardware} is there: "
                    "nodes tell versions alone apart",
                )

    def _image(self, sha256: str) -> ImageRecord:
        record = self._office.images.get(sha256)
        if record is None:
            raise RefusedError("IMAGE_UNKNOWN", f"there is no image {sha256}", "image")
        return record

    # -- roll-outs -------------------------------------------------------------------------

    async def begin(self, body: wishes.BeginRollout, request: Request) -> None:
        """Begin a roll-out.

        Refuses IMAGE_UNKNOWN, ROLLOUT_STAGES, ROLLOUT_RANGE, ROLLOUTS_FULL, ROLLOUT_EMPTY,
        DEVICE_UNKNOWN, DEVICE_IN_ROLLOUT.
        """
        office, books = self._office, self._desk.books
        async with self._lock:
            record = self._image(body.sha256)
            plan = Plan(
                stages=body.stages,
                observe_s=body.observe_s,
                failures_max=body.failures_max,
                parallel_max=body.parallel_max,
                offline_s=body.offline_s,
            )
            check_plan(plan)
            if len(office.opened) >= ROLLOUTS_MAX:
                raise RefusedError(
                    "ROLLOUTS_FULL", f"{ROLLOUTS_MAX} roll-outs are under way at once at most"
                )
            content = await books.commit(
                lambda connection: read_image_bytes(connection, body.sha256)
            )
            members = office.members(body.device_ids)
            number = office.last_number + 1
            rollout = Rollout(number, record.image, plan, members)
            rollout.begin({one.device_id: office.seen(one.device_id) for one in members})
            on_file = RolloutRecord(
                number, record.image, plan, rollout.head, request.actor, books.label()
            )
            opened = Opened(on_file, rollout, content or b"", self._desk.clock.mono_ns())
            # Nobody hears of it before this is committed: offers wait for what is queued.
            office.opened[number], office.last_number = opened, number
            progress = office.taken(opened, by=request.actor)

            def effect(connection: Connection) -> dict[str, object]:
                add_rollout(connection, on_file)
                if progress is not None:
                    progress(connection)
                return {
                    "rollout": number,
                    "version": record.image.version,
                    "devices": on_file.head.base,
                    "skipped": len(members) - on_file.head.base,
                }

            await self._desk.commit(request, effect)

    async def pause(self, body: wishes.PauseRollout, request: Request) -> None:
        """Begin and serve nobody for now. Refuses as `Rollout.pause`."""
        await self._steer(body.rollout, body.reason, request, Rollout.pause)

    async def resume(self, body: wishes.ResumeRollout, request: Request) -> None:
        """Go on. Refuses as `Rollout.resume`."""
        await self._steer(body.rollout, body.reason, request, Rollout.resume)

    async def stop(self, body: wishes.StopRollout, request: Request) -> None:
        """End it for good. Refuses as `Rollout.stop`."""
        await self._steer(
            body.rollout, body.reason, request, lambda rollout: rollout.stop(body.reason)
        )

    async def _steer(
        self, number: int, reason: str, request: Request, act: Callable[[Rollout], None]
    ) -> None:
        if not reason:
            raise RefusedError("REASON_MISSING", "say why", "reason")
        async with self._lock:
            opened = self._office.named(number)
            act(opened.rollout)
            state = opened.rollout.state.value
            progress = self._office.taken(opened, by=request.actor)

            def effect(connection: Connection) -> dict[str, object]:
                if progress is not None:
                    progress(connection)
                return {"rollout": number, "state": state}

            await self._desk.commit(request, effect)


def _checked(content: bytes, keys: Sequence[Path]) -> tuple[Image, str]:
    """What a bundle is, and the mark of the key that signed it.

    Raises RefusedError BUNDLE_INVALID, BUNDLE_UNSIGNED, BUNDLE_FORGED, FILE_REFUSED, KEY_REFUSED.
    """
    # Where nobody rolls out firmware, nobody waits for the library.
    from gateway.app.firmware.bundle import PRODUCT, read_bundle  # noqa: PLC0415
    from gateway.app.firmware.signing import load_public  # noqa: PLC0415

    bundle = read_bundle(content)
    release = bundle.release
    if release.product != PRODUCT:
        raise RefusedError("BUNDLE_INVALID", f"it is for product {release.product}")
    if not bundle.is_signed:
        raise RefusedError("BUNDLE_UNSIGNED", "the image is not signed: firmware sign does it")
    signer = bundle.signer([load_public(path) for path in keys])
    if signer is None:
        raise RefusedError(
            "BUNDLE_FORGED", "the image is signed with none of the keys in south.firmware.public"
        )
    image = Image(
        sha256=bundle.sha256,
        version=release.version,
        hardware=release.hardware,
        security=release.security,
        size=len(content),
    )
    return image, signer.mark


def _told(record: ImageRecord, *, known: bool) -> dict[str, object]:
    image = record.image
    return {
        "sha256": image.sha256,
        "version": image.version,
        "hardware": image.hardware,
        "security": image.security,
        "size": image.size,
        "signer": record.signer,
        "known": known,
    }
