"""boot.py and the loader: the relay first, tries, the spare slot, safe mode, the way out of it."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pytest

import loader
from gateway.app.firmware.bundle import Bundle
from tests.firmware.device import (
    FRESH_NVS,
    RELAY_PIN,
    Board,
    Device,
    ResetError,
    SafeModeError,
    relay_never_moved,
)
from tests.firmware.flash import Memory, formatted
from tests.firmware.node_life import new_device
from tests.firmware.releases import bundle

ONE: Final = bundle("1", 1)
TWO: Final = bundle("2", 2)


def both(a: Bundle, b: Bundle, security: int, **nvs: bytes) -> Device:
    """A device with two proved slots that points to a."""
    files = {**b.slot_files("b"), **a.slot_files("a")}
    kept = {**FRESH_NVS, "security": security.to_bytes(4, "big"), **nvs}
    return Device(Memory(formatted(files), kept))


def restart(board: Board, slot: str) -> None:
    """An application that restarts at once."""
    board.reset()


def stumble(board: Board, slot: str) -> None:
    """An application that raises at once."""
    raise ValueError("nothing works")


def ends(device: Device, application: Callable[[Board, str], None]) -> str:
    """How one boot ends."""
    try:
        device.boot(application)
    except ResetError:
        return "reset"
    except SafeModeError:
        return "safe"
    raise AssertionError("a boot has no other end")


@pytest.mark.parametrize(
    ("pin", "latched", "level"),
    [(b"\x1a\1", b"\1", 1), (b"\x1a\1", b"\0", 0), (b"\x1a\0", b"\1", 0), (b"\x1a\0", b"\0", 1)],
    ids=["high-closed", "high-open", "low-closed", "low-open"],
)
def test_the_relay_takes_its_latched_level_first_and_holds_it(
    pin: bytes, latched: bytes, level: int
) -> None:
    """Level by polarity and latch, held, and set before the loader or the application runs."""
    device = both(ONE, ONE, 1, relay_pin=pin, relay=latched)

    def application(board: Board, slot: str) -> None:
        assert device.machine.pins == [(RELAY_PIN, level, True)]
        board.reset()

    assert ends(device, application) == "reset"
    assert device.started == ["a"]


@pytest.mark.parametrize("missing", ["relay", "relay_pin"])
def test_a_new_node_moves_no_pin(missing: str) -> None:
    """Without a latch, or without knowing its pin, boot leaves the relay as wired, and starts."""
    device = new_device()
    del device.memory.nvs[missing]
    assert ends(device, restart) == "reset"
    assert (device.machine.pins, device.started) == ([], ["a"])


@pytest.mark.parametrize("application", [restart, stumble])
def test_ten_quick_starts_end_in_safe_mode(application: Callable[[Board, str], None]) -> None:
    """Five tries of the slot, five of the spare one, then nothing is started."""
    device = both(ONE, ONE, 1)
    assert [ends(device, application) for _ in range(10)] == ["reset"] * 10
    assert device.started == ["a"] * 5 + ["b"] * 5
    assert [ends(device, application) for _ in range(4)] == ["safe"] * 4
    assert device.started == ["a"] * 5 + ["b"] * 5
    assert relay_never_moved(device.machine, device.memory.nvs)
    assert device.board.files.content()["/slot"] == b"a"


def test_a_good_minute_forgives_the_tries() -> None:
    """Whoever runs a minute begins anew; the loader itself sees to that."""
    device = both(ONE, ONE, 1)
    for _ in range(4):
        ends(device, restart)

    def steady(board: Board, slot: str) -> None:
        assert device.machine.timer_ms == 60_000
        board.good_minute()
        board.reset()

    for _ in range(20):
        assert ends(device, steady) == "reset"
    assert set(device.started) == {"a"}


def test_safe_mode_ends_by_itself() -> None:
    """Ten minutes later the node tries again: mains that flickered must not need a visit."""
    device = both(ONE, ONE, 1)
    for _ in range(10):
        ends(device, restart)
    assert ends(device, restart) == "safe"
    assert device.machine.timer_ms == 600_000
    with pytest.raises(ResetError):
        device.machine.fire_timer()
    assert ends(device, restart) == "reset"
    assert device.started[-1] == "a"


def test_the_watchdog_guards_an_application_and_not_safe_mode() -> None:
    """A slot that hangs at import is reset; a person at the REPL is left alone."""
    device = both(ONE, ONE, 1)
    ends(device, restart)
    assert device.machine.watchdog_ms == 60_000
    device.machine.watchdog_ms = 0
    device.memory.nvs["tries"] = b"\x0a"
    assert ends(device, restart) == "safe"
    assert device.machine.watchdog_ms == 0


def test_a_person_at_the_console_may_stay() -> None:
    """`loader.stay()` after Ctrl-C feeds the watchdog, and in safe mode stops the way out."""
    device = both(ONE, ONE, 1)

    def interrupted(board: Board, slot: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.boot(interrupted)
    assert device.machine.timer_ms == 60_000
    loader.stay()
    device.machine.fire_timer()
    assert (device.machine.timer_ms, device.machine.feeds) == (1000, 1)
    device.memory.nvs["tries"] = b"\x0a"
    assert ends(device, restart) == "safe"
    loader.stay()
    device.machine.fire_timer()
    assert device.memory.nvs["tries"] == b"\x0b"


def test_a_spare_slot_of_lower_security_is_never_started() -> None:
    """What was updated away for security does not come back because the new version stumbles."""
    device = both(TWO, ONE, 2)
    for _ in range(10):
        assert ends(device, stumble) == "reset"
    assert set(device.started) == {"a"}
    device.board.files.remove("/slot_a/manifest")
    device.memory.nvs["tries"] = b"\0"
    assert ends(device, stumble) == "safe"


def test_a_slot_that_is_not_whole_gives_way_to_the_other() -> None:
    """Without its manifest a slot is not started, even if the pointer names it."""
    device = both(ONE, ONE, 1)
    device.board.files.remove("/slot_a/manifest")
    assert ends(device, restart) == "reset"
    assert device.started == ["b"]


@pytest.mark.parametrize("content", [b"", b"c", b"ab", b"\xff\xfe"])
def test_a_pointer_that_cannot_be_read_means_slot_a(content: bytes) -> None:
    """Something is started all the same."""
    device = both(ONE, ONE, 1)
    with device.board.files.open("/slot", "wb") as file:
        file.write(content)
    assert ends(device, restart) == "reset"
    assert device.started == ["a"]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"7", b"\xff", b'{"slot": "b"}', b'{"slot": "c", "boots": 1}'),
        *(b'{"slot": "b", "boots": "many"}', b'{"slot": "b", "boots": -1}'),
        b'{"slot": "b", "boots": 3, "started": "twice"}',
    ],
)
def test_a_damaged_trial_counts_as_failed(content: bytes) -> None:
    """The slot on trial is given up once, not started for ever, and not given up again."""
    device = both(ONE, ONE, 1)
    for path, text in (("/slot", b"b"), ("/trial", content)):
        with device.board.files.open(path, "wb") as file:
            file.write(text)
    for _ in range(3):
        assert ends(device, restart) == "reset"
    assert device.started == ["a"] * 3
    assert json.loads(device.board.files.content()["/failed"])["slot"] == "b"


def fill(board: Board) -> None:
    """Leave no room for a file, not even a small one in a directory's own block."""
    number = 0
    for size in (4096, 100, 1):
        with suppress(OSError):
            while True:
                with board.files.open(f"/fill{number}", "wb") as file:
                    file.write(bytes(size))
                number += 1


