"""What accounts would have been charged under another tariff, from what the ledger settled.

How much energy was charged is taken from the settlement lines: the guard has judged it already.
When it flowed follows from their cells (each rate of the tariff in force has its time) and, where
the other tariff changes its rate inside such a time, from readings. Both tariffs are then priced by
the same `Pricer`, energy and recharges in the order of the ledger, so that under the very tariff in
force the outcome is what the ledger charged.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

from gateway.core.civil import DAY_MS
from gateway.core.pricing import Counted, Posting, Pricer
from gateway.core.repricing_course import (
    Course,
    CoursePoint,
    Rate,
    course_of,
    parted,
    rate_at,
    rate_changes,
)
from gateway.core.schedule import Schedule, day_of_month
from gateway.core.tariff import EXPORT, Tariff

# A pricer takes ten years at once; an old account is brought to the window in steps.
_STEP_MS: Final = 365 * DAY_MS


@dataclass(frozen=True, slots=True)
class Settled:
    """What one posting settled at a point between two instants, and what it charged for it.

    `cells` are Wh by rate of the tariff in force, `charges` nano-units by (period, component).
    `accrued_utc_ms` and `ended_utc_ms` are facts of the posting, 0 where it told none. `fed` are Wh
    that were fed in, by (period, version).
    """

    from_utc_ms: int
    to_utc_ms: int
    cells: Mapping[Rate, int]
    charges: Mapping[tuple[str, str], int] = field(default_factory=dict)
    accrued_utc_ms: int = 0
    ended_utc_ms: int = 0
    fed: Mapping[tuple[str, int], int] = field(default_factory=dict)


Points = Callable[[], Sequence[CoursePoint]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A stay in the window: Wh, and nano-units by component as charged now and under the draft.

    `estimated_wh` flowed across a change of rate and no register tells on which side.
    `unexplained` are the components by (period, component) in which the pricing of the tariff in
    force and the ledger differ: ledger less pricing; empty when they agree.
    """

    energy_wh: int
    charged: Mapping[str, int]
    draft: Mapping[str, int]
    estimated_wh: int
    unexplained: Mapping[tuple[str, str], int]


