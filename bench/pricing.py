"""Microseconds to price one reading: flat, blocks with time of use and tax, everything at once.

Beside it a plain pricer of decimals and datetimes on the same readings; both must come to the same.
Run by `make bench`, or alone: `python -m bench.pricing`. Processor time of the thread is counted.
"""

import time
from collections.abc import Callable, Mapping
from decimal import Decimal

from bench._machine import machine
from bench._plain_pricing import PlainPricer
from gateway.core.civil import DAY_MS, HALF_HOUR_MS
from gateway.core.money import Currency
from gateway.core.pricing import Pricer
from gateway.core.tariff import Tariff
from gateway.core.tariff_document import tariff_from_document

READINGS = 200_000
ROUNDS = 5
STEP_MS = 600_000
SOURCES = ("grid", "generator")
INR = Currency("INR")
COMMON: dict[str, object] = {
    "id": "home",
    "name": "Home",
    "currency": "INR",
    "timezone": "Asia/Kolkata",
    "effective_from": "2026-01-01",
}
BLOCKS = [
    {"upto_kwh": 100, "price": "3.50"},
    {"upto_kwh": 300, "price": "4.50"},
    {"price": "6.00"},
]
FLAT: dict[str, object] = {
    **COMMON,
    "grid": {"price": "8.00"},
    "generator": {"price": "25.00"},
}
FULL: dict[str, object] = {
    **COMMON,
    "grid": {
        "bands": {
            "peak": {"price": "9.00", "when": [{"from": "18:00", "to": "22:00"}]},
            "offpeak": {"blocks": BLOCKS},
        }
    },
    "generator": {"price": "25.00"},
    "fixed": {"amount": "50.00"},
    "taxes": [{"name": "VAT", "rate_percent": "18", "on": ["energy", "fixed"]}],
}
EVERYTHING: dict[str, object] = {
    **COMMON,
    "seasons": {"summer": {"from": "04-01", "to": "09-30"}},
    "holidays": ["01-01", "2026-01-26"],
    "grid": {
        "bands": {
            "peak": {
                "price": "9.00",
                "when": [
                    {"season": "summer", "from": "12:00", "to": "16:00"},
                    {"days": ["mon", "tue", "wed", "thu", "fri"], "from": "18:00", "to": "22:00"},
                ],
            },
            "offpeak": {"blocks": BLOCKS},
        }
    },
    "generator": {"price": "25.00"},
    "period": {"day": 15},
    "fixed": {"amount": "50.00", "collect": "daily"},
    "minimum": {"amount": "100"},
    "rebates": [
        {"name": "Senior", "percent": "5", "of": ["energy"]},
        {"name": "Relief", "amount": "20"},
        {"name": "Lifeline", "per_kwh": "1", "upto_kwh": 50, "source": "grid"},
    ],
    "taxes": [
        {"name": "VAT", "rate_percent": "18", "on": ["energy", "fixed", "minimum", "rebate"]},
        {"name": "Duty", "per_kwh": "0.10"},
        {"name": "Levy", "rate_percent": "5", "on_recharge": True},
    ],
}


def price_readings(tariff: Tariff, step_ms: int, count: int) -> None:
    """What control does with every reading: charge it and look at what is left."""
    start_ms = tariff.effective_from_utc_ms
    pricer = Pricer([tariff], start_utc_ms=start_ms, sources=SOURCES)
    label_ms = start_ms
    for _ in range(count):
        pricer.advance((("grid", 1), ("generator", 0)), label_ms, label_ms + step_ms)
        pricer.running_nano()
        label_ms += step_ms


def predict(tariff: Tariff, count: int) -> None:
    """The remaining Wh that predictive polling asks for."""
    start_ms = tariff.effective_from_utc_ms
    pricer = Pricer([tariff], start_utc_ms=start_ms, sources=SOURCES)
    for _ in range(count):
        pricer.remaining_wh(10_000_000_000, "grid", start_ms)


def keep(tariff: Tariff, count: int) -> None:
    """The state that every sweep keeps, with something unposted in it."""
    start_ms = tariff.effective_from_utc_ms
    pricer = Pricer([tariff], start_utc_ms=start_ms, sources=SOURCES)
    pricer.advance((("grid", 7),), start_ms, start_ms + 1_000)
    for _ in range(count):
        pricer.snapshot()


def price_plainly(document: Mapping[str, object], count: int) -> None:
    """The rival on readings a second apart."""
    pricer = PlainPricer(document)
    label_ms = tariff_from_document(document, INR).effective_from_utc_ms
    for _ in range(count):
        label_ms += 1_000
        pricer.advance("grid", 1, label_ms)


def check_same(document: Mapping[str, object]) -> None:
    """Both must charge the same energy for a day of readings, or the ratio says nothing."""
    tariff = tariff_from_document(document, INR)
    label_ms = tariff.effective_from_utc_ms
    pricer = Pricer([tariff], start_utc_ms=label_ms, sources=SOURCES)
    plain, owed = PlainPricer(document), Decimal(0)
    for _ in range(DAY_MS // STEP_MS - 1):
        pricer.advance((("grid", 1_300),), label_ms, label_ms + STEP_MS)
        label_ms += STEP_MS
        owed = plain.advance("grid", 1_300, label_ms - 1)
    assert owed == Decimal(pricer.running_nano()).scaleb(-9), (owed, pricer.running_nano())


def best_us(run: Callable[[], None], count: int) -> float:
    """Microseconds per call, the best of a few rounds (the others measure the neighbours)."""
    best_ns = 0
    for _ in range(ROUNDS):
        begun_ns = time.thread_time_ns()
        run()
        took_ns = time.thread_time_ns() - begun_ns
        best_ns = took_ns if best_ns == 0 else min(best_ns, took_ns)
    return best_ns / count / 1_000


def main() -> None:
    """Print the table."""
    flat = tariff_from_document(FLAT, INR)
    full = tariff_from_document(FULL, INR)
    everything = tariff_from_document(EVERYTHING, INR)
    few = READINGS // 20
    for document in (FLAT, FULL):
        check_same(document)
    rows = (
        ("flat, 1 s", lambda: price_readings(flat, 1_000, READINGS), READINGS, FLAT),
        (
            "blocks + time of use + tax, 1 s",
            lambda: price_readings(full, 1_000, READINGS),
            READINGS,
            FULL,
        ),
        ("the same, 30 min apart", lambda: price_readings(full, HALF_HOUR_MS, few), few, None),
        ("everything at once, 1 s", lambda: price_readings(everything, 1_000, few), few, None),
        (
            "the same, 30 min apart",
            lambda: price_readings(everything, HALF_HOUR_MS, few),
            few,
            None,
        ),
        ("remaining Wh", lambda: predict(full, few), few, None),
        ("the same with everything", lambda: predict(everything, few), few, None),
        ("snapshot", lambda: keep(full, few), few, None),
        ("the same with everything", lambda: keep(everything, few), few, None),
    )
    print(f"pricing, target 10 us a reading; {machine()}")
    for name, run, count, rival in rows:
        ours_us = best_us(run, count)
        line = f"  {name:<34}{ours_us:8.2f} us"
        if rival is not None:
            plain_us = best_us(lambda document=rival: price_plainly(document, few), few)  # type: ignore[misc]
            line += f"   plain decimals {plain_us:8.2f} us, ratio {plain_us / ours_us:.1f}"
        print(line)


if __name__ == "__main__":
    main()
