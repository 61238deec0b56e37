"""Telemetry: what goes in comes out, once, also after kills, midnights, odd clocks and damage."""

import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.store.chunks import (
    SHARD_METERS,
    column_of,
    unpack_integers,
)
from gateway.store.db import DirectoryOwner, own_directory
from gateway.store.live import LiveMeter
from gateway.store.telemetry import (
    STAGED_SWEEPS_MAX,
    MeterReading,
    TelemetryWriter,
)
from gateway.store.telemetry_files import day_files
from gateway.store.telemetry_reader import ValuePoint
from tests.store.store_files import killed, owned, python
from tests.store.telemetry_bench import FAR, METERS, NAMES, NOON, Bench, at, values


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[DirectoryOwner]:
    """The lock of the directory in which telemetry lies."""
    with owned(tmp_path / "control") as made:
        yield made


@pytest.fixture
def bench(owner: DirectoryOwner) -> Iterator[Bench]:
    """Folds after 10 sweeps."""
    made = Bench(owner, fold_sweeps=10)
    yield made
    made.close()


# -- readings --------------------------------------------------------------------------------


def test_readings_are_found_before_and_after_folding(bench: Bench) -> None:
    """Values and registers are the same from staging, from chunks, and half from each."""
    for second in range(25):
        assert bench.sweep(NOON + 1000 * second) == second + 1
    staged = bench.voltages(1)
    assert staged == [
        ValuePoint(NOON + 1000 * second + 1, values(1, second + 1)[0]) for second in range(25)
    ]
    assert bench.writer.fold().result(5) == 3
    for second in range(25, 30):
        bench.sweep(NOON + 1000 * second)
    both = bench.voltages(1)
    assert both[:25] == staged
    assert len(both) == 30
    registers = bench.reader.registers("flat-2", 0, FAR)
    assert [point.energy_wh for point in registers] == [(10**9 + n, 2) for n in range(1, 31)]
    assert [point.sequence for point in registers] == list(range(1, 31))
    energy = bench.reader.values("flat-0", NAMES[1], 0, FAR)
    assert [point.value for point in energy] == [1e9 + n for n in range(1, 31)]
    bits = bench.reader.values("flat-0", NAMES[2], 0, FAR)
    assert {point.value for point in bits} == {4294967295.0}


def test_ranges_are_half_open_and_limited(bench: Bench) -> None:
    """From is included, to is not; a limit gives the earliest points."""
    for second in range(20):
        bench.sweep(NOON + 1000 * second)
    bench.writer.fold_all().result(5)
    bench.sweep(NOON + 20_000)
    begin = NOON + 5_001
    assert [point.utc_ms for point in bench.voltages(1, begin, begin + 2_000)] == [
        begin,
        begin + 1_000,
    ]
    first = bench.reader.values("flat-1", NAMES[0], 0, FAR, limit=3)
    assert first == bench.voltages(1)[:3]
    assert len(bench.voltages(1)) == 21
    assert bench.reader.values("flat-1", "no_such_value", 0, FAR) == []
    assert bench.reader.values("nobody", NAMES[0], 0, FAR) == []


def test_folding_waits_for_enough_and_takes_one_shard_at_a_time(bench: Bench) -> None:
    """Below the bound nothing is folded; then each call folds the meters of one shard."""
    everyone = range(len(METERS))
    for second in range(9):
        bench.sweep(NOON + 1000 * second, everyone)
    assert bench.writer.fold().result(5) == 0
    bench.sweep(NOON + 9_000, everyone)
    folded = [bench.writer.fold().result(5) for _ in range(7)]
    assert sum(folded) == len(METERS)
    assert max(folded) <= SHARD_METERS
    assert folded[-1] == 0
    assert [len(bench.voltages(meter)) for meter in everyone] == [10] * len(METERS)


def test_short_polls_keep_registers_and_leave_no_values(bench: Bench) -> None:
    """A reading without values has registers; its measurements are undefined, not zero."""
    for second in range(4):
        bench.sweep(NOON + 1000 * second, short=second % 2 == 1)
    before = [point.value for point in bench.voltages(0)]
    bench.writer.fold_all().result(5)
    after = bench.voltages(0)
    assert [point.value for point in after if point.value is not None] == before
    assert len(bench.reader.registers("flat-0", 0, FAR)) == 4
    assert [point.value is None for point in after] == [False, True, False, True]


