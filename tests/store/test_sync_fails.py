"""EIO on fsync is final: the process ends, nothing is synced again, the next start reads the file.

After such an error the kernel may have thrown the pages away and a second fsync would say yes:
whatever was not confirmed before is unknown, so only a fresh start from the file is right.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from gateway.store.db import open_writer
from gateway.store.ledger import LEDGER, read_transactions
from gateway.store.verify import verify_ledger
from tests.store.store_files import ROOT, owned

pytestmark = pytest.mark.slow

COMPILER: Final = shutil.which("cc") or shutil.which("gcc")
WRITES: Final = """
import os, sys
from pathlib import Path
from gateway.core.errors import StoreError
from gateway.store.db import open_writer, own_directory
from gateway.store.ledger import LEDGER, append_transaction, create_site
from gateway.store.writer import GroupCommitWriter
from tests.store.store_files import EPOCH, SITE, recharge

base, fatal = Path(sys.argv[1]), []
owner = own_directory(base / "c", create=True)
file = open_writer(base / "c" / "ledger.db", LEDGER, owner=owner, create=True)
file.connection.execute("BEGIN")
create_site(file.connection, SITE, EPOCH)
file.connection.execute("COMMIT")
writer = GroupCommitWriter(file, on_fatal=fatal.append)

def post(key):
    posting = recharge("a", 5, key=key)
    return writer.submit(lambda connection: append_transaction(connection, posting))

for number in range(20):
    print("confirmed", post(f"k{number}").result(10), flush=True)
(base / "now").touch()
for number in range(20, 23):
    try:
        print("confirmed", post(f"k{number}").result(10), flush=True)
    except StoreError as error:
        print("refused", error, flush=True)
print("fatal", len(fatal), flush=True)
os._exit(1)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes syncing fail."""
    if COMPILER is None:
        pytest.skip("no C compiler: EIO on fsync cannot be simulated")
    built = tmp_path_factory.mktemp("shim") / "sync_fails.so"
    source = Path(__file__).parent / "sync_fails.c"
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-O1", "-Wall", "-o", built, source, "-ldl"], check=True
    )
    return built


def preloaded(shim: Path, base: Path, part: str) -> dict[str, str]:
    """The environment in which syncs of files with `part` in their path fail once told."""
    return {
        **os.environ,
        "LD_PRELOAD": str(shim),
        "FAIL_WHEN": str(base / "now"),
        "FAIL_PATH": part,
        "FAIL_COUNT": str(base / "count"),
    }


def test_failed_sync_is_fatal_and_never_tried_again(shim: Path, tmp_path: Path) -> None:
    """One EIO: everyone who waits or comes later is refused, told once, and no second fsync."""
    done = subprocess.run(
        [sys.executable, "-c", WRITES, str(tmp_path)],
        cwd=ROOT,
        env=preloaded(shim, tmp_path, "ledger.db"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["confirmed"] * 20 + ["refused"] * 3 + ["fatal"]
    assert "disk I/O error" in lines[20]
    assert lines[-1] == "fatal 1"
    assert (tmp_path / "count").stat().st_size == 1
    with owned(tmp_path / "c") as owner:
        file = open_writer(tmp_path / "c" / "ledger.db", LEDGER, owner=owner, create=False)
        found = read_transactions(file.connection, 1, 100)
        # What was confirmed is there; the one whose fate was unknown may be, once.
        assert [posted.request_key for posted, _ in found[:20]] == [f"k{n}" for n in range(20)]
        assert len(found) in (20, 21)
        assert verify_ledger(file.connection).proved
        file.connection.close()
