"""Friendly hours: windows in civil time that defer cuts for credit, and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import cast
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import RefusedError
from gateway.core.friendly import (
    HOLIDAY,
    CutDeferral,
    CutVerdict,
    FriendlyCalendar,
    FriendlyWindow,
)
from gateway.core.friendly_document import calendar_from_document
from gateway.core.holidays import parse_holiday
from gateway.core.money import Currency, parse_amount
from gateway.core.pricing import Pricer
from gateway.core.proof import NS, Observation
from gateway.core.supply import Supply
from gateway.core.switching import ControlState, Reason, SupplyPolicy
from gateway.core.tariff_document import tariff_from_document

CASES_FILE = Path(__file__).parent.parent / "cases" / "prepaid.yaml"
INR = Currency("INR")
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
EVERY_DAY = frozenset(range(7))


def case(case_id: str) -> Mapping[str, Mapping[str, object]]:
    """One worked example, every scalar as text."""
    with CASES_FILE.open(encoding="utf-8") as stream:
        document = yaml.load(stream, Loader=yaml.BaseLoader)  # noqa: S506 - BaseLoader makes text only
    return next(
        cast("Mapping[str, Mapping[str, object]]", item)
        for item in document["cases"]
        if item["id"] == case_id
    )


def instant(text: str, zone: str = "Asia/Kolkata") -> int:
    """UTC ms of a local time such as `2026-11-07 18:00`."""
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1_000)


def shown(utc_ms: int | None, zone: str = "Asia/Kolkata") -> str:
    """The local time of an instant, or `never`."""
    if utc_ms is None:
        return "never"
    return f"{datetime.fromtimestamp(utc_ms / 1_000, ZoneInfo(zone)):%a %Y-%m-%d %H:%M}"


WEEKEND = {"id": "weekends", "windows": [{"from": "sat 18:00", "to": "mon 08:00"}]}


class Flat:
    """One account's wallet, pricing, deferral and supply, put together as control does it."""

    def __init__(self, wallet: str, rate: str, start_utc_ms: int, document: object) -> None:
        tariff = tariff_from_document(
            {
                "id": "case",
                "name": "Case",
                "currency": "INR",
                "timezone": "Asia/Kolkata",
                "effective_from": "2026-01-01",
                "grid": {"price": rate},
            },
            INR,
        )
        self.pricer = Pricer([tariff], start_utc_ms=start_utc_ms)
        self.paid_nano = parse_amount(wallet, INR)
        self.deferral = CutDeferral(calendar_from_document(document, "Asia/Kolkata"))
        self.supply = Supply(SupplyPolicy())
        self.supply.enforce(on=True)
        self.verdicts: list[CutVerdict] = []
        self.now_ns = 0
        self.observe(closed=True)

    @property
    def wallet_nano(self) -> int:
        """What is left, nothing posted yet."""
        return self.paid_nano - self.pricer.charged_nano()

    def observe(self, *, closed: bool) -> None:
        """A reading of output and current."""
        self.now_ns += 3_600 * NS
        self.supply.observe(
            Observation(
                mono_ns=self.now_ns,
                output_closed=closed,
                energy_wh=0,
                current_a=4.0 if closed else 0.0,
                power_w=900.0 if closed else 0.0,
                feedback_closed=None,
                voltage_v=230.0,
                trusted=True,
            )
        )

    def read(self, wh: int, utc_ms: int) -> None:
        """A settled reading: charge, judge, and cut where the verdict says so."""
        self.pricer.advance({"grid": wh}, self.pricer.label_utc_ms, utc_ms)
        if Reason.CREDIT in self.supply.reasons:
            return
        verdict = self.deferral.judge(self.wallet_nano, utc_ms)
        self.verdicts.append(verdict)
        if verdict in {CutVerdict.DUE, CutVerdict.DUE_AFTER_WINDOW}:
            self.supply.block(Reason.CREDIT)
            self.supply.order(self.now_ns, close=False)
            self.supply.sent(self.now_ns)
            for _ in range(3):
                self.observe(closed=False)

    def recharge(self, amount: str) -> None:
        """Money comes in; CREDIT is cleared only by what lifts above zero."""
        self.paid_nano += parse_amount(amount, INR)
        if self.wallet_nano > 0:
            self.supply.unblock(Reason.CREDIT)
        self.now_ns += 3_600 * NS

    def state(self) -> str:
        """The supply's state as the case names it."""
        return self.supply.state(self.now_ns).name


