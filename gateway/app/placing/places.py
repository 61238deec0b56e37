"""Which board hangs where: a CSV of serials and meters, compared with bench, site and gateway.

Read as the meters' file is (`config_csv.py`): comma, semicolon or tab, every problem at once as
`file:line:column: column: message`. Columns beside `serial` and `meter_id` are those of a node in
the meters file and count for meters that are written into it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from gateway.app.config import NODE_SETTINGS, Config, NodeConfig
from gateway.app.config_csv import Row, read_table
from gateway.app.config_model import METER_COLUMNS
from gateway.app.config_place import Problem, quote
from gateway.app.config_types import FORMS, ID_FORM
from gateway.app.placing.boards import Board, Boards
from gateway.core.requests import ID_PATTERN
from gateway.south.metering import NODE_MODEL

SERIAL: Final = "serial"
METER: Final = "meter_id"
_TEXTS: Final = frozenset({"label", "feeder", "service_point", "account", "critical", "priority"})
MORE: Final = tuple(name for name in METER_COLUMNS if name in _TEXTS | NODE_SETTINGS)
COLUMNS: Final = (SERIAL, METER, *MORE)


@dataclass(frozen=True, slots=True)
class Place:
    """One board at one meter; `is_new` says that the configuration has no such meter yet."""

    board: Board
    meter_id: str
    is_new: bool
    row: Row = field(compare=False)

    def meters_row(self) -> dict[str, str]:
        """What the meters file is to say of it, by column."""
        more = {name: self.row.cells[name] for name in MORE if name in self.row.cells}
        return {"id": self.meter_id, "model": NODE_MODEL, **more}


@dataclass(frozen=True, slots=True)
class Device:
    """A device as the gateway has it on record."""

    status: str
    meter_id: str | None
    generation: int
    note: str


def read_places(path: Path, boards: Boards, config: Config) -> tuple[list[Place], list[Problem]]:
    """The rows of a file that fit together, and every problem of the others.

    Raises FileRefusedError when the file is no such table at all.
    """
    table = read_table(path, COLUMNS)
    problems = list(table.problems)
    missing = [name for name in (SERIAL, METER) if name not in table.columns]
    if missing:
        return [], [*problems, *(Problem(table.header, name, "is missing") for name in missing)]
    points = {point.meter_id: point for point in config.points}
    found: list[Place] = []
    for row in table.rows:
        wrong = [*_serial_problems(row, boards), *_meter_problems(row)]
        problems += wrong
        if not wrong:
            meter_id = row.cells[METER]
            board = boards.done[row.cells[SERIAL]]
            found.append(Place(board, meter_id, meter_id not in points, row))
    problems += _twice(found)
    for place in found:
        problems += _configured(place, config)
    return found, problems


def compare(
    places: Sequence[Place], devices: Mapping[str, Device], *, may_add: bool, meters: str
) -> list[Problem]:
    """What of the places contradicts the gateway's records; nothing is done then.

    `devices` are all on record by id. `meters` names the file that new meters go into.
    """
    holders = {
        device.meter_id: name for name, device in devices.items() if device.status == "approved"
    }
    problems: list[Problem] = []
    for place in places:
        name = place.board.device_id
        device = devices.get(name)
        problems += _contradictions(place, device)
        holder = holders.get(place.meter_id)
        if holder is not None and holder != name:
            message = f"{place.meter_id} has the device {holder}: refuse that one first"
            problems.append(_problem(place.row, METER, message))
        if place.is_new and not may_add:
            message = (
                f"the configuration has no node {quote(place.meter_id)}: --new writes it into "
                f"{meters}"
            )
            problems.append(_problem(place.row, METER, message))
    return problems


def generation_problem(board: Board, expected: int) -> str:
    """What is wrong with the generation of a board's secret; empty where nothing is."""
    if board.generation == expected:
        return ""
    return (
        f"{board.serial} has a secret of generation {board.generation}, the gateway expects "
        f"{expected}: flash it with --again --generation {expected}"
    )


def _contradictions(place: Place, device: Device | None) -> Iterator[Problem]:
    serial = place.board.serial
    if device is not None and device.status in ("refused", "quarantined"):
        # Never by a list that is given again: somebody shut it out for a reason.
        yield _problem(
            place.row,
            SERIAL,
            f"{serial} ({place.board.device_id}) is {device.status} ({device.note}): leave it out, "
            "or approve it by itself",
        )
        return
    wrong = generation_problem(place.board, 1 if device is None else device.generation)
    if wrong:
        yield _problem(place.row, SERIAL, wrong)
    if device is not None and device.meter_id not in (None, place.meter_id):
        message = f"{serial} serves {device.meter_id}: refuse it there first"
        yield _problem(place.row, SERIAL, message)


def _serial_problems(row: Row, boards: Boards) -> Iterator[Problem]:
    serial = row.cells.get(SERIAL)
    if serial is None:
        yield _problem(row, SERIAL, "is missing: the board's serial")
    elif serial in boards.done:
        return
    elif serial in boards.others:
        message = f"{serial} is not done ({boards.others[serial]}): flash it again"
        yield _problem(row, SERIAL, message)
    else:
        close = get_close_matches(serial, sorted(boards.done), n=1, cutoff=0.6)
        remedy = f": did you mean {close[0]!r}?" if close else ""
        yield _problem(row, SERIAL, f"no board {quote(serial)} in {boards.shown}{remedy}")


def _meter_problems(row: Row) -> Iterator[Problem]:
    meter_id = row.cells.get(METER)
    if meter_id is None:
        yield _problem(row, METER, "is missing: the meter that the board is")
    elif not ID_PATTERN.fullmatch(meter_id):
        yield _problem(row, METER, f"is {quote(meter_id)}: expected {FORMS[ID_FORM]}")


def _configured(place: Place, config: Config) -> Iterator[Problem]:
    """What the configuration says against a place."""
    device = place.board.device_id
    for point in config.points:
        if not isinstance(point, NodeConfig):
            if point.meter_id == place.meter_id:
                message = f"{place.meter_id} is a {point.model}, which is polled, and no node"
                yield _problem(place.row, METER, message)
        elif point.meter_id == place.meter_id:
            if point.device not in ("", device):
                message = f"the configuration gives {place.meter_id} the device {point.device}"
                yield _problem(place.row, METER, message)
        elif device in (point.device, point.meter_id):
            message = f"the configuration gives {device} to {point.meter_id}"
            yield _problem(place.row, SERIAL, message)


def _twice(places: Sequence[Place]) -> Iterator[Problem]:
    for column in (SERIAL, METER):
        seen: dict[str, Place] = {}
        for place in places:
            name = place.row.cells[column]
            first = seen.setdefault(name, place)
            if first is not place:
                message = f"{quote(name)} stands twice, first at {first.row.place(column)}"
                yield _problem(place.row, column, message)


def _problem(row: Row, column: str, message: str) -> Problem:
    return Problem(row.place(column), column, message)
