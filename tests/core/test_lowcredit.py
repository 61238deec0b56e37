"""Low-credit alerts: one per downward crossing, armed again only by a credit."""

import json
from pathlib import Path
from typing import cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.lowcredit import (
    LowCreditWatch,
    Threshold,
    ThresholdKind,
    thresholds_from_document,
)
from gateway.core.money import Currency, parse_amount
from gateway.core.problems import DocumentProblemsError

CASES_FILE = Path(__file__).parent.parent / "cases" / "prepaid.yaml"
INR = Currency("INR")
NANO = 10**9


def watch(*texts: object) -> LowCreditWatch:
    """A watch with thresholds as people write them."""
    return LowCreditWatch(thresholds_from_document(list(texts), INR))


def names(watched: LowCreditWatch, credit: int) -> list[str]:
    """Alerts at a credit in major units."""
    return [alert.threshold for alert in watched.observe(credit * NANO)]


def test_p14_one_alert_per_downward_crossing() -> None:
    """104, 97, 93, a recharge to 103, 99: two alerts in all."""
    with CASES_FILE.open(encoding="utf-8") as stream:
        document = yaml.load(stream, Loader=yaml.BaseLoader)  # noqa: S506 - BaseLoader makes text only
    case = next(item for item in document["cases"] if item["id"] == "P14")
    watched = watch(*case["given"]["thresholds"])
    assert watched.observe(parse_amount(case["given"]["start"], INR)) == ()
    alerts: list[str] = []
    for step in cast("list[str]", case["when"]):
        if step.startswith("recharge"):
            _, amount, _, credit = step.split()
            watched.recharged(parse_amount(amount, INR), parse_amount(credit, INR))
            alerts.append("")
            assert watched.observe(parse_amount(credit, INR)) == ()
            continue
        crossed = watched.observe(parse_amount(step, INR))
        alerts.append(",".join(alert.threshold for alert in crossed))
    assert alerts == case["expect"]["alerts"]


def test_a_rise_without_a_credit_arms_nothing() -> None:
    """A balance that flutters (a correction of an estimate) alerts once."""
    watched = watch("100")
    assert [names(watched, credit) for credit in (101, 100, 101, 100, 150, 99)] == [
        [], ["LOW_100"], [], [], [], [],
    ]  # fmt: skip


def test_a_fall_through_several_thresholds_tells_each_the_highest_first() -> None:
    """A month's fee may pass three at once."""
    watched = watch("20", "100", "50")
    assert names(watched, 104) == []
    assert names(watched, 30) == ["LOW_100", "LOW_50"]
    assert names(watched, -1) == ["LOW_20"]


def test_a_recharge_that_stays_below_arms_only_what_it_lifts_above() -> None:
    """From -40 to 60: 50 is armed again, 100 is not."""
    watched = watch("100", "50")
    names(watched, 104)
    names(watched, -40)
    watched.recharged(100 * NANO, 60 * NANO)
    assert names(watched, 60) == []
    assert names(watched, 40) == ["LOW_50"]


def test_an_account_that_starts_low_alerts_nobody_before_its_first_credit() -> None:
    """Nothing was crossed."""
    watched = watch("100", "3 days")
    assert names(watched, 0) == []
    assert watched.observe_days(0, 0) == ()
    assert names(watched, 0) == []


def test_a_share_counts_from_the_last_recharge() -> None:
    """20 % of 500 is 100; a small recharge makes the limit small, an adjustment does not."""
    watched = watch("20 %")
    watched.recharged(500 * NANO, 500 * NANO)
    assert names(watched, 101) == []
    (alert,) = watched.observe(100 * NANO)
    assert (alert.threshold, alert.limit_nano) == ("LOW_20_PERCENT", 100 * NANO)
    watched.recharged(10 * NANO, 110 * NANO)
    watched.credited(111 * NANO)
    assert names(watched, 3) == []
    assert names(watched, 2) == ["LOW_20_PERCENT"]


