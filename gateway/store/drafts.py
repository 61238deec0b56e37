"""Tariffs that wait for a second person in `ledger.db`."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.errors import RefusedError
from gateway.store.rows import as_int, as_text, document, mapping


@dataclass(frozen=True, slots=True)
class TariffDraft:
    """A tariff that a first person wants to publish.

    `rise` says in words what rose most against version `follows`, the newest then (0: a program
    before this one kept the draft). `replay` is what it would have come to in the days before, as
    it was counted for the first person; empty where it was not.
    """

    number: int
    tariff_id: str
    document: Mapping[str, object]
    rise: str
    utc_ms: int
    actor: str
    follows: int
    replay: Mapping[str, object]


def draft_result(tariff_id: str, number: int, rise: str) -> dict[str, object]:
    """What a publication answers that became a draft: nothing changed yet, and who goes on how."""
    return {
        "tariff_id": tariff_id,
        "published": False,
        "draft": number,
        "rise": rise,
        "next": f"not in force: another manager decides on draft {number} "
        f"(prepaid-gateway tariff decide {number}, "
        f"or POST /api/v1/tariff-drafts/{number}/decision)",
    }


def put_draft(
    connection: sqlite3.Connection,
    *,
    tariff_id: str,
    content: Mapping[str, object],
    rise: str,
    follows: int,
    utc_ms: int,
    actor: str,
    replay: Mapping[str, object] | None = None,
) -> int:
    """Keep a draft; its number."""
    row = connection.execute(
        "INSERT INTO tariff_draft (tariff_id, document, rise, utc_ms, actor, follows, replay) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING number",
        (
            tariff_id,
            document(dict(content)),
            rise,
            utc_ms,
            actor,
            follows,
            document(dict(replay or {})),
        ),
    ).fetchone()
    return as_int(row[0])


def decide_draft(
    connection: sqlite3.Connection,
    number: int,
    *,
    accepted: bool,
    reason: str,
    utc_ms: int,
    actor: str,
) -> None:
    """Record the second person's word. Raises RefusedError DRAFT_UNKNOWN (none, or decided)."""
    if number not in {draft.number for draft in open_drafts(connection)}:
        raise RefusedError("DRAFT_UNKNOWN", f"no draft {number} waits for a decision", "draft")
    connection.execute(
        "INSERT INTO tariff_decision VALUES (?, ?, ?, ?, ?)",
        (number, int(accepted), reason, utc_ms, actor),
    )


def open_drafts(connection: sqlite3.Connection) -> list[TariffDraft]:
    """Drafts that wait for a second person, oldest first."""
    rows = connection.execute(
        "SELECT number, tariff_id, document, rise, utc_ms, actor, follows, replay "
        "FROM tariff_draft "
        "WHERE number NOT IN (SELECT number FROM tariff_decision) ORDER BY number"
    )
    return [
        TariffDraft(
            as_int(row[0]),
            as_text(row[1]),
            mapping(row[2]),
            as_text(row[3]),
            as_int(row[4]),
            as_text(row[5]),
            as_int(row[6]),
            mapping(row[7]),
        )
        for row in rows
    ]
