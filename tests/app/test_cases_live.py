"""Worked examples of prepaid.yaml end to end in control: real stores, engine and ledger.

What the rules alone decide is in tests/core; here the same figures come out of requests, readings
and sweeps, through the one file that would be left after a crash.
"""

import json
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from gateway.app.paths import paths_of
from gateway.core.errors import RefusedError
from gateway.core.guard import GuardEvent
from gateway.core.money import format_amount
from gateway.core.requests import (
    Body,
    CommissionPoint,
    ConfigureAccount,
    InvokeEmergency,
    OpenAccount,
    PublishTariff,
    Recharge,
    ReverseTransaction,
)
from gateway.core.switching import Reason
from gateway.north.http.problems import status_of
from gateway.store.commands import find_outcome
from gateway.store.ledger import read_balance, read_balances, transactions_of
from gateway.store.telemetry_reader import TelemetryReader
from tests.app.control_site import ControlSite
from tests.app.test_inlet import Office, inlet_of, settle
from tests.core.test_prepaid_cases import CASES, INR, instant, listed, nano, part

FLAT = "flat-1"
OTHER = 5_000


class Home:
    """Flat 1 under a flat tariff, commissioned, with the switch's part played by hand."""

    def __init__(self, site: ControlSite) -> None:
        self.site = site
        self.register_wh = 1_000

    async def begin(self, balance: str, rate: str, *, at: str = "") -> None:
        """Open the account at a moment (UTC offset given) with this balance and price."""
        clock = self.site.clock
        if at:
            clock.pass_s((instant(at) - clock.utc_ms()) / 1_000)
        self.look()
        self.site.read(OTHER, index=1)
        await self.site.sweeper.sweep()
        self.site.engine.gate.chain_verified = True
        document = {
            "id": "case",
            "name": "Case",
            "currency": "INR",
            "timezone": "Asia/Kolkata",
            "effective_from": "2026-01-01T00:00:00+05:30",
            "grid": {"price": rate},
            "generator": {"price": rate},
        }
        await self.site.do(PublishTariff(json.dumps(document)))
        await self.site.do(OpenAccount(FLAT, FLAT, "case", opening_balance_nano=nano(balance)))
        await self.site.do(CommissionPoint(FLAT))

    @property
    def state(self) -> str:
        """The supply's state as the example writes it."""
        supply = self.site.engine.points[0].supply
        return supply.state(self.site.clock.mono_ns()).value.upper()

    @property
    def reasons(self) -> frozenset[Reason]:
        """What blocks the supply."""
        return frozenset(self.site.engine.points[0].supply.reasons)

    def look(self, wh: int = 0, *, closed: bool = True, seconds: float = 0.0) -> None:
        """A reading after some time in which this energy flowed."""
        self.site.clock.pass_s(seconds)
        self.register_wh += wh
        self.site.read(self.register_wh, closed=closed)

    async def use(self, wh: int, *, seconds: float = 60.0) -> None:
        """Energy, the reading that shows it, and a sweep."""
        self.look(wh, seconds=seconds)
        await self.site.sweeper.sweep()

    async def wallet(self) -> int:
        """The posted balance, after everything that was used is posted."""
        await self.site.books.post([0])
        return read_balance(self.site.file.connection, f"wallet:{FLAT}")

    async def opens(self) -> None:
        """The contactor follows the command: it was sent, and the meter shows it open."""
        site = self.site
        await site.engine.settle_tasks(5)
        site.engine.points[0].supply.sent(site.clock.mono_ns())
        for _ in range(12):
            self.look(closed=False, seconds=1)
            await site.sweeper.sweep()
        await site.engine.settle_tasks(5)

    async def ask(self, body: Body, key: str) -> str:
        """Carry out a request; its code, empty when it was executed."""
        await self.site.do(body, key=key)
        outcome = find_outcome(self.site.file.connection, key)
        assert outcome is not None
        return outcome.code

    def events(self, kind: str) -> list[str]:
        """The severities of this kind's events so far."""
        stored = TelemetryReader(paths_of(self.site.config).telemetry_dir).events()
        told = [(event.kind, event.severity) for event in reversed(stored)]
        told += [(event.kind, event.severity) for event in self.site.keeper._events]
        return [severity for told_kind, severity in told if told_kind == kind]

    def assert_proved(self) -> None:
        """`ledger verify` finds nothing."""
        assert self.site.proof().problems == ()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A site that nobody has read yet."""
    site = ControlSite(tmp_path)
    yield Home(site)
    site.crash()


async def test_p01_one_key_is_one_recharge(home: Home) -> None:
    """The same wish again changes nothing, another under its key is refused (HTTP: tests/north)."""
    given, expect = part("P01", "given"), part("P01", "expect")
    await home.begin(given["wallet"], "8.00")
    office, inlet = Office(home.site), inlet_of(home.site)
    try:
        office.recharge("A", nano("500"))
        await settle(inlet)
        office.recharge("A", nano("500"))
        with pytest.raises(RefusedError) as refused:
            office.recharge("A", nano("600"))
        await settle(inlet)
    finally:
        office.close()
    assert str(status_of(refused.value.refusal_code)) == listed("P01", "expect", "http")[-1]
    assert await home.wallet() == nano(expect["wallet"])
    history = transactions_of(home.site.file.connection, FLAT)
    recharges = [item for item in history if item.kind.value == "recharge"]
    assert len(recharges) == int(expect["transactions"])
    home.assert_proved()


async def test_p02_a_reversal_takes_back_once_what_was_given(home: Home) -> None:
    """500 given, 120 used, 500 taken back; the second reversal is refused, three rows remain."""
    given, expect = part("P02", "given"), part("P02", "expect")
    await home.begin(given["wallet"], "8.00")
    assert await home.ask(Recharge(FLAT, nano("500")), "A") == ""
    await home.use(15_000, seconds=3 * 3_600)
    paid = find_outcome(home.site.file.connection, "A")
    assert paid is not None
    undo = ReverseTransaction(int(str(paid.result["transaction_seq"])), "wrong flat")
    assert await home.ask(undo, "B") == ""
    code = await home.ask(undo, "C")
    assert f"{status_of(code)} {code}" == expect["second"]
    assert await home.wallet() == nano(expect["wallet"])
    history = transactions_of(home.site.file.connection, FLAT)
    kinds = [item.kind.value for item in history]
    assert len(history) == int(expect["history_rows"])
    assert kinds.count("reversal") == int(expect["reversals"])
    home.assert_proved()


async def test_p07_emergency_credit_bears_the_rest_and_keeps_supply_on(home: Home) -> None:
    """0.30 of the wallet, 0.20 of the loan, posted; supply stays connected."""
    given, expect = part("P07", "given"), part("P07", "expect")
    await home.begin(given["wallet"], "5.00")
    terms = {"emergency": {"limit": given["ec_limit"], "threshold": given["ec_threshold"]}}
    assert await home.ask(ConfigureAccount(FLAT, json.dumps(terms)), "terms") == ""
    state = home.site.desk.account(FLAT).credit.emergency_state(0)
    assert state is not None
    assert state.value.upper() == given["ec"]
    assert await home.ask(InvokeEmergency(FLAT), "loan") == ""
    await home.use(100)
    assert await home.wallet() == nano(expect["wallet"])
    used = -read_balance(home.site.file.connection, f"emergency:{FLAT}")
    assert used == nano(expect["ec_used"])
    assert home.site.desk.account(FLAT).credit.emergency_left_nano == nano(expect["ec_remaining"])
    assert home.site.engine.points[0].available_nano == nano(expect["available_credit"])
    assert home.state == expect["supply"]
    home.assert_proved()


def next_weekday(weekday: int, clock_time: str) -> str:
    """That weekday (Monday 0) and time in the week of 16 January 2027, a Saturday, or the next."""
    day = 16 + (weekday - 5) % 7
    return f"2027-01-{day}T{clock_time}+05:30"


async def test_p09_a_friendly_weekend_defers_the_cut_and_no_recharge_is_lost(home: Home) -> None:
    """Saturday evening to Monday morning: connected below zero, cut at 8, back above zero."""
    given = part("P09", "given")
    await home.begin(given["wallet_sat_1800"], given["rate"], at=next_weekday(5, "18:00:00"))
    start, end = given["window"].lower().split(" - ")
    hours = {"timezone": given["tz"], "windows": [{"from": start, "to": end}]}
    assert await home.ask(ConfigureAccount(FLAT, json.dumps({"friendly_hours": hours})), "t") == ""
    wallets, states = [], []

    async def note() -> None:
        wallets.append(await home.wallet())
        states.append(home.state)

    await home.use(800, seconds=1_800)
    await note()
    last = instant(next_weekday(0, "07:59:59"))
    for _ in range(3):
        # A restart, a crash or a long night in between: the wait is kept.
        await home.use(3_000, seconds=9 * 3_600)
        home.site.restart()
        home.site.engine.gate.chain_verified = True
        home.look()
        await home.site.sweeper.sweep()
    home.site.read(OTHER, index=1)
    await home.use(3_000, seconds=(last - home.site.clock.utc_ms()) / 1_000)
    await note()
    assert home.site.engine.commands == {}
    await home.use(0, seconds=1)
    assert home.site.clock.utc_ms() == instant(next_weekday(0, "08:00:00"))
    assert home.state == "DISCONNECTING"
    await home.opens()
    await note()
    await home.ask(Recharge(FLAT, nano("50")), "fifty")
    await note()
    home.site.clock.pass_s(60)
    await home.ask(Recharge(FLAT, nano("20")), "twenty")
    await note()
    assert wallets == [nano(text) for text in listed("P09", "expect", "wallet")]
    assert states == listed("P09", "expect", "supply")
    home.assert_proved()


async def test_p10_friendly_hours_that_begin_bring_nobody_back(home: Home) -> None:
    """Cut at five, the window opens at six: still off, still for CREDIT."""
    given, expect = part("P10", "given"), part("P10", "expect")
    await home.begin("0.00", "5.00", at=next_weekday(5, "17:00:00"))
    hours = {"windows": [{"from": "sat 18:00", "to": "mon 08:00"}]}
    assert await home.ask(ConfigureAccount(FLAT, json.dumps({"friendly_hours": hours})), "t") == ""
    await home.use(400, seconds=600)
    assert await home.wallet() == nano(given["wallet"])
    await home.opens()
    assert home.state == given["supply"]
    for _ in range(20):
        home.look(closed=False, seconds=600)
        await home.site.sweeper.sweep()
    label = datetime.fromisoformat(next_weekday(5, "20:00:00")).timestamp()
    assert home.site.clock.utc_ms() >= label * 1_000
    assert home.state == expect["supply"]
    assert sorted(home.reasons) == listed("P10", "given", "reason")


async def test_p16_exactly_zero_is_cut(home: Home) -> None:
    """One Wh uses the wallet up to the nano: the command to open goes out."""
    given, expect = part("P16", "given"), part("P16", "expect")
    await home.begin(given["wallet"], given["rate"])
    await home.use(1, seconds=1)
    assert home.state == expect["supply"]
    assert home.site.engine.points[0].available_nano == nano(expect["available_credit"])
    assert await home.wallet() == nano(expect["wallet"])


async def test_r06_a_jump_is_held_alarmed_and_cuts_nobody(home: Home) -> None:
    """Three times 500 kWh more: nothing is charged, the alarm is raised, supply stays on."""
    expect = part("R06", "expect")
    await home.begin("1.00", "8.00")
    home.register_wh += 500_000
    for _ in range(3):
        await home.use(0, seconds=10)
    point = home.site.engine.points[0]
    assert point.guard.held_wh[0] == int(expect["quarantined_wh"])
    assert home.events(expect["alarm"]) == ["warning"]
    assert (home.site.engine.commands == {}) is (expect["cut"] == "false")
    assert await home.wallet() == nano("1.00")
    assert expect["alarm"] == GuardEvent.IMPLAUSIBLE_ENERGY
    assert bool(point.guard.held) is (expect["latched_until_released"] == "true")


async def test_d02_nobody_is_cut_for_credit_while_a_meter_is_away(home: Home) -> None:
    """15 minutes without a reading: connected, told as stale, judged with the next reading."""
    given, expect = part("D02", "given"), part("D02", "expect")
    await home.begin("1.00", "8.00")
    await home.use(100)
    home.site.clock.pass_s(float(given["last_good_reading_age_s"]))
    await home.site.sweeper.sweep()
    assert home.state == expect["supply"]
    assert home.events(expect["alarm"]) == ["warning"]
    assert expect["queued_intent"] == "EVALUATE_ON_RETURN"
    used_nano = nano("0.2") - nano(given["estimated_wallet"])
    await home.use(used_nano // 8_000_000, seconds=1)
    assert home.site.engine.points[0].available_nano == nano(given["estimated_wallet"])
    assert home.state == "DISCONNECTING"


async def test_d14_a_crash_after_the_act_is_one_cut_and_no_second_command(home: Home) -> None:
    """The intent is on file, the field shows open: looked at, told, not repeated."""
    expect = part("D14", "expect")
    await home.begin("0.008", "8.00")
    await home.use(1, seconds=1)
    await home.site.engine.settle_tasks(5)
    sent_before = home.site.engine.commands[0].attempts
    home.site.restart()
    home.site.engine.gate.chain_verified = True
    for _ in range(5):
        home.look(closed=False, seconds=1)
        await home.site.sweeper.sweep()
    assert home.site.engine.commands == {}
    rows = home.site.file.connection.execute(
        "SELECT action, state, attempts FROM switch_command"
    ).fetchall()
    assert [row[:2] for row in rows] == [("open", "verified")]
    assert rows[0][2] - sent_before == int(expect["commands_sent"])
    assert home.state == expect["state"]
    assert len(home.events("SUPPLY_CUT")) == int(expect["cut_events"])


async def test_g01_what_was_paid_is_conserved(home: Home) -> None:
    """Wallet and income sum to nothing over all accounts of the ledger."""
    expect = part("G01", "expect")
    await home.begin("0", "7.333333")
    await home.ask(Recharge(FLAT, nano("500")), "A")
    for _ in range(37):
        await home.use(1, seconds=2)
    assert await home.wallet() == nano(expect["wallet"]) + nano("1.785714285")
    balances = read_balances(home.site.file.connection)
    assert format_amount(sum(balances.values()), INR) == expect["sum_all_accounts"]
    home.assert_proved()


async def test_g02_sql_itself_refuses_to_change_what_was_posted(home: Home) -> None:
    """A trigger aborts UPDATE and DELETE, whoever asks."""
    await home.begin("10.00", "8.00")
    connection = home.site.file.connection
    action = "(" + part("G02", "expect")["error"].partition("(")[2]
    assert action == "(ABORT)"
    for statement in ("UPDATE entry SET amount_nano = 1", "DELETE FROM entry"):
        with pytest.raises(sqlite3.IntegrityError) as refused:
            connection.execute(statement)
        assert refused.value.sqlite_errorname == "SQLITE_CONSTRAINT_TRIGGER"
    assert CASES["G02"]["when"] == "UPDATE or DELETE on ledger_entry through SQL"
    home.assert_proved()
