"""Simulated meter-years: half hours of energy priced by the real rules, and every nano found again.

A random tariff (blocks, bands, two sources, fee, taxes, a new version in mid-year) meters a year of
half hours, with steps of a second around events. Along the way it posts, is restored from its
snapshot, and customers pay. Beside it runs a pricer that posts once, at the end.
"""

import json
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Final

from gateway.core.ledger import (
    Entry,
    Transaction,
    TransactionKind,
    charge_entries,
    recharge_of,
    wallet,
)
from gateway.core.pricing import Posting, Pricer
from gateway.core.tariff import SourceTariff, Tariff, TaxRule, Window

SOURCES: Final = ("grid", "generator")
ZONES: Final = ("Asia/Kolkata", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe")
BEGIN_MS: Final = 1_767_225_600_000  # 2026-01-01T00:00:00Z
YEAR_MS: Final = 365 * 86_400_000
HALF_HOUR_MS: Final = 1_800_000
EVENTS: Final = 60
EVERY_DAY: Final = frozenset(range(7))
WINDOWS: Final = (
    (),
    (Window("night", EVERY_DAY, 1320, 360),),
    (Window("peak", frozenset(range(5)), 1020, 1260), Window("night", EVERY_DAY, 0, 330)),
)


def meter_year(seed: int, year: int) -> int:
    """Meter one year; the postings it made. Raises AssertionError naming the sum that differs."""
    chance = Random(f"{seed} meter-year {year}")
    versions = _versions(chance)
    often = Pricer(versions, start_utc_ms=BEGIN_MS, sources=SOURCES)
    once = Pricer(versions, start_utc_ms=BEGIN_MS, sources=SOURCES)
    book = _Book()
    used: Counter[str] = Counter()
    start_ms = BEGIN_MS
    for end_ms in _steps(chance):
        grid_wh = chance.randrange(3_000) if chance.random() < 0.9 else 0
        shares = {"grid": grid_wh, "generator": chance.choice((0, 0, 0, grid_wh // 3))}
        used.update(shares)
        for pricer in (often, once):
            pricer.advance(shares, start_ms, end_ms)
        start_ms = end_ms
        deed = chance.random()
        if deed < 0.4:
            running = often.running_nano()
            assert book.post(often.settle()) == running, "a posting differs from what was running"
        elif deed < 0.41:
            saved = json.loads(json.dumps(often.snapshot()))
            often = Pricer.restore(versions, saved, sources=SOURCES)
        elif deed < 0.42:
            book.pay(chance.randint(1, 10**13))
    book.post(often.settle())
    at_once = _Book()
    at_once.post(once.settle())
    assert once.charged_nano() == often.charged_nano(), "charged in parts and at once differ"
    assert book.charges == at_once.charges, "components posted in parts and at once differ"
    assert book.energy_wh == at_once.energy_wh == used, "energy was lost or counted twice"
    assert book.wallet_nano == book.paid_nano - often.charged_nano(), "the wallet does not add up"
    return book.postings


class _Book:
    """What was posted and paid, kept as the ledger keeps it."""

    def __init__(self) -> None:
        self.postings = 0
        self.paid_nano = 0
        self.charges: Counter[tuple[str, int, str]] = Counter()
        self.energy_wh: Counter[str] = Counter()
        self._balances: Counter[str] = Counter()

    @property
    def wallet_nano(self) -> int:
        return self._balances[wallet("flat")]

    def pay(self, amount_nano: int) -> None:
        self.paid_nano += amount_nano
        self._append(
            recharge_of(
                "flat",
                amount_nano,
                "counter",
                [Entry(wallet("flat"), amount_nano)],
                utc_ms=1,
                request_key="key",
                reference="",
            )
        )

    def post(self, postings: list[Posting]) -> int:
        """Charge postings to the wallet; the sum of them."""
        for posting in postings:
            entries = charge_entries("flat", dict(posting.charges))
            if entries:
                self._append(Transaction(TransactionKind.SETTLEMENT, 1, entries))
            for component, amount in posting.charges:
                self.charges[posting.period, posting.tariff_version, component] += amount
            for cell, wh in posting.cells:
                self.energy_wh[cell.source] += wh
        self.postings += len(postings)
        return sum(posting.total_nano for posting in postings)

    def _append(self, transaction: Transaction) -> None:
        # A transaction that does not sum to zero cannot be made; the site as a whole stays at zero.
        for entry in transaction.entries:
            self._balances[entry.ledger_account] += entry.amount_nano
        assert self._balances.total() == 0


def _versions(chance: Random) -> tuple[Tariff, ...]:
    zone = chance.choice(ZONES)
    starts = (BEGIN_MS - 86_400_000, BEGIN_MS + chance.randrange(YEAR_MS))
    return tuple(
        Tariff(
            tariff_id="home",
            version=number,
            name="Home",
            currency="INR",
            zone=zone,
            effective_from_utc_ms=start_ms,
            sources=tuple(_source(name, chance) for name in SOURCES),
            fixed_fee_nano=chance.randrange(10**12),
            taxes=tuple(
                TaxRule(f"T{tax}", chance.randint(1, 400_000), ("energy", "fixed"))
                for tax in range(chance.randint(0, 2))
            ),
        )
        for number, start_ms in enumerate(starts, start=1)
    )


def _source(name: str, chance: Random) -> SourceTariff:
    windows = chance.choice(WINDOWS)
    bands = ("rest", *dict.fromkeys(window.band for window in windows))
    limits = tuple(sorted(chance.sample(range(1_000, 900_000), chance.randint(0, 3))))
    rows = tuple(tuple(chance.randrange(30_000_000) for _ in (0, *limits)) for _ in bands)
    return SourceTariff(name, bands, windows, "rest", limits, rows)


def _steps(chance: Random) -> Iterator[int]:
    """The ends of the steps: half hours, and some seconds after each of a few events."""
    events = {chance.randrange(YEAR_MS // HALF_HOUR_MS) for _ in range(EVENTS)}
    for number in range(YEAR_MS // HALF_HOUR_MS):
        start_ms = BEGIN_MS + number * HALF_HOUR_MS
        if number in events:
            yield from range(start_ms + 1_000, start_ms + 11_000, 1_000)
        yield start_ms + HALF_HOUR_MS
