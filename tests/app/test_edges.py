"""Edges of the rules of money and supply: a crash between two commits, a loan agreed too late, what
nobody has read yet, a point that came later."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app.control.governing import governor_of
from gateway.core.requests import (
    AddPoint,
    Body,
    ChangeTariff,
    CommissionPoint,
    ConfigureAccount,
    ConfirmReconnect,
    PublishTariff,
    Recharge,
    Request,
    Role,
)
from gateway.core.switching import ControlState, Reason
from gateway.store.commands import find_outcome
from gateway.store.replay import replay_ledger
from gateway.store.writer import InlineWriter
from tests.app.control_site import CONFIG, NS, PRICE_NANO, TARIFF, ControlSite
from tests.app.test_accounts import DAY_S, NANO, assert_proved, balance, begin, use

# The 15th of January in a month of 31 days, and the days that are left.
FEE_LEFT = 50 * NANO - 50 * NANO * 14 // 31
AUTOMATIC = '{"emergency": {"limit": "5", "threshold": "1", "automatic": true}}'
FEEDER = "feeders: [{id: main, capacity_w: 4000}]\n"
FIRST_RECHARGE = json.dumps(
    {**json.loads(TARIFF), "fixed": {"amount": "50.00", "collect": "first_recharge"}}
)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ControlSite]:
    """Two meters, read once, clock trusted."""
    made = ControlSite(tmp_path)
    made.read(1_000)
    made.read(5_000, index=1)
    yield made
    made.crash()


def assert_replayed(site: ControlSite) -> None:
    """The ledger follows from its rows and requests (I14)."""
    report = replay_ledger(site.file.connection)
    assert report.differences == ()
    assert report.balances == {}


async def killed_at_its_commit(site: ControlSite, body: Body, key: str) -> None:
    """Let a request be committed and the process die in that instant."""
    now_ms = site.clock.utc_ms()
    request = Request(key, body, "anna", Role.MANAGER, "test", now_ms, now_ms + 60_000)
    task = asyncio.create_task(site.executor.execute(request))
    while find_outcome(site.file.connection, key) is None:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    site.restart()


async def test_a_fee_that_waits_for_a_recharge_outlives_a_crash_right_after_it(
    site: ControlSite,
) -> None:
    """It is charged at the restart, posted with the first sweep, and never again in the month."""
    await begin(site)
    await site.do(PublishTariff(FIRST_RECHARGE))
    await site.open_flat(PRICE_NANO)
    await site.sweeper.sweep()
    await killed_at_its_commit(site, Recharge("flat-1", 100 * NANO), "R")
    assert balance(site, "wallet:flat-1") == 100 * NANO + PRICE_NANO
    assert site.engine.points[0].available_nano == 100 * NANO + PRICE_NANO - FEE_LEFT
    await site.sweeper.sweep()
    assert balance(site, "wallet:flat-1") == 100 * NANO + PRICE_NANO - FEE_LEFT
    site.restart()
    await site.do(Recharge("flat-1", NANO))
    assert site.engine.points[0].available_nano == 101 * NANO + PRICE_NANO - FEE_LEFT
    assert_proved(site)
    assert_replayed(site)


async def test_a_recharge_of_last_month_makes_no_fee_of_this_month_due(site: ControlSite) -> None:
    """A restart in February looks back on January's recharge and leaves the fee waiting."""
    await begin(site)
    await site.do(PublishTariff(FIRST_RECHARGE))
    await site.open_flat(PRICE_NANO)
    await site.do(Recharge("flat-1", 100 * NANO))
    await use(site, 0, seconds=20 * DAY_S)
    site.restart()
    assert site.engine.points[0].available_nano == 100 * NANO + PRICE_NANO - FEE_LEFT
    await site.do(Recharge("flat-1", 100 * NANO))
    assert site.engine.points[0].available_nano == 150 * NANO + PRICE_NANO - FEE_LEFT
    assert_proved(site)
    assert_replayed(site)


