"""Group commit: one thread runs what is queued in one transaction, so that FULL is affordable.

An operation is a function of the connection. Its future resolves after COMMIT reached the disk and
never before; an operation that fails is rolled back alone. An error of the disk itself is final:
whether the data is on it is unknown, so the process must end and start again from the file.
"""

import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

from gateway.core.errors import StoreBusyError, StoreError
from gateway.store.db import StoreFile, primary_code, translated

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]

CAPACITY: Final = 1024
BATCH_MAX: Final = 256
# Busy rounds (each as long as the file's busy timeout, 1 s) until a blocked file is given up.
BLOCKED_ROUNDS_MAX: Final = 30
# How often room may be made for one transaction on a full disk.
FULL_ROUNDS_MAX: Final = 4
_FATAL_CODES: Final = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
    }
)


class StoreWriter(Protocol):
    """Where operations on a file go. Threaded in the program, inline in a simulation."""

    def submit(self, operation: Operation[T]) -> Future[T]:
        """Queue an operation; the future has its result once that is durable."""
        ...

    def close(self, deadline_s: float) -> None:
        """Finish what is queued and take no more."""
        ...


class GroupCommitWriter:
    """Runs operations on one thread of its own, as many as are waiting per transaction.

    `on_fatal` is called once, on the writer's thread, when the file can no longer be written.
    `on_blocked` is called with the number of whole busy time-outs that a transaction has waited
    because another process holds the file. `on_full` is called when the disk is full, and says
    whether it made room: then the transaction is tried again, operations and all. Both are called
    on the writer's thread. Use `asyncio.wrap_future` to await a result.
    """

    def __init__(
        self,
        file: StoreFile,
        *,
        on_fatal: Callable[[StoreError], None] | None = None,
        on_blocked: Callable[[int], None] | None = None,
        on_full: Callable[[], bool] | None = None,
        capacity: int = CAPACITY,
        batch_max: int = BATCH_MAX,
    ) -> None:
        self._file = file
        self._on_fatal = on_fatal
        self._on_blocked = on_blocked
        self._on_full = on_full
        self._capacity = capacity
        self._batch_max = batch_max
        self._queue: deque[_Work] = deque()
        self._woken = threading.Condition()
        self._closing = False
        self._failure: StoreError | None = None
        self.committed_batches = 0
        self.committed_operations = 0
        self.refused_full = 0
        self.blocked_rounds = 0
        self.full_rounds = 0
        self._thread = threading.Thread(
            target=self._run, name=f"writer-{file.path.stem}", daemon=True
        )
        self._thread.start()

    @property
    def failure(self) -> StoreError | None:
        """Why the file can no longer be written; None while it can."""
        return self._failure

    @property
    def queued(self) -> int:
        """Operations that wait for their transaction."""
        return len(self._queue)

    def submit(self, operation: Operation[T]) -> Future[T]:
        """Queue an operation.

        The future raises what the operation raised (errors of SQLite as StoreError). Raises
        StoreBusyError when `capacity` operations wait, StoreError when closed or failed.
        """
        future: Future[T] = Future()
        with self._woken:
            if self._failure is not None:
                raise type(self._failure)(str(self._failure))
            if self._closing:
                raise StoreError(f"{self._file.path}: the writer is closed")
            if len(self._queue) >= self._capacity:
                self.refused_full += 1
                raise StoreBusyError(f"{self._file.path}: {self._capacity} operations wait already")
            self._queue.append(_Job(operation, future))
            self._woken.notify()
        return future

    def close(self, deadline_s: float) -> None:
        """Commit what is queued, end the thread, take no more. Harmless when repeated.

        Raises StoreError when that takes longer than `deadline_s`.
        """
        with self._woken:
            self._closing = True
            self._woken.notify()
        self._thread.join(deadline_s)
        if self._thread.is_alive():
            raise StoreError(f"{self._file.path}: the writer did not finish in {deadline_s} s")

    def _run(self) -> None:
        jobs: list[_Work] = []
        failure: StoreError | None = StoreError(f"{self._file.path}: the writer's thread ended")
        try:
            while jobs := self._next_batch():
                self._commit(jobs)
            failure = None
        except sqlite3.Error as error:
            failure = translated(error, self._file.path)
        except StoreError as error:
            failure = error
        finally:
            # Also for an error that nobody foresaw: nobody may wait for ever for a dead thread.
            if failure is not None:
                self._fail(jobs, failure)

    def _next_batch(self) -> "list[_Work]":
        with self._woken:
            while not self._queue and not self._closing:
                self._woken.wait()
            count = min(len(self._queue), self._batch_max)
            return [self._queue.popleft() for _ in range(count)]

    def _commit(self, jobs: "list[_Work]") -> None:
        for full_round in range(FULL_ROUNDS_MAX + 1):
            try:
                self._transact(jobs)
                break
            except sqlite3.Error as error:
                if primary_code(error) != sqlite3.SQLITE_FULL or full_round == FULL_ROUNDS_MAX:
                    raise
                # Nothing of it is in the file: a frame that did not fit is not a commit.
                with suppress(sqlite3.Error):
                    self._file.connection.execute("ROLLBACK")
                if self._on_full is None or not self._on_full():
                    raise
                self.full_rounds += 1
                for job in jobs:
                    job.forget()
        self.committed_batches += 1
        self.committed_operations += len(jobs)
        for job in jobs:
            job.resolve(self._file)

    def _transact(self, jobs: "list[_Work]") -> None:
        self._begin()
        for job in jobs:
            job.run(self._file.connection)
        self._file.connection.execute("COMMIT")

    def _begin(self) -> None:
        for blocked_round in range(1, BLOCKED_ROUNDS_MAX + 1):
            try:
                self._file.connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if primary_code(error) != sqlite3.SQLITE_BUSY:
                    raise
                self.blocked_rounds += 1
                if self._on_blocked is not None:
                    self._on_blocked(blocked_round)
            else:
                return
        raise StoreError(f"{self._file.path}: another process holds the file for too long")

    def _fail(self, jobs: "list[_Work]", failure: StoreError) -> None:
        with suppress(sqlite3.Error):
            self._file.connection.execute("ROLLBACK")
        with self._woken:
            self._failure = failure
            jobs = [*jobs, *self._queue]
            self._queue.clear()
        # First the alarm: the process must end even if somebody waits for nothing.
        if self._on_fatal is not None:
            self._on_fatal(failure)
        for job in jobs:
            job.refuse(failure)


