"""Milliseconds to forecast one account: how long its credit lasts, up to 60 days ahead.

Run by `make bench`, or alone: `python -m bench.forecast`.
"""

import time
from collections.abc import Callable, Mapping

from bench._machine import machine
from bench.pricing import COMMON, FLAT, FULL, INR
from gateway.core.civil import DAY_MS, HALF_HOUR_MS, zone_of
from gateway.core.forecast import HORIZON_DAYS, DailyDebt, Forecast, Load, Pricing, forecast
from gateway.core.friendly_document import calendar_from_document
from gateway.core.interval import Interval
from gateway.core.pricing import Pricer
from gateway.core.tariff import Tariff
from gateway.core.tariff_document import tariff_from_document
from gateway.core.usage import UsageProfile

ROUNDS = 60
ZONE = zone_of("Asia/Kolkata")
NANO = 10**9
WEEKDAYS = ["mon", "tue", "wed", "thu", "fri"]
FOUR_BANDS: dict[str, object] = {
    **COMMON,
    "grid": {
        "bands": {
            "peak": {"price": "9.00", "when": [{"from": "18:00", "to": "22:00"}]},
            "morning": {
                "price": "7.00",
                "when": [{"days": WEEKDAYS, "from": "06:00", "to": "10:00"}],
            },
            "night": {"price": "3.00", "when": [{"from": "23:00", "to": "05:00"}]},
            "offpeak": {"price": "5.00"},
        }
    },
    "generator": {"price": "25.00"},
}


def household(start_utc_ms: int) -> UsageProfile:
    """Two weeks of half hours with a peak in the evening."""
    profile = UsageProfile(ZONE, 2)
    for number in range(14 * 48):
        start = start_utc_ms + number * HALF_HOUR_MS
        wh = 900 if 26 <= number % 48 <= 34 else 150
        profile.learn(Interval(start, start + HALF_HOUR_MS, (wh, wh // 40), None, 1, False))  # noqa: FBT003 - estimated
    return profile


def account(
    document: Mapping[str, object], credit: int, days: int = HORIZON_DAYS
) -> Callable[[], Forecast]:
    """A forecast of an account with everything: debt, calendar, two sources."""
    tariff: Tariff = tariff_from_document(document, INR)
    start = tariff.effective_from_utc_ms
    sources = ("grid", "generator")
    pricer = Pricer([tariff], start_utc_ms=start, sources=sources)
    pricer.advance((("grid", 90_000),), start, start + 14 * DAY_MS)
    pricer.settle()
    profile = household(start)
    calendar = calendar_from_document({"preset": "in_uppcl"}, ZONE.key)

    def restore(state: Mapping[str, object]) -> Pricing:
        return Pricer.restore([tariff], state, sources=sources)

    def run() -> Forecast:
        return forecast(
            [Load(profile, sources, pricer.snapshot(), restore)],
            zone=ZONE,
            now_utc_ms=start + 14 * DAY_MS,
            credit_nano=credit * NANO,
            debts=[DailyDebt(500 * NANO, NANO)],
            calendar=calendar,
            horizon_days=days,
        )

    return run


def timed_ms(run: Callable[[], Forecast]) -> tuple[float, float, Forecast]:
    """Best and middle of some rounds, the first of which fills the caches of the site's day."""
    answer = run()
    took: list[float] = []
    for _ in range(ROUNDS):
        begun_ns = time.thread_time_ns()
        run()
        took.append((time.thread_time_ns() - begun_ns) / 1e6)
    return min(took), sorted(took)[ROUNDS // 2], answer


def main() -> None:
    """Print the table."""
    print(f"forecast, target 2 ms of the processor; {machine()}")
    rows = (
        ("flat, never within 60 days", FLAT, 100_000),
        ("flat, ends", FLAT, 1_000),
        ("peak and blocks, never", FULL, 100_000),
        ("peak and blocks, ends late", FULL, 5_600),
        ("peak and blocks, ends in days", FULL, 800),
        ("four bands, never", FOUR_BANDS, 100_000),
    )
    for name, document, credit in rows:
        best, middle, answer = timed_ms(account(document, credit))
        print(f"  {name:<34}{best:8.2f} ms  {middle:8.2f} ms   {answer.days_left} days")
    for name, document, credit in rows[::2]:
        best, middle, answer = timed_ms(account(document, credit, 14))
        print(
            f"  {f'{name}; 14 days':<34}{best:8.2f} ms  {middle:8.2f} ms   {answer.days_left} days"
        )


if __name__ == "__main__":
    main()
