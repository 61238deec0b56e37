"""Energy into money: what an account owes, exactly, however often it is posted.

All that is not linear (blocks, taxes, fees, rebates) is a function F of a period's cumulative
counts (`charges.py`), and a posting is F now less F at the last posting. So the sums do not depend
on when postings happen (invariant I3). The one choice made per reading is how energy between two
readings falls on both sides of a boundary: linear in time, floored to the earlier side.

A `Pricer` belongs to one account and is advanced by every good reading; that takes about a
microsecond while the reading stays inside one rate segment, which is nearly always.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from gateway.core.bands import band_run
from gateway.core.errors import RefusedError
from gateway.core.period_books import MAX_STEP_MS, Counted, FeedLane, PeriodBooks
from gateway.core.pricing_state import parse_state
from gateway.core.rates import Cell
from gateway.core.remaining import remaining_wh
from gateway.core.schedule import Schedule, check_schedule, day_of_month
from gateway.core.tally import Flag, Lane, PeriodBook, Posting, Tally
from gateway.core.tariff import EXPORT, Tariff

__all__ = ["MAX_STEP_MS", "Cell", "Counted", "Flag", "Posting", "Pricer", "check_schedule"]

GAP_MS: Final = 60_000
_NO_FLAGS: Final[frozenset[Flag]] = frozenset()
_STEPPED: Final = frozenset({Flag.CLOCK_STEPPED})
_ESTIMATED: Final = frozenset({Flag.ESTIMATED_ALLOCATION})


class Pricer:
    """What one account has used and owes under a schedule of tariff versions.

    `versions` take effect one after the other, in one zone, currency and billing period; the first
    must be in force at `start_utc_ms`, from which on energy and fees are charged. `sources` are
    those behind the meter's registers; every version must price each of them. `opening_day` is the
    local day of the month on which the account was opened (None: that of the start). `joined` says
    that another tariff charged the account until then: its fees are paid for the day of the start.
    `counted` says so too, and what blocks go on from.

    Raises RefusedError: TARIFF_ORDER, TARIFF_MIXED, TARIFF_NOT_EFFECTIVE, SOURCE_UNPRICED.
    """

    def __init__(
        self,
        versions: Sequence[Tariff],
        *,
        start_utc_ms: int,
        sources: Iterable[str] = ("grid",),
        opening_day: int | None = None,
        joined: bool = False,
        counted: Counted | None = None,
    ) -> None:
        self._sources = tuple(dict.fromkeys(sources))
        if counted is not None:
            opening_day, joined = counted.opening_day, True
        if opening_day is None and versions:
            opening_day = day_of_month(versions[0], start_utc_ms)
        self._opening_day = opening_day or 1
        self._schedule = Schedule(versions, self._sources, self._opening_day)
        if versions[0].effective_from_utc_ms > start_utc_ms:
            raise RefusedError(
                "TARIFF_NOT_EFFECTIVE",
                f"{versions[0].tariff_id} takes effect after the account starts",
                "effective_from",
            )
        self._books = PeriodBooks(self._schedule, start_utc_ms, joined=joined)
        if counted is not None:
            self._books.carry(counted)
        self._label_utc_ms = start_utc_ms
        self._posted_nano = 0
        self._posted_snapshot: list[object] | None = None
        self._books.accrue(self._books.unclosed, start_utc_ms)
        self._lanes: dict[str, Lane] = {}
        # By source where its energy goes: its lane, and beside them what is fed in.
        self._sinks: dict[str, Lane | FeedLane] = {}
        self._stretch_end_ms = 0
        self._enter(start_utc_ms)

    # -- energy ----------------------------------------------------------------------------

    @property
    def label_utc_ms(self) -> int:
        """Up to when energy is charged; never goes back, whatever the wall clock does."""
        return self._label_utc_ms

    @property
    def period_label(self) -> str:
        """The billing period that is open, such as `2026-02`."""
        return self._books.unclosed.label

    @property
    def next_boundary_utc_ms(self) -> int:
        """When another band, tariff version or period begins."""
        return self._segment_end_ms

    @property
    def counted(self) -> Counted:
        """What blocks count up to the label, for the tariff that follows this one."""
        return self._books.counted(self._current, self._opening_day)

    @property
    def open_book(self) -> PeriodBook:
        """The books of the period that holds the label, to look at."""
        return self._current

    @property
    def accrued_utc_ms(self) -> int:
        """Up to which instant fees were accrued; none falls due between it and now."""
        return self._books.accrued_utc_ms

    @property
    def pays_for_feed_in(self) -> bool:
        """Whether the tariff has a feed-in price at the label."""
        return self._tally.rates.tariff.feed_in_micro is not None

    @property
    def fee_changes(self) -> int:
        """How often fees or a minimum charge changed what is owed, since this object was made.

        A step of it between two looks says that a charge was no second's use of energy.
        """
        return self._books.changes

    def advance(
        self,
        wh_by_source: Mapping[str, int] | Iterable[tuple[str, int]],
        from_utc_ms: int,
        to_utc_ms: int,
        gap_ms: int = GAP_MS,
    ) -> frozenset[Flag]:
        """Charge the energy that flowed between two readings.

        Energy in whole Wh per source, what was fed in under `export`. Its time runs from the label
        or `from_utc_ms`, whichever is later. A `to_utc_ms` that is not after both (the clock was
        set back, or is not trusted) charges everything at the label's rates and leaves the label.
        Raises RefusedError SOURCE_UNPRICED for a source that was not named at the start,
        CLOCK_IMPLAUSIBLE for a jump of ten years.
        """
        if isinstance(wh_by_source, tuple | list):
            shares: Sequence[tuple[str, int]] = wh_by_source
        elif isinstance(wh_by_source, Mapping):
            shares = tuple(wh_by_source.items())
        else:
            shares = tuple(wh_by_source)
        sinks = self._sinks
        for source, wh in shares:
            if source not in sinks or wh < 0:
                raise _unusable(source, wh)
        label_ms = self._label_utc_ms
        start_ms = max(from_utc_ms, label_ms)
        if to_utc_ms <= start_ms:
            return self._charge_stepped(shares)
        if to_utc_ms < self._calm_until_ms:
            for source, wh in shares:
                if wh:
                    sinks[source].charge(wh)
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
            if source not in self._sinks or wh < 0:
                raise _unusable(source, wh)
            if wh:
                self._sinks[source].charge(wh)

    def close_periods(self, now_utc_ms: int) -> int:
        """Let time pass without energy: accrue fees, close periods; above zero if that did either.

        Closing charges the fee that is due at the close, of the version in force at the end. Energy
        that flowed in a closed period may still come late (a meter that was out of reach) and is
        charged there; the minimum charge waits for it. Raises RefusedError CLOCK_IMPLAUSIBLE.
        """
        if now_utc_ms < self._books.due_utc_ms:
            return 0
        before_nano = self.running_nano()
        closed = self._books.pass_time(now_utc_ms, self._label_utc_ms)
        self._recount()
        return closed or int(self.running_nano() != before_nano)

    def recharged(self, utc_ms: int) -> bool:
        """The account was recharged: a fee that waits for the first recharge of a period is due.

        Time passes up to then. A recharge of an earlier period, or before the account's start, was
        none of this one. True when something was charged.
        """
        before_nano = self.running_nano()
        books = self._books
        if utc_ms - books.due_utc_ms <= MAX_STEP_MS:
            self.close_periods(utc_ms)
        if utc_ms < max(books.start_utc_ms, books.unclosed.start_utc_ms):
            return False
        book = books.book(books.unclosed)
        if not book.recharged:
            book.recharged = True
            books.accrue(books.unclosed, self._label_utc_ms)
            self._recount()
        return self.running_nano() != before_nano

    def end(self, utc_ms: int) -> bool:
        """Close the account: fees and minimum for the days it lasted; True if that changed charges.

        Its last day is paid for. An `utc_ms` before the label or before what is accrued counts as
        those. No energy may come afterwards. Raises RefusedError CLOCK_IMPLAUSIBLE.
        """
        before_nano = self.running_nano()
        end_utc_ms = max(utc_ms, self._label_utc_ms, self._books.accrued_utc_ms)
        self.close_periods(end_utc_ms)
        self._books.end(end_utc_ms, self._label_utc_ms)
        self._recount()
        return self.running_nano() != before_nano

    def add_version(self, tariff: Tariff) -> None:
        """Append a version that takes effect after the label and what is accrued.

        Raises RefusedError: TARIFF_RETROACTIVE, TARIFF_ORDER, TARIFF_MIXED, SOURCE_UNPRICED.
        """
        if tariff.effective_from_utc_ms < max(self._label_utc_ms, self._books.accrued_utc_ms):
            raise RefusedError(
                "TARIFF_RETROACTIVE",
                f"version {tariff.version} would take effect before what is already charged",
                "effective_from",
            )
        versions = [*self._schedule.tariffs, tariff]
        self._schedule = Schedule(versions, self._sources, self._opening_day)
        self._books.renew(self._schedule)
        self._stretch_end_ms = 0
        self._enter(self._label_utc_ms)

    # -- money -----------------------------------------------------------------------------

    def running_nano(self) -> int:
        """Charged and not yet posted: F now less F at the last posting."""
        if self._linked:
            self._recount()
        tally = self._tally
        return self._elsewhere_nano + tally.total_nano() - tally.posted_nano

    def charged_nano(self) -> int:
        """Charged since the account started, posted or not."""
        return self._posted_nano + self.running_nano()

    @property
    def has_unposted(self) -> bool:
        """Whether `settle` would return something."""
        self._books.link()
        return any(tally.dirty for _, tally in self._books.tallies())

    def settle(self) -> list[Posting]:
        """What was charged since the last call, per period and tariff version, now posted."""
        self._books.link()
        postings = [
            tally.settle(book.period.label, self._books.facts(book, self._label_utc_ms))
            for book, tally in list(self._books.tallies())
            if tally.dirty
        ]
        if postings:
            self._posted_nano += sum(posting.total_nano for posting in postings)
            self._posted_snapshot = None
        if self._books.forget_passed(self._label_utc_ms):
            self._posted_snapshot = None
        self._recount()
        return postings

    def price_of_next_wh(self, source: str, utc_ms: int) -> int:
        """Price in micro-units per kWh, before tax, of the next Wh of a source at an instant."""
        return self._lane_at(source, utc_ms).price_micro

    def remaining_wh(self, available_nano: int, source: str, utc_ms: int) -> float:
        """Wh of one source that `available_nano` buys, by the band and blocks at an instant.

        Taxes and rebates are included, later bands and fees are not; never more than the truth,
        infinite where energy is free. It schedules polls; a cut waits for the registers.
        """
        return remaining_wh(self._lane_at(source, utc_ms), available_nano)

    # -- persistence -----------------------------------------------------------------------

    def snapshot(self) -> dict[str, object]:
        """State as plain JSON values: labels, posted counts and charges, unposted counts.

        Cheap enough for every sweep: the posted part is built once per posting.
        """
        self._books.link()
        if self._posted_snapshot is None:
            self._posted_snapshot = [
                tally.posted_state(book.period.label)
                for book, tally in self._books.tallies()
                if tally.posted
            ]
        books = self._books
        state: dict[str, object] = {
            "label_utc_ms": self._label_utc_ms,
            "closed_utc_ms": books.unclosed.start_utc_ms,
            "start_utc_ms": books.start_utc_ms,
            "accrued_utc_ms": books.accrued_utc_ms,
            "opening_day": self._opening_day,
            "posted_nano": self._posted_nano,
            "posted": self._posted_snapshot,
            "unposted": [
                tally.unposted_state(book.period.label)
                for book, tally in self._books.tallies()
                if tally.dirty
            ],
        }
        recharged = [book.period.label for book in books.by_label.values() if book.recharged]
        if recharged:
            state["recharged"] = recharged
        if self._schedule.by_occupancy:
            state["occupancy_wh"] = [list(item) for item in books.occupancy_wh.items()]
        if books.joined:
            state["joined"] = 1
        fed = books.fed_state()
        if fed:
            state["fed"] = fed
        carried = [
            [book.period.label, *item]
            for book in books.by_label.values()
            for item in book.carried_wh.items()
        ]
        if carried:
            state["carried"] = carried
        if books.ended_utc_ms:
            state["ended_utc_ms"] = books.ended_utc_ms
        return state

    @classmethod
    def restore(
        cls,
        versions: Sequence[Tariff],
        state: Mapping[str, object],
        *,
        sources: Iterable[str] = ("grid",),
        opening_day: int | None = None,
        start_utc_ms: int | None = None,
    ) -> "Pricer":
        """A pricer that goes on where `snapshot` was taken.

        States of older programs do not tell when the account started; `start_utc_ms` says it for
        them (None: before all fees). Raises RefusedError PRICING_STATE when the state does not fit
        itself or the tariffs.
        """
        saved = parse_state(state)
        start = saved.start_utc_ms if saved.start_utc_ms is not None else start_utc_ms
        if saved.opening_day is not None:
            opening_day = saved.opening_day
        if opening_day is None and start is not None and versions:
            opening_day = day_of_month(versions[0], start)
        pricer = cls(
            versions, start_utc_ms=saved.label_utc_ms, sources=sources, opening_day=opening_day
        )
        pricer._posted_nano = saved.posted_nano
        pricer._books.load(saved, start or 0)
        pricer._stretch_end_ms = 0
        pricer._enter(saved.label_utc_ms)
        return pricer

    # -- inside ----------------------------------------------------------------------------

    def _charge_across(
        self, shares: Sequence[tuple[str, int]], start_ms: int, to_ms: int, gap_ms: int
    ) -> frozenset[Flag]:
        """Charge energy of (start, to], whose end is beyond what a reading may cross unseen."""
        label_ms = self._label_utc_ms
        if to_ms - label_ms > MAX_STEP_MS:
            raise RefusedError("CLOCK_IMPLAUSIBLE", f"{to_ms} is years ahead of the account")
        flags = _NO_FLAGS
        if start_ms < self._segment_end_ms >= to_ms:
            for source, wh in shares:
                if wh:
                    self._sinks[source].charge(wh)
        else:
            flags = self._spread(shares, start_ms, to_ms, gap_ms)
        self._label_utc_ms = to_ms
        if to_ms == self._segment_end_ms:
            self._enter(to_ms)
        self.close_periods(to_ms)
        if self._schedule.has_minimum:
            self._books.accrue_left(label_ms, to_ms)
            self._recount()
        return flags

    def _spread(
        self, shares: Sequence[tuple[str, int]], start_ms: int, to_ms: int, gap_ms: int
    ) -> frozenset[Flag]:
        """Spread energy linearly over (start, to], floored to the earlier segments."""
        span_ms = to_ms - start_ms
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
                    self._sinks[source].charge(until_wh - booked_wh[index])
                    booked_wh[index] = until_wh
                    charged.append(self._tally)
            if end_ms == to_ms:
                break
            self._enter(end_ms)
            segments += 1
        if segments == 1 or span_ms <= gap_ms or not charged:
            return _NO_FLAGS
        for tally in charged:
            tally.flags.add(Flag.ESTIMATED_ALLOCATION.value)
        return _ESTIMATED

    def _charge_stepped(self, shares: Sequence[tuple[str, int]]) -> frozenset[Flag]:
        for source, wh in shares:
            if wh:
                self._sinks[source].charge(wh)
                self._tally.flags.add(Flag.CLOCK_STEPPED.value)
        return _STEPPED

    def _enter(self, utc_ms: int) -> None:
        """Make the rate segment that holds this instant the current one."""
        if utc_ms < self._stretch_end_ms:
            self._turn(utc_ms)
            return
        schedule = self._schedule
        book = self._current = self._books.book(schedule.period_at(utc_ms))
        rates, until_ms = schedule.in_force(utc_ms)
        self._stretch_end_ms = min(until_ms, book.period.end_utc_ms)
        self._tally = book.tally(rates)
        self._lanes = {}
        self._sinks = {EXPORT: FeedLane(self._books, self._tally)}
        self._turn(utc_ms)
        self._recount()

    def _turn(self, utc_ms: int) -> None:
        """Take the bands of an instant in the same period and version: nothing else changes."""
        tally, period = self._tally, self._current.period
        until_ms = self._stretch_end_ms
        for source in self._sources:
            plan, lane = tally.rates.plans[source], self._lanes.get(source)
            if lane is not None and plan.single:
                continue
            band, end_ms = band_run(plan, self._schedule.zone, utc_ms, period.end_utc_ms)
            until_ms = min(until_ms, end_ms)
            if lane is None or lane.band != band:
                counter_wh = self._books.counter_wh(self._current)
                lane = Lane(counter_wh, tally, source, band)
                self._lanes[source] = self._sinks[source] = lane
        self._segment_end_ms = until_ms
        self._calm_until_ms = min(until_ms, self._books.due_utc_ms)

    def _lane_at(self, source: str, utc_ms: int) -> Lane:
        """Where the next Wh at an instant is charged; instants before the label count as it."""
        if source not in self._lanes:
            raise _unusable(source, 0)
        if utc_ms < self._segment_end_ms:
            return self._lanes[source]
        schedule = self._schedule
        period = schedule.period_at(utc_ms)
        rates, _ = schedule.in_force(utc_ms)
        band, _ = band_run(rates.plans[source], schedule.zone, utc_ms, period.end_utc_ms)
        book = self._books.by_label.get(period.label) or PeriodBook(period)
        counter_wh = self._books.counter_wh(book)
        return Lane(counter_wh, book.tally_ahead(rates), source, band)

    def _recount(self) -> None:
        """What is charged and unposted outside the current tally, which alone keeps changing.

        Up to `_calm_until_ms` a reading only adds to the lanes; `_linked` says that the current
        tally also changes later ones.
        """
        current, elsewhere_nano = self._tally, 0
        for book in self._books.by_label.values():
            book.link()
            for tally in book.tallies.values():
                if tally is not current:
                    elsewhere_nano += tally.total_nano() - tally.posted_nano
        self._elsewhere_nano = elsewhere_nano
        self._linked = self._current.is_linked(self._tally)
        self._calm_until_ms = min(self._segment_end_ms, self._books.due_utc_ms)


def _unusable(source: str, wh: int) -> Exception:
    if wh < 0:
        return ValueError(f"{wh} Wh of {source}: energy is never negative")
    return RefusedError("SOURCE_UNPRICED", f"this account has no source {source!r}", source)
