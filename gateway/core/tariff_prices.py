"""The part of a tariff document that says when which price applies: seasons, holidays, bands."""

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Final

from gateway.core.bands import DayKey, day_pairs, day_pieces
from gateway.core.civil import MINUTES_PER_DAY
from gateway.core.tariff import (
    DAY_TYPES,
    HOLIDAY,
    ONLY_BAND,
    MonthDay,
    Season,
    SourceTariff,
    TariffCalendar,
    Window,
    clock_text,
    month_day_text,
)
from gateway.core.tariff_reader import NAME, DocumentReader, join

MAX_BANDS: Final = 12
MAX_WINDOWS: Final = 96
MAX_BLOCKS: Final = 16
MAX_SEASONS: Final = 12
MAX_HOLIDAYS: Final = 400
YEARS: Final = range(2000, 2200)

_TIME: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|24:00")
_MONTH_DAY: Final = re.compile(r"(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
_LEAP_YEAR: Final = 2028
_BandRows = dict[str, list[tuple[int, int]]]


class PriceReader(DocumentReader):
    """Reads the calendar, then the sources whose windows refer to it."""

    calendar = TariffCalendar()

    def read_calendar(self, keys: Mapping[str, object]) -> TariffCalendar:
        seasons = self.seasons(keys["seasons"]) if "seasons" in keys else ()
        dates, yearly = self.holidays(keys["holidays"]) if "holidays" in keys else ((), ())
        self.calendar = TariffCalendar(seasons, frozenset(dates), frozenset(yearly))
        return self.calendar

    def seasons(self, value: object) -> tuple[Season, ...]:
        seasons: list[Season] = []
        for here, key, item in self.named("seasons", value, MAX_SEASONS):
            before = len(self.problems)
            name = self.pattern(here, key, NAME, "season name such as 'summer'")
            keys = self.mapping(here, item, ("from", "to"), ("from", "to"))
            first = self.month_day(join(here, "from"), keys["from"]) if "from" in keys else (1, 1)
            last = self.month_day(join(here, "to"), keys["to"]) if "to" in keys else (1, 1)
            if len(self.problems) > before:
                continue
            season = Season(name, first, last)
            for other in seasons:
                shared = next(
                    (day for day in _year() if season.holds(day) and other.holds(day)), None
                )
                if shared:
                    text = month_day_text(shared)
                    self.report(here, f"overlaps the season {other.name} on {text}")
            seasons.append(season)
        return tuple(seasons)

    def month_day(self, place: str, value: object) -> MonthDay:
        if isinstance(value, str) and _MONTH_DAY.fullmatch(value):
            month, day = int(value[:2]), int(value[3:])
            try:
                date(_LEAP_YEAR, month, day)
            except ValueError:
                self.report(place, f"{value} is no day of any year")
            return month, day
        self.report(place, f'{value!r} is no quoted day of the year such as "03-31"')
        return 1, 1

    def holidays(self, value: object) -> tuple[tuple[date, ...], tuple[MonthDay, ...]]:
        """Single dates, and days of every year. An empty list means none."""
        dates: list[date] = []
        yearly: list[MonthDay] = []
        if value in ([], ()):
            return (), ()
        for here, item in self.items("holidays", value, MAX_HOLIDAYS):
            before = len(self.problems)
            if isinstance(item, str) and len(item) == 5:
                day = self.month_day(here, item)
                if len(self.problems) == before:
                    if day in yearly:
                        self.report(here, f"{item} stands twice")
                    yearly.append(day)
                continue
            found = _date(item)
            if found is None:
                self.report(
                    here, f'{item!r} is neither a date such as "2026-01-26" nor a yearly "12-25"'
                )
            elif found in dates:
                self.report(here, f"{found} stands twice")
            else:
                dates.append(found)
        return tuple(dates), tuple(yearly)

    def source(self, name: str, value: object) -> SourceTariff | None:
        """One source: exactly one of `price`, `blocks`, `bands`."""
        before = len(self.problems)
        keys = self.mapping(name, value, ("price", "blocks", "bands"))
        if len(keys) != 1:
            if len(self.problems) == before:
                self.report(name, "give exactly one of price, blocks, bands")
            return None
        if "bands" not in keys:
            rows = {ONLY_BAND: self.row(name, keys)}
            windows: tuple[Window, ...] = ()
            rest: str | None = ONLY_BAND
        else:
            rows, windows, rest = self.bands(join(name, "bands"), keys["bands"])
        if len(self.problems) > before:
            return None
        limits = tuple(sorted({limit for row in rows.values() for limit, _ in row[:-1]}))
        return SourceTariff(
            source=name,
            bands=tuple(rows),
            windows=windows,
            rest_band=rest,
            block_limits_wh=limits,
            prices_micro=tuple(_refine(row, limits) for row in rows.values()),
        )

    def feed_in(self, value: object) -> int:
        """What a kWh is worth that a customer feeds in: one price, at all times."""
        keys = self.mapping("feed_in", value, ("price",), ("price",))
        return self.price("feed_in.price", keys["price"]) if "price" in keys else 0

    def bands(self, place: str, value: object) -> tuple[_BandRows, tuple[Window, ...], str | None]:
        rows: _BandRows = {}
        windows: list[Window] = []
        rests: list[str] = []
        named = self.named(place, value, MAX_BANDS)
        before = len(self.problems)
        for here, key, item in named:
            band = self.pattern(here, key, NAME, "band name such as 'peak'")
            keys = self.mapping(here, item, ("price", "blocks", "when"))
            prices: dict[str, object] = {
                name: keys[name] for name in ("price", "blocks") if name in keys
            }
            if len(prices) != 1:
                self.report(here, "give exactly one of price, blocks")
            else:
                rows[band] = self.row(here, prices)
            if "when" in keys:
                windows.extend(self.windows(join(here, "when"), keys["when"], band))
            else:
                rests.append(band)
        if len(rests) > 1:
            self.report(place, f"only one band may go without `when`, not {', '.join(rests)}")
        if len(windows) > MAX_WINDOWS:
            self.report(place, f"more than {MAX_WINDOWS} windows")
        elif named and not any(".when" in problem.place for problem in self.problems[before:]):
            self.cover(place, tuple(windows), rests)
        return rows, tuple(windows), rests[0] if rests else None

    def windows(self, place: str, value: object, band: str) -> list[Window]:
        windows: list[Window] = []
        for here, item in self.items(place, value, MAX_WINDOWS):
            before = len(self.problems)
            keys = self.mapping(here, item, ("season", "days", "from", "to"), ("from", "to"))
            start = self.minute(join(here, "from"), keys["from"]) if "from" in keys else 0
            end = self.minute(join(here, "to"), keys["to"]) if "to" in keys else 0
            days = self.days(join(here, "days"), keys.get("days", DAY_TYPES))
            season = self.season(join(here, "season"), keys["season"]) if "season" in keys else None
            if len(self.problems) > before:
                continue
            if start in (end, MINUTES_PER_DAY):
                self.report(here, "is empty; a whole day runs from 00:00 to 24:00")
            else:
                windows.append(Window(band, days, start, end, season))
        return windows

    def season(self, place: str, value: object) -> str:
        names = [season.name for season in self.calendar.seasons]
        if not isinstance(value, str) or value not in names:
            known = ", ".join(names) if names else "none is defined under `seasons`"
            self.report(place, f"unknown season {value!r}; known: {known}")
            return ""
        return value

    def minute(self, place: str, value: object) -> int:
        if not isinstance(value, str) or not _TIME.fullmatch(value):
            # Without quotes YAML 1.1 reads 18:00 as the number 1080.
            self.report(place, f'{value!r} is no quoted time such as "18:00"')
            return 0
        hours, minutes = value.split(":")
        return int(hours) * 60 + int(minutes)

    def days(self, place: str, value: object) -> frozenset[int]:
        days: set[int] = set()
        for here, item in self.items(place, value, len(DAY_TYPES)):
            if not isinstance(item, str) or item not in DAY_TYPES:
                self.report(here, f"{item!r} is none of {', '.join(DAY_TYPES)}")
            elif DAY_TYPES.index(item) in days:
                self.report(here, f"{item} stands twice")
            else:
                days.add(DAY_TYPES.index(item))
        if days == {HOLIDAY} and not self.calendar.has_holidays:
            self.report(place, "no day is listed under `holidays`")
        return frozenset(days)

    def cover(self, place: str, windows: tuple[Window, ...], rests: Sequence[str]) -> None:
        """Every minute of every kind of day, after every kind of day, has exactly one band."""
        left_over = False
        # The plainest day on which something is wrong is told, not every day after every other.
        told: set[tuple[DayKey, int]] = set()
        for day, before in day_pairs(self.calendar):
            minute = 0
            for piece in day_pieces(windows, day, before):
                if piece.from_minute < minute and (day, piece.from_minute) not in told:
                    told.add((day, piece.from_minute))
                    clock = clock_text(piece.from_minute)
                    self.report(place, f"windows overlap on {self.text(day, before)} from {clock}")
                elif piece.from_minute > minute:
                    left_over = True
                    if not rests and (day, minute) not in told:
                        told.add((day, minute))
                        self.gap(place, day, before, minute, piece.from_minute)
                minute = max(minute, piece.to_minute)
            if minute < MINUTES_PER_DAY:
                left_over = True
                if not rests and (day, minute) not in told:
                    told.add((day, minute))
                    self.gap(place, day, before, minute, MINUTES_PER_DAY)
        if rests and not left_over:
            self.report(place, f"no time is left for {rests[0]}, the band without `when`")

    def gap(self, place: str, day: DayKey, before: DayKey, start: int, end: int) -> None:
        span = f"{clock_text(start)}-{clock_text(end)}"
        self.report(place, f"no band covers {self.text(day, before)} {span}")

    def text(self, day: DayKey, before: DayKey) -> str:
        """A kind of day in words; the day before only where it is the reason."""
        words = DAY_TYPES[day.day_type]
        if day.season:
            words += f" in {day.season}"
        elif self.calendar.seasons:
            first = next(d for d in _year() if self.calendar.season_on(d) is None)
            words += f" outside the seasons (such as {month_day_text(first)})"
        if before.season != day.season:
            words += f" after a day in {before.season or 'no season'}"
        elif HOLIDAY in (day.day_type, before.day_type):
            words += f" after {DAY_TYPES[before.day_type]}"
        return words

    def row(self, place: str, keys: Mapping[str, object]) -> list[tuple[int, int]]:
        """(upper limit in Wh, price) per block; the last block is open, its limit 0."""
        if "price" in keys:
            return [(0, self.price(join(place, "price"), keys["price"]))]
        row: list[tuple[int, int]] = []
        blocks = self.items(join(place, "blocks"), keys["blocks"], MAX_BLOCKS)
        for index, (here, item) in enumerate(blocks):
            last = index == len(blocks) - 1
            wanted = ("price",) if last else ("upto_kwh", "price")
            found = self.mapping(here, item, ("upto_kwh", "price"), wanted)
            limit_wh = 0
            if last and found.get("upto_kwh") is not None:
                self.report(join(here, "upto_kwh"), "the last block is open: leave this out")
            elif not last and "upto_kwh" in found:
                before = len(self.problems)
                limit_wh = self.kilowatt_hours(join(here, "upto_kwh"), found["upto_kwh"])
                below_wh = row[-1][0] if row else 0
                if len(self.problems) == before and limit_wh <= below_wh:
                    self.report(join(here, "upto_kwh"), "limits must rise from block to block")
            price = self.price(join(here, "price"), found["price"]) if "price" in found else 0
            row.append((limit_wh, price))
        return row


def _refine(row: Sequence[tuple[int, int]], limits: Sequence[int]) -> tuple[int, ...]:
    """The row's prices on limits that are at least as fine as its own."""
    prices: list[int] = []
    index = 0
    for limit_wh in limits:
        while index < len(row) - 1 and row[index][0] < limit_wh:
            index += 1
        prices.append(row[index][1])
    return (*prices, row[-1][1])


def _year() -> list[MonthDay]:
    days = (date(_LEAP_YEAR, 1, 1) + timedelta(days=index) for index in range(366))
    return [(day.month, day.day) for day in days]


def _date(value: object) -> date | None:
    if isinstance(value, str) and len(value) == 10:
        try:
            value = date.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, date) and not isinstance(value, datetime) and value.year in YEARS:
        return value
    return None
