"""A lease never cuts anybody who has credit, grows with it, and is heard of seldom."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.lease import (
    LEASE_S,
    UNLIMITED_WH,
    Grant,
    cutoff_wh,
    in_force,
    renewed,
)
from gateway.core.pricing import Pricer
from gateway.core.tariff import (
    ENERGY,
    FIXED,
    REBATE,
    Rebate,
    SourceTariff,
    Tariff,
    TaxRule,
    Window,
)

START_MS = 1_800_000_000_000
EVERY_DAY = frozenset(range(8))

prices = st.integers(0, 20_000_000)
taxes = st.builds(
    TaxRule,
    name=st.just("vat"),
    rate_ppm=st.integers(1, 300_000),
    bases=st.sampled_from([(ENERGY,), (ENERGY, FIXED), (ENERGY, FIXED, REBATE)]),
)
rebates = st.one_of(
    st.builds(Rebate, st.just("r"), rate_ppm=st.integers(1, 900_000), bases=st.just((ENERGY,))),
    st.builds(Rebate, st.just("r"), amount_nano=st.integers(1, 10**10)),
    st.builds(
        Rebate, st.just("r"), per_kwh_micro=st.integers(1, 5_000_000), limit_wh=st.just(5_000)
    ),
)


@st.composite
def tariffs(draw: st.DrawFn) -> Tariff:
    """Two bands, two blocks, perhaps a tax and a rebate."""
    rows = tuple((draw(prices), draw(prices)) for _ in range(2))
    night = Window("night", EVERY_DAY, 22 * 60, 6 * 60)
    source = SourceTariff("grid", ("day", "night"), (night,), "day", (3_000,), rows)
    return Tariff(
        "t",
        1,
        "T",
        "INR",
        "Asia/Kolkata",
        0,
        (source,),
        taxes=tuple(draw(st.lists(taxes, max_size=1))),
        rebates=tuple(draw(st.lists(rebates, max_size=1))),
    )


def used_until(pricer: Pricer, steps: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Wh used and nano owed after each step of (minutes, Wh)."""
    utc_ms, used_wh, seen = START_MS, 0, []
    for minutes, wh in steps:
        after_ms = utc_ms + minutes * 60_000
        pricer.advance((("grid", wh),), utc_ms, after_ms, gap_ms=60_000)
        utc_ms, used_wh = after_ms, used_wh + wh
        seen.append((used_wh, pricer.charged_nano()))
    return seen


@given(
    tariffs(),
    st.integers(0, 10**11),
    st.integers(0, 10**6),
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 3_000)), min_size=1, max_size=30),
)
def test_who_has_credit_is_below_the_cutoff(
    tariff: Tariff, available_nano: int, registers_wh: int, steps: list[tuple[int, int]]
) -> None:
    """Whatever is used, when and in which block: while something is left, the lease holds."""
    cutoff = cutoff_wh(registers_wh, available_nano, [tariff], "grid")
    assert isinstance(cutoff, int)
    for used_wh, owed_nano in used_until(Pricer([tariff], start_utc_ms=START_MS), steps):
        if owed_nano < available_nano:
            assert registers_wh + used_wh < cutoff or cutoff == UNLIMITED_WH


@given(tariffs(), st.integers(-(10**10), 10**11), st.integers(0, 10**10), st.integers(0, 10**6))
def test_more_credit_never_lowers_the_cutoff(
    tariff: Tariff, available_nano: int, more_nano: int, registers_wh: int
) -> None:
    """Monotone in the credit, and never behind the counter."""
    cutoff = cutoff_wh(registers_wh, available_nano, [tariff], "grid")
    assert (
        registers_wh
        <= cutoff
        <= cutoff_wh(registers_wh, available_nano + more_nano, [tariff], "grid")
    )


def plain(price_micro: int, version: int = 1, from_utc_ms: int = 0) -> Tariff:
    """One price."""
    source = SourceTariff("grid", ("all",), (), "all", (), ((price_micro,),))
    return Tariff("t", version, "T", "INR", "Asia/Kolkata", from_utc_ms, (source,))


def test_a_cheaper_version_to_come_counts_from_the_start() -> None:
    """8.00 now, 4.00 from the middle on: 80.00 may last for 20 kWh."""
    versions = [plain(8_000_000), plain(4_000_000, 2, START_MS + 1_000)]
    held = in_force(versions, START_MS, START_MS + 2_000)
    assert held == versions
    assert in_force(versions, START_MS, START_MS + 1_000) == versions[:1]
    assert in_force(versions, START_MS + 1_000, START_MS + 2_000) == versions[1:]
    assert 20_000 <= cutoff_wh(0, 80_000_000_000, held, "grid") <= 20_001
    assert 10_000 <= cutoff_wh(0, 80_000_000_000, versions[:1], "grid") <= 10_001


def test_free_energy_has_no_cutoff() -> None:
    """Nor has a source that no version prices."""
    assert cutoff_wh(5, 1, [plain(0)], "grid") == UNLIMITED_WH
    assert cutoff_wh(5, 1, [plain(1)], "generator") == UNLIMITED_WH
    assert cutoff_wh(5, 1, [], "grid") == UNLIMITED_WH


@given(
    st.integers(0, 10**6),
    st.lists(st.tuples(st.integers(0, 2_000_000), st.integers(0, 86_400)), max_size=30),
)
def test_what_is_held_is_never_below_what_is_wanted(
    registers_wh: int, course: list[tuple[int, int]]
) -> None:
    """After each look, whatever happened before."""
    held: Grant | None = None
    now_s = 0
    for credit_wh, passed_s in course:
        now_s += passed_s
        wanted_wh = registers_wh + credit_wh
        held = renewed(held, wanted_wh, registers_wh, now_s) or held
        assert held is not None
        assert held.cutoff_wh >= wanted_wh
        assert now_s <= held.expires_s - LEASE_S // 2


def test_a_node_hears_seldom_of_use_at_the_usual_rate() -> None:
    """50 kWh used at a price a third above the cheapest: a handful of leases."""
    held: Grant | None = None
    heard = 0
    for used_wh in range(0, 50_000, 10):
        wanted_wh = used_wh + (50_000 - used_wh) * 4 // 3
        fresh = renewed(held, wanted_wh, used_wh, 0)
        heard += fresh is not None
        held = fresh or held
    assert 1 < heard < 40
