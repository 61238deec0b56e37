"""A point that is paid for feed-in: registers held apart, exact credits, pairs in its lines."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.account import Account
from gateway.core.credit import CreditBook
from gateway.core.errors import RefusedError
from gateway.core.export import FeedIn
from gateway.core.guard import RegisterGuard
from gateway.core.ledger import (
    ExportRegisters,
    SettlementLine,
    Transaction,
    TransactionKind,
    chain_hash,
    settlement_body,
    settlement_of,
    transaction_body,
)
from gateway.core.lowcredit import Threshold, ThresholdKind
from gateway.core.point import Point, PointTerms, Step
from gateway.core.pricing import Pricer
from gateway.core.reading import Lane, Reading
from gateway.core.supply import Supply
from gateway.core.switching import Reason, SupplyPolicy
from gateway.core.tariff import Tariff
from tests.core.test_point import NANO, NS, START_MS, tariff

P_MAX_W = 7_360


def solar_tariff(price: int | None = 3_000_000, version: int = 1, from_s: float = -1e6) -> Tariff:
    """8.00 per kWh from the grid, 3.00 for what is fed in."""
    effective_ms = START_MS + round(from_s * 1000)
    return replace(tariff(version=version), feed_in_micro=price, effective_from_utc_ms=effective_ms)


def feed_in(*, is_credited: bool = True) -> FeedIn:
    """Two export registers, the first values of a reading."""
    return FeedIn(lambda: RegisterGuard(p_max_w=P_MAX_W), (0, 1), is_credited=is_credited)


def solar_point(*versions: Tariff, wallet_nano: int = NANO) -> Point:
    """A commissioned point with one account, paid for what it feeds in."""
    terms = PointTerms("p1", "m1", "main", ("grid", "generator"), P_MAX_W, 1.0)
    supply = Supply(SupplyPolicy())
    supply.enforced = True
    point = Point(terms, RegisterGuard(p_max_w=P_MAX_W), supply)
    point.feed_in = feed_in()
    pricer = Pricer(versions or [solar_tariff()], start_utc_ms=START_MS, sources=terms.sources)
    point.attach_account(Account("a1", CreditBook("a1", wallet_nano=wallet_nano)), "home", pricer)
    return point


def read(
    point: Point,
    second: float,
    t1_wh: float,
    *export: float,
    lane: Lane = Lane.FULL,
    restarted: bool = False,
) -> Step:
    """A reading so many seconds after the start; without export registers where none are given."""
    reading = Reading(
        sequence=point.last_sequence + 1,
        mono_ns=round(second * NS),
        utc_ms=START_MS + round(second * 1000),
        lane=lane,
        energy_wh=(int(t1_wh), 0),
        output_closed=True,
        power_w=2_400.0,
        current_a=10.0,
        restarted=restarted,
        values=() if lane is Lane.SHORT else (export or (math.nan, math.nan)),
    )
    return point.on_reading(reading, rates_known=True)


def exports(lines: Sequence[SettlementLine]) -> list[ExportRegisters | None]:
    """The export registers of lines."""
    return [line.export for line in lines]


# -- exact figures -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used_wh", "fed_wh", "price", "charged"),
    [
        (1_000, (0, 0), 3_000_000, {"energy:grid": 8 * NANO}),
        (0, (1_000, 0), 3_000_000, {"export": -3 * NANO}),
        (1_000, (1_000, 500), 3_000_000, {"energy:grid": 8 * NANO, "export": -4_500_000_000}),
        (0, (1, 0), 1, {"export": -1}),
        (0, (0, 7), 2_345_678, {"export": -16_419_746}),
        (100, (100, 0), 8_000_000, {"energy:grid": 800_000_000, "export": -800_000_000}),
        (100, (4_000, 0), 0, {"energy:grid": 800_000_000}),
        (100, (4_000, 0), None, {"energy:grid": 800_000_000}),
    ],
)
def test_what_is_fed_in_is_paid_to_the_nano_unit(
    used_wh: int, fed_wh: tuple[int, int], price: int | None, charged: dict[str, int]
) -> None:
    """Wh of both export registers times the price, beside what is used; nothing is rounded."""
    point = solar_point(solar_tariff(price))
    read(point, 0, 1_000, 50, 60)
    step = read(point, 3_600, 1_000 + used_wh, 50 + fed_wh[0], 60 + fed_wh[1])
    assert step.fed_wh == sum(fed_wh)
    assert point.available_nano == NANO - sum(charged.values())
    (line,) = point.take_postings()
    assert dict(line.charges) == charged
    assert point.wallet_nano == NANO - sum(charged.values())
    if sum(fed_wh):
        assert line.export is not None
        assert line.export.from_wh == (50, 60)
        assert line.export.to_wh == (50 + fed_wh[0], 60 + fed_wh[1])
        assert line.export.advance_wh == fed_wh


def test_no_tax_fee_minimum_or_rebate_sees_it() -> None:
    """All that a tariff charges is the same with 5 kWh fed in, and `export` stands beside it."""
    full = replace(
        solar_tariff(), fixed_fee_nano=50 * NANO, fee_collect="month_start", minimum_nano=400 * NANO
    )
    charged: list[dict[str, int]] = []
    for fed_wh in (0, 5_000):
        point = solar_point(full)
        read(point, 0, 0, 0, 0)
        read(point, 3_600, 1_000, fed_wh, 0)
        assert point.pricer is not None
        point.pricer.end(point.label_utc_ms)
        charged.append({})
        for line in point.take_postings():
            charged[-1] |= dict(line.charges)
    assert charged[1] == charged[0] | {"export": -15 * NANO}
    assert charged[0]["minimum"] > 0


def test_a_price_that_changes_between_two_readings() -> None:
    """10 Wh over 4 s, 3 a kWh until 1 s, then 5: 2 Wh (floored) at 3, 8 at 5, a line for each."""
    point = solar_point(solar_tariff(), solar_tariff(5_000_000, version=2, from_s=11))
    read(point, 10, 1_000, 0, 0)
    read(point, 14, 1_000, 4, 6)
    first, last = point.take_postings()
    assert dict(first.charges) == {"export": -6_000_000}
    assert dict(last.charges) == {"export": -40_000_000}
    assert exports([first, last]) == [
        ExportRegisters((0, 0), (2, 0), (2, 0), ("EXPORT_BEGUN",)),
        ExportRegisters((2, 0), (4, 6), (2, 6), ("EXPORT_BEGUN",)),
    ]
    assert (first.facts[0], last.facts[0]) == (1, 2)


def test_lines_without_feed_in_are_as_they_were() -> None:
    """No export registers in the line or its hash where nothing was fed in since the last one."""
    point = solar_point()
    read(point, 0, 1_000, 0, 0)
    read(point, 60, 1_010, 5, 0)
    assert exports(point.take_postings()) == [
        ExportRegisters((0, 0), (5, 0), (5, 0), ("EXPORT_BEGUN",))
    ]
    read(point, 120, 1_020, 5, 0)
    (line,) = point.take_postings()
    assert line.export is None
    assert "export" not in settlement_body(line)
    read(point, 180, 1_020, 6, 1)
    assert exports(point.take_postings()) == [ExportRegisters((5, 0), (6, 1), (1, 1))]


def test_the_hash_covers_the_export_registers() -> None:
    """Another pair, or none, is another hash; a line of before has the hash it had."""
    line = SettlementLine(
        "a1", "p1", "m1", "home", "2026-05", 1, 2, (0,), (5,), (5,), (("1/grid/all/0", 5),),
        (("energy:grid", 40_000_000),), (), (1, 2, 0, 0, 0),
    )  # fmt: skip
    kept = chain_hash(bytes(32), _body(line)).hex()
    assert kept == "36b364ee684e0925c114254dd92c1d891c444100a54ff47d6c92a06928e41084"
    pairs = [ExportRegisters((0,), (1,), (1,)), ExportRegisters((0,), (2,), (1,), ("RELEASED",))]
    hashes = {chain_hash(bytes(32), _body(replace(line, export=pair))).hex() for pair in pairs}
    assert len(hashes | {kept}) == 3


def _body(line: SettlementLine) -> dict[str, object]:
    return transaction_body(1, Transaction(TransactionKind.SETTLEMENT, 1, (), settlements=(line,)))


# -- registers -----------------------------------------------------------------------------


def test_a_held_jump_hinders_nothing_and_is_paid_when_it_is_released() -> None:
    """1 MWh in a second: told, held, import goes on; accepted, it is paid for, with a flag."""
    point = solar_point()
    read(point, 0, 1_000, 100, 0)
    step = read(point, 1, 1_001, 1_000_100, 0)
    assert (step.settled, step.advance_wh, step.fed_wh) == (True, (1, 0), 0)
    assert step.export_events == ("IMPLAUSIBLE_ENERGY",)
    assert step.events == ()
    assert read(point, 2, 1_002, 1_000_101, 0).export_events == ()
    assert point.is_settled(2 * NS, 5.0)
    assert point.available_nano == NANO - 2 * 8_000_000
    (line,) = point.take_postings()
    assert dict(line.charges) == {"energy:grid": 16_000_000}
    assert point.feed_in is not None
    assert point.feed_in.held_wh == (1_000_001, 0)
    assert point.release(accept=True) == (0, 0)
    (line,) = point.take_postings()
    assert dict(line.charges) == {"export": -1_000_001 * 3_000_000}
    assert line.export == ExportRegisters((100, 0), (1_000_101, 0), (1_000_001, 0), ("RELEASED",))
    with pytest.raises(RefusedError, match="holds no energy"):
        point.release(accept=True)


def test_a_held_jump_that_is_rejected_is_paid_to_nobody() -> None:
    """The registers go on from where they are; the line says who decided that."""
    point = solar_point()
    read(point, 0, 1_000, 0, 0)
    read(point, 1, 1_000, 1_000_000, 0)
    point.release(accept=False)
    read(point, 2, 1_001, 1_000_001, 0)
    (line,) = point.take_postings()
    assert dict(line.charges) == {"energy:grid": 8_000_000, "export": -3_000_000}
    assert line.export == ExportRegisters(
        (0, 0), (1_000_001, 0), (1, 0), ("EXPORT_BEGUN", "RELEASED")
    )


def test_one_decision_for_what_is_held_of_import_and_export() -> None:
    """Both jump: one release charges the one and pays for the other."""
    point = solar_point(wallet_nano=100_000 * NANO)
    read(point, 0, 0, 0, 0)
    read(point, 1, 500_000, 0, 0)
    point.feed_in = feed_in()
    point.feed_in.see(_full(2, 0))
    point.feed_in.see(_full(3, 250_000))
    assert point.release(accept=True) == (500_000, 0)
    (line,) = point.take_postings()
    assert dict(line.charges) == {"energy:grid": 4_000 * NANO, "export": -750 * NANO}


def _full(second: int, export_wh: float) -> Reading:
    return Reading(second, second * NS, START_MS, Lane.FULL, (0, 0), None, values=(export_wh, 0.0))


def test_more_than_a_person_means_is_not_paid_at_once() -> None:
    """A slip of the finger does not give away the money of a town."""
    point = solar_point()
    read(point, 0, 0, 0, 0)
    read(point, 1, 0, 2e8, 0)
    with pytest.raises(RefusedError, match="not charged at once"):
        point.release(accept=True)
    assert point.release(accept=False) == (0, 0)


@pytest.mark.parametrize("nonsense", [(math.nan, 0.0), (math.inf, 0.0), (-1.0, 0.0), (1e13, 0.0)])
def test_registers_that_cannot_be_are_waited_for(nonsense: tuple[float, float]) -> None:
    """Import settles all the while; the next good reading pays for what came meanwhile."""
    point = solar_point()
    read(point, 0, 0, 10, 0)
    assert read(point, 10, 5, *nonsense).advance_wh == (5, 0)
    assert read(point, 11, 6, lane=Lane.SHORT).advance_wh == (1, 0)
    assert read(point, 20, 7, 30, 0).fed_wh == 20


def test_a_meter_without_export_registers_at_first() -> None:
    """The first good registers are where counting begins; nothing before it is paid for."""
    point = solar_point()
    read(point, 0, 0)
    read(point, 1, 1)
    assert exports(point.take_postings()) == [None]
    read(point, 2, 2, 77_000, 0)
    read(point, 3, 3, 77_001, 0)
    assert exports(point.take_postings()) == [
        ExportRegisters((77_000, 0), (77_001, 0), (1, 0), ("EXPORT_BEGUN",))
    ]


def test_a_power_cut_takes_export_back_and_nothing_is_paid_twice() -> None:
    """The words are those of import: seen twice, a fall after a restart is a regression."""
    point = solar_point()
    read(point, 0, 1_000, 500, 0)
    read(point, 60, 1_000, 560, 0)
    point.lost()
    assert read(point, 120, 1_000, 540, 0, restarted=True).export_events == ()
    step = read(point, 121, 1_000, 541, 0, restarted=True)
    assert (step.fed_wh, step.export_events) == (0, ("REGISTER_REGRESSION",))
    assert read(point, 122, 1_000, 542, 0).fed_wh == 1
    (line,) = point.take_postings()
    assert line.export == ExportRegisters(
        (500, 0), (542, 0), (61, 0), ("EXPORT_BEGUN", "REGISTER_REGRESSION")
    )


def test_another_device_counts_from_its_first_reading() -> None:
    """What the old one fed in is paid, what the new one shows at first is not."""
    point = solar_point()
    read(point, 0, 1_000, 500, 0)
    read(point, 60, 1_010, 520, 0)
    point.replace_meter((1_011, 0), (3, 0))
    lines = point.take_postings()
    assert exports(lines) == [ExportRegisters((500, 0), (520, 0), (20, 0), ("EXPORT_BEGUN",))]
    read(point, 120, 4, 9_000, 1)
    read(point, 180, 4, 9_002, 1)
    (line,) = point.take_postings()
    assert dict(line.charges)["export"] == -6_000_000
    assert line.export == ExportRegisters((520, 0), (9_002, 1), (2, 0), ("EXPORT_BEGUN",))


def test_energy_of_a_long_absence_is_paid_over_its_time() -> None:
    """An hour without a reading over a change of price: half of it at each."""
    point = solar_point(solar_tariff(), solar_tariff(5_000_000, version=2, from_s=1_800))
    read(point, 0, 0, 0, 0)
    read(point, 3_600, 0, 2_001, 0)
    lines = point.take_postings()
    assert [dict(line.charges)["export"] for line in lines] == [-3 * NANO, -5_005_000_000]
    assert all("ESTIMATED_ALLOCATION" in line.flags for line in lines)


# -- a restart, the setting taken away ---------------------------------------------------


def again(point: Point, *, is_credited: bool = True) -> Point:
    """The point after a restart in the same boot."""
    state = json.loads(json.dumps(point.running_state()))
    posted = json.loads(json.dumps(point.posted_state(0, 0)))["posted"]
    assert point.pricer is not None
    assert point.account is not None
    made = solar_point(wallet_nano=point.wallet_nano)
    made.guard.restore(state["guard"], mono_ns=state["guard"]["mono_ns"])
    made.restore_running(state)
    versions = point.pricer._schedule.tariffs
    made.pricer = Pricer.restore(
        versions, {**state["pricing"], "posted": posted}, sources=made.terms.sources
    )
    made.feed_in = feed_in(is_credited=is_credited)
    made.feed_in.restore(state["feed_in"], mono_ns=state["feed_in"]["guard"]["mono_ns"])
    return made


def test_a_restart_goes_on_where_it_was() -> None:
    """Unposted feed-in, a held jump, and the pair of the line survive."""
    point = solar_point()
    read(point, 0, 0, 10, 0)
    read(point, 60, 0, 15, 0)
    point = again(point)
    assert point.running_nano == -15_000_000
    read(point, 61, 0, 1_000_000, 0)
    point = again(point)
    assert point.feed_in is not None
    assert point.feed_in.held_wh == (999_985, 0)
    (line,) = point.take_postings()
    assert line.export == ExportRegisters((10, 0), (15, 0), (5, 0), ("EXPORT_BEGUN",))


def test_the_setting_is_taken_away_and_given_back() -> None:
    """What was counted before is posted; what flows meanwhile is paid to nobody."""
    point = solar_point()
    read(point, 0, 0, 10, 0)
    read(point, 60, 0, 15, 0)
    point = again(point, is_credited=False)
    assert read(point, 120, 0, 40, 0).fed_wh == 0
    lines = point.take_postings()
    assert [dict(line.charges) for line in lines] == [{"export": -15_000_000}]
    point = again(point, is_credited=False)
    read(point, 180, 1, 60, 0)
    assert exports(point.take_postings()) == [None]
    point = again(point)
    assert read(point, 240, 1, 100, 0).fed_wh == 0
    assert read(point, 300, 1, 101, 0).fed_wh == 1
    (line,) = point.take_postings()
    assert line.export == ExportRegisters((15, 0), (101, 0), (1, 0), ("EXPORT_BEGUN",))


# -- credit --------------------------------------------------------------------------------


def test_feed_in_lifts_credit_that_had_run_out() -> None:
    """Nobody is cut while what was fed in bears what is used; used up, CREDIT stands until then."""
    point = solar_point(wallet_nano=8_000_000)
    assert point.account is not None
    read(point, 0, 0, 0, 0)
    assert read(point, 1, 1, 0, 0).newly_due
    assert point.supply.reasons == {Reason.CREDIT}
    point.take_postings()
    assert point.account.credited(point.label_utc_ms) == []
    read(point, 2, 1, 1, 0)
    point.take_postings()
    assert point.account.credited(point.label_utc_ms) == [point]
    assert point.wallet_nano == 3_000_000
    assert not read(point, 3, 2, 4, 0).newly_due


def test_alerts_are_armed_again_by_what_was_fed_in() -> None:
    """Below 5, above by a posting of feed-in, below again: told twice."""
    point = solar_point(wallet_nano=10 * NANO)
    account = point.account
    assert account is not None
    low = Threshold("LOW_5", ThresholdKind.AMOUNT, 5 * NANO)
    account.agree(replace(account.credit.terms, low_credit=(low,)))
    told: list[int] = []
    for hour, (used_wh, fed_wh) in enumerate([(0, 0), (1_000, 0), (1_000, 2_000), (2_000, 2_000)]):
        read(point, 3_600 * hour, used_wh, fed_wh, 0)
        told += [hour] * len(account.alerts())
        point.take_postings()
    assert told == [1, 3]


# -- when it is posted does not matter -------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 120),
            st.integers(0, 60),
            st.integers(0, 60),
            st.sampled_from(["", "post", "restart", "lost", "short", "away"]),
        ),
        min_size=1,
        max_size=20,
    ),
    st.lists(st.tuples(st.integers(1, 900), st.none() | st.integers(0, 9_999_999)), max_size=3),
)
def test_any_postings_and_restarts_credit_the_same(
    story: list[tuple[int, int, int, str]], changes: list[tuple[int, int | None]]
) -> None:
    """I3, with prices that change in between; and lines join, register to register."""
    versions = [solar_tariff()]
    for from_s, price in sorted(dict(changes).items()):
        versions.append(solar_tariff(price, version=len(versions) + 1, from_s=from_s))
    sums: list[dict[tuple[int, str], int]] = []
    for with_deeds in (False, True):
        point, lines = solar_point(*versions), list[SettlementLine]()
        read(point, 0, 0, 100, 7)
        used, export = 0, [100, 7]
        for number, (wh, first, second, deed) in enumerate(story, start=1):
            used, export = used + wh, [export[0] + first, export[1] + second]
            at_s = 60.0 * number
            if deed == "short":
                read(point, at_s, used, lane=Lane.SHORT)
                continue
            read(point, at_s, used, *(() if deed == "away" else export))
            if with_deeds and deed == "post":
                lines += point.take_postings()
            elif with_deeds and deed == "restart":
                point = again(point)
            elif with_deeds and deed == "lost":
                point.lost()
        read(point, 60.0 * len(story) + 60, used, *export)
        lines += point.take_postings()
        sums.append({})
        for line in lines:
            for name, amount in line.charges:
                key = (line.facts[0], name)
                sums[-1][key] = sums[-1].get(key, 0) + amount
        sums[-1] = {key: amount for key, amount in sums[-1].items() if amount}
        told = [line.export for line in lines if line.export]
        assert sum(sum(pair.advance_wh) for pair in told) == sum(export) - 107
        before: tuple[int, ...] = (100, 7)
        for pair in told:
            assert pair.from_wh == before
            moved = tuple(b - a for a, b in zip(pair.from_wh, pair.to_wh, strict=True))
            assert moved == pair.advance_wh
            before = pair.to_wh
        assert sum(amount for line in lines for _, amount in line.charges) == (
            NANO - point.wallet_nano
        )
        if lines:
            assert settlement_of(lines, utc_ms=1) is not None
    assert sums[0] == sums[1]
