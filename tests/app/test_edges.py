"""Edges of the rules of money and supply: a crash between two commits, a loan agreed too late, what
nobody has read yet, a point that came later."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.requests import (
    Body,
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
from tests.app.control_site import PRICE_NANO, TARIFF, ControlSite
from tests.app.test_accounts import DAY_S, NANO, assert_proved, balance, begin, use

# The 15th of January in a month of 31 days, and the days that are left.
FEE_LEFT = 50 * NANO - 50 * NANO * 14 // 31
AUTOMATIC = '{"emergency": {"limit": "5", "threshold": "1", "automatic": true}}'
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
