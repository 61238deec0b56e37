"""A process that keeps the ledger's file locked is named, and its supervisor ends it."""

import asyncio
import sys
from pathlib import Path

import pytest

from gateway.app.clock import SystemClock
from gateway.app.supervise import Child, Supervisor
from tests.store.store_files import ROOT, ledger_file

pytestmark = pytest.mark.slow

CONTROL = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from gateway.app.clock import SystemClock
from gateway.app.control.storewatch import StoreWatch
from gateway.app.notify import Notifier
from gateway.store.db import open_writer, own_directory
from gateway.store.ledger import LEDGER, append_transaction
from gateway.store.writer import GroupCommitWriter
from tests.store.store_files import recharge

directory = Path(sys.argv[1])
owner = own_directory(directory, create=False)
file = open_writer(directory / "ledger.db", LEDGER, owner=owner, create=False)
notifier = Notifier.of_environment()
watch = StoreWatch(file.path, directory, 0, notifier, SystemClock())
watch.opened()
events = []
watch.tell = lambda kind, severity, facts: events.append((kind, severity, facts["holders"]))
writer = GroupCommitWriter(file, on_blocked=watch.blocked)
notifier.ready()
while not (directory / "held").exists():
    pass
posting = recharge("a", 5, key="k")
writer.submit(lambda connection: append_transaction(connection, posting)).result(60)
watch.look()
(directory / "committed.part").write_text(repr(events))
(directory / "committed.part").rename(directory / "committed")
sys.stdin.read()
import time
time.sleep(600)
"""

# A read lock on byte 120 of -shm needs no right to write, and stops every writer.
NORTH = """
import fcntl, os, struct, sys, time
from pathlib import Path
directory = Path(sys.argv[1])
while not (directory / "ledger.db-shm").exists():
    time.sleep(0.01)
if not (directory / "held").exists():
    fd = os.open(directory / "ledger.db-shm", os.O_RDONLY)
    lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 120, 1, 0)
    while True:
        try:
            fcntl.fcntl(fd, fcntl.F_SETLK, lock)
            break
        except OSError:
            time.sleep(0.01)
    (directory / "held").write_text(str(os.getpid()))
time.sleep(600)
"""


async def test_holder_of_the_ledger_is_killed_by_the_supervisor(tmp_path: Path) -> None:
    """A commit blocked for a second: the holder dies and starts again, the commit goes on.

    The alarm names the process and its lock.
    """
    directory = tmp_path / "c"
    with ledger_file(directory) as file:
        file.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    starts: list[tuple[str, int]] = []
    children = [
        Child(
            "control",
            (sys.executable, "-c", CONTROL, str(directory), str(ROOT)),
            watchdog_s=60.0,
        ),
        Child("north", (sys.executable, "-c", NORTH, str(directory)), essential=False),
    ]
    stop = asyncio.Event()
    supervisor = Supervisor(children, SystemClock(), lambda name, pid: starts.append((name, pid)))
    running = asyncio.create_task(supervisor.run(stop))
    async with asyncio.timeout(60):
        while not (directory / "committed").exists():
            await asyncio.sleep(0.05)
    holder = int((directory / "held").read_text())
    assert (directory / "committed").read_text() == repr(
        [("STORE_BLOCKED", "critical", [f"{holder} (write)"])]
    )
    async with asyncio.timeout(60):
        while [name for name, _ in starts] != ["control", "north", "north"]:
            await asyncio.sleep(0.05)
    stop.set()
    await running
