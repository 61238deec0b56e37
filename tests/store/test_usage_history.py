"""Profiles from stored half hours: outages of supply are not taken for thrift."""

from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gateway.core.civil import HALF_HOUR_MS
from gateway.core.interval import Interval
from gateway.core.usage import PARTS_PER_WH
from gateway.store.telemetry import Event
from gateway.store.usage_history import HISTORY_DAYS, off_supply, usage_from_history
from tests.store.store_files import owned
from tests.store.telemetry_bench import FAR, NOON, Bench

KOLKATA = ZoneInfo("Asia/Kolkata")
DAY_MS = 86_400_000


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A telemetry directory."""
    with owned(tmp_path / "control") as owner:
        made = Bench(owner)
        yield made
        made.close()


def half_hours(bench: Bench, count: int, off: range = range(0)) -> None:
    """Half hours of 200 and 100 Wh from NOON on, empty ones where supply was off."""
    bench.writer.add_intervals(
        [
            (
                "flat-1",
                Interval(
                    NOON + number * HALF_HOUR_MS,
                    NOON + (number + 1) * HALF_HOUR_MS,
                    (0, 0) if number in off else (200, 100),
                    None,
                    1,
                    estimated=False,
                ),
            )
            for number in range(count)
        ]
    ).result(5)


def switch(bench: Bench, kind: str, half_hour: float, subject: str = "point-1") -> None:
    """A supply event so many half hours after NOON."""
    utc_ms = NOON + round(half_hour * HALF_HOUR_MS)
    bench.writer.add_event(Event(utc_ms, kind, subject, "notice", {})).result(5)


def test_stored_half_hours_become_a_profile_over_months(bench: Bench) -> None:
    """14 days across a month's end; registers keep their shares, a day cut off leaves no trace."""
    half_hours(bench, 14 * 48, range(100, 148))
    switch(bench, "SUPPLY_CUT", 100)
    switch(bench, "SUPPLY_CUT", 110)  # once more, by hand: off since the first
    switch(bench, "SUPPLY_CUT", 99, subject="point-2")
    switch(bench, "SUPPLY_RESTORED", 147.5)
    end = NOON + 14 * DAY_MS
    spans = off_supply(bench.reader, NOON, end)
    assert spans == {
        "point-1": ((NOON + 100 * HALF_HOUR_MS, NOON + round(147.5 * HALF_HOUR_MS)),),
        "point-2": ((NOON + 99 * HALF_HOUR_MS, end),),
    }
    profile = usage_from_history(
        bench.reader,
        "flat-1",
        KOLKATA,
        2,
        from_utc_ms=NOON,
        to_utc_ms=end,
        off_spans=spans["point-1"],
    )
    hourly = profile.hourly()
    assert hourly is not None
    assert set(hourly) == {600 * PARTS_PER_WH}
    grid, generator = profile.shares()
    assert grid == 2 * generator
    without = usage_from_history(
        bench.reader, "flat-1", KOLKATA, 2, from_utc_ms=NOON, to_utc_ms=end
    )
    assert min(without.hourly() or ()) < 600 * PARTS_PER_WH


def test_a_cut_before_the_time_asked_for_counts_from_its_beginning(bench: Bench) -> None:
    """Events of before are not needed to see that supply was off."""
    switch(bench, "SUPPLY_CUT", -10)
    others = [Event(NOON + number, "ROLLOVER", "flat-9", "notice", {}) for number in range(250)]
    bench.writer.add_events(others).result(5)
    switch(bench, "SUPPLY_RESTORED", 5)
    switch(bench, "SUPPLY_RESTORED", 6)
    assert off_supply(bench.reader, NOON, FAR) == {"point-1": ((NOON, NOON + 5 * HALF_HOUR_MS),)}
    assert off_supply(bench.reader, NOON + DAY_MS, FAR) == {}


def test_an_unknown_meter_has_an_empty_profile(bench: Bench) -> None:
    """And so has one whose half hours are all older than the account."""
    half_hours(bench, 48)
    for meter, begin in (("flat-7", NOON), ("flat-1", NOON + 2 * DAY_MS)):
        profile = usage_from_history(
            bench.reader, meter, KOLKATA, 2, from_utc_ms=begin, to_utc_ms=NOON + 9 * DAY_MS
        )
        assert profile.hourly() is None


def test_half_hours_that_would_have_faded_are_not_read(bench: Bench) -> None:
    """Six weeks back at most."""
    half_hours(bench, 48)
    end = NOON + (HISTORY_DAYS + 1) * DAY_MS
    profile = usage_from_history(bench.reader, "flat-1", KOLKATA, 2, from_utc_ms=0, to_utc_ms=end)
    assert profile.learned_min == 0
