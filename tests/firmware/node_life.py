"""Applications of made-up nodes: they use the node's own update code and nothing else."""

import asyncio
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

import pytest

from gateway.app.firmware.bundle import Bundle, read_bundle
from node.update import NEEDS, TRIAL_MS, Trial, Update, failure
from tests.firmware.device import FRESH_NVS, Application, Board, Device
from tests.firmware.flash import Memory, formatted, remains
from tests.firmware.releases import bundle, public_keys

BOOTS: Final = 10


class DoneError(BaseException):
    """The story is at its end."""


def new_device(first: Bundle | None = None) -> Device:
    """A device as it leaves the bench, with version 1."""
    return Device(Memory(_image((first or bundle("1", 1)).raw), FRESH_NVS))


@cache
def _image(first: bytes) -> bytes:
    return formatted(read_bundle(first).slot_files("a"))


def fetch(board: Board, slot: str, wanted: Bundle) -> Update:
    """Fetch a bundle whole, going on where an earlier boot stopped."""
    update = Update(board, slot, public_keys())
    update.begin(wanted.release.version, len(wanted.raw), wanted.sha256, wanted.release.security)
    while (want := update.want()) is not None:
        offset, count = want
        assert update.take(offset, wanted.raw[offset : offset + count])
    return update


def prove(trial: Trial) -> None:
    """See everything work."""
    for need in NEEDS:
        trial.note(need)
    assert trial.check() == "proved"


def updating(*versions: Bundle) -> Application:
    """A node that updates itself to these bundles in turn, proves each, and is done."""

    def application(board: Board, slot: str) -> None:
        trial = Trial(board, slot)
        if trial.under_way:
            prove(trial)
        board.good_minute()
        names = [wanted.release.version for wanted in versions]
        place = names.index(trial.version) + 1 if trial.version in names else 0
        if place == len(versions):
            raise DoneError
        asyncio.run(fetch(board, slot, versions[place]).install())
        board.reset()

    return application


def failing(wanted: Bundle, how: Callable[[Board, Trial], None]) -> Application:
    """A node whose update does not work: `how` is what the new version does on trial."""

    def application(board: Board, slot: str) -> None:
        trial = Trial(board, slot)
        if trial.version == wanted.release.version:
            how(board, trial)
        else:
            board.good_minute()
            if failure(board.files) is not None:
                raise DoneError
            asyncio.run(fetch(board, slot, wanted).install())
        board.reset()

    return application


def crash(board: Board, trial: Trial) -> None:
    """The watchdog bites before anything is proved."""


def stumble(board: Board, trial: Trial) -> None:
    """The application raises."""
    raise ValueError("no such pin")


def deaf(board: Board, trial: Trial) -> None:
    """All works but the gateway's word, which does not come in time."""
    for need in NEEDS[:-1]:
        trial.note(need)
    board.now_ms += TRIAL_MS - 1
    board.good_minute()
    assert trial.check() is None
    board.now_ms += 1
    trial.check()


def lived(device: Device, application: Application) -> Device:
    """Let a device live its story to the end."""
    with pytest.raises(DoneError):
        device.live(application, BOOTS)
    return device


def every_cut(device: Device, application: Application) -> Iterator[Memory]:
    """What a cut leaves, for all writes of a whole life, each not done and half done."""
    image, nvs = bytes(device.memory.buffer), dict(device.memory.nvs)
    lived(device, application)
    yield from remains(image, nvs, device.memory.log)
