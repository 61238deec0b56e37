"""Outputs that fall off without the gateway: held by repeating their command with the readings.

A command is repeated only in answer to a reading that shows its effect, so it moves nothing; a
switch takes its place. Each output has its place in a third of its time, so they never bunch.
"""

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Final, Protocol

import structlog

from gateway.app.control.group import Meters
from gateway.app.control.polls import FailSafe
from gateway.core.clock import Clock
from gateway.core.errors import MeterError
from gateway.core.point import Point
from gateway.core.proof import NS, Observation
from gateway.core.reading import Reading
from gateway.south.pacing import phases_ns

log = structlog.get_logger()

# Nobody knows when the last command before a start was: each output is held within this.
FIRST_S: Final = 3.0
# A command that failed is repeated before its turn.
RETRY_S: Final = 5.0
# What an older answer shows may not be so any more.
FRESH_NS: Final = 2 * NS
NOT_READ: Final = -1
# A meter's timer need not be exact.
FALLS_AT: Final = 0.9

Spawn = Callable[[Coroutine[None, None, None], str], None]


def held_every_s(rule: FailSafe) -> float:
    """How long control leaves an output without a command."""
    return _between_s(rule.after_s, rule.poll_s)


def _between_s(after_s: float, poll_s: float) -> float:
    """Between two commands: with the poll that it waits for, a third of the time."""
    return after_s / 3 - poll_s


class EventLog(Protocol):
    """Where events go."""

    def event(self, kind: str, subject: str, severity: str, **facts: object) -> None:
        """Keep an event for people and for the north."""
        ...


class _Held:
    """What is known of one output; times are monotonic ns.

    `after_s` is the shorter of what is configured and what the meter says (`found_s`), `phase`
    (0 … 1) the place within a period; `taken_ns` is when a command to be on was last sent
    that the meter took; `is_new` says that the meter's own time is to be read and followed.
    """

    __slots__ = (
        "after_s",
        "due_ns",
        "found_s",
        "is_failing",
        "is_new",
        "phase",
        "rule",
        "taken_ns",
        "was_on",
    )

    def __init__(self, rule: FailSafe, phase: float) -> None:
        self.rule = rule
        self.phase = phase
        self.after_s = rule.after_s
        self.due_ns = 0
        self.taken_ns: int | None = None
        self.was_on: bool | None = None
        self.is_failing = False
        self.found_s: int | None = NOT_READ
        self.is_new = True

    @property
    def period_ns(self) -> int:
        """Between two commands; at least 1."""
        return max(round(_between_s(self.after_s, self.rule.poll_s) * NS), 1)


