"""Tariffs: immutable versions, published by request; a big rise waits for a second person."""

import asyncio
import json
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Request
from pydantic import BaseModel, Field, JsonValue, StrictBool
from starlette.responses import Response

from gateway.core.errors import RefusedError
from gateway.core.money import Currency
from gateway.core.requests import DecideTariff, PublishTariff
from gateway.core.tariff_change import biggest_rise
from gateway.core.tariff_document import tariff_from_document
from gateway.north.http.auth import NOT_YET_BOUND, VIEWERS, Caller, access
from gateway.north.http.context import context_of
from gateway.north.http.forms import (
    ID_EXPRESSION,
    INT64_MAX,
    PAGE_DEFAULT,
    PREFIX,
    UNCHANGED,
    Cursor,
    Key,
    Limit,
    Page,
    ReasonForm,
    check_if_match,
    decode_cursor,
    decode_number,
    encode_cursor,
    entity_tag,
    is_unchanged,
    rfc3339,
)
from gateway.north.http.replays import document_text, replay_first
from gateway.north.http.results import RequestStatus, model_response, wish_response
from gateway.north.wishes import submit
from gateway.store.drafts import TariffDraft
from gateway.store.registry import TariffVersion

router = APIRouter(tags=["tariffs"])

TariffId = Annotated[str, Path(pattern=ID_EXPRESSION, max_length=63)]
VersionNumber = Annotated[
    int | None, Query(ge=1, le=INT64_MAX, description="Without it the newest")
]
DraftNumber = Annotated[int, Path(ge=1, le=INT64_MAX)]
Document = Annotated[
    dict[str, JsonValue],
    Body(description="A tariff document as docs/tariffs.md describes it; money as decimal text"),
]


class TariffView(BaseModel):
    """One version of a tariff; `document` is what was published."""

    id: str
    version: int
    effective_from: str
    published_at: str
    published_by: str
    document: dict[str, JsonValue]


class TariffVersions(TariffView):
    """One version with the numbers of all."""

    versions: list[int] = Field(description="Every version ever published, oldest first")


class TariffPage(Page):
    """Newest versions, by id."""

    items: list[TariffView]


class TariffDraftView(BaseModel):
    """A tariff that is not in force: its price rises so much that a second manager decides."""

    number: int
    tariff_id: str
    rise: str = Field(description="What rose most when it was drafted, in words")
    rise_now: str | None = Field(
        description="What rises most against the newest version of now; empty for nothing"
    )
    replay: dict[str, JsonValue] = Field(
        description="Who would have paid more, as the first manager was shown; empty if not counted"
    )
    drafted_at: str
    drafted_by: str = Field(description="Who may not be the one to approve it")
    document: dict[str, JsonValue]


class TariffDraftPage(Page):
    """Drafts that wait for a decision, oldest first."""

    items: list[TariffDraftView]


class TariffDecisionForm(ReasonForm):
    """The second manager's word, and why."""

    accept: StrictBool = Field(description="true: publish it; false: it never comes into force")


@router.get(f"{PREFIX}/tariffs", response_model=TariffPage, **access(VIEWERS))
async def list_tariffs(
    request: Request, limit: Limit = PAGE_DEFAULT, cursor: Cursor = ""
) -> TariffPage:
    """The newest version of every tariff."""
    after = decode_cursor("tariffs", cursor)
    found = await context_of(request).records.tariffs(after, limit)
    last = found.items[-1].tariff_id if found.more else None
    return TariffPage(
        items=[TariffView.model_validate(_fields(tariff)) for tariff in found.items],
        next_cursor=None if last is None else encode_cursor("tariffs", last),
    )


@router.get(
    f"{PREFIX}/tariffs/{{tariff_id}}",
    response_model=TariffVersions,
    responses={304: UNCHANGED},
    **access(VIEWERS),
)
async def show_tariff(
    request: Request, tariff_id: TariffId, version: VersionNumber = None
) -> Response:
    """One version of a tariff, the newest unless named; the newest's ETag guards a change by
    If-Match."""
    versions = await context_of(request).records.tariff_versions(tariff_id)
    if not versions:
        raise RefusedError("TARIFF_UNKNOWN", f"there is no tariff {tariff_id!r}")
    chosen = next((one for one in versions if one.version == version), None)
    if version is None:
        chosen = versions[-1]
    if chosen is None:
        raise RefusedError("TARIFF_UNKNOWN", f"tariff {tariff_id!r} has no version {version}")
    tag = _tag(chosen)
    if is_unchanged(request, tag):
        return Response(status_code=304, headers={"etag": tag})
    view = TariffVersions.model_validate(
        {**_fields(chosen), "versions": [record.version for record in versions]}
    )
    return model_response(view, headers={"etag": tag})


