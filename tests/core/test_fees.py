"""Fees, minimum and periods, figure by figure: worked examples and edges."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import cast

import pytest

from gateway.core.errors import RefusedError
from gateway.core.money import Currency, format_amount, parse_amount
from gateway.core.pricing import Posting, Pricer
from gateway.core.tariff import Tariff
from gateway.core.tariff_document import tariff_from_document
from tests.core.test_prepaid_cases import listed, part

INR = Currency("INR")
UNIT = 10**9


def at(text: str) -> int:
    """UTC milliseconds of a local time in India, or of a local midnight."""
    text = text if "T" in text else f"{text}T00:00:00"
    return round(datetime.fromisoformat(f"{text}+05:30").timestamp() * 1_000)


def tariff(version: int = 1, **keys: object) -> Tariff:
    """A tariff at one rupee a kWh unless `keys` say otherwise."""
    return priced(INR, version, keys)


def priced(currency: Currency, version: int, keys: Mapping[str, object]) -> Tariff:
    """A tariff in some currency, through its document."""
    document: dict[str, object] = {
        "id": "home",
        "name": "Home",
        "currency": currency.code,
        "timezone": "Asia/Kolkata",
        "effective_from": "2026-01-01",
        "grid": {"price": "1"},
        **keys,
    }
    return tariff_from_document(document, currency, version=version)


def fee(amount: str, collect: str, version: int = 1, **keys: object) -> Tariff:
    """A tariff with a fixed fee."""
    return priced(INR, version, {"fixed": {"amount": amount, "collect": collect}, **keys})


def opened(*versions: Tariff, on: str = "2026-02-01", day: int | None = None) -> Pricer:
    """A pricer for an account opened at a local midnight or time."""
    return Pricer(versions, start_utc_ms=at(on), opening_day=day)


def use(pricer: Pricer, wh: int, until: str) -> None:
    """Let energy flow from the label on."""
    pricer.advance({"grid": wh}, pricer.label_utc_ms, at(until))


def sums(postings: Sequence[Posting]) -> dict[str, dict[str, int]]:
    """Nano-units by period and component."""
    found: dict[str, dict[str, int]] = {}
    for posting in postings:
        here = found.setdefault(posting.period, {})
        for component, amount in posting.charges:
            here[component] = here.get(component, 0) + amount
    return found


# -- worked examples -----------------------------------------------------------------------


def test_b10_a_daily_fee_is_split_to_the_nano_and_whole_in_the_month() -> None:
    """Each midnight takes one of two amounts; February's sum is the fee exactly."""
    given, expect = part("B10", "given"), part("B10", "expect")
    pricer = opened(fee(given["fixed_month"], "daily"))
    days = []
    for day in range(2, 30):
        month, number = (2, day) if day < 29 else (3, 1)
        assert pricer.close_periods(at(f"2026-{month:02d}-{number:02d}")) == 1
        days.append(format_amount(sum(p.total_nano for p in pricer.settle()), INR))
    assert (days[0], days[-1]) == (expect["day1"], expect["day28"])
    assert set(days) == set(listed("B10", "expect", "distinct"))
    assert sum(parse_amount(day, INR) for day in days) == parse_amount(expect["month_sum"], INR)