def test_readings_around_midnight_go_to_their_days(bench: Bench) -> None:
    """One fold over midnight writes two files; a range over it reads both."""
    midnight = at("2026-11-21T00:00:00")
    for second in range(-5, 5):
        bench.sweep(midnight + 1000 * second)
    bench.writer.fold_all().result(5)
    names = [path.name for path in day_files(bench.directory)]
    assert names == ["2026-11-20.db", "2026-11-21.db"]
    assert len(bench.voltages(0)) == 10
    assert len(bench.voltages(0, midnight, FAR)) == 5


def test_clock_that_steps_back_loses_no_reading(bench: Bench) -> None:
    """Readings are told apart by sequence: after a step back all registers are there."""
    for second in (0, 1, 2, 1, 2, 3):
        bench.sweep(NOON + 1000 * second)
        if second == 2:
            bench.writer.fold_all().result(5)
    bench.writer.fold_all().result(5)
    registers = bench.reader.registers("flat-0", 0, FAR)
    assert [point.sequence for point in registers] == [1, 2, 3, 4, 5, 6]


def test_minute_means_leave_out_what_is_undefined(bench: Bench) -> None:
    """Means over a minute, also when its readings lie in two chunks; NaN does not count."""
    writer = bench.writer
    for second, volts in ((0, 100.0), (20, math.nan), (40, 200.0), (50, 600.0), (70, 7.0)):
        reading = MeterReading(0, NOON + 1000 * second, second, (1,), (volts, 5.0, 1.0))
        writer.stage_sweep(NOON, [reading]).result(5)
        if second == 40:
            writer.fold_all().result(5)
    writer.fold_all().result(5)
    means = bench.reader.minutes("flat-0", NAMES[0], 0, FAR)
    assert [(point.start_utc_ms, point.mean) for point in means] == [
        (NOON, pytest.approx((150.0 * 3 + 600.0) / 4)),
        (NOON + 60_000, 7.0),
    ]
    late = bench.reader.minutes("flat-0", NAMES[0], NOON + 60_000, FAR)
    assert [point.mean for point in late] == [7.0]


def test_wrong_number_of_values_is_refused(bench: Bench) -> None:
    """A reading that does not fit its meter's names is an error at once."""
    with pytest.raises(ValueError, match="3 values"):
        bench.writer.stage_sweep(NOON, [MeterReading(0, NOON, 1, (1,), (1.0,))])
    with pytest.raises(ValueError, match="calendar"):
        bench.writer.stage_sweep(NOON, [MeterReading(0, 2**60, 1, (1,))])


def test_new_values_of_a_meter_begin_a_new_chunk(owner: DirectoryOwner) -> None:
    """After a change of model the old names are read from old chunks, the new from new ones."""
    bench = Bench(owner)
    bench.sweep(NOON)
    bench.close()
    changed = [LiveMeter("flat-0", ("power_w",)), *METERS[1:]]
    writer = TelemetryWriter(bench.directory, changed, owner=owner)
    writer.stage_sweep(NOON, [MeterReading(0, NOON + 1000, 9, (1, 2), (55.0,))]).result(5)
    writer.fold_all().result(5)
    assert len(bench.voltages(0)) == 1
    powers = bench.reader.values("flat-0", "power_w", 0, FAR)
    assert powers == [ValuePoint(NOON + 1000, 55.0)]
    writer.close(5)


def test_staged_readings_survive_a_restart(owner: DirectoryOwner) -> None:
    """What was staged before a stop is folded after it, in the order of its sweeps."""
    bench = Bench(owner)
    for second in range(5):
        bench.sweep(NOON + 1000 * second)
    before = bench.voltages(0)
    bench.close()
    again = TelemetryWriter(bench.directory, METERS[::-1], owner=owner, fold_sweeps=5)
    number = again.stage_sweep(NOON, [MeterReading(19, NOON + 9_000, 77, (1,), values(0, 1))])
    assert number.result(5) == 6
    assert again.fold().result(5) > 0
    assert bench.voltages(0)[:5] == before
    assert len(bench.voltages(0)) == 6
    again.close(5)