class InlineWriter:
    """The same interface without a thread: each operation is its own transaction, at once.

    For simulation (no threads under a virtual clock) and for tools that write once.
    """

    def __init__(self, file: StoreFile) -> None:
        self._file = file
        self._closed = False

    def submit(self, operation: Operation[T]) -> Future[T]:
        """Run an operation now; the future returned is done.

        Raises StoreError when closed, or when the file itself cannot be written.
        """
        if self._closed:
            raise StoreError(f"{self._file.path}: the writer is closed")
        future: Future[T] = Future()
        job = _Job(operation, future)
        try:
            self._file.connection.execute("BEGIN IMMEDIATE")
            job.run(self._file.connection)
            self._file.connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._closed = True
            with suppress(sqlite3.Error):
                self._file.connection.execute("ROLLBACK")
            raise translated(error, self._file.path) from error
        job.resolve(self._file)
        return future

    def close(self, deadline_s: float) -> None:  # noqa: ARG002 - nothing is ever queued here
        """Take no more."""
        self._closed = True


class _Work(Protocol):
    """An operation without the type of its result."""

    def run(self, connection: sqlite3.Connection) -> None: ...
    def forget(self) -> None: ...
    def resolve(self, file: StoreFile) -> None: ...
    def refuse(self, failure: StoreError) -> None: ...


class _Job(Generic[T]):
    """One operation and who waits for it; the outcome is kept until the commit."""

    def __init__(self, operation: Operation[T], future: Future[T]) -> None:
        self._resolve: Callable[[], None] = lambda: None
        self._operation = operation
        self._future = future
        self._error: Exception | None = None
        self._started = False
        self._given_up = False

    def run(self, connection: sqlite3.Connection) -> None:
        """Run inside the open transaction; an error undoes this operation only.

        Raises sqlite3.Error when the file itself failed, StoreError when the operation ended the
        transaction that it shares.
        """
        if not self._is_wanted():
            return
        connection.execute("SAVEPOINT operation")
        try:
            result = self._operation(connection)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and primary_code(error) in _FATAL_CODES:
                raise
            connection.execute("ROLLBACK TO operation")
            self._error = error
        else:
            # Nothing here may hold the job itself: whole sweeps hang on it, and would wait for the
            # cycle collector.
            self._resolve = partial(self._future.set_result, result)
        if not connection.in_transaction:
            raise StoreError("an operation must not end the transaction that it shares")
        connection.execute("RELEASE operation")

    def forget(self) -> None:
        """The transaction was undone: the operation runs again in the next one."""
        self._error = None
        self._resolve = lambda: None

    def resolve(self, file: StoreFile) -> None:
        """Tell who waits; only after COMMIT."""
        if self._error is None:
            self._resolve()
        elif isinstance(self._error, sqlite3.Error):
            translation = translated(self._error, file.path)
            translation.__cause__ = self._error
            self._future.set_exception(translation)
        else:
            self._future.set_exception(self._error)

    def refuse(self, failure: StoreError) -> None:
        """Tell who waits that it is unknown whether the operation is on the disk."""
        if self._is_wanted():
            # One of its own for each: a shared exception would gather everybody's traceback.
            self._future.set_exception(type(failure)(str(failure)))

    def _is_wanted(self) -> bool:
        """Whether somebody still waited when the operation began; a future is asked that once."""
        if not self._started:
            self._started = True
            self._given_up = not self._future.set_running_or_notify_cancel()
        return not self._given_up
