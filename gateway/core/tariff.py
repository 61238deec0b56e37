"""A tariff version: what a kilowatt-hour costs, by source, time of use and block.

Rate = matrix[band][block] per source (domain.md section 4). A version is immutable once
published. `tariff_document.py` reads the text that people edit, `tariff_writer.py` writes it,
`bands.py` tells which band applies when, `pricing.py` charges.
"""

from dataclasses import dataclass
from typing import Final

GRID: Final = "grid"
GENERATOR: Final = "generator"
SOURCES: Final = (GRID, GENERATOR)
ONLY_BAND: Final = "all"  # the band of a source whose price does not depend on the time
WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ENERGY: Final = "energy"
FIXED: Final = "fixed"
TAX_BASES: Final = (ENERGY, FIXED)
PPM: Final = 1_000_000
PERCENT_SCALE: Final = 4  # one percent is 10**4 parts per million
KWH_SCALE: Final = 3  # one kWh is 10**3 Wh
PERIOD_CLOSE: Final = "period_close"


@dataclass(frozen=True, slots=True)
class Window:
    """When a band applies: local minutes [from, to) on days of these types.

    Day types 0 to 6 are Monday to Sunday; special days would be types of their own from 7 on.
    With `to_minute <= from_minute` the window runs over midnight and belongs to the day on which
    it begins.
    """

    band: str
    day_types: frozenset[int]
    from_minute: int
    to_minute: int


@dataclass(frozen=True, slots=True)
class SourceTariff:
    """Prices of one source.

    `prices_micro[band][block]` is micro-units per kWh. `block_limits_wh` are the inclusive upper
    limits of all blocks but the last, which is open: block k holds the cumulative Wh of the
    period in (limit[k-1], limit[k]], whatever their band. `rest_band` applies where no window
    does; None when the windows leave no time over.
    """

    source: str
    bands: tuple[str, ...]
    windows: tuple[Window, ...]
    rest_band: str | None
    block_limits_wh: tuple[int, ...]
    prices_micro: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        blocks = len(self.block_limits_wh) + 1
        if len(self.prices_micro) != len(self.bands) or any(
            len(row) != blocks for row in self.prices_micro
        ):
            raise ValueError(f"{self.source}: prices do not fit {self.bands} x {blocks} blocks")


@dataclass(frozen=True, slots=True)
class TaxRule:
    """A tax of `rate_ppm` parts per million on the sum of its bases (`energy`, `fixed`)."""

    name: str
    rate_ppm: int
    bases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tariff:
    """One published version. `fixed_fee_nano` falls due once a month, at the period's close."""

    tariff_id: str
    version: int
    name: str
    currency: str
    zone: str
    effective_from_utc_ms: int
    sources: tuple[SourceTariff, ...]
    fixed_fee_nano: int = 0
    taxes: tuple[TaxRule, ...] = ()

    def source(self, name: str) -> SourceTariff | None:
        """Prices of this source, or None when the tariff has none."""
        return next((item for item in self.sources if item.source == name), None)


def clock_text(minute: int) -> str:
    """A minute of the day as `HH:MM` (1440 is 24:00)."""
    return f"{minute // 60:02d}:{minute % 60:02d}"
