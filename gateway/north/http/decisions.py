"""What only a person can decide: held energy, an exchanged meter, whether the clock is right."""

from typing import Annotated, Final

from fastapi import APIRouter, Request
from pydantic import Field, StrictBool, StrictInt
from starlette.responses import Response

from gateway.core.requests import ConfirmClock, ReleaseQuarantine, ReplaceMeter
from gateway.north.http.auth import NOT_YET_BOUND, Caller, access
from gateway.north.http.context import context_of
from gateway.north.http.forms import INT64_MAX, PREFIX, Key, ReasonForm
from gateway.north.http.meters import MeterId, entry_of
from gateway.north.http.results import RequestStatus, wish_response
from gateway.north.wishes import PRESENT_EXPIRY_MS, submit

router = APIRouter(tags=["decisions"])

REGISTERS_MAX: Final = 8
Registers = Annotated[
    list[Annotated[StrictInt, Field(ge=0, le=INT64_MAX)]],
    Field(
        min_length=1,
        max_length=REGISTERS_MAX,
        description="Wh, one for each import register (PAC3220: T1, T2)",
    ),
]


class QuarantineForm(ReasonForm):
    """What becomes of a meter's held energy, and why."""

    accept: StrictBool = Field(description="true: charge it; false: go on without a charge")


class ReplacementForm(ReasonForm):
    """Import registers at the exchange of a meter, and why it was exchanged."""

    closing_wh: Registers
    opening_wh: Registers


@router.post(
    f"{PREFIX}/meters/{{meter_id}}/quarantine-release",
    status_code=201,
    response_model=RequestStatus,
    **access(ReleaseQuarantine.ROLES - NOT_YET_BOUND),
)
async def release_quarantine(
    request: Request, caller: Caller, key: Key, meter_id: MeterId, form: QuarantineForm
) -> Response:
    """Decide on the energy that a meter holds; both ways it counts on from what it shows now.

    The result's `charged_wh` is per register; `credited_wh`, per export register, is there where
    energy that was fed in was held too. Expires unexecuted after two minutes: what is held
    then may be something else than what was decided on.
    """
    context = context_of(request)
    body = ReleaseQuarantine(entry_of(context, meter_id).meter_id, form.accept, form.reason)
    answer = await submit(context, caller, body, key, expiry_ms=PRESENT_EXPIRY_MS)
    return wish_response(answer, context.settings.currency)


@router.post(
    f"{PREFIX}/meters/{{meter_id}}/replacement",
    status_code=201,
    response_model=RequestStatus,
    **access(ReplaceMeter.ROLES - NOT_YET_BOUND),
)
async def replace_meter(
    request: Request, caller: Caller, key: Key, meter_id: MeterId, form: ReplacementForm
) -> Response:
    """Go on with another device behind a meter's id; what the old one still counted is charged.

    Never expires: the exchange has happened, whenever control hears of it.
    """
    context = context_of(request)
    body = ReplaceMeter(
        entry_of(context, meter_id).meter_id,
        tuple(form.closing_wh),
        tuple(form.opening_wh),
        form.reason,
    )
    return wish_response(await submit(context, caller, body, key), context.settings.currency)


@router.post(
    f"{PREFIX}/clock/confirmation",
    status_code=201,
    response_model=RequestStatus,
    **access(ConfirmClock.ROLES - NOT_YET_BOUND),
)
async def confirm_clock(request: Request, caller: Caller, key: Key, form: ReasonForm) -> Response:
    """Vouch for the gateway's wall clock, as it is now.

    Expires unexecuted after two minutes: the clock may have been set since.
    """
    context = context_of(request)
    answer = await submit(
        context, caller, ConfirmClock(form.reason), key, expiry_ms=PRESENT_EXPIRY_MS
    )
    return wish_response(answer, context.settings.currency)
