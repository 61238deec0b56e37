"""Seasons, holidays, fees, rebates, taxes, periods as text: read, written, refused with place."""

from datetime import date

import pytest

from gateway.core.money import Currency
from gateway.core.tariff import OPENING_DAY, Rebate, Season, TaxRule
from gateway.core.tariff_document import TariffProblemsError, tariff_from_document
from gateway.core.tariff_writer import tariff_to_document

INR = Currency("INR")
PRICED: dict[str, object] = {"price": "1"}
SEASONS = {"summer": {"from": "04-01", "to": "09-30"}, "winter": {"from": "10-01", "to": "03-31"}}


def base(**changes: object) -> dict[str, object]:
    """A valid flat tariff with keys replaced."""
    document: dict[str, object] = {
        "id": "home",
        "name": "Home",
        "currency": "INR",
        "timezone": "Asia/Kolkata",
        "effective_from": "2026-11-01",
        "grid": {"price": "8.00"},
    }
    return {**document, **changes}


def when(**window: object) -> dict[str, object]:
    """A band that applies in one window, the whole day unless it says otherwise."""
    return {**PRICED, "when": [{"from": "00:00", "to": "24:00", **window}]}


def bands(seasons: object = None, holidays: object = None, **named: object) -> dict[str, object]:
    """A tariff with these bands, and a calendar where one is given."""
    calendar = {"seasons": seasons, "holidays": holidays}
    given = {key: value for key, value in calendar.items() if value is not None}
    return base(grid={"bands": named}, **given)


def test_a_tariff_with_every_rule_is_read_as_written_and_written_as_read() -> None:
    """All keys of docs/tariffs.md, as text and as JSON values."""
    document = bands(
        SEASONS,
        ["2026-01-26", date(2026, 8, 15), "12-25"],
        hot=when(season="summer", days=["mon", "holiday"], **{"from": "12:00", "to": "16:00"}),
        rest=PRICED,
    )
    document.update(
        period={"day": "15"},
        blocks_count="occupancy",
        fixed={"amount": "50", "collect": "first_recharge"},
        minimum={"amount": "100"},
        feed_in={"price": "2.500001"},
        rebates=[
            {"name": "Senior", "percent": "10", "of": ["fixed", "energy"]},
            {"name": "Relief", "amount": "20"},
            {"name": "Lifeline", "per_kwh": "0.5", "upto_kwh": "50", "source": "grid"},
            {"name": "All", "per_kwh": "0.1"},
        ],
        taxes=[
            {"name": "VAT", "rate_percent": "18", "on": ["energy", "rebate"], "inclusive": "true"},
            {"name": "Duty", "per_kwh": "0.1", "source": "grid"},
            {"name": "Paid", "rate_percent": "5", "on_recharge": True},
        ],
    )
    tariff = tariff_from_document(document, INR)
    assert set(tariff.calendar.seasons) == {
        Season("summer", (4, 1), (9, 30)),
        Season("winter", (10, 1), (3, 31)),
    }
    assert tariff.calendar.holidays == {date(2026, 1, 26), date(2026, 8, 15)}
    assert tariff.calendar.yearly_holidays == {(12, 25)}
    assert (tariff.period_day, tariff.blocks_by_occupancy) == (15, True)
    assert tariff.feed_in_micro == 2_500_001
    assert (tariff.fee_collect, tariff.minimum_nano) == ("first_recharge", 100 * 10**9)
    assert tariff.rebates == (
        Rebate("Senior", rate_ppm=100_000, bases=("energy", "fixed")),
        Rebate("Relief", amount_nano=20 * 10**9),
        Rebate("Lifeline", per_kwh_micro=500_000, limit_wh=50_000, source="grid"),
        Rebate("All", per_kwh_micro=100_000),
    )
    assert tariff.taxes == (
        TaxRule("VAT", 180_000, ("energy", "rebate"), inclusive=True),
        TaxRule("Duty", 0, (), per_kwh_micro=100_000, source="grid"),
        TaxRule("Paid", 50_000, (), inclusive=True, on_recharge=True),
    )
    assert tariff_from_document(tariff_to_document(tariff, INR), INR) == tariff
    opening = tariff_from_document(base(period={"day": "opening"}), INR)
    assert opening.period_day == OPENING_DAY
    assert tariff_from_document(tariff_to_document(opening, INR), INR) == opening
    assert tariff_from_document(base(period="month"), INR) == tariff_from_document(base(), INR)


