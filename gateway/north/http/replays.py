"""A draft on what was used: who would have paid more, before anything is published."""

import asyncio
import json
from collections.abc import Coroutine, Mapping
from typing import Annotated, Final, TypeVar, cast

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, JsonValue, StrictInt
from starlette.responses import Response

from gateway.core.errors import RefusedError, StoreError
from gateway.core.requests import PublishTariff, Role
from gateway.core.tariff import Tariff
from gateway.core.tariff_document import tariff_from_document
from gateway.north.context import NorthContext
from gateway.north.http.auth import access
from gateway.north.http.context import context_of
from gateway.north.http.forms import PREFIX, Form, Id
from gateway.north.http.results import model_response
from gateway.north.replays import ReplayWish
from gateway.store.accounts import open_points

router = APIRouter(tags=["tariffs"])

READERS: Final = frozenset({Role.MANAGER, Role.OPERATOR, Role.AUDITOR})
DAYS_DEFAULT: Final = 7
DAYS_MAX: Final = 3_660
ACCOUNTS_MAX: Final = 1_000
TARIFFS_MAX: Final = 100
MAX_WHY: Final = 500
LOOK_S: Final = 0.5

T = TypeVar("T")
Amount = Annotated[str, Field(description="Exact decimal text in major units")]
Percent = Annotated[str | None, Field(description="With sign and a decimal; null of nothing")]


class ReplayForm(Form):
    """A draft, how far back, and which accounts: without any, those under the draft's id."""

    document: dict[str, JsonValue] = Field(description="As `POST /tariffs` takes it")
    days: StrictInt = Field(
        default=DAYS_DEFAULT, ge=1, le=DAYS_MAX, description="Back from the last posting's midnight"
    )
    accounts: list[Id] = Field(default_factory=list, max_length=ACCOUNTS_MAX)
    tariff_ids: list[Id] = Field(
        default_factory=list, max_length=TARIFFS_MAX, description="All accounts under these"
    )


class AccountReplayView(BaseModel):
    """One account: what it was charged in the window, and what the draft comes to."""

    account_id: str
    energy_wh: int
    charged: Amount
    draft: Amount
    difference: Amount = Field(description="Above zero: it would have paid more")
    difference_percent: Percent
    estimated_wh: int = Field(description="Energy that no reading places on one side of a rate")
    unexplained: Amount = Field(description="The ledger charged so much more than its tariff gives")
    charged_by_component: dict[str, Amount]
    draft_by_component: dict[str, Amount]


class ReplayTotal(BaseModel):
    """All accounts together."""

    energy_wh: int
    charged: Amount
    draft: Amount
    difference: Amount
    difference_percent: Percent
    estimated_wh: int
    unexplained: Amount


class ReplayView(BaseModel):
    """A replay; the accounts that would have paid most come first."""

    draft: str = Field(description="The draft's id")
    currency: str
    from_: str = Field(alias="from", description="A local midnight")
    until: str = Field(description="The last posting")
    accounts: list[AccountReplayView]
    total: ReplayTotal
    summary: dict[str, JsonValue] = Field(
        description="What a publication keeps of it: `pay_more`, `pay_less`, `largest`, sums"
    )


@router.post(f"{PREFIX}/tariffs/replay", response_model=ReplayView, **access(READERS))
async def replay_tariff(request: Request, form: ReplayForm) -> Response:
    """Price what was settled lately under a draft, and see who would have paid more.

    It changes nothing. It may take a minute, one runs at a time, and it ends when the caller goes.
    """
    context = context_of(request)
    document_text(form.document)
    await _tariff(context, form.document)
    wish = ReplayWish(form.document, form.days, tuple(form.accounts), tuple(form.tariff_ids))
    report = await _while_there(request, context.replays.ask(wish))
    if report is None:
        return Response(status_code=204)
    return model_response(ReplayView.model_validate(report))


async def replay_first(
    context: NorthContext, key: str, document: Mapping[str, JsonValue]
) -> Mapping[str, object]:
    """What a publication is to be shown beside: the last days under it, in a few figures.

    Empty where this north counts no replays or the document is no tariff. Whatever goes wrong keeps
    nobody from publishing: `compared` is false then, and `why` says what was not compared.
    """
    known = await context.records.request(key)
    if known is not None:
        # A repeat is the same wish, whatever was used since.
        body = known.request.body
        return json.loads(body.replay or "{}") if isinstance(body, PublishTariff) else {}
    if not context.replays.can_run:
        return {}
    try:
        tariff = await _tariff(context, document)
    except RefusedError:
        # Control says everything that is wrong with it.
        return {}
    try:
        return {"days": DAYS_DEFAULT, **await _summary(context, tariff, document)}
    except RefusedError as error:
        return _not_compared(error.refusal_code, error.message)
    except StoreError as error:
        return _not_compared(error.code, "the gateway's records could not be read")


def document_text(document: Mapping[str, JsonValue]) -> str:
    """A tariff document as JSON text. Raises RefusedError VALIDATION for what none can hold."""
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except ValueError as error:
        detail = "NaN, infinity and lone surrogates are no JSON that others can read"
        raise RefusedError("VALIDATION", detail, "body") from error
    return text


async def _summary(
    context: NorthContext, tariff: Tariff, document: Mapping[str, JsonValue]
) -> Mapping[str, object]:
    points = await context.ledger.read(open_points)
    if not any(point.tariff_id == tariff.tariff_id for point in points):
        raise RefusedError("NO_ACCOUNTS", f"no account is under tariff {tariff.tariff_id} yet")
    report = await context.replays.ask_in_line(ReplayWish(document, DAYS_DEFAULT))
    return cast("Mapping[str, object]", report["summary"])


def _not_compared(code: str, why: str) -> dict[str, object]:
    return {"days": DAYS_DEFAULT, "compared": False, "code": code, "why": why[:MAX_WHY]}


async def _tariff(context: NorthContext, document: Mapping[str, JsonValue]) -> Tariff:
    """The tariff of a document, looked at beside the loop. Raises TariffProblemsError."""
    return await asyncio.to_thread(tariff_from_document, document, context.settings.currency)


async def _while_there(request: Request, work: Coroutine[None, None, T]) -> T | None:
    """What the work comes to; None when the caller went away, and the work with it."""
    task = asyncio.create_task(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=LOOK_S)
            if not task.done() and await request.is_disconnected():
                return None
        return task.result()
    finally:
        task.cancel()
