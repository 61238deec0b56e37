"""What the stores may never do, read from the source and tried on real files."""

import re
import shutil
from pathlib import Path

import pytest

from gateway.core.errors import StoreAwayError, StoreError
from gateway.store.chunks import SHARD_BITS
from gateway.store.db import StoreSchema, open_reader, open_writer
from gateway.store.ledger import LEDGER, append_transaction, create_site, read_transactions
from gateway.store.telemetry_files import STAGING
from gateway.store.verify import verify_ledger
from tests.store.store_files import EPOCH, ROOT, SITE, ledger_file, owned, recharge

SOURCES = [*(ROOT / "gateway").rglob("*.py"), *(ROOT / "gateway").rglob("*.sql")]


def test_nobody_attaches_a_second_file() -> None:
    """A commit over two WAL files is not atomic: kills split it. No ATTACH anywhere."""
    attaching = [
        path
        for path in SOURCES
        if re.search(r"\bATTACH\s+(DATABASE\s+)?[?'\"{:]", path.read_text(encoding="utf-8"))
    ]
    assert attaching == []


def test_nobody_reads_as_if_files_never_changed() -> None:
    """`immutable=1` reads past the WAL, and rubbish while it is written back."""
    assert [path for path in SOURCES if "immutable=1" in path.read_text(encoding="utf-8")] == []


def test_ledger_transaction_depends_on_one_file(tmp_path: Path) -> None:
    """The ledger's connection knows one file, and commits with everything else gone."""
    with ledger_file(tmp_path / "c") as file:
        databases = file.connection.execute("PRAGMA database_list").fetchall()
        assert [name for _, name, _ in databases] == ["main"]
        for other in (tmp_path / "c").iterdir():
            if not other.name.startswith("ledger.db"):
                other.unlink()
        append_transaction(file.connection, recharge("a", 5, key="k"))
        assert verify_ledger(file.connection).proved


def older(schema: StoreSchema, folder: Path, version: int) -> StoreSchema:
    """A schema as an earlier version of the program knew it."""
    folder.mkdir()
    for number in range(1, version + 1):
        (script,) = schema.folder.glob(f"{number:04}_*.sql")
        shutil.copy(script, folder)
    return StoreSchema(schema.name, schema.application_id, folder)


@pytest.mark.parametrize("version", range(1, LEDGER.newest()))
def test_ledger_of_an_earlier_version_goes_on(tmp_path: Path, version: int) -> None:
    """A file with rows of each older schema is migrated, keeps them and takes more; not back."""
    before = older(LEDGER, tmp_path / "sql", version)
    path = tmp_path / "c" / "ledger.db"
    with owned(tmp_path / "c") as owner:
        file = open_writer(path, before, owner=owner, create=True)
        file.connection.execute("BEGIN")
        create_site(file.connection, SITE, EPOCH)
        append_transaction(file.connection, recharge("a", 5, key="old"))
        file.connection.execute("COMMIT")
        file.connection.close()
        file = open_writer(path, LEDGER, owner=owner, create=False)
        append_transaction(file.connection, recharge("a", 7, key="new"))
        kept = read_transactions(file.connection, 1, 9)
        assert [posted.request_key for posted, _ in kept] == ["old", "new"]
        assert verify_ledger(file.connection).proved
        file.connection.close()
        with pytest.raises(StoreError, match="install the version that wrote it"):
            open_writer(path, before, owner=owner, create=False)
    if version + 1 < LEDGER.newest():
        with pytest.raises(StoreAwayError):
            open_reader(path, before)
    else:
        open_reader(path, before).close()


def test_staged_sweeps_of_the_first_layout_are_moved(tmp_path: Path) -> None:
    """Rows keyed by shard and sweep come out keyed by sweep and shard."""
    path = tmp_path / "c" / "staging.db"
    with owned(tmp_path / "c") as owner:
        file = open_writer(path, older(STAGING, tmp_path / "sql", 1), owner=owner, create=True)
        for shard, sweep in ((0, 1), (0, 2), (3, 1), (3, 2)):
            file.connection.execute(
                "INSERT INTO sweep VALUES (?, ?, ?)",
                ((shard << 40) + sweep, sweep, bytes([shard, sweep])),
            )
        file.connection.close()
        file = open_writer(path, STAGING, owner=owner, create=False)
        rows = file.connection.execute("SELECT place, utc_ms, body FROM sweep ORDER BY place")
        assert rows.fetchall() == [
            (sweep << SHARD_BITS | shard, sweep, bytes([shard, sweep]))
            for sweep in (1, 2)
            for shard in (0, 3)
        ]
        file.connection.close()