def test_days_left_out_are_all_days_and_a_holiday_is_none_of_the_week() -> None:
    """All seven weekdays by name leave a holiday without a band."""
    week = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    tariff_from_document(bands(None, ["12-25"], a=when()), INR)
    with pytest.raises(TariffProblemsError, match="no band covers holiday after mon 00:00-24:00"):
        tariff_from_document(bands(None, ["12-25"], a=when(days=week)), INR)
    tariff_from_document(bands(a=when(days=week)), INR)


VAT = {"name": "VAT", "rate_percent": "18", "on": ["energy"]}
INSIDE = {**VAT, "inclusive": True}


@pytest.mark.parametrize(
    ("document", "place", "message"),
    [
        (bands({"a": {"from": "04-01", "to": "09-30"}, "b": {"from": "09-30", "to": "12-01"}},
               a=PRICED), "seasons.b", "overlaps the season a on 09-30"),
        (bands({"a": {"from": "11-01", "to": "02-01"}, "b": {"from": "01-15", "to": "01-20"}},
               a=PRICED), "seasons.b", "overlaps the season a on 01-15"),
        (bands({"a": {"from": "04-31", "to": "09-30"}}, a=PRICED), "seasons.a.from",
         "no day of any year"),
        (bands({"a": {"from": "4-1", "to": "09-30"}}, a=PRICED), "seasons.a.from", "quoted day"),
        (bands({"a": {"from": "04-01"}}, a=PRICED), "seasons.a.to", "is missing"),
        (bands({"A b": {"from": "04-01", "to": "05-01"}}, a=PRICED), "seasons.A b", "season name"),
        (bands({}, a=PRICED), "seasons", "named seasons"),
        (bands(None, ["2026-02-30"], a=PRICED), "holidays[0]", "neither a date"),
        (bands(None, ["12-25", "12-25"], a=PRICED), "holidays[1]", "twice"),
        (bands(None, ["2026-01-26", "2026-01-26"], a=PRICED), "holidays[1]", "twice"),
        (bands(None, ["02-30"], a=PRICED), "holidays[0]", "no day of any year"),
        (bands(None, "12-25", a=PRICED), "holidays", "list of 1 to 400"),
        (bands(a=when(season="summer"), b=PRICED), "grid.bands.a.when[0].season",
         "none is defined"),
        (bands(SEASONS, a=when(season="sumer"), b=PRICED), "grid.bands.a.when[0].season",
         "known: summer, winter"),
        (bands(a=when(days=["holiday"]), b=PRICED), "grid.bands.a.when[0].days",
         "no day is listed under `holidays`"),
        (bands(SEASONS, a=when(season="summer")), "grid.bands",
         "no band covers mon in winter 00:00-24:00"),
        (bands({"a": {"from": "03-01", "to": "02-28"}}, a=when(season="a")), "grid.bands",
         "outside the seasons (such as 02-29)"),
        (bands(SEASONS, a=when(season="summer"), b=when(), c=PRICED), "grid.bands",
         "overlap on mon in summer from 00:00"),
        (bands(SEASONS, a=when(season="summer", **{"from": "22:00", "to": "06:00"}),
               b=when(season="winter", **{"from": "05:00", "to": "09:00"}), c=PRICED), "grid.bands",
         "overlap on mon in winter after a day in summer from 05:00"),
        (bands(None, ["12-25"], a=when(days=["holiday"], **{"from": "22:00", "to": "06:00"}),
               b=when(days=["wed"], **{"from": "05:00", "to": "09:00"}), c=PRICED), "grid.bands",
         "overlap on wed after holiday from 05:00"),
        (base(period={"day": 31}), "period.day", "1 to 28"),
        (base(period={"day": "0"}), "period.day", "1 to 28"),
        (base(period={"day": True}), "period.day", "1 to 28"),
        (base(period={}), "period.day", "is missing"),
        (base(period="week"), "period", "neither `month`"),
        (base(blocks_count="year"), "blocks_count", "neither `period` nor `occupancy`"),
        (base(fixed={"amount": "-1", "collect": "daily"}), "fixed.amount", "negative"),
        (base(fixed={"amount": "0.0000000001"}), "fixed.amount", "finer"),
        (base(fixed={"amount": "1", "collect": ["daily"]}), "fixed.collect", "none of"),
        (base(minimum={"amount": "-5"}), "minimum.amount", "negative"),
        (base(minimum={"amount": "10000000.01"}), "minimum.amount", "maximum of 10000000"),
        (base(fixed={"amount": "9223372036"}), "fixed.amount", "beyond the maximum"),
        (base(minimum="5"), "minimum", "expected keys"),
        (base(rebates=[{"name": "A", "percent": "101", "of": ["energy"]}]), "rebates[0].percent",
         "too large"),
        (base(rebates=[{"name": "A", "percent": "60", "of": ["energy"]},
                       {"name": "B", "percent": "41", "of": ["energy"]}]), "rebates",
         "more than 100 % of energy"),
        (base(rebates=[{"name": "A", "percent": "1"}]), "rebates[0].of", "is missing"),
        (base(rebates=[{"name": "A", "percent": "1", "of": ["rebate"]}]), "rebates[0].of[0]",
         "none of energy"),
        (base(rebates=[{"name": "A", "percent": "0", "of": ["energy"]}]), "rebates[0].percent",
         "above zero"),
        (base(rebates=[{"name": "A", "amount": "-1"}]), "rebates[0].amount", "negative"),
        (base(rebates=[{"name": "A", "amount": "1", "per_kwh": "1"}]), "rebates[0]", "exactly one"),
        (base(rebates=[{"name": "A", "amount": "1", "upto_kwh": "1"}]), "rebates[0].upto_kwh",
         "goes with per_kwh only"),
        (base(rebates=[{"name": "A", "per_kwh": "1.0000001"}]), "rebates[0].per_kwh", "finer"),
        (base(rebates=[{"name": "A", "per_kwh": "1", "source": "sun"}]), "rebates[0].source",
         "no price here"),
        (base(rebates=[{"name": "A", "amount": "1"}] * 2), "rebates[1].name", "twice"),
        (base(feed_in={"price": "-1"}), "feed_in.price", "negative"),
        (base(feed_in={"price": "1.0000001"}), "feed_in.price", "finer"),
        (base(feed_in={"price": "free"}), "feed_in.price", "no decimal"),
        (base(feed_in={}), "feed_in.price", "is missing"),
        (base(feed_in="2.50"), "feed_in", "expected keys"),
        (base(feed_in={"price": "1", "blocks": []}), "feed_in.blocks", "unknown"),
        (base(feed_in={"price": "1", "when": []}), "feed_in.when", "unknown"),
        (base(taxes=[{"name": "A", "on": ["energy"]}]), "taxes[0].rate_percent", "is missing"),
        (base(taxes=[{"name": "A", "rate_percent": "1"}]), "taxes[0].on", "is missing"),
        (base(taxes=[{**VAT, "per_kwh": "1"}]), "taxes[0].rate_percent", "give this or per_kwh"),
        (base(taxes=[{"name": "A", "per_kwh": "1", "on": ["energy"]}]), "taxes[0].on",
         "goes with rate_percent only"),
        (base(taxes=[{"name": "A", "per_kwh": "0"}]), "taxes[0].per_kwh", "above zero"),
        (base(taxes=[{"name": "A", "per_kwh": "1", "source": "generator"}]), "taxes[0].source",
         "no price here"),
        (base(taxes=[{"name": "A", "per_kwh": "1", "on_recharge": True}]), "taxes[0].on_recharge",
         "has no kWh"),
        (base(taxes=[{**VAT, "on_recharge": True}]), "taxes[0].on", "leave this out"),
        (base(taxes=[{**VAT, "inclusive": "yes"}]), "taxes[0].inclusive", "neither true nor"),
        (base(taxes=[{**VAT, "on": ["rebate"]}]), "taxes[0].on", "never taxed"),
        (base(taxes=[INSIDE, {**VAT, "name": "B"}]), "taxes[0].inclusive", "one or the other"),
        (base(taxes=[INSIDE, {**INSIDE, "name": "B", "on": ["energy", "fixed"]}]), "taxes[1].on",
         "same bases"),
        (base(taxes=[{"name": "A", "per_kwh": "8.1", "inclusive": True}]), "taxes[0].per_kwh",
         "lowest price of grid"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_its_place(
    document: dict[str, object], place: str, message: str
) -> None:
    """Each mistake is told where it stands, in words that say what to do."""
    with pytest.raises(TariffProblemsError) as refusal:
        tariff_from_document(document, INR)
    told = {problem.place: problem.message for problem in reversed(refusal.value.problems)}
    assert message in told[place]
