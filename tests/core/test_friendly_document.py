"""Calendars as people write them: presets, holidays, every problem at once."""

from collections.abc import Mapping
from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest
import yaml

from gateway.core.friendly import HOLIDAY, FriendlyCalendar, FriendlyWindow
from gateway.core.friendly_document import calendar_from_document, calendar_to_document
from gateway.core.friendly_presets import PRESETS
from gateway.core.holidays import easter_sunday, parse_holiday
from gateway.core.problems import DocumentProblemsError

EXAMPLE = """
id: weekends
name: Nights and weekends
timezone: Asia/Kolkata
windows:
  - {from: "sat 18:00", to: "mon 08:00"}
  - {days: [mon, tue], from: "20:00", to: "06:00"}
  - {days: [holiday], from: "00:00", to: "24:00"}
holidays: [2026-03-04, 01-26, second sat, last mon in may, good friday]
"""


def read(document: object, zone: str = "Asia/Kolkata") -> FriendlyCalendar:
    """A calendar of a site in this zone."""
    return calendar_from_document(document, zone)


def problems(document: object) -> dict[str, str]:
    """What the document is refused for, by place."""
    with pytest.raises(DocumentProblemsError) as refusal:
        read(document)
    return {
        problem.place: f"{problem.code} {problem.message}" for problem in refusal.value.problems
    }


def friendly_at(calendar: FriendlyCalendar, text: str) -> bool:
    """Whether a local time of the calendar's zone is friendly."""
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(calendar.zone))
    return calendar.is_friendly(round(moment.timestamp() * 1_000))


def test_the_documented_example_is_read_as_written() -> None:
    """From real YAML, where a date is a date and a time must be quoted."""
    calendar = read(yaml.safe_load(EXAMPLE), "Europe/London")
    assert calendar.zone == "Asia/Kolkata"
    assert calendar.windows == (
        FriendlyWindow(frozenset({5}), 18 * 60, 38 * 60),
        FriendlyWindow(frozenset({0, 1}), 20 * 60, 10 * 60),
        FriendlyWindow(frozenset({HOLIDAY}), 0, 24 * 60),
    )
    assert [rule.text for rule in calendar.holidays] == [
        "2026-03-04", "01-26", "second sat", "last mon in may", "good friday",
    ]  # fmt: skip
    assert friendly_at(calendar, "2026-05-25 12:00")  # last Monday of May
    assert not friendly_at(calendar, "2026-05-18 12:00")


@pytest.mark.parametrize("document", [*({"preset": name} for name in PRESETS), {}])
def test_a_calendar_written_out_reads_the_same(document: Mapping[str, object]) -> None:
    """`calendar_to_document` is the inverse, presets included."""
    calendar = read(document or yaml.safe_load(EXAMPLE))
    assert read(calendar_to_document(calendar), "UTC") == calendar


@pytest.mark.parametrize(
    ("preset", "zone", "friendly", "unfriendly"),
    [
        (
            "uk_edf",
            "Europe/London",
            ["2026-04-14 18:00", "2026-04-15 10:59", "2026-04-18 14:00", "2026-08-31 14:00",
             "2026-12-28 12:00", "2026-12-29 10:59", "2026-04-06 15:00"],
            ["2026-04-14 17:59", "2026-04-15 11:00", "2026-12-29 11:00", "2026-08-24 14:00"],
        ),
        (
            "in_uppcl",
            "Asia/Kolkata",
            ["2026-11-10 18:00", "2026-11-11 07:59", "2026-11-15 12:00", "2026-11-14 12:00",
             "2026-01-26 12:00"],
            ["2026-11-10 17:59", "2026-11-11 08:00", "2026-11-07 12:00", "2026-11-21 12:00"],
        ),
        (
            "in_bihar",
            "Asia/Kolkata",
            ["2026-11-10 09:59", "2026-11-10 13:00", "2026-11-15 11:00", "2026-10-02 11:00"],
            ["2026-11-10 10:00", "2026-11-10 12:59", "2026-11-14 11:00"],
        ),
    ],
)  # fmt: skip
def test_presets_cut_when_their_supplier_does(
    preset: str, zone: str, friendly: list[str], unfriendly: list[str]
) -> None:
    """The hours of docs/calendars.md."""
    calendar = read({"preset": preset}, zone)
    assert [text for text in friendly if not friendly_at(calendar, text)] == []
    assert [text for text in unfriendly if friendly_at(calendar, text)] == []


