"""Requests in `north.db`: north makes them durable, control reads them and trusts nothing there."""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from gateway.core.errors import RefusedError, StoreCorruptError
from gateway.core.recovery import KnownHead
from gateway.core.requests import (
    KEY_PATTERN,
    MAX_DOCUMENT,
    MAX_TEXT,
    Request,
    Role,
    body_hash,
    decode_body,
    encode_body,
)
from gateway.store.commands import RequestCursor
from gateway.store.db import StoreSchema, primary_code
from gateway.store.reader import StoreReader
from gateway.store.recovery import load_known_head
from gateway.store.rows import as_int, as_text, document, mapping, page_size

T = TypeVar("T")

NORTH: Final = StoreSchema(
    name="north",
    application_id=0x5047_4E31,
    folder=Path(__file__).parent / "schema" / "north",
)
# A cut waits this long for the other process's file, and no longer (design.md, Requests).
BUSY_TIMEOUT_MS: Final = 20
# About 20 ms of SQLite's machine: what a hostile schema may cost.
READ_STEPS: Final = 1_000_000
# The longest value of a row: a tariff document with its JSON around it (escapes double it).
LENGTH_MAX: Final = 4 * MAX_DOCUMENT
BATCH: Final = 100
_COLUMNS: Final = (
    "SELECT id, key, type, body, body_hash, actor, role, source, approver, created_utc_ms, "
    "expires_utc_ms FROM request "
)


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request of north.db with its row number."""

    request_id: int
    request: Request
    body_hash: str


@dataclass(frozen=True, slots=True)
class DamagedRequest:
    """A row that is no request: what control records as refused, so that nobody waits for it.

    `key` is None when not even that can be read. `code`, `message` and `place` say what is wrong.
    """

    request_id: int
    key: str | None
    type: str
    code: str
    message: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class RequestBatch:
    """Some rows in order, and the cursor to ask with for those after them.

    `restarted` says that the old cursor belonged to another file and all is looked at again.
    `more` says that further rows wait.
    """

    rows: tuple[StoredRequest | DamagedRequest, ...]
    cursor: RequestCursor
    restarted: bool
    more: bool


# -- north -----------------------------------------------------------------------------------


def create_north(connection: sqlite3.Connection, epoch: str, *, utc_ms: int) -> None:
    """Begin the file's first epoch (a ULID)."""
    connection.execute("INSERT INTO store_epoch VALUES (1, ?, 'created', ?)", (epoch, utc_ms))


def insert_request(connection: sqlite3.Connection, request: Request) -> bool:
    """Store a request; False when the same one is stored already.

    Raises RefusedError IDEMPOTENCY_CONFLICT (same key, other body), REQUEST_FIELD (a key or text
    that control would not accept).
    """
    _check_envelope(request)
    digest = body_hash(request.body)
    row = connection.execute(
        "SELECT body_hash FROM request WHERE key = ?", (request.key,)
    ).fetchone()
    if row is not None:
        if row[0] == digest:
            return False
        raise RefusedError(
            "IDEMPOTENCY_CONFLICT", "this idempotency key was used for another request", "key"
        )
    connection.execute(
        "INSERT INTO request (key, type, body, body_hash, actor, role, source, approver, "
        "created_utc_ms, expires_utc_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            request.key,
            request.body.TYPE,
            document(encode_body(request.body)),
            digest,
            request.actor,
            request.role.value,
            request.source,
            request.approver,
            request.created_utc_ms,
            request.expires_utc_ms,
        ),
    )
    return True


def find_request(connection: sqlite3.Connection, key: str) -> StoredRequest | DamagedRequest | None:
    """The request of a key, or None."""
    row = connection.execute(_COLUMNS + "WHERE key = ?", (key,)).fetchone()
    return None if row is None else _decoded(row)


def requests_before(
    connection: sqlite3.Connection, *, before_id: int | None = None, limit: int = 50
) -> list[StoredRequest | DamagedRequest]:
    """Requests newest first, before a cursor; at most 100 at once."""
    before = 2**63 - 1 if before_id is None else before_id
    rows = connection.execute(
        _COLUMNS + "WHERE id < ? ORDER BY id DESC LIMIT ?", (before, page_size(limit))
    )
    return [_decoded(row) for row in rows]


def request_keys(connection: sqlite3.Connection) -> list[str]:
    """The keys of all requests, oldest first."""
    return [str(row[0]) for row in connection.execute("SELECT key FROM request ORDER BY id")]


def perishable_requests(connection: sqlite3.Connection) -> list[Request]:
    """The requests that have an end, oldest first; rows that are no request are left out."""
    rows = connection.execute(_COLUMNS + "WHERE expires_utc_ms IS NOT NULL ORDER BY id")
    decoded = (_decoded(row) for row in rows)
    return [found.request for found in decoded if isinstance(found, StoredRequest)]


def read_north_epoch(connection: sqlite3.Connection) -> str:
    """The epoch of north.db, empty when it has none."""
    row = connection.execute(
        "SELECT epoch FROM store_epoch ORDER BY number DESC LIMIT 1"
    ).fetchone()
    return "" if row is None or not isinstance(row[0], str) else row[0]


# -- control ---------------------------------------------------------------------------------


