"""Power fails at every single write of an update: a good slot starts, and the relay stays put."""

import json
import random
from collections.abc import Callable
from itertools import islice
from typing import Final

import pytest

from gateway.app.firmware.bundle import Bundle
from node.update import PART, TRIAL_BOOTS, Trial
from tests.firmware.device import Application, Board, Device, relay_never_moved
from tests.firmware.flash import Memory, remains_at
from tests.firmware.node_life import (
    crash,
    deaf,
    every_cut,
    failing,
    lived,
    new_device,
    stumble,
    updating,
)
from tests.firmware.releases import bundle

OLD: Final = bundle("1", 1)
NEW: Final = bundle("2", 2)
NEWER: Final = bundle("3", 2)


def whole(board: Board, slot: str) -> Bundle:
    """The version in a slot, every byte of it; fails for anything else."""
    content = board.files.content()
    root = f"/slot_{slot}/"
    found = {path: text for path, text in content.items() if path.startswith(root)}
    for version in (OLD, NEW, NEWER):
        wanted = version.slot_files(slot)
        wanted.pop("/slot")
        if found == wanted:
            return version
    raise AssertionError(f"slot {slot} was started and is no whole version: {sorted(found)}")


def marked_slots_are_whole(board: Board) -> None:
    """A manifest is what lets the loader start a slot, so it never stands beside half a version."""
    for slot in ("a", "b"):
        if board.files.stat_size(f"/slot_{slot}/manifest") is not None:
            whole(board, slot)


def checked(memory: Memory, application: Application) -> tuple[Device, str]:
    """Live on after a cut. Every start must be of a whole slot; the versions that started."""
    device = Device(memory)
    marked_slots_are_whole(device.board)
    security = int.from_bytes(memory.nvs.get("security", b""), "big")
    versions: list[str] = []

    def watched(board: Board, slot: str) -> None:
        version = whole(board, slot)
        versions.append(version.release.version)
        assert version.release.security >= security
        application(board, slot)

    lived(device, watched)
    assert relay_never_moved(device.machine, device.memory.nvs)
    assert int.from_bytes(memory.nvs.get("security", b""), "big") >= security
    return device, "".join(versions)


def ends_updated(device: Device, wanted: Bundle, slot: str) -> None:
    """The new version stands proved in its slot and nothing of the way there is left."""
    content = device.board.files.content()
    assert content["/slot"].decode() == slot
    assert {"/trial", "/failed", PART}.isdisjoint(content)
    assert device.board.nvs_get("security") == wanted.release.security.to_bytes(4, "big")
    assert whole(device.board, slot) is wanted


def ends_unharmed(device: Device, reason: str) -> None:
    """The old version runs on, the reason is kept, and the counter was not raised."""
    content = device.board.files.content()
    assert content["/slot"].decode() == "a"
    assert "/trial" not in content
    told = json.loads(content["/failed"])
    assert (told["version"], told["failed"]) == ("2", reason)
    assert device.board.nvs_get("security") == (1).to_bytes(4, "big")
    assert device.started[-1] == "a"


STORIES: Final = [
    (crash, "started 3 times without proof"),
    (stumble, "ValueError('no such pin')"),
    (deaf, "nothing of gateway in 5 minutes"),
]
# A few cuts of each story are enough before a commit.
STEPS: Final = [
    pytest.param(29, id="some"),
    pytest.param(1, id="all", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("step", STEPS)
def test_a_cut_anywhere_in_an_update_is_harmless(step: int) -> None:
    """Whatever write power fails at, a whole version starts, and the update then succeeds."""
    number = 0
    for number, memory in enumerate(every_cut(new_device(), updating(NEW))):
        if number % step == 0:
            device, _ = checked(memory, updating(NEW))
            ends_updated(device, NEW, "b")
    assert number > 500


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_cut_anywhere_in_an_update_of_the_update_is_harmless(step: int) -> None:
    """A, then B, then A again with a third version: the slots change places as before."""
    story = updating(NEW, NEWER)
    for memory in islice(every_cut(new_device(), story), 0, None, step):
        device, _ = checked(memory, story)
        ends_updated(device, NEWER, "a")


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("how", "reason"), STORIES, ids=[how.__name__ for how, _ in STORIES])
def test_a_cut_anywhere_in_the_way_back_is_harmless(
    how: Callable[[Board, Trial], None], reason: str, step: int
) -> None:
    """An update that does not work ends on the old version, cut or not."""
    story = failing(NEW, how)
    for memory in islice(every_cut(new_device(), story), 0, None, step):
        device, started = checked(memory, story)
        assert started.count("2") <= TRIAL_BOOTS
        ends_unharmed(device, reason)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_second_cut_while_recovering_from_the_first_is_harmless(seed: int) -> None:
    """Power that fails again at a random write of the way out of a cut changes nothing."""
    chance = random.Random(seed)
    stories: list[tuple[Application, Callable[[Device], None]]] = [
        (updating(NEW), lambda device: ends_updated(device, NEW, "b")),
        (failing(NEW, stumble), lambda device: ends_unharmed(device, STORIES[1][1])),
    ]
    for story, ended in stories:
        for memory in islice(every_cut(new_device(), story), seed, None, 4):
            image, nvs = bytes(memory.buffer), dict(memory.nvs)
            first, _ = checked(memory, story)
            log = first.memory.log
            cut_again = remains_at(image, nvs, log, chance.randrange(len(log)))
            second, _ = checked(cut_again, story)
            ended(second)
