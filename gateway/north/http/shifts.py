"""The counter: shifts of cashiers, their reports, and the count that ends them."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from gateway.core.errors import RefusedError
from gateway.core.money import Currency, parse_amount
from gateway.core.requests import CloseShift, OpenShift, Role
from gateway.core.shift import MeansTotal
from gateway.north.context import NorthContext
from gateway.north.http.accounts import Amount
from gateway.north.http.auth import MONEY_VIEWERS, NOT_YET_BOUND, Caller, Principal, access
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
    decode_number,
    encode_cursor,
    rfc3339,
    rfc3339_or_none,
)
from gateway.north.http.results import RequestStatus, money, wish_response
from gateway.north.records import ShiftFigures
from gateway.north.wishes import submit

router = APIRouter(tags=["counter"])

ShiftNumber = Annotated[int, Path(ge=1, le=INT64_MAX)]
MAX_MEANS: Final = 8
MAX_NOTE: Final = 500
# Who answers for others' drawers, and may see what is expected before the count.
SUPERVISORS: Final = frozenset({Role.MANAGER, Role.AUDITOR})


class ShiftForm(Form):
    """A cashier begins to take money at a drawer."""

    drawer: Id
    float: Amount = Field(default="0", description="Change in the drawer, major units")
    currency: str | None = Field(default=None, description="When given, it must be the site's")


class CountForm(Form):
    """What was counted, by provider: cash with the float in it, slips of every other means."""

    counted: dict[Annotated[str, Field(pattern=ID_EXPRESSION, max_length=63)], Amount] = Field(
        min_length=1, max_length=MAX_MEANS, description="Amount by provider; 0 for none"
    )
    note: str = Field(default="", max_length=MAX_NOTE)
    currency: str | None = Field(default=None, description="When given, it must be the site's")


class MeansView(BaseModel):
    """One means of payment. Amounts are null while the count is blind."""

    provider: str
    recharges: int
    recharged: str | None
    vouchers: int
    vouchers_sold: str | None
    reversals: int
    reversed: str | None
    float: str
    expected: str | None
    counted: str | None
    difference: str | None


class ShiftView(BaseModel):
    """A shift: running while it is open (an X report), as it was counted afterwards (a Z report).

    `difference` is counted less expected, negative where money is missing;
    `difference_transaction` is the ledger's transaction that posts it.
    """

    number: int
    drawer: str
    cashier: str
    state: str = Field(description="open or closed")
    opened_at: str
    closed_at: str | None
    closed_by: str | None
    note: str
    currency: str
    float: str
    recharges: int
    vouchers: int
    reversals: int
    expected: str | None
    counted: str | None
    difference: str | None
    difference_transaction: int | None
    blind: bool = Field(description="Whether amounts are hidden from this caller until the count")
    means: list[MeansView]


class ShiftPage(Page):
    """Shifts, newest first."""

    items: list[ShiftView]


@router.get(f"{PREFIX}/shifts", response_model=ShiftPage, **access(MONEY_VIEWERS))
async def list_shifts(
    request: Request,
    caller: Caller,
    limit: Limit = PAGE_DEFAULT,
    cursor: Cursor = "",
    state: Annotated[Literal["open", "all"], Query(description="Only those still open?")] = "all",
) -> ShiftPage:
    """Shifts, newest first."""
    context = context_of(request)
    before = decode_number("shifts", cursor, INT64_MAX)
    found = await context.records.shifts(before, limit, open_only=state == "open")
    last = found.items[-1].record.shift.number if found.more else None
    return ShiftPage(
        items=[_view(context, caller, figures) for figures in found.items],
        next_cursor=None if last is None else encode_cursor("shifts", last),
    )


@router.post(
    f"{PREFIX}/shifts",
    status_code=201,
    response_model=RequestStatus,
    **access(OpenShift.ROLES - NOT_YET_BOUND),
)
async def open_shift(request: Request, caller: Caller, key: Key, form: ShiftForm) -> Response:
    """Begin a shift of the caller at a drawer; what the caller recharges from now on belongs to it.

    A drawer and a cashier have one open shift each.
    """
    context = context_of(request)
    currency = context.settings.currency
    _check_currency(form.currency, currency)
    body = OpenShift(form.drawer, parse_amount(form.float, currency, "body.float"))
    return wish_response(await submit(context, caller, body, key), currency)


@router.get(f"{PREFIX}/shifts/{{shift_number}}", response_model=ShiftView, **access(MONEY_VIEWERS))
async def show_shift(request: Request, caller: Caller, shift_number: ShiftNumber) -> ShiftView:
    """The report of one shift. While it is open, operators see counts and no amounts (blind)."""
    context = context_of(request)
    figures = await context.records.shift(shift_number)
    if figures is None:
        raise RefusedError("SHIFT_UNKNOWN", f"there is no shift {shift_number}")
    return _view(context, caller, figures)


@router.post(
    f"{PREFIX}/shifts/{{shift_number}}/closing",
    status_code=201,
    response_model=RequestStatus,
    **access(CloseShift.ROLES - NOT_YET_BOUND),
)
async def close_shift(
    request: Request, caller: Caller, key: Key, shift_number: ShiftNumber, form: CountForm
) -> Response:
    """Count a drawer and end its shift; a difference is posted. A count is final.

    The same count of a closed shift again is answered as the first one was. Its cashier closes a
    shift, or a manager.
    """
    context = context_of(request)
    currency = context.settings.currency
    _check_currency(form.currency, currency)
    counted = sorted(form.counted.items())
    body = CloseShift(
        shift_number=shift_number,
        providers=tuple(provider for provider, _ in counted),
        counted_nano=tuple(
            parse_amount(amount, currency, f"body.counted.{provider}")
            for provider, amount in counted
        ),
        note=form.note,
    )
    return wish_response(await submit(context, caller, body, key), currency)


def _view(context: NorthContext, caller: Principal, figures: ShiftFigures) -> ShiftView:
    currency = context.settings.currency
    shift, closing = figures.record.shift, figures.record.closing
    supervises = bool(caller.roles & SUPERVISORS)
    blind = context.settings.blind_count and closing is None and not supervises
    means = figures.means
    counted_nano = [m.counted_nano for m in means if m.counted_nano is not None]
    expected_nano = sum(m.expected_nano for m in means)
    return ShiftView(
        number=shift.number,
        drawer=shift.drawer,
        cashier=shift.cashier,
        state="open" if closing is None else "closed",
        opened_at=rfc3339(shift.opened_utc_ms),
        closed_at=rfc3339_or_none(None if closing is None else closing.utc_ms),
        closed_by=None if closing is None else closing.closed_by,
        note="" if closing is None else closing.note,
        currency=currency.code,
        float=money(shift.float_nano, currency),
        recharges=sum(m.recharges for m in means),
        vouchers=sum(m.vouchers for m in means),
        reversals=sum(m.reversals for m in means),
        expected=None if blind else money(expected_nano, currency),
        counted=None if closing is None else money(sum(counted_nano), currency),
        difference=None if closing is None else money(sum(counted_nano) - expected_nano, currency),
        difference_transaction=None if closing is None else closing.difference_seq,
        blind=blind,
        means=_means(means, currency, blind=blind),
    )


def _means(means: Sequence[MeansTotal], currency: Currency, *, blind: bool) -> list[MeansView]:
    def shown(amount_nano: int | None) -> str | None:
        return None if blind or amount_nano is None else money(amount_nano, currency)

    return [
        MeansView(
            provider=total.provider,
            recharges=total.recharges,
            recharged=shown(total.recharged_nano),
            vouchers=total.vouchers,
            vouchers_sold=shown(total.vouchers_nano),
            reversals=total.reversals,
            reversed=shown(total.reversed_nano),
            float=money(total.float_nano, currency),
            expected=shown(total.expected_nano),
            counted=shown(total.counted_nano),
            difference=shown(total.difference_nano),
        )
        for total in means
    ]


def _check_currency(stated: str | None, currency: Currency) -> None:
    if stated is not None and stated != currency.code:
        raise RefusedError("CURRENCY_MISMATCH", f"this site keeps {currency.code}", "body.currency")
