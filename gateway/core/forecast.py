"""How long the credit lasts: days left, when supply would be cut, and by when to top up.

A forecast walks forward from now: the usage profile says what will be used, a clone of the
account's own pricer what it costs (bands, blocks, fees, taxes, versions to come), debts are
collected at local midnights, the calendar says when a cut would be made. The step in which the
credit ends is searched to the Wh. No step rounds in the tenant's favour.

The pricer is cloned through its own snapshot and restore, so a forecast prices exactly as the
ledger will. It is stepped from rate boundary to rate boundary, at most a day at a time.

Days left count until the credit is used up, in tenths of 24 h, floored. `cut_utc_ms` is later where
a friendly window holds the end of the credit. `top_up_by_utc_ms` assumes that the credit goes
faster than expected, by MARGIN_PERCENT of the time left, the more the less is known; it is
MARGIN_MS before the cut that would then be made.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from zoneinfo import ZoneInfo

from gateway.core.civil import DAY_MS
from gateway.core.friendly import FriendlyCalendar
from gateway.core.usage import HOUR_MS, Confidence, UsageProfile
from gateway.core.usage_curve import UsageCurve, midnights_after

HORIZON_DAYS: Final = 60
TENTH_MS: Final = DAY_MS // 10
# A tenant needs an hour to pay and an hour in reserve.
MARGIN_MS: Final = 2 * HOUR_MS
MARGIN_PERCENT: Final = {
    Confidence.NONE: 35,
    Confidence.LOW: 35,
    Confidence.FAIR: 20,
    Confidence.GOOD: 10,
}
PERCENT: Final = 100
STEP_MAX_MS: Final = DAY_MS
# A snapshot is kept every so many steps: the last few are walked again once the end is near.
MARK_STEPS: Final = 16


class Pricing(Protocol):
    """What a forecast needs of a pricer (gateway/core/pricing.py `Pricer`)."""

    @property
    def next_boundary_utc_ms(self) -> int:
        """When another rate or period begins."""
        ...

    def advance(
        self, wh_by_source: Sequence[tuple[str, int]], from_utc_ms: int, to_utc_ms: int
    ) -> object:
        """Charge energy that flows between two instants, and what falls due by the second."""
        ...

    def running_nano(self) -> int:
        """Charged and not yet posted."""
        ...

    def snapshot(self) -> Mapping[str, object]:
        """State that `restore` takes."""
        ...


@dataclass(frozen=True, slots=True)
class Load:
    """One service point of the account: what it uses, and what that costs.

    `state` is the pricer's snapshot of now and `restore` makes a pricer of one; the live pricer
    is not touched. `sources` names the source behind each register of the profile.
    """

    usage: UsageProfile
    sources: tuple[str, ...]
    state: Mapping[str, object]
    restore: Callable[[Mapping[str, object]], Pricing]


@dataclass(frozen=True, slots=True)
class DailyDebt:
    """A debt collected at each local midnight: the rate, at last what remains."""

    remaining_nano: int
    per_day_nano: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """The answer. Instants are None where nothing ends within the horizon, or nothing is known.

    `days_left_tenths` is None when nothing is known of the usage, and the horizon's when the
    credit outlasts it (`beyond_horizon`). `emergency_utc_ms` is when the own credit ends and
    emergency credit begins to be used; `zero_utc_ms` when that is used up as well.
    """

    days_left_tenths: int | None
    zero_utc_ms: int | None
    cut_utc_ms: int | None
    top_up_by_utc_ms: int | None
    confidence: Confidence
    emergency_utc_ms: int | None = None
    beyond_horizon: bool = False

    @property
    def days_left(self) -> str | None:
        """Days left as text with one decimal, such as `3.4`."""
        if self.days_left_tenths is None:
            return None
        return days_text(self.days_left_tenths)


def days_text(tenths: int) -> str:
    """Tenths of a day as days with one decimal, such as `3.4`."""
    return f"{tenths // 10}.{tenths % 10}"


def forecast(
    loads: Sequence[Load],
    *,
    zone: ZoneInfo,
    now_utc_ms: int,
    credit_nano: int,
    emergency_nano: int = 0,
    debts: Sequence[DailyDebt] = (),
    calendar: FriendlyCalendar | None = None,
    horizon_days: int = HORIZON_DAYS,
) -> Forecast:
    """How long `credit_nano` lasts (posted balance less running consumption, less the threshold).

    `emergency_nano` is what is left of emergency credit, given only when it is invoked or comes by
    itself: it is used up after the own credit. Supply is taken to stay on.
    """
    confidence = _least([load.usage.confidence(now_utc_ms) for load in loads])
    levels = [credit_nano] if emergency_nano <= 0 else [credit_nano, credit_nano + emergency_nano]
    ends: list[int | None]
    if levels[-1] <= 0:
        ends = [now_utc_ms] * len(levels)
    elif confidence is Confidence.NONE:
        return Forecast(None, None, None, None, confidence)
    else:
        ends = _Walk(loads, zone, now_utc_ms, horizon_days, debts).ends(levels)
    zero = ends[-1]
    emergency = ends[0] if len(levels) > 1 else None
    if zero is None:
        tenths = horizon_days * 10
        return Forecast(
            tenths, None, None, None, confidence, emergency_utc_ms=emergency, beyond_horizon=True
        )
    return Forecast(
        days_left_tenths=(zero - now_utc_ms) // TENTH_MS,
        zero_utc_ms=zero,
        cut_utc_ms=_cut(calendar, zero),
        top_up_by_utc_ms=_top_up_by(calendar, now_utc_ms, zero, confidence),
        confidence=confidence,
        emergency_utc_ms=emergency,
    )


def _cut(calendar: FriendlyCalendar | None, zero_utc_ms: int) -> int:
    return calendar.next_disablement_utc_ms(zero_utc_ms) if calendar else zero_utc_ms


def _top_up_by(
    calendar: FriendlyCalendar | None, now_utc_ms: int, zero_utc_ms: int, confidence: Confidence
) -> int:
    """The latest time to top up that also holds when more is used than expected; not before now."""
    left_ms = zero_utc_ms - now_utc_ms
    early_utc_ms = zero_utc_ms - left_ms * MARGIN_PERCENT[confidence] // PERCENT
    return max(now_utc_ms, _cut(calendar, early_utc_ms) - MARGIN_MS)


def _least(levels: Sequence[Confidence]) -> Confidence:
    order = list(Confidence)
    return min(levels, key=order.index, default=Confidence.NONE)


class _Walk:
    """Forward from now, in steps that cross no rate boundary of any load."""

    def __init__(
        self,
        loads: Sequence[Load],
        zone: ZoneInfo,
        now_utc_ms: int,
        horizon_days: int,
        debts: Sequence[DailyDebt],
    ) -> None:
        self._loads = loads
        self._now_utc_ms = now_utc_ms
        self._end_utc_ms = now_utc_ms + horizon_days * DAY_MS
        self._curves = [
            UsageCurve(load.usage, load.sources, zone, now_utc_ms, horizon_days) for load in loads
        ]
        self._midnights = midnights_after(zone, now_utc_ms, horizon_days)
        self._debts = debts
        self._start = _Mark(now_utc_ms, [load.state for load in loads])
        self._first = self._pricers(self._start)
        self._running_nano = sum(pricer.running_nano() for pricer in self._first)

    def ends(self, levels: Sequence[int]) -> list[int | None]:
        """When what is owed reaches each of the rising levels; None beyond the horizon."""
        ends: list[int | None] = [self._now_utc_ms for level in levels if level <= 0]
        mark = at = self._start
        pricers = self._first
        for number, (start, end) in enumerate(self._steps(pricers)):
            if number % MARK_STEPS == 0 and number:
                mark = _Mark(start, [pricer.snapshot() for pricer in pricers])
            self._advance(pricers, start, end)
            owed_nano = self._owed_nano(pricers, end)
            while owed_nano >= levels[len(ends)]:
                if at.utc_ms != start:
                    at = self._walk_to(mark, start)
                ends.append(self._end_in_step(at, end, levels[len(ends)]))
                if len(ends) == len(levels):
                    return ends
        return [*ends, *[None] * (len(levels) - len(ends))]

    def _steps(self, pricers: Sequence[Pricing]) -> Iterator[tuple[int, int]]:
        """From each step's start to its end; the pricers are advanced by the caller meanwhile."""
        utc_ms = self._now_utc_ms
        while utc_ms < self._end_utc_ms:
            yield utc_ms, (utc_ms := self._step_end(pricers, utc_ms))

    def _step_end(self, pricers: Sequence[Pricing], utc_ms: int) -> int:
        end = min(utc_ms + STEP_MAX_MS, self._end_utc_ms)
        for pricer in pricers:
            boundary = pricer.next_boundary_utc_ms
            # A pricer whose label is behind shows a boundary that has passed: feel the way.
            boundary = boundary if boundary > utc_ms else utc_ms + HOUR_MS
            end = min(end, boundary)
        return end

    def _pricers(self, mark: "_Mark") -> list[Pricing]:
        return [load.restore(state) for load, state in zip(self._loads, mark.states, strict=True)]

    def _advance(self, pricers: Sequence[Pricing], start: int, end: int) -> None:
        for pricer, curve in zip(pricers, self._curves, strict=True):
            pricer.advance(curve.between(start, end), start, end)

    def _owed_nano(self, pricers: Sequence[Pricing], utc_ms: int) -> int:
        """What is charged and collected from now to an instant that the pricers have reached."""
        owed_nano = -self._running_nano
        for pricer in pricers:
            owed_nano += pricer.running_nano()
        if self._debts:
            days = bisect_right(self._midnights, utc_ms)
            for debt in self._debts:
                owed_nano += min(debt.per_day_nano * days, debt.remaining_nano)
        return owed_nano

    def _walk_to(self, mark: "_Mark", utc_ms: int) -> "_Mark":
        pricers = self._pricers(mark)
        start = mark.utc_ms
        while start < utc_ms:
            end = self._step_end(pricers, start)
            self._advance(pricers, start, end)
            start = end
        return self._marked(pricers, utc_ms)

    def _marked(self, pricers: Sequence[Pricing], utc_ms: int) -> "_Mark":
        owed_nano = self._owed_nano(pricers, utc_ms)
        return _Mark(utc_ms, [pricer.snapshot() for pricer in pricers], owed_nano)

    def _probe(self, mark: "_Mark", utc_ms: int) -> "_Mark":
        pricers = self._pricers(mark)
        self._advance(pricers, mark.utc_ms, utc_ms)
        return self._marked(pricers, utc_ms)

    def _end_in_step(self, mark: "_Mark", end: int, level: int) -> int:
        """The first instant in (mark, end] at which what is owed reaches a level.

        Fees and debts fall due at midnights and at the step's end; in between only energy counts.
        """
        first = bisect_right(self._midnights, mark.utc_ms)
        inside = [utc_ms for utc_ms in self._midnights[first:] if utc_ms < end]
        for due in (*inside, end):
            if due - 1 > mark.utc_ms:
                before = self._probe(mark, due - 1)
                if before.owed_nano >= level:
                    return self._search(mark, before, level)
                mark = before
            at = self._probe(mark, due)
            if at.owed_nano >= level:
                return due
            mark = at
        return end

    def _search(self, low: "_Mark", high: "_Mark", level: int) -> int:
        """The first instant in (low, high] whose whole Wh reach the level.

        By regula falsi on the count of Wh, exact where the price does not change in between, and
        every third time by halves.
        """
        low_wh, high_wh = self._whole_wh(low.utc_ms), self._whole_wh(high.utc_ms)
        rounds = 0
        while high_wh - low_wh > 1:
            rounds += 1
            if rounds % 3 and high.owed_nano > low.owed_nano:
                share = (level - low.owed_nano) * (high_wh - low_wh)
                guess_wh = low_wh - (-share // (high.owed_nano - low.owed_nano))
            else:
                guess_wh = (low_wh + high_wh) // 2
            guess_wh = min(max(guess_wh, low_wh + 1), high_wh - 1)
            probe = self._probe(low, self._when(guess_wh, low.utc_ms, high.utc_ms))
            # Two loads may reach their next Wh at once: go by what is there, not by the guess.
            if probe.owed_nano >= level:
                high, high_wh = probe, guess_wh
            else:
                low, low_wh = probe, max(guess_wh, self._whole_wh(probe.utc_ms))
        return self._when(high_wh, low.utc_ms, high.utc_ms)

    def _whole_wh(self, utc_ms: int) -> int:
        return sum(curve.whole_wh(utc_ms) for curve in self._curves)

    def _when(self, wh: int, low_utc_ms: int, high_utc_ms: int) -> int:
        """The first instant in (low, high] at which so many Wh are used; high at the latest."""
        while high_utc_ms - low_utc_ms > 1:
            middle = (low_utc_ms + high_utc_ms) // 2
            if self._whole_wh(middle) >= wh:
                high_utc_ms = middle
            else:
                low_utc_ms = middle
        return high_utc_ms


@dataclass(frozen=True, slots=True)
class _Mark:
    """The pricers at an instant, and what is owed since now."""

    utc_ms: int
    states: Sequence[Mapping[str, object]]
    owed_nano: int = 0
