"""Vouchers: sell, list, show, redeem, take back, unlock."""

from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from gateway.core.errors import RefusedError
from gateway.core.money import Currency, parse_amount
from gateway.core.requests import CancelVoucher, IssueVoucher, RedeemVoucher, UnlockVouchers
from gateway.core.voucher import parse_token
from gateway.north.http.accounts import MAX_TEXT, Amount, check_currency
from gateway.north.http.auth import MONEY_VIEWERS, NOT_YET_BOUND, Caller, access
from gateway.north.http.context import context_of
from gateway.north.http.forms import (
    ID_EXPRESSION,
    INT64_MAX,
    PAGE_DEFAULT,
    PREFIX,
    Cursor,
    Form,
    Id,
    Key,
    Limit,
    Page,
    ReasonForm,
    decode_number,
    encode_cursor,
    rfc3339,
    rfc3339_or_none,
)
from gateway.north.http.results import RequestStatus, model_response, money, wish_response
from gateway.north.wishes import submit
from gateway.store.vouchers import SoldVoucher, VoucherState

router = APIRouter(tags=["accounts and money"])

PointId = Annotated[str, Path(pattern=ID_EXPRESSION, max_length=63)]
Counter = Annotated[int, Path(ge=1, le=INT64_MAX)]
# 20 digits with whatever people put between them.
TOKEN_MAX: Final = 64
ADDRESS_MAX: Final = 64
SELLERS: Final = IssueVoucher.ROLES


class VoucherForm(Form):
    """A voucher to sell."""

    service_point_id: Id
    amount: Amount
    currency: str | None = Field(default=None, description="When given, it must be the site's")
    provider: str = Field(default="counter", min_length=1, max_length=63, pattern=ID_EXPRESSION)
    payment_reference: str = Field(default="", max_length=MAX_TEXT)


class RedemptionForm(Form):
    """A voucher to redeem."""

    service_point_id: Id
    token: str = Field(
        min_length=1, max_length=TOKEN_MAX, description="20 digits; spaces and dashes are fine"
    )


class UnlockForm(ReasonForm):
    """What is unlocked after wrong vouchers: a service point, an address, or both."""

    service_point_id: Id | None = None
    address: str | None = Field(
        default=None, min_length=1, max_length=ADDRESS_MAX, description="As VOUCHER_LOCKED names it"
    )


class VoucherView(BaseModel):
    """A voucher that was sold here. `token` only where it is issued and the caller may sell."""

    service_point_id: str
    counter: int
    account_id: str
    amount: str
    currency: str
    state: VoucherState
    issued_at: str
    issued_by: str
    closed_at: str | None = Field(description="When it was redeemed or cancelled")
    provider: str
    payment_reference: str
    transaction_id: int
    token: str | None


class VoucherPage(Page):
    """Vouchers, newest first, without their digits."""

    items: list[VoucherView]


@router.get(f"{PREFIX}/vouchers", response_model=VoucherPage, **access(MONEY_VIEWERS))
async def list_vouchers(
    request: Request,
    service_point_id: Annotated[
        str | None, Query(pattern=ID_EXPRESSION, max_length=63, description="Of this point only")
    ] = None,
    limit: Limit = PAGE_DEFAULT,
    cursor: Cursor = "",
) -> VoucherPage:
    """Vouchers that were sold here, newest first."""
    context = context_of(request)
    before = decode_number("vouchers", cursor, INT64_MAX)
    found = await context.records.vouchers(service_point_id, before, limit)
    last = found.items[-1].number if found.more else None
    currency = context.settings.currency
    return VoucherPage(
        items=[_view(sold, currency) for sold in found.items],
        next_cursor=None if last is None else encode_cursor("vouchers", last),
    )


