"""Telemetry of the control process: bounded, and never in the way of money or supply."""

import asyncio
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
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
# Between a failure and the next try.
RETRY_FIRST_S: Final = 5.0
RETRY_MAX_S: Final = 300.0


class TelemetryKeeper:
    """Collects readings, half hours and events, and writes them once a sweep.

    When the store fails it says so once, and control goes on without telemetry until the fault is
    over. Without room (`has_room`) no readings are kept; half hours and events, which are few, are.
    """

    def __init__(
        self,
        directory: Path,
        config: Config,
        meters: Sequence[LiveMeter],
        owner: DirectoryOwner,
        *,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self._meter_ids = tuple(meter.meter_id for meter in meters)
        retention = Retention(
            max_bytes=config.telemetry.max_bytes, days=config.telemetry.retention_days
        )
        self._open: Final = partial(
            TelemetryWriter, directory, meters, owner=owner, retention=retention
        )
        self._has_room = has_room
        self._writer = self._open()
        self._readings: list[MeterReading] = []
        self._intervals: list[tuple[str, Interval]] = []
        # Half hours handed over last: they come once, and writing one twice changes nothing.
        self._handed: list[tuple[str, Interval]] = []
        self._events: list[Event] = []
        self._under_way: tuple[Future[object], ...] = ()
        self._anew: Future[TelemetryWriter] | None = None
        self._retained_ms = 0
        self.dropped = 0
        self._failed = False
        self._told = False
        self._paused = False
        self._retry_s = 0.0
        self._pause_s = RETRY_FIRST_S

    @property
    def working(self) -> bool:
        """Whether readings are kept at present."""
        return not (self._failed or self._paused)

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
        self._look_for_room(utc_ms)
        now_s = asyncio.get_running_loop().time()
        if self._failed and (self._anew is not None or now_s >= self._retry_s):
            await self._begin_anew(utc_ms, now_s)
        if self._failed or any(not future.done() for future in self._under_way):
            self._bound()
            return
        try:
            # Also of the flush before, where that took longer.
            self._judge()
            self._under_way = tuple(self._submit(utc_ms))
            waiting = [asyncio.wrap_future(future) for future in self._under_way]
            for future in waiting:
                future.add_done_callback(_retrieve)
            if waiting:
                await asyncio.wait(waiting, timeout=FLUSH_S)
                self._judge()
        except (StoreError, ValueError, struct.error) as error:
            self._fail(utc_ms, now_s, error)

    def close(self, deadline_s: float) -> None:
        """Finish what is queued."""
        try:
            if self._anew is not None:
                self._writer = self._anew.result(deadline_s)
            self._writer.close(deadline_s)
        except (StoreError, OSError) as error:
            # Also TimeoutError: files that are still being opened after a fault.
            log.warning("telemetry.failed", reason=str(error))

    def _judge(self) -> None:
        """Raise what one of the writes under way ended with."""
        done = [future for future in self._under_way if future.done()]
        self._under_way = tuple(future for future in self._under_way if not future.done())
        for future in done:
            future.result()

    def _look_for_room(self, utc_ms: int) -> None:
        """Readings stop before the disk is full: what is left belongs to the ledger."""
        paused = not self._has_room()
        if paused == self._paused:
            return
        self._paused = paused
        log.warning("telemetry.paused" if paused else "telemetry.resumed")
        self._tell("TELEMETRY_PAUSED", "warning" if paused else "cleared", utc_ms)

    def _fail(self, utc_ms: int, now_s: float, error: Exception) -> None:
        """Say so once; begin anew after a pause that grows."""
        self._failed = True
        self._intervals, self._handed = self._handed + self._intervals, []
        self._retry_s = now_s + self._pause_s
        self._pause_s = min(self._pause_s * 2, RETRY_MAX_S)
        if not self._told:
            self._told = True
            log.warning("telemetry.failed", reason=str(error))
            self._tell("TELEMETRY_FAILED", "warning", utc_ms, reason=str(error))

    async def _begin_anew(self, utc_ms: int, now_s: float) -> None:
        """Let go of what failed and open the files again: a fault may be over.

        On a thread, and waited for a little only: checking large files, or a disk that hangs, must
        not hold up the sweep that calls this.
        """
        if self._anew is None:
            # Whoever waited for the old writer has his answer: it failed.
            self._anew = _on_thread(partial(_reopened, self._writer, self._open))
        opening = asyncio.wrap_future(self._anew)
        opening.add_done_callback(_retrieve)
        await asyncio.wait([opening], timeout=FLUSH_S)
        if not self._anew.done():
            return
        anew, self._anew = self._anew, None
        try:
            self._writer = anew.result()
        except (StoreError, OSError) as error:
            self._fail(utc_ms, now_s, error)
            return
        self._failed = self._told = False
        self._under_way = ()
        self._pause_s = RETRY_FIRST_S
        log.info("telemetry.back", dropped=self.dropped)
        self._tell("TELEMETRY_FAILED", "cleared", utc_ms, dropped=self.dropped)

    def _tell(self, kind: str, severity: str, utc_ms: int, **facts: object) -> None:
        self.event(utc_ms, kind, "site", severity, facts)

    def _submit(self, utc_ms: int) -> list[Future[object]]:
        if self._paused:
            self.dropped += len(self._readings)
            self._readings.clear()
        readings, self._readings = self._readings, []
        self._handed, self._intervals = self._intervals, []
        events, self._events = self._events, []
        futures: list[Future[object]] = []
        if readings:
            futures.append(_any(self._writer.stage_sweep(utc_ms, _latest(readings))))
        if self._handed:
            futures.append(_any(self._writer.add_intervals(self._handed)))
        if events:
            futures.append(_any(self._writer.add_events(events)))
        if not self._paused:
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


def _reopened(old: TelemetryWriter, reopen: Callable[[], TelemetryWriter]) -> TelemetryWriter:
    old.abandon()
    return reopen()


def _on_thread(work: Callable[[], T]) -> "Future[T]":
    """Run on a thread that nobody waits for when the process ends."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name="telemetry-anew", daemon=True).start()
    return future


def _retrieve(future: "asyncio.Future[T]") -> None:
    """The outcome is judged elsewhere: asyncio need not complain of an error nobody looked at."""
    if not future.cancelled():
        future.exception()


def _any(future: "Future[T]") -> "Future[object]":
    return future  # type: ignore[return-value]
