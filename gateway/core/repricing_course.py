"""When, between two postings, the energy flowed that they settled.

A posting tells Wh by rate and nothing finer in time. Readings in between tell the rest: energy is
linear between two of them and floored to the earlier side, which is how a pricer splits it.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gateway.core.bands import band_run
from gateway.core.schedule import Schedule


class Rate(NamedTuple):
    """What a pricer tells apart at an instant: billing period, tariff version, source, band."""

    period: str
    version: int
    source: str
    band: str


class CoursePoint(NamedTuple):
    """Wh by source from the start of a span to an instant, as registers showed it."""

    utc_ms: int
    wh: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Course:
    """Cumulative Wh of one source over a span: `wh[i]` have flowed by `times[i]`."""

    times: Sequence[int]
    wh: Sequence[int]

    def at(self, utc_ms: int) -> int:
        """Wh by an instant of the span."""
        index = bisect_left(self.times, utc_ms)
        if index == 0:
            return self.wh[0]
        begin, end = self.times[index - 1], self.times[index]
        low, high = self.wh[index - 1], self.wh[index]
        return low + (high - low) * (utc_ms - begin) // (end - begin)

    def around(self, utc_ms: int) -> tuple[int, int]:
        """The known instants before and after one; the instant itself twice where it is known."""
        index = bisect_left(self.times, utc_ms)
        if index == 0 or self.times[index] == utc_ms:
            return utc_ms, utc_ms
        return self.times[index - 1], self.times[index]


def course_of(
    source: str, total_wh: int, span: tuple[int, int], points: Iterable[CoursePoint] = ()
) -> Course:
    """The course of a source over a span in which `total_wh` flowed.

    Points that do not go on from those before them, or beyond the total, are left out: the guard
    did not settle by them.
    """
    times, wh = [span[0]], [0]
    for point in points:
        have_wh = point.wh.get(source, 0)
        if times[-1] < point.utc_ms < span[1] and wh[-1] <= have_wh <= total_wh:
            times.append(point.utc_ms)
            wh.append(have_wh)
    return Course((*times, span[1]), (*wh, total_wh))


def rate_changes(schedule: Schedule, sources: Iterable[str], from_ms: int, to_ms: int) -> list[int]:
    """The instants inside (from, to) at which period, version or a band changes."""
    return list(_changes(schedule, tuple(sources), from_ms, to_ms))


def _changes(schedule: Schedule, sources: Sequence[str], from_ms: int, to_ms: int) -> Iterator[int]:
    at_ms = from_ms
    while True:
        horizon_ms = schedule.period_at(at_ms).end_utc_ms
        rates, until_ms = schedule.in_force(at_ms)
        until_ms = min(until_ms, horizon_ms)
        for source in sources:
            _, run_ms = band_run(rates.plans[source], schedule.zone, at_ms, horizon_ms)
            until_ms = min(until_ms, run_ms)
        if until_ms >= to_ms:
            return
        yield until_ms
        at_ms = until_ms


def rate_at(schedule: Schedule, source: str, utc_ms: int) -> Rate:
    """Which rate of a source holds at an instant."""
    period = schedule.period_at(utc_ms)
    rates, _ = schedule.in_force(utc_ms)
    band, _ = band_run(rates.plans[source], schedule.zone, utc_ms, period.end_utc_ms)
    return Rate(period.label, rates.tariff.version, source, rates.sources[source].bands[band])


def parted(total_wh: int, weights: Sequence[int]) -> list[int]:
    """A total in proportion to weights, floored cumulatively: exact where they sum to it."""
    whole = sum(weights)
    parts: list[int] = []
    seen = given = 0
    for weight in weights:
        seen += weight
        upto = total_wh * seen // whole
        parts.append(upto - given)
        given = upto
    return parts
