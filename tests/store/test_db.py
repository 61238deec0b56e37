"""Opening, locking, migrating and leaving store files."""

import os
import sqlite3
import subprocess
from pathlib import Path

import pytest

from gateway.core.errors import (
    StoreAwayError,
    StoreCorruptError,
    StoreError,
    StoreLockedError,
    StoreMissingError,
)
from gateway.store.db import (
    DIRECTORY_MODE,
    FILE_MODE,
    StoreSchema,
    check_whole,
    open_reader,
    open_writer,
    own_directory,
    reading,
)
from gateway.store.ledger import LEDGER, read_site
from gateway.store.reader import StoreReader
from tests.store.store_files import ended, ledger_file, owned, python


def schema_of(folder: Path, *scripts: str) -> StoreSchema:
    """A schema of the given numbered scripts."""
    folder.mkdir(exist_ok=True)
    for number, script in enumerate(scripts, start=1):
        (folder / f"{number:04}_step.sql").write_text(script)
    return StoreSchema("probe", 77, folder)


@pytest.mark.parametrize("umask", [0, 0o077])
def test_file_and_directory_are_closed_to_others(tmp_path: Path, umask: int) -> None:
    """A made directory has mode 0750, the file and its companions 0640, whatever the umask."""
    before = os.umask(umask)
    try:
        with ledger_file(tmp_path / "control"):
            modes = {
                path.name: path.stat().st_mode & 0o777
                for path in (tmp_path / "control").glob("ledger.db*")
            }
            directory_mode = (tmp_path / "control").stat().st_mode & 0o777
    finally:
        os.umask(before)
    assert directory_mode == DIRECTORY_MODE
    assert modes == {
        "ledger.db": FILE_MODE,
        "ledger.db-wal": FILE_MODE,
        "ledger.db-shm": FILE_MODE,
    }


def test_writer_is_configured_for_power_cuts(tmp_path: Path) -> None:
    """WAL, FULL, foreign keys, triggers for REPLACE, no trust in a schema, bounded sizes."""
    with ledger_file(tmp_path / "c") as file:
        settings = {
            name: file.connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in (
                "journal_mode",
                "synchronous",
                "foreign_keys",
                "recursive_triggers",
                "trusted_schema",
                "cell_size_check",
                "journal_size_limit",
                "cache_size",
            )
        }
    assert settings == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "recursive_triggers": 1,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "journal_size_limit": 8 * 1024 * 1024,
        # In KiB where it is below zero.
        "cache_size": -2_000,
    }


