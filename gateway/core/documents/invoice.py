"""Invoices and credit notes: rounded lines that sum to what is asked for, exactly.

Each line is rounded half-up to the minor unit, each tax is computed on the sum of its rounded
lines and rounded in turn, and the total is their sum. What that differs from the exact charges of
the ledger, and what a total rounded to cash differs again, are amounts to post to `rounding`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from gateway.core.documents.rates import RateBook, RateCell, TaxTerms, kind_of
from gateway.core.documents.statement import MeterRegisters, Statement
from gateway.core.errors import RefusedError
from gateway.core.ledger import Entry, Transaction, TransactionKind, wallet
from gateway.core.money import Currency, round_half_up_minor

ROUNDING: Final = "rounding"
ONE: Final = 1_000  # a multiplying factor of 1, in thousandths
NUMBER_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class ExactLine:
    """A charge before rounding, by its name in the ledger; energy has `rate` and `wh` too, and
    `export` (a credit) the Wh that were fed in."""

    component: str
    exact_nano: int
    wh: int = 0
    rate: RateCell | None = None
    period: str = ""


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """A line as it is printed: `amount_nano` is whole minor units."""

    exact: ExactLine
    amount_nano: int


@dataclass(frozen=True, slots=True)
class ExactTax:
    """A tax before rounding: what the ledger charged, and its rule where that is a rate.

    `lines` are the places in the list of lines that it taxes.
    """

    name: str
    exact_nano: int
    terms: TaxTerms | None = None
    lines: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TaxLine:
    """A tax as it is printed, on the sum of its rounded lines. An inclusive one adds nothing."""

    name: str
    rate_ppm: int | None
    base_nano: int
    amount_nano: int
    inclusive: bool = False


@dataclass(frozen=True, slots=True)
class Totals:
    """Lines, taxes and sums of an invoice or a credit note, in nano-units.

    `lines_rounding_nano` is the total less the exact charges, `cash_rounding_nano` what rounding
    the total to cash adds; `due_nano` is the total with it.
    """

    lines: tuple[InvoiceLine, ...]
    taxes: tuple[TaxLine, ...]
    net_nano: int
    total_nano: int
    lines_rounding_nano: int
    cash_rounding_nano: int

    @property
    def due_nano(self) -> int:
        """What is asked for these lines."""
        return self.total_nano + self.cash_rounding_nano

    @property
    def exact_nano(self) -> int:
        """What the ledger charges for these lines."""
        return self.total_nano - self.lines_rounding_nano


@dataclass(frozen=True, slots=True)
class InvoicedMeter:
    """A meter on an invoice. `factor_milli` is its multiplying factor in thousandths."""

    registers: MeterRegisters
    factor_milli: int = ONE


@dataclass(frozen=True, slots=True)
class Settled:
    """A payment or credit note that counts against a document, on its local day."""

    amount_nano: int
    on: date
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Invoice:
    """A bill under a gap-free number. `payable_nano` is due with arrears, less payments.

    `history_wh` are up to twelve earlier periods with their energy, for a chart.
    """

    number: str
    account_id: str
    period: str
    issued: date
    due: date
    totals: Totals
    arrears_nano: int
    payments: tuple[Settled, ...]
    meters: tuple[InvoicedMeter, ...] = ()
    history_wh: tuple[tuple[str, int], ...] = ()
    is_estimated: bool = False

    @property
    def payable_nano(self) -> int:
        """What remains to be paid by the due date."""
        paid_nano = sum(payment.amount_nano for payment in self.payments)
        return self.totals.due_nano + self.arrears_nano - paid_nano


@dataclass(frozen=True, slots=True)
class CreditNote:
    """Takes back part of an invoice, under a number of its own. Amounts are what is credited."""

    number: str
    invoice_number: str
    account_id: str
    issued: date
    reason: str
    totals: Totals


def totals_of(
    lines: Sequence[ExactLine],
    taxes: Sequence[ExactTax],
    currency: Currency,
    *,
    cash_nano: int | None = None,
) -> Totals:
    """Round lines, taxes and total. `cash_nano` is the smallest coin, None without cash rounding.

    Raises RefusedError CASH_STEP when that is no whole number of minor units above zero.
    """
    rounded = tuple(InvoiceLine(e, round_half_up_minor(e.exact_nano, currency)) for e in lines)
    taxed = tuple(_tax_line(tax, rounded, currency) for tax in taxes)
    net_nano = sum(line.amount_nano for line in rounded)
    total_nano = net_nano + sum(tax.amount_nano for tax in taxed if not tax.inclusive)
    exact_nano = sum(line.exact_nano for line in lines)
    exact_nano += sum(tax.exact_nano for tax in taxes if not _is_inclusive(tax))
    return Totals(
        lines=rounded,
        taxes=taxed,
        net_nano=net_nano,
        total_nano=total_nano,
        lines_rounding_nano=total_nano - exact_nano,
        cash_rounding_nano=_to_cash(total_nano, cash_nano, currency) - total_nano,
    )


def invoice_of(
    statement: Statement,
    rates: RateBook,
    currency: Currency,
    *,
    number: str,
    issued: date,
    due: date,
    arrears_nano: int = 0,
    payments: Sequence[Settled] = (),
    factors_milli: Sequence[tuple[str, int]] = (),
    history_wh: Sequence[tuple[str, int]] = (),
    cash_nano: int | None = None,
) -> Invoice:
    """The invoice of a period's statement. `factors_milli` by meter id, 1 where not named.

    Raises RefusedError NOT_FINAL while postings of the period may still come, DUE_DATE for a due
    date before the issue date, CASH_STEP.
    """
    if not statement.is_final:
        raise RefusedError("NOT_FINAL", f"{statement.period.label} is not closed yet", "period")
    if due < issued:
        raise RefusedError("DUE_DATE", f"due on {due} is before the issue on {issued}", "due")
    lines, taxes = charges_of(statement, rates)
    factors = dict(factors_milli)
    return Invoice(
        number=number,
        account_id=statement.account_id,
        period=statement.period.label,
        issued=issued,
        due=due,
        totals=totals_of(lines, taxes, currency, cash_nano=cash_nano),
        arrears_nano=arrears_nano,
        payments=tuple(payments),
        meters=tuple(
            InvoicedMeter(registers, factors.get(registers.meter_id, ONE))
            for registers in statement.meters
        ),
        history_wh=tuple(history_wh),
        is_estimated=statement.has_estimates,
    )


def charges_of(
    statement: Statement, rates: RateBook
) -> tuple[tuple[ExactLine, ...], tuple[ExactTax, ...]]:
    """A statement's charges as lines and taxes; each tax names the lines of its own version.

    What an inclusive tax took out of the energy stays in it: such an invoice shows gross lines.
    """
    lines: list[ExactLine] = []
    tallies: list[tuple[str, str, int]] = []
    for energy in statement.energy:
        rate = energy.rate
        component = f"energy:{rate.source}"
        lines.append(ExactLine(component, energy.amount_nano, energy.wh, rate, energy.period))
        tallies.append((energy.period, rate.tariff_id, rate.version))
    for part in statement.components:
        if kind_of(part.name) not in {"tax", "contained"}:
            line = ExactLine(part.name, part.amount_nano, wh=part.fed_wh, period=part.period)
            lines.append(line)
            tallies.append((part.period, part.tariff_id, part.version))
    taxes: list[ExactTax] = []
    for part in statement.components:
        kind, _, name = part.name.partition(":")
        if kind != "tax":
            continue
        terms = rates.tax(part.tariff_id, part.version, name)
        place = (part.period, part.tariff_id, part.version)
        taxed = tuple(
            index
            for index, line in enumerate(lines)
            if terms is not None and tallies[index] == place and terms.takes(line.component)
        )
        taxes.append(ExactTax(name, part.amount_nano, terms, taxed))
    return tuple(lines), tuple(taxes)


def credit_note_of(
    invoice: Invoice,
    credited: Sequence[ExactLine],
    taxes: Sequence[ExactTax],
    currency: Currency,
    *,
    number: str,
    issued: date,
    reason: str,
    earlier: Iterable[CreditNote] = (),
) -> CreditNote:
    """A credit note on an invoice; amounts are positive where they are in the customer's favour.

    Raises RefusedError CREDIT_RANGE when nothing is credited or, with the `earlier` notes on the
    invoice, more than it asked for; REASON_MISSING.
    """
    if not reason.strip():
        raise RefusedError("REASON_MISSING", "a credit note says why", "reason")
    totals = totals_of(credited, taxes, currency)
    before_nano = sum(n.totals.due_nano for n in earlier if n.invoice_number == invoice.number)
    if not 0 < totals.due_nano <= invoice.totals.due_nano - before_nano:
        raise RefusedError(
            "CREDIT_RANGE", f"invoice {invoice.number} has no such amount left to credit", "lines"
        )
    return CreditNote(number, invoice.number, invoice.account_id, issued, reason, totals)


def rounding_of(
    account_id: str, totals: Totals, *, number: str, utc_ms: int, request_key: str | None = None
) -> Transaction | None:
    """The transaction that posts both differences of an invoice; None where both are zero.

    With it the wallet owes what the invoice asks for, to the minor unit.
    """
    differences = (totals.lines_rounding_nano, totals.cash_rounding_nano)
    moved = tuple(Entry(ROUNDING, amount) for amount in differences if amount)
    if not moved:
        return None
    wallet_entry = Entry(wallet(account_id), -sum(differences))
    return Transaction(
        kind=TransactionKind.ADJUSTMENT,
        utc_ms=utc_ms,
        entries=((wallet_entry, *moved) if wallet_entry.amount_nano else moved),
        account_id=account_id,
        request_key=request_key,
        memo=(("invoice", number),),
    )


def document_number(series: str, last: int) -> tuple[int, str]:
    """The number after `last` (0: none yet) in a series, as count and as text `<series>000042`.

    Numbers have no gaps: whoever issues stores count and document in one commit.
    """
    if last < 0:
        raise ValueError(f"a series never stood at {last}")
    return last + 1, f"{series}{last + 1:0{NUMBER_DIGITS}d}"


# -- inside ----------------------------------------------------------------------------------


def _tax_line(tax: ExactTax, lines: Sequence[InvoiceLine], currency: Currency) -> TaxLine:
    if tax.terms is None:
        amount_nano = round_half_up_minor(tax.exact_nano, currency)
        return TaxLine(tax.name, None, 0, amount_nano)
    base_nano = sum(lines[index].amount_nano for index in tax.lines)
    # In halves of a minor unit, so that the rate is rounded once and not floored before.
    unit = currency.minor_nano * tax.terms.divisor
    taxed = abs(base_nano) * tax.terms.rate_ppm
    amount_nano = (2 * taxed + unit) // (2 * unit) * currency.minor_nano
    return TaxLine(
        name=tax.name,
        rate_ppm=tax.terms.rate_ppm,
        base_nano=base_nano,
        amount_nano=-amount_nano if base_nano < 0 else amount_nano,
        inclusive=tax.terms.inclusive,
    )


def _is_inclusive(tax: ExactTax) -> bool:
    return tax.terms is not None and tax.terms.inclusive


def _to_cash(total_nano: int, cash_nano: int | None, currency: Currency) -> int:
    if cash_nano is None:
        return total_nano
    if cash_nano <= 0 or cash_nano % currency.minor_nano:
        raise RefusedError("CASH_STEP", "cash comes in whole minor units above zero", "cash")
    rounded_nano = (2 * abs(total_nano) + cash_nano) // (2 * cash_nano) * cash_nano
    return -rounded_nano if total_nano < 0 else rounded_nano
