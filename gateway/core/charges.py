"""What a billing period comes to: the pure function F behind every posting.

F takes the cumulative Wh of every cell and the facts of the period (`fees.py`) and gives the
charges of every tariff version in it. A posting is F now less F before, so that a replay of stored
settlement rows can compute each charge again (invariants I3 and I14).

In this order: energy and fixed fee; the minimum charge, which lifts the two; rebates, which never
take more than the three; taxes on what is left. A rebate that counts per period (an amount, the
first so many kWh) goes on under a later version where the earlier one left off. Beside all of them,
and seen by none, stands what was fed in: Wh times its price, given (`export`, negative).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.core.civil import Period, zone_of
from gateway.core.fees import Facts, fixed_fees, minimum_charge
from gateway.core.ledger import Entry
from gateway.core.rates import Cell, Rates, rates_of
from gateway.core.tariff import (
    ENERGY,
    EXPORT,
    FIXED,
    MINIMUM,
    PPM,
    REBATE,
    Rebate,
    Tariff,
    TaxRule,
)

VersionKey = tuple[str, int]  # tariff id and version


@dataclass(slots=True)
class Earlier:
    """What earlier versions of the same period used up of rebates that count per period."""

    wh: dict[str, int] = field(default_factory=dict)
    granted_nano: dict[str, int] = field(default_factory=dict)

    def used_wh(self, source: str) -> int:
        """Wh of a source, or of all."""
        return self.wh.get(source, 0) if source else sum(self.wh.values())


NOTHING_EARLIER: Final = Earlier()
NOTHING_FED: Final[Mapping[VersionKey, int]] = {}


def rebates_nano(
    rates: Rates, wh: Sequence[int], bases_nano: tuple[int, int, int], earlier: Earlier
) -> list[int]:
    """What each rebate of a version takes off energy, fee and minimum (in this order)."""
    left_nano = sum(bases_nano)
    given: list[int] = []
    for rule in rates.rebates:
        amount_nano = _rebate_nano(rule, rates, wh, bases_nano, earlier)
        amount_nano = min(amount_nano, left_nano)
        given.append(amount_nano)
        left_nano -= amount_nano
    return given


def _rebate_nano(
    rule: Rebate,
    rates: Rates,
    wh: Sequence[int],
    bases_nano: tuple[int, int, int],
    earlier: Earlier,
) -> int:
    if rule.rate_ppm:
        energy_nano, fixed_nano, minimum_nano = bases_nano
        base_nano = energy_nano if ENERGY in rule.bases else 0
        if FIXED in rule.bases:
            base_nano += fixed_nano
        if MINIMUM in rule.bases:
            base_nano += minimum_nano
        return base_nano * rule.rate_ppm // PPM
    if rule.per_kwh_micro:
        used_wh = sum(wh[rates.span_of(rule.source)])
        if rule.limit_wh is not None:
            used_wh = min(used_wh, max(0, rule.limit_wh - earlier.used_wh(rule.source)))
        return used_wh * rule.per_kwh_micro
    return max(0, rule.amount_nano - earlier.granted_nano.get(rule.name, 0))


def version_charges(
    rates: Rates, wh: Sequence[int], fixed_nano: int, minimum_nano: int, earlier: Earlier
) -> dict[str, int]:
    """F of one version by component: its cells, fee and minimum, its rebates and taxes.

    What was fed in stands beside it (`feed_in_charge`).
    """
    charges: dict[str, int] = {}
    energy_nano = 0
    for source, span in rates.span.items():
        amount_nano = sum(map(int.__mul__, wh[span], rates.prices_micro[span]))
        charges[f"{ENERGY}:{source}"] = amount_nano
        energy_nano += amount_nano
    charges[FIXED] = fixed_nano
    charges[MINIMUM] = minimum_nano
    rebate_nano = 0
    given = rebates_nano(rates, wh, (energy_nano, fixed_nano, minimum_nano), earlier)
    for rule, amount_nano in zip(rates.rebates, given, strict=True):
        charges[f"{REBATE}:{rule.name}"] = -amount_nano
        rebate_nano -= amount_nano
    if rates.consumption_taxes:
        bases = {ENERGY: energy_nano, FIXED: fixed_nano, MINIMUM: minimum_nano, REBATE: rebate_nano}
        _add_taxes(charges, rates, wh, bases)
    return charges


def feed_in_charge(rates: Rates, fed_wh: int) -> dict[str, int]:
    """What energy fed in under a version comes to: a credit, exact, without tax."""
    return {EXPORT: -fed_wh * rates.feed_in_micro} if fed_wh else {}


def _add_taxes(
    charges: dict[str, int], rates: Rates, wh: Sequence[int], bases: Mapping[str, int]
) -> None:
    # Contained taxes by rate share their bases: each is its part of what is left without them.
    contained = [rule for rule in rates.consumption_taxes if rule.inclusive]
    per_kwh_nano = sum(_kwh_tax(rule, rates, wh) for rule in contained)
    divisor = PPM + sum(rule.rate_ppm for rule in contained)
    for rule in rates.consumption_taxes:
        if rule.per_kwh_micro:
            tax_nano = _kwh_tax(rule, rates, wh)
        else:
            base_nano = sum(bases[base] for base in rule.bases)
            if rule.inclusive and ENERGY in rule.bases:
                base_nano -= per_kwh_nano
            tax_nano = max(0, base_nano) * rule.rate_ppm // (divisor if rule.inclusive else PPM)
        charges[f"tax:{rule.name}"] = tax_nano
        if rule.inclusive:
            charges[f"contained:{rule.name}"] = -tax_nano


def _kwh_tax(rule: TaxRule, rates: Rates, wh: Sequence[int]) -> int:
    return sum(wh[rates.span_of(rule.source)]) * rule.per_kwh_micro if rule.per_kwh_micro else 0


def granted_by(rates: Rates, wh: Sequence[int], given: Iterable[int], earlier: Earlier) -> Earlier:
    """What the next version finds used up after this one."""
    later = Earlier(dict(earlier.wh), dict(earlier.granted_nano))
    for source, span in rates.span.items():
        later.wh[source] = later.wh.get(source, 0) + sum(wh[span])
    for rule, amount_nano in zip(rates.rebates, given, strict=True):
        if rule.amount_nano:
            later.granted_nano[rule.name] = later.granted_nano.get(rule.name, 0) + amount_nano
    return later


def charges_of(
    versions: Sequence[Tariff],
    cells: Mapping[VersionKey, Mapping[Cell, int]],
    facts: Facts,
    period: Period,
    start_utc_ms: int,
    *,
    fed_wh: Mapping[VersionKey, int] = NOTHING_FED,
) -> dict[VersionKey, dict[str, int]]:
    """F: what a billing period comes to by tariff version and component, zeros left out.

    `versions` is the schedule of an account, oldest first; `cells` are the cumulative Wh of the
    period, `fed_wh` those fed in; the account started at `start_utc_ms`. A posting's charges are
    this with its `facts` and the counts after it, less this with those before it. A version's
    charges depend on cells of earlier versions of the period, never of later ones.
    """
    zone = zone_of(versions[0].zone)
    layouts = [rates_of(tariff) for tariff in versions]
    counts = [_counts(rates, cells.get(rates.key, {})) for rates in layouts]
    fixed = [0] * len(versions)
    for version, amount_nano in fixed_fees(versions, zone, period, start_utc_ms, facts):
        fixed[version] = amount_nano
    minimum = [0] * len(versions)
    due = minimum_charge(versions, zone, period, start_utc_ms, facts)
    if due is not None:
        energy_nano = sum(
            sum(map(int.__mul__, wh, rates.prices_micro))
            for rates, wh in zip(layouts, counts, strict=True)
        )
        minimum[due.version] = max(0, due.amount_nano - energy_nano - sum(fixed))
    earlier = NOTHING_EARLIER
    charges: dict[VersionKey, dict[str, int]] = {}
    for rates, wh, fixed_nano, minimum_nano in zip(layouts, counts, fixed, minimum, strict=True):
        found = version_charges(rates, wh, fixed_nano, minimum_nano, earlier)
        found |= feed_in_charge(rates, fed_wh.get(rates.key, 0))
        charges[rates.key] = {name: amount for name, amount in found.items() if amount}
        bases = (sum(map(int.__mul__, wh, rates.prices_micro)), fixed_nano, minimum_nano)
        earlier = granted_by(rates, wh, rebates_nano(rates, wh, bases, earlier), earlier)
    return {key: found for key, found in charges.items() if found}


def _counts(rates: Rates, cells: Mapping[Cell, int]) -> list[int]:
    counts = [0] * len(rates.cells)
    for cell, wh in cells.items():
        counts[rates.index[cell]] += wh
    return counts


def recharge_taxes(tariff: Tariff, amount_nano: int) -> list[tuple[str, int]]:
    """The taxes on a recharge as (component, nano-units), each floored.

    Both are taken out of what is paid: an inclusive one is the share that is contained in the
    amount, another one that rate of the whole amount.
    """
    rules = [rule for rule in tariff.taxes if rule.on_recharge]
    divisor = PPM + sum(rule.rate_ppm for rule in rules if rule.inclusive)
    return [
        (
            f"tax:{rule.name}",
            amount_nano * rule.rate_ppm // (divisor if rule.inclusive else PPM),
        )
        for rule in rules
    ]


def recharge_tax_entries(
    versions: Sequence[Tariff], amount_nano: int, utc_ms: int
) -> tuple[Entry, ...]:
    """The entries of the taxes that a recharge at an instant contains, by the version in force."""
    in_force = [tariff for tariff in versions if tariff.effective_from_utc_ms <= utc_ms]
    if not in_force:
        return ()
    taxes = recharge_taxes(in_force[-1], amount_nano)
    return tuple(Entry(name, tax_nano) for name, tax_nano in taxes if tax_nano)
