"""Firmware in `ledger.db`: signed images with their bytes, roll-outs with their devices."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from gateway.core.rollout_plan import Head, Image, Member, Phase, Plan, State
from gateway.store.rows import as_bytes, as_int, as_text, document, integers, mapping

# Ended roll-outs beyond so many are forgotten, oldest first.
ROLLOUTS_KEPT: Final = 50
_IMAGES: Final = (
    "SELECT sha256, version, hardware, security, size, signer, utc_ms, actor FROM firmware_image "
)
_ROLLOUTS: Final = (
    "SELECT number, sha256, version, hardware, security, size, plan, actor, utc_ms, state, stage, "
    "base, observed_ms, lull_ms, why, ended_utc_ms FROM rollout "
)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image on file: what it is, the mark of the key that signed it, who added it when."""

    image: Image
    signer: str
    utc_ms: int
    actor: str


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """A roll-out on file. `ended_utc_ms` is None while it goes on."""

    number: int
    image: Image
    plan: Plan
    head: Head
    actor: str
    utc_ms: int
    ended_utc_ms: int | None = None


def put_image(connection: sqlite3.Connection, record: ImageRecord, content: bytes) -> None:
    """Keep an image that is not on file."""
    image = record.image
    connection.execute(
        "INSERT INTO firmware_image VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            image.sha256,
            image.version,
            image.hardware,
            image.security,
            image.size,
            record.signer,
            record.utc_ms,
            record.actor,
            content,
        ),
    )


def remove_image(connection: sqlite3.Connection, sha256: str) -> None:
    """Forget an image."""
    connection.execute("DELETE FROM firmware_image WHERE sha256 = ?", (sha256,))


def read_images(connection: sqlite3.Connection) -> dict[str, ImageRecord]:
    """All images by their SHA-256, oldest first, without their bytes."""
    rows = connection.execute(_IMAGES + "ORDER BY utc_ms, sha256")
    return {
        as_text(row[0]): ImageRecord(
            image=Image(
                sha256=as_text(row[0]),
                version=as_text(row[1]),
                hardware=as_text(row[2]),
                security=as_int(row[3]),
                size=as_int(row[4]),
            ),
            signer=as_text(row[5]),
            utc_ms=as_int(row[6]),
            actor=as_text(row[7]),
        )
        for row in rows
    }


def read_image_bytes(connection: sqlite3.Connection, sha256: str) -> bytes | None:
    """The bundle itself; None without."""
    row = connection.execute(
        "SELECT content FROM firmware_image WHERE sha256 = ?", (sha256,)
    ).fetchone()
    return None if row is None else as_bytes(row[0])


def add_rollout(connection: sqlite3.Connection, record: RolloutRecord) -> None:
    """Keep a new roll-out, and forget the oldest of those that have ended."""
    image, head = record.image, record.head
    connection.execute(
        "INSERT INTO rollout VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.number,
            image.sha256,
            image.version,
            image.hardware,
            image.security,
            image.size,
            document(asdict(record.plan)),
            record.actor,
            record.utc_ms,
            head.state.value,
            head.stage,
            head.base,
            head.observed_ms,
            head.lull_ms,
            head.why,
            record.ended_utc_ms,
        ),
    )
    gone = connection.execute(
        "SELECT number FROM rollout WHERE ended_utc_ms IS NOT NULL AND number NOT IN "
        "(SELECT number FROM rollout ORDER BY number DESC LIMIT ?)",
        (ROLLOUTS_KEPT,),
    ).fetchall()
    connection.executemany("DELETE FROM rollout_device WHERE rollout = ?", gone)
    connection.executemany("DELETE FROM rollout WHERE number = ?", gone)


def put_progress(
    connection: sqlite3.Connection,
    number: int,
    head: Head,
    members: Iterable[tuple[int, Member]],
    *,
    ended_utc_ms: int | None,
) -> None:
    """Keep how far a roll-out is: its head, and those of its devices, by place, that changed."""
    connection.execute(
        "UPDATE rollout SET state = ?, stage = ?, observed_ms = ?, lull_ms = ?, why = ?, "
        "ended_utc_ms = ? WHERE number = ?",
        (
            head.state.value,
            head.stage,
            head.observed_ms,
            head.lull_ms,
            head.why,
            ended_utc_ms,
            number,
        ),
    )
    connection.executemany(
        "INSERT OR REPLACE INTO rollout_device VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                number,
                place,
                one.device_id,
                one.phase.value,
                one.stage,
                one.session,
                one.offset,
                one.best,
                one.quiet_ms,
                one.away_ms,
                one.code,
                one.reason,
            )
            for place, one in members
        ],
    )


def read_rollouts(connection: sqlite3.Connection) -> list[RolloutRecord]:
    """All roll-outs on file, newest first."""
    return [_rollout(row) for row in connection.execute(_ROLLOUTS + "ORDER BY number DESC")]


def read_rollout(connection: sqlite3.Connection, number: int) -> RolloutRecord | None:
    """One roll-out; None without."""
    row = connection.execute(_ROLLOUTS + "WHERE number = ?", (number,)).fetchone()
    return None if row is None else _rollout(row)


def read_members(connection: sqlite3.Connection, number: int) -> list[Member]:
    """The devices of a roll-out in their order."""
    rows = connection.execute(
        "SELECT device_id, phase, stage, session, offset, best, quiet_ms, away_ms, code, reason "
        "FROM rollout_device WHERE rollout = ? ORDER BY place",
        (number,),
    )
    return [
        Member(
            device_id=as_text(row[0]),
            phase=Phase(as_text(row[1])),
            stage=as_int(row[2]),
            session=as_text(row[3]),
            offset=as_int(row[4]),
            best=as_int(row[5]),
            quiet_ms=as_int(row[6]),
            away_ms=as_int(row[7]),
            code=as_text(row[8]),
            reason=as_text(row[9]),
        )
        for row in rows
    ]


def _rollout(row: Sequence[object]) -> RolloutRecord:
    return RolloutRecord(
        number=as_int(row[0]),
        image=Image(
            sha256=as_text(row[1]),
            version=as_text(row[2]),
            hardware=as_text(row[3]),
            security=as_int(row[4]),
            size=as_int(row[5]),
        ),
        plan=_plan(row[6]),
        actor=as_text(row[7]),
        utc_ms=as_int(row[8]),
        head=Head(
            state=State(as_text(row[9])),
            stage=as_int(row[10]),
            base=as_int(row[11]),
            observed_ms=as_int(row[12]),
            lull_ms=as_int(row[13]),
            why=as_text(row[14]),
        ),
        ended_utc_ms=None if row[15] is None else as_int(row[15]),
    )


def _plan(column: object) -> Plan:
    found = mapping(column)
    return Plan(
        stages=integers(document(found["stages"])),
        observe_s=as_int(found["observe_s"]),
        failures_max=as_int(found["failures_max"]),
        parallel_max=as_int(found["parallel_max"]),
        offline_s=as_int(found["offline_s"]),
    )
