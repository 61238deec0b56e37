"""Group commit: what is durable when, and what an error takes with it."""

import asyncio
import gc
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

from gateway.core.errors import (
    RefusedError,
    StoreBusyError,
    StoreCorruptError,
    StoreError,
)
from gateway.store.audit import audit_head
from gateway.store.db import Connection, StoreFile, open_writer
from gateway.store.ledger import LEDGER, read_balance
from gateway.store.verify import verify_ledger
from gateway.store.writer import (
    GroupCommitWriter,
    InlineWriter,
    StoreWriter,
)
from tests.store.store_files import killed, ledger_file, owned, python


@pytest.fixture
def file(tmp_path: Path) -> Iterator[StoreFile]:
    """A ledger file."""
    with ledger_file(tmp_path / "control") as opened:
        yield opened


@pytest.fixture(params=[GroupCommitWriter, InlineWriter])
def writer(request: pytest.FixtureRequest, file: StoreFile) -> Iterator[StoreWriter]:
    """Both kinds of writer: they must behave alike."""
    made: StoreWriter = request.param(file)
    yield made
    made.close(5)


def insert(connection: Connection, name: str) -> str:
    """Write one row."""
    connection.execute("INSERT INTO balance VALUES (?, 1)", (name,))
    return name


def stored(file: StoreFile) -> list[str]:
    """What another connection sees."""
    other = sqlite3.connect(file.path)
    names = [row[0] for row in other.execute("SELECT ledger_account FROM balance ORDER BY 1")]
    other.close()
    return names


def test_result_comes_after_commit(writer: StoreWriter, file: StoreFile) -> None:
    """When the future resolves, another connection sees the row."""
    assert writer.submit(lambda connection: insert(connection, "a")).result(5) == "a"
    assert stored(file) == ["a"]


def test_failing_operation_is_undone_alone(file: StoreFile) -> None:
    """Of three operations in one transaction the failing one leaves nothing; the others stay."""
    writer = GroupCommitWriter(file)
    gate, running = threading.Event(), threading.Event()

    def hold(_: Connection) -> str:
        running.set()
        gate.wait(10)
        return "held"

    def half(connection: Connection) -> str:
        insert(connection, "half")
        raise RefusedError("NO", "not so")

    held = writer.submit(hold)
    assert running.wait(5)

    futures = [
        writer.submit(lambda connection: insert(connection, "first")),
        writer.submit(half),
        writer.submit(lambda connection: insert(connection, "last")),
    ]
    gate.set()
    assert held.result(5) == "held"
    with pytest.raises(RefusedError, match="not so"):
        futures[1].result(5)
    assert [futures[0].result(5), futures[2].result(5)] == ["first", "last"]
    assert stored(file) == ["first", "last"]
    assert writer.committed_batches == 2
    assert writer.committed_operations == 4
    writer.close(5)


def test_sql_error_becomes_a_store_error(writer: StoreWriter, file: StoreFile) -> None:
    """Nobody outside the store needs sqlite3 to catch a broken constraint; work goes on."""
    writer.submit(lambda connection: insert(connection, "a")).result(5)
    with pytest.raises(StoreError, match="UNIQUE"):
        writer.submit(lambda connection: insert(connection, "a")).result(5)
    assert writer.submit(lambda connection: insert(connection, "b")).result(5) == "b"
    assert stored(file) == ["a", "b"]


def test_nothing_resolves_before_the_batch_commits(file: StoreFile) -> None:
    """The first operation of a batch is not confirmed while the second still runs."""
    writer = GroupCommitWriter(file)
    first_gate, second_gate = threading.Event(), threading.Event()
    running = threading.Event()
    writer.submit(lambda _: first_gate.wait(10))
    early = writer.submit(lambda connection: insert(connection, "early"))

    def late(connection: Connection) -> str:
        running.set()
        second_gate.wait(10)
        return insert(connection, "late")

    waiting = writer.submit(late)
    first_gate.set()
    assert running.wait(5)
    assert not early.done()
    assert stored(file) == []
    second_gate.set()
    assert [early.result(5), waiting.result(5)] == ["early", "late"]
    writer.close(5)


