"""`restore`: at once or not at all, and nothing is ever deleted."""

import os
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.app.archive import member_of, read_manifest, unpack, write_archive
from gateway.app.backup import Backup
from gateway.app.config import Config, load_config
from gateway.app.paths import paths_of
from gateway.app.restore import RestoreDone, RestoreOptions, restore_backup
from gateway.core.errors import RefusedError, StoreError, StoreLockedError
from gateway.core.recovery import KnownHead, RecoveryReason
from gateway.core.requests import OutcomeStatus, Recharge, ReleaseRecovery, Request, Role
from gateway.store.backup import opened_store
from gateway.store.commands import find_outcomes
from gateway.store.db import open_writer, own_directory
from gateway.store.ledger import LEDGER, ledger_head
from gateway.store.overview import epochs_of
from gateway.store.recovery import load_known_head, replay_since, standing_recovery
from gateway.store.requests import NORTH, request_keys
from gateway.store.verify import verify_ledger
from tests.app.backup_site import ask, backed_up, begun, paths, remember, silent, store, tree
from tests.app.control_site import ControlSite

pytestmark = pytest.mark.slow

CONTROL_UID, NORTH_UID = 65_533, 65_532


@pytest.fixture
async def site(tmp_path: Path) -> ControlSite:
    """A control with an account."""
    return await begun(tmp_path / "site")


@pytest.fixture
async def backup(site: ControlSite, tmp_path: Path) -> Backup:
    """A backup; then another recharge, and control is stopped."""
    ask(site, "r-1")
    made = backed_up(site, tmp_path / "off")
    site.clock.pass_s(60)
    await site.do(Recharge("flat-1", 7), key="r-2")
    ask(site, "r-2")
    site.crash()
    return made


def restored(
    site: ControlSite, archive: Path, *, older: bool = True, north_of_backup: bool = False
) -> RestoreDone:
    """Restore into the site."""
    options = RestoreOptions(archive, older=older, north_of_backup=north_of_backup)
    return restore_backup(site.config, site.clock, options, silent)


def heads(directory: Path) -> tuple[int, bool]:
    """How far a ledger goes, and whether it is in RECOVERY; it must prove itself."""
    with opened_store(directory / "ledger.db", LEDGER) as connection:
        report = verify_ledger(connection)
        assert report.proved, report.problems
        return report.head.seq, standing_recovery(connection) is not None


def test_the_backup_takes_the_place_of_the_stores(site: ControlSite, backup: Backup) -> None:
    """New epochs, RECOVERY as of the backup's head, and what was there lies beside."""
    before = tree(paths(site).control_dir)
    done = restored(site, backup.path)
    with opened_store(paths(site).ledger, LEDGER) as connection:
        assert ledger_head(connection).seq == backup.manifest.ledger_seq
        assert epochs_of(connection) == [backup.manifest.epoch, done.epoch]
        standing = standing_recovery(connection)
    assert standing is not None
    assert standing.reason is RecoveryReason.RESTORED
    assert standing.head.seq == backup.manifest.ledger_seq
    assert (standing.known.seq, done.lost) == (backup.manifest.ledger_seq + 1, 1)
    control_aside, north_aside = done.aside
    kept = tree(control_aside)
    assert {name: kept[name] for name in kept if name.startswith("ledger")} == {
        name: before[name] for name in before if name.startswith("ledger")
    }
    assert heads(control_aside) == (backup.manifest.ledger_seq + 1, False)
    assert (north_aside / "north.db").exists()
    names = {path.name for path in site.config.state_dir.iterdir()}
    assert names == {"control", "north", control_aside.name, north_aside.name}


def test_present_requests_are_kept_and_replay(site: ControlSite, backup: Backup) -> None:
    """A healthy north goes on: what the backup does not know is counted and executed again."""
    remember(site, KnownHead(99, b"k" * 32))
    done = restored(site, backup.path)
    assert (done.north_kept, done.requests_newer) == (True, 2)
    with opened_store(paths(site).north_dir / "north.db", NORTH) as connection:
        assert request_keys(connection) == ["r-1", "r-2"]
        assert len(epochs_of(connection)) == 2
        assert load_known_head(connection) is None


