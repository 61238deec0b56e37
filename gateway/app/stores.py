"""Creating the stores of an installation, once."""

import os
from pathlib import Path
from typing import Final

from ulid import ULID

from gateway.app.config import Config
from gateway.app.paths import paths_of
from gateway.app.voucher_key import load_voucher_keys
from gateway.core.clock import Clock
from gateway.core.errors import RefusedError, StoreCorruptError, StoreError
from gateway.store.db import Connection, StoreSchema, make_directory, open_writer, own_directory
from gateway.store.ledger import LEDGER, Site, create_site, read_site
from gateway.store.requests import NORTH, create_north, read_north_epoch, requests_before
from gateway.store.writer import InlineWriter, Operation

STATE_DIR_MODE: Final = 0o755


def create_stores(config: Config, clock: Clock) -> tuple[Path, ...]:
    """Make `north.db` and `ledger.db`; currency, scale and zone are frozen by it.

    What a creation that was cut short left behind is completed. Raises RefusedError STORE_EXISTS
    where either is there and used already: nothing is ever overwritten.
    """
    paths = paths_of(config)
    north = paths.north_dir / "north.db"
    there = [str(path) for path in (paths.ledger, north) if path.exists()]
    if there and not _cut_short(paths.ledger, north):
        raise RefusedError(
            "STORE_EXISTS", f"{', '.join(there)}: this installation was initialised already"
        )
    utc_ms = clock.utc_ms()
    site = Site(
        site_id=config.site.id,
        currency=config.site.currency,
        money_scale=config.site.money_scale,
        minor_digits=config.site.minor_digits,
        zone=config.site.timezone,
        created_utc_ms=utc_ms,
    )
    if not config.state_dir.is_dir():
        # Both users pass through it; what it holds is closed to everybody else.
        make_directory(config.state_dir)
        config.state_dir.chmod(STATE_DIR_MODE)
    # The ledger's site comes last: with it the creation is complete.
    _create(north, NORTH, lambda c: _begin_north(c, utc_ms))
    _create(paths.ledger, LEDGER, lambda c: create_site(c, site, _ulid(utc_ms)))
    load_voucher_keys(paths.control_dir)
    _hand_over(paths.control_dir)
    return paths.ledger, north


def may_create(config: Config) -> bool:
    """Whether a start may create the stores: the file says so and the directory is empty."""
    return config.create and not any(config.state_dir.glob("*"))


def _cut_short(ledger: Path, north: Path) -> bool:
    """Whether the files are those of a creation that never ended: no site, nothing asked yet."""
    try:
        return _holds(ledger, LEDGER, _without_site) and _holds(north, NORTH, _without_requests)
    except StoreError:
        return False


def _holds(path: Path, schema: StoreSchema, true_of: Operation[bool]) -> bool:
    if not path.exists():
        return True
    owner = own_directory(path.parent, create=False)
    try:
        file = open_writer(path, schema, owner=owner, create=True)
        try:
            return true_of(file.connection)
        finally:
            file.stop()
    finally:
        owner.release()


def _without_site(connection: Connection) -> bool:
    try:
        read_site(connection)
    except StoreCorruptError:
        return True
    return False


def _without_requests(connection: Connection) -> bool:
    return not requests_before(connection, limit=1)


def _begin_north(connection: Connection, utc_ms: int) -> None:
    if not read_north_epoch(connection):
        create_north(connection, _ulid(utc_ms), utc_ms=utc_ms)


def _create(path: Path, schema: StoreSchema, begin: Operation[None]) -> None:
    owner = own_directory(path.parent, create=True)
    try:
        file = open_writer(path, schema, owner=owner, create=True)
        InlineWriter(file).submit(begin).result()
        file.stop()
    finally:
        owner.release()
    _hand_over(path.parent)


def _hand_over(directory: Path) -> None:
    """Give what root made to the directory's owner: the package makes it for a unit's user."""
    if os.geteuid() == 0:
        owner = directory.stat()
        for item in directory.iterdir():
            os.chown(item, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _ulid(utc_ms: int) -> str:
    return str(ULID.from_timestamp(utc_ms / 1000))
