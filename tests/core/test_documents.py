"""Statements and receipts: they foot to the nano-unit, join, and never change once final."""

from dataclasses import replace
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.civil import DAY_MS, month_period
from gateway.core.documents.outages import OffSupply, Switched, off_supply
from gateway.core.documents.periods import DocumentPeriod, document_period
from gateway.core.documents.posted import is_own
from gateway.core.documents.receipt import receipt_of
from gateway.core.documents.sheet import sheet_of
from gateway.core.documents.statement import Statement
from gateway.core.errors import RefusedError
from gateway.core.explain import Explainer, Explanation, shortfalls
from gateway.core.ledger import Entry, wallet
from gateway.core.money import Currency, parse_amount
from tests.core.ledger_maker import FLAT, LedgerMaker, adjustment
from tests.core.test_prepaid_cases import fresh, instant, tariff
from tests.core.test_pricing_properties import SOURCES, World, worlds

INR = Currency("INR")
KOLKATA = ZoneInfo("Asia/Kolkata")
DEBT = f"debt:{FLAT}:meter"
EMERGENCY = f"emergency:{FLAT}"


# -- random ledgers ------------------------------------------------------------------------


@st.composite
def ledgers(draw: st.DrawFn) -> LedgerMaker:
    """A random world whose readings, postings, recharges and reversals became a ledger."""
    world: World = draw(worlds())
    prices = st.none() | st.integers(0, 9_000_000)
    versions = [replace(version, feed_in_micro=draw(prices)) for version in world.versions]
    made = LedgerMaker(versions, world.start_ms, SOURCES)
    recharges: list[int] = []
    for reading in world.readings:
        wh = {"grid": reading.grid_wh, "generator": reading.generator_wh}
        wh["export"] = draw(st.sampled_from([0, 0, 1, 4_321]))
        made.use(wh, reading.span_ms)
        deed = draw(
            st.sampled_from(["settle", "settle", "recharge", "debt", "take", "reverse", ""])
        )
        if deed == "recharge":
            recharges.append(made.recharge(draw(st.integers(1, 10**12))))
        elif deed == "debt":
            repaid = {DEBT: draw(st.integers(1, 10**9)), EMERGENCY: draw(st.integers(1, 10**9))}
            recharges.append(made.recharge(draw(st.integers(3 * 10**9, 10**12)), repaid=repaid))
        elif deed == "take":
            owed = draw(st.integers(1, 10**9))
            taken = (Entry(DEBT, -owed), Entry("opening", owed))
            made.transactions.append(adjustment(taken, made.now_ms))
        elif deed == "reverse" and recharges:
            made.reverse(recharges.pop())
        elif deed == "settle":
            loan = draw(st.sampled_from([0, 0, 12_345]))
            made.settle(emergency_nano=loan, with_other=draw(st.booleans()))
    made.settle()
    return made


