"""The stores: owners and modes, schema and integrity, who writes them, backups."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.app.backup import dated_backups
from gateway.app.config import Config
from gateway.app.doctor.findings import Finding, fine, named, warn, wrong
from gateway.app.doctor.host import figures_of
from gateway.app.node_key import NODE_KEY_NAME
from gateway.app.paths import Paths, paths_of
from gateway.app.site_key import KEY_NAME
from gateway.app.voucher_key import VOUCHER_KEY_NAME
from gateway.core.clock import Clock
from gateway.core.errors import GatewayError
from gateway.store.backup import opened_store
from gateway.store.db import LOCK_NAME, WHOLE_CHECK_BYTES, StoreSchema, check_whole
from gateway.store.ledger import LEDGER
from gateway.store.overview import LedgerOverview, read_overview
from gateway.store.requests import NORTH

WAL_BYTES: Final = 64 * 1024 * 1024
BACKUP_HOURS: Final = 48
LOCKS: Final = Path("/proc/locks")
_BACK: Final = "Bring a backup back: `prepaid-gateway restore FILE`."
_INIT: Final = f"For a new site `prepaid-gateway init`. {_BACK}"
_ASK_ROOT: Final = "Run this as root, or as the user that runs control."


def look_at_stores(config: Config, clock: Clock) -> Iterator[Finding]:
    """Everything about the state directories."""
    paths = paths_of(config)
    for name, directory in (("control", paths.control_dir), ("north", paths.north_dir)):
        yield from _directory(name, directory)
    yield from _ledger(config, paths, clock)
    yield from _store(paths.north_dir / "north.db", NORTH)
    yield from _leftovers(config)
    yield from _backups(config, clock)


def _directory(name: str, directory: Path) -> Iterator[Finding]:
    if not directory.is_dir():
        yield wrong("stores", f"{directory} does not exist.", _INIT)
        return
    status = directory.stat()
    loose = status.st_mode & 0o027
    if loose:
        yield wrong(
            "stores",
            f"{directory} is open to others (mode {status.st_mode & 0o777:o}).",
            f"chmod 750 {directory}",
        )
    if not os.access(directory, os.R_OK | os.X_OK):
        yield warn("stores", f"{directory} cannot be looked into.", _ASK_ROOT)
        return
    foreign = [path.name for path in directory.iterdir() if path.stat().st_uid != status.st_uid]
    if foreign:
        yield wrong(
            "stores",
            f"In {directory} some files belong to another user: {named(sorted(foreign))}.",
            f"chown -R --reference={directory} {directory}",
        )
    key = directory / KEY_NAME
    if key.exists() and key.stat().st_mode & 0o077:
        yield wrong("stores", "Others may read the site's key.", f"chmod 600 {key}")
    vouchers = directory / VOUCHER_KEY_NAME
    if vouchers.exists() and vouchers.stat().st_mode & 0o077:
        yield wrong("stores", "Others may read the voucher key.", f"chmod 600 {vouchers}")
    nodes = directory / NODE_KEY_NAME
    if nodes.exists() and nodes.stat().st_mode & 0o077:
        yield wrong("stores", "Others may read the node key.", f"chmod 600 {nodes}")
    if not loose and not foreign:
        yield fine("stores", f"{directory} belongs to one user and is closed to others.")
    holder = holder_of(directory / LOCK_NAME)
    if holder:
        yield fine("processes", f"{name} runs as process {holder}.")
    else:
        yield warn("processes", f"{name} is not running.", f"Start it: `prepaid-gateway {name}`.")


def holder_of(lock: Path) -> int:
    """The process that holds a directory, as the kernel lists its locks; 0 for nobody."""
    try:
        status = lock.stat()
        wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        for line in LOCKS.read_text(encoding="ascii").splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5] == wanted:
                return int(fields[4])
    except (OSError, IndexError, ValueError):
        return 0
    return 0


def _ledger(config: Config, paths: Paths, clock: Clock) -> Iterator[Finding]:
    yield from _store(paths.ledger, LEDGER)
    wal = paths.ledger.with_name(f"{paths.ledger.name}-wal")
    size = wal.stat().st_size if os.access(wal, os.R_OK) else 0
    if size > WAL_BYTES:
        yield warn(
            "stores",
            f"The ledger's log has grown to {size // 2**20} MB: a reader holds an old view.",
            "See `store.write_blocked` in control's log; end the reader that is named there.",
        )
    overview = _overview(paths.ledger)
    if overview is None:
        return
    if overview.recovery is not None:
        yield warn(
            "stores",
            f"The site is in RECOVERY ({overview.recovery.reason}): nobody is cut for credit.",
            "Compare accounts with receipts: `prepaid-gateway recovery show`, then `release`.",
        )
    if figures_of(config, clock).get("clock_trusted") == 0.0:
        # Commits keep the label of the last trusted time: how old the last one is nobody knows.
        return
    age_s = (clock.utc_ms() - overview.last_sweep_utc_ms) // 1000
    if overview.last_sweep_utc_ms and age_s > 60 and holder_of(paths.control_dir / LOCK_NAME):
        yield wrong(
            "stores",
            f"Control runs and has committed nothing for {age_s} s.",
            "Look at control's log; a restart is safe.",
        )


def _overview(path: Path) -> LedgerOverview | None:
    try:
        with opened_store(path, LEDGER) as connection:
            return read_overview(connection)
    except (GatewayError, OSError):
        # Said already by `_store`.
        return None


def _store(path: Path, schema: StoreSchema) -> Iterator[Finding]:
    if not os.access(path.parent, os.R_OK | os.X_OK):
        return
    if not path.exists():
        yield wrong("stores", f"{path} does not exist.", _INIT)
        return
    try:
        with opened_store(path, schema) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            small = path.stat().st_size <= WHOLE_CHECK_BYTES
            if small:
                check_whole(connection, path)
    except GatewayError as error:
        yield wrong("stores", f"{path.name} cannot be used: {error}.", _BACK)
        return
    looked = "every page is in order" if small else "it opens; `ledger verify` looks at every page"
    if version < schema.newest():
        looked += f"; schema {version} becomes {schema.newest()} at the next start"
    yield fine("stores", f"{path.name}: {looked}.")


def _leftovers(config: Config) -> Iterator[Finding]:
    if not os.access(config.state_dir, os.R_OK | os.X_OK):
        return
    kept = sorted(path.name for path in config.state_dir.glob("*restore-*"))
    if kept:
        yield warn(
            "stores",
            f"An earlier restore left {named(kept)} in {config.state_dir}.",
            "Move it to another disk once the accounts were compared and the RECOVERY is released.",
        )


def _backups(config: Config, clock: Clock) -> Iterator[Finding]:
    directory = config.backup.directory
    if directory is None:
        yield warn(
            "backups",
            "No directory for backups is configured.",
            "Set backup.directory to another disk or a share, and run `prepaid-gateway backup` "
            "every night.",
        )
        return
    try:
        found = dated_backups(directory, config.site.id)
        newest_s = max(path.stat().st_mtime for path in found) if found else 0.0
    except OSError as error:
        yield wrong("backups", f"{directory}: {error.strerror}.", "Is it mounted?")
        return
    if not found:
        yield wrong("backups", f"{directory} holds no backup.", "Run `prepaid-gateway backup`.")
        return
    hours = (clock.utc_ms() / 1000 - newest_s) / 3600
    if hours > BACKUP_HOURS:
        yield wrong(
            "backups",
            f"The newest of {len(found)} backups is {hours:.0f} hours old.",
            "Run `prepaid-gateway backup` and look at why the nightly one does not.",
        )
    else:
        yield fine("backups", f"{len(found)} backups, the newest is {max(0, hours):.0f} hours old.")
