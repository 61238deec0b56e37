"""Accounts and money: open, show, recharge, list transactions, reverse."""

import json
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field, JsonValue
from starlette.responses import Response

from gateway.core.errors import RefusedError
from gateway.core.money import Currency, format_scaled, parse_amount
from gateway.core.requests import OpenAccount, Recharge, ReverseTransaction
from gateway.core.tariff import PERCENT_SCALE
from gateway.core.terms_document import terms_to_document
from gateway.north.context import NorthContext
from gateway.north.http.auth import MONEY_VIEWERS, NOT_YET_BOUND, Caller, access
from gateway.north.http.context import context_of
from gateway.north.http.forecast_view import ForecastView, forecast_view
from gateway.north.http.forms import (
    AMOUNT_EXPRESSION,
    ID_EXPRESSION,
    INT64_MAX,
    PAGE_DEFAULT,
    PREFIX,
    SIGNED_EXPRESSION,
    UNCHANGED,
    Cursor,
    Form,
    Id,
    Key,
    Limit,
    Page,
    decode_cursor,
    decode_number,
    encode_cursor,
    entity_tag,
    is_unchanged,
    rfc3339,
    rfc3339_or_none,
)
from gateway.north.http.results import RequestStatus, model_response, money, wish_response
from gateway.north.http.supply_view import SupplyView, supply_view
from gateway.north.records import AccountBalance
from gateway.north.wishes import submit
from gateway.store.ledger import AccountTransaction
from gateway.store.live import LiveRow

router = APIRouter(tags=["accounts and money"])

AccountId = Annotated[str, Path(pattern=ID_EXPRESSION, max_length=63)]
TransactionId = Annotated[int, Path(ge=1, le=INT64_MAX)]
Amount = Annotated[
    str,
    Field(
        pattern=AMOUNT_EXPRESSION,
        max_length=32,
        description="Major units as decimal text, such as 500.00",
    ),
]
SignedAmount = Annotated[str, Field(pattern=SIGNED_EXPRESSION, max_length=32)]
MAX_TEXT: Final = 500


class AccountForm(Form):
    """A new prepaid account."""

    id: Id
    service_point_id: Id | None = Field(
        default=None, description="Where supply is delivered; without it the one of the same id"
    )
    tariff_id: Id
    name: str = Field(default="", max_length=MAX_TEXT)
    opening_balance: SignedAmount = Field(
        default="0", description="Balance taken over, major units; negative: a debt"
    )
    disablement_threshold: SignedAmount = Field(
        default="0", description="Balance at or below which supply is disabled"
    )
    currency: str | None = Field(default=None, description="When given, it must be the site's")
    terms: dict[str, JsonValue] | None = Field(
        default=None, description="Terms as docs/credit.md describes them; none: prepayment"
    )


class RechargeForm(Form):
    """Money taken in for an account."""

    amount: Amount
    currency: str | None = Field(default=None, description="When given, it must be the site's")
    provider: str = Field(default="counter", min_length=1, max_length=63, pattern=ID_EXPRESSION)
    payment_reference: str = Field(default="", max_length=MAX_TEXT)


class ReversalForm(Form):
    """Why a transaction is undone."""

    reason: str = Field(min_length=1, max_length=MAX_TEXT)


class DebtView(BaseModel):
    """A debt and what remains of it."""

    id: str
    kind: str = Field(description="payment: a share of every recharge; time: an amount a day")
    remaining: str
    share_percent: str
    daily: str
    weekly_cap: str | None


class EmergencyView(BaseModel):
    """Emergency credit (COSEM class 112): how much was lent, and whether more may be."""

    state: str = Field(description="enabled, selectable, invoked, in_use or consumed")
    limit: str
    used: str
    left: str


class PaidPointView(BaseModel):
    """A service point that the account pays for."""

    service_point_id: str
    tariff_id: str
    since: str


class AccountView(BaseModel):
    """An account. `balance` is posted; `available` leaves out running consumption.

    `available` is what may still be used before supply is disabled, at the meter's last reading;
    null while there is none. `supply` is what the meter's point shows. `owed` is everything owed
    beside a balance below zero.
    """

    id: str
    name: str
    status: str
    payment_mode: str
    service_point_id: str
    tariff_id: str
    currency: str
    balance: str
    available: str | None
    available_at: str | None
    disablement_threshold: str
    opened_at: str
    closed_at: str | None
    supply: SupplyView | None
    forecast: ForecastView | None = Field(description="Null before the first, and in credit mode")
    points: list[PaidPointView]
    emergency_credit: EmergencyView | None
    debts: list[DebtView]
    accumulated_debt: str
    owed: str
    notice_due_at: str | None = Field(description="Credit mode: from when supply may be cut")
    terms: dict[str, JsonValue]


