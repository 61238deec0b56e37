"""The read side of `control/telemetry/`: values, minute means, half hours, events.

Files are opened for each look and closed after it. What retention deleted is simply not there.
"""

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple

from gateway.core.interval import Interval
from gateway.store.chunks import (
    SHARD_BITS,
    SHARD_METERS,
    column_of,
    decimals_of,
    unpack_integers,
    unpack_rows,
    unpack_values,
    value_struct,
)
from gateway.store.db import reading
from gateway.store.rows import integers, mapping, page_size
from gateway.store.telemetry_files import (
    DAY,
    HISTORY,
    STAGING,
    STAGING_NAME,
    day_files,
    day_name,
    month_files,
    month_name,
    staged_bodies,
)

POINTS_MAX: Final = 100_000
# Columns in front of the values: of a chunk rows, times, sequences (then registers); of a minute
# row minutes, starts, counts.
_HEAD_COLUMNS: Final = 3


class ValuePoint(NamedTuple):
    """One value at one time; None where the meter gave none."""

    utc_ms: int
    value: float | None


@dataclass(frozen=True, slots=True)
class MinutePoint:
    """The mean of a value over the minute that begins at `start_utc_ms`, and its readings."""

    start_utc_ms: int
    mean: float | None
    readings: int


@dataclass(frozen=True, slots=True)
class RegisterPoint:
    """The registers of one reading, in Wh."""

    utc_ms: int
    sequence: int
    energy_wh: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its sequence number, which is the cursor of lists."""

    seq: int
    utc_ms: int
    kind: str
    subject: str
    severity: str
    body: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _Chunk:
    body: bytes
    names: tuple[str, ...]
    registers: int


class TelemetryReader:
    """Looks into the files of another process. Every call may raise StoreAwayError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def values(
        self, meter_id: str, name: str, from_utc_ms: int, to_utc_ms: int, limit: int = POINTS_MAX
    ) -> list[ValuePoint]:
        """A measurement of a meter from `from_utc_ms` to before `to_utc_ms`, in time order.

        At most `limit` points (the earliest); those of the last minutes come from staging.
        """
        span = _Span(meter_id, from_utc_ms, to_utc_ms, min(limit, POINTS_MAX))
        # Staging first: what is folded meanwhile is then found in both, not in neither.
        staged = list(self._staged(span))
        found: dict[int, float | None] = {}
        for chunk in self._rows(_CHUNKS, span, found):
            if name not in chunk.names:
                continue
            rows = unpack_integers(column_of(chunk.body, 0), 1)[0]
            times = unpack_integers(column_of(chunk.body, 1), rows)
            column = _HEAD_COLUMNS + chunk.registers + chunk.names.index(name)
            points = zip(times, unpack_values(column_of(chunk.body, column), rows), strict=True)
            if from_utc_ms <= min(times) and max(times) < to_utc_ms:
                found.update(points)
            else:
                found.update(point for point in points if from_utc_ms <= point[0] < to_utc_ms)
        scale: int = 10 ** decimals_of(name)
        for register_point, names, values in staged:
            if name in names and values:
                value = values[names.index(name)]
                # As it will be when it is folded: a value does not change with its age.
                defined = round(value * scale) / scale if math.isfinite(value) else None
                found.setdefault(register_point.utc_ms, defined)
        in_order = sorted(found.items(), key=itemgetter(0))
        return [ValuePoint._make(point) for point in in_order[: span.limit]]

    def registers(
        self, meter_id: str, from_utc_ms: int, to_utc_ms: int, limit: int = POINTS_MAX
    ) -> list[RegisterPoint]:
        """The energy registers of a meter's readings, by sequence of the readings."""
        span = _Span(meter_id, from_utc_ms, to_utc_ms, min(limit, POINTS_MAX))
        staged = list(self._staged(span))
        found: dict[int, RegisterPoint] = {}
        for chunk in self._rows(_CHUNKS, span, found):
            rows = unpack_integers(column_of(chunk.body, 0), 1)[0]
            columns = [
                unpack_integers(column_of(chunk.body, index), rows)
                for index in range(1, _HEAD_COLUMNS + chunk.registers)
            ]
            for utc_ms, sequence, *energy_wh in zip(*columns, strict=True):
                if from_utc_ms <= utc_ms < to_utc_ms:
                    found[sequence] = RegisterPoint(utc_ms, sequence, tuple(energy_wh))
        for point, _, _ in staged:
            found.setdefault(point.sequence, point)
        return [found[sequence] for sequence in sorted(found)[: span.limit]]

    def minutes(
        self, meter_id: str, name: str, from_utc_ms: int, to_utc_ms: int, limit: int = POINTS_MAX
    ) -> list[MinutePoint]:
        """Minute means of a measurement, in time order; the last minutes are not there yet."""
        span = _Span(meter_id, from_utc_ms, to_utc_ms, min(limit, POINTS_MAX))
        sums: dict[int, tuple[float, int]] = {}
        for chunk in self._rows(_MINUTES, span, sums):
            if name not in chunk.names:
                continue
            rows = unpack_integers(column_of(chunk.body, 0), 1)[0]
            starts = unpack_integers(column_of(chunk.body, 1), rows)
            counts = unpack_integers(column_of(chunk.body, 2), rows)
            column = _HEAD_COLUMNS + chunk.names.index(name)
            means = unpack_values(column_of(chunk.body, column), rows)
            for start, count, mean in zip(starts, counts, means, strict=True):
                if from_utc_ms <= start < to_utc_ms:
                    total, readings = sums.get(start, (0.0, 0))
                    if mean is not None:
                        total, readings = total + mean * count, readings + count
                    sums[start] = (total, readings)
        return [
            MinutePoint(
                start, sums[start][0] / sums[start][1] if sums[start][1] else None, sums[start][1]
            )
            for start in sorted(sums)[: span.limit]
        ]

    def intervals(
        self, meter_id: str, from_utc_ms: int, to_utc_ms: int, limit: int = POINTS_MAX
    ) -> list[Interval]:
        """Half hours of a meter that begin from `from_utc_ms` to before `to_utc_ms`."""
        found: list[Interval] = []
        for path in month_files(self._directory):
            if not month_name(from_utc_ms) <= path.name <= month_name(to_utc_ms):
                continue
            with reading(path, HISTORY) as connection:
                found += [
                    Interval(row[0], row[1], integers(row[2]), row[3], row[4], bool(row[5]))
                    for row in connection.execute(
                        "SELECT start_utc_ms, end_utc_ms, energy_wh, max_power_w, readings, "
                        "estimated FROM interval WHERE meter_id = ? AND start_utc_ms >= ? "
                        "AND start_utc_ms < ? ORDER BY start_utc_ms LIMIT ?",
                        (meter_id, from_utc_ms, to_utc_ms, limit - len(found)),
                    )
                ]
        return found

    def events(self, *, before_seq: int | None = None, limit: int = 50) -> list[StoredEvent]:
        """Events newest first, before a cursor; at most 100 at once."""
        before = 2**63 - 1 if before_seq is None else before_seq
        found = self._events(_EVENTS_BEFORE, before, page_size(limit))
        return sorted(found, key=lambda event: -event.seq)[: page_size(limit)]

    def events_after(self, seq: int, limit: int = 100) -> list[StoredEvent]:
        """Events oldest first, after a cursor; at most 100 at once."""
        found = self._events(_EVENTS_AFTER, seq, page_size(limit))
        return sorted(found, key=lambda event: event.seq)[: page_size(limit)]

    def _events(self, statement: str, cursor: int, limit: int) -> list[StoredEvent]:
        found: list[StoredEvent] = []
        # A wrong clock may have put an event in any month: all of them are asked.
        for path in month_files(self._directory):
            with reading(path, HISTORY) as connection:
                found += [
                    StoredEvent(row[0], row[1], row[2], row[3], row[4], mapping(row[5]))
                    for row in connection.execute(statement, (cursor, limit))
                ]
        return found

    def _rows(self, statement: str, span: "_Span", found: Mapping[int, object]) -> Iterator[_Chunk]:
        """Rows of the day files in time order, until `found` has as many points as wanted."""
        for path in day_files(self._directory):
            if not day_name(span.from_utc_ms) <= path.name <= day_name(span.to_utc_ms):
                continue
            if len(found) >= span.limit:
                return
            with reading(path, DAY) as connection:
                rows = connection.execute(
                    statement,
                    (span.meter_id, span.to_utc_ms, span.from_utc_ms, max(1, span.limit)),
                ).fetchall()
            for registers, names, body in rows:
                if len(found) >= span.limit:
                    return
                yield _Chunk(body, tuple(json.loads(names)), registers)

    def _staged(
        self, span: "_Span"
    ) -> Iterator[tuple[RegisterPoint, tuple[str, ...], tuple[float, ...]]]:
        path = self._directory / STAGING_NAME
        if not path.exists():
            return
        with reading(path, STAGING) as connection:
            known = connection.execute(
                "SELECT number FROM meter WHERE meter_id = ?", (span.meter_id,)
            ).fetchone()
            if known is None:
                return
            names = {
                number: tuple(json.loads(text))
                for number, text in connection.execute("SELECT number, names FROM layout")
            }
            bodies = _staged_bodies(connection, known[0])
        structs = {number: value_struct(listed) for number, listed in names.items()}
        for body in bodies:
            for row in unpack_rows(body, structs, known[0]):
                if span.from_utc_ms <= row.utc_ms < span.to_utc_ms:
                    point = RegisterPoint(row.utc_ms, row.sequence, row.energy_wh)
                    yield point, names.get(row.layout, ()), row.values


