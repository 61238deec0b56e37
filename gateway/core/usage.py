"""What a service point uses by hour and weekday of late: the profile that forecasts walk through.

168 cells, one for each local hour of the week, each an expected consumption in 64ths of a Wh per
hour. A cell is the mean of its half hours until it has seen four weeks of them, from then on an
exponentially weighted one: each further half hour counts a ninth. So a changed habit shows within
weeks, and one odd evening does not.

All is integer arithmetic and rounds up: consumption is rather over- than underestimated, by an
eighth of a Wh per hour at most, by half of one where gaps were estimated.

With little data a cell falls back to the mean of its hour of day over all weekdays, then to the
mean of all hours; with less than an hour of data there is no profile at all.
"""

import base64
import binascii
import struct
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, cast
from zoneinfo import ZoneInfo

from gateway.core.civil import DAY_MS, MINUTE_MS, local_time
from gateway.core.errors import RefusedError
from gateway.core.interval import Interval

CELLS: Final = 168
HOURS_PER_DAY: Final = 24
HOUR_MS: Final = 60 * MINUTE_MS
# Parts of a Wh: a router of 2 W is known to a percent, 67 MW fit into 32 bits.
PARTS_PER_WH: Final = 64
CELL_MAX: Final = 2**32 - 1
# Four weeks of one hour: beyond it old half hours fade.
WEIGHT_MAX_MIN: Final = 240
# A cell (or an hour of day, or the whole) is believed from one whole hour of data on.
WEIGHT_MIN_MIN: Final = 60
# Half hours of a gap: how much is certain, when is not.
ESTIMATED_DIVISOR: Final = 4
INTERVAL_MAX_MS: Final = HOUR_MS
# What sources got of late: a week of half hours, then it fades.
SHARE_WEIGHT_MAX_MIN: Final = 7 * 24 * 60
FAIR_MIN: Final = 2 * 24 * 60
GOOD_MIN: Final = 14 * 24 * 60
STALE_MS: Final = 7 * DAY_MS

_CELL: Final = struct.Struct(f"<{CELLS}I{CELLS}B")
_LAYOUT: Final = 1


class Confidence(StrEnum):
    """How much data stands behind a forecast: under two days, under two weeks, more.

    Nothing learned for a week is LOW again.
    """

    NONE = "none"
    LOW = "low"
    FAIR = "fair"
    GOOD = "good"


