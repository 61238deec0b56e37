"""The watchman in control: made, kept, and asked by requests (acknowledged changes, exchange)."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import structlog

from gateway.app.config import Config
from gateway.app.control.books import Books
from gateway.app.control.department import Method
from gateway.app.control.desk import Desk
from gateway.app.control.display import Display
from gateway.app.control.supply_requests import SupplyRequests
from gateway.app.control.watchman import Watchman
from gateway.core import requests as wishes
from gateway.core.errors import MeterError, RefusedError
from gateway.core.requests import Body, Request
from gateway.store.db import Connection
from gateway.store.watch import WatchKind, put_watch_states, read_watch_states
from gateway.store.writer import StoreWriter

log = structlog.get_logger()

# The meter's own latched bit is cleared so that the next reset shows; nobody waits long for it.
CLEAR_DEADLINE_S: Final = 3.0


def watchman_of(config: Config, display: Display, writer: StoreWriter, books: Books) -> Watchman:
    """Who looks at readings beside the engine, as the file left it; its states go to `books`."""
    states = writer.submit(lambda c: read_watch_states(c, *WatchKind)).result()
    watchman = Watchman(config, states, tell=display.event)

    def keep() -> None:
        if watchman.is_dirty:
            changed = watchman.take_states(books.label())
            books.commit(lambda connection: put_watch_states(connection, changed))

    watchman.keep = keep
    display.watcher = watchman
    return watchman


class WatchRequests:
    """Carries out what concerns the watchman. `supply` does the rest of an exchange."""

    def __init__(self, desk: Desk, watchman: Watchman, supply: SupplyRequests) -> None:
        self._desk = desk
        self._watchman = watchman
        self._supply = supply

    def check(self, body: Body) -> None:
        """Refuse what a check meter is not for. Raises RefusedError CHECK_METER, POINT_UNKNOWN."""
        if not isinstance(body, wishes.OpenAccount | wishes.AddPoint | wishes.CommissionPoint):
            return
        if self._watchman.is_check(self._desk.point(body.service_point_id)):
            raise RefusedError(
                "CHECK_METER",
                f"the meter at {body.service_point_id} checks its feeder: it charges nobody and is "
                "never switched",
                "service_point_id",
            )

    @property
    def methods(self) -> Mapping[type, Method]:
        """What this carries out, by the type of the body."""
        return {
            wishes.AcknowledgeChanges: self.acknowledge,
            wishes.ReplaceMeter: self.replace_meter,
        }

    async def acknowledge(self, body: wishes.AcknowledgeChanges, request: Request) -> None:
        """Answer for changes at a meter.

        Refuses METER_UNKNOWN, REASON_MISSING, NOTHING_SUSPECTED, ANNOUNCED_RANGE.
        """
        desk, watchman = self._desk, self._watchman
        index = desk.meter(body.meter_id)
        if not body.reason:
            raise RefusedError("REASON_MISSING", "say what was done at the meter", "reason")
        utc_ms = desk.clock.utc_ms()
        stood = watchman.acknowledge(index, utc_ms, for_s=body.for_s)
        states = watchman.take_states(utc_ms)

        def effect(connection: Connection) -> dict[str, object]:
            put_watch_states(connection, states)
            return {"signs": [sign.value for sign in stood], "announced_s": body.for_s}

        await desk.commit(request, effect)
        watchman.tell_acknowledged(
            index, stood, by=request.actor, reason=body.reason, for_s=body.for_s
        )
        await self._clear_bit(index)

    async def replace_meter(self, body: wishes.ReplaceMeter, request: Request) -> None:
        """Exchange a device; its change counters begin anew. Refuses as the exchange does."""
        await self._supply.replace_meter(body, request)
        self._watchman.replaced(self._desk.meter(body.meter_id))

    async def _clear_bit(self, index: int) -> None:
        mask = self._watchman.reset_mask(index)
        if not mask:
            return
        client = self._desk.engine.polls.client(index)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLEAR_DEADLINE_S):
                try:
                    await client.acknowledge_diagnostics(mask)
                except MeterError as error:
                    # Write protection, say: the bit stays, and the guard still sees a reset.
                    log.warning(
                        "reset.unacknowledged", meter=client.endpoint.meter_id, reason=str(error)
                    )