@pytest.mark.slow
def test_p09_a_friendly_weekend_defers_the_cut_to_its_end() -> None:
    """Zero on Saturday evening: supply stays on below zero, is cut once on Monday at 08:00."""
    given, expect = case("P09")["given"], case("P09")["expect"]
    start, end = (cast("str", given["window"])).split(" - ")
    document = {"windows": [{"from": start.lower(), "to": end.lower()}]}
    account = Flat(
        cast("str", given["wallet_sat_1800"]),
        cast("str", given["rate"]),
        instant("2026-11-07 18:00"),
        document,
    )
    wallets: list[int] = []
    states: list[str] = []
    steps: tuple[Callable[[], None], ...] = (
        lambda: account.read(800, instant("2026-11-07 18:30")),
        lambda: account.read(12_000, instant("2026-11-09 07:59:59")),
        lambda: account.read(0, instant("2026-11-09 08:00:00")),
        lambda: account.recharge("50"),
        lambda: account.recharge("20"),
    )
    for step in steps:
        step()
        wallets.append(account.wallet_nano)
        states.append(account.state())
    assert wallets == [parse_amount(text, INR) for text in cast("list[str]", expect["wallet"])]
    assert states == expect["supply"]
    assert account.verdicts == [
        CutVerdict.DEFERRED,
        CutVerdict.DEFERRED,
        CutVerdict.DUE_AFTER_WINDOW,
    ]


def test_p10_a_window_never_reconnects() -> None:
    """Cut before the window opens: nothing in it gives supply back."""
    account = Flat("-2.00", "5.00", instant("2026-11-07 17:00"), WEEKEND)
    expected = case("P10")["expect"]["supply"]
    account.read(0, instant("2026-11-07 17:30"))
    assert account.verdicts == [CutVerdict.DUE]
    assert account.state() == ControlState.DISCONNECTED.name
    for hour in range(40):
        account.read(0, instant("2026-11-07 18:00") + hour * HOUR_MS)
        assert account.state() == expected
    assert account.supply.reasons == {Reason.CREDIT}


def test_a_recharge_within_the_window_ends_the_wait() -> None:
    """Credit that comes before Monday: nothing is cut then, and the next zero is a new one."""
    calendar = calendar_from_document(WEEKEND, "Asia/Kolkata")
    deferral = CutDeferral(calendar)
    saturday, monday = instant("2026-11-07 20:00"), instant("2026-11-09 08:00")
    assert deferral.judge(0, saturday) is CutVerdict.DEFERRED
    assert deferral.since_utc_ms == saturday
    assert deferral.judge(1, saturday + 1) is CutVerdict.NOT_DUE
    assert deferral.judge(1, monday) is CutVerdict.NOT_DUE
    assert deferral.judge(0, monday + 1) is CutVerdict.DUE


def test_a_wait_outlives_a_restart() -> None:
    """What was deferred before a restart is due after the window, as deferred."""
    calendar = calendar_from_document(WEEKEND, "Asia/Kolkata")
    before, after = CutDeferral(calendar), CutDeferral(calendar)
    before.judge(-5, instant("2026-11-08 03:00"))
    after.restore(before.snapshot())
    assert after.judge(-5, instant("2026-11-09 08:00")) is CutVerdict.DUE_AFTER_WINDOW