class Repricing:
    """One stay of an account at a point, priced twice.

    `versions` are those of its tariff, `draft` counts from the beginning of time. The window begins
    at `window_utc_ms`; what was settled before it, from `warm_utc_ms` on, only brings the periods
    to where they were. `joined` as in `Pricer`; `opened_utc_ms` is when the account was opened,
    None where that is the start. Energy between readings further apart than `gap_ms` counts as
    estimated where the draft changes its rate in between.
    """

    def __init__(
        self,
        versions: Sequence[Tariff],
        draft: Tariff,
        *,
        start_utc_ms: int,
        sources: Sequence[str],
        window_utc_ms: int,
        gap_ms: int,
        joined: bool = False,
        opened_utc_ms: int | None = None,
    ) -> None:
        self._sources = tuple(dict.fromkeys(sources))
        always = replace(draft, version=1, effective_from_utc_ms=min(0, start_utc_ms))
        self._start_utc_ms = start_utc_ms
        self._window_utc_ms = max(window_utc_ms, start_utc_ms)
        opened = start_utc_ms if opened_utc_ms is None else opened_utc_ms
        self._now, self._draft = (
            _Track(
                priced,
                start_utc_ms,
                self._sources,
                opening_day=day_of_month(priced[0], opened),
                joined=joined,
            )
            for priced in (versions, (always,))
        )
        self._gap_ms = gap_ms
        self._begun = False
        # Of a stay that begins inside the window all counts.
        self._marked = window_utc_ms <= start_utc_ms
        self._ended = False
        self._energy_wh = 0
        self._estimated_wh = 0
        self._ledger: Counter[tuple[str, str]] = Counter()

    @property
    def counted(self) -> tuple[Counted, Counted]:
        """What blocks have counted, as it is and under the draft."""
        return self._now.pricer.counted, self._draft.pricer.counted

    def go_on(self, counted: tuple[Counted, Counted]) -> None:
        """Take over what blocks counted in the stay before this one. Comes before everything."""
        for track, before in zip((self._now, self._draft), counted, strict=True):
            track.go_on(before)

    @property
    def warm_utc_ms(self) -> int:
        """From which instant on postings are needed: the periods of the window's start begin.

        Where blocks count for as long as the account lasts that is its start.
        """
        tracks = (self._now, self._draft)
        if any(track.schedule.by_occupancy for track in tracks):
            return self._start_utc_ms
        begun = min(track.schedule.period_at(self._window_utc_ms).start_utc_ms for track in tracks)
        return max(begun, self._start_utc_ms)

    def recharged(self, utc_ms: int) -> None:
        """The account was recharged."""
        if utc_ms >= self._window_utc_ms:
            self._mark()
        for track in (self._now, self._draft):
            track.pricer.recharged(utc_ms)

    def settled(self, span: Settled, points: Points) -> None:
        """The next posting; `points` gives the readings inside it, if they are needed.

        Raises RefusedError SOURCE_UNPRICED.
        """
        self._ledger.update(span.charges)
        now, draft = self._now.pricer, self._draft.pricer
        if not self._begun:
            self._begun = True
            self._now.pass_to(span.from_utc_ms)
            self._draft.pass_to(span.from_utc_ms)
        from_ms = max(span.from_utc_ms, now.label_utc_ms)
        to_ms = max(span.to_utc_ms, from_ms)
        calm = to_ms <= min(now.next_boundary_utc_ms, draft.next_boundary_utc_ms)
        if calm and not from_ms < self._window_utc_ms < to_ms:
            total: Counter[str] = Counter()
            for rate, wh in span.cells.items():
                total[rate.source] += wh
            total[EXPORT] += sum(span.fed.values())
            self._advance(total, from_ms, to_ms)
        else:
            for shares, begin_ms, end_ms in self._pieces(span, points, from_ms, to_ms):
                self._advance(shares, begin_ms, end_ms)
        passed_ms = max(to_ms, span.accrued_utc_ms)
        if passed_ms > self._window_utc_ms:
            self._mark()
        for track in (self._now, self._draft):
            track.pricer.close_periods(passed_ms)
        if span.ended_utc_ms:
            self._end(span.ended_utc_ms)

    def finish(self, until_utc_ms: int, ended_utc_ms: int = 0) -> Outcome:
        """Let time pass to an instant and take stock of the window.

        `ended_utc_ms` is when the stay ended, 0 while it lasts.
        """
        if ended_utc_ms and not self._ended:
            # Nothing was left to be posted at its end.
            self._end(ended_utc_ms)
        unexplained = self._unexplained()
        self._mark()
        if not self._ended:
            for track in (self._now, self._draft):
                track.pricer.close_periods(until_utc_ms)
        return Outcome(
            energy_wh=self._energy_wh,
            charged=self._now.charged_since_mark(),
            draft=self._draft.charged_since_mark(),
            estimated_wh=self._estimated_wh,
            unexplained=unexplained,
        )

    # -- inside ----------------------------------------------------------------------------

    def _advance(self, shares: Mapping[str, int], from_ms: int, to_ms: int) -> None:
        if to_ms > self._window_utc_ms:
            self._mark()
        if self._marked:
            self._energy_wh += sum(wh for source, wh in shares.items() if source != EXPORT)
        for track in (self._now, self._draft):
            track.pricer.advance(shares, from_ms, to_ms)

    def _end(self, utc_ms: int) -> None:
        self._ended = True
        for track in (self._now, self._draft):
            track.pricer.end(utc_ms)

    def _mark(self) -> None:
        if not self._marked:
            self._marked = True
            self._now.mark(self._window_utc_ms)
            self._draft.mark(self._window_utc_ms)

    def _pieces(
        self, span: Settled, look: Points, from_ms: int, to_ms: int
    ) -> list[tuple[dict[str, int], int, int]]:
        """The span cut where a rate of either tariff changes, with the Wh of each piece."""
        now_cuts = rate_changes(self._now.schedule, self._sources, from_ms, to_ms)
        draft_cuts = rate_changes(self._draft.schedule, self._sources, from_ms, to_ms)
        window = [self._window_utc_ms] if from_ms < self._window_utc_ms < to_ms else []
        cuts = sorted({from_ms, *now_cuts, *draft_cuts, *window, to_ms})
        edges = list(pairwise(cuts)) if len(cuts) > 1 else [(from_ms, to_ms)]
        points = look() if len(edges) > 1 and any(span.cells.values()) else ()
        shares: list[dict[str, int]] = [{} for _ in edges]
        only_draft = sorted({*draft_cuts, *window} - set(now_cuts))
        bounds = [from_ms, *now_cuts, to_ms]
        for source in self._sources:
            cells = {rate: wh for rate, wh in span.cells.items() if rate.source == source and wh}
            if not cells:
                continue
            rates = [rate_at(self._now.schedule, source, begin) for begin, _ in edges]
            total_wh = sum(cells.values())
            courses = (
                course_of(source, total_wh, (from_ms, to_ms), points),
                course_of(source, total_wh, (from_ms, to_ms)),
            )
            fitting = [c for c in courses if _by_rate(c, edges, rates) == cells]
            course = fitting[0] if fitting else courses[0]
            if not fitting:
                self._estimated_wh += sum(
                    wh for rate, wh in cells.items() if rates.count(rate) != 1
                )
            else:
                self._estimated_wh += _unknown_wh(course, only_draft, bounds, self._gap_ms)
            for index, wh in _spread(course, edges, rates, cells):
                shares[index][source] = shares[index].get(source, 0) + wh
        begun = [rate_at(self._now.schedule, self._sources[0], begin) for begin, _ in edges]
        for (period, version), wh in span.fed.items():
            # When it flowed no register of the telemetry tells: evenly in the time of its version.
            places = [i for i, r in enumerate(begun) if (r.period, r.version) == (period, version)]
            places = places or [0]
            weights = [max(1, edges[index][1] - edges[index][0]) for index in places]
            for index, part_wh in zip(places, parted(wh, weights), strict=True):
                shares[index][EXPORT] = shares[index].get(EXPORT, 0) + part_wh
        return [(part, *edge) for part, edge in zip(shares, edges, strict=True)]

    def _unexplained(self) -> dict[tuple[str, str], int]:
        """Ledger less pricing in the periods that were read from their beginning."""
        first = self._now.schedule.period_at(self._window_utc_ms)
        since_ms = self._start_utc_ms if self._now.schedule.by_occupancy else first.start_utc_ms
        priced = self._now.totals()
        found: dict[tuple[str, str], int] = {}
        for key in self._ledger.keys() | priced.keys():
            difference = self._ledger[key] - priced[key]
            if difference and self._ends_after(key[0], since_ms):
                found[key] = difference
        return found

    def _ends_after(self, label: str, utc_ms: int) -> bool:
        """Whether a period of the ledger ends after an instant; one that is none of these periods
        (an older program's) counts as that."""
        try:
            return self._now.schedule.labelled(label).end_utc_ms > utc_ms
        except ValueError:
            return True


