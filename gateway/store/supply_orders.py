"""Limits of power and overrides in `ledger.db`: what persons ordered, and when it ended."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.core.override import Override, OverrideKind, Scope
from gateway.core.requests import Role
from gateway.store.rows import as_int, as_text


@dataclass(frozen=True, slots=True)
class PointLimits:
    """The limits that a person set at a point, in W; 0 is none."""

    service_point_id: str
    t1_w: int
    t2_w: int
    emergency_w: int
    utc_ms: int
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class SupplyOrders:
    """Everything that stands at a start."""

    limits: tuple[PointLimits, ...]
    overrides: tuple[Override, ...]


def read_supply_orders(connection: sqlite3.Connection) -> SupplyOrders:
    """The newest limits of every point, the overrides that nobody and nothing has ended."""
    rows = connection.execute(
        "SELECT service_point_id, t1_w, t2_w, emergency_w, utc_ms, actor, reason FROM supply_limit "
        "WHERE number IN (SELECT max(number) FROM supply_limit GROUP BY service_point_id) "
        "ORDER BY number"
    ).fetchall()
    return SupplyOrders(
        limits=tuple(_limits(row) for row in rows),
        overrides=tuple(standing_overrides(connection)),
    )


def limits_of(connection: sqlite3.Connection, service_point_id: str) -> PointLimits | None:
    """The limits that stand at a point by a person's order; None where none was given."""
    row = connection.execute(
        "SELECT service_point_id, t1_w, t2_w, emergency_w, utc_ms, actor, reason FROM supply_limit "
        "WHERE service_point_id = ? ORDER BY number DESC LIMIT 1",
        (service_point_id,),
    ).fetchone()
    return None if row is None else _limits(row)


def put_limits(connection: sqlite3.Connection, limits: PointLimits, request_key: str) -> None:
    """Keep a new order of limits."""
    connection.execute(
        "INSERT INTO supply_limit (service_point_id, t1_w, t2_w, emergency_w, utc_ms, actor, "
        "reason, request_key) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            limits.service_point_id,
            limits.t1_w,
            limits.t2_w,
            limits.emergency_w,
            limits.utc_ms,
            limits.actor,
            limits.reason,
            request_key,
        ),
    )


def standing_overrides(connection: sqlite3.Connection) -> list[Override]:
    """The overrides without an end on record, oldest first."""
    rows = connection.execute(
        "SELECT number, kind, scope, target, from_utc_ms, until_utc_ms, reason, actor, role "
        "FROM supply_override WHERE number NOT IN (SELECT number FROM supply_override_end) "
        "ORDER BY number"
    ).fetchall()
    return [_override(row) for row in rows]


def put_override(connection: sqlite3.Connection, wanted: Override, request_key: str) -> Override:
    """Keep a new override under the next number; as it stands now."""
    newest = connection.execute("SELECT coalesce(max(number), 0) FROM supply_override").fetchone()
    override = replace(wanted, number=as_int(newest[0]) + 1)
    connection.execute(
        "INSERT INTO supply_override VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            override.number,
            override.kind.value,
            override.scope.value,
            override.target,
            override.from_utc_ms,
            override.until_utc_ms,
            override.reason,
            override.actor,
            override.role.value,
            request_key,
        ),
    )
    return override


def end_override(
    connection: sqlite3.Connection,
    number: int,
    *,
    utc_ms: int,
    actor: str,
    reason: str,
    request_key: str = "",
) -> None:
    """Keep that an override has ended, by a person's request or by its time."""
    connection.execute(
        "INSERT INTO supply_override_end VALUES (?, ?, ?, ?, ?)",
        (number, utc_ms, actor, reason, request_key),
    )


def _limits(row: Sequence[object]) -> PointLimits:
    return PointLimits(
        service_point_id=as_text(row[0]),
        t1_w=as_int(row[1]),
        t2_w=as_int(row[2]),
        emergency_w=as_int(row[3]),
        utc_ms=as_int(row[4]),
        actor=as_text(row[5]),
        reason=as_text(row[6]),
    )


def _override(row: Sequence[object]) -> Override:
    return Override(
        number=as_int(row[0]),
        kind=OverrideKind(as_text(row[1])),
        scope=Scope(as_text(row[2])),
        target=as_text(row[3]),
        from_utc_ms=as_int(row[4]),
        until_utc_ms=as_int(row[5]),
        reason=as_text(row[6]),
        actor=as_text(row[7]),
        role=Role(as_text(row[8])),
    )
