"""Civil time of a site: months, days and half hours of an IANA zone as UTC milliseconds.

Two rules settle the hours that a clock change skips or repeats (domain.md section 4): a local
time that does not exist is the next instant that does, and one that exists twice is the first
of the two. Everything here is computed from the zone's UTC offset alone, at whole seconds, and
takes it that a zone changes its offset at most once within a day.
"""

from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.core.errors import RefusedError

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HALF_HOUR_MS: Final = 30 * MINUTE_MS
DAY_MS: Final = 24 * 60 * MINUTE_MS
MINUTES_PER_DAY: Final = 24 * 60
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
_THURSDAY: Final = 3  # 1970-01-01


@dataclass(frozen=True, slots=True)
class Period:
    """A billing period, half-open [start, end) in UTC milliseconds.

    `label` is `YYYY-MM` for a calendar month, else the local date `YYYY-MM-DD` of its first day.
    """

    label: str
    start_utc_ms: int
    end_utc_ms: int


@dataclass(frozen=True, slots=True)
class LocalTime:
    """The civil label of an instant: days since 1970-01-01, milliseconds of that local day."""

    day: int
    day_ms: int
    offset_ms: int

    @property
    def weekday(self) -> int:
        """0 is Monday."""
        return (self.day + _THURSDAY) % 7


def zone_of(name: object, place: str = "timezone") -> ZoneInfo:
    """The IANA zone of this name. Raises RefusedError ZONE_UNKNOWN."""
    # "localtime" and the right/ tree would make a bill depend on the machine that computes it.
    machine_bound = isinstance(name, str) and name.startswith(("localtime", "posix", "right/"))
    if isinstance(name, str) and not machine_bound:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass
    raise RefusedError(
        "ZONE_UNKNOWN", f"{name!r} is no IANA time zone such as 'Asia/Kolkata'", place
    )


