"""What north refused, on record: control alone writes the audit chain."""

from typing import Final

import structlog

from gateway.app.control.books import Books
from gateway.core.clock import Clock
from gateway.core.denials import NS_PER_S, Allowance
from gateway.core.errors import StoreAwayError
from gateway.store.denials import DenialCursor, denials_after, record_denials
from gateway.store.requests import RequestReader

LOOK_EVERY_NS: Final = NS_PER_S
# A file that cannot be read costs its busy time-out.
AWAY_PAUSE_NS: Final = 10 * NS_PER_S
AT_ONCE_MAX: Final = 50

log = structlog.get_logger()


class DenialRecords:
    """Takes denials out of `north.db`, a bounded number a minute whatever stands there."""

    def __init__(self, requests: RequestReader, books: Books, clock: Clock) -> None:
        self._requests = requests
        self._books = books
        self._clock = clock
        # North holds itself to six a minute; this is for a north that is not ours any more.
        self._allowance = Allowance(250, 6.0)
        # From the first row: the commit passes over what an earlier run recorded.
        self._cursor: DenialCursor | None = None
        self._next_ns = 0
        self._away = False

    def look(self) -> None:
        """Record what came since the last look; once a second, and bounded."""
        now_ns = self._clock.mono_ns()
        if now_ns < self._next_ns:
            return
        self._next_ns = now_ns + LOOK_EVERY_NS
        room = min(self._allowance.left(now_ns), AT_ONCE_MAX)
        try:
            batch = self._requests.read(lambda found: denials_after(found, self._cursor, room))
        except StoreAwayError as error:
            # The inlet tells of a file that is away; a table may be damaged by itself.
            self._next_ns = now_ns + AWAY_PAUSE_NS
            if not self._away:
                self._away = True
                log.warning("denials.away", reason=str(error))
            return
        self._away = False
        if not batch.rows:
            return
        self._allowance.take(now_ns, len(batch.rows))
        damaged = [row.denial_id for row in batch.rows if row.denial is None]
        if damaged:
            log.warning("denial.damaged", ids=damaged)
        self._cursor = DenialCursor(batch.epoch, batch.rows[-1].denial_id)
        utc_ms = self._books.label()
        self._books.commit(lambda connection: record_denials(connection, batch, utc_ms=utc_ms))
