"""From readings to switches: wires points, breaker, poller and records together.

Single-threaded on the control loop. Decisions are level-triggered: every reading and every sweep
compares what is intended with what was observed.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

import structlog

from gateway.app.control.alerts import tell_credit, tell_feed_in
from gateway.app.control.gate import UNJUDGED, Gate
from gateway.app.control.governor import Governor, GovernorTerms
from gateway.app.control.group import Meters
from gateway.app.control.presence import Presence
from gateway.app.control.renewals import Renewals
from gateway.app.control.tallies import Tallies
from gateway.core.clock import Clock
from gateway.core.errors import MeterCounterError, MeterError, MeterExceptionError, RefusedError
from gateway.core.feeder import FeederRules
from gateway.core.masscut import MassCutBreaker
from gateway.core.point import Point, Step
from gateway.core.proof import NS, Observation
from gateway.core.reading import Lane, Reading
from gateway.core.switching import Alarm, Order, OrderKind, Reason

__all__ = ["UNJUDGED", "CommandTrack", "Engine", "Gate", "Journal"]

log = structlog.get_logger()

# The supply write itself; the poller's own deadlines are shorter, this one is the last resort.
SWITCH_DEADLINE_S: Final = 5.0
# While a command waits for its proof the meter is read this often.
PROOF_POLL_S: Final = 0.1
# So long a switch may still be a request's doing (stagger, minimum off time).
REQUEST_HOLDS_NS: Final = 120 * NS


@dataclass(slots=True)
class CommandTrack:
    """A switch command on record, from intent to proof. Times are wall milliseconds."""

    command_id: str
    point_index: int
    close: bool
    reasons: tuple[Reason, ...]
    request_key: str | None
    issued_utc_ms: int
    state: str = "queued"
    attempts: int = 1
    finished_utc_ms: int | None = None
    witnesses: tuple[str, ...] = ()
    detail: dict[str, object] | None = None
    # Monotonic: the reply that made a cut due at once, and the decision.
    due_ns: int | None = None
    decided_ns: int = 0


class Journal(Protocol):
    """What the engine asks of the records; each returns at once, `committed` waits."""

    def command(self, track: CommandTrack) -> asyncio.Future[None]:
        """Keep a command's present state together with its point's supply state."""
        ...

    def event(self, kind: str, subject: str, severity: str, **facts: object) -> None:
        """Keep an event for people and for the north."""
        ...

    def reading(self, index: int, point: Point, reading: Reading, step: Step) -> None:
        """Show a reading and keep it as telemetry."""
        ...


class Engine:
    """Everything control decides. `points` are indexed as the poller's meters."""

    def __init__(
        self,
        points: Sequence[Point],
        polls: Meters,
        journal: Journal,
        breaker: MassCutBreaker,
        clock: Clock,
        *,
        new_id: Callable[[], str],
        stagger_s: float,
        tallies: Tallies | None = None,
        governor: Governor | None = None,
    ) -> None:
        self.points: Final = tuple(points)
        self.breaker: Final = breaker
        self.gate: Final = Gate()
        self.tallies: Final = tallies or Tallies()
        self.due: set[int] = set()
        self.busy: Counter[int] = Counter()
        self.commands: dict[int, CommandTrack] = {}
        self.inherited: dict[int, CommandTrack] = {}
        self.requests_seen: Callable[[], bool] = lambda: True
        self.failure: BaseException | None = None
        self.polls: Final = polls
        self._journal = journal
        self._clock = clock
        self._new_id = new_id
        self.governor: Final = governor or Governor(
            self.points,
            journal,
            clock,
            terms=GovernorTerms(feeder=FeederRules(stagger_s=stagger_s)),
            chance=lambda: 0.0,
        )
        self._presence = Presence(self.points, polls, journal, clock)
        self._renewals = Renewals(self.points, polls, journal, clock, self._spawn)
        self._tasks: set[asyncio.Task[None]] = set()
        self._requested: dict[int, tuple[str, bool, int]] = {}
        self.flat: Final[set[int]] = set()

    # -- from the poller -------------------------------------------------------------------

    def on_reading(self, index: int, reading: Reading) -> None:
        """Take one reading all the way; never raises for a meter's sake."""
        point = self.points[index]
        if self._presence.answered(index):
            self._renewals.back(index)
        self._renewals.see(index, reading, commanded=index in self.inherited)
        pending = point.supply.reconnection_pending
        try:
            step = point.on_reading(reading, rates_known=self.gate.knows_rates(reading))
        except (RefusedError, ValueError) as error:
            self._presence.unsettled(index, error)
            self._renewals.renew(index, reading)
            return
        self._presence.settled(index)
        if index in self.inherited and not reading.late:
            self._reconcile(index, output_closed=reading.output_closed)
        if not reading.late:
            self.governor.on_reading(index, step, self.polls.register_of(index, reading))
        # What an override or friendly hours hold back is no cut, now or when it is let go.
        falls_due = step.newly_due and Reason.CREDIT in point.supply.reasons
        if falls_due and not step.deferred and self.gate.recovery is None:
            self._newly_due(point)
        self.carry_out(index, step.orders)
        due_ns = reading.mono_ns if step.newly_due and not reading.late else None
        self.decide(index, due_ns=due_ns)
        self._renewals.renew(index, reading)
        self._plan_poll(index, reading, step)
        if step.posting_due or point.supply.reconnection_pending is not pending:
            self.due.add(index)
        if reading.restarted and step.settled:
            self._presence.restarted(index, self._spawn)
        for event in step.events:
            self._journal.event(
                event, point.terms.meter_id, "warning", registers_wh=list(reading.energy_wh)
            )
        if step.fed_wh or step.export_events:
            tell_feed_in(self._journal, point, step)
            if point.account is not None and point.account.is_lifted(point.label_utc_ms):
                # What lifts the credit gives supply back once it is posted.
                self.due.add(index)
        if tell_credit(self._journal, point, step):
            self.due.add(index)
        self._journal.reading(index, point, reading, step)

    def on_failure(self, index: int, error: MeterError) -> None:
        """A poll failed; told once when the meter counts as away."""
        self.points[index].lost()
        self._presence.failed(index, error)
        if not isinstance(error, MeterCounterError):
            return
        inherited = index in self.inherited
        if error.measures:
            # A counter that is none hides neither output nor current.
            self.on_output(index, error.seen)
        # A cut that was under way when the process died is not worked against.
        if not inherited:
            self._renewals.renew(index, error.seen)

    def on_output(self, index: int, seen: Observation) -> None:
        """Take what a meter shows of its supply while its energy is in doubt, or has to wait.

        It proves a switch and lets a person's cut begin; nothing is charged, closed or cut for
        credit on it.
        """
        if index in self.inherited:
            self._reconcile(index, output_closed=seen.output_closed)
        self.carry_out(index, self.points[index].supply.observe(seen))
        self.decide(index)

    def presence(self, index: int) -> str:
        """What is known of a meter now: good, uncertain (a poll failed), away or never (read)."""
        return self._presence.of(index)

    # -- decisions -------------------------------------------------------------------------

    def decide(self, index: int, *, due_ns: int | None = None) -> None:
        """Compare intended and observed supply; start at most one command.

        `due_ns` is when the reply came that just made a cut due.
        """
        point = self.points[index]
        now_ns = self._clock.mono_ns()
        self.governor.vouch(index, now_ns)
        close = point.supply.wants(now_ns)
        if close is None or self.gate.blocker() is not None:
            return
        if not self.polls.can_switch(index):
            self._presence.uncut(index, point.supply.reasons)
            return
        if close:
            if not self.governor.may_close(index, now_ns):
                return
            self.governor.closing(index, now_ns)
        elif point.supply.reasons <= {Reason.CREDIT} and not self._admit_credit_cut(index, now_ns):
            return
        track = CommandTrack(
            command_id=self._new_id(),
            point_index=index,
            close=close,
            reasons=tuple(sorted(point.supply.reasons)),
            request_key=self._request_of(index, close=close, now_ns=now_ns),
            issued_utc_ms=self._clock.utc_ms(),
            detail=self._facts(point),
            due_ns=due_ns,
            decided_ns=now_ns,
        )
        order = point.supply.order(now_ns, close=close)
        self.commands[index] = track
        self.due.add(index)
        self._send(track, order)
        if due_ns is not None and not close:
            self.tallies.cut_decision.observe((self._clock.mono_ns() - due_ns) / NS)

    def decide_all(self) -> None:
        """One level-triggered round: deadlines of commands, then decisions."""
        now_ns = self._clock.mono_ns()
        self.governor.pass_time(now_ns, self._clock.utc_ms() if self.gate.clock.trusted else None)
        self.due |= self.governor.due
        self.governor.due.clear()
        for index, point in enumerate(self.points):
            self.carry_out(index, point.supply.look_at_age(now_ns))
            if point.supply.command is not None:
                self.carry_out(index, point.supply.tick(now_ns))
            elif point.supply.observed is not None:
                self.decide(index)

    def expect(self, index: int, request_key: str, *, close: bool) -> None:
        """Somebody asks for a switch: the next command of this kind carries the request's key."""
        self._requested[index] = (request_key, close, self._clock.mono_ns())

    def requested(self, index: int) -> None:
        """What was asked for is on record: act on it."""
        self.decide(index)
        supply = self.points[index].supply
        if supply.command is None and supply.wants(self._clock.mono_ns()) is None:
            # No switch is due (something else blocks): the next one is not this request's.
            self._requested.pop(index, None)

    def _request_of(self, index: int, *, close: bool, now_ns: int) -> str | None:
        key, wanted, asked_ns = self._requested.pop(index, ("", close, 0))
        fresh = now_ns - asked_ns <= REQUEST_HOLDS_NS
        return key if key and fresh and wanted is close else None

    def carry_out(self, index: int, orders: Iterable[Order]) -> None:
        """Do what the supply machine ordered."""
        for order in orders:
            if order.kind is OrderKind.SEND:
                track = self.commands[index]
                track.attempts = order.attempt
                self._send(track, order)
            elif order.kind in (OrderKind.VERIFIED, OrderKind.FAILED):
                self._finish(index, order)
            else:
                self._alarm(index, order)

    def connected_points(self) -> int:
        """Enforced points whose supply is closed, the base of the breaker's percentages."""
        return sum(
            point.supply.enforced and point.supply.output_closed is not False
            for point in self.points
        )

    def snapshot(self) -> dict[str, object]:
        """JSON values that survive a restart: requests that wait for a switch, the governor's."""
        now_ns = self._clock.mono_ns()
        return {
            **self.governor.snapshot(now_ns),
            "requested": {
                self.points[index].terms.service_point_id: [
                    key,
                    close,
                    (now_ns - asked_ns) // 1_000_000,
                ]
                for index, (key, close, asked_ns) in self._requested.items()
            },
        }

    def restore(self, kept: Mapping[str, object], elapsed_ms: int) -> None:
        """Take up a snapshot that was made `elapsed_ms` ago."""
        now_ns = self._clock.mono_ns()
        self.governor.restore(kept, now_ns, elapsed_ms)
        requested = cast("Mapping[str, tuple[str, bool, int]]", kept["requested"])
        for index, point in enumerate(self.points):
            waiting = requested.get(point.terms.service_point_id)
            if waiting is not None:
                key, close, age_ms = waiting
                asked_ns = now_ns - (age_ms + elapsed_ms) * 1_000_000
                self._requested[index] = (key, close, asked_ns)

    def set_flat(self, index: int, *, flat: bool) -> None:
        """Whether this point's price does not depend on the time (cuts go on without a clock)."""
        (self.flat.add if flat else self.flat.discard)(index)

    async def settle_tasks(self, deadline_s: float) -> bool:
        """Wait for switch commands under way, at most `deadline_s`; whether all have ended."""
        tasks = tuple(self._tasks)
        return not tasks or not (await asyncio.wait(tasks, timeout=deadline_s))[1]

    # -- inside ----------------------------------------------------------------------------

    def _newly_due(self, point: Point) -> None:
        now_ns = self._clock.mono_ns()
        if self.breaker.due(point.terms.service_point_id, now_ns, self.connected_points()):
            log.error("masscut.halt", point=point.terms.service_point_id)
            self._journal.event(
                "MASS_CUT_HALT", "site", "critical", limits=str(self.breaker.limits)
            )

    def _admit_credit_cut(self, index: int, now_ns: int) -> bool:
        undated = not self.gate.clock.trusted and index not in self.flat
        if undated or self.gate.recovery is not None:
            return False
        # Friendly hours may have begun, an override may have come, since the last sweep.
        self.governor.refresh(index)
        if self.points[index].supply.wants(now_ns) is not False:
            return False
        connected = self.connected_points()
        if not self.breaker.has_room(now_ns, connected):
            return False
        # A recharge may lie in north.db already: whoever has paid is not cut.
        if not self.requests_seen() or self.busy[index] > 0:
            return False
        if self.points[index].supply.wants(now_ns) is not False:
            return False
        return self.breaker.admit(now_ns, connected)

    def _facts(self, point: Point) -> dict[str, object]:
        """What a command was decided on."""
        reading = point.last
        return {
            "available_nano": point.available_nano,
            "registers_wh": list(reading.energy_wh) if reading else [],
            "reading_utc_ms": reading.utc_ms if reading else None,
            "lane": reading.lane.value if reading else None,
        }

    def _send(self, track: CommandTrack, order: Order) -> None:
        self._spawn(self._switch(track, order), f"switch {track.command_id} {order.attempt}")

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._switched)

    def _switched(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failure = self.failure or task.exception()

    async def _switch(self, track: CommandTrack, order: Order) -> None:
        index = track.point_index
        point = self.points[index]
        kept = self._journal.command(track)
        if order.close or track.reasons != (Reason.CREDIT,):
            # A cut for credit follows from the meters themselves; anything else is a person's
            # word and must be on record before it acts.
            await kept
        if self.commands.get(index) is not track:
            return
        if point.supply.overtaken(self._clock.mono_ns()):
            self.carry_out(index, point.supply.drop())
            self.decide(index)
            return
        handed_ns = self._clock.mono_ns()
        try:
            await self.polls.switch(index, closed=order.close, deadline_s=SWITCH_DEADLINE_S)
        except MeterError as error:
            point.supply.send_failed(
                self._clock.mono_ns(),
                f"{error.code}: {error}",
                refused=isinstance(error, MeterExceptionError),
            )
            log.warning(
                "switch.failed", meter=point.terms.meter_id, code=error.code, reason=str(error)
            )
        else:
            point.supply.sent(self._clock.mono_ns())
            self._renewals.switched(index, closed=order.close)
            if track.due_ns is not None and not order.close and order.attempt <= 1:
                self.tallies.cut_write.observe((self._clock.mono_ns() - track.due_ns) / NS)
                # How long the gateway itself took, for whoever looks at one late cut.
                self._note(track, "reply_to_decision_us", (track.decided_ns - track.due_ns) // 1000)
                self._note(track, "decision_to_write_us", (handed_ns - track.decided_ns) // 1000)
            self._note(track, "acknowledged_utc_ms", self._clock.utc_ms())
        self.polls.request_poll(index, self._clock.mono_ns(), Lane.FULL)
        await kept
        if track.finished_utc_ms is None:
            track.state = "sent"
            self._journal.command(track)

    def _finish(self, index: int, order: Order) -> None:
        track = self.commands.pop(index)
        point = self.points[index]
        now_ns, utc_ms = self._clock.mono_ns(), self._clock.utc_ms()
        track.state = "verified" if order.kind is OrderKind.VERIFIED else "failed"
        track.finished_utc_ms = utc_ms
        track.witnesses = tuple(witness.value for witness in order.witnesses)
        self._note(track, "load_unproven", order.load_unproven)
        if order.shown_ns is not None:
            self._note(track, "shown_utc_ms", utc_ms - (now_ns - order.shown_ns) // 1_000_000)
        if order.detail:
            self._note(track, "reason", order.detail)
        self._journal.command(track)
        self.due.add(index)
        self.tallies.switches[f"{'close' if order.close else 'open'} {track.state}"] += 1
        self.tallies.switch_proof.observe((now_ns - track.decided_ns) / NS)
        if order.kind is OrderKind.VERIFIED:
            kind = "SUPPLY_RESTORED" if order.close else "SUPPLY_CUT"
            self._journal.event(
                kind,
                point.terms.service_point_id,
                "notice",
                command=track.command_id,
                reasons=[reason.value for reason in order.reasons],
                verified_by=list(track.witnesses),
                load_unproven=order.load_unproven,
            )

    def _alarm(self, index: int, order: Order) -> None:
        if order.alarm is None:
            return
        # What a person must see must also outlive the process.
        self.due.add(index)
        point_id = self.points[index].terms.service_point_id
        raised = order.kind is OrderKind.ALARM
        severity = "warning" if order.alarm is Alarm.STALE_DATA else "critical"
        (log.error if raised else log.info)(
            "alarm.raised" if raised else "alarm.cleared",
            alarm=order.alarm.value,
            point=point_id,
            reason=order.detail,
        )
        self._journal.event(
            order.alarm.value,
            point_id,
            severity if raised else "cleared",
            reason=order.detail,
        )

    def _reconcile(self, index: int, *, output_closed: bool | None) -> None:
        """A command was under way when the process died: look, never repeat blindly."""
        track = self.inherited.pop(index)
        done = output_closed == track.close
        track.state = "verified" if done else "failed"
        track.finished_utc_ms = self._clock.utc_ms()
        track.witnesses = ("output",) if done else ()
        self._note(track, "reconciled", value=True)
        self._journal.command(track)
        if done and not track.close:
            self._journal.event(
                "SUPPLY_CUT",
                self.points[index].terms.service_point_id,
                "notice",
                command=track.command_id,
                reasons=[reason.value for reason in track.reasons],
                verified_by=["output"],
            )

    def _plan_poll(self, index: int, reading: Reading, step: Step) -> None:
        if step.read_again:
            self.polls.request_poll(index, reading.mono_ns, Lane.SHORT)
        command = self.points[index].supply.command
        if command is not None and command.sent_ns is not None and not command.proof.shows_open:
            self.polls.request_poll(index, reading.mono_ns + round(PROOF_POLL_S * NS), Lane.FULL)
        elif step.predict_s is not None and not self.points[index].supply.blocks.held_back:
            due_ns = (reading.asked_ns or reading.mono_ns) + round(step.predict_s * NS)
            self.polls.request_poll(index, due_ns, Lane.SHORT)

    @staticmethod
    def _note(track: CommandTrack, name: str, value: object) -> None:
        facts: Mapping[str, object] = track.detail or {}
        track.detail = {**facts, name: value}
