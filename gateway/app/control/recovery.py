"""Control's side of RECOVERY: found at the start, entered when north knows more, released.

An output that is open at its first reading, with no reason on file, is not closed as after a
meter's restart: the word of whoever opened it, perhaps to work there, may be what is lost.
"""

from collections.abc import Mapping
from typing import Protocol

import structlog

from gateway.app.control.department import Method
from gateway.app.control.desk import Desk
from gateway.core import requests as wishes
from gateway.core.errors import RefusedError, StoreAwayError
from gateway.core.recovery import KnownHead, Recovery, RecoveryReason, is_lost
from gateway.core.requests import Request
from gateway.store.db import Connection
from gateway.store.reader import StoreReader
from gateway.store.recovery import (
    enter_recovery,
    hash_at,
    last_recovery,
    recovery_now,
    release_recovery,
    standing_recovery,
)

log = structlog.get_logger()


class KnownHeads(Protocol):
    """Who remembers the ledger's head outside the ledger (`north.db`)."""

    def known_head(self) -> KnownHead | None:
        """The newest head seen; None for none. Raises StoreAwayError."""
        ...


class EventLog(Protocol):
    """Where events go."""

    def event(self, kind: str, subject: str, severity: str, **facts: object) -> None:
        """Keep an event."""
        ...


class RecoveryWatch:
    """Keeps `engine.gate.recovery` as the ledger has it.

    `look` compares once what north remembers with the ledger; while either file cannot be read,
    every further call tries again.
    """

    def __init__(
        self, desk: Desk, events: EventLog, ledger: StoreReader, others: KnownHeads
    ) -> None:
        self._desk = desk
        self._events = events
        self._ledger = ledger
        self._others = others
        self._compared = False

    def begin(self) -> None:
        """What stands on file, then a first look. Raises StoreAwayError for the own ledger."""
        standing = self._ledger.read(standing_recovery)
        if standing is not None:
            self._tell(standing)
        self.look()

    def look(self) -> None:
        """Enter RECOVERY when north remembers a head that this ledger does not contain."""
        if self._compared:
            return
        utc_ms = self._desk.books.label()
        try:
            known = self._others.known_head()

            def compare(connection: Connection) -> Recovery | None:
                there = None if known is None else hash_at(connection, known.seq)
                if known is None or not is_lost(known, there, last_recovery(connection)):
                    return None
                return recovery_now(connection, RecoveryReason.OLDER, utc_ms=utc_ms, known=known)

            entered = self._ledger.read(compare)
        except StoreAwayError:
            return
        self._compared = True
        if entered is not None:
            # In force at once; a commit that fails ends the process.
            self._tell(entered)
            self._desk.books.commit(lambda connection: enter_recovery(connection, entered))

    @property
    def methods(self) -> Mapping[type, Method]:
        """What this carries out, by the type of the body."""
        return {
            wishes.ReleaseRecovery: self.release,
        }

    async def release(self, body: wishes.ReleaseRecovery, request: Request) -> None:
        """A manager has reconciled: cuts for credit go on. Refuses NO_RECOVERY, REASON_MISSING."""
        desk = self._desk
        if not body.reason:
            raise RefusedError("REASON_MISSING", "say what was compared and put right", "reason")
        utc_ms = desk.books.label()

        def release(connection: Connection) -> dict[str, object]:
            released = release_recovery(
                connection,
                actor=request.actor,
                reason=body.reason,
                request_key=request.key,
                utc_ms=utc_ms,
            )
            return {"recovery": released.number, "since_utc_ms": released.since_utc_ms}

        await desk.commit(request, release)
        desk.engine.gate.recovery = None
        log.info("recovery.released", by=request.actor, reason=body.reason)
        self._events.event(
            "RECOVERY_RELEASED", "site", "cleared", by=request.actor, reason=body.reason
        )
        desk.engine.decide_all()

    def _tell(self, standing: Recovery) -> None:
        self._desk.engine.gate.recovery = standing
        for point in self._desk.engine.points:
            point.supply.unaccounted()
        log.error("recovery.stands", reason=standing.reason, since_utc_ms=standing.since_utc_ms)
        self._events.event(
            "RECOVERY_ENTERED",
            "site",
            "critical",
            reason=standing.reason.value,
            since_utc_ms=standing.since_utc_ms,
            ledger_seq=standing.head.seq,
            known_seq=standing.known.seq,
        )
