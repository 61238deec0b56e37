"""Days left and top-up time: examples whose answer is known."""

import pytest

from gateway.core.civil import HALF_HOUR_MS
from gateway.core.forecast import MARGIN_MS, DailyDebt, Forecast, forecast
from gateway.core.friendly_document import calendar_from_document
from gateway.core.interval import Interval
from gateway.core.usage import Confidence, UsageProfile
from tests.core.forecast_accounts import (
    DAY_MS,
    HOUR_MS,
    KOLKATA,
    Account,
    amount,
    constant,
    instant,
    profile_of,
)


def test_a_constant_load_ends_to_the_second() -> None:
    """80.00 at 8.00 per kWh and 1 kW: ten hours, 0.4 days (floored), cut at once."""
    account = constant()
    found = account.forecast(amount("80"))
    assert found.zero_utc_ms == account.now + 10 * HOUR_MS
    assert (found.days_left_tenths, found.days_left) == (4, "0.4")
    assert found.cut_utc_ms == found.zero_utc_ms
    assert found.confidence is Confidence.GOOD
    # 10 % of ten hours for more use than expected, and two hours to pay.
    assert found.top_up_by_utc_ms == account.now + 9 * HOUR_MS - MARGIN_MS


def test_exactly_ten_days_are_ten() -> None:
    """The floor takes nothing from a whole number; a nano-unit less does."""
    account = constant()
    credit = amount("8") * 240
    assert account.forecast(credit).days_left == "10.0"
    less = account.forecast(credit - 8_000_000).days_left
    assert less == "9.9"


@pytest.mark.parametrize("credit", ["0", "-0.000000001", "-50"])
@pytest.mark.parametrize("known", [True, False])
def test_without_credit_nothing_is_left(credit: str, known: bool) -> None:
    """Zero or negative: 0.0 days and a cut that is due, whatever is known of the usage."""
    account = constant()
    if not known:
        account.usage = UsageProfile(KOLKATA, 1)
    found = account.forecast(amount(credit))
    assert found.days_left == "0.0"
    assert found.zero_utc_ms == found.cut_utc_ms == found.top_up_by_utc_ms == account.now


def test_an_empty_profile_says_nothing() -> None:
    """None, not a number: neither zero nor for ever."""
    account = Account({"price": "8.00"}, UsageProfile(KOLKATA, 1), instant("2026-07-01"))
    assert account.forecast(amount("100")) == Forecast(None, None, None, None, Confidence.NONE)


def test_credit_beyond_the_horizon_is_told_as_such() -> None:
    """60.0 days and a mark; an unused flat with no fee lasts that long too."""
    found = constant().forecast(amount("1000000"))
    assert (found.days_left, found.beyond_horizon, found.zero_utc_ms) == ("60.0", True, None)
    assert (found.cut_utc_ms, found.top_up_by_utc_ms) == (None, None)
    assert constant(watts=0).forecast(1).beyond_horizon


def test_a_fee_at_the_months_close_can_end_the_credit() -> None:
    """At midnight of the first, not at the next Wh."""
    account = constant(watts=0, now="2026-07-30 06:00")
    account.fixed = "50.00"
    assert account.forecast(amount("50")).zero_utc_ms == instant("2026-08-01 00:00")
    assert account.forecast(amount("50.01")).zero_utc_ms == instant("2026-09-01 00:00")


def test_debts_are_collected_at_midnights_until_they_are_paid() -> None:
    """Two debts of 3 days and 1 day; then only energy counts."""
    account = constant(watts=0, now="2026-07-01 12:00")
    debts = [DailyDebt(amount("3"), amount("1")), DailyDebt(amount("0.50"), amount("2"))]
    assert account.forecast(amount("1.50"), debts=debts).zero_utc_ms == instant("2026-07-02")
    assert account.forecast(amount("1.51"), debts=debts).zero_utc_ms == instant("2026-07-03")
    assert account.forecast(amount("3.50"), debts=debts).zero_utc_ms == instant("2026-07-04")
    assert account.forecast(amount("3.51"), debts=debts).beyond_horizon


def test_emergency_credit_comes_after_the_own() -> None:
    """Own credit for five hours, emergency for five more; both instants are told."""
    account = constant()
    found = account.forecast(amount("40"), emergency_nano=amount("40"))
    assert found.emergency_utc_ms == account.now + 5 * HOUR_MS
    assert found.zero_utc_ms == account.now + 10 * HOUR_MS
    in_use = account.forecast(amount("-8"), emergency_nano=amount("16"))
    assert in_use.emergency_utc_ms == account.now
    assert in_use.zero_utc_ms == account.now + HOUR_MS
    spent = account.forecast(amount("-16"), emergency_nano=amount("16"))
    assert (spent.zero_utc_ms, spent.days_left) == (account.now, "0.0")


def test_a_friendly_weekend_moves_the_cut_and_not_the_end_of_the_credit() -> None:
    """Zero on Saturday night: cut on Monday at 08:00, top up by 06:00."""
    account = constant(now="2026-11-07 12:00")
    calendar = calendar_from_document(
        {"windows": [{"from": "sat 18:00", "to": "mon 08:00"}]}, "Asia/Kolkata"
    )
    found = account.forecast(amount("80"), calendar=calendar)
    assert found.zero_utc_ms == instant("2026-11-07 22:00")
    assert found.cut_utc_ms == instant("2026-11-09 08:00")
    assert found.top_up_by_utc_ms == instant("2026-11-09 06:00")
    # A little earlier and the margin reaches back before the window: then by that.
    early = account.forecast(amount("52"), calendar=calendar)
    assert early.cut_utc_ms == instant("2026-11-09 08:00")
    assert early.top_up_by_utc_ms == instant("2026-11-07 15:51")


