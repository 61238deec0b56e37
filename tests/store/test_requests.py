"""Requests in north.db: durable once per key, and harmless for control whatever stands there."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.errors import RefusedError, StoreAwayError
from gateway.core.requests import (
    MAX_DOCUMENT,
    Disconnect,
    PublishTariff,
    Recharge,
    Request,
    Role,
    body_hash,
)
from gateway.store.commands import RequestCursor
from gateway.store.db import StoreFile, open_writer
from gateway.store.requests import (
    NORTH,
    DamagedRequest,
    RequestReader,
    StoredRequest,
    create_north,
    find_request,
    insert_request,
    read_north_epoch,
    requests_before,
)
from gateway.store.tokens import ApiToken, add_token, read_tokens, revoke_token
from tests.store.store_files import EPOCH, ended, owned, python


@pytest.fixture
def north(tmp_path: Path) -> Iterator[StoreFile]:
    """A new north.db."""
    with owned(tmp_path / "north") as owner:
        file = open_writer(tmp_path / "north" / "north.db", NORTH, owner=owner, create=True)
        create_north(file.connection, EPOCH, utc_ms=1)
        yield file
        file.connection.close()


@pytest.fixture
def reader(north: StoreFile) -> Iterator[RequestReader]:
    """Control's view of it."""
    made = RequestReader(north.path)
    yield made
    made.close()


def wish(key: str, amount_nano: int = 5, **changes: object) -> Request:
    """A recharge of account `flat-1`."""
    fields: dict[str, object] = {
        "key": key,
        "body": Recharge("flat-1", amount_nano),
        "actor": "anna",
        "role": Role.OPERATOR,
        "source": "127.0.0.1",
        "created_utc_ms": 7,
    } | changes
    return Request(**fields)  # type: ignore[arg-type]


def rows(reader: RequestReader, cursor: RequestCursor | None = None) -> list[object]:
    """Keys of good rows, (id, code) of damaged ones."""
    return [
        row.request.key if isinstance(row, StoredRequest) else (row.request_id, row.code)
        for row in reader.pending(cursor).rows
    ]


def test_request_comes_back_whole(north: StoreFile, reader: RequestReader) -> None:
    """Every field survives the way through the file, with the hash of its body."""
    first = wish("k1", expires_utc_ms=None)
    second = wish(
        "k2",
        body=Disconnect("flat-1", "meter exchange é"),
        role=Role.MANAGER,
        approver="berta",
        expires_utc_ms=99,
    )
    assert [insert_request(north.connection, item) for item in (first, second)] == [True, True]
    assert reader.pending(None).rows == (
        StoredRequest(1, first, body_hash(first.body)),
        StoredRequest(2, second, body_hash(second.body)),
    )
    assert find_request(north.connection, "k2") == reader.pending(None).rows[1]
    assert find_request(north.connection, "k3") is None


def test_repeat_is_known_and_another_body_a_conflict(north: StoreFile) -> None:
    """P01 in the file: same key and body is one row, same key with another body is refused."""
    assert insert_request(north.connection, wish("A", 500))
    assert not insert_request(north.connection, wish("A", 500, actor="carl", created_utc_ms=8))
    with pytest.raises(RefusedError) as caught:
        insert_request(north.connection, wish("A", 600))
    assert caught.value.refusal_code == "IDEMPOTENCY_CONFLICT"
    assert north.connection.execute("SELECT count(*) FROM request").fetchone() == (1,)


@pytest.mark.parametrize(
    "changes",
    [
        {"key": ""},
        {"key": "x" * 129},
        {"key": "with space"},
        {"actor": "a" * 501},
        {"source": "line\nbreak"},
        {"approver": "\x00"},
    ],
)
def test_envelope_that_control_would_refuse_is_not_stored(
    north: StoreFile, changes: dict[str, str]
) -> None:
    """Keys and texts are checked before the row is written, not only when it is read."""
    with pytest.raises(RefusedError) as caught:
        insert_request(north.connection, wish(**({"key": "k"} | changes)))  # type: ignore[arg-type]
    assert caught.value.refusal_code == "REQUEST_FIELD"


def test_request_never_changes(north: StoreFile) -> None:
    """Neither UPDATE nor REPLACE alters a stored request."""
    insert_request(north.connection, wish("k"))
    with pytest.raises(sqlite3.IntegrityError):
        north.connection.execute("UPDATE request SET actor = 'mallory'")
    with pytest.raises(sqlite3.IntegrityError):
        north.connection.execute("INSERT OR REPLACE INTO request SELECT * FROM request")


def test_cursor_walks_in_batches(north: StoreFile, reader: RequestReader) -> None:
    """Batches follow each other without a gap or a repeat, and say when more waits."""
    for number in range(7):
        insert_request(north.connection, wish(f"k{number}"))
    seen, cursor, more = [], None, []
    for _ in range(3):
        batch = reader.pending(cursor, 3)
        seen += [row.request.key for row in batch.rows if isinstance(row, StoredRequest)]
        cursor = batch.cursor
        more.append(batch.more)
    assert seen == [f"k{number}" for number in range(7)]
    assert more == [True, True, False]
    assert cursor == RequestCursor(EPOCH, 7)
    assert reader.pending(cursor).cursor == cursor
    assert not reader.pending(cursor).restarted


