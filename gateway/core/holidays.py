"""Holidays of a calendar: dates, yearly month-days, ordinal weekdays, and those around Easter.

A holiday is a whole local day. Rules are texts that people write, one for each kind:

    2026-03-04            once
    01-26                 every year (02-29 only in leap years)
    second sat            every month
    last mon in may       every year
    good friday, easter, easter monday     Western Easter
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from gateway.core.tariff import WEEKDAYS

ORDINALS: Final = ("first", "second", "third", "fourth", "last")
MONTHS: Final = (
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
)  # fmt: skip
EASTER: Final = {"good friday": -2, "easter": 0, "easter monday": 1}
YEARS: Final = range(2000, 2200)

_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_MONTH_DAY: Final = re.compile(r"(\d{2})-(\d{2})", re.ASCII)
_NTH: Final = re.compile(rf"({'|'.join(ORDINALS)}) ({'|'.join(WEEKDAYS)})(?: in ([a-z]{{3}}))?")


@dataclass(frozen=True, slots=True)
class Holiday:
    """One rule. `text` is how it is written; the fields that its kind does not use are zero.

    `kind` is `date` (year, month, day), `yearly` (month, day), `nth` (nth 1 to 4 or -1 for the
    last, weekday, month or 0 for every one) or `easter` (days after it in `day`).
    """

    text: str
    kind: str
    year: int = 0
    month: int = 0
    day: int = 0
    nth: int = 0
    weekday: int = 0

    def days_in(self, year: int) -> Iterator[date]:
        """The days of a year that this rule makes a holiday."""
        if self.kind == "date":
            if year == self.year:
                yield date(self.year, self.month, self.day)
        elif self.kind == "yearly":
            if (self.month, self.day) != (2, 29) or _is_leap(year):
                yield date(year, self.month, self.day)
        elif self.kind == "nth":
            for month in (self.month,) if self.month else range(1, 13):
                yield _nth_weekday(year, month, self.nth, self.weekday)
        else:
            yield easter_sunday(year) + timedelta(days=self.day)


def parse_holiday(value: object) -> Holiday:
    """The rule of a text, or of a date as YAML reads one. Raises ValueError with what is wrong."""
    text = value.isoformat() if type(value) is date else value
    words = " ".join(text.lower().split()) if isinstance(text, str) else ""
    if _DATE.fullmatch(words):
        day = date.fromisoformat(words)
        if day.year not in YEARS:
            raise ValueError(f"{words}: the year lies between 2000 and 2199")
        return Holiday(words, "date", year=day.year, month=day.month, day=day.day)
    if found := _MONTH_DAY.fullmatch(words):
        month, day_of_month = int(found[1]), int(found[2])
        date(2000, month, day_of_month)
        return Holiday(words, "yearly", month=month, day=day_of_month)
    if words in EASTER:
        return Holiday(words, "easter", day=EASTER[words])
    if (found := _NTH.fullmatch(words)) and (found[3] is None or found[3] in MONTHS):
        nth = ORDINALS.index(found[1]) + 1
        return Holiday(
            words,
            "nth",
            month=MONTHS.index(found[3]) + 1 if found[3] else 0,
            nth=-1 if nth == len(ORDINALS) else nth,
            weekday=WEEKDAYS.index(found[2]),
        )
    raise ValueError(
        f"{value!r} is no day: write 2026-03-04, 01-26, second sat, last mon in may, "
        f"{', '.join(EASTER)}"
    )


def easter_sunday(year: int) -> date:
    """Western Easter of a Gregorian year (the anonymous algorithm, Meeus/Jones/Butcher)."""
    golden, (century, rest) = year % 19, divmod(year, 100)
    leaps, century_rest = divmod(century, 4)
    moon = (century - (century + 8) // 25 + 1) // 3
    epact = (19 * golden + century - leaps - moon + 15) % 30
    fours, units = divmod(rest, 4)
    weekday = (32 + 2 * century_rest + 2 * fours - epact - units) % 7
    late = (golden + 11 * epact + 22 * weekday) // 451
    month, day = divmod(epact + weekday - 7 * late + 114, 31)
    return date(year, month, day + 1)


def _nth_weekday(year: int, month: int, nth: int, weekday: int) -> date:
    if nth < 0:
        following = date(year + month // 12, month % 12 + 1, 1)
        return following - timedelta(days=(following.weekday() - weekday - 1) % 7 + 1)
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (nth - 1))


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
