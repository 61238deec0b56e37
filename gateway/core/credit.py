"""What a customer has and owes: wallet, emergency credit, debts, and the order of a recharge.

The ledger holds four kinds of accounts of a customer: `wallet:<id>` (credit; below zero after
energy that nothing was left for), `emergency:<id>` (minus what is used of the loan),
`debt:<id>:<name>` (minus what remains of a debt) and `accumulated:<id>` (minus dues that the wallet
could not bear). A `CreditBook` is the fold of their entries (invariant I2); its other methods say
which entries the rules ask for. Words: DLMS class 111 (account), 112 (credit), 113 (charge); the
order of a recharge: domain.md section 5.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, cast

from gateway.core.errors import RefusedError
from gateway.core.friendly import FriendlyCalendar
from gateway.core.ledger import Entry, wallet
from gateway.core.lowcredit import Threshold
from gateway.core.tariff import PPM

# A gateway that was off for longer collects the rest of that time not at all.
CATCH_UP_DAYS: Final = 31
MONDAY: Final = 3  # 1970-01-01 was a Thursday


class PaymentMode(StrEnum):
    """COSEM payment mode (class 111): credit 1, prepayment 2."""

    CREDIT = "credit"
    PREPAYMENT = "prepayment"


class EmergencyState(StrEnum):
    """COSEM credit status (class 112) of emergency credit."""

    ENABLED = "enabled"
    SELECTABLE = "selectable"
    INVOKED = "invoked"
    IN_USE = "in_use"
    CONSUMED = "consumed"


class DebtKind(StrEnum):
    """How a debt is paid back: a share of every recharge, or an amount a day."""

    PAYMENT = "payment"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class CreditTerms:
    """What was agreed with a customer; amounts in nano-units.

    Emergency credit of `emergency_limit_nano` (0: none) may be invoked at or below
    `emergency_threshold_nano`, by itself where `emergency_automatic`. In credit mode supply is cut
    only `notice_days` after a notice of what is overdue. `low_credit` are thresholds that alert;
    a `calendar` keeps supply on in its hours although credit is used up.
    """

    payment_mode: PaymentMode = PaymentMode.PREPAYMENT
    disablement_threshold_nano: int = 0
    emergency_limit_nano: int = 0
    emergency_threshold_nano: int = 0
    emergency_automatic: bool = False
    notice_days: int = 15
    low_credit: tuple[Threshold, ...] = ()
    calendar: FriendlyCalendar | None = None


@dataclass(frozen=True, slots=True)
class DebtTerms:
    """How one debt is collected: `share_ppm` of a recharge (payment) or `daily_nano` (time).

    Never more than `weekly_cap_nano` in a local week from Monday (None: no cap).
    """

    debt_id: str
    kind: DebtKind
    share_ppm: int = 0
    daily_nano: int = 0
    weekly_cap_nano: int | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """A notice in credit mode: what was overdue, less what came since, and when supply may go."""

    overdue_nano: int
    due_utc_ms: int


@dataclass(slots=True)
class _Debt:
    terms: DebtTerms
    remaining_nano: int = 0
    week_nano: int = 0


def emergency(account_id: str) -> str:
    """Name of the ledger account that holds what is used of emergency credit."""
    return f"emergency:{account_id}"


def accumulated(account_id: str) -> str:
    """Name of the ledger account of dues that the wallet could not bear."""
    return f"accumulated:{account_id}"


def debt(account_id: str, debt_id: str) -> str:
    """Name of the ledger account of one debt."""
    return f"debt:{account_id}:{debt_id}"


@dataclass(slots=True)
class CreditBook:
    """The balances of one customer and what may be done with them. Pure; not thread-safe."""

    account_id: str
    terms: CreditTerms = field(default_factory=CreditTerms)
    wallet_nano: int = 0
    emergency_used_nano: int = 0
    accumulated_nano: int = 0
    is_invoked: bool = False
    notice: Notice | None = None
    _debts: dict[str, _Debt] = field(default_factory=dict)
    _debt_day: int | None = None
    _week: int = 0

    # -- the fold --------------------------------------------------------------------------

    def apply(self, entries: Iterable[Entry]) -> None:
        """Take in entries of the ledger; those of other accounts are passed over."""
        for entry in entries:
            kind, _, rest = entry.ledger_account.partition(":")
            name, _, debt_id = rest.partition(":")
            if name != self.account_id:
                continue
            if kind == "wallet":
                self._move_wallet(entry.amount_nano)
            elif kind == "emergency":
                self.emergency_used_nano -= entry.amount_nano
                self.is_invoked = self.emergency_used_nano > 0
            elif kind == "accumulated":
                self.accumulated_nano -= entry.amount_nano
            elif kind == "debt" and debt_id in self._debts:
                self._debts[debt_id].remaining_nano -= entry.amount_nano

    def charge(self, amount_nano: int) -> None:
        """A posted charge left the wallet (the entry of a settlement)."""
        self.wallet_nano -= amount_nano

    def add_debt(self, terms: DebtTerms, remaining_nano: int = 0) -> None:
        """Know a debt; its amount comes with its entries (or from the file)."""
        self._debts[terms.debt_id] = _Debt(terms, remaining_nano)

    def debts(self) -> list[tuple[DebtTerms, int]]:
        """Debts with what remains of each, in the order in which they were agreed."""
        return [(item.terms, item.remaining_nano) for item in self._debts.values()]

    @property
    def owed_nano(self) -> int:
        """Debts and used emergency credit: what is owed beside a wallet below zero."""
        remaining = sum(item.remaining_nano for item in self._debts.values())
        return remaining + self.accumulated_nano + self.emergency_used_nano

    # -- available credit ------------------------------------------------------------------

    @property
    def emergency_left_nano(self) -> int:
        """What invoked emergency credit still gives; nothing in credit mode."""
        if not self.is_invoked or self.terms.payment_mode is PaymentMode.CREDIT:
            return 0
        return max(0, self.terms.emergency_limit_nano - self.emergency_used_nano)

    def available_nano(self, running_nano: int) -> int:
        """What may still be used before supply is disabled (COSEM available_credit less the
        disablement threshold), with `running_nano` of consumption that is not posted."""
        terms = self.terms
        return (
            self.wallet_nano
            - running_nano
            - terms.disablement_threshold_nano
            + self.emergency_left_nano
        )

    def is_exhausted(self, running_nano: int, utc_ms: int) -> bool:
        """Whether supply is to be disabled for credit (calendars aside)."""
        if self.terms.payment_mode is PaymentMode.CREDIT:
            notice = self.notice
            return notice is not None and notice.overdue_nano > 0 and utc_ms >= notice.due_utc_ms
        return self.available_nano(running_nano) <= 0

    def own_nano(self, running_nano: int) -> int:
        """What may be used without emergency credit."""
        return self.wallet_nano - running_nano - self.terms.disablement_threshold_nano

    # -- emergency credit ------------------------------------------------------------------

    def emergency_state(self, running_nano: int) -> EmergencyState | None:
        """The state of emergency credit; None where none is offered and none is owed."""
        if not self.terms.emergency_limit_nano and not self.emergency_used_nano:
            return None
        own_nano = self.wallet_nano - running_nano
        if self.is_invoked:
            if self.emergency_left_nano + min(0, own_nano) <= 0:
                return EmergencyState.CONSUMED
            in_use = self.emergency_in_use(running_nano)
            return EmergencyState.IN_USE if in_use else EmergencyState.INVOKED
        low = own_nano <= self.terms.emergency_threshold_nano
        return EmergencyState.SELECTABLE if low else EmergencyState.ENABLED

    def emergency_in_use(self, running_nano: int) -> bool:
        """Whether invoked emergency credit bears consumption now."""
        return self.is_invoked and (
            self.emergency_used_nano > 0 or self.wallet_nano - running_nano < 0
        )

    def invoke_emergency(self, running_nano: int) -> None:
        """Take up emergency credit.

        Raises RefusedError EMERGENCY_NOT_OFFERED, EMERGENCY_INVOKED, EMERGENCY_NOT_SELECTABLE.
        """
        state = self.emergency_state(running_nano)
        if not self.terms.emergency_limit_nano or (self.terms.payment_mode is PaymentMode.CREDIT):
            raise RefusedError("EMERGENCY_NOT_OFFERED", "this account has no emergency credit")
        if self.is_invoked:
            raise RefusedError("EMERGENCY_INVOKED", "emergency credit is invoked already")
        if state is not EmergencyState.SELECTABLE:
            raise RefusedError(
                "EMERGENCY_NOT_SELECTABLE", "emergency credit is offered once credit is low"
            )
        self.is_invoked = True

    def invokes_itself(self, running_nano: int) -> bool:
        """Whether emergency credit is to be invoked now without anybody's asking."""
        return (
            self.terms.emergency_automatic
            and self.terms.payment_mode is PaymentMode.PREPAYMENT
            and not self.is_invoked
            and self.terms.emergency_limit_nano > 0
            and self.available_nano(running_nano) <= 0
        )

    def draw(self) -> tuple[Entry, ...]:
        """Entries that let invoked emergency credit bear what the wallet could not."""
        amount_nano = min(self.emergency_left_nano, -self.wallet_nano)
        if amount_nano <= 0:
            return ()
        return (
            Entry(wallet(self.account_id), amount_nano),
            Entry(emergency(self.account_id), -amount_nano),
        )

    # -- money that comes in ---------------------------------------------------------------

    def split(self, amount_nano: int, day: int) -> tuple[Entry, ...]:
        """Where a recharge goes, in this order: payment debts (each its share of the recharge, up
        to its cap), accumulated debt, a wallet below zero, used emergency credit, the wallet.

        `day` is the local day (days since 1970). Pure: `received` says that it was committed.
        Source of the order: SMETS2, as in the manual of the Aclara SGM1400, chapter 6.
        """
        left_nano = amount_nano
        entries: list[Entry] = []

        def give(ledger_account: str, wanted_nano: int) -> int:
            nonlocal left_nano
            given_nano = max(0, min(left_nano, wanted_nano))
            left_nano -= given_nano
            if given_nano:
                entries.append(Entry(ledger_account, given_nano))
            return given_nano

        for item in self._debts.values():
            if item.terms.kind is DebtKind.PAYMENT:
                share_nano = amount_nano * item.terms.share_ppm // PPM
                wanted_nano = min(share_nano, item.remaining_nano, self._cap_left(item, day))
                give(debt(self.account_id, item.terms.debt_id), wanted_nano)
        give(accumulated(self.account_id), self.accumulated_nano)
        name = wallet(self.account_id)
        # A second entry of the wallet would be merged in the ledger: what lifts it to zero goes
        # with the rest.
        negative_nano = max(0, min(left_nano, -self.wallet_nano))
        left_nano -= negative_nano
        give(emergency(self.account_id), self.emergency_used_nano)
        if left_nano + negative_nano:
            entries.append(Entry(name, left_nano + negative_nano))
        return tuple(entries)

    def received(self, entries: Iterable[Entry], day: int) -> None:
        """A recharge was committed: apply it and count it against the weekly caps."""
        listed = tuple(entries)
        self._begin_week(day)
        paid_nano = {entry.ledger_account: entry.amount_nano for entry in listed}
        for debt_id, item in self._debts.items():
            # What is taken back of an earlier week leaves no more to be collected in this one.
            week_nano = item.week_nano + paid_nano.get(debt(self.account_id, debt_id), 0)
            item.week_nano = max(0, week_nano)
        self.apply(listed)
        if not self.emergency_used_nano and self.wallet_nano > 0:
            self.is_invoked = False

    def final_payments(self) -> tuple[Entry, ...]:
        """Entries that pay what is owed from the wallet at the end of an account, as far as it
        goes: accumulated debt, emergency credit, then the debts in their order."""
        left_nano = max(0, self.wallet_nano)
        owed = [
            (accumulated(self.account_id), self.accumulated_nano),
            (emergency(self.account_id), self.emergency_used_nano),
            *(
                (debt(self.account_id, name), item.remaining_nano)
                for name, item in self._debts.items()
            ),
        ]
        entries: list[Entry] = []
        for ledger_account, owed_nano in owed:
            paid_nano = min(left_nano, owed_nano)
            if paid_nano > 0:
                left_nano -= paid_nano
                entries.append(Entry(ledger_account, paid_nano))
        paid_nano = sum(entry.amount_nano for entry in entries)
        if paid_nano:
            entries.insert(0, Entry(wallet(self.account_id), -paid_nano))
        return tuple(entries)

    # -- debts by the day ------------------------------------------------------------------

    def collect(
        self, day: int, running_nano: int, *, is_disabled: bool
    ) -> tuple[tuple[Entry, ...], ...]:
        """The entries of every local day that has passed since the last call, oldest first.

        A due that would use up the credit goes to the accumulated debt: only electricity cuts.
        While supply is disabled for credit nothing is collected. The entries are applied here.
        """
        since, self._debt_day = self._debt_day, day
        if since is None or is_disabled:
            return ()
        first = max(since, day - CATCH_UP_DAYS) + 1
        return tuple(
            entries
            for one in range(first, day + 1)
            if (entries := self.collect_day(one, running_nano))
        )

    def collect_day(self, day: int, running_nano: int) -> tuple[Entry, ...]:
        """The entries of one local day, applied here; see `collect`."""
        self._begin_week(day)
        entries: list[Entry] = []
        for item in self._debts.values():
            if item.terms.kind is not DebtKind.TIME:
                continue
            due_nano = min(item.terms.daily_nano, item.remaining_nano, self._cap_left(item, day))
            if due_nano <= 0:
                continue
            bears = wallet if self.own_nano(running_nano) - due_nano > 0 else accumulated
            moved = (
                Entry(bears(self.account_id), -due_nano),
                Entry(debt(self.account_id, item.terms.debt_id), due_nano),
            )
            item.week_nano += due_nano
            self.apply(moved)
            entries += moved
        return tuple(entries)

    def _cap_left(self, item: _Debt, day: int) -> int:
        cap_nano = item.terms.weekly_cap_nano
        if cap_nano is None:
            return item.remaining_nano
        used_nano = item.week_nano if _week_of(day) == self._week else 0
        return max(0, cap_nano - used_nano)

    def _begin_week(self, day: int) -> None:
        week = _week_of(day)
        if week != self._week:
            self._week = week
            for item in self._debts.values():
                item.week_nano = 0

    def _move_wallet(self, amount_nano: int) -> None:
        self.wallet_nano += amount_nano
        if self.notice is not None and amount_nano > 0:
            left_nano = self.notice.overdue_nano - amount_nano
            due_utc_ms = self.notice.due_utc_ms
            self.notice = Notice(left_nano, due_utc_ms) if left_nano > 0 else None

    # -- persistence -----------------------------------------------------------------------

    def snapshot(self) -> dict[str, object]:
        """What is not in the ledger's balances, as JSON values."""
        return {
            "invoked": self.is_invoked,
            "debt_day": self._debt_day,
            "week": self._week,
            "week_nano": {name: item.week_nano for name, item in self._debts.items()},
            "notice": None
            if self.notice is None
            else [self.notice.overdue_nano, self.notice.due_utc_ms],
        }

    def restore(self, balances: Mapping[str, int], state: Mapping[str, object] | None) -> None:
        """Take up balances of the ledger (by ledger account) and a snapshot, if there is one."""
        self.wallet_nano = balances.get(wallet(self.account_id), 0)
        self.emergency_used_nano = -balances.get(emergency(self.account_id), 0)
        self.accumulated_nano = -balances.get(accumulated(self.account_id), 0)
        for name, item in self._debts.items():
            item.remaining_nano = -balances.get(debt(self.account_id, name), 0)
        self.is_invoked = self.emergency_used_nano > 0
        if state is None:
            return
        self.is_invoked = self.is_invoked or bool(state["invoked"])
        self._debt_day = cast("int | None", state["debt_day"])
        self._week = cast("int", state["week"])
        for name, week_nano in cast("Mapping[str, int]", state["week_nano"]).items():
            if name in self._debts:
                self._debts[name].week_nano = week_nano
        notice = cast("Sequence[int] | None", state["notice"])
        self.notice = None if notice is None else Notice(notice[0], notice[1])


def _week_of(day: int) -> int:
    return (day + MONDAY) // 7