def test_queue_is_bounded_and_counts_refusals(file: StoreFile) -> None:
    """Beyond the bound an operation is refused at once; what was taken is still done."""
    writer = GroupCommitWriter(file, capacity=2)
    gate, running = threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        running.set()
        gate.wait(10)

    writer.submit(hold)
    assert running.wait(5)
    taken = [writer.submit(partial(insert, name=name)) for name in ("a", "b")]
    with pytest.raises(StoreBusyError):
        writer.submit(lambda connection: insert(connection, "c"))
    assert writer.refused_full == 1
    gate.set()
    assert [future.result(5) for future in taken] == ["a", "b"]
    writer.close(5)


def test_operation_that_commits_by_itself_is_fatal(file: StoreFile) -> None:
    """An operation may not end the transaction that others share."""
    failures: list[StoreError] = []
    writer = GroupCommitWriter(file, on_fatal=failures.append)
    with pytest.raises(StoreError, match="must not end the transaction"):
        writer.submit(lambda connection: connection.execute("COMMIT")).result(5)
    assert len(failures) == 1


def test_full_disk_is_fatal_for_all_that_wait(file: StoreFile) -> None:
    """SQLITE_FULL fails every waiting future and every later one, and is told once."""
    failures: list[StoreError] = []
    writer = GroupCommitWriter(file, on_fatal=failures.append)
    gate = threading.Event()
    writer.submit(lambda _: gate.wait(10))
    pages = file.connection.execute("PRAGMA page_count").fetchone()[0]
    file.connection.execute(f"PRAGMA max_page_count={pages}")
    waiting = [
        writer.submit(lambda connection: insert(connection, "x" * 100_000)),
        writer.submit(lambda connection: insert(connection, "after")),
    ]
    gate.set()
    for future in waiting:
        with pytest.raises(StoreError, match="full"):
            future.result(5)
    with pytest.raises(StoreError, match="full"):
        writer.submit(lambda connection: insert(connection, "later"))
    writer.close(5)
    assert [str(failure) for failure in failures] == [str(writer.failure)]
    assert stored(file) == []