@router.post(
    f"{PREFIX}/tariffs",
    status_code=201,
    response_model=RequestStatus,
    **access(PublishTariff.ROLES - NOT_YET_BOUND),
)
async def publish_tariff(
    request: Request, caller: Caller, key: Key, document: Document
) -> Response:
    """Publish a new version of a tariff, after the last 7 days were replayed under it.

    `replay` in the result says who would have paid more; the replay of the same document that was
    asked for just before is taken. Where its price rises by more than half, the result has
    `published` false and the number of a `draft` that another manager decides on: nothing is in
    force until then. With If-Match (the ETag of the version that was edited) it is refused when
    somebody else published one meanwhile.
    """
    context = context_of(request)
    text = document_text(document)
    await _check_version(request, key, document)
    replay = await replay_first(context, key, document)
    if replay:
        # That may have taken a while.
        await _check_version(request, key, document)
    body = PublishTariff(text, json.dumps(replay) if replay else "")
    return wish_response(await submit(context, caller, body, key), context.settings.currency)


@router.get(f"{PREFIX}/tariff-drafts", response_model=TariffDraftPage, **access(VIEWERS))
async def list_tariff_drafts(
    request: Request, limit: Limit = PAGE_DEFAULT, cursor: Cursor = ""
) -> TariffDraftPage:
    """Tariffs that wait for a second manager."""
    after = decode_number("tariff drafts", cursor, 0)
    drafts = await context_of(request).records.tariff_drafts()
    rest = [draft for draft in drafts if draft.number > after]
    last = rest[limit - 1].number if len(rest) > limit else None
    shown = rest[:limit]
    newest = await context_of(request).records.newest_tariffs({draft.tariff_id for draft in shown})
    currency = context_of(request).settings.currency
    rises = await asyncio.to_thread(
        lambda: [_rise_now(draft, newest.get(draft.tariff_id), currency) for draft in shown]
    )
    return TariffDraftPage(
        items=[_draft_view(draft, rise) for draft, rise in zip(shown, rises, strict=True)],
        next_cursor=None if last is None else encode_cursor("tariff drafts", last),
    )


@router.post(
    f"{PREFIX}/tariff-drafts/{{number}}/decision",
    status_code=201,
    response_model=RequestStatus,
    **access(DecideTariff.ROLES - NOT_YET_BOUND),
)
async def decide_tariff(
    request: Request, caller: Caller, key: Key, number: DraftNumber, form: TariffDecisionForm
) -> Response:
    """Be the second manager who publishes a drafted tariff, or who refuses it.

    Whoever drafted it may refuse it and not approve it.
    """
    context = context_of(request)
    body = DecideTariff(number, form.accept, form.reason)
    return wish_response(await submit(context, caller, body, key), context.settings.currency)


async def _check_version(request: Request, key: str, document: Document) -> None:
    """Raise PRECONDITION_FAILED when another version came since the one that was edited."""
    records = context_of(request).records
    if "if-match" in request.headers and await records.request(key) is None:
        # A repeat of a key is answered with what it did, not judged by what it changed.
        versions = await records.tariff_versions(str(document.get("id", "")))
        check_if_match(request, _tag(versions[-1]) if versions else None)


def _rise_now(draft: TariffDraft, newest: TariffVersion | None, currency: Currency) -> str | None:
    """As control would judge it at this moment; None where it cannot be told."""
    if newest is None:
        return None
    try:
        old = tariff_from_document(newest.document, currency)
        rise = biggest_rise(old, tariff_from_document(draft.document, currency))
    except RefusedError:
        return None
    return "" if rise is None else rise.text


def _draft_view(draft: TariffDraft, rise_now: str | None) -> TariffDraftView:
    return TariffDraftView.model_validate(
        {
            "number": draft.number,
            "tariff_id": draft.tariff_id,
            "rise": draft.rise,
            "rise_now": rise_now,
            "replay": draft.replay,
            "drafted_at": rfc3339(draft.utc_ms),
            "drafted_by": draft.actor,
            "document": draft.document,
        }
    )


def _tag(record: TariffVersion) -> str:
    return entity_tag(record.tariff_id, record.version, record.published_utc_ms)


def _fields(record: TariffVersion) -> dict[str, object]:
    return {
        "id": record.tariff_id,
        "version": record.version,
        "effective_from": rfc3339(record.effective_from_utc_ms),
        "published_at": rfc3339(record.published_utc_ms),
        "published_by": record.actor,
        "document": record.document,
    }
