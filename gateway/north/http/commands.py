"""Physical acts: asked for, followed, never assumed done."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from gateway.core.errors import RefusedError
from gateway.core.requests import (
    Body,
    CommissionPoint,
    ConfirmReconnect,
    Disconnect,
    OutcomeStatus,
    Reconnect,
    ReleaseHalt,
    encode_body,
)
from gateway.north.context import NorthContext
from gateway.north.http.auth import NOT_YET_BOUND, VIEWERS, Caller, access
from gateway.north.http.context import context_of
from gateway.north.http.forms import (
    INT64_MAX,
    MAX_REASON,
    PAGE_DEFAULT,
    PREFIX,
    Cursor,
    Form,
    Key,
    Limit,
    Page,
    ReasonForm,
    decode_number,
    encode_cursor,
    rfc3339,
    rfc3339_or_none,
)
from gateway.north.http.meters import MeterId, entry_of
from gateway.north.http.results import (
    RequestStatus,
    command_location,
    model_response,
    raise_unless_executed,
    wish_response,
)
from gateway.north.http.supply_view import block_reasons_of
from gateway.north.wishes import SWITCH_EXPIRY_MS, submit
from gateway.store.commands import CommandState, SwitchCommand
from gateway.store.requests import StoredRequest

router = APIRouter(tags=["supply"])

MAX_OWNER: Final = 128
CommandId = Annotated[str, Path(min_length=1, max_length=128)]


class Action(StrEnum):
    """What may be asked of a meter's supply."""

    DISCONNECT = "disconnect"
    RECONNECT = "reconnect"
    CONFIRM_RECONNECT = "confirm_reconnect"


SWITCH_ROLES: Final = (Disconnect.ROLES | Reconnect.ROLES | ConfirmReconnect.ROLES) - NOT_YET_BOUND


class Cause(StrEnum):
    """For what a person takes supply away; LEGAL and TAMPER are a manager's."""

    MANUAL = "MANUAL"
    SAFETY = "SAFETY"
    LEGAL = "LEGAL"
    TAMPER = "TAMPER"


class CommandForm(Form):
    """What to do, and why where a person takes supply away.

    `owner` names who alone takes a disconnection back, such as one switch proof; empty is anybody.
    """

    action: Action
    reason: str = Field(default="", max_length=MAX_REASON)
    cause: Cause = Cause.MANUAL
    owner: str = Field(default="", max_length=MAX_OWNER)


class CommandView(BaseModel):
    """A switch command and what proved it.

    `reason` and `block_reasons` tell apart why a person asked and what blocked supply then.
    """

    id: str
    meter_id: str
    service_point_id: str
    action: str
    reason: str = Field(description="What the person who asked said; empty where nobody did")
    block_reasons: list[str] = Field(description="What blocked supply when the switch was ordered")
    state: CommandState
    code: str | None = Field(default=None, description="Why it failed")
    message: str | None = None
    request_key: str | None
    attempts: int
    issued_at: str
    finished_at: str | None
    verified_by: list[str]


class CommandPage(Page):
    """Commands of a meter, newest first."""

    items: list[CommandView]


@router.post(
    f"{PREFIX}/meters/{{meter_id}}/commands",
    status_code=202,
    response_model=CommandView,
    **access(SWITCH_ROLES),
)
async def command_meter(
    request: Request, caller: Caller, key: Key, meter_id: MeterId, form: CommandForm
) -> Response:
    """Ask for supply to be opened or closed; the answer says where to follow it.

    `disconnect` (needs a reason) sets its cause, `reconnect` clears it, `confirm_reconnect` is a
    person at the point saying that supply may come back. Expires unexecuted after two minutes.
    """
    context = context_of(request)
    body = _body_of(form, entry_of(context, meter_id).service_point_id)
    answer = await submit(context, caller, body, key, expiry_ms=SWITCH_EXPIRY_MS)
    if answer.outcome is not None:
        raise_unless_executed(answer.outcome)
    view = await _view_of_wish(context, key)
    status = 200 if answer.repeat else 202
    return model_response(view, status, {"location": command_location(key)})


@router.get(f"{PREFIX}/meters/{{meter_id}}/commands", response_model=CommandPage, **access(VIEWERS))
async def list_commands(
    request: Request, meter_id: MeterId, limit: Limit = PAGE_DEFAULT, cursor: Cursor = ""
) -> CommandPage:
    """Every switch of a meter that control ordered, whoever or whatever asked for it."""
    context = context_of(request)
    entry_of(context, meter_id)
    before = decode_number("commands", cursor, INT64_MAX)
    found = await context.records.commands_of(meter_id, before, limit)
    last = found.items[-1].number if found.more else None
    said = await _reasons_said(context, found.items)
    return CommandPage(
        items=[_view_of_record(record, said) for record in found.items],
        next_cursor=None if last is None else encode_cursor("commands", last),
    )


@router.get(f"{PREFIX}/commands/{{command_id:path}}", response_model=CommandView, **access(VIEWERS))
async def show_command(request: Request, command_id: CommandId) -> Response:
    """One command, by the key it was asked for with or by the id that control gave it."""
    context = context_of(request)
    record = await context.records.command(command_id)
    if record is None:
        return model_response(await _view_of_wish(context, command_id))
    return model_response(_view_of_record(record, await _reasons_said(context, (record,))))


