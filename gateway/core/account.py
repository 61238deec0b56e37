"""A customer's account over its service points: one credit, whatever its meters use.

Readings come by point; what they use is weighed against the credit of the account that the point
belongs to. Supply of every point of it follows.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Protocol, cast

from gateway.core.credit import CreditBook, CreditTerms, PaymentMode
from gateway.core.ledger import Entry, Transaction, TransactionKind
from gateway.core.lowcredit import LowCredit, LowCreditWatch
from gateway.core.supply import Supply
from gateway.core.switching import Reason


class ChargedPoint(Protocol):
    """A service point as its account sees it.

    `excused` says that the account was charged for a fee or a gap since its last reading.
    """

    supply: Supply
    excused: bool

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

    `low_credit` alerts; days left are told to it by whoever forecasts. While `held` is above zero a
    request about this account is under way: nothing is posted in between, so that what it computed
    is still true when it is committed. `recharged_utc_ms` is the label of a recharge until fees
    that waited for it are charged, else None; `opened_utc_ms` that of the account's opening: the
    periods of all its points begin on that day of the month.
    """

    def __init__(
        self, account_id: str, credit: CreditBook | None = None, *, opened_utc_ms: int = 0
    ) -> None:
        self.account_id = account_id
        self.opened_utc_ms = opened_utc_ms
        self.credit = credit or CreditBook(account_id)
        self.low_credit = LowCreditWatch(self.credit.terms.low_credit)
        self.points: list[ChargedPoint] = []
        self.held = 0
        self.recharged_utc_ms: int | None = None
        self._outbox: list[Transaction] = []

    def agree(self, terms: CreditTerms) -> None:
        """Go on under other terms; a threshold that stays keeps whether it was told."""
        self.credit.terms = terms
        kept, self.low_credit = self.low_credit, LowCreditWatch(terms.low_credit)
        self.low_credit.restore(kept.snapshot())

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

    # -- requests --------------------------------------------------------------------------

    def copy(self) -> "Account":
        """Credit and alerts as they are now, without points: to see what a request makes of them
        before it is committed."""
        made = Account(self.account_id, deepcopy(self.credit))
        made.low_credit.restore(self.low_credit.snapshot())
        made.recharged_utc_ms = self.recharged_utc_ms
        return made

    def take_over(self, copy: "Account") -> None:
        """A copy's request was committed."""
        self.credit, self.low_credit = copy.credit, copy.low_credit
        self.recharged_utc_ms = copy.recharged_utc_ms

    def received(self, transaction: Transaction, day: int, running_nano: int) -> None:
        """Money came in (or its reversal took it back, or a debt was given up): credit and alerts
        follow."""
        if transaction.kind is TransactionKind.WRITE_OFF:
            self.credit.apply(transaction.entries)
        else:
            self.credit.received(transaction.entries, day)
        own_nano = self.credit.own_nano(running_nano)
        if transaction.kind is TransactionKind.RECHARGE:
            self.recharged_utc_ms = transaction.utc_ms
            self.low_credit.recharged(money_in_nano(transaction), own_nano)
        elif transaction.kind is not TransactionKind.REVERSAL:
            self.low_credit.credited(own_nano)

    def charge(self, amount_nano: int) -> None:
        """A posting of a point: its charges leave the wallet. What lifts it, since more was fed in
        than used, is a credit to the alerts too."""
        self.credit.charge(amount_nano)
        if amount_nano < 0:
            self.low_credit.credited(self.credit.own_nano(self.running_nano))

    # -- supply ----------------------------------------------------------------------------

    def cut_nano(self, utc_ms: int) -> int:
        """What is left until supply is to be disabled for credit: zero or below says so.

        In credit mode that is 0 once a notice has run out, else 1.
        """
        running_nano = self.running_nano
        if self.credit.terms.payment_mode is PaymentMode.CREDIT:
            return int(not self.credit.is_exhausted(running_nano, utc_ms))
        if self.credit.invokes_itself(running_nano):
            # A point that was cut before the loan was agreed has credit again too.
            self.credited(utc_ms)
        return self.credit.available_nano(running_nano)

    def is_cut_at_zero(self, utc_ms: int) -> bool:
        """Whether supply is cut the moment the credit is used up (not in credit mode, nor while a
        calendar keeps it on): then the end of the credit is looked for closely."""
        terms = self.credit.terms
        if terms.payment_mode is PaymentMode.CREDIT:
            return False
        return terms.calendar is None or not terms.calendar.is_friendly(utc_ms)

    def alerts(self) -> tuple[LowCredit, ...]:
        """Thresholds that the credit, emergency credit aside, has just reached."""
        if not self.credit.terms.low_credit:
            return ()
        return self.low_credit.observe(self.credit.own_nano(self.running_nano))

    def credited(self, utc_ms: int) -> list[ChargedPoint]:
        """A committed posting lifted the credit, or other terms did: the points at which CREDIT was
        cleared by it.

        Automatic emergency credit is taken up here too: once all points are cut no reading judges
        the credit any more.
        """
        running_nano = self.running_nano
        if self.credit.invokes_itself(running_nano):
            self.credit.is_invoked = True
        if self.credit.is_exhausted(running_nano, utc_ms):
            return []
        return [point for point in self.points if point.supply.unblock(Reason.CREDIT)]

    @property
    def is_disabled(self) -> bool:
        """Whether supply of a point is blocked for credit."""
        return any(Reason.CREDIT in point.supply.reasons for point in self.points)

    def is_lifted(self, utc_ms: int) -> bool:
        """Whether the credit is there again, by what is not posted yet, and supply still blocked
        for it."""
        return self.is_disabled and not self.credit.is_exhausted(self.running_nano, utc_ms)

    # -- persistence -----------------------------------------------------------------------

    def snapshot(self) -> dict[str, object]:
        """What is not in the ledger's balances, as JSON values."""
        return {
            **self.credit.snapshot(),
            "low_credit": self.low_credit.snapshot(),
            "recharged_utc_ms": self.recharged_utc_ms,
        }

    def restore(self, state: Mapping[str, object] | None) -> None:
        """Take up what `snapshot` kept beside the credit."""
        if state is None:
            return
        self.recharged_utc_ms = cast("int | None", state.get("recharged_utc_ms"))
        if (kept := state.get("low_credit")) is not None:
            self.low_credit.restore(cast("Mapping[str, object]", kept))

    # -- what the rules post by themselves -------------------------------------------------

    def pass_day(self, day: int, utc_ms: int) -> bool:
        """Collect what is due by the day (days since 1970, local); True when something is posted.

        Only called while the wall clock is trusted.
        """
        if self.held:
            return False
        # What was fed in bears no due until it is posted: the ledger alone tells then who bore it.
        running_nano = max(0, self.running_nano)
        collected = self.credit.collect(day, running_nano, is_disabled=self.is_disabled)
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


def money_in_nano(transaction: Transaction) -> int:
    """What was paid by a transaction: the sum of what it gives."""
    return sum(entry.amount_nano for entry in transaction.entries if entry.amount_nano > 0)