@router.post(
    f"{PREFIX}/vouchers",
    status_code=201,
    response_model=RequestStatus,
    **access(IssueVoucher.ROLES - NOT_YET_BOUND),
)
async def issue_voucher(request: Request, caller: Caller, key: Key, form: VoucherForm) -> Response:
    """Sell a voucher; `result.token` are its 20 digits. A repeat of the key sells none again."""
    context = context_of(request)
    currency = context.settings.currency
    check_currency(form.currency, currency)
    body = IssueVoucher(
        service_point_id=form.service_point_id,
        amount_nano=parse_amount(form.amount, currency, "body.amount"),
        provider=form.provider,
        payment_reference=form.payment_reference,
    )
    return wish_response(await submit(context, caller, body, key), currency)


@router.post(
    f"{PREFIX}/vouchers/redemptions",
    status_code=201,
    response_model=RequestStatus,
    **access(RedeemVoucher.ROLES - NOT_YET_BOUND),
)
async def redeem_voucher(
    request: Request, caller: Caller, key: Key, form: RedemptionForm
) -> Response:
    """Credit a point's account with a voucher; wrong digits are counted and lock."""
    context = context_of(request)
    body = RedeemVoucher(form.service_point_id, parse_token(form.token))
    return wish_response(await submit(context, caller, body, key), context.settings.currency)


@router.post(
    f"{PREFIX}/vouchers/unlock",
    status_code=201,
    response_model=RequestStatus,
    **access(UnlockVouchers.ROLES - NOT_YET_BOUND),
)
async def unlock_vouchers(request: Request, caller: Caller, key: Key, form: UnlockForm) -> Response:
    """End the lock of a service point, of an address, or of both."""
    context = context_of(request)
    body = UnlockVouchers(form.reason, form.service_point_id or "", form.address or "")
    return wish_response(await submit(context, caller, body, key), context.settings.currency)


@router.get(
    f"{PREFIX}/vouchers/{{service_point_id}}/{{counter}}",
    response_model=VoucherView,
    **access(MONEY_VIEWERS),
)
async def show_voucher(
    request: Request, caller: Caller, service_point_id: PointId, counter: Counter
) -> Response:
    """One voucher; its digits for those who may sell, until it is redeemed or cancelled."""
    context = context_of(request)
    sold = await context.records.voucher(service_point_id, counter)
    if sold is None:
        raise RefusedError(
            "VOUCHER_UNKNOWN", f"no voucher {counter} was sold for {service_point_id!r}"
        )
    view = _view(sold, context.settings.currency)
    if caller.roles & SELLERS and sold.state is VoucherState.ISSUED:
        outcome = await context.records.outcome(sold.request_key)
        token = None if outcome is None else outcome.result.get("token")
        view.token = token if isinstance(token, str) else None
    return model_response(view)


@router.post(
    f"{PREFIX}/vouchers/{{service_point_id}}/{{counter}}/cancellation",
    status_code=201,
    response_model=RequestStatus,
    **access(CancelVoucher.ROLES - NOT_YET_BOUND),
)
async def cancel_voucher(
    request: Request,
    caller: Caller,
    key: Key,
    *,
    service_point_id: PointId,
    counter: Counter,
    form: ReasonForm,
) -> Response:
    """Take a voucher back that is not redeemed: its sale is reversed."""
    context = context_of(request)
    body = CancelVoucher(service_point_id, counter, form.reason)
    return wish_response(await submit(context, caller, body, key), context.settings.currency)


def _view(sold: SoldVoucher, currency: Currency) -> VoucherView:
    return VoucherView(
        service_point_id=sold.service_point_id,
        counter=sold.counter,
        account_id=sold.account_id,
        amount=money(sold.amount_nano, currency),
        currency=currency.code,
        state=sold.state,
        issued_at=rfc3339(sold.utc_ms),
        issued_by=sold.actor,
        closed_at=rfc3339_or_none(sold.closed_utc_ms),
        provider=sold.provider,
        payment_reference=sold.payment_reference,
        transaction_id=sold.seq,
        token=None,
    )
