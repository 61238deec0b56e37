"""One service point: guard, pricing, credit and supply together, reading by reading."""

from dataclasses import replace
from itertools import pairwise

import pytest

from gateway.core.account import Account
from gateway.core.credit import CreditBook
from gateway.core.guard import RegisterGuard
from gateway.core.ledger import Entry, wallet
from gateway.core.money import Currency
from gateway.core.point import Point, PointTerms, Step
from gateway.core.pricing import Pricer
from gateway.core.reading import Lane, Reading
from gateway.core.supply import Supply
from gateway.core.switching import ControlState, OrderKind, Reason, SupplyPolicy
from gateway.core.tariff import Tariff
from gateway.core.tariff_document import tariff_from_document

NS = 1_000_000_000
START_MS = 1_780_000_000_000
INR = Currency("INR")
MICRO = 1_000_000
NANO = 1_000_000_000


def tariff(grid: str = "8.00", version: int = 1, effective_from: str = "") -> Tariff:
    """A flat tariff for grid and generator."""
    return tariff_from_document(
        {
            "id": "home",
            "name": "Home",
            "currency": "INR",
            "timezone": "Asia/Kolkata",
            "effective_from": effective_from or "2026-01-01T00:00:00+05:30",
            "grid": {"price": grid},
            "generator": {"price": "25.00"},
        },
        INR,
        version=version,
    )


def make_point(*, wallet_nano: int = NANO, p_max_w: int = 7_360, enforced: bool = True) -> Point:
    """A commissioned point with one account."""
    terms = PointTerms("p1", "m1", "main", ("grid", "generator"), p_max_w, 1.0)
    supply = Supply(SupplyPolicy())
    supply.enforced = enforced
    point = Point(terms, RegisterGuard(p_max_w=p_max_w), supply)
    pricer = Pricer([tariff()], start_utc_ms=START_MS, sources=terms.sources)
    point.attach_account(Account("a1", CreditBook("a1", wallet_nano=wallet_nano)), "home", pricer)
    return point


def credited(point: Point, amount_nano: int) -> bool:
    """Money comes into the wallet; whether supply is no longer blocked for credit by it."""
    account = point.account
    assert account is not None
    account.credit.apply([Entry(wallet("a1"), amount_nano)])
    return bool(account.credited(point.label_utc_ms))


def read(
    point: Point,
    second: float,
    t1_wh: int,
    t2_wh: int = 0,
    *,
    utc_shift_ms: int = 0,
    closed: bool = True,
    amps: float | None = 10.0,
    lane: Lane = Lane.FULL,
    restarted: bool = False,
) -> Step:
    """Feed a reading taken `second` seconds after the start."""
    reading = Reading(
        sequence=point.last_sequence + 1 if point.last is None else point.last.sequence + 1,
        mono_ns=round(second * NS),
        utc_ms=START_MS + round(second * 1000) + utc_shift_ms,
        lane=lane,
        energy_wh=(t1_wh, t2_wh),
        output_closed=closed,
        current_a=amps,
        power_w=None if lane is Lane.SHORT else 2_400.0,
        restarted=restarted,
    )
    return point.on_reading(reading, rates_known=True)


def test_two_sources_are_charged_at_their_own_price() -> None:
    """S01: T1 +3200 Wh at 8.00 and T2 +1150 Wh at 25.00 are 54.35."""
    point = make_point(wallet_nano=100 * NANO)
    read(point, 0, 1000, 50)
    read(point, 3600, 4200, 1200)
    assert point.available_nano == 100 * NANO - 54_350_000_000
    (line,) = point.take_postings()
    assert dict(line.charges) == {"energy:grid": 25_600_000_000, "energy:generator": 28_750_000_000}
    assert (line.from_wh, line.to_wh, line.advance_wh) == ((1000, 50), (4200, 1200), (3200, 1150))
    assert point.wallet_nano == 100 * NANO - 54_350_000_000
    assert point.available_nano == point.wallet_nano


def test_exact_zero_cuts() -> None:
    """P16: 0.008 left, 1 Wh at 8.00 used: available is exactly zero and the point is due."""
    point = make_point(wallet_nano=8_000_000)
    read(point, 0, 1000)
    step = read(point, 1, 1001)
    assert point.available_nano == 0
    assert step.newly_due
    assert step.posting_due
    assert point.supply.wants(NS) is False
    order = point.supply.order(NS, close=False)
    assert order.kind is OrderKind.SEND
    assert point.supply.state(NS) is ControlState.DISCONNECTING


def test_one_nano_left_does_not_cut() -> None:
    """Credit above the threshold, however little, is credit."""
    point = make_point(wallet_nano=8_000_001)
    read(point, 0, 1000)
    assert not read(point, 1, 1001).newly_due
    assert point.supply.wants(NS) is None


