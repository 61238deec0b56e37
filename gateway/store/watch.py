"""`watch_state` in `ledger.db`: what is watched of meters and feeders, newest state only."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from gateway.core.errors import StoreCorruptError
from gateway.store.rows import as_int, as_text, document


class WatchKind(StrEnum):
    """What a row is the state of."""

    TAMPER = "tamper"
    TRANSFORMER = "transformer"
    EXPORT = "export"
    FEEDER = "feeder"


@dataclass(frozen=True, slots=True)
class WatchState:
    """One state. `subject` is a meter's id or a feeder's; `body` is as its rule keeps it."""

    kind: WatchKind
    subject: str
    utc_ms: int
    body: Mapping[str, object]


def put_watch_states(connection: sqlite3.Connection, states: Iterable[WatchState]) -> None:
    """Keep these states in place of those before."""
    connection.executemany(
        "INSERT INTO watch_state VALUES (?, ?, ?, ?) ON CONFLICT (kind, subject) DO UPDATE SET "
        "utc_ms = excluded.utc_ms, body = excluded.body",
        [(one.kind.value, one.subject, one.utc_ms, document(one.body)) for one in states],
    )


def read_watch_states(
    connection: sqlite3.Connection, *kinds: WatchKind
) -> dict[tuple[WatchKind, str], WatchState]:
    """All states of these kinds by kind and subject. Raises StoreCorruptError."""
    found: dict[tuple[WatchKind, str], WatchState] = {}
    for kind in kinds:
        for subject, utc_ms, text in connection.execute(
            "SELECT subject, utc_ms, body FROM watch_state WHERE kind = ? ORDER BY subject",
            (kind.value,),
        ):
            body = json.loads(as_text(text))
            if not isinstance(body, dict):
                raise StoreCorruptError(f"watch_state {kind.value} {subject!r:.40} is no object")
            name = as_text(subject)
            found[kind, name] = WatchState(kind, name, as_int(utc_ms), body)
    return found
