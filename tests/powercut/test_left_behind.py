"""What a power cut can leave behind is completed at the next start; found by the cuts."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.app.clock import SystemClock
from gateway.app.config import Config, load_config
from gateway.app.paths import paths_of
from gateway.app.stores import create_stores
from gateway.core.errors import RefusedError, StoreAwayError
from gateway.store.db import StoreSchema, open_writer, own_directory
from gateway.store.ledger import LEDGER, read_site
from gateway.store.requests import NORTH
from gateway.store.telemetry_files import day_files
from gateway.store.telemetry_reader import TelemetryReader
from tests.powercut.workload import CONFIG
from tests.store.telemetry_bench import FAR, NOON, Bench


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A configuration whose state directory is empty."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return load_config(path)


@pytest.fixture
def telemetry(tmp_path: Path) -> Path:
    """A telemetry directory with one finished day of three sweeps, its writer gone."""
    owner = own_directory(tmp_path / "control", create=True)
    bench = Bench(owner, threaded=False)
    for second in range(3):
        bench.sweep(NOON + 1000 * second)
    bench.writer.fold_all().result()
    files = bench.writer._files
    for file in files._open.values():
        file.connection.execute("PRAGMA journal_mode=DELETE")
    for file in (files.staging, *files._open.values()):
        file.connection.close()
    owner.release()
    return bench.directory


@contextmanager
def started(telemetry: Path) -> Iterator[Bench]:
    """The next writer of the directory."""
    owner = own_directory(telemetry.parent, create=False)
    bench = Bench(owner, threaded=False)
    yield bench
    bench.close()
    owner.release()


def leave(path: Path, schema: StoreSchema) -> None:
    """A file of which only the tables came into being."""
    owner = own_directory(path.parent, create=True)
    open_writer(path, schema, owner=owner, create=True).connection.close()
    owner.release()


@pytest.mark.parametrize("left", ["nothing", "north", "empty ledger", "both", "site missing"])
def test_a_creation_that_was_cut_short_is_completed(config: Config, left: str) -> None:
    """Whatever of `init` came to the disk, a second `init` ends it; a third is refused."""
    paths = paths_of(config)
    north = paths.north_dir / "north.db"
    if left in {"north", "both", "site missing"}:
        leave(north, NORTH)
    if left == "empty ledger":
        paths.control_dir.mkdir(parents=True)
        paths.ledger.touch()
    elif left in {"both", "site missing"}:
        leave(paths.ledger, LEDGER)
    create_stores(config, SystemClock())
    with sqlite3.connect(north) as made:
        assert made.execute("SELECT count(*) FROM store_epoch").fetchone()[0] == 1
    made.close()
    with sqlite3.connect(paths.ledger) as ledger:
        assert read_site(ledger).site_id == "palm"
    ledger.close()
    with pytest.raises(RefusedError) as refusal:
        create_stores(config, SystemClock())
    assert refusal.value.refusal_code == "STORE_EXISTS"


def test_a_lost_ledger_is_no_creation_cut_short(config: Config) -> None:
    """Where requests were taken already, a missing ledger is refused: it was there once."""
    create_stores(config, SystemClock())
    paths = paths_of(config)
    with sqlite3.connect(paths.north_dir / "north.db") as north:
        north.execute(
            "INSERT INTO request (key, type, body, body_hash, actor, role, source, created_utc_ms)"
            " VALUES ('k', 'recharge', '{}', '', 'a', 'operator', 'http', 1)"
        )
    north.close()
    for file in paths.control_dir.iterdir():
        file.unlink()
    with pytest.raises(RefusedError):
        create_stores(config, SystemClock())
    assert not paths.ledger.exists()


@pytest.mark.parametrize("left", ["empty", "one page"])
def test_a_file_without_its_tables_is_completed_at_the_start(telemetry: Path, left: str) -> None:
    """A day whose file was just being made does not hide all the others from readers."""
    young = telemetry / "2026-11-21.db"
    young.touch()
    if left == "one page":
        with sqlite3.connect(young) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    with pytest.raises(StoreAwayError):
        TelemetryReader(telemetry).registers("flat-0", 0, FAR)
    with started(telemetry) as bench:
        assert len(bench.reader.registers("flat-0", 0, FAR)) == 3


def test_a_journal_that_was_left_is_rolled_back_at_the_start(telemetry: Path) -> None:
    """Readers may not roll back; the day is readable as soon as the writer has begun."""
    day = day_files(telemetry)[0]
    connection = sqlite3.connect(day, isolation_level=None)
    connection.execute("PRAGMA cache_size=1")
    connection.execute("BEGIN")
    connection.execute("UPDATE chunk SET body = zeroblob(100000)")
    connection.execute("UPDATE minute SET body = zeroblob(100000)")
    journal = day.with_name(day.name + "-journal")
    torn, undo = day.read_bytes(), journal.read_bytes()
    connection.close()
    day.write_bytes(torn)
    journal.write_bytes(undo)
    with pytest.raises(StoreAwayError):
        TelemetryReader(telemetry).registers("flat-0", 0, FAR)
    with started(telemetry) as bench:
        assert len(bench.reader.registers("flat-0", 0, FAR)) == 3
    assert not journal.exists()
