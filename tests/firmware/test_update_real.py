"""boot.py, loader, signature, bundle and update in real MicroPython, as .mpy files that ship."""

import json
from typing import Any, Final

import pytest

from tests.firmware.flash import Files, Memory
from tests.firmware.node_life import every_cut, new_device, updating
from tests.firmware.real_device import (
    DEVICE,
    NVS,
    RealDevice,
    real_bundle,
    run_micropython,
    signed,
)
from tests.firmware.releases import noise

PIN: Final = ["pin", 26, 1, True]
OLD: Final = real_bundle("1", 1)
NEW: Final = real_bundle("2", 2)
PROVED: Final = {"1": "update", "2": "prove"}


@pytest.mark.slow
def test_an_update_proves_itself() -> None:
    """Fetched, verified, unpacked, switched, tried, proved; the relay was held at each boot."""
    device = RealDevice(PROVED)
    device.offer(NEW)
    assert device.boot() == [PIN, ["started", "1", "a", False], ["reset"]]
    assert device.boot() == [PIN, ["started", "2", "b", True], ["proved"], ["reset"]]
    assert device.boot() == [PIN, ["started", "2", "b", False], ["running"], ["reset"]]
    assert device.nvs["security"] == bytes([0, 0, 0, 2])
    assert "/trial" not in device.files


@pytest.mark.slow
def test_three_boots_without_proof_go_back() -> None:
    """A version that restarts before it proves itself has three tries."""
    device = RealDevice({"1": "update", "2": "restart"})
    device.offer(NEW)
    device.boot()
    for _ in range(3):
        assert device.boot()[1] == ["started", "2", "b", True]
    device.files["/plan"] = b'{"1": "stay"}'
    assert device.boot()[1] == ["started", "1", "a", False]
    assert b"started 3 times without proof" in device.files["/failed"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "plan", "reason"),
    [
        (NEW, "raise", b"ValueError('on purpose'"),
        (real_bundle("2", 2, "\nimport nothing_like_it\n"), "prove", b"ImportError"),
        (real_bundle("2", 2, "\nmain = 1\n"), "prove", b"TypeError"),
        (signed({**NEW.files, "app.mpy": noise("no bytecode", 700)}, "2", 2), "prove", b"Error"),
    ],
    ids=["raises", "import", "entry", "no-bytecode"],
)
def test_a_slot_that_does_not_run_goes_back_at_once(wanted: Any, plan: str, reason: bytes) -> None:
    """What raises on trial, at import or later, is not tried again."""
    device = RealDevice({"1": "update", "2": plan})
    device.offer(wanted)
    device.boot()
    assert device.boot()[-1] == ["reset"]
    device.files["/plan"] = b'{"1": "stay"}'
    assert device.boot() == [PIN, ["started", "1", "a", False], ["reset"]]
    assert reason in device.files["/failed"]
    assert device.nvs["security"] == bytes([0, 0, 0, 1])


@pytest.mark.slow
def test_a_lost_gateway_goes_back_after_five_minutes() -> None:
    """Without the gateway's word the new version restarts into the old one."""
    device = RealDevice({"1": "update", "2": "deaf"})
    device.offer(NEW)
    device.boot()
    assert device.boot() == [PIN, ["started", "2", "b", True], ["reset"]]
    device.files["/plan"] = b'{"1": "stay"}'
    assert device.boot()[1] == ["started", "1", "a", False]
    assert b"nothing of meter, wifi, broker, gateway in 5 minutes" in device.files["/failed"]


@pytest.mark.parametrize(
    ("at", "code"),
    [
        (0, "UPDATE_FORM"),
        (40, "UPDATE_SIGNATURE"),
        (len(NEW.header) + 8 + 100, "UPDATE_SIGNATURE"),
        (-1, "UPDATE_DAMAGED"),
    ],
)
def test_a_flipped_bit_is_refused(at: int, code: str) -> None:
    """MicroPython's own integers and hashes find it, and nothing was switched."""
    raw = bytearray(NEW.raw)
    raw[at] ^= 4
    device = RealDevice(PROVED)
    device.offer(NEW)
    device.files["/bundle"] = bytes(raw)
    assert device.boot()[2:] == [["refused", code], ["reset"]]
    assert (device.files["/slot"], "/trial" in device.files) == (b"a", False)
    assert "/data/update.part" not in device.files


@pytest.mark.slow
def test_two_broken_slots_end_in_safe_mode_with_the_portal_then_without() -> None:
    """Ten quick starts that fail: the portal of the first slot, of the second, then the REPL."""
    device = RealDevice({"1": "raise"})
    device.files |= OLD.slot_files("b") | {"/slot": b"a"}
    slots = [line[2] for _ in range(10) for line in device.boot() if line[0] == "started"]
    assert slots == ["a"] * 5 + ["b"] * 5
    assert device.boot() == [PIN, ["portal", "1", "a"], ["safe mode"]]
    assert device.boot() == [PIN, ["portal", "1", "b"], ["safe mode"]]
    assert device.boot() == [PIN, ["safe mode"]]
    assert device.boot() == [PIN, ["safe mode"]]


def test_real_waits_of_the_unpacking_let_others_run() -> None:
    """MicroPython's own asyncio carries the unpacking; a second task runs between its slices."""
    device = RealDevice(PROVED)
    device.offer(NEW)
    root = "/slot_a/node/"
    files = {path.replace(root, "/lib/node/"): text for path, text in device.files.items()}
    library = {f"/lib/{path.name}": path.read_bytes() for path in DEVICE.glob("*.py")}
    program = """
import sys
sys.path[:0] = ["/lib"]
import asyncio, json, device_board
from node import app
turns = 0
async def meter():
    global turns
    while True:
        turns += 1
        await asyncio.sleep(0.001)
task = asyncio.create_task(meter())
await app.fetched(device_board.Board(), "a").install()
with open("/slot") as file:
    print(json.dumps([file.read(), turns > 5]))
"""
    assert run_micropython(program, {**files, **library}) == [["b", True]]


@pytest.mark.slow
def test_what_every_cut_leaves_boots_in_micropython() -> None:
    """Each state of files and NVS that a cut of a real update leaves ends in the new version."""
    left: dict[Any, Memory] = {}
    for memory in every_cut(new_device(OLD), updating(NEW)):
        files = Files(memory).content()
        left.setdefault((tuple(sorted(files.items())), tuple(memory.nvs.items())), memory)
    assert len(left) > 20
    # A boot of MicroPython takes a second on a busy machine: every fourth, and the last ones.
    states = list(left.values())
    for memory in states[::4] + states[-8:]:
        device = RealDevice(PROVED)
        device.offer(NEW)
        given = {name: value.hex() for name, value in memory.nvs.items()}
        kept = {path: text for path, text in device.files.items() if "slot" not in path}
        device.files = kept | Files(memory).content() | {NVS: json.dumps(given).encode()}
        seen = [line for _ in range(2) for line in device.boot()]
        assert {tuple(line) for line in seen if line[0] == "pin"} == {tuple(PIN)}
        started = [line[1] for line in seen if line[0] == "started"]
        assert started in (["1", "2"], ["2", "2"])
        assert seen[-2] in (["proved"], ["running"])
        assert device.nvs["security"] == bytes([0, 0, 0, 2])
