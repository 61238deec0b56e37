"""Approves the boards of many places; what is done already is left alone."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

from ulid import ULID

from gateway.app.placing.asking import carried_out
from gateway.app.placing.places import Device, Place
from gateway.core.clock import Clock
from gateway.core.errors import RefusedError, StoreAwayError
from gateway.north.client import LocalClient

LOOK_EVERY_S: Final = 1.0
NS_PER_S: Final = 1_000_000_000


class Fate(StrEnum):
    """What became of a place."""

    NEW = "new"  # it would be approved
    APPROVED = "approved"
    THERE = "there"
    UNHEARD = "unheard"
    REFUSED = "refused"
    WAITING = "waiting"
    UNREACHED = "unreached"


@dataclass(frozen=True, slots=True)
class Result:
    """A place and what became of it; `code` and `message` say why it was refused."""

    place: Place
    fate: Fate
    code: str = ""
    message: str = ""


def devices_of(north: LocalClient) -> dict[str, Device]:
    """All devices on record, by id. Raises StoreAwayError, RefusedError."""
    items = cast("list[dict[str, object]]", north.call("GET", "/devices")["items"])
    return {
        str(item["id"]): Device(
            status=str(item["status"]),
            meter_id=None if item["meter_id"] is None else str(item["meter_id"]),
            generation=cast("int", item["generation"]),
            note=str(item["note"]),
        )
        for item in items
    }


class Approver:
    """Approves places whose device was heard; others are waited for, `wait_s` at most."""

    def __init__(
        self, north: LocalClient, clock: Clock, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._north = north
        self._clock = clock
        self._sleep = sleep

    def run(
        self, places: Sequence[Place], wait_s: int, progress: Callable[[], None]
    ) -> list[Result]:
        """What became of each place, in their order; `progress` is called for each that ended."""
        until_ns = self._clock.mono_ns() + wait_s * NS_PER_S
        ended: dict[str, Result] = {}
        while True:
            devices = devices_of(self._north)
            for place in places:
                if place.meter_id in ended:
                    continue
                result = self._one(place, devices.get(place.board.device_id))
                if result.fate is not Fate.UNHEARD:
                    ended[place.meter_id] = result
                    progress()
            if len(ended) == len(places) or self._clock.mono_ns() >= until_ns:
                break
            # At most ten new devices a minute are taken up: they come by and by.
            self._sleep(LOOK_EVERY_S)
        return [ended.get(place.meter_id) or Result(place, Fate.UNHEARD) for place in places]

    def _one(self, place: Place, device: Device | None) -> Result:
        fate = fate_of(place, device)
        if fate is not Fate.NEW:
            return Result(place, fate)
        path, body = f"/devices/{place.board.device_id}/approval", {"meter_id": place.meter_id}
        try:
            done = carried_out(self._north, path, body, str(ULID()), self._sleep)
        except RefusedError as refused:
            return Result(place, Fate.REFUSED, refused.refusal_code, refused.message)
        except StoreAwayError as away:
            return Result(place, Fate.UNREACHED, away.code, str(away))
        return Result(place, Fate.APPROVED if done else Fate.WAITING)


def fate_of(place: Place, device: Device | None) -> Fate:
    """What stands already (there, unheard), or that it would be approved (new)."""
    if device is None:
        return Fate.UNHEARD
    if device.status == "approved" and device.meter_id == place.meter_id:
        return Fate.THERE
    return Fate.NEW