def test_a_clock_in_doubt_defers_under_a_calendar_only() -> None:
    """Whether it is night cannot be told: no cut. Without a calendar time does not matter."""
    noon = instant("2026-11-10 12:00")
    with_calendar = CutDeferral(calendar_from_document(WEEKEND, "Asia/Kolkata"))
    assert with_calendar.judge(0, noon, clock_trusted=False) is CutVerdict.DEFERRED
    assert CutDeferral(None).judge(0, noon, clock_trusted=False) is CutVerdict.DUE


@pytest.mark.parametrize(
    ("at", "until"),
    [
        ("2026-11-07 17:59", "Sat 2026-11-07 17:59"),  # before: cut now
        ("2026-11-07 18:00", "Mon 2026-11-09 08:00"),
        ("2026-11-09 07:59", "Mon 2026-11-09 08:00"),
        ("2026-11-09 08:00", "Mon 2026-11-09 08:00"),
    ],
)
def test_the_next_disablement_is_the_end_of_the_window_that_holds_an_instant(
    at: str, until: str
) -> None:
    """Windows are half-open: their end cuts."""
    calendar = calendar_from_document(WEEKEND, "Asia/Kolkata")
    assert shown(calendar.next_disablement_utc_ms(instant(at))) == until


def test_windows_that_touch_are_one() -> None:
    """Friday night, a whole Saturday and Sunday night run on without a gap at midnight."""
    calendar = calendar_from_document({"preset": "uk_edf"}, "Europe/London")
    friday = instant("2026-04-17 18:00", "Europe/London")
    assert (
        shown(calendar.next_disablement_utc_ms(friday), "Europe/London") == "Mon 2026-04-20 11:00"
    )
    # Good Friday and Easter Monday make it four days more.
    thursday = instant("2026-04-02 20:00", "Europe/London")
    assert (
        shown(calendar.next_disablement_utc_ms(thursday), "Europe/London") == "Tue 2026-04-07 11:00"
    )


def test_a_clock_change_moves_the_window_with_the_label() -> None:
    """01:30 to 02:30 in Berlin: half an hour where an hour is skipped, 1 h twice where repeated."""
    calendar = calendar_from_document(
        {"id": "night", "windows": [{"from": "01:30", "to": "02:30"}]}, "Europe/Berlin"
    )
    spring = round(datetime(2026, 3, 29, 0, 30, tzinfo=UTC).timestamp() * 1_000)
    assert calendar.is_friendly(spring)
    # 01:30 to 02:00, then labels go on at 03:00.
    assert calendar.next_change_utc_ms(spring) == spring + 30 * MINUTE_MS
    autumn = round(datetime(2026, 10, 24, 23, 30, tzinfo=UTC).timestamp() * 1_000)
    assert calendar.next_change_utc_ms(autumn) == autumn + 60 * MINUTE_MS
    # 02:30 to 03:00 is unfriendly, then 02:00 comes again.
    assert calendar.next_change_utc_ms(autumn + 60 * MINUTE_MS) == autumn + 90 * MINUTE_MS
    assert calendar.next_change_utc_ms(autumn + 90 * MINUTE_MS) == autumn + 120 * MINUTE_MS


def test_a_holidays_window_over_midnight_belongs_to_the_holiday() -> None:
    """From the evening of the holiday to the morning after it, not on its own morning."""
    calendar = calendar_from_document(
        {
            "windows": [{"days": ["holiday"], "from": "18:00", "to": "11:00"}],
            "holidays": ["2026-03-04"],
        },
        "Asia/Kolkata",
    )
    assert not calendar.is_friendly(instant("2026-03-04 10:00"))
    evening = instant("2026-03-04 18:00")
    assert calendar.is_friendly(evening)
    assert shown(calendar.next_disablement_utc_ms(evening)) == "Thu 2026-03-05 11:00"
    assert not calendar.is_friendly(instant("2026-03-05 18:00"))