def test_predicted_poll_is_due_when_full_power_could_use_the_rest() -> None:
    """P18: 0.010 at 8.00 are 1.25 Wh; 3 kW use them in 1.5 s."""
    point = make_point(wallet_nano=10_000_000, p_max_w=3_000)
    point.terms = replace(point.terms, period_s=10.0)
    # What supplies next is unknown, so the dearer source decides: 0.4 Wh of the generator, within
    # the last Wh, where the meter is asked as often as it renews its registers.
    assert read(point, 0, 1000).predict_s == pytest.approx(0.2)
    point.terms = replace(point.terms, sources=("grid", "grid"))
    assert read(point, 1, 1000).predict_s == pytest.approx(1.5, abs=0.001)


def test_jump_is_held_and_cuts_nobody() -> None:
    """R06: an implausible jump charges nothing, alarms once, and holds until a person decides."""
    point = make_point(wallet_nano=NANO)
    read(point, 0, 5_000_000)
    steps = [read(point, 10 + n, 5_500_000) for n in range(3)]
    assert [step.settled for step in steps] == [False] * 3
    assert [step.events for step in steps] == [("IMPLAUSIBLE_ENERGY",), (), ()]
    assert point.available_nano == NANO
    assert point.supply.reasons == set()
    assert point.release(accept=False) == (0, 0)
    assert read(point, 20, 5_500_001).settled
    assert point.available_nano == NANO - 8_000_000


def test_held_energy_may_be_charged_by_decision() -> None:
    """A manager accepts the jump: it is charged, flagged, and may then cut."""
    point = make_point(wallet_nano=NANO)
    read(point, 0, 5_000_000)
    read(point, 10, 5_500_000)
    assert point.release(accept=True) == (500_000, 0)
    (line,) = point.take_postings()
    assert line.advance_wh == (500_000, 0)
    assert "RELEASED" in line.flags
    assert read(point, 11, 5_500_001).newly_due


def test_quarantined_reading_never_carries_out_a_credit_cut() -> None:
    """CREDIT stands, then the energy becomes doubtful: the cut waits for a good reading."""
    point = make_point(wallet_nano=8_000_000)
    read(point, 0, 1000)
    read(point, 1, 1001)
    assert point.supply.wants(NS) is False
    read(point, 2, 900_000)
    assert point.supply.wants(2 * NS) is None
    point.supply.block(Reason.MANUAL)
    assert point.supply.wants(2 * NS) is False


def test_recharge_clears_credit_only_when_it_lifts_above_the_threshold() -> None:
    """CREDIT latches: it goes with a posting that leaves something to use."""
    point = make_point(wallet_nano=8_000_000)
    read(point, 0, 1000)
    read(point, 1, 1002)
    assert point.supply.reasons == {Reason.CREDIT}
    assert not credited(point, 8_000_000)
    assert point.supply.reasons == {Reason.CREDIT}
    assert credited(point, 1)
    assert point.supply.reasons == set()


def test_clock_stepped_back_orders_by_sequence() -> None:
    """R10: the label is clamped, the energy is charged, the flag says why."""
    point = make_point(p_max_w=30_000)
    read(point, 10, 1000)
    step = read(point, 12, 1008, utc_shift_ms=-127_000)
    assert step.advance_wh == (8, 0)
    assert step.flags == ("CLOCK_STEPPED",)
    assert point.label_utc_ms == START_MS + 10_000
    assert point.available_nano == NANO - 64_000_000


def test_replacement_settles_the_old_and_goes_on_with_the_new() -> None:
    """R07: 560 Wh to the old meter's closing register, 1000 Wh on the new one."""
    point = make_point(wallet_nano=100 * NANO, p_max_w=50_000)
    read(point, 0, 812_340)
    assert point.replace_meter((812_900, 0), (17, 0)) == (560, 0)
    read(point, 3600, 1_017)
    assert point.available_nano == 100 * NANO - 1_560 * 8_000_000


