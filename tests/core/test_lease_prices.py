"""No lease cuts anybody who still has credit, whatever is used when; nor is it far beyond that."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.civil import DAY_MS
from gateway.core.lease import LEASE_S, UNLIMITED_WH
from gateway.core.lease_prices import Outlook, cutoff_wh, in_force, outlook_of
from gateway.core.pricing import Counted, Pricer
from gateway.core.tariff import (
    DAILY,
    ENERGY,
    FIXED,
    MINIMUM,
    PERIOD_CLOSE,
    PERIOD_START,
    REBATE,
    Rebate,
    SourceTariff,
    Tariff,
    TaxRule,
    Window,
)

# 2027-01-15 13:30 in India; the month has 16 and a half days left.
START_MS = 1_800_000_000_000
MINUTE_MS = 60_000
EVERY_DAY = frozenset(range(8))
NIGHT = Window("night", EVERY_DAY, 22 * 60, 6 * 60)

Use = Sequence[tuple[int, int]]  # (minutes, Wh)

prices = st.one_of(st.just(0), st.integers(0, 20_000_000))
limits = st.lists(st.integers(1, 6_000), max_size=3, unique=True).map(sorted)
taxes = st.one_of(
    st.builds(
        TaxRule,
        name=st.just("vat"),
        rate_ppm=st.integers(1, 300_000),
        bases=st.sampled_from(
            [
                (ENERGY,),
                (ENERGY, FIXED),
                (ENERGY, REBATE),
                (FIXED, REBATE),
                (ENERGY, FIXED, MINIMUM, REBATE),
            ]
        ),
    ),
    st.builds(
        TaxRule,
        st.just("duty"),
        st.just(0),
        st.just(()),
        per_kwh_micro=st.integers(1, 1_000_000),
    ),
)
rebate_rules = st.one_of(
    st.builds(
        Rebate,
        st.just("percent"),
        rate_ppm=st.integers(1, 900_000),
        bases=st.sampled_from([(ENERGY,), (ENERGY, FIXED), (FIXED, MINIMUM)]),
    ),
    st.builds(Rebate, st.just("amount"), amount_nano=st.integers(1, 10**10)),
    st.builds(
        Rebate,
        st.just("first"),
        per_kwh_micro=st.integers(1, 8_000_000),
        limit_wh=st.integers(1, 6_000),
    ),
    st.builds(Rebate, st.just("each"), per_kwh_micro=st.integers(1, 3_000_000)),
)


@st.composite
def schedules(draw: st.DrawFn) -> list[Tariff]:
    """One version or two, each with two bands, some blocks, perhaps fees, taxes and rebates."""
    period_day, for_good = draw(st.sampled_from([0, 1, 16, 20, 28])), draw(st.booleans())
    begins = [0, START_MS + draw(st.integers(1, 8 * DAY_MS))][: draw(st.integers(1, 2))]
    return [
        Tariff(
            "t",
            number,
            "T",
            "INR",
            "Asia/Kolkata",
            begin,
            (draw(sources()),),
            fixed_fee_nano=draw(st.sampled_from([0, 3 * 10**9])),
            fee_collect=draw(st.sampled_from([DAILY, PERIOD_CLOSE, PERIOD_START])),
            minimum_nano=draw(st.sampled_from([0, 5 * 10**9])),
            taxes=tuple(draw(st.lists(taxes, max_size=2, unique_by=lambda rule: rule.name))),
            rebates=tuple(
                draw(st.lists(rebate_rules, max_size=2, unique_by=lambda rule: rule.name))
            ),
            period_day=period_day,
            blocks_by_occupancy=for_good,
        )
        for number, begin in enumerate(begins, 1)
    ]


@st.composite
def sources(draw: st.DrawFn) -> SourceTariff:
    """Prices of two bands in the same blocks."""
    found = tuple(draw(limits))
    rows = tuple(tuple(draw(prices) for _ in range(len(found) + 1)) for _ in range(2))
    return SourceTariff("grid", ("day", "night"), (NIGHT,), "day", found, rows)


steps = st.lists(st.tuples(st.integers(1, 1_000), st.integers(0, 3_000)), max_size=20)


def use(pricer: Pricer, course: Use, until_ms: int = 2**62) -> list[tuple[int, int]]:
    """Wh used and nano owed beyond now after each step of (minutes, Wh), up to an instant."""
    utc_ms, used_wh, before, seen = pricer.label_utc_ms, 0, pricer.charged_nano(), []
    for minutes, wh in course:
        after_ms = utc_ms + minutes * MINUTE_MS
        if after_ms > until_ms:
            break
        pricer.advance((("grid", wh),), utc_ms, after_ms, gap_ms=60_000)
        utc_ms, used_wh = after_ms, used_wh + wh
        seen.append((used_wh, pricer.charged_nano() - before))
    return seen


@st.composite
def accounts(draw: st.DrawFn) -> tuple[list[Tariff], Pricer]:
    """Versions and an account under them that has used something, perhaps of another tariff."""
    versions = draw(schedules())
    by_occupancy = versions[0].blocks_by_occupancy
    period = None if by_occupancy else Pricer(versions, start_utc_ms=START_MS).counted.period
    carried_wh = draw(st.integers(0, 5_000))
    counted = Counted(15, period, {"grid": carried_wh}) if draw(st.booleans()) else None
    pricer = Pricer(versions, start_utc_ms=START_MS, counted=counted)
    use(pricer, draw(steps))
    return versions, pricer


@pytest.mark.slow
@settings(max_examples=400)
@given(accounts(), st.integers(0, 5 * 10**10), st.integers(0, 10**6), st.integers(0, 20_000), steps)
def test_who_has_credit_is_below_the_cutoff(
    account: tuple[list[Tariff], Pricer],
    available_nano: int,
    registers_wh: int,
    away_minutes: int,
    after: list[tuple[int, int]],
) -> None:
    """Whatever was used before and is used then, in which band, block, period, version: while
    something is left, the lease holds. The node may not have been read for a while."""
    versions, pricer = account
    now_ms = pricer.label_utc_ms + away_minutes * MINUTE_MS
    cutoff = cutoff_wh(registers_wh, available_nano, outlook_of(pricer, versions, "grid", now_ms))
    assert isinstance(cutoff, int)
    for used_wh, owed_nano in use(pricer, after, now_ms + LEASE_S * 1_000):
        if owed_nano < available_nano:
            assert registers_wh + used_wh < cutoff or cutoff == UNLIMITED_WH


@pytest.mark.slow
@given(accounts(), st.integers(-(10**10), 10**11), st.integers(0, 10**10), st.integers(0, 10**6))
def test_more_credit_never_lowers_the_cutoff(
    account: tuple[list[Tariff], Pricer], available_nano: int, more_nano: int, registers_wh: int
) -> None:
    """Monotone in the credit, and never behind the counter; nor does a clock in doubt lower it."""
    versions, pricer = account
    outlook = outlook_of(pricer, versions, "grid", pricer.label_utc_ms)
    cutoff = cutoff_wh(registers_wh, available_nano, outlook)
    assert registers_wh <= cutoff <= cutoff_wh(registers_wh, available_nano + more_nano, outlook)
    undated = outlook_of(pricer, versions, "grid", None)
    assert cutoff <= cutoff_wh(registers_wh, available_nano, undated)


@pytest.mark.slow
@settings(max_examples=300)
@given(
    limits,
    st.lists(st.integers(1, 20_000_000), min_size=4, max_size=4).map(sorted),
    st.integers(0, 300_000),
    st.integers(1, 5 * 10**10),
    st.integers(0, 9_000),
)
def test_at_the_cutoff_the_credit_is_used_up(
    found: list[int], rising: list[int], rate_ppm: int, available_nano: int, used_wh: int
) -> None:
    """Where nothing depends on the time, the lease is no more generous than it has to be."""
    row = (0, *rising)[: len(found) + 1] if found else (rising[0],)
    source = SourceTariff("grid", ("all",), (), "all", tuple(found), (tuple(row),))
    vat = TaxRule("vat", rate_ppm, (ENERGY,))
    tariff = replace(plain(0), sources=(source,), taxes=(vat,) if rate_ppm else ())
    pricer = Pricer([tariff], start_utc_ms=START_MS)
    use(pricer, [(60, used_wh)])
    lasts_wh = cutoff_wh(0, available_nano, outlook_of(pricer, [tariff], "grid", START_MS))
    ((_, owed_nano),) = use(pricer, [(1, lasts_wh)])
    assert owed_nano >= available_nano or lasts_wh == UNLIMITED_WH


def plain(price_micro: int, version: int = 1, from_utc_ms: int = 0) -> Tariff:
    """One price."""
    source = SourceTariff("grid", ("all",), (), "all", (), ((price_micro,),))
    return Tariff("t", version, "T", "INR", "Asia/Kolkata", from_utc_ms, (source,))


def blocks(*priced: int) -> Tariff:
    """50 kWh of each price, the last without an end."""
    ends = tuple(50_000 * number for number in range(1, len(priced)))
    source = SourceTariff("grid", ("all",), (), "all", ends, (priced,))
    return replace(plain(0), sources=(source,))


def lasts(tariff: Tariff, used_wh: int, available_nano: int, now_ms: int = START_MS) -> int:
    """How many Wh a lease gives for a credit, after some were used in this month."""
    pricer = Pricer([tariff], start_utc_ms=START_MS - DAY_MS)
    pricer.advance({"grid": used_wh}, START_MS - DAY_MS, now_ms)
    return cutoff_wh(7, available_nano, outlook_of(pricer, [tariff], "grid", now_ms)) - 7


CREDIT_NANO = 80 * 10**9


@pytest.mark.parametrize(("used_wh", "free_wh"), [(0, 50_000), (20_000, 30_000), (60_000, 0)])
def test_free_kilowatt_hours_of_a_month_end_with_them(used_wh: int, free_wh: int) -> None:
    """50 kWh are free, then 8.00: what is left of them, and 10 kWh for 80.00."""
    free_first = blocks(0, 8_000_000)
    assert lasts(free_first, used_wh, CREDIT_NANO) == free_wh + 10_001
    # The month ends within a week: those of the next one may be used too.
    near_ms = START_MS + 10 * DAY_MS
    assert lasts(free_first, used_wh, CREDIT_NANO, near_ms) == free_wh + 50_000 + 10_001
    # For good where blocks count as long as the account lasts.
    for_good = replace(free_first, blocks_by_occupancy=True)
    assert lasts(for_good, used_wh, CREDIT_NANO, near_ms) == free_wh + 10_001


def test_free_kilowatt_hours_of_two_months_to_come_are_there_for_who_stays_alone() -> None:
    """Whenever the lease ends: 50 kWh in each of three months, and 10 kWh for 80.00."""
    tariff = blocks(0, 8_000_000)
    pricer = Pricer([tariff], start_utc_ms=START_MS)
    lasts_wh = cutoff_wh(0, CREDIT_NANO, outlook_of(pricer, [tariff], "grid", None))
    month = [(1, 50_000), (31 * 1_440, 0)]
    *_, last, (used_wh, owed_nano) = use(pricer, [*month, *month, (1, 50_000), (1, 9_999), (1, 1)])
    assert last[1] < CREDIT_NANO == owed_nano
    assert lasts_wh == used_wh + 1


def test_dearer_blocks_are_counted_as_such() -> None:
    """45 of 50 kWh at 4.00 are used: 5 more of them, then 60.00 at 8.00."""
    assert lasts(blocks(4_000_000, 8_000_000), 45_000, CREDIT_NANO) == 5_000 + 7_501


@pytest.mark.parametrize(("used_wh", "rebated_wh"), [(0, 50_000), (20_000, 30_000), (60_000, 0)])
def test_a_rebate_that_covers_all_ends_where_it_ends(used_wh: int, rebated_wh: int) -> None:
    """8.00 off the first 50 kWh of a month, at a price of 8.00."""
    rebate = Rebate("r", per_kwh_micro=8_000_000, limit_wh=50_000)
    tariff = replace(plain(8_000_000), rebates=(rebate,))
    # While it takes all that there is, none of it is known to be used up.
    wh = 50_000 if used_wh < 50_000 else rebated_wh
    assert lasts(tariff, used_wh, CREDIT_NANO) == wh + 10_001


def test_a_tax_that_falls_with_a_rebate_is_credit_too() -> None:
    """10 kWh at 8.00, half of it rebated, and 30 % of that less on a fee of 100.00: 28.00."""
    tariff = replace(
        plain(8_000_000),
        fixed_fee_nano=100 * 10**9,
        fee_collect=PERIOD_START,
        taxes=(TaxRule("vat", 300_000, (FIXED, REBATE)),),
        rebates=(Rebate("half", rate_ppm=500_000, bases=(ENERGY,)),),
    )
    pricer = Pricer([tariff], start_utc_ms=START_MS)
    lasts_wh = cutoff_wh(0, 28 * 10**9, outlook_of(pricer, [tariff], "grid", START_MS))
    assert use(pricer, [(1, 10_000)]) == [(10_000, 28 * 10**9)]
    assert 10_000 <= lasts_wh <= 10_010


def test_what_a_rebate_gives_back_under_one_version_is_used_under_the_next() -> None:
    """10 kWh at 0 with a rebate of 100.00, and 30.00 less of tax: 10 kWh at 13.00."""
    priced = SourceTariff(
        "grid", ("all",), (), "all", (50_000, 60_000), ((12 * 10**6, 0, 13 * 10**6),)
    )
    first = replace(
        plain(0),
        sources=(priced,),
        taxes=(TaxRule("vat", 300_000, (ENERGY, REBATE)),),
        rebates=(Rebate("r", per_kwh_micro=10_000_000, limit_wh=60_000),),
    )
    versions = [first, plain(13_000_000, 2, START_MS + DAY_MS)]
    pricer = Pricer(versions, start_utc_ms=START_MS)
    use(pricer, [(1, 50_000)])
    lasts_wh = cutoff_wh(0, 0, outlook_of(pricer, versions, "grid", START_MS))
    assert use(pricer, [(1, 10_000), (1_440, 0), (1, 10_000)])[-1] == (20_000, 0)
    assert 20_000 <= lasts_wh <= 20_010


def test_a_rebate_on_a_fee_lets_a_tax_fall_when_it_is_charged() -> None:
    """A fee of 31.00 is rebated whole, and the tax on energy less rebates with it."""
    tariff = replace(
        plain(10_000_000),
        fixed_fee_nano=31 * 10**9,
        fee_collect=DAILY,
        taxes=(TaxRule("vat", 300_000, (ENERGY, REBATE)),),
        rebates=(Rebate("fee", rate_ppm=1_000_000, bases=(FIXED,)),),
    )
    pricer = Pricer([tariff], start_utc_ms=START_MS)
    use(pricer, [(1, 10_000)])
    lasts_wh = cutoff_wh(0, 1, outlook_of(pricer, [tariff], "grid", START_MS))
    # Seven days of it, 1.00 each: 0.30 of tax a day.
    ((_, nothing), (used_wh, owed_nano)) = use(pricer, [(7 * 1_440, 0), (1, 161)])
    assert (nothing, owed_nano) == (-2_100_000_000, -7_000_000)
    assert used_wh < lasts_wh


def test_a_cheaper_version_to_come_counts_from_the_start() -> None:
    """8.00 now, 4.00 from the middle on: 80.00 may last for 20 kWh."""
    versions = [plain(8_000_000), plain(4_000_000, 2, START_MS + 1_000)]
    held = in_force(versions, START_MS, START_MS + 2_000)
    assert held == versions
    assert in_force(versions, START_MS, START_MS + 1_000) == versions[:1]
    assert in_force(versions, START_MS + 1_000, START_MS + 2_000) == versions[1:]
    assert 20_000 <= cutoff_wh(0, CREDIT_NANO, Outlook(held, "grid")) <= 20_001
    assert 10_000 <= cutoff_wh(0, CREDIT_NANO, Outlook(versions[:1], "grid")) <= 10_001


def test_energy_that_is_free_without_end_has_no_cutoff() -> None:
    """Nor has a source that no version prices, or a rebate by which use lowers what is owed."""
    assert cutoff_wh(5, 1, Outlook([plain(0)], "grid")) == UNLIMITED_WH
    assert cutoff_wh(5, 1, Outlook([plain(1)], "generator")) == UNLIMITED_WH
    assert cutoff_wh(5, 1, Outlook([], "grid")) == UNLIMITED_WH
    assert cutoff_wh(5, 1, Outlook([blocks(8_000_000, 0)], "grid")) == UNLIMITED_WH
    paying = replace(blocks(1_000_000, 8_000_000), rebates=(Rebate("r", per_kwh_micro=2_000_000),))
    assert cutoff_wh(5, 1, Outlook([paying], "grid")) == UNLIMITED_WH