@pytest.mark.parametrize(
    "cursor", [RequestCursor("01JD0000000000000000000009", 1), RequestCursor(EPOCH, 50)]
)
def test_restored_file_is_looked_at_from_the_start(
    north: StoreFile, reader: RequestReader, cursor: RequestCursor
) -> None:
    """Another epoch, or ids that went back: every row is offered again, to be told by key."""
    for key in ("a", "b"):
        insert_request(north.connection, wish(key))
    batch = reader.pending(cursor)
    assert batch.restarted
    assert [row.request_id for row in batch.rows] == [1, 2]
    assert batch.cursor == RequestCursor(EPOCH, 2)


def test_ids_are_never_given_twice(north: StoreFile, reader: RequestReader) -> None:
    """After old requests were deleted the cursor still stands before the new ones."""
    for key in ("a", "b"):
        insert_request(north.connection, wish(key))
    cursor = reader.pending(None).cursor
    north.connection.execute("DELETE FROM request")
    insert_request(north.connection, wish("c"))
    batch = reader.pending(cursor)
    assert not batch.restarted
    assert [row.request_id for row in batch.rows] == [3]


def test_changed_is_told_once(north: StoreFile, reader: RequestReader) -> None:
    """`changed` is true at first and after each commit of north, else false."""
    assert [reader.changed(), reader.changed()] == [True, False]
    insert_request(north.connection, wish("a"))
    assert [reader.changed(), reader.changed()] == [True, False]


