"""The text form of a tariff: what a person writes as YAML or JSON, checked as a whole.

    id: home
    name: Home
    currency: INR
    timezone: Asia/Kolkata
    effective_from: 2026-11-01T00:00:00+05:30
    grid:
      blocks: [{upto_kwh: 100, price: "3.50"}, {price: "4.50"}]   # or  price: "8.00"
    generator: {price: "25.00"}
    fixed: {amount: "50.00", collect: period_close}
    taxes: [{name: VAT, rate_percent: "18", on: [energy, fixed]}]
    feed_in: {price: "2.50"}

or, under a source, by time of use (the band without `when` is the rest of the time):

    bands:
      peak: {price: "9.00", when: [{days: [mon, tue], from: "18:00", to: "22:00"}]}
      offpeak: {price: "5.00"}

`tariff_prices.py` reads seasons, holidays and prices, `tariff_rules.py` fees, minimum, rebates,
taxes and billing periods; docs/tariffs.md tells all of it to people. All problems are reported at
once, each with its path.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from gateway.core.civil import local_instant, zone_of
from gateway.core.errors import RefusedError
from gateway.core.money import Currency
from gateway.core.requests import ID_PATTERN
from gateway.core.tariff import CALENDAR_MONTH, GENERATOR, GRID, PERIOD_CLOSE, Tariff
from gateway.core.tariff_prices import YEARS
from gateway.core.tariff_reader import MAX_NAME, Problem, TariffProblemsError
from gateway.core.tariff_rules import RuleReader

__all__ = ["Problem", "TariffProblemsError", "tariff_from_document"]

REQUIRED: Final = ("id", "name", "currency", "timezone", "effective_from", GRID)
KNOWN: Final = (
    *REQUIRED, GENERATOR, "fixed", "taxes", "minimum", "rebates", "seasons", "holidays",
    "period", "blocks_count", "feed_in",
)  # fmt: skip
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def tariff_from_document(
    document: Mapping[str, object], currency: Currency, *, version: int = 1
) -> Tariff:
    """The tariff that a document describes, as version `version` of its id.

    Raises TariffProblemsError with every problem found.
    """
    reader = _Reader(currency)
    tariff = reader.tariff(document, version)
    if reader.problems or tariff is None:
        raise TariffProblemsError(reader.problems)
    return tariff


class _Reader(RuleReader):
    """Walks a document once and collects problems instead of stopping at the first."""

    def tariff(self, document: object, version: int) -> Tariff | None:
        keys = self.mapping("", document, KNOWN, REQUIRED)
        zone = self.zone(keys["timezone"]) if "timezone" in keys else None
        calendar = self.read_calendar(keys)
        sources = tuple(
            source
            for name in (GRID, GENERATOR)
            if name in keys and (source := self.source(name, keys[name])) is not None
        )
        priced = [name for name in (GRID, GENERATOR) if name in keys]
        tariff_id = self.pattern("id", keys.get("id", "a"), ID_PATTERN, "lower-case id")
        name = keys.get("name", "")
        if "name" in keys and not _printable(name):
            self.report("name", f"expected a text of at most {MAX_NAME} characters")
        if keys.get("currency", self.currency.code) != self.currency.code:
            self.report("currency", f"this site keeps {self.currency.code}")
        effective_ms = self.instant(keys["effective_from"], zone) if "effective_from" in keys else 0
        fixed_nano, collect = self.fixed(keys["fixed"]) if "fixed" in keys else (0, PERIOD_CLOSE)
        minimum_nano = self.minimum(keys["minimum"]) if "minimum" in keys else 0
        rebates = self.rebates(keys["rebates"], priced) if "rebates" in keys else ()
        taxes = self.taxes(keys["taxes"], priced, sources) if "taxes" in keys else ()
        feed_in_micro = self.feed_in(keys["feed_in"]) if "feed_in" in keys else None
        period_day = self.period(keys["period"]) if "period" in keys else CALENDAR_MONTH
        by_occupancy = "blocks_count" in keys and self.counts_by_occupancy(keys["blocks_count"])
        if self.problems or zone is None:
            return None
        return Tariff(
            tariff_id=tariff_id,
            version=version,
            name=str(name),
            currency=self.currency.code,
            zone=zone.key,
            effective_from_utc_ms=effective_ms,
            sources=sources,
            fixed_fee_nano=fixed_nano,
            taxes=taxes,
            fee_collect=collect,
            minimum_nano=minimum_nano,
            rebates=rebates,
            calendar=calendar,
            period_day=period_day,
            blocks_by_occupancy=by_occupancy,
            feed_in_micro=feed_in_micro,
        )

    def zone(self, value: object) -> ZoneInfo | None:
        try:
            return zone_of(value)
        except RefusedError as refusal:
            self.report(refusal.place, refusal.message, refusal.refusal_code)
            return None

    def instant(self, value: object, zone: ZoneInfo | None) -> int:
        """UTC ms of a date (its local midnight) or of a date and time with an offset."""
        place = "effective_from"
        if zone is None:
            return 0
        moment = value
        if isinstance(value, str):
            try:
                moment = date.fromisoformat(value) if len(value) == 10 else _moment(value)
            except ValueError:
                moment = None
        if isinstance(moment, datetime):
            if moment.tzinfo is not None and moment.year in YEARS:
                since = moment - _EPOCH
                if since % timedelta(milliseconds=1) == timedelta(0):
                    return since // timedelta(milliseconds=1)
        elif isinstance(moment, date) and moment.year in YEARS:
            return local_instant(zone, moment, 0)
        self.report(
            place,
            f"{value!r}: write a date (local midnight) or a time with its offset, "
            "such as 2026-11-01T00:00:00+05:30, between 2000 and 2199",
        )
        return 0


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no offset")
    return moment


def _printable(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_NAME and value.isprintable()
