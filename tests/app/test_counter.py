"""A cashier's day at the control process: shift, recharges, reversals, count, limits, restarts."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.app.control.till import counter_rules
from gateway.core.errors import ConfigurationError
from gateway.core.money import Currency
from gateway.core.requests import (
    CloseShift,
    OpenAccount,
    OpenShift,
    Outcome,
    OutcomeStatus,
    Recharge,
    Request,
    ReverseTransaction,
    Role,
)
from gateway.core.shift import cash_up, shift_of
from gateway.store.commands import find_outcome
from gateway.store.ledger import ledger_head, read_balance, read_transaction
from gateway.store.shifts import read_shift, shift_transactions
from gateway.store.telemetry_reader import TelemetryReader
from tests.app.control_site import ControlSite

UNIT = 1_000_000_000
OPERATOR = Role.OPERATOR


class Till:
    """Requests of one cashier at a site, with their outcomes."""

    def __init__(self, site: ControlSite, actor: str = "anna", role: Role = OPERATOR) -> None:
        self.site = site
        self.actor = actor
        self.role = role

    async def ask(self, body: object, key: str) -> Outcome:
        """Execute a request under a key; what became of it."""
        await self.site.do(body, self.role, key, actor=self.actor)  # type: ignore[arg-type]
        found = find_outcome(self.site.file.connection, key)
        assert found is not None
        return found

    async def take(
        self, units: int, key: str, *, provider: str = "counter", reference: str = ""
    ) -> Outcome:
        """A recharge of flat-1."""
        return await self.ask(Recharge("flat-1", units * UNIT, provider, reference), key)

    async def count(self, number: int, key: str, **units: int) -> Outcome:
        """Close a shift with what was counted by provider."""
        amounts = tuple(amount * UNIT for amount in units.values())
        return await self.ask(CloseShift(number, tuple(units), amounts, "a note"), key)


Make = Callable[[str], ControlSite]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a site with a `counter` section."""
    made: list[ControlSite] = []

    def site(counter: str = "{}") -> ControlSite:
        made.append(ControlSite(tmp_path, more=f"counter: {counter}\n"))
        return made[-1]

    yield site
    for each in made:
        each.crash()


async def opened(site: ControlSite) -> ControlSite:
    """The site with an account that is served."""
    site.read(1_000)
    await site.sweeper.sweep()
    await site.open_flat(50 * UNIT)
    return site


def events(site: ControlSite) -> list[tuple[str, str]]:
    """Kind and severity of the events about shifts, oldest first."""
    found = TelemetryReader(site.keeper._open.args[0]).events()
    about = [event for event in reversed(found) if event.kind == "SHIFT_OPEN_LONG"]
    return [(str(event.body["drawer"]), event.severity) for event in about]


