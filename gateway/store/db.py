"""Opening SQLite files: one writer per directory, numbered migrations, read-only readers.

The only decisions about SQLite itself live here: WAL with `synchronous=FULL`, a lock file per
directory, what counts as missing or corrupt, and how a file is left so that readers of another
user can still open it (design.md, Stores).
"""

import ctypes
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import quote

from gateway.core.errors import (
    StoreAwayError,
    StoreBusyError,
    StoreCorruptError,
    StoreError,
    StoreLockedError,
    StoreMissingError,
)

# What rooms that may not import sqlite3 call an open file of ours.
Connection = sqlite3.Connection

LOCK_NAME: Final = "writer.lock"
DIRECTORY_MODE: Final = 0o750
FILE_MODE: Final = 0o640
WRITER_BUSY_MS: Final = 1_000
READER_BUSY_MS: Final = 250
JOURNAL_LIMIT_BYTES: Final = 8 * 1024 * 1024
# What a connection may keep of its file. SQLite's own default, said here because builds differ and
# a process has several connections.
PAGE_CACHE_KIB: Final = 2_000
# Above this size only the tables that decide are checked at start: a start must not take the
# minutes that a whole check of five years of ledger takes; `ledger verify` does the rest.
WHOLE_CHECK_BYTES: Final = 256 * 1024 * 1024
# A reader that runs longer than this many steps of SQLite's machine (about a second) is stopped:
# a forgotten snapshot lets the WAL grow without end.
READER_STEPS: Final = 50_000_000
_STEPS_AT_ONCE: Final = 1_000_000
_RESTORE: Final = "bring back a backup with `prepaid-gateway restore`"


@dataclass(frozen=True, slots=True)
class StoreSchema:
    """A kind of file: its numbered SQL and how to recognise it.

    `folder` holds `0001_*.sql`, `0002_*.sql`, … without holes. `small_tables` are those checked at
    every start, however large the file is.
    """

    name: str
    application_id: int
    folder: Path
    small_tables: tuple[str, ...] = ()

    def migrations(self) -> list[str]:
        """The SQL texts in order.

        Raises StoreError when a number is missing or doubled.
        """
        return [file.read_text(encoding="utf-8") for file in self._files()]

    def newest(self) -> int:
        """The newest schema number known. Raises StoreError as `migrations`."""
        return len(self._files())

    def _files(self) -> tuple[Path, ...]:
        return _numbered_files(self.folder)