def on_trial(device: Device) -> Device:
    """Slot b is on trial."""
    for path, content in (("/slot", b"b"), ("/trial", b'{"slot": "b", "boots": 3}')):
        with device.board.files.open(path, "wb") as file:
            file.write(content)
    return device


def test_a_version_that_failed_is_never_the_spare_one() -> None:
    """After its trial it is not started again, however badly the other one does."""
    device = on_trial(both(ONE, ONE, 1))
    assert [ends(device, restart) for _ in range(10)] == ["reset"] * 10
    assert device.started == ["b"] * 3 + ["a"] * 7


@pytest.mark.slow
def test_a_full_flash_still_ends_a_trial() -> None:
    """The few bytes that the loader writes find their place where no file does."""
    device = on_trial(both(ONE, ONE, 1))
    fill(device.board)
    assert [ends(device, restart) for _ in range(4)] == ["reset"] * 4
    assert device.started == ["b", "b", "b", "a"]


def test_a_worn_flash_still_starts() -> None:
    """Trials cannot be counted there; the tries in the NVS still find the slot that works."""
    device = on_trial(both(ONE, ONE, 1))
    device.memory.worn = True
    assert [ends(device, restart) for _ in range(11)] == ["reset"] * 10 + ["safe"]
    assert device.started == ["b"] * 5 + ["a"] * 5
    assert relay_never_moved(device.machine, device.memory.nvs)
