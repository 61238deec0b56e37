"""A usage profile laid out over coming days: how many Wh flow between any two instants.

Cumulative and in whole numbers, so that walking in small steps or large ones gives the same Wh.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Final
from zoneinfo import ZoneInfo

from gateway.core.civil import DAY_MS, local_date, local_instant, offset_change, utc_offset_ms
from gateway.core.usage import CELLS, HOUR_MS, PARTS_PER_WH, UsageProfile

WEEK_MS: Final = CELLS * HOUR_MS
PARTS_MS_PER_WH: Final = PARTS_PER_WH * HOUR_MS
# 1970-01-01 was a Thursday: local time in ms plus this counts from a Monday.
_MONDAY_MS: Final = 3 * DAY_MS


@dataclass(frozen=True, slots=True)
class _Days:
    """Local days ahead, cut where the offset changes: starts and offsets, and the midnights."""

    starts: tuple[int, ...]
    offsets_ms: tuple[int, ...]
    midnights: tuple[int, ...]


class UsageCurve:
    """What one service point is expected to use from `from_utc_ms` on, for `days` days of 24 h.

    `sources` names the source behind each register; the profile's shares split the energy.
    """

    def __init__(
        self,
        usage: UsageProfile,
        sources: Sequence[str],
        zone: ZoneInfo,
        from_utc_ms: int,
        days: int,
    ) -> None:
        # Parts are 64ths of a Wh; a part-ms is one for an hour's 3,600,000th.
        self._rates = usage.hourly() or (0,) * CELLS
        self._prefix = tuple(accumulate(self._rates, initial=0))
        laid_out = _days_ahead(zone, local_date(zone, from_utc_ms), days + 2)
        self._starts, self._offsets_ms = laid_out.starts, laid_out.offsets_ms
        # Label time jumps at a change of offset, used energy does not.
        self._shifts = [0]
        for index in range(1, len(self._starts)):
            start, offset_ms = self._starts[index], self._offsets_ms[index]
            before_ms = self._offsets_ms[index - 1]
            jump = 0
            if before_ms != offset_ms:
                jump = self._at_label(start + before_ms) - self._at_label(start + offset_ms)
            self._shifts.append(self._shifts[-1] + jump)
        weights: dict[str, int] = {}
        for source, weight in zip(sources, usage.shares(), strict=True):
            weights[source] = weights.get(source, 0) + weight
        self._weights = tuple(weights.items())
        self._total = sum(weights.values())
        self._from = 0
        self._from = self._part_ms(from_utc_ms)
        # A walk asks for one step after the other: the end of one is the start of the next.
        self._last = (from_utc_ms, 0)

    def whole_wh(self, utc_ms: int) -> int:
        """Whole Wh used from the beginning to an instant, all sources together."""
        return self._part_ms(utc_ms) // PARTS_MS_PER_WH

    def between(self, from_utc_ms: int, to_utc_ms: int) -> list[tuple[str, int]]:
        """Whole Wh per source between two instants: differences of cumulative counts."""
        last_utc_ms, low = self._last
        if last_utc_ms != from_utc_ms:
            low = self.whole_wh(from_utc_ms)
        high = self.whole_wh(to_utc_ms)
        self._last = (to_utc_ms, high)
        parts: list[tuple[str, int]] = []
        rest = high - low
        for source, weight in self._weights[1:]:
            wh = high * weight // self._total - low * weight // self._total
            rest -= wh
            parts.append((source, wh))
        parts.append((self._weights[0][0], rest))
        return parts

    def _part_ms(self, utc_ms: int) -> int:
        index = max(0, bisect_right(self._starts, utc_ms) - 1)
        return self._at_label(utc_ms + self._offsets_ms[index]) + self._shifts[index] - self._from

    def _at_label(self, local_ms: int) -> int:
        weeks, week_ms = divmod(local_ms + _MONDAY_MS, WEEK_MS)
        hour, hour_ms = divmod(week_ms, HOUR_MS)
        prefix = self._prefix
        return (weeks * prefix[CELLS] + prefix[hour]) * HOUR_MS + self._rates[hour] * hour_ms


def midnights_after(zone: ZoneInfo, utc_ms: int, days: int) -> tuple[int, ...]:
    """The local midnights after an instant, for so many days at least."""
    midnights = _days_ahead(zone, local_date(zone, utc_ms), days + 2).midnights
    return midnights[bisect_right(midnights, utc_ms) :]


@lru_cache(maxsize=64)
def _days_ahead(zone: ZoneInfo, first: date, days: int) -> _Days:
    """The same for all accounts of a site on one day."""
    midnights = [local_instant(zone, first + timedelta(days=day), 0) for day in range(days + 1)]
    starts: list[int] = []
    for start, end in pairwise(midnights):
        starts.append(start)
        change = offset_change(zone, start, end)
        if change is not None and change < end:
            starts.append(change)
    return _Days(
        tuple(starts), tuple(utc_offset_ms(zone, start) for start in starts), tuple(midnights)
    )
