"""Readings, half hours and events: staged per sweep, folded into chunks, kept within bounds.

A sweep is one commit in `staging.db`, cut into shards of a few meters. A shard that has gathered
enough sweeps is folded: its readings become chunks and minute means in the file of their day. The
shards take turns, so that the work is spread over the period. The readings are in one file or the
other at every moment; a fold that a crash interrupted is repeated and adds nothing twice.
"""

import json
import sqlite3
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

import orjson

from gateway.core.errors import StoreAwayError, StoreCorruptError, StoreError
from gateway.core.interval import Interval
from gateway.store.chunks import (
    SHARD_BITS,
    SHARD_MASK,
    SHARD_METERS,
    StagedReading,
    pack_rows,
    unpack_rows,
    value_struct,
)
from gateway.store.db import DirectoryOwner, make_directory, reading
from gateway.store.fold import LAYOUT, METER, number_of, write_chunks
from gateway.store.live import LiveMeter
from gateway.store.rows import document
from gateway.store.telemetry_files import (
    DAY,
    HISTORY,
    Retention,
    TelemetryFiles,
    day_files,
    month_files,
    month_name,
    staged_bodies,
)
from gateway.store.writer import GroupCommitWriter, InlineWriter, StoreWriter

FOLD_SWEEPS: Final = 300
# While nothing can be folded the oldest sweeps beyond this are forgotten.
STAGED_SWEEPS_MAX: Final = 1_200

# Shards that take turns at the start, for a site that may grow.
_TURNS: Final = 100
# A thread that failed has ended already.
_ABANDON_S: Final = 0.5
_DAY_MS: Final = 86_400_000
_YEAR_10000_MS: Final = 253_402_300_800_000


