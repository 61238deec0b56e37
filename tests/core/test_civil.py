"""Civil time in awkward zones: months, half hours, hours that vanish or repeat."""

from datetime import UTC, date, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.civil import (
    DAY_MS,
    HALF_HOUR_MS,
    MINUTE_MS,
    half_hour_start,
    labelled_month,
    local_date,
    local_instant,
    local_time,
    month_period,
    next_half_hour,
    offset_change,
    zone_of,
)
from gateway.core.errors import RefusedError

ZONES = (
    "UTC",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Europe/Berlin",
    "America/St_Johns",
    "America/Havana",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Pacific/Apia",
)
INSTANTS = st.integers(946_684_800_000, 1_924_992_000_000)  # 2000 to 2030


def utc_ms(text: str) -> int:
    """UTC milliseconds of an ISO 8601 text with offset."""
    return round(datetime.fromisoformat(text).timestamp() * 1_000)


@pytest.mark.parametrize(
    ("zone", "day", "minute", "expected"),
    [
        # An ordinary time, and the end of a day.
        ("Asia/Kolkata", date(2026, 6, 1), 18 * 60, "2026-06-01T18:00:00+05:30"),
        ("Asia/Kolkata", date(2026, 6, 1), 1440, "2026-06-02T00:00:00+05:30"),
        # 02:30 does not exist: the next valid instant is 03:00.
        ("Europe/Berlin", date(2026, 3, 29), 150, "2026-03-29T03:00:00+02:00"),
        # 02:30 exists twice: the first of the two is in summer time.
        ("Europe/Berlin", date(2026, 10, 25), 150, "2026-10-25T02:30:00+02:00"),
        # Midnight does not exist in Cairo on that day, and stands twice in Havana.
        ("Africa/Cairo", date(2026, 4, 24), 0, "2026-04-24T01:00:00+03:00"),
        ("America/Havana", date(2026, 11, 1), 0, "2026-11-01T00:00:00-04:00"),
        # Half an hour vanishes on Lord Howe.
        ("Australia/Lord_Howe", date(2026, 10, 4), 135, "2026-10-04T02:30:00+11:00"),
        # Samoa skipped a whole day.
        ("Pacific/Apia", date(2011, 12, 30), 600, "2011-12-31T00:00:00+14:00"),
    ],
)
def test_a_local_time_has_one_instant(zone: str, day: date, minute: int, expected: str) -> None:
    """A skipped time is the next valid instant, a repeated one the first of the two."""
    assert local_instant(ZoneInfo(zone), day, minute) == utc_ms(expected)


@pytest.mark.parametrize("minute", [-1, 1441])
def test_a_minute_outside_the_day_is_an_error(minute: int) -> None:
    """Only 0 to 1440 are minutes of a day."""
    with pytest.raises(ValueError, match="outside"):
        local_instant(ZoneInfo("UTC"), date(2026, 1, 1), minute)