def test_what_was_asked_for_with_an_end_is_not_done_again(
    site: ControlSite, backup: Backup
) -> None:
    """A release or a cut of just before was meant for the ledger that is gone.

    Nobody may end the new RECOVERY by it, also where the new PC's clock is behind.
    """
    until_utc_ms = site.clock.utc_ms() + 120_000
    release = ReleaseRecovery("compared")
    store(
        site, Request("release", release, "eva", Role.MANAGER, "t", 1, expires_utc_ms=until_utc_ms)
    )
    done = restored(site, backup.path)
    assert done.requests_newer == 2
    with opened_store(paths(site).ledger, LEDGER) as connection:
        found = find_outcomes(connection, ("release", "r-1"))
        standing = standing_recovery(connection)
        assert standing is not None
        replay = replay_since(connection, standing.outcome_number)
    assert {key: outcome.status for key, outcome in found.items()} == {
        "release": OutcomeStatus.EXPIRED
    }
    assert [row[:3] for row in replay.refused] == [("release", "release_recovery", "EXPIRED")]


def test_an_older_backup_is_noticed_before_the_first_start_of_a_newer_version(
    site: ControlSite, backup: Backup
) -> None:
    """A present ledger whose schema was not brought up yet is compared all the same."""
    with sqlite3.connect(paths(site).ledger) as connection:
        connection.execute("DROP TABLE recovery_release")
        connection.execute("DROP TABLE recovery")
        connection.execute("PRAGMA user_version=2")
    connection.close()
    with pytest.raises(RefusedError) as refused:
        restored(site, backup.path, older=False)
    assert refused.value.refusal_code == "BACKUP_OLDER"


def test_requests_of_the_backup_where_that_is_wanted_or_needed(
    site: ControlSite, backup: Backup
) -> None:
    """By option; and where the present file is damaged, with a word about it."""
    done = restored(site, backup.path, north_of_backup=True)
    assert (done.north_kept, done.requests_newer, done.notes) == (False, 1, ())
    file = paths(site).north_dir / "north.db"
    content = bytearray(file.read_bytes())
    content[5_000:30_000] = bytes(25_000)
    file.write_bytes(content)
    site.clock.pass_s(60)
    done = restored(site, backup.path)
    assert not done.north_kept
    assert "the present requests are set aside" in done.notes[0]
    with opened_store(paths(site).north_dir / "north.db", NORTH) as connection:
        assert request_keys(connection) == ["r-1"]


