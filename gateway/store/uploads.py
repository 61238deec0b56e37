"""Uploads in `north.db`: bytes that come with a request, in parts that control may read."""

import sqlite3
from typing import Final

from gateway.store.rows import as_bytes, as_int

PART_BYTES: Final = 65_536
# So many stay; an older one that control has not taken yet is refused there.
KEPT: Final = 4


def put_upload(connection: sqlite3.Connection, sha256: str, content: bytes) -> None:
    """Keep bytes under their digest, in place of those that came longest ago."""
    _forget(connection, "sha256 = ?", sha256)
    connection.execute("INSERT INTO upload (sha256) VALUES (?)", (sha256,))
    number = as_int(connection.execute("SELECT last_insert_rowid()").fetchone()[0])
    connection.executemany(
        "INSERT INTO upload_part VALUES (?, ?, ?)",
        [
            (number, place, content[start : start + PART_BYTES])
            for place, start in enumerate(range(0, len(content), PART_BYTES))
        ],
    )
    _forget(connection, "id NOT IN (SELECT id FROM upload ORDER BY id DESC LIMIT ?)", KEPT)


def read_upload(connection: sqlite3.Connection, sha256: str, size_max: int) -> bytes | None:
    """The bytes of this digest as they stand there, `size_max` + 1 at most; None without.

    A part that is longer than we write it is not loaded: the length of a blob stands before it.
    Raises StoreCorruptError, also for such a part.
    """
    rows = connection.execute(
        "SELECT CASE typeof(content) WHEN 'blob' THEN "
        "CASE WHEN length(content) <= ? THEN content END END FROM upload_part "
        "WHERE upload = (SELECT id FROM upload WHERE sha256 = ?) ORDER BY number LIMIT ?",
        (PART_BYTES, sha256, size_max // PART_BYTES + 2),
    )
    content = b"".join(as_bytes(row[0]) for row in rows)
    return content[: size_max + 1] or None


def _forget(connection: sqlite3.Connection, which: str, value: str | int) -> None:
    chosen = connection.execute(f"SELECT id FROM upload WHERE {which}", (value,)).fetchall()  # noqa: S608 - words of this file
    for row in chosen:
        connection.execute("DELETE FROM upload_part WHERE upload = ?", row)
        connection.execute("DELETE FROM upload WHERE id = ?", row)
