"""Half hours, events, and the files of telemetry: retention, damage, odd clocks."""

import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.core.interval import Interval
from gateway.store.db import DirectoryOwner
from gateway.store.telemetry import Event
from gateway.store.telemetry_files import Retention, month_files
from gateway.store.telemetry_reader import TelemetryReader
from tests.store.store_files import owned
from tests.store.telemetry_bench import FAR, NOON, Bench, at


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


def half_hour(number: int, begin: int = NOON) -> Interval:
    """The half hour `number` after noon."""
    start = begin + 1_800_000 * number
    return Interval(
        start, start + 1_800_000, (number, 5), 1234.5 if number else None, 9, number == 2
    )


def test_intervals_are_found_once_over_months(bench: Bench) -> None:
    """Half hours over a month's end come back in order; a repeated one replaces its first."""
    begin = at("2026-11-30T22:00:00")
    kept = [("flat-1", half_hour(number, begin)) for number in range(8)]
    bench.writer.add_intervals(kept).result(5)
    bench.writer.add_interval("flat-2", half_hour(1, begin)).result(5)
    bench.writer.add_interval("flat-1", half_hour(1, begin)).result(5)
    assert [path.name for path in month_files(bench.directory)] == ["2026-11.db", "2026-12.db"]
    assert bench.reader.intervals("flat-1", 0, FAR) == [interval for _, interval in kept]
    some = bench.reader.intervals("flat-1", begin + 1, begin + 1_800_001)
    assert some == [kept[1][1]]
    assert len(bench.reader.intervals("flat-1", 0, FAR, limit=6)) == 6


def event(number: int, utc_ms: int = NOON) -> Event:
    """An event of a meter."""
    return Event(utc_ms, "METER_RESET", f"flat-{number}", "warning", {"n": number})


def test_events_are_numbered_without_gaps_over_months(bench: Bench) -> None:
    """Sequence numbers go on over month files and wrong clocks; pages go both ways."""
    months = ["2026-11-30T23:59:59", "2026-12-01T00:00:00", "1970-01-01T00:00:01"]
    for number, text in enumerate(months, start=1):
        assert bench.writer.add_event(event(number, at(text))).result(5) == number
    more = [event(number, NOON) for number in range(4, 8)]
    assert bench.writer.add_events(more).result(5) == 7
    assert bench.writer.add_events(()).result(5) == 0
    assert [found.seq for found in bench.reader.events()] == [7, 6, 5, 4, 3, 2, 1]
    assert [found.seq for found in bench.reader.events(before_seq=4, limit=2)] == [3, 2]
    after = bench.reader.events_after(2, limit=3)
    assert [found.seq for found in after] == [3, 4, 5]
    assert (after[0].subject, after[0].body) == ("flat-3", {"n": 3})


def test_event_numbers_survive_restart_and_lost_staging(owner: DirectoryOwner) -> None:
    """A new staging file does not begin at 1 again: months and days say what was given."""
    bench = Bench(owner)
    bench.writer.add_events([event(1), event(2)]).result(5)
    for second in range(3):
        bench.sweep(NOON + 1000 * second)
    bench.writer.fold_all().result(5)
    bench.close()
    for suffix in ("", "-wal", "-shm"):
        (bench.directory / f"staging.db{suffix}").unlink()
    again = Bench(owner)
    assert again.writer.add_event(event(3)).result(5) == 3
    again.sequence = 3
    assert again.sweep(NOON + 3_000) == 4
    again.writer.fold_all().result(5)
    assert len(again.reader.registers("flat-0", 0, FAR)) == 4
    again.close()


def test_failed_events_do_not_block_later_ones(bench: Bench) -> None:
    """When a later month cannot be written, what was numbered before stays numbered."""
    odd = Event(NOON, "X", "flat-1", "info", {"unwritable": {1, 2}})
    with pytest.raises(TypeError):
        bench.writer.add_events([event(1, at("2026-10-01T00:00:00")), odd]).result(5)
    assert bench.writer.add_event(event(2)).result(5) == 2
    assert [found.seq for found in bench.reader.events()] == [2, 1]