async def test_a_day_from_the_float_to_the_count(make: Make) -> None:
    """Recharges of the cashier alone belong to the shift; the count posts what is missing, and the
    books hold exactly what was counted."""
    site = await opened(make("{}"))
    anna, berta = Till(site), Till(site, "berta")
    begun = await anna.ask(OpenShift("till-1", 100 * UNIT), "k-open")
    assert begun.result["shift_number"] == 1
    first = await anna.take(30, "k-1")
    await anna.take(20, "k-2", provider="card")
    await berta.take(500, "k-3")
    seq = first.result["transaction_seq"]
    assert isinstance(seq, int)
    back = await Till(site, "manager", Role.MANAGER).ask(ReverseTransaction(seq, "x"), "k-4")
    assert back.status is OutcomeStatus.EXECUTED
    await anna.take(40, "k-5")
    connection = site.file.connection
    record = read_shift(connection, 1)
    assert record is not None
    transactions = shift_transactions(connection, 1)
    assert [shift_of(posted) for posted in transactions] == [1, 1, 1, 1]
    expected = {m.provider: m.expected_nano for m in cash_up(record.shift, transactions)}
    assert expected == {"counter": 140 * UNIT, "card": 20 * UNIT}
    closed = await anna.count(1, "k-close", counter=138, card=20)
    assert closed.result["difference_nano"] == -2 * UNIT
    posted = read_transaction(connection, int(str(closed.result["difference_seq"])))
    assert posted is not None
    assert [(e.ledger_account, e.amount_nano // UNIT) for e in posted.entries] == [
        ("cash:counter", 2),
        ("income:cash_difference", -2),
    ]
    # 500 of berta's, and what anna counted less her float.
    assert -read_balance(connection, "cash:counter") == (500 + 138 - 100) * UNIT
    assert site.proof().proved
    assert (await anna.take(10, "k-6")).status is OutcomeStatus.EXECUTED
    assert len(shift_transactions(connection, 1)) == 4


async def test_count_is_final_and_the_same_one_again_changes_nothing(make: Make) -> None:
    """The same count under a new key gives the stored result, another one is refused by name."""
    site = await opened(make("{}"))
    anna = Till(site)
    await anna.ask(OpenShift("till-1", 0), "k-open")
    await anna.take(30, "k-1")
    first = await anna.count(1, "k-2", counter=29)
    head = ledger_head(site.file.connection)
    again = await anna.count(1, "k-3", counter=29)
    assert again.result == {**first.result, "closed_before": True}
    other = await anna.count(1, "k-4", counter=30)
    assert (other.status, other.code) == (OutcomeStatus.REFUSED, "SHIFT_CLOSED")
    assert ledger_head(site.file.connection) == head


async def test_reversal_of_a_closed_shift_leaves_its_report_alone(make: Make) -> None:
    """The money comes out of the drawer of whoever gives it back, or of none."""
    site = await opened(make("{}"))
    anna, boss = Till(site), Till(site, "boss", Role.MANAGER)
    await anna.ask(OpenShift("till-1", 0), "k-open")
    seqs = [int(str((await anna.take(30, f"k-{n}")).result["transaction_seq"])) for n in (1, 2)]
    await anna.count(1, "k-close", counter=60)
    before = read_shift(site.file.connection, 1)
    await boss.ask(ReverseTransaction(seqs[0], "x"), "k-3")
    assert (await boss.ask(OpenShift("safe", 0), "k-4")).result["shift_number"] == 2
    await boss.ask(ReverseTransaction(seqs[1], "x"), "k-5")
    connection = site.file.connection
    assert read_shift(connection, 1) == before
    assert len(shift_transactions(connection, 1)) == 2
    (given_back,) = shift_transactions(connection, 2)
    assert given_back.reverses_seq == seqs[1]
    # A card payment goes back by card: no drawer is short of it.
    by_card = await anna.take(7, "k-7", provider="card")
    card_seq = int(str(by_card.result["transaction_seq"]))
    assert (await boss.ask(ReverseTransaction(card_seq, "x"), "k-8")).code == ""
    short = await boss.count(2, "k-6", counter=0)
    assert short.result["expected_nano"] == -30 * UNIT


async def test_others_shifts_are_closed_by_a_manager_only(make: Make) -> None:
    """An operator counts the own drawer; a shift that never was is refused."""
    site = await opened(make("{}"))
    await Till(site).ask(OpenShift("till-1", 0), "k-open")
    berta, boss = Till(site, "berta"), Till(site, "boss", Role.MANAGER)
    assert (await berta.count(1, "k-1", counter=0)).code == "SHIFT_OTHERS"
    assert (await berta.count(9, "k-2", counter=0)).code == "SHIFT_UNKNOWN"
    assert (await berta.ask(OpenShift("till-1", 0), "k-3")).code == "SHIFT_OPEN"
    assert (await berta.ask(OpenShift("till-2", -1), "k-4")).code == "AMOUNT_RANGE"
    assert (await boss.count(1, "k-5", counter=0)).status is OutcomeStatus.EXECUTED
    record = read_shift(site.file.connection, 1)
    assert record is not None
    assert record.closing is not None
    assert (record.closing.closed_by, record.closing.note) == ("boss", "a note")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (CloseShift(1, ("card",), (0,)), "COUNT_MISSING"),
        (CloseShift(1, ("counter", "crad"), (0, 5)), "PROVIDER_UNKNOWN"),
        (CloseShift(1, ("counter",), (0, 5)), "REQUEST_FIELD"),
        (CloseShift(1, ("counter",), (-1,)), "AMOUNT_RANGE"),
        (CloseShift(1, ("counter",), (2**62,)), "AMOUNT_RANGE"),
    ],
)
async def test_wrong_count_is_refused_and_the_shift_stays_open(
    make: Make, body: CloseShift, code: str
) -> None:
    """Nothing is posted, the refusal is on file, the right count is taken afterwards."""
    site = await opened(make("{}"))
    anna = Till(site)
    await anna.ask(OpenShift("till-1", 5 * UNIT), "k-open")
    head = ledger_head(site.file.connection)
    assert (await anna.ask(body, "k-1")).code == code
    assert ledger_head(site.file.connection) == head
    assert (await anna.count(1, "k-2", counter=5)).status is OutcomeStatus.EXECUTED


