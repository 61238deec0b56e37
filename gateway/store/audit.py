"""The audit chain in `ledger.db`: who did what, append-only, each record chained to the last."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.ledger import GENESIS, canonical_json, chain_hash
from gateway.store.ledger import ChainHead
from gateway.store.rows import as_bytes, as_int, mapping, page_size


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """Something that was done or refused: its place in the chain, when (wall), and what."""

    seq: int
    utc_ms: int
    body: Mapping[str, object]


def audit_head(connection: sqlite3.Connection) -> ChainHead:
    """The last audit record's sequence and hash."""
    row = connection.execute("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
    return ChainHead(0, GENESIS) if row is None else ChainHead(as_int(row[0]), as_bytes(row[1]))


def append_audit(connection: sqlite3.Connection, *, utc_ms: int, body: Mapping[str, object]) -> int:
    """Append a record to the audit chain; its sequence number."""
    head = audit_head(connection)
    seq = head.seq + 1
    link = chain_hash(head.hash, audit_body(seq, utc_ms, body))
    connection.execute(
        "INSERT INTO audit VALUES (?, ?, ?, ?)",
        (seq, utc_ms, canonical_json(body).decode(), link),
    )
    return seq


def audit_body(seq: int, utc_ms: int, body: Mapping[str, object]) -> dict[str, object]:
    """Everything of an audit record that its hash covers."""
    return {"seq": seq, "utc_ms": utc_ms, "record": dict(body)}


def audit_before(
    connection: sqlite3.Connection, *, before_seq: int, limit: int
) -> list[AuditRecord]:
    """Records newest first, before a sequence; at most 100 at once.

    Raises StoreCorruptError for one that cannot be read.
    """
    rows = connection.execute(
        "SELECT seq, utc_ms, body FROM audit WHERE seq < ? ORDER BY seq DESC LIMIT ?",
        (before_seq, page_size(limit)),
    )
    return [AuditRecord(as_int(row[0]), as_int(row[1]), mapping(row[2])) for row in rows]
