"""Which meters answer: away and back, readings that no rule takes, restarts acknowledged."""

from collections.abc import Callable, Coroutine, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Protocol

import structlog

from gateway.app.control.group import Meters
from gateway.core.clock import Clock
from gateway.core.errors import MeterError, MeterIdentityError
from gateway.core.point import Point
from gateway.core.proof import NS
from gateway.core.switching import Reason

log = structlog.get_logger()

# One failed poll is noise on a network; this many in a row are an absent meter.
AWAY_AFTER: Final = 3
# A meter that refuses the acknowledgement of its restart is asked again after this.
ACKNOWLEDGE_AGAIN_NS: Final = 60 * NS

Spawn = Callable[[Coroutine[None, None, None], str], None]


class EventLog(Protocol):
    """Where events go."""

    def event(self, kind: str, subject: str, severity: str, **facts: object) -> None:
        """Keep an event for people and for the north."""
        ...


class Presence:
    """Says once when a meter goes and when it is back. `points` are indexed as the poller's."""

    def __init__(
        self, points: Sequence[Point], polls: Meters, events: EventLog, clock: Clock
    ) -> None:
        self._points = points
        self._polls = polls
        self._events = events
        self._clock = clock
        self._failures = [0] * len(points)
        self._away: dict[int, str] = {}
        self._acknowledge_at_ns: dict[int, int] = {}
        self._unsettled: set[int] = set()
        self._uncut: set[int] = set()

    def of(self, index: int) -> str:
        """What is known of a meter now: good, uncertain (a poll failed), away or never (read)."""
        if index in self._away:
            return "away"
        if self._points[index].last is None:
            return "never"
        return "uncertain" if self._failures[index] else "good"

    def failed(self, index: int, error: MeterError) -> None:
        """A poll failed; told once when the meter counts as away."""
        self._failures[index] += 1
        if isinstance(error, MeterIdentityError):
            # Another device at the address is no noise, and news even of a meter that is away.
            is_news = self._away.get(index) != error.code
        else:
            is_news = index not in self._away and self._failures[index] >= AWAY_AFTER
        if is_news:
            self._away[index] = error.code
            meter_id = self._points[index].terms.meter_id
            log.warning("meter.away", meter=meter_id, code=error.code, reason=str(error))
            self._events.event(
                "METER_AWAY", meter_id, "warning", code=error.code, reason=str(error)
            )

    def answered(self, index: int) -> bool:
        """A poll came back; True when the meter had been away."""
        if index in self._uncut and not self._points[index].supply.reasons:
            self._uncut.discard(index)
            point_id = self._points[index].terms.service_point_id
            self._events.event("CUT_IMPOSSIBLE", point_id, "cleared")
        if not self._failures[index]:
            return False
        self._failures[index] = 0
        if self._away.pop(index, None) is None:
            return False
        meter_id = self._points[index].terms.meter_id
        log.info("meter.back", meter=meter_id)
        self._events.event("METER_BACK", meter_id, "cleared")
        return True

    def unsettled(self, index: int, error: Exception) -> None:
        """A reading that the rules cannot take: said once, and no other meter suffers by it."""
        if index not in self._unsettled:
            self._unsettled.add(index)
            meter_id = self._points[index].terms.meter_id
            log.error("reading.unsettled", meter=meter_id, reason=str(error))
            self._events.event("READING_UNSETTLED", meter_id, "critical", reason=str(error))

    def uncut(self, index: int, reasons: AbstractSet[Reason]) -> None:
        """Supply should be cut where there is nothing to switch: said once, until it is over."""
        if index not in self._uncut:
            self._uncut.add(index)
            point_id, named = self._points[index].terms.service_point_id, sorted(reasons)
            log.error("supply.uncut", point=point_id, reasons=named)
            self._events.event("CUT_IMPOSSIBLE", point_id, "critical", reasons=named)

    def settled(self, index: int) -> None:
        """A reading that the rules took."""
        self._unsettled.discard(index)

    def restarted(self, index: int, spawn: Spawn) -> None:
        """Clear the meter's restart bit once the output is as intended, so that the next one shows.

        Source: PAC3220 manual p138 (60007).
        """
        point = self._points[index]
        supply = point.supply
        settled = supply.command is None and supply.output_closed is supply.intended_closed
        now_ns = self._clock.mono_ns()
        not_before_ns = self._acknowledge_at_ns.get(index, 0)
        if now_ns < not_before_ns or (supply.enforced and not settled):
            return
        self._acknowledge_at_ns[index] = now_ns + ACKNOWLEDGE_AGAIN_NS
        if not_before_ns == 0:
            self._events.event("METER_RESTARTED", point.terms.meter_id, "notice")
        spawn(self._acknowledge(index), f"acknowledge {point.terms.meter_id}")

    async def _acknowledge(self, index: int) -> None:
        client = self._polls.client(index)
        try:
            await client.acknowledge_diagnostics(client.model.diagnostic("restart").mask)
        except MeterError as error:
            # Write protection, say: the bit stays, and with it the caution it stands for.
            log.warning("restart.unacknowledged", meter=client.endpoint.meter_id, reason=str(error))
        else:
            self._acknowledge_at_ns.pop(index, None)
