"""What the energy of a point costs at least until its lease ends, and how far its credit lasts.

When a node is alone nobody knows at which time its energy flows: in which band, under which
version, in this billing period or the next. So all energy that can still be had at some price is
put in a row, the cheapest first, and the credit is spent along it. Whatever is used when, no use
costs less; and what is free for the first kilowatt-hours of a period ends with them.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from gateway.core.charges import VersionKey, rebates_nano
from gateway.core.civil import DAY_MS
from gateway.core.lease import LEASE_S, UNLIMITED_WH
from gateway.core.pricing import Pricer
from gateway.core.rates import Rates, rates_of
from gateway.core.tally import Tally
from gateway.core.tariff import ENERGY, FIXED, MINIMUM, PPM, Rebate, Tariff

# No billing period is shorter, also where a clock is set forward in it.
_PERIOD_MIN_MS: Final = 27 * DAY_MS
# Periods that can begin in a week of which nobody knows the date, or while a node is left alone.
_UNDATED_BEGINS: Final = 2


@dataclass(frozen=True, slots=True)
class Outlook:
    """What may price a source until a lease ends: `versions`, all that can be in force by then.

    Blocks have counted `counted_wh` so far; `begins` more periods can begin, in which they count
    anew unless `by_occupancy`. `rebated_nano` is what the open period has had of each version's
    rebates that come to an end (an amount, the first so many kWh).
    """

    versions: Sequence[Tariff]
    source: str
    counted_wh: int = 0
    begins: int = 0
    by_occupancy: bool = False
    rebated_nano: Mapping[VersionKey, int] = field(default_factory=dict)


def outlook_of(
    pricer: Pricer, known: Sequence[Tariff], source: str, now_utc_ms: int | None
) -> Outlook:
    """The outlook of an account from its label on, for a lease that is granted now.

    `known` are the versions of its tariff. `now_utc_ms` None: when that is, or ends, is not known.
    """
    counted, book, label_ms = pricer.counted, pricer.open_book, pricer.label_utc_ms
    if now_utc_ms is None:
        versions, begins = in_force(known, label_ms, 2**62), _UNDATED_BEGINS
    else:
        until_ms = max(now_utc_ms, label_ms) + LEASE_S * 1_000
        versions = in_force(known, label_ms, until_ms)
        begins = max(0, -((book.period.end_utc_ms - until_ms) // _PERIOD_MIN_MS))
    book.link()
    had = {key: _had_nano(tally, source) for key, tally in book.tallies.items()}
    return Outlook(
        versions,
        source,
        counted_wh=counted.wh.get(source, 0),
        begins=begins,
        by_occupancy=counted.period is None,
        rebated_nano=had,
    )


def in_force(versions: Sequence[Tariff], from_utc_ms: int, until_utc_ms: int) -> list[Tariff]:
    """The versions (in their order) that hold at some time of this stretch."""
    begun = [one for one in versions if one.effective_from_utc_ms <= from_utc_ms]
    later = [one for one in versions if from_utc_ms < one.effective_from_utc_ms < until_utc_ms]
    return begun[-1:] + later


def cutoff_wh(registers_wh: int, available_nano: int, outlook: Outlook) -> int:
    """The counter up to which `available_nano` surely lasts, rounded up.

    Never below `registers_wh`, at most UNLIMITED_WH: where energy has no end that costs nothing,
    or lowers what is owed.
    """
    layouts = [rates_of(version) for version in outlook.versions]
    source, begins = outlook.source, outlook.begins
    if not layouts or not all(_is_sound(rates, source) for rates in layouts):
        return UNLIMITED_WH
    left = max(0, available_nano) * PPM
    for rates in layouts:
        had_nano = outlook.rebated_nano.get(rates.key, 0)
        left += _spare_nano_ppm(rates, source, 1 + begins, had_nano)
    steps = _steps(layouts, source, outlook.counted_wh)
    if not outlook.by_occupancy:
        steps += _steps(layouts, source, 0) * begins
    lasts_wh = registers_wh
    for unit, room_wh in sorted(steps):
        part_wh = min(room_wh, -(-left // unit)) if unit else room_wh
        lasts_wh += part_wh
        left -= part_wh * unit
        if left <= 0:
            break
    return min(UNLIMITED_WH, lasts_wh)


def _steps(layouts: Sequence[Rates], source: str, from_wh: int) -> list[tuple[int, int]]:
    """Energy of a period from a count of its blocks on: (least price of a Wh, room in Wh).

    Prices are in millionths of a nano-unit, over all bands and versions.
    """
    limits = {limit for rates in layouts for limit in rates.sources[source].block_limits_wh}
    begins = [from_wh, *sorted(limit for limit in limits if limit > from_wh)]
    rooms = [*(end - begin for begin, end in pairwise(begins)), UNLIMITED_WH]
    units = (min(_unit_at(rates, source, begin) for rates in layouts) for begin in begins)
    return list(zip(units, rooms, strict=True))


def _unit_at(rates: Rates, source: str, counted_wh: int) -> int:
    """The least that the next Wh after a count costs under a version."""
    prices = rates.sources[source]
    block = bisect_right(prices.block_limits_wh, counted_wh)
    return _unit(rates, source, min(row[block] for row in prices.prices_micro))


def _unit(rates: Rates, source: str, price_micro: int) -> int:
    """The least that a Wh at a price adds to what is owed, in millionths of a nano-unit.

    With the taxes that are sure; without rebates that come to an end, which are `_spare_nano_ppm`.
    Below 0: it can lower what is owed.
    """
    per_kwh = sum(micro for micro, taxed in rates.kwh_taxes if taxed in ("", source))
    if not rates.rebates:
        percent = sum(tax.rate_ppm for tax in rates.rate_taxes if tax.on_energy)
        return price_micro * (PPM + percent) + per_kwh * PPM
    return _net(rates, source, price_micro) + per_kwh * PPM


def _net(rates: Rates, source: str, price_micro: int) -> int:
    """A price less the rebates that never end. A tax may fall with what they take, if it is not
    on energy too; that one rises is not sure, where more was taken than there was to take from."""
    lasting = [rule for rule in rates.rebates if not _ends(rule)]
    percent = sum(rule.rate_ppm for rule in lasting if ENERGY in rule.bases)
    per_kwh = sum(rule.per_kwh_micro for rule in lasting if rule.source in ("", source))
    taken = price_micro * percent + per_kwh * PPM
    falling = (t.rate_ppm for t in rates.rate_taxes if t.on_rebate and not t.on_energy)
    return price_micro * PPM - taken + -taken * sum(falling) // PPM


def _is_sound(rates: Rates, source: str) -> bool:
    """Whether a version prices the source, and no Wh of it lowers what is owed for others."""
    prices = rates.sources.get(source)
    if prices is None:
        return False
    return not rates.rebates or all(
        _net(rates, source, price) >= 0 for row in prices.prices_micro for price in row
    )


def _ends(rule: Rebate) -> bool:
    return bool(rule.amount_nano) or rule.limit_wh is not None


def _spare_nano_ppm(rates: Rates, source: str, periods: int, had_nano: int) -> int:
    """What rebates that come to an end may still give under a version in so many periods, with the
    taxes that fall with them (also with those of a fee, when it is charged); and rounding."""
    ending = [rule for rule in rates.rebates if _ends(rule) and rule.source in ("", source)]
    amounts = sum(rule.amount_nano + rule.per_kwh_micro * (rule.limit_wh or 0) for rule in ending)
    taxed = sum(tax.rate_ppm for tax in rates.rate_taxes if tax.on_rebate)
    fees = {FIXED: rates.tariff.fixed_fee_nano, MINIMUM: rates.tariff.minimum_nano}
    on_fees = sum(
        rule.rate_ppm * fees.get(base, 0) for rule in rates.rebates for base in rule.bases
    )
    floors = periods * (len(rates.rate_taxes) + 2 * len(rates.rebates) + 2)
    left = max(0, periods * amounts - had_nano) * (PPM + taxed)
    return left + periods * on_fees * taxed // PPM + floors * PPM


def _had_nano(tally: Tally, source: str) -> int:
    """What the rebates of a version that come to an end have given in a period.

    Nothing counts while all is taken off that there is: then they have more to give than it seems.
    """
    bases_nano = (tally.energy_nano, tally.fixed_nano, tally.minimum_nano)
    given = rebates_nano(tally.rates, tally.wh, bases_nano, tally.earlier)
    if sum(given) >= sum(bases_nano):
        return 0
    ending = (_ends(rule) and rule.source in ("", source) for rule in tally.rates.rebates)
    return sum(nano for nano, ends in zip(given, ending, strict=True) if ends)
