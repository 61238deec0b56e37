"""A lease is never below what is wanted, and heard of seldom."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.lease import (
    LEASE_S,
    LIMIT_MAX_W,
    NEVER_S,
    NO_LIMITS,
    UNLIMITED_WH,
    Grant,
    PowerLimits,
    Wanted,
    granted,
    limits_of,
    renewed,
)


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
        held = renewed(held, Wanted(registers_wh, wanted_wh), now_s) or held
        assert held is not None
        assert held.cutoff_wh >= wanted_wh
        assert now_s <= held.expires_s - LEASE_S // 2


def test_a_node_hears_seldom_of_use_at_the_usual_rate() -> None:
    """50 kWh used at a price a third above the cheapest: a handful of leases."""
    held: Grant | None = None
    heard = 0
    for used_wh in range(0, 50_000, 10):
        wanted_wh = used_wh + (50_000 - used_wh) * 4 // 3
        fresh = renewed(held, Wanted(used_wh, wanted_wh), 0)
        heard += fresh is not None
        held = fresh or held
    assert 1 < heard < 40


def test_nothing_beyond_the_counter_is_granted_while_supply_is_off_for_credit() -> None:
    """The margin is for who has credit; it is there again with the first of it."""
    cut = Wanted(1_000, 1_000, is_cut=True)
    held = renewed(None, cut, 0)
    assert held == Grant(1_000, LEASE_S)
    assert renewed(held, cut, 0) is None
    # The last Wh may come in later, and a meter may creep: that is no reason for another.
    assert renewed(held, Wanted(1_003, 1_003, is_cut=True), 0) is None
    # A lease from before with its margin is taken back.
    assert renewed(Grant(1_110, LEASE_S), cut, 0) == Grant(1_000, LEASE_S)
    assert renewed(held, Wanted(1_000, 1_001), 0) == Grant(1_101, LEASE_S)


def test_limits_are_granted_once_and_again_only_when_they_change() -> None:
    """With the counter of emergency credit, which has a margin as the cut-off has."""
    limits = PowerLimits(3_000, 1_000, 5_000)
    wanted = Wanted(0, 10_000, limits)
    held = renewed(None, wanted, 0)
    assert held is not None
    assert held.limits == PowerLimits(3_000, 1_000, 5_150)
    assert renewed(held, wanted, 0) is None
    for other in (NO_LIMITS, PowerLimits(2_000, 1_000, 5_000), PowerLimits(3_000, 999, 5_000)):
        fresh = renewed(held, Wanted(0, 10_000, other), 0)
        assert fresh is not None
        assert (fresh.limits.limit_w, fresh.limits.emergency_w) == (
            other.limit_w,
            other.emergency_w,
        )


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.integers(0, 2_000), st.booleans(), st.integers(0, 500)),
        min_size=1,
        max_size=30,
    )
)
def test_the_lower_limit_never_holds_before_emergency_credit_can(
    course: list[tuple[int, bool, int]],
) -> None:
    """After each look: not before it is in use, at once when it is, and never without one."""
    held: Grant | None = None
    registers_wh = 1
    for used_wh, offered, left_wh in course:
        registers_wh += used_wh
        begins_wh = registers_wh + left_wh if offered else 0
        limits = PowerLimits(0, 1_000 if offered else 0, begins_wh)
        held = renewed(held, Wanted(registers_wh, registers_wh + 10_000, limits), 0) or held
        assert held is not None
        if not offered:
            assert held.limits == NO_LIMITS
        elif left_wh:
            assert held.limits.emergency_wh >= begins_wh
        else:
            assert 0 < held.limits.emergency_wh <= registers_wh


def test_a_limit_that_a_node_cannot_measure_is_none_of_it() -> None:
    """Nor is one of emergency credit that nothing can begin."""
    assert limits_of(None, None, 5) == NO_LIMITS
    assert limits_of(LIMIT_MAX_W + 1, LIMIT_MAX_W + 1, 5) == NO_LIMITS
    assert limits_of(LIMIT_MAX_W, 1_000, UNLIMITED_WH) == PowerLimits(LIMIT_MAX_W)
    assert limits_of(None, 1_000, 5) == PowerLimits(0, 1_000, 5)


def test_a_lease_with_limits_is_one_though_it_cuts_nobody_for_credit() -> None:
    """A node without any lease is given it."""
    assert Grant(UNLIMITED_WH, 0).is_unlimited
    assert not Grant(UNLIMITED_WH, 0, PowerLimits(3_000)).is_unlimited
    held = Grant(UNLIMITED_WH, LEASE_S, PowerLimits(3_000))
    assert renewed(held, Wanted(5, UNLIMITED_WH, PowerLimits(3_000)), 0) is None
    assert renewed(held, Wanted(5, UNLIMITED_WH), 0) == Grant(UNLIMITED_WH, LEASE_S)


@given(
    st.integers(0, 10**6),
    st.lists(st.tuples(st.integers(-2_000, 2_000), st.booleans()), min_size=1, max_size=30),
)
def test_nothing_held_is_taken_back_while_the_clock_is_in_doubt(
    registers_wh: int, course: list[tuple[int, bool]]
) -> None:
    """A lease only rises then, and no node is given its first one."""
    held = Grant(registers_wh + 1_000, LEASE_S)
    credit_wh = 1_000
    for moved_wh, is_cut in course:
        credit_wh = max(0, credit_wh + moved_wh)
        wanted = Wanted(registers_wh, registers_wh + credit_wh, is_cut=is_cut)
        assert renewed(None, wanted, None) is None
        fresh = renewed(held, wanted, None)
        assert fresh is None or fresh.cutoff_wh > held.cutoff_wh
        held = fresh or held
        assert is_cut or held.cutoff_wh >= wanted.cutoff_wh


def test_when_a_lease_ends_is_told_once_the_clock_is_known() -> None:
    """In doubt it never ends, which cuts nobody; it is granted anew as soon as it may."""
    fresh = renewed(Grant(1_100, LEASE_S), Wanted(1_000, 2_000), None)
    assert fresh == Grant(2_110, NEVER_S)
    assert renewed(fresh, Wanted(1_000, 2_000), None) is None
    assert renewed(fresh, Wanted(1_000, 2_000), LEASE_S) == Grant(2_110, 2 * LEASE_S)


def test_limits_that_people_set_are_granted_in_doubt_too() -> None:
    """They are no matter of time."""
    held = Grant(5_000, LEASE_S, PowerLimits(1_000))
    wanted = Wanted(1_000, 2_000, PowerLimits(3_000))
    assert renewed(held, wanted, None) == Grant(5_000, NEVER_S, PowerLimits(3_000))


def test_what_credit_may_bring_after_the_lease_is_granted_for_its_end() -> None:
    """Not while it is in doubt when that is, nor to who is cut: there is no credit to last."""
    wanted = Wanted(1_000, 2_000, grace_wh=50_000)
    assert granted(wanted, 0) == Grant(2_110, LEASE_S, grace_wh=50_000)
    assert granted(wanted, None) == Grant(2_110, NEVER_S)
    assert granted(replace(wanted, is_cut=True), 0) == Grant(1_000, LEASE_S)