@dataclass(frozen=True, slots=True)
class _Span:
    """Which points are asked for: from, and before, at most so many."""

    meter_id: str
    from_utc_ms: int
    to_utc_ms: int
    limit: int


_CHUNKS: Final = (
    "SELECT registers, names, body FROM chunk JOIN meter ON meter.number = chunk.meter "
    "JOIN layout ON layout.number = chunk.layout WHERE meter_id = ? AND start_utc_ms < ? "
    "AND end_utc_ms >= ? ORDER BY start_utc_ms LIMIT ?"
)
_MINUTES: Final = (
    "SELECT 0, names, body FROM minute JOIN meter ON meter.number = minute.meter "
    "JOIN layout ON layout.number = minute.layout WHERE meter_id = ? "
    "AND start_utc_ms < ? + 60000 AND end_utc_ms >= ? ORDER BY start_utc_ms LIMIT ?"
)
_EVENTS_BEFORE: Final = (
    "SELECT seq, utc_ms, kind, object, severity, body FROM event WHERE seq < ? "
    "ORDER BY seq DESC LIMIT ?"
)
_EVENTS_AFTER: Final = (
    "SELECT seq, utc_ms, kind, object, severity, body FROM event WHERE seq > ? ORDER BY seq LIMIT ?"
)


def _staged_bodies(connection: sqlite3.Connection, meter: int) -> list[bytes]:
    shard = meter // SHARD_METERS
    found: list[bytes] = []
    for row in connection.execute("SELECT min(place), max(place) FROM sweep"):
        if row[0] is not None:
            first, last = row[0] >> SHARD_BITS, row[1] >> SHARD_BITS
            found += [body for _, body in staged_bodies(connection, shard, first, last)]
    return found
