"""Money where the parts meet: what a review broke, each test a scenario that once cost money."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.masscut import MassCutLimits
from gateway.core.requests import (
    AddDebt,
    AddPoint,
    Body,
    CancelVoucher,
    ChangeTariff,
    CloseAccount,
    CloseShift,
    CommissionPoint,
    ConfigureAccount,
    InvokeEmergency,
    IssueVoucher,
    OpenAccount,
    OpenShift,
    PublishTariff,
    Recharge,
    Request,
    RestoreAll,
    ReverseTransaction,
    Role,
    ServeNotice,
    Transfer,
    WriteOff,
)
from gateway.core.switching import Reason
from gateway.store.commands import find_outcome
from gateway.store.replay import replay_ledger
from tests.app.control_site import PRICE_NANO, TARIFF, ControlSite
from tests.app.test_accounts import (
    DAY_S,
    LOAN,
    NANO,
    RICH,
    ask,
    assert_proved,
    balance,
    begin,
    use,
)

DEAR = TARIFF.replace('"home"', '"dear"', 1).replace('"8.00"', '"10.00"')

FREE = json.dumps({**json.loads(TARIFF), "id": "free", "fixed": {"amount": "0"}})


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ControlSite]:
    """Two meters, read once, clock trusted."""
    made = ControlSite(tmp_path)
    made.read(1_000)
    made.read(5_000, index=1)
    yield made
    made.crash()


def asked(site: ControlSite, body: Body, key: str) -> Request:
    """A manager's request of now."""
    return Request(key, body, "anna", Role.MANAGER, "test", site.clock.utc_ms())


async def test_a_reversal_and_recharges_at_once_are_all_in_memory(site: ControlSite) -> None:
    """A reversal names no account, and waits all the same for what is under way there."""
    await begin(site, RICH)
    await site.do(Recharge("flat-1", 7 * NANO), key="first")
    outcome = find_outcome(site.file.connection, "first")
    assert outcome is not None
    seq = int(str(outcome.result["transaction_seq"]))
    bodies: list[Body] = [
        Recharge("flat-1", 5 * NANO),
        ReverseTransaction(seq, "x"),
        Recharge("flat-1", NANO),
    ]
    async with asyncio.TaskGroup() as group:
        for number, body in enumerate(bodies):
            group.create_task(site.executor.execute(asked(site, body, f"k-{number}")))
    assert balance(site, "wallet:flat-1") == RICH + 6 * NANO
    assert site.engine.points[0].wallet_nano == RICH + 6 * NANO
    assert_proved(site)


async def test_a_sweep_in_the_midst_of_a_request_does_not_undo_it_on_file(
    site: ControlSite,
) -> None:
    """Emergency credit that was answered as invoked is invoked after a crash right then."""
    await begin(site, 6 * PRICE_NANO)
    await site.do(ConfigureAccount("flat-1", LOAN))
    await use(site, 1)
    request = asked(site, InvokeEmergency("flat-1"), "loan")
    task = asyncio.create_task(site.executor.execute(request))
    while not site.desk.account("flat-1").held:
        await asyncio.sleep(0)
    await site.books.sweep({0}, site.sweeper.site_facts())
    await task
    outcome = find_outcome(site.file.connection, "loan")
    assert outcome is not None
    assert outcome.code == ""
    site.restart()
    assert site.desk.account("flat-1").credit.is_invoked


class KilledError(Exception):
    """The process dies."""


