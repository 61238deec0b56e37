"""The gateway itself: is it up, what happened, who am I, what became of my request."""

from typing import Annotated, Final

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field, JsonValue
from starlette.responses import Response

from gateway import __version__
from gateway.core.errors import RefusedError, StoreAwayError
from gateway.core.money import Currency
from gateway.core.reading import Quality
from gateway.core.requests import IssueVoucher, audited_body
from gateway.core.requests import Request as Wish
from gateway.core.roles import Role
from gateway.north.context import ControlState
from gateway.north.http.auth import ALL_ROLES, MONEY_VIEWERS, VIEWERS, Caller, access
from gateway.north.http.context import context_of
from gateway.north.http.forms import (
    INT64_MAX,
    PAGE_DEFAULT,
    PREFIX,
    Cursor,
    Limit,
    Page,
    decode_number,
    encode_cursor,
    rfc3339,
)
from gateway.north.http.results import (
    PENDING,
    RequestStatus,
    model_response,
    public_result,
    status_of_outcome,
)

router = APIRouter(tags=["system"])

AUDIT_VIEWERS: Final = frozenset({Role.MANAGER, Role.AUDITOR})


class Alive(BaseModel):
    """Up or not, and nothing else: this is readable without a token."""

    status: str


class Me(BaseModel):
    """Who the gateway takes the caller for."""

    actor: str
    roles: list[str]
    source: str


class Health(BaseModel):
    """How the gateway is."""

    version: str
    site: str
    status: str = Field(description="ok, or degraded while control is away")
    control: ControlState = Field(description="Whether control's heartbeat is fresh")
    control_heartbeat_at: str | None
    ledger_readable: bool
    meters: int
    meters_good: int
    stream_clients: int
    at: str


class EventView(BaseModel):
    """Something that happened."""

    id: int
    at: str
    kind: str
    subject: str
    severity: str
    detail: dict[str, JsonValue]


class EventPage(Page):
    """Events, newest first."""

    items: list[EventView]


@router.get("/healthz", response_model=Alive)
async def healthz() -> Alive:
    """Whether this process answers."""
    return Alive(status="ok")


@router.get("/readyz", response_model=Alive, responses={503: {"model": Alive}})
async def readyz(request: Request) -> Response:
    """Whether control is there too: 200, or 503 while it is away."""
    context = context_of(request)
    ready = not context.control_away() and await _ledger_readable(request)
    status, headers = (200, {}) if ready else (503, {"retry-after": "1"})
    return model_response(Alive(status="ready" if ready else "away"), status, headers)


@router.get(f"{PREFIX}/health", response_model=Health, **access(VIEWERS))
async def health(request: Request) -> Health:
    """The state of the gateway in figures."""
    context = context_of(request)
    control = context.control_state()
    readable = await _ledger_readable(request)
    away = context.control_away()
    good = sum(
        context.quality_of(entry, context.live.now(entry.meter_id), away=away) is Quality.GOOD
        for entry in context.settings.meters
    )
    heartbeat_utc_ms = context.live.heartbeat_utc_ms()
    return Health(
        version=__version__,
        site=context.settings.site_id,
        status="ok" if readable and control is ControlState.PRESENT else "degraded",
        control=control,
        control_heartbeat_at=None if heartbeat_utc_ms is None else rfc3339(heartbeat_utc_ms),
        ledger_readable=readable,
        meters=len(context.settings.meters),
        meters_good=good,
        stream_clients=context.hub.listeners,
        at=rfc3339(context.clock.utc_ms()),
    )


@router.get(f"{PREFIX}/auth/me", response_model=Me, **access(ALL_ROLES))
async def me(caller: Caller) -> Me:
    """Who the caller is and what roles it has."""
    roles = sorted(role.value for role in caller.roles)
    return Me(actor=caller.actor, roles=roles, source=caller.source)


