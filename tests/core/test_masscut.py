"""The mass-cut breaker: a rate that cannot be exceeded and a halt that needs two people."""

import pytest

from gateway.core.errors import RefusedError
from gateway.core.masscut import NS, MassCutBreaker, MassCutLimits


def fall_due(breaker: MassCutBreaker, count: int, *, points: int = 800) -> None:
    """Let `count` points fall due in one pass at t=0."""
    for index in range(count):
        breaker.due(f"p{index}", 0, points)


def admitted(breaker: MassCutBreaker, at_s: int, *, tries: int = 500, points: int = 800) -> int:
    """How many cuts pass at `at_s`."""
    return sum(breaker.admit(at_s * NS, points) for _ in range(tries))


def test_rate_limit_lets_forty_of_eight_hundred_through_per_window() -> None:
    """D11: 120 due in one pass are cut 40 at a time, ten minutes apart, without a halt."""
    breaker = MassCutBreaker(MassCutLimits())
    fall_due(breaker, 120)
    assert not breaker.halted
    assert [admitted(breaker, at_s) for at_s in (0, 300, 599, 600, 1200)] == [40, 0, 0, 40, 40]


def test_thirty_percent_due_at_once_halts_all_cuts() -> None:
    """D12: 240 of 800 due in one pass look like bad data: no cut until two managers release."""
    breaker = MassCutBreaker(MassCutLimits())
    fall_due(breaker, 240)
    assert breaker.halted
    assert admitted(breaker, 0) == 0
    assert not breaker.release("anna")
    with pytest.raises(RefusedError) as same:
        breaker.release("anna")
    assert same.value.refusal_code == "SAME_PERSON"
    assert breaker.release("bert")
    assert admitted(breaker, 1) == 40


def test_the_same_point_falling_due_twice_counts_once() -> None:
    """A point at the edge must not add up to a halt by itself."""
    breaker = MassCutBreaker(MassCutLimits())
    for _ in range(500):
        breaker.due("p1", 0, 800)
    assert not breaker.halted


def test_slow_arrivals_do_not_halt() -> None:
    """240 points over ten minutes are a normal evening."""
    breaker = MassCutBreaker(MassCutLimits())
    for index in range(240):
        breaker.due(f"p{index}", index * 3 * NS, 800)
    assert not breaker.halted


def test_small_site_may_cut_its_few_points() -> None:
    """The first of three flats is 33 % of the site and no sign of bad data."""
    breaker = MassCutBreaker(MassCutLimits())
    assert not breaker.due("p1", 0, 3)
    assert admitted(breaker, 0, points=3) == 10


def test_release_without_halt_is_refused() -> None:
    """There is nothing to release."""
    with pytest.raises(RefusedError) as refused:
        MassCutBreaker(MassCutLimits()).release("anna")
    assert refused.value.refusal_code == "NOT_HALTED"


def test_halt_and_rate_survive_a_restart() -> None:
    """A restart is no way around the breaker."""
    breaker = MassCutBreaker(MassCutLimits())
    assert admitted(breaker, 0) == 40
    fall_due(breaker, 240)
    breaker.release("anna")
    again = MassCutBreaker(MassCutLimits())
    again.restore(breaker.snapshot(100 * NS), now_ns=5 * NS, elapsed_ms=20_000)
    assert again.halted
    assert again.release("bert")
    assert admitted(again, 400) == 0
    assert admitted(again, 490) == 40