class RequestReader:
    """Control's eyes on north.db. Never blocks longer than its busy time-out of 20 ms.

    Whatever stands in the file, the worst it can do is to raise StoreAwayError or to be a
    DamagedRequest: sizes are bounded, types are checked, a schema runs no function.
    """

    def __init__(self, path: Path) -> None:
        self._reader = StoreReader(
            path,
            NORTH,
            busy_timeout_ms=BUSY_TIMEOUT_MS,
            steps_max=READ_STEPS,
            length_max=LENGTH_MAX,
        )

    def changed(self) -> bool:
        """Whether north committed anything since the last call. Raises StoreAwayError."""
        return self._reader.changed()

    def pending(self, cursor: RequestCursor | None, limit: int = BATCH) -> RequestBatch:
        """The rows after `cursor`, oldest first, at most `limit`.

        After a restore (another epoch, or ids that went back) it begins at the first row again:
        the caller tells by key what it has executed. Raises StoreAwayError.
        """
        return self._reader.read(lambda connection: _pending(connection, cursor, limit))

    def known_head(self) -> KnownHead | None:
        """The newest head of the ledger that north has seen, or None. Raises StoreAwayError."""
        return self._reader.read(load_known_head)

    def read(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """What an operation finds there; it must take nothing for granted.

        Raises StoreAwayError.
        """
        return self._reader.read(operation)

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()


def _pending(
    connection: sqlite3.Connection, cursor: RequestCursor | None, limit: int
) -> RequestBatch:
    epoch = read_north_epoch(connection)
    given = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'request'").fetchone()
    last_given = given[0] if given is not None and isinstance(given[0], int) else 0
    known = cursor is not None and cursor.epoch == epoch and cursor.request_id <= last_given
    after_id = cursor.request_id if cursor is not None and known else 0
    # Ids first, then row by row: one row that is too large must not hide those after it.
    ids = [
        row[0]
        for row in connection.execute(
            "SELECT id FROM request WHERE id > ? ORDER BY id LIMIT ?", (after_id, limit + 1)
        )
        if isinstance(row[0], int)
    ]
    rows = tuple(_row(connection, request_id) for request_id in ids[:limit])
    last_id = rows[-1].request_id if rows else after_id
    return RequestBatch(
        rows=rows,
        cursor=RequestCursor(epoch, last_id),
        restarted=cursor is not None and not known,
        more=len(ids) > limit,
    )


def _row(connection: sqlite3.Connection, request_id: int) -> StoredRequest | DamagedRequest:
    try:
        row = connection.execute(_COLUMNS + "WHERE id = ?", (request_id,)).fetchone()
    except sqlite3.Error as error:
        if not is_fault_of_row(error):
            raise
        return DamagedRequest(request_id, None, "", "REQUEST_FIELD", f"not readable: {error}")
    if row is None:
        # A hostile file may show an id and no row behind it.
        return DamagedRequest(request_id, None, "", "REQUEST_FIELD", "there is no such row")
    return _decoded(row)


def is_fault_of_row(error: sqlite3.Error) -> bool:
    """Whether one row alone cannot be read: too large, or text that is not UTF-8, which has no
    code of SQLite.
    """
    return primary_code(error) in (sqlite3.SQLITE_TOOBIG, -1)


def _decoded(row: Sequence[object]) -> StoredRequest | DamagedRequest:
    request_id = row[0] if isinstance(row[0], int) else 0
    key = row[1] if isinstance(row[1], str) and KEY_PATTERN.fullmatch(row[1]) else None
    kind = row[2] if isinstance(row[2], str) and len(row[2]) <= MAX_TEXT else ""
    try:
        request = _request(row)
        _check_envelope(request)
        digest = body_hash(request.body)
    except RefusedError as error:
        return DamagedRequest(request_id, key, kind, error.refusal_code, error.message, error.place)
    except (StoreCorruptError, ValueError, RecursionError) as error:
        return DamagedRequest(request_id, key, kind, "REQUEST_FIELD", f"not readable: {error}")
    if row[4] != digest:
        message = "the body does not fit its hash"
        return DamagedRequest(request_id, key, kind, "REQUEST_FIELD", message)
    return StoredRequest(request_id, request, digest)


def _request(row: Sequence[object]) -> Request:
    return Request(
        key=as_text(row[1]),
        body=decode_body(as_text(row[2]), mapping(row[3])),
        actor=as_text(row[5]),
        role=Role(as_text(row[6])),
        source=as_text(row[7]),
        approver=None if row[8] is None else as_text(row[8]),
        created_utc_ms=as_int(row[9]),
        expires_utc_ms=None if row[10] is None else as_int(row[10]),
    )


def _check_envelope(request: Request) -> None:
    if not KEY_PATTERN.fullmatch(request.key):
        raise RefusedError("REQUEST_FIELD", "a key has 1 to 128 visible ASCII characters", "key")
    for name, text in (
        ("actor", request.actor),
        ("source", request.source),
        ("approver", request.approver or ""),
    ):
        if len(text) > MAX_TEXT or not text.isprintable():
            raise RefusedError(
                "REQUEST_FIELD", f"expected at most {MAX_TEXT} printable characters", name
            )