class AccountPage(Page):
    """Accounts by id."""

    items: list[AccountView]


class TransactionView(BaseModel):
    """A transaction as the account's wallet sees it."""

    id: int
    kind: str
    at: str
    amount: str
    balance_after: str
    currency: str
    energy_wh: int
    fed_in_wh: int
    request_key: str | None
    reverses: int | None
    reversed_by: int | None
    memo: dict[str, str]


class TransactionPage(Page):
    """Transactions, newest first."""

    items: list[TransactionView]


@router.get(f"{PREFIX}/accounts", response_model=AccountPage, **access(MONEY_VIEWERS))
async def list_accounts(
    request: Request, limit: Limit = PAGE_DEFAULT, cursor: Cursor = ""
) -> AccountPage:
    """Accounts in the order of their ids."""
    context = context_of(request)
    after = decode_cursor("accounts", cursor)
    found = await context.records.accounts(after, limit)
    last = found.items[-1].account.account_id if found.more else None
    return AccountPage(
        items=[_account_view(context, item) for item in found.items],
        next_cursor=None if last is None else encode_cursor("accounts", last),
    )


@router.post(
    f"{PREFIX}/accounts",
    status_code=201,
    response_model=RequestStatus,
    **access(OpenAccount.ROLES - NOT_YET_BOUND),
)
async def open_account(request: Request, caller: Caller, key: Key, form: AccountForm) -> Response:
    """Open a prepaid account on a service point under a published tariff."""
    context = context_of(request)
    currency = context.settings.currency
    check_currency(form.currency, currency)
    body = OpenAccount(
        account_id=form.id,
        service_point_id=form.service_point_id or form.id,
        tariff_id=form.tariff_id,
        name=form.name,
        opening_balance_nano=parse_amount(form.opening_balance, currency, "body.opening_balance"),
        disablement_threshold_nano=parse_amount(
            form.disablement_threshold, currency, "body.disablement_threshold"
        ),
        terms="" if form.terms is None else json.dumps(form.terms, separators=(",", ":")),
    )
    return wish_response(await submit(context, caller, body, key), currency)


@router.get(
    f"{PREFIX}/accounts/{{account_id}}",
    response_model=AccountView,
    responses={304: UNCHANGED},
    **access(MONEY_VIEWERS),
)
async def show_account(request: Request, account_id: AccountId) -> Response:
    """One account: posted and available balance, its supply and what blocks it."""
    context = context_of(request)
    found = await context.records.account(account_id)
    if found is None:
        raise _unknown(account_id)
    view = _account_view(context, found)
    tag = entity_tag(view.model_dump_json())
    if is_unchanged(request, tag):
        return Response(status_code=304, headers={"etag": tag})
    return model_response(view, headers={"etag": tag})


@router.post(
    f"{PREFIX}/accounts/{{account_id}}/recharges",
    status_code=201,
    response_model=RequestStatus,
    **access(Recharge.ROLES - NOT_YET_BOUND),
)
async def recharge(
    request: Request, caller: Caller, key: Key, account_id: AccountId, form: RechargeForm
) -> Response:
    """Credit an account with money that was taken in; a repeat of the key never credits twice."""
    context = context_of(request)
    currency = context.settings.currency
    check_currency(form.currency, currency)
    body = Recharge(
        account_id=account_id,
        amount_nano=parse_amount(form.amount, currency, "body.amount"),
        provider=form.provider,
        payment_reference=form.payment_reference,
    )
    return wish_response(await submit(context, caller, body, key), currency)


@router.get(
    f"{PREFIX}/accounts/{{account_id}}/transactions",
    response_model=TransactionPage,
    **access(MONEY_VIEWERS),
)
async def list_transactions(
    request: Request, account_id: AccountId, limit: Limit = PAGE_DEFAULT, cursor: Cursor = ""
) -> TransactionPage:
    """What moved an account's balance, newest first."""
    context = context_of(request)
    before = decode_number("transactions", cursor, INT64_MAX)
    found = await context.records.transactions(account_id, before, limit)
    if found is None:
        raise _unknown(account_id)
    last = found.items[-1].seq if found.more else None
    currency = context.settings.currency
    return TransactionPage(
        items=[_transaction_view(seen, currency) for seen in found.items],
        next_cursor=None if last is None else encode_cursor("transactions", last),
    )


