"""Prices and tax rules by the names that settlement lines give them."""

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.core.civil import labelled_month, zone_of
from gateway.core.ledger import SettlementLine
from gateway.core.rates import rates_of
from gateway.core.tariff import PPM, Tariff


@dataclass(frozen=True, slots=True)
class RateCell:
    """One price: micro-units per kWh of a source in a time of use and block of a version.

    The block holds the period's cumulative Wh of the source in (from_wh, upto_wh]; None: no end.
    """

    tariff_id: str
    version: int
    source: str
    band: str
    block: int
    price_micro: int
    from_wh: int
    upto_wh: int | None


@dataclass(frozen=True, slots=True)
class TaxTerms:
    """How a tax follows from its basis: `rate_ppm` of the sum of the components of these kinds.

    `bases` are kinds such as `energy`, `fixed`, `minimum`. Inclusive taxes are contained in their
    basis: `divisor` is then one million and the rates of all that share it.
    """

    name: str
    rate_ppm: int
    bases: tuple[str, ...]
    inclusive: bool = False
    divisor: int = PPM

    def of(self, basis_nano: int) -> int:
        """F: the tax on a cumulative basis, floored to a nano-unit."""
        return max(0, basis_nano) * self.rate_ppm // self.divisor

    def takes(self, component: str) -> bool:
        """Whether a charge component is part of the basis."""
        return kind_of(component) in self.bases


def kind_of(component: str) -> str:
    """The kind of a charge component: `energy` of `energy:grid`, `fixed` of `fixed`."""
    return component.partition(":")[0]


class RateBook:
    """The published versions that lines refer to. A version that it lacks has no prices."""

    def __init__(self, tariffs: Iterable[Tariff] = ()) -> None:
        self._cells: dict[tuple[str, str], RateCell] = {}
        self._versions: dict[str, dict[int, Tariff]] = {}
        for tariff in tariffs:
            self.add(tariff)

    def add(self, tariff: Tariff) -> None:
        """Take up one more version."""
        self._versions.setdefault(tariff.tariff_id, {})[tariff.version] = tariff
        rates = rates_of(tariff)
        for cell, price_micro in zip(rates.cells, rates.prices_micro, strict=True):
            limits = rates.sources[cell.source].block_limits_wh
            self._cells[tariff.tariff_id, cell.key] = RateCell(
                tariff_id=tariff.tariff_id,
                version=cell.tariff_version,
                source=cell.source,
                band=cell.band,
                block=cell.block,
                price_micro=price_micro,
                from_wh=limits[cell.block - 1] if cell.block else 0,
                upto_wh=limits[cell.block] if cell.block < len(limits) else None,
            )

    def cell(self, tariff_id: str, key: str) -> RateCell | None:
        """The price under a key `version/source/band/block` of a settlement line."""
        return self._cells.get((tariff_id, key))

    def feed_in_micro(self, tariff_id: str, version: int) -> int | None:
        """What a kWh fed in is worth under a version; None where it has no price, or is unknown."""
        tariff = self._versions.get(tariff_id, {}).get(version)
        return None if tariff is None else tariff.feed_in_micro

    def tax(self, tariff_id: str, version: int, name: str) -> TaxTerms | None:
        """The rule of a tax; None where it is no plain rate on components, or unknown."""
        tariff = self._versions.get(tariff_id, {}).get(version)
        rules = [] if tariff is None else [one for one in tariff.taxes if not one.on_recharge]
        rule = next((one for one in rules if one.name == name), None)
        if rule is None or rule.per_kwh_micro:
            return None
        if not rule.inclusive:
            return TaxTerms(name, rule.rate_ppm, rule.bases)
        contained = [one for one in rules if one.inclusive]
        if any(one.per_kwh_micro for one in contained):
            # They are taken out of the basis first: no plain rate on components.
            return None
        divisor = PPM + sum(one.rate_ppm for one in contained)
        return TaxTerms(name, rule.rate_ppm, rule.bases, inclusive=True, divisor=divisor)

    def versions(self, tariff_id: str) -> tuple[int, ...]:
        """The versions known of a tariff, newest first."""
        return tuple(sorted(self._versions.get(tariff_id, {}), reverse=True))

    def version_of(self, line: SettlementLine) -> int:
        """The version whose tally a line belongs to; 0 where nothing tells.

        Cells name it. A line that charges fees alone belongs to the version in force at its end,
        or at the end of its period where that came first: a fee is the closed period's.
        """
        if line.facts:
            return line.facts[0]
        for key, _ in line.cells:
            number = key.partition("/")[0]
            return int(number) if number.isdecimal() else 0
        if not line.charges:
            return 0
        known = sorted(self._versions.get(line.tariff_id, {}).values(), key=_effective_ms)
        version = known[0].version if known else 0
        for tariff in known:
            if tariff.effective_from_utc_ms <= _fee_instant(tariff, line):
                version = tariff.version
        return version


def _effective_ms(tariff: Tariff) -> int:
    return tariff.effective_from_utc_ms


def _fee_instant(tariff: Tariff, line: SettlementLine) -> int:
    try:
        end_ms = labelled_month(zone_of(tariff.zone), line.period).end_utc_ms
    except ValueError:
        return line.to_utc_ms
    return min(line.to_utc_ms, end_ms - 1)