async def cut(site: ControlSite) -> None:
    """Open flat 1 with next to nothing, use it up, and see its output open."""
    site.engine.gate.chain_verified = True
    await begin(site, 2 * PRICE_NANO)
    await use(site, 2)
    site.clock.pass_s(3)
    site.read(1_002, closed=False)
    await site.sweeper.sweep()
    supply = site.engine.points[0].supply
    assert supply.reasons == {Reason.CREDIT}
    assert supply.reconnection_pending


async def test_automatic_emergency_credit_agreed_after_the_cut_is_taken_up(
    site: ControlSite,
) -> None:
    """At the account's only point no reading judges the credit any more. Supply comes back as after
    a recharge: ready, and closed by a confirmation."""
    await cut(site)
    await site.do(ConfigureAccount("flat-1", AUTOMATIC))
    point = site.engine.points[0]
    assert point.available_nano == 5 * NANO
    assert not point.supply.reasons
    site.clock.pass_s(60)
    site.read(1_002, closed=False)
    assert point.supply.state(site.clock.mono_ns()) is ControlState.READY_FOR_RECONNECTION
    assert not site.engine.points[0].supply.intended_closed
    await site.do(ConfirmReconnect("flat-1"))
    assert point.supply.intended_closed
    site.restart()
    assert site.desk.account("flat-1").credit.is_invoked
    site.read(1_002)
    await use(site, 10)
    await site.books.post([0])
    assert balance(site, "emergency:flat-1") == -10 * PRICE_NANO
    assert_proved(site)
    assert_replayed(site)


async def test_automatic_emergency_credit_outlives_a_crash_right_after_its_agreement(
    site: ControlSite,
) -> None:
    """The terms are on file, what follows from them is not: the start takes it up."""
    await cut(site)
    await killed_at_its_commit(site, ConfigureAccount("flat-1", AUTOMATIC), "T")
    point = site.engine.points[0]
    assert point.available_nano == 5 * NANO
    assert not point.supply.reasons


