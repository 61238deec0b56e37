"""The meters' CSV: what a person edits in a spreadsheet, with a place for every cell.

Comma, semicolon or tab (whichever the first line uses), with or without a byte order mark; empty
cells count as absent, empty lines and lines that start with # are skipped.
"""

import csv
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.app.config_place import Place, Problem, quote, read_text, refuse, unknown

MAX_BYTES: Final = 8_000_000
MAX_ROWS: Final = 20_000
MAX_CELL: Final = 1_000
DELIMITERS: Final = (";", "\t", ",")


class Row:
    """One line of the table: `cells` by column name, empty ones left out."""

    __slots__ = ("_columns", "_delimiter", "_file", "_line", "_text", "cells")

    def __init__(
        self, cells: dict[str, str], text: str, origin: tuple[str, int], layout: tuple[str, ...]
    ) -> None:
        self.cells = cells
        self._text = text
        self._file, self._line = origin
        self._delimiter, *self._columns = layout

    def place(self, column: str) -> Place:
        """Where a cell starts; of a column that the table does not have, the start of the line.

        Found again only for a problem's sake, so that 800 good rows cost nothing.
        """
        starts = list(_cell_starts(self._text, self._delimiter))
        wanted = self._columns.index(column) if column in self._columns else 0
        offset = starts[min(wanted, len(starts) - 1)]
        before = self._text[:offset]
        line_start = before.rfind("\n") + 1
        return Place(self._file, self._line + before.count("\n"), offset - line_start + 1)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows in the order of the file, the problems of its form, and the columns of its header."""

    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]
    columns: tuple[str, ...]
    header: Place


def read_table(path: Path, columns: Collection[str], shown: str | None = None) -> Table:
    """Read a CSV whose first line names its columns, each one of `columns`.

    `shown` is how the file is named in messages. Raises FileRefusedError when the file cannot be
    read, is not UTF-8, has an unknown or doubled column, or is beyond MAX_BYTES.
    """
    name = shown or str(path)
    return parse_table(read_text(path, name, MAX_BYTES), columns, name)


def parse_table(text: str, columns: Collection[str], file: str) -> Table:
    """The rows of a CSV text; `file` names it in places. Raises as `read_table` does."""
    records = _records(text)
    first = next(records, None)
    if first is None:
        raise refuse([Problem(Place(file, 1, 1), "", "is empty: its first line names the columns")])
    line, raw = first
    delimiter = next((mark for mark in DELIMITERS if mark in raw), ",")
    header = Place(file, line, 1)
    names = _header(raw, delimiter, columns, header)
    layout = (delimiter, *names)
    rows: list[Row] = []
    problems: list[Problem] = []
    for line, raw in records:
        start = Place(file, line, 1)
        if len(rows) >= MAX_ROWS:
            problems.append(Problem(start, "", f"more than {MAX_ROWS} rows"))
            break
        try:
            cells = _split(raw, delimiter)
        except csv.Error as error:
            problems.append(Problem(start, "", f"is not CSV: {error}"))
            continue
        filled = {name: cell for name, cell in zip(names, cells, strict=False) if cell}
        row = Row(filled, raw, (file, line), layout)
        if any(cells[len(names) :]):
            message = f"{len(cells)} cells under {len(names)} columns"
            problems.append(Problem(start, "", message))
        problems += [
            Problem(row.place(name), name, f"is longer than {MAX_CELL} characters")
            for name, cell in filled.items()
            if len(cell) > MAX_CELL
        ]
        if filled:
            rows.append(row)
    return Table(tuple(rows), tuple(problems), tuple(names), header)


def added_lines(
    text: str, rows: Sequence[Mapping[str, str]], columns: Collection[str], file: str
) -> str:
    """What has to follow a CSV's text so that it has these rows too, cells by column name.

    Delimiter, line ends and order of columns are the file's own. Raises FileRefusedError when the
    text is no such table, or has no column for a cell.
    """
    table = parse_table(text, columns, file)
    _, raw = next(_records(text))
    delimiter = next((mark for mark in DELIMITERS if mark in raw), ",")
    lacking = {name for row in rows for name in row} - set(table.columns)
    if lacking:
        message = "is no column of this file: add it to the first line"
        raise refuse([Problem(table.header, name, message) for name in sorted(lacking)])
    made = io.StringIO()
    end = "\r\n" if "\r\n" in text else "\n"
    writer = csv.writer(made, delimiter=delimiter, lineterminator=end)
    writer.writerows([row.get(name, "") for name in table.columns] for row in rows)
    return ("" if text.endswith(("\n", "\r")) else end) + made.getvalue()


def _header(raw: str, delimiter: str, columns: Collection[str], place: Place) -> list[str]:
    try:
        names = [name.lower() for name in _split(raw, delimiter)]
    except csv.Error as error:
        raise refuse([Problem(place, "", f"is not CSV: {error}")]) from error
    while names and not names[-1]:
        names.pop()
    problems: list[Problem] = []
    for index, (name, offset) in enumerate(zip(names, _cell_starts(raw, delimiter), strict=False)):
        here = Place(place.file, place.line, offset + 1)
        if not name:
            problems.append(Problem(here, "", "a column without a name"))
        elif name not in columns:
            problems.append(Problem(here, name, unknown("column", name, columns)))
        elif name in names[:index]:
            problems.append(Problem(here, name, f"the column {quote(name)} stands twice"))
    if problems:
        raise refuse(problems)
    return names


def _records(text: str) -> Iterator[tuple[int, str]]:
    """Line number and raw text of each record; a quoted cell may hold line breaks.

    A quotation mark that is never closed makes the rest of the file one record, which is then
    refused as no CSV at the line where it was opened.
    """
    parts: list[str] = []
    start, quoted = 1, False
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if not parts:
            start = number
            if not line.strip(" \t\n,;") or line.startswith("#"):
                continue
        parts.append(line)
        quoted ^= line.count('"') % 2 == 1
        if not quoted:
            yield start, "".join(parts).removesuffix("\n")
            parts = []
    if parts:
        yield start, "".join(parts)


def _split(raw: str, delimiter: str) -> list[str]:
    """The cells of a record, trimmed. Raises csv.Error."""
    reader = csv.reader(io.StringIO(raw), delimiter=delimiter, strict=True)
    return [cell.strip() for cell in next(reader)]


def _cell_starts(raw: str, delimiter: str) -> Iterator[int]:
    """Offset of the first visible character of each cell."""
    offset = 0
    while True:
        start, quoted = offset, False
        while offset < len(raw) and (quoted or raw[offset] != delimiter):
            quoted ^= raw[offset] == '"'
            offset += 1
        blank = len(raw[start:offset]) - len(raw[start:offset].lstrip(" "))
        yield start + (blank if blank < offset - start else 0)
        if offset >= len(raw):
            return
        offset += 1
