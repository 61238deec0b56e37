"""Running the site: everything at a glance, and the end of a RECOVERY."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from gateway import __version__
from gateway.core.errors import StoreError
from gateway.core.figures import Value
from gateway.core.reading import Quality
from gateway.core.recovery import Recovery
from gateway.core.requests import ReleaseRecovery
from gateway.north.context import ControlState, NorthContext
from gateway.north.http.auth import MONEY_VIEWERS, NOT_YET_BOUND, VIEWERS, Caller, access
from gateway.north.http.context import context_of
from gateway.north.http.forms import PREFIX, Key, ReasonForm, rfc3339, rfc3339_or_none
from gateway.north.http.results import RequestStatus, wish_response
from gateway.north.wishes import PRESENT_EXPIRY_MS, submit
from gateway.store.board import read_board
from gateway.store.overview import LedgerOverview, read_overview, requests_after
from gateway.store.recovery import Replay, replay_since, standing_recovery

router = APIRouter(tags=["system"])

NAMED_MAX: Final = 100


class RecoveryView(BaseModel):
    """A RECOVERY that stands: nobody is cut for credit until a manager releases it."""

    reason: str = Field(description="restored, or older_than_known")
    since: str
    ledger_transactions: int = Field(description="How far the ledger went that was brought back")
    known_transactions: int = Field(description="How far a lost ledger is known to have gone, or 0")


class RefusedRequest(BaseModel):
    """A request that was not carried out."""

    key: str
    type: str
    code: str
    message: str


class RecoveryReport(BaseModel):
    """What a manager looks at before a release."""

    standing: RecoveryView | None
    requests: dict[str, int] = Field(description="Outcomes since it began, by status")
    refused: list[RefusedRequest] = Field(description="The first 100 that were not carried out")


class LedgerView(BaseModel):
    """The ledger at a glance."""

    transactions: int
    head: str = Field(description="Hash of the chain's last transaction, hexadecimal")
    head_at: str | None
    last_posting_at: str | None
    last_sweep_at: str | None
    open_accounts: int


class Status(BaseModel):
    """The site on one screen. What control's figures tell is null while there are none."""

    site: str
    version: str
    at: str
    control: ControlState
    control_since: str | None
    north_since: str | None = Field(description="null while north is away")
    clock_trusted: bool | None
    chain_verified: bool | None
    mass_cut_halted: bool | None
    recovery: RecoveryView | None
    meters: dict[str, int] | None = Field(description="By state: good, uncertain, away, never")
    points: dict[str, int] | None = Field(description="Enforced points by control state")
    blocked: dict[str, int] | None = Field(description="Enforced points by standing reason")
    meters_away: list[str] = Field(description="Meters without a usable reading, at most 100")
    faults: list[str] = Field(description="Alarms of supplies that stand, as POINT: ALARM")
    ledger: LedgerView | None
    store_bytes: dict[str, int] | None
    disk_free_bytes: int | None
    telemetry_working: bool | None
    requests_waiting: int | None = Field(description="Requests that control has not finished")


@dataclass(frozen=True, slots=True)
class Glance:
    """What a status is made of; `north_since_utc_ms` is None where north is away."""

    site: str
    utc_ms: int
    control: ControlState
    north_since_utc_ms: int | None
    figures: Mapping[str, Value]
    overview: LedgerOverview | None
    meters_away: Sequence[str]
    faults: Sequence[str]
    requests_waiting: int | None


@router.get(f"{PREFIX}/status", response_model=Status, **access(VIEWERS))
async def status(request: Request) -> Status:
    """Everything at a glance."""
    context = context_of(request)
    overview = await _overview(context)
    return status_of(
        Glance(
            site=context.settings.site_id,
            utc_ms=context.clock.utc_ms(),
            control=context.control_state(),
            north_since_utc_ms=context.started_utc_ms,
            figures=await _figures(context),
            overview=overview,
            meters_away=_away(context),
            faults=_faults(context),
            requests_waiting=await _waiting(context, overview),
        )
    )


