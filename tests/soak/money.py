"""Simulated meter-years: half hours of energy priced by the real rules, and every nano found again.

A random tariff (blocks, bands, seasons, holidays, two sources, fees of every way, minimum, rebates,
taxes, also on recharges, a new version in mid-year) meters a year of half hours, with steps of a
second around events. Along the way it posts, is restored from its snapshot, and a customer with two
debts and emergency credit pays. Beside it runs a pricer that posts once, at the end.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from random import Random
from typing import Final

from gateway.core.charges import recharge_tax_entries
from gateway.core.civil import DAY_MS, civil_day, zone_of
from gateway.core.credit import (
    CreditBook,
    CreditTerms,
    DebtKind,
    DebtTerms,
    accumulated,
    debt,
    emergency,
)
from gateway.core.ledger import (
    Entry,
    Transaction,
    TransactionKind,
    charge_entries,
    recharge_of,
    wallet,
)
from gateway.core.pricing import Posting, Pricer
from gateway.core.tariff import (
    Rebate,
    Season,
    SourceTariff,
    Tariff,
    TariffCalendar,
    TaxRule,
    Window,
)

SOURCES: Final = ("grid", "generator")
ZONES: Final = ("Asia/Kolkata", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe")
BEGIN_MS: Final = 1_767_225_600_000  # 2026-01-01T00:00:00Z
YEAR_MS: Final = 365 * DAY_MS
HALF_HOUR_MS: Final = 1_800_000
EVENTS: Final = 60
EVERY_DAY: Final = frozenset(range(7))
WINDOWS: Final = (
    (),
    (Window("night", EVERY_DAY, 1320, 360),),
    (Window("peak", frozenset(range(5)), 1020, 1260), Window("night", EVERY_DAY, 0, 330)),
    (Window("noon", EVERY_DAY, 720, 960, "summer"), Window("night", EVERY_DAY | {7}, 1320, 360)),
    (Window("feast", frozenset({7}), 600, 1200), Window("peak", EVERY_DAY, 1020, 1260, "cold")),
)
SEASONS: Final = (Season("summer", (4, 1), (9, 30)), Season("cold", (12, 1), (2, 28)))
HOLIDAYS: Final = (date(2026, 1, 26), date(2026, 8, 15), date(2026, 11, 8))
WAYS: Final = ("period_close", "month_start", "daily", "first_recharge")
BASES: Final = (("energy",), ("energy", "fixed"), ("energy", "fixed", "minimum", "rebate"))
DEBTS: Final = ("oven", "arrears")


def meter_year(seed: int, year: int) -> int:
    """Meter one year; the postings it made. Raises AssertionError naming the sum that differs."""
    chance = Random(f"{seed} meter-year {year}")
    versions = _versions(chance)
    often = Pricer(versions, start_utc_ms=BEGIN_MS, sources=SOURCES)
    once = Pricer(versions, start_utc_ms=BEGIN_MS, sources=SOURCES)
    book = _Book(versions, chance)
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
            book.pay(chance.randint(1, 4 * 10**12), end_ms)
            for pricer in (often, once):
                pricer.recharged(end_ms)
        book.pass_day(end_ms, often.running_nano())
    book.post(often.settle())
    at_once = _Book(versions, chance)
    at_once.post(once.settle())
    assert once.charged_nano() == often.charged_nano(), "charged in parts and at once differ"
    assert book.charges == at_once.charges, "components posted in parts and at once differ"
    assert book.energy_wh == at_once.energy_wh == used, "energy was lost or counted twice"
    book.check(often.charged_nano())
    return book.postings


class _Book:
    """What was posted and paid, kept as the ledger keeps it, and the customer's credit beside."""

    def __init__(self, versions: Sequence[Tariff], chance: Random) -> None:
        self.postings = 0
        self.paid_nano = 0
        self.charges: Counter[tuple[str, int, str]] = Counter()
        self.energy_wh: Counter[str] = Counter()
        self._versions = versions
        self._zone = zone_of(versions[0].zone)
        self._balances: Counter[str] = Counter()
        terms = CreditTerms(
            emergency_limit_nano=chance.randrange(10**12),
            emergency_automatic=chance.random() < 0.5,
        )
        self._credit = CreditBook("flat", terms)
        cap_nano = chance.choice((None, chance.randint(1, 10**12)))
        share = DebtTerms("oven", DebtKind.PAYMENT, chance.randint(1, 500_000), 0, cap_nano)
        daily = DebtTerms("arrears", DebtKind.TIME, 0, chance.randint(1, 10**11), cap_nano)
        for debt_terms in (share, daily):
            self._credit.add_debt(debt_terms)
            owed_nano = chance.randint(1, 10**13)
            owes = Entry(debt("flat", debt_terms.debt_id), -owed_nano)
            self._append(Transaction(TransactionKind.DEBT, 1, (owes, Entry("opening", owed_nano))))

    def pay(self, amount_nano: int, utc_ms: int) -> None:
        """A recharge: taxes that it contains, debts, emergency credit, the wallet."""
        self.paid_nano += amount_nano
        day = civil_day(self._zone, utc_ms)
        taxes = recharge_tax_entries(self._versions, amount_nano, utc_ms)
        net_nano = amount_nano - sum(entry.amount_nano for entry in taxes)
        credited = (*taxes, *self._credit.split(net_nano, day))
        self._append(
            recharge_of(
                "flat",
                amount_nano,
                "counter",
                credited,
                utc_ms=utc_ms,
                request_key="key",
                reference="",
            ),
            received_on=day,
        )

    def pass_day(self, utc_ms: int, running_nano: int) -> None:
        """Collect debts by the day, and let emergency credit bear what the wallet cannot."""
        credit = self._credit
        day = civil_day(self._zone, utc_ms)
        disabled = credit.is_exhausted(running_nano, utc_ms)
        for entries in credit.collect(day, running_nano, is_disabled=disabled):
            self._keep(Transaction(TransactionKind.DEBT_COLLECTION, utc_ms, entries))
        if credit.invokes_itself(running_nano):
            credit.is_invoked = True
        drawn = credit.draw()
        if drawn:
            self._append(Transaction(TransactionKind.EMERGENCY_DRAW, utc_ms, drawn))
        limit_nano = credit.terms.emergency_limit_nano
        assert 0 <= credit.emergency_used_nano <= limit_nano, "more was lent than was agreed"

    def check(self, charged_nano: int) -> None:
        """All that the customer has and owes is what was paid less what it was for."""
        credit = self._credit
        own = [wallet("flat"), emergency("flat"), accumulated("flat")]
        own += [debt("flat", name) for name in DEBTS]
        remaining = [remaining_nano for _, remaining_nano in credit.debts()]
        folded = [credit.wallet_nano, -credit.emergency_used_nano, -credit.accumulated_nano]
        folded += [-remaining_nano for remaining_nano in remaining]
        assert [self._balances[name] for name in own] == folded, "the credit is not its entries"
        taxed_nano = sum(
            amount for name, amount in self._balances.items() if name == "tax:on recharge"
        )
        owed_nano = self._balances["opening"]
        had_nano = self.paid_nano - taxed_nano - charged_nano - owed_nano
        assert sum(folded) == had_nano, "wallet, debts and emergency credit do not add up"
        assert min(remaining) >= 0, "more was collected than was owed"

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

    def _append(self, transaction: Transaction, *, received_on: int | None = None) -> None:
        if received_on is None:
            self._credit.apply(transaction.entries)
        else:
            self._credit.received(transaction.entries, received_on)
        self._keep(transaction)

    def _keep(self, transaction: Transaction) -> None:
        # A transaction that does not sum to zero cannot be made; the site as a whole stays at zero.
        for entry in transaction.entries:
            self._balances[entry.ledger_account] += entry.amount_nano
        assert self._balances.total() == 0