def test_days_left_arm_with_the_first_forecast_after_a_credit() -> None:
    """Using less does not arm; a credit does, once the forecast shows what it is worth."""
    watched = watch("3 days", "1 day")
    assert watched.observe_days(45, NANO) == ()
    (alert,) = watched.observe_days(30, 7 * NANO)
    assert (alert.threshold, alert.days_left_tenths, alert.credit_nano) == (
        "LOW_3_DAYS",
        30,
        7 * NANO,
    )
    assert watched.observe_days(40, NANO) == ()
    assert watched.observe_days(29, NANO) == ()
    watched.recharged(NANO, 8 * NANO)
    assert watched.observe_days(None, NANO) == ()  # no forecast: the credit still waits
    assert watched.observe_days(31, NANO) == ()
    assert [alert.threshold for alert in watched.observe_days(9, NANO)] == [
        "LOW_3_DAYS",
        "LOW_1_DAYS",
    ]


def test_a_credit_that_does_not_lift_days_above_arms_nothing_later() -> None:
    """The forecast after the credit decides, not one a week later."""
    watched = watch("3 days")
    watched.observe_days(45, NANO)
    assert len(watched.observe_days(20, NANO)) == 1
    watched.credited(2 * NANO)
    assert watched.observe_days(25, NANO) == ()
    assert watched.observe_days(35, NANO) == ()
    assert watched.observe_days(25, NANO) == ()


def test_state_outlives_a_restart_and_a_change_of_thresholds() -> None:
    """What alerted stays silent; a new threshold arms when the credit is above."""
    before = watch("100", "50", "20 %")
    before.recharged(500 * NANO, 500 * NANO)
    assert names(before, 95) == ["LOW_100", "LOW_20_PERCENT"]
    after = watch("100", "50", "70", "20 %")
    after.restore(json.loads(json.dumps(before.snapshot())))
    assert names(after, 94) == []
    assert names(after, 49) == ["LOW_70", "LOW_50"]
    after.credited(400 * NANO)
    assert names(after, 100) == ["LOW_100", "LOW_20_PERCENT"]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("use"), st.integers(-20, 150)),
            st.tuples(st.just("credit"), st.integers(-20, 150)),
        ),
        max_size=60,
    )
)
def test_alerts_agree_with_a_slow_model(steps: list[tuple[str, int]]) -> None:
    """For each threshold alone: an alert needs more than the limit seen since the last alert.

    Seen at the first look of all, or at a credit.
    """
    limits = (100, 50, 0)
    watched = watch(*(str(limit) for limit in limits))
    armed = dict.fromkeys(limits, False)
    first = True
    for kind, credit in steps:
        if kind == "credit":
            watched.credited(credit * NANO)
            armed = {limit: was or credit > limit for limit, was in armed.items()}
            continue
        expected = []
        for limit in limits:
            if credit > limit:
                armed[limit] = armed[limit] or first
            elif armed[limit]:
                armed[limit] = False
                expected.append(f"LOW_{limit}")
        first = False
        assert names(watched, credit) == expected
        watched_again = watch(*(str(limit) for limit in limits))
        watched_again.restore(watched.snapshot())
        watched = watched_again


def test_thresholds_are_read_as_written() -> None:
    """Amounts, shares and days, with the names that events carry."""
    assert thresholds_from_document(["100", "12.50", "7.5 %", "3 days", "0.5 days", 20], INR) == (
        Threshold("LOW_100", ThresholdKind.AMOUNT, 100 * NANO),
        Threshold("LOW_12.5", ThresholdKind.AMOUNT, 12_500_000_000),
        Threshold("LOW_7.5_PERCENT", ThresholdKind.SHARE, 75_000),
        Threshold("LOW_3_DAYS", ThresholdKind.DAYS, 30),
        Threshold("LOW_0.5_DAYS", ThresholdKind.DAYS, 5),
        Threshold("LOW_20", ThresholdKind.AMOUNT, 20 * NANO),
    )


def test_every_bad_threshold_is_told_with_its_path() -> None:
    """Negative, not a number, above the whole, beyond the horizon, too fine, twice, a float."""
    with pytest.raises(DocumentProblemsError) as refusal:
        thresholds_from_document(
            ["-1", "soon", "101 %", "61 days", "0.25 days", "50", "50.0", 0.5, None], INR
        )
    assert refusal.value.refusal_code == "THRESHOLD_INVALID"
    assert [problem.place for problem in refusal.value.problems] == [
        f"low_credit[{index}]" for index in (0, 1, 2, 3, 4, 6, 7, 8)
    ]
    with pytest.raises(DocumentProblemsError):
        thresholds_from_document([], INR)
