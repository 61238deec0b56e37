"""What rises between a tariff version and the one it follows, as exact ratios.

Prices are compared at every kind of day that may come, every minute of it and every cumulative Wh,
taxes on top and rebates included; so a moved window or a lower block limit is seen like a higher
price. Fee and minimum are compared beside them, rebates of a fixed amount, which may shrink, and
the feed-in price, which may fall. A big rise needs a second person (domain.md section 4).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from functools import cmp_to_key
from typing import Final

from gateway.core.bands import DayKey, day_key
from gateway.core.money import format_scaled
from gateway.core.rates import Rates, rates_of
from gateway.core.tariff import (
    DAY_TYPES,
    ENERGY,
    FIXED,
    HOLIDAY,
    KWH_SCALE,
    MINIMUM,
    PPM,
    REBATE,
    Tariff,
    TariffCalendar,
    clock_text,
)

SECOND_PERSON_ABOVE: Final = Fraction(3, 2)
# A leap year and the one after it: every day of the year after every day that may precede it.
_FROM: Final = date(2028, 1, 1)
_DAYS: Final = 366 + 365


@dataclass(frozen=True, slots=True)
class Rise:
    """One thing that costs more: where, and new over old. None: it cost nothing before.

    `words` say it where it is none: something that is given, and less of it.
    """

    where: str
    ratio: Fraction | None
    words: str = ""

    @property
    def is_big(self) -> bool:
        """Whether a second person has to decide on it."""
        return self.ratio is None or self.ratio > SECOND_PERSON_ABOVE

    @property
    def text(self) -> str:
        """The rise in words, its percentage rounded up to a tenth."""
        if self.words:
            return f"{self.where}: {self.words}"
        if self.ratio is None:
            return f"{self.where}: was free, now costs something"
        tenths = -((1 - self.ratio) * 1_000 // 1)
        return f"{self.where}: {format_scaled(int(tenths), 1)} % more"


def rises(old: Tariff, new: Tariff) -> tuple[Rise, ...]:
    """Everything that costs more under `new`, the biggest rise first."""
    found: list[Rise] = []
    for source in old.sources:
        if new.source(source.source) is not None:
            found.extend(_energy_rises(rates_of(old), rates_of(new), source.source))
    for base, old_nano, new_nano in (
        (FIXED, old.fixed_fee_nano, new.fixed_fee_nano),
        (MINIMUM, old.minimum_nano, new.minimum_nano),
    ):
        name = "fixed fee" if base == FIXED else "minimum charge"
        found.extend(_rise(name, _gross(old, base, old_nano), _gross(new, base, new_nano)))
    old_rebate, new_rebate = (
        Fraction(sum(rule.amount_nano for rule in item.rebates)) for item in (old, new)
    )
    # What is no longer given is paid: the smaller rebate is to the larger as the old price.
    found.extend(_rise("rebates of a fixed amount shrink", new_rebate, old_rebate))
    found.extend(_fall_of_feed_in(old.feed_in_micro or 0, new.feed_in_micro or 0))
    return tuple(sorted(found, key=cmp_to_key(_bigger_first)))


def biggest_rise(old: Tariff, new: Tariff) -> Rise | None:
    """The biggest of them, or None where nothing costs more."""
    return next(iter(rises(old, new)), None)


def needs_second_person(old: Tariff, new: Tariff) -> bool:
    """Whether something costs over half as much again, or something where it cost nothing."""
    rise = biggest_rise(old, new)
    return rise is not None and rise.is_big


def is_bigger(one: Rise, other: Rise) -> bool:
    """Whether a rise is bigger than another; what was free and now costs is the biggest of all."""
    return _bigger_first(one, other) < 0


def _rise(where: str, old: Fraction, new: Fraction) -> Iterator[Rise]:
    if new > old:
        yield Rise(where, new / old if old else None)


def _fall_of_feed_in(old_micro: int, new_micro: int) -> Iterator[Rise]:
    """What is paid for feed-in and falls: by so much of itself as a price rises, so that losing
    more than half of it is a big rise, and all of it the biggest."""
    if new_micro >= old_micro:
        return
    lost = Fraction(old_micro - new_micro, old_micro)
    tenths = -(-lost * 1_000 // 1)
    words = f"{format_scaled(int(tenths), 1)} % less" if new_micro else "is paid no more"
    yield Rise("feed-in price", 1 + lost if new_micro else None, words)


def _bigger_first(one: Rise, other: Rise) -> int:
    if one.ratio is None or other.ratio is None:
        return (one.ratio is not None) - (other.ratio is not None)
    return (one.ratio < other.ratio) - (one.ratio > other.ratio)


# -- what a person pays in the end ---------------------------------------------------------


def _on_recharge(tariff: Tariff) -> Fraction:
    """What is paid for one unit of credit."""
    return 1 + Fraction(sum(r.rate_ppm for r in tariff.taxes if r.on_recharge), PPM)


def _gross(tariff: Tariff, base: str, amount: int | Fraction, rebate_micro: int = 0) -> Fraction:
    """An amount of one base with its rebates by rate (and per kWh) and its taxes on top."""
    percent = sum(rule.rate_ppm for rule in tariff.rebates if base in rule.bases)
    net = max(Fraction(0), amount - Fraction(amount * percent, PPM) - rebate_micro)
    gross = net
    for rule in tariff.taxes:
        if base in rule.bases and not rule.inclusive:
            taxed = net if REBATE in rule.bases else Fraction(amount)
            gross += taxed * Fraction(rule.rate_ppm, PPM)
    return gross * _on_recharge(tariff)


def _wh_price(rates: Rates, source: str, band: int, cumulative_wh: int) -> Fraction:
    """What the next Wh of a source costs after so many, in micro-units per kWh."""
    tariff, prices = rates.tariff, rates.sources[source]
    block = sum(1 for limit_wh in prices.block_limits_wh if limit_wh <= cumulative_wh)
    rebate = sum(
        rule.per_kwh_micro
        for rule in tariff.rebates
        if rule.source in ("", source) and (rule.limit_wh is None or cumulative_wh < rule.limit_wh)
    )
    duty = sum(micro for micro, taxed in rates.kwh_taxes if taxed in ("", source))
    price = _gross(tariff, ENERGY, prices.prices_micro[band][block], rebate)
    return price + duty * _on_recharge(tariff)


def _energy_rises(old: Rates, new: Rates, source: str) -> Iterator[Rise]:
    """The biggest rise of each block in each pair of bands that ever meet."""
    limits = {
        limit_wh
        for rates in (old, new)
        for limit_wh in (
            *rates.sources[source].block_limits_wh,
            *(rule.limit_wh for rule in rates.rebates if rule.limit_wh is not None),
        )
    }
    for (old_band, new_band), when in _meetings(old, new, source).items():
        for above_wh in sorted({0, *limits}):
            where = f"{source} energy{when}"
            if above_wh:
                where += f" above {format_scaled(above_wh, KWH_SCALE)} kWh"
            yield from _rise(
                where,
                _wh_price(old, source, old_band, above_wh),
                _wh_price(new, source, new_band, above_wh),
            )


def _meetings(old: Rates, new: Rates, source: str) -> Mapping[tuple[int, int], str]:
    """Every (old band, new band) that apply at the same minute of some day, and when first."""
    old_plan, new_plan = old.plans[source], new.plans[source]
    if old_plan.single and new_plan.single:
        key = DayKey(None, 0)
        pairs = (old_plan.kind_of_day(key, key)[0][1], new_plan.kind_of_day(key, key)[0][1])
        return {pairs: ""}
    found: dict[tuple[int, int], str] = {}
    for keys, day in _days(old.tariff.calendar, new.tariff.calendar).items():
        old_day = old_plan.kind_of_day(keys[0], keys[1])
        new_day = new_plan.kind_of_day(keys[2], keys[3])
        for start, end, bands in _overlaid(old_day, new_day):
            found.setdefault(bands, f" on {day} {clock_text(start)}-{clock_text(end)}")
    return found


def _overlaid(
    old_day: Sequence[tuple[int, int]], new_day: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Pieces (from, to, bands) of a day on which neither plan changes its band."""
    start = 0
    for end in sorted({minute for minute, _ in (*old_day, *new_day)}):
        old_band = next(band for minute, band in old_day if minute > start)
        new_band = next(band for minute, band in new_day if minute > start)
        yield start, end, (old_band, new_band)
        start = end


