"""The node in MicroPython's unix port: its own asyncio, sockets, mbedtls and littlefs.

Only `machine`, `esp32` and `network` are stand-ins, the same as in the WebAssembly build
(tests/firmware/runner/esp/), on wires of its own (tests/firmware/runner/unix/).
"""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest
from littlefs import LittleFS

from gateway.app.firmware.image import GEOMETRY, make_image
from gateway.sim.pzem import PzemLine
from tests.firmware.chip_node import WATCHDOG_STATUS, ChipNode
from tests.firmware.micropython import RUNNER

HAS_UNIX: Final = find_spec("micropython_run") is not None
needs_unix = pytest.mark.skipif(
    not HAS_UNIX,
    reason="MicroPython's unix port comes in wheels for Linux on x86_64 only",
)
HEAP: Final = "2M"
IMAGE: Final = "flash.img"
# What MicroPython's littlefs makes of an image once it writes.
NEWEST: Final = 0x00020001
LOOK_S: Final = 10.0


class UnixNode(ChipNode):
    """One device; its flash is an image of littlefs, as it is flashed."""

    heap = HEAP
    ntp_port = 123  # where a time server is, whatever its name
    _seen: asyncio.Future[dict[str, int]] | None = None
    _watchdog: asyncio.TimerHandle | None = None
    _bitten = False

    def __init__(self, place: Path, clock: Any, line: PzemLine) -> None:
        super().__init__(place, clock, line)
        # What a program of a test's own told.
        self.counts: list[dict[str, int]] = []

    def write_flash(self, files: Mapping[str, bytes]) -> None:
        """Make the image anew, with these files too."""
        there = self.files() if (self.place / IMAGE).exists() else {}
        (self.place / IMAGE).write_bytes(make_image({**there, **files}))

    def files(self) -> dict[str, bytes]:
        """What is on the flash; the node is off."""
        system = LittleFS(mount=False, **{**GEOMETRY, "disk_version": NEWEST})
        system.context.buffer = bytearray((self.place / IMAGE).read_bytes())
        system.mount()
        found = {}
        for folder, _, names in system.walk("/"):
            for name in names:
                path = f"{folder.rstrip('/')}/{name}"
                with system.open(path, "rb") as file:
                    found[path] = bytes(file.read())
        return found

    async def look(self) -> dict[str, int]:
        """Its heap in bytes (used, held once it is collected, free, before the firmware), and
        the longest that its loop was not there for others, since the last look.
        """
        seen = self._seen = asyncio.get_running_loop().create_future()
        self._order(look=1)
        return await asyncio.wait_for(seen, LOOK_S)

    @property
    def sockets(self) -> int:
        """How many the process has open."""
        folder = Path(f"/proc/{self.pid}/fd")
        return sum(str(entry.readlink()).startswith("socket:") for entry in folder.iterdir())

    @property
    def pid(self) -> int:
        """Of the process that is this boot."""
        assert self._process is not None
        return self._process.pid

    async def _boot(self, cause: str, uart: int, control: int) -> int:
        self._bitten = False
        try:
            status = await super()._boot(cause, uart, control)
        finally:
            if self._watchdog:
                self._watchdog.cancel()
        return WATCHDOG_STATUS if self._bitten else status

    def _program(self, job: dict[str, Any]) -> tuple[Sequence[str], bytes]:
        clock = self.place / "clock"
        clock.unlink(missing_ok=True)
        place = RUNNER / "unix"
        command = [sys.executable, str(place / "host.py"), str(clock)]
        command += ["-X", f"heapsize={self.heap}", str(place / "start.py"), str(RUNNER / "esp")]
        return command, json.dumps(job | {"ntp": self.ntp_port}).encode()

    def _told(self, told: dict[str, Any]) -> None:
        if "feed" in told:
            if self._watchdog:
                self._watchdog.cancel()
            later = asyncio.get_running_loop().call_later
            self._watchdog = later(told["feed"] / 1_000, self._bite)
        elif "look" in told:
            assert self._seen is not None
            self._seen.set_result(told["look"])
        elif "count" in told:
            self.counts.append(told)
        else:
            super()._told(told)

    def _bite(self) -> None:
        """The watchdog: an end anywhere, whatever the firmware is at."""
        self._bitten = True
        if self._process:
            self._process.kill()