def test_second_instance_is_refused_with_the_holders_id(tmp_path: Path) -> None:
    """Another process holds the directory: the error names its process id."""
    child = python(
        "import sys\nfrom pathlib import Path\nfrom gateway.store.db import own_directory\n"
        "owner = own_directory(Path(sys.argv[1]), create=True)\n"
        "print('held', flush=True)\nsys.stdin.read()",
        str(tmp_path / "c"),
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(StoreLockedError, match=f"process {child.pid}"):
        own_directory(tmp_path / "c", create=False)
    ended(child)
    own_directory(tmp_path / "c", create=False).release()


def test_missing_file_names_init_and_backup(tmp_path: Path) -> None:
    """Without `create` nothing is made, and the message says what to do."""
    with owned(tmp_path / "c") as owner, pytest.raises(StoreMissingError) as caught:
        open_writer(tmp_path / "c" / "ledger.db", LEDGER, owner=owner, create=False)
    assert "prepaid-gateway init" in str(caught.value)
    assert "bring back a backup" in str(caught.value)
    assert not (tmp_path / "c" / "ledger.db").exists()
    with pytest.raises(StoreMissingError):
        own_directory(tmp_path / "absent", create=False)


def test_unfinished_creation_counts_as_missing(tmp_path: Path) -> None:
    """An empty file (killed while it was created) is not taken for an empty ledger."""
    with owned(tmp_path / "c") as owner:
        path = tmp_path / "c" / "ledger.db"
        path.touch()
        with pytest.raises(StoreMissingError):
            open_writer(path, LEDGER, owner=owner, create=False)
        open_writer(path, LEDGER, owner=owner, create=True).connection.close()


def test_file_that_is_no_database_names_backup(tmp_path: Path) -> None:
    """Foreign bytes are refused as damaged, and left as they are."""
    with owned(tmp_path / "c") as owner:
        path = tmp_path / "c" / "ledger.db"
        path.write_bytes(b"these are not the bytes of a database " * 200)
        before = path.read_bytes()
        with pytest.raises(StoreCorruptError, match="bring back a backup"):
            open_writer(path, LEDGER, owner=owner, create=True)
        assert path.read_bytes() == before


def test_damaged_page_is_found_at_start(tmp_path: Path) -> None:
    """A page overwritten with noise is found before anything is written."""
    with ledger_file(tmp_path / "c") as file:
        file.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root = file.connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'account'"
        ).fetchone()[0]
    path = tmp_path / "c" / "ledger.db"
    content = bytearray(path.read_bytes())
    content[(root - 1) * 4096 : root * 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    with owned(tmp_path / "c") as owner, pytest.raises(StoreCorruptError, match="backup"):
        open_writer(path, LEDGER, owner=owner, create=False)


def test_large_file_is_checked_where_it_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large file the small tables are checked at start; the rest by the whole check."""
    with ledger_file(tmp_path / "c") as file:
        file.connection.execute("BEGIN")
        for number in range(3_000):
            file.connection.execute(
                "INSERT INTO audit VALUES (?, 0, ?, zeroblob(32))", (number + 1, "x" * 200)
            )
        file.connection.execute("COMMIT")
        file.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        roots = dict(file.connection.execute("SELECT name, rootpage FROM sqlite_schema").fetchall())
    path = tmp_path / "c" / "ledger.db"
    good = path.read_bytes()
    monkeypatch.setattr("gateway.store.db.WHOLE_CHECK_BYTES", 0)
    for table, found_at_start in (("audit", False), ("account", True)):
        content = bytearray(good)
        page = roots[table]
        content[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
        path.write_bytes(content)
        with owned(tmp_path / "c") as owner:
            if found_at_start:
                with pytest.raises(StoreCorruptError):
                    open_writer(path, LEDGER, owner=owner, create=False)
                continue
            file = open_writer(path, LEDGER, owner=owner, create=False)
            with pytest.raises(StoreCorruptError):
                check_whole(file.connection, path)
            file.connection.close()


def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    """A healthy SQLite file without our mark is not migrated over."""
    with owned(tmp_path / "c") as owner:
        path = tmp_path / "c" / "ledger.db"
        with sqlite3.connect(path) as foreign:
            foreign.execute("CREATE TABLE songs (title)")
        foreign.close()
        with pytest.raises(StoreCorruptError, match="not a ledger file"):
            open_writer(path, LEDGER, owner=owner, create=True)


def test_whole_check_passes_on_a_good_file(tmp_path: Path) -> None:
    """The check of every page that `ledger verify` runs finds nothing in a fresh file."""
    with ledger_file(tmp_path / "c") as file:
        check_whole(file.connection, file.path)


def test_file_outside_the_owned_directory_is_refused(tmp_path: Path) -> None:
    """A lock of one directory gives no right to write in another."""
    with owned(tmp_path / "c") as owner, pytest.raises(StoreError, match="outside"):
        open_writer(tmp_path / "ledger.db", LEDGER, owner=owner, create=True)


def test_migrations_run_once_each_in_order(tmp_path: Path) -> None:
    """A file of schema 1 with rows becomes schema 2 and keeps them; the first step is not rerun."""
    one = schema_of(tmp_path / "one", "CREATE TABLE t (x); INSERT INTO t VALUES (1);")
    two = schema_of(
        tmp_path / "two",
        "CREATE TABLE t (x); INSERT INTO t VALUES (1);",
        "ALTER TABLE t ADD COLUMN y; UPDATE t SET y = x + 1;",
    )
    with owned(tmp_path / "c") as owner:
        path = tmp_path / "c" / "p.db"
        open_writer(path, one, owner=owner, create=True).connection.close()
        file = open_writer(path, two, owner=owner, create=False)
        assert file.connection.execute("SELECT x, y FROM t").fetchall() == [(1, 2)]
        assert file.connection.execute("PRAGMA user_version").fetchone() == (2,)
        file.connection.close()


def test_failing_migration_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """Half a migration is no migration: the statements before the failing one are undone."""
    one = schema_of(tmp_path / "one", "CREATE TABLE t (x);")
    bad = schema_of(
        tmp_path / "bad", "CREATE TABLE t (x);", "INSERT INTO t VALUES (9); SELECT * FROM nowhere;"
    )
    with owned(tmp_path / "c") as owner:
        path = tmp_path / "c" / "p.db"
        open_writer(path, one, owner=owner, create=True).connection.close()
        with pytest.raises(StoreError, match="migration to schema 2 failed"):
            open_writer(path, bad, owner=owner, create=False)
        file = open_writer(path, one, owner=owner, create=False)
        assert file.connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
        file.connection.close()


@pytest.mark.slow
def test_migration_killed_half_way_starts_over(tmp_path: Path) -> None:
    """kill -9 inside a migration leaves the old schema; the next start finishes the new one."""
    one = schema_of(tmp_path / "one", "CREATE TABLE t (x);")
    with owned(tmp_path / "c") as owner:
        open_writer(tmp_path / "c" / "p.db", one, owner=owner, create=True).connection.close()
    endless = (
        "INSERT INTO t VALUES (1);"
        "CREATE TABLE u AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
        "WHERE i < 2000000000) SELECT sum(i) AS total FROM n;"
    )
    schema_of(tmp_path / "slow", "CREATE TABLE t (x);", endless)
    child = python(
        "import sys\nfrom pathlib import Path\n"
        "from gateway.store.db import StoreSchema, open_writer, own_directory\n"
        "base = Path(sys.argv[1])\nowner = own_directory(base / 'c', create=False)\n"
        "print('migrating', flush=True)\n"
        "open_writer(base / 'c' / 'p.db', StoreSchema('probe', 77, base / 'slow'), owner=owner, "
        "create=False)",
        str(tmp_path),
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "migrating\n"
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(1.0)
    child.kill()
    child.communicate(timeout=10)
    two = schema_of(
        tmp_path / "two", "CREATE TABLE t (x);", "CREATE TABLE u AS SELECT count(*) AS n FROM t;"
    )
    with owned(tmp_path / "c") as owner:
        file = open_writer(tmp_path / "c" / "p.db", two, owner=owner, create=False)
        assert file.connection.execute("SELECT n FROM u").fetchone() == (0,)
        file.connection.close()


def test_newer_file_is_refused_by_the_writer(tmp_path: Path) -> None:
    """A file written by a newer version is not touched by an older one."""
    two = schema_of(tmp_path / "two", "CREATE TABLE t (x);", "CREATE TABLE u (x);")
    one = schema_of(tmp_path / "one", "CREATE TABLE t (x);")
    with owned(tmp_path / "c") as owner:
        open_writer(tmp_path / "c" / "p.db", two, owner=owner, create=True).connection.close()
        with pytest.raises(StoreError, match="install the version"):
            open_writer(tmp_path / "c" / "p.db", one, owner=owner, create=False)


def test_readers_accept_their_schema_and_the_next(tmp_path: Path) -> None:
    """A reader that knows N reads N and N+1; N+2 and N-1 are reported as away."""
    scripts = ["CREATE TABLE t (x);", "CREATE TABLE u (x);", "CREATE TABLE v (x);"]
    schemas = [schema_of(tmp_path / f"s{n}", *scripts[:n]) for n in (1, 2, 3)]
    with owned(tmp_path / "c") as owner:
        path = tmp_path / "c" / "p.db"
        for newest, answers in ((1, "yn-"), (2, "yyn"), (3, "nyy")):
            open_writer(path, schemas[newest - 1], owner=owner, create=True).connection.close()
            for schema, answer in zip(schemas, answers, strict=True):
                if answer == "y":
                    open_reader(path, schema).close()
                elif answer == "n":
                    with pytest.raises(StoreAwayError):
                        open_reader(path, schema)


def test_reader_cannot_write(tmp_path: Path) -> None:
    """A read-only connection refuses INSERT."""
    with ledger_file(tmp_path / "c") as file:
        connection = open_reader(file.path, LEDGER)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("INSERT INTO balance VALUES ('x', 1)")
        connection.close()


def test_absent_file_is_away_for_a_reader(tmp_path: Path) -> None:
    """A reader waits for its file rather than making one."""
    with pytest.raises(StoreAwayError), reading(tmp_path / "ledger.db", LEDGER):
        pass
    assert not (tmp_path / "ledger.db").exists()


def test_endless_look_is_stopped(tmp_path: Path) -> None:
    """A look that would hold its snapshot for long ends as away, and the next one works."""
    with ledger_file(tmp_path / "c") as file:
        reader = StoreReader(file.path, LEDGER, steps_max=1_000_000)
        endless = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
        )
        with pytest.raises(StoreAwayError):
            reader.read(lambda connection: connection.execute(endless).fetchone())
        assert reader.read(read_site).site_id == "palm-court"
        reader.close()


def test_look_leaves_no_snapshot_behind(tmp_path: Path) -> None:
    """A cursor that was not fetched to its end is refused, and the WAL can be emptied."""
    with ledger_file(tmp_path / "c") as file:
        reader = StoreReader(file.path, LEDGER)
        with pytest.raises(TypeError, match="fetch all"):
            reader.read(lambda connection: connection.execute("SELECT * FROM sqlite_schema"))
        file.connection.execute("INSERT INTO balance VALUES ('x', 1)")
        busy, left, done = file.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert (busy, left, done) == (0, 0, 0)
        reader.close()


def test_reader_sees_changes_and_a_replaced_file(tmp_path: Path) -> None:
    """`changed` is true once per commit of another connection and once for a restored file."""
    with ledger_file(tmp_path / "c") as file:
        reader = StoreReader(file.path, LEDGER)
        assert [reader.changed(), reader.changed()] == [True, False]
        file.connection.execute("INSERT INTO balance VALUES ('x', 1)")
        assert [reader.changed(), reader.changed()] == [True, False]
    with ledger_file(tmp_path / "other") as other:
        other.connection.execute("INSERT INTO balance VALUES ('y', 2)")
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (tmp_path / "c" / name).unlink(missing_ok=True)
    (tmp_path / "other" / "ledger.db").replace(tmp_path / "c" / "ledger.db")
    with owned(tmp_path / "c") as owner:
        again = open_writer(tmp_path / "c" / "ledger.db", LEDGER, owner=owner, create=False)
        assert reader.changed()
        names = reader.read(
            lambda connection: connection.execute("SELECT ledger_account FROM balance").fetchall()
        )
        assert names == [("y",)]
        again.connection.close()
    reader.close()


STOP = """
import sys
from pathlib import Path
from gateway.store.db import open_writer, own_directory
from gateway.store.ledger import LEDGER
owner = own_directory(Path(sys.argv[1]), create=False)
file = open_writer(Path(sys.argv[1]) / "ledger.db", LEDGER, owner=owner, create=False)
file.connection.execute("INSERT INTO balance VALUES ('stopped', 5)")
if sys.argv[2] == "stop":
    file.stop()
    owner.release()
"""

READ = """
import os, sys
from pathlib import Path
from gateway.store.db import reading
from gateway.store.ledger import LEDGER, read_balances
directory = Path(sys.argv[1])
LEDGER.newest()
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(65534)
assert not os.access(directory, os.W_OK)
assert not os.access(directory / "ledger.db-shm", os.W_OK)
with reading(directory / "ledger.db", LEDGER) as connection:
    print(sorted(read_balances(connection).items()))
"""


@pytest.mark.slow
def test_reader_of_another_user_reads_after_a_clean_stop(tmp_path: Path) -> None:
    """After the writer's process ended, a user who may not write the directory still reads it."""
    if os.getuid() != 0:
        pytest.skip("needs root to become another user")
    group = 65533
    with ledger_file(tmp_path / "c"):
        pass
    for path in (tmp_path, *tmp_path.parents):
        if path != Path("/") and path.stat().st_mode & 0o005 != 0o005:
            path.chmod(path.stat().st_mode | 0o005)
    os.chown(tmp_path / "c", 0, group)
    ended(python(STOP, str(tmp_path / "c"), "stop"))
    names = sorted(path.name for path in (tmp_path / "c").glob("ledger.db*"))
    assert names == ["ledger.db", "ledger.db-shm", "ledger.db-wal"]
    assert (tmp_path / "c" / "ledger.db-wal").stat().st_size == 0
    for path in (tmp_path / "c").glob("ledger.db*"):
        os.chown(path, 0, group)
    assert ended(python(READ, str(tmp_path / "c"), str(group))) == "[('stopped', 5)]\n"