def test_settlement_lines_join_without_holes() -> None:
    """I4: each line begins where the one before ended, and advances add up to the registers."""
    point = make_point(wallet_nano=100 * NANO)
    read(point, 0, 1000)
    lines = []
    for second in range(1, 60):
        read(point, second, 1000 + second, second // 3)
        if second % 7 == 0:
            lines += point.take_postings()
    lines += point.take_postings()
    assert lines[0].from_wh == (1000, 0)
    assert lines[-1].to_wh == (1059, 19)
    for before, after in pairwise(lines):
        assert before.to_wh == after.from_wh
    total = sum(amount for line in lines for _, amount in line.charges)
    assert total == 59 * 8_000_000 + 19 * 25_000_000
    assert point.wallet_nano == 100 * NANO - total


def test_tariff_change_makes_a_line_each_and_asks_for_posting() -> None:
    """S09: 37 Wh across midnight, 12 at the old price and 25 at the new one."""
    change_ms = 1_782_844_200_000  # 2026-07-01T00:00+05:30
    terms = PointTerms("p1", "m1", "main", ("grid", "generator"), 7_360, 1.0)
    point = Point(terms, RegisterGuard(p_max_w=7_360), Supply(SupplyPolicy()))
    old, new = tariff("5.00"), tariff("6.00", 2, "2026-07-01T00:00:00+05:30")
    start_ms = change_ms - 10_000
    pricer = Pricer([old, new], start_utc_ms=start_ms, sources=terms.sources)
    point.attach_account(Account("a1"), "home", pricer)
    shift_ms = start_ms - START_MS
    read(point, 0, 1000, utc_shift_ms=shift_ms)
    step = read(point, 30, 1037, utc_shift_ms=shift_ms)
    assert step.posting_due
    june, july = point.take_postings()
    assert (june.period, june.advance_wh, dict(june.charges)) == (
        "2026-06", (12, 0), {"energy:grid": 60_000_000},
    )  # fmt: skip
    assert (july.period, july.advance_wh, dict(july.charges)) == (
        "2026-07", (25, 0), {"energy:grid": 150_000_000},
    )  # fmt: skip
    assert june.to_wh == july.from_wh == (1012, 0)


def test_state_survives_a_restart_to_the_nano() -> None:
    """A point restored from what a sweep keeps owes the same and joins its lines."""
    point = make_point(wallet_nano=100 * NANO)
    read(point, 0, 1000)
    read(point, 1, 1002)
    point.take_postings()
    read(point, 2, 1005)
    running = point.running_state()
    posted = point.posted_state(2 * NS, START_MS)
    again = make_point(wallet_nano=point.wallet_nano)
    account = again.account
    assert account is not None
    account.points.clear()
    state = running["guard"]
    assert isinstance(state, dict)
    again.guard.restore(state, mono_ns=2 * NS)
    pricing = running["pricing"]
    assert isinstance(pricing, dict)
    pricer = Pricer.restore(
        [tariff()], {**pricing, "posted": posted["posted"]}, sources=again.terms.sources
    )
    again.attach_account(account, "home", pricer)
    again.restore_running(running)
    assert again.available_nano == point.available_nano
    read(point, 3, 1007)
    read(again, 3, 1007)
    assert again.take_postings() == point.take_postings()
    assert again.wallet_nano == point.wallet_nano


def test_short_lane_reading_decides_like_a_full_one() -> None:
    """The predicted poll reads energy and output only, and that is enough to cut."""
    point = make_point(wallet_nano=8_000_000)
    read(point, 0, 1000)
    assert read(point, 0.5, 1001, lane=Lane.SHORT, amps=None).newly_due
    assert point.supply.wants(NS) is False
    point.supply.order(NS, close=False)
    command = point.supply.command
    assert command is not None
    assert command.proof.load_before_w == 2_400.0


def test_a_late_reading_is_charged_and_shows_the_supply_nothing() -> None:
    """It tells of the past: credit may end with it, and nobody is cut before a present reading."""
    point = make_point(wallet_nano=16_000_000)
    read(point, 0, 1000)
    last = point.last
    assert last is not None
    late = replace(
        last,
        sequence=7,
        mono_ns=500 * NS,
        utc_ms=last.utc_ms + 500_000,
        energy_wh=(1003, 0),
        output_closed=None,
        late=True,
    )
    step = point.on_reading(late, rates_known=True)
    assert (step.settled, step.newly_due, step.orders, step.predict_s) == (True, True, (), None)
    assert point.available_nano == -8_000_000
    assert point.supply.observed is not None
    assert point.supply.observed.mono_ns == 0
    assert point.supply.wants(1_000 * NS) is None
    assert point.last_full is last
    read(point, 1_000, 1003)
    assert point.supply.wants(1_000 * NS) is False


def test_unenforced_point_is_charged_but_never_due() -> None:
    """An account on a point that is not commissioned pays and is not cut."""
    point = make_point(wallet_nano=8_000_000, enforced=False)
    read(point, 0, 1000)
    assert not read(point, 1, 1003).newly_due
    assert point.available_nano == -16_000_000


def test_energy_under_an_untrusted_clock_is_flagged_as_such() -> None:
    """It settles at the last known rate, and the line says why."""
    point = make_point()
    read(point, 0, 1000)
    last = point.last
    assert last is not None
    later = replace(
        last, sequence=9, mono_ns=2 * NS, utc_ms=last.utc_ms + 40 * 86_400_000, energy_wh=(1002, 0)
    )
    step = point.on_reading(later, rates_known=False)
    assert step.flags == ("CLOCK_UNTRUSTED",)
    (line,) = point.take_postings()
    assert line.flags == ("CLOCK_UNTRUSTED",)
    assert dict(line.charges) == {"energy:grid": 16_000_000}


def test_predicted_cut_of_the_worked_example_ends_within_one_price_of_zero() -> None:
    """P18 run: 0.010 at 8.00, 3 kW, polls every 10 s, 0.4 s to act: no naive 8.33 Wh overshoot."""
    point = make_point(wallet_nano=10_000_000, p_max_w=3_000)
    point.terms = replace(point.terms, period_s=10.0, sources=("grid", "grid"))
    second, cut_s = 0.0, None
    while cut_s is None:
        step = read(point, second, int(3_000 * second / 3_600))
        if step.newly_due:
            cut_s = second + 0.4
        second += step.predict_s or 10.0
    final_wh = int(3_000 * cut_s / 3_600)
    read(point, second, final_wh)
    assert -8_000_000 <= point.available_nano <= 0
    assert final_wh == 2
