"""`backup`: one file, proved, taken from a site that goes on writing."""

import gzip
import os
import resource
import signal
import sqlite3
import tarfile
import threading
from pathlib import Path

import pytest

from gateway.app.archive import read_manifest, unpack
from gateway.app.backup import BackupOptions, make_backup
from gateway.core.errors import RefusedError, StoreError
from gateway.store.backup import copy_store
from gateway.store.db import open_writer, own_directory
from gateway.store.ledger import LEDGER
from gateway.store.requests import NORTH
from tests.app.backup_site import ask, backed_up, begun, paths, silent, tree
from tests.app.control_site import ControlSite


@pytest.fixture
async def site(tmp_path: Path) -> ControlSite:
    """A running control with an account."""
    return await begun(tmp_path / "site")


def test_a_backup_holds_both_stores_as_they_are(site: ControlSite, tmp_path: Path) -> None:
    """Members, heads and modes; the state directory is as it was; nothing lies beside the file."""
    ask(site, "r-1")
    before = tree(site.config.state_dir)
    made = backed_up(site, tmp_path / "off")
    assert tree(site.config.state_dir) == before
    assert list((tmp_path / "off").iterdir()) == [made.path]
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert made.manifest.ledger_seq == site.proof().head.seq
    assert made.manifest.ledger_hash == site.proof().head.hash.hex()
    assert read_manifest(made.path) == made.manifest
    names = [member.name for member in made.manifest.members]
    assert names == ["ledger.db", "north.db", "config/config.yaml"]
    unpack(made.path, lambda member: tmp_path / member.name.replace("/", "-"), lambda _: None)
    found = sqlite3.connect(tmp_path / "north.db").execute("SELECT key FROM request").fetchall()
    assert found == [("r-1",)]


async def test_readings_are_added_where_they_are_asked_for(
    site: ControlSite, tmp_path: Path
) -> None:
    """With --telemetry every file of theirs is a member."""
    await site.sweeper.sweep()
    made = backed_up(site, tmp_path / "off", telemetry=True)
    kept = {path.name for path in paths(site).telemetry_dir.glob("*.db")}
    assert kept
    members = {member.name for member in made.manifest.members}
    assert {f"telemetry/{name}" for name in kept} <= members


def test_a_copy_is_one_instant_of_a_file_that_is_being_written(tmp_path: Path) -> None:
    """Two rows that are always equal are equal in the copy, and the copy ends."""
    owner = own_directory(tmp_path / "n", create=True)
    file = open_writer(tmp_path / "n" / "north.db", NORTH, owner=owner, create=True)
    file.connection.execute("CREATE TABLE pair (a INTEGER, b INTEGER, filling BLOB)")
    fill = "INSERT INTO pair SELECT 0, 0, randomblob(3000) FROM generate"
    many = (
        "WITH RECURSIVE generate(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM generate LIMIT 3000)"
    )
    file.connection.execute(f"{many} {fill}")
    steps: list[int] = []
    written = 0
    stop = threading.Event()

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            written += 1
            file.connection.execute("UPDATE pair SET a = ?, b = ? WHERE rowid < 5", (written,) * 2)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copy_store(
            tmp_path / "n" / "north.db",
            tmp_path / "copy.db",
            NORTH,
            progress=lambda done, _total: steps.append(done),
        )
    finally:
        stop.set()
        writer.join()
    assert written > 1
    assert len(steps) > 5
    assert steps == sorted(steps), "the copy began anew"
    copy = sqlite3.connect(tmp_path / "copy.db")
    assert copy.execute("SELECT count(*) FROM pair WHERE a <> b").fetchone() == (0,)
    assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)


async def test_a_target_that_is_too_slow_is_given_up(site: ControlSite, tmp_path: Path) -> None:
    """Before control's log grows large: what was copied so far is of no use."""
    await site.sweeper.sweep()
    with pytest.raises(RefusedError) as refused:
        copy_store(paths(site).ledger, tmp_path / "copy.db", LEDGER, wal_bytes_max=10)
    assert refused.value.refusal_code == "BACKUP_SLOW"