class _Track:
    """A pricer, and what it has charged by period and component."""

    def __init__(
        self,
        versions: Sequence[Tariff],
        start_utc_ms: int,
        sources: Sequence[str],
        *,
        opening_day: int,
        joined: bool,
    ) -> None:
        self._versions = versions
        self._sources = sources
        self.pricer = Pricer(
            versions,
            start_utc_ms=start_utc_ms,
            sources=sources,
            opening_day=opening_day,
            joined=joined,
        )
        self.schedule = Schedule(versions, sources, opening_day)
        self._totals: Counter[tuple[str, str]] = Counter()
        self._marked: Counter[tuple[str, str]] = Counter()
        self._mark_utc_ms = start_utc_ms

    def go_on(self, counted: Counted) -> None:
        """Begin anew from what blocks counted under another tariff."""
        self.pricer = Pricer(
            self._versions,
            start_utc_ms=self._mark_utc_ms,
            sources=self._sources,
            counted=counted,
        )
        self.schedule = Schedule(self._versions, self._sources, counted.opening_day)

    def totals(self) -> Counter[tuple[str, str]]:
        """Everything charged so far."""
        for posting in self.pricer.settle():
            _count(self._totals, posting)
        return self._totals

    def pass_to(self, utc_ms: int) -> None:
        """Let time pass without energy."""
        while self.pricer.label_utc_ms < utc_ms:
            label_ms = self.pricer.label_utc_ms
            self.pricer.advance((), label_ms, min(utc_ms, label_ms + _STEP_MS))

    def mark(self, utc_ms: int) -> None:
        """The window begins: what fell due in periods that began before does not count in it."""
        self.pricer.close_periods(utc_ms)
        self._marked = Counter(self.totals())
        self._mark_utc_ms = utc_ms

    def charged_since_mark(self) -> dict[str, int]:
        """Nano-units by component, of periods that were not over when the window began."""
        found: Counter[str] = Counter()
        for key, amount_nano in self.totals().items():
            period = self.schedule.labelled(key[0])
            if period.end_utc_ms > self._mark_utc_ms:
                began_before = period.start_utc_ms < self._mark_utc_ms
                found[key[1]] += amount_nano - (self._marked[key] if began_before else 0)
        return {name: amount for name, amount in found.items() if amount}