async def test_a_recharge_that_repays_the_loan_to_the_last_leaves_nobody_cut(
    site: ControlSite,
) -> None:
    """Nothing is owed and nothing is left: what was agreed to come by itself comes again."""
    await begin(site, 2 * PRICE_NANO)
    await site.do(ConfigureAccount("flat-1", AUTOMATIC))
    await use(site, 2 + 5 * NANO // PRICE_NANO, seconds=600)
    supply = site.engine.points[0].supply
    assert supply.reasons == {Reason.CREDIT}
    await site.books.post([0])
    assert balance(site, "emergency:flat-1") == -5 * NANO
    await site.do(Recharge("flat-1", 5 * NANO))
    assert balance(site, "emergency:flat-1") == balance(site, "wallet:flat-1") == 0
    assert site.engine.points[0].available_nano == 5 * NANO
    assert not supply.reasons
    assert_proved(site)
    assert_replayed(site)


async def until_ready(directory: Path) -> ControlSite:
    """Flat 1, which drew 2.3 kW, was cut and waits on a feeder that carries 4 kW; so does flat 2
    draw 2.3 kW."""
    made = ControlSite(directory, more=FEEDER)
    made.read(1_000)
    made.read(5_000, index=1)
    await cut(made)
    made.clock.pass_s(60)
    made.read(5_000, index=1)
    await made.do(Recharge("flat-1", NANO))
    await made.sweeper.sweep()
    return made


def is_closed_after_confirmation(site: ControlSite) -> bool:
    """Flat 1 is read and confirmed: whether the engine begins to close it."""
    site.read(1_002, closed=False)
    supply = site.engine.points[0].supply
    if supply.reconnection_pending:
        supply.confirm(site.clock.mono_ns())
    site.engine.decide(0)
    track = site.engine.commands.get(0)
    return track is not None and track.close


async def test_a_start_counts_what_a_meter_drew_before_it_is_read_again(tmp_path: Path) -> None:
    """Flat 2 still draws 2.3 kW: with flat 1 the feeder would be over its 4 kW."""
    site = await until_ready(tmp_path)
    assert not is_closed_after_confirmation(site)
    site.restart(boot="boot-2")
    site.engine.gate.chain_verified = True
    site.clock.pass_s(600)
    assert not is_closed_after_confirmation(site)
    site.read(5_010, index=1, closed=False)
    assert is_closed_after_confirmation(site)
    site.crash()


async def test_a_meter_of_which_nothing_is_kept_counts_by_its_limit_for_two_minutes(
    tmp_path: Path,
) -> None:
    """A state of an older program, or a new meter: 30 % of 7,360 W, until it has been read or was
    not within the time in which every other was."""
    site = await until_ready(tmp_path)
    site.crash()
    site.open()
    site.engine.gate.chain_verified = True
    governor, now_ns = site.engine.governor, site.clock.mono_ns()
    assert governor.feeders["main"].load_w(now_ns, without=frozenset({0})) == 2_300
    kept = governor.snapshot(now_ns)
    del kept["loads"]
    fresh = governor_of(
        site.config,
        InlineWriter(site.file),
        site.found.points,
        books=site.books,
        display=site.display,
        clock=site.clock,
    )
    fresh.restore(kept, now_ns, 0)
    feeder = fresh.feeders["main"]
    assert feeder.load_w(now_ns, without=frozenset({0})) == 2_208
    assert not feeder.has_room(0, 2_300.0, now_ns)
    assert feeder.load_w(now_ns + 120 * NS, without=frozenset({0})) == 0
    feeder.seen(1, now_ns, 700.0, is_open=False)
    assert feeder.load_w(now_ns, without=frozenset({0})) == 700
    site.crash()


async def test_what_a_check_meter_sees_is_not_counted_once_more(tmp_path: Path) -> None:
    """At the head of a feeder of 4 kW it sees the 2.3 kW of flat 1: there is room for 1.7 kW."""
    path = tmp_path / "config.yaml"
    flats = (CONFIG + FEEDER).replace("id: flat-2,", "id: riser, role: check,")
    path.write_text(flats, encoding="utf-8")
    site = ControlSite(tmp_path)
    feeder = site.engine.governor.feeders["main"]
    assert feeder.load_w(site.clock.mono_ns()) == 2_208, "flat 1, unread"
    site.read(1_000)
    site.read(5_000, index=1)
    await site.sweeper.sweep()
    assert feeder.load_w(site.clock.mono_ns()) == 2_300
    site.clock.pass_s(20)
    site.read(1_001)
    site.read(5_001, index=1)
    assert feeder.fresh_w(site.clock.mono_ns(), 60.0) == {0: 2_300.0}
    site.crash()


BY_OPENING = json.dumps(
    {
        **json.loads(TARIFF),
        "period": {"day": "opening"},
        "grid": {"blocks": [{"upto_kwh": 1, "price": "8.00"}, {"price": "10.00"}]},
        "fixed": {"amount": "50.00", "collect": "month_start"},
    }
)


@pytest.mark.slow
async def test_a_point_that_came_later_has_the_periods_of_its_account(site: ControlSite) -> None:
    """Opened on the 15th, a point more on the 20th: fees and blocks of both begin again on the
    15th of February, also after a restart, and the replay computes the same."""
    await begin(site)
    await site.do(PublishTariff(BY_OPENING))
    await site.open_flat(1_000 * NANO)
    await use(site, 0, index=1, seconds=5 * DAY_S)
    await use(site, 0, index=0, seconds=10)
    await use(site, 0, index=1, seconds=10)
    await site.do(AddPoint("flat-1", "flat-2", "home"))
    await site.do(CommissionPoint("flat-2"))
    first, second = site.engine.points
    assert first.pricer is not None
    assert second.pricer is not None
    assert first.pricer.period_label == second.pricer.period_label == "2027-01-15"
    days = 31
    left = 50 * NANO - 50 * NANO * 5 // days
    await site.sweeper.sweep()
    assert balance(site, "wallet:flat-1") == 950 * NANO - left
    await use(site, 1_500, index=1, seconds=3_600)
    site.restart()
    site.read(1_000)
    site.read(6_500, index=1)
    await site.sweeper.sweep()
    # Over the 15th of February, and not to the 20th.
    for _ in range(27):
        await use(site, 0, seconds=DAY_S)
        site.read(6_500, index=1)
    await use(site, 700, index=1, seconds=3_600)
    await site.books.post([0, 1])
    used = 1_000 * 8_000_000 + 500 * 10_000_000 + 700 * 8_000_000
    assert balance(site, "wallet:flat-1") == 950 * NANO - left - 100 * NANO - used
    second = site.engine.points[1]
    assert second.pricer is not None
    assert second.pricer.period_label == "2027-02-15"
    assert_proved(site)
    assert_replayed(site)


async def test_a_point_whose_first_state_a_crash_took_has_the_periods_of_its_account(
    site: ControlSite,
) -> None:
    """The stay is on file, no state of it is."""
    await begin(site)
    await site.do(PublishTariff(BY_OPENING))
    await site.open_flat(1_000 * NANO)
    await use(site, 0, index=1, seconds=5 * DAY_S)
    await use(site, 0, index=1, seconds=10)
    await killed_at_its_commit(site, AddPoint("flat-1", "flat-2", "home"), "A")
    pricer = site.engine.points[1].pricer
    assert pricer is not None
    assert pricer.period_label == "2027-01-15"


async def test_a_crash_after_a_change_of_tariff_that_posted_nothing_keeps_the_new_one(
    site: ControlSite,
) -> None:
    """The last sweep still tells of the old tariff, with the same count of postings: what the
    request kept is newer. Here the fee of the days that are left would be lost."""
    ahead = {"id": "ahead", "fixed": {"amount": "31.00", "collect": "month_start"}}
    await begin(site)
    await site.do(PublishTariff(json.dumps({**json.loads(TARIFF), "fixed": {"amount": "0"}})))
    await site.do(PublishTariff(json.dumps({**json.loads(TARIFF), **ahead})))
    await site.open_flat(1_000 * NANO)
    await use(site, 3)
    await site.books.post([0])
    await site.sweeper.sweep()
    # At the same reading: nothing is left to post.
    await site.do(ChangeTariff("flat-1", "ahead"))
    before_nano = site.engine.points[0].available_nano
    site.restart()
    assert site.engine.points[0].available_nano == before_nano
    await use(site, 1)
    await site.books.post([0])
    assert_proved(site)
    assert_replayed(site)


async def test_a_recharge_before_a_change_of_tariff_is_none_of_the_next_one_after_a_restart(
    site: ControlSite,
) -> None:
    """In one millisecond: the old tariff's fee was due by it, the new one's waits for the next."""
    await begin(site)
    await site.do(PublishTariff(FIRST_RECHARGE))
    await site.do(PublishTariff(FIRST_RECHARGE.replace('"home"', '"next"')))
    await site.open_flat(100 * NANO)
    await site.do(Recharge("flat-1", 100 * NANO))
    await site.do(ChangeTariff("flat-1", "next"))
    await use(site, 0)
    before_nano = site.engine.points[0].available_nano
    site.restart()
    assert site.engine.points[0].available_nano == before_nano


async def test_a_threshold_that_was_armed_is_armed_after_a_restart(site: ControlSite) -> None:
    """Agreed with more left: what a start finds below it is a crossing, and is told."""
    await begin(site, 2_000 * NANO)
    terms = '{"low_credit": ["1000.00"]}'
    await site.do(ConfigureAccount("flat-1", terms))
    await use(site, 1)
    site.restart()
    watch = site.desk.account("flat-1").low_credit
    assert watch.snapshot()["armed"] == ["LOW_1000"]
    alerts = site.desk.account("flat-1").low_credit.observe(900 * NANO)
    assert [alert.threshold for alert in alerts] == ["LOW_1000"]
