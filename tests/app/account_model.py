"""What accounts should hold, reckoned apart from the code: money in, less a slow model of charges.

A `Stay` is the time in which a point is charged to an account under one tariff. What it costs comes
from `tests/core/slow_tariff.py`, in fractions and quarter hours, from nothing but readings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.core.tariff import Tariff
from tests.core.slow_tariff import Story, all_charges, counted_after, opening_of

Versions = Callable[[str], Sequence[Tariff]]
Advance = tuple[int, int, int, int]
FRIENDLY = {"windows": [{"from": "22:00", "to": "06:00"}]}
TARIFFS: Mapping[str, Mapping[str, Any]] = {
    "flat": {
        "grid": {"price": "8.00"},
        "generator": {"price": "25.00"},
        "fixed": {"amount": "50.00", "collect": "period_close"},
        "taxes": [{"name": "VAT", "rate_percent": "18", "on": ["energy", "fixed"]}],
    },
    "tou": {
        "grid": {
            "bands": {
                "peak": {"price": "9.333333", "when": [{"from": "18:00", "to": "22:00"}]},
                "rest": {"price": "5.00"},
            }
        },
        "generator": {"price": "20.00"},
        "fixed": {"amount": "30.00", "collect": "first_recharge"},
    },
    "block": {
        "grid": {
            "blocks": [
                {"upto_kwh": 1, "price": "3.50"},
                {"upto_kwh": 3, "price": "4.50"},
                {"price": "6.00"},
            ]
        },
        "generator": {"price": "20.00"},
        "fixed": {"amount": "31.00", "collect": "month_start"},
        "period": {"day": "opening"},
        "taxes": [{"name": "duty", "rate_percent": "7", "on": ["energy"]}],
    },
}


@dataclass
class Flat:
    """What the test knows of one meter and its contactor."""

    registers_wh: list[int]
    closed: bool = True
    held: bool = False
    lost: bool = False
    unread_wh: list[int] = field(default_factory=lambda: [0, 0])


@dataclass
class SoldVoucher:
    """A voucher that was sold for a point."""

    index: int
    counter: int
    token: str
    amount_nano: int
    ended: bool = False


@dataclass
class Vouchers:
    """What was sold so far; each point counts its own."""

    sold: list[SoldVoucher] = field(default_factory=list)

    def append(self, index: int, token: str, amount_nano: int) -> None:
        """One more was sold."""
        counter = 1 + sum(voucher.index == index for voucher in self.sold)
        self.sold.append(SoldVoucher(index, counter, token, amount_nano))


@dataclass
class Stay:
    """Energy (grid, generator, from, to) and recharges while a point is an account's."""

    index: int
    tariff_id: str
    start_ms: int
    label_ms: int
    passed_ms: int
    energy: list[Advance] = field(default_factory=list)
    recharges_ms: list[int] = field(default_factory=list)
    ended: bool = False
    joined: bool = False
    opening: int | None = None
    counted: tuple[tuple[tuple[str, str], int], ...] = ()
    _known: tuple[object, int] = ((), 0)

    def story(self, versions: Versions) -> Story:
        """What happened in it."""
        return Story(
            tuple(versions(self.tariff_id)),
            self.start_ms,
            tuple(self.energy),
            tuple(self.recharges_ms),
            self.label_ms,
            self.passed_ms,
            self.ended,
            self.joined,
            self.opening,
            self.counted,
        )

    def followed(self, tariff_id: str, versions: Versions, now_ms: int) -> "Stay":
        """It ends, and another tariff goes on."""
        story = self.story(versions)
        self.ended = True
        return Stay(
            self.index,
            tariff_id,
            now_ms,
            now_ms,
            now_ms,
            joined=True,
            opening=opening_of(story),
            counted=tuple(counted_after(story, versions(tariff_id)[0], now_ms).items()),
        )

    def charged_nano(self, versions: Versions) -> int:
        """What it has cost so far."""
        tariffs = tuple(versions(self.tariff_id))
        key = (len(self.energy), len(self.recharges_ms), self.label_ms, self.passed_ms, self.ended)
        state = (key, len(tariffs))
        if self._known[0] != state:
            self._known = (state, sum(all_charges(self.story(versions)).values()))
        return self._known[1]

    def use(self, wh: tuple[int, int], now_ms: int) -> None:
        """Energy since the label, known at a later instant."""
        if any(wh):
            self.energy.append((*wh, self.label_ms, now_ms))
        self.label_ms = self.passed_ms = now_ms

    def use_at_label(self, wh: tuple[int, int]) -> None:
        """Energy whose time is not known."""
        if any(wh):
            self.energy.append((*wh, self.label_ms, self.label_ms + 1))


@dataclass
class Customer:
    """Money that came in, net of taxes on it and of debts agreed, and what the stays cost."""

    name: str
    money_nano: int
    stays: list[Stay] = field(default_factory=list)
    debts: int = 0

    def worth_nano(self, versions: Versions) -> int:
        """What the customer has, less all that is owed."""
        return self.money_nano - sum(stay.charged_nano(versions) for stay in self.stays)

    def standing(self, index: int) -> Stay | None:
        """The stay that a point's energy belongs to now."""
        return next((s for s in self.stays if s.index == index and not s.ended), None)

    def recharged(self, now_ms: int) -> None:
        """Fees may have waited for this."""
        for stay in self.stays:
            if not stay.ended:
                stay.recharges_ms.append(now_ms)


def waterfall(
    amount_nano: int,
    payment_debts: Sequence[tuple[int, int]],
    accumulated_nano: int,
    wallet_nano: int,
    emergency_nano: int,
) -> tuple[list[int], int, int, int]:
    """Where a recharge goes (domain.md section 5), bucket by bucket: what remains of each debt, the
    accumulated debt and emergency credit, and the wallet. `payment_debts`: (ppm, remaining)."""
    left = amount_nano
    remaining = []
    for share_ppm, owed in payment_debts:
        paid = min(left, owed, amount_nano * share_ppm // 1_000_000)
        left -= paid
        remaining.append(owed - paid)
    paid = min(left, accumulated_nano)
    accumulated_nano, left = accumulated_nano - paid, left - paid
    paid = min(left, max(0, -wallet_nano))
    wallet_nano, left = wallet_nano + paid, left - paid
    paid = min(left, emergency_nano)
    return remaining, accumulated_nano, emergency_nano - paid, wallet_nano + left - paid
