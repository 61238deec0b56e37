"""What control shows and keeps of every reading: live row, telemetry row, half hours, events."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, cast
from zoneinfo import ZoneInfo

from gateway.app.control.books import Books
from gateway.app.control.engine import CommandTrack
from gateway.core.clock import Clock
from gateway.core.interval import Interval, IntervalMeter
from gateway.core.point import Point, Step
from gateway.core.reading import Quality, Reading
from gateway.store.live import LiveRow, LiveTableWriter


class Keeper(Protocol):
    """Where readings, intervals and events are kept (the telemetry store)."""

    def reading(self, index: int, reading: Reading) -> None:
        """Keep a reading with the sweep under way."""
        ...

    def interval(self, index: int, interval: Interval) -> None:
        """Keep a finished half hour."""
        ...

    def event(
        self, utc_ms: int, kind: str, subject: str, severity: str, facts: Mapping[str, object]
    ) -> None:
        """Keep an event."""
        ...

    async def flush(self, utc_ms: int) -> None:
        """Make durable what came since the last call."""
        ...


class Watcher(Protocol):
    """Who else looks at readings and half hours (the watchman)."""

    def reading(self, index: int, point: Point, reading: Reading, step: Step) -> None:
        """Look at a reading that the engine has taken."""
        ...

    def interval(self, index: int, interval: Interval) -> None:
        """Look at a finished half hour."""
        ...


class Display:
    """The engine's journal: commands to the books, everything else to live table and telemetry."""

    def __init__(
        self,
        points: Sequence[Point],
        books: Books,
        *,
        live: LiveTableWriter,
        keeper: Keeper,
        clock: Clock,
        zone: ZoneInfo,
        value_counts: Sequence[int],
    ) -> None:
        self._points = tuple(points)
        self._books = books
        self._live = live
        self._keeper = keeper
        self._clock = clock
        self._intervals = [
            IntervalMeter(zone, len(point.terms.sources), round(point.terms.gap_s * 1000))
            for point in points
        ]
        self._labels = [point.label_utc_ms for point in points]
        self._value_counts = tuple(value_counts)
        self._unlabelled: dict[int, tuple[int, ...]] = {}
        # Who learns from finished half hours.
        self.learned: Callable[[int, Interval], None] = lambda _index, _interval: None
        self.watcher: Watcher | None = None

    def command(self, track: CommandTrack) -> "asyncio.Future[None]":
        """Keep a command's present state."""
        return self._books.command(track)

    def event(self, kind: str, subject: str, severity: str, **facts: object) -> None:
        """Keep an event for people and for the north."""
        self._keeper.event(self._books.label(), kind, subject, severity, facts)

    def reading(self, index: int, point: Point, reading: Reading, step: Step) -> None:
        """Show a reading, keep it, and add its energy to the half hour under way."""
        if self.watcher is not None:
            self.watcher.reading(index, point, reading, step)
        if len(reading.values) > self._value_counts[index]:
            # The slow lane reads more than is shown and kept: those are for `meter read`.
            reading = replace(reading, values=reading.values[: self._value_counts[index]])
        if not reading.late:
            self._live.write(index, self._row(point, reading, step))
        self._keeper.reading(index, reading)
        if step.settled:
            self._count(index, point, reading, step)

    def _count(self, index: int, point: Point, reading: Reading, step: Step) -> None:
        """Add settled energy to the half hour under way."""
        advance_wh = step.advance_wh
        if index in self._unlabelled:
            earlier_wh = self._unlabelled.pop(index)
            advance_wh = tuple(a + b for a, b in zip(earlier_wh, advance_wh, strict=True))
        if not point.label_utc_ms:
            # Before the clock is trusted the first time there is no half hour to put it in.
            self._unlabelled[index] = advance_wh
            return
        from_utc_ms = self._labels[index] or point.label_utc_ms
        self._labels[index] = point.label_utc_ms
        for interval in self._intervals[index].advance(
            advance_wh, from_utc_ms, point.label_utc_ms, reading.power_w
        ):
            self._keeper.interval(index, interval)
            self.learned(index, interval)
            if self.watcher is not None:
                self.watcher.interval(index, interval)

    async def flush(self) -> None:
        """End of a sweep: telemetry durable, heartbeat shown."""
        utc_ms = self._clock.utc_ms()
        self._live.beat(utc_ms, self._clock.mono_ns())
        await self._keeper.flush(utc_ms)

    def snapshot(self) -> dict[str, object]:
        """The half hours under way, by service point."""
        return {
            point.terms.service_point_id: meter.snapshot()
            for point, meter in zip(self._points, self._intervals, strict=True)
            if meter.end_utc_ms
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on with the half hours of a snapshot."""
        for point, meter in zip(self._points, self._intervals, strict=True):
            kept = state.get(point.terms.service_point_id)
            if kept is not None:
                meter.restore(cast("Sequence[object]", kept))

    def _row(self, point: Point, reading: Reading, step: Step | None) -> LiveRow:
        supply, full = point.supply, point.last_full
        return LiveRow(
            sequence=reading.sequence,
            utc_ms=reading.utc_ms,
            energy_wh=reading.energy_wh,
            available_nano=point.available_nano if point.pricer else 0,
            posted_nano=point.wallet_nano,
            quality=Quality.UNCERTAIN if step is not None and not step.settled else Quality.GOOD,
            control_state=supply.state(self._clock.mono_ns()),
            intended_closed=supply.intended_closed,
            output_closed=reading.output_closed,
            reasons=frozenset(supply.reasons),
            fault=supply.fault,
            power_w=full.power_w if full else None,
            current_a=full.current_a if full else None,
            voltage_v=full.voltage_v if full else None,
            values=reading.values,
            values_utc_ms=reading.utc_ms,
        )