def utc_offset_ms(zone: ZoneInfo, utc_ms: int) -> int:
    """Local minus UTC, in milliseconds, at this instant."""
    offset = datetime.fromtimestamp(utc_ms // SECOND_MS, zone).utcoffset()
    assert offset is not None  # noqa: S101 - a ZoneInfo always knows its offset
    return (offset.days * 86_400 + offset.seconds) * SECOND_MS


def local_time(zone: ZoneInfo, utc_ms: int) -> LocalTime:
    """The civil label of an instant."""
    offset_ms = utc_offset_ms(zone, utc_ms)
    day, day_ms = divmod(utc_ms + offset_ms, DAY_MS)
    return LocalTime(day, day_ms, offset_ms)


def local_date(zone: ZoneInfo, utc_ms: int) -> date:
    """The civil date of an instant."""
    return date.fromordinal(local_time(zone, utc_ms).day + _EPOCH_ORDINAL)


def offset_change(zone: ZoneInfo, from_utc_ms: int, to_utc_ms: int) -> int | None:
    """The instant in (from, to] at which the zone's offset changes; None if it does not."""
    offset_ms = utc_offset_ms(zone, from_utc_ms)
    if utc_offset_ms(zone, to_utc_ms) == offset_ms:
        return None
    before, after = from_utc_ms, to_utc_ms
    while after - before > 1:
        middle = (before + after) // 2
        if utc_offset_ms(zone, middle) == offset_ms:
            before = middle
        else:
            after = middle
    return after


def local_instant(zone: ZoneInfo, day: date, minutes_of_day: int) -> int:
    """UTC milliseconds of a local date and minute (0 to 1440, which is the next midnight).

    A minute that does not exist is the next valid instant; of a repeated one it is the first.
    """
    if not 0 <= minutes_of_day <= MINUTES_PER_DAY:
        raise ValueError(f"minute of day {minutes_of_day} is outside 0..{MINUTES_PER_DAY}")
    local_ms = (day.toordinal() - _EPOCH_ORDINAL) * DAY_MS + minutes_of_day * MINUTE_MS
    by_earlier = local_ms - utc_offset_ms(zone, local_ms - DAY_MS)
    by_later = local_ms - utc_offset_ms(zone, local_ms + DAY_MS)
    for candidate in sorted((by_earlier, by_later)):
        if candidate + utc_offset_ms(zone, candidate) == local_ms:
            return candidate
    change = offset_change(zone, by_later, by_earlier)
    if change is None:
        raise ValueError(f"{zone.key} changes its offset twice around {day}")
    return change


@lru_cache(maxsize=4_096)
def midnight(zone: ZoneInfo, day: int) -> int:
    """The instant at which a civil day (counted from 1970-01-01) begins."""
    return local_instant(zone, date.fromordinal(day + _EPOCH_ORDINAL), 0)


def civil_day(zone: ZoneInfo, utc_ms: int) -> int:
    """The civil day that holds an instant: the last one that has begun by then.

    Where clocks fall back over midnight the label repeats the old day; the new one goes on.
    """
    day = local_time(zone, utc_ms).day
    return day + 1 if midnight(zone, day + 1) <= utc_ms else day


def date_of_day(day: int) -> date:
    """The date of a civil day counted from 1970-01-01."""
    return date.fromordinal(day + _EPOCH_ORDINAL)


def period_at(zone: ZoneInfo, utc_ms: int, anniversary: int = 0) -> Period:
    """The billing period that holds this instant: a month, or from that day of it (1 to 28) on."""
    day = local_date(zone, utc_ms)
    index = day.year * 12 + day.month - 1 - (day.day < anniversary)
    period = _period(zone, index, anniversary)
    # Where clocks fall back over midnight a label repeats the old day after the new one began.
    return period if utc_ms < period.end_utc_ms else _period(zone, index + 1, anniversary)


def labelled_period(zone: ZoneInfo, label: str, anniversary: int = 0) -> Period:
    """The period of a label. Raises ValueError for another text."""
    year, month = label.split("-")[:2]
    period = _period(zone, int(year) * 12 + int(month) - 1, anniversary)
    if period.label != label:
        raise ValueError(f"{label!r} is no label of a period")
    return period


def month_period(zone: ZoneInfo, utc_ms: int) -> Period:
    """The local month that holds this instant."""
    return period_at(zone, utc_ms)


def labelled_month(zone: ZoneInfo, label: str) -> Period:
    """The local month of a label `YYYY-MM`. Raises ValueError for another text."""
    return labelled_period(zone, label)


@lru_cache(maxsize=4_096)
def _period(zone: ZoneInfo, index: int, anniversary: int) -> Period:
    first, following = _first_day(index, anniversary), _first_day(index + 1, anniversary)
    return Period(
        label=first.isoformat() if anniversary else f"{first.year:04d}-{first.month:02d}",
        start_utc_ms=local_instant(zone, first, 0),
        end_utc_ms=local_instant(zone, following, 0),
    )


def _first_day(index: int, anniversary: int) -> date:
    year, month = divmod(index, 12)
    return date(year, month + 1, anniversary or 1)


def half_hour_start(zone: ZoneInfo, utc_ms: int) -> int:
    """Start of the local half hour that holds this instant.

    Aligned to the local clock (zones off by 30 or 45 minutes too); where the offset changes
    inside a half hour the rest of it starts at the change.
    """
    label = local_time(zone, utc_ms)
    start_ms = utc_ms - label.day_ms % HALF_HOUR_MS
    change = offset_change(zone, start_ms, utc_ms)
    return start_ms if change is None else change


def next_half_hour(zone: ZoneInfo, utc_ms: int) -> int:
    """Start of the local half hour after the one that holds this instant."""
    label = local_time(zone, utc_ms)
    end_ms = utc_ms - label.day_ms % HALF_HOUR_MS + HALF_HOUR_MS
    change = offset_change(zone, utc_ms, end_ms)
    return end_ms if change is None else change
