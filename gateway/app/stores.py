"""Creating the stores of an installation, once."""

from pathlib import Path

from ulid import ULID

from gateway.app.config import Config
from gateway.app.paths import paths_of
from gateway.core.clock import Clock
from gateway.core.errors import RefusedError
from gateway.store.db import StoreSchema, open_writer, own_directory
from gateway.store.ledger import LEDGER, Site, create_site
from gateway.store.requests import NORTH, create_north
from gateway.store.writer import InlineWriter, Operation


def create_stores(config: Config, clock: Clock) -> tuple[Path, ...]:
    """Make `ledger.db` and `north.db`; currency, scale and zone are frozen by it.

    Raises RefusedError STORE_EXISTS where either is there already: nothing is ever overwritten.
    """
    paths = paths_of(config)
    north = paths.north_dir / "north.db"
    there = [str(path) for path in (paths.ledger, north) if path.exists()]
    if there:
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
    _create(paths.ledger, LEDGER, lambda c: create_site(c, site, _ulid(utc_ms)))
    _create(north, NORTH, lambda c: create_north(c, _ulid(utc_ms), utc_ms=utc_ms))
    return paths.ledger, north


def may_create(config: Config) -> bool:
    """Whether a start may create the stores: the file says so and the directory is empty."""
    return config.create and not any(config.state_dir.glob("*"))


def _create(path: Path, schema: StoreSchema, begin: Operation[None]) -> None:
    owner = own_directory(path.parent, create=True)
    try:
        file = open_writer(path, schema, owner=owner, create=True)
        InlineWriter(file).submit(begin).result()
        file.stop()
    finally:
        owner.release()


def _ulid(utc_ms: int) -> str:
    return str(ULID.from_timestamp(utc_ms / 1000))