def test_interrupted_fold_adds_nothing_twice(bench: Bench) -> None:
    """Chunks written but staging not emptied (a crash between): the repeat changes nothing."""
    for second in range(10):
        bench.sweep(NOON + 1000 * second)
    copy = sqlite3.connect(bench.directory / "staging.db")
    staged = copy.execute("SELECT * FROM sweep").fetchall()
    assert bench.writer.fold_all().result(5) == 3
    copy.executemany("INSERT INTO sweep VALUES (?, ?, ?)", staged)
    copy.commit()
    copy.close()
    bench.sweep(NOON + 10_000)
    assert bench.writer.fold_all().result(5) == 3
    assert len(bench.reader.registers("flat-0", 0, FAR)) == 11
    day = sqlite3.connect(day_files(bench.directory)[0])
    rows = [
        unpack_integers(column_of(row[0], 0), 1)[0] for row in day.execute("SELECT body FROM chunk")
    ]
    day.close()
    assert sum(rows) == 33


def test_staging_is_bounded(owner: DirectoryOwner) -> None:
    """When nothing folds, the oldest sweeps are forgotten beyond the bound, and counted."""
    bench = Bench(owner, threaded=False)
    bench.writer._files.staging.connection.execute("PRAGMA synchronous=OFF")
    for second in range(STAGED_SWEEPS_MAX + 5):
        bench.sweep(NOON + 1000 * second, range(1))
    found = bench.voltages(0)
    assert len(found) == STAGED_SWEEPS_MAX
    assert bench.writer.dropped_sweeps == 5
    assert found[0].utc_ms == NOON + 5_000
    bench.close()


KILLED = """
import sys
from pathlib import Path
from gateway.store.db import own_directory
from tests.store.telemetry_bench import NOON, Bench
owner = own_directory(Path(sys.argv[1]), create=True)
bench = Bench(owner, fold_sweeps=3)
bench.sequence = int(sys.argv[2])
while True:
    bench.sweep(NOON + 1000 * bench.sequence)
    print(bench.sequence, flush=True)
    bench.writer.fold()
"""


@pytest.mark.slow
def test_kill_while_folding_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """kill -9 eight times among sweeps and folds: each acknowledged reading is there once."""
    acknowledged: list[int] = []
    for attempt in range(8):
        begin = max(acknowledged, default=0) + 100
        child = python(KILLED, str(tmp_path / "control"), str(begin))
        assert child.stdout is not None
        for _ in range(4 + 3 * attempt):
            text = child.stdout.readline()
            assert text, child.stderr.read() if child.stderr else ""
            acknowledged.append(int(text))
        acknowledged += [int(text) for text in killed(child)]
    owner = own_directory(tmp_path / "control", create=False)
    bench = Bench(owner)
    bench.writer.fold_all().result(5)
    sequences = [point.sequence for point in bench.reader.registers("flat-0", 0, FAR)]
    assert set(acknowledged) <= set(sequences)
    day = sqlite3.connect(day_files(bench.directory)[0])
    rows = [
        unpack_integers(column_of(row[0], 0), 1)[0] for row in day.execute("SELECT body FROM chunk")
    ]
    day.close()
    assert sum(rows) == 3 * len(sequences)
    bench.close()
    owner.release()


@settings(max_examples=10, deadline=None)
@given(steps=st.lists(st.sampled_from(["sweep", "fold", "jump", "short"]), max_size=40))
def test_any_order_of_sweeps_and_folds_keeps_every_reading(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    """Whatever the order of sweeps, folds, short polls and clock steps: all readings, once."""
    with owned(tmp_path_factory.mktemp("t") / "control") as owner:
        bench = Bench(owner, threaded=False, fold_sweeps=2)
        utc_ms = NOON
        for step in steps:
            if step == "fold":
                bench.writer.fold().result()
            elif step == "jump":
                utc_ms += 43_200_000 * (1 if len(steps) % 2 else -1)
            else:
                utc_ms += 1000
                bench.sweep(utc_ms, range(1), short=step == "short")
        bench.writer.fold_all().result()
        registers = bench.reader.registers("flat-0", 0, FAR)
        assert [point.sequence for point in registers] == list(range(1, bench.sequence + 1))
        bench.close()
