"""The ledger computed again from what it was made of (invariant I14).

Settlement rows say which Wh were counted at which rates and what was known of the period; requests
say what people asked for. From these, the tariffs and nothing else every charge and every entry
follows, from the first transaction on. A `Replay` is given the transactions in their order and says
where the ledger holds something else. It goes on from what it has computed, so that one change is
one difference and all balances are those of the rules.

What is taken as it stands, because the ledger does not tell where it comes from, is counted by
reason in `unproved`.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Final

from gateway.core import requests as wishes
from gateway.core.civil import local_time
from gateway.core.credit import CATCH_UP_DAYS, CreditBook, CreditTerms
from gateway.core.errors import GatewayError
from gateway.core.ledger import (
    Entry,
    Transaction,
    TransactionKind,
    canonical_json,
    merge_entries,
    settlement_of,
)
from gateway.core.provenance import debt_terms_of
from gateway.core.replay_energy import EnergyReplay
from gateway.core.replay_money import Drawers, Money, NothingFollowsError, Sources
from gateway.core.replay_times import SLACK_MS, decision_problems
from gateway.core.shift import shift_of

OLD_LINES: Final = "settlement lines of an older program: fees, rebates and taxes in them"
UNREADABLE: Final = "requests that this program cannot read: what they made"
UNPOSTED_USE: Final = "debts by the day: whether the wallet bore them, by use that was not posted"
# A request of these is always a transaction; of others it is one where there is an amount.
ALWAYS_POSTED: Final = (
    wishes.Recharge,
    wishes.ReverseTransaction,
    wishes.AddDebt,
    wishes.WriteOff,
    wishes.Transfer,
    wishes.IssueVoucher,
    wishes.RedeemVoucher,
    wishes.CancelVoucher,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was carried out, and who made it; `body` None where this program cannot read
    it."""

    key: str
    utc_ms: int
    body: wishes.Body | None
    actor: str = ""
    role: str = ""

    @property
    def is_posted(self) -> bool:
        """Whether there must be a transaction of it."""
        if isinstance(self.body, wishes.OpenAccount):
            return self.body.opening_balance_nano != 0
        return isinstance(self.body, ALWAYS_POSTED)


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the ledger holds something else than follows. `seq` 0: a transaction that is missing.

    `account` is a ledger account with what is there and what follows, or empty where `what` says
    all of it.
    """

    seq: int
    what: str
    account: str = ""
    found_nano: int = 0
    expected_nano: int = 0

    @property
    def words(self) -> str:
        """All of it in a line."""
        place = f"transaction {self.seq}: " if self.seq else ""
        if not self.account:
            return place + self.what
        return (
            f"{place}{self.what}: {self.account} moves by {self.found_nano}, "
            f"computed again by {self.expected_nano}"
        )


class Replay:
    """Takes the transactions of a ledger in their order; `balances` are what it ought to hold.

    `requests` are those that were carried out, in their order; `read_terms` makes terms of a
    document.
    """

    def __init__(
        self,
        sources: Sources,
        requests: Sequence[Asked],
        read_terms: Callable[[Mapping[str, object]], CreditTerms],
    ) -> None:
        self._money = Money(sources)
        self._energy = EnergyReplay(sources.tariffs, sources.stays)
        self._drawers = Drawers(sources.shift_of)
        self._decisions = [
            (asked.utc_ms, asked.body)
            for asked in requests
            if isinstance(asked.body, wishes.ReplaceMeter | wishes.ReleaseQuarantine)
        ]
        self._utc_ms = 0
        for asked in requests:
            if isinstance(asked.body, wishes.Recharge):
                self._energy.recharged(asked.body.account_id, asked.utc_ms)
        self._requests = requests
        self._positions = {asked.key: at for at, asked in enumerate(requests)}
        self._next = 0
        self._used: set[int] = set()
        self._collected: dict[str, int] = {}
        self._rounds: dict[str, _Round] = {}
        self._read_terms = read_terms
        self.balances: dict[str, int] = {}
        self.unproved: Counter[str] = Counter()

    def take(self, seq: int, transaction: Transaction) -> list[Difference]:
        """What the next transaction holds that does not follow."""
        found: list[Difference] = []
        if transaction.utc_ms < self._utc_ms - SLACK_MS:
            found.append(Difference(seq, f"its time is {self._utc_ms - transaction.utc_ms} ms ago"))
        self._utc_ms = max(self._utc_ms, transaction.utc_ms)
        if transaction.kind is TransactionKind.SETTLEMENT:
            made = self._settlement(seq, transaction, found)
        elif transaction.request_key is not None:
            made = self._asked_for(seq, transaction, found)
        else:
            made = self._by_itself(seq, transaction, found)
        found += _differences(seq, transaction, made)
        for entry in made.entries:
            name = entry.ledger_account
            self.balances[name] = self.balances.get(name, 0) + entry.amount_nano
        if transaction.kind is not TransactionKind.SETTLEMENT:
            self._money.took(made)
        if made.kind is TransactionKind.RECHARGE and "voucher" in dict(made.memo):
            self._energy.recharged(made.account_id or "", made.utc_ms)
        return found

    def end(self) -> list[Difference]:
        """After the last transaction: requests that were carried out and posted nothing, stays that
        were not charged to their end."""
        unpaid = [Difference(0, what) for what in self._energy.end()]
        return [*self._pass(len(self._requests)), *unpaid]

    # -- consumption -----------------------------------------------------------------------

    def _settlement(
        self, seq: int, transaction: Transaction, found: list[Difference]
    ) -> Transaction:
        computed = self._energy.take(transaction.settlements, transaction.utc_ms)
        found += [Difference(seq, what) for what in computed.problems]
        found += [
            Difference(seq, what)
            for what in decision_problems(
                transaction.settlements, self._decisions, transaction.utc_ms
            )
        ]
        if computed.unproved:
            self.unproved[OLD_LINES] += computed.unproved
        for line, stored in zip(computed.lines, transaction.settlements, strict=True):
            charged_nano = sum(amount_nano for _, amount_nano in line.charges)
            self._money.credit(line.account_id).charge(charged_nano)
            found += _line_differences(seq, line.charges, stored.charges, stored.meter_id)
        made = settlement_of(computed.lines, utc_ms=transaction.utc_ms)
        return transaction if made is None else made

    # -- requests --------------------------------------------------------------------------

    def _asked_for(
        self, seq: int, transaction: Transaction, found: list[Difference]
    ) -> Transaction:
        at = self._positions.get(transaction.request_key or "")
        if at is None or at in self._used:
            what = "nobody asked for it" if at is None else "its request was carried out before"
            found.append(Difference(seq, f"{transaction.kind}: {what}"))
            return transaction
        found += self._pass(at)
        self._used.add(at)
        body = self._requests[at].body
        if body is None:
            self.unproved[UNREADABLE] += 1
            return transaction
        try:
            made = self._money.expected(body, transaction)
        except (NothingFollowsError, ValueError) as error:
            found.append(Difference(seq, f"{transaction.kind}: {error}"))
            return transaction
        self.unproved.update(self._money.notes)
        self._money.notes.clear()
        right = next((one for one in made if _holds_same(one, transaction)), made[0])
        asked = self._requests[at]
        if not -SLACK_MS <= transaction.utc_ms - asked.utc_ms <= SLACK_MS:
            what = f"its time is {transaction.utc_ms}, its request was carried out {asked.utc_ms}"
            found.append(Difference(seq, what))
        original = self._money.sources.transaction_of(right.reverses_seq or 0)
        taken_in = None if original is None else shift_of(original)
        right = self._drawers.stamp(right, asked.actor, taken_in)
        self._learn(asked)
        if dict(right.memo) != dict(transaction.memo):
            what = f"its memo is {dict(transaction.memo)}, {dict(right.memo)} follows"
            found.append(Difference(seq, what))
        return right

    def _pass(self, upto: int) -> list[Difference]:
        """Go past requests before a position; those that posted nothing although they had to."""
        missing: list[Difference] = []
        while self._next < upto:
            asked = self._requests[self._next]
            if self._next not in self._used:
                self._learn(asked)
                if asked.is_posted:
                    kind = asked.body.TYPE if asked.body else ""
                    what = f"request {asked.key} ({kind}) was carried out, and nothing was posted"
                    missing.append(Difference(0, what))
            self._next += 1
        return missing

    def _pass_time(self, utc_ms: int) -> None:
        """Go past requests before an instant that need no transaction."""
        while self._next < len(self._requests):
            asked = self._requests[self._next]
            is_waiting = asked.is_posted and self._next not in self._used
            if is_waiting or asked.utc_ms >= utc_ms:
                return
            self._pass(self._next + 1)

    def _learn(self, asked: Asked) -> None:
        """What a request agreed on, beside what it posted."""
        body = asked.body
        self._drawers.learn(body, asked.actor)
        if isinstance(body, wishes.InvokeEmergency):
            self._money.credit(body.account_id).is_invoked = True
        elif isinstance(body, wishes.OpenAccount) and not body.terms:
            threshold_nano = body.disablement_threshold_nano
            terms = CreditTerms(disablement_threshold_nano=threshold_nano)
            self._money.credit(body.account_id).terms = terms
        elif isinstance(body, wishes.OpenAccount | wishes.ConfigureAccount):
            try:
                terms = self._read_terms(json.loads(body.terms))
            except (ValueError, GatewayError):
                self.unproved[UNREADABLE] += 1
                return
            credit = self._money.credit(body.account_id)
            # By the terms before, use that was not posted may have invoked it by itself.
            credit.is_invoked = credit.is_invoked or credit.terms.emergency_automatic
            credit.terms = terms
        elif isinstance(body, wishes.AddDebt):
            self._money.credit(body.account_id).add_debt(debt_terms_of(body))
            day = local_time(self._money.sources.zone, asked.utc_ms).day
            # Days before it were collected, or there was nothing to collect.
            self._collected[body.account_id] = max(self._collected.get(body.account_id, 0), day)

    # -- what the rules post by themselves -------------------------------------------------

    def _by_itself(
        self, seq: int, transaction: Transaction, found: list[Difference]
    ) -> Transaction:
        """Dues by the day, and what emergency credit bears."""
        make = _BY_ITSELF.get(transaction.kind)
        account_id = transaction.account_id
        if make is None or account_id is None:
            found.append(Difference(seq, f"{transaction.kind}: nobody asked for it"))
            return transaction
        self._pass_time(transaction.utc_ms)
        entries = make(self, account_id, transaction)
        # A request of the same millisecond may have come before it.
        while not _same_entries(entries, transaction.entries) and self._pass_same(transaction):
            entries = make(self, account_id, transaction)
        return Transaction(transaction.kind, transaction.utc_ms, entries, account_id)

    def _pass_same(self, transaction: Transaction) -> bool:
        """Go past one more request of the same millisecond; False where there is none."""
        before = self._next
        if before < len(self._requests) and self._requests[before].utc_ms <= transaction.utc_ms:
            asked = self._requests[before]
            if not asked.is_posted or before in self._used:
                self._pass(before + 1)
        return self._next > before

    def _draw(self, account_id: str, _: Transaction) -> tuple[Entry, ...]:
        credit = self._money.credit(account_id)
        # By itself it was invoked by consumption that was not posted yet.
        credit.is_invoked = credit.is_invoked or credit.terms.emergency_automatic
        return credit.draw()

    def _collection(self, account_id: str, transaction: Transaction) -> tuple[Entry, ...]:
        """A day's dues. Days that passed while the gateway was off are collected one after another
        at one time: since when it was off is not told, so that each time is tried, the shortest
        first. No day is collected twice."""
        day = self._money.day(transaction)
        round_ = self._rounds.get(account_id)
        if round_ is None or round_.utc_ms != transaction.utc_ms:
            since = max(self._collected.get(account_id, 0), day - CATCH_UP_DAYS - 1)
            credit = deepcopy(self._money.credit(account_id))
            round_ = self._rounds[account_id] = _Round(transaction.utc_ms, since, credit)
        wanted = [*round_.entries, merge_entries(transaction.entries)]
        for running_nano in (0, max(0, round_.credit.own_nano(0))):
            for since in range(day - 1, round_.since - 1, -1):
                made, credit, last = round_.collect(since, day, running_nano, len(wanted))
                if [merge_entries(entries) for entries in made] != wanted:
                    continue
                round_.entries = wanted
                if running_nano:
                    self.unproved[UNPOSTED_USE] += 1
                self._collected[account_id] = last
                # They are applied with their transaction.
                credit.apply(Entry(e.ledger_account, -e.amount_nano) for e in made[-1])
                self._money.credits[account_id] = credit
                return made[-1]
        made, _, _ = round_.collect(round_.since, day, 0, len(wanted))
        return made[-1] if len(made) == len(wanted) else ()


@dataclass(slots=True)
class _Round:
    """Dues of an account that were collected at one time: the credit before them, since when days
    may not have been collected, what was found so far."""

    utc_ms: int
    since: int
    credit: CreditBook
    entries: list[tuple[Entry, ...]] = field(default_factory=list)

    def collect(
        self, since: int, day: int, running_nano: int, count: int
    ) -> tuple[list[tuple[Entry, ...]], CreditBook, int]:
        """The first so many dues of the days after `since`, the credit after them, the last day."""
        credit, made, one = deepcopy(self.credit), list[tuple[Entry, ...]](), since
        while len(made) < count and one < day:
            one += 1
            entries = credit.collect_day(one, running_nano)
            if entries:
                made.append(entries)
        return made, credit, one


_BY_ITSELF: Final[
    Mapping[TransactionKind, Callable[[Replay, str, Transaction], tuple[Entry, ...]]]
] = {
    TransactionKind.EMERGENCY_DRAW: Replay._draw,  # noqa: SLF001 - a table of its methods
    TransactionKind.DEBT_COLLECTION: Replay._collection,  # noqa: SLF001
}


def _same_entries(one: Iterable[Entry], other: Iterable[Entry]) -> bool:
    return merge_entries(tuple(one)) == merge_entries(tuple(other))


def _holds_same(made: Transaction, found: Transaction) -> bool:
    return (made.kind, made.account_id, made.reverses_seq) == (
        found.kind,
        found.account_id,
        found.reverses_seq,
    ) and _same_entries(made.entries, found.entries)


def _differences(seq: int, found: Transaction, made: Transaction) -> list[Difference]:
    told: list[Difference] = []
    for name, there, follows in (
        ("kind", found.kind, made.kind),
        ("account", found.account_id, made.account_id),
        ("reversed transaction", found.reverses_seq, made.reverses_seq),
    ):
        if there != follows:
            told.append(Difference(seq, f"its {name} is {there}, {follows} follows"))
    return told + _moves(seq, str(found.kind), _sums(found.entries), _sums(made.entries))


def _line_differences(
    seq: int,
    computed: Iterable[tuple[str, int]],
    stored: Iterable[tuple[str, int]],
    meter_id: str,
) -> list[Difference]:
    """Charges of a line that are not what follows."""
    return _moves(seq, f"meter {meter_id} is charged", dict(stored), dict(computed))


def _moves(
    seq: int, what: str, found: Mapping[str, int], made: Mapping[str, int]
) -> list[Difference]:
    return [
        Difference(seq, what, name, found.get(name, 0), made.get(name, 0))
        for name in sorted(found.keys() | made.keys())
        if found.get(name, 0) != made.get(name, 0)
    ]


def _sums(entries: Iterable[Entry]) -> dict[str, int]:
    return {entry.ledger_account: entry.amount_nano for entry in merge_entries(tuple(entries))}


def unasked_tariffs(
    requests: Iterable[Asked], versions: Iterable[tuple[str, int, Mapping[str, object]]]
) -> list[Difference]:
    """Tariff versions (id, number, document) whose document nobody asked to publish."""
    asked_for: set[bytes] = set()
    for asked in requests:
        if isinstance(asked.body, wishes.PublishTariff):
            # What is no document was never published.
            with suppress(ValueError):
                asked_for.add(canonical_json(json.loads(asked.body.document)))
    return [
        Difference(0, f"version {number} of tariff {tariff_id} is not one that was asked for")
        for tariff_id, number, document in versions
        if canonical_json(document) not in asked_for
    ]
