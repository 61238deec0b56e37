"""The charges of settlement lines computed again: part of a replay (`replay.py`).

What a line counted (Wh by rate cell) and what was known of its period (`facts`) are taken from it;
its charges are not. They are F of the period with this line less F before it, as computed here from
the first line on. Which block a Wh belongs to follows from the count of its source and is checked,
and so are bands and facts against the times of the line (`replay_times.py`).
"""

from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Final

from gateway.core.charges import VersionKey, charges_of, feed_in_charge
from gateway.core.civil import Period
from gateway.core.errors import RefusedError
from gateway.core.fees import Facts
from gateway.core.ledger import SettlementLine
from gateway.core.rates import Cell, Rates
from gateway.core.replay_times import StayTimes, registers_of
from gateway.core.schedule import Schedule, day_of_month
from gateway.core.tariff import ENERGY, EXPORT, Tariff

_NO_VERSION: Final = 0


@dataclass(frozen=True, slots=True)
class Stay:
    """An account pays for a point under a tariff, from an instant on, to one where it is over.

    `joined` says that it paid for it until then under another tariff.
    """

    account_id: str
    service_point_id: str
    tariff_id: str
    from_utc_ms: int
    joined: bool = False
    to_utc_ms: int | None = None


@dataclass(slots=True)
class Recomputed:
    """Lines with the charges that follow, what is wrong with them, what cannot be computed."""

    lines: list[SettlementLine] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unproved: int = 0


@dataclass(slots=True)
class _Count:
    """A billing period of a stay: Wh and charges so far. `is_told`: every line had its facts."""

    period: Period
    is_told: bool = True
    cells: dict[VersionKey, dict[Cell, int]] = field(default_factory=dict)
    charged: dict[VersionKey, dict[str, int]] = field(default_factory=dict)
    wh: dict[str, int] = field(default_factory=dict)
    fed_wh: dict[VersionKey, int] = field(default_factory=dict)


class _Course:
    """A stay on its way: schedule, open periods, Wh by source since it began.

    `recharges` are the instants of its account's recharges; they grow.
    """

    def __init__(
        self,
        stay: Stay,
        versions: Sequence[Tariff],
        before: "_Course | None",
        *,
        opening_day: int,
        recharges: Sequence[int],
    ) -> None:
        self.stay = stay
        self.opening_day = opening_day
        self.schedule = Schedule(versions, (), opening_day)
        self.rates = {rates.tariff.version: rates for rates in self.schedule.rates}
        self.counts: dict[str, _Count] = {}
        self.occupancy_wh: dict[str, int] = {}
        self.times = StayTimes(
            self.schedule, stay.from_utc_ms, stay.to_utc_ms, stay.joined, recharges
        )
        if before is not None:
            self._go_on(before)

    def _go_on(self, before: "_Course") -> None:
        """Blocks go on from what the tariff before has counted, where both count by the same."""
        if self.schedule.by_occupancy:
            self.occupancy_wh.update(before.occupancy_wh)
            return
        period = self.schedule.period_at(self.stay.from_utc_ms)
        counted = before.counts.get(period.label)
        same = before.schedule.period_at(self.stay.from_utc_ms) == period
        if counted is not None and same and not before.schedule.by_occupancy:
            self.count(period.label).wh.update(counted.wh)

    def count(self, label: str) -> _Count:
        """The count of a period. Raises ValueError for a label that is none."""
        found = self.counts.get(label)
        if found is None:
            found = self.counts[label] = _Count(self.schedule.labelled(label))
        return found

    def counter_wh(self, count: _Count) -> dict[str, int]:
        """The Wh by source that choose the block."""
        return self.occupancy_wh if self.schedule.by_occupancy else count.wh

    def forget(self, settled_utc_ms: int) -> None:
        """Drop periods that ended before energy and fees up to an instant were settled."""
        over = [
            key for key, count in self.counts.items() if count.period.end_utc_ms <= settled_utc_ms
        ]
        for key in over:
            del self.counts[key]
        self.times.forget(over)


