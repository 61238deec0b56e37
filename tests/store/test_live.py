"""The live table: rows of another process, never torn, stale when it is silent, resized safely."""

import math
import os
import struct
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.errors import StoreError
from gateway.core.reading import Quality
from gateway.core.switching import ControlState, Fault, Reason
from gateway.store.live import (
    POINTER_NAME,
    REGISTERS_MAX,
    STALE_MS,
    LiveMeter,
    LiveRow,
    LiveTableReader,
    LiveTableWriter,
)
from tests.store.store_files import ended, python

METERS = (
    LiveMeter("flat-1", ("voltage_v", "current_a")),
    LiveMeter("kiosk-7", ("voltage_v",)),
    LiveMeter("bare", ()),
)
ROW = LiveRow(
    sequence=2**63,
    utc_ms=1_700_000_000_123,
    energy_wh=(10**12 - 1, 5, 0, 7),
    available_nano=-(2**62),
    posted_nano=2**62,
    quality=Quality.UNCERTAIN,
    control_state=ControlState.READY_FOR_RECONNECTION,
    intended_closed=False,
    output_closed=False,
    reasons=frozenset(Reason),
    fault=Fault.FAILED_TO_CLOSE,
    flags=0xFFFF_FFFF,
    power_w=-1.5,
    current_a=0.0,
    voltage_v=None,
    values=(229.9, -0.0),
    values_utc_ms=1_700_000_000_100,
)


def opened(directory: Path) -> LiveTableReader:
    """A reader that has found the table."""
    reader = LiveTableReader(directory)
    assert reader.refresh()
    return reader


def test_row_comes_back_as_written(tmp_path: Path) -> None:
    """Every field at its extreme survives; other rows are untouched."""
    writer = LiveTableWriter(tmp_path, METERS, "boot-1")
    writer.write(0, ROW)
    reader = opened(tmp_path)
    assert reader.row(0) == ROW
    assert reader.rows() == [ROW, None, None]
    assert (reader.meters, reader.boot_id) == (METERS, "boot-1")
    assert reader.row(3) is None
    assert reader.row(-1) is None


@pytest.mark.parametrize("state", ControlState)
@pytest.mark.parametrize("output", [None, False, True])
def test_every_state_has_a_code(tmp_path: Path, state: ControlState, output: bool | None) -> None:
    """Control states, outputs and single reasons come back as themselves."""
    writer = LiveTableWriter(tmp_path, METERS, "boot-1")
    reader = opened(tmp_path)
    for reason in Reason:
        row = replace(
            ROW, control_state=state, output_closed=output, reasons=frozenset({reason}), fault=None
        )
        writer.write(0, row)
        assert reader.row(0) == row


def test_undefined_values_stay_undefined(tmp_path: Path) -> None:
    """NaN comes back as NaN, and None as None."""
    writer = LiveTableWriter(tmp_path, METERS, "boot-1")
    writer.write(1, LiveRow(1, 5, values=(math.nan,)))
    row = opened(tmp_path).row(1)
    assert row is not None
    assert math.isnan(row.values[0])
    assert (row.power_w, row.current_a, row.voltage_v) == (None, None, None)


def test_short_poll_keeps_the_older_values_and_their_time(tmp_path: Path) -> None:
    """A row without values renews registers and money only."""
    writer = LiveTableWriter(tmp_path, METERS, "boot-1")
    writer.write(0, LiveRow(1, 1_000, (5,), values=(230.0, 1.0)))
    writer.write(0, LiveRow(2, 1_050, (6,), values_utc_ms=1_050))
    row = opened(tmp_path).row(0)
    assert row is not None
    assert (row.sequence, row.utc_ms, row.energy_wh) == (2, 1_050, (6,))
    assert (row.values, row.values_utc_ms) == ((230.0, 1.0), 1_000)