def test_b12_a_minimum_charge_tops_up_and_is_taxed() -> None:
    """What is missing is charged when the month is over, and the tax is on the whole."""
    given, expect = part("B12", "given"), part("B12", "expect")
    percent = str(int(given["tax_bp"]) // 100)
    taxes = [{"name": "VAT", "rate_percent": percent, "on": listed("B12", "given", "taxable")}]
    pricer = opened(tariff(minimum={"amount": given["minimum"]}, taxes=taxes))
    use(pricer, 60_000, "2026-02-20")
    assert format_amount(60 * UNIT, INR) + ".00" == given["charged_in_period"]
    before = pricer.running_nano()
    use(pricer, 0, "2026-03-01")
    assert pricer.running_nano() > before
    charges = sums(pricer.settle())["2026-02"]
    assert charges["minimum"] == parse_amount(expect["top_up"], INR)
    assert charges["tax:VAT"] == parse_amount(expect["tax_on_period"], INR)


def test_b17_a_currency_without_minor_units_at_scale_six() -> None:
    """Pounds by the ampere and by the kWh, in integers of six decimals."""
    given, expect = part("B17", "given"), part("B17", "expect")
    fees = cast("Mapping[str, str]", given["subscription"])
    pounds = Currency(given["currency"], money_scale=6, minor_digits=int(given["iso_exponent"]))
    fixed = {"amount": fees["5A"], "collect": "month_start"}
    small = priced(pounds, 1, {"grid": {"price": given["rate_kwh"]}, "fixed": fixed})
    pricer = opened(small)
    assert pricer.running_nano() == parse_amount(fees["5A"], pounds)
    use(pricer, 120_000, "2026-02-10")
    assert format_amount(pricer.running_nano(), pounds) == expect["total_5A"]
    large = priced(
        pounds, 1, {"fixed": {"amount": str(int(fees["10A"]) + int(fees["each_extra_5A"]))}}
    )
    assert format_amount(large.fixed_fee_nano, pounds) == expect["fixed_15A"]


# -- fees ----------------------------------------------------------------------------------


def test_a_fee_at_the_start_of_the_month_takes_the_days_that_are_left() -> None:
    """Opened on the 15th of February: 14 of 28 days, today included; then whole months."""
    pricer = opened(fee("56", "month_start"), on="2026-02-15T13:00:00")
    assert pricer.running_nano() == 28 * UNIT
    assert pricer.accrued_utc_ms == at("2026-02-15T13:00:00")
    assert pricer.close_periods(at("2026-02-28T23:59:59")) == 0
    assert pricer.close_periods(at("2026-03-01")) == 1
    assert sums(pricer.settle()) == {
        "2026-02": {"fixed": 28 * UNIT},
        "2026-03": {"fixed": 56 * UNIT},
    }


def test_a_fee_with_the_first_recharge_is_owed_once_and_at_the_close_at_the_latest() -> None:
    """The second recharge of a month is free of it; a month without recharge owes it at its end."""
    pricer = opened(fee("28", "first_recharge"))
    assert pricer.running_nano() == 0
    assert pricer.recharged(at("2026-02-03T10:00:00"))
    assert not pricer.recharged(at("2026-02-04T10:00:00"))
    assert pricer.running_nano() == 28 * UNIT
    assert pricer.close_periods(at("2026-03-01")) == 1
    assert pricer.running_nano() == 28 * UNIT
    again = Pricer.restore([fee("28", "first_recharge")], json.loads(json.dumps(pricer.snapshot())))
    assert again.running_nano() == 28 * UNIT
    assert again.close_periods(at("2026-04-01")) == 1
    posting = again.settle()[-1]
    assert (posting.period, dict(posting.charges)) == ("2026-03", {"fixed": 28 * UNIT})
    assert (posting.recharged, posting.accrued_utc_ms) == (False, at("2026-04-01"))


def test_a_recharge_survives_a_restart() -> None:
    """What is kept says that the month has had its first recharge."""
    version = fee("28", "first_recharge")
    pricer = opened(version)
    pricer.recharged(at("2026-02-03"))
    assert pricer.settle()[0].recharged
    again = Pricer.restore([version], json.loads(json.dumps(pricer.snapshot())))
    assert not again.recharged(at("2026-02-05"))


def test_a_daily_fee_comes_with_readings_too_and_splits_no_energy() -> None:
    """A reading over midnight accrues the day that ended; no rate boundary is there."""
    pricer = opened(fee("28", "daily"), on="2026-02-01T12:00:00")
    assert pricer.next_boundary_utc_ms == at("2026-03-01")
    changes = pricer.fee_changes
    flags = pricer.advance({"grid": 1_000}, at("2026-02-01T12:00:00"), at("2026-02-03T00:00:00"))
    assert not flags
    assert pricer.fee_changes > changes
    changes = pricer.fee_changes
    pricer.advance({"grid": 0}, pricer.label_utc_ms, pricer.label_utc_ms + 1)
    assert pricer.fee_changes == changes
    assert pricer.running_nano() == 1 * UNIT + 2 * UNIT
    assert pricer.accrued_utc_ms == at("2026-02-03")


def test_a_new_version_charges_the_days_from_the_one_in_which_it_begins() -> None:
    """Each day has the fee that is in force when it ends, and no day is charged twice."""
    versions = fee("28", "daily"), fee("56", "daily", 2, effective_from="2026-02-11T06:00:00+05:30")
    pricer = opened(*versions)
    pricer.close_periods(at("2026-03-01"))
    by_version = {p.tariff_version: p.total_nano for p in pricer.settle()}
    assert by_version == {1: 10 * UNIT, 2: 18 * 2 * UNIT}


def test_a_change_of_the_way_of_collecting_charges_no_day_twice() -> None:
    """A fee that was paid ahead is not owed again at the close under the new version."""
    versions = (
        fee("28", "month_start"),
        fee("28", "period_close", 2, effective_from="2026-02-11"),
    )
    pricer = opened(*versions)
    pricer.close_periods(at("2026-03-01"))
    assert sum(p.total_nano for p in pricer.settle()) == 28 * UNIT
    pricer.close_periods(at("2026-04-01"))
    assert sum(p.total_nano for p in pricer.settle()) == 28 * UNIT


@pytest.mark.parametrize(
    ("collect", "before", "charged"),
    [("daily", 9, 10), ("month_start", 28, 10), ("first_recharge", 0, 10), ("period_close", 0, 10)],
)
def test_who_leaves_pays_for_the_days_that_were_used(
    collect: str, before: int, charged: int
) -> None:
    """Closed on the tenth: ten of 28 days in every way; what was paid ahead is back."""
    pricer = opened(fee("28", collect))
    pricer.close_periods(at("2026-02-10T15:00:00"))
    assert pricer.running_nano() == before * UNIT
    pricer.settle()
    assert pricer.end(at("2026-02-10T15:00:00"))
    assert pricer.charged_nano() == charged * UNIT
    pricer.settle()
    again = Pricer.restore([fee("28", collect)], json.loads(json.dumps(pricer.snapshot())))
    assert again.close_periods(at("2026-05-01")) == 0
    assert again.charged_nano() == charged * UNIT


def test_a_month_that_begins_with_the_end_of_the_account_costs_nothing() -> None:
    """An account closed at midnight owes no day of the new month, in no way of collecting."""
    pricer = opened(fee("28", "month_start"), on="2026-02-01")
    pricer.end(at("2026-03-01"))
    assert pricer.charged_nano() == 28 * UNIT


def test_a_version_that_would_change_an_accrued_day_is_refused() -> None:
    """Days whose fee was charged ahead of the readings keep their price."""
    pricer = opened(fee("28", "daily"))
    pricer.close_periods(at("2026-02-10"))
    late = fee("56", "daily", 2, effective_from="2026-02-09")
    with pytest.raises(RefusedError) as refusal:
        pricer.add_version(late)
    assert refusal.value.refusal_code == "TARIFF_RETROACTIVE"
    pricer.add_version(fee("56", "daily", 2, effective_from="2026-02-15"))
    pricer.close_periods(at("2026-03-01"))
    assert pricer.running_nano() == 14 * UNIT + 14 * 2 * UNIT


# -- minimum -------------------------------------------------------------------------------


def test_a_minimum_waits_until_the_energy_of_the_month_is_known() -> None:
    """A meter out of reach may still bring energy of the old month: nothing is topped up before."""
    pricer = opened(tariff(minimum={"amount": "100"}))
    use(pricer, 10_000, "2026-02-20")
    pricer.close_periods(at("2026-03-02"))
    assert pricer.running_nano() == 10 * UNIT
    use(pricer, 80_000, "2026-03-12")
    charges = sums(pricer.settle())
    assert charges["2026-02"] == {"energy:grid": 46 * UNIT, "minimum": 54 * UNIT}
    assert charges["2026-03"] == {"energy:grid": 44 * UNIT}


def test_months_without_any_reading_owe_their_minimum_when_the_label_has_passed() -> None:
    """Also those of which no reading tells anything, once each."""
    pricer = opened(tariff(minimum={"amount": "100"}), on="2026-02-15")
    pricer.advance({"grid": 1_000}, at("2026-05-01T12:00:00"), at("2026-05-02"))
    assert {k: v.get("minimum") for k, v in sums(pricer.settle()).items()} == {
        "2026-02": 50 * UNIT,
        "2026-03": 100 * UNIT,
        "2026-04": 100 * UNIT,
        "2026-05": None,
    }


def test_the_minimum_of_an_account_that_ends_is_by_days() -> None:
    """Seven of 28 days; the fee counts towards it."""
    pricer = opened(tariff(minimum={"amount": "100"}, fixed={"amount": "28", "collect": "daily"}))
    use(pricer, 3_000, "2026-02-06")
    pricer.end(at("2026-02-07T12:00:00"))
    assert sums(pricer.settle())["2026-02"] == {
        "energy:grid": 3 * UNIT,
        "fixed": 7 * UNIT,
        "minimum": 15 * UNIT,
    }


# -- periods -------------------------------------------------------------------------------


def test_an_anniversary_period_is_named_by_its_first_day() -> None:
    """From the 15th to the 14th; blocks and fee go by it."""
    blocks = {"blocks": [{"upto_kwh": 1, "price": "1"}, {"price": "2"}]}
    version = fee("31", "daily", period={"day": "15"}, grid=blocks)
    pricer = opened(version, on="2026-01-20")
    assert pricer.period_label == "2026-01-15"
    use(pricer, 2_000, "2026-02-14T23:00:00")
    assert pricer.running_nano() == 3 * UNIT + 25 * UNIT
    assert pricer.next_boundary_utc_ms == at("2026-02-15")
    use(pricer, 1_000, "2026-02-15T01:00:00")
    assert {p.period for p in pricer.settle()} == {"2026-01-15", "2026-02-15"}
    assert pricer.period_label == "2026-02-15"


@pytest.mark.parametrize(
    ("on", "day", "label"),
    [
        ("2026-02-20", None, "2026-02-20"),
        ("2026-01-31", None, "2026-01-28"),
        ("2026-03-05", 31, "2026-02-28"),
        ("2026-03-05", 3, "2026-03-03"),
    ],
)
def test_a_period_may_begin_on_the_day_on_which_the_account_was_opened(
    on: str, day: int | None, label: str
) -> None:
    """Day 28 at the latest; the day may be told where the pricer starts later."""
    version = tariff(period={"day": "opening"})
    pricer = opened(version, on=on, day=day)
    assert pricer.period_label == label
    use(pricer, 5, "2026-03-06")
    state = json.loads(json.dumps(pricer.snapshot()))
    again = Pricer.restore([version], state, opening_day=day)
    assert again.period_label == pricer.period_label
    assert again.running_nano() == pricer.running_nano()


def test_blocks_of_an_occupancy_never_start_again() -> None:
    """The cheap kWh is given once, not every month; a restart does not give it again."""
    blocks = {"blocks": [{"upto_kwh": 1, "price": "1"}, {"price": "2"}]}
    version = tariff(blocks_count="occupancy", grid=blocks)
    pricer = opened(version)
    use(pricer, 1_000, "2026-03-01")
    pricer.settle()
    use(pricer, 500, "2026-03-02")
    again = Pricer.restore([version], json.loads(json.dumps(pricer.snapshot())))
    assert again.running_nano() == UNIT
    assert again.price_of_next_wh("grid", at("2026-04-02")) == 2_000_000


def test_versions_agree_on_periods_and_on_what_blocks_count_by() -> None:
    """A bill cannot be of two lengths."""
    for change in ({"period": {"day": 2}}, {"blocks_count": "occupancy"}):
        with pytest.raises(RefusedError) as refusal:
            opened(tariff(), priced(INR, 2, {**change, "effective_from": "2026-03-01"}))
        assert refusal.value.refusal_code == "TARIFF_MIXED"


# -- a site that was upgraded --------------------------------------------------------------

OLD_STATE = (
    '{"label_utc_ms": 1770037200000, "closed_utc_ms": 1769884200000, "posted_nano": 63117610000,'
    ' "posted": [["2026-01", "home", 1, [["grid", "rest", 0, 997]], [["energy:grid", 3489500000],'
    ' ["fixed", 50000000000], ["tax:VAT", 9628110000]]]], "unposted": [["2026-01", "home", 1,'
    ' [["grid", "rest", 0, 3], ["grid", "rest", 1, 663]], ["ESTIMATED_ALLOCATION"]], ["2026-02",'
    ' "home", 2, [["grid", "peak", 0, 1], ["grid", "rest", 0, 743]], ["ESTIMATED_ALLOCATION"]]]}'
)
OLD_NEXT = [
    ["2026-01", 1, {"energy:grid": 2994000000, "tax:VAT": 538920000}],
    ["2026-02", 2, {"energy:grid": 4918000000, "fixed": 70000000000, "tax:VAT": 13485240000}],
    ["2026-03", 2, {"energy:grid": 3500000, "tax:VAT": 630000}],
]


def test_a_state_of_an_older_program_goes_on_to_the_nano() -> None:
    """Snapshot and figures were made by the program before seasons, fees by day and rebates."""
    peak = {"days": ["mon", "tue", "wed", "thu", "fri"], "from": "18:00", "to": "22:00"}
    keys: dict[str, object] = {
        "grid": {
            "bands": {
                "peak": {"price": "9.00", "when": [peak]},
                "rest": {"blocks": [{"upto_kwh": 1, "price": "3.50"}, {"price": "4.5"}]},
            }
        },
        "taxes": [{"name": "VAT", "rate_percent": "18", "on": ["energy", "fixed"]}],
    }
    versions = (
        priced(INR, 1, {**keys, "fixed": {"amount": "50.00"}}),
        priced(INR, 2, {**keys, "fixed": {"amount": "70"}, "effective_from": "2026-02-01"}),
    )
    pricer = Pricer.restore(versions, json.loads(OLD_STATE))
    assert pricer.running_nano() == 6_612_130_000
    use(pricer, 501, "2026-03-01T00:30:00")
    found = [[p.period, p.tariff_version, dict(p.charges)] for p in pricer.settle()]
    assert found == OLD_NEXT
    assert pricer.charged_nano() == 155_057_900_000


# -- a change of tariff --------------------------------------------------------------------


@pytest.mark.parametrize("collect", ["daily", "month_start", "period_close", "first_recharge"])
@pytest.mark.parametrize("changed", ["2026-02-01", "2026-02-15T13:20:11", "2026-02-28T23:59:59"])
def test_a_month_shared_by_two_tariffs_pays_one_fee(collect: str, changed: str) -> None:
    """The same fee in both: each day is charged once, the day of the change by the one before."""
    before = opened(fee("50", collect), on="2026-01-01")
    use(before, 0, changed)
    before.end(at(changed))
    after = Pricer([fee("50", collect)], start_utc_ms=at(changed), joined=True)
    use(after, 0, "2026-02-28T23:59:59.500")
    restored = Pricer.restore([fee("50", collect)], after.snapshot())
    use(restored, 0, "2026-04-01")
    first, second = sums(before.settle()), sums(restored.settle())
    fees = {
        month: first.get(month, {}).get("fixed", 0) + second.get(month, {}).get("fixed", 0)
        for month in ("2026-01", "2026-02", "2026-03")
    }
    assert fees == dict.fromkeys(fees, 50 * UNIT)


def test_a_month_shared_by_two_tariffs_owes_one_minimum() -> None:
    """Each by its days."""
    least = tariff(minimum={"amount": "28"})
    before = opened(least)
    use(before, 0, "2026-02-10T08:00:00")
    before.end(at("2026-02-10T08:00:00"))
    after = Pricer([least], start_utc_ms=at("2026-02-10T08:00:00"), joined=True)
    use(after, 0, "2026-03-01")
    charged = [sums(pricer.settle())["2026-02"]["minimum"] for pricer in (before, after)]
    assert charged == [10 * UNIT, 18 * UNIT]


@pytest.mark.parametrize("collect", ["daily", "month_start"])
def test_a_version_on_the_day_of_the_change_charges_from_the_day_after(collect: str) -> None:
    """That day is the tariff's before, whichever version is in force when it ends."""
    versions = [
        fee("0", collect),
        fee("28", collect, 2, effective_from="2026-02-10T12:00:00+05:30"),
    ]
    pricer = Pricer(versions, start_utc_ms=at("2026-02-10T08:00:00"), joined=True)
    use(pricer, 0, "2026-03-01")
    assert sums(pricer.settle())["2026-02"] == {"fixed": 18 * UNIT}