@lru_cache(maxsize=32)
def _numbered_files(folder: Path) -> tuple[Path, ...]:
    # Looked for once: readers ask at every opening.
    files = tuple(sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql")))
    numbers = [int(file.name[:4]) for file in files]
    if not files or numbers != list(range(1, len(files) + 1)):
        raise StoreError(f"{folder.name} has migrations {numbers}, expected 1, 2, 3 …")
    return files


class DirectoryOwner:
    """The right to write the files of one directory; held by at most one process."""

    def __init__(self, directory: Path, lock_fd: int) -> None:
        self.directory = directory
        self._lock_fd = lock_fd

    def owns(self, path: Path) -> bool:
        """Whether `path` lies in the owned directory (at any depth)."""
        return self._lock_fd >= 0 and path.resolve().is_relative_to(self.directory.resolve())

    def release(self) -> None:
        """Let another process become the writer. Harmless when repeated."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


@dataclass(frozen=True, slots=True)
class StoreFile:
    """An open file with its one writing connection (autocommit; used by one thread at a time)."""

    path: Path
    schema: StoreSchema
    connection: sqlite3.Connection

    def stop(self) -> None:
        """Empty the WAL and leave `-wal` and `-shm` in place for readers of another user.

        A clean close would delete both, and a reader that may not create them would be shut out;
        so the connection is kept from ever being closed (a few file descriptors until the process
        ends). Raises StoreError when the WAL cannot be written back.
        """
        _never_close(self.connection)
        try:
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise translated(error, self.path) from error


def _never_close(connection: sqlite3.Connection) -> None:
    # SQLite closes with the last reference, also while the interpreter ends: hold one more.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def own_directory(directory: Path, *, create: bool) -> DirectoryOwner:
    """Become the one writer of `directory`; made with mode 0750 when `create`.

    Raises StoreMissingError (no such directory), StoreLockedError (naming the holder's process
    id) or StoreError (not permitted).
    """
    try:
        if create:
            make_directory(directory)
        lock_path = directory / LOCK_NAME
        lock_fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    except FileNotFoundError as error:
        raise _missing(directory) from error
    except OSError as error:
        raise StoreError(f"{directory}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock_fd, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock_fd)
        raise StoreLockedError(
            f"{directory} is written by process {holder}; stop that one first"
        ) from error
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, f"{os.getpid()}\n".encode(), 0)
    return DirectoryOwner(directory, lock_fd)


def open_writer(
    path: Path,
    schema: StoreSchema,
    *,
    owner: DirectoryOwner,
    create: bool,
    busy_timeout_ms: int = WRITER_BUSY_MS,
) -> StoreFile:
    """Open the one writing connection of a file and bring it to the newest schema.

    `create` makes a missing file; without it an absent or never finished one is refused, so that
    an installation never starts empty by accident. Raises StoreMissingError, StoreCorruptError
    (damaged, or not such a file), StoreError (written by a newer version, not permitted).
    """
    if not owner.owns(path):
        raise StoreError(f"{path} lies outside the locked directory {owner.directory}")
    if not path.exists():
        if not create:
            raise _missing(path)
        _make_empty(path)
    _sync_left(path)
    try:
        connection = _connect(path, "rw", busy_timeout_ms)
        try:
            _check(connection, path, schema, create=create)
            _configure(connection)
            _migrate(connection, path, schema)
        except BaseException:
            # A close would write the WAL into a file that was refused, and delete it.
            _never_close(connection)
            raise
    except sqlite3.Error as error:
        raise translated(error, path) from error
    return StoreFile(path, schema, connection)


def open_reader(
    path: Path, schema: StoreSchema, *, busy_timeout_ms: int = READER_BUSY_MS
) -> sqlite3.Connection:
    """A read-only connection (autocommit) to a file that another process may be writing.

    Accepts the newest schema N known here and N+1, since the writer migrates first. Raises
    StoreAwayError: try again, and report the other process as away.
    """
    if not path.exists():
        raise StoreAwayError(f"{path} does not exist yet")
    try:
        connection = _connect(path, "ro", busy_timeout_ms)
        try:
            connection.execute("PRAGMA query_only=ON")
            application_id = _pragma(connection, "application_id")
            version = _pragma(connection, "user_version")
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise StoreAwayError(f"{path} cannot be read now: {error}") from error
    newest = schema.newest()
    if application_id != schema.application_id or version not in (newest, newest + 1):
        connection.close()
        raise StoreAwayError(
            f"{path}: expected a {schema.name} file of schema {newest} or {newest + 1}, "
            f"found schema {version}"
        )
    return connection


@contextmanager
def reading(
    path: Path, schema: StoreSchema, *, busy_timeout_ms: int = READER_BUSY_MS
) -> Iterator[sqlite3.Connection]:
    """One short look at a file: open, one snapshot for all statements, close.

    A look that takes much over a second is stopped. Raises StoreAwayError for whatever SQLite
    reports.
    """
    connection = open_reader(path, schema, busy_timeout_ms=busy_timeout_ms)
    rounds = iter(range(READER_STEPS // _STEPS_AT_ONCE))
    try:
        connection.set_progress_handler(lambda: int(next(rounds, None) is None), _STEPS_AT_ONCE)
        connection.execute("BEGIN")
        yield connection
    except sqlite3.Error as error:
        raise StoreAwayError(f"{path} cannot be read now: {error}") from error
    finally:
        connection.close()


def check_whole(connection: sqlite3.Connection, path: Path) -> None:
    """SQLite's own check of every page; minutes on a large file.

    Raises StoreCorruptError with the first problem.
    """
    try:
        _quick_check(connection, path, "PRAGMA quick_check(1)")
    except sqlite3.Error as error:
        raise translated(error, path) from error


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code of an error; -1 when the error came from the Python module."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else -1


def translated(error: sqlite3.Error, path: Path) -> StoreError:
    """The error of our tree for an error of SQLite on `path`."""
    code = primary_code(error)
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return StoreCorruptError(f"{path} is damaged ({error}); {_RESTORE}")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        # A reader or a backup that holds a lock for a moment is no second instance: trying again
        # helps, and no person is needed.
        return StoreBusyError(f"{path} is locked by another process: {error}")
    return StoreError(f"{path}: {error}")


def _missing(path: Path) -> StoreMissingError:
    return StoreMissingError(
        f"{path} does not exist: make a new installation with `prepaid-gateway init`, or {_RESTORE}"
    )


def _make_empty(path: Path) -> None:
    """Create the file with its final mode; SQLite gives `-wal` and `-shm` the same."""
    try:
        make_directory(path.parent)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            os.fchmod(fd, FILE_MODE)
        finally:
            os.close(fd)
        sync_directory(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: cannot be created: {error.strerror}") from error


def make_directory(directory: Path) -> None:
    """Make a directory (and those above it) with mode 0750, so that its name survives a power cut.

    One that is there already may be the work of a process that was killed before it had synced
    the name: that is done now, where the directory above may be read. Raises OSError.
    """
    made = not directory.is_dir()
    if made:
        if not directory.parent.is_dir():
            make_directory(directory.parent)
        directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        directory.chmod(DIRECTORY_MODE)
    try:
        sync_directory(directory.parent)
    except PermissionError:
        if made:
            raise


def sync_directory(directory: Path) -> None:
    """Make names in a directory survive a power cut. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_left(path: Path) -> None:
    """Sync the WAL of a process that was killed, before anything in it is believed.

    SQLite takes a commit from there that may never have reached the disk: it would be shown, and
    then lost with the power. (The database file must not be opened here: closing it again would
    drop the locks of this process's other connections. Nothing in it is needed before a checkpoint
    has synced it.)
    """
    wal = path.with_name(f"{path.name}-wal")
    try:
        fd = os.open(wal, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{wal}: cannot be read: {error.strerror}") from error
    try:
        os.fsync(fd)
        sync_directory(path.parent)
    except OSError as error:
        raise StoreError(f"{wal}: cannot be synced: {error.strerror}") from error
    finally:
        os.close(fd)


def _connect(path: Path, mode: str, busy_timeout_ms: int) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=busy_timeout_ms / 1000,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    # A file written by another process may be hostile: no functions from its schema, no
    # out-of-range cells.
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    return connection


def _configure(connection: sqlite3.Connection) -> None:
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(f"the file system does not allow WAL (journal mode {mode})")
    connection.execute("PRAGMA synchronous=FULL")
    # Not at once after opening: it reads the file, which may be damaged.
    connection.execute(f"PRAGMA cache_size={-PAGE_CACHE_KIB}")
    connection.execute("PRAGMA foreign_keys=ON")
    # Without it, REPLACE deletes rows past the triggers that refuse DELETE.
    connection.execute("PRAGMA recursive_triggers=ON")
    connection.execute(f"PRAGMA journal_size_limit={JOURNAL_LIMIT_BYTES}")
    # Some builds overwrite what is deleted with zeros: staging would be written twice more.
    connection.execute("PRAGMA secure_delete=OFF")


def _check(
    connection: sqlite3.Connection, path: Path, schema: StoreSchema, *, create: bool
) -> None:
    version = _pragma(connection, "user_version")
    application_id = _pragma(connection, "application_id")
    if version == 0 and application_id == 0:
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if tables:
            raise StoreCorruptError(f"{path} is not a {schema.name} file of ours; {_RESTORE}")
        if not create:
            raise StoreMissingError(
                f"{path} is empty, its creation never finished: repeat `prepaid-gateway init`, "
                f"or {_RESTORE}"
            )
        return
    if application_id != schema.application_id:
        raise StoreCorruptError(f"{path} is not a {schema.name} file of ours; {_RESTORE}")
    if _pragma(connection, "page_count") * _pragma(connection, "page_size") <= WHOLE_CHECK_BYTES:
        _quick_check(connection, path, "PRAGMA quick_check(1)")
    else:
        for table in schema.small_tables:
            _quick_check(connection, path, f"PRAGMA quick_check('{table}')")


def _quick_check(connection: sqlite3.Connection, path: Path, pragma: str) -> None:
    verdict = connection.execute(pragma).fetchone()[0]
    if verdict != "ok":
        raise StoreCorruptError(f"{path} is damaged ({verdict}); {_RESTORE}")


def _migrate(connection: sqlite3.Connection, path: Path, schema: StoreSchema) -> None:
    scripts = schema.migrations()
    version = _pragma(connection, "user_version")
    if version > len(scripts):
        raise StoreError(
            f"{path} has schema {version}, this program knows {len(scripts)}: install the version "
            "that wrote it"
        )
    for number, script in enumerate(scripts[version:], start=version + 1):
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\n"
                f"PRAGMA application_id={schema.application_id};\n"
                f"PRAGMA user_version={number};\nCOMMIT;"
            )
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise StoreError(f"{path}: migration to schema {number} failed: {error}") from error


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return int(value)
