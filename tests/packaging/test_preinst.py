"""The guard before an installation: stores of a newer version are refused, older ones copied."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from gateway.app.clock import SystemClock
from gateway.app.config import load_config
from gateway.app.stores import create_stores
from gateway.store.ledger import LEDGER
from gateway.store.requests import NORTH

ROOT: Final = Path(__file__).parent.parent.parent
CONFIG: Final = """\
site: {id: terrace, name: Terrace, timezone: Asia/Kolkata, currency: INR}
state_dir: state
meters:
  - {id: flat-1, model: pac3220, host: 127.0.0.9, p_max_w: 7360}
"""

pytestmark = pytest.mark.skipif(shutil.which("sync") is None, reason="coreutils are missing")


class Host:
    """A machine below one directory: the script with its places moved there, and real stores."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.kept = directory / "kept"
        (directory / "config.yaml").write_text(CONFIG, encoding="utf-8")
        create_stores(load_config(directory / "config.yaml"), SystemClock())
        self.ledger = self.state / "control" / "ledger.db"
        self._script = directory / "preinst"
        self._directory = directory

    def preinst(self, ledger: int, north: int) -> subprocess.CompletedProcess[str]:
        """Run the script of a version that knows these schemas, as for a first installation."""
        text = (ROOT / "packaging" / "debian" / "preinst").read_text(encoding="utf-8")
        known = f"{LEDGER.application_id}:{ledger} {NORTH.application_id}:{north}"
        for old, new in (
            ("@SCHEMAS@", known),
            ("@PYTHON@", sys.executable),
            ("@VERSION@", "9.9"),
            ("@ARCHITECTURE@", "amd64"),
            ("/var/lib/prepaid-gateway", str(self.state)),
            ("/var/backups/prepaid-gateway", str(self.kept)),
            ("/etc/prepaid-gateway", str(self._directory / "nowhere")),
            ("/opt/prepaid-gateway", str(self._directory / "nowhere")),
            ("/run/", f"{self._directory}/run/"),
        ):
            text = text.replace(old, new)
        assert not re.search(r"^\w+=/(var|etc|opt|run)", text, re.MULTILINE)
        self._script.write_text(text, encoding="utf-8")
        return subprocess.run(
            ["/bin/sh", str(self._script), "install"],
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
            env={"PATH": os.environ["PATH"]},
        )

    def files(self) -> dict[str, bytes]:
        """Every file of the stores."""
        return {str(path): path.read_bytes() for path in self.state.rglob("*") if path.is_file()}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """An initialised site on this version's schemas."""
    return Host(tmp_path)


def test_a_version_of_the_same_schemas_goes_on(host: Host) -> None:
    """Nothing is said, copied or changed."""
    before = host.files()
    answer = host.preinst(LEDGER.newest(), NORTH.newest())
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    assert list(host.kept.iterdir()) == []
    assert host.files() == before


def test_an_older_version_is_refused_and_changes_nothing(host: Host) -> None:
    """Money that an older version cannot read stays with the newer one; the reason is named."""
    before = host.files()
    answer = host.preinst(LEDGER.newest() - 1, NORTH.newest())
    assert answer.returncode == 1
    assert "version 9.9 cannot read these stores" in answer.stderr
    line = f"{host.ledger}: schema {LEDGER.newest()}, known {LEDGER.newest() - 1}"
    assert line in answer.stderr
    assert "Nothing was changed" in answer.stderr
    assert not host.kept.exists()
    assert host.files() == before


def test_a_schema_that_stands_in_the_log_only_is_seen(host: Host) -> None:
    """A migration that was not written back yet (power cut, `kill -9`) is refused too."""
    newest = LEDGER.newest()
    with closing(sqlite3.connect(host.ledger)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute(f"PRAGMA user_version={newest + 1}")
        assert int.from_bytes(host.ledger.read_bytes()[60:64], "big") == newest
        answer = host.preinst(newest, NORTH.newest())
    assert answer.returncode == 1
    assert f"schema {newest + 1}, known {newest}" in answer.stderr


def test_a_newer_version_copies_before_it_migrates(host: Host) -> None:
    """What the first start will migrate lies there byte by byte, for root alone."""
    answer = host.preinst(LEDGER.newest() + 1, NORTH.newest())
    assert answer.returncode == 0, answer.stderr
    copy = host.kept / "before-9.9"
    assert (copy / "control/ledger.db").read_bytes() == host.ledger.read_bytes()
    assert (copy.stat().st_mode & 0o777) == 0o700
    # The requests stay as they are: a ledger that is put back gets what it lacks from them.
    assert not (copy / "north").exists()


def test_a_second_try_keeps_the_first_copy(host: Host) -> None:
    """An upgrade that is repeated after it failed never overwrites the way back."""
    for _ in range(2):
        assert host.preinst(LEDGER.newest() + 1, NORTH.newest() + 1).returncode == 0
    copies = list(host.kept.glob("before-9.9*"))
    assert len(copies) == 2
    for copy in copies:
        for store in ("control/ledger.db", "north/north.db"):
            assert (copy / store).read_bytes() == (host.state / store).read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_initialises_belongs_to_the_directorys_owner(tmp_path: Path) -> None:
    """`init` as root leaves stores that the units' users can write."""
    for name, uid in (("control", 4001), ("north", 4002)):
        (tmp_path / "state" / name).mkdir(parents=True)
        os.chown(tmp_path / "state" / name, uid, uid)
    host = Host(tmp_path)
    for name, uid in (("control", 4001), ("north", 4002)):
        owners = {path.stat().st_uid for path in (host.state / name).iterdir()}
        assert owners == {uid}


def test_what_is_no_file_is_passed_over(host: Host) -> None:
    """A named pipe or directory, in a place that north may write, holds up no upgrade."""
    os.mkfifo(host.state / "north" / "pipe.db")
    (host.state / "north" / "folder.db").mkdir()
    assert host.preinst(LEDGER.newest(), NORTH.newest()).returncode == 0
    assert host.preinst(LEDGER.newest() - 1, NORTH.newest()).returncode == 1
