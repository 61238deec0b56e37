"""The text form of a calendar of friendly hours: what a person writes as YAML or JSON.

    preset: in_uppcl                      # or uk_edf, in_bihar, own (the default)
    holidays: [2026-03-04, 2026-11-08]    # added to those of the preset

or one's own:

    id: weekends
    name: Nights and weekends
    timezone: Asia/Kolkata                # default: the site's
    windows:
      - {from: "sat 18:00", to: "mon 08:00"}                    # over several days
      - {days: [mon, tue], from: "20:00", to: "06:00"}          # over midnight; days: every day
      - {days: [holiday], from: "00:00", to: "24:00"}
    holidays: [2026-03-04, 01-26, second sat, last mon in may, good friday]

A window over midnight belongs to the day on which it begins. All problems are reported at once,
each with its path. Presets and their sources: `friendly_presets.py`, docs/calendars.md.
"""

import re
from collections.abc import Mapping
from typing import Final

from gateway.core.civil import MINUTES_PER_DAY, zone_of
from gateway.core.errors import RefusedError
from gateway.core.friendly import (
    DAY_TYPES,
    MINUTES_PER_WEEK,
    FriendlyCalendar,
    FriendlyWindow,
)
from gateway.core.friendly_presets import PRESETS
from gateway.core.holidays import Holiday, parse_holiday
from gateway.core.problems import ProblemList, joined
from gateway.core.requests import ID_PATTERN
from gateway.core.tariff import WEEKDAYS, clock_text

OWN: Final = "own"
MAX_WINDOWS: Final = 48
MAX_HOLIDAYS: Final = 400
MAX_NAME: Final = 100
KEYS: Final = ("id", "name", "preset", "timezone", "windows", "holidays")

_TIME: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|24:00", re.ASCII)
_DAY_TIME: Final = re.compile(rf"({'|'.join(WEEKDAYS)}) (\S+)")
_EVERY_DAY: Final = frozenset(range(len(WEEKDAYS)))


def calendar_from_document(document: object, site_zone: str) -> FriendlyCalendar:
    """The calendar that a document describes; `site_zone` where it names no zone.

    Raises DocumentProblemsError (a RefusedError) with every problem found: CALENDAR_INVALID,
    CALENDAR_NEVER_CUTS, ZONE_UNKNOWN.
    """
    problems = ProblemList("CALENDAR_INVALID")
    keys = problems.mapping("", document, KEYS)
    preset_name = keys.get("preset", OWN)
    preset: Mapping[str, object] = {}
    if preset_name != OWN:
        preset = PRESETS.get(str(preset_name), {})
        if not preset:
            problems.report("preset", f"{preset_name!r} is none of {', '.join((*PRESETS, OWN))}")
    windows = [
        window
        for source in (preset, keys)
        if "windows" in source
        for window in _windows(problems, source["windows"])
    ]
    if not windows and not problems:
        problems.report("windows", "a calendar without windows: leave the calendar out instead")
    holidays: dict[str, Holiday] = {}
    for source in (preset, keys):
        if "holidays" in source:
            holidays.update(_holidays(problems, source["holidays"]))
    # A calendar is kept written out: with its preset's entries it must still be readable.
    for key, found, most in (
        ("windows", len(windows), MAX_WINDOWS),
        ("holidays", len(holidays), MAX_HOLIDAYS),
    ):
        if found > most:
            problems.report(key, f"{found} together with those of the preset: at most {most}")
    calendar_id = keys.get("id", str(preset_name).replace("_", "-"))
    if not isinstance(calendar_id, str) or not ID_PATTERN.fullmatch(calendar_id):
        problems.report("id", f"{calendar_id!r} is no lower-case id")
    name = keys.get("name", preset.get("name", calendar_id))
    if not isinstance(name, str) or not (1 <= len(name) <= MAX_NAME and name.isprintable()):
        problems.report("name", f"expected a text of at most {MAX_NAME} characters")
    zone = keys.get("timezone", site_zone)
    try:
        zone_of(zone)
        problems.raise_if_any()
        return FriendlyCalendar(
            str(calendar_id), str(name), str(zone), tuple(windows), tuple(holidays.values())
        )
    except RefusedError as refusal:
        if refusal.refusal_code in {"ZONE_UNKNOWN", "CALENDAR_NEVER_CUTS"}:
            problems.take(refusal, "")
        problems.raise_if_any()
        raise


def calendar_to_document(calendar: FriendlyCalendar) -> dict[str, object]:
    """The document of a calendar, presets written out; reading it gives an equal calendar."""
    document: dict[str, object] = {
        "id": calendar.calendar_id,
        "name": calendar.name,
        "timezone": calendar.zone,
        "windows": [_window_document(window) for window in calendar.windows],
    }
    if calendar.holidays:
        document["holidays"] = [rule.text for rule in calendar.holidays]
    return document


