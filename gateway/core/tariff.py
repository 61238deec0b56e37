"""A tariff version: what a kilowatt-hour costs, by source, time of use and block, and what else.

Rate = matrix[band][block] per source (domain.md section 4). A version is immutable once
published. `tariff_document.py` reads the text that people edit, `tariff_writer.py` writes it,
`bands.py` tells which band applies when, `fees.py` when fees fall due, `charges.py` what it all
comes to.
"""

from dataclasses import dataclass
from datetime import date
from typing import Final

GRID: Final = "grid"
GENERATOR: Final = "generator"
SOURCES: Final = (GRID, GENERATOR)
ONLY_BAND: Final = "all"  # the band of a source whose price does not depend on the time
WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_TYPES: Final = (*WEEKDAYS, "holiday")
HOLIDAY: Final = 7
ENERGY: Final = "energy"
FIXED: Final = "fixed"
MINIMUM: Final = "minimum"
REBATE: Final = "rebate"
EXPORT: Final = "export"
TAX_BASES: Final = (ENERGY, FIXED, MINIMUM, REBATE)
REBATE_BASES: Final = (ENERGY, FIXED, MINIMUM)
PPM: Final = 1_000_000
PERCENT_SCALE: Final = 4  # one percent is 10**4 parts per million
KWH_SCALE: Final = 3  # one kWh is 10**3 Wh

# How a fixed fee is collected.
PERIOD_CLOSE: Final = "period_close"
PERIOD_START: Final = "month_start"
DAILY: Final = "daily"
FIRST_RECHARGE: Final = "first_recharge"
COLLECTIONS: Final = (PERIOD_CLOSE, PERIOD_START, DAILY, FIRST_RECHARGE)

# `period_day` of a tariff: a day 1 to 28 or one of these.
CALENDAR_MONTH: Final = 0
OPENING_DAY: Final = -1
LAST_ANNIVERSARY: Final = 28  # every month has this day

MonthDay = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Season:
    """Days of the year from `first` to `last`, both included; may run over new year."""

    name: str
    first: MonthDay
    last: MonthDay

    def holds(self, day: MonthDay) -> bool:
        """Whether this day of the year belongs to the season."""
        if self.first <= self.last:
            return self.first <= day <= self.last
        return day >= self.first or day <= self.last


@dataclass(frozen=True, slots=True)
class TariffCalendar:
    """Seasons, which do not overlap, and holidays: single dates and those of every year."""

    seasons: tuple[Season, ...] = ()
    holidays: frozenset[date] = frozenset()
    yearly_holidays: frozenset[MonthDay] = frozenset()

    @property
    def has_holidays(self) -> bool:
        """Whether day type 7 occurs at all."""
        return bool(self.holidays or self.yearly_holidays)

    def season_on(self, day: MonthDay) -> str | None:
        """Name of the season that holds this day of the year."""
        return next((season.name for season in self.seasons if season.holds(day)), None)


@dataclass(frozen=True, slots=True)
class Window:
    """When a band applies: local minutes [from, to) on days of these types, in this season.

    Day types 0 to 6 are Monday to Sunday, 7 is a holiday, whatever weekday it is. With
    `to_minute <= from_minute` the window runs over midnight and belongs to the day on which it
    begins, its season and type included. `season` None means the whole year.
    """

    band: str
    day_types: frozenset[int]
    from_minute: int
    to_minute: int
    season: str | None = None


@dataclass(frozen=True, slots=True)
class SourceTariff:
    """Prices of one source.

    `prices_micro[band][block]` is micro-units per kWh. `block_limits_wh` are the inclusive upper
    limits of all blocks but the last, which is open: block k holds the cumulative Wh of the
    period in (limit[k-1], limit[k]], whatever their band. `rest_band` applies where no window
    does; None when the windows leave no time over.
    """

    source: str
    bands: tuple[str, ...]
    windows: tuple[Window, ...]
    rest_band: str | None
    block_limits_wh: tuple[int, ...]
    prices_micro: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        blocks = len(self.block_limits_wh) + 1
        if len(self.prices_micro) != len(self.bands) or any(
            len(row) != blocks for row in self.prices_micro
        ):
            raise ValueError(f"{self.source}: prices do not fit {self.bands} x {blocks} blocks")


@dataclass(frozen=True, slots=True)
class TaxRule:
    """A tax: `rate_ppm` parts per million of the sum of its bases, or micro-units per kWh.

    An inclusive tax is contained in what is charged already and changes no total. With
    `on_recharge` it is taken from each recharge instead and has no bases. `source` narrows a tax
    per kWh to one source; empty means all.
    """

    name: str
    rate_ppm: int
    bases: tuple[str, ...]
    per_kwh_micro: int = 0
    inclusive: bool = False
    on_recharge: bool = False
    source: str = ""


@dataclass(frozen=True, slots=True)
class Rebate:
    """A reduction, in one of three forms; all of them together never exceed the charges.

    `rate_ppm` of the bases; `amount_nano` a period; or `per_kwh_micro` for the first
    `limit_wh` of a period (None: for all of them), of one source or, where it is empty, of all.
    """

    name: str
    rate_ppm: int = 0
    bases: tuple[str, ...] = ()
    amount_nano: int = 0
    per_kwh_micro: int = 0
    limit_wh: int | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Tariff:
    """One published version.

    `fixed_fee_nano` falls due once a period, collected as `fee_collect` says. `minimum_nano` is
    what energy and fee of a period come to at least. Periods begin on the first of a month, or on
    day `period_day` of it (OPENING_DAY: the day on which the account was opened). Blocks count per
    period, or with `blocks_by_occupancy` for as long as the account lasts. A kWh that is fed in is
    worth `feed_in_micro` (None: the tariff has no price for it, which is worth nothing).
    """

    tariff_id: str
    version: int
    name: str
    currency: str
    zone: str
    effective_from_utc_ms: int
    sources: tuple[SourceTariff, ...]
    fixed_fee_nano: int = 0
    taxes: tuple[TaxRule, ...] = ()
    fee_collect: str = PERIOD_CLOSE
    minimum_nano: int = 0
    rebates: tuple[Rebate, ...] = ()
    calendar: TariffCalendar = TariffCalendar()
    period_day: int = CALENDAR_MONTH
    blocks_by_occupancy: bool = False
    feed_in_micro: int | None = None

    def source(self, name: str) -> SourceTariff | None:
        """Prices of this source, or None when the tariff has none."""
        return next((item for item in self.sources if item.source == name), None)

    @property
    def depends_on_time(self) -> bool:
        """Whether some price depends on the time of day, the day or the season."""
        return any(len(source.bands) > 1 for source in self.sources)


def clock_text(minute: int) -> str:
    """A minute of the day as `HH:MM` (1440 is 24:00)."""
    return f"{minute // 60:02d}:{minute % 60:02d}"


def month_day_text(day: MonthDay) -> str:
    """A day of the year as `MM-DD`."""
    return f"{day[0]:02d}-{day[1]:02d}"
