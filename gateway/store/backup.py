"""One file of ours copied while its owner goes on writing, and a copy looked at afterwards.

A copy is one snapshot: a writer in WAL mode is never held up by it, but its WAL cannot be reset
before the copy ends. (Without a snapshot every commit would start the copy anew, and a ledger is
committed to every second.) So the copy watches the WAL and gives up before it grows large.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from gateway.core.errors import RefusedError, StoreError, StoreMissingError
from gateway.store.db import StoreSchema, check_whole, translated

# A step of 256 pages (1 MB) takes a few milliseconds: the processor is given back in between.
PAGES_AT_ONCE: Final = 256
# Half of what raises an alarm in control: a slow target must not get that far.
WAL_BYTES_MAX: Final = 32 * 1024 * 1024

Progress = Callable[[int, int], None]


def copy_store(
    source: Path,
    target: Path,
    schema: StoreSchema,
    *,
    progress: Progress | None = None,
    wal_bytes_max: int = WAL_BYTES_MAX,
) -> None:
    """Copy a file that may be in use to `target` (which must not exist), as one snapshot.

    `progress` gets the pages done and those there are. Raises RefusedError (BACKUP_SLOW: the
    target is so slow that control's log would grow; BACKUP_DAMAGED, BACKUP_NEWER), StoreError.
    """
    wal = source.with_name(f"{source.name}-wal")

    def step(_status: int, remaining: int, total: int) -> None:
        if progress is not None:
            progress(total - remaining, total)
        if _size(wal) > wal_bytes_max:
            raise RefusedError(
                "BACKUP_SLOW",
                f"{target.parent} is too slow for {source.name}: control's log grew beyond "
                f"{wal_bytes_max // 2**20} MB meanwhile; copy to a faster disk first, then on",
            )

    with _opened(source, schema, newer=1) as connection:
        connection.execute("BEGIN")
        # The snapshot begins with the first look, and ends with the connection.
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        # Nobody else knows the copy: without locks it may lie on a network share.
        copy = sqlite3.connect(_uri(target, "vfs=unix-none"), uri=True, isolation_level=None)
        try:
            copy.execute("PRAGMA locking_mode=EXCLUSIVE")
            # It is made durable as part of the archive.
            copy.execute("PRAGMA synchronous=OFF")
            connection.backup(copy, pages=PAGES_AT_ONCE, progress=step)
            copy.execute("PRAGMA journal_mode=DELETE")
        finally:
            copy.close()


@contextmanager
def opened_copy(path: Path, schema: StoreSchema) -> Iterator[sqlite3.Connection]:
    """A copy that nobody writes, read only; any schema that this program knows.

    Raises RefusedError (BACKUP_DAMAGED, BACKUP_NEWER), StoreCorruptError, StoreError.
    """
    with _opened(path, schema, "nolock=1") as connection:
        yield connection


@contextmanager
def opened_store(path: Path, schema: StoreSchema) -> Iterator[sqlite3.Connection]:
    """A store of this installation while its owner is stopped, read only. Raises as above."""
    with _opened(path, schema, newer=1) as connection:
        yield connection


def check_copy(path: Path, schema: StoreSchema) -> None:
    """SQLite's own check of every page of a copy. Raises as `opened_copy`, StoreCorruptError."""
    with opened_copy(path, schema) as connection:
        check_whole(connection, path)


@contextmanager
def _opened(
    path: Path, schema: StoreSchema, option: str = "", *, newer: int = 0
) -> Iterator[sqlite3.Connection]:
    try:
        path.stat()
    except FileNotFoundError as error:
        raise StoreMissingError(
            f"{path} does not exist: is state_dir right, and was `prepaid-gateway init` run?"
        ) from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}: run this as root") from error
    try:
        connection = sqlite3.connect(_uri(path, "mode=ro", option), uri=True, isolation_level=None)
        try:
            connection.execute("PRAGMA trusted_schema=OFF")
            connection.execute("PRAGMA cell_size_check=ON")
            application_id = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if application_id != schema.application_id:
                raise RefusedError(
                    "BACKUP_DAMAGED", f"{path.name} is no {schema.name} file of ours"
                )
            if version > schema.newest() + newer:
                raise RefusedError(
                    "BACKUP_NEWER",
                    f"{path.name} has schema {version}, this program knows {schema.newest()}: "
                    "install the version that wrote it",
                )
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translated(error, path) from error


def _uri(path: Path, *options: str) -> str:
    return f"file:{quote(str(path))}?{'&'.join(option for option in options if option)}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
