"""Documents of an account: monthly statement, explanation of every amount, receipts."""

from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from gateway.core.errors import RefusedError
from gateway.north.http.accounts import AccountId, TransactionId
from gateway.north.http.auth import MONEY_VIEWERS, access
from gateway.north.http.bill_views import BillView, ReceiptView, bill_view, receipt_view
from gateway.north.http.context import context_of
from gateway.north.http.explanation_views import ExplanationPage, explained_view
from gateway.north.http.forms import (
    CURSOR_MAX,
    INT64_MAX,
    PAGE_MAX,
    PREFIX,
    decode_number,
    encode_cursor,
)

router = APIRouter(tags=["tariffs and bills"])

PERIOD_EXPRESSION: Final = r"^[0-9]{4}-[0-9]{2}(-[0-9]{2})?$"
EXPLAINED_DEFAULT: Final = 20
PeriodLabel = Annotated[
    str,
    Path(
        pattern=PERIOD_EXPRESSION,
        max_length=10,
        description="`YYYY-MM`, or `YYYY-MM-DD` for a period that begins on another day",
    ),
]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class ExplanationQuery(BaseModel):
    """What is to be explained: one transaction, what a bill holds, or a range of time [from, to).

    Without any of them everything from the beginning.
    """

    model_config = ConfigDict(extra="forbid")

    transaction: int | None = Field(
        default=None, ge=1, le=INT64_MAX, description="Only this transaction"
    )
    period: str | None = Field(
        default=None, pattern=PERIOD_EXPRESSION, description="What stands in the bill of it"
    )
    since: AwareDatetime | None = Field(
        default=None, alias="from", description="Posted at or after"
    )
    until: AwareDatetime | None = Field(default=None, alias="to", description="Posted before")
    limit: int = Field(default=EXPLAINED_DEFAULT, ge=1, le=PAGE_MAX)
    cursor: str = Field(default="", max_length=CURSOR_MAX, description="Of the page before")


@router.get(
    f"{PREFIX}/accounts/{{account_id}}/bills/{{period}}",
    response_model=BillView,
    **access(MONEY_VIEWERS),
)
async def show_bill(request: Request, account_id: AccountId, period: PeriodLabel) -> BillView:
    """The prepaid statement of a period: where the balance came from, and what is shown of it."""
    context = context_of(request)
    found = await context.documents.statement(account_id, period, context.clock.utc_ms())
    return bill_view(found, context.settings.currency)


@router.get(
    f"{PREFIX}/accounts/{{account_id}}/explanation",
    response_model=ExplanationPage,
    **access(MONEY_VIEWERS),
)
async def explain_account(
    request: Request, account_id: AccountId, asked: Annotated[ExplanationQuery, Query()]
) -> ExplanationPage:
    """What moved an account's balance, oldest first, each amount traced to registers and rates."""
    context = context_of(request)
    currency = context.settings.currency
    after_seq = decode_number("explanation", asked.cursor, 0)
    ranged = asked.since is not None or asked.until is not None
    if sum((asked.transaction is not None, asked.period is not None, ranged)) > 1:
        raise RefusedError("VALIDATION", "name a transaction, a period, or a range of time")
    if asked.transaction is not None:
        page = await context.documents.explain_one(account_id, asked.transaction)
    elif asked.period is not None:
        page = await context.documents.explain_period(
            account_id, asked.period, after_seq=after_seq, limit=asked.limit
        )
    else:
        page = await context.documents.explain(
            account_id,
            from_utc_ms=_utc_ms(asked.since),
            to_utc_ms=_utc_ms(asked.until),
            after_seq=after_seq,
            limit=asked.limit,
        )
    next_seq = page.next_seq
    return ExplanationPage(
        account_id=account_id,
        currency=currency.code,
        items=[explained_view(item, balance, currency) for item, balance in page.items],
        next_cursor=None if next_seq is None else encode_cursor("explanation", next_seq),
    )


@router.get(
    f"{PREFIX}/accounts/{{account_id}}/recharges/{{transaction_id}}/receipt",
    response_model=ReceiptView,
    **access(MONEY_VIEWERS),
)
async def show_receipt(
    request: Request, account_id: AccountId, transaction_id: TransactionId
) -> ReceiptView:
    """The receipt of a recharge: what was paid, where it went, balance before and after."""
    context = context_of(request)
    receipt = await context.documents.receipt(account_id, transaction_id)
    return receipt_view(receipt, context.settings.currency)


def _utc_ms(moment: datetime | None) -> int | None:
    """UTC milliseconds, rounded down."""
    if moment is None:
        return None
    past = moment - _EPOCH
    return (past.days * 86_400 + past.seconds) * 1_000 + past.microseconds // 1_000
