"""The books behind a pricer: what was used and charged in a period, per tariff version."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from gateway.core.bands import BandPlan, band_plan
from gateway.core.civil import Period
from gateway.core.errors import RefusedError
from gateway.core.pricing_state import SavedLine
from gateway.core.tariff import ENERGY, FIXED, PPM, SourceTariff, Tariff

_OPEN_WH: Final = 2**62  # room of the last block: more than any meter counts


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


@dataclass(frozen=True, slots=True)
class Posting:
    """What one posting adds for one period and tariff version.

    `cells` are Wh, `charges` nano-units per component (`energy:<source>`, `fixed`,
    `tax:<name>`); zeros are left out. `flags` tell what is estimated about it.
    """

    period: str
    tariff_id: str
    tariff_version: int
    cells: tuple[tuple[Cell, int], ...]
    charges: tuple[tuple[str, int], ...]
    flags: tuple[str, ...] = ()

    @property
    def total_nano(self) -> int:
        """Sum of the charges."""
        return sum(amount_nano for _, amount_nano in self.charges)


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """A tariff version laid out for charging: one number per cell, in one row.

    The cells of a source start at `first[source]`, band by band and block by block.
    """

    tariff: Tariff
    cells: tuple[Cell, ...]
    prices_micro: tuple[int, ...]
    index: dict[Cell, int]
    first: dict[str, int]
    plans: dict[str, BandPlan]
    sources: dict[str, SourceTariff]
    taxes: tuple[tuple[int, bool, bool], ...]


@lru_cache(maxsize=512)
def rates_of(tariff: Tariff) -> Rates:
    """The layout of a version, shared by all accounts under it."""
    cells: list[Cell] = []
    prices: list[int] = []
    first: dict[str, int] = {}
    for source in tariff.sources:
        first[source.source] = len(cells)
        for band, row in zip(source.bands, source.prices_micro, strict=True):
            for block, price_micro in enumerate(row):
                cells.append(Cell(tariff.version, source.source, band, block))
                prices.append(price_micro)
    return Rates(
        tariff=tariff,
        cells=tuple(cells),
        prices_micro=tuple(prices),
        index={cell: index for index, cell in enumerate(cells)},
        first=first,
        plans={source.source: band_plan(source) for source in tariff.sources},
        sources={source.source: source for source in tariff.sources},
        taxes=tuple(
            (rule.rate_ppm, ENERGY in rule.bases, FIXED in rule.bases) for rule in tariff.taxes
        ),
    )


class Tally:
    """Counts and charges of one tariff version in one period, and what of them is posted."""

    __slots__ = (
        "energy_nano",
        "fixed_nano",
        "flags",
        "posted_charges",
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
        self.posted_nano = 0
        self.posted_charges: dict[str, int] = {}
        self.flags: set[str] = set()

    def total_nano(self) -> int:
        """F: everything charged in this tally, each tax floored on its own."""
        energy_nano, fixed_nano = self.energy_nano, self.fixed_nano
        total_nano = energy_nano + fixed_nano
        for rate_ppm, on_energy, on_fixed in self.rates.taxes:
            base_nano = (energy_nano if on_energy else 0) + (fixed_nano if on_fixed else 0)
            total_nano += base_nano * rate_ppm // PPM
        return total_nano

    def charges(self) -> dict[str, int]:
        """F by component: `energy:<source>`, `fixed`, `tax:<name>`."""
        charges: dict[str, int] = {}
        for cell, wh, price_micro in zip(
            self.rates.cells, self.wh, self.rates.prices_micro, strict=True
        ):
            component = f"energy:{cell.source}"
            charges[component] = charges.get(component, 0) + wh * price_micro
        bases = {ENERGY: sum(charges.values()), FIXED: self.fixed_nano}
        charges[FIXED] = self.fixed_nano
        for rule in self.rates.tariff.taxes:
            base_nano = sum(bases[base] for base in rule.bases)
            charges[f"tax:{rule.name}"] = base_nano * rule.rate_ppm // PPM
        return charges

    @property
    def dirty(self) -> bool:
        """Whether there is something to post."""
        return self.wh != self.posted_wh or self.total_nano() != self.posted_nano

    @property
    def posted(self) -> bool:
        """Whether something was posted."""
        return bool(self.posted_charges) or any(self.posted_wh)

    def settle(self, period: str) -> Posting:
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
        )
        self.posted_wh = list(self.wh)
        self.posted_charges = {name: amount for name, amount in charges.items() if amount}
        self.posted_nano = sum(charges.values())
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

    def _unposted_cells(self) -> Iterator[tuple[Cell, int]]:
        for cell, wh, posted_wh in zip(self.rates.cells, self.wh, self.posted_wh, strict=True):
            if wh != posted_wh:
                yield cell, wh - posted_wh


def _effective_ms(item: tuple[tuple[str, int], Tally]) -> int:
    return item[1].rates.tariff.effective_from_utc_ms


class PeriodBook:
    """One billing period: cumulative Wh per source, which blocks count, and its tallies."""

    __slots__ = ("cumulative_wh", "period", "tallies")

    def __init__(self, period: Period) -> None:
        self.period = period
        self.cumulative_wh: dict[str, int] = {}
        self.tallies: dict[tuple[str, int], Tally] = {}

    def tally(self, rates: Rates) -> Tally:
        """The tally of a version, begun when it is not there."""
        key = (rates.tariff.tariff_id, rates.tariff.version)
        tally = self.tallies.get(key)
        if tally is None:
            tally = self.tallies[key] = Tally(rates)
            # A fee may come before the energy of an older version: postings stay in time's order.
            self.tallies = dict(sorted(self.tallies.items(), key=_effective_ms))
        return tally

    def load(self, rates: Rates, line: SavedLine) -> None:
        """Add a saved line to the tally of its version."""
        self.tally(rates).load(line)
        for source, _, _, wh in line.cells:
            self.cumulative_wh[source] = self.cumulative_wh.get(source, 0) + wh


class Lane:
    """Where energy of one source goes while its band and tariff version last.

    Blocks are half-open in exact Wh: the Wh that reaches a limit still belongs to the block below
    it. `room_wh` is what the present block still takes, never zero.
    """

    __slots__ = ("_book", "_cell", "_first", "_limits_wh", "price_micro", "room_wh", "source",
                 "tally")  # fmt: skip

    def __init__(self, book: PeriodBook, tally: Tally, source: str, band: int) -> None:
        rates = tally.rates
        self.source = source
        self.tally = tally
        self._book = book
        self._limits_wh = rates.sources[source].block_limits_wh
        self._first = rates.first[source] + band * (len(self._limits_wh) + 1)
        book.cumulative_wh.setdefault(source, 0)
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
        self._book.cumulative_wh[self.source] += wh
        self.tally.wh[self._cell] += wh
        self.tally.energy_nano += wh * self.price_micro

    def _find_block(self) -> None:
        cumulative_wh = self._book.cumulative_wh[self.source]
        self.room_wh = _OPEN_WH
        block = len(self._limits_wh)
        for index, limit_wh in enumerate(self._limits_wh):
            if cumulative_wh < limit_wh:
                block = index
                self.room_wh = limit_wh - cumulative_wh
                break
        self._cell = self._first + block
        self.price_micro = self.rates.prices_micro[self._cell]
