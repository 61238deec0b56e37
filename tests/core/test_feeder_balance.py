"""A feeder against the sum of its meters: exact, patient, and silent where it cannot know."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.feeder_balance import (
    PENDING_MAX,
    FeederBalance,
    FeederLimits,
    FeederStep,
    Imbalance,
    MeterHalfHour,
)

HALF_HOUR_MS = 1_800_000
LIMITS = FeederLimits(loss_percent=5.0, loss_wh=200, clear_percent=3.0, half_hours=2)


def feeder(limits: FeederLimits = LIMITS) -> FeederBalance:
    """One check meter, two flats."""
    return FeederBalance(["check"], ["a", "b"], limits)


def half_hour(
    number: int, import_wh: int, export_wh: int = 0, *, whole: bool = True
) -> MeterHalfHour:
    """One half hour of a meter."""
    start = number * HALF_HOUR_MS
    return MeterHalfHour(start, start + HALF_HOUR_MS, import_wh, export_wh, whole)


def tell(
    balance: FeederBalance, number: int, check_wh: int, used: Sequence[int] = (5_000, 5_000)
) -> FeederStep:
    """Every meter tells a half hour; what came of it."""
    assert balance.add("a", half_hour(number, used[0])) == []
    assert balance.add("check", half_hour(number, check_wh)) == []
    (step,) = balance.add("b", half_hour(number, used[1]))
    return step


def test_a_loss_is_raised_after_its_half_hours_and_cleared_after_as_many() -> None:
    """11,000 supplied, 10,000 used: 9.1 %, twice; then 2 %, twice."""
    balance = feeder()
    first = tell(balance, 1, 11_000)
    assert (first.raised, first.balance.loss_wh) == (None, 1_000)
    assert first.balance.loss_percent == pytest.approx(9.0909, abs=1e-3)
    assert tell(balance, 2, 11_000).raised is Imbalance.LOSS
    assert tell(balance, 3, 11_000).raised is None
    assert tell(balance, 4, 10_200).cleared is None
    assert tell(balance, 5, 10_200).cleared is Imbalance.LOSS
    assert balance.standing is None


def test_between_the_limits_nothing_comes_or_goes() -> None:
    """4 % is neither a loss nor calm: what stands stands, what does not does not."""
    balance = feeder()
    for number in range(5):
        assert tell(balance, number, 10_417).raised is None
    tell(balance, 5, 11_000)
    tell(balance, 6, 11_000)
    assert all(tell(balance, number, 10_417).cleared is None for number in range(7, 12))
    assert balance.standing is Imbalance.LOSS


def test_one_calm_half_hour_breaks_the_row() -> None:
    """In a row means in a row."""
    balance = feeder()
    for number in range(8):
        step = tell(balance, number, 11_000 if number % 2 else 10_000)
        assert step.raised is None


def test_few_watt_hours_are_no_loss_whatever_their_percent() -> None:
    """At night 150 of 300 Wh are 50 % and below the absolute limit."""
    balance = feeder()
    for number in range(4):
        assert tell(balance, number, 300, (100, 50)).raised is None


def test_meters_that_count_more_than_was_supplied() -> None:
    """Customers may be over-charged, or belong to another feeder: a surplus."""
    balance = feeder()
    tell(balance, 1, 9_000)
    assert tell(balance, 2, 9_000).raised is Imbalance.SURPLUS
    step = [tell(balance, number, 11_500) for number in (3, 4)][-1]
    assert (step.raised, step.cleared) == (Imbalance.LOSS, Imbalance.SURPLUS)


def test_feed_in_supplies_the_neighbours() -> None:
    """3 kWh from one roof to the flat beside it: the check meter sees the rest, no surplus."""
    balance = feeder()
    balance.add("check", half_hour(1, 2_000))
    balance.add("a", half_hour(1, 0, 3_000))
    (step,) = balance.add("b", half_hour(1, 5_000))
    assert (step.balance.supplied_wh, step.balance.loss_wh) == (5_000, 0)


@pytest.mark.parametrize("doubtful", ["check", "a", "b"])
def test_half_hours_that_are_not_whole_are_not_judged(doubtful: str) -> None:
    """Estimated, or begun in the middle: shown with the meter's name, neither alarm nor calm."""
    balance = feeder()
    tell(balance, 1, 11_000)
    for name, wh in (("a", 5_000), ("check", 10_000), ("b", 5_000)):
        steps = balance.add(name, half_hour(2, wh, whole=name != doubtful))
    assert steps[0].balance.doubtful == (doubtful,)
    # The row of judged half hours goes on.
    assert tell(balance, 3, 11_000).raised is Imbalance.LOSS


def test_a_meter_that_is_away_is_not_waited_for_for_ever() -> None:
    """Its half hours close without it, named; told late they change nothing."""
    balance = feeder()
    steps: list[FeederStep] = []
    for number in range(PENDING_MAX + 1):
        for name in ("check", "a"):
            steps += balance.add(name, half_hour(number, 5_000))
    assert [step.balance.start_utc_ms for step in steps] == [0]
    assert steps[0].balance.doubtful == ("b",)
    assert balance.add("b", half_hour(0, 5_000)) == []


half_hours = st.lists(
    st.tuples(st.integers(0, 20_000), st.integers(0, 20_000), st.booleans()),
    min_size=1,
    max_size=40,
)


@given(half_hours, st.integers(1, 5), st.integers(0, 40))
def test_the_alarm_is_what_the_last_judged_half_hours_say(
    told: list[tuple[int, int, bool]], length: int, stop: int
) -> None:
    """Against a slow model over the whole history; restored at any moment it goes on the same."""
    limits = FeederLimits(loss_percent=5.0, loss_wh=200, clear_percent=3.0, half_hours=length)
    balance = feeder(limits)
    judged: list[tuple[int, int]] = []
    for number, (check_wh, used_wh, whole) in enumerate(told):
        if number == stop:
            state = balance.snapshot()
            balance = feeder(limits)
            balance.restore(state)
            assert balance.snapshot() == state
        balance.add("a", half_hour(number, used_wh, whole=whole))
        balance.add("b", half_hour(number, 0))
        (step,) = balance.add("check", half_hour(number, check_wh))
        assert step.balance.loss_wh == check_wh - used_wh
        before = balance.standing
        if whole:
            judged.append((check_wh, used_wh))
        recent = judged[-length:]
        lossy = len(recent) == length and all(
            supplied - used > 200 and (supplied - used) * 100 > 5 * supplied
            for supplied, used in recent
        )
        if whole and lossy:
            assert balance.standing is Imbalance.LOSS
        if step.raised is Imbalance.LOSS:
            assert lossy
        if not whole:
            assert (step.raised, step.cleared, balance.standing) == (None, None, before)
