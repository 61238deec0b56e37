"""A customer's account over its service points: one credit, whatever its meters use.

Readings come by point; what they use is weighed against the credit of the account that the point
belongs to. Supply of every point of it follows.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from gateway.core.credit import CreditBook, PaymentMode
from gateway.core.ledger import Entry, Transaction, TransactionKind
from gateway.core.supply import Supply
from gateway.core.switching import Reason


class ChargedPoint(Protocol):
    """A service point as its account sees it."""

    supply: Supply

    @property
    def running_nano(self) -> int:
        """Priced consumption since the last posting."""
        ...

    @property
    def p_max_w(self) -> int:
        """The most that it can draw."""
        ...


class Account:
    """Credit and points of one customer. Single-threaded; times come with the calls.

    `defers_cut(utc_ms)` says whether a calendar keeps supply on at an instant although credit is
    used up. While `held` is above zero a request about this account is under way: nothing is posted
    in between, so that what it computed is still true when it is committed.
    """

    def __init__(self, account_id: str, credit: CreditBook | None = None) -> None:
        self.account_id = account_id
        self.credit = credit or CreditBook(account_id)
        self.points: list[ChargedPoint] = []
        self.defers_cut: Callable[[int], bool] | None = None
        self.held = 0
        self.is_kept_on = False  # exhausted, and a calendar keeps supply on
        self._outbox: list[Transaction] = []

    @property
    def running_nano(self) -> int:
        """Priced consumption of all points since their last postings."""
        running_nano = 0
        for point in self.points:
            running_nano += point.running_nano
        return running_nano

    @property
    def available_nano(self) -> int:
        """What may still be used before supply is disabled."""
        return self.credit.available_nano(self.running_nano)

    @property
    def p_max_w(self) -> int:
        """The most that all points together can draw."""
        return sum(point.p_max_w for point in self.points)

    # -- supply ----------------------------------------------------------------------------

    def is_due(self, utc_ms: int) -> bool:
        """Whether supply is to be disabled for credit at this instant."""
        running_nano = self.running_nano
        if self.credit.invokes_itself(running_nano):
            self.credit.is_invoked = True
        if not self.credit.is_exhausted(running_nano, utc_ms):
            self.is_kept_on = False
            return False
        if self.defers_cut is not None and self.defers_cut(utc_ms):
            self.is_kept_on = True
            return False
        return True

    def is_cut_at_zero(self, utc_ms: int) -> bool:
        """Whether supply is cut the moment the credit is used up (not in credit mode, nor while a
        calendar keeps it on): then the end of the credit is looked for closely."""
        if self.credit.terms.payment_mode is PaymentMode.CREDIT:
            return False
        return self.defers_cut is None or not self.defers_cut(utc_ms)

    def credited(self, utc_ms: int) -> list[ChargedPoint]:
        """A committed posting lifted the credit: the points at which CREDIT was cleared by it."""
        if self.credit.is_exhausted(self.running_nano, utc_ms):
            return []
        return [point for point in self.points if point.supply.unblock(Reason.CREDIT)]

    @property
    def is_disabled(self) -> bool:
        """Whether supply of a point is blocked for credit."""
        return any(Reason.CREDIT in point.supply.reasons for point in self.points)

    # -- what the rules post by themselves -------------------------------------------------

    def pass_day(self, day: int, utc_ms: int) -> bool:
        """Collect what is due by the day (days since 1970, local); True when something is posted.

        Only called while the wall clock is trusted.
        """
        if self.held:
            return False
        collected = self.credit.collect(day, self.running_nano, is_disabled=self.is_disabled)
        for entries in collected:
            self._post(TransactionKind.DEBT_COLLECTION, entries, utc_ms)
        return bool(collected)

    def take_postings(self, utc_ms: int) -> list[Transaction]:
        """What is to be posted beside consumption, in this order: dues by the day, then what
        emergency credit bears. The credit has changed already; the caller commits."""
        drawn = self.credit.draw()
        if drawn:
            self.credit.apply(drawn)
            self._post(TransactionKind.EMERGENCY_DRAW, drawn, utc_ms)
        postings, self._outbox = self._outbox, []
        return postings

    def _post(self, kind: TransactionKind, entries: Iterable[Entry], utc_ms: int) -> None:
        self._outbox.append(
            Transaction(
                kind=kind, utc_ms=utc_ms, entries=tuple(entries), account_id=self.account_id
            )
        )
