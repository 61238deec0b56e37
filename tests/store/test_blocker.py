"""Naming the process that blocks a store file."""

from pathlib import Path

import pytest

from gateway.core.errors import StoreError
from gateway.store.blocker import LockHolder, LockProbe
from tests.store.store_files import ended, ledger_file, python

HOLDS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
connection.execute("SELECT count(*) FROM site").fetchone()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "locks"), [("BEGIN IMMEDIATE", ["write", "read"]), ("BEGIN", ["read"])]
)
def test_holder_is_named(tmp_path: Path, statement: str, locks: list[str]) -> None:
    """A foreign writer holds write and read locks, a forgotten reader a read lock."""
    with ledger_file(tmp_path / "c") as file:
        probe = LockProbe(file.path)
        assert probe.holders() == []
        child = python(HOLDS, str(file.path), statement)
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert probe.holders() == [LockHolder(child.pid, lock) for lock in locks]
        ended(child)
        assert probe.holders() == []


def test_own_locks_are_not_reported(tmp_path: Path) -> None:
    """The writer's own transaction is no blocker, and a look leaves its locks in place."""
    with ledger_file(tmp_path / "c") as file:
        file.connection.execute("BEGIN IMMEDIATE")
        assert LockProbe(file.path).holders() == []
        file.connection.execute("COMMIT")
    with pytest.raises(StoreError):
        LockProbe(tmp_path / "absent.db")
