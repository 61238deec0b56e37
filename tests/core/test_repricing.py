"""Replaying settled energy: the tariff in force comes out as charged, another as it would be."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.pricing import Posting, Pricer
from gateway.core.repricing import Outcome, Repricing, Settled
from gateway.core.repricing_course import CoursePoint, Rate
from gateway.core.tariff import Tariff
from gateway.core.tariff_document import tariff_from_document
from tests.core.test_tariff_properties import DAY_MS, INR, SOURCES, World, worlds

Events = list[Settled | int]


@dataclass
class Lived:
    """What really happened: the ledger's events, the readings, and the pricer that charged."""

    pricer: Pricer
    events: Events
    points: list[tuple[int, dict[str, int]]]
    until_ms: int


def settled_of(postings: Sequence[Posting], begun_ms: int, label_ms: int) -> Settled:
    """A posting round as its lines tell it."""
    cells: Counter[Rate] = Counter()
    charges: Counter[tuple[str, str]] = Counter()
    fed: Counter[tuple[str, int]] = Counter()
    for posting in postings:
        fed[posting.period, posting.tariff_version] += posting.fed_wh
        for cell, wh in posting.cells:
            cells[Rate(posting.period, cell.tariff_version, cell.source, cell.band)] += wh
        for component, amount in posting.charges:
            charges[posting.period, component] += amount
    facts = postings[-1].facts
    return Settled(
        begun_ms, label_ms, cells, charges, facts.accrued_utc_ms, facts.ended_utc_ms, fed
    )


def live(world: World, versions: Sequence[Tariff], *, often: bool) -> Lived:
    """Run a pricer as control does; `often` posts after every reading, else as the world says."""
    pricer = Pricer(versions, start_utc_ms=world.start_ms, sources=SOURCES)
    events: Events = []
    points = [(world.start_ms, dict.fromkeys(SOURCES, 0))]
    label_ms = begun_ms = world.start_ms

    def post() -> None:
        nonlocal begun_ms
        postings = pricer.settle()
        if postings:
            events.append(settled_of(postings, begun_ms, label_ms))
            begun_ms = label_ms

    for reading in world.readings:
        end_ms = label_ms + reading.span_ms
        if reading.deed == "close":
            pricer.close_periods(end_ms)
            post()
        shares = (
            ("grid", reading.grid_wh),
            ("generator", reading.generator_wh),
            ("export", reading.fed_wh),
        )
        pricer.advance(shares, label_ms, end_ms)
        label_ms = end_ms
        had = points[-1][1]
        points.append(
            (
                label_ms,
                {
                    "grid": had["grid"] + reading.grid_wh,
                    "generator": had["generator"] + reading.generator_wh,
                },
            )
        )
        if reading.deed == "recharge":
            pricer.recharged(label_ms)
            events.append(label_ms)
        if often or reading.deed == "settle":
            post()
    if world.ends:
        pricer.end(label_ms)
    post()
    return Lived(pricer, events, points, label_ms)


def readings_of(lived: Lived, span: Settled) -> Callable[[], Sequence[CoursePoint]]:
    """The readings of a span, counted from its start."""

    def points() -> list[CoursePoint]:
        base = next(wh for at, wh in reversed(lived.points) if at <= span.from_utc_ms)
        return [
            CoursePoint(at, {source: wh[source] - base[source] for source in SOURCES})
            for at, wh in lived.points
            if span.from_utc_ms < at < span.to_utc_ms
        ]

    return points


def replayed(
    lived: Lived,
    world: World,
    draft: Tariff,
    *,
    window_ms: int,
    warm: bool = False,
) -> Outcome:
    """The events of a life under a draft; with `warm` only those that are asked for."""
    replay = Repricing(
        world.versions,
        draft,
        start_utc_ms=world.start_ms,
        sources=SOURCES,
        window_utc_ms=window_ms,
        gap_ms=60_000,
    )
    since_ms = replay.warm_utc_ms if warm else 0
    for event in lived.events:
        if isinstance(event, int):
            if event >= since_ms:
                replay.recharged(event)
        elif max(event.to_utc_ms, event.accrued_utc_ms) >= since_ms:
            replay.settled(event, readings_of(lived, event))
    return replay.finish(lived.until_ms, lived.until_ms if world.ends else 0)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(world=worlds(), often=st.booleans())
def test_the_tariff_in_force_comes_out_as_the_ledger_charged(world: World, often: bool) -> None:
    """To the nano-unit and by component, also where long gaps were posted as one."""
    lived = live(world, world.versions, often=often)
    outcome = replayed(lived, world, world.versions[0], window_ms=world.start_ms)
    assert outcome.unexplained == {}
    charged: Counter[str] = Counter()
    for event in lived.events:
        if isinstance(event, Settled):
            for (_, component), amount in event.charges.items():
                charged[component] += amount
    if not lived.pricer.close_periods(lived.until_ms):
        assert outcome.charged == {name: amount for name, amount in charged.items() if amount}
    used = sum(reading.grid_wh + reading.generator_wh for reading in world.readings)
    assert outcome.energy_wh == used


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(world=worlds(), other=worlds(), often=st.booleans())
def test_a_draft_comes_out_as_if_it_had_been_in_force(
    world: World, other: World, often: bool
) -> None:
    """With all readings at hand, whatever its zone, periods, bands, fees, rebates and taxes."""
    draft = replace(other.versions[0], effective_from_utc_ms=0)
    lived = live(world, world.versions, often=often)
    truth = live(world, (draft,), often=True)
    if not world.ends:
        truth.pricer.close_periods(lived.until_ms)
    outcome = replayed(lived, world, draft, window_ms=world.start_ms)
    assert sum(outcome.draft.values()) == truth.pricer.charged_nano()


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(world=worlds(), later_ms=st.integers(-DAY_MS, 12 * DAY_MS), often=st.booleans())
def test_a_window_needs_only_what_came_since_its_periods_began(
    world: World, later_ms: int, often: bool
) -> None:
    """What was posted before that changes nothing, and a draft like the tariff costs the same."""
    one = replace(world, versions=world.versions[:1])
    lived = live(one, one.versions, often=often)
    window_ms = min(world.start_ms + later_ms, lived.until_ms)
    whole = replayed(lived, one, one.versions[0], window_ms=window_ms)
    warm = replayed(lived, one, one.versions[0], window_ms=window_ms, warm=True)
    assert warm == whole
    assert whole.unexplained == {}
    assert whole.draft == whole.charged