def test_a_calendar_of_past_holidays_never_changes_again() -> None:
    """No change within 400 days is told as None, not searched forever."""
    calendar = calendar_from_document(
        {
            "windows": [{"days": ["holiday"], "from": "00:00", "to": "24:00"}],
            "holidays": ["2026-03-04"],
        },
        "Asia/Kolkata",
    )
    assert shown(calendar.next_change_utc_ms(instant("2026-01-01 00:00"))) == "Wed 2026-03-04 00:00"
    assert calendar.next_change_utc_ms(instant("2026-03-05 00:00")) is None


@pytest.mark.parametrize(
    ("windows", "holidays", "place"),
    [
        # Every minute of the week; three hours and 59 minutes left; the same over several days.
        ([FriendlyWindow(EVERY_DAY, 0, 1440)], (), "windows"),
        ([FriendlyWindow(frozenset({0}), 0, 7 * 1440 - 239)], (), "windows"),
        ([FriendlyWindow(EVERY_DAY, 720, 1440 - 34)], (), "windows"),
        # A holiday on each of 16 days, whole; and on every day of the year.
        (
            [FriendlyWindow(frozenset({HOLIDAY}), 0, 1440)],
            [f"2026-03-{day:02d}" for day in range(1, 17)],
            "holidays",
        ),
        (
            [FriendlyWindow(frozenset({HOLIDAY}), 0, 1440)],
            [f"{month:02d}-{day:02d}" for month in range(1, 13) for day in range(1, 29)],
            "holidays",
        ),
        # Far outside the years that are looked at in any case.
        (
            [FriendlyWindow(frozenset({HOLIDAY}), 0, 1440)],
            [f"2101-05-{day:02d}" for day in range(1, 17)],
            "holidays",
        ),
    ],
)
def test_a_calendar_that_never_allows_a_cut_is_refused(
    windows: Sequence[FriendlyWindow], holidays: Sequence[str], place: str
) -> None:
    """Less than four hours a week, or more than a fortnight on end, and nobody is ever cut."""
    with pytest.raises(RefusedError) as refusal:
        FriendlyCalendar(
            "x", "x", "Asia/Kolkata", tuple(windows), tuple(map(parse_holiday, holidays))
        )
    assert refusal.value.refusal_code == "CALENDAR_NEVER_CUTS"
    assert refusal.value.place == place


def test_just_enough_room_is_allowed() -> None:
    """Four hours a week, a fortnight of holidays, and a gap in every day of any length of time."""
    FriendlyCalendar("x", "x", "Asia/Kolkata", (FriendlyWindow(frozenset({0}), 0, 7 * 1440 - 240),))
    fortnight = tuple(parse_holiday(f"2026-03-{day:02d}") for day in range(1, 15))
    FriendlyCalendar(
        "x", "x", "Asia/Kolkata", (FriendlyWindow(frozenset({HOLIDAY}), 0, 1440),), fortnight
    )
    days = (FriendlyWindow(EVERY_DAY, 0, 1200),)
    FriendlyCalendar("x", "x", "Asia/Kolkata", days, fortnight)


# -- against a slow model ------------------------------------------------------------------

ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour
    "America/Havana",  # at midnight
    "Africa/Cairo",  # at midnight
    "Asia/Kathmandu",  # 5:45, never
)
# Around clock changes of those zones, holidays, and an ordinary week.
ANCHORS = tuple(
    date.fromisoformat(text)
    for text in (
        "2026-03-08", "2026-03-29", "2026-04-05", "2026-04-24", "2026-10-04", "2026-10-25",
        "2026-10-30", "2026-11-01", "2026-12-25", "2026-06-10",
    )
)  # fmt: skip


