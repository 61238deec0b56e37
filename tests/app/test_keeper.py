"""Telemetry that cannot be written stops nothing, says so once, and comes back by itself."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app.config import load_config
from gateway.app.control.keeper import TelemetryKeeper
from gateway.core.interval import Interval
from gateway.core.reading import Lane, Reading
from gateway.store.db import own_directory
from gateway.store.live import LiveMeter
from gateway.store.telemetry import TelemetryWriter
from gateway.store.telemetry_reader import TelemetryReader
from tests.app.control_site import CONFIG

NOON = 1_795_176_000_000


class Bench:
    """A keeper whose clock and disk a test moves."""

    def __init__(self, directory: Path) -> None:
        (directory / "config.yaml").write_text(CONFIG)
        self.owner = own_directory(directory / "c", create=True)
        self.has_room = True
        self.sequence = 0
        self.keeper = TelemetryKeeper(
            directory / "c" / "telemetry",
            load_config(directory / "config.yaml"),
            [LiveMeter("flat-1", ("active_power_total_w",))],
            self.owner,
            has_room=lambda: self.has_room,
        )
        self.reader = TelemetryReader(directory / "c" / "telemetry")

    async def sweep(self) -> None:
        """One reading, one flush."""
        self.sequence += 1
        utc_ms = NOON + self.sequence * 1_000
        self.keeper.reading(
            0,
            Reading(
                sequence=self.sequence,
                mono_ns=self.sequence,
                utc_ms=utc_ms,
                lane=Lane.FULL,
                energy_wh=(self.sequence, 0),
                output_closed=True,
                current_a=1.0,
                power_w=1.0,
                meter_clock_s=0,
                values=(1.0,),
            ),
        )
        await self.keeper.flush(utc_ms)

    def kept(self) -> list[int]:
        """The sequences of the readings on the disk."""
        return [p.sequence for p in self.reader.registers("flat-1", 0, NOON * 2)]

    def events(self) -> list[tuple[str, str]]:
        """What was told, oldest first."""
        return [(event.kind, event.severity) for event in self.reader.events_after(0)]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A keeper that tries again at once."""
    monkeypatch.setattr("gateway.app.control.keeper.RETRY_FIRST_S", 0.05)
    made = Bench(tmp_path)
    yield made
    made.keeper.close(5)
    made.owner.release()


async def test_telemetry_comes_back_after_a_fault(bench: Bench) -> None:
    """A full file ends the writer; with the fault gone readings are kept again, told both times."""
    await bench.sweep()
    assert bench.kept() == [1]
    staging = bench.keeper._writer._files.staging.connection
    staging.execute("PRAGMA max_page_count=1")
    for _ in range(200):
        await bench.sweep()
        if not bench.keeper.working:
            break
    broken_at = bench.sequence
    assert broken_at < 200
    await asyncio.sleep(0.1)
    await bench.sweep()
    await bench.sweep()
    assert bench.kept()[-1] == bench.sequence > broken_at
    assert bench.events() == [("TELEMETRY_FAILED", "warning"), ("TELEMETRY_FAILED", "cleared")]


@pytest.mark.slow
async def test_fault_that_stays_is_told_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries that fail too are quiet and farther and farther apart; descriptors do not leak."""
    monkeypatch.setattr("gateway.app.control.keeper.RETRY_MAX_S", 0.01)
    await bench.sweep()
    directory = bench.keeper._writer._files.directory
    bench.keeper._writer._files.staging.connection.execute("PRAGMA max_page_count=1")
    while bench.keeper.working:
        await bench.sweep()
    (directory / "staging.db").rename(directory / "kept")
    (directory / "staging.db").mkdir()
    for name in ("staging.db-wal", "staging.db-shm"):
        (directory / name).unlink(missing_ok=True)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - not a file system's directory
    for _ in range(20):
        await asyncio.sleep(0.02)
        await bench.sweep()
    assert not bench.keeper.working
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
    (directory / "staging.db").rmdir()
    (directory / "kept").rename(directory / "staging.db")
    await asyncio.sleep(0.05)
    await bench.sweep()
    await bench.sweep()
    assert bench.events() == [("TELEMETRY_FAILED", "warning"), ("TELEMETRY_FAILED", "cleared")]


async def test_readings_stop_below_the_floor_and_events_go_on(bench: Bench) -> None:
    """Without room no reading is written and each is counted; the alarm itself is kept."""
    await bench.sweep()
    bench.has_room = False
    await bench.sweep()
    await bench.sweep()
    assert bench.kept() == [1]
    assert (bench.keeper.working, bench.keeper.dropped) == (False, 2)
    assert bench.events() == [("TELEMETRY_PAUSED", "warning")]
    bench.has_room = True
    await bench.sweep()
    assert bench.kept() == [1, 4]
    assert bench.events()[-1] == ("TELEMETRY_PAUSED", "cleared")


@pytest.mark.slow
async def test_files_that_open_slowly_after_a_fault_hold_up_no_sweep(bench: Bench) -> None:
    """Postings are in the same sweep: it goes on while large files are checked, or a disk hangs."""
    await bench.sweep()
    gate, at_once = threading.Event(), bench.keeper._open

    def slowly() -> TelemetryWriter:
        gate.wait(20)
        return at_once()

    object.__setattr__(bench.keeper, "_open", slowly)
    bench.keeper._writer._files.staging.connection.execute("PRAGMA max_page_count=1")
    while bench.keeper.working:
        await bench.sweep()
    await asyncio.sleep(0.1)
    async with asyncio.timeout(10):
        await bench.sweep()
        await bench.sweep()
    assert bench.events() == []
    gate.set()
    async with asyncio.timeout(10):
        while len(bench.events()) < 2:
            await bench.sweep()
        await bench.sweep()
    assert bench.kept()[-1] == bench.sequence
    assert bench.events() == [("TELEMETRY_FAILED", "warning"), ("TELEMETRY_FAILED", "cleared")]


async def test_half_hours_of_a_failed_write_are_written_when_it_is_over(bench: Bench) -> None:
    """There is no second reading of a half hour: those under way with the fault are kept."""
    await bench.sweep()
    bench.keeper._writer._files.staging.connection.execute("PRAGMA max_page_count=1")
    starts: list[int] = []
    while bench.keeper.working:
        starts.append(NOON + 1_800_000 * len(starts))
        half_hour = Interval(starts[-1], starts[-1] + 1_800_000, (5, 0), None, 1_800, False)
        bench.keeper.interval(0, half_hour)
        await bench.sweep()
    await asyncio.sleep(0.1)
    async with asyncio.timeout(10):
        while len(bench.events()) < 2:
            await bench.sweep()
    await bench.sweep()
    kept = bench.reader.intervals("flat-1", 0, NOON * 2)
    assert [half_hour.start_utc_ms for half_hour in kept] == starts
