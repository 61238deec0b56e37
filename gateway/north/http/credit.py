"""What a manager agrees with a customer: terms, points, emergency credit, debts, the end."""

import json
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Body, Path, Request
from pydantic import Field, JsonValue
from starlette.responses import Response

from gateway.core.money import DecimalCodes, parse_amount, parse_scaled
from gateway.core.requests import (
    AddDebt,
    AddPoint,
    ChangeTariff,
    CloseAccount,
    ConfigureAccount,
    InvokeEmergency,
    RemovePoint,
    ServeNotice,
    Transfer,
    WriteOff,
)
from gateway.core.tariff import PERCENT_SCALE, PPM
from gateway.north.http.accounts import AccountId, Amount, check_currency
from gateway.north.http.auth import NOT_YET_BOUND, Caller, access
from gateway.north.http.context import context_of
from gateway.north.http.forms import (
    ID_EXPRESSION,
    PERCENT_EXPRESSION,
    PREFIX,
    Form,
    Id,
    Key,
    ReasonForm,
)
from gateway.north.http.results import RequestStatus, wish_response
from gateway.north.wishes import SWITCH_EXPIRY_MS, submit

router = APIRouter(tags=["accounts and money"])

PointId = Annotated[str, Path(pattern=ID_EXPRESSION, max_length=63)]
Percent = Annotated[
    str,
    Field(
        pattern=PERCENT_EXPRESSION,
        max_length=8,
        description="Percent as decimal text, such as 20 or 12.5",
    ),
]
Terms = Annotated[
    dict[str, JsonValue],
    Body(description="Terms as docs/credit.md describes them; money as decimal text"),
]
_PERCENT: Final = DecimalCodes("share", "VALIDATION", "VALIDATION", "VALIDATION")


class PointForm(Form):
    """A service point and the tariff under which its energy is charged."""

    service_point_id: Id
    tariff_id: Id


class TariffForm(Form):
    """Another tariff."""

    tariff_id: Id


class ClosureForm(ReasonForm):
    """The end of an account."""

    refund_provider: str = Field(
        default="",
        max_length=63,
        pattern=rf"^$|{ID_EXPRESSION}",
        description="Who pays out what is left; needed when credit is left",
    )


class TransferForm(ReasonForm):
    """Credit for another account."""

    to: Id
    amount: Amount
    currency: str | None = Field(default=None, description="When given, it must be the site's")


class DebtForm(ReasonForm):
    """A debt: `payment` takes a share of every recharge, `time` an amount a day."""

    id: Id
    kind: Literal["payment", "time"]
    amount: Amount
    share_percent: Percent = "0"
    daily: Amount = "0"
    weekly_cap: Amount = Field(default="0", description="The most in a local week; 0: no cap")


class WriteOffForm(ReasonForm):
    """What is given up: a debt by its id, `accumulated`, or a `wallet` below zero."""

    debt_id: Id
    amount: Amount


class NoticeForm(Form):
    """What a customer in credit mode was told to be overdue."""

    amount: Amount


@router.put(
    f"{PREFIX}/accounts/{{account_id}}/terms",
    status_code=201,
    response_model=RequestStatus,
    **access(ConfigureAccount.ROLES - NOT_YET_BOUND),
)
async def configure(
    request: Request, caller: Caller, key: Key, account_id: AccountId, terms: Terms
) -> Response:
    """Agree other terms; the document takes the place of the one before."""
    context = context_of(request)
    text = json.dumps(terms, ensure_ascii=True, separators=(",", ":"))
    body = ConfigureAccount(account_id, text)
    return wish_response(await submit(context, caller, body, key), context.settings.currency)


@router.post(
    f"{PREFIX}/accounts/{{account_id}}/points",
    status_code=201,
    response_model=RequestStatus,
    **access(AddPoint.ROLES - NOT_YET_BOUND),
)
async def add_point(
    request: Request, caller: Caller, key: Key, account_id: AccountId, form: PointForm
) -> Response:
    """Let an account pay for another service point too."""
    context = context_of(request)
    body = AddPoint(account_id, form.service_point_id, form.tariff_id)
    return wish_response(await submit(context, caller, body, key), context.settings.currency)


@router.post(
    f"{PREFIX}/service-points/{{service_point_id}}/removal",
    status_code=201,
    response_model=RequestStatus,
    **access(RemovePoint.ROLES - NOT_YET_BOUND),
)
async def remove_point(
    request: Request, caller: Caller, key: Key, service_point_id: PointId
) -> Response:
    """Let the account of a service point no longer pay for it; another of its points must be
    left."""
    context = context_of(request)
    body = RemovePoint(service_point_id)
    return wish_response(await submit(context, caller, body, key), context.settings.currency)