def _count(totals: Counter[tuple[str, str]], posting: Posting) -> None:
    for component, amount_nano in posting.charges:
        totals[posting.period, component] += amount_nano


def _by_rate(
    course: Course, edges: Sequence[tuple[int, int]], rates: Sequence[Rate]
) -> dict[Rate, int]:
    """What a course gives to each rate; rates of nothing are left out."""
    found: Counter[Rate] = Counter()
    for (begin, end), rate in zip(edges, rates, strict=True):
        found[rate] += _wh_in(course, begin, end)
    return {rate: wh for rate, wh in found.items() if wh}


def _spread(
    course: Course,
    edges: Sequence[tuple[int, int]],
    rates: Sequence[Rate],
    cells: Mapping[Rate, int],
) -> list[tuple[int, int]]:
    """Settled Wh by piece (its index): each rate's among the pieces in which it holds.

    In proportion to the course, or to time where that shows nothing there. Wh of a rate that holds
    nowhere in the span go to its first piece.
    """
    found: list[tuple[int, int]] = []
    for rate, wh in cells.items():
        places = [index for index, one in enumerate(rates) if one == rate] or [0]
        weights = [_wh_in(course, *edges[index]) for index in places]
        if not any(weights):
            weights = [max(1, edges[index][1] - edges[index][0]) for index in places]
        found += zip(places, parted(wh, weights), strict=True)
    return found


def _wh_in(course: Course, begin_ms: int, end_ms: int) -> int:
    if begin_ms == end_ms:
        return course.wh[-1]
    return course.at(end_ms) - course.at(begin_ms)


def _unknown_wh(course: Course, cuts: Sequence[int], bounds: Sequence[int], gap_ms: int) -> int:
    """Wh around cuts that nothing places: no reading within `gap_ms`, no other rate in between."""
    gaps: set[tuple[int, int]] = set()
    for cut in cuts:
        begin, end = course.around(cut)
        if end - begin > gap_ms:
            after = next(bound for bound in bounds if bound > cut)
            before = max(bound for bound in bounds if bound <= cut)
            gaps.add((max(begin, before), min(end, after)))
    return sum(course.at(end) - course.at(begin) for begin, end in gaps)