_Keys = tuple[DayKey, DayKey, DayKey, DayKey]


def _days(old: TariffCalendar, new: TariffCalendar) -> Mapping[_Keys, str]:
    """Every combination of kinds of day and day before, under both calendars, with its name."""
    found: dict[_Keys, str] = {}
    for index in range(_DAYS):
        day = _FROM + timedelta(days=index)
        before = day - timedelta(days=1)
        for weekday in range(7):
            keys = (
                _yearly_key(old, day, weekday),
                _yearly_key(old, before, (weekday - 1) % 7),
                _yearly_key(new, day, weekday),
                _yearly_key(new, before, (weekday - 1) % 7),
            )
            found.setdefault(keys, f"{DAY_TYPES[weekday]} such as {day:%m-%d}")
    for holiday in sorted(old.holidays | new.holidays):
        for day in (holiday, holiday + timedelta(days=1)):
            before = day - timedelta(days=1)
            keys = (
                day_key(old, day),
                day_key(old, before),
                day_key(new, day),
                day_key(new, before),
            )
            found.setdefault(keys, day.isoformat())
    return found


def _yearly_key(calendar: TariffCalendar, day: date, weekday: int) -> DayKey:
    """The kind of a day of the year that falls on this weekday and is no single holiday."""
    month_day = (day.month, day.day)
    is_holiday = month_day in calendar.yearly_holidays
    return DayKey(calendar.season_on(month_day), HOLIDAY if is_holiday else weekday)
