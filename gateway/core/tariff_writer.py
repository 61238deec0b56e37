"""A tariff as its document again: the inverse of `gateway/core/tariff_document.py`."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.core.civil import zone_of
from gateway.core.money import Currency, format_amount, format_price, format_scaled
from gateway.core.tariff import (
    KWH_SCALE,
    ONLY_BAND,
    PERCENT_SCALE,
    PERIOD_CLOSE,
    WEEKDAYS,
    SourceTariff,
    Tariff,
    Window,
    clock_text,
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
    for source in tariff.sources:
        document[source.source] = _source_document(source, currency)
    if tariff.fixed_fee_nano:
        document["fixed"] = {
            "amount": format_amount(tariff.fixed_fee_nano, currency),
            "collect": PERIOD_CLOSE,
        }
    if tariff.taxes:
        document["taxes"] = [
            {
                "name": rule.name,
                "rate_percent": format_scaled(rule.rate_ppm, PERCENT_SCALE),
                "on": list(rule.bases),
            }
            for rule in tariff.taxes
        ]
    return document


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
    if len(window.day_types) < len(WEEKDAYS):
        document["days"] = [WEEKDAYS[day_type] for day_type in sorted(window.day_types)]
    return {**document, "from": clock_text(window.from_minute), "to": clock_text(window.to_minute)}


def _local_text(tariff: Tariff) -> str:
    moment = _EPOCH + timedelta(milliseconds=tariff.effective_from_utc_ms)
    return moment.astimezone(zone_of(tariff.zone)).isoformat()
