"""Telemetry of the control process: bounded, and never in the way of money or supply."""

import asyncio
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeVar

import structlog

from gateway.app.config import Config
from gateway.core.errors import StoreError
from gateway.core.interval import Interval
from gateway.core.reading import Reading
from gateway.store.db import DirectoryOwner
from gateway.store.live import LiveMeter
from gateway.store.telemetry import Event, MeterReading, TelemetryWriter
from gateway.store.telemetry_files import Retention

log = structlog.get_logger()

T = TypeVar("T")

# What waits while the disk is slow; beyond it the oldest is dropped and counted.
READINGS_MAX: Final = 20_000
EVENTS_MAX: Final = 10_000
RETAIN_EVERY_MS: Final = 3_600_000
# A commit that takes longer is waited for by the next sweep, not by this one.
FLUSH_S: Final = 0.5


class TelemetryKeeper:
    """Collects readings, half hours and events, and writes them once a sweep.

    When the store fails it says so once, and control goes on without telemetry.
    """

    def __init__(
        self,
        directory: Path,
        config: Config,
        meters: Sequence[LiveMeter],
        owner: DirectoryOwner,
    ) -> None:
        self._meter_ids = tuple(meter.meter_id for meter in meters)
        retention = Retention(
            max_bytes=config.telemetry.max_bytes, days=config.telemetry.retention_days
        )
        self._writer = TelemetryWriter(directory, meters, owner=owner, retention=retention)
        self._readings: list[MeterReading] = []
        self._intervals: list[tuple[str, Interval]] = []
        self._events: list[Event] = []
        self._under_way: tuple[Future[object], ...] = ()
        self._retained_ms = 0
        self.dropped = 0
        self._failed = False

    @property
    def working(self) -> bool:
        """Whether readings are kept at present."""
        return not self._failed

    def reading(self, index: int, reading: Reading) -> None:
        """Keep a reading with the sweep under way."""
        self._readings.append(
            MeterReading(index, reading.utc_ms, reading.sequence, reading.energy_wh, reading.values)
        )

    def interval(self, index: int, interval: Interval) -> None:
        """Keep a finished half hour."""
        self._intervals.append((self._meter_ids[index], interval))

    def event(
        self, utc_ms: int, kind: str, subject: str, severity: str, facts: Mapping[str, object]
    ) -> None:
        """Keep an event."""
        self._events.append(Event(utc_ms, kind, subject, severity, dict(facts)))

    async def flush(self, utc_ms: int) -> None:
        """Hand over what came since the last call; waits a little, never long."""
        if self._failed or any(not future.done() for future in self._under_way):
            self._bound()
            return
        try:
            self._under_way = tuple(self._submit(utc_ms))
            if self._under_way:
                waiting = [asyncio.wrap_future(future) for future in self._under_way]
                await asyncio.wait(waiting, timeout=FLUSH_S)
                for future in waiting:
                    if future.done():
                        future.result()
        except (StoreError, ValueError, struct.error) as error:
            self._failed = True
            log.warning("telemetry.failed", reason=str(error))

    def close(self, deadline_s: float) -> None:
        """Finish what is queued."""
        try:
            self._writer.close(deadline_s)
        except StoreError as error:
            log.warning("telemetry.failed", reason=str(error))

    def _submit(self, utc_ms: int) -> list[Future[object]]:
        readings, self._readings = self._readings, []
        intervals, self._intervals = self._intervals, []
        events, self._events = self._events, []
        futures: list[Future[object]] = []
        if readings:
            futures.append(_any(self._writer.stage_sweep(utc_ms, _latest(readings))))
        if intervals:
            futures.append(_any(self._writer.add_intervals(intervals)))
        if events:
            futures.append(_any(self._writer.add_events(events)))
        futures.append(_any(self._writer.fold()))
        if utc_ms - self._retained_ms > RETAIN_EVERY_MS:
            self._retained_ms = utc_ms
            futures.append(_any(self._writer.retain()))
        return futures

    def _bound(self) -> None:
        over = len(self._readings) - READINGS_MAX
        if over > 0:
            del self._readings[:over]
            self.dropped += over
        self.dropped += max(0, len(self._events) - EVENTS_MAX)
        del self._events[:-EVENTS_MAX]
        self.dropped += max(0, len(self._intervals) - EVENTS_MAX)
        del self._intervals[:-EVENTS_MAX]


def _latest(readings: Sequence[MeterReading]) -> list[MeterReading]:
    """The readings of a sweep; between two full polls the short ones add nothing to keep."""
    return [reading for reading in readings if reading.values]


def _any(future: "Future[T]") -> "Future[object]":
    return future  # type: ignore[return-value]
