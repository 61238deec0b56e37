"""What rises between two versions, wherever it hides; and when a second person is needed."""

from fractions import Fraction

import pytest

from gateway.core.money import Currency
from gateway.core.tariff import Tariff
from gateway.core.tariff_change import biggest_rise, needs_second_person, rises
from gateway.core.tariff_document import tariff_from_document

INR = Currency("INR")
VAT = {"name": "VAT", "rate_percent": "20", "on": ["energy", "fixed"]}


def tariff(**keys: object) -> Tariff:
    """A tariff at one rupee a kWh unless `keys` say otherwise."""
    document: dict[str, object] = {
        "id": "home",
        "name": "Home",
        "currency": "INR",
        "timezone": "Asia/Kolkata",
        "effective_from": "2026-01-01",
        "grid": {"price": "1"},
        **keys,
    }
    return tariff_from_document(document, INR)


def peak(start: str, end: str, **window: object) -> dict[str, object]:
    """Ten rupees in a window, one in the rest."""
    when = [{"from": start, "to": end, **window}]
    return {"bands": {"peak": {"price": "10", "when": when}, "rest": {"price": "1"}}}


def blocks(limit: int) -> dict[str, object]:
    """One rupee, then three."""
    return {"blocks": [{"upto_kwh": limit, "price": "1"}, {"price": "3"}]}


WEEK = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
FEAST = peak("00:00", "24:00", days=["holiday"])
HALF = {"name": "Half", "percent": "50", "of": ["energy"]}


@pytest.mark.parametrize(
    ("old", "new", "ratio", "where"),
    [
        (tariff(), tariff(grid={"price": "1.5"}), Fraction(3, 2), "grid energy: 50 % more"),
        (tariff(), tariff(grid={"price": "1.000001"}), Fraction(1_000_001, 10**6), "0.1 % more"),
        (tariff(), tariff(taxes=[VAT]), Fraction(6, 5), "20 % more"),
        (tariff(grid={"price": "0"}), tariff(), None, "was free"),
        (tariff(grid=peak("18:00", "22:00")), tariff(grid=peak("18:00", "22:01")), Fraction(10),
         "on mon such as 01-01 22:00-22:01: 900 % more"),
        (tariff(grid=blocks(100)), tariff(grid=blocks(90)), Fraction(3), "above 90 kWh"),
        (tariff(grid=peak("00:00", "24:00", season="cold"),
                seasons={"cold": {"from": "11-01", "to": "02-28"}}),
         tariff(grid=peak("00:00", "24:00", season="cold"),
                seasons={"cold": {"from": "11-01", "to": "03-01"}}), Fraction(10), "02-29"),
        (tariff(grid=FEAST, holidays=["2027-03-03"]),
         tariff(grid=FEAST, holidays=["2027-03-03", "2027-04-04"]), Fraction(10), "on 2027-04-04"),
        (tariff(grid=FEAST, holidays=["03-03"]), tariff(grid=FEAST, holidays=["04-04"]),
         Fraction(10), "04-04"),
        (tariff(grid=peak("22:00", "06:00", days=["sun"])),
         tariff(grid=peak("22:00", "07:00", days=["sun"])), Fraction(10),
         "on mon such as 01-01 06:00-07:00"),
        (tariff(), tariff(fixed={"amount": "1"}), None, "fixed fee: was free"),
        (tariff(fixed={"amount": "10"}), tariff(fixed={"amount": "11", "collect": "daily"}),
         Fraction(11, 10), "fixed fee: 10 % more"),
        (tariff(minimum={"amount": "10"}), tariff(minimum={"amount": "20"}), Fraction(2),
         "minimum charge"),
        (tariff(rebates=[HALF]), tariff(), Fraction(2), "grid energy"),
        (tariff(rebates=[{"name": "L", "per_kwh": "0.5", "upto_kwh": 50}]),
         tariff(rebates=[{"name": "L", "per_kwh": "0.5", "upto_kwh": 40}]), Fraction(2),
         "above 40 kWh"),
        (tariff(rebates=[{"name": "R", "amount": "60"}]),
         tariff(rebates=[{"name": "R", "amount": "50"}]), Fraction(6, 5), "rebates of a fixed"),
        (tariff(), tariff(taxes=[{"name": "D", "per_kwh": "0.25"}]), Fraction(5, 4), "25 % more"),
        (tariff(), tariff(taxes=[{"name": "R", "rate_percent": "5", "on_recharge": True}]),
         Fraction(21, 20), "grid energy: 5 % more"),
        (tariff(generator={"price": "2"}), tariff(generator={"price": "4"}), Fraction(2),
         "generator energy"),
        (tariff(feed_in={"price": "2"}), tariff(feed_in={"price": "1"}), Fraction(3, 2),
         "feed-in price: 50 % less"),
        (tariff(feed_in={"price": "2"}), tariff(feed_in={"price": "0.999999"}),
         Fraction(3_000_001, 2_000_000), "feed-in price: 50.1 % less"),
        (tariff(feed_in={"price": "2"}), tariff(), None, "feed-in price: is paid no more"),
        (tariff(feed_in={"price": "2"}), tariff(feed_in={"price": "0"}), None, "is paid no more"),
    ],
)  # fmt: skip
def test_a_rise_is_found_wherever_it_hides(
    old: Tariff, new: Tariff, ratio: Fraction | None, where: str
) -> None:
    """Exact ratio and place, the biggest first; and a second person from more than a half on."""
    rise = biggest_rise(old, new)
    assert rise is not None
    assert rise.ratio == ratio
    assert where in rise.text
    assert needs_second_person(old, new) == (ratio is None or ratio > Fraction(3, 2))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (tariff(), tariff()),
        (tariff(grid={"price": "2"}), tariff()),
        (tariff(), tariff(feed_in={"price": "2"})),
        (tariff(feed_in={"price": "0"}), tariff()),
        (tariff(feed_in={"price": "2"}), tariff(feed_in={"price": "3"})),
        (tariff(grid=blocks(90)), tariff(grid=blocks(100))),
        (tariff(), tariff(taxes=[{**VAT, "inclusive": True}])),
        (tariff(), tariff(grid={"bands": {"a": {"price": "1"}}})),
        (tariff(fixed={"amount": "9"}), tariff(fixed={"amount": "9", "collect": "month_start"})),
        (tariff(grid=peak("01:00", "24:00")), tariff(grid=peak("01:00", "24:00", days=WEEK))),
    ],
)
def test_what_costs_no_more_is_no_rise(old: Tariff, new: Tariff) -> None:
    """Cheaper, the same in other words, or a tax that the price holds already."""
    assert rises(old, new) == ()
    assert not needs_second_person(old, new)
