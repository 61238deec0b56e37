"""Tariffs of the small site: published as they come."""

import json
from collections.abc import Mapping

from gateway.core.errors import RefusedError
from gateway.core.requests import PublishTariff, Request
from gateway.store.db import Connection
from gateway.store.registry import TariffVersion, publish_tariff, read_tariff


def publish(
    connection: Connection, request: Request, body: PublishTariff, now: int
) -> dict[str, object]:
    """Store the next version; of the document only the id is looked at."""
    document: Mapping[str, object] = json.loads(body.document)
    tariff_id = document.get("id")
    if not isinstance(tariff_id, str) or not tariff_id:
        raise RefusedError("TARIFF_INVALID", "a tariff has an id", "id")
    version = len(read_tariff(connection, tariff_id)) + 1
    tariff = TariffVersion(tariff_id, version, now, document, now, request.actor)
    publish_tariff(connection, tariff)
    return {"tariff_id": tariff_id, "version": version}
