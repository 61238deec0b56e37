"""Days left and top-up time: the walk of the pricer agrees with a simulation minute by minute."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.civil import HALF_HOUR_MS
from gateway.core.forecast import (
    MARGIN_MS,
    DailyDebt,
    Forecast,
    Load,
    Pricing,
    forecast,
)
from gateway.core.friendly import FriendlyCalendar
from gateway.core.friendly_document import calendar_from_document
from gateway.core.interval import Interval
from gateway.core.money import Currency, parse_amount
from gateway.core.pricing import Pricer
from gateway.core.tariff_document import tariff_from_document
from gateway.core.usage import Confidence, UsageProfile

INR = Currency("INR")
KOLKATA = ZoneInfo("Asia/Kolkata")
NANO = 10**9
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
CELLS = 168


def instant(text: str, zone: ZoneInfo = KOLKATA) -> int:
    """UTC ms of a local time."""
    return round(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() * 1_000)


def profile_of(
    wh_by_hour: Sequence[int], zone: ZoneInfo = KOLKATA, *, weeks: int = 2, generator: bool = False
) -> UsageProfile:
    """A profile that has seen these even Wh in each hour of the week (a day's 24 repeat)."""
    profile = UsageProfile(zone, 2 if generator else 1)
    start = instant("2026-06-01", zone)
    for number in range(weeks * CELLS * 2):
        wh = wh_by_hour[number // 2 % len(wh_by_hour)]
        begin = start + number * HALF_HOUR_MS
        energy = (wh // 2, wh // 2) if generator else (wh // 2,)
        profile.learn(Interval(begin, begin + HALF_HOUR_MS, energy, None, 1, estimated=False))
    # Recent as far as confidence is concerned.
    profile.learned_until_utc_ms = instant("2030-01-01", zone)
    return profile


@dataclass
class Account:
    """A tariff, a profile and a moment: everything but the money."""

    grid: object
    usage: UsageProfile
    now: int
    zone: ZoneInfo = KOLKATA
    fixed: str = "0"
    tax: str = ""
    used_wh: int = 0
    generator: str = ""

    def load(self) -> Load:
        """The service point with a pricer that has charged `used_wh` this month."""
        document: dict[str, object] = {
            "id": "home",
            "name": "Home",
            "currency": "INR",
            "timezone": self.zone.key,
            "effective_from": "2020-01-01",
            "grid": self.grid,
            "fixed": {"amount": self.fixed},
        }
        sources = ["grid"]
        if self.generator:
            document["generator"] = {"price": self.generator}
            sources.append("generator")
        if self.tax:
            document["taxes"] = [
                {"name": "VAT", "rate_percent": self.tax, "on": ["energy", "fixed"]}
            ]
        tariff = tariff_from_document(document, INR)
        pricer = Pricer([tariff], start_utc_ms=self.now - 2_000, sources=sources)
        pricer.advance((("grid", self.used_wh),), self.now - 2_000, self.now - 1_000)

        def restore(state: Mapping[str, object]) -> Pricing:
            return Pricer.restore([tariff], state, sources=sources)

        return Load(self.usage, tuple(sources), pricer.snapshot(), restore)

    def forecast(
        self,
        credit_nano: int,
        *,
        emergency_nano: int = 0,
        debts: Sequence[DailyDebt] = (),
        calendar: FriendlyCalendar | None = None,
        horizon_days: int = 60,
    ) -> Forecast:
        """How long this credit lasts."""
        return forecast(
            [self.load()],
            zone=self.zone,
            now_utc_ms=self.now,
            credit_nano=credit_nano,
            emergency_nano=emergency_nano,
            debts=debts,
            calendar=calendar,
            horizon_days=horizon_days,
        )


def constant(price: str = "8.00", watts: int = 1_000, now: str = "2026-07-01 00:00") -> Account:
    """The same load at every hour, one price."""
    return Account({"price": price}, profile_of([watts]), instant(now))


def amount(text: str) -> int:
    """Nano-units of a decimal text."""
    return parse_amount(text, INR)


# -- examples ------------------------------------------------------------------------------


def test_a_constant_load_ends_to_the_second() -> None:
    """80.00 at 8.00 per kWh and 1 kW: ten hours, 0.4 days (floored), cut at once."""
    account = constant()
    found = account.forecast(amount("80"))
    assert found.zero_utc_ms == account.now + 10 * HOUR_MS
    assert (found.days_left_tenths, found.days_left) == (4, "0.4")
    assert found.cut_utc_ms == found.zero_utc_ms
    assert found.confidence is Confidence.GOOD
    # 10 % of ten hours for more use than expected, and two hours to pay.
    assert found.top_up_by_utc_ms == account.now + 9 * HOUR_MS - MARGIN_MS


def test_exactly_ten_days_are_ten() -> None:
    """The floor takes nothing from a whole number; a nano-unit less does."""
    account = constant()
    credit = amount("8") * 240
    assert account.forecast(credit).days_left == "10.0"
    less = account.forecast(credit - 8_000_000).days_left
    assert less == "9.9"


@pytest.mark.parametrize("credit", ["0", "-0.000000001", "-50"])
@pytest.mark.parametrize("known", [True, False])
def test_without_credit_nothing_is_left(credit: str, known: bool) -> None:
    """Zero or negative: 0.0 days and a cut that is due, whatever is known of the usage."""
    account = constant()
    if not known:
        account.usage = UsageProfile(KOLKATA, 1)
    found = account.forecast(amount(credit))
    assert found.days_left == "0.0"
    assert found.zero_utc_ms == found.cut_utc_ms == found.top_up_by_utc_ms == account.now


def test_an_empty_profile_says_nothing() -> None:
    """None, not a number: neither zero nor for ever."""
    account = Account({"price": "8.00"}, UsageProfile(KOLKATA, 1), instant("2026-07-01"))
    assert account.forecast(amount("100")) == Forecast(None, None, None, None, Confidence.NONE)


def test_credit_beyond_the_horizon_is_told_as_such() -> None:
    """60.0 days and a mark; an unused flat with no fee lasts that long too."""
    found = constant().forecast(amount("1000000"))
    assert (found.days_left, found.beyond_horizon, found.zero_utc_ms) == ("60.0", True, None)
    assert (found.cut_utc_ms, found.top_up_by_utc_ms) == (None, None)
    assert constant(watts=0).forecast(1).beyond_horizon


def test_a_fee_at_the_months_close_can_end_the_credit() -> None:
    """At midnight of the first, not at the next Wh."""
    account = constant(watts=0, now="2026-07-30 06:00")
    account.fixed = "50.00"
    assert account.forecast(amount("50")).zero_utc_ms == instant("2026-08-01 00:00")
    assert account.forecast(amount("50.01")).zero_utc_ms == instant("2026-09-01 00:00")


def test_debts_are_collected_at_midnights_until_they_are_paid() -> None:
    """Two debts of 3 days and 1 day; then only energy counts."""
    account = constant(watts=0, now="2026-07-01 12:00")
    debts = [DailyDebt(amount("3"), amount("1")), DailyDebt(amount("0.50"), amount("2"))]
    assert account.forecast(amount("1.50"), debts=debts).zero_utc_ms == instant("2026-07-02")
    assert account.forecast(amount("1.51"), debts=debts).zero_utc_ms == instant("2026-07-03")
    assert account.forecast(amount("3.50"), debts=debts).zero_utc_ms == instant("2026-07-04")
    assert account.forecast(amount("3.51"), debts=debts).beyond_horizon


def test_emergency_credit_comes_after_the_own() -> None:
    """Own credit for five hours, emergency for five more; both instants are told."""
    account = constant()
    found = account.forecast(amount("40"), emergency_nano=amount("40"))
    assert found.emergency_utc_ms == account.now + 5 * HOUR_MS
    assert found.zero_utc_ms == account.now + 10 * HOUR_MS
    in_use = account.forecast(amount("-8"), emergency_nano=amount("16"))
    assert in_use.emergency_utc_ms == account.now
    assert in_use.zero_utc_ms == account.now + HOUR_MS
    spent = account.forecast(amount("-16"), emergency_nano=amount("16"))
    assert (spent.zero_utc_ms, spent.days_left) == (account.now, "0.0")


def test_a_friendly_weekend_moves_the_cut_and_not_the_end_of_the_credit() -> None:
    """Zero on Saturday night: cut on Monday at 08:00, top up by 06:00."""
    account = constant(now="2026-11-07 12:00")
    calendar = calendar_from_document(
        {"windows": [{"from": "sat 18:00", "to": "mon 08:00"}]}, "Asia/Kolkata"
    )
    found = account.forecast(amount("80"), calendar=calendar)
    assert found.zero_utc_ms == instant("2026-11-07 22:00")
    assert found.cut_utc_ms == instant("2026-11-09 08:00")
    assert found.top_up_by_utc_ms == instant("2026-11-09 06:00")
    # A little earlier and the margin reaches back before the window: then by that.
    early = account.forecast(amount("52"), calendar=calendar)
    assert early.cut_utc_ms == instant("2026-11-09 08:00")
    assert early.top_up_by_utc_ms == instant("2026-11-07 15:51")


def test_little_data_asks_to_top_up_earlier() -> None:
    """The margin grows as confidence falls; never after the cut, never before now."""
    account = constant()
    margins = []
    for weeks in (1, 2):
        account.usage = profile_of([1_000], weeks=weeks)
        found = account.forecast(amount("800"))
        margins.append(found.top_up_by_utc_ms)
    account.usage = UsageProfile(KOLKATA, 1)
    for number in range(4):
        begin = account.now - DAY_MS + number * HALF_HOUR_MS
        account.usage.learn(Interval(begin, begin + HALF_HOUR_MS, (500,), None, 1, estimated=False))
    found = account.forecast(amount("800"))
    assert found.confidence is Confidence.LOW
    margins.append(found.top_up_by_utc_ms)
    hours = [((margin or 0) - account.now) / HOUR_MS for margin in margins]
    assert hours == [80 - 2, 90 - 2, 65 - 2]
    assert account.forecast(amount("8")).top_up_by_utc_ms == account.now


def test_progress_through_blocks_counts() -> None:
    """95 kWh used of a block of 100: five at the low price, the rest at the high one."""
    account = constant(now="2026-07-15 00:00")
    account.grid = {"blocks": [{"upto_kwh": 100, "price": "2.00"}, {"price": "10.00"}]}
    account.used_wh = 95_000
    assert account.forecast(amount("30")).zero_utc_ms == account.now + 7 * HOUR_MS
    account.used_wh = 0
    assert account.forecast(amount("30")).zero_utc_ms == account.now + 15 * HOUR_MS


def test_two_sources_are_priced_by_their_shares() -> None:
    """Half grid at 8, half generator at 24: 16 on average."""
    account = constant()
    account.usage = profile_of([500], generator=True)
    account.generator = "24.00"
    found = account.forecast(amount("80"))
    assert found.zero_utc_ms == account.now + 5 * HOUR_MS


def test_a_fee_that_fell_due_since_the_last_reading_counts_at_once() -> None:
    """The pricer's label is a second before the month's end, now is after it."""
    account = constant(watts=0, now="2026-08-01 00:00")
    account.fixed = "50.00"
    found = account.forecast(amount("50"))
    assert found.zero_utc_ms is not None
    assert found.zero_utc_ms - account.now <= 1
    assert account.forecast(amount("51")).zero_utc_ms == instant("2026-09-01 00:00")


def test_two_points_of_one_account_add_up() -> None:
    """Two meters with a tariff each draw on one credit."""
    one = constant("8.00", 1_000, "2026-07-15 00:00")
    other = constant("4.00", 3_000, "2026-07-15 00:00")
    other.fixed = "100.00"
    found = forecast(
        [one.load(), other.load()], zone=KOLKATA, now_utc_ms=one.now, credit_nano=amount("200")
    )
    assert found.zero_utc_ms == one.now + 10 * HOUR_MS
    assert found.days_left == "0.4"


def test_a_pricer_is_left_as_it_was_and_its_posted_past_does_not_count() -> None:
    """The state given is not changed; energy that was charged before is not charged again."""
    account = constant()
    account.used_wh = 12_345
    load = account.load()
    before = repr(load.state)
    twice = [
        forecast([load], zone=KOLKATA, now_utc_ms=account.now, credit_nano=amount("80"))
        for _ in range(2)
    ]
    assert repr(load.state) == before
    assert twice[0] == twice[1]
    assert twice[0].zero_utc_ms == account.now + 10 * HOUR_MS


def test_a_reading_that_is_hours_old_delays_nothing() -> None:
    """A pricer whose label lies behind a boundary is brought up to now first."""
    account = constant(now="2026-07-01 06:00")
    account.grid = {
        "bands": {
            "night": {"price": "4.00", "when": [{"from": "22:00", "to": "06:00"}]},
            "day": {"price": "8.00"},
        }
    }
    load = account.load()
    now = account.now + 3 * HOUR_MS
    found = forecast([load], zone=KOLKATA, now_utc_ms=now, credit_nano=amount("80"))
    assert found.zero_utc_ms == now + 10 * HOUR_MS


# -- against a simulation ------------------------------------------------------------------


@dataclass(frozen=True)
class Simulated:
    """Prices as plain tables: band by local hour, blocks, tax, month's fee, debts."""

    wh_by_hour: tuple[int, ...]
    peak: Fraction
    low: Fraction
    block_wh: int
    high: Fraction
    tax: Fraction
    fee: Fraction
    debt: tuple[Fraction, Fraction]


def simulate(
    model: Simulated, zone: ZoneInfo, start: int, credit: Fraction, days: int
) -> int | None:
    """The first minute at whose end the credit is used up, by Wh that are counted one by one."""
    parts = Fraction(0)
    counted = used_wh = 0
    energy = collected = Fraction(0)
    fees = 0
    remaining = model.debt[0]
    label = datetime.fromtimestamp(start / 1_000, zone)
    for minute in range(days * 1440):
        in_peak = 18 <= label.hour < 22
        rate = model.wh_by_hour[(label.weekday() * 24 + label.hour) % len(model.wh_by_hour)]
        parts += Fraction(rate, 60)
        while counted < int(parts):
            counted += 1
            used_wh += 1
            block = model.low if used_wh <= model.block_wh else model.high
            energy += (model.peak if in_peak else block) / 1_000
        after = datetime.fromtimestamp((start + (minute + 1) * MINUTE_MS) / 1_000, zone)
        if after.date() != label.date():
            part = min(model.debt[1], remaining)
            remaining -= part
            collected += part
            if after.month != label.month:
                fees += 1
                used_wh = 0
        label = after
        owed = (energy + fees * model.fee) * (1 + model.tax) + collected
        if owed >= credit:
            return start + (minute + 1) * MINUTE_MS
    return None


def cents(low: int, high: int) -> st.SearchStrategy[Fraction]:
    """Amounts with two decimals."""
    return st.integers(low, high).map(lambda value: Fraction(value, 100))


def text_of(value: Fraction) -> str:
    """Two decimals of an amount."""
    return f"{int(value)}.{int(value * 100) % 100:02d}"


even = st.integers(0, 300).map(lambda half: 2 * half)
models = st.builds(
    Simulated,
    st.one_of(
        even.map(lambda wh: (wh,)),
        st.lists(even, min_size=24, max_size=24).map(tuple),
        st.lists(even, min_size=CELLS, max_size=CELLS).map(tuple),
    ),
    cents(1, 2_000),
    cents(1, 1_000),
    st.integers(1, 60).map(lambda kwh: kwh * 1_000),
    cents(1, 2_000),
    st.sampled_from([Fraction(0), Fraction(18, 100)]),
    cents(0, 5_000),
    st.tuples(cents(0, 900), cents(1, 200)),
)
ZONES = ("Europe/Berlin", "Asia/Kolkata", "America/Havana")
NOWS = ("2026-03-27 13:07", "2026-10-23 00:00", "2026-06-28 23:59", "2026-02-10 18:00")


cases = (models, st.sampled_from(ZONES), st.sampled_from(NOWS), cents(1, 5_000))


@given(*cases)
@settings(max_examples=6, deadline=None)
def test_the_end_is_that_of_a_simulation_minute_by_minute(
    model: Simulated, zone_name: str, now: str, credit: Fraction
) -> None:
    """Bands, blocks, tax, fees, debts and clock changes: the same minute for any of them."""
    check_against_simulation(model, zone_name, now, credit, 3)


@pytest.mark.slow
@given(*cases)
@settings(max_examples=100, deadline=None)
def test_many_ends_are_those_of_a_simulation(
    model: Simulated, zone_name: str, now: str, credit: Fraction
) -> None:
    """The same with more of everything."""
    check_against_simulation(model, zone_name, now, credit, 9)


def check_against_simulation(
    model: Simulated, zone_name: str, now: str, credit: Fraction, days: int
) -> None:
    """Both find the end in the same minute, or neither within the days."""
    zone = ZoneInfo(zone_name)
    account = account_of(model, zone, now)
    debt = DailyDebt(int(model.debt[0] * NANO), int(model.debt[1] * NANO))
    found = account.forecast(int(credit * NANO), debts=[debt], horizon_days=days)
    expected = simulate(model, zone, account.now, credit, days)
    if expected is None or found.zero_utc_ms is None:
        assert (expected, found.zero_utc_ms) == (None, None)
        return
    # A tax that is floored may hold back a nano-unit, which another Wh brings.
    assert expected - MINUTE_MS < found.zero_utc_ms <= expected + MINUTE_MS


def account_of(model: Simulated, zone: ZoneInfo, now: str) -> Account:
    """The account whose tariff document says what the simulation's tables say."""
    return Account(
        {
            "bands": {
                "peak": {
                    "price": text_of(model.peak),
                    "when": [{"from": "18:00", "to": "22:00"}],
                },
                "rest": {
                    "blocks": [
                        {"upto_kwh": model.block_wh // 1_000, "price": text_of(model.low)},
                        {"price": text_of(model.high)},
                    ]
                },
            }
        },
        profile_of(model.wh_by_hour, zone),
        instant(now, zone),
        zone=zone,
        fixed=text_of(model.fee),
        tax="18" if model.tax else "",
    )


@given(st.integers(1, 6_000), st.integers(1, 30_000_000), st.integers(1, 50 * NANO * 100))
@settings(max_examples=25, deadline=None)
def test_days_left_of_a_constant_load_are_floored_and_never_above_the_truth(
    half_wh: int, price_micro: int, credit_nano: int
) -> None:
    """The truth: whole Wh that the credit pays, at so many Wh an hour."""
    account = constant(f"{price_micro / 1e6:.6f}", 2 * half_wh)
    found = account.forecast(credit_nano)
    whole_wh = -(-credit_nano // price_micro)
    truth_days = Fraction(whole_wh, 2 * half_wh * 24)
    assert found.days_left_tenths is not None
    if truth_days > 60:
        assert found.beyond_horizon
        return
    assert found.days_left_tenths == int(truth_days * 10)
    assert found.zero_utc_ms is not None
    assert 0 <= found.zero_utc_ms - (account.now + truth_days * DAY_MS) < 1


@given(models, st.lists(cents(0, 60_000), min_size=2, max_size=6), st.booleans())
@settings(max_examples=8, deadline=None)
def test_more_credit_never_ends_sooner(
    model: Simulated, credits_given: list[Fraction], friendly: bool
) -> None:
    """Days left, end, cut and top-up time rise with the balance; top-up comes before the cut."""
    account = account_of(model, KOLKATA, "2026-06-28 23:59")
    calendar = calendar_from_document({"preset": "in_uppcl"}, "Asia/Kolkata") if friendly else None
    answers = [
        account.forecast(int(credit * NANO), calendar=calendar, horizon_days=20)
        for credit in sorted(credits_given)
    ]
    picks: tuple[Callable[[Forecast], int | None], ...] = (
        lambda answer: answer.days_left_tenths,
        lambda answer: answer.zero_utc_ms,
        lambda answer: answer.cut_utc_ms,
        lambda answer: answer.top_up_by_utc_ms,
    )
    for pick in picks:
        values = [pick(answer) for answer in answers]
        known = [value for value in values if value is not None]
        assert known == sorted(known)
        assert values == [*known, *[None] * (len(values) - len(known))]
    for answer in answers:
        if answer.cut_utc_ms is not None:
            assert answer.zero_utc_ms is not None
            assert answer.top_up_by_utc_ms is not None
            assert account.now <= answer.zero_utc_ms <= answer.cut_utc_ms
            assert answer.top_up_by_utc_ms <= answer.cut_utc_ms
