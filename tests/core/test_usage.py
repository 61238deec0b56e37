"""What a point uses by hour and weekday: learned from half hours, with less and less guessing."""

import json
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.civil import HALF_HOUR_MS
from gateway.core.errors import RefusedError
from gateway.core.interval import Interval
from gateway.core.usage import (
    CELLS,
    PARTS_PER_WH,
    Confidence,
    UsageProfile,
    profile_of_intervals,
)
from gateway.core.usage_curve import UsageCurve

KOLKATA = ZoneInfo("Asia/Kolkata")
BERLIN = ZoneInfo("Europe/Berlin")
DAY_MS = 86_400_000
HOUR_MS = 3_600_000
MONDAY = round(datetime(2026, 11, 2, tzinfo=KOLKATA).timestamp() * 1_000)


def half_hour(start: int, *wh: int, estimated: bool = False) -> Interval:
    """A half hour with so many Wh per register."""
    return Interval(start, start + HALF_HOUR_MS, wh or (0,), None, 1, estimated)


def learned(
    count: int, wh: Callable[[int], int], *, start: int = MONDAY, zone: ZoneInfo = KOLKATA
) -> UsageProfile:
    """A profile of `count` half hours with `wh(number)` each."""
    profile = UsageProfile(zone, 1)
    for number in range(count):
        assert profile.learn(half_hour(start + number * HALF_HOUR_MS, wh(number)))
    return profile


def wh_of(profile: UsageProfile) -> list[float]:
    """Expected Wh of each hour of the week."""
    hourly = profile.hourly()
    assert hourly is not None
    return [parts / PARTS_PER_WH for parts in hourly]


def test_nothing_is_known_before_an_hour_of_data() -> None:
    """An empty profile is None, not a number."""
    assert UsageProfile(KOLKATA, 1).hourly() is None
    assert learned(1, lambda _: 100).hourly() is None
    assert UsageProfile(KOLKATA, 1).confidence(MONDAY) is Confidence.NONE


def test_the_first_hours_stand_for_all_then_hours_of_day_then_each_hour() -> None:
    """Mean, hour of day, hour of week: each takes over as soon as it has an hour of data."""
    assert wh_of(learned(4, lambda number: 50 if number < 2 else 150)) == [
        100, 300, *[200] * 22, *([100, 300, *[200] * 22] * 6),
    ]  # fmt: skip
    by_day = learned(2 * 48, lambda number: 10 + number % 48)
    assert wh_of(by_day)[:24] == [2 * 10 + 4 * hour + 1 for hour in range(24)]
    assert wh_of(by_day)[5 * 24 : 6 * 24] == wh_of(by_day)[:24]
    by_week = learned(7 * 48, lambda number: 1 + number)
    assert wh_of(by_week) == [2 + 4 * hour + 1 for hour in range(CELLS)]


def test_a_changed_habit_shows_within_weeks_and_one_odd_day_does_not() -> None:
    """Past four weeks each half hour counts a ninth."""
    steady = learned(5 * 336, lambda _: 100)
    week = 5 * 336
    for number in range(336):
        steady.learn(half_hour(MONDAY + (week + number) * HALF_HOUR_MS, 1_000))
    after_one = wh_of(steady)[0]
    assert 500 < after_one < 620  # two half hours of 1,000 among 100s
    for number in range(336, 8 * 336):
        steady.learn(half_hour(MONDAY + (week + number) * HALF_HOUR_MS, 1_000))
    assert wh_of(steady)[0] > 1_650


def test_half_hours_without_supply_are_no_habit() -> None:
    """Being cut off for a week must not make the credit look as if it lasts for ever."""
    profile = learned(336, lambda _: 500)
    for number in range(336, 672):
        assert not profile.learn(half_hour(MONDAY + number * HALF_HOUR_MS, 0), supply_off=True)
    assert set(wh_of(profile)) == {1_000}


def test_estimated_half_hours_count_a_quarter() -> None:
    """Among two measured ones of 100 an estimated 1,000 moves the mean by about a tenth."""
    profile = learned(2, lambda _: 100)
    assert profile.learn(half_hour(MONDAY + 7 * DAY_MS, 1_000, estimated=True))
    # (200 x 60 min + 2,000 x 7 min) / 67 min
    assert wh_of(profile)[0] == pytest.approx(388.06, abs=0.02)


def test_means_round_up() -> None:
    """Rates of 2, 2 and 4 Wh an hour are 170.67 64ths of a Wh: 171."""
    profile = learned(2, lambda _: 1)
    profile.learn(half_hour(MONDAY + 7 * DAY_MS, 2))
    assert (profile.hourly() or ())[0] == 171


def test_a_half_hour_is_taken_once() -> None:
    """Repeats and older ones change nothing."""
    profile = learned(4, lambda _: 100)
    before = profile.snapshot()
    assert not profile.learn(half_hour(MONDAY + 3 * HALF_HOUR_MS, 9_999))
    assert not profile.learn(half_hour(MONDAY, 9_999))
    assert profile.snapshot() == before


def test_what_is_no_half_hour_is_left_out() -> None:
    """Without length, far too long, negative; a wrong number of registers is a mistake."""
    profile = UsageProfile(KOLKATA, 1)
    for length in (0, -HALF_HOUR_MS, DAY_MS):
        assert not profile.learn(Interval(MONDAY, MONDAY + length, (5,), None, 1, estimated=False))
    assert not profile.learn(half_hour(MONDAY, -1))
    with pytest.raises(ValueError, match="registers"):
        profile.learn(half_hour(MONDAY, 1, 2))