class Renewals:
    """Holds outputs and says when one fell. `points` are indexed as the poller's meters."""

    def __init__(
        self,
        points: Sequence[Point],
        polls: Meters,
        events: EventLog,
        clock: Clock,
        spawn: Spawn,
    ) -> None:
        self._points = points
        self._polls = polls
        self._events = events
        self._clock = clock
        self._spawn = spawn
        self._base_ns = clock.mono_ns()
        phases = phases_ns([point.terms.meter_id for point in points], NS)
        self._held = [
            None if rule is None else _Held(rule, phase / NS)
            for rule, phase in zip(polls.fail_safes, phases, strict=True)
        ]
        for held in self._held:
            if held is not None:
                first_ns = min(held.period_ns, round(FIRST_S * NS))
                held.due_ns = self._base_ns + round(held.phase * first_ns)

    def see(self, index: int, reading: Reading, *, commanded: bool) -> None:
        """Notice an output that fell off by itself, before the rules judge its reading.

        `commanded` says that a switch was under way when control ended.
        """
        held = self._held[index]
        if held is None or reading.output_closed is None:
            return
        is_on = reading.output_closed is held.rule.holds_closed
        was_on, held.was_on = held.was_on, is_on
        supply = self._points[index].supply
        if is_on or commanded or reading.restarted or supply.command is not None:
            return
        if was_on is None:
            fell = supply.enforced and supply.intended_closed is held.rule.holds_closed
        else:
            fell = was_on and self._was_let_go(held)
        if fell:
            # Not somebody's hand, and restored as after a restart of the meter.
            supply.disturbed()
            self._tell_fallen(index, held)

    def renew(self, index: int, seen: Reading | Observation) -> None:
        """Repeat the command of an output that is shown on, when its turn has come.

        A doubtful counter must not cut either: what is shown with it counts, unless the last good
        reading has shown the output off.
        """
        held = self._held[index]
        now_ns = self._clock.mono_ns()
        if held is None or held.was_on is False or now_ns < held.due_ns:
            return
        # The output may have been read in an earlier request than the energy.
        asked_ns = seen.begun_ns if isinstance(seen, Reading) else seen.mono_ns
        closed = held.rule.holds_closed
        if seen.output_closed is not closed or asked_ns is None or now_ns - asked_ns > FRESH_NS:
            return
        if not self._points[index].supply.may_renew(closed=closed):
            return
        try:
            client = self._polls.client(index)
            done = partial(self._ended, index, held, now_ns)
            if not client.begin_renewal(closed=closed, done=done):
                return
        except MeterError as error:
            self._ended(index, held, now_ns, error)
        else:
            held.due_ns = self._next_ns(held, now_ns)

    def switched(self, index: int, *, closed: bool) -> None:
        """The meter took a switch command: one to be on counts as a repetition."""
        held = self._held[index]
        if held is not None and closed is held.rule.holds_closed:
            held.taken_ns = self._clock.mono_ns()

    def back(self, index: int) -> None:
        """A meter answers again after it was away: it may be another one, with another time."""
        held = self._held[index]
        if held is not None:
            held.is_new = True

    # -- inside ----------------------------------------------------------------------------

    def _ended(self, index: int, held: _Held, asked_ns: int, error: MeterError | None) -> None:
        if self._polls.is_stopping:
            return
        meter_id = self._points[index].terms.meter_id
        now_ns = self._clock.mono_ns()
        if error is None:
            # The meter counts from when it came, not from when control, that may have stood still,
            # saw the answer.
            held.taken_ns = asked_ns
            if held.is_failing:
                held.is_failing = False
                log.info("renewal.again", meter=meter_id)
                self._events.event("RENEWAL_FAILED", meter_id, "cleared")
            if held.is_new or held.found_s != held.rule.after_s:
                self._spawn(self._compare(index, held), f"compare {meter_id}")
            return
        held.due_ns = now_ns + min(round(RETRY_S * NS), held.period_ns)
        if not held.is_failing:
            held.is_failing = True
            log.warning("renewal.failed", meter=meter_id, code=error.code, reason=str(error))
            self._events.event(
                "RENEWAL_FAILED",
                meter_id,
                "warning",
                code=error.code,
                reason=str(error),
                falls_after_s=held.after_s,
            )

    async def _compare(self, index: int, held: _Held) -> None:
        """Read the meter's own time, with every repetition until it is the configured one.

        A shorter one is followed at the first reading of a meter: later it may be a test's.
        """
        client = self._polls.client(index)
        channel = client.model.outputs.channel(client.endpoint.output)
        if channel.remote_timeout_address is None:
            return
        try:
            found_s = await client.read_setting(channel.remote_timeout_address)
        except MeterError:
            return
        before_s, held.found_s = held.found_s, found_s
        is_new, held.is_new = held.is_new, False
        wanted_s, meter_id = held.rule.after_s, self._points[index].terms.meter_id
        if found_s == wanted_s:
            held.after_s = wanted_s
            if before_s not in (NOT_READ, wanted_s):
                self._events.event("FAIL_SAFE_DIFFERS", meter_id, "cleared")
            return
        if is_new and found_s:
            held.after_s = min(found_s, wanted_s)
            held.due_ns = min(held.due_ns, self._next_ns(held, self._clock.mono_ns()))
        if found_s != before_s:
            log.warning("fail_safe.differs", meter=meter_id, at_meter_s=found_s)
            self._events.event(
                "FAIL_SAFE_DIFFERS",
                meter_id,
                "warning",
                at_meter_s=found_s,
                configured_s=wanted_s,
            )

    def _was_let_go(self, held: _Held) -> bool:
        """Whether no command to be on reached the meter for its time."""
        if held.taken_ns is None:
            return True
        away_ns = self._clock.mono_ns() - held.taken_ns
        return held.found_s != 0 and away_ns >= held.after_s * NS * FALLS_AT

    def _tell_fallen(self, index: int, held: _Held) -> None:
        meter_id = self._points[index].terms.meter_id
        supply = "open" if held.rule.holds_closed else "closed"
        log.warning("output.fell_back", meter=meter_id, supply=supply)
        self._events.event(
            "OUTPUT_FELL_BACK", meter_id, "warning", supply=supply, after_s=held.after_s
        )

    def _next_ns(self, held: _Held, now_ns: int) -> int:
        """The next place of this output after now, at most a period away."""
        period_ns = held.period_ns
        first_ns = self._base_ns + round(held.phase * period_ns)
        return first_ns + ((now_ns - first_ns) // period_ns + 1) * period_ns
