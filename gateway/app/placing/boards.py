"""Boards as the bench's records tell of them: those that are done, with the place of each."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.app.config_place import Place, Problem, quote, read_text, refuse
from gateway.app.firmware.record import BEGUN, DONE, FAILED, lines_in
from gateway.core.errors import RefusedError
from gateway.core.node_message import DEVICE_ID

# A board has two lines of some 700 bytes: more than 10,000 boards.
RECORD_BYTES_MAX: Final = 16_000_000
SERIAL: Final = re.compile(r"[A-Za-z0-9-]{1,32}")


@dataclass(frozen=True, slots=True)
class Board:
    """A board that is done; `generation` is its secret's, `place` its last line."""

    serial: str
    device_id: str
    generation: int
    place: Place


@dataclass(frozen=True, slots=True)
class Boards:
    """Boards by serial: those that are done, and how the others ended (`begun`, `failed`)."""

    done: Mapping[str, Board]
    others: Mapping[str, str]
    shown: str

    @property
    def problem(self) -> str:
        """What to say where none is done."""
        return f"no board is done in {self.shown}"


def read_records(paths: Sequence[Path]) -> Boards:
    """The boards of one or more benches; the last line of a board counts.

    Raises FileRefusedError with every problem and its place (not readable, a line without what is
    needed, one serial or device of two boards), RefusedError RECORD_REFUSED (damaged, another
    file).
    """
    problems: list[Problem] = []
    done: dict[str, Board] = {}
    others: dict[str, str] = {}
    devices: dict[str, Board] = {}
    for path in paths:
        for place, line in _last_lines(path):
            serial = str(line["serial"])
            if not SERIAL.fullmatch(serial):
                problems.append(Problem(place, "serial", f"{quote(serial)} is no serial"))
                continue
            if line["result"] != DONE:
                others[serial] = BEGUN if line["result"] == BEGUN else FAILED
                continue
            board = _board(place, line, problems)
            if board is None:
                continue
            first = done.setdefault(serial, board)
            if first is not board:
                message = f"another board is {quote(serial)} too, at {first.place}"
                problems.append(Problem(place, "serial", message))
            same = devices.setdefault(board.device_id, board)
            if same is not board:
                message = f"{board.device_id} is {same.serial} already, at {same.place}"
                problems.append(Problem(place, "device_id", message))
    if problems:
        raise refuse(problems)
    return Boards(done, others, ", ".join(map(str, paths)))


def _last_lines(path: Path) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    last: dict[str, tuple[Place, Mapping[str, Any]]] = {}
    content = read_text(path, str(path), RECORD_BYTES_MAX).encode()
    for number, line in lines_in(content, path):
        last[str(line["mac"])] = (Place(str(path), number, 1), line)
    if not last and content.strip() and not content.startswith(b"{"):
        # Another file altogether: else every board would be missing in it, one by one.
        raise RefusedError("RECORD_REFUSED", f"{path} is no record of a bench (boards.jsonl)")
    yield from last.values()


def _board(place: Place, line: Mapping[str, Any], problems: list[Problem]) -> Board | None:
    device_id, generation = line.get("device_id"), line.get("generation")
    if not isinstance(device_id, str) or not DEVICE_ID.fullmatch(device_id):
        problems.append(Problem(place, "device_id", f"{quote(str(device_id))} is no device id"))
        return None
    if type(generation) is not int or generation < 1:
        problems.append(Problem(place, "generation", "is no number from 1"))
        return None
    return Board(str(line["serial"]), device_id, generation, place)
