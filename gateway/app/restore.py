"""`restore`: a backup in the place of the stores, at once or not at all.

Everything is unpacked, proved and marked beside the present stores first. Then the directory of
control is exchanged for the new one in a single step of the file system, and north's after it:
whoever is killed in between leaves either the old installation whole, or the new one, or the new
ledger with the old requests, which is what `restore` makes of a healthy north anyway.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ulid import ULID

from gateway.app.archive import LEDGER_MEMBER, NORTH_MEMBER, Manifest, Member, read_manifest, unpack
from gateway.app.checkpoints import FORMER_NAME
from gateway.app.config import Config
from gateway.app.node_key import NODE_KEY_NAME
from gateway.app.paths import Paths, paths_of
from gateway.app.site_key import PUBLIC_NAME, signature_fits
from gateway.app.swap import CONTROL_USER, NORTH_USER, Stage
from gateway.app.voucher_key import VOUCHER_KEY_NAME
from gateway.core.clock import Clock
from gateway.core.errors import RefusedError, StoreError, StoreMissingError
from gateway.core.recovery import KnownHead, RecoveryReason
from gateway.core.requests import Request
from gateway.store.backup import check_copy, copy_store, opened_copy, opened_store
from gateway.store.checkpoints import KeyTrust
from gateway.store.db import (
    LOCK_NAME,
    Connection,
    StoreFile,
    StoreSchema,
    open_writer,
    own_directory,
)
from gateway.store.devices import DeviceStatus, read_devices
from gateway.store.ledger import LEDGER, begin_epoch, ledger_head, read_site
from gateway.store.overview import epochs_of, utc_ms_at
from gateway.store.recovery import (
    NOBODY,
    begin_north_epoch,
    enter_recovery,
    expire_unanswered,
    forget_known_head,
    hash_at,
    load_known_head,
    outcome_keys,
    recovery_now,
)
from gateway.store.requests import NORTH, perishable_requests, request_keys
from gateway.store.verify import verify_ledger
from gateway.store.vouchers import vouchers_before
from gateway.store.writer import InlineWriter

# Unpacked, migrated and with its log: what a restore needs beside the present stores.
ROOM: Final = 1.3

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """`older` accepts to lose transactions; `north_of_backup` gives up the present requests."""

    archive: Path
    older: bool = False
    north_of_backup: bool = False


@dataclass(frozen=True, slots=True)
class RestoreDone:
    """What a restore did. `lost` are transactions of the present ledger that the backup lacks."""

    manifest: Manifest
    epoch: str
    north_kept: bool
    requests_newer: int
    lost: int
    aside: tuple[Path, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Present:
    """The ledger that is there now, as far as it can be read."""

    head: KnownHead = NOBODY
    lost: int = 0
    words: str = ""
    note: str = ""


def restore_backup(
    config: Config, clock: Clock, options: RestoreOptions, progress: Progress
) -> RestoreDone:
    """Put a backup in the place of the stores.

    Raises RefusedError (BACKUP_DAMAGED, BACKUP_FOREIGN, BACKUP_NEWER, BACKUP_OLDER,
    BACKUP_SPACE), StoreLockedError (a process still runs) and StoreError; nothing has changed
    then.
    """
    paths, manifest = paths_of(config), read_manifest(options.archive)
    _check_manifest(manifest, config)
    with ExitStack() as locks:
        for directory in (paths.control_dir, paths.north_dir):
            _lock(directory, locks)
        present = _present(paths, manifest)
        if present.words and not options.older:
            raise RefusedError("BACKUP_OLDER", f"{present.words}; `--older` restores all the same")
        work = _Work(paths, options, manifest, present, clock.utc_ms(), progress, locks)
        try:
            return work.restore()
        except OSError as error:
            raise StoreError(f"{error.filename or paths.control_dir}: {error.strerror}") from error


# -- before anything is written ---------------------------------------------------------------


def _check_manifest(manifest: Manifest, config: Config) -> None:
    if manifest.site != config.site.id:
        raise RefusedError(
            "BACKUP_FOREIGN",
            f"this is a backup of {manifest.site}, the configuration is of {config.site.id}: "
            "take the right file, or the right configuration",
        )
    for name, found, known in (
        ("ledger.db", manifest.ledger_schema, LEDGER.newest()),
        ("north.db", manifest.north_schema, NORTH.newest()),
    ):
        if found > known:
            raise RefusedError(
                "BACKUP_NEWER",
                f"{name} of this backup has schema {found}, this program knows {known}: install "
                f"version {manifest.program}",
            )


def _check_room(directory: Path, manifest: Manifest) -> None:
    room = os.statvfs(directory)
    free, needed = room.f_bavail * room.f_frsize, round(manifest.total_bytes * ROOM)
    if free < needed:
        raise RefusedError(
            "BACKUP_SPACE",
            f"{directory} has {free // 10**6} MB free, {needed // 10**6} MB are needed; make room, "
            "for example by moving away what an earlier restore kept",
        )


def _lock(directory: Path, locks: ExitStack) -> None:
    """Both processes must be stopped. Raises StoreLockedError."""
    try:
        locks.callback(own_directory(directory, create=False).release)
    except StoreMissingError:
        # A new PC: there is nothing that could be in use.
        return


def _present(paths: Paths, manifest: Manifest) -> _Present:
    """What would be lost. A ledger that cannot be read is no reason to refuse."""
    if not paths.ledger.exists():
        return _Present()
    try:
        with opened_store(paths.ledger, LEDGER) as connection:
            # Its schema may be an older one still: only what every schema has is asked for.
            site = read_site(connection).site_id
            head = ledger_head(connection)
            there = hash_at(connection, manifest.ledger_seq)
            first_utc_ms = utc_ms_at(connection, manifest.ledger_seq + 1)
            last_utc_ms = utc_ms_at(connection, head.seq)
    except (StoreError, RefusedError) as error:
        return _Present(note=f"the present ledger cannot be read, nobody knows its end: {error}")
    if site != manifest.site:
        raise RefusedError(
            "BACKUP_FOREIGN", f"the present stores are of {site}, the backup of {manifest.site}"
        )
    present = KnownHead(head.seq, head.hash)
    if manifest.ledger_seq > 0 and there is not None and there.hex() != manifest.ledger_hash:
        words = (
            f"the present ledger ({head.seq} transactions) and this backup "
            f"({manifest.ledger_seq}) are two histories: they differ before the backup's end"
        )
        return _Present(present, head.seq, words)
    lost = max(0, head.seq - manifest.ledger_seq)
    words = (
        f"the present ledger goes further: {lost} transactions from {_when(first_utc_ms)} to "
        f"{_when(last_utc_ms)} would be lost (what was asked for over the API is executed again)"
    )
    return _Present(present, lost, words if lost else "")


def _when(utc_ms: int) -> str:
    return f"{_instant(utc_ms):%Y-%m-%d %H:%M:%SZ}"


def _instant(utc_ms: int) -> datetime:
    return datetime.fromtimestamp(utc_ms / 1000, UTC)


# -- beside the present stores ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Work:
    """One restore, all checks of its wish behind it."""

    paths: Paths
    options: RestoreOptions
    manifest: Manifest
    present: _Present
    utc_ms: int
    progress: Progress
    locks: ExitStack

    def restore(self) -> RestoreDone:
        """Prepare both directories, then exchange them. Raises as `restore_backup`, OSError."""
        paths, stamp = self.paths, f"{_instant(self.utc_ms):%Y%m%dT%H%M%SZ}"
        paths.control_dir.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        _check_room(paths.control_dir.parent, self.manifest)
        notes = [self.present.note] if self.present.note else []
        epoch = str(ULID.from_timestamp(self.utc_ms / 1000))
        with (
            Stage(paths.control_dir, stamp, CONTROL_USER) as control,
            Stage(paths.north_dir, stamp, NORTH_USER) as north,
        ):
            self._unpack(control.path, north.path)
            kept = not self.options.north_of_backup and _keep_north(paths, north.path, notes)
            known = self.present.head if self.present.head.seq else _known_of(north.path)
            self._mark_ledger(control, known, epoch, _perishable(north.path))
            self._mark_north(north)
            newer = _requests_newer(control.path, north.path)
            has_readings = any("telemetry/" in member.name for member in self.manifest.members)
            left = {*_names_of(LEDGER_MEMBER), FORMER_NAME}
            control.carry(left | ({"telemetry"} if has_readings else set()))
            _keep_keys(paths.control_dir, control.path, self.manifest)
            notes += _voucher_notes(paths.control_dir, control.path)
            notes += _node_notes(paths.control_dir, control.path)
            north.carry(_names_of(NORTH_MEMBER))
            aside = [control.swap()]
            try:
                aside.append(north.swap())
            except (OSError, StoreError) as error:
                raise StoreError(
                    f"the ledger is restored, north's directory could not be exchanged ({error}): "
                    "its present requests are in force"
                ) from error
        return RestoreDone(
            manifest=self.manifest,
            epoch=epoch,
            north_kept=kept,
            requests_newer=newer,
            lost=self.present.lost,
            aside=tuple(path for path in aside if path is not None),
            notes=tuple(notes),
        )

    def _unpack(self, control: Path, north: Path) -> None:
        done = 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            self.progress("unpacking", done, self.manifest.total_bytes)

        def place(member: Member) -> Path | None:
            if member.name == NORTH_MEMBER:
                return north / member.name
            # The configuration is for people: the one in force was given to this command.
            return None if member.name.startswith("config/") else control / member.name

        archive = self.options.archive
        if unpack(archive, place, count) != self.manifest:
            raise RefusedError("BACKUP_DAMAGED", f"{archive} changed while it was read")
        check_copy(north / NORTH_MEMBER, NORTH)
        check_copy(control / LEDGER_MEMBER, LEDGER)

    def _mark_ledger(
        self, stage: Stage, known: KnownHead, epoch: str, perishable: list[Request]
    ) -> None:
        """Prove the ledger, then begin its new epoch and the RECOVERY in one commit.

        What had to be done soon after it was asked for is too late now, whatever a clock says: a
        switch, and above all the release of an earlier RECOVERY.
        """
        file = self._opened(stage, LEDGER_MEMBER, LEDGER)
        self._prove(file.connection)

        def mark(connection: Connection) -> None:
            begin_epoch(connection, epoch, cause="restored", utc_ms=self.utc_ms)
            entered = recovery_now(
                connection,
                RecoveryReason.RESTORED,
                utc_ms=self.utc_ms,
                known=known,
                detail=f"backup of {_when(self.manifest.created_utc_ms)}",
            )
            enter_recovery(connection, entered)
            expire_unanswered(connection, perishable, utc_ms=self.utc_ms)

        InlineWriter(file).submit(mark).result()
        file.stop()

    def _prove(self, connection: Connection) -> None:
        keys = [bytes.fromhex(key) for key in self.manifest.site_keys]
        trust = KeyTrust(keys[0], signature_fits, frozenset(keys[1:])) if keys else None
        report = verify_ledger(
            connection,
            lambda done, total: self.progress("proving the ledger", done, total),
            trust=trust,
        )
        if not report.proved or report.head.hash.hex() != self.manifest.ledger_hash:
            why = report.problems[0] if report.problems else "its head is not the manifest's"
            raise RefusedError(
                "BACKUP_DAMAGED", f"the ledger of this backup does not prove itself: {why}"
            )

    def _mark_north(self, stage: Stage) -> None:
        file = self._opened(stage, NORTH_MEMBER, NORTH)
        epoch = str(ULID.from_timestamp(self.utc_ms / 1000))

        def mark(connection: Connection) -> None:
            begin_north_epoch(connection, epoch, utc_ms=self.utc_ms)
            forget_known_head(connection)

        InlineWriter(file).submit(mark).result()
        file.stop()

    def _opened(self, stage: Stage, name: str, schema: StoreSchema) -> StoreFile:
        """A staged file, migrated, its new directory locked until the restore is over."""
        path = stage.path / name
        stage.give(path)
        owner = own_directory(stage.path, create=False)
        self.locks.callback(owner.release)
        return open_writer(path, schema, owner=owner, create=False)


def _names_of(name: str) -> set[str]:
    """A store with its companions, and the lock of its directory."""
    return {name, f"{name}-wal", f"{name}-shm", f"{name}-journal", LOCK_NAME}


def _keep_north(paths: Paths, stage: Path, notes: list[str]) -> bool:
    """Take the present `north.db` where it continues the backup's: its newer requests replay."""
    source, copy = paths.north_dir / NORTH_MEMBER, stage / "present.db"
    if not source.exists():
        return False
    try:
        copy_store(source, copy, NORTH)
        check_copy(copy, NORTH)
        with opened_copy(copy, NORTH) as connection:
            present = epochs_of(connection)
        with opened_copy(stage / NORTH_MEMBER, NORTH) as connection:
            earlier = epochs_of(connection)
        why = "" if present[: len(earlier)] == earlier else "it does not continue the backup's"
    except (StoreError, RefusedError) as error:
        why = str(error)
    if why:
        copy.unlink(missing_ok=True)
        notes.append(f"the present requests are set aside, not replayed: {why}")
        return False
    copy.replace(stage / NORTH_MEMBER)
    return True


