"""Energy into money: what an account owes, exactly, however often it is posted.

All that is not linear (blocks, tax, the fixed fee) is a function F of a period's cumulative
counts, and a posting is F now less F at the last posting. So the sums do not depend on when
postings happen (invariant I3). The one choice made per reading is how energy between two readings
falls on both sides of a boundary: linear in time, floored to the earlier side.

A `Pricer` belongs to one account and is advanced by every good reading; that takes about a
microsecond while the reading stays inside one rate segment, which is nearly always.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

from gateway.core.bands import band_run
from gateway.core.civil import DAY_MS, Period, labelled_month, month_period, zone_of
from gateway.core.errors import RefusedError
from gateway.core.pricing_state import SavedPricing, parse_state
from gateway.core.tally import Cell, Lane, PeriodBook, Posting, Rates, Tally, rates_of
from gateway.core.tariff import ENERGY, PPM, Tariff

__all__ = ["Cell", "Flag", "Posting", "Pricer"]

GAP_MS: Final = 60_000
# A label further ahead than this is a broken clock; every month in between would be charged.
MAX_STEP_MS: Final = 10 * 366 * DAY_MS


class Flag(StrEnum):
    """What is to be known of an allocation of energy."""

    ESTIMATED_ALLOCATION = "ESTIMATED_ALLOCATION"
    CLOCK_STEPPED = "CLOCK_STEPPED"


_NO_FLAGS: Final[frozenset[Flag]] = frozenset()
_STEPPED: Final = frozenset({Flag.CLOCK_STEPPED})
_ESTIMATED: Final = frozenset({Flag.ESTIMATED_ALLOCATION})
_NEVER_MS: Final = 2**62


class Pricer:
    """What one account has used and owes under a schedule of tariff versions.

    `versions` take effect one after the other, in one zone and currency; the first must be in
    force at `start_utc_ms`, from which on energy is charged. `sources` are those behind the meter's
    registers; every version must price each of them.

    Raises RefusedError: TARIFF_ORDER, TARIFF_MIXED, TARIFF_NOT_EFFECTIVE, SOURCE_UNPRICED.
    """

    def __init__(
        self,
        versions: Sequence[Tariff],
        *,
        start_utc_ms: int,
        sources: Iterable[str] = ("grid",),
    ) -> None:
        self._sources = tuple(dict.fromkeys(sources))
        self._schedule = check_schedule(versions, self._sources)
        self._zone: ZoneInfo = zone_of(versions[0].zone)
        if self._schedule[0].tariff.effective_from_utc_ms > start_utc_ms:
            raise RefusedError(
                "TARIFF_NOT_EFFECTIVE",
                f"{versions[0].tariff_id} takes effect after the account starts",
                "effective_from",
            )
        self._books: dict[str, PeriodBook] = {}
        self._label_utc_ms = start_utc_ms
        self._unclosed = month_period(self._zone, start_utc_ms)
        self._posted_nano = 0
        self._posted_snapshot: list[object] | None = None
        self._enter(start_utc_ms)

    # -- energy ----------------------------------------------------------------------------

    @property
    def label_utc_ms(self) -> int:
        """Up to when energy is charged; never goes back, whatever the wall clock does."""
        return self._label_utc_ms

    @property
    def period_label(self) -> str:
        """The billing period that is open, such as `2026-02`."""
        return self._unclosed.label

    @property
    def next_boundary_utc_ms(self) -> int:
        """When another band, tariff version or period begins."""
        return self._segment_end_ms

    def advance(
        self,
        wh_by_source: Mapping[str, int] | Iterable[tuple[str, int]],
        from_utc_ms: int,
        to_utc_ms: int,
        gap_ms: int = GAP_MS,
    ) -> frozenset[Flag]:
        """Charge the energy that flowed between two readings.

        Energy in whole Wh per source. Its time runs from the label or `from_utc_ms`, whichever is
        later. A `to_utc_ms` that is not after both (the clock was set back, or is not trusted)
        charges everything at the label's rates and leaves the label. Raises RefusedError
        SOURCE_UNPRICED for a source that was not named at the start, CLOCK_IMPLAUSIBLE for a jump
        of ten years.
        """
        shares = wh_by_source.items() if isinstance(wh_by_source, Mapping) else wh_by_source
        shares = tuple(shares)
        lanes = self._lanes
        for source, wh in shares:
            if source not in lanes or wh < 0:
                raise _unusable(source, wh)
        label_ms = self._label_utc_ms
        start_ms = max(from_utc_ms, label_ms)
        if to_utc_ms <= start_ms:
            return self._charge_stepped(shares)
        if to_utc_ms < self._segment_end_ms:
            for source, wh in shares:
                if wh:
                    lanes[source].charge(wh)
            self._label_utc_ms = to_utc_ms
            flags = _NO_FLAGS
        else:
            flags = self._charge_across(shares, start_ms, to_utc_ms, gap_ms)
        if from_utc_ms >= label_ms:
            return flags
        self._tally.flags.add(Flag.CLOCK_STEPPED.value)
        return flags | _STEPPED

    def charge_at_label(self, shares: Iterable[tuple[str, int]]) -> None:
        """Charge energy at the rates of the label, on purpose: its time is not known.

        Raises RefusedError SOURCE_UNPRICED.
        """
        for source, wh in shares:
            if source not in self._lanes or wh < 0:
                raise _unusable(source, wh)
            if wh:
                self._lanes[source].charge(wh)

    def close_periods(self, now_utc_ms: int) -> int:
        """Let time pass without energy: close the periods that ended by now; how many.

        Closing charges the fixed fee of the version in force at the end. Energy that flowed in a
        closed period may still come late (a meter that was out of reach) and is charged there.
        """
        if now_utc_ms < self._unclosed.end_utc_ms:
            return 0
        if now_utc_ms - self._unclosed.end_utc_ms > MAX_STEP_MS:
            raise RefusedError("CLOCK_IMPLAUSIBLE", f"{now_utc_ms} is years ahead of the account")
        closed = 0
        while self._unclosed.end_utc_ms <= now_utc_ms:
            end_ms = self._unclosed.end_utc_ms
            self._charge_fixed_fee(self._unclosed)
            self._unclosed = month_period(self._zone, end_ms)
            closed += 1
        self._recount()
        return closed

    def add_version(self, tariff: Tariff) -> None:
        """Append a version that takes effect after the label.

        Raises RefusedError: TARIFF_RETROACTIVE, TARIFF_ORDER, TARIFF_MIXED, SOURCE_UNPRICED.
        """
        if tariff.effective_from_utc_ms < self._label_utc_ms:
            raise RefusedError(
                "TARIFF_RETROACTIVE",
                f"version {tariff.version} would take effect before energy already charged",
                "effective_from",
            )
        versions = [*(rates.tariff for rates in self._schedule), tariff]
        self._schedule = check_schedule(versions, self._sources)
        self._enter(self._label_utc_ms)

    # -- money -----------------------------------------------------------------------------

    def running_nano(self) -> int:
        """Charged and not yet posted: F now less F at the last posting."""
        tally = self._tally
        return self._elsewhere_nano + tally.total_nano() - tally.posted_nano

    def charged_nano(self) -> int:
        """Charged since the account started, posted or not."""
        return self._posted_nano + self.running_nano()

    @property
    def has_unposted(self) -> bool:
        """Whether `settle` would return something."""
        return any(tally.dirty for book in self._books.values() for tally in book.tallies.values())

    def settle(self) -> list[Posting]:
        """What was charged since the last call, per period and tariff version, now posted."""
        postings = [
            tally.settle(book.period.label)
            for book in self._books.values()
            for tally in book.tallies.values()
            if tally.dirty
        ]
        if postings:
            self._posted_nano += sum(posting.total_nano for posting in postings)
            self._posted_snapshot = None
        self._forget_passed()
        self._recount()
        return postings

    def price_of_next_wh(self, source: str, utc_ms: int) -> int:
        """Price in micro-units per kWh, before tax, of the next Wh of a source at an instant."""
        return self._lane_at(source, utc_ms).price_micro

    def remaining_wh(self, available_nano: int, source: str, utc_ms: int) -> float:
        """Wh of one source that `available_nano` buys, by the band and blocks at an instant.

        Tax is included, later bands are not; never more than the truth, infinite where energy is
        free. It schedules polls; a cut waits for the registers.
        """
        lane = self._lane_at(source, utc_ms)
        rules = [rule for rule in lane.rates.tariff.taxes if ENERGY in rule.bases]
        factor = PPM + sum(rule.rate_ppm for rule in rules)
        # A tax that was floored so far may add up to one nano more than its rate says.
        left = (available_nano - len(rules)) * PPM
        if left <= 0:
            return 0.0
        whole_wh = 0
        for room_wh, price_micro in lane.ahead():
            unit = price_micro * factor
            if room_wh is None or unit * room_wh >= left:
                return _floored_ratio(whole_wh * unit + left, unit) if unit else math.inf
            left -= unit * room_wh
            whole_wh += room_wh
        return math.inf

    # -- persistence -----------------------------------------------------------------------

    def snapshot(self) -> dict[str, object]:
        """State as plain JSON values: labels, posted counts and charges, unposted counts.

        Cheap enough for every sweep: the posted part is built once per posting.
        """
        if self._posted_snapshot is None:
            self._posted_snapshot = [
                tally.posted_state(book.period.label)
                for book in self._books.values()
                for tally in book.tallies.values()
                if tally.posted
            ]
        return {
            "label_utc_ms": self._label_utc_ms,
            "closed_utc_ms": self._unclosed.start_utc_ms,
            "posted_nano": self._posted_nano,
            "posted": self._posted_snapshot,
            "unposted": [
                tally.unposted_state(book.period.label)
                for book in self._books.values()
                for tally in book.tallies.values()
                if tally.dirty
            ],
        }

    @classmethod
    def restore(
        cls,
        versions: Sequence[Tariff],
        state: Mapping[str, object],
        *,
        sources: Iterable[str] = ("grid",),
    ) -> "Pricer":
        """A pricer that goes on where `snapshot` was taken.

        Raises RefusedError PRICING_STATE when the state does not fit itself or the tariffs.
        """
        saved = parse_state(state)
        pricer = cls(versions, start_utc_ms=saved.label_utc_ms, sources=sources)
        pricer._load(saved)
        return pricer

    def _load(self, saved: SavedPricing) -> None:
        self._posted_nano = saved.posted_nano
        self._unclosed = month_period(self._zone, saved.closed_utc_ms)
        versions = {(r.tariff.tariff_id, r.tariff.version): r for r in self._schedule}
        for line in saved.lines:
            rates = versions.get((line.tariff_id, line.version))
            if rates is None:
                raise RefusedError(
                    "PRICING_STATE", f"version {line.version} of {line.tariff_id} is missing"
                )
            try:
                period = labelled_month(self._zone, line.period)
            except ValueError as error:
                raise RefusedError("PRICING_STATE", str(error)) from error
            self._book(period).load(rates, line)
        for book in list(self._books.values()):
            if book.period.end_utc_ms <= self._unclosed.start_utc_ms:
                self._charge_fixed_fee(book.period)
        self._enter(saved.label_utc_ms)

    # -- inside ----------------------------------------------------------------------------

    def _charge_across(
        self, shares: Sequence[tuple[str, int]], start_ms: int, to_ms: int, gap_ms: int
    ) -> frozenset[Flag]:
        """Spread energy linearly over (start, to], floored to the earlier segments."""
        span_ms = to_ms - start_ms
        if to_ms - self._label_utc_ms > MAX_STEP_MS:
            raise RefusedError("CLOCK_IMPLAUSIBLE", f"{to_ms} is years ahead of the account")
        if start_ms >= self._segment_end_ms:
            self._enter(start_ms)
        booked_wh = [0] * len(shares)
        charged: list[Tally] = []
        segments = 1
        while True:
            end_ms = min(self._segment_end_ms, to_ms)
            for index, (source, wh) in enumerate(shares):
                until_wh = wh * (end_ms - start_ms) // span_ms
                if until_wh > booked_wh[index]:
                    self._lanes[source].charge(until_wh - booked_wh[index])
                    booked_wh[index] = until_wh
                    charged.append(self._tally)
            if end_ms == to_ms:
                break
            self._enter(end_ms)
            segments += 1
        self._label_utc_ms = to_ms
        if to_ms == self._segment_end_ms:
            self._enter(to_ms)
        self.close_periods(to_ms)
        self._recount()
        if segments == 1 or span_ms <= gap_ms or not charged:
            return _NO_FLAGS
        for tally in charged:
            tally.flags.add(Flag.ESTIMATED_ALLOCATION.value)
        return _ESTIMATED

    def _charge_stepped(self, shares: Sequence[tuple[str, int]]) -> frozenset[Flag]:
        for source, wh in shares:
            if wh:
                self._lanes[source].charge(wh)
                self._tally.flags.add(Flag.CLOCK_STEPPED.value)
        return _STEPPED

    def _enter(self, utc_ms: int) -> None:
        """Make the rate segment that holds this instant the current one."""
        book = self._book(month_period(self._zone, utc_ms))
        rates, self._segment_end_ms = self._in_force(utc_ms)
        self._segment_end_ms = min(self._segment_end_ms, book.period.end_utc_ms)
        self._tally = book.tally(rates)
        self._lanes: dict[str, Lane] = {}
        for source in self._sources:
            band, end_ms = band_run(rates.plans[source], self._zone, utc_ms, book.period.end_utc_ms)
            self._lanes[source] = Lane(book, self._tally, source, band)
            self._segment_end_ms = min(self._segment_end_ms, end_ms)
        self._recount()

    def _lane_at(self, source: str, utc_ms: int) -> Lane:
        """Where the next Wh at an instant is charged; instants before the label count as it."""
        if source not in self._lanes:
            raise _unusable(source, 0)
        if utc_ms < self._segment_end_ms:
            return self._lanes[source]
        period = month_period(self._zone, utc_ms)
        rates, _ = self._in_force(utc_ms)
        band, _ = band_run(rates.plans[source], self._zone, utc_ms, period.end_utc_ms)
        return Lane(self._books.get(period.label) or PeriodBook(period), Tally(rates), source, band)

    def _in_force(self, utc_ms: int) -> tuple[Rates, int]:
        """The version in force at an instant, and when the next one takes effect."""
        for index in range(len(self._schedule) - 1, 0, -1):
            rates = self._schedule[index]
            if rates.tariff.effective_from_utc_ms <= utc_ms:
                return rates, self._next_effective_ms(index)
        return self._schedule[0], self._next_effective_ms(0)

    def _next_effective_ms(self, index: int) -> int:
        if index + 1 == len(self._schedule):
            return _NEVER_MS
        return self._schedule[index + 1].tariff.effective_from_utc_ms

    def _book(self, period: Period) -> PeriodBook:
        book = self._books.get(period.label)
        if book is None:
            book = self._books[period.label] = PeriodBook(period)
            self._books = dict(sorted(self._books.items()))
        return book

    def _charge_fixed_fee(self, period: Period) -> None:
        rates, _ = self._in_force(period.end_utc_ms - 1)
        if rates.tariff.fixed_fee_nano:
            self._book(period).tally(rates).fixed_nano = rates.tariff.fixed_fee_nano

    def _recount(self) -> None:
        """What is charged and unposted outside the current tally, which alone keeps changing."""
        self._elsewhere_nano = sum(
            tally.total_nano() - tally.posted_nano
            for book in self._books.values()
            for tally in book.tallies.values()
            if tally is not self._tally
        )

    def _forget_passed(self) -> None:
        """Drop what can no longer change: periods that the label has left and that are closed."""
        settled_ms = min(self._label_utc_ms, self._unclosed.start_utc_ms)
        for label, book in list(self._books.items()):
            if book.period.end_utc_ms <= settled_ms:
                del self._books[label]
                self._posted_snapshot = None


def check_schedule(versions: Sequence[Tariff], sources: Sequence[str]) -> tuple[Rates, ...]:
    """The versions ready for use, once they fit one another and the sources."""
    if not versions:
        raise RefusedError("TARIFF_ORDER", "an account needs a tariff", "tariff_id")
    first = versions[0]
    for earlier, later in pairwise(versions):
        if later.effective_from_utc_ms <= earlier.effective_from_utc_ms:
            raise RefusedError(
                "TARIFF_ORDER",
                f"version {later.version} must take effect after version {earlier.version}",
                "effective_from",
            )
    if any((item.zone, item.currency) != (first.zone, first.currency) for item in versions):
        raise RefusedError("TARIFF_MIXED", "zone and currency may not change with a version")
    if len({(item.tariff_id, item.version) for item in versions}) < len(versions):
        raise RefusedError("TARIFF_ORDER", "a version stands twice", "version")
    for item in versions:
        for source in sources:
            if item.source(source) is None:
                raise RefusedError(
                    "SOURCE_UNPRICED",
                    f"version {item.version} of {item.tariff_id} has no price for {source}",
                    source,
                )
    return tuple(rates_of(item) for item in versions)


def _unusable(source: str, wh: int) -> Exception:
    if wh < 0:
        return ValueError(f"{wh} Wh of {source}: energy is never negative")
    return RefusedError("SOURCE_UNPRICED", f"this account has no source {source!r}", source)


def _floored_ratio(numerator: int, denominator: int) -> float:
    """The largest float not above the fraction."""
    ratio = numerator / denominator
    top, bottom = ratio.as_integer_ratio()
    return math.nextafter(ratio, 0.0) if top * denominator > numerator * bottom else ratio
