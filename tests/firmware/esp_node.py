"""The node in MicroPython's WebAssembly build, run by node: no TLS, but its time may jump."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tests.firmware.chip_node import ChipNode
from tests.firmware.micropython import MICROPYTHON, NODE, ROOT, RUNNER

PROGRAM: Final = """\
import sys
sys.path[:0] = ["/lib", "/tests-root", "/"]
import asyncio, start
await asyncio.create_task(start.boot())
"""


class EspNode(ChipNode):
    """One device; its flash is a directory, and a file that was closed is there at once."""

    def write_flash(self, files: Mapping[str, bytes]) -> None:
        """Write them into the directory."""
        for name, content in files.items():
            path = self.place / "flash" / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def _more(self) -> dict[str, Any]:
        """What else a boot is told (esp.mjs)."""
        return {}

    def _program(self, job: dict[str, Any]) -> tuple[Sequence[str], bytes]:
        files = {f"/lib/{path.name}": path for path in (RUNNER / "esp").glob("*.py")}
        board = RUNNER / "js_board.py"
        files[f"/tests-root/{board.relative_to(ROOT).as_posix()}"] = board
        library = {
            name: base64.b64encode(path.read_bytes()).decode() for name, path in files.items()
        }
        told = job | {"library": library, "program": PROGRAM} | self._more()
        script = str(RUNNER / "esp.mjs")
        return (str(NODE), "--expose-gc", script, str(MICROPYTHON)), json.dumps(told).encode()
