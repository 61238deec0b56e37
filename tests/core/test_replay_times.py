"""Bands and facts of settlement lines against their times: nothing honest is doubted, and what the
calendar cannot give is told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.core.fees import Facts
from gateway.core.ledger import SettlementLine
from gateway.core.openline import LineNames, OpenLine
from gateway.core.pricing import Pricer
from gateway.core.replay_energy import EnergyReplay, Stay
from gateway.core.replay_times import SLACK_MS, StayTimes
from gateway.core.schedule import Schedule
from gateway.core.tariff import Tariff
from tests.core.slow_tariff import QUARTER_MS, band_on_the_clock, local, version_at
from tests.core.test_pricing import HOUR_MS, instant, tariff
from tests.core.test_tariff_properties import SOURCES, World, worlds

NAMES = LineNames("asha", "flat-1", "meter-1", "home", SOURCES)
DAY_MS = 24 * HOUR_MS


@dataclass
class Book:
    """Lines by transaction with the instants of posting, and the recharges in between."""

    versions: tuple[Tariff, ...]
    start_ms: int
    end_ms: int | None = None
    posted: list[tuple[int, list[SettlementLine]]] = field(default_factory=list)
    recharges: list[int] = field(default_factory=list)

    def problems(self) -> list[str]:
        """What a replay finds in it."""
        stay = Stay("asha", "flat-1", "home", self.start_ms, to_utc_ms=self.end_ms)
        replay = EnergyReplay({"home": self.versions}, [stay])
        found: list[str] = []
        for at_ms in self.recharges:
            replay.recharged("asha", at_ms)
        for utc_ms, lines in self.posted:
            computed = replay.take(lines, utc_ms)
            found += computed.problems
            for made, stored in zip(computed.lines, lines, strict=True):
                if dict(made.charges) != dict(stored.charges):
                    found.append(f"charges {stored.charges}, {made.charges} follow")
        return found + replay.end()

    def forged(self, change: Callable[[SettlementLine], SettlementLine], number: int = 0) -> "Book":
        """The same with another line in one transaction, whose charges are what then follows."""
        posted = [(utc_ms, list(lines)) for utc_ms, lines in self.posted]
        posted[number][1][-1] = change(posted[number][1][-1])
        return replace(self, posted=posted)


class Keeper:
    """Keeps the open line of a meter beside its pricer, as a point does."""

    def __init__(self, versions: Sequence[Tariff], start_ms: int) -> None:
        self.pricer = Pricer(versions, start_utc_ms=start_ms, sources=SOURCES)
        self.book = Book(tuple(versions), start_ms)
        self.line = OpenLine()
        self.registers = (1_000, 2_000)
        self.label_ms = start_ms
        self.line.begin(self.registers, start_ms, 2)

    def read(self, grid_wh: int, generator_wh: int, end_ms: int) -> None:
        """Energy up to an instant."""
        shares = (("grid", grid_wh), ("generator", generator_wh))
        self.pricer.advance(shares, self.label_ms, end_ms)
        self.line.add((grid_wh, generator_wh))
        self.registers = (self.registers[0] + grid_wh, self.registers[1] + generator_wh)
        self.label_ms = end_ms

    def untimed(self, grid_wh: int) -> None:
        """Energy at the last known rate."""
        self.pricer.charge_at_label([("grid", grid_wh)])
        self.line.add((grid_wh, 0))
        self.line.flag(["CLOCK_UNTRUSTED"])
        self.registers = (self.registers[0] + grid_wh, self.registers[1])

    def recharge(self) -> None:
        """Money comes in now, and is posted by itself."""
        self.book.recharges.append(self.label_ms)
        self.pricer.recharged(self.label_ms)

    def post(self, later_ms: int = 0) -> None:
        """What was used since the last time."""
        lines = self.line.lines(
            self.pricer.settle(),
            NAMES,
            registers_wh=self.registers,
            to_utc_ms=self.label_ms,
            period=self.pricer.period_label,
        )
        if lines:
            self.book.posted.append((self.label_ms + later_ms, lines))
            self.line.begin(self.registers, self.label_ms, 2)

    def end(self) -> None:
        """The account leaves."""
        self.pricer.end(self.label_ms)
        self.book.end_ms = self.label_ms
        self.post()


def kept(world: World) -> Book:
    """The lines of a world, posted where it says."""
    keeper = Keeper(world.versions, world.start_ms)
    for reading in world.readings:
        end_ms = keeper.label_ms + reading.span_ms
        if reading.deed == "close":
            keeper.pricer.close_periods(end_ms)
            keeper.post(later_ms=reading.span_ms)
        keeper.read(reading.grid_wh, reading.generator_wh, end_ms)
        if reading.deed == "recharge":
            keeper.recharge()
            keeper.post(later_ms=1)
        elif reading.deed == "settle":
            keeper.post()
        elif reading.deed == "restore":
            keeper.untimed(reading.generator_wh)
    if world.ends:
        keeper.end()
    keeper.post()
    return keeper.book


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(world=worlds())
def test_nothing_honest_is_doubted(world: World) -> None:
    """Seasons, holidays, clock changes, versions, late postings, energy at the last known rate."""
    assert kept(world).problems() == []


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(world=worlds(), data=st.data())
def test_a_band_is_possible_where_the_slow_clock_shows_it(
    world: World, data: st.DataObject
) -> None:
    """Each band of each version and source, asked one by one, against a walk over quarter hours."""
    book = kept(world)
    assume(book.posted)
    line = data.draw(st.sampled_from([line for _, lines in book.posted for line in lines]))
    schedule = Schedule(book.versions, SOURCES, min(local_day(book), 28))
    times = StayTimes(schedule, book.start_ms, None, joined=False)
    period = schedule.labelled(line.period)
    first = -(-line.from_utc_ms // QUARTER_MS) * QUARTER_MS
    instants = [line.from_utc_ms, *range(first, line.to_utc_ms + 1, QUARTER_MS)]
    shown = set()
    for at_ms in instants:
        if period.start_utc_ms <= at_ms < period.end_utc_ms:
            version = version_at(book.versions, at_ms)
            for source in version.sources:
                now = local(version.zone, at_ms)
                shown.add((version.version, source.source, band_on_the_clock(version, source, now)))
    for rates in schedule.rates:
        for cell in rates.cells:
            problem = times.band_problem(line, rates, cell, period)
            assert (problem is None) == (cell[:3] in shown), (cell, problem)


def local_day(book: Book) -> int:
    """The day of the month on which the account was opened."""
    return local(book.versions[0].zone, book.start_ms).day


# -- by hand ---------------------------------------------------------------------------------

TIMED = tariff(
    {
        "bands": {
            "peak": {"price": "9", "when": [{"from": "18:00", "to": "22:00"}]},
            "rest": {"price": "3"},
        }
    },
    generator={"price": "20"},
    fixed={"amount": "60", "collect": "daily"},
)
WAITS = tariff(
    {"price": "3"}, generator={"price": "20"}, fixed={"amount": "60", "collect": "first_recharge"}
)
NOON = instant("2026-04-10T12:00:00+05:30")


def three_days(version: Tariff) -> Book:
    """A posting each noon and each evening at nine, a recharge on the second day."""
    keeper = Keeper([version], NOON)
    for day in range(3):
        keeper.read(500, 0, NOON + day * DAY_MS + 3 * HOUR_MS)
        keeper.post()
        keeper.read(0, 70, NOON + day * DAY_MS + 4 * HOUR_MS)
        keeper.read(800, 0, NOON + day * DAY_MS + 7 * HOUR_MS)
        keeper.post()
        if day == 1:
            keeper.recharge()
            keeper.post(later_ms=1)
        keeper.read(300, 0, NOON + (day + 1) * DAY_MS)
        keeper.post()
    return keeper.book


def with_cell(line: SettlementLine, old: str, new: str) -> SettlementLine:
    """The line with energy in another cell."""
    cells = dict(line.cells)
    cells[new] = cells.get(new, 0) + cells.pop(old)
    return replace(line, cells=tuple(cells.items()))


def told(book: Book) -> str:
    """What is said first of a book."""
    problems = book.problems()
    assert problems
    return problems[0]


def test_a_band_that_the_time_does_not_have_is_named() -> None:
    """Line, stored band, expected band; a line over the boundary may have either."""
    book = three_days(TIMED)
    assert book.problems() == []
    dear = book.forged(lambda line: with_cell(line, "1/grid/rest/0", "1/grid/peak/0"))
    assert told(dear) == (
        "asha at flat-1, 2026-04: 1/grid/peak/0 has energy of from 2026-04-10 12:00:00+05:30 to "
        "2026-04-10 15:00:00+05:30: stored band peak, expected rest"
    )
    over = book.forged(lambda line: with_cell(line, "1/grid/rest/0", "1/grid/peak/0"), 1)
    assert not any("stored band" in one for one in over.problems())


def test_energy_of_another_register_is_named() -> None:
    """The generator's Wh are priced by the grid's register, which has not moved."""
    book = three_days(TIMED)
    cheap = book.forged(lambda line: with_cell(line, "1/grid/rest/0", "1/generator/all/0"), 6)
    assert "{'generator': 500} Wh by source, by the registers {'grid': 500}" in told(cheap)


def facts(number: int, value: int) -> Callable[[SettlementLine], SettlementLine]:
    """Another value in one place of the facts."""

    def change(line: SettlementLine) -> SettlementLine:
        changed = (*line.facts[:number], value, *line.facts[number + 1 :])
        return replace(line, facts=changed)

    return change


MIDNIGHT = instant("2026-04-12T00:00:00+05:30")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("accrued_utc_ms", MIDNIGHT - 1, "when none falls due"),
        ("accrued_utc_ms", MIDNIGHT - 2 * DAY_MS, "they were up to"),
        ("accrued_utc_ms", MIDNIGHT - DAY_MS, "with energy up to 2026-04-12 12:00:00+05:30"),
        ("accrued_utc_ms", MIDNIGHT + DAY_MS, "it was posted at 2026-04-12 12:00:00+05:30"),
        ("recharged", 0, "recharged was 0 in lines after the recharge"),
        ("complete", 1, "complete is 1, the period ends 2026-05-01"),
        ("ended_utc_ms", MIDNIGHT, "the stay ended 2026-04-12 00:00:00+05:30, it lasts"),
        ("joined", 1, "joined is 1: no other tariff charged it before"),
    ],
)
def test_facts_that_do_not_follow_are_named(place: str, value: int, words: str) -> None:
    """Each fact of the noon after the second day, changed alone."""
    book = three_days(TIMED)
    number = next(
        index for index, (utc_ms, _) in enumerate(book.posted) if utc_ms == NOON + 2 * DAY_MS
    )
    changed = book.forged(facts(1 + Facts._fields.index(place), value), number)
    assert words in told(changed)


def test_a_recharge_is_neither_invented_nor_denied() -> None:
    """The fee that waits for it is due from it on, and not before."""
    book = three_days(WAITS)
    assert book.problems() == []
    early = book.forged(facts(2, 1))
    assert "recharged is 1, and nobody recharged in 2026-04" in told(early)
    after = next(index for index, (utc_ms, _) in enumerate(book.posted) if utc_ms % 2)
    late = book.forged(facts(2, 0), after).problems()
    assert any(one.endswith("recharged was 0 in lines after the recharge") for one in late)
    again = book.forged(facts(2, 0), len(book.posted) - 1)
    assert told(again).endswith("recharged is 0, it was 1 before")


def test_times_go_on_where_the_line_before_ended() -> None:
    """A line does not begin earlier or later, end after its posting, or before it began."""
    book = three_days(TIMED)

    def begins(line: SettlementLine) -> SettlementLine:
        return replace(line, from_utc_ms=line.from_utc_ms + 1)

    def ends(line: SettlementLine) -> SettlementLine:
        return replace(line, to_utc_ms=line.to_utc_ms + SLACK_MS + 1)

    def turned(line: SettlementLine) -> SettlementLine:
        return replace(line, to_utc_ms=line.from_utc_ms - 1)

    assert "the line before it ended at" in told(book.forged(begins, 2))
    assert "cannot be posted at" in told(book.forged(ends, len(book.posted) - 1))
    assert "cannot be posted at" in told(book.forged(turned, len(book.posted) - 1))
    earlier = book.forged(lambda line: replace(line, from_utc_ms=line.from_utc_ms - 1))
    assert "begins before the account pays for it" in told(earlier)


def test_a_last_fee_that_was_never_charged_is_told() -> None:
    """Who left is charged up to the day of it."""
    keeper = Keeper([TIMED], NOON)
    keeper.read(500, 0, NOON + 5 * HOUR_MS)
    keeper.post()
    keeper.end()
    assert keeper.book.problems() == []
    keeper.book.posted.pop()
    assert "of version 1 {'fixed': 2000000000} were never charged" in told(keeper.book)


def test_lines_of_older_programs_tell_less_and_are_not_doubted() -> None:
    """Their facts were fewer: bands are compared, and no fact after them."""
    book = three_days(TIMED)
    older = book.forged(lambda line: replace(line, facts=line.facts[:5]))
    assert older.problems() == []
    number = len(book.posted) - 1
    assert not any("joined" in one for one in older.forged(facts(5, 1), number).problems())
    changed = older.forged(lambda line: with_cell(line, "1/grid/rest/0", "1/grid/peak/0"))
    assert "stored band peak, expected rest" in told(changed)
