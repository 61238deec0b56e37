"""Invoices, credit notes and their state: the worked examples, and sums that always hold."""

from dataclasses import replace
from datetime import date
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.civil import DAY_MS
from gateway.core.documents.invoice import (
    ExactLine,
    ExactTax,
    Invoice,
    Settled,
    charges_of,
    credit_note_of,
    document_number,
    invoice_of,
    rounding_of,
    totals_of,
)
from gateway.core.documents.periods import DocumentPeriod, document_period
from gateway.core.documents.rates import TaxTerms
from gateway.core.documents.status import InvoiceState, invoice_status
from gateway.core.errors import RefusedError
from gateway.core.ledger import wallet
from gateway.core.money import Currency, display_amount, parse_amount
from gateway.core.tariff import PPM
from tests.core.ledger_maker import FLAT, LedgerMaker
from tests.core.test_documents import ledgers, months_of
from tests.core.test_prepaid_cases import blocks, instant, listed, nano, part, tariff

INR = Currency("INR")
KOLKATA = ZoneInfo("Asia/Kolkata")
START = "2026-01-05T00:00:00+05:30"
VAT = TaxTerms("VAT", 180_000, ("energy", "fixed"))


def close(made: LedgerMaker) -> DocumentPeriod:
    """Post what January still owes, a second after its end, and let it become final."""
    period = document_period(KOLKATA, "2026-01")
    made.use({"grid": 0}, period.end_utc_ms + 1_000 - made.now_ms)
    made.settle()
    made.use({"grid": 0}, period.final_utc_ms - made.now_ms)
    return period


def closed_month(made: LedgerMaker) -> Invoice:
    """The invoice of January, once nothing more can be added to it."""
    period = close(made)
    return invoice_of(
        made.statement(period),
        made.rates,
        INR,
        number="T-000001",
        issued=date(2026, 2, 2),
        due=date(2026, 2, 17),
    )


def test_b01_the_older_example_bill() -> None:
    """Energy by blocks, fee and tax of a closed month are the lines of the older bill."""
    given_, expect = part("B01", "given"), part("B01", "expect")
    version = tariff(
        {"blocks": blocks("B01")},
        fixed=given_["fixed"],
        tax_bp=given_["tax_bp"],
        taxable=listed("B01", "given", "taxable"),
    )
    made = LedgerMaker([version], instant(START))
    made.use({"grid": int(given_["energy_wh"])}, DAY_MS)
    invoice = closed_month(made)
    totals = invoice.totals
    energy = [line for line in totals.lines if line.exact.component == "energy:grid"]
    assert sum(line.amount_nano for line in energy) == nano(expect["energy"])
    assert [line.exact.wh for line in energy] == [100_000, 150_000]
    assert totals.lines[-1].amount_nano == nano(expect["fixed"])
    assert totals.taxes[0].base_nano == nano(expect["taxable_base"])
    assert totals.taxes[0].amount_nano == nano(expect["tax"])
    assert totals.total_nano == nano(expect["total"])
    assert (totals.lines_rounding_nano, totals.cash_rounding_nano) == (0, 0)
    assert invoice.payable_nano == nano(expect["total"])
    assert rounding_of(FLAT, totals, number=invoice.number, utc_ms=0) is None