def status_of(seen: Glance) -> Status:
    """The screen of what was seen."""
    figures, overview = seen.figures, seen.overview
    started_s = _figure(figures, "start_time_seconds")
    free = _figure(figures, "disk_free_bytes")
    return Status(
        site=seen.site,
        version=__version__,
        at=rfc3339(seen.utc_ms),
        control=seen.control,
        control_since=None if started_s is None else rfc3339(round(started_s * 1000)),
        north_since=rfc3339_or_none(seen.north_since_utc_ms),
        clock_trusted=_truth(figures, "clock_trusted"),
        chain_verified=_truth(figures, "chain_verified"),
        mass_cut_halted=_truth(figures, "mass_cut_halted"),
        recovery=None if overview is None else _recovery_view(overview.recovery),
        meters=_counts(figures, "meters"),
        points=_counts(figures, "points"),
        blocked=_counts(figures, "points_blocked"),
        meters_away=list(seen.meters_away[:NAMED_MAX]),
        faults=list(seen.faults),
        ledger=None if overview is None else _ledger_view(overview),
        store_bytes=_counts(figures, "store_bytes"),
        disk_free_bytes=None if free is None else round(free),
        telemetry_working=_truth(figures, "telemetry_working"),
        requests_waiting=seen.requests_waiting,
    )


@router.get(f"{PREFIX}/recovery", response_model=RecoveryReport, **access(MONEY_VIEWERS))
async def show_recovery(request: Request) -> RecoveryReport:
    """Whether the site is in RECOVERY, and what came of the requests since."""
    context = context_of(request)
    standing = await context.ledger.read(standing_recovery)
    replay = Replay({}, ())
    if standing is not None:
        since = standing.outcome_number
        replay = await context.ledger.read(lambda connection: replay_since(connection, since))
    return RecoveryReport(
        standing=_recovery_view(standing),
        requests=dict(Counter(replay.counts)),
        refused=[
            RefusedRequest(key=key, type=kind, code=code, message=message)
            for key, kind, code, message in replay.refused
        ],
    )


@router.post(
    f"{PREFIX}/recovery/release",
    status_code=201,
    response_model=RequestStatus,
    **access(ReleaseRecovery.ROLES - NOT_YET_BOUND),
)
async def release_recovery(
    request: Request, caller: Caller, key: Key, form: ReasonForm
) -> Response:
    """End the RECOVERY: accounts were compared, cuts for credit go on.

    Expires unexecuted after two minutes: a later restore is another RECOVERY.
    """
    context = context_of(request)
    answer = await submit(
        context, caller, ReleaseRecovery(form.reason), key, expiry_ms=PRESENT_EXPIRY_MS
    )
    return wish_response(answer, context.settings.currency)


async def _figures(context: NorthContext) -> Mapping[str, Value]:
    try:
        board = await asyncio.to_thread(read_board, context.settings.live_dir)
    except StoreError:
        return {}
    return {} if board.stale(context.clock.utc_ms()) else board.figures


async def _overview(context: NorthContext) -> LedgerOverview | None:
    try:
        return await context.ledger.read(read_overview)
    except StoreError:
        return None


async def _waiting(context: NorthContext, overview: LedgerOverview | None) -> int | None:
    """Requests after control's cursor: it moves when everything before it is finished."""
    if overview is None:
        return None
    cursor = overview.cursor
    try:
        return await context.north.read(lambda connection: requests_after(connection, cursor))
    except StoreError:
        return None


def _away(context: NorthContext) -> list[str]:
    found = []
    for entry in context.settings.meters:
        now = context.live.now(entry.meter_id)
        if context.quality_of(entry, now, away=False) is Quality.BAD:
            found.append(entry.meter_id)
    return found


def _faults(context: NorthContext) -> list[str]:
    found = []
    for entry in context.settings.meters:
        now = context.live.now(entry.meter_id)
        if now is not None and now.row.fault is not None:
            found.append(f"{entry.service_point_id}: {now.row.fault.value}")
    return found


def _figure(figures: Mapping[str, Value], name: str) -> float | None:
    value = figures.get(name)
    return float(value) if isinstance(value, int | float) else None


def _truth(figures: Mapping[str, Value], name: str) -> bool | None:
    value = _figure(figures, name)
    return None if value is None else bool(value)


def _counts(figures: Mapping[str, Value], name: str) -> dict[str, int] | None:
    value = figures.get(name)
    if not isinstance(value, Mapping):
        return None
    return {label: round(number) for label, number in value.items()}


def _recovery_view(standing: Recovery | None) -> RecoveryView | None:
    if standing is None:
        return None
    return RecoveryView(
        reason=standing.reason.value,
        since=rfc3339(standing.since_utc_ms),
        ledger_transactions=standing.head.seq,
        known_transactions=standing.known.seq,
    )


def _ledger_view(overview: LedgerOverview) -> LedgerView:
    return LedgerView(
        transactions=overview.head.seq,
        head=overview.head.hash.hex(),
        head_at=rfc3339_or_none(overview.head_utc_ms or None),
        last_posting_at=rfc3339_or_none(overview.last_posting_utc_ms or None),
        last_sweep_at=rfc3339_or_none(overview.last_sweep_utc_ms or None),
        open_accounts=overview.open_accounts,
    )
