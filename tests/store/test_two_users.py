"""A store belongs to one user; another in its group reads it, and can neither write nor make files.

The children become users of no name once they have imported what they need.
"""

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.store_files import ended, python

pytestmark = pytest.mark.slow

WRITER, READER = 65533, 65534

WRITES = """
import os, sys
from pathlib import Path
from gateway.store.db import open_writer, own_directory
from gateway.store.ledger import LEDGER, create_site
from tests.store.store_files import EPOCH, SITE
LEDGER.newest()
directory, create = Path(sys.argv[1]), sys.argv[2] == "create"
os.setgroups([])
os.setgid(65533)
os.setuid(65533)
os.umask(0o027)
owner = own_directory(directory, create=False)
file = open_writer(directory / "ledger.db", LEDGER, owner=owner, create=create)
if create:
    file.connection.execute("BEGIN")
    create_site(file.connection, SITE, EPOCH)
    file.connection.execute("COMMIT")
print("open", flush=True)
for line in sys.stdin:
    if line == "stop\\n":
        file.stop()
        owner.release()
        sys.exit()
    file.connection.execute("INSERT INTO balance VALUES (?, 1)", (line.strip(),))
    print("written", flush=True)
"""

READS = """
import os, sys
from pathlib import Path
from gateway.core.errors import StoreAwayError
from gateway.store.ledger import LEDGER, read_balances
from gateway.store.reader import StoreReader
LEDGER.newest()
directory = Path(sys.argv[1])
os.setgid(65534)
os.setgroups([65533])
os.setuid(65534)
reader = StoreReader(directory / "ledger.db", LEDGER)
print("ready", flush=True)
for line in sys.stdin:
    try:
        print(sorted(reader.read(read_balances)), flush=True)
    except StoreAwayError as error:
        print(f"away: {error}", flush=True)
"""

TRIES = """
import os, sqlite3, sys
os.setgid(65534)
os.setgroups([65533])
os.setuid(65534)
done = []
for name in os.listdir(sys.argv[1]) + ["new-file", "ledger.db-journal"]:
    path = os.path.join(sys.argv[1], name)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
        done.append(f"wrote {name}")
    except PermissionError:
        pass
    try:
        os.unlink(path)
        done.append(f"removed {name}")
    except (PermissionError, FileNotFoundError):
        pass
connection = sqlite3.connect(os.path.join(sys.argv[1], "ledger.db"))
try:
    connection.execute("INSERT INTO balance VALUES ('thief', 1)")
    done.append("inserted")
except sqlite3.OperationalError:
    pass
print(done)
"""


class Child:
    """A process that is told a line and answers a line."""

    def __init__(self, code: str, *arguments: str) -> None:
        self.process = python(code, *arguments)
        self.first = self._line()

    def ask(self, line: str) -> str:
        """Its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self._line()

    def end(self, line: str = "") -> None:
        """Tell it to end, and wait."""
        self.process.communicate(f"{line}\n" if line else "", timeout=20)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.communicate(timeout=20)

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            assert self.process.stderr is not None
            raise AssertionError(self.process.stderr.read())
        return line


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory as systemd makes it: the writer's, its group may read."""
    if os.getuid() != 0:
        pytest.skip("needs root to become two other users")
    for path in (tmp_path, *tmp_path.parents):
        if path != Path("/") and path.stat().st_mode & 0o005 != 0o005:
            path.chmod(path.stat().st_mode | 0o005)
    made = tmp_path / "control"
    made.mkdir(mode=0o750)
    os.chown(made, WRITER, WRITER)
    made.chmod(0o750)
    writer = Child(WRITES, str(made), "create")
    assert writer.ask("a") == "written"
    writer.end("stop")
    yield made
    assert ended(python(TRIES, str(made))) == "[]\n"
    assert {path.stat().st_uid for path in made.iterdir()} == {WRITER}


def names(directory: Path) -> list[str]:
    """The files of the ledger."""
    return sorted(path.name for path in directory.glob("ledger.db*"))


def test_reader_after_a_clean_stop(directory: Path) -> None:
    """-wal and -shm were left for the reader, who reads, and makes and removes nothing."""
    before = names(directory)
    assert before == ["ledger.db", "ledger.db-shm", "ledger.db-wal"]
    reader = Child(READS, str(directory))
    assert reader.ask("read") == "['a']"
    reader.end()
    assert names(directory) == before


def test_reader_while_the_writer_runs_and_after_it_was_killed(directory: Path) -> None:
    """Every commit is seen at once; kill -9 takes none of them from the reader; then a restart."""
    writer = Child(WRITES, str(directory), "open")
    reader = Child(READS, str(directory))
    assert reader.ask("read") == "['a']"
    assert writer.ask("b") == "written"
    assert reader.ask("read") == "['a', 'b']"
    writer.kill()
    assert reader.ask("read") == "['a', 'b']"
    late = Child(READS, str(directory))
    assert late.ask("read") == "['a', 'b']"
    again = Child(WRITES, str(directory), "open")
    assert again.ask("c") == "written"
    assert reader.ask("read") == late.ask("read") == "['a', 'b', 'c']"
    for child in (reader, late):
        child.end()
    again.end("stop")


def test_reader_that_was_there_first(directory: Path) -> None:
    """A reader before the writer does not hinder its start, and follows it."""
    reader = Child(READS, str(directory))
    assert reader.ask("read") == "['a']"
    writer = Child(WRITES, str(directory), "open")
    assert writer.ask("b") == "written"
    assert reader.ask("read") == "['a', 'b']"
    writer.end("stop")
    assert reader.ask("read") == "['a', 'b']"
    reader.end()


def test_reader_of_a_file_without_companions_is_away_until_the_writer_comes(
    directory: Path,
) -> None:
    """A restored file alone has no -shm, and the reader may not make one: away, then there."""
    with sqlite3.connect(directory / "ledger.db") as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (directory / name).unlink(missing_ok=True)
    reader = Child(READS, str(directory))
    assert reader.ask("read").startswith("away")
    assert names(directory) == ["ledger.db"]
    writer = Child(WRITES, str(directory), "open")
    assert reader.ask("read") == "['a']"
    writer.end("stop")
    reader.end()


def test_children_are_really_other_users(directory: Path) -> None:
    """The tests above would prove nothing as root."""
    child = subprocess.run(
        ["/bin/sh", "-c", f"ls {directory}"],
        user=READER,
        group=READER,
        extra_groups=[],
        capture_output=True,
        check=False,
    )
    assert child.returncode != 0