def test_requests_of_another_installation_are_set_aside(
    site: ControlSite, backup: Backup, tmp_path: Path
) -> None:
    """Keys of a north.db that does not continue the backup's are not this site's."""
    (tmp_path / "other").mkdir()
    other = ControlSite(tmp_path / "other")
    ask(other, "foreign")
    shutil.copyfile(paths(other).north_dir / "north.db", paths(site).north_dir / "north.db")
    done = restored(site, backup.path)
    assert not done.north_kept
    assert "does not continue" in done.notes[0]
    with opened_store(paths(site).north_dir / "north.db", NORTH) as connection:
        assert request_keys(connection) == ["r-1"]


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One that every user may enter: pytest closes its own to others."""
    with tempfile.TemporaryDirectory(prefix="gateway-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="two users need root")
async def test_two_users_control_backs_up_and_root_restores(open_directory: Path) -> None:
    """Control's user, in north's group, may read all that a backup needs; owners stay."""
    site = await begun(open_directory / "site")
    site.crash()
    state_dir = site.config.state_dir
    for directory in (site.directory, state_dir):
        directory.chmod(0o755)
    users = {"control": CONTROL_UID, "north": NORTH_UID}
    for name, uid in users.items():
        for path in ((state_dir / name), *(state_dir / name).rglob("*")):
            os.chown(path, uid, uid)
    off = open_directory / "off"
    off.mkdir()
    off.chmod(0o777)

    def back_up() -> None:
        os.setgroups([NORTH_UID])
        os.setgid(CONTROL_UID)
        os.setuid(CONTROL_UID)
        backed_up(site, off)

    assert in_child(back_up) == 0
    (archive,) = off.iterdir()
    restored(site, archive)
    for name, uid in users.items():
        directory = state_dir / name
        for path in (directory, *directory.rglob("*")):
            assert (path.stat().st_uid, path.stat().st_gid) == (uid, uid), path
        assert directory.stat().st_mode & 0o777 == 0o750
        assert len(list(directory.glob("*.db-shm"))) == 1


def test_readings_and_keys_are_taken_along(site: ControlSite, backup: Backup) -> None:
    """The same files under the new directory; owner and mode of the private key stay."""
    key = paths(site).control_dir / "site-key.pem"
    key.write_text("private")
    key.chmod(0o600)
    readings = tree(paths(site).telemetry_dir)
    assert readings
    done = restored(site, backup.path)
    assert tree(paths(site).telemetry_dir) == readings
    assert (key.read_text(), key.stat().st_mode & 0o777) == ("private", 0o600)
    assert not (done.aside[0] / "telemetry").exists()


async def test_readings_of_the_backup_replace_the_present_ones(
    site: ControlSite, tmp_path: Path
) -> None:
    """Where the backup holds some; the present ones lie aside."""
    await site.sweeper.sweep()
    made = backed_up(site, tmp_path / "off", telemetry=True)
    site.crash()
    done = restored(site, made.path)
    assert (done.aside[0] / "telemetry" / "staging.db").exists()
    assert (paths(site).telemetry_dir / "staging.db").exists()


async def test_control_goes_on_after_a_restore(site: ControlSite, backup: Backup) -> None:
    """It opens, in RECOVERY, and charges what the meter counted meanwhile, once."""
    restored(site, backup.path)
    site.open()
    assert site.engine.gate.recovery is not None
    site.read(1_400)
    site.clock.pass_s(1)
    site.sweeper.judge()
    site.read(1_400)
    await site.sweeper.sweep()
    assert site.engine.points[0].account_id == "flat-1"
    assert site.proof().proved


def test_a_dead_pc(site: ControlSite, backup: Backup, tmp_path: Path) -> None:
    """Into directories that do not exist: nothing lies aside, and the old key is a former one."""
    manifest = read_manifest(backup.path)
    signed = tmp_path / "signed.tar.gz"
    repacked(backup.path, signed, site_keys=("ab" * 32,))
    shutil.rmtree(site.config.state_dir)
    done = restored(site, signed, older=False)
    assert done.aside == ()
    assert heads(paths(site).control_dir) == (manifest.ledger_seq, True)
    assert "ab" * 32 in (paths(site).control_dir / "former-keys").read_text()


def repacked(source: Path, target: Path, **changes: object) -> None:
    """The same members under another manifest."""
    work = target.with_name(f"{target.name}.work")
    work.mkdir()
    manifest = unpack(source, lambda member: work / member.name, lambda _: None)
    files = {member.name: work / member.name for member in manifest.members}
    write_archive(target, replace(manifest, **changes), files, lambda _: None)  # type: ignore[arg-type]


# -- refused ------------------------------------------------------------------------------------


def refused(site: ControlSite, archive: Path, code: str, *, older: bool = False) -> str:
    """The refusal's words, after making sure that nothing has changed."""
    before = tree(site.config.state_dir)
    with pytest.raises(RefusedError) as caught:
        restored(site, archive, older=older)
    assert caught.value.refusal_code == code
    assert tree(site.config.state_dir) == before
    return caught.value.message


def test_an_older_backup_says_what_would_be_lost(site: ControlSite, backup: Backup) -> None:
    """How many transactions, from when to when, and the way to do it all the same."""
    words = refused(site, backup.path, "BACKUP_OLDER")
    assert "1 transactions from 2027-01-15 08:01:00Z to 2027-01-15 08:01:00Z would be lost" in words
    assert "--older" in words


def test_another_history_is_refused(site: ControlSite, backup: Backup, tmp_path: Path) -> None:
    """A ledger that went another way before the backup's end is not silently replaced."""
    repacked(backup.path, tmp_path / "other.tar.gz", ledger_hash="cd" * 32)
    assert "two histories" in refused(site, tmp_path / "other.tar.gz", "BACKUP_OLDER")
    refused(site, tmp_path / "other.tar.gz", "BACKUP_DAMAGED", older=True)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"site": "elsewhere"}, "BACKUP_FOREIGN"),
        ({"ledger_schema": 99}, "BACKUP_NEWER"),
        ({"north_schema": 99}, "BACKUP_NEWER"),
    ],
)
def test_a_foreign_or_newer_backup_is_refused(
    site: ControlSite, backup: Backup, tmp_path: Path, changes: dict[str, object], code: str
) -> None:
    """By its manifest, before anything is unpacked."""
    repacked(backup.path, tmp_path / "other.tar.gz", **changes)
    refused(site, tmp_path / "other.tar.gz", code, older=True)


