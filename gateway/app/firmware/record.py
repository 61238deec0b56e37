"""The bench's record: one JSON line when a board is begun and one when it ended; no secrets.

The last line of a board counts. A power cut may leave a torn last line, which is passed over.
"""

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import ENOSPC
from pathlib import Path
from typing import Any, Final, Self

from gateway.core.errors import RefusedError

BEGUN: Final = "begun"
DONE: Final = "done"
FAILED: Final = "failed"
RECORD_MODE: Final = 0o600


@dataclass
class Record:
    """An open record, of this bench alone; many workers share it."""

    path: Path
    prefix: str
    _file: int
    _boards: dict[str, dict[str, Any]] = field(default_factory=dict)
    _working: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    @contextmanager
    def open(cls, path: Path, prefix: str) -> Iterator[Self]:
        """Open or begin it; serials are `prefix` and four digits.

        Raises RefusedError RECORD_REFUSED (another bench has it, damaged), FILE_REFUSED.
        """
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, RECORD_MODE)
        except OSError as error:
            raise RefusedError("FILE_REFUSED", f"{path}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RefusedError("RECORD_REFUSED", f"another bench writes {path}") from error
            content = path.read_bytes()
            if content and not content.endswith(b"\n"):
                os.write(file, b"\n")
            yield cls(path, prefix, file, boards_in(content, path))
        finally:
            os.close(file)

    def claim(self, mac: str, port: str, *, again: bool) -> str:
        """The serial of a board that is to be worked on, its own or a new one.

        Raises RefusedError BOARD_DONE, BOARD_DUPLICATE (another port has a board of this MAC now).
        """
        with self._lock:
            if mac in self._working:
                raise RefusedError(
                    "BOARD_DUPLICATE",
                    f"{self._working[mac]} has a board with MAC {mac} too: two of one address "
                    "cannot be told apart; put one of them away",
                )
            known = self._boards.get(mac)
            if known is not None and known["result"] == DONE and not again:
                raise RefusedError(
                    "BOARD_DONE",
                    f"MAC {mac} is done, as {known['serial']}: --again does it once more; if this "
                    "is another board, its address is a copy and it cannot be used",
                )
            serial = str(known["serial"]) if known else self._next_serial()
            self._working[mac] = port
            self._boards.setdefault(mac, {"serial": serial, "mac": mac, "result": BEGUN})
            return serial

    def release(self, mac: str) -> None:
        """The board is no longer worked on."""
        with self._lock:
            self._working.pop(mac, None)

    def write(self, line: Mapping[str, object]) -> None:
        """Keep a line for good; it has at least serial, mac and result.

        Raises RefusedError FILE_REFUSED.
        """
        content = json.dumps(line).encode() + b"\n"
        with self._lock:
            try:
                end = os.lseek(self._file, 0, os.SEEK_END)
                written = os.write(self._file, content)
                if written < len(content):
                    # A full disk takes what fits: half a line, to which the next one would be tied.
                    os.ftruncate(self._file, end)
                    raise RefusedError("FILE_REFUSED", f"{self.path}: {os.strerror(ENOSPC)}")
                os.fsync(self._file)
            except OSError as error:
                raise RefusedError("FILE_REFUSED", f"{self.path}: {error.strerror}") from error
            self._boards[str(line["mac"])] = dict(line)

    def _next_serial(self) -> str:
        taken = [str(board["serial"]) for board in self._boards.values()]
        numbers = [int(serial.removeprefix(self.prefix)) for serial in taken if self._ours(serial)]
        return f"{self.prefix}{max(numbers, default=0) + 1:04d}"

    def _ours(self, serial: str) -> bool:
        number = serial.removeprefix(self.prefix)
        return serial.startswith(self.prefix) and number.isascii() and number.isdigit()


def read_boards(path: Path) -> list[dict[str, Any]]:
    """The last line of every board, in the order they came first.

    Raises RefusedError FILE_REFUSED, RECORD_REFUSED.
    """
    try:
        return list(boards_in(path.read_bytes(), path).values())
    except OSError as error:
        raise RefusedError("FILE_REFUSED", f"{path}: {error.strerror}") from error


def boards_in(content: bytes, path: Path) -> dict[str, dict[str, Any]]:
    """The last line of every board by its MAC. Raises RefusedError RECORD_REFUSED."""
    return {line["mac"]: line for _, line in lines_in(content, path)}


def lines_in(content: bytes, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of every line. Raises RefusedError RECORD_REFUSED."""
    lines = content.split(b"\n")
    for number, text in enumerate(lines, 1):
        if not text:
            continue
        try:
            line = json.loads(text)
            found = {**line, **{name: line[name] for name in ("mac", "serial", "result")}}
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines) or not text.endswith(b"}"):
                # Torn by a power cut; what it would have said is done again.
                continue
            raise RefusedError("RECORD_REFUSED", f"{path}: line {number} is damaged") from error
        yield number, found