@given(zone=st.sampled_from(ZONES), instant=INSTANTS)
def test_local_labels_agree_with_the_standard_library(zone: str, instant: int) -> None:
    """Date, weekday and minute of an instant are those that datetime computes."""
    moment = datetime.fromtimestamp(instant // 1_000, UTC).astimezone(ZoneInfo(zone))
    label = local_time(ZoneInfo(zone), instant)
    assert local_date(ZoneInfo(zone), instant) == moment.date()
    assert label.weekday == moment.weekday()
    assert label.day_ms // MINUTE_MS == moment.hour * 60 + moment.minute


@given(zone=st.sampled_from(ZONES), instant=INSTANTS, minute=st.integers(0, 1439))
def test_a_local_instant_is_the_first_at_or_after_its_label(
    zone: str, instant: int, minute: int
) -> None:
    """The instant shows the wanted label, or is where clocks jumped over it."""
    place = ZoneInfo(zone)
    day = local_date(place, instant)
    found = local_instant(place, day, minute)
    label = local_time(place, found)
    wanted_ms = (day.toordinal() - date(1970, 1, 1).toordinal()) * DAY_MS + minute * MINUTE_MS
    shown_ms = label.day * DAY_MS + label.day_ms
    assert shown_ms >= wanted_ms
    before = local_time(place, found - 1)
    assert before.day * DAY_MS + before.day_ms < wanted_ms or shown_ms == wanted_ms
    if shown_ms > wanted_ms:
        assert before.day * DAY_MS + before.day_ms < wanted_ms


@given(zone=st.sampled_from(ZONES), instant=INSTANTS)
def test_months_follow_one_another_without_hole(zone: str, instant: int) -> None:
    """Every instant has one month; its end is the start of the next; its label names it."""
    place = ZoneInfo(zone)
    period = month_period(place, instant)
    assert period.start_utc_ms <= instant < period.end_utc_ms
    following = month_period(place, period.end_utc_ms)
    assert following.start_utc_ms == period.end_utc_ms
    assert labelled_month(place, period.label) == period
    assert month_period(place, period.start_utc_ms) == period


def test_a_month_is_local() -> None:
    """February of a site in India begins while it is still January in UTC."""
    period = month_period(ZoneInfo("Asia/Kolkata"), utc_ms("2026-01-31T18:30:00+00:00"))
    assert period.label == "2026-02"
    assert period.start_utc_ms == utc_ms("2026-02-01T00:00:00+05:30")
    assert period.end_utc_ms == utc_ms("2026-03-01T00:00:00+05:30")


def test_a_month_starts_once_where_midnight_stands_twice() -> None:
    """In Havana November 2026 starts at the first of two midnights, and never again."""
    zone = ZoneInfo("America/Havana")
    start = utc_ms("2026-11-01T00:00:00-04:00")
    assert month_period(zone, start - 1).label == "2026-10"
    assert month_period(zone, start).label == "2026-11"
    assert month_period(zone, start + 3_600_000).label == "2026-11"


def test_a_month_that_began_does_not_end_because_the_clock_shows_the_old_one() -> None:
    """St John's fell from 00:01 on 1 November 2009 back to 23:01 of October: it stays November."""
    zone = ZoneInfo("America/St_Johns")
    change = utc_ms("2009-11-01T02:31:00+00:00")
    assert local_date(zone, change) == date(2009, 10, 31)
    assert month_period(zone, change).label == "2009-11"
    assert month_period(zone, change - 2 * MINUTE_MS).label == "2009-10"


def test_a_half_hour_that_a_clock_change_cuts_ends_and_starts_there() -> None:
    """At St John's 00:01 became 23:01: a minute's half hour, and one of 29 minutes."""
    zone = ZoneInfo("America/St_Johns")
    change = utc_ms("2009-11-01T02:31:00+00:00")
    assert next_half_hour(zone, change - 10) == change
    assert half_hour_start(zone, change - 10) == change - MINUTE_MS
    assert half_hour_start(zone, change + 5 * MINUTE_MS) == change
    assert next_half_hour(zone, change) == change + 29 * MINUTE_MS


@pytest.mark.parametrize("label", ["2026-13", "2026-1", "26-01", "x-y", "2026"])
def test_a_text_that_is_no_month_label_is_an_error(label: str) -> None:
    """Saved labels are checked when they are read back."""
    with pytest.raises(ValueError, match=r"."):
        labelled_month(ZoneInfo("UTC"), label)


@given(zone=st.sampled_from(ZONES), instant=INSTANTS)
def test_half_hours_tile_local_time(zone: str, instant: int) -> None:
    """Half hours follow one another, at local :00 and :30, however far the zone is off."""
    place = ZoneInfo(zone)
    start = half_hour_start(place, instant)
    end = next_half_hour(place, instant)
    assert start <= instant < end
    assert end - start <= HALF_HOUR_MS
    assert half_hour_start(place, end) == end
    assert half_hour_start(place, end - 1) == start
    on_the_clock = local_time(place, start).day_ms % HALF_HOUR_MS == 0
    assert on_the_clock or offset_change(place, start - 1, start) == start


def test_a_day_with_a_clock_change_has_more_or_fewer_half_hours() -> None:
    """46 half hours in spring, 50 in autumn, 48 on other days."""
    zone = ZoneInfo("Europe/Berlin")
    counts = []
    for day in (date(2026, 3, 29), date(2026, 10, 25), date(2026, 6, 1)):
        at, end = local_instant(zone, day, 0), local_instant(zone, day, 1440)
        starts = [at]
        while (at := next_half_hour(zone, at)) < end:
            starts.append(at)
        assert all(later - earlier == HALF_HOUR_MS for earlier, later in pairwise(starts))
        counts.append(len(starts))
    assert counts == [46, 50, 48]


@pytest.mark.parametrize(
    "name", ["Mars/Olympus", "", "../etc/passwd", "Europe", "localtime", "right/UTC", 5, None]
)
def test_a_zone_that_is_none_is_refused(name: object) -> None:
    """Unknown names, paths and names that depend on the machine are refused alike."""
    with pytest.raises(RefusedError) as refusal:
        zone_of(name)
    assert refusal.value.refusal_code == "ZONE_UNKNOWN"