def _known_of(north: Path) -> KnownHead:
    """What north remembered of a ledger that cannot be asked any more."""
    try:
        with opened_copy(north / NORTH_MEMBER, NORTH) as connection:
            return load_known_head(connection) or NOBODY
    except StoreError:
        # An older schema remembered nothing.
        return NOBODY


def _perishable(north: Path) -> list[Request]:
    with opened_copy(north / NORTH_MEMBER, NORTH) as connection:
        return perishable_requests(connection)


def _requests_newer(control: Path, north: Path) -> int:
    """How many requests control will find without an outcome."""
    with opened_store(control / LEDGER_MEMBER, LEDGER) as connection:
        executed = outcome_keys(connection)
    with opened_store(north / NORTH_MEMBER, NORTH) as connection:
        return sum(key not in executed for key in request_keys(connection))


def _voucher_notes(present: Path, stage: Path) -> list[str]:
    """What to do where vouchers were sold under a key that is not on this machine."""
    if (stage / VOUCHER_KEY_NAME).exists():
        return []
    with opened_store(stage / LEDGER_MEMBER, LEDGER) as connection:
        if not vouchers_before(connection, limit=1):
            return []
    place = present / VOUCHER_KEY_NAME
    note = (
        f"vouchers were sold: put the voucher key back as {place} (mode 0600, control's user) "
        "before control starts, unless systemd hands it over; they are refused without it"
    )
    return [note]


