"""What `ledger.db` says of itself at a glance: for `status`, backups and their comparison."""

import sqlite3
from dataclasses import dataclass

from gateway.core.recovery import Recovery
from gateway.store.commands import RequestCursor, load_request_cursor
from gateway.store.ledger import ChainHead, Site, ledger_head, read_epoch, read_site
from gateway.store.recovery import standing_recovery
from gateway.store.rows import as_int


@dataclass(frozen=True, slots=True)
class LedgerOverview:
    """A ledger at a glance. Times are UTC milliseconds, 0 for never."""

    site: Site
    epoch: str
    head: ChainHead
    head_utc_ms: int
    last_posting_utc_ms: int
    last_sweep_utc_ms: int
    open_accounts: int
    cursor: RequestCursor | None
    recovery: Recovery | None


def read_overview(connection: sqlite3.Connection) -> LedgerOverview:
    """The overview of an open ledger. Raises StoreCorruptError, sqlite3.Error."""
    return LedgerOverview(
        site=read_site(connection),
        epoch=read_epoch(connection),
        head=ledger_head(connection),
        head_utc_ms=utc_ms_at(connection, ledger_head(connection).seq),
        last_posting_utc_ms=_number(
            connection,
            "SELECT utc_ms FROM ledger_transaction WHERE kind = 'settlement' "
            "ORDER BY seq DESC LIMIT 1",
        ),
        last_sweep_utc_ms=_number(connection, "SELECT utc_ms FROM register_state"),
        open_accounts=_number(connection, "SELECT count(*) FROM account WHERE status <> 'closed'"),
        cursor=load_request_cursor(connection),
        recovery=standing_recovery(connection),
    )


def utc_ms_at(connection: sqlite3.Connection, seq: int) -> int:
    """The label of a transaction; 0 where there is none."""
    return _number(connection, "SELECT utc_ms FROM ledger_transaction WHERE seq = ?", seq)


def last_request_id(connection: sqlite3.Connection) -> int:
    """The last row number that a `north.db` gave to a request."""
    return _number(connection, "SELECT seq FROM sqlite_sequence WHERE name = 'request'")


def requests_after(connection: sqlite3.Connection, cursor: RequestCursor | None) -> int:
    """How many requests of a `north.db` control has not finished, as its cursor tells."""
    epochs = epochs_of(connection)
    known = cursor is not None and epochs[-1:] == [cursor.epoch]
    done = cursor.request_id if cursor is not None and known else 0
    return max(0, last_request_id(connection) - done)


def epochs_of(connection: sqlite3.Connection) -> list[str]:
    """The epochs of a store, oldest first."""
    return [
        str(row[0]) for row in connection.execute("SELECT epoch FROM store_epoch ORDER BY number")
    ]


def _number(connection: sqlite3.Connection, sql: str, *values: int) -> int:
    row = connection.execute(sql, values).fetchone()
    return 0 if row is None or row[0] is None else as_int(row[0])
