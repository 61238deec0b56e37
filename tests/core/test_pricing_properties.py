"""The pricer against a slow, independent model: same energy, same money, to the nano-unit.

The model knows nothing of segments, lanes or tallies. It walks every interval in quarter hours,
looks at the local clock of each, and prices whole months from cumulative counts with fractions.
"""

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.bands import DayKey, day_pieces
from gateway.core.money import Currency
from gateway.core.pricing import Posting, Pricer
from gateway.core.tariff import SourceTariff, Tariff, TaxRule, Window
from gateway.core.tariff_document import tariff_from_document
from gateway.core.tariff_writer import tariff_to_document

INR = Currency("INR")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
QUARTER_MS = 900_000
HOUR_MS = 4 * QUARTER_MS
SOURCES = ("grid", "generator")

# A few hours before a month ends or clocks change, or both at once.
PLACES = (
    ("Asia/Kolkata", "2026-01-31T14:00:00+00:00"),
    ("Asia/Kathmandu", "2026-02-28T14:00:00+00:00"),
    ("Europe/Berlin", "2026-03-28T21:00:00+00:00"),
    ("Europe/Berlin", "2026-10-24T21:00:00+00:00"),
    ("Africa/Cairo", "2026-04-23T18:00:00+00:00"),
    ("America/Havana", "2026-11-01T00:00:00+00:00"),
    ("America/St_Johns", "2026-10-31T23:00:00+00:00"),
    ("Australia/Lord_Howe", "2026-10-03T12:00:00+00:00"),
    ("Pacific/Chatham", "2026-04-04T10:00:00+00:00"),
)


# -- what is priced ------------------------------------------------------------------------

PRICES = st.integers(0, 30_000_000)
MINUTES = st.integers(0, 95).map(lambda quarter: quarter * 15)


@st.composite
def source_tariffs(draw: st.DrawFn, name: str) -> SourceTariff:
    """A flat, block, time-of-use or mixed price list whose windows do not overlap."""
    limits = tuple(sorted(draw(st.sets(st.integers(1, 60_000), max_size=3))))
    windows: list[Window] = []
    for band in ("peak", "night")[: draw(st.integers(0, 2))]:
        days = frozenset(draw(st.sets(st.integers(0, 6), min_size=1)))
        start, end = draw(MINUTES), draw(MINUTES)
        window = Window(band, days, start, end)
        if start != end and not overlap((*windows, window)):
            windows.append(window)
    bands = ("rest", *dict.fromkeys(window.band for window in windows))
    rows = tuple(tuple(draw(PRICES) for _ in range(len(limits) + 1)) for _ in bands)
    return SourceTariff(name, bands, tuple(windows), "rest", limits, rows)


def overlap(windows: Sequence[Window]) -> bool:
    """Whether two of the windows share a minute of the week."""
    for day_type in range(7):
        minute = 0
        before = DayKey(None, (day_type - 1) % 7)
        for piece in day_pieces(tuple(windows), DayKey(None, day_type), before):
            if piece.from_minute < minute:
                return True
            minute = piece.to_minute
    return False


@st.composite
def tariffs(draw: st.DrawFn, zone: str, version: int, effective_ms: int) -> Tariff:
    """A whole version: two sources, fee, up to two taxes."""
    bases = st.sampled_from([("energy",), ("fixed",), ("energy", "fixed")])
    rates = draw(st.lists(st.tuples(st.integers(1, 400_000), bases), max_size=2))
    return Tariff(
        tariff_id="home",
        version=version,
        name="Home",
        currency="INR",
        zone=zone,
        effective_from_utc_ms=effective_ms,
        sources=(draw(source_tariffs("grid")), draw(source_tariffs("generator"))),
        fixed_fee_nano=draw(st.integers(0, 10**12)),
        taxes=tuple(TaxRule(f"T{n}", ppm, on) for n, (ppm, on) in enumerate(rates)),
    )


@dataclass(frozen=True)
class Reading:
    """Energy of both sources since the reading before, and how long that took."""

    grid_wh: int
    generator_wh: int
    span_ms: int
    deed: str


@dataclass(frozen=True)
class World:
    """A schedule of versions and what flowed under it from `start_ms` on."""

    versions: tuple[Tariff, ...]
    start_ms: int
    readings: tuple[Reading, ...]


SPANS = st.sampled_from([1_000, 60_000, 977_123, QUARTER_MS, HOUR_MS, 7 * HOUR_MS]) | st.integers(
    1, 30 * HOUR_MS
)
WH = st.integers(0, 20) | st.integers(0, 40_000)
DEEDS = st.sampled_from(["", "", "settle", "restore", "close"])
READINGS = st.lists(st.builds(Reading, WH, WH, SPANS, DEEDS), min_size=1, max_size=12)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """One to three versions over a few days around a clock change or a month's end."""
    zone, day = draw(st.sampled_from(PLACES))
    start_ms = (datetime.fromisoformat(day) - EPOCH) // timedelta(milliseconds=1)
    start_ms += draw(st.integers(0, 20)) * QUARTER_MS
    steps = draw(st.lists(st.integers(1, 40), max_size=2))
    effective_ms = [start_ms]
    for quarters in steps:
        effective_ms.append(effective_ms[-1] + quarters * QUARTER_MS)
    versions = tuple(
        draw(tariffs(zone, number, at_ms)) for number, at_ms in enumerate(effective_ms, start=1)
    )
    return World(versions, start_ms, tuple(draw(READINGS)))


