"""Feed-in that is paid for, from request to ledger: supply given back, holds, restarts, proofs."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from gateway.app.config import load_config
from gateway.core.ledger import ExportRegisters, SettlementLine, merge_entries, settlement_of
from gateway.core.requests import (
    ChangeTariff,
    CloseAccount,
    OutcomeStatus,
    PublishTariff,
    ReleaseQuarantine,
)
from gateway.core.switching import Reason
from gateway.store.checkpoints import Sums
from gateway.store.commands import find_outcome
from gateway.store.ledger import ledger_head, read_balance, read_transactions
from gateway.store.replay import replay_ledger
from gateway.store.verify import verify_ledger
from tests.app.control_site import PRICE_NANO, TARIFF, ControlSite
from tests.app.test_replay import forge

NANO_PER_RUPEE = 10**9
FEED_IN_NANO = 3_000_000
SOLAR = {**json.loads(TARIFF), "feed_in": {"price": "3.00"}}
DARK = {**json.loads(TARIFF), "id": "dark"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ControlSite]:
    """Two flats whose feed-in is paid for; the first has an account with 1.00."""
    made = ControlSite(tmp_path, export="credited")
    made.clock.pass_s(1)
    made.read(100, export_wh=500)
    made.read(100, index=1)
    asyncio.run(_opened(made))
    yield made
    made.crash()


async def _opened(site: ControlSite) -> None:
    await site.sweeper.sweep()
    await site.do(PublishTariff(json.dumps(SOLAR)))
    await site.open_flat(NANO_PER_RUPEE)
    await site.sweeper.sweep()


def lines_of(site: ControlSite) -> list[SettlementLine]:
    """All settlement lines so far."""
    connection = site.file.connection
    found = read_transactions(connection, 1, ledger_head(connection).seq)
    return [line for transaction, _ in found for line in transaction.settlements]


def wallet_nano(site: ControlSite) -> int:
    """The balance on file."""
    return read_balance(site.file.connection, "wallet:flat-1")


def check(site: ControlSite) -> None:
    """The ledger proves itself and follows from its rows."""
    assert site.proof().problems == ()
    assert [one.words for one in replay_ledger(site.file.connection).differences] == []


async def use(site: ControlSite, wh: float, export_wh: float, seconds: float = 60) -> None:
    """Time passes, the meter is read, and control sweeps twice (CREDIT clears after a commit)."""
    site.clock.pass_s(seconds)
    site.read(int(wh), export_wh=export_wh, closed=site.engine.points[0].supply.command is None)
    await site.sweeper.sweep()


def test_what_is_fed_in_gives_supply_back(site: ControlSite) -> None:
    """CREDIT stands when the credit is used up, and goes with the posting that lifts it again."""
    point = site.engine.points[0]

    async def live() -> None:
        await use(site, 100 + 125, 500)
        assert wallet_nano(site) == NANO_PER_RUPEE - 125 * PRICE_NANO == 0
        assert point.supply.reasons == {Reason.CREDIT}
        await use(site, 225, 500)
        assert point.supply.reasons == {Reason.CREDIT}
        await use(site, 225, 501)
        assert point.supply.reasons == frozenset()
        assert wallet_nano(site) == FEED_IN_NANO

    asyncio.run(live())
    assert exports(site)[-1] == ExportRegisters((500, 0), (501, 0), (1, 0))
    check(site)


def test_what_lifts_no_credit_waits_for_the_half_hour(site: ControlSite) -> None:
    """Far below zero a roof does not fill the ledger with a posting a second."""

    async def live() -> None:
        await use(site, 225 + 1_000, 500, seconds=3_600)
        assert site.engine.points[0].supply.reasons == {Reason.CREDIT}
        before = len(lines_of(site))
        for export_wh in range(501, 511):
            await use(site, 1_225, export_wh, seconds=1)
        assert len(lines_of(site)) == before
        await use(site, 1_225, 500 + 2_667 + 1, seconds=3_600)
        assert site.engine.points[0].supply.reasons == frozenset()

    asyncio.run(live())
    check(site)


def test_supply_is_given_back_after_a_request_that_was_under_way(site: ControlSite) -> None:
    """A recharge that is refused in the instant of the posting leaves nobody cut with credit."""
    account = site.engine.points[0].account
    assert account is not None

    async def seen_open(export_wh: int) -> None:
        site.clock.pass_s(1)
        site.read(225, export_wh=export_wh, closed=False)
        await site.sweeper.sweep()

    async def live() -> None:
        await use(site, 225, 500)
        for _ in range(3):
            await seen_open(500)
        site.clock.pass_s(1)
        site.read(225, export_wh=501, closed=False)
        sweep = asyncio.create_task(site.sweeper.sweep())
        await asyncio.sleep(0)
        with site.desk.holding(account):
            await sweep
        assert site.engine.points[0].supply.reasons == {Reason.CREDIT}
        await seen_open(501)
        assert site.engine.points[0].supply.reasons == frozenset()

    asyncio.run(live())


def exports(site: ControlSite) -> list[ExportRegisters]:
    """Export registers of all lines, the second register (always 1) shown as 0."""
    found = [line.export for line in lines_of(site) if line.export is not None]
    return [
        ExportRegisters(
            (one.from_wh[0], one.from_wh[1] - 1),
            (one.to_wh[0], one.to_wh[1] - 1),
            one.advance_wh,
            one.flags,
        )
        for one in found
    ]


def test_a_held_jump_waits_for_a_manager(site: ControlSite) -> None:
    """Nobody is paid for it until it is released; the event names the export registers."""

    async def live() -> None:
        await use(site, 110, 900_000)
        await use(site, 120, 900_010)
        assert wallet_nano(site) == NANO_PER_RUPEE - 10 * PRICE_NANO
        await site.do(ReleaseQuarantine("flat-1", True, "a new inverter"), key="release")

    asyncio.run(live())
    outcome = find_outcome(site.file.connection, "release")
    assert outcome is not None
    assert outcome.result == {"charged_wh": [0, 0], "credited_wh": [899_510, 0]}
    assert wallet_nano(site) == NANO_PER_RUPEE - 20 * PRICE_NANO + 899_510 * FEED_IN_NANO
    assert exports(site)[-1].flags == ("RELEASED",)
    check(site)


def test_held_feed_in_of_one_customer_is_never_the_next_ones(site: ControlSite) -> None:
    """As with import: an account ends and begins where nothing waits for a decision."""

    async def live() -> None:
        await use(site, 110, 900_000)
        await site.do(CloseAccount("flat-1", "moves out", "counter"), key="early")
        await site.do(ReleaseQuarantine("flat-1", True, "a new inverter"))
        await site.do(CloseAccount("flat-1", "moves out", "counter"), key="late")

    asyncio.run(live())
    early, late = (find_outcome(site.file.connection, key) for key in ("early", "late"))
    assert early is not None
    assert (early.status, early.code) == (OutcomeStatus.REFUSED, "FEED_IN_HELD")
    assert late is not None
    assert late.status is OutcomeStatus.EXECUTED
    paid_nano = NANO_PER_RUPEE - 10 * PRICE_NANO + 899_500 * FEED_IN_NANO
    fee_nano = paid_nano - cast("int", late.result["refund_nano"])
    assert 0 < fee_nano < 2 * NANO_PER_RUPEE
    check(site)


def test_a_restart_pays_once(site: ControlSite) -> None:
    """What was fed in before a crash and not posted is, whether the machine was off or not."""
    asyncio.run(use(site, 100, 510))
    site.restart()
    asyncio.run(use(site, 100, 515))
    site.restart(boot="boot-2")
    asyncio.run(use(site, 100, 517, seconds=3_600))
    asyncio.run(_post(site))
    assert wallet_nano(site) == NANO_PER_RUPEE + 17 * FEED_IN_NANO
    check(site)


async def _post(site: ControlSite) -> None:
    await site.books.post([0, 1])


def test_energy_of_a_night_without_power_is_plausible(site: ControlSite) -> None:
    """The machine was off for eight hours: 20 kWh in them are energy and no jump."""
    asyncio.run(use(site, 100, 510))
    site.restart(boot="boot-2")
    asyncio.run(use(site, 100, 20_510, seconds=8 * 3_600))
    asyncio.run(_post(site))
    assert site.engine.points[0].feed_in is not None
    assert not site.engine.points[0].feed_in.held
    assert wallet_nano(site) == NANO_PER_RUPEE + 20_010 * FEED_IN_NANO


@pytest.mark.parametrize("policy", ["ignored", "alarmed"])
def test_the_setting_is_taken_away(site: ControlSite, policy: str) -> None:
    """What was counted until then is paid, what comes later is not, and given back it counts on."""
    asyncio.run(use(site, 100, 510))
    _configure(site, "credited", policy)
    asyncio.run(use(site, 100, 530))
    asyncio.run(use(site, 100, 540))
    asyncio.run(_post(site))
    assert wallet_nano(site) == NANO_PER_RUPEE + 10 * FEED_IN_NANO
    _configure(site, policy, "credited")
    asyncio.run(use(site, 100, 600))
    asyncio.run(use(site, 100, 604))
    asyncio.run(_post(site))
    assert wallet_nano(site) == NANO_PER_RUPEE + 14 * FEED_IN_NANO
    assert exports(site)[-1] == ExportRegisters((510, 0), (604, 0), (4, 0), ("EXPORT_BEGUN",))
    check(site)


def test_what_is_held_waits_although_the_setting_is_taken_away(site: ControlSite) -> None:
    """Over as many starts as it takes: only a manager decides on it."""
    asyncio.run(use(site, 100, 900_000))
    _configure(site, "credited", "ignored")
    asyncio.run(use(site, 100, 900_010))
    site.restart()
    asyncio.run(use(site, 100, 900_020))
    asyncio.run(site.do(ReleaseQuarantine("flat-1", True, "a new inverter")))
    assert wallet_nano(site) == NANO_PER_RUPEE + 899_500 * FEED_IN_NANO
    _configure(site, "ignored", "credited")
    asyncio.run(use(site, 100, 900_030))
    asyncio.run(use(site, 100, 900_034))
    asyncio.run(_post(site))
    assert wallet_nano(site) == NANO_PER_RUPEE + 899_504 * FEED_IN_NANO
    check(site)


def _configure(site: ControlSite, before: str, after: str) -> None:
    path = site.directory / "config.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f"export: {before}", f"export: {after}"), encoding="utf-8")
    site.config = load_config(path)
    site.restart()


def test_a_tariff_without_a_price_is_told_once(site: ControlSite) -> None:
    """Wh are counted and worth nothing; the event comes once, not with every reading."""

    async def live() -> None:
        await site.do(PublishTariff(json.dumps(DARK)))
        await site.do(ChangeTariff("flat-1", "dark"))
        for export_wh in (505, 510, 515):
            site.clock.pass_s(60)
            site.read(100, export_wh=export_wh)
            told.extend(event.kind for event in site.keeper._events)
            await site.sweeper.sweep()
        await site.books.post([0])

    told: list[str] = []
    asyncio.run(live())
    assert wallet_nano(site) == NANO_PER_RUPEE
    last = lines_of(site)[-1]
    assert (last.tariff_id, last.fed_wh, last.charges) == ("dark", 15, ())
    assert told.count("FEED_IN_UNPRICED") == 1
    check(site)


# -- proofs --------------------------------------------------------------------------------


def _forged(site: ControlSite, change: ExportRegisters) -> sqlite3.Connection:
    """The ledger with another pair in its last line, and a chain that holds."""
    connection = site.file.connection
    found = read_transactions(connection, 1, ledger_head(connection).seq)
    made = [transaction for transaction, _ in found]
    at = max(index for index, one in enumerate(made) if one.settlements)
    line = replace(made[at].settlements[-1], export=change)
    again = settlement_of([line], utc_ms=made[at].utc_ms)
    assert again is not None
    assert merge_entries(again.entries) == merge_entries(made[at].entries)
    made[at] = again
    forge(connection, made)
    return connection


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (ExportRegisters((520, 1), (530, 1), (10, 0)), "begins at export registers [520, 1]"),
        (ExportRegisters((510, 1), (530, 1), (10, 0)), "registers moved by [20, 0] Wh, fed in"),
        (ExportRegisters((510, 1), (500, 1), (-10, 0)), "energy fed in is negative"),
        (ExportRegisters((510, 1), (520,), (10, 0)), "its export registers differ in number"),
    ],
)
def test_a_forged_pair_is_found(site: ControlSite, pair: ExportRegisters, words: str) -> None:
    """Continuity, movement and sign of export registers are part of `ledger verify`."""
    asyncio.run(use(site, 100, 510))
    asyncio.run(_post(site))
    asyncio.run(use(site, 100, 520))
    asyncio.run(_post(site))
    check(site)
    problems = verify_ledger(_forged(site, pair)).problems
    assert any(words in problem for problem in problems), problems


def test_more_energy_than_is_paid_for_is_found_by_replay(site: ControlSite) -> None:
    """A pair that is sound in itself, and a credit that does not follow from it."""
    asyncio.run(use(site, 100, 510))
    asyncio.run(_post(site))
    pair = ExportRegisters((500, 1), (511, 1), (11, 0), ("EXPORT_BEGUN",))
    connection = _forged(site, pair)
    assert verify_ledger(connection).problems == ()
    words = [one.words for one in replay_ledger(connection).differences]
    assert any("income:export moves by -30000000, computed again by -33000000" in w for w in words)


def test_checkpoints_carry_export_registers(site: ControlSite) -> None:
    """The sums of a proof go on from them; those of an older program have none."""
    asyncio.run(use(site, 100, 510))
    asyncio.run(_post(site))
    sums = site.proof().sums
    assert sums.export == {("flat-1", "flat-1", "flat-1"): (510, 1)}
    assert Sums.unpacked(sums.packed()) == sums
    without = replace(sums, export={})
    assert b"export" not in without.packed()
    assert Sums.unpacked(without.packed()).export == {}
