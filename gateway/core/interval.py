"""Half-hour intervals of energy, aligned to local half hours, from settled advances."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, cast
from zoneinfo import ZoneInfo

from gateway.core.civil import half_hour_start, next_half_hour

# A meter that was away for a month leaves 1,488 half hours; more than this is one long gap.
MAX_SPLIT: Final = 3_000


@dataclass(frozen=True, slots=True)
class Interval:
    """Energy of one meter in one half hour, per import register in Wh.

    `estimated` says that energy of a gap was spread over it linearly; `max_power_w` is the highest
    reading, None when there was none.
    """

    start_utc_ms: int
    end_utc_ms: int
    energy_wh: tuple[int, ...]
    max_power_w: float | None
    readings: int
    estimated: bool


@dataclass(slots=True)
class IntervalMeter:
    """Adds up settled advances of one meter and gives each half hour once it is over.

    Energy between two readings falls on half hours linearly in time, floored to the earlier one.
    """

    zone: ZoneInfo
    registers: int
    gap_ms: int = 60_000
    start_utc_ms: int = 0
    end_utc_ms: int = 0
    energy_wh: list[int] = field(default_factory=list)
    max_power_w: float | None = None
    readings: int = 0
    estimated: bool = False

    def advance(
        self, advance_wh: tuple[int, ...], from_utc_ms: int, to_utc_ms: int, power_w: float | None
    ) -> list[Interval]:
        """Take one settled advance; the half hours that ended by `to_utc_ms`, oldest first."""
        if not self.end_utc_ms:
            self._begin(half_hour_start(self.zone, from_utc_ms))
        done: list[Interval] = []
        left_wh = list(advance_wh)
        estimated = to_utc_ms - from_utc_ms > self.gap_ms
        while to_utc_ms >= self.end_utc_ms and len(done) < MAX_SPLIT:
            span_ms = to_utc_ms - from_utc_ms
            until_ms = max(0, self.end_utc_ms - from_utc_ms)
            for register, wh in enumerate(left_wh):
                share_wh = wh * until_ms // span_ms if span_ms > 0 else 0
                self.energy_wh[register] += share_wh
                left_wh[register] -= share_wh
            from_utc_ms = max(from_utc_ms, self.end_utc_ms)
            self.estimated |= estimated
            done.append(self._finished())
            self._begin(self.end_utc_ms)
        if len(done) == MAX_SPLIT:
            self._begin(half_hour_start(self.zone, to_utc_ms))
        for register, wh in enumerate(left_wh):
            self.energy_wh[register] += wh
        self.estimated |= estimated and bool(done)
        self.readings += 1
        if power_w is not None:
            self.max_power_w = max(power_w, self.max_power_w or power_w)
        return done

    def snapshot(self) -> list[object]:
        """The half hour under way as JSON values."""
        return [
            self.start_utc_ms,
            self.end_utc_ms,
            list(self.energy_wh),
            self.max_power_w,
            self.readings,
            self.estimated,
        ]

    def restore(self, state: Sequence[object]) -> None:
        """Go on with a half hour from `snapshot`."""
        start, end, energy_wh, power_w, readings, estimated = state
        self.start_utc_ms = cast("int", start)
        self.end_utc_ms = cast("int", end)
        self.energy_wh = list(cast("Sequence[int]", energy_wh))
        self.max_power_w = cast("float | None", power_w)
        self.readings = cast("int", readings)
        self.estimated = bool(estimated)

    def _begin(self, start_utc_ms: int) -> None:
        self.start_utc_ms = start_utc_ms
        self.end_utc_ms = next_half_hour(self.zone, start_utc_ms)
        self.energy_wh = [0] * self.registers
        self.max_power_w = None
        self.readings = 0
        self.estimated = False

    def _finished(self) -> Interval:
        return Interval(
            self.start_utc_ms,
            self.end_utc_ms,
            tuple(self.energy_wh),
            self.max_power_w,
            self.readings,
            self.estimated,
        )
