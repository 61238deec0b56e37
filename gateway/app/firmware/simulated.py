"""Boards that exist in memory only: to learn and to show the bench without hardware."""

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.app.firmware.bench import Bench
from gateway.app.firmware.image import IMAGE_OFFSET, read_image
from gateway.core.errors import RefusedError

FLASH_BYTES: Final = 0x400000
# 02: an address that no maker was given.
_FIRST_MAC: Final = 0x02_00_00_00_00_00


class SimulatedBoards:
    """A box of them: every call at a port takes the next one."""

    def __init__(self) -> None:
        self.taken: list[SimulatedBoard] = []
        self._lock = threading.Lock()

    def board_at(self, port: str) -> "SimulatedBoard":
        """The next board, at this port."""
        with self._lock:
            self.taken.append(SimulatedBoard(len(self.taken) + 1, port))
            return self.taken[-1]


class SimulatedBoard:
    """An ESP32 with a PZEM and a relay; `fault`: "silent", "stuck", "worn" or none."""

    def __init__(self, number: int, port: str, fault: str = "") -> None:
        self.port = port
        self.flash = bytearray(b"\xff" * FLASH_BYTES)
        self.nvs: dict[str, bytes] = {}
        self.restarts = 0
        self._mac = f"{_FIRST_MAC + number:012x}"
        self._fault = fault

    def mac(self) -> str:
        """Its address."""
        return self._mac

    def write(self, bench: Bench) -> None:
        """Erase all, NVS too, and write."""
        self.nvs.clear()
        self.flash[:] = b"\xff" * FLASH_BYTES
        for offset, content in self._parts(bench):
            self.flash[offset : offset + len(content)] = content
        if self._fault == "worn":
            self.flash[IMAGE_OFFSET + 5] ^= 1

    def verify(self, bench: Bench) -> None:
        """Raises RefusedError BOARD_FAILED."""
        for offset, content in self._parts(bench):
            if self.flash[offset : offset + len(content)] != content:
                raise RefusedError("BOARD_FAILED", f"{self.port}: the flash differs")

    def hello(self) -> Mapping[str, Any]:
        """What its file system says."""
        fields = json.loads(self._files()["/slot_a/manifest"])
        return {"mac": self._mac, "hardware": fields["hardware"], "version": fields["version"]}

    def keep(self, values: Mapping[str, bytes]) -> Sequence[str]:
        """All of it."""
        self.nvs |= values
        return []

    def sums(self, paths: Sequence[str]) -> Mapping[str, str]:
        """Of the files in its flash."""
        files = self._files()
        return {path: hashlib.sha256(files[path]).hexdigest() for path in paths if path in files}

    def test(self, bench: Bench) -> Mapping[str, Any]:
        """A lamp of 60 W hangs on the relay."""
        if self._fault == "silent":
            return {"failed": {"meter": "SILENT"}}
        found: dict[str, Any] = {"rssi": -58}
        if bench.file.tests.meter:
            found["meter"] = {"voltage_dv": 2301, "current_ma": 0, "energy_wh": 0}
        if bench.file.tests.relay:
            left = 260 if self._fault == "stuck" else 0
            found["relay"] = {"followed": True, "closed_ma": 260, "open_ma": left}
        return found

    def restart(self) -> None:
        """Counted."""
        self.restarts += 1

    def _parts(self, bench: Bench) -> tuple[tuple[int, bytes], ...]:
        return ((bench.file.base.offset, bench.base), (IMAGE_OFFSET, bench.image))

    def _files(self) -> dict[str, bytes]:
        return read_image(bytes(self.flash[IMAGE_OFFSET:]))
