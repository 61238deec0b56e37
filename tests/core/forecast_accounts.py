"""An account whose forecast can be worked out by hand: tariff, profile and a moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from gateway.core.civil import HALF_HOUR_MS
from gateway.core.forecast import DailyDebt, Forecast, Load, Pricing, forecast
from gateway.core.friendly import FriendlyCalendar
from gateway.core.interval import Interval
from gateway.core.money import Currency, parse_amount
from gateway.core.pricing import Pricer
from gateway.core.tariff_document import tariff_from_document
from gateway.core.usage import UsageProfile

INR = Currency("INR")
KOLKATA = ZoneInfo("Asia/Kolkata")
NANO = 10**9
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
CELLS = 168


def instant(text: str, zone: ZoneInfo = KOLKATA) -> int:
    """UTC ms of a local time."""
    return round(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() * 1_000)


def profile_of(
    wh_by_hour: Sequence[int], zone: ZoneInfo = KOLKATA, *, weeks: int = 2, generator: bool = False
) -> UsageProfile:
    """A profile that has seen these even Wh in each hour of the week (a day's 24 repeat)."""
    profile = UsageProfile(zone, 2 if generator else 1)
    start = instant("2026-06-01", zone)
    for number in range(weeks * CELLS * 2):
        wh = wh_by_hour[number // 2 % len(wh_by_hour)]
        begin = start + number * HALF_HOUR_MS
        energy = (wh // 2, wh // 2) if generator else (wh // 2,)
        profile.learn(Interval(begin, begin + HALF_HOUR_MS, energy, None, 1, estimated=False))
    # Recent as far as confidence is concerned.
    profile.learned_until_utc_ms = instant("2030-01-01", zone)
    return profile


@dataclass
class Account:
    """A tariff, a profile and a moment: everything but the money."""

    grid: object
    usage: UsageProfile
    now: int
    zone: ZoneInfo = KOLKATA
    fixed: str = "0"
    tax: str = ""
    used_wh: int = 0
    generator: str = ""

    def load(self) -> Load:
        """The service point with a pricer that has charged `used_wh` this month."""
        document: dict[str, object] = {
            "id": "home",
            "name": "Home",
            "currency": "INR",
            "timezone": self.zone.key,
            "effective_from": "2020-01-01",
            "grid": self.grid,
            "fixed": {"amount": self.fixed},
        }
        sources = ["grid"]
        if self.generator:
            document["generator"] = {"price": self.generator}
            sources.append("generator")
        if self.tax:
            document["taxes"] = [
                {"name": "VAT", "rate_percent": self.tax, "on": ["energy", "fixed"]}
            ]
        tariff = tariff_from_document(document, INR)
        pricer = Pricer([tariff], start_utc_ms=self.now - 2_000, sources=sources)
        pricer.advance((("grid", self.used_wh),), self.now - 2_000, self.now - 1_000)

        def restore(state: Mapping[str, object]) -> Pricing:
            return Pricer.restore([tariff], state, sources=sources)

        return Load(self.usage, tuple(sources), pricer.snapshot(), restore)

    def forecast(
        self,
        credit_nano: int,
        *,
        emergency_nano: int = 0,
        debts: Sequence[DailyDebt] = (),
        calendar: FriendlyCalendar | None = None,
        horizon_days: int = 60,
    ) -> Forecast:
        """How long this credit lasts."""
        return forecast(
            [self.load()],
            zone=self.zone,
            now_utc_ms=self.now,
            credit_nano=credit_nano,
            emergency_nano=emergency_nano,
            debts=debts,
            calendar=calendar,
            horizon_days=horizon_days,
        )


def constant(price: str = "8.00", watts: int = 1_000, now: str = "2026-07-01 00:00") -> Account:
    """The same load at every hour, one price."""
    return Account({"price": price}, profile_of([watts]), instant(now))


def amount(text: str) -> int:
    """Nano-units of a decimal text."""
    return parse_amount(text, INR)
