"""A full disk: readings stop first, the ballast goes to the ledger, the ledger goes on.

The tests that fill a disk do it in children with a small file system of their own.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.app.clock import SystemClock
from gateway.app.control.storewatch import Ballast, StoreWatch
from gateway.app.notify import Notifier
from gateway.store.db import Connection
from gateway.store.writer import FULL_ROUNDS_MAX, GroupCommitWriter
from tests.store.store_files import ROOT, ledger_file

UNSHARE = shutil.which("unshare")


def on_small_disk(directory: Path, megabytes: int, code: str) -> list[str]:
    """Run `code` with `DISK`, a file system of that size; what it printed.

    Skips where this user may not mount.
    """
    if os.getuid() != 0 or UNSHARE is None:
        pytest.skip("needs root and unshare(1) to mount a small file system")
    directory.mkdir()
    probe = subprocess.run(
        [UNSHARE, "--mount", "mount", "-t", "tmpfs", "tmpfs", str(directory)],
        capture_output=True,
        check=False,
    )
    if probe.returncode != 0:
        pytest.skip("this machine lets nobody mount: no small disk to fill")
    command = f'mount -t tmpfs -o size={megabytes}m tmpfs {directory} && exec "$@"'
    done = subprocess.run(
        [UNSHARE, "--mount", "sh", "-c", command, "sh", sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "DISK": str(directory), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


FILL = """
import json, os, sys
from pathlib import Path
from gateway.store.db import open_writer, own_directory
from gateway.store.ledger import LEDGER, append_transaction, create_site, read_transactions
from gateway.store.writer import GroupCommitWriter
from gateway.app.control.storewatch import StoreWatch
from gateway.app.clock import SystemClock
from gateway.app.notify import Notifier
from gateway.core.errors import StoreError
from tests.store.store_files import SITE, EPOCH, recharge

disk = Path(os.environ["DISK"])
control = disk / "control"
owner = own_directory(control, create=True)
telemetry = control / "telemetry"
telemetry.mkdir()

def flood(name):
    # Whatever is left, to the last page.
    with open(disk / name, "wb", buffering=0) as hog:
        try:
            while True:
                hog.write(bytes(4096))
        except OSError:
            pass
"""

LEDGER_GOES_ON = """
watch = StoreWatch(control / "ledger.db", telemetry, 10**12, Notifier(None), SystemClock())
events, said = [], {}
watch.tell = lambda kind, severity, facts: events.append(f"{kind} {severity}")
for day in ("2026-11-18", "2026-11-19", "2026-11-20"):
    (telemetry / f"{day}.db").write_bytes(bytes(3_000_000))
file = open_writer(control / "ledger.db", LEDGER, owner=owner, create=True)
file.connection.execute("BEGIN")
create_site(file.connection, SITE, EPOCH)
file.connection.execute("COMMIT")
watch.opened()
writer = GroupCommitWriter(file, on_full=watch.make_room)
said["readings before"] = watch.allows_readings()
watch.renew_ballast()
said["ballast before"] = watch._ballast.is_there
flood("hog")
said["readings"] = watch.allows_readings()
watch.look()
for number in range(250):
    posting = recharge("a", 1 + number, key=f"k{number}" + "x" * 2_000)
    writer.submit(lambda connection: append_transaction(connection, posting)).result(10)