def test_b13_lines_round_half_up_and_both_differences_are_posted() -> None:
    """Every figure of the example, and the wallet then owes exactly what is asked."""
    given_, expect = part("B13", "given"), part("B13", "expect")
    version = tariff(
        {"price": given_["grid_rate"]},
        generator={"price": given_["gen_rate"]},
        fixed=given_["fixed"],
        tax_bp=given_["tax_bp"],
        taxable=["energy", "fixed"],
    )
    made = LedgerMaker([version], instant(START), ("grid", "generator"))
    made.use({"grid": int(given_["grid_wh"]), "generator": int(given_["gen_wh"])}, DAY_MS)
    closed_month(made)
    statement = made.statement(document_period(KOLKATA, "2026-01"))
    lines, taxes = charges_of(statement, made.rates)
    totals = totals_of(lines, taxes, INR, cash_nano=nano(given_["round_total_to"]))
    shown = {line.exact.component: line.amount_nano for line in totals.lines}
    assert shown["energy:grid"] == nano(expect["grid_line"])
    assert shown["energy:generator"] == nano(expect["gen_line"])
    assert totals.taxes[0].base_nano == totals.net_nano == nano(expect["taxable"])
    assert totals.taxes[0].amount_nano == nano(expect["tax"])
    assert totals.total_nano == nano(expect["total"])
    assert totals.cash_rounding_nano == nano(expect["rounding"])
    assert totals.lines_rounding_nano == nano(expect["rounding_lines"])
    assert totals.due_nano == nano(expect["payable"])
    posted = rounding_of(FLAT, totals, number="T-000001", utc_ms=0)
    assert posted is not None
    assert [e.amount_nano for e in posted.entries if e.ledger_account == "rounding"] == [
        nano(expect["rounding_lines"]),
        nano(expect["rounding"]),
    ]
    made.transactions.append(posted)
    assert made.balance(wallet(FLAT)) == -nano(expect["payable"])


def test_b15_state_follows_payments_credit_notes_and_the_date() -> None:
    """Partially paid, overdue past the due date, and paid in the end."""
    given_, expect = part("B15", "given"), part("B15", "expect")
    due = date.fromisoformat(given_["due"])
    paid = [Settled(nano("1000"), date(2026, 5, 10)), Settled(nano("162.30"), date(2026, 5, 19))]
    notes = [Settled(nano("106.20"), date(2026, 5, 18))]
    for day, state, outstanding in zip(
        (10, 17, 18, 19),
        listed("B15", "expect", "status"),
        listed("B15", "expect", "outstanding"),
        strict=True,
    ):
        found = invoice_status(
            nano(given_["total"]), due, payments=paid, credit_notes=notes, today=date(2026, 5, day)
        )
        assert found.state == state.lower()
        assert display_amount(found.outstanding_nano, INR) == outstanding
    assert expect


@pytest.mark.parametrize(
    ("paid", "credited", "day", "state", "overpaid"),
    [
        (0, 0, 16, InvoiceState.ISSUED, 0),
        (0, 0, 17, InvoiceState.OVERDUE, 0),
        (0, 100, 17, InvoiceState.CREDITED, 0),
        (50, 50, 17, InvoiceState.PAID, 0),
        (130, 0, 17, InvoiceState.PAID, 30),
        (0, 40, 16, InvoiceState.PARTIALLY_PAID, 0),
    ],
)
def test_states(paid: int, credited: int, day: int, state: InvoiceState, overpaid: int) -> None:
    """The due day itself is in time; credit notes alone make it credited."""
    when = date(2026, 5, 12)
    found = invoice_status(
        100,
        date(2026, 5, 16),
        payments=[Settled(paid, when)] if paid else [],
        credit_notes=[Settled(credited, when)] if credited else [],
        today=date(2026, 5, day),
    )
    assert (found.state, found.overpaid_nano) == (state, overpaid)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(made=ledgers(), cash=st.sampled_from([None, 10**7, 5 * 10**7, 10**9]))
def test_an_invoice_is_the_sum_of_its_rounded_lines(made: LedgerMaker, cash: int | None) -> None:
    """Total and differences give back what the ledger charged, to the nano-unit."""
    for period in months_of(made):
        statement = made.statement(period)
        totals = totals_of(*charges_of(statement, made.rates), INR, cash_nano=cash)
        amounts = [line.amount_nano for line in totals.lines] + [
            t.amount_nano for t in totals.taxes
        ]
        assert all(amount % INR.minor_nano == 0 for amount in amounts)
        assert totals.total_nano == sum(amounts)
        charged = sum(line.amount_nano for line in statement.energy)
        charged += sum(line.amount_nano for line in statement.components)
        assert totals.exact_nano == charged
        assert totals.due_nano - totals.lines_rounding_nano - totals.cash_rounding_nano == charged
        assert totals.due_nano % (cash or INR.minor_nano) == 0
        for tax in totals.taxes:
            assert tax.rate_ppm is not None
            exact = tax.base_nano * tax.rate_ppm
            assert abs(tax.amount_nano * 10**6 - exact) * 2 <= INR.minor_nano * 10**6


