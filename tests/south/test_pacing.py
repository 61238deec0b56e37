"""Deadlines, back-off, phases and histograms."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.figures import Histogram
from gateway.south.pacing import WINDOW, RoundTrips, backoff_s, phases_ns


def observed(cap_s: float, round_trip_s: float, windows: int = 40) -> RoundTrips:
    """A meter that always answered in this time."""
    round_trips = RoundTrips(cap_s)
    for _ in range(windows * WINDOW):
        round_trips.observe(round_trip_s)
    return round_trips


@pytest.mark.parametrize(
    ("cap_s", "round_trip_s", "deadline_s"),
    [
        (1.0, 0.02, 0.25),
        (1.0, 0.1, 0.4),
        (1.0, 0.6, 1.0),
        (5.0, 0.9, 2.0),
        (0.1, 0.02, 0.1),
    ],
)
def test_the_deadline_is_four_times_the_95th_percentile_within_bounds(
    cap_s: float, round_trip_s: float, deadline_s: float
) -> None:
    """Not below 0.25 s, not above 2 s, and never above the configured timeout."""
    assert observed(cap_s, round_trip_s).deadline_s == pytest.approx(deadline_s)


def test_the_deadline_is_the_cap_until_enough_was_seen() -> None:
    """Nineteen quick replies prove nothing yet."""
    round_trips = RoundTrips(1.0)
    for _ in range(WINDOW - 1):
        round_trips.observe(0.001)
    assert round_trips.deadline_s == 1.0
    round_trips.observe(0.001)
    assert round_trips.deadline_s == 0.25


def test_one_slow_reply_in_twenty_does_not_move_the_deadline() -> None:
    """The 95th percentile ignores a single straggler of a window."""
    round_trips = observed(2.0, 0.1)
    for at in range(10 * WINDOW):
        round_trips.observe(1.9 if at % WINDOW == 0 else 0.1)
    assert round_trips.deadline_s == pytest.approx(0.4)


def test_a_meter_that_became_slow_gets_more_time() -> None:
    """Each timeout doubles the deadline up to the cap, or the meter could never be heard again."""
    round_trips = observed(2.0, 0.02)
    deadlines = []
    for _ in range(5):
        round_trips.timed_out()
        deadlines.append(round_trips.deadline_s)
    assert deadlines == pytest.approx([0.5, 1.0, 2.0, 2.0, 2.0])


@given(st.lists(st.floats(0, 10) | st.none(), max_size=200), st.floats(0.01, 10))
def test_the_deadline_never_leaves_its_bounds(trips: list[float | None], cap_s: float) -> None:
    """Whatever was measured, None standing for a timeout."""
    round_trips = RoundTrips(cap_s)
    for trip_s in trips:
        if trip_s is None:
            round_trips.timed_out()
        else:
            round_trips.observe(trip_s)
        assert min(0.25, cap_s) <= round_trips.deadline_s <= min(cap_s, 2.0)


def test_back_off_is_full_jitter_under_a_doubling_ceiling() -> None:
    """Ceilings 0.5, 1, 2 … 60 s; anything from a tenth of a second up to them."""
    seed = random.Random(3)
    for failures, ceiling_s in ((1, 0.5), (2, 1.0), (4, 4.0), (8, 60.0), (10_000, 60.0)):
        pauses = [backoff_s(failures, seed) for _ in range(400)]
        assert 0.1 <= min(pauses) < 0.1 + ceiling_s / 10
        assert 0.9 * ceiling_s < max(pauses) <= ceiling_s


def test_phases_are_even_stable_and_keep_neighbours_apart() -> None:
    """Every meter has a place of its own that the order of the list does not move."""
    ids = [f"flat-{number}" for number in range(100, 200)]
    phases = phases_ns(ids, 1_000_000_000)
    assert sorted(phases) == [place * 10_000_000 for place in range(100)]
    backwards = phases_ns(ids[::-1], 1_000_000_000)
    assert backwards == phases[::-1]
    gaps = [abs(one - other) for one, other in pairwise(phases)]
    assert sum(gap > 50_000_000 for gap in gaps) > 80


def test_a_histogram_counts_by_upper_bound() -> None:
    """A duration on the bound belongs to it; quantiles are upper bounds."""
    histogram = Histogram()
    for milliseconds in (0.5, 1.0, 1.5, 40, 40, 40, 40, 40, 40, 9999):
        histogram.observe(milliseconds / 1000)
    assert histogram.count == 10
    assert histogram.counts[0] == 2
    assert histogram.quantile_ms(0.2) == 1.0
    assert histogram.quantile_ms(0.5) == 50.0
    assert histogram.quantile_ms(1.0) == float("inf")
    assert histogram.total_s == pytest.approx(10.242)