def days_of_readings(bench: Bench, days: int) -> None:
    """One folded sweep on each of several days."""
    for day in range(days):
        bench.sweep(NOON + int(timedelta(days=day) / timedelta(milliseconds=1)))
        bench.writer.fold_all().result(5)


def test_retention_keeps_the_newest_days(owner: DirectoryOwner) -> None:
    """Whole files go, the oldest first, with their companions; the rest is still read."""
    bench = Bench(owner, retention=Retention(days=3))
    days_of_readings(bench, 6)
    assert bench.writer.retain().result(5) == ("2026-11-20.db", "2026-11-21.db", "2026-11-22.db")
    assert len(bench.voltages(0)) == 3
    names = {path.name for path in bench.directory.iterdir()}
    assert not {name for name in names if name.startswith(("2026-11-20", "2026-11-22"))}
    assert bench.writer.retain().result(5) == ()
    bench.close()


def test_retention_by_bytes_spares_what_is_being_written(owner: DirectoryOwner) -> None:
    """However small the bound, the file under way and the half hours' newest month stay."""
    bench = Bench(owner, retention=Retention(max_bytes=1))
    days_of_readings(bench, 5)
    bench.writer.add_event(event(1)).result(5)
    gone = bench.writer.retain().result(5)
    assert gone == ("2026-11-20.db", "2026-11-21.db", "2026-11-22.db")
    assert [path.name for path in month_files(bench.directory)] == ["2026-11.db"]
    bench.sweep(NOON + 5 * 86_400_000)
    bench.writer.fold_all().result(5)
    assert len(bench.voltages(0)) == 3
    bench.close()


def test_jumping_clock_does_not_delete_the_past(owner: DirectoryOwner) -> None:
    """A day in 2099 costs one day of history, not all of them."""
    bench = Bench(owner, retention=Retention(days=4))
    days_of_readings(bench, 4)
    bench.sweep(at("2099-01-01T00:00:00"))
    bench.writer.fold_all().result(5)
    assert bench.writer.retain().result(5) == ("2026-11-20.db",)
    bench.close()


def test_finished_days_lose_their_companions(bench: Bench) -> None:
    """Days that are over are plain files again, so that descriptors and files stay bounded."""
    days_of_readings(bench, 6)
    companions = sorted(
        path.name for path in bench.directory.glob("2026-*") if not path.name.endswith(".db")
    )
    assert {name[:10] for name in companions} == {"2026-11-24", "2026-11-25"}
    assert len(bench.voltages(0)) == 6


@pytest.mark.parametrize("name", ["2026-11-20.db", "2026-11.db", "staging.db"])
def test_damaged_file_is_set_aside(owner: DirectoryOwner, name: str) -> None:
    """Rubbish in a file of the past never stops the readings of the present."""
    directory = owner.directory / "telemetry"
    directory.mkdir()
    (directory / name).write_bytes(b"rubbish " * 1_000)
    bench = Bench(owner)
    bench.sweep(NOON)
    bench.writer.fold_all().result(5)
    bench.writer.add_event(event(1)).result(5)
    assert len(bench.voltages(0)) == 1
    assert len(bench.reader.events()) == 1
    assert bench.writer.set_aside == 1
    assert (directory / f"{name}.damaged1").read_bytes().startswith(b"rubbish ")
    bench.close()


def test_damaged_sweep_costs_only_itself(bench: Bench) -> None:
    """A staged row that cannot be unpacked is counted and left out; folding goes on."""
    for second in range(3):
        bench.sweep(NOON + 1000 * second)
    other = sqlite3.connect(bench.directory / "staging.db")
    other.execute("UPDATE sweep SET body = x'00' WHERE place >> 20 = 2")
    other.commit()
    other.close()
    bench.writer.fold_all().result(5)
    assert [point.sequence for point in bench.reader.registers("flat-0", 0, FAR)] == [1, 3]
    assert bench.writer.dropped_sweeps == 1


def test_empty_directory_reads_as_nothing(tmp_path: Path) -> None:
    """Before control ever ran there is no telemetry, and that is no error."""
    reader = TelemetryReader(tmp_path / "absent")
    assert reader.values("a", "b", 0, FAR) == []
    assert reader.events() == []
    assert reader.intervals("a", 0, FAR) == []
