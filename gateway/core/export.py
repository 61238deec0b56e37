"""Energy that flows from the customer: counted, told once a day, or paid for.

Export registers are guarded like import ones, by a guard of their own: a jump is not energy.
`ignored` leaves it at the meter; `alarmed` is for points where none is expected. `credited` needs a
place in a point's postings and is not offered by the configuration yet (docs/developer.md); its
pricing is here, exact like that of consumption.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

from gateway.core.guard import RegisterGuard

EXPORT: Final = "export"


class ExportPolicy(StrEnum):
    """What becomes of energy that a customer feeds in."""

    IGNORED = "ignored"
    ALARMED = "alarmed"
    CREDITED = "credited"


class ExportCounter:
    """A meter's export registers for watching: what they advanced by, nothing held back.

    A jump counts for nothing and is the next base, since no money hangs on it.
    """

    def __init__(self, guard: RegisterGuard) -> None:
        self._guard = guard

    def see(
        self, sequence: int, mono_ns: int, energy_wh: tuple[int, ...], *, disturbed: bool
    ) -> int:
        """Wh that were fed in since the reading before, over all registers."""
        verdict = self._guard.check(sequence, mono_ns, energy_wh, communication_lost=disturbed)
        if self._guard.held:
            self._guard.release(accept=False)
            return 0
        return sum(verdict.advance_wh) if verdict.settles else 0


class ExportDay:
    """Feed-in of one local day, told once when it is more than a transformer's noise."""

    def __init__(self) -> None:
        self.day = 0
        self.fed_wh = 0
        self._told = False

    def see(self, day: int, fed_wh: int, *, alarm_wh: int) -> int | None:
        """Add energy to a local day (days since 1970); the day's Wh when it is to be told."""
        if day != self.day:
            self.day, self.fed_wh, self._told = day, 0, False
        self.fed_wh += fed_wh
        if self._told or self.fed_wh < alarm_wh:
            return None
        self._told = True
        return self.fed_wh

    def snapshot(self) -> list[object]:
        """State as JSON values."""
        return [self.day, self.fed_wh, self._told]

    def restore(self, state: Sequence[object]) -> None:
        """Go on from `snapshot`."""
        day, fed_wh, told = state
        self.day, self.fed_wh, self._told = cast("int", day), cast("int", fed_wh), bool(told)


@dataclass(frozen=True, slots=True)
class ExportPrice:
    """From when a kWh that is fed in is worth so many micro-units (a Wh as many nano-units)."""

    from_utc_ms: int
    price_micro: int


class ExportCredit:
    """What fed-in energy is worth: exact, priced as it flows, given away as `export` charges.

    Linear in energy, so whenever it is posted the total is the same. `advance_wh` of a settled
    reading falls on the prices of its time linearly, floored to the earlier one.
    """

    def __init__(self) -> None:
        self.unposted_wh = 0
        self.unposted_nano = 0

    def advance(
        self, advance_wh: int, from_utc_ms: int, to_utc_ms: int, prices: Sequence[ExportPrice]
    ) -> None:
        """Price a settled advance; `prices` in order, before the first one it is worth nothing."""
        left_wh, at_ms = advance_wh, from_utc_ms
        price_micro = 0
        for price in prices:
            if price.from_utc_ms <= at_ms:
                price_micro = price.price_micro
                continue
            if price.from_utc_ms >= to_utc_ms:
                break
            share_wh = left_wh * (price.from_utc_ms - at_ms) // (to_utc_ms - at_ms)
            self.unposted_nano += share_wh * price_micro
            left_wh -= share_wh
            at_ms, price_micro = price.from_utc_ms, price.price_micro
        self.unposted_nano += left_wh * price_micro
        self.unposted_wh += advance_wh

    def take(self) -> tuple[tuple[str, int], ...]:
        """Charges for the posting of now (negative: a credit), and begin anew."""
        amount_nano, self.unposted_nano, self.unposted_wh = self.unposted_nano, 0, 0
        return ((EXPORT, -amount_nano),) if amount_nano else ()

    def snapshot(self) -> dict[str, object]:
        """State as JSON values."""
        return {"unposted_wh": self.unposted_wh, "unposted_nano": self.unposted_nano}

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from `snapshot`."""
        self.unposted_wh = cast("int", state["unposted_wh"])
        self.unposted_nano = cast("int", state["unposted_nano"])