HOSTILE = {
    "not json": ("body", "'{'"),
    "no object": ("body", "'[1]'"),
    "deep": ("body", "replace(hex(zeroblob(50000)), '0', '[')"),
    "unknown field": ("body", '\'{"account_id":"a","amount_nano":1,"x":1}\''),
    "float": ("body", '\'{"account_id":"a","amount_nano":1.5}\''),
    "huge number": ("body", '\'{"account_id":"a","amount_nano":\' || 1e300 || \'}\''),
    "long number": (
        "body",
        "'{\"account_id\":\"a\",\"amount_nano\":' || replace(hex(zeroblob(9000)), '0', '9') || '}'",
    ),
    "surrogate": ("body", '\'{"account_id":"a","amount_nano":1,"provider":"\\ud800"}\''),
    "other hash": ("body_hash", "'00'"),
    "no role": ("role", "'emperor'"),
    "type": ("type", "'launch'"),
    "control": ("actor", "char(7)"),
    "long actor": ("actor", "hex(zeroblob(1000))"),
    "enormous": ("body", "hex(zeroblob(1000000))"),
    "not utf-8": ("actor", "CAST(x'ff' AS TEXT)"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_row_is_damaged_and_hides_nobody(
    north: StoreFile, reader: RequestReader, case: str
) -> None:
    """Whatever a compromised north writes into a row, the rows around it are still read."""
    for key in ("before", "victim", "after"):
        insert_request(north.connection, wish(key))
    column, value = HOSTILE[case]
    north.connection.execute("DROP TRIGGER request_frozen")
    north.connection.execute(f"UPDATE request SET {column} = {value} WHERE id = 2")  # noqa: S608
    found = reader.pending(None).rows
    assert [row.request_id for row in found] == [1, 2, 3]
    assert [type(row) for row in found] == [StoredRequest, DamagedRequest, StoredRequest]
    damaged = found[1]
    assert isinstance(damaged, DamagedRequest)
    assert damaged.code in {"REQUEST_FIELD", "REQUEST_TYPE"}
    assert len(damaged.message) < 500
    # What is too large is not even loaded.
    assert ("too big" in damaged.message) is (case == "enormous")


def hostile_schema(path: Path, script: str) -> None:
    """Replace the request table by what a compromised north may define."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(f"DROP TABLE request; {script}")
    connection.close()


ENDLESS_VIEW = (
    "CREATE VIEW request AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
    "SELECT count(*) AS id, 1 AS key, 1 AS type, 1 AS body, 1 AS body_hash, 1 AS actor, "
    "1 AS role, 1 AS source, 1 AS approver, 1 AS created_utc_ms, 1 AS expires_utc_ms FROM n"
)


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE request (id, key); INSERT INTO request VALUES (1, 'k')",
        "CREATE TABLE other (x)",
        ENDLESS_VIEW,
    ],
)
def test_hostile_schema_is_away_and_soon(
    north: StoreFile, reader: RequestReader, script: str
) -> None:
    """A missing column or an endless view ends as away within a fraction of a second."""
    hostile_schema(north.path, script)
    begin = time.monotonic()
    with pytest.raises(StoreAwayError):
        reader.pending(None)
    assert time.monotonic() - begin < 1.0


def test_rows_of_wrong_types_are_damaged(north: StoreFile, reader: RequestReader) -> None:
    """A table without STRICT types gives rows that are refused, not exceptions."""
    hostile_schema(
        north.path,
        "CREATE TABLE request (id INTEGER PRIMARY KEY, key, type, body, body_hash, actor, role, "
        "source, approver, created_utc_ms, expires_utc_ms);"
        "INSERT INTO request VALUES (1, x'00', 5, NULL, 1.5, x'ff', 7, NULL, 3, 'soon', x'01');",
    )
    assert rows(reader) == [(1, "REQUEST_FIELD")]


def test_longest_tariff_passes(north: StoreFile, reader: RequestReader) -> None:
    """The bound on sizes leaves room for the longest document that north accepts."""
    body = PublishTariff("\\" * MAX_DOCUMENT)
    insert_request(north.connection, wish("t", body=body, role=Role.MANAGER))
    assert rows(reader) == ["t"]


def test_absent_north_is_away_and_comes_back(tmp_path: Path) -> None:
    """Without the file the reader says away; once it is there the same reader reads it."""
    reader = RequestReader(tmp_path / "north" / "north.db")
    with pytest.raises(StoreAwayError):
        reader.changed()
    with pytest.raises(StoreAwayError):
        reader.pending(None)
    with owned(tmp_path / "north") as owner:
        file = open_writer(tmp_path / "north" / "north.db", NORTH, owner=owner, create=True)
        create_north(file.connection, EPOCH, utc_ms=1)
        insert_request(file.connection, wish("a"))
        assert reader.changed()
        assert rows(reader) == ["a"]
        file.connection.close()
    reader.close()


def test_locked_north_is_away_within_its_time(north: StoreFile, reader: RequestReader) -> None:
    """A file that is held exclusively costs a cut some 20 ms, not more."""
    north.connection.execute("PRAGMA journal_mode=DELETE")
    north.connection.execute("BEGIN EXCLUSIVE")
    begin = time.monotonic()
    with pytest.raises(StoreAwayError):
        reader.pending(None)
    assert time.monotonic() - begin < 0.5
    north.connection.execute("ROLLBACK")


WRITES = """
import sys
from pathlib import Path
from gateway.core.requests import Recharge, Request, Role
from gateway.store.db import open_writer, own_directory
from gateway.store.requests import NORTH, create_north, insert_request
from gateway.store.writer import GroupCommitWriter
directory = Path(sys.argv[1])
owner = own_directory(directory, create=True)
file = open_writer(directory / "north.db", NORTH, owner=owner, create=True)
writer = GroupCommitWriter(file)
writer.submit(lambda c: create_north(c, "01JD0000000000000000000000", utc_ms=1)).result()
print("ready", flush=True)
for text in sys.stdin:
    request = Request(text.strip(), Recharge("flat-1", 5), "anna", Role.OPERATOR, "socket", 7)
    writer.submit(lambda c: insert_request(c, request)).result()
    print(request.key, flush=True)
writer.close(5)
file.stop()
"""


@pytest.mark.slow
def test_reader_follows_another_process(tmp_path: Path) -> None:
    """What another process acknowledged is seen by the next look, also after its clean end."""
    child = python(WRITES, str(tmp_path / "north"))
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    reader = RequestReader(tmp_path / "north" / "north.db")
    cursor = reader.pending(None).cursor
    assert reader.changed()
    for number in range(20):
        assert not reader.changed()
        child.stdin.write(f"key-{number}\n")
        child.stdin.flush()
        assert child.stdout.readline() == f"key-{number}\n"
        assert reader.changed()
        batch = reader.pending(cursor)
        cursor = batch.cursor
        assert [row.request_id for row in batch.rows] == [number + 1]
    ended(child)
    assert reader.pending(None).cursor == cursor
    reader.close()


def test_pages_of_requests_go_back_in_time(north: StoreFile) -> None:
    """The list for people: newest first, before a cursor."""
    for number in range(5):
        insert_request(north.connection, wish(f"k{number}"))
    first = requests_before(north.connection, limit=2)
    assert [row.request_id for row in first] == [5, 4]
    assert [row.request_id for row in requests_before(north.connection, before_id=4)] == [3, 2, 1]
    assert read_north_epoch(north.connection) == EPOCH


def test_token_is_kept_by_hash_and_revoked_once(north: StoreFile) -> None:
    """A token comes back as stored; revoking is final, repeating it changes nothing."""
    token = ApiToken("t1", b"\x01" * 32, "office", Role.MANAGER, 5, expires_utc_ms=50)
    add_token(north.connection, token)
    assert read_tokens(north.connection) == [token]
    revoked = revoke_token(north.connection, "t1", utc_ms=9)
    assert revoked.revoked_utc_ms == 9
    assert revoke_token(north.connection, "t1", utc_ms=10) == revoked
    with pytest.raises(sqlite3.IntegrityError):
        north.connection.execute("UPDATE api_token SET revoked_utc_ms = NULL")
    with pytest.raises(RefusedError) as caught:
        revoke_token(north.connection, "t2", utc_ms=9)
    assert caught.value.refusal_code == "TOKEN_UNKNOWN"
