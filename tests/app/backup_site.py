"""A site to back up and restore: some money, some requests, some readings."""

import hashlib
from pathlib import Path

from gateway.app.backup import Backup, BackupOptions, make_backup
from gateway.app.paths import Paths, paths_of
from gateway.core.recovery import KnownHead
from gateway.core.requests import Recharge, Request, Role
from gateway.store.db import open_writer, own_directory
from gateway.store.recovery import save_known_head
from gateway.store.requests import NORTH, insert_request
from gateway.store.writer import InlineWriter
from tests.app.control_site import PRICE_NANO, ControlSite


def silent(_what: str, _done: int, _total: int) -> None:
    """Nobody watches."""


async def begun(directory: Path) -> ControlSite:
    """A flat with an account, its files in `directory`."""
    site = _made(directory)
    site.read(1_000)
    site.sweeper.judge()
    await site.open_flat(1_000 * PRICE_NANO)
    await site.sweeper.sweep()
    return site


def _made(directory: Path) -> ControlSite:
    directory.mkdir()
    return ControlSite(directory)


def paths(site: ControlSite) -> Paths:
    """Where its files are."""
    return paths_of(site.config)


def ask(site: ControlSite, *keys: str) -> None:
    """Recharges that north made durable."""
    store(
        site, *(Request(key, Recharge("flat-1", 7), "till", Role.OPERATOR, "t", 1) for key in keys)
    )


def store(site: ControlSite, *requests: Request) -> None:
    """North makes requests durable."""
    directory = paths(site).north_dir
    owner = own_directory(directory, create=False)
    file = open_writer(directory / "north.db", NORTH, owner=owner, create=False)
    for request in requests:
        InlineWriter(file).submit(lambda c, r=request: insert_request(c, r)).result()  # type: ignore[misc]
    file.stop()
    owner.release()


def remember(site: ControlSite, known: KnownHead) -> None:
    """North has seen this head of the ledger."""
    directory = site.directory / "state" / "north"
    owner = own_directory(directory, create=False)
    file = open_writer(directory / "north.db", NORTH, owner=owner, create=False)
    InlineWriter(file).submit(lambda c: save_known_head(c, known, utc_ms=1)).result()
    file.stop()
    owner.release()


def backed_up(site: ControlSite, target: Path, *, telemetry: bool = False) -> Backup:
    """A backup into a directory, made when needed."""
    target.mkdir(exist_ok=True)
    options = BackupOptions(target, telemetry=telemetry)
    return make_backup(site.config, site.clock, options, silent)


def tree(directory: Path) -> dict[str, str]:
    """Every file below a directory by its content; SQLite's shared memory and locks left out."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm") and path.name != "writer.lock"
    }