def _versions(chance: Random) -> tuple[Tariff, ...]:
    zone = chance.choice(ZONES)
    starts = (BEGIN_MS - DAY_MS, BEGIN_MS + chance.randrange(YEAR_MS))
    days = frozenset(chance.sample(HOLIDAYS, chance.randint(0, 3)))
    calendar = TariffCalendar(SEASONS, days, frozenset({(1, 1)}))
    period_day, by_occupancy = chance.choice((0, 0, -1, 15)), chance.random() < 0.2
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
            fee_collect=chance.choice(WAYS),
            minimum_nano=chance.choice((0, chance.randrange(10**12))),
            rebates=_rebates(chance),
            taxes=_taxes(chance),
            calendar=calendar,
            period_day=period_day,
            blocks_by_occupancy=by_occupancy,
        )
        for number, start_ms in enumerate(starts, start=1)
    )


def _rebates(chance: Random) -> tuple[Rebate, ...]:
    rules = (
        Rebate("percent", rate_ppm=chance.randint(1, 300_000), bases=("energy",)),
        Rebate("amount", amount_nano=chance.randint(1, 10**11)),
        Rebate("kwh", per_kwh_micro=chance.randint(1, 5_000_000), limit_wh=50_000, source="grid"),
    )
    return tuple(rule for rule in rules if chance.random() < 0.4)


def _taxes(chance: Random) -> tuple[TaxRule, ...]:
    rules = [
        TaxRule(f"T{tax}", chance.randint(1, 400_000), chance.choice(BASES))
        for tax in range(chance.randint(0, 2))
    ]
    if chance.random() < 0.3:
        rules.append(TaxRule("duty", 0, (), chance.randint(1, 1_000_000), source="grid"))
    if chance.random() < 0.5:
        rate_ppm, inside = chance.randint(1, 200_000), chance.random() < 0.5
        rules.append(TaxRule("on recharge", rate_ppm, (), on_recharge=True, inclusive=inside))
    return tuple(rules)


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