# -- the slow model ------------------------------------------------------------------------

Place = tuple[str, int, str, str]  # period, version, source, band


def local(zone: str, at_ms: int) -> datetime:
    """The local clock at an instant."""
    return (EPOCH + timedelta(milliseconds=at_ms)).astimezone(ZoneInfo(zone))


def band_on_the_clock(source: SourceTariff, now: datetime) -> str:
    """The band by the label of the local clock."""
    minute, weekday = now.hour * 60 + now.minute, now.weekday()
    for window in source.windows:
        today = weekday in window.day_types
        if window.from_minute < window.to_minute:
            if today and window.from_minute <= minute < window.to_minute:
                return window.band
        elif (today and minute >= window.from_minute) or (
            (weekday - 1) % 7 in window.day_types and minute < window.to_minute
        ):
            return window.band
    return "rest"


def version_at(world: World, at_ms: int) -> Tariff:
    """The version in force."""
    return [v for v in world.versions if v.effective_from_utc_ms <= at_ms][-1]


def places_of(world: World, at_ms: int) -> dict[str, Place]:
    """Where energy of each source is counted at an instant."""
    tariff = version_at(world, at_ms)
    now = local(tariff.zone, at_ms)
    found: dict[str, Place] = {}
    for source in tariff.sources:
        band = band_on_the_clock(source, now)
        found[source.source] = (f"{now:%Y-%m}", tariff.version, source.source, band)
    return found