def test_an_inclusive_tax_adds_nothing() -> None:
    """It is shown, contained in the gross lines."""
    terms = replace(VAT, inclusive=True, divisor=PPM + VAT.rate_ppm)
    gross = ExactLine("energy:grid", parse_amount("118", INR))
    totals = totals_of([gross], [ExactTax("VAT", 18 * 10**9, terms, (0,))], INR)
    assert (totals.total_nano, totals.taxes[0].amount_nano) == (118 * 10**9, 18 * 10**9)
    assert totals.lines_rounding_nano == 0


def test_arrears_and_payments_make_what_is_payable() -> None:
    """Payable is total plus arrears less payments; factors and history are carried along."""
    made = LedgerMaker([tariff({"price": "1"})], instant(START))
    made.use({"grid": 10_000}, DAY_MS)
    statement = made.statement(close(made))
    invoice = invoice_of(
        statement,
        made.rates,
        INR,
        number="T-000002",
        issued=date(2026, 2, 2),
        due=date(2026, 2, 2),
        arrears_nano=3 * 10**9,
        payments=[Settled(5 * 10**9, date(2026, 1, 20))],
        factors_milli=[(FLAT, 40_000)],
        history_wh=[("2025-12", 9_000)],
    )
    assert invoice.payable_nano == 8 * 10**9
    assert [meter.factor_milli for meter in invoice.meters] == [40_000]
    for wrong, code in (
        ({"due": date(2026, 2, 1)}, "DUE_DATE"),
        ({"cash_nano": 10**6}, "CASH_STEP"),
        ({"cash_nano": 0}, "CASH_STEP"),
    ):
        terms = {"number": "x", "issued": date(2026, 2, 2), "due": date(2026, 2, 9), **wrong}
        with pytest.raises(RefusedError) as refusal:
            invoice_of(statement, made.rates, INR, **terms)  # type: ignore[arg-type]
        assert refusal.value.refusal_code == code
    with pytest.raises(RefusedError) as refusal:
        invoice_of(
            replace(statement, is_final=False),
            made.rates,
            INR,
            number="x",
            issued=date(2026, 2, 2),
            due=date(2026, 2, 2),
        )
    assert refusal.value.refusal_code == "NOT_FINAL"


def test_a_credit_note_takes_back_lines_with_their_tax() -> None:
    """The example's 106.20: 90.00 and 18 % of it; never more than the invoice asked for."""
    version = tariff({"price": "1"}, tax_bp="1800")
    made = LedgerMaker([version], instant(START))
    made.use({"grid": 1_075_000}, DAY_MS)
    invoice = closed_month(made)
    assert invoice.totals.due_nano == nano("1268.5")
    lines = [ExactLine("energy:grid", nano("90"), 90_000)]
    taxes = [ExactTax("VAT", nano("16.2"), VAT, (0,))]
    terms = {"number": "C-000001", "issued": date(2026, 5, 18), "reason": "meter read too high"}
    note = credit_note_of(invoice, lines, taxes, INR, **terms)  # type: ignore[arg-type]
    assert (note.totals.due_nano, note.invoice_number) == (nano("106.20"), invoice.number)
    for nothing, code in (([], "CREDIT_RANGE"), (lines, "REASON_MISSING")):
        wrong = {**terms, "reason": " " if code == "REASON_MISSING" else "x"}
        with pytest.raises(RefusedError) as refusal:
            credit_note_of(invoice, nothing, [], INR, **wrong)  # type: ignore[arg-type]
        assert refusal.value.refusal_code == code
    with pytest.raises(RefusedError, match="left to credit"):
        credit_note_of(
            invoice,
            [ExactLine("energy:grid", nano("1162.31"))],
            [],
            INR,
            earlier=[note],
            **terms,  # type: ignore[arg-type]
        )


def test_numbers_have_no_gaps() -> None:
    """Each follows the last, as a count and as the text that is printed."""
    assert document_number("T-", 0) == (1, "T-000001")
    assert document_number("T-2026-", 41) == (42, "T-2026-000042")
    with pytest.raises(ValueError, match="never stood"):
        document_number("T-", -1)
