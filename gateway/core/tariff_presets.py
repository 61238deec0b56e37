"""Tariffs to begin with: documents that a person edits, with a comment at every choice."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.errors import RefusedError
from gateway.core.money import Currency


@dataclass(frozen=True, slots=True)
class Preset:
    """A document by name; `currency` and `timezone` are those of its example figures."""

    name: str
    title: str
    currency: Currency
    timezone: str
    body: str

    def text(self, currency: str | None = None, timezone: str | None = None) -> str:
        """The YAML text, for a site's currency and zone where they are given."""
        head = _HEAD.format(
            title=self.title,
            id=self.name,
            name=self.title,
            currency=currency or self.currency.code,
            timezone=timezone or self.timezone,
        )
        return head + self.body


_HEAD: Final = """\
# {title}. Edit it, look at it with `prepaid-gateway tariff check`, then publish it. Every price
# is an example. Write prices, amounts and times in quotes; prices are per kWh. docs/tariffs.md
# tells the rest.

# Accounts name the tariff by its id. The same id again is the next version of it.
id: {id}
name: {name}
currency: {currency}
timezone: {timezone}
# From when on: a date (its local midnight), or a time with its offset. A first version may begin in
# the past; the next ones begin at least a minute ahead, and a published version never changes.
effective_from: 2026-01-01

"""

_SINGLE: Final = """\
# One price at all times.
grid: {price: "8.00"}
"""

_PEAK: Final = """\
# Two prices by local time. The band without `when` is the rest of the time. Holidays are a kind
# of day of their own: they are peak only where `days` says `holiday`.
holidays:
  - "01-01"        # every year
  - "2026-01-26"   # once

grid:
  bands:
    peak:
      price: "9.00"
      when:
        - {days: [mon, tue, wed, thu, fri], from: "18:00", to: "22:00"}
    offpeak: {price: "5.00"}
"""

_BLOCKS: Final = """\
# Three blocks a month: up to 100 kWh, from there to 300 kWh, all above. The Wh that reaches a
# limit still belongs to the lower block.
grid:
  blocks:
    - {upto_kwh: 100, price: "3.50"}
    - {upto_kwh: 300, price: "4.50"}
    - {price: "6.00"}

# A fee a month. collect: period_close (with the end of the month), month_start, daily (each
# midnight, in equal parts) or first_recharge.
fixed: {amount: "50.00", collect: period_close}

# A tax on top of energy and fee. The name stands on receipts: write what the law calls it.
taxes:
  - {name: Tax, rate_percent: "18", on: [energy, fixed]}
"""

_TWO_SOURCES: Final = """\
# Two prices by source: the meter counts each in a register of its own. Energy of the generator
# never advances the blocks of the grid.
grid: {price: "8.00"}
generator: {price: "25.00"}
"""

_ESTATE: Final = """\
# A generator estate: one price per kWh and a fee a month by the ampere of the subscription. One
# subscription is one tariff: copy this file for each, with an id such as generator-estate-10a.
#   5 A 385000    10 A 685000    15 A 985000 (each 5 A more: 300000)
# `grid` needs a price too: write the price of what the meter's first register counts. A meter
# that counts the generator alone has t1_source: generator.
grid: {price: "28355"}
generator: {price: "28355"}

# Paid ahead, at the start of the month; who moves in later pays for the days that are left.
fixed: {amount: "385000", collect: month_start}
"""

_INR: Final = Currency("INR")
PRESETS: Final[Mapping[str, Preset]] = {
    preset.name: preset
    for preset in (
        Preset("single-rate", "Single rate", _INR, "Asia/Kolkata", _SINGLE),
        Preset("peak-offpeak", "Peak and off-peak", _INR, "Asia/Kolkata", _PEAK),
        Preset("three-blocks", "Three blocks, fee and tax", _INR, "Asia/Kolkata", _BLOCKS),
        Preset("grid-generator", "Grid and generator", _INR, "Asia/Kolkata", _TWO_SOURCES),
        Preset(
            "generator-estate",
            "Generator estate",
            Currency("LBP", money_scale=6, minor_digits=0),
            "Asia/Beirut",
            _ESTATE,
        ),
    )
}


def preset_of(name: str) -> Preset:
    """The preset of this name. Raises RefusedError PRESET_UNKNOWN."""
    found = PRESETS.get(name)
    if found is None:
        raise RefusedError(
            "PRESET_UNKNOWN", f"there is no preset {name!r}; known: {', '.join(PRESETS)}", "preset"
        )
    return found