def slow_counts(world: World) -> list[tuple[Place, int]]:
    """Every Wh in the order in which it is counted, with its place."""
    counts: list[tuple[Place, int]] = []
    start_ms = world.start_ms
    for reading in world.readings:
        end_ms = start_ms + reading.span_ms
        first_quarter = (start_ms // QUARTER_MS + 1) * QUARTER_MS
        cuts = [start_ms, *range(first_quarter, end_ms, QUARTER_MS)]
        for source, wh in (("grid", reading.grid_wh), ("generator", reading.generator_wh)):
            booked = 0
            for number, cut_ms in enumerate(cuts):
                until_ms = cuts[number + 1] if number + 1 < len(cuts) else end_ms
                share = Fraction(wh * (until_ms - start_ms), reading.span_ms)
                until_wh = share.numerator // share.denominator
                counts.append((places_of(world, cut_ms)[source], until_wh - booked))
                booked = until_wh
        start_ms = end_ms
    return counts


def slow_charges(world: World) -> dict[tuple[str, int, str], int]:
    """Nano-units by (period, version, component) for everything that flowed and closed."""
    versions = {tariff.version: tariff for tariff in world.versions}
    used: dict[tuple[str, str], int] = defaultdict(int)
    exact: dict[tuple[str, int, str], Fraction] = defaultdict(Fraction)
    for (period, version, name, band), wh in slow_counts(world):
        source = versions[version].source(name)
        assert source is not None
        row = source.prices_micro[source.bands.index(band)]
        edges = [0, *source.block_limits_wh, 10**15]
        low = used[period, name]
        for block, price in enumerate(row):
            inside = min(low + wh, edges[block + 1]) - max(low, edges[block])
            exact[period, version, f"energy:{name}"] += Fraction(max(0, inside) * price)
        used[period, name] = low + wh
    end_ms = world.start_ms + sum(reading.span_ms for reading in world.readings)
    # A month is over when a later one is on the clock; it closes under the last version in it.
    quarters = [
        *range((world.start_ms // QUARTER_MS) * QUARTER_MS, end_ms, QUARTER_MS),
        end_ms,
    ]
    zone = world.versions[0].zone
    months = [f"{local(zone, at_ms):%Y-%m}" for at_ms in quarters]
    for number in range(len(quarters) - 1):
        if months[number] < months[number + 1] and months[number] not in months[number + 1 :]:
            tariff = version_at(world, quarters[number] + QUARTER_MS - 1)
            exact[months[number], tariff.version, "fixed"] += tariff.fixed_fee_nano
    charges = {key: value.numerator // value.denominator for key, value in exact.items()}
    for period, version in {key[:2] for key in charges}:
        for rule in versions[version].taxes:
            taxed = sum(
                amount
                for (a, b, component), amount in charges.items()
                if (a, b) == (period, version) and component.partition(":")[0] in rule.bases
            )
            charges[period, version, f"tax:{rule.name}"] = int(
                Fraction(taxed * rule.rate_ppm, 1_000_000) // 1
            )
    return {key: amount for key, amount in charges.items() if amount}


# -- the fast one beside it ----------------------------------------------------------------


def play(world: World, *, with_deeds: bool) -> tuple[Pricer, list[Posting]]:
    """Run the pricer over a world; postings and restarts where the readings say so."""
    pricer = Pricer(world.versions, start_utc_ms=world.start_ms, sources=SOURCES)
    postings: list[Posting] = []
    start_ms = world.start_ms
    for reading in world.readings:
        end_ms = start_ms + reading.span_ms
        if with_deeds and reading.deed == "close":
            pricer.close_periods(end_ms)
        before = pricer.running_nano()
        shares = (("grid", reading.grid_wh), ("generator", reading.generator_wh))
        pricer.advance(shares, start_ms, end_ms)
        assert pricer.running_nano() >= before
        start_ms = end_ms
        if with_deeds and reading.deed == "settle":
            running = pricer.running_nano()
            batch = pricer.settle()
            assert sum(posting.total_nano for posting in batch) == running
            assert not pricer.has_unposted
            assert pricer.running_nano() == 0
            postings += batch
        elif with_deeds and reading.deed == "restore":
            saved = json.loads(json.dumps(pricer.snapshot()))
            again = Pricer.restore(world.versions, saved, sources=SOURCES)
            assert again.running_nano() == pricer.running_nano()
            assert again.charged_nano() == pricer.charged_nano()
            assert again.next_boundary_utc_ms == pricer.next_boundary_utc_ms
            assert json.loads(json.dumps(again.snapshot())) == saved
            pricer = again
    postings += pricer.settle()
    return pricer, postings


def summed(postings: Sequence[Posting]) -> dict[tuple[str, int, str], int]:
    """Nano-units by (period, version, component)."""
    sums: dict[tuple[str, int, str], int] = defaultdict(int)
    for posting in postings:
        for component, amount in posting.charges:
            assert amount > 0
            sums[posting.period, posting.tariff_version, component] += amount
    return dict(sums)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(world=worlds())
def test_any_partition_of_postings_and_restarts_owes_what_the_slow_model_owes(
    world: World,
) -> None:
    """I3: charges per period, version and component equal the model's, however often posted."""
    _, postings = play(world, with_deeds=True)
    assert summed(postings) == slow_charges(world)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(world=worlds())
def test_every_watt_hour_is_counted_once_in_the_cell_of_its_time(world: World) -> None:
    """I4: cells hold each Wh exactly once, by period, version, source and band of its instant."""
    _, postings = play(world, with_deeds=True)
    fast: dict[Place, int] = defaultdict(int)
    for posting in postings:
        for cell, wh in posting.cells:
            assert wh > 0
            fast[posting.period, posting.tariff_version, cell.source, cell.band] += wh
    slow: dict[Place, int] = defaultdict(int)
    for place, wh in slow_counts(world):
        slow[place] += wh
    assert fast == {place: wh for place, wh in slow.items() if wh}


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(world=worlds())
def test_postings_in_between_change_no_sum(world: World) -> None:
    """I3 without the model: one posting at the end equals all the postings on the way."""
    once, at_the_end = play(world, with_deeds=False)
    often, on_the_way = play(world, with_deeds=True)
    assert summed(at_the_end) == summed(on_the_way)
    assert once.charged_nano() == often.charged_nano()


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(world=worlds(), available=st.integers(-5, 10**12), source=st.sampled_from(SOURCES))
def test_remaining_energy_is_never_more_than_credit_buys(
    world: World, available: int, source: str
) -> None:
    """Whole Wh that remain can be used without spending more; with one Wh more than predicted,
    plus what flooring hides, the credit is gone."""
    pricer, _ = play(world, with_deeds=False)
    at_ms = pricer.label_utc_ms
    left = pricer.remaining_wh(available, source, at_ms)
    if left == float("inf"):
        return
    whole = int(left)
    pricer.advance({source: whole}, at_ms, at_ms)
    assert pricer.running_nano() <= max(0, available)
    if available > 0:
        # Two taxes hide at most two nano; the next Wh and those then take all that is left.
        price = pricer.price_of_next_wh(source, at_ms)
        pricer.advance({source: 1 + (2 // price + 1 if price else 0)}, at_ms, at_ms)
        assert pricer.running_nano() >= available or price == 0


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(world=worlds())
def test_a_random_tariff_survives_its_document(world: World) -> None:
    """Every generated version is written as a document and read back to the same prices."""
    for tariff in world.versions:
        again = tariff_from_document(tariff_to_document(tariff, INR), INR, version=tariff.version)
        for source in tariff.sources:
            read = again.source(source.source)
            assert read is not None
            for band in source.bands:
                for wh in (0, *source.block_limits_wh):
                    assert (
                        read.prices_micro[read.bands.index(band)][
                            bisect_right(read.block_limits_wh, wh)
                        ]
                        == source.prices_micro[source.bands.index(band)][
                            bisect_right(source.block_limits_wh, wh)
                        ]
                    )