class EnergyReplay:
    """Takes settlement lines in the ledger's order. `tariffs` are all versions by id, oldest first.

    Memory grows with stays and open periods, not with lines.
    """

    def __init__(self, tariffs: Mapping[str, Sequence[Tariff]], stays: Iterable[Stay]) -> None:
        self._tariffs = tariffs
        self._stays: dict[tuple[str, str], list[Stay]] = {}
        # An account is opened with its first point.
        self._opened_utc_ms: dict[str, int] = {}
        for stay in stays:
            self._opened_utc_ms.setdefault(stay.account_id, stay.from_utc_ms)
            self._stays.setdefault((stay.account_id, stay.service_point_id), []).append(stay)
        self._courses: dict[Stay, _Course] = {}
        self._recharges: dict[str, list[int]] = {}
        self._registers: dict[str, Mapping[int, str]] = {}
        self._number = 0
        self._facts = 0

    def take(self, lines: Sequence[SettlementLine], utc_ms: int) -> Recomputed:
        """The lines of one transaction with the charges that follow from what they count."""
        found = Recomputed()
        self._number += 1
        for _, group in groupby(lines, _period_of):
            self._take_period(list(group), utc_ms, found)
        for meter_id, group in groupby(lines, _meter_of):
            known = self._registers.get(meter_id, {})
            self._registers[meter_id], problem = registers_of(list(group), known)
            if problem is not None:
                found.problems.append(f"meter {meter_id}: {problem}")
        return found

    def recharged(self, account_id: str, utc_ms: int) -> None:
        """An account is recharged at an instant: fees that wait for it are due."""
        insort(self._recharges.setdefault(account_id, []), utc_ms)

    def end(self) -> list[str]:
        """After the last line: what stays that are over were never charged."""
        found: list[str] = []
        for course in self._courses.values():
            for count in list(course.counts.values()):
                facts = course.times.last_facts(count.period)
                if facts is None or not count.is_told:
                    continue
                stay = course.stay
                found += [
                    f"{stay.account_id} at {stay.service_point_id}, {count.period.label}: the stay "
                    f"is over, and of version {version} {charges} were never charged"
                    for (_, version), charges in _left(course, count, facts).items()
                ]
        return found

    # -- inside ----------------------------------------------------------------------------

    def _take_period(self, lines: list[SettlementLine], utc_ms: int, found: Recomputed) -> None:
        """The lines of a point and period that one posting made: one for each version."""
        first = lines[0]
        place = f"{first.account_id} at {first.service_point_id}, {first.period}"
        try:
            course = self._course(first)
            count = course.count(first.period)
            count.is_told = count.is_told and all(line.facts for line in lines)
            for line in lines:
                wrong = course.times.fact_problems(line, utc_ms, count.period)
                if len(line.facts) < self._facts:
                    wrong.append("it tells fewer facts than lines before it")
                self._facts = max(self._facts, len(line.facts))
                wrong += course.times.time_problems(self._number, line, utc_ms)
                wrong += _count(course, count, line)
                found.problems += [f"{place}: {what}" for what in wrong]
            due = self._due(course, count, lines)
        except (KeyError, TypeError, ValueError, RefusedError) as error:
            found.problems.append(f"{place}: it cannot be computed: {error}")
            found.lines += lines
            return
        if due is None:
            found.unproved += len(lines)
            found.lines += [_with_energy(course, line) for line in lines]
        else:
            for line in lines:
                charges = due.pop((line.tariff_id, line.facts[0]), {})
                found.lines.append(replace(line, charges=tuple(charges.items())))
            found.problems += [
                f"{place}: version {version} comes to {charges}, and no line charges it"
                for (_, version), charges in due.items()
            ]
        for line in found.lines[-len(lines) :]:
            _charge(count, line)
        if first.facts:
            course.forget(min(first.from_utc_ms, first.facts[1]))

    def _course(self, line: SettlementLine) -> _Course:
        """Raises ValueError where the account did not pay for the point, RefusedError for tariffs
        that do not go together."""
        stays = self._stays.get((line.account_id, line.service_point_id), [])
        begun = [
            place
            for place, stay in enumerate(stays)
            if stay.tariff_id == line.tariff_id and stay.from_utc_ms <= line.to_utc_ms
        ]
        if not begun or not self._tariffs.get(line.tariff_id):
            raise ValueError(f"it does not pay for it under tariff {line.tariff_id}")
        return self._course_of(stays[: begun[-1] + 1], line.period)

    def _course_of(self, stays: Sequence[Stay], label: str) -> _Course:
        """The course of the last of these stays of an account at a point, one of whose periods has
        this label."""
        stay = stays[-1]
        course = self._courses.get(stay)
        if course is None:
            before = self._course_of(stays[:-1], label) if stay.joined and len(stays) > 1 else None
            versions = self._tariffs[stay.tariff_id]
            course = self._courses[stay] = _Course(
                stay,
                versions,
                before,
                opening_day=self._opening_day(stays, versions, label),
                recharges=self._recharges.setdefault(stay.account_id, []),
            )
        return course

    def _opening_day(self, stays: Sequence[Stay], versions: Sequence[Tariff], label: str) -> int:
        """The local day of the month on which the account was opened.

        Older programs took that on which the point came to it, which the label tells.
        """
        begin = next(stay for stay in reversed(stays) if not stay.joined or stay is stays[0])
        opened = day_of_month(versions[0], self._opened_utc_ms[begin.account_id])
        try:
            Schedule(versions, (), opened).labelled(label)
        except ValueError:
            return day_of_month(versions[0], begin.from_utc_ms)
        return opened

    def _due(
        self, course: _Course, count: _Count, lines: Sequence[SettlementLine]
    ) -> dict[VersionKey, dict[str, int]] | None:
        """What every version is to charge now; None where a line does not tell enough."""
        if not count.is_told:
            return None
        number, accrued_utc_ms, recharged, complete, ended_utc_ms, *joined = lines[0].facts
        if number == _NO_VERSION:
            # It moves registers and nothing else.
            return {}
        facts = Facts(
            accrued_utc_ms, bool(recharged), bool(complete), ended_utc_ms, joined=any(joined)
        )
        if any(line.facts[1:] != lines[0].facts[1:] for line in lines):
            raise ValueError("lines of one posting know different facts")
        return _left(course, count, facts)