@router.put(
    f"{PREFIX}/service-points/{{service_point_id}}/tariff",
    status_code=201,
    response_model=RequestStatus,
    **access(ChangeTariff.ROLES - NOT_YET_BOUND),
)
async def change_tariff(
    request: Request, caller: Caller, key: Key, service_point_id: PointId, form: TariffForm
) -> Response:
    """Charge a service point by another tariff from now on; fees are divided by days."""
    context = context_of(request)
    body = ChangeTariff(service_point_id, form.tariff_id)
    return wish_response(await submit(context, caller, body, key), context.settings.currency)


@router.post(
    f"{PREFIX}/accounts/{{account_id}}/closure",
    status_code=201,
    response_model=RequestStatus,
    **access(CloseAccount.ROLES - NOT_YET_BOUND),
)
async def close_account(
    request: Request, caller: Caller, key: Key, account_id: AccountId, form: ClosureForm
) -> Response:
    """Move-out: last fees are charged, what is owed is paid from the credit, the rest paid out."""
    context = context_of(request)
    body = CloseAccount(account_id, form.reason, form.refund_provider)
    return wish_response(await submit(context, caller, body, key), context.settings.currency)


@router.post(
    f"{PREFIX}/accounts/{{account_id}}/transfers",
    status_code=201,
    response_model=RequestStatus,
    **access(Transfer.ROLES - NOT_YET_BOUND),
)
async def transfer(
    request: Request, caller: Caller, key: Key, account_id: AccountId, form: TransferForm
) -> Response:
    """Move credit to another account; its debts come first there, as with a recharge."""
    context = context_of(request)
    currency = context.settings.currency
    check_currency(form.currency, currency)
    amount_nano = parse_amount(form.amount, currency, "body.amount")
    body = Transfer(account_id, form.to, amount_nano, form.reason)
    return wish_response(await submit(context, caller, body, key), currency)


@router.post(
    f"{PREFIX}/accounts/{{account_id}}/emergency-credit",
    status_code=201,
    response_model=RequestStatus,
    **access(InvokeEmergency.ROLES - NOT_YET_BOUND),
)
async def invoke_emergency(
    request: Request, caller: Caller, key: Key, account_id: AccountId
) -> Response:
    """Take up emergency credit. Expires unexecuted after two minutes, as a switch does."""
    context = context_of(request)
    answer = await submit(
        context, caller, InvokeEmergency(account_id), key, expiry_ms=SWITCH_EXPIRY_MS
    )
    return wish_response(answer, context.settings.currency)


@router.post(
    f"{PREFIX}/accounts/{{account_id}}/debts",
    status_code=201,
    response_model=RequestStatus,
    **access(AddDebt.ROLES - NOT_YET_BOUND),
)
async def add_debt(
    request: Request, caller: Caller, key: Key, account_id: AccountId, form: DebtForm
) -> Response:
    """Agree on a debt and how it is collected; only electricity ever cuts supply."""
    context = context_of(request)
    currency = context.settings.currency
    share = parse_scaled(
        form.share_percent, PERCENT_SCALE, 10 * PPM, _PERCENT, "body.share_percent"
    )
    body = AddDebt(
        account_id=account_id,
        debt_id=form.id,
        kind=form.kind,
        amount_nano=parse_amount(form.amount, currency, "body.amount"),
        reason=form.reason,
        share_ppm=share,
        daily_nano=parse_amount(form.daily, currency, "body.daily"),
        weekly_cap_nano=parse_amount(form.weekly_cap, currency, "body.weekly_cap"),
    )
    return wish_response(await submit(context, caller, body, key), currency)


@router.post(
    f"{PREFIX}/accounts/{{account_id}}/write-offs",
    status_code=201,
    response_model=RequestStatus,
    **access(WriteOff.ROLES - NOT_YET_BOUND),
)
async def write_off(
    request: Request, caller: Caller, key: Key, account_id: AccountId, form: WriteOffForm
) -> Response:
    """Give up what is owed."""
    context = context_of(request)
    currency = context.settings.currency
    amount_nano = parse_amount(form.amount, currency, "body.amount")
    body = WriteOff(account_id, form.debt_id, amount_nano, form.reason)
    return wish_response(await submit(context, caller, body, key), currency)


@router.post(
    f"{PREFIX}/accounts/{{account_id}}/notices",
    status_code=201,
    response_model=RequestStatus,
    **access(ServeNotice.ROLES - NOT_YET_BOUND),
)
async def serve_notice(
    request: Request, caller: Caller, key: Key, account_id: AccountId, form: NoticeForm
) -> Response:
    """Record a notice of what is overdue: in credit mode supply may be cut once its days passed."""
    context = context_of(request)
    currency = context.settings.currency
    body = ServeNotice(account_id, parse_amount(form.amount, currency, "body.amount"))
    return wish_response(await submit(context, caller, body, key), currency)
