"""Which time-of-use band of a source applies at an instant, and until when.

The band follows from the civil label of the instant: season and type of the day, minute of day.
That settles both clock changes: a skipped hour has no labels, so windows in it shrink or start at
the change; in a repeated hour the label decides, twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from gateway.core.civil import (
    DAY_MS,
    MINUTE_MS,
    MINUTES_PER_DAY,
    date_of_day,
    local_time,
    offset_change,
)
from gateway.core.tariff import HOLIDAY, SourceTariff, TariffCalendar, Window

DAYS_PER_WEEK: Final = 7
# A leap year and the year after it hold every day of the year, and each day after every other.
_LEAP_YEAR: Final = date(2028, 1, 1)
_TWO_YEARS: Final = 366 + 365


class DayKey(NamedTuple):
    """What a tariff knows of a day: its season (None where it is in no season) and its type."""

    season: str | None
    day_type: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Minutes [from, to) of a day under one window. `window` is its index in the tariff."""

    from_minute: int
    to_minute: int
    window: int


def day_key(calendar: TariffCalendar, day: date) -> DayKey:
    """Season and type of a date."""
    month_day = (day.month, day.day)
    is_holiday = day in calendar.holidays or month_day in calendar.yearly_holidays
    return DayKey(calendar.season_on(month_day), HOLIDAY if is_holiday else day.weekday())


def day_pairs(calendar: TariffCalendar) -> Iterator[tuple[DayKey, DayKey]]:
    """Every day that may come, with the day before it, by their keys; each pair once.

    A weekday may fall on any date of some year, a holiday beside any day.
    """
    seasons: dict[tuple[str | None, str | None], None] = {}
    before = calendar.season_on((12, 31))
    for index in range(_TWO_YEARS):
        day = _LEAP_YEAR + timedelta(days=index)
        season = calendar.season_on((day.month, day.day))
        seasons[season, before] = None
        before = season
    ordered = sorted(seasons, key=lambda pair: pair[0] != pair[1])
    for season, season_before in ordered:
        for weekday in range(DAYS_PER_WEEK):
            yield DayKey(season, weekday), DayKey(season_before, (weekday - 1) % DAYS_PER_WEEK)
    if not calendar.has_holidays:
        return
    for season, season_before in ordered:
        for day_type in range(DAYS_PER_WEEK):
            yield DayKey(season, HOLIDAY), DayKey(season_before, day_type)
            yield DayKey(season, day_type), DayKey(season_before, HOLIDAY)
        yield DayKey(season, HOLIDAY), DayKey(season_before, HOLIDAY)


def day_pieces(windows: tuple[Window, ...], day: DayKey, before: DayKey) -> tuple[Piece, ...]:
    """What the windows cover of a day that follows the day `before`, in order."""
    pieces: list[Piece] = []
    for index, window in enumerate(windows):
        over_midnight = window.to_minute <= window.from_minute
        if _applies(window, day):
            end = MINUTES_PER_DAY if over_midnight else window.to_minute
            pieces.append(Piece(window.from_minute, end, index))
        if over_midnight and window.to_minute and _applies(window, before):
            pieces.append(Piece(0, window.to_minute, index))
    return tuple(sorted(pieces, key=lambda piece: (piece.from_minute, piece.to_minute)))


def _applies(window: Window, day: DayKey) -> bool:
    return day.day_type in window.day_types and window.season in (None, day.season)


_Day = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class BandPlan:
    """The days of a source, each as (end minute, band index) in order up to midnight.

    Compared by identity so that it is a cheap cache key. `single` means that one band applies
    always; `days` remembers the days that were asked for.
    """

    source: SourceTariff
    calendar: TariffCalendar
    single: bool
    days: dict[tuple[DayKey, DayKey], _Day] = field(default_factory=dict)
    dates: dict[int, _Day] = field(default_factory=dict)

    def day(self, day: int) -> _Day:
        """The bands of a civil day, counted from 1970-01-01."""
        found = self.dates.get(day)
        if found is None:
            if len(self.dates) > _TWO_YEARS:
                self.dates.clear()
            today = date_of_day(day)
            key = day_key(self.calendar, today)
            before = day_key(self.calendar, today - timedelta(days=1))
            found = self.dates[day] = self.kind_of_day(key, before)
        return found

    def kind_of_day(self, day: DayKey, before: DayKey) -> _Day:
        """The bands of any day of this kind that follows one of that kind."""
        found = self.days.get((day, before))
        if found is None:
            found = self.days[day, before] = _plan_day(self.source, day, before)
        return found


def band_plan(source: SourceTariff, calendar: TariffCalendar) -> BandPlan:
    """The plan of a source whose windows do not overlap and, with its rest band, leave no gap."""
    days = {pair: _plan_day(source, *pair) for pair in day_pairs(calendar)}
    single = len({band for day in days.values() for _, band in day}) == 1
    return BandPlan(source, calendar, single, days)


def _plan_day(source: SourceTariff, key: DayKey, before: DayKey) -> _Day:
    day: list[tuple[int, int]] = []
    minute = 0
    for piece in day_pieces(source.windows, key, before):
        if piece.from_minute < minute:
            raise ValueError(f"{source.source}: windows overlap on {key} after {before}")
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
    for end_minute, band in plan.day(label.day):
        if label.day_ms < end_minute * MINUTE_MS:
            end_utc_ms = utc_ms + end_minute * MINUTE_MS - label.day_ms
            change = offset_change(zone, utc_ms, end_utc_ms)
            return band, end_utc_ms if change is None else change
    raise ValueError(f"the plan ends before {label.day_ms} ms of a {DAY_MS} ms day")
