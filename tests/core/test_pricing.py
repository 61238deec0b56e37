"""The pricer's edges: boundaries to the millisecond, closings, schedules, states."""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from fractions import Fraction

import pytest

from gateway.core.errors import RefusedError
from gateway.core.money import Currency
from gateway.core.pricing import Flag, Posting, Pricer
from gateway.core.tariff import Tariff
from gateway.core.tariff_document import tariff_from_document

INR = Currency("INR")
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
UNIT = 10**9  # one rupee in nano-units
BLOCKS = [{"upto_kwh": 1, "price": "1"}, {"upto_kwh": 3, "price": "2"}, {"price": "4"}]


def instant(text: str) -> int:
    """UTC milliseconds of an ISO 8601 text with offset."""
    return round(datetime.fromisoformat(text).timestamp() * 1_000)


def tariff(
    grid: object,
    *,
    version: int = 1,
    effective_from: str = "2026-01-01",
    **more: object,
) -> Tariff:
    """A tariff through its document."""
    document: dict[str, object] = {
        "id": "home",
        "name": "Home",
        "currency": "INR",
        "timezone": "Asia/Kolkata",
        "effective_from": effective_from,
        "grid": grid,
        **more,
    }
    return tariff_from_document(document, INR, version=version)


def peak(start: str, end: str, zone: str = "Asia/Kolkata") -> Tariff:
    """Ten rupees in one window of each day, one rupee otherwise."""
    window = {"from": start, "to": end}
    return tariff(
        {"bands": {"peak": {"price": "10", "when": [window]}, "rest": {"price": "1"}}},
        timezone=zone,
    )


FLAT = tariff({"price": "1"})
FEE = tariff({"price": "1"}, fixed={"amount": "50"})
START = instant("2026-01-31T12:00:00+05:30")
MONTH_END = instant("2026-02-01T00:00:00+05:30")


def totals(postings: list[Posting]) -> dict[tuple[str, int], dict[str, int]]:
    """Charges by (period, version)."""
    return {(p.period, p.tariff_version): dict(p.charges) for p in postings}


def refusal_of(action: object) -> str:
    """The code with which a call is refused."""
    assert callable(action)
    with pytest.raises(RefusedError) as refusal:
        action()
    return refusal.value.refusal_code


# -- boundaries ----------------------------------------------------------------------------


def test_a_reading_at_the_boundary_belongs_to_what_ends_there() -> None:
    """Energy up to the millisecond of the boundary has the old price, the next the new one."""
    pricer = Pricer([peak("18:00", "22:00")], start_utc_ms=instant("2026-01-05T17:00:00+05:30"))
    boundary = instant("2026-01-05T18:00:00+05:30")
    assert pricer.next_boundary_utc_ms == boundary
    pricer.advance({"grid": 1}, boundary - 1_000, boundary)
    assert pricer.running_nano() == UNIT // 1_000
    pricer.advance({"grid": 1}, boundary, boundary + 1)
    assert pricer.running_nano() == 11 * UNIT // 1_000
    assert pricer.next_boundary_utc_ms == instant("2026-01-05T22:00:00+05:30")


def test_a_reading_that_ends_just_after_a_boundary_is_split() -> None:
    """A tenth of the time after the boundary is a tenth of the energy."""
    pricer = Pricer([peak("18:00", "22:00")], start_utc_ms=instant("2026-01-05T17:00:00+05:30"))
    boundary = instant("2026-01-05T18:00:00+05:30")
    pricer.advance({"grid": 10}, boundary - 900, boundary + 100)
    assert pricer.running_nano() == (9 * 1 + 1 * 10) * UNIT // 1_000


def test_a_band_that_runs_over_midnight_has_no_boundary_there() -> None:
    """Only a change of rate is a boundary, and a flat tariff has none before the month's end."""
    pricer = Pricer([peak("22:00", "06:00")], start_utc_ms=instant("2026-01-05T23:00:00+05:30"))
    assert pricer.next_boundary_utc_ms == instant("2026-01-06T06:00:00+05:30")
    assert Pricer([FLAT], start_utc_ms=START).next_boundary_utc_ms == MONTH_END


