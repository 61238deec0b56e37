"""What an invoice's state is, from what was settled against it and the date."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from gateway.core.documents.invoice import Settled


class InvoiceState(StrEnum):
    """An invoice is overdue from the day after its due date while anything is outstanding."""

    ISSUED = "issued"
    PARTIALLY_PAID = "partially_paid"
    PAID = "paid"
    OVERDUE = "overdue"
    CREDITED = "credited"


@dataclass(frozen=True, slots=True)
class InvoiceStatus:
    """The state on a day. What was paid beyond the invoice is `overpaid_nano`."""

    state: InvoiceState
    outstanding_nano: int
    overpaid_nano: int


def invoice_status(
    payable_nano: int,
    due: date,
    *,
    payments: Iterable[Settled],
    credit_notes: Iterable[Settled],
    today: date,
) -> InvoiceStatus:
    """The state of an invoice today; what is dated later does not count yet.

    A payment that was reversed is a second one below zero. `credited` is an invoice that credit
    notes alone have settled.
    """
    paid_nano = sum(item.amount_nano for item in payments if item.on <= today)
    credited_nano = sum(item.amount_nano for item in credit_notes if item.on <= today)
    left_nano = payable_nano - paid_nano - credited_nano
    outstanding_nano, overpaid_nano = max(left_nano, 0), max(-left_nano, 0)
    if not outstanding_nano:
        alone = credited_nano > 0 and not paid_nano
        state = InvoiceState.CREDITED if alone else InvoiceState.PAID
    elif today > due:
        state = InvoiceState.OVERDUE
    elif paid_nano or credited_nano:
        state = InvoiceState.PARTIALLY_PAID
    else:
        state = InvoiceState.ISSUED
    return InvoiceStatus(state, outstanding_nano, overpaid_nano)