def test_full_disk_under_a_second_file_is_fatal_too(file: StoreFile, tmp_path: Path) -> None:
    """An operation that fills another file (a day of readings) may not go on as if nothing was."""
    other = sqlite3.connect(tmp_path / "day.db", isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE t (x)")
    other.execute("PRAGMA max_page_count=2")
    failures: list[StoreError] = []
    writer = GroupCommitWriter(file, on_fatal=failures.append)

    def fill(connection: Connection) -> None:
        insert(connection, "staged")
        other.execute("INSERT INTO t VALUES (zeroblob(100000))")

    with pytest.raises(StoreError, match="full"):
        writer.submit(fill).result(5)
    writer.close(5)
    other.close()
    assert len(failures) == 1
    assert stored(file) == []


def test_damage_met_by_an_operation_is_fatal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A malformed page is no matter of one operation: nothing more is written to that file."""
    with ledger_file(tmp_path / "c") as made:
        made.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = made.connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'audit'"
        ).fetchone()[0]
    path = tmp_path / "c" / "ledger.db"
    content = bytearray(path.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    monkeypatch.setattr("gateway.store.db.WHOLE_CHECK_BYTES", 0)
    failures: list[StoreError] = []
    with owned(tmp_path / "c") as owner:
        file = open_writer(path, LEDGER, owner=owner, create=False)
        writer = GroupCommitWriter(file, on_fatal=failures.append)
        with pytest.raises(StoreCorruptError):
            writer.submit(audit_head).result(5)
        with pytest.raises(StoreError):
            writer.submit(lambda connection: insert(connection, "a"))
        writer.close(5)
        file.connection.close()
    assert len(failures) == 1


def test_error_nobody_foresaw_leaves_nobody_waiting(file: StoreFile) -> None:
    """Even when the thread itself dies, the futures get an error rather than nothing."""
    failures: list[StoreError] = []

    def break_down(_: int) -> None:
        raise KeyboardInterrupt

    writer = GroupCommitWriter(file, on_fatal=failures.append, on_blocked=break_down)
    file.connection.execute("PRAGMA busy_timeout=10")
    holder = sqlite3.connect(file.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    before, threading.excepthook = threading.excepthook, lambda _: None
    try:
        with pytest.raises(StoreError, match="thread ended"):
            writer.submit(lambda connection: insert(connection, "a")).result(5)
    finally:
        threading.excepthook = before
        holder.close()
    assert len(failures) == 1


def test_blocked_write_waits_and_is_reported(file: StoreFile) -> None:
    """While another process holds the file the write waits, counted, and then succeeds."""
    rounds: list[int] = []
    blocked = threading.Event()

    def on_blocked(number: int) -> None:
        rounds.append(number)
        blocked.set()

    file.connection.execute("PRAGMA busy_timeout=20")
    writer = GroupCommitWriter(file, on_blocked=on_blocked)
    holder = sqlite3.connect(file.path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    future = writer.submit(lambda connection: insert(connection, "a"))
    assert blocked.wait(5)
    assert not future.done()
    holder.execute("ROLLBACK")
    assert future.result(5) == "a"
    assert rounds[0] == 1
    assert writer.blocked_rounds == len(rounds)
    holder.close()
    writer.close(5)


def test_file_held_for_too_long_is_given_up(
    file: StoreFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the bound of rounds the writer fails instead of waiting for ever."""
    monkeypatch.setattr("gateway.store.writer.BLOCKED_ROUNDS_MAX", 3)
    file.connection.execute("PRAGMA busy_timeout=5")
    writer = GroupCommitWriter(file)
    holder = sqlite3.connect(file.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="too long"):
        writer.submit(lambda connection: insert(connection, "a")).result(5)
    assert writer.blocked_rounds == 3
    holder.close()


def test_inline_writer_tells_of_a_held_file(file: StoreFile) -> None:
    """Inline there is no waiting thread: a held file is an error at once."""
    file.connection.execute("PRAGMA busy_timeout=5")
    holder = sqlite3.connect(file.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError):
        InlineWriter(file).submit(lambda connection: insert(connection, "a"))
    holder.close()


def test_cancelled_operation_is_not_run(file: StoreFile) -> None:
    """What was cancelled before its turn leaves no trace."""
    writer = GroupCommitWriter(file)
    gate = threading.Event()
    writer.submit(lambda _: gate.wait(10))
    unwanted = writer.submit(lambda connection: insert(connection, "unwanted"))
    assert unwanted.cancel()
    gate.set()
    writer.submit(lambda connection: insert(connection, "wanted")).result(5)
    assert stored(file) == ["wanted"]
    writer.close(5)


def test_close_commits_what_waits_and_takes_no_more(writer: StoreWriter, file: StoreFile) -> None:
    """Everything submitted before `close` is on the disk after it."""
    futures: list[Future[str]] = [
        writer.submit(partial(insert, name=f"row-{n:03}")) for n in range(300)
    ]
    writer.close(10)
    assert all(future.done() for future in futures)
    assert len(stored(file)) == 300
    with pytest.raises(StoreError, match="closed"):
        writer.submit(lambda connection: insert(connection, "late"))


def test_close_has_a_deadline(file: StoreFile) -> None:
    """An operation that does not end is not waited for beyond the deadline."""
    writer = GroupCommitWriter(file)
    gate = threading.Event()
    writer.submit(lambda _: gate.wait(10))
    with pytest.raises(StoreError, match="did not finish"):
        writer.close(0.05)
    gate.set()
    writer.close(5)


async def test_result_can_be_awaited(writer: StoreWriter) -> None:
    """`asyncio.wrap_future` brings result and error into the event loop."""
    done = await asyncio.wait_for(
        asyncio.wrap_future(writer.submit(lambda connection: insert(connection, "a"))), 5
    )
    assert done == "a"
    with pytest.raises(StoreError):
        await asyncio.wait_for(
            asyncio.wrap_future(writer.submit(lambda connection: insert(connection, "a"))), 5
        )


async def test_what_was_committed_needs_no_cycle_collector(writer: StoreWriter) -> None:
    """A whole sweep hangs on its operation: sweeps that wait to be collected are memory lost."""
    gc.disable()
    try:
        sweep = {"a"}
        gone = weakref.ref(sweep)
        operation = partial(lambda kept, connection: insert(connection, *kept), sweep)
        await asyncio.wait_for(asyncio.wrap_future(writer.submit(operation)), 5)
        del sweep, operation
        # Its thread holds the last batch until there is another one.
        await asyncio.wait_for(asyncio.wrap_future(writer.submit(lambda c: insert(c, "b"))), 5)
        assert gone() is None
    finally:
        gc.enable()


COMMITS = """
import sys
from pathlib import Path
from gateway.store.db import open_writer, own_directory
from gateway.store.ledger import LEDGER, append_transaction
from gateway.store.writer import GroupCommitWriter
from tests.store.store_files import recharge
directory = Path(sys.argv[1])
owner = own_directory(directory, create=False)
writer = GroupCommitWriter(open_writer(directory / "ledger.db", LEDGER, owner=owner, create=False))
number = int(sys.argv[2])
pending = []
while True:
    transaction = recharge("a", 1_000, key=f"k{number}")
    pending.append((number, writer.submit(lambda c, t=transaction: append_transaction(c, t))))
    number += 1
    if len(pending) >= 20:
        done, future = pending.pop(0)
        future.result()
        print(done, flush=True)
"""


@pytest.mark.slow
def test_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """kill -9 ten times in the middle of writing: every acknowledged row is there, chain whole."""
    with ledger_file(tmp_path / "control") as file:
        pass
    acknowledged: set[int] = set()
    begin = 1
    for attempt in range(10):
        child = python(COMMITS, str(file.path.parent), str(begin))
        assert child.stdout is not None
        for _ in range(5 + 40 * attempt):
            text = child.stdout.readline()
            assert text, child.stderr.read() if child.stderr else ""
            acknowledged.add(int(text))
        acknowledged.update(int(text) for text in killed(child))
        begin = max(acknowledged) + 1_000
    other = sqlite3.connect(file.path, isolation_level=None)
    keys = {int(row[0][1:]) for row in other.execute("SELECT request_key FROM ledger_transaction")}
    assert acknowledged <= keys
    assert len(acknowledged) > 300
    assert read_balance(other, "wallet:a") == 1_000 * len(keys)
    report = verify_ledger(other)
    assert report.proved, report.problems
    assert report.transactions == len(keys)
    other.close()


def test_cancelled_operation_harms_no_other_when_the_transaction_is_repeated_or_fails(
    file: StoreFile,
) -> None:
    """Who gave up waiting is passed over: on a disk that gets room, and on one that stays full."""
    limit = file.connection.execute("PRAGMA page_count").fetchone()[0]
    file.connection.execute(f"PRAGMA max_page_count={limit}")
    gate, rooms = threading.Event(), [1_000_000]

    def more_room() -> bool:
        if rooms:
            file.connection.execute(f"PRAGMA max_page_count={rooms.pop()}")
            return True
        return False

    def large(connection: Connection) -> str:
        return insert(connection, "x" * 50_000)

    writer = GroupCommitWriter(file, on_full=more_room)
    held = writer.submit(lambda _: gate.wait(10))
    given_up = writer.submit(lambda connection: insert(connection, "given up"))
    assert given_up.cancel()
    wanted = writer.submit(large)
    gate.set()
    assert (held.result(5), len(wanted.result(5)), writer.failure) == (True, 50_000, None)
    assert stored(file) == ["x" * 50_000]
    limit = file.connection.execute("PRAGMA page_count").fetchone()[0]
    file.connection.execute(f"PRAGMA max_page_count={limit}")
    gate.clear()
    writer.submit(lambda _: gate.wait(10))
    assert writer.submit(lambda connection: insert(connection, "given up")).cancel()
    unlucky = [writer.submit(lambda connection: insert(connection, "y" * 50_000)) for _ in "ab"]
    gate.set()
    for future in unlucky:
        with pytest.raises(StoreError, match="full"):
            future.result(5)
    writer.close(5)