def _left(course: _Course, count: _Count, facts: Facts) -> dict[VersionKey, dict[str, int]]:
    """What a period comes to by these facts, less what was charged of it, by version."""
    after = charges_of(
        course.schedule.tariffs,
        count.cells,
        facts,
        count.period,
        course.stay.from_utc_ms,
        fed_wh=count.fed_wh,
    )
    due: dict[VersionKey, dict[str, int]] = {}
    for key in after.keys() | count.charged.keys():
        now, before = after.get(key, {}), count.charged.get(key, {})
        change = {name: now.get(name, 0) - before.get(name, 0) for name in {**before, **now}}
        change = {name: amount_nano for name, amount_nano in change.items() if amount_nano}
        if change:
            due[key] = change
    return due


def _period_of(line: SettlementLine) -> tuple[str, str, str, str]:
    return line.account_id, line.service_point_id, line.tariff_id, line.period


def _meter_of(line: SettlementLine) -> str:
    return line.meter_id


def _count(course: _Course, count: _Count, line: SettlementLine) -> list[str]:
    """Count a line's cells; what is wrong with them."""
    found: list[str] = []
    by_block: dict[tuple[Rates, str], dict[int, int]] = {}
    for key, wh in line.cells:
        rates, cell = _cell_of(course, key)
        if wh < 0:
            found.append(f"{wh} Wh are counted for {key}")
        problem = course.times.band_problem(line, rates, cell, count.period)
        if problem is not None:
            found.append(problem)
        cells = count.cells.setdefault(rates.key, {})
        cells[cell] = cells.get(cell, 0) + wh
        blocks = by_block.setdefault((rates, cell.source), {})
        blocks[cell.block] = blocks.get(cell.block, 0) + wh
    found += _count_fed(count, line)
    counter_wh = course.counter_wh(count)
    for (rates, source), blocks in by_block.items():
        before_wh = counter_wh.get(source, 0)
        after_wh = counter_wh[source] = before_wh + sum(blocks.values())
        limits_wh = rates.sources[source].block_limits_wh
        for block, wh in blocks.items():
            upto_wh = limits_wh[block] if block < len(limits_wh) else after_wh
            above_wh = limits_wh[block - 1] if block else 0
            due_wh = max(0, min(after_wh, upto_wh) - max(before_wh, above_wh))
            if wh != due_wh:
                found.append(
                    f"block {block + 1} of {source} has {wh} Wh, by the count up to {after_wh} Wh "
                    f"{due_wh} Wh belong there"
                )
    return found


def _count_fed(count: _Count, line: SettlementLine) -> list[str]:
    """Count what a line fed in; what is wrong with it."""
    if not line.fed_wh:
        return []
    number = line.facts[0] if line.facts else _NO_VERSION
    if number == _NO_VERSION or line.fed_wh < 0:
        return [f"{line.fed_wh} Wh are fed in under no version"]
    key = (line.tariff_id, number)
    count.fed_wh[key] = count.fed_wh.get(key, 0) + line.fed_wh
    return []


def _cell_of(course: _Course, key: str) -> tuple[Rates, Cell]:
    """Raises KeyError, ValueError for a cell that no version has."""
    number, source, band, block = key.split("/")
    rates, cell = course.rates[int(number)], Cell(int(number), source, band, int(block))
    if cell not in rates.index:
        raise KeyError(key)
    return rates, cell


def _with_energy(course: _Course, line: SettlementLine) -> SettlementLine:
    """A line of an older program, or after one: its energy is priced, the rest is what it says."""
    charges = {name: a for name, a in line.charges if not name.startswith(f"{ENERGY}:")}
    if line.facts:
        charges.pop(EXPORT, None)
    if line.facts and line.fed_wh:
        charges |= feed_in_charge(course.rates[line.facts[0]], line.fed_wh)
    for key, wh in line.cells:
        rates, cell = _cell_of(course, key)
        name = f"{ENERGY}:{cell.source}"
        price_micro = rates.prices_micro[rates.index[cell]]
        charges[name] = charges.get(name, 0) + wh * price_micro
    return replace(line, charges=tuple((name, a) for name, a in charges.items() if a))


def _charge(count: _Count, line: SettlementLine) -> None:
    """Keep what a line charges, for the version that it belongs to."""
    number = line.facts[0] if line.facts else _NO_VERSION
    charged = count.charged.setdefault((line.tariff_id, number), {})
    for name, amount_nano in line.charges:
        charged[name] = charged.get(name, 0) + amount_nano