def test_row_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Too many registers or another number of values is an error of the caller, nothing written."""
    writer = LiveTableWriter(tmp_path, METERS, "boot-1")
    with pytest.raises(ValueError, match="registers"):
        writer.write(0, LiveRow(1, 5, (0,) * (REGISTERS_MAX + 1)))
    with pytest.raises(ValueError, match="values"):
        writer.write(0, LiveRow(1, 5, values=(1.0,)))
    assert opened(tmp_path).row(0) is None


def test_torn_row_is_not_taken(tmp_path: Path) -> None:
    """A row whose bytes do not fit its CRC is answered with the last good one, and counted."""
    writer = LiveTableWriter(tmp_path, METERS, "boot-1")
    writer.write(0, ROW)
    reader = opened(tmp_path)
    assert reader.row(0) == ROW
    at = writer.path.read_bytes().index(struct.pack("<Qq", ROW.sequence, ROW.utc_ms))
    with writer.path.open("r+b") as file:
        file.seek(at + 30)
        file.write(b"\xff\xfe")
    assert reader.row(0) == ROW
    assert reader.torn_rows == 3
    late = opened(tmp_path)
    assert late.row(0) is None


def test_silence_makes_every_row_stale(tmp_path: Path) -> None:
    """Up to 3 s after a heartbeat rows are fresh; later, before the first, or in the future not."""
    writer = LiveTableWriter(tmp_path, METERS, "boot-1")
    reader = LiveTableReader(tmp_path)
    assert reader.stale(10_000)
    writer.beat(10_000, 5)
    assert reader.heartbeat_utc_ms() == 10_000
    assert not reader.stale(10_000 + STALE_MS)
    assert reader.stale(10_001 + STALE_MS)
    assert reader.stale(9_999 - STALE_MS)


def test_absent_table_is_empty_and_stale(tmp_path: Path) -> None:
    """Before control's first start, or without its directory, a reader has nothing to show."""
    for directory in (tmp_path, tmp_path / "absent"):
        reader = LiveTableReader(directory)
        assert reader.rows() == []
        assert reader.row(0) is None
        assert reader.stale(0 if directory == tmp_path else 10_000) is (directory != tmp_path)
        reader.close()


def test_new_size_is_a_new_file_and_the_reader_follows(tmp_path: Path) -> None:
    """More meters: another file takes over in one step, the old one goes, old mappings live."""
    first = LiveTableWriter(tmp_path, METERS, "boot-1")
    first.write(0, ROW)
    reader = opened(tmp_path)
    many = [LiveMeter(f"m{number}", ("a_v",) * 60) for number in range(800)]
    second = LiveTableWriter(tmp_path, many, "boot-1")
    assert second.path != first.path
    assert not first.path.exists()
    assert reader.row(0) == ROW
    first.write(0, replace(ROW, sequence=9))
    assert reader.refresh()
    assert reader.generation == 2
    assert len(reader.rows()) == 800
    second.write(799, LiveRow(4, 5, values=(1.0,) * 60))
    row = reader.row(799)
    assert row is not None
    assert row.sequence == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [POINTER_NAME, second.path.name]
    )


@pytest.mark.parametrize(
    "content", [b"", b"x" * 100, b"PGLIVE\x00\x01" + b"\xff" * 500, b"\x00" * 5_000]
)
def test_unreadable_file_leaves_the_reader_with_what_it_had(tmp_path: Path, content: bytes) -> None:
    """A pointer to rubbish is not followed."""
    writer = LiveTableWriter(tmp_path, METERS, "boot-1")
    writer.write(0, ROW)
    reader = opened(tmp_path)
    (tmp_path / "live-bad-1.table").write_bytes(content)
    (tmp_path / "fresh").write_text("live-bad-1.table")
    (tmp_path / "fresh").replace(tmp_path / POINTER_NAME)
    assert not reader.refresh()
    assert reader.row(0) == ROW


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "live-../x.table", "live-a.table\n"])
def test_pointer_cannot_lead_elsewhere(tmp_path: Path, name: str) -> None:
    """Only a name of our own pattern in the same directory is followed."""
    (tmp_path / POINTER_NAME).write_text(name)
    assert not LiveTableReader(tmp_path).refresh()


