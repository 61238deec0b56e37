"""Energy from the customer: counted once, told once a day, and credited to the nano-unit."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.export import ExportCounter, ExportCredit, ExportDay, ExportPrice
from gateway.core.guard import RegisterGuard

NS = 1_000_000_000


def counter() -> ExportCounter:
    """A meter of a 10 kW point that was read at 0 Wh."""
    made = ExportCounter(RegisterGuard(p_max_w=10_000))
    assert made.see(1, 0, (0, 0), disturbed=False) == 0
    return made


def test_advances_count_and_jumps_do_not() -> None:
    """What a point could have fed in counts; a jump is dropped and the next one counts again."""
    meter = counter()
    assert meter.see(2, 10 * NS, (20, 5), disturbed=False) == 25
    assert meter.see(3, 11 * NS, (1_000_020, 5), disturbed=False) == 0
    assert meter.see(4, 12 * NS, (1_000_022, 5), disturbed=False) == 2


def test_a_day_is_told_once() -> None:
    """At the first moment of the day that is above the limit, with the day's energy."""
    day = ExportDay()
    told = [day.see(1, 40, alarm_wh=100) for _ in range(5)]
    assert told == [None, None, 120, None, None]
    kept = ExportDay()
    kept.restore(day.snapshot())
    assert kept.see(1, 500, alarm_wh=100) is None
    assert kept.see(2, 500, alarm_wh=100) == 500


def test_a_price_that_changes_between_two_readings() -> None:
    """10 Wh over 4 s, the price changes after 1 s: 2 Wh (floored) at 3, 8 at 5 micro per kWh."""
    credit = ExportCredit()
    prices = [ExportPrice(0, 3_000_000), ExportPrice(11_000, 5_000_000)]
    credit.advance(10, 10_000, 14_000, prices)
    assert credit.unposted_wh == 10
    assert credit.take() == (("export", -(2 * 3_000_000 + 8 * 5_000_000)),)
    assert credit.take() == ()


def test_before_the_first_price_it_is_worth_nothing() -> None:
    """No tariff, no credit."""
    credit = ExportCredit()
    credit.advance(10, 0, 1_000, [ExportPrice(5_000, 3_000_000)])
    assert (credit.take(), credit.unposted_wh) == ((), 0)


@given(
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 100_000)), max_size=30),
    st.lists(st.integers(0, 30), max_size=10),
    st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(0, 10**9)), max_size=4),
)
def test_when_it_is_posted_does_not_change_what_is_credited(
    readings: list[tuple[int, int]], posted_after: list[int], changes: list[tuple[int, int]]
) -> None:
    """Partition invariance: the same readings, any postings, and a restart at each of them."""
    prices = [ExportPrice(at, price) for at, price in sorted(dict(changes).items())]
    whole, parted = ExportCredit(), ExportCredit()
    at_ms = total = 0
    for place, (wh, elapsed_ms) in enumerate(readings):
        for credit in (whole, parted):
            credit.advance(wh, at_ms, at_ms + elapsed_ms, prices)
        at_ms += elapsed_ms
        if place in posted_after:
            total += sum(amount for _, amount in parted.take())
            kept = ExportCredit()
            kept.restore(parted.snapshot())
            parted = kept
    total += sum(amount for _, amount in parted.take())
    assert total == sum(amount for _, amount in whole.take())
    highest = max((price.price_micro for price in prices), default=0)
    assert 0 <= -total <= highest * sum(wh for wh, _ in readings)


@given(st.integers(1, 10_000), st.integers(1, 100_000), st.integers(0, 100_000))
def test_the_split_is_linear_to_a_watt_hour(wh: int, length_ms: int, change_ms: int) -> None:
    """Against fractions: the earlier price gets its share of the time, floored."""
    credit = ExportCredit()
    credit.advance(wh, 0, length_ms, [ExportPrice(0, 1_000_000), ExportPrice(change_ms, 0)])
    share = Fraction(min(change_ms, length_ms) * wh, length_ms)
    nano = -sum(amount for _, amount in credit.take())
    assert nano == (0 if change_ms == 0 else int(share) * 1_000_000)


def test_registers_that_cannot_be_are_refused() -> None:
    """The guard's own check: the watchman leaves such a reading out."""
    with pytest.raises(ValueError, match="outside"):
        counter().see(2, NS, (-1, 0), disturbed=False)
