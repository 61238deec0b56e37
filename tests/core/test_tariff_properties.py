"""Random tariffs with everything in them, beside the slow model of `slow_tariff.py`."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.bands import day_pairs, day_pieces
from gateway.core.charges import charges_of
from gateway.core.civil import labelled_period, zone_of
from gateway.core.money import Currency
from gateway.core.pricing import Cell, Counted, Posting, Pricer
from gateway.core.tariff import (
    Rebate,
    Season,
    SourceTariff,
    Tariff,
    TariffCalendar,
    TaxRule,
    Window,
)
from gateway.core.tariff_document import tariff_from_document
from gateway.core.tariff_writer import tariff_to_document
from tests.core.slow_tariff import (
    EPOCH,
    QUARTER_MS,
    Charges,
    Story,
    all_charges,
    counted_after,
    counts,
    opening_of,
)

INR = Currency("INR")
HOUR_MS = 4 * QUARTER_MS
DAY_MS = 24 * HOUR_MS
SOURCES = ("grid", "generator")
# Days before a month ends, a season changes, clocks change, or midnight is skipped or comes twice.
PLACES = (
    ("Asia/Kolkata", "2026-01-29T14:00:00+00:00"),
    ("Asia/Kathmandu", "2028-02-26T14:00:00+00:00"),
    ("Europe/Berlin", "2026-03-27T21:00:00+00:00"),
    ("Europe/Berlin", "2026-10-23T21:00:00+00:00"),
    ("Africa/Cairo", "2026-04-22T18:00:00+00:00"),
    ("America/Havana", "2026-10-30T00:00:00+00:00"),
    ("America/St_Johns", "2026-12-29T23:00:00+00:00"),
    ("Australia/Lord_Howe", "2026-10-02T12:00:00+00:00"),
    ("Asia/Beirut", "2026-03-27T10:00:00+00:00"),
)
PRICES = st.integers(0, 30_000_000)
FEED_IN = st.none() | PRICES
FEES = st.just(0) | st.integers(1, 10**12)
WAYS = st.sampled_from(["period_close", "month_start", "daily", "daily", "first_recharge"])
MINUTES = st.integers(0, 95).map(lambda quarter: quarter * 15)
SEASONS = st.sampled_from(
    [
        (),
        (Season("summer", (3, 1), (10, 31)),),
        (Season("cold", (11, 1), (2, 28)), Season("warm", (3, 29), (10, 24))),
        (Season("feast", (12, 30), (1, 31)), Season("spring", (2, 1), (4, 24))),
    ]
)


@st.composite
def calendars(draw: st.DrawFn, near: date) -> TariffCalendar:
    """Seasons and holidays around a date."""
    days = draw(st.sets(st.integers(-1, 9), max_size=3))
    dates = [near + timedelta(days=day) for day in days]
    if not draw(st.booleans()):
        return TariffCalendar(draw(SEASONS), frozenset(dates))
    return TariffCalendar(draw(SEASONS), frozenset(), frozenset((d.month, d.day) for d in dates))


@st.composite
def source_tariffs(draw: st.DrawFn, name: str, calendar: TariffCalendar) -> SourceTariff:
    """A flat, block, time-of-use or mixed price list whose windows do not overlap."""
    limits = tuple(sorted(draw(st.sets(st.integers(1, 60_000), max_size=3))))
    windows: list[Window] = []
    names = [None, *(season.name for season in calendar.seasons)]
    for band in ("peak", "night", "feast")[: draw(st.integers(0, 3))]:
        days = frozenset(
            draw(st.sets(st.integers(0, 7 if calendar.has_holidays else 6), min_size=1))
        )
        season = draw(st.sampled_from(names))
        window = Window(band, days, draw(MINUTES), draw(MINUTES), season)
        if window.from_minute != window.to_minute and not overlap((*windows, window), calendar):
            windows.append(window)
    bands = ("rest", *dict.fromkeys(window.band for window in windows))
    rows = tuple(tuple(draw(PRICES) for _ in range(len(limits) + 1)) for _ in bands)
    return SourceTariff(name, bands, tuple(windows), "rest", limits, rows)


def overlap(windows: Sequence[Window], calendar: TariffCalendar) -> bool:
    """Whether two of the windows ever share a minute."""
    for day, before in day_pairs(calendar):
        minute = 0
        for piece in day_pieces(tuple(windows), day, before):
            if piece.from_minute < minute:
                return True
            minute = piece.to_minute
    return False


BASES = st.sampled_from(
    [("energy",), ("fixed",), ("energy", "fixed"), ("energy", "fixed", "minimum", "rebate"),
     ("energy", "rebate"), ("minimum",)]
)  # fmt: skip
NARROW = st.sampled_from(["", "", "grid", "generator"])


@st.composite
def tax_rules(draw: st.DrawFn) -> tuple[TaxRule, ...]:
    """Taxes on top or contained, by rate and per kWh; one on recharge, which no bill sees."""
    rules = [TaxRule("R", draw(st.integers(1, 400_000)), (), on_recharge=True, inclusive=True)]
    contained = draw(st.booleans())
    shared = draw(BASES)
    for number in range(draw(st.integers(0, 2))):
        bases = shared if contained else draw(BASES)
        rate = draw(st.integers(1, 400_000))
        rules.append(TaxRule(f"T{number}", rate, bases, inclusive=contained))
    if draw(st.booleans()):
        micro = draw(st.integers(1, 3_000_000))
        rules.append(TaxRule("K", 0, (), micro, inclusive=draw(st.booleans()), source=draw(NARROW)))
    return tuple(rules)


@st.composite
def rebate_rules(draw: st.DrawFn) -> tuple[Rebate, ...]:
    """Rebates of each form, some too large to be given whole."""
    bases = st.sampled_from([("energy",), ("fixed", "minimum"), ("energy", "fixed", "minimum")])
    rules = []
    if draw(st.booleans()):
        rules.append(Rebate("percent", rate_ppm=draw(st.integers(1, 1_000_000)), bases=draw(bases)))
    if draw(st.booleans()):
        rules.append(Rebate("amount", amount_nano=draw(st.integers(1, 10**11))))
    if draw(st.booleans()):
        limit = draw(st.none() | st.integers(1, 50_000))
        micro = draw(st.integers(1, 20_000_000))
        rules.append(Rebate("kwh", per_kwh_micro=micro, limit_wh=limit, source=draw(NARROW)))
    return tuple(rules)


@dataclass(frozen=True)
class Reading:
    """Energy of both sources since the reading before, what was fed in, how long that took, and
    what came then."""

    grid_wh: int
    generator_wh: int
    fed_wh: int
    span_ms: int
    deed: str


@dataclass(frozen=True)
class World:
    """A schedule of versions and what flowed under it from `start_ms` on."""

    versions: tuple[Tariff, ...]
    start_ms: int
    readings: tuple[Reading, ...]
    ends: bool


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """One to three versions over some days, with all the ways of charging."""
    zone, day = draw(st.sampled_from(PLACES))
    start_ms = (datetime.fromisoformat(day) - EPOCH) // timedelta(milliseconds=1)
    start_ms += draw(st.integers(0, 40)) * QUARTER_MS
    effective_ms = [start_ms - draw(st.sampled_from([0, 3 * DAY_MS]))]
    for quarters in draw(st.lists(st.integers(1, 300), max_size=2)):
        effective_ms.append(max(effective_ms[-1], start_ms) + quarters * QUARTER_MS)
    calendar = draw(calendars(datetime.fromisoformat(day).date()))
    period_day = draw(st.sampled_from([0, 0, -1, 1, 28, datetime.fromisoformat(day).day % 28 + 1]))
    by_occupancy = draw(st.booleans())
    first = Tariff(
        tariff_id="home",
        version=1,
        name="Home",
        currency="INR",
        zone=zone,
        effective_from_utc_ms=effective_ms[0],
        sources=tuple(draw(source_tariffs(name, calendar)) for name in SOURCES),
        fixed_fee_nano=draw(FEES),
        taxes=draw(tax_rules()),
        fee_collect=draw(WAYS),
        minimum_nano=draw(FEES),
        rebates=draw(rebate_rules()),
        calendar=calendar,
        period_day=period_day,
        blocks_by_occupancy=by_occupancy,
        feed_in_micro=draw(FEED_IN),
    )
    versions = [first]
    for number, at_ms in enumerate(effective_ms[1:], start=2):
        # A small change mostly: what goes on from version to version shows between like ones.
        later = replace(
            versions[-1],
            version=number,
            effective_from_utc_ms=at_ms,
            fixed_fee_nano=draw(FEES),
            minimum_nano=draw(FEES),
            feed_in_micro=draw(FEED_IN),
        )
        if draw(st.booleans()):
            sources = tuple(draw(source_tariffs(name, calendar)) for name in SOURCES)
            later = replace(
                later,
                sources=sources,
                fee_collect=draw(WAYS),
                taxes=draw(tax_rules()),
                rebates=draw(rebate_rules()),
            )
        versions.append(later)
    spans = st.sampled_from([1_000, 977_123, QUARTER_MS, HOUR_MS, 7 * HOUR_MS]) | st.integers(
        1, 4 * DAY_MS
    )
    wh = st.integers(0, 20) | st.integers(0, 40_000)
    deeds = st.sampled_from(["", "settle", "restore", "close", "recharge"])
    readings = draw(st.lists(st.builds(Reading, wh, wh, wh, spans, deeds), min_size=1, max_size=8))
    return World(tuple(versions), start_ms, tuple(readings), draw(st.booleans()))


# -- the fast one --------------------------------------------------------------------------


def again(world: World, pricer: Pricer) -> Pricer:
    """The pricer after a restart: the same in every respect."""
    saved = json.loads(json.dumps(pricer.snapshot()))
    restored = Pricer.restore(world.versions, saved, sources=SOURCES)
    assert restored.running_nano() == pricer.running_nano()
    assert restored.charged_nano() == pricer.charged_nano()
    assert restored.next_boundary_utc_ms == pricer.next_boundary_utc_ms
    assert restored.accrued_utc_ms == pricer.accrued_utc_ms
    assert restored.period_label == pricer.period_label
    assert json.loads(json.dumps(restored.snapshot())) == saved
    return restored


def settled(pricer: Pricer) -> list[Posting]:
    """A posting round, which is what was running."""
    running = pricer.running_nano()
    batch = pricer.settle()
    assert sum(posting.total_nano for posting in batch) == running
    assert not pricer.has_unposted
    assert pricer.running_nano() == 0
    return batch


def play(
    world: World, *, with_deeds: bool, counted: Counted | None = None
) -> tuple[Pricer, list[Posting], Story]:
    """Run the pricer over a world; postings, restarts, time that runs ahead, recharges."""
    pricer = Pricer(world.versions, start_utc_ms=world.start_ms, sources=SOURCES, counted=counted)
    postings: list[Posting] = []
    energy: list[tuple[int, int, int, int]] = []
    fed: list[tuple[int, int, int]] = []
    recharges: list[int] = []
    label_ms = world.start_ms
    for reading in world.readings:
        end_ms = label_ms + reading.span_ms
        if with_deeds and reading.deed == "close":
            before = pricer.running_nano()
            charged = pricer.close_periods(end_ms)
            assert charged > 0 or pricer.running_nano() == before
            postings += settled(pricer)
        shares = (
            ("grid", reading.grid_wh),
            ("generator", reading.generator_wh),
            ("export", reading.fed_wh),
        )
        pricer.advance(shares, label_ms, end_ms)
        energy.append((reading.grid_wh, reading.generator_wh, label_ms, end_ms))
        fed.append((reading.fed_wh, label_ms, end_ms))
        label_ms = end_ms
        if reading.deed == "recharge":
            before = pricer.running_nano()
            assert pricer.recharged(end_ms) == (pricer.running_nano() != before)
            recharges.append(end_ms)
        if with_deeds and reading.deed == "settle":
            postings += settled(pricer)
        elif with_deeds and reading.deed == "restore":
            pricer = again(world, pricer)
    if world.ends:
        pricer.end(label_ms)
        if with_deeds:
            pricer = again(world, pricer)
    postings += settled(pricer)
    story = Story(
        world.versions,
        world.start_ms,
        tuple(energy),
        tuple(recharges),
        label_ms,
        label_ms,
        world.ends,
        fed=tuple(fed),
    )
    return pricer, postings, story


def summed(postings: Sequence[Posting]) -> Charges:
    """Nano-units by (period, version, component), zeros left out."""
    sums: Charges = defaultdict(int)
    for posting in postings:
        for component, amount in posting.charges:
            sums[posting.period, posting.tariff_version, component] += amount
    return {key: amount for key, amount in sums.items() if amount}


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(world=worlds())
def test_everything_that_a_tariff_charges_is_what_the_slow_model_charges(world: World) -> None:
    """I3: by period, version and component, however often posted, restarted and run ahead."""
    _, postings, story = play(world, with_deeds=True)
    assert summed(postings) == all_charges(story)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(world=worlds(), other=worlds())
def test_a_change_of_tariff_goes_on_where_the_one_before_stopped(
    world: World, other: World
) -> None:
    """Blocks count on where both count by the same, and no day of a fee is charged twice."""
    pricer, postings, story = play(replace(world, ends=False), with_deeds=True)
    change_ms = -(-story.label_ms // QUARTER_MS) * QUARTER_MS
    pricer.advance((), story.label_ms, change_ms)
    counted = pricer.counted
    pricer.end(change_ms)
    story = replace(story, label_ms=change_ms, passed_ms=change_ms, ended=True)
    assert summed([*postings, *settled(pricer)]) == all_charges(story)
    later_ms = change_ms - other.start_ms
    versions = tuple(
        replace(
            tariff,
            zone=world.versions[0].zone,
            effective_from_utc_ms=tariff.effective_from_utc_ms + later_ms,
        )
        for tariff in other.versions
    )
    second = replace(other, versions=versions, start_ms=change_ms)
    _, postings, following = play(second, with_deeds=True, counted=counted)
    carried = counted_after(story, versions[0], change_ms)
    following = replace(
        following, joined=True, opening=opening_of(story), counted=tuple(carried.items())
    )
    assert summed(postings) == all_charges(following)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(world=worlds())
def test_every_posting_is_f_after_less_f_before(world: World) -> None:
    """I14: cells and facts that postings carry are enough to compute every charge again."""
    pricer, postings, story = play(world, with_deeds=True)
    zone = zone_of(world.versions[0].zone)
    opening = min((EPOCH + timedelta(milliseconds=world.start_ms)).astimezone(zone).day, 28)
    day = world.versions[0].period_day
    cells: dict[str, dict[tuple[str, int], dict[Cell, int]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(int))
    )
    fed: dict[str, dict[tuple[str, int], int]] = defaultdict(lambda: defaultdict(int))
    known: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)
    for posting in postings:
        key = ("home", posting.tariff_version)
        here = cells[posting.period]
        for cell, wh in posting.cells:
            here[key][cell] += wh
        fed[posting.period][key] += posting.fed_wh
        period = labelled_period(zone, posting.period, opening if day < 0 else day)
        after = charges_of(
            world.versions,
            here,
            posting.facts,
            period,
            world.start_ms,
            fed_wh=fed[posting.period],
        )[
            "home", posting.tariff_version
        ] if posting.charges else known[posting.period, posting.tariff_version]  # fmt: skip
        before = known[posting.period, posting.tariff_version]
        change = {name: after.get(name, 0) - before.get(name, 0) for name in {**before, **after}}
        assert {name: amount for name, amount in change.items() if amount} == dict(posting.charges)
        known[posting.period, posting.tariff_version] = after
    assert sum(sum(found.values()) for found in known.values()) == pricer.charged_nano()
    wh_by_source = dict.fromkeys(SOURCES, 0)
    for cut in counts(story):
        wh_by_source[cut.source] += cut.wh
    for found in cells.values():
        for by_cell in found.values():
            for cell, wh in by_cell.items():
                wh_by_source[cell.source] -= wh
    assert set(wh_by_source.values()) == {0}
    posted_wh = sum(wh for by_version in fed.values() for wh in by_version.values())
    assert posted_wh == sum(wh for wh, _, _ in story.fed)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(world=worlds())
def test_postings_in_between_change_no_sum(world: World) -> None:
    """I3 without the model: one posting at the end equals all the postings on the way."""
    once, at_the_end, _ = play(world, with_deeds=False)
    often, on_the_way, _ = play(world, with_deeds=True)
    assert summed(at_the_end) == summed(on_the_way)
    assert once.charged_nano() == often.charged_nano()


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(world=worlds(), available=st.integers(-5, 10**12), source=st.sampled_from(SOURCES))
def test_remaining_energy_is_never_more_than_credit_buys(
    world: World, available: int, source: str
) -> None:
    """Whole Wh that remain can be used without spending more, whatever taxes and rebates do."""
    pricer, _, _ = play(replace(world, ends=False), with_deeds=False)
    at_ms = pricer.label_utc_ms
    left = pricer.remaining_wh(available, source, at_ms)
    whole = 10**7 if left == float("inf") else int(left)
    for part in (whole // 3, whole // 2, whole - whole // 3 - whole // 2):
        pricer.advance({source: part}, at_ms, at_ms)
        assert pricer.running_nano() <= max(0, available)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(world=worlds())
def test_a_random_tariff_survives_its_document(world: World) -> None:
    """A version without contained taxes that contradict its prices is written and read back."""
    for tariff in world.versions:
        rules = tuple(rule for rule in tariff.taxes if not (rule.per_kwh_micro and rule.inclusive))
        fee = tariff if tariff.fixed_fee_nano else replace(tariff, fee_collect="period_close")
        written = replace(fee, taxes=rules)
        document = json.loads(json.dumps(tariff_to_document(written, INR)))
        read = tariff_from_document(document, INR, version=tariff.version)
        assert read.taxes == written.taxes
        assert read.rebates == written.rebates
        assert read.period_day == written.period_day
        assert read.blocks_by_occupancy == written.blocks_by_occupancy
        assert read.fee_collect == written.fee_collect
        assert read.minimum_nano == written.minimum_nano
        assert read.feed_in_micro == written.feed_in_micro
        assert read.calendar.holidays == written.calendar.holidays
        assert read.calendar.yearly_holidays == written.calendar.yearly_holidays
        assert set(read.calendar.seasons) == set(written.calendar.seasons)
        assert tariff_from_document(
            tariff_to_document(read, INR), INR, version=tariff.version
        ) == read  # fmt: skip