def test_the_repeated_hour_is_in_the_window_twice() -> None:
    """In autumn a window from 02:00 to 03:00 lasts two hours: the label decides."""
    berlin = peak("02:00", "03:00", zone="Europe/Berlin")
    start = instant("2026-10-25T01:00:00+02:00")
    pricer = Pricer([berlin], start_utc_ms=start)
    pricer.advance({"grid": 4_000}, start, start + 4 * HOUR_MS)
    assert dict(cell_wh(pricer.settle())) == {"peak": 2_000, "rest": 2_000}


def cell_wh(postings: list[Posting]) -> Mapping[str, int]:
    """Wh by band."""
    sums: dict[str, int] = {}
    for posting in postings:
        for cell, wh in posting.cells:
            sums[cell.band] = sums.get(cell.band, 0) + wh
    return sums


def test_blocks_go_on_under_a_new_version_in_the_same_month() -> None:
    """A tariff change does not give a customer the cheap block twice."""
    second = tariff({"blocks": BLOCKS}, version=2, effective_from="2026-01-31T18:00:00+05:30")
    pricer = Pricer([tariff({"blocks": BLOCKS}), second], start_utc_ms=START)
    pricer.advance({"grid": 1_000}, START, START + HOUR_MS)
    later = instant("2026-01-31T19:00:00+05:30")
    pricer.settle()
    pricer.advance({"grid": 500}, later, later + MINUTE_MS)
    assert totals(pricer.settle()) == {("2026-01", 2): {"energy:grid": UNIT}}


def test_a_cell_is_named_as_settlement_lines_name_it() -> None:
    """version/source/band/block."""
    pricer = Pricer([tariff({"blocks": BLOCKS}, version=7)], start_utc_ms=START)
    pricer.advance({"grid": 1_001}, START, START + 1)
    assert [(cell.key, wh) for cell, wh in pricer.settle()[0].cells] == [
        ("7/grid/all/0", 1_000),
        ("7/grid/all/1", 1),
    ]


