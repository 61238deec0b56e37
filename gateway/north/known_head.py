"""North remembers how far the ledger had come, so that an older one cannot return unnoticed."""

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from gateway.core.errors import StoreError
from gateway.core.recovery import KnownHead, Recovery, is_lost
from gateway.north.context import NorthContext
from gateway.store.db import Connection
from gateway.store.ledger import ledger_head
from gateway.store.recovery import hash_at, last_recovery, load_known_head, save_known_head

# How much of the ledger's end may be forgotten when nobody asks for anything.
REMEMBER_EVERY_S: Final = 10.0
# After an outcome it is sooner, and still at most one write a second.
REMEMBER_SOON_S: Final = 1.0

log = structlog.get_logger("gateway.north")


class HeadMemory:
    """Keeps the newest head in `north.db`; what the ledger does not contain is left as evidence."""

    def __init__(self, context: NorthContext) -> None:
        self._context = context
        self._told = False

    async def run(self) -> None:
        """Remember until cancelled."""
        while True:
            with suppress(StoreError):
                # A store that is away now is back later; control compares at its next start.
                await self.remember()
            await asyncio.sleep(REMEMBER_SOON_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(REMEMBER_EVERY_S - REMEMBER_SOON_S):
                    await self._context.answered.wait()
            self._context.answered.clear()

    async def remember(self) -> None:
        """Look at the ledger's head and write it down where it moved on. Raises StoreError."""
        context = self._context
        known = await context.north.read(load_known_head)

        def look(connection: Connection) -> tuple[KnownHead, bytes | None, Recovery | None]:
            head = ledger_head(connection)
            there = hash_at(connection, known.seq) if known is not None else None
            return KnownHead(head.seq, head.hash), there, last_recovery(connection)

        head, there, last = await context.ledger.read(look)
        if is_lost(known, there, last):
            if not self._told:
                log.error("ledger.older", known_seq=known.seq if known else 0, seq=head.seq)
            self._told = True
            return
        self._told = False
        if head.seq > 0 and head != known:
            utc_ms = context.clock.utc_ms()
            await context.write(lambda connection: save_known_head(connection, head, utc_ms=utc_ms))