class UsageProfile:
    """The recent consumption of one service point, in the zone of its site.

    `registers` is the number of the meter's import registers. A new tenant starts a new profile.
    """

    def __init__(self, zone: ZoneInfo, registers: int) -> None:
        self.zone = zone
        self._cells = [0] * CELLS
        self._weights_min = [0] * CELLS
        self._by_register = [0] * registers
        self._share_weight_min = 0
        self.learned_min = 0
        self.learned_until_utc_ms = 0
        self._hourly: tuple[int, ...] | None = None

    def learn(self, interval: Interval, *, supply_off: bool = False) -> bool:
        """Take a half hour into the profile; False when it is left out.

        Left out are half hours that were taken already (older than the last one), and those in
        which the supply was off for some time: that nothing was used then tells nothing of
        what will be used. Estimated ones count a quarter.
        """
        duration_ms = interval.end_utc_ms - interval.start_utc_ms
        if interval.start_utc_ms < self.learned_until_utc_ms:
            return False
        if len(interval.energy_wh) != len(self._by_register):
            raise ValueError(f"{len(interval.energy_wh)} registers, not {len(self._by_register)}")
        if supply_off or not 0 < duration_ms <= INTERVAL_MAX_MS or min(interval.energy_wh) < 0:
            return False
        weight_min = duration_ms // MINUTE_MS
        if interval.estimated:
            weight_min //= ESTIMATED_DIVISOR
        if weight_min == 0:
            return False
        label = local_time(self.zone, interval.start_utc_ms)
        cell = label.weekday * HOURS_PER_DAY + label.day_ms // HOUR_MS
        rates = [_ceil_ratio(wh * PARTS_PER_WH * HOUR_MS, duration_ms) for wh in interval.energy_wh]
        self._cells[cell] = min(
            CELL_MAX, _mean(self._cells[cell], self._weights_min[cell], sum(rates), weight_min)
        )
        self._weights_min[cell] = min(WEIGHT_MAX_MIN, self._weights_min[cell] + weight_min)
        self._by_register = [
            _mean(mean, self._share_weight_min, rate, weight_min)
            for mean, rate in zip(self._by_register, rates, strict=True)
        ]
        self._share_weight_min = min(SHARE_WEIGHT_MAX_MIN, self._share_weight_min + weight_min)
        self.learned_min = min(GOOD_MIN, self.learned_min + weight_min)
        self.learned_until_utc_ms = interval.end_utc_ms
        self._hourly = None
        return True

    def hourly(self) -> tuple[int, ...] | None:
        """Expected 64ths of a Wh for each hour of the week from Monday 00:00; None without data."""
        if self._hourly is None and sum(self._weights_min) >= WEIGHT_MIN_MIN:
            self._hourly = self._lay_out()
        return self._hourly

    def shares(self) -> tuple[int, ...]:
        """How consumption falls on the registers, as weights; the first alone without data."""
        if any(self._by_register):
            return tuple(self._by_register)
        return (1,) + (0,) * (len(self._by_register) - 1)

    def confidence(self, utc_ms: int) -> Confidence:
        """How far the profile is to be believed at an instant."""
        if self.hourly() is None:
            return Confidence.NONE
        if self.learned_min < FAIR_MIN or utc_ms - self.learned_until_utc_ms > STALE_MS:
            return Confidence.LOW
        return Confidence.GOOD if self.learned_min >= GOOD_MIN else Confidence.FAIR

    def snapshot(self) -> dict[str, object]:
        """The profile as JSON values, under 1.5 kB: cells and weights packed as base64."""
        packed = _CELL.pack(*self._cells, *self._weights_min)
        return {
            "layout": _LAYOUT,
            "cells": base64.b64encode(packed).decode("ascii"),
            "by_register": list(self._by_register),
            "share_weight_min": self._share_weight_min,
            "learned_min": self.learned_min,
            "learned_until_utc_ms": self.learned_until_utc_ms,
        }

    @classmethod
    def restore(cls, zone: ZoneInfo, state: Mapping[str, object]) -> "UsageProfile":
        """A profile that goes on where `snapshot` was taken.

        Raises RefusedError USAGE_STATE for anything that is none: start with an empty one then.
        """
        try:
            by_register = [int(value) for value in cast("Sequence[int]", state["by_register"])]
            packed = base64.b64decode(cast("str", state["cells"]), validate=True)
            values = _CELL.unpack(packed)
            numbers = [
                int(cast("int", state[key]))
                for key in ("share_weight_min", "learned_min", "learned_until_utc_ms")
            ]
            known = state["layout"] == _LAYOUT and bool(by_register)
        except (KeyError, TypeError, ValueError, binascii.Error, struct.error) as error:
            raise RefusedError("USAGE_STATE", f"saved usage is damaged: {error}") from error
        if not known or min(*by_register, *numbers) < 0:
            raise RefusedError("USAGE_STATE", "saved usage is of another layout or damaged")
        profile = cls(zone, len(by_register))
        profile._cells = list(values[:CELLS])
        profile._weights_min = list(values[CELLS:])
        profile._by_register = by_register
        profile._share_weight_min, profile.learned_min, profile.learned_until_utc_ms = numbers
        return profile

    def _lay_out(self) -> tuple[int, ...]:
        hours = [self._over(range(hour, CELLS, HOURS_PER_DAY)) for hour in range(HOURS_PER_DAY)]
        known = [mean for mean, weight_min in hours if weight_min]
        overall = _ceil_ratio(sum(known), len(known))
        by_hour = [mean if weight_min >= WEIGHT_MIN_MIN else overall for mean, weight_min in hours]
        return tuple(
            cell if weight_min >= WEIGHT_MIN_MIN else by_hour[index % HOURS_PER_DAY]
            for index, (cell, weight_min) in enumerate(
                zip(self._cells, self._weights_min, strict=True)
            )
        )

    def _over(self, cells: range) -> tuple[int, int]:
        """Mean of some cells by their weights, and those weights in minutes."""
        total_min = sum(self._weights_min[cell] for cell in cells)
        parts = sum(self._cells[cell] * self._weights_min[cell] for cell in cells)
        return (_ceil_ratio(parts, total_min) if total_min else 0), total_min


def profile_of_intervals(
    zone: ZoneInfo,
    registers: int,
    intervals: Iterable[Interval],
    off_spans: Sequence[tuple[int, int]] = (),
) -> UsageProfile:
    """A profile of past half hours, oldest first.

    `off_spans` are [from, to) in UTC ms in which supply was off; half hours that touch one are
    left out. Intervals of another number of registers (an earlier meter) are left out too.
    """
    profile = UsageProfile(zone, registers)
    for interval in intervals:
        if len(interval.energy_wh) != registers:
            continue
        off = any(
            start < interval.end_utc_ms and end > interval.start_utc_ms for start, end in off_spans
        )
        profile.learn(interval, supply_off=off)
    return profile


def _mean(mean: int, weight: int, value: int, value_weight: int) -> int:
    return _ceil_ratio(mean * weight + value * value_weight, weight + value_weight)


def _ceil_ratio(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
