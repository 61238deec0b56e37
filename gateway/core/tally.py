"""The books behind a pricer: what was used and charged in a period, per tariff version."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.core.charges import (
    NOTHING_EARLIER,
    Earlier,
    feed_in_charge,
    granted_by,
    rebates_nano,
    version_charges,
)
from gateway.core.civil import Period
from gateway.core.errors import RefusedError
from gateway.core.fees import Facts, fixed_fees, minimum_charge
from gateway.core.pricing_state import SavedLine
from gateway.core.rates import Cell, Rates
from gateway.core.schedule import Schedule
from gateway.core.tariff import PPM

_NO_FACTS: Final = Facts(0)
_OPEN_WH: Final = 2**62  # room of the last block: more than any meter counts


class Flag(StrEnum):
    """What is to be known of an allocation of energy."""

    ESTIMATED_ALLOCATION = "ESTIMATED_ALLOCATION"
    CLOCK_STEPPED = "CLOCK_STEPPED"


@dataclass(frozen=True, slots=True)
class Posting:
    """What one posting adds for one period and tariff version.

    `cells` are Wh, `charges` nano-units per component (`energy:<source>`, `fixed`, `minimum`,
    `rebate:<name>`, `tax:<name>`, `contained:<name>`, `export`); zeros are left out. `fed_wh` is
    what was fed in. `flags` tell what is estimated about it. `facts` is what was known of the
    period: with them and the counts up to here `charges_of` gives the charges up to here.
    """

    period: str
    tariff_id: str
    tariff_version: int
    cells: tuple[tuple[Cell, int], ...]
    charges: tuple[tuple[str, int], ...]
    flags: tuple[str, ...] = ()
    facts: Facts = _NO_FACTS
    fed_wh: int = 0

    @property
    def total_nano(self) -> int:
        """Sum of the charges."""
        return sum(amount_nano for _, amount_nano in self.charges)

    @property
    def accrued_utc_ms(self) -> int:
        """Up to which instant fees were accrued."""
        return self.facts.accrued_utc_ms

    @property
    def recharged(self) -> bool:
        """Whether the period had seen its first recharge."""
        return self.facts.recharged


class Tally:
    """Counts and charges of one tariff version in one period, and what of them is posted."""

    __slots__ = (
        "earlier",
        "energy_nano",
        "fed_nano",
        "fed_wh",
        "fixed_nano",
        "flags",
        "minimum_nano",
        "posted_charges",
        "posted_fed_wh",
        "posted_nano",
        "posted_wh",
        "rates",
        "wh",
    )

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        self.wh = [0] * len(rates.cells)
        self.posted_wh = [0] * len(rates.cells)
        self.energy_nano = 0
        self.fixed_nano = 0
        self.minimum_nano = 0
        self.fed_wh = self.posted_fed_wh = self.fed_nano = 0
        self.earlier = NOTHING_EARLIER
        self.posted_nano = 0
        self.posted_charges: dict[str, int] = {}
        self.flags: set[str] = set()

    def total_nano(self) -> int:
        """F but for what was fed in: everything charged in this tally, each tax floored on its own.

        What was fed in counts as posted (`posted_nano`), so that no reading has to subtract it.
        """
        rates = self.rates
        energy_nano, fixed_nano = self.energy_nano, self.fixed_nano
        if not rates.plain:
            return self._total_with_rules()
        total_nano = energy_nano + fixed_nano
        for rate_ppm, on_energy, on_fixed in rates.taxes:
            base_nano = (energy_nano if on_energy else 0) + (fixed_nano if on_fixed else 0)
            total_nano += base_nano * rate_ppm // PPM
        return total_nano

    def _total_with_rules(self) -> int:
        """The same sum as that of `charges`, without taking it apart by component."""
        rates, wh = self.rates, self.wh
        energy_nano, fixed_nano, minimum_nano = self.energy_nano, self.fixed_nano, self.minimum_nano
        rebate_nano = 0
        if rates.rebates:
            bases_nano = (energy_nano, fixed_nano, minimum_nano)
            rebate_nano = sum(rebates_nano(rates, wh, bases_nano, self.earlier))
        total_nano = energy_nano + fixed_nano + minimum_nano - rebate_nano
        for rate_ppm, on_energy, on_fixed, on_minimum, on_rebate in rates.rate_taxes:
            base_nano = energy_nano if on_energy else 0
            if on_fixed:
                base_nano += fixed_nano
            if on_minimum:
                base_nano += minimum_nano
            if on_rebate:
                base_nano -= rebate_nano
            if base_nano > 0:
                total_nano += base_nano * rate_ppm // PPM
        for per_kwh_micro, source in rates.kwh_taxes:
            total_nano += sum(wh[rates.span_of(source)]) * per_kwh_micro
        return total_nano

    def charges(self) -> dict[str, int]:
        """F by component."""
        charges = version_charges(
            self.rates, self.wh, self.fixed_nano, self.minimum_nano, self.earlier
        )
        return charges | feed_in_charge(self.rates, self.fed_wh)

    @property
    def dirty(self) -> bool:
        """Whether there is something to post, be it two parts that cancel each other out."""
        if self.wh != self.posted_wh or self.fed_wh != self.posted_fed_wh:
            return True
        if self.total_nano() != self.posted_nano:
            return True
        if self.rates.plain:
            return False
        charges = self.charges()
        return {name: amount for name, amount in charges.items() if amount} != self.posted_charges

    @property
    def posted(self) -> bool:
        """Whether something was posted."""
        return bool(self.posted_charges or self.posted_fed_wh) or any(self.posted_wh)

    def later(self) -> Earlier:
        """What the next version of the period finds used up of rebates that count per period."""
        bases_nano = (self.energy_nano, self.fixed_nano, self.minimum_nano)
        given = rebates_nano(self.rates, self.wh, bases_nano, self.earlier)
        return granted_by(self.rates, self.wh, given, self.earlier)

    def settle(self, period: str, facts: Facts) -> Posting:
        """Mark everything as posted; the difference to what was posted before."""
        charges = self.charges()
        posting = Posting(
            period=period,
            tariff_id=self.rates.tariff.tariff_id,
            tariff_version=self.rates.tariff.version,
            cells=tuple(self._unposted_cells()),
            charges=tuple(
                (component, amount_nano - self.posted_charges.get(component, 0))
                for component, amount_nano in charges.items()
                if amount_nano != self.posted_charges.get(component, 0)
            ),
            flags=tuple(sorted(self.flags)),
            facts=facts,
            fed_wh=self.fed_wh - self.posted_fed_wh,
        )
        self.posted_wh = list(self.wh)
        self.posted_fed_wh = self.fed_wh
        self.posted_charges = {name: amount for name, amount in charges.items() if amount}
        self.posted_nano = sum(charges.values()) + self.fed_nano
        self.flags.clear()
        return posting

    def posted_state(self, period: str) -> list[object]:
        """The posted part as JSON values (gateway/core/pricing_state.py)."""
        cells = [
            [cell.source, cell.band, cell.block, wh]
            for cell, wh in zip(self.rates.cells, self.posted_wh, strict=True)
            if wh
        ]
        charges = [[name, amount_nano] for name, amount_nano in self.posted_charges.items()]
        return [period, self.rates.tariff.tariff_id, self.rates.tariff.version, cells, charges]

    def fed_state(self, period: str) -> list[object]:
        """What was fed in, and how much of it is posted, as JSON values."""
        tariff = self.rates.tariff
        return [period, tariff.tariff_id, tariff.version, self.fed_wh, self.posted_fed_wh]

    def unposted_state(self, period: str) -> list[object]:
        """What came since, as JSON values."""
        cells = [[cell.source, cell.band, cell.block, wh] for cell, wh in self._unposted_cells()]
        tariff = self.rates.tariff
        return [period, tariff.tariff_id, tariff.version, cells, sorted(self.flags)]

    def load(self, line: SavedLine) -> None:
        """Add a saved line. Raises RefusedError PRICING_STATE for an unknown cell."""
        for source, band, block, wh in line.cells:
            index = self.rates.index.get(Cell(line.version, source, band, block))
            if index is None or wh < 0:
                raise RefusedError(
                    "PRICING_STATE",
                    f"{wh} Wh in {source}/{band}/{block} do not fit version {line.version} "
                    f"of {line.tariff_id}",
                )
            self.wh[index] += wh
            self.energy_nano += wh * self.rates.prices_micro[index]
            if line.posted:
                self.posted_wh[index] += wh
        if line.posted:
            self.posted_charges = dict(line.charges)
            self.posted_nano = sum(self.posted_charges.values())
        self.flags.update(line.flags)

    def feed(self, wh: int) -> None:
        """Count energy that was fed in."""
        worth_nano = wh * self.rates.feed_in_micro
        self.fed_wh += wh
        self.fed_nano += worth_nano
        self.posted_nano += worth_nano

    def load_fed(self, fed_wh: int, posted_wh: int) -> None:
        """Add what was fed in, and how much of it is posted, of a saved state."""
        self.feed(fed_wh)
        self.posted_fed_wh += posted_wh

    def _unposted_cells(self) -> Iterator[tuple[Cell, int]]:
        for cell, wh, posted_wh in zip(self.rates.cells, self.wh, self.posted_wh, strict=True):
            if wh != posted_wh:
                yield cell, wh - posted_wh


def _effective_ms(item: tuple[tuple[str, int], Tally]) -> int:
    return item[1].rates.tariff.effective_from_utc_ms


class PeriodBook:
    """One billing period: cumulative Wh per source, which blocks count, and its tallies.

    `carried_wh` of it were charged under another tariff, before a change in mid-period.
    """

    __slots__ = (
        "_has_rebates",
        "carried_wh",
        "cumulative_wh",
        "period",
        "recharged",
        "tallies",
    )

    def __init__(self, period: Period) -> None:
        self.period = period
        self.recharged = False
        self.carried_wh: dict[str, int] = {}
        self.cumulative_wh: dict[str, int] = {}
        self.tallies: dict[tuple[str, int], Tally] = {}
        self._has_rebates = False

    def tally(self, rates: Rates) -> Tally:
        """The tally of a version, begun when it is not there."""
        tally = self.tallies.get(rates.key)
        if tally is None:
            tally = self.tallies[rates.key] = Tally(rates)
            # A fee may come before the energy of an older version: postings stay in time's order.
            self.tallies = dict(sorted(self.tallies.items(), key=_effective_ms))
            self._has_rebates = self._has_rebates or bool(rates.rebates)
        return tally

    def tally_ahead(self, rates: Rates) -> Tally:
        """The tally of a version, or one as it would begin, which is not kept."""
        found = self.tallies.get(rates.key)
        if found is None:
            found = Tally(rates)
            if self.tallies:
                found.earlier = next(reversed(self.tallies.values())).later()
        return found

    def load(self, rates: Rates, line: SavedLine) -> None:
        """Add a saved line to the tally of its version."""
        self.tally(rates).load(line)
        for source, _, _, wh in line.cells:
            self.cumulative_wh[source] = self.cumulative_wh.get(source, 0) + wh

    def carry(self, wh_by_source: Mapping[str, int]) -> None:
        """Go on from what another tariff has charged in this period."""
        self.carried_wh = dict(wh_by_source)
        for source, wh in wh_by_source.items():
            self.cumulative_wh[source] = self.cumulative_wh.get(source, 0) + wh

    def link(self) -> None:
        """Hand on to each version what earlier ones used up of rebates that count per period."""
        if not self._has_rebates or len(self.tallies) < 2:
            return
        earlier = NOTHING_EARLIER
        for tally in self.tallies.values():
            tally.earlier = earlier
            earlier = tally.later()

    def is_linked(self, tally: Tally) -> bool:
        """Whether what this tally counts changes charges of a later one."""
        return self._has_rebates and tally is not next(reversed(self.tallies.values()))

    @property
    def dues_nano(self) -> int:
        """Fee and minimum of the period so far, of all versions."""
        return sum(tally.fixed_nano + tally.minimum_nano for tally in self.tallies.values())

    def accrue(self, schedule: Schedule, start_utc_ms: int, facts: Facts) -> None:
        """Set fees and minimum to what these facts make due."""
        for tally in self.tallies.values():
            tally.fixed_nano = tally.minimum_nano = 0
        stay = (schedule.tariffs, schedule.zone, self.period, start_utc_ms, facts)
        for due in fixed_fees(*stay):
            if due.amount_nano:
                self.tally(schedule.rates[due.version]).fixed_nano = due.amount_nano
        least = minimum_charge(*stay)
        if least is not None:
            charged = sum(tally.energy_nano + tally.fixed_nano for tally in self.tallies.values())
            if charged < least.amount_nano:
                tally = self.tally(schedule.rates[least.version])
                tally.minimum_nano = least.amount_nano - charged


class Lane:
    """Where energy of one source goes while its band and tariff version last.

    Blocks are half-open in exact Wh: the Wh that reaches a limit still belongs to the block below
    it. `room_wh` is what the present block still takes, never zero. `counter_wh` holds the Wh per
    source that choose the block: those of the period, or of the whole occupancy.
    """

    __slots__ = ("_cell", "_counter_wh", "_first", "_limits_wh", "band", "price_micro", "room_wh",
                 "source", "tally")  # fmt: skip

    def __init__(self, counter_wh: dict[str, int], tally: Tally, source: str, band: int) -> None:
        rates = tally.rates
        self.source = source
        self.tally = tally
        self.band = band
        self._counter_wh = counter_wh
        self._limits_wh = rates.sources[source].block_limits_wh
        self._first = rates.first[source] + band * (len(self._limits_wh) + 1)
        counter_wh.setdefault(source, 0)
        self._find_block()

    @property
    def rates(self) -> Rates:
        """The version that prices this lane."""
        return self.tally.rates

    def charge(self, wh: int) -> None:
        """Count `wh` (> 0) and charge them, block by block."""
        while wh >= self.room_wh:
            part_wh = self.room_wh
            self._count(part_wh)
            self._find_block()
            wh -= part_wh
        if wh:
            self._count(wh)
            self.room_wh -= wh

    def ahead(self) -> Iterator[tuple[int | None, int]]:
        """(room in Wh, price) of this block and those after it; the last has no limit."""
        block = self._cell - self._first
        prices = self.rates.prices_micro
        room_wh = self.room_wh
        for index in range(block, len(self._limits_wh)):
            yield room_wh, prices[self._first + index]
            if index + 1 < len(self._limits_wh):
                room_wh = self._limits_wh[index + 1] - self._limits_wh[index]
        yield None, prices[self._first + len(self._limits_wh)]

    def _count(self, wh: int) -> None:
        self._counter_wh[self.source] += wh
        self.tally.wh[self._cell] += wh
        self.tally.energy_nano += wh * self.price_micro

    def _find_block(self) -> None:
        cumulative_wh = self._counter_wh[self.source]
        self.room_wh = _OPEN_WH
        block = len(self._limits_wh)
        for index, limit_wh in enumerate(self._limits_wh):
            if cumulative_wh < limit_wh:
                block = index
                self.room_wh = limit_wh - cumulative_wh
                break
        self._cell = self._first + block
        self.price_micro = self.rates.prices_micro[self._cell]
