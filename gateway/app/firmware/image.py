"""The node's file system as it is flashed: littlefs, as MicroPython mounts it on an ESP32."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gateway.app.firmware.bundle import Bundle
from gateway.app.firmware.signing import read_file
from gateway.app.firmware.sources import bench_tool_missing
from gateway.core.errors import RefusedError

IMAGE_OFFSET: Final = 0x200000
BLOCK_BYTES: Final = 4096
BLOCK_COUNT: Final = 512
# Version 2.0 on disk: an older littlefs than the one that made it must be able to mount it. Read,
# program and cache sizes are what MicroPython's VfsLfs2 asks for: a file kept inside a directory
# block may be no longer than the cache of the one that reads it.
GEOMETRY: Final[Mapping[str, Any]] = {
    "block_size": BLOCK_BYTES,
    "block_count": BLOCK_COUNT,
    "read_size": 32,
    "prog_size": 32,
    "cache_size": 128,
    "lookahead_size": 32,
    "block_cycles": 100,
    "disk_version": 0x00020000,
}
# Written here and by no update.
FIXED: Final = ("boot.py", "main.py", "loader.py")


def node_files(firmware: Path, bundle: Bundle) -> dict[str, bytes]:
    """Path and content of every file of a new node that starts `bundle` from slot a.

    `firmware`: directory with boot.py, main.py and loader.py. Raises RefusedError FILE_REFUSED.
    """
    fixed = {f"/{name}": read_file(firmware / name) for name in FIXED}
    return {**fixed, **bundle.slot_files("a")}


def make_image(files: Mapping[str, bytes]) -> bytes:
    """The image, 2 MiB, with these files (absolute paths); /data is there for the application.

    Raises RefusedError FIRMWARE_TOOL (littlefs-python is missing), IMAGE_REFUSED (does not fit).
    """
    littlefs = _littlefs()
    system = littlefs.LittleFS(**GEOMETRY)
    try:
        system.mkdir("/data")
        for path in sorted(files):
            system.makedirs(path.rpartition("/")[0] or "/", exist_ok=True)
            with system.open(path, "wb") as file:
                file.write(files[path])
        system.unmount()
    except littlefs.LittleFSError as error:
        raise RefusedError("IMAGE_REFUSED", f"the files do not fit: {error}") from error
    return bytes(system.context.buffer)


def read_image(image: bytes) -> dict[str, bytes]:
    """Path and content of every file in an image. Raises RefusedError as `make_image` does."""
    littlefs = _littlefs()
    system = littlefs.LittleFS(mount=False, **GEOMETRY)
    system.context.buffer = bytearray(image)
    found: dict[str, bytes] = {}
    try:
        system.mount()
        for folder, _, names in system.walk("/"):
            for name in names:
                path = f"{folder.rstrip('/')}/{name}"
                with system.open(path, "rb") as file:
                    found[path] = bytes(file.read())
    except littlefs.LittleFSError as error:
        raise RefusedError("IMAGE_REFUSED", f"no such file system: {error}") from error
    return found


def _littlefs() -> Any:
    try:
        return importlib.import_module("littlefs")
    except ImportError as error:
        raise RefusedError(
            "FIRMWARE_TOOL", bench_tool_missing("littlefs-python", "makes the node's file system")
        ) from error