# -- flags and clocks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wh", "span_ms", "flagged"),
    [(100, MINUTE_MS + 2, True), (100, MINUTE_MS, False), (0, HOUR_MS, False)],
)
def test_only_long_gaps_with_energy_over_a_boundary_are_estimates(
    wh: int, span_ms: int, *, flagged: bool
) -> None:
    """A minute is no gap, and what is nothing needs no estimate."""
    pricer = Pricer([FLAT], start_utc_ms=START)
    flags = pricer.advance({"grid": wh}, MONTH_END - span_ms // 2, MONTH_END + span_ms // 2)
    assert flags == ({Flag.ESTIMATED_ALLOCATION} if flagged else set())


def test_a_long_gap_inside_one_rate_is_certain() -> None:
    """Where no boundary lies between two readings, nothing is estimated."""
    pricer = Pricer([FLAT], start_utc_ms=START)
    assert not pricer.advance({"grid": 100}, START, START + 6 * HOUR_MS)


def test_a_long_gap_up_to_a_boundary_is_certain() -> None:
    """An interval that ends exactly where the rate ends lies in one rate."""
    pricer = Pricer([FLAT], start_utc_ms=START)
    assert not pricer.advance({"grid": 100}, START, MONTH_END)


def test_a_flag_leaves_with_one_posting_and_survives_a_restart() -> None:
    """The posting that charges an estimate says so, even after a crash; the next does not."""
    pricer = Pricer([FLAT], start_utc_ms=START)
    pricer.advance({"grid": 100}, MONTH_END - HOUR_MS, MONTH_END + HOUR_MS)
    again = Pricer.restore([FLAT], json.loads(json.dumps(pricer.snapshot())))
    assert [posting.flags for posting in again.settle()] == [("ESTIMATED_ALLOCATION",)] * 2
    again.advance({"grid": 1}, MONTH_END + HOUR_MS, MONTH_END + HOUR_MS + 1)
    assert [posting.flags for posting in again.settle()] == [()]


def test_a_clock_that_was_ahead_never_moves_the_label_back() -> None:
    """Until the clock has caught up, energy has the label's rate and says so."""
    pricer = Pricer([peak("18:00", "22:00")], start_utc_ms=instant("2026-01-05T17:00:00+05:30"))
    ahead = instant("2026-01-05T18:30:00+05:30")
    pricer.advance({"grid": 0}, pricer.label_utc_ms, ahead)
    for back_ms in (HOUR_MS, HOUR_MS - 1_000, 1):
        assert pricer.advance({"grid": 1}, ahead - back_ms, ahead) == {Flag.CLOCK_STEPPED}
        assert pricer.label_utc_ms == ahead
    assert pricer.running_nano() == 3 * 10 * UNIT // 1_000
    assert pricer.advance({"grid": 1}, ahead - 1, ahead + 5) == {Flag.CLOCK_STEPPED}
    assert pricer.advance({"grid": 1}, ahead + 5, ahead + 9) == set()


def test_energy_is_never_spread_over_time_before_the_label() -> None:
    """After a step back, an interval counts from the label: the cheap hour before is over."""
    pricer = Pricer([peak("18:00", "22:00")], start_utc_ms=instant("2026-01-05T18:30:00+05:30"))
    flags = pricer.advance(
        {"grid": 8_000},
        instant("2026-01-05T17:30:00+05:30"),
        instant("2026-01-05T22:30:00+05:30"),
    )
    assert flags == {Flag.ESTIMATED_ALLOCATION, Flag.CLOCK_STEPPED}
    assert cell_wh(pricer.settle()) == {"peak": 7_000, "rest": 1_000}


def test_a_jump_of_years_is_refused_and_changes_nothing() -> None:
    """A clock in another decade would charge a fee for every month in between."""
    pricer = Pricer([FEE], start_utc_ms=START)
    before = pricer.snapshot()
    far = instant("2037-01-01T00:00:00+05:30")
    assert refusal_of(lambda: pricer.advance({"grid": 5}, START, far)) == "CLOCK_IMPLAUSIBLE"
    assert refusal_of(lambda: pricer.advance({"grid": 5}, far, far + 1)) == "CLOCK_IMPLAUSIBLE"
    assert refusal_of(lambda: pricer.close_periods(far)) == "CLOCK_IMPLAUSIBLE"
    assert pricer.snapshot() == before


def test_energy_that_cannot_be_priced_changes_nothing() -> None:
    """An unknown source or a negative count is refused before anything is counted."""
    pricer = Pricer([FLAT], start_utc_ms=START)
    shares = (("grid", 5), ("generator", 1))
    assert refusal_of(lambda: pricer.advance(shares, START, START + 1)) == "SOURCE_UNPRICED"
    with pytest.raises(ValueError, match="never negative"):
        pricer.advance((("grid", 5), ("grid", -1)), START, START + 1)
    assert pricer.running_nano() == 0
    assert not pricer.has_unposted


def test_two_registers_may_have_one_source() -> None:
    """T1 and T2 both wired to the grid count in the same blocks."""
    pricer = Pricer([tariff({"blocks": BLOCKS})], start_utc_ms=START, sources=("grid", "grid"))
    pricer.advance((("grid", 600), ("grid", 600)), START, START + 1)
    assert pricer.running_nano() == 1 * UNIT + 2 * UNIT * 200 // 1_000


# -- closing -------------------------------------------------------------------------------


def test_a_fee_falls_due_once_when_the_month_ends() -> None:
    """Not a millisecond before, not again after, and for every month that passed."""
    pricer = Pricer([FEE], start_utc_ms=START)
    assert pricer.close_periods(MONTH_END - 1) == 0
    assert not pricer.has_unposted
    assert pricer.close_periods(MONTH_END) == 1
    assert pricer.close_periods(MONTH_END) == 0
    assert pricer.running_nano() == 50 * UNIT
    assert pricer.close_periods(instant("2026-04-01T00:00:00+05:30")) == 2
    assert {period for period, _ in totals(pricer.settle())} == {"2026-01", "2026-02", "2026-03"}
    assert pricer.settle() == []


def test_a_reading_past_the_end_of_a_month_closes_it() -> None:
    """Nothing else needs to happen for the fee to fall due."""
    pricer = Pricer([FEE], start_utc_ms=START)
    pricer.advance({"grid": 0}, START, MONTH_END)
    assert totals(pricer.settle()) == {("2026-01", 1): {"fixed": 50 * UNIT}}


def test_the_fee_is_that_of_the_version_in_force_at_the_end() -> None:
    """A version that takes effect with the new month has no say in the old one."""
    february = tariff(
        {"price": "1"}, version=2, effective_from="2026-02-01", fixed={"amount": "70"}
    )
    pricer = Pricer([FEE, february], start_utc_ms=START)
    pricer.close_periods(instant("2026-03-01T00:00:00+05:30"))
    assert totals(pricer.settle()) == {
        ("2026-01", 1): {"fixed": 50 * UNIT},
        ("2026-02", 2): {"fixed": 70 * UNIT},
    }


def test_a_tax_on_the_fee_and_on_energy_is_floored_once() -> None:
    """One rule with two bases taxes their sum, also when the fee comes after the energy."""
    taxed = tariff(
        {"price": "0.000001"},
        fixed={"amount": "0.000000001"},
        taxes=[{"name": "VAT", "rate_percent": "50", "on": ["energy", "fixed"]}],
    )
    pricer = Pricer([taxed], start_utc_ms=START)
    pricer.advance({"grid": 1}, START, START + 1)
    assert totals(pricer.settle()) == {("2026-01", 1): {"energy:grid": 1}}
    pricer.close_periods(MONTH_END)
    assert totals(pricer.settle()) == {("2026-01", 1): {"fixed": 1, "tax:VAT": 1}}


def test_late_energy_of_a_closed_month_goes_on_in_its_blocks() -> None:
    """A meter out of reach over the month's end: the fee is posted, its blocks wait for it."""
    blocks = tariff({"blocks": BLOCKS}, fixed={"amount": "50"})
    pricer = Pricer([blocks], start_utc_ms=START)
    pricer.advance({"grid": 900}, START, MONTH_END - HOUR_MS)
    pricer.close_periods(MONTH_END + 1)
    assert totals(pricer.settle()) == {
        ("2026-01", 1): {"energy:grid": 900 * UNIT // 1_000, "fixed": 50 * UNIT}
    }
    pricer = Pricer.restore([blocks], pricer.snapshot())
    pricer.settle()
    pricer.advance({"grid": 400}, MONTH_END - HOUR_MS, MONTH_END + HOUR_MS)
    assert totals(pricer.settle()) == {
        ("2026-01", 1): {"energy:grid": (100 * 1 + 100 * 2) * UNIT // 1_000},
        ("2026-02", 1): {"energy:grid": 200 * UNIT // 1_000},
    }


def test_passed_months_are_forgotten_once_they_are_posted() -> None:
    """State does not grow with the years, and what it forgets stays charged."""
    pricer = Pricer([FEE], start_utc_ms=START)
    label, sizes = START, []
    for _ in range(36):
        pricer.advance({"grid": 1_000}, label, label + 30 * 24 * HOUR_MS)
        label += 30 * 24 * HOUR_MS
        pricer.settle()
        sizes.append(len(json.dumps(pricer.snapshot())))
    assert max(sizes[6:]) <= max(sizes[:6]) + 20
    assert pricer.charged_nano() == 36 * UNIT + 36 * 50 * UNIT


# -- schedules -----------------------------------------------------------------------------


def test_a_version_may_be_added_for_the_future_only() -> None:
    """From its instant on it prices energy; what is charged already is never priced again."""
    pricer = Pricer([FLAT], start_utc_ms=START)
    pricer.advance({"grid": 1_000}, START, START + HOUR_MS)
    early = tariff({"price": "2"}, version=2, effective_from="2026-01-31T12:30:00+05:30")
    later = tariff({"price": "2"}, version=2, effective_from="2026-01-31T14:00:00+05:30")
    assert refusal_of(lambda: pricer.add_version(early)) == "TARIFF_RETROACTIVE"
    pricer.add_version(later)
    assert pricer.next_boundary_utc_ms == START + 2 * HOUR_MS
    pricer.advance({"grid": 1_000}, START + HOUR_MS, START + 3 * HOUR_MS)
    assert pricer.running_nano() == 1 * UNIT + UNIT // 2 + 2 * UNIT // 2


def test_a_schedule_that_does_not_fit_is_refused() -> None:
    """Order, zone, start and sources are checked before an account is opened under it."""
    second = tariff({"price": "2"}, version=2)
    other = tariff({"price": "2"}, version=2, effective_from="2026-03-01", timezone="UTC")
    again = tariff({"price": "2"}, version=1, effective_from="2026-03-01")
    future = tariff({"price": "2"}, effective_from="2026-03-01")

    def opened(*versions: Tariff, sources: tuple[str, ...] = ("grid",)) -> object:
        return lambda: Pricer(versions, start_utc_ms=START, sources=sources)

    assert refusal_of(opened()) == "TARIFF_ORDER"
    assert refusal_of(opened(FLAT, second)) == "TARIFF_ORDER"
    assert refusal_of(opened(FLAT, again)) == "TARIFF_ORDER"
    assert refusal_of(opened(FLAT, other)) == "TARIFF_MIXED"
    assert refusal_of(opened(future)) == "TARIFF_NOT_EFFECTIVE"
    assert refusal_of(opened(FLAT, sources=("grid", "generator"))) == "SOURCE_UNPRICED"


# -- what is left --------------------------------------------------------------------------


def test_the_price_of_the_next_wh_follows_blocks_bands_and_time() -> None:
    """Now, at a later hour, in the next block and in the next month."""
    pricer = Pricer([tariff({"blocks": BLOCKS})], start_utc_ms=START)
    pricer.advance({"grid": 999}, START, START + 1)
    assert pricer.price_of_next_wh("grid", START + 1) == 1_000_000
    pricer.advance({"grid": 1}, START + 1, START + 2)
    assert pricer.price_of_next_wh("grid", START + 2) == 2_000_000
    assert pricer.price_of_next_wh("grid", MONTH_END) == 1_000_000
    timed = Pricer([peak("18:00", "22:00")], start_utc_ms=START)
    assert timed.price_of_next_wh("grid", instant("2026-01-31T19:00:00+05:30")) == 10_000_000
    assert timed.price_of_next_wh("grid", START) == 1_000_000
    assert refusal_of(lambda: timed.price_of_next_wh("generator", START)) == "SOURCE_UNPRICED"


def test_remaining_energy_walks_through_the_blocks() -> None:
    """Five rupees buy 1 kWh at one and 2 kWh at two; the sixth buys a quarter at four."""
    pricer = Pricer([tariff({"blocks": BLOCKS})], start_utc_ms=START)
    assert pricer.remaining_wh(5 * UNIT, "grid", START) == 3_000.0
    assert pricer.remaining_wh(6 * UNIT, "grid", START) == 3_250.0
    assert pricer.remaining_wh(0, "grid", START) == 0.0
    assert pricer.remaining_wh(-UNIT, "grid", START) == 0.0
    pricer.advance({"grid": 2_000}, START, START + 1)
    assert pricer.remaining_wh(2 * UNIT, "grid", START) == 1_000.0


def test_remaining_energy_counts_tax_and_knows_free_energy() -> None:
    """18 % on energy leave 1/1.18 of it; a fee's tax none; a price of nothing is endless."""
    taxes = [
        {"name": "VAT", "rate_percent": "18", "on": ["energy"]},
        {"name": "Fee tax", "rate_percent": "50", "on": ["fixed"]},
    ]
    taxed = Pricer([tariff({"price": "1"}, taxes=taxes)], start_utc_ms=START)
    left = taxed.remaining_wh(118 * UNIT, "grid", START)
    assert 99_999.99 < left < 100_000.0
    tenth = Pricer([tariff({"price": "0.00001"})], start_utc_ms=START)
    assert Fraction(tenth.remaining_wh(1, "grid", START)) <= Fraction(1, 10)
    free = Pricer([tariff({"price": "0"})], start_utc_ms=START)
    assert free.remaining_wh(1, "grid", START) == math.inf
    half = Pricer(
        [tariff({"blocks": [{"upto_kwh": 1, "price": "0"}, {"price": "1"}]})], start_utc_ms=START
    )
    assert half.remaining_wh(UNIT, "grid", START) == 2_000.0


# -- state ---------------------------------------------------------------------------------


def test_a_restart_between_closing_and_posting_keeps_the_fee() -> None:
    """A closed month whose fee is not posted yet is still owed after a crash, once."""
    pricer = Pricer([FEE], start_utc_ms=START)
    pricer.close_periods(MONTH_END)
    again = Pricer.restore([FEE], json.loads(json.dumps(pricer.snapshot())))
    assert again.running_nano() == 50 * UNIT
    assert again.period_label == "2026-02"
    assert again.close_periods(MONTH_END) == 0
    again.settle()
    third = Pricer.restore([FEE], json.loads(json.dumps(again.snapshot())))
    assert (third.running_nano(), third.charged_nano()) == (0, 50 * UNIT)


def test_the_posted_part_of_a_state_changes_with_postings_only() -> None:
    """Every sweep writes what is unposted; the posted part may be kept beside the posting."""
    pricer = Pricer([FLAT], start_utc_ms=START)
    pricer.advance({"grid": 5}, START, START + 1)
    pricer.settle()
    posted = pricer.snapshot()["posted"]
    assert posted == [["2026-01", "home", 1, [["grid", "all", 0, 5]], [["energy:grid", 5_000_000]]]]
    pricer.advance({"grid": 2}, START + 1, START + 2)
    state = pricer.snapshot()
    assert state["posted"] == posted
    assert state["unposted"] == [["2026-01", "home", 1, [["grid", "all", 0, 2]], []]]


@pytest.mark.parametrize(
    "change",
    [
        {"label_utc_ms": None},
        {"closed_utc_ms": "0"},
        {"posted_nano": True},
        {"posted": {}},
        {"unposted": [["2026-01", "home", 1, []]]},
        {"unposted": [["2026-13", "home", 1, [], []]]},
        {"unposted": [["january", "home", 1, [], []]]},
        {"unposted": [["2026-01", "other", 1, [], []]]},
        {"unposted": [["2026-01", "home", 2, [], []]]},
        {"unposted": [["2026-01", "home", 1, [["grid", "all", 1, 5]], []]]},
        {"unposted": [["2026-01", "home", 1, [["grid", "all", 0, -5]], []]]},
        {"unposted": [["2026-01", "home", 1, [["grid", "all", 0, 5.0]], []]]},
        {"unposted": [["2026-01", "home", 1, [], "flag"]]},
        {"posted": [["2026-01", "home", 1, [], [["fixed", "1"]]]]},
    ],
)
def test_a_damaged_state_is_refused(change: dict[str, object]) -> None:
    """A saved state that does not fit itself or its tariffs decides about no money."""
    state = {**Pricer([FLAT], start_utc_ms=START).snapshot(), **change}
    assert refusal_of(lambda: Pricer.restore([FLAT], state)) == "PRICING_STATE"