@router.get(f"{PREFIX}/events", response_model=EventPage, **access(VIEWERS))
async def list_events(
    request: Request, limit: Limit = PAGE_DEFAULT, cursor: Cursor = ""
) -> EventPage:
    """What happened at meters and in the gateway, newest first."""
    before = decode_number("events", cursor, INT64_MAX)
    found = await context_of(request).records.events(before, limit)
    last = found.items[-1].seq if found.more else None
    return EventPage(
        items=[
            EventView.model_validate(
                {
                    "id": event.seq,
                    "at": rfc3339(event.utc_ms),
                    "kind": event.kind,
                    "subject": event.subject,
                    "severity": event.severity,
                    "detail": event.body,
                }
            )
            for event in found.items
        ],
        next_cursor=None if last is None else encode_cursor("events", last),
    )


class AuditView(BaseModel):
    """Something that was done or refused, as the chain has it."""

    seq: int
    at: str
    record: dict[str, JsonValue] = Field(
        description="Who (actor, role, source), what (action, object), which request, the result: "
        "executed, or the code of the refusal with its place"
    )


class AuditPage(Page):
    """Audit records, newest first."""

    items: list[AuditView]


@router.get(f"{PREFIX}/audit-log", response_model=AuditPage, **access(AUDIT_VIEWERS))
async def list_audit_records(
    request: Request, limit: Limit = PAGE_DEFAULT, cursor: Cursor = ""
) -> AuditPage:
    """Who did or was refused what, newest first."""
    context = context_of(request)
    before = decode_number("audit", cursor, INT64_MAX)
    found = await context.records.audit(before, limit)
    last = found.items[-1].seq if found.more else None
    return AuditPage(
        items=[
            AuditView(
                seq=one.seq,
                at=rfc3339(one.utc_ms),
                record=public_result(one.body, context.settings.currency),
            )
            for one in found.items
        ],
        next_cursor=None if last is None else encode_cursor("audit", last),
    )


class RequestRecord(RequestStatus):
    """A wish, who made it and what became of it."""

    made_by: str
    role: str = Field(description="As whom: the role that allowed it")
    source: str = Field(description="From where: an address, or the local socket")
    made_at: str
    asked: dict[str, JsonValue] = Field(description="What was asked for, digits masked")


@router.get(f"{PREFIX}/requests/{{key:path}}", response_model=RequestRecord, **access(VIEWERS))
async def show_request(
    request: Request, key: Annotated[str, Path(min_length=1, max_length=128)], caller: Caller
) -> Response:
    """Who made a wish, and what became of it, by its idempotency key; money is shown to those who
    may see it."""
    context = context_of(request)
    wish = await context.records.request(key)
    if wish is None:
        raise RefusedError("REQUEST_UNKNOWN", f"there is no request with the key {key!r}")
    may_see_all = bool(caller.roles & MONEY_VIEWERS) or wish.request.actor == caller.actor
    if not may_see_all:
        raise RefusedError("FORBIDDEN", "this request is somebody else's")
    outcome = await context.records.outcome(key)
    if outcome is None:
        pending = RequestStatus(key=key, type=wish.request.body.TYPE, state=PENDING)
        return model_response(_record(pending, wish.request, context.settings.currency))
    shown = status_of_outcome(outcome, context.settings.currency)
    if shown.result is not None and not caller.roles & IssueVoucher.ROLES:
        # The digits of a voucher are for those who sell them.
        shown.result.pop("token", None)
    return model_response(_record(shown, wish.request, context.settings.currency))


def _record(status: RequestStatus, made: Wish, currency: Currency) -> RequestRecord:
    return RequestRecord(
        **status.model_dump(),
        made_by=made.actor,
        role=made.role.value,
        source=made.source,
        made_at=rfc3339(made.created_utc_ms),
        asked=public_result(audited_body(made.body), currency),
    )


async def _ledger_readable(request: Request) -> bool:
    try:
        await context_of(request).ledger.version()
    except StoreAwayError:
        return False
    return True
