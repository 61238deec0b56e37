"""Requests about tariffs: published as immutable versions, a big rise by two persons."""

from collections.abc import Callable, Mapping

from gateway.app.control.department import Method
from gateway.app.control.desk import Desk, json_object
from gateway.core import requests as wishes
from gateway.core.errors import RefusedError
from gateway.core.requests import Request
from gateway.core.tariff import Tariff
from gateway.core.tariff_change import Rise, biggest_rise, is_bigger
from gateway.core.tariff_document import tariff_from_document
from gateway.store.db import Connection
from gateway.store.drafts import TariffDraft, decide_draft, draft_result, open_drafts, put_draft
from gateway.store.registry import publish_tariff


class TariffRequests:
    """Carries out the requests that change what energy costs."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    @property
    def methods(self) -> Mapping[type, Method]:
        """What this carries out, by the type of the body."""
        return {
            wishes.PublishTariff: self.publish_tariff,
            wishes.DecideTariff: self.decide,
        }

    async def publish_tariff(self, body: wishes.PublishTariff, request: Request) -> None:
        """Publish the next version of a tariff, or keep it as a draft where its price rises much.

        Refuses TARIFF_INVALID and the codes of its problems, TARIFF_ORDER, TARIFF_MIXED,
        TARIFF_RETROACTIVE, SOURCE_UNPRICED.
        """
        desk = self._desk
        document = json_object(body.document, "TARIFF_INVALID")
        tariff = self._next(document)
        # Shown to whoever decides; nothing is decided by it.
        replay = json_object(body.replay, "REQUEST_FIELD") if body.replay else {}
        facts = {"replay": replay} if replay else {}
        rise = self._rise(tariff)
        if rise is None or not rise.is_big:
            await self._publish(tariff, document, request, facts)
            return
        text = rise.text
        label = desk.books.label()

        def effect(connection: Connection) -> dict[str, object]:
            number = put_draft(
                connection,
                tariff_id=tariff.tariff_id,
                content=document,
                rise=text,
                follows=tariff.version - 1,
                utc_ms=label,
                actor=request.actor,
                replay=replay,
            )
            return {**draft_result(tariff.tariff_id, number, text), **facts}

        await desk.commit(request, effect)

    async def decide(self, body: wishes.DecideTariff, request: Request) -> None:
        """The second person's word on a draft.

        What rises is judged again, against the newest version of this moment. Refuses
        DRAFT_UNKNOWN, SAME_PERSON, REASON_MISSING, RISE_GREW, and what publishing refuses.
        """
        desk = self._desk
        drafts = await desk.books.commit(open_drafts)
        draft = next((one for one in drafts if one.number == body.draft), None)
        if draft is None:
            raise RefusedError(
                "DRAFT_UNKNOWN", f"no draft {body.draft} waits for a decision", "draft"
            )
        if body.accept and draft.actor == request.actor:
            raise RefusedError(
                "SAME_PERSON",
                f"draft {body.draft} is your own ({draft.actor}): another manager has to approve "
                "it; you may refuse it",
            )
        if not body.reason:
            raise RefusedError("REASON_MISSING", "say why", "reason")
        label = desk.books.label()

        def decided(connection: Connection) -> None:
            decide_draft(
                connection,
                body.draft,
                accepted=body.accept,
                reason=body.reason,
                utc_ms=label,
                actor=request.actor,
            )

        if body.accept:
            tariff = self._next(draft.document)
            facts = {"draft": body.draft, "rise": self._rise_now(draft, tariff)}
            await self._publish(tariff, draft.document, request, facts, decided)
            return

        def effect(connection: Connection) -> dict[str, object]:
            decided(connection)
            return {"tariff_id": draft.tariff_id, "draft": body.draft, "accepted": False}

        await desk.commit(request, effect)

    # -- inside ----------------------------------------------------------------------------

    def _next(self, document: Mapping[str, object]) -> Tariff:
        """The version that a document would be, once it fits everything that is in force."""
        desk = self._desk
        draft = tariff_from_document(document, desk.currency)
        number = len(desk.shelf.known(draft.tariff_id)) + 1
        tariff = tariff_from_document(document, desk.currency, version=number)
        # Whatever could fail for an account under this tariff has to fail now, not after COMMIT.
        sources = {desk.engine.points[index].terms.sources for index in self._users(tariff)}
        desk.shelf.check_next(tariff, label_utc_ms=desk.books.label(), users_sources=sources)
        return tariff

    def _rise(self, tariff: Tariff) -> Rise | None:
        """What rises most against the newest version."""
        versions = self._desk.shelf.known(tariff.tariff_id)
        return biggest_rise(versions[-1], tariff) if versions else None

    def _rise_now(self, draft: TariffDraft, tariff: Tariff) -> str:
        """What rises most under a draft now; empty for nothing.

        Refuses RISE_GREW: two persons agree on what both have seen.
        """
        now = self._rise(tariff)
        if now is None:
            return ""
        versions = self._desk.shelf.known(tariff.tariff_id)
        if now.is_big and 0 < draft.follows < len(versions):
            then = biggest_rise(versions[draft.follows - 1], tariff)
            if then is not None and is_bigger(now, then):
                raise RefusedError(
                    "RISE_GREW",
                    f"version {len(versions)} was published since draft {draft.number} was made. "
                    f"Then {then.text}, now {now.text}: refuse the draft, and publish the "
                    "document again",
                    "draft",
                )
        return now.text

    async def _publish(
        self,
        tariff: Tariff,
        document: Mapping[str, object],
        request: Request,
        facts: Mapping[str, object],
        also: Callable[[Connection], None] = lambda _: None,
    ) -> None:
        desk = self._desk
        version = desk.shelf.version_of(tariff, document, desk.books.label(), request.actor)

        def effect(connection: Connection) -> dict[str, object]:
            also(connection)
            publish_tariff(connection, version)
            return {"tariff_id": tariff.tariff_id, "version": tariff.version, **facts}

        await desk.commit(request, effect)
        desk.shelf.add(tariff)
        for index in self._users(tariff):
            pricer = desk.engine.points[index].pricer
            if pricer is not None:
                pricer.add_version(tariff)
            desk.engine.set_flat(index, flat=desk.shelf.is_flat(tariff.tariff_id))

    def _users(self, tariff: Tariff) -> list[int]:
        return [
            index
            for index, point in enumerate(self._desk.engine.points)
            if point.pricer is not None and point.tariff_id == tariff.tariff_id
        ]
