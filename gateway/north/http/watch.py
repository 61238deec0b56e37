"""What is watched: feeders against their check meters, signs of tampering, transformers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, cast

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, StrictInt
from starlette.responses import Response

from gateway.core.feeder_balance import balance_of
from gateway.core.requests import AcknowledgeChanges
from gateway.core.tamper import ANNOUNCED_MAX_S
from gateway.north.context import NorthContext
from gateway.north.http.auth import NOT_YET_BOUND, VIEWERS, Caller, access
from gateway.north.http.context import context_of
from gateway.north.http.forms import PREFIX, Key, ReasonForm, rfc3339
from gateway.north.http.meters import MeterId, entry_of
from gateway.north.http.results import RequestStatus, wish_response
from gateway.north.wishes import PRESENT_EXPIRY_MS, submit
from gateway.store.watch import WatchKind, WatchState

router = APIRouter(tags=["watch"])

CHECK = "check"


class FeederBalanceView(BaseModel):
    """One half hour of a feeder, in Wh."""

    start_at: str
    end_at: str
    supplied_wh: int = Field(description="Import of the check meters and feed-in of the points")
    used_wh: int = Field(description="Import of the points and export of the check meters")
    loss_wh: int = Field(description="What went in and came out nowhere; negative: a surplus")
    loss_percent: float | None = Field(description="Of what was supplied; null where nothing was")
    judged: bool = Field(description="Whether every meter told the whole half hour")
    doubtful_meters: list[str] = Field(description="Meters that did not")


class FeederView(BaseModel):
    """A feeder with a check meter."""

    id: str
    check_meters: list[str]
    meters: int = Field(description="How many other meters are behind it")
    alarm: str | None = Field(description="loss or surplus, while such an alarm stands")
    last: FeederBalanceView | None = Field(description="The last half hour; null before the first")


class FeederList(BaseModel):
    """All feeders with a check meter, by name."""

    items: list[FeederView]


class SuspicionView(BaseModel):
    """Something that stands at a meter."""

    meter_id: str
    kind: str = Field(description="tamper or transformer")
    what: str = Field(description="The sign, or the suspicion with its phase")
    since: str | None = Field(description="When it was first seen; null where that is not kept")
    detail: str


class SuspicionList(BaseModel):
    """Signs of tampering that nobody answered for, and suspect transformers."""

    items: list[SuspicionView]


class AcknowledgementForm(ReasonForm):
    """Why the signs at a meter are answered for; with `for_s`, what is done there from now on."""

    for_s: Annotated[
        StrictInt,
        Field(
            ge=0,
            le=ANNOUNCED_MAX_S,
            description="0: answer for what stands. Else: announce work at the meter: changes of "
            "the next so many seconds are no sign; what stands goes on standing",
        ),
    ] = 0


@router.get(f"{PREFIX}/feeders", response_model=FeederList, **access(VIEWERS))
async def list_feeders(request: Request) -> FeederList:
    """Feeders that have a check meter, each with its last half hour."""
    context = context_of(request)
    kept = {
        state.subject: state.body for state in await context.records.watch_states(WatchKind.FEEDER)
    }
    feeders = sorted({entry.feeder for entry in context.entries.values() if entry.role == CHECK})
    return FeederList(items=[_feeder(context, name, kept.get(name)) for name in feeders])


@router.get(f"{PREFIX}/suspicions", response_model=SuspicionList, **access(VIEWERS))
async def list_suspicions(request: Request) -> SuspicionList:
    """What stands at meters: signs of tampering and suspect current transformers."""
    context = context_of(request)
    states = await context.records.watch_states(WatchKind.TAMPER, WatchKind.TRANSFORMER)
    return SuspicionList(
        items=[
            view
            for state in states
            if state.subject in context.entries
            for view in _suspicions(state)
        ]
    )


@router.post(
    f"{PREFIX}/meters/{{meter_id}}/changes-acknowledgement",
    status_code=201,
    response_model=RequestStatus,
    **access(AcknowledgeChanges.ROLES - NOT_YET_BOUND),
)
async def acknowledge_changes(
    request: Request, caller: Caller, key: Key, meter_id: MeterId, form: AcknowledgementForm
) -> Response:
    """Answer for a meter's signs of tampering, or announce work at it.

    Expires unexecuted after two minutes: what stands then may be something else.
    """
    context = context_of(request)
    body = AcknowledgeChanges(entry_of(context, meter_id).meter_id, form.reason, form.for_s)
    answer = await submit(context, caller, body, key, expiry_ms=PRESENT_EXPIRY_MS)
    return wish_response(answer, context.settings.currency)


def _feeder(context: NorthContext, name: str, state: Mapping[str, object] | None) -> FeederView:
    here = [entry for entry in context.entries.values() if entry.feeder == name]
    last = None if state is None else balance_of(cast("Mapping[str, object] | None", state["last"]))
    return FeederView(
        id=name,
        check_meters=sorted(entry.meter_id for entry in here if entry.role == CHECK),
        meters=sum(entry.role != CHECK for entry in here),
        alarm=None if state is None else cast("str | None", state["standing"]),
        last=None
        if last is None
        else FeederBalanceView(
            start_at=rfc3339(last.start_utc_ms),
            end_at=rfc3339(last.end_utc_ms),
            supplied_wh=last.supplied_wh,
            used_wh=last.used_wh,
            loss_wh=last.loss_wh,
            loss_percent=None if last.loss_percent is None else round(last.loss_percent, 2),
            judged=not last.doubtful,
            doubtful_meters=list(last.doubtful),
        ),
    )


def _suspicions(state: WatchState) -> Iterator[SuspicionView]:
    if state.kind is WatchKind.TAMPER:
        for sign, since_utc_ms, detail in cast(
            "Sequence[tuple[str, int, str]]", state.body["signs"]
        ):
            yield SuspicionView(
                meter_id=state.subject,
                kind="tamper",
                what=sign,
                since=rfc3339(since_utc_ms),
                detail=detail,
            )
        return
    for name, kept in state.body.items():
        if cast("Sequence[object]", kept)[0]:
            yield SuspicionView(
                meter_id=state.subject, kind="transformer", what=name, since=None, detail=""
            )
