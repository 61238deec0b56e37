"""A tariff as its document again: the inverse of `gateway/core/tariff_document.py`."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.core.civil import zone_of
from gateway.core.money import Currency, format_amount, format_price, format_scaled
from gateway.core.tariff import (
    CALENDAR_MONTH,
    DAY_TYPES,
    KWH_SCALE,
    ONLY_BAND,
    OPENING_DAY,
    PERCENT_SCALE,
    Rebate,
    SourceTariff,
    Tariff,
    TariffCalendar,
    TaxRule,
    Window,
    clock_text,
    month_day_text,
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def tariff_to_document(tariff: Tariff, currency: Currency) -> dict[str, object]:
    """The document of a tariff; `tariff_from_document` gives an equal tariff back."""
    document: dict[str, object] = {
        "id": tariff.tariff_id,
        "name": tariff.name,
        "currency": tariff.currency,
        "timezone": tariff.zone,
        "effective_from": _local_text(tariff),
    }
    document.update(_period_document(tariff))
    document.update(_calendar_document(tariff.calendar))
    for source in tariff.sources:
        document[source.source] = _source_document(source, currency)
    if tariff.feed_in_micro is not None:
        document["feed_in"] = {"price": format_price(tariff.feed_in_micro, currency)}
    if tariff.fixed_fee_nano:
        document["fixed"] = {
            "amount": format_amount(tariff.fixed_fee_nano, currency),
            "collect": tariff.fee_collect,
        }
    if tariff.minimum_nano:
        document["minimum"] = {"amount": format_amount(tariff.minimum_nano, currency)}
    if tariff.rebates:
        document["rebates"] = [_rebate_document(rule, currency) for rule in tariff.rebates]
    if tariff.taxes:
        document["taxes"] = [_tax_document(rule, currency) for rule in tariff.taxes]
    return document


def _period_document(tariff: Tariff) -> dict[str, object]:
    document: dict[str, object] = {}
    if tariff.period_day == OPENING_DAY:
        document["period"] = {"day": "opening"}
    elif tariff.period_day != CALENDAR_MONTH:
        document["period"] = {"day": tariff.period_day}
    if tariff.blocks_by_occupancy:
        document["blocks_count"] = "occupancy"
    return document


def _calendar_document(calendar: TariffCalendar) -> dict[str, object]:
    document: dict[str, object] = {}
    if calendar.seasons:
        document["seasons"] = {
            season.name: {"from": month_day_text(season.first), "to": month_day_text(season.last)}
            for season in calendar.seasons
        }
    if calendar.has_holidays:
        document["holidays"] = [
            *(month_day_text(day) for day in sorted(calendar.yearly_holidays)),
            *(day.isoformat() for day in sorted(calendar.holidays)),
        ]
    return document


def _rebate_document(rule: Rebate, currency: Currency) -> dict[str, object]:
    document: dict[str, object] = {"name": rule.name}
    if rule.rate_ppm:
        percent = format_scaled(rule.rate_ppm, PERCENT_SCALE)
        return {**document, "percent": percent, "of": list(rule.bases)}
    if rule.amount_nano:
        return {**document, "amount": format_amount(rule.amount_nano, currency)}
    document["per_kwh"] = format_price(rule.per_kwh_micro, currency)
    if rule.limit_wh is not None:
        document["upto_kwh"] = format_scaled(rule.limit_wh, KWH_SCALE)
    return {**document, "source": rule.source} if rule.source else document


def _tax_document(rule: TaxRule, currency: Currency) -> dict[str, object]:
    document: dict[str, object] = {"name": rule.name}
    if rule.per_kwh_micro:
        document["per_kwh"] = format_price(rule.per_kwh_micro, currency)
        if rule.source:
            document["source"] = rule.source
    else:
        document["rate_percent"] = format_scaled(rule.rate_ppm, PERCENT_SCALE)
    if rule.on_recharge:
        return {**document, "on_recharge": True, "inclusive": rule.inclusive}
    if rule.bases:
        document["on"] = list(rule.bases)
    return {**document, "inclusive": True} if rule.inclusive else document


def _source_document(source: SourceTariff, currency: Currency) -> dict[str, object]:
    limits = source.block_limits_wh
    # A band with one price in all blocks reads simpler as a price, as long as another band
    # still names the limits.
    flat = [len(set(row)) == 1 for row in source.prices_micro]
    named_by = flat.index(False) if False in flat else 0
    rows = [
        {"price": format_price(row[0], currency)}
        if not limits or (flat[index] and index != named_by)
        else {"blocks": _blocks_document(row, limits, currency)}
        for index, row in enumerate(source.prices_micro)
    ]
    if source.bands == (ONLY_BAND,) and not source.windows:
        return dict(rows[0])
    bands: dict[str, object] = {}
    for band, row in zip(source.bands, rows, strict=True):
        when = [_window_document(window) for window in source.windows if window.band == band]
        bands[band] = {**row, "when": when} if when else dict(row)
    return {"bands": bands}


def _blocks_document(
    row: Sequence[int], limits: Sequence[int], currency: Currency
) -> list[dict[str, object]]:
    blocks: list[dict[str, object]] = [
        {"upto_kwh": format_scaled(limit_wh, KWH_SCALE), "price": format_price(price, currency)}
        for limit_wh, price in zip(limits, row, strict=False)
    ]
    return [*blocks, {"price": format_price(row[-1], currency)}]


def _window_document(window: Window) -> dict[str, object]:
    document: dict[str, object] = {}
    if window.season is not None:
        document["season"] = window.season
    if len(window.day_types) < len(DAY_TYPES):
        document["days"] = [DAY_TYPES[day_type] for day_type in sorted(window.day_types)]
    return {**document, "from": clock_text(window.from_minute), "to": clock_text(window.to_minute)}


def _local_text(tariff: Tariff) -> str:
    moment = _EPOCH + timedelta(milliseconds=tariff.effective_from_utc_ms)
    return moment.astimezone(zone_of(tariff.zone)).isoformat()
