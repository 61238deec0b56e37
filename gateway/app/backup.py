"""`backup`: both stores while both processes run, into one file that was opened before it counts.

Reads the state directories and writes only beside the target.
"""

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway import __version__
from gateway.app.archive import (
    LEDGER_MEMBER,
    NORTH_MEMBER,
    Manifest,
    Member,
    member_of,
    unpack,
    write_archive,
)
from gateway.app.checkpoints import published_trust
from gateway.app.config import Config
from gateway.app.paths import paths_of
from gateway.core.clock import Clock
from gateway.core.errors import RefusedError, StoreError
from gateway.store.backup import check_copy, copy_store, opened_copy
from gateway.store.checkpoints import KeyTrust, trusted_checkpoint
from gateway.store.db import StoreSchema, sync_directory
from gateway.store.ledger import LEDGER
from gateway.store.overview import LedgerOverview, read_overview
from gateway.store.requests import NORTH
from gateway.store.telemetry_files import DAY, HISTORY, STAGING, day_files, month_files
from gateway.store.verify import verify_ledger

SUFFIX: Final = ".tar.gz"
# Copies, archive and the copies unpacked again are there at once, and the archive is smaller.
ROOM: Final = 2.2
# A backup has time: control and its disk come first.
NICENESS: Final = 15

# What is under way, and how far (done, total) in whatever it counts.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """`target` is a file that does not exist yet, or a directory that gets a dated one.

    Of the dated ones in that directory `keep` are kept (None: all). `telemetry` adds the readings;
    `whole` proves the ledger from its first transaction instead of the last signed checkpoint.
    """

    target: Path
    telemetry: bool = False
    keep: int | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was made and opened. `removed` are older ones that went."""

    path: Path
    manifest: Manifest
    size_bytes: int
    removed: tuple[Path, ...]


def make_backup(config: Config, clock: Clock, options: BackupOptions, progress: Progress) -> Backup:
    """Copy, check, pack, open again; only then the file has its name.

    Raises RefusedError (BACKUP_EXISTS, BACKUP_SPACE, BACKUP_SLOW, BACKUP_UNPROVED), StoreAwayError
    and StoreError; nothing is left behind then.
    """
    target = _target(config, clock, options)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
            partial, manifest = _make(config, clock, options, Path(work), progress)
            if target.exists():
                raise _exists(target)
            partial.replace(target)
            sync_directory(target.parent)
        size = target.stat().st_size
        removed = _rotate(config, target, options)
    except OSError as error:
        raise StoreError(f"{error.filename or target}: {error.strerror or error}") from error
    return Backup(target, manifest, size, removed)


def be_gentle() -> None:
    """Let control and everybody else go first: processor now, and with it the disk."""
    os.nice(NICENESS)


def prove_copy(
    path: Path, trust: KeyTrust | None, progress: Callable[[int, int], None], *, whole: bool
) -> LedgerOverview:
    """The overview of a ledger's copy that proves itself: its pages, and its chain and sums.

    Unless `whole`, chain and sums from the newest checkpoint on that the site's key signed.
    Raises RefusedError BACKUP_UNPROVED naming the first problem, StoreCorruptError.
    """
    check_copy(path, LEDGER)
    with opened_copy(path, LEDGER) as connection:
        base, newer = None, list[str]()
        if trust is not None and not whole:
            base, newer = trusted_checkpoint(connection, trust)
        report = verify_ledger(connection, progress, since=base, trust=trust)
        problems = [*newer, *report.problems]
        if problems:
            raise RefusedError(
                "BACKUP_UNPROVED",
                f"the ledger does not prove itself (first: {problems[0]}); "
                "see `prepaid-gateway ledger verify`",
            )
        return read_overview(connection)


def _make(
    config: Config, clock: Clock, options: BackupOptions, work: Path, progress: Progress
) -> tuple[Path, Manifest]:
    paths = paths_of(config)
    _check_room(work, _sources_bytes(config, options))
    copies: dict[str, Path] = {}
    # Ledger first: what is executed after this instant is found in north.db, and executed again.
    for name, source, schema in _sources(config, options):
        copies[name] = work / name.replace("/", "-")
        copy_store(source, copies[name], schema, progress=_told(progress, f"copying {name}"))
    trust = published_trust(paths.control_dir)
    told = _told(progress, "proving the ledger")
    overview = prove_copy(copies[LEDGER_MEMBER], trust, told, whole=options.whole)
    check_copy(copies[NORTH_MEMBER], NORTH)
    files = {**copies, **_configuration(config)}
    manifest = _manifest(overview, clock, trust, files, progress)
    partial = work / f"backup{SUFFIX}"
    total = manifest.total_bytes
    write_archive(partial, manifest, files, _counter(progress, "packing", total))
    for copy in copies.values():
        copy.unlink()
    _open_again(partial, manifest, work / "opened", progress)
    return partial, manifest


