"""Denials on their way: rows of `north.db`, read by control into the audit chain, then deleted."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.denials import Denial, audited_denial, decode_denial, encode_denial
from gateway.core.errors import RefusedError, StoreCorruptError
from gateway.store.audit import append_audit
from gateway.store.requests import is_fault_of_row, read_north_epoch
from gateway.store.rows import document, mapping

# What waits for control at most: some hundred kilobytes.
WAITING_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class DenialCursor:
    """How far control has come: up to `denial_id` of the file called `epoch`."""

    epoch: str
    denial_id: int


@dataclass(frozen=True, slots=True)
class DenialRow:
    """A row of north.db; `denial` None: it is none, and control passes over it."""

    denial_id: int
    denial: Denial | None


@dataclass(frozen=True, slots=True)
class DenialBatch:
    """Rows in order, and the epoch of their file."""

    epoch: str
    rows: tuple[DenialRow, ...]


# -- north.db --------------------------------------------------------------------------------


def add_denials(
    connection: sqlite3.Connection, denials: Sequence[Denial], recorded: DenialCursor | None
) -> int:
    """Delete what control has `recorded`, then add denials; how many of them found room."""
    if recorded is not None and recorded.epoch == read_north_epoch(connection):
        connection.execute("DELETE FROM denial WHERE id <= ?", (recorded.denial_id,))
    waiting = connection.execute("SELECT count(*) FROM denial").fetchone()[0]
    taken = denials[: max(0, WAITING_MAX - waiting)]
    connection.executemany(
        "INSERT INTO denial (body) VALUES (?)",
        [(document(encode_denial(denial)),) for denial in taken],
    )
    return len(taken)


def has_denials(connection: sqlite3.Connection) -> bool:
    """Whether any row is there: waiting, or recorded and not deleted yet."""
    return connection.execute("SELECT 1 FROM denial LIMIT 1").fetchone() is not None


def denials_after(
    connection: sqlite3.Connection, cursor: DenialCursor | None, limit: int
) -> DenialBatch:
    """The rows after a cursor, oldest first, at most `limit`; of another file, from its first.

    Control calls it on a file that it does not trust.
    """
    epoch = read_north_epoch(connection)
    after = cursor.denial_id if cursor is not None and cursor.epoch == epoch else 0
    # Ids first, then row by row: one row that cannot be read must not hide those after it.
    rows = connection.execute(
        "SELECT id FROM denial WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
    ).fetchall()
    return DenialBatch(
        epoch,
        tuple(DenialRow(row[0], _found(connection, row[0])) for row in rows if _is_id(row[0])),
    )


def _is_id(value: object) -> bool:
    return isinstance(value, int)


def _found(connection: sqlite3.Connection, denial_id: int) -> Denial | None:
    try:
        row = connection.execute("SELECT body FROM denial WHERE id = ?", (denial_id,)).fetchone()
        return None if row is None else decode_denial(mapping(row[0]))
    except (RefusedError, StoreCorruptError):
        return None
    except sqlite3.Error as error:
        if not is_fault_of_row(error):
            raise
        return None


# -- ledger.db -------------------------------------------------------------------------------


def record_denials(connection: sqlite3.Connection, batch: DenialBatch, *, utc_ms: int) -> None:
    """Append audit records for what is not recorded yet, and move the cursor, in one commit.

    What was recorded before is passed over, however often it is given.
    """
    cursor = load_denial_cursor(connection)
    done = cursor.denial_id if cursor is not None and cursor.epoch == batch.epoch else 0
    fresh = [row for row in batch.rows if row.denial_id > done]
    for row in fresh:
        if row.denial is not None:
            append_audit(connection, utc_ms=utc_ms, body=audited_denial(row.denial))
    if fresh:
        connection.execute(
            "INSERT INTO denial_cursor VALUES (1, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "epoch = excluded.epoch, denial_id = excluded.denial_id",
            (batch.epoch, fresh[-1].denial_id),
        )


def load_denial_cursor(connection: sqlite3.Connection) -> DenialCursor | None:
    """How far control has come; None before the first."""
    row = connection.execute("SELECT epoch, denial_id FROM denial_cursor").fetchone()
    return None if row is None else DenialCursor(*row)
