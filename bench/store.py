"""What readings cost to keep: GB a day, share of a core, bytes written, and reading a day back.

    python -m bench.store --meters 800 --sweeps 600

Readings are those of simulated customers (their load curves, registers as the meter packs them)
with measurement noise on top; meters take turns through a few of them, each shifted in time. Sweeps
are staged and folded as fast as the disk allows, so the share is CPU per second of readings. The
first chunks' worth of sweeps is left out: until then folds come before their time is full.
"""

import argparse
import os
import platform
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from struct import Struct
from typing import Final

from gateway.app.clock import SystemClock, seeded
from gateway.core.reading import Lane
from gateway.sim.image import Image
from gateway.sim.site import Site, SiteOptions
from gateway.south.models import meter_model
from gateway.south.plan import lane_plans
from gateway.store.db import own_directory
from gateway.store.live import LiveMeter
from gateway.store.telemetry import FOLD_SWEEPS, MeterReading, TelemetryWriter
from gateway.store.telemetry_files import day_files
from gateway.store.telemetry_reader import TelemetryReader

CUSTOMERS: Final = 20
# Kind of site, every how many customers one is a shop on three phases, and the share of power that
# changes at random within a second.
SITES: Final = (
    ("one shop in ten", 10, 0.5),
    ("all on three phases", 1, 0.05),
    ("all on three phases", 1, 0.5),
)
ROWS: Final = 900
SECONDS_A_DAY: Final = 86_400
NOISE: Final = 0.0005
START_S: Final = 18 * 3600
MIDNIGHT_MS: Final = 1_795_046_400_000
FLOAT: Final = Struct("f")

Row = tuple[tuple[int, ...], tuple[float, ...]]


def customers(
    shop_every: int, swing: float, count: int = CUSTOMERS
) -> tuple[tuple[str, ...], list[list[Row]]]:
    """Names of the values, and for each customer its readings of ROWS seconds."""
    options = SiteOptions(meters=count, shop_every=shop_every, swing=swing)
    site = Site(options, SystemClock(1.0), seeded)
    model = meter_model("pac3220")
    plan = lane_plans(model, "0.0", None)[Lane.FULL]
    random = seeded(7)
    noisy = [at for at, name in enumerate(plan.names[:37]) if not name.startswith("power_factor")]
    found = []
    for customer in site.customers():
        image, rows = Image(customer.meter), list[Row]()
        for second in range(ROWS):
            payloads = [
                image.read(START_S + second, read.address, read.count) for read in plan.reads
            ]
            values = list(plan.decode(payloads))
            for at in noisy:
                # Six evenly spread numbers are as good as a bell curve.
                bell = sum(random.random() for _ in range(6)) - 3.0
                values[at] = FLOAT.unpack(FLOAT.pack(values[at] * (1.0 + NOISE * bell)))[0]
            kept = tuple(values[: plan.value_count])
            rows.append((plan.energy_wh(values), kept))
        found.append(rows)
    return plan.names[: plan.value_count], found


class Sweeps:
    """Sweeps of many meters made of a few customers' rows."""

    def __init__(self, names: Sequence[str], rows: Sequence[Sequence[Row]], meters: int) -> None:
        self.meters = [LiveMeter(f"flat-{number:04}", tuple(names)) for number in range(meters)]
        self._rows = rows
        self._sequence = 0

    def next(self, utc_ms: int) -> list[MeterReading]:
        """One reading of every meter."""
        self._sequence += 1
        readings = []
        for meter in range(len(self.meters)):
            rows = self._rows[meter % len(self._rows)]
            energy_wh, values = rows[(self._sequence + meter * 7) % ROWS]
            at_ms = utc_ms + meter % 1_000
            readings.append(MeterReading(meter, at_ms, self._sequence, energy_wh, values))
        return readings