def test_own_holidays_and_windows_are_added_to_a_preset() -> None:
    """A preset's holidays stay; those of the site join them."""
    calendar = read(
        {
            "preset": "in_bihar",
            "holidays": [date(2026, 11, 16), "10-02"],
            "windows": [{"days": ["tue"], "from": "10:00", "to": "11:00"}],
        }
    )
    assert calendar.calendar_id == "in-bihar"
    assert friendly_at(calendar, "2026-11-16 11:00")
    assert friendly_at(calendar, "2026-11-17 10:30")
    assert not friendly_at(calendar, "2026-11-17 11:00")
    assert [rule.text for rule in calendar.holidays] == ["01-26", "08-15", "10-02", "2026-11-16"]


def test_every_problem_is_told_with_its_path() -> None:
    """One look is enough to put a document right."""
    found = problems(
        {
            "id": "Bad Id",
            "name": "",
            "preset": "uk_eon",
            "timezone": "Mars/Olympus",
            "windws": [],
            "windows": [
                {"from": "18:00"},
                {"from": 1080, "to": "25:00"},
                {"days": ["monday", "tue", "tue"], "from": "18:00", "to": "08:00"},
                {"days": ["sat"], "from": "sat 18:00", "to": "mon 08:00"},
                {"from": "sat 18:00", "to": "08:00"},
                {"from": "18:00", "to": "18:00"},
                {"from": "sat 18:00", "to": "sat 18:00"},
                {"from": "24:00", "to": "08:00"},
                "night",
            ],
            "holidays": ["2026-02-30", "13-01", "fifth mon", 5, "01-26", "01-26", "1999-01-01"],
        }
    )
    assert set(found) == {
        "id", "name", "preset", "windws", "timezone",
        "windows[0].to", "windows[1].from", "windows[1].to", "windows[2].days[0]",
        "windows[2].days[2]", "windows[3].days", "windows[4]", "windows[5]", "windows[6]",
        "windows[7].from", "windows[8]", "holidays[0]", "holidays[1]", "holidays[2]",
        "holidays[3]", "holidays[5]", "holidays[6]",
    }  # fmt: skip
    assert "did you mean 'windows'" in found["windws"]
    assert found["timezone"].startswith("ZONE_UNKNOWN")
    assert "quoted time" in found["windows[1].from"]


@pytest.mark.parametrize(
    ("document", "place", "code"),
    [
        ([], "", "CALENDAR_INVALID"),
        ({}, "windows", "CALENDAR_INVALID"),
        ({"windows": []}, "windows", "CALENDAR_INVALID"),
        ({"windows": [{"from": "00:00", "to": "24:00"}]}, "windows", "CALENDAR_NEVER_CUTS"),
        ({"windows": [{"from": "mon 08:00", "to": "mon 07:00"}]}, "windows", "CALENDAR_NEVER_CUTS"),
        (
            {"preset": "in_bihar", "windows": [{"from": "10:00", "to": "12:30"}]},
            "windows",
            "CALENDAR_NEVER_CUTS",
        ),
        ({"preset": "uk_edf", "timezone": "GMT+1"}, "timezone", "ZONE_UNKNOWN"),
    ],
)
def test_one_kind_of_problem_gives_the_refusal_its_code(
    document: object, place: str, code: str
) -> None:
    """Callers tell a calendar that never cuts from a slip of the pen."""
    with pytest.raises(DocumentProblemsError) as refusal:
        read(document)
    assert (refusal.value.refusal_code, refusal.value.place) == (code, place)


@pytest.mark.parametrize(
    ("text", "year", "days"),
    [
        ("2026-03-04", 2026, ["2026-03-04"]),
        ("2026-03-04", 2027, []),
        ("02-29", 2027, []),
        ("02-29", 2028, ["2028-02-29"]),
        ("First Mon in  May", 2026, ["2026-05-04"]),
        ("last mon in aug", 2026, ["2026-08-31"]),
        ("last fri in dec", 2027, ["2027-12-31"]),
        ("fourth thu in nov", 2026, ["2026-11-26"]),
        ("good friday", 2026, ["2026-04-03"]),
        ("easter monday", 2025, ["2025-04-21"]),
    ],
)
def test_holidays_fall_on_the_days_they_name(text: str, year: int, days: list[str]) -> None:
    """Each kind of rule, in a year and outside it."""
    assert [day.isoformat() for day in parse_holiday(text).days_in(year)] == days


def test_a_monthly_holiday_comes_twelve_times_a_year() -> None:
    """Second Saturdays lie between the 8th and the 14th."""
    days = list(parse_holiday("second sat").days_in(2026))
    assert len(days) == 12
    assert all(day.weekday() == 5 and 8 <= day.day <= 14 for day in days)


@pytest.mark.parametrize(
    ("year", "day"),
    [(2000, "04-23"), (2008, "03-23"), (2011, "04-24"), (2024, "03-31"), (2038, "04-25")],
)
def test_easter_is_where_the_almanac_has_it(year: int, day: str) -> None:
    """The earliest and latest dates of these decades among them."""
    assert easter_sunday(year).isoformat() == f"{year}-{day}"