@dataclass(frozen=True, slots=True)
class MeterReading:
    """A reading to keep. `meter` is an index into the writer's meters.

    `values` are the meter's values in order, or empty after a short poll.
    """

    meter: int
    utc_ms: int
    sequence: int
    energy_wh: tuple[int, ...]
    values: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to `subject` (a meter, a point, the gateway)."""

    utc_ms: int
    kind: str
    subject: str
    severity: str
    body: Mapping[str, object]


class TelemetryWriter:
    """Writes the telemetry directory; its futures resolve when the rows are durable.

    `threaded=False` runs everything inline (simulation). `fold` and `retain` are called from
    outside, about once a second and once an hour.
    """

    def __init__(
        self,
        directory: Path,
        meters: Sequence[LiveMeter],
        *,
        owner: DirectoryOwner,
        retention: Retention | None = None,
        fold_sweeps: int = FOLD_SWEEPS,
        threaded: bool = True,
        on_fatal: Callable[[StoreError], None] | None = None,
    ) -> None:
        make_directory(directory)
        self._files = TelemetryFiles(directory, owner)
        self._retention = retention or Retention()
        self._fold_sweeps = fold_sweeps
        self._meters = tuple(meters)
        self._writer: StoreWriter = (
            GroupCommitWriter(self._files.staging, on_fatal=on_fatal)
            if threaded
            else InlineWriter(self._files.staging)
        )
        self._structs: dict[int, struct.Struct] = {}
        self._names: dict[int, tuple[str, ...]] = {}
        self._numbers: list[int] = []
        self._layouts: list[int] = []
        # By shard: its first sweep that is not folded, and the sweep at which its turn comes.
        self._first: dict[int, int] = {}
        self._due: dict[int, int] = {}
        self._seen: set[int] = set()
        self._counters: dict[str, int] = {}
        self.dropped_sweeps = 0
        self.folded_chunks = 0
        try:
            self._writer.submit(self._start).result()
        except BaseException:
            self.abandon()
            raise

    @property
    def set_aside(self) -> int:
        """Damaged files that were set aside."""
        return self._files.set_aside

    @property
    def failure(self) -> StoreError | None:
        """Why nothing can be written any more; None while it can."""
        return self._writer.failure if isinstance(self._writer, GroupCommitWriter) else None

    def abandon(self) -> None:
        """Let go of everything after a failure, so that another writer may begin anew."""
        with suppress(StoreError):
            self._writer.close(_ABANDON_S)
        self._files.abandon()

    def stage_sweep(self, utc_ms: int, readings: Sequence[MeterReading]) -> "Future[int]":
        """Keep the readings of one sweep in one commit; the number of the sweep.

        Raises ValueError when a reading has another number of values than its meter's names, and
        StoreError as `submit`.
        """
        shards: dict[int, list[StagedReading]] = {}
        for row in readings:
            names = self._meters[row.meter].value_names
            if row.values and len(row.values) != len(names):
                raise ValueError(
                    f"meter {self._meters[row.meter].meter_id} has {len(names)} values, "
                    f"the reading {len(row.values)}"
                )
            if not 0 <= row.utc_ms < _YEAR_10000_MS:
                raise ValueError(f"{row.utc_ms} ms is no time of a calendar")
            number = self._numbers[row.meter]
            shards.setdefault(number // SHARD_METERS, []).append(
                StagedReading(
                    number,
                    self._layouts[row.meter],
                    row.utc_ms,
                    row.sequence,
                    row.energy_wh,
                    row.values,
                )
            )
        return self._writer.submit(lambda connection: self._stage(connection, utc_ms, shards))

    def fold(self) -> "Future[int]":
        """Fold at most one shard, if one is due; the number of chunks written."""
        return self._writer.submit(self._fold)

    def fold_all(self) -> "Future[int]":
        """Fold everything that is staged (takes seconds at 800 meters); chunks written."""
        return self._writer.submit(self._fold_everything)

    def add_interval(self, meter_id: str, interval: Interval) -> "Future[None]":
        """Keep one finished half hour of a meter."""
        return self.add_intervals(((meter_id, interval),))

    def add_intervals(self, intervals: Sequence[tuple[str, Interval]]) -> "Future[None]":
        """Keep finished half hours. One that is known already (same start) is replaced."""
        kept = tuple(intervals)
        return self._writer.submit(lambda connection: self._keep_intervals(connection, kept))

    def add_event(self, event: Event) -> "Future[int]":
        """Keep an event; its sequence number, without gaps over all months."""
        return self._writer.submit(lambda connection: self._keep_events(connection, (event,)))

    def add_events(self, events: Sequence[Event]) -> "Future[int]":
        """Keep events in order; the sequence number of the last (0 for none)."""
        kept = tuple(events)
        return self._writer.submit(lambda connection: self._keep_events(connection, kept))

    def retain(self) -> "Future[tuple[str, ...]]":
        """Delete the oldest files beyond the limits; their names."""
        return self._writer.submit(lambda _: self._files.retain(self._retention))

    def close(self, deadline_s: float) -> None:
        """Finish what is queued and let go of the files; staged sweeps wait for the next start.

        Raises StoreError.
        """
        self._writer.close(deadline_s)
        self._files.stop()

    # -- on the writer's thread --------------------------------------------------------------

    def _start(self, connection: sqlite3.Connection) -> None:
        for meter in self._meters:
            self._numbers.append(number_of(connection, METER, meter.meter_id))
            names = json.dumps(list(meter.value_names))
            self._layouts.append(number_of(connection, LAYOUT, names) if meter.value_names else 0)
        for number, names in connection.execute("SELECT number, names FROM layout"):
            self._names[number] = tuple(json.loads(names))
            self._structs[number] = value_struct(self._names[number])
        folded = dict(connection.execute("SELECT shard, sweep FROM folded").fetchall())
        for (place,) in connection.execute("SELECT place FROM sweep ORDER BY place"):
            sweep, shard = place >> SHARD_BITS, place & SHARD_MASK
            if sweep > folded.get(shard, 0):
                self._wait(shard, sweep)
        self._counters = {
            name: max(_kept_counter(connection, name), self._newest_seq(name))
            for name in ("event", "interval")
        }
        if _kept_counter(connection, "sweep") == 0:
            # A new staging file beside older days: their sweeps must stay below the new ones.
            _keep_counter(connection, "sweep", self._newest_sweep())

    def _newest_seq(self, name: str) -> int:
        """The highest number in the months: after a crash they may be ahead of staging."""
        newest = 0
        for path in month_files(self._files.directory):
            with suppress(StoreAwayError), reading(path, HISTORY) as connection:
                newest = max(newest, connection.execute(_NEWEST[name]).fetchone()[0])
        return newest

    def _newest_sweep(self) -> int:
        newest = 0
        for path in day_files(self._files.directory):
            with suppress(StoreAwayError), reading(path, DAY) as connection:
                row = connection.execute("SELECT coalesce(max(sweep), 0) FROM folded").fetchone()
                newest = max(newest, row[0])
        return newest

    def _stage(
        self, connection: sqlite3.Connection, utc_ms: int, shards: Mapping[int, list[StagedReading]]
    ) -> int:
        sweep = _next_sweep(connection)
        connection.executemany(
            "INSERT INTO sweep VALUES (?, ?, ?)",
            (
                (sweep << SHARD_BITS | shard, utc_ms, pack_rows(rows, self._structs))
                for shard, rows in shards.items()
            ),
        )
        for shard in shards:
            self._wait(shard, sweep)
        self._forget_oldest(connection, sweep)
        return sweep

    def _wait(self, shard: int, sweep: int) -> None:
        """Give a shard its turn, unless it has one."""
        if shard in self._first:
            return
        self._first[shard] = sweep
        # Its first turn comes early or late by its number, so that turns stay spread.
        early = 0 if shard in self._seen else shard % _TURNS * self._fold_sweeps // _TURNS
        self._seen.add(shard)
        self._due[shard] = sweep + self._fold_sweeps - early

    def _forget_oldest(self, connection: sqlite3.Connection, newest: int) -> None:
        oldest = min(self._first.values(), default=newest)
        bound = newest - STAGED_SWEEPS_MAX
        if oldest > bound:
            return
        gone = connection.execute("DELETE FROM sweep WHERE place < ?", (bound + 1 << SHARD_BITS,))
        self.dropped_sweeps += gone.rowcount
        self._first = {shard: max(sweep, bound + 1) for shard, sweep in self._first.items()}

    def _fold_everything(self, connection: sqlite3.Connection) -> int:
        return sum(self._fold_shard(connection, shard) for shard in tuple(self._first))

    def _fold(self, connection: sqlite3.Connection) -> int:
        shard = min(self._due, key=lambda shard: self._due[shard], default=None)
        if shard is None or self._due[shard] > _kept_counter(connection, "sweep") + 1:
            return 0
        return self._fold_shard(connection, shard)

    def _fold_shard(self, connection: sqlite3.Connection, shard: int) -> int:
        newest = _kept_counter(connection, "sweep")
        days: dict[int, list[tuple[int, StagedReading]]] = {}
        for sweep, body in staged_bodies(connection, shard, self._first[shard], newest):
            try:
                rows = unpack_rows(body, self._structs)
            except StoreCorruptError:
                self.dropped_sweeps += 1
                continue
            for row in rows:
                days.setdefault(row.utc_ms // _DAY_MS, []).append((sweep, row))
        meter_ids = dict(connection.execute("SELECT number, meter_id FROM meter").fetchall())
        chunks = 0
        for numbered_readings in days.values():
            day = self._files.day(numbered_readings[0][1].utc_ms).connection
            chunks += write_chunks(
                day, shard, numbered_readings, meter_ids=meter_ids, names=self._names
            )
        connection.execute("INSERT OR REPLACE INTO folded VALUES (?, ?)", (shard, newest))
        # A sweep goes when its last shard was folded.
        others = (first for other, first in self._first.items() if other != shard)
        oldest = min(others, default=newest + 1)
        connection.execute("DELETE FROM sweep WHERE place < ?", (oldest << SHARD_BITS,))
        del self._first[shard], self._due[shard]
        self.folded_chunks += chunks
        return chunks

    def _keep_intervals(
        self, connection: sqlite3.Connection, intervals: Sequence[tuple[str, Interval]]
    ) -> None:
        for _, group in groupby(intervals, key=lambda kept: month_name(kept[1].start_utc_ms)):
            rows = list(group)
            month = self._files.month(rows[0][1].start_utc_ms).connection
            seq = self._counters["interval"]
            with _transaction(month):
                for meter_id, interval in rows:
                    seq += _put_interval(month, seq + 1, meter_id, interval)
            self._counters["interval"] = seq
        _keep_counter(connection, "interval", self._counters["interval"])

    def _keep_events(self, connection: sqlite3.Connection, events: Sequence[Event]) -> int:
        for _, group in groupby(events, key=lambda event: month_name(event.utc_ms)):
            rows = list(group)
            first = self._counters["event"] + 1
            month = self._files.month(rows[0].utc_ms).connection
            with _transaction(month):
                month.executemany(
                    "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        (
                            seq,
                            event.utc_ms,
                            event.kind,
                            event.subject,
                            event.severity,
                            orjson.dumps(event.body).decode(),
                        )
                        for seq, event in enumerate(rows, start=first)
                    ),
                )
            # Kept in memory: what is committed in a month stays taken, whatever staging does.
            self._counters["event"] += len(rows)
        _keep_counter(connection, "event", self._counters["event"])
        return self._counters["event"] if events else 0


_NEWEST: Final = {
    "event": "SELECT coalesce(max(seq), 0) FROM event",
    "interval": "SELECT coalesce(max(seq), 0) FROM interval",
}


def _put_interval(month: sqlite3.Connection, seq: int, meter_id: str, interval: Interval) -> int:
    """Write a half hour; 1 when `seq` was used, 0 when the half hour was known and has its own."""
    known = month.execute(
        "SELECT seq FROM interval WHERE meter_id = ? AND start_utc_ms = ?",
        (meter_id, interval.start_utc_ms),
    ).fetchone()
    month.execute(
        "INSERT OR REPLACE INTO interval VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            seq if known is None else known[0],
            meter_id,
            interval.start_utc_ms,
            interval.end_utc_ms,
            document(list(interval.energy_wh)),
            interval.max_power_w,
            interval.readings,
            int(interval.estimated),
        ),
    )
    return int(known is None)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _next_sweep(connection: sqlite3.Connection) -> int:
    sweep = _kept_counter(connection, "sweep") + 1
    _keep_counter(connection, "sweep", sweep)
    return sweep


def _kept_counter(connection: sqlite3.Connection, name: str) -> int:
    row = connection.execute("SELECT value FROM counter WHERE name = ?", (name,)).fetchone()
    return 0 if row is None else int(row[0])


def _keep_counter(connection: sqlite3.Connection, name: str, value: int) -> None:
    connection.execute("INSERT OR REPLACE INTO counter VALUES (?, ?)", (name, value))