def _window_document(window: FriendlyWindow) -> dict[str, object]:
    end = window.from_minute + window.minutes
    if end > MINUTES_PER_DAY and window.minutes >= MINUTES_PER_DAY:
        (weekday,) = window.day_types
        days, minute = divmod(end, MINUTES_PER_DAY)
        last = WEEKDAYS[(weekday + days) % 7]
        return {
            "from": f"{WEEKDAYS[weekday]} {clock_text(window.from_minute)}",
            "to": f"{last} {clock_text(minute)}",
        }
    document: dict[str, object] = {}
    if window.day_types != _EVERY_DAY:
        document["days"] = [DAY_TYPES[day_type] for day_type in sorted(window.day_types)]
    to_minute = end if end <= MINUTES_PER_DAY else end - MINUTES_PER_DAY
    return {**document, "from": clock_text(window.from_minute), "to": clock_text(to_minute)}


def _windows(problems: ProblemList, value: object) -> list[FriendlyWindow]:
    windows: list[FriendlyWindow] = []
    for here, item in problems.items("windows", value, MAX_WINDOWS):
        before = len(problems)
        keys = problems.mapping(here, item, ("days", "from", "to"), ("from", "to"))
        start = _moment(problems, joined(here, "from"), keys["from"]) if "from" in keys else None
        end = _moment(problems, joined(here, "to"), keys["to"]) if "to" in keys else None
        days = _days(problems, joined(here, "days"), keys["days"]) if "days" in keys else None
        if len(problems) > before or start is None or end is None:
            continue
        window = _window(problems, here, start, end, days)
        if window is not None:
            windows.append(window)
    return windows


def _window(
    problems: ProblemList,
    here: str,
    start: tuple[int | None, int],
    end: tuple[int | None, int],
    days: frozenset[int] | None,
) -> FriendlyWindow | None:
    """A window of two moments, each a weekday (None: of `days`) and a minute."""
    before = len(problems)
    if (start[0] is None) != (end[0] is None):
        problems.report(here, "name a weekday in both from and to, or in neither")
    if start[1] == MINUTES_PER_DAY:
        problems.report(joined(here, "from"), "a window begins at 00:00, not at 24:00")
    if days is not None and start[0] is not None:
        problems.report(joined(here, "days"), "from and to name their weekdays already")
    if len(problems) > before:
        return None
    if start[0] is None or end[0] is None:
        day_types = _EVERY_DAY if days is None else days
        minutes = (end[1] - start[1]) % MINUTES_PER_DAY or MINUTES_PER_DAY
        empty = end[1] == start[1]
    else:
        day_types = frozenset({start[0]})
        minutes = (end[0] - start[0]) * MINUTES_PER_DAY + end[1] - start[1]
        minutes %= MINUTES_PER_WEEK
        empty = minutes == 0
    if empty:
        problems.report(here, "ends when it begins; a whole day runs from 00:00 to 24:00")
        return None
    return FriendlyWindow(day_types, start[1], minutes)


def _moment(problems: ProblemList, place: str, value: object) -> tuple[int | None, int] | None:
    """Weekday (None without one) and minute of `sat 18:00` or `18:00`."""
    text = " ".join(value.lower().split()) if isinstance(value, str) else ""
    named = _DAY_TIME.fullmatch(text)
    time = named[2] if named else text
    if not _TIME.fullmatch(time):
        # Without quotes YAML 1.1 reads 18:00 as the number 1080.
        problems.report(place, f'{value!r} is no quoted time such as "18:00" or "sat 18:00"')
        return None
    hours, minutes = time.split(":")
    weekday = WEEKDAYS.index(named[1]) if named else None
    return weekday, int(hours) * 60 + int(minutes)


def _days(problems: ProblemList, place: str, value: object) -> frozenset[int]:
    days: set[int] = set()
    for here, item in problems.items(place, value, len(DAY_TYPES)):
        if not isinstance(item, str) or item not in DAY_TYPES:
            problems.report(here, f"{item!r} is none of {', '.join(DAY_TYPES)}")
        elif DAY_TYPES.index(item) in days:
            problems.report(here, f"{item} stands twice")
        else:
            days.add(DAY_TYPES.index(item))
    return frozenset(days)


def _holidays(problems: ProblemList, value: object) -> dict[str, Holiday]:
    found: dict[str, Holiday] = {}
    if value in ([], ()):
        return found
    for here, item in problems.items("holidays", value, MAX_HOLIDAYS):
        try:
            rule = parse_holiday(item)
        except ValueError as error:
            problems.report(here, str(error))
            continue
        if rule.text in found:
            problems.report(here, f"{rule.text} stands twice")
        found[rule.text] = rule
    return found