@router.post(
    f"{PREFIX}/meters/{{meter_id}}/commissioning",
    status_code=201,
    response_model=RequestStatus,
    **access(CommissionPoint.ROLES - NOT_YET_BOUND),
)
async def commission(request: Request, caller: Caller, key: Key, meter_id: MeterId) -> Response:
    """Say that the wiring of a meter's point was proved: supply is enforced there from now on."""
    context = context_of(request)
    body = CommissionPoint(entry_of(context, meter_id).service_point_id)
    return wish_response(await submit(context, caller, body, key), context.settings.currency)


@router.post(
    f"{PREFIX}/mass-cut/release",
    status_code=201,
    response_model=RequestStatus,
    **access(ReleaseHalt.ROLES - NOT_YET_BOUND),
)
async def release_halt(request: Request, caller: Caller, key: Key, form: ReasonForm) -> Response:
    """Be one of the two managers who release a halt of all cuts."""
    context = context_of(request)
    answer = await submit(
        context, caller, ReleaseHalt(form.reason), key, expiry_ms=SWITCH_EXPIRY_MS
    )
    return wish_response(answer, context.settings.currency)


def _body_of(form: CommandForm, service_point_id: str) -> Body:
    if form.action is Action.CONFIRM_RECONNECT:
        return ConfirmReconnect(service_point_id)
    if form.action is Action.RECONNECT:
        return Reconnect(service_point_id, form.reason, form.cause.value, form.owner)
    if not form.reason.strip():
        raise RefusedError("REASON_MISSING", "say why supply is taken away", "body.reason")
    return Disconnect(service_point_id, form.reason, form.cause.value, form.owner)


async def _reasons_said(context: NorthContext, records: Sequence[SwitchCommand]) -> dict[str, str]:
    """What persons said when they asked for these switches, by request key."""
    keys = {record.request_key for record in records if record.request_key is not None}
    wishes = await context.records.requests(sorted(keys))
    return {key: _reason_of(wish.request.body) for key, wish in wishes.items()}


def _reason_of(body: Body) -> str:
    return body.reason if isinstance(body, Disconnect | Reconnect) else ""


def _view_of_record(record: SwitchCommand, said: Mapping[str, str]) -> CommandView:
    return CommandView(
        id=record.command_id,
        meter_id=record.meter_id,
        service_point_id=record.service_point_id,
        action=record.action.value,
        reason=said.get(record.request_key or "", ""),
        block_reasons=block_reasons_of(record),
        state=record.state,
        request_key=record.request_key,
        attempts=record.attempts,
        issued_at=rfc3339(record.issued_utc_ms),
        finished_at=rfc3339_or_none(record.finished_utc_ms),
        verified_by=list(record.witnesses),
        message=str(record.detail["reason"]) if "reason" in record.detail else None,
    )


async def _view_of_wish(context: NorthContext, key: str) -> CommandView:
    """A command as its request, its outcome and the switch that followed tell together.

    Raises RefusedError COMMAND_UNKNOWN.
    """
    wish = await context.records.request(key)
    if wish is None or not isinstance(wish.request.body, Disconnect | Reconnect | ConfirmReconnect):
        raise RefusedError("COMMAND_UNKNOWN", f"there is no command {key!r}")
    switches = await context.records.commands_for(key)
    view = _bare_view(context, wish)
    if switches:
        newest = _view_of_record(switches[-1], {key: view.reason})
        return newest.model_copy(update={"id": key, "action": view.action})
    outcome = await context.records.outcome(key)
    if outcome is None:
        return view
    view.finished_at = rfc3339(outcome.utc_ms)
    if outcome.status is OutcomeStatus.EXECUTED:
        return _shown_by_meter(context, view)
    view.state = (
        CommandState.EXPIRED if outcome.status is OutcomeStatus.EXPIRED else CommandState.FAILED
    )
    view.code = outcome.code or None
    view.message = outcome.message or None
    return view


def _bare_view(context: NorthContext, wish: StoredRequest) -> CommandView:
    body = encode_body(wish.request.body)
    service_point_id = str(body["service_point_id"])
    entry = context.entry_of_point(service_point_id)
    return CommandView(
        id=wish.request.key,
        meter_id="" if entry is None else entry.meter_id,
        service_point_id=service_point_id,
        action=wish.request.body.TYPE,
        reason=_reason_of(wish.request.body),
        block_reasons=[],
        state=CommandState.QUEUED,
        request_key=wish.request.key,
        attempts=0,
        issued_at=rfc3339(wish.request.created_utc_ms),
        finished_at=None,
        verified_by=[],
    )


def _shown_by_meter(context: NorthContext, view: CommandView) -> CommandView:
    """An executed wish that needed no switch (yet): done when the meter shows what was wanted."""
    live = context.row_of_point(view.service_point_id)
    wanted_closed = view.action != Action.DISCONNECT
    if live is not None and live.output_closed is wanted_closed and not context.control_away():
        view.state = CommandState.VERIFIED
        view.verified_by = ["output"]
        return view
    view.finished_at = None
    if live is not None and wanted_closed and live.reasons:
        view.message = "supply is still blocked: " + ", ".join(sorted(live.reasons))
    return view
