"""Limits and overrides in `ledger.db`: the newest counts, nothing is ever changed."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.override import Override, OverrideKind, Scope
from gateway.core.requests import Role
from gateway.store.db import Connection
from gateway.store.registry import ServicePoint, put_service_point
from gateway.store.supply_orders import (
    PointLimits,
    end_override,
    limits_of,
    put_limits,
    put_override,
    read_supply_orders,
    standing_overrides,
)
from tests.store.store_files import ledger_file

LIMITS = PointLimits("flat-1", 5_000, 2_000, 0, 10, "anna", "contract")
KEEP = Override(
    0, OverrideKind.KEEP_CONNECTED, Scope.POINT, "flat-1", 10, 20, "sick", "anna", Role.MANAGER
)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    """An open ledger with one service point."""
    with ledger_file(tmp_path) as file:
        put_service_point(file.connection, ServicePoint("flat-1", "Flat 1"))
        yield file.connection


def test_the_newest_limits_of_a_point_count(connection: Connection) -> None:
    """The earlier ones stay on record."""
    assert limits_of(connection, "flat-1") is None
    put_limits(connection, LIMITS, "k-1")
    newer = replace(LIMITS, t1_w=0, actor="bela")
    put_limits(connection, newer, "k-2")
    assert limits_of(connection, "flat-1") == newer
    assert read_supply_orders(connection).limits == (newer,)
    assert connection.execute("SELECT count(*) FROM supply_limit").fetchone()[0] == 2


def test_an_override_stands_until_its_end_is_on_record(connection: Connection) -> None:
    """Numbers go on, also after an end."""
    first = put_override(connection, KEEP, "k-1")
    second = put_override(connection, replace(KEEP, scope=Scope.SITE, target=""), "k-2")
    assert (first.number, second.number) == (1, 2)
    assert standing_overrides(connection) == [first, second]
    end_override(connection, 1, utc_ms=15, actor="bela", reason="well again", request_key="k-3")
    assert read_supply_orders(connection).overrides == (second,)
    assert put_override(connection, KEEP, "k-4").number == 3
    with pytest.raises(sqlite3.IntegrityError):
        end_override(connection, 1, utc_ms=16, actor="bela", reason="twice")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE supply_limit SET actor = 'x'",
        "DELETE FROM supply_limit",
        "UPDATE supply_override SET actor = 'x'",
        "DELETE FROM supply_override",
        "UPDATE supply_override_end SET actor = 'x'",
        "DELETE FROM supply_override_end",
    ],
)
def test_nothing_is_changed_or_deleted(connection: Connection, statement: str) -> None:
    """Append-only, by the schema."""
    put_limits(connection, LIMITS, "k-1")
    put_override(connection, KEEP, "k-2")
    end_override(connection, 1, utc_ms=15, actor="bela", reason="x")
    with pytest.raises(sqlite3.DatabaseError, match="append-only"):
        connection.execute(statement)


@pytest.mark.parametrize(
    "change",
    [{"until_utc_ms": 10}, {"target": ""}, {"reason": ""}, {"scope": Scope.SITE}],
)
def test_the_schema_refuses_what_may_not_stand(
    connection: Connection, change: dict[str, object]
) -> None:
    """Even if the program forgot to look."""
    with pytest.raises(sqlite3.IntegrityError):
        put_override(connection, replace(KEEP, **change), "k")  # type: ignore[arg-type]
