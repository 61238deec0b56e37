"""A day of readings: what it takes on the disk, and how one value of one meter comes back."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from bench.store import ROWS, Sweeps, customers
from gateway.store.chunks import SHARD_METERS, StagedReading
from gateway.store.fold import write_chunks
from gateway.store.telemetry import FOLD_SWEEPS, TelemetryWriter
from gateway.store.telemetry_files import TelemetryFiles, day_name
from gateway.store.telemetry_reader import TelemetryReader
from tests.store.store_files import owned
from tests.store.telemetry_bench import at

pytestmark = pytest.mark.slow

MIDNIGHT = at("2026-11-20T00:00:00")
DAY_S = 86_400
NAMES = ("active_power_total_w", "voltage_l1_n_v", "energy_import_t1_wh")


def test_a_day_of_one_value_comes_back_quickly(tmp_path: Path) -> None:
    """86,400 readings of one meter: all of one value, in order, in far less than two seconds.

    The figure is 200 ms on a quiet machine (`bench/store.py`); a scan would take minutes.
    """
    with owned(tmp_path / "c") as owner:
        TelemetryWriter(tmp_path / "c" / "telemetry", (), owner=owner).close(5)
        files = TelemetryFiles(tmp_path / "c" / "telemetry", owner)
        day = files.day(MIDNIGHT).connection
        for start in range(0, DAY_S, FOLD_SWEEPS):
            for meter in range(SHARD_METERS):
                rows = [
                    (
                        second + 1,
                        StagedReading(
                            meter,
                            1,
                            MIDNIGHT + second * 1_000,
                            second,
                            (10**6 + second, 0),
                            (1_000.0 + second * 7 % 500, 230.0, 10.0**6 + second),
                        ),
                    )
                    for second in range(start, start + FOLD_SWEEPS)
                ]
                if meter == 1 or start == 0:
                    names = {1: NAMES}
                    write_chunks(day, meter, rows, meter_ids={meter: f"flat-{meter}"}, names=names)
        files.stop()
    reader = TelemetryReader(tmp_path / "c" / "telemetry")
    begun_s = time.perf_counter()
    points = reader.values("flat-1", NAMES[0], MIDNIGHT, MIDNIGHT + DAY_S * 1_000)
    took_s = time.perf_counter() - begun_s
    assert len(points) == DAY_S
    assert [point.utc_ms for point in points] == [MIDNIGHT + n * 1_000 for n in range(DAY_S)]
    assert [point.value for point in points] == [1_000.0 + n * 7 % 500 for n in range(DAY_S)]
    assert took_s < 2.0


def test_three_phases_at_one_second_fit_three_gigabytes_a_day(tmp_path: Path) -> None:
    """61 noisy values of three-phase meters: the figure is 2.8 GB (`bench/store.py`)."""
    names, rows = customers(1, 0.05, SHARD_METERS)
    sweeps = Sweeps(names, rows, SHARD_METERS)
    assert len(names) == 61
    with owned(tmp_path / "c") as owner:
        writer = TelemetryWriter(tmp_path / "c" / "telemetry", sweeps.meters, owner=owner)
        for second in range(ROWS):
            at_ms = MIDNIGHT + second * 1_000
            staged = writer.stage_sweep(at_ms, sweeps.next(at_ms))
            if second % 20 == 0:
                staged.result(10)
            if second % FOLD_SWEEPS == FOLD_SWEEPS - 1:
                writer.fold_all().result(10)
        writer.close(10)
    path = tmp_path / "c" / "telemetry" / day_name(MIDNIGHT)
    with closing(sqlite3.connect(path)) as day:
        chunks, octets = day.execute("SELECT count(*), sum(length(body)) FROM chunk").fetchone()
        octets += day.execute("SELECT sum(length(body)) FROM minute").fetchone()[0]
    # Half a page is lost at the end of each chunk.
    per_reading = (octets + 2_048 * chunks) / (ROWS * len(sweeps.meters))
    assert per_reading * 800 * DAY_S < 3.3e9