def test_sources_share_by_what_they_gave_of_late() -> None:
    """Three quarters grid, a quarter generator; the first register alone without data."""
    profile = UsageProfile(KOLKATA, 2)
    assert profile.shares() == (1, 0)
    for number in range(48):
        profile.learn(half_hour(MONDAY + number * HALF_HOUR_MS, 300, 100))
    grid, generator = profile.shares()
    assert grid == 3 * generator
    curve = UsageCurve(profile, ("grid", "generator"), KOLKATA, MONDAY, 60)
    assert dict(curve.between(MONDAY, MONDAY + DAY_MS)) == {
        "grid": 24 * 600,
        "generator": 24 * 200,
    }
    both = UsageCurve(profile, ("grid", "grid"), KOLKATA, MONDAY, 60)
    assert both.between(MONDAY, MONDAY + DAY_MS) == [("grid", 24 * 800)]


def test_confidence_grows_with_data_and_fades_with_its_age() -> None:
    """Two days, two weeks; nothing new for a week is little again."""
    assert learned(95, lambda _: 1).confidence(MONDAY + 2 * DAY_MS) is Confidence.LOW
    assert learned(96, lambda _: 1).confidence(MONDAY + 2 * DAY_MS) is Confidence.FAIR
    fortnight = learned(14 * 48, lambda _: 1)
    assert fortnight.confidence(MONDAY + 14 * DAY_MS) is Confidence.GOOD
    assert fortnight.confidence(MONDAY + 22 * DAY_MS) is Confidence.LOW


def test_a_snapshot_is_small_and_complete() -> None:
    """Under 1.5 kB of JSON, and learning goes on as if nothing had been."""
    profile = UsageProfile(KOLKATA, 2)
    for number in range(20 * 48):
        profile.learn(half_hour(MONDAY + number * HALF_HOUR_MS, 10**7 + number, 7 * 10**6))
    text = json.dumps(profile.snapshot())
    assert len(text) < 1_500
    again = UsageProfile.restore(KOLKATA, json.loads(text))
    assert (again.hourly(), again.shares()) == (profile.hourly(), profile.shares())
    following = half_hour(MONDAY + 20 * DAY_MS, 3, 4)
    assert profile.learn(following)
    assert again.learn(following)
    assert again.snapshot() == profile.snapshot()


@pytest.mark.parametrize(
    "change",
    [
        {"cells": "AAAA"}, {"cells": "not base64!"}, {"cells": None}, {"layout": 2},
        {"by_register": []}, {"by_register": [-1]}, {"by_register": 5}, {"learned_min": "x"},
        {"learned_min": -1},
    ],
)  # fmt: skip
def test_a_damaged_snapshot_is_refused(change: dict[str, object]) -> None:
    """Control then starts with an empty profile instead of ending."""
    state = {**learned(4, lambda _: 1).snapshot(), **change}
    with pytest.raises(RefusedError) as refusal:
        UsageProfile.restore(KOLKATA, state)
    assert refusal.value.refusal_code == "USAGE_STATE"
    with pytest.raises(RefusedError):
        UsageProfile.restore(KOLKATA, {})


def test_intervals_of_the_store_become_a_profile() -> None:
    """Those that touch an outage of supply and those of another meter are left out."""
    intervals = [half_hour(MONDAY + number * HALF_HOUR_MS, 100) for number in range(96)]
    intervals[10] = half_hour(intervals[10].start_utc_ms, 7, 7)
    off = (intervals[20].start_utc_ms + 1, intervals[22].start_utc_ms)
    intervals[20] = half_hour(intervals[20].start_utc_ms, 0)
    intervals[21] = half_hour(intervals[21].start_utc_ms, 0)
    profile = profile_of_intervals(KOLKATA, 1, intervals, [off])
    assert profile.learned_min == (96 - 3) * 30
    assert set(wh_of(profile)) == {200}


@given(st.lists(st.integers(0, 20_000), min_size=2, max_size=400))
def test_expectation_is_never_below_the_smallest_nor_far_above_the_largest(wh: list[int]) -> None:
    """A mean of any half hours, rounded up by an eighth of a Wh per hour at most."""
    profile = learned(len(wh), lambda number: wh[number])
    hourly = wh_of(profile)
    assert 2 * min(wh) <= min(hourly)
    assert max(hourly) <= 2 * max(wh) + 0.125


@given(
    st.lists(st.integers(0, 3_000), min_size=CELLS, max_size=CELLS),
    st.sampled_from(["2026-03-27", "2026-10-23", "2026-06-01"]),
    st.lists(st.integers(0, 6 * DAY_MS), min_size=2, max_size=30),
)
@settings(max_examples=30, deadline=None)
def test_a_curve_adds_up_whatever_the_steps(wh: list[int], day: str, offsets: list[int]) -> None:
    """Any walk over a clock change gives the Wh of the hours' labels, counted hour by hour."""
    start = round(datetime.fromisoformat(day).replace(tzinfo=BERLIN).timestamp() * 1_000)
    monday = round(datetime(2026, 6, 1, tzinfo=BERLIN).timestamp() * 1_000)
    profile = learned(2 * CELLS, lambda number: wh[number // 2], start=monday, zone=BERLIN)
    curve = UsageCurve(profile, ("grid",), BERLIN, start, 7)
    points = sorted({0, *offsets})
    walked = sum(
        amount
        for low, high in pairwise(points)
        for _, amount in curve.between(start + low, start + high)
    )
    # Clocks of Berlin change at full hours, so whole hours of UTC have one label each.
    hours, rest_ms = divmod(points[-1], HOUR_MS)
    expected = 0
    for hour in range(hours + 1):
        label = datetime.fromtimestamp((start + hour * HOUR_MS) / 1_000, BERLIN)
        rate = 2 * wh[label.weekday() * 24 + label.hour]
        expected += rate * (HOUR_MS if hour < hours else rest_ms)
    assert walked == expected // HOUR_MS
