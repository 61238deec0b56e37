"""Requests come in: looked for every few milliseconds, started once, told apart by key."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from gateway.app.control.books import Books
from gateway.app.control.denials import DenialRecords
from gateway.app.control.engine import Engine
from gateway.app.control.executor import Executor
from gateway.core.clock import Clock
from gateway.core.errors import RefusedError, StoreAwayError
from gateway.store.commands import RequestCursor, find_outcomes, save_request_cursor
from gateway.store.reader import StoreReader
from gateway.store.requests import DamagedRequest, RequestReader, StoredRequest

log = structlog.get_logger()

LOOK_EVERY_S: Final = 0.025
IN_FLIGHT_MAX: Final = 64
# A file that cannot be read costs its whole busy time-out: not at every reading of a due point.
AWAY_PAUSE_NS: Final = 100_000_000
BEHIND_MAX_NS: Final = 10_000_000_000


class Inlet:
    """Starts every request of `north.db` that has no outcome yet, at most 64 at once.

    `ledger` is a read-only view of what control itself has committed; `cursor` is where an earlier
    run had finished everything.
    """

    def __init__(
        self,
        requests: RequestReader,
        ledger: StoreReader,
        *,
        executor: Executor,
        engine: Engine,
        books: Books,
        clock: Clock,
        cursor: RequestCursor | None,
    ) -> None:
        self._requests = requests
        self._ledger = ledger
        self._executor = executor
        self._engine = engine
        self._books = books
        self._clock = clock
        self._denials = DenialRecords(requests, books, clock)
        self._cursor = cursor
        self._kept = cursor
        self._in_flight: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._more = True
        self._away = False
        self._away_ns: int | None = None
        self._behind_ns: int | None = None
        self.failure: BaseException | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop`, then wait for what is in flight."""
        while not stop.is_set():
            self.look()
            self._denials.look()
            await asyncio.sleep(self._clock.loop_delay_s(LOOK_EVERY_S))
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=5.0)

    @property
    def is_idle(self) -> bool:
        """Whether no request is being executed."""
        return not self._tasks

    def look(self) -> bool:
        """Start what came since the last look; costs microseconds when nothing did.

        False while requests are known to wait that could not be started yet: a recharge may be
        among them. After 10 s of that, or while north's file cannot be read, True.
        """
        now_ns = self._clock.mono_ns()
        if self._away_ns is None or now_ns - self._away_ns >= AWAY_PAUSE_NS:
            self._look(now_ns)
        if self._away or not self._more:
            self._behind_ns = None
            return True
        self._behind_ns = now_ns if self._behind_ns is None else self._behind_ns
        return now_ns - self._behind_ns > BEHIND_MAX_NS

    def _look(self, now_ns: int) -> None:
        try:
            if not (self._requests.changed() or self._more):
                return
            room = IN_FLIGHT_MAX - len(self._in_flight)
            if room <= 0:
                self._more = True
                return
            batch = self._requests.pending(self._cursor, room)
            keys = [key for row in batch.rows if (key := _key(row)) is not None]
            done = self._ledger.read(lambda connection: find_outcomes(connection, keys))
        except StoreAwayError as error:
            self._more = True
            self._away_ns = now_ns
            if not self._away:
                self._away = True
                log.warning("north.away", reason=str(error))
            return
        self._away_ns = None
        if self._away:
            self._away = False
            log.info("north.back")
        self._cursor, self._more = batch.cursor, batch.more
        for row in batch.rows:
            key = _key(row)
            if key is None:
                log.warning("request.damaged", id=row.request_id)
            elif key not in done and key not in self._in_flight:
                self._start(key, row)

    def keep_cursor(self) -> None:
        """Remember how far everything is finished, so that a start need not look further back."""
        cursor = self._cursor
        if self.failure is not None:
            # Whatever failed must be looked at again after the start.
            return
        if cursor is not None and self._in_flight:
            first = min(cursor.request_id, min(self._in_flight.values()) - 1)
            cursor = RequestCursor(cursor.epoch, first)
        if cursor is None or cursor == self._kept:
            return
        finished = cursor
        self._kept = cursor
        self._books.commit(lambda connection: save_request_cursor(connection, finished))

    def _start(self, key: str, row: StoredRequest | DamagedRequest) -> None:
        self._in_flight[key] = row.request_id
        lifted: Sequence[int] = ()
        if isinstance(row, DamagedRequest):
            refused = RefusedError(row.code, row.message, row.place)
            work = self._executor.refuse(key, row.type, refused)
        else:
            work = self._executor.execute(row.request)
            lifted = self._executor.lifts(row.request)
        for index in lifted:
            self._engine.busy[index] += 1
        task = asyncio.create_task(work, name=f"request {key}")
        self._tasks.add(task)
        task.add_done_callback(self._ended(key, lifted))

    def _ended(self, key: str, lifted: Sequence[int]) -> Callable[[asyncio.Task[None]], None]:
        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                return
            if task.exception() is not None:
                self.failure = self.failure or task.exception()
                return
            self._in_flight.pop(key, None)
            for index in lifted:
                self._engine.busy[index] -= 1
                self._engine.decide(index)

        return ended


def _key(row: StoredRequest | DamagedRequest) -> str | None:
    return row.key if isinstance(row, DamagedRequest) else row.request.key
