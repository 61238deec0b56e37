"""Friendly hours: when running out of credit does not cut (a non-disablement calendar).

COSEM calls it an ActivityCalendar (20) with a SpecialDayTable (11); SMETS2 the non-disablement
calendar. Rules of domain.md section 5, each kept here or in `CutDeferral`:

- It defers cuts for CREDIT only. Consumption goes on and the balance below zero.
- There is one evaluation at the window's end: the first settled reading after it.
- It never reconnects: nothing here takes a reason away.

Whether an instant is friendly follows from its civil label (date, minute of day), as with the
bands of `bands.py`: a skipped hour has no labels, in a repeated hour the label decides twice.
Windows add up: a holiday can make a day friendlier, never less friendly.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Final, cast
from zoneinfo import ZoneInfo

from gateway.core.civil import (
    DAY_MS,
    MINUTE_MS,
    MINUTES_PER_DAY,
    local_time,
    offset_change,
    zone_of,
)
from gateway.core.errors import RefusedError
from gateway.core.holidays import Holiday
from gateway.core.tariff import WEEKDAYS

HOLIDAY: Final = 7  # the day type of windows that belong to holidays
DAY_TYPES: Final = (*WEEKDAYS, "holiday")
MINUTES_PER_WEEK: Final = 7 * MINUTES_PER_DAY
# The mass-cut breaker lets 5 % of the points through in ten minutes: a whole site takes 200 minutes
# (domain.md section 6). A week with less room than this could never work off its own cuts.
CUT_MINUTES_MIN: Final = 240
# The longest time without a chance to cut: festival weeks fit, a calendar of holidays does not.
RUN_DAYS_MAX: Final = 14
# Rules repeat their weekdays every 28 years; these hold every combination but Easter's rarest.
CHECK_YEARS: Final = range(2024, 2052)
CHANGE_HORIZON_DAYS: Final = 400
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
_YEARS_KEPT: Final = 64

Pieces = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class FriendlyWindow:
    """Friendly from a minute of each of these days on, for so many minutes.

    Day types 0 to 6 are Monday to Sunday, HOLIDAY every holiday. `minutes` reach over midnight and
    over several days for weekdays (Sat 18:00 for 38 h), over one midnight for holidays.
    """

    day_types: frozenset[int]
    from_minute: int
    minutes: int


@dataclass(frozen=True, slots=True)
class FriendlyCalendar:
    """Windows and holidays in one zone.

    Raises RefusedError CALENDAR_NEVER_CUTS for one that leaves no room for cuts: less than
    CUT_MINUTES_MIN in a week without holidays, or over RUN_DAYS_MAX without a break.
    """

    calendar_id: str
    name: str
    zone: str
    windows: tuple[FriendlyWindow, ...]
    holidays: tuple[Holiday, ...] = ()
    _zone: ZoneInfo = field(init=False, repr=False, compare=False)
    _plans: tuple[Pieces, ...] = field(init=False, repr=False, compare=False)
    _years: dict[int, frozenset[int]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "_zone", zone_of(self.zone))
        object.__setattr__(self, "_plans", _plans(self.windows))
        self._check()

    def is_friendly(self, utc_ms: int) -> bool:
        """Whether an instant lies in a window."""
        return self._stretch(utc_ms)[0]

    def next_change_utc_ms(self, utc_ms: int) -> int | None:
        """When friendly becomes unfriendly or the other way; None if not within 400 days."""
        friendly, end_utc_ms = self._stretch(utc_ms)
        horizon_utc_ms = utc_ms + CHANGE_HORIZON_DAYS * DAY_MS
        while end_utc_ms < horizon_utc_ms:
            next_friendly, next_end_utc_ms = self._stretch(end_utc_ms)
            if next_friendly != friendly:
                return end_utc_ms
            end_utc_ms = next_end_utc_ms
        return None

    def next_disablement_utc_ms(self, utc_ms: int) -> int:
        """The first instant from this one on at which credit that has run out cuts.

        It is the instant itself outside the windows, else the end of the window that holds it.
        """
        if not self.is_friendly(utc_ms):
            return utc_ms
        end_utc_ms = self.next_change_utc_ms(utc_ms)
        # _check bounds the longest window; only dates outside its years could deceive it.
        return utc_ms + CHANGE_HORIZON_DAYS * DAY_MS if end_utc_ms is None else end_utc_ms

    def is_holiday(self, day: int) -> bool:
        """Whether a local day, in days since 1970-01-01, is a holiday."""
        if not self.holidays:
            return False
        year = date.fromordinal(day + _EPOCH_ORDINAL).year
        days = self._years.get(year)
        if days is None:
            if len(self._years) >= _YEARS_KEPT:
                self._years.clear()
            days = self._years[year] = frozenset(
                each.toordinal() - _EPOCH_ORDINAL
                for rule in self.holidays
                for each in rule.days_in(year)
            )
        return day in days

    def _pieces(self, day: int, weekday: int) -> Pieces:
        before, now = self.is_holiday(day - 1), self.is_holiday(day)
        return self._plans[weekday * 4 + 2 * now + before]

    def _stretch(self, utc_ms: int) -> tuple[bool, int]:
        """Whether an instant is friendly, and until when its label says so on the same day."""
        label = local_time(self._zone, utc_ms)
        friendly, end_minute = False, MINUTES_PER_DAY
        for from_minute, to_minute in self._pieces(label.day, label.weekday):
            if label.day_ms < from_minute * MINUTE_MS:
                end_minute = from_minute
                break
            if label.day_ms < to_minute * MINUTE_MS:
                friendly, end_minute = True, to_minute
                break
        end_utc_ms = utc_ms + end_minute * MINUTE_MS - label.day_ms
        change = offset_change(self._zone, utc_ms, end_utc_ms)
        return friendly, end_utc_ms if change is None else change

    def _check(self) -> None:
        week = sum(to - start for weekday in range(7) for start, to in self._plans[weekday * 4])
        if MINUTES_PER_WEEK - week < CUT_MINUTES_MIN:
            raise RefusedError(
                "CALENDAR_NEVER_CUTS",
                f"a week keeps {MINUTES_PER_WEEK - week} minutes outside the windows; "
                f"at least {CUT_MINUTES_MIN} are needed, or credit that has run out cuts nobody",
                "windows",
            )
        named = {rule.year for rule in self.holidays if rule.kind == "date"}
        for years in _runs(sorted({*CHECK_YEARS, *named}) if self.holidays else ()):
            self._check_runs(date(years[0], 1, 1), date(years[-1], 12, 31))

    def _check_runs(self, first: date, last: date) -> None:
        """No stretch of friendly days is too long between two dates, by civil labels."""
        run = 0
        start = first.toordinal() - _EPOCH_ORDINAL
        for day in range(start, last.toordinal() - _EPOCH_ORDINAL + 1):
            minute = 0
            for from_minute, to_minute in self._pieces(day, (day + 3) % 7):
                run = run if from_minute == minute else 0
                run += to_minute - from_minute
                minute = to_minute
            if run > RUN_DAYS_MAX * MINUTES_PER_DAY:
                raise RefusedError(
                    "CALENDAR_NEVER_CUTS",
                    f"no cut is possible in the {RUN_DAYS_MAX} days up to "
                    f"{date.fromordinal(day + _EPOCH_ORDINAL)}",
                    "holidays",
                )
            run = run if minute == MINUTES_PER_DAY else 0


def _runs(years: Sequence[int]) -> Iterator[list[int]]:
    """Years in order as runs of successive ones."""
    run: list[int] = []
    for year in years:
        if run and year != run[-1] + 1:
            yield run
            run = []
        run.append(year)
    if run:
        yield run


def _plans(windows: tuple[FriendlyWindow, ...]) -> tuple[Pieces, ...]:
    """Friendly minutes for each (weekday, is a holiday, follows a holiday), merged, in order."""
    week: list[list[tuple[int, int]]] = [[] for _ in range(7)]
    holiday: list[tuple[int, int]] = []
    after: list[tuple[int, int]] = []
    for window in windows:
        end = window.from_minute + window.minutes
        longest = MINUTES_PER_WEEK if HOLIDAY not in window.day_types else MINUTES_PER_DAY
        if not (0 <= window.from_minute < MINUTES_PER_DAY and 0 < window.minutes <= longest):
            raise ValueError(f"{window} is empty or too long")
        for offset in range(-(-end // MINUTES_PER_DAY)):
            begin = max(window.from_minute - offset * MINUTES_PER_DAY, 0)
            piece = (begin, min(end - offset * MINUTES_PER_DAY, MINUTES_PER_DAY))
            for weekday in window.day_types - {HOLIDAY}:
                week[(weekday + offset) % 7].append(piece)
            if HOLIDAY in window.day_types:
                (after if offset else holiday).append(piece)
    return tuple(
        _merged([*pieces, *(holiday if now else ()), *(after if before else ())])
        for pieces in week
        for now in (False, True)
        for before in (False, True)
    )


def _merged(pieces: Sequence[tuple[int, int]]) -> Pieces:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(pieces):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


class CutVerdict(StrEnum):
    """What a settled reading means for a cut for CREDIT.

    `DUE_AFTER_WINDOW` is due because a window ended: such cuts pass the mass-cut breaker at its
    rate limit and do not count to its halt (domain.md section 6).
    """

    NOT_DUE = "not_due"
    DEFERRED = "deferred"
    DUE = "due"
    DUE_AFTER_WINDOW = "due_after_window"


@dataclass(slots=True)
class CutDeferral:
    """Judges one account's cuts for CREDIT under its calendar; `calendar` None: no windows.

    Asked with every settled reading while CREDIT does not stand. `since_utc_ms` tells since when a
    cut waits, None when none does.
    """

    calendar: FriendlyCalendar | None
    since_utc_ms: int | None = None

    def judge(self, available_nano: int, utc_ms: int, *, clock_trusted: bool = True) -> CutVerdict:
        """Whether the credit that is left (emergency credit included) cuts now.

        Under a calendar a clock that is not trusted defers too: whether it is night cannot be
        told, and a cut in friendly hours cannot be taken back.
        """
        if available_nano > 0:
            self.since_utc_ms = None
            return CutVerdict.NOT_DUE
        if self.calendar is not None and (not clock_trusted or self.calendar.is_friendly(utc_ms)):
            if self.since_utc_ms is None:
                self.since_utc_ms = utc_ms
            return CutVerdict.DEFERRED
        waited, self.since_utc_ms = self.since_utc_ms is not None, None
        return CutVerdict.DUE_AFTER_WINDOW if waited else CutVerdict.DUE

    def snapshot(self) -> dict[str, object]:
        """Since when a cut waits, as JSON values."""
        return {"since_utc_ms": self.since_utc_ms}

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on where `snapshot` was taken."""
        self.since_utc_ms = cast("int | None", state["since_utc_ms"])