def months_of(made: LedgerMaker) -> list[DocumentPeriod]:
    """The months in which something may stand, in order."""
    zone = ZoneInfo(made.versions[0].zone)
    at_ms, found = made.start_ms, []
    while at_ms <= made.now_ms + DAY_MS:
        month = month_period(zone, at_ms)
        found.append(document_period(zone, month.label))
        at_ms = month.end_utc_ms
    return found


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(made=ledgers())
def test_statements_foot_and_join(made: LedgerMaker) -> None:
    """Opening and movements give the closing, which is the next opening, of every account."""
    statements = [made.statement(period) for period in months_of(made)]
    assert statements[0].opening_nano == 0
    for statement in statements:
        assert statement.opening_nano + statement.movement_nano == statement.closing_nano
        assert not [line for line in statement.money if line.kind == "unexplained"]
    for earlier, later in pairwise(statements):
        assert earlier.closing_nano == later.opening_nano
        before = {line.ledger_account: line.closing_nano for line in earlier.moved}
        after = {line.ledger_account: line.opening_nano for line in later.moved}
        for name in before.keys() | after.keys():
            assert before.get(name, 0) == after.get(name, 0)
    assert statements[-1].closing_nano == made.balance(wallet(FLAT))
    used_wh = sum(
        sum(line.advance_wh)
        for posted in made.posted()
        for line in posted.lines
    )  # fmt: skip
    assert sum(statement.energy_wh for statement in statements) == used_wh
    fed_wh = sum(line.fed_wh for posted in made.posted() for line in posted.lines)
    assert sum(statement.fed_wh for statement in statements) == fed_wh
    for statement in statements:
        for line in statement.components:
            if line.name == "export":
                assert line.amount_nano == -line.fed_wh * (line.price_micro or 0)


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(made=ledgers())
def test_what_is_shown_foots_and_never_shows_more(made: LedgerMaker) -> None:
    """Whole minor units sum up with their rounding line; balances are floored (I11)."""
    for period in months_of(made):
        statement = made.statement(period)
        sheet = sheet_of(statement, INR)
        lines = (*sheet.money_nano, *sheet.energy_nano, *sheet.components_nano, *sheet.moved_nano)
        shown = (sheet.opening_nano, *lines, sheet.rounding_nano, sheet.closing_nano)
        assert all(amount % INR.minor_nano == 0 for amount in shown)
        assert sum(shown[:-1]) == sheet.closing_nano
        assert sheet.closing_nano <= statement.closing_nano < sheet.closing_nano + INR.minor_nano
        assert abs(sheet.rounding_nano) <= INR.minor_nano * (len(lines) // 2 + 1)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(made=ledgers(), more=st.integers(1, 60_000))
def test_a_final_statement_never_changes(made: LedgerMaker, more: int) -> None:
    """What is posted after a period has settled, late energy of it too, is left to later ones."""
    finals = [period for period in months_of(made) if made.now_ms >= period.final_utc_ms]
    before = [made.statement(period) for period in finals]
    made.use({"grid": more}, 1)
    made.settle()
    for posted in made.posted():
        if posted.kind == "recharge" and posted.reversed_by_seq is None:
            made.reverse(posted.seq)
    assert [made.statement(period) for period in finals] == before


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(made=ledgers())
def test_every_ledger_line_is_explained_exactly(made: LedgerMaker) -> None:
    """Rates, fees and taxes of every line add up to its entries; nothing is left over."""
    for explanation in explained(made):
        assert shortfalls(explanation) == ()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(made=ledgers(), start=st.integers(0, 12))
def test_an_explanation_that_begins_in_the_middle_is_the_same(
    made: LedgerMaker, start: int
) -> None:
    """Remembering earlier lines replaces explaining them."""
    explainer = Explainer(made.rates)
    posted = made.posted()
    for earlier in posted[:start]:
        for line in earlier.lines:
            explainer.remember(line)
    whole = [replace(one, original=None) for one in explained(made)]
    assert [explainer.take(one) for one in posted[start:]] == whole[start:]


def explained(made: LedgerMaker) -> list[Explanation]:
    """The whole ledger explained."""
    explainer, posted = Explainer(made.rates), made.posted()
    return [
        explainer.take(one, posted[one.reverses_seq - 1] if one.reverses_seq else None)
        for one in posted
    ]


# -- statements ----------------------------------------------------------------------------


def month(label: str) -> DocumentPeriod:
    """A month in Kolkata."""
    return document_period(KOLKATA, label)


def january() -> LedgerMaker:
    """An account that used energy in January, with fee and tax."""
    version = tariff({"price": "7.333333"}, tax_bp="1800", taxable=["energy", "fixed"], fixed="50")
    made = LedgerMaker([version], instant("2026-01-05T00:00:00+05:30"))
    made.open_with(parse_amount("20", INR))
    made.use({"grid": 4_000}, DAY_MS)
    made.settle()
    return made


def test_fees_posted_after_midnight_belong_to_the_month_they_close() -> None:
    """The month's last postings come seconds after its end and stand in its statement."""
    made = january()
    made.use({"grid": 0}, month("2026-01").end_utc_ms - made.now_ms + 1_000)
    made.settle()
    statement = made.statement(month("2026-01"))
    assert [(line.name, line.amount_nano) for line in statement.components] == [
        ("fixed", 50_000_000_000),
        ("tax:VAT", (4_000 * 7_333_333 + 50_000_000_000) * 18 // 100),
    ]
    assert not statement.is_final
    assert made.statement(month("2026-02")).components == ()


def test_late_energy_goes_to_the_next_statement_under_its_own_month() -> None:
    """A meter out of reach for days: January's energy stands in February, named January."""
    made = january()
    made.use({"grid": 0}, month("2026-01").final_utc_ms - made.now_ms - 1)
    made.settle()
    made.pricer.charge_at_label([("grid", 0)])
    late = replace(
        made.posted()[1].lines[0], period="2026-01", cells=(("1/grid/all/0", 9),),
        charges=(("energy:grid", 9 * 7_333_333),), advance_wh=(9,),
    )  # fmt: skip
    for at_ms, month_of_it in ((-1, "2026-01"), (0, "2026-02")):
        made.transactions[2:] = [
            replace(
                made.transactions[1],
                utc_ms=month("2026-01").final_utc_ms + at_ms,
                entries=(
                    Entry(wallet(FLAT), -9 * 7_333_333),
                    Entry("income:energy:grid", 9 * 7_333_333),
                ),
                settlements=(late,),
            )
        ]
        found = made.statement(month(month_of_it))
        assert [line.wh for line in found.energy if line.period == "2026-01"][-1] in (9, 4_009)
        first, second = made.statement(month("2026-01")), made.statement(month("2026-02"))
        assert first.closing_nano == second.opening_nano
        assert sum(line.wh for line in second.energy) == (9 if at_ms == 0 else 0)


def test_a_reversed_recharge_shows_as_both() -> None:
    """The recharge stays and names its reversal; the reversal takes it back (case P02)."""
    made = LedgerMaker([tariff({"price": "1"})], instant("2026-01-05T00:00:00+05:30"))
    seq = made.recharge(parse_amount("500", INR))
    made.use({"grid": 120_000}, DAY_MS)
    made.settle()
    made.reverse(seq)
    statement = made.statement(month("2026-01"))
    assert [(line.kind, line.amount_nano // 10**9) for line in statement.money] == [
        ("recharge", 500),
        ("reversal", -500),
    ]
    assert statement.money[0].reversed_by_seq == 3
    assert statement.money[1].reverses_seq == 1
    assert statement.closing_nano == parse_amount("-120", INR)


def test_a_debt_that_is_taken_up_is_no_movement_of_the_wallet() -> None:
    """It stands with the debt; what the wallet pays off stands in the statement."""
    made = LedgerMaker([tariff({"price": "1"})], instant("2026-01-05T00:00:00+05:30"))
    taken = (Entry(DEBT, -30), Entry("opening", 30))
    made.transactions.append(adjustment(taken, made.now_ms))
    made.transactions.append(adjustment((Entry(wallet(FLAT), -4), Entry(DEBT, 4)), made.now_ms))
    made.recharge(100, repaid={DEBT: 20})
    statement = made.statement(month("2026-01"))
    assert [(line.kind, line.amount_nano) for line in statement.money] == [("recharge", 100)]
    (debt,) = statement.moved
    assert (debt.opening_nano, debt.amount_nano, debt.apart_nano) == (0, 24, -30)
    assert debt.closing_nano == made.balance(DEBT) == -6
    assert statement.closing_nano == made.balance(wallet(FLAT)) == 76


def test_registers_flags_and_replacements_are_listed() -> None:
    """Both ends of each meter, the settled energy, and what moved registers without energy."""
    made = january()
    line = replace(
        made.posted()[1].lines[0],
        from_wh=(5_000,), to_wh=(17,), advance_wh=(560,), cells=(("1/grid/all/0", 560),),
        charges=(("energy:grid", 560 * 7_333_333),), flags=("METER_REPLACED",),
    )  # fmt: skip
    made.transactions.append(
        replace(
            made.transactions[1],
            entries=(Entry(wallet(FLAT), -560 * 7_333_333), Entry("income:x", 560 * 7_333_333)),
            settlements=(line,),
        )
    )
    (meter,) = made.statement(month("2026-01")).meters
    assert (meter.opening_wh, meter.closing_wh, meter.advance_wh) == ((1_000,), (17,), (4_560,))
    assert [(rebase.from_wh, rebase.to_wh, rebase.advance_wh) for rebase in meter.rebases] == [
        ((5_000,), (17,), (560,))
    ]
    counts = made.statement(month("2026-01")).flags
    assert [(count.flag, count.lines, count.wh) for count in counts] == [("METER_REPLACED", 1, 560)]


def test_energy_without_a_known_price_still_foots() -> None:
    """A charge that no published version explains stands in a line of its own."""
    made = january()
    made.rates = type(made.rates)()
    statement = made.statement(month("2026-01"))
    assert statement.energy == ()
    assert [line.name for line in statement.components] == ["energy:grid", "tax:VAT"]
    assert statement.opening_nano + statement.movement_nano == statement.closing_nano


def test_a_settlement_that_takes_more_than_it_charges_is_not_hidden() -> None:
    """A wallet that lost more than the lines say gets a line that says so."""
    made = january()
    made.transactions[1] = replace(
        made.transactions[1],
        entries=(
            *made.transactions[1].entries, Entry(wallet(FLAT), -5), Entry("income:fixed", 5)
        ),
    )  # fmt: skip
    statement = made.statement(month("2026-01"))
    assert [(line.kind, line.amount_nano) for line in statement.money][-1] == ("unexplained", -5)
    assert any("the lines charge" in problem for problem in shortfalls(explained(made)[1]))


# -- receipts ------------------------------------------------------------------------------


def test_a_receipt_says_where_the_money_went() -> None:
    """The recharge of case P03: debt, accumulated debt, emergency credit, wallet."""
    made = january()
    paid = {DEBT: 2 * 10**9, f"accumulated:{FLAT}": 750_000_000, EMERGENCY: 4_200_000_000}
    seq = made.recharge(10 * 10**9, repaid=paid)
    receipt = receipt_of(FLAT, made.posted()[seq - 1], parse_amount("-1.30", INR))
    assert receipt.amount_nano == 10 * 10**9
    assert receipt.came_from == (Entry("cash:bank", 10 * 10**9),)
    went = {entry.ledger_account: entry.amount_nano for entry in receipt.went_to}
    assert went == {**paid, wallet(FLAT): parse_amount("3.05", INR)}
    assert receipt.balance_after_nano == parse_amount("1.75", INR)
    assert (receipt.provider, receipt.reference) == ("bank", "R-7")


def test_only_a_recharge_has_a_receipt() -> None:
    """A settlement is refused by name."""
    with pytest.raises(RefusedError, match="only a recharge") as refusal:
        receipt_of(FLAT, january().posted()[1], 0)
    assert refusal.value.refusal_code == "NO_RECEIPT"


@pytest.mark.parametrize(
    ("ledger_account", "own"),
    [
        ("wallet:flat-1", True),
        ("emergency:flat-1", True),
        ("accumulated:flat-1", True),
        ("debt:flat-1:old", True),
        ("wallet:flat-10", False),
        ("debt:flat-10:flat-1", False),
        ("cash:flat-1", False),
        ("income:energy:grid", False),
    ],
)
def test_whose_a_ledger_account_is(ledger_account: str, own: bool) -> None:
    """Names that only begin alike belong to somebody else."""
    assert is_own(ledger_account, FLAT) is own


# -- periods and outages -------------------------------------------------------------------


@pytest.mark.parametrize(
    "label",
    ["", "2026", "2026-13", "2026-00", "0000-01", "9999-12", "2026-1", "2026-02-30", "2026-01-29",
     "2026-01-05T00", "\u0662026-01", "2026-01\n"],
)  # fmt: skip
def test_a_malformed_period_is_refused(label: str) -> None:
    """Only `YYYY-MM` and `YYYY-MM-DD` of a day that every month has."""
    with pytest.raises(RefusedError) as refusal:
        document_period(KOLKATA, label)
    assert refusal.value.refusal_code == "PERIOD_INVALID"


def test_anniversary_periods_join() -> None:
    """A period that begins on a day of the month ends where the next one begins."""
    first = document_period(KOLKATA, "2026-12-15")
    second = document_period(KOLKATA, first.next_label)
    assert first.next_label == "2027-01-15"
    assert first.end_utc_ms == second.start_utc_ms


def test_off_supply_is_counted_inside_the_period_by_cause() -> None:
    """A cut from before counts from the beginning, one that stands up to the end."""
    events = [
        Switched("p", 0, opened=True, cause="CREDIT"),
        Switched("p", 160_000, opened=False),
        Switched("p", 200_000, opened=True, cause="MANUAL"),
        Switched("p", 210_000, opened=True, cause="CREDIT"),
        Switched("q", 50_000, opened=False),
        Switched("q", 90_000, opened=True, cause="CREDIT"),
        Switched("q", 95_000, opened=False),
    ]
    assert off_supply(events, 100_000, 320_000) == (
        OffSupply("p", "CREDIT", 60_000, 1),
        OffSupply("p", "MANUAL", 120_000, 1),
    )
    assert OffSupply("p", "CREDIT", 119_999, 1).minutes == 1


def test_the_same_ledger_gives_the_same_statement() -> None:
    """Equal to the last field."""
    assert january().statement(month("2026-01")) == january().statement(month("2026-01"))
    assert isinstance(january().statement(month("2026-01")), Statement)
    assert fresh(tariff({"price": "1"})).running_nano() == 0