@router.post(
    f"{PREFIX}/transactions/{{transaction_id}}/reversal",
    status_code=201,
    response_model=RequestStatus,
    **access(ReverseTransaction.ROLES - NOT_YET_BOUND),
)
async def reverse_transaction(
    request: Request, caller: Caller, key: Key, transaction_id: TransactionId, form: ReversalForm
) -> Response:
    """Undo a recharge by a linked reversal; at most one per transaction."""
    context = context_of(request)
    body = ReverseTransaction(transaction_id, form.reason)
    return wish_response(await submit(context, caller, body, key), context.settings.currency)


def _unknown(account_id: str) -> RefusedError:
    return RefusedError("ACCOUNT_UNKNOWN", f"there is no account {account_id!r}")


def _account_view(context: NorthContext, found: AccountBalance) -> AccountView:
    account, currency = found.account, context.settings.currency
    live = context.row_of_point(account.service_point_id)
    if live is not None and account.closed_utc_ms is not None:
        # The point's supply and consumption are somebody else's by now.
        live = None
    return AccountView(
        id=account.account_id,
        name=account.name,
        status=account.status.value,
        payment_mode=account.payment_mode.value,
        service_point_id=account.service_point_id,
        tariff_id=account.tariff_id,
        currency=currency.code,
        balance=money(found.posted_nano, currency),
        available=None if live is None else money(live.available_nano, currency),
        available_at=None if live is None else rfc3339(live.utc_ms),
        disablement_threshold=money(account.disablement_threshold_nano, currency),
        opened_at=rfc3339(account.opened_utc_ms),
        closed_at=rfc3339_or_none(account.closed_utc_ms),
        supply=None if live is None else supply_view(live),
        forecast=forecast_view(found, context.clock.utc_ms()),
        **_credit_fields(found, live, currency),
    )


def _credit_fields(
    found: AccountBalance, live: LiveRow | None, currency: Currency
) -> dict[str, Any]:
    """What the account owes and was agreed, at the consumption that its meter last showed."""
    credit, terms = found.credit, found.credit.terms
    running_nano = 0 if live is None else credit.available_nano(0) - live.available_nano
    state = credit.emergency_state(running_nano)
    return {
        "points": [
            PaidPointView(
                service_point_id=stay.service_point_id,
                tariff_id=stay.tariff_id,
                since=rfc3339(stay.from_utc_ms),
            )
            for stay in found.points
        ],
        "emergency_credit": None
        if state is None
        else EmergencyView(
            state=state.value,
            limit=money(terms.emergency_limit_nano, currency),
            used=money(credit.emergency_used_nano, currency),
            left=money(credit.emergency_left_nano, currency),
        ),
        "debts": [
            DebtView(
                id=debt.debt_id,
                kind=debt.kind.value,
                remaining=money(remaining_nano, currency),
                share_percent=format_scaled(debt.share_ppm, PERCENT_SCALE),
                daily=money(debt.daily_nano, currency),
                weekly_cap=None
                if debt.weekly_cap_nano is None
                else money(debt.weekly_cap_nano, currency),
            )
            for debt, remaining_nano in credit.debts()
        ],
        "accumulated_debt": money(credit.accumulated_nano, currency),
        "owed": money(credit.owed_nano, currency),
        "notice_due_at": rfc3339_or_none(credit.notice.due_utc_ms if credit.notice else None),
        "terms": terms_to_document(terms, currency),
    }


def _transaction_view(seen: AccountTransaction, currency: Currency) -> TransactionView:
    return TransactionView(
        id=seen.seq,
        kind=seen.kind.value,
        at=rfc3339(seen.utc_ms),
        amount=money(seen.amount_nano, currency),
        balance_after=money(seen.balance_nano, currency),
        currency=currency.code,
        energy_wh=sum(sum(line.advance_wh) for line in seen.settlements),
        fed_in_wh=sum(line.fed_wh for line in seen.settlements),
        request_key=seen.request_key,
        reverses=seen.reverses_seq,
        reversed_by=seen.reversed_by_seq,
        memo=dict(seen.memo),
    )


def check_currency(stated: str | None, currency: Currency) -> None:
    """Refuse an amount of another currency. Raises RefusedError CURRENCY_MISMATCH."""
    if stated is not None and stated != currency.code:
        raise RefusedError("CURRENCY_MISMATCH", f"this site keeps {currency.code}", "body.currency")