def test_little_data_asks_to_top_up_earlier() -> None:
    """The margin grows as confidence falls; never after the cut, never before now."""
    account = constant()
    margins = []
    for weeks in (1, 2):
        account.usage = profile_of([1_000], weeks=weeks)
        found = account.forecast(amount("800"))
        margins.append(found.top_up_by_utc_ms)
    account.usage = UsageProfile(KOLKATA, 1)
    for number in range(4):
        begin = account.now - DAY_MS + number * HALF_HOUR_MS
        account.usage.learn(Interval(begin, begin + HALF_HOUR_MS, (500,), None, 1, estimated=False))
    found = account.forecast(amount("800"))
    assert found.confidence is Confidence.LOW
    margins.append(found.top_up_by_utc_ms)
    hours = [((margin or 0) - account.now) / HOUR_MS for margin in margins]
    assert hours == [80 - 2, 90 - 2, 65 - 2]
    assert account.forecast(amount("8")).top_up_by_utc_ms == account.now


def test_progress_through_blocks_counts() -> None:
    """95 kWh used of a block of 100: five at the low price, the rest at the high one."""
    account = constant(now="2026-07-15 00:00")
    account.grid = {"blocks": [{"upto_kwh": 100, "price": "2.00"}, {"price": "10.00"}]}
    account.used_wh = 95_000
    assert account.forecast(amount("30")).zero_utc_ms == account.now + 7 * HOUR_MS
    account.used_wh = 0
    assert account.forecast(amount("30")).zero_utc_ms == account.now + 15 * HOUR_MS


def test_two_sources_are_priced_by_their_shares() -> None:
    """Half grid at 8, half generator at 24: 16 on average."""
    account = constant()
    account.usage = profile_of([500], generator=True)
    account.generator = "24.00"
    found = account.forecast(amount("80"))
    assert found.zero_utc_ms == account.now + 5 * HOUR_MS


def test_a_fee_that_fell_due_since_the_last_reading_counts_at_once() -> None:
    """The pricer's label is a second before the month's end, now is after it."""
    account = constant(watts=0, now="2026-08-01 00:00")
    account.fixed = "50.00"
    found = account.forecast(amount("50"))
    assert found.zero_utc_ms is not None
    assert found.zero_utc_ms - account.now <= 1
    assert account.forecast(amount("51")).zero_utc_ms == instant("2026-09-01 00:00")


def test_two_points_of_one_account_add_up() -> None:
    """Two meters with a tariff each draw on one credit."""
    one = constant("8.00", 1_000, "2026-07-15 00:00")
    other = constant("4.00", 3_000, "2026-07-15 00:00")
    other.fixed = "100.00"
    found = forecast(
        [one.load(), other.load()], zone=KOLKATA, now_utc_ms=one.now, credit_nano=amount("200")
    )
    assert found.zero_utc_ms == one.now + 10 * HOUR_MS
    assert found.days_left == "0.4"


def test_a_pricer_is_left_as_it_was_and_its_posted_past_does_not_count() -> None:
    """The state given is not changed; energy that was charged before is not charged again."""
    account = constant()
    account.used_wh = 12_345
    load = account.load()
    before = repr(load.state)
    twice = [
        forecast([load], zone=KOLKATA, now_utc_ms=account.now, credit_nano=amount("80"))
        for _ in range(2)
    ]
    assert repr(load.state) == before
    assert twice[0] == twice[1]
    assert twice[0].zero_utc_ms == account.now + 10 * HOUR_MS


def test_a_reading_that_is_hours_old_delays_nothing() -> None:
    """A pricer whose label lies behind a boundary is brought up to now first.

    13 kWh by day until 22:00 (104), nothing at night, two more from 06:00 on.
    """
    account = constant(now="2026-07-15 06:00")
    account.usage = profile_of([1_000 if 6 <= hour < 22 else 0 for hour in range(24)])
    account.grid = {
        "bands": {
            "night": {"price": "4.00", "when": [{"from": "22:00", "to": "06:00"}]},
            "day": {"price": "8.00"},
        }
    }
    found = forecast(
        [account.load()],
        zone=KOLKATA,
        now_utc_ms=instant("2026-07-15 09:00"),
        credit_nano=amount("120"),
    )
    assert found.zero_utc_ms == instant("2026-07-16 08:00")


def test_an_end_after_many_steps_is_priced_by_the_bands_before_it() -> None:
    """An hour at 18:00 costs 9, one at 10:00 costs 5: 14 a day, 29 days and the first hour."""
    account = constant(now="2026-07-15 00:00")
    account.usage = profile_of([1_000 if hour in {10, 18} else 0 for hour in range(24)])
    account.grid = {
        "bands": {
            "peak": {"price": "9.00", "when": [{"from": "18:00", "to": "22:00"}]},
            "rest": {"price": "5.00"},
        }
    }
    found = account.forecast(amount("411"))
    assert found.zero_utc_ms == instant("2026-08-13 11:00")
    assert found.days_left == "29.4"
