"""Switch commands and outcomes of requests in `ledger.db`."""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from gateway.core.errors import StoreError
from gateway.core.requests import Outcome, OutcomeStatus
from gateway.store.rows import document, mapping, page_size, texts

INT64_MAX: Final = 2**63 - 1
PLACE: Final = "place"


class SwitchAction(StrEnum):
    """What an output is told: `open` interrupts supply, `close` connects it."""

    OPEN = "open"
    CLOSE = "close"


class CommandState(StrEnum):
    """queued -> sent -> verified | failed | expired (contract.md, North: HTTP)."""

    QUEUED = "queued"
    SENT = "sent"
    VERIFIED = "verified"
    FAILED = "failed"
    EXPIRED = "expired"

    @property
    def finished(self) -> bool:
        """Whether nothing follows."""
        return self in {CommandState.VERIFIED, CommandState.FAILED, CommandState.EXPIRED}


@dataclass(frozen=True, slots=True)
class SwitchCommand:
    """One order to an output, from intent to proof. `command_id` is a ULID.

    `number` is assigned by the store (0 before), and is the cursor of lists.
    """

    command_id: str
    service_point_id: str
    meter_id: str
    action: SwitchAction
    reason: str
    issued_utc_ms: int
    request_key: str | None = None
    state: CommandState = CommandState.QUEUED
    attempts: int = 0
    finished_utc_ms: int | None = None
    witnesses: tuple[str, ...] = ()
    detail: Mapping[str, object] = field(default_factory=dict)
    number: int = 0


@dataclass(frozen=True, slots=True)
class RequestCursor:
    """How far control has looked at requests: up to `request_id` of the file called `epoch`."""

    epoch: str
    request_id: int


def put_switch_command(connection: sqlite3.Connection, command: SwitchCommand) -> None:
    """Store a command, or the newer state of one that is not finished (same `command_id`).

    Raises sqlite3.IntegrityError (a StoreError through the writer) when it is finished already.
    """
    connection.execute(
        "INSERT INTO switch_command (command_id, service_point_id, meter_id, action, reason, "
        "request_key, state, attempts, issued_utc_ms, finished_utc_ms, witnesses, detail) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (command_id) DO UPDATE SET "
        "state = excluded.state, attempts = excluded.attempts, "
        "finished_utc_ms = excluded.finished_utc_ms, witnesses = excluded.witnesses, "
        "detail = excluded.detail",
        (
            command.command_id,
            command.service_point_id,
            command.meter_id,
            command.action.value,
            command.reason,
            command.request_key,
            command.state.value,
            command.attempts,
            command.issued_utc_ms,
            command.finished_utc_ms,
            document(list(command.witnesses)),
            document(dict(command.detail)),
        ),
    )


def read_command(connection: sqlite3.Connection, command_id: str) -> SwitchCommand | None:
    """One command, or None."""
    return next(iter(_commands(connection, "WHERE command_id = ?", command_id)), None)


def commands_for_key(connection: sqlite3.Connection, request_key: str) -> list[SwitchCommand]:
    """The commands that a request led to, oldest first."""
    return _commands(connection, "WHERE request_key = ? ORDER BY number", request_key)


def open_commands(connection: sqlite3.Connection) -> list[SwitchCommand]:
    """Commands that were never finished, oldest first: a start looks at what became of them."""
    return _commands(connection, "WHERE finished_utc_ms IS NULL ORDER BY number")


def commands_of(
    connection: sqlite3.Connection,
    meter_id: str,
    *,
    before_number: int | None = None,
    limit: int = 50,
) -> list[SwitchCommand]:
    """Commands of a meter, newest first, before a cursor; at most 100 at once."""
    return _commands(
        connection,
        "WHERE meter_id = ? AND number < ? ORDER BY number DESC LIMIT ?",
        meter_id,
        INT64_MAX if before_number is None else before_number,
        page_size(limit),
    )


def record_outcome(connection: sqlite3.Connection, outcome: Outcome) -> None:
    """Write what became of a request, in the transaction of its effect.

    Raises StoreError when the key has an outcome already, so that the effect is undone with it.
    """
    if find_outcome(connection, outcome.key) is not None:
        raise StoreError(f"request {outcome.key} has an outcome already")
    connection.execute(
        "INSERT INTO outcome (request_key, body_hash, type, status, code, message, result, utc_ms) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            outcome.key,
            outcome.body_hash,
            outcome.type,
            outcome.status.value,
            outcome.code,
            outcome.message,
            # What was refused has no result: there stands what it was about.
            document({PLACE: outcome.place} if outcome.place else dict(outcome.result)),
            outcome.utc_ms,
        ),
    )


def find_outcome(connection: sqlite3.Connection, key: str) -> Outcome | None:
    """What became of a request, or None while it is open."""
    return find_outcomes(connection, (key,)).get(key)


def find_outcomes(connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Outcome]:
    """The outcomes of those of `keys` that have one."""
    found: dict[str, Outcome] = {}
    for key in keys:
        row = connection.execute(
            "SELECT request_key, type, body_hash, status, code, message, result, utc_ms "
            "FROM outcome WHERE request_key = ?",
            (key,),
        ).fetchone()
        if row is not None:
            status, result = OutcomeStatus(row[3]), mapping(row[6])
            executed = status is OutcomeStatus.EXECUTED
            found[key] = Outcome(
                key=row[0],
                type=row[1],
                body_hash=row[2],
                status=status,
                code=row[4],
                message=row[5],
                result=result if executed else {},
                utc_ms=row[7],
                place="" if executed else str(result.get(PLACE, "")),
            )
    return found


def save_request_cursor(connection: sqlite3.Connection, cursor: RequestCursor) -> None:
    """Remember how far requests were looked at."""
    connection.execute(
        "INSERT INTO request_cursor VALUES (1, ?, ?) ON CONFLICT (id) DO UPDATE SET "
        "epoch = excluded.epoch, request_id = excluded.request_id",
        (cursor.epoch, cursor.request_id),
    )


def load_request_cursor(connection: sqlite3.Connection) -> RequestCursor | None:
    """How far requests were looked at; None before the first."""
    row = connection.execute("SELECT epoch, request_id FROM request_cursor").fetchone()
    return None if row is None else RequestCursor(*row)


_SWITCH_COMMAND: Final = (
    "SELECT command_id, service_point_id, meter_id, action, reason, issued_utc_ms, "
    "request_key, state, attempts, finished_utc_ms, witnesses, detail, number "
    "FROM switch_command "
)


def _commands(
    connection: sqlite3.Connection, where: str, *values: str | int
) -> list[SwitchCommand]:
    rows = connection.execute(_SWITCH_COMMAND + where, values)
    return [
        SwitchCommand(
            command_id=row[0],
            service_point_id=row[1],
            meter_id=row[2],
            action=SwitchAction(row[3]),
            reason=row[4],
            issued_utc_ms=row[5],
            request_key=row[6],
            state=CommandState(row[7]),
            attempts=row[8],
            finished_utc_ms=row[9],
            witnesses=texts(row[10]),
            detail=mapping(row[11]),
            number=row[12],
        )
        for row in rows
    ]
