"""Uploads: what control reads of a file of north's is bounded part by part."""

import sqlite3

import pytest

from gateway.core.errors import StoreCorruptError
from gateway.store.uploads import PART_BYTES, put_upload, read_upload

SHA256 = "a" * 64
SIZE_MAX = 4 * PART_BYTES


@pytest.fixture
def forged() -> sqlite3.Connection:
    """Tables with no rule of ours, as somebody who owns the file may make them."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE upload (id INTEGER PRIMARY KEY, sha256 TEXT)")
    connection.execute(
        "CREATE TABLE upload_part (upload, number, content, PRIMARY KEY (upload, number))"
    )
    return connection


def test_what_was_put_is_read(forged: sqlite3.Connection) -> None:
    """Whole, of one byte, of none; one byte more than the most shows that there is more."""
    for content in (b"x", bytes(range(256)) * 700, bytes(SIZE_MAX), bytes(SIZE_MAX + 9)):
        put_upload(forged, SHA256, content)
        assert read_upload(forged, SHA256, SIZE_MAX) == content[: SIZE_MAX + 1]
    assert read_upload(forged, "b" * 64, SIZE_MAX) is None


@pytest.mark.parametrize("size", [PART_BYTES + 1, 50_000_000])
def test_a_part_that_is_too_long_is_refused_unread(forged: sqlite3.Connection, size: int) -> None:
    """SQLite may load no value of more than a part here, and never has to."""
    put_upload(forged, SHA256, b"begins well")
    forged.execute("INSERT INTO upload_part VALUES (1, 1, zeroblob(?))", (size,))
    forged.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, PART_BYTES)
    with pytest.raises(StoreCorruptError):
        read_upload(forged, SHA256, SIZE_MAX)


@pytest.mark.parametrize("content", ["text" * 1000, 7, None])
def test_a_part_that_is_no_blob_is_refused(forged: sqlite3.Connection, content: object) -> None:
    """Of a text the length would have to be counted: it is not."""
    put_upload(forged, SHA256, b"begins well")
    forged.execute("INSERT INTO upload_part VALUES (1, 1, ?)", (content,))
    with pytest.raises(StoreCorruptError):
        read_upload(forged, SHA256, SIZE_MAX)