def written_bytes() -> int:
    """What this process has sent to the disk so far."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("write_bytes")).split()[1])


def day_bytes(directory: Path) -> int:
    """Pages in use in the files of readings, WAL included."""
    total = 0
    for path in day_files(directory):
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        total += path.stat().st_size
    return total


def keep(directory: Path, sweeps: Sweeps, count: int) -> None:
    """Stage and fold; print what it took per second of readings."""
    owner = own_directory(directory, create=True)
    writer = TelemetryWriter(directory / "telemetry", sweeps.meters, owner=owner)
    cpu_s, written, making_s = 0.0, 0, 0.0
    for number in range(FOLD_SWEEPS + count):
        if number == FOLD_SWEEPS:
            cpu_s, written, making_s = time.process_time(), written_bytes(), 0.0
            day_before, folded = day_bytes(directory / "telemetry"), writer.folded_chunks
        begun_s = time.process_time()
        readings = sweeps.next(MIDNIGHT_MS + number * 1_000)
        making_s += time.process_time() - begun_s
        writer.stage_sweep(MIDNIGHT_MS + number * 1_000, readings)
        writer.fold().result()
    cpu_s = time.process_time() - cpu_s - making_s
    written = written_bytes() - written
    grown = day_bytes(directory / "telemetry") - day_before
    per_reading = grown / max(1, (writer.folded_chunks - folded) * FOLD_SWEEPS)
    a_day = per_reading * len(sweeps.meters) * SECONDS_A_DAY / 1e9
    print(
        f"    kept {per_reading:5.1f} B a reading = {a_day:5.2f} GB a day, "
        f"{cpu_s / count * 100:4.1f} % of a core, "
        f"written {written / count * SECONDS_A_DAY / 1e9:5.1f} GB a day"
    )
    writer.close(60)
    owner.release()


def read_day(directory: Path, names: Sequence[str], rows: Sequence[Sequence[Row]]) -> None:
    """A day of a few meters, then one value of one of them, cold and warm."""
    sweeps = Sweeps(names, rows, 4)
    owner = own_directory(directory, create=True)
    writer = TelemetryWriter(directory / "telemetry", sweeps.meters, owner=owner)
    for number in range(SECONDS_A_DAY):
        at_ms = MIDNIGHT_MS + number * 1_000
        staged = writer.stage_sweep(at_ms, sweeps.next(at_ms))
        if number % 100 == 0:
            staged.result()
            writer.fold().result()
    writer.fold_all().result()
    writer.close(60)
    owner.release()
    os.sync()
    for path in directory.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
    reader = TelemetryReader(directory / "telemetry")
    took_ms = []
    for _ in range(6):
        begun_s = time.perf_counter()
        points = reader.values(
            "flat-0001", "active_power_total_w", MIDNIGHT_MS, MIDNIGHT_MS + SECONDS_A_DAY * 1_000
        )
        took_ms.append((time.perf_counter() - begun_s) * 1_000)
    print(
        f"  a day of one value of one meter: {len(points)} points, {took_ms[0]:.0f} ms cold, "
        f"{min(took_ms[1:]):.0f} ms warm"
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--meters", type=int, default=800)
    parser.add_argument("--sweeps", type=int, default=FOLD_SWEEPS)
    parser.add_argument("--quick", action="store_true", help="one kind of site only")
    arguments = parser.parse_args()
    print(
        f"readings of {arguments.meters} meters at 1 s, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, {platform.machine()}"
    )
    base = Path(tempfile.mkdtemp(prefix="bench-store-", dir="/var/tmp"))
    try:
        for kind, shop_every, swing in SITES[:1] if arguments.quick else SITES:
            names, rows = customers(shop_every, swing)
            print(f"  {kind}, {len(names)} values, power swinging {swing:.0%} in a second")
            sweeps = Sweeps(names, rows, arguments.meters)
            keep(base / f"{shop_every}-{swing}", sweeps, arguments.sweeps)
        read_day(base / "day", names, rows)
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
