"""What a sweep leaves in `ledger.db` to start from: registers of all meters, states of points.

Both are opaque documents here; what they mean is core's.
"""

import sqlite3
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from gateway.core.errors import StoreCorruptError
from gateway.store.rows import as_bytes, as_int, mapping


@dataclass(frozen=True, slots=True)
class RegisterState:
    """The newest sweep: its wall label, its sequence and an opaque JSON document."""

    utc_ms: int
    sequence: int
    body: dict[str, object]


def save_register_state(
    connection: sqlite3.Connection, *, utc_ms: int, sequence: int, body: Mapping[str, object]
) -> None:
    """Replace the one register state; `body` is any JSON document, stored compressed."""
    blob = zlib.compress(orjson.dumps(body), 1)
    connection.execute(
        "INSERT INTO register_state VALUES (1, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
        "utc_ms = excluded.utc_ms, sequence = excluded.sequence, body = excluded.body",
        (utc_ms, sequence, blob),
    )


def load_register_state(connection: sqlite3.Connection) -> RegisterState | None:
    """The register state of the last committed sweep; None before the first.

    Raises StoreCorruptError when it cannot be unpacked.
    """
    row = connection.execute("SELECT utc_ms, sequence, body FROM register_state").fetchone()
    if row is None:
        return None
    try:
        body = orjson.loads(zlib.decompress(as_bytes(row[2])))
    except (zlib.error, orjson.JSONDecodeError) as error:
        raise StoreCorruptError(f"ledger.db: register_state cannot be read: {error}") from error
    return RegisterState(as_int(row[0]), as_int(row[1]), body)


def save_point_states(
    connection: sqlite3.Connection, states: Mapping[str, Mapping[str, object]]
) -> None:
    """Replace the opaque state of the service points named; others keep theirs."""
    connection.executemany(
        "INSERT INTO point_state VALUES (?, ?) "
        "ON CONFLICT (service_point_id) DO UPDATE SET body = excluded.body",
        ((name, orjson.dumps(body).decode()) for name, body in states.items()),
    )


def load_point_states(connection: sqlite3.Connection) -> dict[str, dict[str, object]]:
    """The opaque state of every service point that has one."""
    return {
        name: orjson.loads(body)
        for name, body in connection.execute("SELECT service_point_id, body FROM point_state")
    }


def save_account_states(
    connection: sqlite3.Connection, states: Mapping[str, Mapping[str, object]]
) -> None:
    """Replace the opaque state of the accounts named; others keep theirs."""
    connection.executemany(
        "INSERT INTO account_state VALUES (?, ?) "
        "ON CONFLICT (account_id) DO UPDATE SET body = excluded.body",
        ((name, orjson.dumps(body).decode()) for name, body in states.items()),
    )


def load_account_state(connection: sqlite3.Connection, account_id: str) -> dict[str, object] | None:
    """The opaque state of an account; None where none was kept yet."""
    row = connection.execute(
        "SELECT body FROM account_state WHERE account_id = ?", (account_id,)
    ).fetchone()
    return None if row is None else mapping(row[0])