async def test_a_crash_right_after_a_change_of_tariff_starts_under_the_new_one(
    site: ControlSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What that one commit leaves on file is whole: the old tariff posted, the new from there."""
    await begin(site, RICH)
    await site.do(PublishTariff(DEAR))
    await use(site, 3)

    def die(index: int) -> None:
        raise KilledError(index)

    monkeypatch.setattr(site.books, "keep", die)
    with pytest.raises(KilledError):
        await site.do(ChangeTariff("flat-1", "dear"))
    before_nano = balance(site, "wallet:flat-1")
    site.restart()
    assert site.engine.points[0].tariff_id == "dear"
    await use(site, 2)
    await site.books.post([0])
    assert balance(site, "wallet:flat-1") == before_nano - 2 * 10_000_000
    assert_proved(site)


@pytest.mark.slow
async def test_a_month_that_two_tariffs_share_pays_one_fee(site: ControlSite) -> None:
    """Each by its days, whatever restarts in between; the ledger computed again says the same."""
    await begin(site, RICH)
    await site.do(PublishTariff(DEAR))
    await use(site, 3)
    await site.do(ChangeTariff("flat-1", "dear"))
    site.restart()
    for _ in range(17):
        site.clock.pass_s(DAY_S)
        await use(site, 0)
    await site.books.post([0])
    # From 15 January on, the day of the change under the old tariff: 50.00 a month.
    fee_nano = 50 * NANO - 50 * NANO * 14 // 31
    assert balance(site, "wallet:flat-1") == RICH - 3 * PRICE_NANO - fee_nano
    assert_proved(site)
    report = replay_ledger(site.file.connection)
    assert report.proved
    assert report.unproved == {}


AHEAD = json.dumps(
    {**json.loads(TARIFF), "id": "ahead", "fixed": {"amount": "31.00", "collect": "month_start"}}
)


async def test_what_a_change_of_tariff_gives_back_brings_supply_back(site: ControlSite) -> None:
    """17 days of a fee were paid ahead for the rest of the month: 16 of them come back."""
    await site.do(PublishTariff(AHEAD))
    await site.do(PublishTariff(FREE))
    await begin(site, RICH)
    await site.do(ChangeTariff("flat-1", "ahead"))
    nano = site.engine.points[0].available_nano
    await use(site, nano // PRICE_NANO + 1, seconds=3_600.0 * 24)
    assert Reason.CREDIT in site.engine.points[0].supply.reasons
    await site.do(ChangeTariff("flat-1", "free"))
    assert site.engine.points[0].available_nano > 0
    assert site.engine.points[0].supply.reasons == set()
    assert_proved(site)


BLOCKS = {
    **json.loads(TARIFF),
    "id": "blocks",
    "grid": {"blocks": [{"upto_kwh": 1, "price": "2.00"}, {"price": "10.00"}]},
}


async def test_blocks_count_on_under_the_next_tariff(site: ControlSite) -> None:
    """The first kWh was used under the one before; a restart and a replay know that."""
    await begin(site, RICH)
    other = {**BLOCKS, "id": "other", "name": "Other"}
    for document in (BLOCKS, other):
        published = await ask(site, PublishTariff(json.dumps(document)), str(document["id"]))
        assert published == "executed"
    opening = OpenAccount("flat-2", "flat-2", "blocks", opening_balance_nano=RICH)
    assert await ask(site, opening, "open") == "executed"
    await use(site, 1_000, index=1, seconds=3_600)
    assert await ask(site, ChangeTariff("flat-2", "other"), "change") == "executed"
    site.restart()
    before_nano = site.engine.points[1].available_nano
    await use(site, 1_000, index=1, seconds=3_600)
    assert before_nano - site.engine.points[1].available_nano == 10 * NANO
    await site.books.post([1])
    assert_proved(site)
    report = replay_ledger(site.file.connection)
    assert (report.differences, dict(report.unproved)) == ((), {})


async def test_a_new_notice_gives_new_days(site: ControlSite) -> None:
    """Also to whom the days of the one before had run out."""
    await begin(site, NANO)
    billed = ConfigureAccount("flat-1", '{"payment_mode": "credit", "notice_days": 1}')
    assert await ask(site, billed, "terms") == "executed"
    await use(site, 3_000, seconds=3_600)
    assert await ask(site, ServeNotice("flat-1", NANO), "first") == "executed"
    await use(site, 1, seconds=DAY_S)
    await use(site, 1)
    assert site.engine.points[0].supply.reasons == {Reason.CREDIT}
    assert await ask(site, ServeNotice("flat-1", NANO), "second") == "executed"
    assert site.engine.points[0].supply.reasons == set()


def capped(account_id: str) -> AddDebt:
    """A debt that takes half of every recharge, and at most 10.00 in a week."""
    return AddDebt(
        account_id,
        "old",
        "payment",
        90 * NANO,
        "arrears",
        share_ppm=500_000,
        weekly_cap_nano=10 * NANO,
    )


async def test_a_weekly_cap_counts_nobody_elses_payments(site: ControlSite) -> None:
    """Giver and taker of a transfer have a debt of the same name: the taker's alone is paid."""
    await begin(site, RICH, NANO)
    await site.do(capped("flat-1"))
    await site.do(capped("flat-2"))
    assert await ask(site, Transfer("flat-1", "flat-2", 20 * NANO, "x"), "move") == "executed"
    assert balance(site, "debt:flat-2:old") == -80 * NANO
    await site.do(Recharge("flat-1", 20 * NANO))
    assert balance(site, "debt:flat-1:old") == -80 * NANO


async def test_a_weekly_cap_counts_payments_only(site: ControlSite) -> None:
    """What was written off is no payment, and what is taken back later makes no room."""
    await begin(site, RICH)
    await site.do(capped("flat-1"))
    assert await ask(site, WriteOff("flat-1", "old", 10 * NANO, "x"), "off") == "executed"
    await site.do(Recharge("flat-1", 20 * NANO), key="first")
    assert balance(site, "debt:flat-1:old") == -70 * NANO
    await use(site, 1, seconds=7 * DAY_S)
    outcome = find_outcome(site.file.connection, "first")
    assert outcome is not None
    await site.do(ReverseTransaction(int(str(outcome.result["transaction_seq"])), "x"))
    assert balance(site, "debt:flat-1:old") == -80 * NANO
    await site.do(Recharge("flat-1", 60 * NANO))
    assert balance(site, "debt:flat-1:old") == -70 * NANO


async def test_a_count_waits_for_all_that_moved_money_before_it(site: ControlSite) -> None:
    """Vouchers that are sold and taken back, a refund at a move-out: the count is last."""
    await begin(site, RICH, 3 * NANO)
    await site.do(OpenShift("till-1", 0))
    bodies: list[Body] = [IssueVoucher("flat-1", NANO) for _ in range(5)]
    bodies += [CancelVoucher("flat-1", 1, "x"), CloseAccount("flat-2", "x", "counter")]
    bodies.append(CloseShift(1, ("counter",), (NANO,)))
    async with asyncio.TaskGroup() as group:
        for number, body in enumerate(bodies):
            group.create_task(site.executor.execute(asked(site, body, f"k-{number}")))
    found = [find_outcome(site.file.connection, f"k-{number}") for number in range(len(bodies))]
    assert [one.code for one in found if one is not None] == [""] * len(bodies)
    count = found[-1]
    assert count is not None
    assert count.result["difference_nano"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("cause", ["fee", "gap"])
async def test_what_one_point_was_charged_is_no_mass_cut_at_another(
    site: ControlSite, cause: str
) -> None:
    """A fee and an outage use up one credit of two points: the second to be read counts no more."""
    await begin(site, 40 * NANO)
    await site.do(PublishTariff(FREE))
    await site.do(AddPoint("flat-1", "flat-2", "free"))
    await site.do(CommissionPoint("flat-2"))
    site.engine.breaker.limits = MassCutLimits(halt_percent=1, halt_min_points=1)
    hours = 17 * 24 if cause == "fee" else 1
    for minute in range(hours * 60):
        site.clock.pass_s(60)
        site.read(5_000, index=1)
        if cause == "fee":
            site.read(1_000)
        if minute % 30 == 29:
            await site.sweeper.sweep()
    if cause == "gap":
        site.read(7_000)
    site.clock.pass_s(1)
    site.read(5_000, index=1)
    point = site.engine.points[1]
    assert point.available_nano < 0
    assert point.supply.reasons == {Reason.CREDIT}
    assert not site.engine.breaker.halted


async def test_a_fee_that_a_recharge_makes_due_comes_before_supply(site: ControlSite) -> None:
    """Who is below zero again for it does not get supply for a moment."""
    await begin(site)
    fee = {"amount": "50.00", "collect": "first_recharge"}
    await site.do(PublishTariff(json.dumps({**json.loads(TARIFF), "fixed": fee})))
    await site.open_flat(PRICE_NANO)
    await use(site, 2)
    supply = site.engine.points[0].supply
    assert supply.reasons == {Reason.CREDIT}
    await site.do(Recharge("flat-1", NANO))
    assert site.engine.points[0].available_nano < 0
    assert supply.reasons == {Reason.CREDIT}
    await site.do(Recharge("flat-1", 50 * NANO))
    assert not supply.reasons
    assert_proved(site)


async def test_a_crash_right_after_a_move_out_blocks_no_new_tenant(
    site: ControlSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old tenant was cut for credit: the one who comes with credit owes nothing of it."""
    await begin(site, PRICE_NANO)
    await use(site, 2)
    assert site.engine.points[0].supply.reasons == {Reason.CREDIT}

    def die(index: int) -> None:
        raise KilledError(index)

    monkeypatch.setattr(site.books, "keep", die)
    with pytest.raises(KilledError):
        await site.do(CloseAccount("flat-1", "moved out"))
    site.restart()
    await use(site, 0)
    await use(site, 0)
    assert await ask(site, OpenAccount("next", "flat-1", "home", "", RICH), "next") == "executed"
    point = site.engine.points[0]
    assert point.account_id == "next"
    assert not point.supply.reasons


async def test_emergency_credit_bears_nothing_in_credit_mode(site: ControlSite) -> None:
    """A customer who is billed from now on owes what is used: it can be noticed and paid."""
    await begin(site, 5 * PRICE_NANO)
    await site.do(ConfigureAccount("flat-1", LOAN))
    await site.do(InvokeEmergency("flat-1"))
    await use(site, 7)
    await site.books.post([0])
    assert balance(site, "emergency:flat-1") == -2 * PRICE_NANO
    billed = json.dumps({**json.loads(LOAN), "payment_mode": "credit"})
    assert await ask(site, ConfigureAccount("flat-1", billed), "billed") == "executed"
    await use(site, 3)
    await site.books.post([0])
    assert balance(site, "wallet:flat-1") == -3 * PRICE_NANO
    assert balance(site, "emergency:flat-1") == -2 * PRICE_NANO
    assert await ask(site, ServeNotice("flat-1", 3 * PRICE_NANO), "notice") == "executed"


async def test_a_restoration_outlives_a_crash_right_after_it(site: ControlSite) -> None:
    """Two managers bring the site back: nobody is asked for a confirmation after a crash."""
    site.engine.gate.chain_verified = True
    await begin(site, 2 * PRICE_NANO)
    await use(site, 3)
    site.clock.pass_s(3)
    site.read(1_003, closed=False)
    await site.sweeper.sweep()
    assert site.engine.points[0].supply.reconnection_pending
    until_utc_ms = site.clock.utc_ms() + 3_600_000
    await site.do(RestoreAll(until_utc_ms, "x"), actor="berta")
    await site.do(RestoreAll(until_utc_ms, "x"), actor="carla")
    site.restart()
    assert site.engine.governor.restoring == {0}


async def test_a_clock_that_starts_in_1970_gives_no_notice_back(site: ControlSite) -> None:
    """A notice that had run out before a restart has run out after it, whatever the clock says."""
    await begin(site, NANO)
    terms = '{"payment_mode": "credit", "notice_days": 1}'
    assert await ask(site, ConfigureAccount("flat-1", terms), "terms") == "executed"
    await use(site, 200, seconds=600)
    assert await ask(site, ServeNotice("flat-1", NANO // 2), "notice") == "executed"
    await use(site, 1, seconds=2 * DAY_S)
    assert site.engine.points[0].supply.reasons == {Reason.CREDIT}
    site.clock.wall_ms = 1_000
    site.restart(boot="boot-2")
    assert site.engine.points[0].supply.reasons == {Reason.CREDIT}
