"""Requests about tariffs: published as immutable versions."""

from collections.abc import Mapping

from gateway.app.control.department import Method
from gateway.app.control.desk import Desk, json_object
from gateway.core import requests as wishes
from gateway.core.requests import Request
from gateway.core.tariff import Tariff
from gateway.core.tariff_document import tariff_from_document
from gateway.store.db import Connection
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
        }

    async def publish_tariff(self, body: wishes.PublishTariff, request: Request) -> None:
        """Publish the next version of a tariff.

        Refuses TARIFF_INVALID and the codes of its problems, TARIFF_ORDER, TARIFF_MIXED,
        TARIFF_RETROACTIVE, SOURCE_UNPRICED.
        """
        desk = self._desk
        document = json_object(body.document, "TARIFF_INVALID")
        draft = tariff_from_document(document, desk.currency)
        number = len(desk.shelf.known(draft.tariff_id)) + 1
        tariff = tariff_from_document(document, desk.currency, version=number)
        # Whatever could fail for an account under this tariff has to fail now, not after COMMIT.
        sources = {desk.engine.points[index].terms.sources for index in self._users(tariff)}
        desk.shelf.check_next(tariff, label_utc_ms=desk.books.label(), users_sources=sources)
        version = desk.shelf.version_of(tariff, document, desk.books.label(), request.actor)

        def effect(connection: Connection) -> dict[str, object]:
            publish_tariff(connection, version)
            return {"tariff_id": tariff.tariff_id, "version": tariff.version}

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
