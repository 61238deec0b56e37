"""What the times of settlement lines allow: part of a replay (`replay_energy.py`).

A line tells between which instants its energy flowed and what was known of its period (`facts`).
The tariff's calendar, the stay and the recharges of the ledger say which bands and which facts
these can be. How the Wh of a line that crosses a boundary fall on both sides of it is not told by
the ledger: only readings know, and they are not kept for ever.

Energy at the last known rate (`CLOCK_UNTRUSTED`, `CLOCK_STEPPED`, released or estimated energy) is
no exception: the label that chose its rate never leaves the line's times.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from gateway.core.bands import band_run
from gateway.core.civil import Period, civil_day, midnight
from gateway.core.fees import Facts
from gateway.core.guard import GuardEvent
from gateway.core.ledger import RebaseFlag, SettlementLine
from gateway.core.rates import Cell, Rates
from gateway.core.requests import ReleaseQuarantine, ReplaceMeter
from gateway.core.schedule import NEVER_MS, Schedule
from gateway.core.tariff import DAILY, PERIOD_CLOSE

# Labels of one instant are taken one after the other, and a commit may wait for room on the disk.
SLACK_MS: Final = 600_000
# With one of these a line's registers may move by other than what was settled.
REBASING: Final = frozenset(
    {
        GuardEvent.ROLLOVER.value,
        GuardEvent.REGISTER_REGRESSION.value,
        GuardEvent.METER_RESET.value,
        RebaseFlag.METER_REPLACED.value,
        RebaseFlag.RELEASED.value,
    }
)
_DECIDED: Final = frozenset({RebaseFlag.METER_REPLACED.value, RebaseFlag.RELEASED.value})
_FACTS: Final = 1 + len(Facts._fields)


class _Run(NamedTuple):
    """A band applies in [from, end) of one version and period."""

    from_utc_ms: int
    end_utc_ms: int
    band: str
    period: str


@dataclass(slots=True)
class StayTimes:
    """What is known of a stay's time so far.

    `recharges` are the instants at which its account was recharged, in order. `is_told` says that
    every line so far told all facts: those of older programs told less, and what they knew went on
    from it.
    """

    schedule: Schedule
    from_utc_ms: int
    to_utc_ms: int | None
    joined: bool
    recharges: Sequence[int] = ()
    is_told: bool = True
    accrued_utc_ms: int = 0
    ended_utc_ms: int = 0
    _spans: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    _runs: dict[tuple[int, str], _Run] = field(default_factory=dict)
    _force: dict[int, tuple[int, int]] = field(default_factory=dict)
    _recharged: dict[str, bool] = field(default_factory=dict)
    _denied: dict[str, int] = field(default_factory=dict)
    _calm: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.accrued_utc_ms = self.accrued_utc_ms or self.from_utc_ms
        tariffs = self.schedule.tariffs
        ends = [tariff.effective_from_utc_ms for tariff in tariffs[1:]]
        for index, (tariff, end_utc_ms) in enumerate(zip(tariffs, [*ends, NEVER_MS], strict=True)):
            begin_utc_ms = tariff.effective_from_utc_ms if index else 0
            self._force[tariff.version] = (begin_utc_ms, end_utc_ms)

    # -- bands -----------------------------------------------------------------------------

    def band_problem(
        self, line: SettlementLine, rates: Rates, cell: Cell, period: Period
    ) -> str | None:
        """Why a line cannot have energy in a cell; None where it can."""
        run = self._runs.get((cell.tariff_version, cell.source))
        if (
            run is not None
            and run.band == cell.band
            and run.from_utc_ms <= line.from_utc_ms
            and line.to_utc_ms < run.end_utc_ms
            and run.period == period.label
        ):
            return None
        begin_utc_ms, end_utc_ms = self._force[cell.tariff_version]
        end_utc_ms = min(end_utc_ms, period.end_utc_ms)
        at = max(line.from_utc_ms, begin_utc_ms, period.start_utc_ms, self.from_utc_ms)
        last = min(line.to_utc_ms, end_utc_ms - 1)
        when = f"from {self._local(line.from_utc_ms)} to {self._local(line.to_utc_ms)}"
        if at > last:
            return f"{cell.key} has energy of {when}, when that version of {period.label} is not"
        names: dict[str, None] = {}
        source, plan = rates.sources[cell.source], rates.plans[cell.source]
        while at <= last:
            band, until_utc_ms = band_run(plan, self.schedule.zone, at, end_utc_ms)
            if source.bands[band] == cell.band:
                run = _Run(at, until_utc_ms, cell.band, period.label)
                self._runs[cell.tariff_version, cell.source] = run
                return None
            names[source.bands[band]] = None
            at = until_utc_ms
        return f"{cell.key} has energy of {when}: stored band {cell.band}, expected " + " or ".join(
            names
        )

    # -- times -----------------------------------------------------------------------------

    def time_problems(self, number: int, line: SettlementLine, utc_ms: int) -> list[str]:
        """What is wrong with the times of a line of the transaction `number`, posted at `utc_ms`.

        Lines of one posting share their times; the next posting begins where they end.
        """
        if not self.is_told:
            return []
        found: list[str] = []
        begin, end = line.from_utc_ms, line.to_utc_ms
        before = self._spans.get(line.meter_id)
        if before is not None and before[0] != number and before[2] != begin:
            found.append(
                f"meter {line.meter_id}: begins at {self._local(begin)}, the line before it ended "
                f"at {self._local(before[2])}"
            )
        elif before is not None and before[0] == number and before[1:] != (begin, end):
            found.append(f"meter {line.meter_id}: lines of one posting have different times")
        elif before is None and not self.joined and begin < self.from_utc_ms:
            found.append(f"meter {line.meter_id}: begins before the account pays for it")
        latest = min(utc_ms, NEVER_MS if self.to_utc_ms is None else self.to_utc_ms) + SLACK_MS
        if not max(begin, self.from_utc_ms) <= end <= latest:
            found.append(
                f"meter {line.meter_id}: energy of {self._local(begin)} to {self._local(end)} "
                f"cannot be posted at {self._local(utc_ms)}"
            )
        self._spans[line.meter_id] = (number, begin, end)
        return found

    # -- facts -----------------------------------------------------------------------------

    def fact_problems(self, line: SettlementLine, utc_ms: int, period: Period) -> list[str]:
        """Which facts of a line, posted at `utc_ms`, do not follow from what happened before."""
        self.is_told = self.is_told and len(line.facts) == _FACTS
        if not self.is_told:
            return []
        number, facts = line.facts[0], Facts._make(line.facts[1:])
        if not number:
            # It moves registers and nothing else.
            wrong = line.cells or any(facts)
            return ["a line without a version has energy or facts"] if wrong else []
        found: list[str] = []
        if not {facts.recharged, facts.complete, facts.joined} <= {0, 1}:
            found.append("facts that are yes or no are neither 0 nor 1")
        if any(not key.startswith(f"{number}/") for key, _ in line.cells):
            found.append(f"a line of version {number} has energy of another one")
        found += self._accrued(facts, line, utc_ms)
        found += self._flags(facts, line, period, utc_ms)
        self.accrued_utc_ms = max(self.accrued_utc_ms, facts.accrued_utc_ms)
        self.ended_utc_ms = max(self.ended_utc_ms, facts.ended_utc_ms)
        return found

    def last_facts(self, period: Period) -> Facts | None:
        """What is known of a period when the stay is over; None while it lasts, or where older
        lines told too little."""
        if self.to_utc_ms is None or not self.is_told or not self._spans:
            return None
        ended_utc_ms = self.ended_utc_ms or max(
            self.to_utc_ms, self.accrued_utc_ms, *(to for _, _, to in self._spans.values())
        )
        recharged = self._recharged.get(period.label, False)
        return Facts(
            ended_utc_ms, recharged, complete=True, ended_utc_ms=ended_utc_ms, joined=self.joined
        )

    def forget(self, labels: Sequence[str]) -> None:
        """These periods are over."""
        for label in labels:
            self._recharged.pop(label, None)
            self._denied.pop(label, None)

    # -- inside ----------------------------------------------------------------------------

    def _accrued(self, facts: Facts, line: SettlementLine, utc_ms: int) -> list[str]:
        """Fees are accrued at instants at which they fall due, all up to the line's end."""
        if facts.ended_utc_ms:
            return self._ended(facts, line)
        accrued, before = facts.accrued_utc_ms, self.accrued_utc_ms
        wrong = ""
        if self.ended_utc_ms or (self.to_utc_ms is not None and utc_ms > self.to_utc_ms + SLACK_MS):
            return ["the stay is over, and the line does not say so"]
        if accrued < before:
            wrong = f"they were up to {self._local(before)}"
        elif accrued > max(utc_ms, line.to_utc_ms):
            wrong = f"it was posted at {self._local(utc_ms)}"
        elif accrued != before and not self._is_due(accrued):
            wrong = "when none falls due"
        elif self._is_late(accrued, line.to_utc_ms):
            wrong = f"with energy up to {self._local(line.to_utc_ms)}"
        return [f"fees are accrued up to {self._local(accrued)}, {wrong}"] if wrong else []

    def _ended(self, facts: Facts, line: SettlementLine) -> list[str]:
        """A stay ends once, at its end, and its fees are accrued up to there."""
        due = max(self.to_utc_ms or 0, line.to_utc_ms, self.accrued_utc_ms)
        if self.to_utc_ms is not None and facts.ended_utc_ms == facts.accrued_utc_ms == due:
            return []
        ended = "it lasts" if self.to_utc_ms is None else f"it ended {self._local(due)}"
        return [f"the stay ended {self._local(facts.ended_utc_ms)}, {ended}"]

    def _flags(self, facts: Facts, line: SettlementLine, period: Period, utc_ms: int) -> list[str]:
        found: list[str] = []
        if facts.joined != self.joined:
            other = "" if self.joined else "no "
            found.append(f"joined is {int(facts.joined)}: {other}other tariff charged it before")
        complete = period.end_utc_ms <= line.to_utc_ms or facts.ended_utc_ms > 0
        # Of the first line of a stay, readings may have come while it was being opened.
        is_first = self.accrued_utc_ms == self.from_utc_ms and line.from_utc_ms < period.end_utc_ms
        if facts.complete != complete and not (is_first and complete):
            found.append(
                f"complete is {int(facts.complete)}, the period ends "
                f"{self._local(period.end_utc_ms)}"
            )
        return found + self._recharge(facts, period, utc_ms)

    def _recharge(self, facts: Facts, period: Period, utc_ms: int) -> list[str]:
        """A period is recharged from its first recharge on, and not before."""
        label = period.label
        was, self._recharged[label] = self._recharged.get(label, False), bool(facts.recharged)
        if was and not facts.recharged:
            return ["recharged is 0, it was 1 before"]
        if was:
            return []
        ended = bisect_right(self.recharges, min(utc_ms, period.end_utc_ms - 1))
        last = self.recharges[ended - 1] if ended else 0
        if facts.recharged and last < max(self.from_utc_ms, period.start_utc_ms - SLACK_MS):
            return [f"recharged is 1, and nobody recharged in {label}"]
        if facts.recharged and last < self._denied.get(label, 0):
            return ["recharged was 0 in lines after the recharge"]
        # Of the instant in which it was recharged, lines may have come before.
        if not facts.recharged and max(self.from_utc_ms, period.start_utc_ms) < last < utc_ms:
            self._denied.setdefault(label, utc_ms)
        return []

    def _is_due(self, utc_ms: int) -> bool:
        """Whether a fee of any version may fall due, or a period end, at this instant."""
        schedule, zone = self.schedule, self.schedule.zone
        if any(tariff.effective_from_utc_ms == utc_ms for tariff in schedule.tariffs):
            return True
        if schedule.has_daily_fee and midnight(zone, civil_day(zone, utc_ms)) == utc_ms:
            return True
        return schedule.period_at(utc_ms).start_utc_ms == utc_ms

    def _is_late(self, accrued_utc_ms: int, to_utc_ms: int) -> bool:
        """Whether a fee fell due between what is accrued and a line's end."""
        if self._calm[0] != accrued_utc_ms:
            self._calm = (accrued_utc_ms, self._next_due(accrued_utc_ms, NEVER_MS))
        if to_utc_ms <= self._calm[1]:
            return False
        # Of versions that came into force later nobody may have known.
        return self._next_due(accrued_utc_ms, to_utc_ms) < to_utc_ms

    def _next_due(self, accrued_utc_ms: int, to_utc_ms: int) -> int:
        """When, after an instant, a fee of the versions in force by the line's end falls due."""
        schedule, zone = self.schedule, self.schedule.zone
        due_utc_ms = schedule.period_at(accrued_utc_ms).end_utc_ms
        for tariff in schedule.tariffs:
            begin_utc_ms = tariff.effective_from_utc_ms
            if begin_utc_ms > to_utc_ms or not tariff.fixed_fee_nano:
                continue
            if tariff.fee_collect == DAILY:
                day = civil_day(zone, accrued_utc_ms) + 1
                due_utc_ms = min(due_utc_ms, midnight(zone, day))
            if accrued_utc_ms < begin_utc_ms and tariff.fee_collect != PERIOD_CLOSE:
                due_utc_ms = min(due_utc_ms, begin_utc_ms)
        return due_utc_ms

    def _local(self, utc_ms: int) -> str:
        return datetime.fromtimestamp(utc_ms // 1000, self.schedule.zone).isoformat(" ")


def registers_of(
    lines: Sequence[SettlementLine], known: Mapping[int, str]
) -> tuple[Mapping[int, str], str | None]:
    """Which source each register of a meter counts, as far as the lines of one posting tell, and
    why that is not as `known` from lines before."""
    by_source: dict[str, int] = {}
    for line in lines:
        for key, wh in line.cells:
            source = key.split("/")[1]
            by_source[source] = by_source.get(source, 0) + wh
    if len(lines) == 1:
        advance = lines[0].advance_wh
    else:
        advance = tuple(map(sum, zip(*(line.advance_wh for line in lines), strict=False)))
    moved = [index for index, wh in enumerate(advance) if wh]
    if all(index in known for index in moved):
        due: dict[str, int] = {}
        for index in moved:
            due[known[index]] = due.get(known[index], 0) + advance[index]
        if due == by_source:
            return known, None
        problem = f"{by_source} Wh by source, by the registers {due}: no request says why"
    else:
        problem = None
    if len(moved) == 1 and len(by_source) == 1:
        return {**known, moved[0]: next(iter(by_source))}, problem
    return {} if problem else known, problem


def decision_problems(
    lines: Sequence[SettlementLine],
    decisions: Sequence[tuple[int, ReplaceMeter | ReleaseQuarantine]],
    utc_ms: int,
) -> list[str]:
    """What lines, posted at `utc_ms`, say of a person's decisions (instant, request) that nobody
    made; of a replacement the registers too."""
    found: list[str] = []
    for line in lines:
        if _DECIDED.isdisjoint(line.flags):
            continue
        near = [
            body
            for at, body in decisions
            if body.meter_id == line.meter_id and abs(at - utc_ms) <= SLACK_MS
        ]
        released = any(isinstance(body, ReleaseQuarantine) for body in near)
        if RebaseFlag.RELEASED in line.flags and not released:
            found.append(f"meter {line.meter_id}: nobody asked for the release of its energy")
        if RebaseFlag.METER_REPLACED in line.flags:
            exchanged = [body for body in near if isinstance(body, ReplaceMeter)]
            if not exchanged:
                found.append(f"meter {line.meter_id}: nobody asked for its replacement")
            elif REBASING.intersection(line.flags) == {RebaseFlag.METER_REPLACED}:
                same = [one for one in lines if one.meter_id == line.meter_id]
                if line is same[-1] and not any(_exchanges(same, body) for body in exchanged):
                    found.append(
                        f"meter {line.meter_id}: settled to {list(line.to_wh)}, not by way of the "
                        "closing and opening registers of its replacement"
                    )
    return found


def _exchanges(lines: Sequence[SettlementLine], body: ReplaceMeter) -> bool:
    """Whether what one posting settled goes to the closing and on from the opening registers."""
    advance = map(sum, zip(*(line.advance_wh for line in lines), strict=False))
    moved = zip(lines[0].from_wh, body.closing_wh, body.opening_wh, lines[-1].to_wh, strict=False)
    return [closed - begun + ended - opened for begun, closed, opened, ended in moved] == [*advance]
