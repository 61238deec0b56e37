"""Which time-of-use band of a source applies at an instant, and until when.

The band follows from the civil label of the instant (day type, minute of day). That settles both
clock changes: a skipped hour has no labels, so windows in it shrink or start at the change; in a
repeated hour the label decides, twice.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from gateway.core.civil import DAY_MS, MINUTE_MS, MINUTES_PER_DAY, local_time, offset_change
from gateway.core.tariff import SourceTariff, Window

DAYS_PER_WEEK: Final = 7


@dataclass(frozen=True, slots=True)
class Piece:
    """Minutes [from, to) of a day under one window. `window` is its index in the tariff."""

    from_minute: int
    to_minute: int
    window: int


def day_pieces(
    windows: tuple[Window, ...], day_type: int, previous_day_type: int
) -> tuple[Piece, ...]:
    """What the windows cover of a day of this type that follows one of that type, in order."""
    pieces: list[Piece] = []
    for index, window in enumerate(windows):
        over_midnight = window.to_minute <= window.from_minute
        if day_type in window.day_types:
            end = MINUTES_PER_DAY if over_midnight else window.to_minute
            pieces.append(Piece(window.from_minute, end, index))
        if over_midnight and previous_day_type in window.day_types:
            pieces.append(Piece(0, window.to_minute, index))
    return tuple(sorted(pieces, key=lambda piece: (piece.from_minute, piece.to_minute)))


@dataclass(frozen=True, slots=True, eq=False)
class BandPlan:
    """The week of a source: for each day type, (end minute, band index) in order up to midnight.

    Compared by identity so that it is a cheap cache key.
    """

    days: tuple[tuple[tuple[int, int], ...], ...]
    single: bool


def band_plan(source: SourceTariff) -> BandPlan:
    """The plan of a source whose windows do not overlap and, with its rest band, leave no gap."""
    days = tuple(
        _plan_day(source, day_type, (day_type - 1) % DAYS_PER_WEEK)
        for day_type in range(DAYS_PER_WEEK)
    )
    return BandPlan(days, single=len({band for day in days for _, band in day}) == 1)


def _plan_day(
    source: SourceTariff, day_type: int, previous_day_type: int
) -> tuple[tuple[int, int], ...]:
    day: list[tuple[int, int]] = []
    minute = 0
    for piece in day_pieces(source.windows, day_type, previous_day_type):
        if piece.from_minute < minute:
            raise ValueError(f"{source.source}: windows overlap on day type {day_type}")
        if piece.from_minute > minute:
            day.append((piece.from_minute, _rest_index(source)))
        day.append((piece.to_minute, source.bands.index(source.windows[piece.window].band)))
        minute = piece.to_minute
    if minute < MINUTES_PER_DAY:
        day.append((MINUTES_PER_DAY, _rest_index(source)))
    return tuple(day)


def _rest_index(source: SourceTariff) -> int:
    if source.rest_band is None:
        raise ValueError(f"{source.source}: windows leave a gap and there is no rest band")
    return source.bands.index(source.rest_band)


@lru_cache(maxsize=4_096)
def band_run(plan: BandPlan, zone: ZoneInfo, utc_ms: int, horizon_utc_ms: int) -> tuple[int, int]:
    """The band index at an instant and the instant at which another one starts.

    The end is `horizon_utc_ms` at the latest. Cached, since hundreds of accounts under one tariff
    cross the same boundary at the same instant.
    """
    band, end_utc_ms = _piece_at(plan, zone, utc_ms)
    if plan.single:
        return band, horizon_utc_ms
    while end_utc_ms < horizon_utc_ms:
        next_band, next_end_utc_ms = _piece_at(plan, zone, end_utc_ms)
        if next_band != band:
            return band, end_utc_ms
        end_utc_ms = next_end_utc_ms
    return band, horizon_utc_ms


def _piece_at(plan: BandPlan, zone: ZoneInfo, utc_ms: int) -> tuple[int, int]:
    """Band index at an instant, and until when its label stays in the same piece of the day."""
    label = local_time(zone, utc_ms)
    # Here a calendar of special days would choose another day type.
    for end_minute, band in plan.days[label.weekday]:
        if label.day_ms < end_minute * MINUTE_MS:
            end_utc_ms = utc_ms + end_minute * MINUTE_MS - label.day_ms
            change = offset_change(zone, utc_ms, end_utc_ms)
            return band, end_utc_ms if change is None else change
    raise ValueError(f"the plan ends before {label.day_ms} ms of a {DAY_MS} ms day")
