"""The versions of an account's tariff, one after the other, and the calendar they share."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

from gateway.core.civil import Period, civil_day, date_of_day, labelled_period, period_at, zone_of
from gateway.core.errors import RefusedError
from gateway.core.rates import Rates, rates_of
from gateway.core.tariff import (
    DAILY,
    LAST_ANNIVERSARY,
    OPENING_DAY,
    PERIOD_CLOSE,
    Tariff,
)

NEVER_MS: Final = 2**62


class Schedule:
    """Which version is in force when, and which billing period an instant belongs to.

    `opening_day` is the day of the month on which the account was opened, for tariffs whose
    periods begin on it. Raises RefusedError as `check_schedule`.
    """

    def __init__(
        self, versions: Sequence[Tariff], sources: Sequence[str], opening_day: int
    ) -> None:
        self.rates = check_schedule(versions, sources)
        self.tariffs = tuple(versions)
        self.zone: ZoneInfo = zone_of(versions[0].zone)
        day = versions[0].period_day
        if day == OPENING_DAY:
            day = min(opening_day, LAST_ANNIVERSARY)
        self._anniversary = day
        self.by_occupancy = versions[0].blocks_by_occupancy
        fees = [tariff for tariff in versions if tariff.fixed_fee_nano]
        self.has_daily_fee = any(tariff.fee_collect == DAILY for tariff in fees)
        self.has_minimum = any(tariff.minimum_nano for tariff in versions)
        self.has_dues = bool(fees) or self.has_minimum
        self._fees_begin_ms = tuple(
            tariff.effective_from_utc_ms for tariff in fees if tariff.fee_collect != PERIOD_CLOSE
        )

    def period_at(self, utc_ms: int) -> Period:
        """The billing period that holds an instant."""
        return period_at(self.zone, utc_ms, self._anniversary)

    def labelled(self, label: str) -> Period:
        """The billing period of a label. Raises ValueError."""
        return labelled_period(self.zone, label, self._anniversary)

    def in_force(self, utc_ms: int) -> tuple[Rates, int]:
        """The version in force at an instant, and when the next one takes effect."""
        for index in range(len(self.rates) - 1, 0, -1):
            rates = self.rates[index]
            if rates.tariff.effective_from_utc_ms <= utc_ms:
                return rates, self._next_effective_ms(index)
        return self.rates[0], self._next_effective_ms(0)

    def next_fee_version_ms(self, utc_ms: int) -> int:
        """When, after an instant, a version begins whose fee may fall due at once."""
        return min((begin for begin in self._fees_begin_ms if begin > utc_ms), default=NEVER_MS)

    def _next_effective_ms(self, index: int) -> int:
        if index + 1 == len(self.rates):
            return NEVER_MS
        return self.rates[index + 1].tariff.effective_from_utc_ms


def day_of_month(tariff: Tariff, utc_ms: int) -> int:
    """The local day of the month of an instant, by the clock of a tariff."""
    return date_of_day(civil_day(zone_of(tariff.zone), utc_ms)).day


def check_schedule(versions: Sequence[Tariff], sources: Sequence[str]) -> tuple[Rates, ...]:
    """The versions ready for use, once they fit one another and the sources."""
    if not versions:
        raise RefusedError("TARIFF_ORDER", "an account needs a tariff", "tariff_id")
    first = versions[0]
    for earlier, later in pairwise(versions):
        if later.effective_from_utc_ms <= earlier.effective_from_utc_ms:
            raise RefusedError(
                "TARIFF_ORDER",
                f"version {later.version} must take effect after version {earlier.version}",
                "effective_from",
            )
    if any((item.zone, item.currency) != (first.zone, first.currency) for item in versions):
        raise RefusedError("TARIFF_MIXED", "zone and currency may not change with a version")
    if any(item.period_day != first.period_day for item in versions):
        raise RefusedError(
            "TARIFF_MIXED", "the billing period may not change with a version", "period"
        )
    if any(item.blocks_by_occupancy != first.blocks_by_occupancy for item in versions):
        raise RefusedError(
            "TARIFF_MIXED", "what blocks count by may not change with a version", "blocks_count"
        )
    if len({(item.tariff_id, item.version) for item in versions}) < len(versions):
        raise RefusedError("TARIFF_ORDER", "a version stands twice", "version")
    for item in versions:
        for source in sources:
            if item.source(source) is None:
                raise RefusedError(
                    "SOURCE_UNPRICED",
                    f"version {item.version} of {item.tariff_id} has no price for {source}",
                    source,
                )
    return tuple(rates_of(item) for item in versions)
