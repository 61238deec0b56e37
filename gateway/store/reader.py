"""The read side of another process's file: one kept connection, short looks, errors as `away`."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from gateway.core.errors import StoreAwayError
from gateway.store.db import READER_BUSY_MS, READER_STEPS, StoreSchema, open_reader

T = TypeVar("T")

_STEPS_AT_ONCE: Final = 100_000


class StoreReader:
    """Reads a file that another process writes; opens when needed, and again after a failure.

    Every look is one snapshot that ends with the look. `steps_max` bounds what one look may do
    (50 million steps of SQLite's machine are about a second). Used by one thread at a time.
    """

    def __init__(
        self,
        path: Path,
        schema: StoreSchema,
        *,
        busy_timeout_ms: int = READER_BUSY_MS,
        steps_max: int = READER_STEPS,
        length_max: int | None = None,
    ) -> None:
        self._path = path
        self._schema = schema
        self._busy_timeout_ms = busy_timeout_ms
        self._rounds_max = max(1, steps_max // _STEPS_AT_ONCE)
        self._length_max = length_max
        self._rounds = 0
        self._connection: sqlite3.Connection | None = None
        self._file_id: tuple[int, int] = (0, 0)
        self._version = -1

    def read(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """What `operation` returns; it must fetch all that it needs.

        Raises StoreAwayError when the file cannot be read now, TypeError when the result is an
        iterator (which would keep the snapshot), and what `operation` raises.
        """
        try:
            connection = self._opened()
            self._rounds = 0
            connection.execute("BEGIN")
            try:
                result = operation(connection)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise StoreAwayError(f"{self._path} cannot be read now: {error}") from error
        if isinstance(result, Iterator):
            # ROLLBACK does not end a statement that was not fetched to its end; closing does.
            self.close()
            raise TypeError("a look must fetch all that it needs, not return an iterator")
        return result

    def changed(self) -> bool:
        """Whether anything was committed since the last call (or the file was opened anew).

        Raises StoreAwayError. Costs a few microseconds when nothing changed.
        """
        try:
            version = self._opened().execute("PRAGMA data_version").fetchone()[0]
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise StoreAwayError(f"{self._path} cannot be read now: {error}") from error
        if version == self._version:
            return False
        self._version = version
        return True

    def close(self) -> None:
        """Let go of the file. The next look opens it again."""
        self._version = -1
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        try:
            status = self._path.stat()
        except OSError as error:
            self.close()
            raise StoreAwayError(f"{self._path} cannot be read now: {error.strerror}") from error
        # A restore puts another file in its place; the old one would be read for ever.
        if self._connection is not None and self._file_id == (status.st_dev, status.st_ino):
            return self._connection
        self.close()
        connection = open_reader(self._path, self._schema, busy_timeout_ms=self._busy_timeout_ms)
        if self._length_max is not None:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, self._length_max)
        connection.set_progress_handler(self._stop_when_long, _STEPS_AT_ONCE)
        self._connection = connection
        self._file_id = (status.st_dev, status.st_ino)
        return connection

    def _stop_when_long(self) -> int:
        self._rounds += 1
        return int(self._rounds > self._rounds_max)