COMMON: dict[str, object] = {
    "id": "home",
    "name": "Home",
    "currency": "INR",
    "timezone": "Asia/Kolkata",
    "effective_from": "2026-01-01",
}
FLAT = tariff_from_document({**COMMON, "grid": {"price": "5"}}, INR)
EVENING = tariff_from_document(
    {
        **COMMON,
        "grid": {
            "bands": {
                "peak": {"price": "10", "when": [{"from": "18:00", "to": "22:00"}]},
                "rest": {"price": "4"},
            }
        },
    },
    INR,
)
NOON_MS = 1_767_249_000_000  # 2026-01-01T12:00:00+05:30
HOUR_MS = 3_600_000
REST, PEAK = (Rate("2026-01", 1, "grid", band) for band in ("rest", "peak"))
ALL_DAY = Rate("2026-01", 1, "grid", FLAT.sources[0].bands[0])


def outcome_of(
    versions: Tariff, draft: Tariff, span: Settled, points: Sequence[CoursePoint] = ()
) -> Outcome:
    """One posting in a window that holds it."""
    replay = Repricing(
        [versions],
        draft,
        start_utc_ms=NOON_MS,
        sources=["grid"],
        window_utc_ms=0,
        gap_ms=60_000,
    )
    replay.settled(span, lambda: points)
    return replay.finish(span.to_utc_ms)


def test_readings_say_when_energy_flowed_across_a_boundary_of_the_draft() -> None:
    """17:00 to 19:00, 2 kWh: all after 18:00, by a reading at 18:00:00."""
    span = Settled(NOON_MS + 5 * HOUR_MS, NOON_MS + 7 * HOUR_MS, {ALL_DAY: 2_000})
    seen = outcome_of(FLAT, EVENING, span, [CoursePoint(NOON_MS + 6 * HOUR_MS, {"grid": 0})])
    assert seen.charged == {"energy:grid": 10 * 10**9}
    assert seen.draft == {"energy:grid": 20 * 10**9}
    assert seen.estimated_wh == 0


def test_energy_without_readings_is_split_by_time_and_said_to_be_estimated() -> None:
    """The same two hours with nothing in between: a kWh on each side, both in doubt."""
    span = Settled(NOON_MS + 5 * HOUR_MS, NOON_MS + 7 * HOUR_MS, {ALL_DAY: 2_000})
    unseen = outcome_of(FLAT, EVENING, span)
    assert unseen.draft == {"energy:grid": 14 * 10**9}
    assert unseen.estimated_wh == 2_000


def test_cells_of_the_tariff_in_force_bound_what_is_in_doubt() -> None:
    """Peak and rest were told apart when charged: a draft with the same hours needs no reading."""
    span = Settled(NOON_MS + 5 * HOUR_MS, NOON_MS + 7 * HOUR_MS, {REST: 100, PEAK: 1_900})
    charges = {("2026-01", "energy:grid"): (4 * 100 + 10 * 1_900) * 10**6}
    known = outcome_of(EVENING, EVENING, replace(span, charges=charges))
    assert known.draft == known.charged == {"energy:grid": 194 * 10**8}
    assert known.estimated_wh == 0
    assert known.unexplained == {}


def test_what_the_ledger_charged_otherwise_is_told() -> None:
    """A nano-unit that the pricing of the tariff in force does not give."""
    charges = {("2026-01", "energy:grid"): 5 * 10**9 + 1}
    span = Settled(NOON_MS, NOON_MS + HOUR_MS, {ALL_DAY: 1_000}, charges)
    assert outcome_of(FLAT, FLAT, span).unexplained == {("2026-01", "energy:grid"): 1}


DAILY = tariff_from_document(
    {**COMMON, "grid": {"price": "5"}, "fixed": {"amount": "31", "collect": "daily"}}, INR
)


def test_a_window_counts_from_its_midnight_on() -> None:
    """Wh, and fees of the days that are over: what came before only leads up to it."""
    midnight_ms = NOON_MS + 36 * HOUR_MS
    replay = Repricing(
        [DAILY],
        EVENING,
        start_utc_ms=NOON_MS,
        sources=["grid"],
        window_utc_ms=midnight_ms,
        gap_ms=60_000,
    )
    replay.settled(Settled(NOON_MS, NOON_MS + HOUR_MS, {ALL_DAY: 700}), lambda: ())
    over_midnight = Settled(midnight_ms - HOUR_MS, midnight_ms + HOUR_MS, {ALL_DAY: 1_000})
    shown = [CoursePoint(midnight_ms, {"grid": 400})]
    replay.settled(over_midnight, lambda: shown)
    replay.settled(
        Settled(midnight_ms + HOUR_MS, midnight_ms + 60 * HOUR_MS, {ALL_DAY: 400}), lambda: ()
    )
    outcome = replay.finish(midnight_ms + 60 * HOUR_MS)
    assert outcome.energy_wh == 1_000
    assert outcome.charged == {"energy:grid": 5 * 10**9, "fixed": 2 * 10**9}
