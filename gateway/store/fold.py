"""Folding staged readings into the chunks and minute means of one day's file."""

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.store.chunks import (
    MEAN_DECIMALS,
    ROWS_MAX,
    StagedReading,
    decimals_of,
    pack_columns,
    pack_integers,
    pack_values,
)

MINUTE_MS: Final = 60_000


def write_chunks(
    day: sqlite3.Connection,
    shard: int,
    readings: Sequence[tuple[int, StagedReading]],
    *,
    meter_ids: Mapping[int, str],
    names: Mapping[int, tuple[str, ...]],
) -> int:
    """Write the readings (each with its sweep number) of one shard and one day; chunks written.

    One transaction on the day's file, which remembers the last sweep of the shard: readings up to
    it are in the file already and are passed over.
    """
    day.execute("BEGIN IMMEDIATE")
    try:
        row = day.execute("SELECT sweep FROM folded WHERE shard = ?", (shard,)).fetchone()
        done = 0 if row is None else row[0]
        meters: dict[int, list[StagedReading]] = {}
        for sweep, reading in readings:
            if sweep > done:
                meters.setdefault(reading.meter, []).append(reading)
        chunks = 0
        for meter, rows in meters.items():
            for run in _runs(rows):
                _write(day, meter_ids[meter], names.get(_layout(run), ()), run)
                chunks += 1
        day.execute(
            "INSERT INTO folded VALUES (?, ?) ON CONFLICT (shard) "
            "DO UPDATE SET sweep = max(sweep, excluded.sweep)",
            (shard, readings[-1][0]),
        )
        day.execute("COMMIT")
    except BaseException:
        if day.in_transaction:
            day.execute("ROLLBACK")
        raise
    return chunks


def _runs(rows: Sequence[StagedReading]) -> list[list[StagedReading]]:
    """Rows cut where the number of registers or the names of the values change."""
    runs: list[list[StagedReading]] = []
    for row in rows:
        if runs:
            run = runs[-1]
            layout = _layout(run)
            fits = row.layout == layout or 0 in (row.layout if row.values else 0, layout)
            if fits and len(row.energy_wh) == len(run[0].energy_wh) and len(run) < ROWS_MAX:
                run.append(row)
                continue
        runs.append([row])
    return runs


def _layout(run: Sequence[StagedReading]) -> int:
    """The layout of a run: rows of short polls (no values) have none of their own."""
    return next((row.layout for row in run if row.values), 0)


def _write(
    day: sqlite3.Connection, meter_id: str, names: tuple[str, ...], run: Sequence[StagedReading]
) -> None:
    meter = number_of(day, METER, meter_id)
    layout = number_of(day, LAYOUT, json.dumps(list(names)))
    times = [row.utc_ms for row in run]
    registers = len(run[0].energy_wh)
    nothing = (math.nan,) * len(names)
    columns = [
        pack_integers(times),
        pack_integers([row.sequence for row in run]),
        *(
            pack_integers(list(column))
            for column in zip(*(row.energy_wh for row in run), strict=True)
        ),
        *(
            pack_values(column, decimals_of(name))
            for name, column in zip(
                names, zip(*(row.values or nothing for row in run), strict=True), strict=True
            )
        ),
    ]
    span = (meter, min(times), max(times), layout)
    day.execute(
        "INSERT INTO chunk (meter, start_utc_ms, end_utc_ms, layout, registers, body) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (*span, registers, pack_columns([pack_integers([len(run)]), *columns])),
    )
    body = _minutes([row for row in run if row.values], names)
    if body is not None:
        day.execute(
            "INSERT INTO minute (meter, start_utc_ms, end_utc_ms, layout, body) "
            "VALUES (?, ?, ?, ?, ?)",
            (*span, body),
        )


def _minutes(rows: Sequence[StagedReading], names: Sequence[str]) -> bytes | None:
    """Means per minute: columns start, readings, then one per value."""
    minutes: dict[int, list[tuple[float, ...]]] = {}
    for row in rows:
        minutes.setdefault(row.utc_ms // MINUTE_MS, []).append(row.values)
    if not minutes:
        return None
    means = [[_mean(column) for column in zip(*group, strict=True)] for group in minutes.values()]
    columns = [
        pack_integers([minute * MINUTE_MS for minute in minutes]),
        pack_integers([len(group) for group in minutes.values()]),
        *(
            pack_values(column, decimals_of(name) + MEAN_DECIMALS)
            for name, column in zip(names, zip(*means, strict=True), strict=True)
        ),
    ]
    return pack_columns([pack_integers([len(minutes)]), *columns])


def _mean(values: Sequence[float]) -> float:
    total = sum(values)
    if math.isfinite(total):
        return total / len(values)
    defined = [value for value in values if math.isfinite(value)]
    return sum(defined) / len(defined) if defined else math.nan


METER: Final = (
    "SELECT number FROM meter WHERE meter_id = ?",
    "INSERT INTO meter (meter_id) VALUES (?) RETURNING number",
)
LAYOUT: Final = (
    "SELECT number FROM layout WHERE names = ?",
    "INSERT INTO layout (names) VALUES (?) RETURNING number",
)


def number_of(connection: sqlite3.Connection, statements: tuple[str, str], name: str) -> int:
    """The number of a meter id or of a layout's names in this file, given now if it is new."""
    row = connection.execute(statements[0], (name,)).fetchone()
    if row is None:
        row = connection.execute(statements[1], (name,)).fetchone()
    return int(row[0])