def _open_again(archive: Path, manifest: Manifest, work: Path, progress: Progress) -> None:
    """As `restore` would: every byte by its hash, every page of both stores, the ledger's head."""
    work.mkdir()

    def place(member: Member) -> Path | None:
        return work / member.name if "/" not in member.name else None

    count = _counter(progress, "opening it again", manifest.total_bytes)
    if unpack(archive, place, count) != manifest:
        raise RefusedError(
            "BACKUP_DAMAGED", f"{archive.parent.parent}: the archive came back other"
        )
    check_copy(work / LEDGER_MEMBER, LEDGER)
    check_copy(work / NORTH_MEMBER, NORTH)
    with opened_copy(work / LEDGER_MEMBER, LEDGER) as connection:
        if read_overview(connection).head.hash.hex() != manifest.ledger_hash:
            raise RefusedError("BACKUP_DAMAGED", "the ledger that came back has another head")


def _manifest(
    overview: LedgerOverview,
    clock: Clock,
    trust: KeyTrust | None,
    files: Mapping[str, Path],
    progress: Progress,
) -> Manifest:
    total = sum(path.stat().st_size for path in files.values())
    count = _counter(progress, "hashing", total)
    return Manifest(
        site=overview.site.site_id,
        epoch=overview.epoch,
        created_utc_ms=clock.utc_ms(),
        program=__version__,
        ledger_seq=overview.head.seq,
        ledger_hash=overview.head.hash.hex(),
        ledger_utc_ms=overview.head_utc_ms,
        ledger_schema=LEDGER.newest(),
        north_schema=NORTH.newest(),
        site_keys=_keys(trust),
        members=tuple(member_of(name, path, count) for name, path in files.items()),
    )


def _keys(trust: KeyTrust | None) -> tuple[str, ...]:
    if trust is None:
        return ()
    return (trust.site_key.hex(), *sorted(key.hex() for key in trust.former - {trust.site_key}))


def _sources(config: Config, options: BackupOptions) -> list[tuple[str, Path, StoreSchema]]:
    paths = paths_of(config)
    found = [
        (LEDGER_MEMBER, paths.ledger, LEDGER),
        (NORTH_MEMBER, paths.north_dir / "north.db", NORTH),
    ]
    if options.telemetry:
        directory = paths.telemetry_dir
        kinds = [(month_files(directory), HISTORY), (day_files(directory), DAY)]
        kinds.append(([directory / "staging.db"], STAGING))
        found += [
            (f"telemetry/{path.name}", path, schema)
            for files, schema in kinds
            for path in files
            if path.exists()
        ]
    return found


def _sources_bytes(config: Config, options: BackupOptions) -> int:
    return sum(path.stat().st_size for _, path, _ in _sources(config, options) if path.exists())


def _configuration(config: Config) -> dict[str, Path]:
    """The configuration as it lies on the disk; what it refers to as secret is left there."""
    files = [config.path]
    if config.meters_file is not None:
        files.append(config.meters_file)
    return {f"config/{path.name}": path for path in files if path.exists()}


def _check_room(work: Path, needed: int) -> None:
    room = os.statvfs(work)
    free = room.f_bavail * room.f_frsize
    if free < needed * ROOM:
        raise RefusedError(
            "BACKUP_SPACE",
            f"{work.parent} has {free // 10**6} MB free, about {round(needed * ROOM) // 10**6} MB "
            "are needed; choose another target",
        )


def _target(config: Config, clock: Clock, options: BackupOptions) -> Path:
    target = options.target.resolve()
    if target.is_dir():
        when = datetime.fromtimestamp(clock.utc_ms() / 1000, UTC)
        target /= f"{config.site.id}-{when:%Y%m%dT%H%M%SZ}{SUFFIX}"
    elif options.keep is not None:
        raise RefusedError("BACKUP_TARGET", "--keep needs a directory as target")
    if target.exists():
        raise _exists(target)
    if not target.parent.is_dir():
        raise RefusedError("BACKUP_TARGET", f"{target.parent} is no directory: is it mounted?")
    if target.is_relative_to(config.state_dir.resolve()):
        raise RefusedError(
            "BACKUP_TARGET", f"{target} lies in the state directory: choose another disk"
        )
    return target


def _exists(target: Path) -> RefusedError:
    return RefusedError(
        "BACKUP_EXISTS", f"{target} is there already: give another name, or a directory"
    )


def dated_backups(directory: Path, site_id: str) -> list[Path]:
    """The dated backups of a site in a directory, oldest first. Raises OSError."""
    name = re.compile(rf"{re.escape(site_id)}-\d{{8}}T\d{{6}}Z{re.escape(SUFFIX)}")
    return sorted(path for path in directory.iterdir() if name.fullmatch(path.name))


def _rotate(config: Config, target: Path, options: BackupOptions) -> tuple[Path, ...]:
    if options.keep is None:
        return ()
    # The one just made stays, also where the clock was ahead when others were made.
    others = [path for path in dated_backups(target.parent, config.site.id) if path != target]
    gone = others[: max(0, len(others) - (options.keep - 1))]
    for path in gone:
        path.unlink()
    return tuple(gone)


def _told(progress: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total)


def _counter(progress: Progress, what: str, total: int) -> Callable[[int], None]:
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress(what, done, total)

    return count