class SlowCalendar:
    """By definition: windows painted minute by minute over local days, one label at a time."""

    def __init__(self, calendar: FriendlyCalendar) -> None:
        self.calendar = calendar
        self.zone = ZoneInfo(calendar.zone)
        self.painted: dict[date, set[int]] = {}

    def is_friendly(self, utc_ms: int) -> bool:
        """Whether the label of an instant is painted."""
        label = datetime.fromtimestamp(utc_ms / 1_000, self.zone)
        day = label.date()
        if day not in self.painted:
            self.painted[day] = self.paint(day)
        return label.hour * 60 + label.minute in self.painted[day]

    def paint(self, day: date) -> set[int]:
        """Minutes of a day that lie in a window which began on it or up to a week before."""
        minutes: set[int] = set()
        for back in range(8):
            began = day - timedelta(days=back)
            types = {began.weekday()}
            if any(began in set(rule.days_in(began.year)) for rule in self.calendar.holidays):
                types.add(HOLIDAY)
            for window in self.calendar.windows:
                if window.day_types & types:
                    first = window.from_minute - back * 1440
                    minutes.update(range(max(0, first), min(1440, first + window.minutes)))
        return minutes


def daily_windows() -> st.SearchStrategy[FriendlyWindow]:
    """On weekdays and holidays, up to a day."""
    return st.builds(
        FriendlyWindow,
        st.frozensets(st.integers(0, HOLIDAY), min_size=1),
        st.integers(0, 95).map(lambda quarter: quarter * 15),
        st.integers(1, 80).map(lambda quarter: quarter * 15),
    )


def span_windows() -> st.SearchStrategy[FriendlyWindow]:
    """From one weekday to another."""
    return st.builds(
        FriendlyWindow,
        st.integers(0, 6).map(lambda day: frozenset({day})),
        st.integers(0, 95).map(lambda quarter: quarter * 15),
        st.integers(1, 5 * 96).map(lambda quarter: quarter * 15),
    )


@st.composite
def calendars(draw: st.DrawFn) -> FriendlyCalendar | None:
    """Any calendar of up to three windows; None for one that never cuts."""
    windows = draw(st.lists(st.one_of(daily_windows(), span_windows()), min_size=1, max_size=3))
    texts = ("2026-03-29", "2026-10-24", "12-25", "12-26", "second sat", "last fri in apr")
    rules = draw(st.lists(st.sampled_from(texts), unique=True, max_size=4))
    try:
        return FriendlyCalendar(
            "x",
            "x",
            draw(st.sampled_from(ZONES)),
            tuple(windows),
            tuple(parse_holiday(text) for text in rules),
        )
    except RefusedError:
        return None


@pytest.mark.slow
@given(calendars(), st.sampled_from(ANCHORS), st.integers(0, 2 * 1440))
@settings(max_examples=40, deadline=None)
def test_calendars_agree_with_a_slow_model_minute_by_minute(
    calendar: FriendlyCalendar | None, anchor: date, offset_minutes: int
) -> None:
    """State and next change of any calendar in any zone are those of a walk over minutes."""
    if calendar is None:
        return
    midnight = datetime(anchor.year, anchor.month, anchor.day, tzinfo=UTC) - timedelta(days=1)
    start = round(midnight.timestamp() * 1_000) + offset_minutes * MINUTE_MS
    slow = SlowCalendar(calendar)
    friendly = slow.is_friendly(start)
    assert calendar.is_friendly(start) == friendly
    change: int | None = None
    for minute in range(1, 1_800):
        utc_ms = start + minute * MINUTE_MS
        if slow.is_friendly(utc_ms) != friendly:
            change = utc_ms
            break
    found = calendar.next_change_utc_ms(start)
    if change is None:
        assert found is None or found >= start + 1_800 * MINUTE_MS
    else:
        assert found == change
        # Sub-minute instants see the same edge.
        assert calendar.next_change_utc_ms(change - 1) == change
        assert calendar.is_friendly(change - 1) == friendly
        assert calendar.is_friendly(change) != friendly
    expected = start if not friendly else found
    assert calendar.next_disablement_utc_ms(start) == expected
