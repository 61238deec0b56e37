"""The periods of an account that are not over yet, and what time alone makes due in them."""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from gateway.core.civil import DAY_MS, Period, civil_day, midnight
from gateway.core.errors import RefusedError
from gateway.core.fees import Facts
from gateway.core.pricing_state import SavedPricing
from gateway.core.schedule import NEVER_MS, Schedule
from gateway.core.tally import PeriodBook, Tally

# A label further ahead than this is a broken clock; every month in between would be charged.
MAX_STEP_MS: Final = 10 * 366 * DAY_MS


class Counted(NamedTuple):
    """What blocks have counted at a change of tariff: they go on under the next one.

    `wh` by source are those of `period`, or with None those of the whole occupancy. `opening_day`
    is the local day of the month on which the account was opened.
    """

    opening_day: int
    period: Period | None
    wh: Mapping[str, int]


class PeriodBooks:
    """Books by period, and how far time has passed for fees.

    `unclosed` is the period that is open at `accrued_utc_ms`; `due_utc_ms` is when a fee may fall
    due next or that period closes. `label_utc_ms`, up to when energy is known, is an argument.
    `changes` counts how often fees or a minimum changed what is owed; `has_fed` says that something
    was fed in.
    """

    def __init__(self, schedule: Schedule, start_utc_ms: int, *, joined: bool = False) -> None:
        self.schedule = schedule
        self.joined = joined
        self.by_label: dict[str, PeriodBook] = {}
        self.occupancy_wh: dict[str, int] = {}
        self.start_utc_ms = start_utc_ms
        self.accrued_utc_ms = start_utc_ms
        self.ended_utc_ms = 0
        self.changes = 0
        self.has_fed = False
        self.unclosed = schedule.period_at(start_utc_ms)
        self.due_utc_ms = self._next_due()

    def book(self, period: Period) -> PeriodBook:
        """The book of a period, begun when it is not there."""
        book = self.by_label.get(period.label)
        if book is None:
            book = PeriodBook(period)
            self.by_label = dict(sorted({**self.by_label, period.label: book}.items()))
        return book

    def counter_wh(self, book: PeriodBook) -> dict[str, int]:
        """The Wh by source that choose the block: of the period or of the whole occupancy."""
        return self.occupancy_wh if self.schedule.by_occupancy else book.cumulative_wh

    def counted(self, book: PeriodBook, opening_day: int) -> Counted:
        """What chooses the block by now, in this book's period."""
        period = None if self.schedule.by_occupancy else book.period
        return Counted(opening_day, period, dict(self.counter_wh(book)))

    def carry(self, counted: Counted) -> None:
        """Go on from what another tariff counted, where both count by the same."""
        if self.schedule.by_occupancy:
            self.occupancy_wh = dict(counted.wh) if counted.period is None else {}
        elif counted.period == self.unclosed:
            self.book(self.unclosed).carry(counted.wh)

    def tallies(self) -> Iterator[tuple[PeriodBook, Tally]]:
        """Every tally with its book, in time's order."""
        for book in self.by_label.values():
            for tally in book.tallies.values():
                yield book, tally

    def fed_state(self) -> list[list[object]]:
        """What was fed in, by period and version, as JSON values."""
        if not self.has_fed:
            return []
        fed = [(book.period.label, tally) for book, tally in self.tallies() if tally.fed_wh]
        return [tally.fed_state(label) for label, tally in fed]

    def link(self) -> None:
        """Bring rebates that go on from version to version up to date."""
        for book in self.by_label.values():
            book.link()

    def facts(self, book: PeriodBook, label_utc_ms: int) -> Facts:
        """What is known of a period."""
        complete = book.period.end_utc_ms <= label_utc_ms or self.ended_utc_ms > 0
        return Facts(self.accrued_utc_ms, book.recharged, complete, self.ended_utc_ms, self.joined)

    def pass_time(self, now_utc_ms: int, label_utc_ms: int) -> int:
        """Accrue what falls due up to now (`due_utc_ms` at least); the periods that closed."""
        if now_utc_ms - self.due_utc_ms > MAX_STEP_MS:
            raise RefusedError("CLOCK_IMPLAUSIBLE", f"{now_utc_ms} is years ahead of the account")
        closed = 0
        while self.due_utc_ms <= now_utc_ms:
            self.accrued_utc_ms = self.due_utc_ms
            if self.accrued_utc_ms >= self.unclosed.end_utc_ms:
                self.accrue(self.unclosed, label_utc_ms)
                self.unclosed = self.schedule.period_at(self.accrued_utc_ms)
                closed += 1
            self.due_utc_ms = self._next_due()
        self.accrue(self.unclosed, label_utc_ms)
        return closed

    def accrue(self, period: Period, label_utc_ms: int) -> None:
        """Charge what is due in a period by now; a book is begun where that is something."""
        if not self.schedule.has_dues:
            return
        book = self.by_label.get(period.label) or PeriodBook(period)
        before_nano = book.dues_nano
        book.accrue(self.schedule, self.start_utc_ms, self.facts(book, label_utc_ms))
        self.changes += book.dues_nano != before_nano
        if book.tallies and period.label not in self.by_label:
            self.by_label = dict(sorted({**self.by_label, period.label: book}.items()))

    def accrue_left(self, from_utc_ms: int, label_utc_ms: int) -> None:
        """Charge the minimum of periods that the label has left on its way."""
        if not self.schedule.has_minimum:
            return
        period = self.schedule.period_at(from_utc_ms)
        while period.end_utc_ms <= label_utc_ms:
            self.accrue(period, label_utc_ms)
            period = self.schedule.period_at(period.end_utc_ms)

    def end(self, end_utc_ms: int, label_utc_ms: int) -> None:
        """The account ends at an instant up to which time has passed."""
        self.ended_utc_ms = self.accrued_utc_ms = end_utc_ms
        self.due_utc_ms = NEVER_MS
        period = self.schedule.period_at(label_utc_ms)
        while period.start_utc_ms <= end_utc_ms:
            self.accrue(period, label_utc_ms)
            period = self.schedule.period_at(period.end_utc_ms)

    def renew(self, schedule: Schedule) -> None:
        """Go on under a schedule with one more version."""
        self.schedule = schedule
        if not self.ended_utc_ms:
            self.due_utc_ms = self._next_due()

    def forget_passed(self, label_utc_ms: int) -> bool:
        """Drop periods that can no longer change: closed, and left by the label."""
        settled_ms = min(label_utc_ms, self.unclosed.start_utc_ms)
        passed = [k for k, book in self.by_label.items() if book.period.end_utc_ms <= settled_ms]
        for label in passed:
            del self.by_label[label]
        return bool(passed)

    def load(self, saved: SavedPricing, start_utc_ms: int) -> None:
        """Take up a saved state. Raises RefusedError PRICING_STATE."""
        schedule = self.schedule
        self.by_label.clear()
        self.start_utc_ms = start_utc_ms
        self.joined = saved.joined
        self.unclosed = schedule.period_at(saved.closed_utc_ms)
        accrued = saved.accrued_utc_ms
        self.accrued_utc_ms = saved.closed_utc_ms if accrued is None else accrued
        self.ended_utc_ms = saved.ended_utc_ms
        self.due_utc_ms = NEVER_MS if saved.ended_utc_ms else self._next_due()
        versions = {rates.key: rates for rates in schedule.rates}
        for line in saved.lines:
            rates = versions.get((line.tariff_id, line.version))
            if rates is None:
                raise RefusedError(
                    "PRICING_STATE", f"version {line.version} of {line.tariff_id} is missing"
                )
            self.book(self._labelled(line.period)).load(rates, line)
        self.has_fed = bool(saved.fed)
        for feed in saved.fed:
            fed_rates = versions.get((feed.tariff_id, feed.version))
            if fed_rates is None:
                raise RefusedError(
                    "PRICING_STATE", f"version {feed.version} of {feed.tariff_id} is missing"
                )
            tally = self.book(self._labelled(feed.period)).tally(fed_rates)
            tally.load_fed(feed.fed_wh, feed.posted_wh)
        for label, wh_by_source in saved.carried.items():
            self.book(self._labelled(label)).carry(wh_by_source)
        for label in saved.recharged:
            self.book(self._labelled(label)).recharged = True
        self.occupancy_wh = dict(saved.occupancy_wh or ())
        for book in list(self.by_label.values()):
            self.accrue(book.period, saved.label_utc_ms)

    def _labelled(self, label: str) -> Period:
        try:
            return self.schedule.labelled(label)
        except ValueError as error:
            raise RefusedError("PRICING_STATE", str(error)) from error

    def _next_due(self) -> int:
        schedule, accrued_ms = self.schedule, self.accrued_utc_ms
        due_ms = min(self.unclosed.end_utc_ms, schedule.next_fee_version_ms(accrued_ms))
        if schedule.has_daily_fee:
            due_ms = min(due_ms, midnight(schedule.zone, civil_day(schedule.zone, accrued_ms) + 1))
        return due_ms


class FeedLane:
    """Where energy goes that is fed in, while its tariff version lasts: no bands, no blocks."""

    __slots__ = ("_books", "_tally")

    def __init__(self, books: PeriodBooks, tally: Tally) -> None:
        self._books = books
        self._tally = tally

    def charge(self, wh: int) -> None:
        """Count `wh` (> 0) and what they are worth."""
        self._books.has_fed = True
        self._tally.feed(wh)
