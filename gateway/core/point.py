"""One service point: what a reading means for its energy, its money and its supply.

A reading goes through guard -> pricing -> credit -> supply. Doubtful readings stop at the guard:
they charge nothing and cut nobody.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, cast

from gateway.core.account import Account
from gateway.core.clocktrust import clock_of, elapsed_since
from gateway.core.errors import RefusedError
from gateway.core.export import FeedIn
from gateway.core.foresight import look_again_s
from gateway.core.friendly import CutDeferral, CutVerdict
from gateway.core.guard import RegisterGuard, Verdict, VerdictKind
from gateway.core.ledger import RebaseFlag, SettlementLine
from gateway.core.openline import LineNames, OpenLine
from gateway.core.point_terms import PointTerms, Slept, Step
from gateway.core.pricing import MAX_STEP_MS, Flag, Pricer
from gateway.core.proof import NS, Observation
from gateway.core.reading import Lane, Reading
from gateway.core.supply import Supply
from gateway.core.switching import Order, Reason
from gateway.core.tariff import EXPORT

__all__ = ["Point", "PointTerms", "Slept", "Step"]

# A load seen this long ago still says what flowed before a command.
LOAD_MEMORY_NS: Final = 5 * NS
# What a person may decide on at once; more is a slip of the finger (and leaves 64-bit money).
DECISION_MAX_WH: Final = 100_000_000
_NONE_FED: Final[tuple[int, tuple[str, ...]]] = (0, ())
# Flag of energy that was charged at the last known rate.
CLOCK_UNTRUSTED: Final = "CLOCK_UNTRUSTED"


class Point:
    """Mutable state of one service point. Single-threaded; time comes with the readings.

    Without an account (`account` and `pricer` None) energy is guarded and counted, and nothing is
    charged or cut. `feed_in` is there where energy that is fed in is paid for.
    """

    def __init__(self, terms: PointTerms, guard: RegisterGuard, supply: Supply) -> None:
        self.terms = terms
        self.guard = guard
        self.supply = supply
        self.feed_in: FeedIn | None = None
        self.account: Account | None = None
        self.tariff_id = ""
        self.pricer: Pricer | None = None
        self.last: Reading | None = None
        self.last_full: Reading | None = None
        self.label_utc_ms = 0
        self.last_sequence = 0
        self._lost = True
        self._line = OpenLine()
        self._boundary_utc_ms = 0
        self._restart_latched = False
        self._settled_ns: int | None = None
        self.excused = False
        self._kept_on = False
        self._deferral = CutDeferral(None)
        self._slept: Slept | None = None
        self.posting_count = 0

    # -- money -----------------------------------------------------------------------------

    @property
    def account_id(self) -> str:
        """The account that pays for this point; empty without one."""
        return self.account.account_id if self.account else ""

    @property
    def p_max_w(self) -> int:
        """The most that the point can draw."""
        return self.terms.p_max_w

    @property
    def running_nano(self) -> int:
        """Priced consumption since the last posting."""
        return self.pricer.running_nano() if self.pricer else 0

    @property
    def wallet_nano(self) -> int:
        """The posted balance of the account; 0 without one."""
        return self.account.credit.wallet_nano if self.account else 0

    @property
    def available_nano(self) -> int:
        """What the account may still use before its supply is disabled; 0 without one."""
        return self.account.available_nano if self.account else 0

    def attach_account(self, account: Account, tariff_id: str, pricer: Pricer) -> None:
        """Charge this point's energy to an account from here on (also after a restart)."""
        self.account = account
        account.points.append(self)
        self.tariff_id = tariff_id
        self.pricer = pricer
        self.label_utc_ms = max(self.label_utc_ms, pricer.label_utc_ms)

    def detach_account(self) -> None:
        """The account ends here: everything was posted, and what comes is nobody's."""
        if self.account is not None:
            self.account.points.remove(self)
        self.account = None
        self.pricer = None
        self.tariff_id = ""
        self.supply.unblock(Reason.CREDIT)
        self.posting_count += 1  # what sweeps have kept of the pricing so far is nobody's now
        self.begin_line()

    def begin_line(self) -> None:
        """Energy counted so far belongs to nobody's account: the first line starts here."""
        self._next_line()
        if self.feed_in is not None:
            self.feed_in.begin()

    def take_postings(self) -> list[SettlementLine]:
        """Settlement lines since the last call; their charges leave the wallet at this instant.

        The caller commits them with `posted_state`; if that fails the process ends and starts
        again from the file.
        """
        registers_wh = self.guard.registers_wh
        account = self.account
        if self.pricer is None or account is None or registers_wh is None:
            return []
        if self._line.from_wh is None:
            return []
        names = LineNames(
            account_id=account.account_id,
            service_point_id=self.terms.service_point_id,
            meter_id=self.terms.meter_id,
            tariff_id=self.tariff_id,
            sources=self.terms.sources,
        )
        postings = self.pricer.settle()
        lines = self._line.lines(
            postings,
            names,
            registers_wh=registers_wh,
            to_utc_ms=self.label_utc_ms,
            period=self.pricer.period_label,
        )
        if self.feed_in is not None:
            lines = self.feed_in.onto(lines, postings)
        if lines:
            account.charge(sum(amount for line in lines for _, amount in line.charges))
            self.posting_count += 1
            self._next_line()
        return lines

    def pass_time(self, utc_ms: int) -> bool:
        """Close billing periods that ended; True when this charged something to be posted.

        Only called while the wall clock is trusted.
        """
        if self.pricer is None or utc_ms - self.label_utc_ms > MAX_STEP_MS:
            return False
        closed = self.pricer.close_periods(utc_ms) > 0
        if closed:
            self._excuse()
        return closed

    # -- readings --------------------------------------------------------------------------

    def lost(self) -> None:
        """The meter could not be read: what comes next may be a restart's."""
        self._lost = True
        self.supply.disturbed()
        if self.feed_in is not None:
            self.feed_in.disturbed()

    def on_reading(self, reading: Reading, *, rates_known: bool) -> Step:
        """Take one reading through guard, pricing, credit and supply.

        `rates_known` is False while the wall clock is not trusted: energy then settles at the last
        known rate.
        """
        if self._slept is not None:
            if reading.lane is Lane.SHORT:
                # It does not tell the meter's clock: wait for a full one.
                return Step()
            self._wake(self._slept, reading)
        restarted = self._restart_edge(reading)
        if restarted:
            self.supply.disturbed()
            if self.feed_in is not None:
                self.feed_in.disturbed()
        verdict = self.guard.check(
            reading.sequence,
            reading.mono_ns,
            reading.energy_wh,
            asked_ns=reading.asked_ns,
            restarted=restarted,
            communication_lost=self._lost,
        )
        if verdict.kind is VerdictKind.DUPLICATE:
            return Step(events=verdict.events)
        if reading.late:
            # It was kept before a power cut, perhaps: what that took back is still to come.
            self.guard.disturbed()
        self.last = reading
        self.last_sequence = reading.sequence
        if reading.lane is not Lane.SHORT and not reading.late:
            self.last_full = reading
        if not verdict.settles:
            # The output may be believed; the energy charges nothing and cuts nobody.
            orders = self._observed(reading, trusted=False)
            return Step(events=verdict.events, orders=orders, read_again=verdict.read_again)
        self._lost = False
        fed_wh, export_events = self.feed_in.see(reading) if self.feed_in is not None else _NONE_FED
        flags = self._settle(reading, verdict, fed_wh, rates_known=rates_known)
        crossed = self._crossed_boundary()
        if self.account is not None:
            in_use = self.account.credit.emergency_in_use(self.account.running_nano)
            self.supply.emergency_in_use = in_use
        was_waiting = self._deferral.since_utc_ms is not None
        newly_due = self._judge_credit(rates_known=rates_known)
        deferred = self._is_deferred(reading)
        self._settled_ns = reading.mono_ns
        orders = self._observed(reading, trusted=True)
        return Step(
            settled=True,
            advance_wh=verdict.advance_wh,
            events=verdict.events,
            orders=orders,
            posting_due=newly_due or crossed or bool(verdict.events or export_events),
            newly_due=newly_due,
            deferred=deferred,
            kept_on=self._deferral.since_utc_ms is not None and not was_waiting,
            predict_s=None if reading.late else self._predict_s(reading),
            read_again=verdict.read_again,
            flags=flags,
            fed_wh=fed_wh,
            export_events=export_events,
        )

    def release(self, *, accept: bool) -> tuple[int, ...]:
        """A manager decides on held energy; the Wh that are charged by it, per register.

        With it on what is held of the export registers: accepted, it is paid for.
        """
        feed_in = self.feed_in if self.feed_in is not None and self.feed_in.held else None
        if not self.guard.held and feed_in is None:
            raise RefusedError("NOTHING_HELD", "this meter holds no energy for a decision")
        if accept:
            _check_decision(self.guard.held_wh)
            _check_decision(feed_in.held_wh if feed_in else ())
        if feed_in is not None:
            self._rebase_export(feed_in.release(accept=accept))
        if not self.guard.held:
            return (0,) * len(self.terms.sources)
        advance_wh = self.guard.release(accept=accept)
        self._rebase(advance_wh, RebaseFlag.RELEASED)
        return advance_wh

    def replace_meter(
        self, closing_wh: tuple[int, ...], opening_wh: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Exchange the device: the old one is settled to its closing registers."""
        if len(closing_wh) != len(self.terms.sources) or len(opening_wh) != len(closing_wh):
            raise RefusedError(
                "REGISTER_COUNT", f"this meter has {len(self.terms.sources)} import registers"
            )
        base_wh = self.guard.registers_wh
        if base_wh is not None:
            _check_decision([a - b for a, b in zip(closing_wh, base_wh, strict=True)])
        advance_wh = self.guard.replace(closing_wh, opening_wh)
        self.supply.open_output.energy_wh = None
        if self.feed_in is not None:
            self.feed_in.replaced()
        self._rebase(advance_wh, RebaseFlag.METER_REPLACED)
        return advance_wh

    def is_settled(self, now_ns: int, max_age_s: float) -> bool:
        """Whether a good reading is at hand that is not older than this, and nothing is held."""
        if self._settled_ns is None or self.guard.held:
            return False
        return now_ns - self._settled_ns <= max_age_s * NS

    # -- persistence -----------------------------------------------------------------------

    def running_state(self) -> dict[str, object]:
        """What every sweep keeps of this point: registers, sequence, time, unposted consumption."""
        pricing = self.pricer.snapshot() if self.pricer else {}
        slept = self._slept
        return {
            "posting": self.posting_count,
            "sequence": self.last_sequence,
            "meter_clock_ms": None
            if self.last_full is None
            else clock_of(self.last_full, kept=True),
            "guard": self.guard.snapshot(),
            "pricing": {name: value for name, value in pricing.items() if name != "posted"},
            "label_utc_ms": self.label_utc_ms,
            **self._line.snapshot(),
            **({} if self.feed_in is None else {"feed_in": self.feed_in.snapshot()}),
            "slept": None
            if slept is None
            else [dict(slept.guard), slept.utc_ms, slept.meter_clock_ms],
        }

    def posted_state(self, now_ns: int, utc_ms: int) -> dict[str, object]:
        """What a posting or a change of supply keeps: posted charges, supply, and the running part.

        The running part counts only until a sweep with the same `posting` is found.
        """
        return {
            "posting": self.posting_count,
            "posted": self.pricer.snapshot()["posted"] if self.pricer else [],
            "deferral": self._deferral.snapshot(),
            "supply": self.supply.snapshot(now_ns, utc_ms),
            "running": self.running_state(),
        }

    def restore_deferral(self, state: Mapping[str, object] | None) -> None:
        """Take up since when a cut waits for a calendar, where `posted_state` kept it."""
        if state is not None:
            self._deferral.restore(state)

    def restore_running(self, state: Mapping[str, object]) -> None:
        """Take up a running state; the guard and the pricer are restored by the caller."""
        self.posting_count = cast("int", state["posting"])
        self.last_sequence = cast("int", state["sequence"])
        self.label_utc_ms = cast("int", state["label_utc_ms"])
        self._line.restore(state)

    # -- inside ----------------------------------------------------------------------------

    def _next_line(self) -> None:
        registers = len(self.terms.sources)
        self._line.begin(self.guard.registers_wh, self.label_utc_ms, registers)

    def _settle(
        self, reading: Reading, verdict: Verdict, fed_wh: int, *, rates_known: bool
    ) -> tuple[str, ...]:
        from_utc_ms = self.label_utc_ms
        if not from_utc_ms and rates_known:
            from_utc_ms = reading.utc_ms
        known = rates_known and reading.utc_ms - from_utc_ms <= MAX_STEP_MS
        to_utc_ms = reading.utc_ms if known else from_utc_ms
        self.label_utc_ms = max(from_utc_ms, to_utc_ms)
        if self._line.from_wh is None:
            self.begin_line()
            return ()
        if verdict.events:
            self._line.flag(verdict.events)
        self._line.add(verdict.advance_wh)
        if self.pricer is None:
            return ()
        shares = tuple(zip(self.terms.sources, verdict.advance_wh, strict=True))
        if fed_wh:
            shares += ((EXPORT, fed_wh),)
        names: tuple[str, ...] = ()
        if known:
            gap_ms = round(self.terms.gap_s * 1000)
            fees = self.pricer.fee_changes
            flags = self.pricer.advance(shares, from_utc_ms, to_utc_ms, gap_ms=gap_ms)
            if self.pricer.fee_changes != fees:
                self._excuse()
            names = tuple(sorted(flag.value for flag in flags))
        else:
            self.pricer.charge_at_label(shares)
            stepped = reading.utc_ms < from_utc_ms
            if any(verdict.advance_wh):
                names = (Flag.CLOCK_STEPPED.value if stepped else CLOCK_UNTRUSTED,)
        self._line.flag(names)
        return names

    def _rebase(self, advance_wh: tuple[int, ...], flag: RebaseFlag) -> None:
        """Charge energy that a person decided on, at the rates of the label."""
        self._line.flag((flag.value,))
        self.posting_count += 1
        self._line.add(advance_wh)
        if self.pricer is not None:
            self.pricer.charge_at_label(zip(self.terms.sources, advance_wh, strict=True))
        if self._slept is not None:
            # The decision moved the base that the first reading would bring back.
            self._slept = replace(self._slept, guard=self.guard.snapshot())

    def _rebase_export(self, advance_wh: Sequence[int]) -> None:
        """Pay for energy that a person decided on, at the price of the label."""
        self.posting_count += 1
        if self.pricer is not None:
            self.pricer.charge_at_label([(EXPORT, sum(advance_wh))])

    def _predict_s(self, reading: Reading) -> float | None:
        """When the credit could be used up at full power, if within the next regular poll."""
        supply, terms, full = self.supply, self.terms, self.last_full
        account = self.account
        if self.pricer is None or account is None or not supply.enforced or supply.reasons:
            return None
        if not account.is_cut_at_zero(self.label_utc_ms):
            return None
        available_nano, label = account.available_nano, self.label_utc_ms
        return look_again_s(
            min(self.pricer.remaining_wh(available_nano, one, label) for one in terms.sources),
            reading.part_wh,
            p_max_w=account.p_max_w,
            power_w=None if full is None else full.power_w,
            refresh_s=terms.refresh_s,
            period_s=terms.period_s,
        )

    def _judge_credit(self, *, rates_known: bool) -> bool:
        account = self.account
        if account is None or not self.supply.enforced:
            return False
        if Reason.CREDIT in self.supply.reasons:
            return False
        self._deferral.calendar = account.credit.terms.calendar
        verdict = self._deferral.judge(
            account.cut_nano(self.label_utc_ms), self.label_utc_ms, clock_trusted=rates_known
        )
        if verdict not in (CutVerdict.DUE, CutVerdict.DUE_AFTER_WINDOW):
            return False
        self._kept_on = self._kept_on or verdict is CutVerdict.DUE_AFTER_WINDOW
        return self.supply.block(Reason.CREDIT)

    def sleep_since(self, slept: "Slept") -> None:
        """The machine was off since the state was kept: how long shows with the first reading."""
        self._slept = slept

    def _wake(self, slept: "Slept", reading: Reading) -> None:
        """Put the guard's base as far back as the machine was off, by wall and meter clock."""
        meter_ms, now_ms = None, clock_of(reading)
        if slept.meter_clock_ms is not None and now_ms is not None:
            meter_ms = now_ms - slept.meter_clock_ms
        elapsed_ms = elapsed_since(reading.utc_ms - slept.utc_ms, meter_ms)
        seemed_ns = cast("int", self.guard.snapshot()["mono_ns"])
        base_ns = reading.mono_ns - elapsed_ms * 1_000_000
        self.guard.restore(slept.guard, mono_ns=base_ns)
        if self.feed_in is not None:
            self.feed_in.wake(base_ns - seemed_ns)
        self._slept = None

    def _restart_edge(self, reading: Reading) -> bool:
        """Whether the restart bit is newly set; it stays latched until it is acknowledged."""
        if reading.lane is Lane.SHORT:
            return False
        was, self._restart_latched = self._restart_latched, reading.restarted
        return reading.restarted and not was

    def _is_deferred(self, reading: Reading) -> bool:
        """Whether what ran the credit out came from a gap or a fee, not from a second's use."""
        since_ns, gap_ns = self._settled_ns, self.terms.gap_s * NS
        if since_ns is None or reading.mono_ns - since_ns > gap_ns:
            self._excuse()
        excused, self.excused = self.excused, False
        kept_on, self._kept_on = self._kept_on, False
        return excused or kept_on

    def _excuse(self) -> None:
        """One credit: what this point was charged at once may show first at another point."""
        for point in self.account.points if self.account else ():
            point.excused = True

    def _observed(self, reading: Reading, *, trusted: bool) -> tuple[Order, ...]:
        """What the supply machine makes of a reading; one of the past shows it nothing."""
        if reading.late:
            return ()
        return tuple(self.supply.observe(self._observation(reading, trusted=trusted)))

    def _observation(self, reading: Reading, *, trusted: bool) -> Observation:
        power_w, full = reading.power_w, self.last_full
        if power_w is None and full is not None:
            recent = reading.mono_ns - full.mono_ns <= LOAD_MEMORY_NS
            power_w = full.power_w if recent else None
        return Observation(
            mono_ns=reading.mono_ns,
            output_closed=reading.output_closed,
            energy_wh=sum(reading.energy_wh),
            current_a=reading.current_a,
            power_w=power_w,
            feedback_closed=reading.feedback_closed,
            voltage_v=reading.voltage_v,
            trusted=trusted,
        )

    def _crossed_boundary(self) -> bool:
        """Whether a rate or period boundary lies behind the label: what it priced is posted."""
        if self.pricer is None:
            return False
        before_ms, self._boundary_utc_ms = self._boundary_utc_ms, self.pricer.next_boundary_utc_ms
        return 0 < before_ms != self._boundary_utc_ms


def _check_decision(advance_wh: Sequence[int]) -> None:
    if sum(max(0, wh) for wh in advance_wh) > DECISION_MAX_WH:
        raise RefusedError(
            "ENERGY_RANGE", f"more than {DECISION_MAX_WH // 1000} kWh are not charged at once"
        )