def test_truncated_file_is_not_mapped(tmp_path: Path) -> None:
    """Sizes in the header must fit the file, so that no look can touch what is not there."""
    writer = LiveTableWriter(tmp_path, METERS, "boot-1")
    content = writer.path.read_bytes()
    for size in (len(content) - 64, len(content) + 64, 200):
        (tmp_path / "live-cut-1.table").write_bytes(content[:size].ljust(size, b"\x00"))
        (tmp_path / "fresh").write_text("live-cut-1.table")
        (tmp_path / "fresh").replace(tmp_path / POINTER_NAME)
        assert not LiveTableReader(tmp_path).refresh()


def test_files_are_not_for_others(tmp_path: Path) -> None:
    """Table and pointer have mode 0640 whatever the umask."""
    before = os.umask(0)
    try:
        writer = LiveTableWriter(tmp_path, METERS, "boot-1")
    finally:
        os.umask(before)
    for path in (writer.path, tmp_path / POINTER_NAME):
        assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("boot_id", ["", "a/b", "x" * 41, "ü"])
def test_boot_id_must_fit_a_file_name(tmp_path: Path, boot_id: str) -> None:
    """A boot id that is no plain name is refused before a file is made."""
    with pytest.raises(StoreError):
        LiveTableWriter(tmp_path, METERS, boot_id)
    assert list(tmp_path.iterdir()) == []


def test_missing_directory_is_a_clear_error(tmp_path: Path) -> None:
    """The runtime directory is made by the system, not here."""
    with pytest.raises(StoreError, match="absent"):
        LiveTableWriter(tmp_path / "absent", METERS, "boot-1")


WRITES = """
import sys
from pathlib import Path
from gateway.store.live import LiveMeter, LiveRow, LiveTableWriter
names = tuple(f"v{n}" for n in range(60))
generation = 0
print("ready", flush=True)
while True:
    meters = [LiveMeter(f"m{n}", names) for n in range(4 + generation % 3)]
    table = LiveTableWriter(Path(sys.argv[1]), meters, "boot-1")
    for number in range(1, 20_001):
        values = (float(number),) * 60
        row = LiveRow(number, number, (number,), number, number, power_w=number, values=values)
        table.write(number % 4, row)
        if number % 1000 == 0:
            table.beat(number)
    generation += 1
    print(generation, flush=True)
    if generation == int(sys.argv[2]):
        break
"""


@pytest.mark.slow
def test_reader_never_sees_a_torn_row_of_a_busy_writer(tmp_path: Path) -> None:
    """Another process rewrites rows and whole tables: each row read is one that was written."""
    child = python(WRITES, str(tmp_path), "12")
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    reader = LiveTableReader(tmp_path)
    reads, deadline = 0, time.monotonic() + 60
    while child.poll() is None and time.monotonic() < deadline:
        for row in reader.rows():
            if row is not None:
                number = row.sequence
                assert row.energy_wh == (number,)
                assert (row.available_nano, row.posted_nano) == (number, number)
                assert set(row.values) == {float(number)}
                reads += 1
    ended(child)
    assert reads > 10_000
    assert reader.generation > 1


@pytest.mark.slow
def test_writing_a_row_costs_microseconds(tmp_path: Path) -> None:
    """A row of 60 values takes well under 50 µs: 800 of them a second are no load."""
    names = tuple(f"v{number}" for number in range(60))
    writer = LiveTableWriter(tmp_path, [LiveMeter("m", names)], "boot-1")
    row = replace(ROW, values=tuple(float(number) for number in range(60)))
    begin = time.process_time()
    for _ in range(5_000):
        writer.write(0, row)
    assert (time.process_time() - begin) / 5_000 < 50e-6
