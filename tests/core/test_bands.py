"""Seasons and holidays: which band applies on which day, and what is refused."""

from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest

from gateway.core.bands import DayKey, band_plan, band_run, day_key, day_pairs
from gateway.core.money import Currency
from gateway.core.tariff import HOLIDAY, Season, SourceTariff, TariffCalendar, Window
from gateway.core.tariff_document import tariff_from_document

INDIA = ZoneInfo("Asia/Kolkata")
FAR_MS = 2**50
WORK = frozenset(range(5))
ALL = frozenset(range(8))
CALENDAR = TariffCalendar(
    (Season("summer", (4, 1), (9, 30)), Season("winter", (11, 15), (2, 15))),
    frozenset({date(2026, 1, 26)}),
    frozenset({(12, 25)}),
)


def source(*windows: Window) -> SourceTariff:
    """A source with these windows and a rest."""
    bands = ("rest", *dict.fromkeys(window.band for window in windows))
    return SourceTariff("grid", bands, windows, "rest", (), tuple((1,) for _ in bands))


def band_at(prices: SourceTariff, text: str) -> str:
    """The band at a local time."""
    at_ms = round(datetime.fromisoformat(f"{text}+05:30").timestamp() * 1_000)
    return prices.bands[band_run(band_plan(prices, CALENDAR), INDIA, at_ms, FAR_MS)[0]]


def test_a_season_may_run_over_new_year_and_holds_both_its_ends() -> None:
    """From the 15th of November to the 15th of February, whatever the year."""
    keys = [day_key(CALENDAR, date(2027, *day)).season for day in ((2, 15), (2, 16), (11, 15))]
    assert keys == ["winter", None, "winter"]


def test_a_holiday_is_a_kind_of_day_of_its_own() -> None:
    """A single date and a day of every year; neither is the weekday that it would be."""
    assert day_key(CALENDAR, date(2026, 1, 26)) == DayKey("winter", HOLIDAY)
    assert day_key(CALENDAR, date(2027, 1, 26)) == DayKey("winter", 1)
    assert day_key(CALENDAR, date(2031, 12, 25)) == DayKey("winter", HOLIDAY)
    peak = source(Window("peak", WORK, 1_080, 1_320))
    assert band_at(peak, "2026-01-26T19:00:00") == "rest"
    assert band_at(peak, "2026-01-27T19:00:00") == "peak"


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    """Season and holiday count where it begins; it ends on whatever day comes."""
    night = source(Window("night", frozenset({HOLIDAY}), 1_320, 360))
    assert band_at(night, "2026-01-27T05:00:00") == "night"
    assert band_at(night, "2026-01-26T05:00:00") == "rest"
    winter = source(Window("cold", ALL, 1_320, 360, "winter"))
    assert band_at(winter, "2026-02-16T05:59:00") == "cold"
    assert band_at(winter, "2026-02-16T23:00:00") == "rest"
    assert band_at(winter, "2025-11-15T05:00:00") == "rest"


def test_a_run_goes_on_to_the_next_season() -> None:
    """The end of a band is where another one begins, months later if need be."""
    summer = source(Window("warm", ALL, 0, 1_440, "summer"))
    at_ms = round(datetime.fromisoformat("2026-04-01T00:00:00+05:30").timestamp() * 1_000)
    band, end_ms = band_run(band_plan(summer, CALENDAR), INDIA, at_ms, FAR_MS)
    assert summer.bands[band] == "warm"
    assert end_ms == round(datetime.fromisoformat("2026-10-01T00:00:00+05:30").timestamp() * 1_000)


def test_every_pair_of_days_that_follow_each_other_is_looked_at() -> None:
    """Ends of seasons and both sides of a holiday, but no Tuesday after a Thursday."""
    pairs = set(day_pairs(CALENDAR))
    assert (DayKey("summer", 0), DayKey(None, 6)) in pairs
    assert (DayKey(None, HOLIDAY), DayKey("winter", HOLIDAY)) in pairs
    assert (DayKey("winter", 3), DayKey("winter", HOLIDAY)) in pairs
    assert (DayKey("winter", 1), DayKey("winter", 3)) not in pairs
    assert (DayKey("summer", 0), DayKey("winter", 6)) not in pairs


def test_an_overlap_that_only_a_holiday_brings_is_found() -> None:
    """The window over midnight of a holiday meets a morning window of the day after it."""
    with pytest.raises(ValueError, match="overlap"):
        band_plan(
            source(
                Window("feast", frozenset({HOLIDAY}), 1_320, 360),
                Window("dawn", frozenset({3}), 300, 420),
            ),
            CALENDAR,
        )


def test_a_price_by_season_is_charged_by_the_local_date() -> None:
    """The document's seasons reach the plan."""
    warm = {"price": "2", "when": [{"season": "summer", "from": "00:00", "to": "24:00"}]}
    tariff = tariff_from_document(
        {
            "id": "home",
            "name": "Home",
            "currency": "INR",
            "timezone": "Asia/Kolkata",
            "effective_from": "2026-01-01",
            "seasons": {"summer": {"from": "04-01", "to": "09-30"}},
            "grid": {"bands": {"warm": warm, "cold": {"price": "1"}}},
        },
        Currency("INR"),
    )
    grid = tariff.sources[0]
    assert tariff.depends_on_time
    at_ms = round(datetime.fromisoformat("2026-09-30T23:59:00+05:30").timestamp() * 1_000)
    plan = band_plan(grid, tariff.calendar)
    assert grid.bands[band_run(plan, INDIA, at_ms, FAR_MS)[0]] == "warm"
    assert grid.bands[band_run(plan, INDIA, at_ms + 60_000, FAR_MS)[0]] == "cold"
