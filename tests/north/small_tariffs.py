"""Tariffs of the small site: published as they come, a big rise by two persons."""

import json
from collections.abc import Mapping

from gateway.core.errors import RefusedError
from gateway.core.money import Currency
from gateway.core.requests import DecideTariff, PublishTariff, Request
from gateway.core.tariff_change import biggest_rise, needs_second_person
from gateway.core.tariff_document import tariff_from_document
from gateway.store.db import Connection
from gateway.store.drafts import decide_draft, draft_result, open_drafts, put_draft
from gateway.store.registry import TariffVersion, publish_tariff, read_tariff

INR = Currency("INR")


def publish(
    connection: Connection, request: Request, body: PublishTariff, now: int
) -> dict[str, object]:
    """Store the next version, or a draft; of a document that is not whole only the id counts."""
    document: Mapping[str, object] = json.loads(body.document)
    tariff_id = document.get("id")
    if not isinstance(tariff_id, str) or not tariff_id:
        raise RefusedError("TARIFF_INVALID", "a tariff has an id", "id")
    rise = _rise(connection, tariff_id, document)
    if rise:
        number = put_draft(
            connection,
            tariff_id=tariff_id,
            content=document,
            rise=rise,
            follows=len(read_tariff(connection, tariff_id)),
            utc_ms=now,
            actor=request.actor,
            replay=json.loads(body.replay or "{}"),
        )
        return draft_result(tariff_id, number, rise)
    return _publish(connection, request, tariff_id, document, now)


def decide(
    connection: Connection, request: Request, body: DecideTariff, now: int
) -> dict[str, object]:
    """The second person's word."""
    draft = next((one for one in open_drafts(connection) if one.number == body.draft), None)
    if draft is not None and body.accept and draft.actor == request.actor:
        raise RefusedError("SAME_PERSON", f"draft {body.draft} is your own")
    decide_draft(
        connection,
        body.draft,
        accepted=body.accept,
        reason=body.reason,
        utc_ms=now,
        actor=request.actor,
    )
    assert draft is not None
    if not body.accept:
        return {"tariff_id": draft.tariff_id, "draft": body.draft, "accepted": False}
    return _publish(connection, request, draft.tariff_id, draft.document, now)


def _rise(connection: Connection, tariff_id: str, document: Mapping[str, object]) -> str:
    """What rises by more than half; empty where nothing does."""
    versions = read_tariff(connection, tariff_id)
    if not versions or not {"timezone", "grid"} <= document.keys() & versions[-1].document.keys():
        return ""
    old = tariff_from_document(versions[-1].document, INR)
    new = tariff_from_document(document, INR)
    rise = biggest_rise(old, new) if needs_second_person(old, new) else None
    return "" if rise is None else rise.text


def _publish(
    connection: Connection,
    request: Request,
    tariff_id: str,
    document: Mapping[str, object],
    now: int,
) -> dict[str, object]:
    version = len(read_tariff(connection, tariff_id)) + 1
    tariff = TariffVersion(tariff_id, version, now, document, now, request.actor)
    publish_tariff(connection, tariff)
    return {"tariff_id": tariff_id, "version": version}