def test_of_the_dated_backups_the_newest_are_kept(site: ControlSite, tmp_path: Path) -> None:
    """Others in the directory are nobody's business."""
    off = tmp_path / "off"
    off.mkdir()
    other = off / "palm-20200101T000000Z.tar.gz.part"
    other.write_text("not ours")
    made = []
    for _ in range(4):
        site.clock.pass_s(60)
        options = BackupOptions(off, keep=2)
        made.append(make_backup(site.config, site.clock, options, silent))
    assert [len(one.removed) for one in made] == [0, 0, 1, 1]
    assert sorted(off.iterdir()) == sorted([other, made[2].path, made[3].path])


@pytest.mark.parametrize(
    ("target", "keep", "code"),
    [
        ("there.tar.gz", None, "BACKUP_EXISTS"),
        ("nowhere/new.tar.gz", None, "BACKUP_TARGET"),
        ("new.tar.gz", 3, "BACKUP_TARGET"),
        ("site/state/new.tar.gz", None, "BACKUP_TARGET"),
        ("site/state/control", None, "BACKUP_TARGET"),
    ],
)
def test_a_wrong_target_is_refused(
    site: ControlSite, tmp_path: Path, target: str, keep: int | None, code: str
) -> None:
    """With the reason, and nothing is made."""
    (tmp_path / "there.tar.gz").write_text("a backup")
    before = tree(tmp_path)
    with pytest.raises(RefusedError) as refused:
        make_backup(site.config, site.clock, BackupOptions(tmp_path / target, keep=keep), silent)
    assert refused.value.refusal_code == code
    assert tree(tmp_path) == before


def test_a_ledger_that_does_not_prove_itself_is_not_backed_up(
    site: ControlSite, tmp_path: Path
) -> None:
    """A backup of it would look like a good one; the older ones are."""
    site.file.connection.execute("UPDATE balance SET amount_nano = amount_nano + 1")
    with pytest.raises(RefusedError) as refused:
        backed_up(site, tmp_path / "off")
    assert refused.value.refusal_code == "BACKUP_UNPROVED"
    assert list((tmp_path / "off").iterdir()) == []


def test_a_disk_that_is_full_leaves_nothing_behind(site: ControlSite, tmp_path: Path) -> None:
    """The kernel refuses to write further (a limit on file sizes): reason, and no half file."""
    off = tmp_path / "off"
    off.mkdir()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            make_backup(site.config, site.clock, BackupOptions(off), silent)
        except StoreError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert list(off.iterdir()) == []


def changed(archive: Path, target: Path, at: int) -> Path:
    """The archive with one byte of its content altered, packed again as before."""
    content = bytearray(gzip.decompress(archive.read_bytes()))
    content[at] ^= 0x01
    target.write_bytes(gzip.compress(bytes(content), compresslevel=1))
    return target


def test_an_altered_or_short_archive_is_noticed(site: ControlSite, tmp_path: Path) -> None:
    """One bit anywhere in a member, any cut, anything else: BACKUP_DAMAGED, and never a crash."""
    archive = backed_up(site, tmp_path / "off").path
    with tarfile.open(archive) as tar:
        inside = [
            entry.offset_data + step * entry.size // 5
            for entry in tar.getmembers()[1:]
            for step in range(5)
        ]
    bad = [changed(archive, tmp_path / f"bit-{at}", at) for at in inside]
    whole = archive.read_bytes()
    for end in (0, 1, 20, len(whole) // 3, len(whole) - 1_000):
        bad.append(tmp_path / f"cut-{end}")
        bad[-1].write_bytes(whole[:end])
    bad.append(tmp_path / "text")
    bad[-1].write_text("no archive at all")
    for path in bad:
        with pytest.raises(RefusedError) as refused:
            unpack(path, lambda _: None, lambda _: None)
        assert refused.value.refusal_code == "BACKUP_DAMAGED", path.name


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "telemetry/../../evil", "site-key.pem"])
def test_a_manifest_cannot_name_a_foreign_place(
    site: ControlSite, tmp_path: Path, name: str
) -> None:
    """Members have the names that a backup has, and no others."""
    archive = backed_up(site, tmp_path / "off").path
    content = gzip.decompress(archive.read_bytes())
    length = len("config/config.yaml")
    forged = content.replace(b"config/config.yaml", name.encode().ljust(length)[:length])
    target = tmp_path / "forged.tar.gz"
    target.write_bytes(gzip.compress(forged))
    with pytest.raises(RefusedError) as refused:
        unpack(target, lambda member: tmp_path / "out" / member.name, lambda _: None)
    assert refused.value.refusal_code == "BACKUP_DAMAGED"
    assert not (tmp_path / "out").exists()