def test_a_damaged_backup_is_refused(site: ControlSite, backup: Backup) -> None:
    """Cut short; what was unpacked of it is gone again."""
    short = backup.path.with_name("short.tar.gz")
    short.write_bytes(backup.path.read_bytes()[:-2_000])
    refused(site, short, "BACKUP_DAMAGED", older=True)


def test_a_forged_ledger_in_a_fitting_archive_is_refused(
    site: ControlSite, backup: Backup, tmp_path: Path
) -> None:
    """Every hash of the archive fits, and the money in it does not."""
    work = tmp_path / "forged"
    work.mkdir()
    manifest = unpack(backup.path, lambda member: work / member.name, lambda _: None)
    forged = sqlite3.connect(work / "ledger.db")
    forged.execute("UPDATE balance SET amount_nano = amount_nano + 1000000000")
    forged.commit()
    forged.close()
    members = tuple(member_of(m.name, work / m.name, lambda _: None) for m in manifest.members)
    files = {member.name: work / member.name for member in members}
    write_archive(tmp_path / "x.tar.gz", replace(manifest, members=members), files, lambda _: None)
    refused(site, tmp_path / "x.tar.gz", "BACKUP_DAMAGED", older=True)


@pytest.mark.parametrize("name", ["control", "north"])
def test_a_running_process_is_refused(site: ControlSite, backup: Backup, name: str) -> None:
    """Its process id is named; nothing has changed."""
    owner = own_directory(site.config.state_dir / name, create=False)
    before = tree(site.config.state_dir)
    with pytest.raises(StoreLockedError, match=f"process {os.getpid()}"):
        restored(site, backup.path)
    assert tree(site.config.state_dir) == before
    owner.release()


# -- killed, and a full disk ----------------------------------------------------------------------

# Python's own audit events of what changes files; reads need no kill.
TOUCHING = frozenset(
    {"os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.chmod", "os.chown"}
    | {"sqlite3.connect", "ctypes.dlopen"}
)


def in_child(work: Callable[[], None]) -> int:
    """The wait status of a child that does this and then exits with 0."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def killed_at(number: int) -> None:
    """Die by SIGKILL just before the file operation of this number."""
    left = number

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & 0o103)
        if writes or event in TOUCHING:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


@pytest.mark.slow
def test_killed_at_any_step_an_installation_is_whole(
    site: ControlSite, backup: Backup, tmp_path: Path
) -> None:
    """The old one, the new one, or the new ledger with the present requests; then it can go on."""
    original = tmp_path / "original"
    shutil.copytree(site.directory, original, symlinks=True)
    seen = set[tuple[int, bool]]()
    number = 0
    while True:
        number += 1
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(original, copy)
        config = load_config(copy / "config.yaml")

        def restore(config: Config = config, number: int = number) -> None:
            killed_at(number)
            restore_backup(config, site.clock, RestoreOptions(backup.path, older=True), silent)

        status = in_child(restore)
        found = heads(paths_of(config).control_dir)
        seen.add(found)
        assert found in {
            (backup.manifest.ledger_seq + 1, False),
            (backup.manifest.ledger_seq, True),
        }
        with opened_store(paths_of(config).north_dir / "north.db", NORTH) as connection:
            assert request_keys(connection) == ["r-1", "r-2"]
        starts(config)
        shutil.rmtree(copy)
        if not os.WIFSIGNALED(status):
            break
    assert os.waitstatus_to_exitcode(status) == 0
    assert len(seen) == 2
    assert number > 30


def starts(config: Config) -> None:
    """Both directories can be owned and written by their processes."""

    def start() -> None:
        for name, schema in (("control/ledger.db", LEDGER), ("north/north.db", NORTH)):
            path = config.state_dir / name
            open_writer(path, schema, owner=own_directory(path.parent, create=False), create=False)

    assert in_child(start) == 0


@pytest.mark.parametrize("limit", [10_000, 100_000])
def test_a_full_disk_leaves_the_old_installation(
    site: ControlSite, backup: Backup, limit: int
) -> None:
    """The kernel refuses to write further while it unpacks or marks."""
    before = tree(site.config.state_dir)

    def restore() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(StoreError):
            restored(site, backup.path)

    assert in_child(restore) == 0
    assert tree(site.config.state_dir) == before