watch.look()
said["posted"] = len(read_transactions(file.connection, 1, 1_000))
said["ballast"] = watch._ballast.is_there
said["days"] = sorted(path.name for path in telemetry.iterdir())
os.unlink(disk / "hog")
watch.renew_ballast()
watch.look()
said["ballast after"] = watch._ballast.is_there
said["readings after"] = watch.allows_readings()
said["events"] = events
writer.close(5)
print(json.dumps(said))
"""


@pytest.mark.slow
def test_ledger_goes_on_when_everything_else_has_filled_the_disk(tmp_path: Path) -> None:
    """Promise 10: every write of the ledger succeeds: ballast first, then the oldest readings.

    The newest days stay, alarms are told once, and with room again the ballast is back.
    """
    said = json.loads(on_small_disk(tmp_path / "disk", 64, FILL + LEDGER_GOES_ON)[-1])
    assert said == {
        "readings before": True,
        "ballast before": True,
        "readings": False,
        "posted": 250,
        "ballast": False,
        "days": ["2026-11-19.db", "2026-11-20.db"],
        "ballast after": True,
        "readings after": True,
        "events": [
            "DISK_LOW warning",
            "DISK_FULL critical",
            "DISK_LOW cleared",
            "DISK_FULL cleared",
        ],
    }


def test_full_disk_is_tried_again_while_room_is_made(tmp_path: Path) -> None:
    """The same transaction runs again, whole, after each room that was made; then it is fatal."""
    rounds: list[int] = []
    with ledger_file(tmp_path / "c") as file:
        limit = file.connection.execute("PRAGMA page_count").fetchone()[0]
        file.connection.execute(f"PRAGMA max_page_count={limit}")

        def more_room() -> bool:
            rounds.append(1)
            if len(rounds) == 2:
                file.connection.execute("PRAGMA max_page_count=1000000")
            return True

        writer = GroupCommitWriter(file, on_full=more_room)

        def insert(connection: Connection) -> str:
            connection.execute("INSERT INTO audit VALUES (1, 0, ?, zeroblob(32))", ("x" * 50_000,))
            return "kept"

        assert writer.submit(insert).result(5) == "kept"
        assert (len(rounds), writer.full_rounds, writer.failure) == (2, 2, None)
        assert file.connection.execute("SELECT count(*) FROM audit").fetchone() == (1,)
        writer.close(5)


def test_full_disk_without_end_is_fatal(tmp_path: Path) -> None:
    """Room that is promised for ever and never there ends the process, as before."""
    with ledger_file(tmp_path / "c") as file:
        limit = file.connection.execute("PRAGMA page_count").fetchone()[0]
        file.connection.execute(f"PRAGMA max_page_count={limit}")
        writer = GroupCommitWriter(file, on_full=lambda: True)
        future = writer.submit(
            lambda connection: connection.execute(
                "INSERT INTO audit VALUES (1, 0, ?, zeroblob(32))", ("x" * 50_000,)
            )
        )
        with pytest.raises(Exception, match="full"):
            future.result(5)
        assert (writer.full_rounds, writer.failure is not None) == (FULL_ROUNDS_MAX, True)
        writer.close(5)


def test_ballast_takes_its_space_and_gives_it_up(tmp_path: Path) -> None:
    """It really occupies the disk, and giving it up twice gives nothing twice."""
    ballast = Ballast(tmp_path)
    ballast.size = 1_000_000
    assert ballast.make()
    assert ballast.path.stat().st_blocks * 512 >= 1_000_000
    assert ballast.path.stat().st_mode & 0o777 == 0o600
    assert [ballast.release(), ballast.release()] == [True, False]


def test_ballast_of_a_process_that_was_killed_meanwhile_is_made_whole(tmp_path: Path) -> None:
    """A file with nothing behind it is no ballast: the next look takes the space."""
    with ledger_file(tmp_path / "c") as file:
        watch = StoreWatch(file.path, tmp_path, 0, Notifier(None), SystemClock())
        watch._ballast.size = 1_000_000
        watch._ballast.path.touch()
        watch.renew_ballast()
        assert watch._ballast.path.stat().st_blocks * 512 >= 1_000_000


def test_alarms_begin_and_end_once(tmp_path: Path) -> None:
    """Low space and a large WAL are told when they begin and when they are over."""
    events: list[tuple[str, str]] = []
    with ledger_file(tmp_path / "c") as file:
        watch = StoreWatch(file.path, tmp_path, 0, Notifier(None), SystemClock())
        watch.tell = lambda kind, severity, _facts: events.append((kind, severity))
        wal = file.path.with_name("ledger.db-wal")
        size = wal.stat().st_size
        os.truncate(wal, 65 * 1024 * 1024)
        watch.look()
        watch.look()
        os.truncate(wal, size)
        watch.look()
        assert events == [("WAL_LARGE", "warning"), ("WAL_LARGE", "cleared")]
        events.clear()
        room = os.statvfs(tmp_path)
        watch._floor = room.f_bavail * room.f_frsize
        watch.look()
        assert not watch.allows_readings() or watch.free_bytes() >= watch._floor
        watch._floor = 0
        watch.look()
    assert events == [("DISK_LOW", "warning"), ("DISK_LOW", "cleared")]
