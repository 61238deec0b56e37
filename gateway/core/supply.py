"""The supply state machine of one service point: intended against observed, level-triggered.

    CONNECTED --reasons--> DISCONNECTING --witnesses--> DISCONNECTED
        ^                                                    | reasons empty, minimum off time
        +-- RECONNECTING <--confirmed or auto-- READY_FOR_RECONNECTION

Nothing here is edge-triggered: `decide` compares what is intended with what was last observed and
orders at most one switch. Control states are COSEM's DisconnectControl (class 70);
DISCONNECTING and RECONNECTING are shown between command and verification.
"""

from collections.abc import Set as AbstractSet
from typing import Final

from gateway.core.blocks import ANYBODY
from gateway.core.errors import RefusedError
from gateway.core.proof import NS, Observation, OpeningProof, OpenOutput, Witness
from gateway.core.supply_memory import SupplyMemory
from gateway.core.switching import (
    NEVER_CRITICAL,
    UNCONDITIONAL,
    Alarm,
    Command,
    ControlState,
    Fault,
    Order,
    OrderKind,
    Reason,
)

# So many writes without an answer, between readings that arrive, and a person has to look.
LOST_MAX: Final = 10


class Supply(SupplyMemory):
    """Intended and observed state of one supply; every method is pure in time given.

    The caller feeds observations and events, then asks `decide` for the next order. Only good
    readings are fed: a doubtful reading must never cut.
    """

    # -- what is intended ------------------------------------------------------------------

    @property
    def intended_closed(self) -> bool:
        """Invariant I7: closed exactly while no reason stands and no reconnection is pending."""
        return not self.reasons and not self.reconnection_pending

    @property
    def output_closed(self) -> bool | None:
        """The output as last read back; None before the first good reading."""
        return self.observed.output_closed if self.observed else None

    def state(self, now_ns: int) -> ControlState:
        """The state to show at `now_ns`."""
        if self.command is not None and self.command.close:
            return ControlState.RECONNECTING
        if self.command is not None and not self.command.proof.shows_open:
            return ControlState.DISCONNECTING
        if not self.reconnection_pending:
            return ControlState.CONNECTED
        if self.reasons or self.min_off_left_s(now_ns) > 0:
            return ControlState.DISCONNECTED
        return ControlState.READY_FOR_RECONNECTION

    def min_off_left_s(self, now_ns: int) -> float:
        """Seconds of the minimum off time that remain."""
        if self.opened_ns is None:
            return 0.0
        return max(0.0, self.policy.min_off_s - (now_ns - self.opened_ns) / NS)

    def block(self, reason: Reason, owner: str = ANYBODY) -> bool:
        """Set a reason; True when it is new, be it that an override or friendly hours hold it."""
        if reason in NEVER_CRITICAL and self.policy.critical:
            return False
        if not self.blocks.add(reason, owner):
            return False
        if reason in self.reasons:
            self._acts({reason})
        return True

    def unblock(self, reason: Reason, owner: str | None = None) -> bool:
        """Take a reason back, for one owner or (None) for all; True when that owner had set it."""
        return self.blocks.remove(reason, owner)

    def suspend(self, reasons: frozenset[Reason], *, restores: bool = False) -> frozenset[Reason]:
        """Hold these reasons back, and no others; which of those held before act again.

        Nothing that has opened a supply is held back, unless this `restores` it.
        """
        at_rest = self.command is None and not self.reconnection_pending and self.output_closed
        freed = self.blocks.suspend(reasons, movable=bool(at_rest) or restores)
        if freed:
            self._acts(freed)
        return freed

    def limit(self, now_ns: int, power_w: float, source: str) -> bool:
        """Judge the power of a good reading; True when the limiter has just tripped."""
        tripped = self.limiter.observe(now_ns, power_w, source, emergency=self.emergency_in_use)
        self.settle_overload()
        return tripped

    def settle_overload(self) -> None:
        """Let OVERLOAD stand exactly while the limiter blocks."""
        if self.limiter.blocks:
            self.block(Reason.OVERLOAD)
        else:
            self.unblock(Reason.OVERLOAD)

    def confirm(self, now_ns: int) -> None:
        """A person confirms the reconnection.

        Raises RefusedError SUPPLY_BLOCKED, MIN_OFF_TIME or NOTHING_TO_CONFIRM.
        """
        if self.reasons:
            names = ", ".join(sorted(self.reasons))
            raise RefusedError("SUPPLY_BLOCKED", f"supply is still blocked: {names}")
        if not self.reconnection_pending:
            raise RefusedError("NOTHING_TO_CONFIRM", "no reconnection is waiting at this point")
        left_s = self.min_off_left_s(now_ns)
        if left_s > 0:
            raise RefusedError(
                "MIN_OFF_TIME", f"minimum off time: try again in {int(left_s) + 1} s"
            )
        self.confirmed_ns = now_ns
        if self.fault is Fault.FAILED_TO_CLOSE:
            self.fault = None

    def enforce(self, *, on: bool) -> None:
        """Begin or end enforcement; an output that was open before is a reconnection."""
        if on and not self.enforced and self.output_closed is False:
            self.reconnection_pending = True
            self.needs_person = True
        self.enforced = on

    def opened_for_credit(self) -> bool:
        """The meter itself opened by its lease: closing it again is a reconnection.

        True when that is news.
        """
        if not self.enforced or self.reconnection_pending or self.command is not None:
            return False
        self.reconnection_pending = self.needs_person = True
        return True

    def accept_open_output(self, now_ns: int) -> bool:
        """A person answers for closing an output that somebody opened; True when one stands."""
        if Alarm.OUTPUT_DIFFERS not in self.alarms:
            return False
        self._accepted_ns = now_ns
        return True

    # -- what happens ----------------------------------------------------------------------

    def disturbed(self) -> None:
        """The meter restarted or was out of reach: an open output now is no act of a person."""
        self._disturbed = True

    def opened_at_meter(self) -> None:
        """The meter itself says that its protection opened it: closing it is no restoration."""
        self._disturbed = False

    def unaccounted(self) -> None:
        """The ledger is an older one: an output found open may be a person's act, not a restart's.

        Nothing once the output was seen.
        """
        self._unaccounted = self.observed is None

    def observe(self, seen: Observation) -> list[Order]:
        """Take in a good reading and judge the command under way and the state at rest."""
        self.observed = seen
        if seen.trusted:
            self._good_ns = seen.mono_ns
        if self.enforced and self.reasons and seen.output_closed is False:
            # Whoever opened it: with a reason standing, closing it again is a reconnection.
            if not self.reconnection_pending:
                self.reconnection_pending = True
                # Opened under our eyes and not by us: somebody may work there.
                alone = self._disturbed and self._returns_by_itself(self.reasons)
                self.needs_person = not alone
            self.opened_ns = seen.mono_ns if self.opened_ns is None else self.opened_ns
        orders = self._judge(seen) if self.command is not None else []
        if self.command is None:
            orders += self._watch(seen)
        if seen.output_closed:
            self._disturbed = self._unaccounted = False
            self._accepted_ns = None
        return orders

    def sent(self, now_ns: int) -> None:
        """The command's write was acknowledged by the meter; its effect is still to be seen."""
        if self.command is not None:
            self.command.sent_ns = now_ns
            self.command.detail = ""

    def send_failed(self, now_ns: int, detail: str, *, refused: bool = False) -> None:
        """The write failed: look at the output before repeating anything.

        `refused` says that the meter answered and refused; otherwise nothing is known, and the
        attempt says nothing against the contactor.
        """
        if self.command is not None:
            self.command.sent_ns = now_ns
            self.command.look_first = True
            self.command.lost += not refused
            self.command.detail = detail

    def overtaken(self, now_ns: int) -> bool:
        """Whether the command under way is no longer what is wanted, or no longer allowed."""
        command = self.command
        if command is None or command.close == bool(self.reasons):
            return command is not None
        if command.said_ns is not None and not self._holds(command.said_ns, now_ns):
            return True
        doubtful = self.observed is not None and not self.observed.trusted
        return not command.close and doubtful and not self.reasons & UNCONDITIONAL

    def drop(self) -> list[Order]:
        """Give up a command that was overtaken; what is wanted now is decided anew."""
        command = self.command
        if command is None:
            return []
        self.command = None
        if command.close:
            self.reconnection_pending = True
            self.confirmed_ns = None
        return [
            Order(
                OrderKind.FAILED,
                close=command.close,
                attempt=command.attempts,
                reasons=command.reasons,
                witnesses=command.proof.in_order(),
                detail="overtaken by a newer decision",
            )
        ]

    def may_renew(self, *, closed: bool) -> bool:
        """Whether an output may be held as it reads, where it would fall off by itself.

        Only a command takes an output off: a cut that breaker, clock, RECOVERY or a start hold
        back must not come by a timer, and no supply closes without its person. So a supply is held
        closed unless a command moves it or a cut was sent and not proved; it is held open at an
        enforced point only, where somebody answers for it.
        """
        if self.command is not None:
            return False
        return self.fault is not Fault.FAILED_TO_OPEN if closed else self.enforced

    # -- what to do ------------------------------------------------------------------------

    def wants(self, now_ns: int) -> bool | None:
        """The switch that should be ordered now: True close, False open, None nothing.

        Age of the observation, faults, confirmation, minimum off time and restoration are judged
        here; breaker and stagger are asked by the caller before it calls `order`.
        """
        if not self.enforced or self.command is not None or self.observed is None:
            return None
        if self.fault is not None and now_ns - self.fault_ns < self.policy.fault_retry_s * NS:
            return None
        closed = self.observed.output_closed
        fresh = now_ns - self.observed.mono_ns <= self.policy.max_reading_age_s * NS
        if self.reasons:
            if closed is False:
                return None
            good = self.observed.trusted and fresh
            return False if good or self.reasons & UNCONDITIONAL else None
        known = self.observed.energy_wh is not None
        return True if closed is False and fresh and known and self._may_close(now_ns) else None

    def order(self, now_ns: int, *, close: bool) -> Order:
        """Start a command (the caller sends it)."""
        seen = self.observed
        proof = OpeningProof(
            load_before_w=None if seen is None or seen.power_w is None else abs(seen.power_w),
            current_before_a=(seen.current_a or 0.0) if seen else 0.0,
            starting_current_a=self.policy.starting_current_a,
            has_feedback=self.policy.has_feedback,
            upstream=self.policy.upstream,
        )
        self.command = Command(close, tuple(sorted(self.reasons)), proof)
        if close:
            self.command.was_pending = self.reconnection_pending
            self.command.said_ns = self.confirmed_ns or self._accepted_ns
        if not close:
            asked = self.needs_person and self.reconnection_pending
            self.needs_person = asked or not self._returns_by_itself(self.reasons)
            self.opened_ns = now_ns
            self.recent_w = proof.load_before_w or self.recent_w
        self.reconnection_pending = not close
        self.confirmed_ns = None
        return Order(OrderKind.SEND, close=close, attempt=1, reasons=self.command.reasons)

    def tick(self, now_ns: int) -> list[Order]:
        """Judge deadlines without a new reading."""
        command = self.command
        if command is None or command.sent_ns is None or command.look_first:
            return []
        if now_ns - command.sent_ns < self.policy.verify_s * NS:
            return []
        if not command.close and command.proof.shows_open:
            return self._finish()
        return self._retry_or_fail(now_ns)

    def look_at_age(self, now_ns: int) -> list[Order]:
        """Say once when a supply cannot be judged for want of good readings, and when it can."""
        good_ns, max_age_s = self._good_ns, self.policy.max_reading_age_s
        if good_ns is None:
            return []
        if not self.enforced or self.output_closed is False:
            return self._clear(Alarm.STALE_DATA)
        if now_ns - good_ns <= max_age_s * NS:
            return self._clear(Alarm.STALE_DATA)
        return self._raise(
            Alarm.STALE_DATA,
            f"no good reading for {max_age_s:.0f} s: nothing is cut on it; judged when one comes",
        )

    # -- inside ----------------------------------------------------------------------------

    def _may_close(self, now_ns: int) -> bool:
        if self.reconnection_pending:
            if self.min_off_left_s(now_ns) > 0:
                return False
            asked = self.policy.confirm_needed and self.needs_person
            return self._holds(self.confirmed_ns, now_ns) or not asked
        # Restoration (closed was intended all along) follows a restart or a lost link; an output
        # that opened under our eyes was opened by somebody, who may be working on the wires: once
        # that is said, only a person's word closes it, whatever happens to the link.
        differs = Alarm.OUTPUT_DIFFERS in self.alarms
        return self._holds(self._accepted_ns, now_ns) or (self._disturbed and not differs)

    def _returns_by_itself(self, reasons: AbstractSet[Reason]) -> bool:
        return reasons <= self.policy.returns_by_itself

    def _acts(self, reasons: AbstractSet[Reason]) -> None:
        """Reasons that begin to act take back what was said before they did."""
        self.confirmed_ns = None
        self._accepted_ns = None
        self.needs_person = self.needs_person or not self._returns_by_itself(reasons)

    def _holds(self, said_ns: int | None, now_ns: int) -> bool:
        """Whether the person who said it may still be taken to stand there."""
        return said_ns is not None and now_ns - said_ns <= self.policy.confirm_valid_s * NS

    def _judge(self, seen: Observation) -> list[Order]:
        command = self.command
        if command is None or command.sent_ns is None or seen.mono_ns < command.sent_ns:
            return []
        if command.close:
            return self._judge_close(command, seen)
        command.proof.collect(seen)
        looked, command.look_first = command.look_first, False
        if looked and not command.proof.shows_open:
            return self._retry_or_fail(seen.mono_ns)
        if command.proof.complete:
            return self._finish()
        return self.tick(seen.mono_ns)

    def _judge_close(self, command: Command, seen: Observation) -> list[Order]:
        shown = seen.output_closed and (
            not self.policy.has_feedback or seen.feedback_closed is not False
        )
        if shown:
            return self._finish()
        if command.look_first:
            command.look_first = False
            return self._retry_or_fail(seen.mono_ns)
        return self.tick(seen.mono_ns)

    def _finish(self) -> list[Order]:
        command = self.command
        if command is None:
            return []
        self.command = None
        self.fault = None
        orders = [
            Order(
                OrderKind.VERIFIED,
                close=command.close,
                attempt=command.attempts,
                reasons=command.reasons,
                witnesses=(Witness.OUTPUT,) if command.close else command.proof.in_order(),
                load_unproven=not command.close and command.proof.load_unproven,
                shown_ns=command.proof.shown_ns,
            )
        ]
        if command.close:
            self.opened_ns = None
            self.open_output = OpenOutput()
            self.needs_person = True
        elif self.observed is not None:
            self.open_output.commanded(self.observed.energy_wh)
        for alarm in (Alarm.FAILED_TO_OPEN, Alarm.FAILED_TO_CLOSE, Alarm.OUTPUT_DIFFERS):
            orders += self._clear(alarm)
        if command.close:
            orders += self._clear(Alarm.UNAUTHORISED_SUPPLY)
        return orders

    def _retry_or_fail(self, now_ns: int) -> list[Order]:
        command = self.command
        if command is None:
            return []
        if self.overtaken(now_ns):
            return self.drop()
        if command.attempts - command.lost <= self.policy.retries and command.lost <= LOST_MAX:
            command.attempts += 1
            command.sent_ns = None
            return [
                Order(
                    OrderKind.SEND,
                    close=command.close,
                    attempt=command.attempts,
                    reasons=command.reasons,
                    detail=command.detail,
                )
            ]
        self.command = None
        self.fault = Fault.FAILED_TO_CLOSE if command.close else Fault.FAILED_TO_OPEN
        self.fault_ns = now_ns
        if command.close:
            self.reconnection_pending = True
        closing = "the output does not read closed"
        detail = command.detail or (closing if command.close else command.proof.doubt())
        failed = Order(
            OrderKind.FAILED,
            close=command.close,
            attempt=command.attempts,
            reasons=command.reasons,
            witnesses=command.proof.in_order(),
            detail=detail,
        )
        return [failed, *self._raise(Alarm(self.fault.value), detail)]

    def _watch(self, seen: Observation) -> list[Order]:
        """The state at rest: supply while open, a fault that healed, an output that differs."""
        orders: list[Order] = []
        if seen.output_closed and self.reconnection_pending and not self.reasons:
            # Somebody closed it, or it never opened: nothing is left to reconnect.
            self.reconnection_pending = False
            self.confirmed_ns = self.opened_ns = None
            self.needs_person = True
        if self.fault is Fault.FAILED_TO_OPEN:
            low = seen.current_a is not None and seen.current_a <= self.policy.starting_current_a
            if self.intended_closed or (seen.output_closed is False and low):
                self.fault = None
                self.open_output.energy_wh = seen.energy_wh
                orders += self._clear(Alarm.FAILED_TO_OPEN)
            return orders
        if self.enforced and seen.output_closed is False:
            orders += self._watch_open(seen)
        elif seen.output_closed:
            self.open_output = OpenOutput()
        differs = (
            self.enforced
            and self.intended_closed
            and seen.output_closed is False
            and (self._unaccounted or not self._disturbed)
        )
        if differs:
            orders += self._raise(
                Alarm.OUTPUT_DIFFERS, "the output was opened by somebody else: reconnect by request"
            )
        elif seen.output_closed or not self.intended_closed:
            orders += self._clear(Alarm.OUTPUT_DIFFERS)
        return orders

    def _watch_open(self, seen: Observation) -> list[Order]:
        if not seen.trusted:
            return []
        taken = self.open_output.taken(seen, self.policy.starting_current_a)
        return self._raise(Alarm.UNAUTHORISED_SUPPLY, taken) if taken else []

    def _raise(self, alarm: Alarm, detail: str) -> list[Order]:
        if alarm in self.alarms:
            return []
        self.alarms.add(alarm)
        return [Order(OrderKind.ALARM, alarm=alarm, detail=detail)]

    def _clear(self, alarm: Alarm) -> list[Order]:
        if alarm not in self.alarms:
            return []
        self.alarms.discard(alarm)
        return [Order(OrderKind.CLEAR, alarm=alarm)]
