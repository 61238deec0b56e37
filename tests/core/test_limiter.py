"""The load limiter: trips on good readings only, comes back by itself, locks out in the end."""

import pytest

from gateway.core.errors import RefusedError
from gateway.core.limiter import Limiter, LimiterRules, LimiterState, Limits, check_limit
from gateway.core.proof import NS, Observation
from gateway.core.supply import Supply
from gateway.core.switching import Reason, SupplyPolicy
from tests.core.test_prepaid_cases import listed, part

GRID = Limits({"grid": 5_000, "generator": 2_000}, emergency_w=1_000)


def feed(limiter: Limiter, power_w: float, *, seconds: range, source: str = "grid") -> list[int]:
    """One reading a second; the seconds at which it tripped."""
    return [
        second
        for second in seconds
        if limiter.observe(second * NS, power_w, source, emergency=False)
    ]


def test_d01_constant_overload_trips_four_times_and_locks_out() -> None:
    """30 s on, 120 s off; the fourth trip locks out; 200 Wh flowed, with supply and switch."""
    given, expect = part("D01", "given"), part("D01", "expect")
    rules = LimiterRules(
        over_s=float(given["over_s"]),
        restore_s=float(given["restore_s"]),
        max_trips=int(given["max_trips"]),
        window_s=float(given["window_s"]),
    )
    policy = SupplyPolicy(returns_by_itself=frozenset({Reason.OVERLOAD}))
    limiter = Limiter(rules, Limits({"grid": int(given["limit_w"])}))
    supply, closed = Supply(policy, limiter), True
    supply.enforced = True
    load_w, joules, trips = float(given["load_w"]), 0.0, []
    for second in range(482):
        now_ns = second * NS
        if limiter.pass_time(now_ns):
            supply.settle_overload()
        closed = act(supply, now_ns, closed=closed)
        power_w = load_w if closed else 0.0
        for moment_ns in (now_ns, now_ns + NS // 2):
            supply.observe(
                Observation(moment_ns, closed, round(joules / 3600), power_w / 230, power_w)
            )
        if supply.limit(now_ns, power_w, "grid"):
            trips.append(second)
        closed = act(supply, now_ns, closed=closed)
        joules += load_w if closed else 0.0
    assert [str(second) for second in trips] == listed("D01", "expect", "trips_s")
    assert limiter.state.value.upper() == expect["state_at_481"]
    assert round(joules / 3600) == int(expect["energy_wh"])
    assert supply.reasons == {Reason.OVERLOAD}


def act(supply: Supply, now_ns: int, *, closed: bool) -> bool:
    """Let a contactor follow what the machine wants at once; whether it is closed then."""
    close = supply.wants(now_ns)
    if close is None:
        return closed
    supply.order(now_ns, close=close)
    supply.sent(now_ns)
    supply.observe(Observation(now_ns, close, 0, 0.0, 0.0))
    return close


def test_a_moment_below_the_limit_begins_anew() -> None:
    """29 s over, one reading at the limit, 29 s over: no trip."""
    limiter = Limiter(limits=GRID)
    assert feed(limiter, 5_001, seconds=range(30)) == []
    assert feed(limiter, 5_000, seconds=range(30, 31)) == []
    assert feed(limiter, 5_001, seconds=range(31, 61)) == []
    assert feed(limiter, 5_001, seconds=range(61, 62)) == [61]


def test_a_gap_counts_no_longer_than_a_reading_holds() -> None:
    """Nobody saw what flowed for an hour: two readings over the limit are no half minute of it."""
    limiter = Limiter(limits=GRID)
    assert not limiter.observe(0, 6_000, "grid", emergency=False)
    assert not limiter.observe(3_600 * NS, 6_000, "grid", emergency=False)
    assert feed(limiter, 6_000, seconds=range(3_601, 3_626)) == [3_625]


@pytest.mark.parametrize(
    ("source", "emergency", "limit_w"),
    [
        ("grid", False, 5_000),
        ("generator", False, 2_000),
        ("grid", True, 1_000),
        ("generator", True, 1_000),
        ("solar", False, None),
        ("solar", True, 1_000),
    ],
)
def test_the_lowest_limit_that_applies_holds(
    source: str, *, emergency: bool, limit_w: int | None
) -> None:
    """By source, and lower while emergency credit is in use."""
    assert GRID.limit_w(source, emergency=emergency) == limit_w


def test_a_lower_emergency_limit_never_raises_a_source_limit() -> None:
    """Emergency credit gives no more power than the source."""
    assert Limits({"grid": 500}, emergency_w=1_000).limit_w("grid", emergency=True) == 500


def test_trips_far_apart_do_not_lock_out() -> None:
    """Four trips, the first more than the window ago."""
    limiter = Limiter(limits=GRID)
    for start in (0, 700, 1_400, 2_100):
        assert len(feed(limiter, 6_000, seconds=range(start, start + 31))) == 1
        assert limiter.state is LimiterState.TRIPPED
        assert limiter.pass_time((start + 200) * NS)


def test_a_lock_out_waits_for_a_person() -> None:
    """Time alone never ends it; unlocking forgets the trips before."""
    limiter = Limiter(LimiterRules(max_trips=1), GRID)
    feed(limiter, 6_000, seconds=range(31))
    assert not limiter.pass_time(10**9 * NS)
    assert limiter.state is LimiterState.LOCKED_OUT
    limiter.unlock()
    assert not limiter.blocks
    with pytest.raises(RefusedError) as refused:
        limiter.unlock()
    assert refused.value.refusal_code == "NOT_LOCKED"


@pytest.mark.parametrize(("elapsed_ms", "over"), [(0, False), (60_000, False), (119_000, True)])
def test_a_trip_survives_a_restart(elapsed_ms: int, *, over: bool) -> None:
    """What is left of the wait goes on, less the time that the process was away."""
    limiter = Limiter(limits=GRID)
    feed(limiter, 6_000, seconds=range(31))
    again = Limiter(limits=GRID)
    again.restore(limiter.snapshot(31 * NS), 5_000 * NS, elapsed_ms)
    assert again.state is LimiterState.TRIPPED
    assert again.pass_time(5_000 * NS) is over


def test_trips_before_a_restart_count_to_the_lock_out() -> None:
    """Pulling the gateway's plug is no way out of it."""
    rules = LimiterRules(max_trips=2)
    limiter = Limiter(rules, GRID)
    feed(limiter, 6_000, seconds=range(31))
    assert limiter.pass_time(160 * NS)
    again = Limiter(rules, GRID)
    again.restore(limiter.snapshot(160 * NS), 9_000 * NS, 10_000)
    feed(again, 6_000, seconds=range(9_000, 9_031))
    assert again.state is LimiterState.LOCKED_OUT


@pytest.mark.parametrize("limit_w", [-1, 10_000_001])
def test_a_limit_that_nobody_means_is_refused(limit_w: int) -> None:
    """Below zero or beyond what any point draws, with the field that is wrong."""
    with pytest.raises(RefusedError) as refused:
        check_limit(limit_w, "limit_t1_w")
    assert (refused.value.refusal_code, refused.value.place) == ("LIMIT_RANGE", "limit_t1_w")


def test_an_output_that_somebody_opened_during_a_trip_waits_for_a_person() -> None:
    """Whoever opened it may be working there: nothing comes back by itself."""
    policy = SupplyPolicy(returns_by_itself=frozenset({Reason.OVERLOAD}))
    supply = Supply(policy, Limiter(LimiterRules(over_s=1), Limits({"grid": 100})))
    supply.enforced = True
    for second in range(3):
        supply.observe(Observation(second * NS, True, 0, 10.0, 2_300.0))
        supply.limit(second * NS, 2_300.0, "grid")
    assert supply.reasons == {Reason.OVERLOAD}
    for second in range(3, 400):
        supply.observe(Observation(second * NS, False, 0, 0.0, 0.0))
        supply.limiter.pass_time(second * NS)
        supply.settle_overload()
    assert supply.reasons == set()
    assert supply.wants(399 * NS) is None
    supply.confirm(399 * NS)
    assert supply.wants(399 * NS) is True


def test_a_trip_that_a_meter_made_alone_counts_as_one_of_ours() -> None:
    """Once, until it is over; the fourth within the window locks out."""
    limiter = Limiter(LimiterRules(), GRID)
    for count in range(1, 5):
        now_ns = count * 200 * NS
        assert limiter.tripped_by_itself(now_ns)
        assert not limiter.tripped_by_itself(now_ns + NS)
        assert limiter.pass_time(now_ns + 120 * NS) is (count < 4)
    assert limiter.state is LimiterState.LOCKED_OUT
    assert not limiter.tripped_by_itself(10_000 * NS)
