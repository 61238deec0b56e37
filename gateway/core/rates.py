"""A tariff version laid out for charging: one number per cell, rules ready to be applied."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from gateway.core.bands import BandPlan, band_plan
from gateway.core.tariff import (
    ENERGY,
    FIXED,
    MINIMUM,
    REBATE,
    Rebate,
    SourceTariff,
    Tariff,
    TaxRule,
)


class Cell(NamedTuple):
    """Where a Wh is counted: one price of one tariff version."""

    tariff_version: int
    source: str
    band: str
    block: int

    @property
    def key(self) -> str:
        """`version/source/band/block`, as settlement lines name it."""
        return f"{self.tariff_version}/{self.source}/{self.band}/{self.block}"


class RateTax(NamedTuple):
    """A tax on top of its bases: rate and which bases it has."""

    rate_ppm: int
    on_energy: bool
    on_fixed: bool
    on_minimum: bool
    on_rebate: bool


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """One version, shared by all accounts under it.

    The cells of a source start at `first[source]`, band by band and block by block, `span[source]`
    is their slice. `plain` says that there is nothing but energy, fee and taxes on top of them, so
    that the total needs no more than two sums. `rate_taxes` and `kwh_taxes` (micro-units and
    source) are those that raise the total; contained taxes and those on recharge do not.
    `feed_in_micro` is what a kWh fed in is worth, 0 where the tariff has no price for it.
    """

    tariff: Tariff
    cells: tuple[Cell, ...]
    prices_micro: tuple[int, ...]
    index: dict[Cell, int]
    first: dict[str, int]
    span: dict[str, slice]
    plans: dict[str, BandPlan]
    sources: dict[str, SourceTariff]
    plain: bool
    taxes: tuple[tuple[int, bool, bool], ...]
    rate_taxes: tuple[RateTax, ...]
    kwh_taxes: tuple[tuple[int, str], ...]
    consumption_taxes: tuple[TaxRule, ...]
    rebates: tuple[Rebate, ...]
    feed_in_micro: int

    @property
    def key(self) -> tuple[str, int]:
        """Tariff id and version."""
        return self.tariff.tariff_id, self.tariff.version

    def span_of(self, source: str) -> slice:
        """Cells of one source; of all where `source` is empty; of none where it is unknown."""
        return self.span.get(source, slice(0, 0)) if source else slice(None)


@lru_cache(maxsize=512)
def rates_of(tariff: Tariff) -> Rates:
    """The layout of a version."""
    cells: list[Cell] = []
    prices: list[int] = []
    first: dict[str, int] = {}
    span: dict[str, slice] = {}
    for source in tariff.sources:
        first[source.source] = len(cells)
        for band, row in zip(source.bands, source.prices_micro, strict=True):
            for block, price_micro in enumerate(row):
                cells.append(Cell(tariff.version, source.source, band, block))
                prices.append(price_micro)
        span[source.source] = slice(first[source.source], len(cells))
    rules = tuple(rule for rule in tariff.taxes if not rule.on_recharge)
    on_top = tuple(rule for rule in rules if not rule.inclusive)
    rate_taxes = tuple(_rate_tax(rule) for rule in on_top if not rule.per_kwh_micro)
    kwh_taxes = tuple((rule.per_kwh_micro, rule.source) for rule in on_top if rule.per_kwh_micro)
    return Rates(
        tariff=tariff,
        cells=tuple(cells),
        prices_micro=tuple(prices),
        index={cell: index for index, cell in enumerate(cells)},
        first=first,
        span=span,
        plans={source.source: band_plan(source, tariff.calendar) for source in tariff.sources},
        sources={source.source: source for source in tariff.sources},
        plain=not (tariff.rebates or tariff.minimum_nano or kwh_taxes),
        taxes=tuple((tax.rate_ppm, tax.on_energy, tax.on_fixed) for tax in rate_taxes),
        rate_taxes=rate_taxes,
        kwh_taxes=kwh_taxes,
        consumption_taxes=rules,
        rebates=tariff.rebates,
        feed_in_micro=tariff.feed_in_micro or 0,
    )


def _rate_tax(rule: TaxRule) -> RateTax:
    return RateTax(
        rule.rate_ppm, *(base in rule.bases for base in (ENERGY, FIXED, MINIMUM, REBATE))
    )