async def test_shift_is_required_of_operators_where_configured(make: Make) -> None:
    """Without an open shift an operator takes no money; a manager does."""
    site = await opened(make("{shift_required: true}"))
    anna = Till(site)
    assert (await anna.take(30, "k-1")).code == "SHIFT_REQUIRED"
    assert (await Till(site, "boss", Role.MANAGER).take(30, "k-2")).code == ""
    await anna.ask(OpenShift("till-1", 0), "k-open")
    assert (await anna.take(30, "k-3")).code == ""
    await anna.count(1, "k-close", counter=30)
    assert (await anna.take(30, "k-4")).code == "SHIFT_REQUIRED"
    assert site.engine.points[0].wallet_nano == 110 * UNIT


async def test_operator_has_a_daily_limit_and_hears_what_is_left(make: Make) -> None:
    """Beyond it: refused with the rest of today, to the nano; a reversal gives room back, the next
    local day too, other cashiers and managers have their own."""
    site = await opened(make("{operator_daily_limit: '100.50'}"))
    anna, boss = Till(site), Till(site, "boss", Role.MANAGER)
    first = await anna.take(60, "k-1")
    refused = await anna.take(41, "k-2")
    assert refused.code == "DAILY_LIMIT"
    assert refused.message.startswith("40.50 INR of your daily limit of 100.50 are left today")
    assert (await anna.take(40, "k-3")).code == ""
    assert (await anna.ask(Recharge("flat-1", UNIT // 2 + 1), "k-4")).code == "DAILY_LIMIT"
    assert (await anna.ask(Recharge("flat-1", UNIT // 2), "k-5")).code == ""
    assert (await anna.ask(Recharge("flat-1", 1), "k-6")).code == "DAILY_LIMIT"
    assert (await Till(site, "berta").take(100, "k-7")).code == ""
    assert (await boss.take(1_000, "k-8")).code == ""
    undone = ReverseTransaction(int(str(first.result["transaction_seq"])), "slip")
    assert (await boss.ask(undone, "k-9")).code == ""
    assert (await anna.take(60, "k-10")).code == ""
    site.clock.pass_s(11 * 3600)
    assert (await anna.take(100, "k-11")).code == ""


async def test_same_payment_is_credited_once_where_configured(make: Make) -> None:
    """A second recharge of a provider's reference names the first; reversed, the slip is free."""
    site = await opened(make("{unique_references: true}"))
    anna, boss = Till(site), Till(site, "boss", Role.MANAGER)
    first = await anna.take(30, "k-1", provider="mobile", reference="MM-1")
    seq = int(str(first.result["transaction_seq"]))
    again = await boss.take(30, "k-2", provider="mobile", reference="MM-1")
    assert again.code == "PAYMENT_KNOWN"
    assert again.message == (
        f"payment 'MM-1' by mobile was credited to flat-1 by transaction {seq}"
    )
    assert (await anna.take(30, "k-3", provider="card", reference="MM-1")).code == ""
    assert (await anna.take(30, "k-4", provider="mobile")).code == ""
    assert (await anna.take(30, "k-5", provider="mobile")).code == ""
    await boss.ask(ReverseTransaction(seq, "wrong flat"), "k-6")
    assert (await anna.take(30, "k-7", provider="mobile", reference="MM-1")).code == ""


async def test_references_may_repeat_unless_configured(make: Make) -> None:
    """By default a reference is a note: two recharges with the same one are two."""
    anna = Till(await opened(make("{}")))
    assert (await anna.take(30, "k-1", reference="r")).code == ""
    assert (await anna.take(30, "k-2", reference="r")).code == ""


async def test_shift_left_open_is_told_the_next_day_and_after_a_restart(make: Make) -> None:
    """Told once a run, on the first sweep of the next local day, and cleared by the count."""
    site = await opened(make("{}"))
    await Till(site).ask(OpenShift("till-1", 0), "k-open")
    site.counter.look()
    site.clock.pass_s(10 * 3600)  # 23:30, still the same local day
    site.counter.look()
    await site.sweeper.sweep()
    assert events(site) == []
    site.clock.pass_s(3600)
    for _ in range(3):
        site.counter.look()
        await site.sweeper.sweep()
    assert events(site) == [("till-1", "warning")]
    site.restart()
    site.counter.look()
    await site.sweeper.sweep()
    assert events(site) == [("till-1", "warning")] * 2
    assert (await Till(site).count(1, "k-close", counter=0)).code == ""
    site.counter.look()
    await site.sweeper.sweep()
    assert events(site)[2:] == [("till-1", "cleared")]


async def test_count_waits_for_recharges_that_came_before_it(make: Make) -> None:
    """Of requests that are found together the count is last: all that was taken is expected."""
    site = await opened(make("{shift_required: true}"))
    await Till(site).ask(OpenShift("till-1", 0), "k-open")

    def request(body: Recharge | CloseShift, key: str) -> Request:
        return Request(key, body, "anna", OPERATOR, "test", site.clock.utc_ms())

    # All at one account: each waits for the one before it.
    takings = [request(Recharge("flat-1", UNIT), f"k-{n}") for n in range(5)]
    count = request(CloseShift(1, ("counter",), (5 * UNIT,)), "k-close")
    async with asyncio.TaskGroup() as group:
        for each in (*takings, count):
            group.create_task(site.executor.execute(each))
    found = find_outcome(site.file.connection, "k-close")
    assert found is not None
    assert found.result["difference_nano"] == 0


async def test_shift_goes_on_after_a_restart(make: Make) -> None:
    """An open shift and its takings are on file; another boot changes nothing about them."""
    site = await opened(make("{}"))
    await Till(site).ask(OpenShift("till-1", 10 * UNIT), "k-open")
    await Till(site).take(30, "k-1")
    site.restart(boot="boot-2")
    site.read(1_000)
    await Till(site).take(5, "k-2")
    closed = await Till(site).count(1, "k-close", counter=45)
    assert closed.result["difference_nano"] == 0


async def test_accounts_that_are_opened_at_once_take_a_point_once(make: Make) -> None:
    """Opens do not wait for each other; a point and an id still go to the first."""
    site = await opened(make("{}"))
    site.read(5_000, index=1)
    await site.sweeper.sweep()
    await asyncio.gather(
        site.do(OpenAccount("anna", "flat-2", "home"), key="k-1"),
        site.do(OpenAccount("berta", "flat-2", "home"), key="k-2"),
        site.do(OpenAccount("anna", "flat-2", "home"), key="k-3"),
    )
    codes = [found.code for key in ("k-1", "k-2", "k-3") if (found := outcome(site, key))]
    assert codes == ["", "POINT_TAKEN", "POINT_TAKEN"]
    assert site.engine.points[1].account_id == "anna"


def outcome(site: ControlSite, key: str) -> Outcome | None:
    """What became of a request."""
    return find_outcome(site.file.connection, key)


@pytest.mark.parametrize("limit", ["abc", "-1", "1.0000001", "1e3", "9999999999"])
def test_limit_that_cannot_be_kept_is_named(tmp_path: Path, limit: str) -> None:
    """The configuration is refused at the place of the key."""
    with pytest.raises(ConfigurationError) as refused:
        ControlSite(tmp_path, more=f"counter: {{operator_daily_limit: {limit}}}\n")
    (problem,) = refused.value.problems
    assert "counter.operator_daily_limit" in problem
    assert "expected an amount such as 5000.00" in problem


def test_limit_is_exact_at_both_money_scales(make: Make) -> None:
    """The text of the configuration becomes the site's own integer."""
    site = make("{operator_daily_limit: 2500.000001, cash_provider: cash}")
    for scale in (6, 9):
        rules = counter_rules(site.config, Currency("INR", scale))
        assert rules.operator_daily_limit_nano == 2_500_000_001 * 10 ** (scale - 6)
        assert rules.cash_provider == "cash"
