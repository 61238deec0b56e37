"""What a tariff means, as tables for the person who wrote it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.core.money import Currency, format_amount, format_price, format_scaled
from gateway.core.tariff import (
    CALENDAR_MONTH,
    DAY_TYPES,
    FIRST_RECHARGE,
    KWH_SCALE,
    ONLY_BAND,
    OPENING_DAY,
    PERCENT_SCALE,
    Rebate,
    SourceTariff,
    Tariff,
    TaxRule,
    clock_text,
    month_day_text,
)
from gateway.core.tariff_writer import tariff_to_document

_WAYS = {
    "period_close": "when a period closes",
    "month_start": "when a period starts",
    "daily": "each midnight, in equal parts",
    FIRST_RECHARGE: "with the first recharge of a period",
}


@dataclass(frozen=True, slots=True)
class TariffTable:
    """A title, column names and rows."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[object]]


def tariff_tables(tariff: Tariff, currency: Currency) -> Iterator[TariffTable]:
    """All that is understood of a tariff: when, prices by source, windows, fees, rebates, taxes."""
    yield TariffTable(tariff.name, ("what", "as understood"), list(_terms(tariff, currency)))
    for source in tariff.sources:
        yield _prices(source, currency)
    windows = [row for source in tariff.sources for row in _windows(source)]
    if windows:
        yield TariffTable(
            "Windows, local time", ("source", "band", "season", "days", "from", "to"), windows
        )
    if tariff.rebates:
        rows = [(rule.name, _rebate(rule, currency)) for rule in tariff.rebates]
        yield TariffTable("Rebates", ("name", "takes off"), rows)
    if tariff.taxes:
        taxes = [(rule.name, *_tax(rule, currency)) for rule in tariff.taxes]
        yield TariffTable("Taxes", ("name", "rate", "on", "how"), taxes)


def _terms(tariff: Tariff, currency: Currency) -> Iterator[tuple[str, str]]:
    yield "effective from", str(tariff_to_document(tariff, currency)["effective_from"])
    yield "time zone", tariff.zone
    if tariff.period_day == OPENING_DAY:
        period = "from the day on which the account was opened, day 28 at the latest"
    elif tariff.period_day == CALENDAR_MONTH:
        period = "calendar month"
    else:
        period = f"from day {tariff.period_day} of the month"
    yield "billing period", period
    if any(source.block_limits_wh for source in tariff.sources):
        counts = "for as long as the account lasts" if tariff.blocks_by_occupancy else "per period"
        yield "blocks count", counts
    for season in tariff.calendar.seasons:
        span = f"{month_day_text(season.first)} to {month_day_text(season.last)}"
        yield f"season {season.name}", f"{span}, both included"
    if tariff.calendar.has_holidays:
        yearly = [month_day_text(day) for day in sorted(tariff.calendar.yearly_holidays)]
        dates = [day.isoformat() for day in sorted(tariff.calendar.holidays)]
        yield "holidays", ", ".join([*yearly, *dates])
    if tariff.fixed_fee_nano:
        fee = format_amount(tariff.fixed_fee_nano, currency)
        yield "fixed fee", f"{fee} {currency.code}, {_WAYS[tariff.fee_collect]}"
    if tariff.minimum_nano:
        least = format_amount(tariff.minimum_nano, currency)
        yield "minimum charge", f"{least} {currency.code} of energy and fee a period"
    if tariff.feed_in_micro is not None:
        worth = format_price(tariff.feed_in_micro, currency)
        yield "feed-in", f"{worth} {currency.code} per kWh, where a meter's export is credited"


def _prices(source: SourceTariff, currency: Currency) -> TariffTable:
    limits = [format_scaled(limit_wh, KWH_SCALE) for limit_wh in source.block_limits_wh]
    heads = [f"to {limit} kWh" for limit in limits]
    heads.append(f"above {limits[-1]} kWh" if limits else "price")
    rows = []
    for band, prices in zip(source.bands, source.prices_micro, strict=True):
        name = "at all times" if band == ONLY_BAND and not source.windows else band
        if band == source.rest_band and source.windows:
            name += " (the rest of the time)"
        rows.append((name, *(format_price(price, currency) for price in prices)))
    title = f"{source.source}, {currency.code} per kWh"
    return TariffTable(title, ("band", *heads), rows)


def _windows(source: SourceTariff) -> Iterator[tuple[str, ...]]:
    for window in source.windows:
        days = [DAY_TYPES[day] for day in sorted(window.day_types)]
        every = len(days) == len(DAY_TYPES)
        yield (
            source.source,
            window.band,
            window.season or "all year",
            "every day" if every else " ".join(days),
            clock_text(window.from_minute),
            clock_text(window.to_minute),
        )


def _rebate(rule: Rebate, currency: Currency) -> str:
    if rule.rate_ppm:
        return f"{format_scaled(rule.rate_ppm, PERCENT_SCALE)} % of {', '.join(rule.bases)}"
    if rule.amount_nano:
        return f"{format_amount(rule.amount_nano, currency)} {currency.code} a period"
    text = f"{format_price(rule.per_kwh_micro, currency)} per kWh of {rule.source or 'all sources'}"
    if rule.limit_wh is not None:
        text += f", the first {format_scaled(rule.limit_wh, KWH_SCALE)} kWh of a period"
    return text


def _tax(rule: TaxRule, currency: Currency) -> tuple[str, str, str]:
    if rule.per_kwh_micro:
        rate = f"{format_price(rule.per_kwh_micro, currency)} per kWh"
        base = rule.source or "all sources"
    else:
        rate = f"{format_scaled(rule.rate_ppm, PERCENT_SCALE)} %"
        base = "recharge" if rule.on_recharge else ", ".join(rule.bases)
    return rate, base, "contained" if rule.inclusive else "on top"