def _node_notes(present: Path, stage: Path) -> list[str]:
    """What to do where nodes were provisioned under a key that is not on this machine."""
    if (stage / NODE_KEY_NAME).exists():
        return []
    with opened_store(stage / LEDGER_MEMBER, LEDGER) as connection:
        devices = read_devices(connection).values()
    if all(one.status is not DeviceStatus.APPROVED for one in devices):
        return []
    place = present / NODE_KEY_NAME
    note = (
        f"nodes are approved: put the node key back as {place} (mode 0600, control's user) before "
        "control starts, unless systemd hands it over; they obey no command without it"
    )
    return [note]


def _keep_keys(present: Path, stage: Path, manifest: Manifest) -> None:
    """Checkpoints of the backup count on a new PC too: their keys are former ones there."""
    former = present / FORMER_NAME
    text = former.read_text(encoding="utf-8") if former.exists() else ""
    published = present / PUBLIC_NAME
    own = published.read_text(encoding="ascii") if published.exists() else ""
    missing = [key for key in manifest.site_keys if key not in text and key not in own]
    if not text and not missing:
        return
    remark = f"# of the backup of {_when(manifest.created_utc_ms)}\n" if missing else ""
    target = stage / FORMER_NAME
    target.write_text(text + remark + "".join(f"{key}\n" for key in missing), encoding="utf-8")
    if former.exists():
        shutil.copystat(former, target)
