"""RECOVERY in `ledger.db`, and what `north.db` remembers of the ledger's head."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.errors import RefusedError
from gateway.core.ledger import GENESIS
from gateway.core.recovery import KnownHead, Recovery, RecoveryReason
from gateway.core.requests import Outcome, OutcomeStatus, Request, body_hash
from gateway.store.commands import find_outcome, record_outcome
from gateway.store.ledger import ledger_head
from gateway.store.rows import as_bytes, as_int, as_text

HASH_BYTES: Final = 32
REFUSED_SHOWN: Final = 100
NOBODY: Final = KnownHead(0, GENESIS)
_COLUMNS: Final = (
    "SELECT number, reason, since_utc_ms, head_seq, head_hash, known_seq, known_hash, "
    "outcome_number, detail FROM recovery "
)


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of the requests since a RECOVERY began: counts by status, refusals in words."""

    counts: dict[str, int]
    refused: tuple[tuple[str, str, str, str], ...]  # key, type, code, message


# -- ledger.db -------------------------------------------------------------------------------


def recovery_now(
    connection: sqlite3.Connection,
    reason: RecoveryReason,
    *,
    utc_ms: int,
    known: KnownHead = NOBODY,
    detail: str = "",
) -> Recovery:
    """The next RECOVERY as of the ledger's present head, for `enter_recovery`."""
    head = ledger_head(connection)
    numbers = connection.execute(
        "SELECT (SELECT coalesce(max(number), 0) + 1 FROM recovery), "
        "(SELECT coalesce(max(number), 0) FROM outcome)"
    ).fetchone()
    return Recovery(
        number=numbers[0],
        reason=reason,
        since_utc_ms=utc_ms,
        head=KnownHead(head.seq, head.hash),
        known=known,
        outcome_number=numbers[1],
        detail=detail,
    )


def enter_recovery(connection: sqlite3.Connection, entered: Recovery) -> None:
    """Put the site into RECOVERY."""
    connection.execute(
        "INSERT INTO recovery VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            entered.number,
            entered.reason.value,
            entered.since_utc_ms,
            entered.head.seq,
            entered.head.hash,
            entered.known.seq,
            entered.known.hash,
            entered.outcome_number,
            entered.detail,
        ),
    )


def release_recovery(
    connection: sqlite3.Connection, *, actor: str, reason: str, request_key: str, utc_ms: int
) -> Recovery:
    """End the RECOVERY that stands; what it was. Raises RefusedError NO_RECOVERY."""
    standing = standing_recovery(connection)
    if standing is None:
        raise RefusedError("NO_RECOVERY", "the site is not in RECOVERY")
    connection.execute(
        "INSERT INTO recovery_release VALUES (?, ?, ?, ?, ?)",
        (standing.number, utc_ms, actor, reason, request_key),
    )
    return standing


def standing_recovery(connection: sqlite3.Connection) -> Recovery | None:
    """The RECOVERY that nobody has released; None when the site is in none."""
    return _recovery(
        connection, "WHERE number > (SELECT coalesce(max(number), 0) FROM recovery_release) "
    )


def last_recovery(connection: sqlite3.Connection) -> Recovery | None:
    """The latest RECOVERY, released or not."""
    return _recovery(connection, "")


def hash_at(connection: sqlite3.Connection, seq: int) -> bytes | None:
    """The chain's hash at a transaction; None where there is none (yet)."""
    row = connection.execute("SELECT hash FROM ledger_transaction WHERE seq = ?", (seq,)).fetchone()
    return None if row is None else as_bytes(row[0])


def expire_unanswered(
    connection: sqlite3.Connection, requests: Iterable[Request], *, utc_ms: int
) -> None:
    """Close those of `requests` that have no outcome as expired, so that nothing replays them."""
    for request in requests:
        if find_outcome(connection, request.key) is None:
            outcome = Outcome(
                key=request.key,
                type=request.body.TYPE,
                body_hash=body_hash(request.body),
                status=OutcomeStatus.EXPIRED,
                code="EXPIRED",
                message="asked for before a backup was restored",
                result={},
                utc_ms=utc_ms,
            )
            record_outcome(connection, outcome)


def replay_since(connection: sqlite3.Connection, outcome_number: int) -> Replay:
    """What came of the requests after an outcome's number."""
    counts = Counter[str]()
    refused: list[tuple[str, str, str, str]] = []
    for key, kind, status, code, message in connection.execute(
        "SELECT request_key, type, status, code, message FROM outcome WHERE number > ? "
        "ORDER BY number",
        (outcome_number,),
    ):
        counts[str(status)] += 1
        if status != "executed" and len(refused) < REFUSED_SHOWN:
            refused.append((str(key), str(kind), str(code), str(message)))
    return Replay(dict(counts), tuple(refused))


def outcome_keys(connection: sqlite3.Connection) -> frozenset[str]:
    """The keys of all requests that have an outcome."""
    return frozenset(str(row[0]) for row in connection.execute("SELECT request_key FROM outcome"))


def _recovery(connection: sqlite3.Connection, where: str) -> Recovery | None:
    row = connection.execute(f"{_COLUMNS}{where}ORDER BY number DESC LIMIT 1").fetchone()
    if row is None:
        return None
    return Recovery(
        number=as_int(row[0]),
        reason=RecoveryReason(as_text(row[1])),
        since_utc_ms=as_int(row[2]),
        head=KnownHead(as_int(row[3]), as_bytes(row[4])),
        known=KnownHead(as_int(row[5]), as_bytes(row[6])),
        outcome_number=as_int(row[7]),
        detail=as_text(row[8]),
    )


# -- north.db --------------------------------------------------------------------------------


def save_known_head(connection: sqlite3.Connection, known: KnownHead, *, utc_ms: int) -> None:
    """Remember the newest head of the ledger that north has seen."""
    connection.execute(
        "INSERT INTO ledger_head VALUES (1, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
        "seq = excluded.seq, hash = excluded.hash, seen_utc_ms = excluded.seen_utc_ms",
        (known.seq, known.hash, utc_ms),
    )


def load_known_head(connection: sqlite3.Connection) -> KnownHead | None:
    """What `north.db` remembers; None for nothing, and for a row that is no head.

    Control calls it on a file that it does not trust.
    """
    row: Sequence[object] | None = connection.execute(
        "SELECT seq, hash FROM ledger_head WHERE id = 1"
    ).fetchone()
    if row is None:
        return None
    seq, link = row
    if not isinstance(seq, int) or not isinstance(link, bytes) or len(link) != HASH_BYTES:
        return None
    return KnownHead(seq, link) if seq > 0 else None


def forget_known_head(connection: sqlite3.Connection) -> None:
    """A restored `north.db` speaks of a ledger that may be gone."""
    connection.execute("DELETE FROM ledger_head")


def begin_north_epoch(connection: sqlite3.Connection, epoch: str, *, utc_ms: int) -> None:
    """Start a new epoch (ULID) of `north.db` after a restore: control looks at every request."""
    connection.execute(
        "INSERT INTO store_epoch SELECT coalesce(max(number), 0) + 1, ?, 'restored', ? "
        "FROM store_epoch",
        (epoch, utc_ms),
    )
