"""How long to wait for a meter, and what was counted about it."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from gateway.core.figures import Histogram

# A deadline below this would punish a meter for one busy moment of its processor.
DEADLINE_MIN_S: Final = 0.25
# Longer than any meter on a LAN was seen to take; a configured timeout may be shorter still.
DEADLINE_MAX_S: Final = 2.0
DEADLINE_FACTOR: Final = 4.0
# Twenty round trips are the fewest of which the 95th percentile is not just the largest.
WINDOW: Final = 20
P95_INDEX: Final = 18
SMOOTHING: Final = 0.25

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 60.0
# Full jitter may draw zero; a meter that just refused gets this much peace.
BACKOFF_MIN_S: Final = 0.1


class Jitter(Protocol):
    """A seeded source of randomness."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...


class RoundTrips:
    """The reply deadline of one meter: 4 times the smoothed 95th percentile of its round trips.

    The deadline, in seconds of the event loop, stays within 0.25 … 2 s and never exceeds the
    configured `cap_s`; until enough replies were seen it is the cap. It survives reconnections.
    """

    __slots__ = ("_cap_s", "_p95_s", "_window", "deadline_s", "latest_s")

    def __init__(self, cap_s: float) -> None:
        self._cap_s = min(cap_s, DEADLINE_MAX_S)
        self._p95_s: float | None = None
        self._window: list[float] = []
        self.deadline_s = self._cap_s
        self.latest_s = 0.0

    @property
    def p95_s(self) -> float | None:
        """The smoothed 95th percentile; None before the first window is full."""
        return self._p95_s

    def observe(self, round_trip_s: float) -> None:
        """Count one reply that came `round_trip_s` seconds after its request."""
        self.latest_s = round_trip_s
        self._window.append(round_trip_s)
        if len(self._window) < WINDOW:
            return
        self._window.sort()
        p95_s = self._window[P95_INDEX]
        self._window.clear()
        before_s = p95_s if self._p95_s is None else self._p95_s
        self._set(before_s + SMOOTHING * (p95_s - before_s))

    def timed_out(self) -> None:
        """Double the deadline, up to the cap: a meter that became slow must be able to answer.

        Without this its replies would all come late, and no measurement would ever say so.
        """
        if self._p95_s is not None:
            self._set(max(self._p95_s, self.deadline_s / DEADLINE_FACTOR) * 2.0)
        self._window.clear()

    def _set(self, p95_s: float) -> None:
        self._p95_s = min(p95_s, self._cap_s)
        wanted_s = max(DEADLINE_FACTOR * self._p95_s, DEADLINE_MIN_S)
        self.deadline_s = min(wanted_s, self._cap_s)


def backoff_s(failures: int, jitter: Jitter) -> float:
    """Seconds to leave a meter alone after `failures` (>= 1) in a row: full jitter, 0.5 to 60 s."""
    # 2^7 half-seconds exceed the longest pause; a larger exponent would only grow a huge integer.
    ceiling_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * float(1 << min(failures - 1, 7)))
    return max(BACKOFF_MIN_S, jitter.random() * ceiling_s)


def phases_ns(meter_ids: Sequence[str], period_ns: int) -> list[int]:
    """When in the period each meter is polled: evenly spread, in the order of a stable hash.

    The hash keeps neighbours of a list, which share a switch, apart; equal hashes order by name.
    """
    order = sorted(range(len(meter_ids)), key=lambda at: _rank(meter_ids[at]))
    phases = [0] * len(meter_ids)
    for rank, at in enumerate(order):
        phases[at] = rank * period_ns // len(meter_ids)
    return phases


def _rank(meter_id: str) -> tuple[int, str]:
    return zlib.crc32(meter_id.encode()), meter_id


@dataclass(slots=True)
class PollerMetrics:
    """What the poller counted since it was made.

    `skipped` regular polls were due while their predecessor still ran (or the loop stood still),
    `held_back` ones while the meter was left alone after failures. `failures` counts by error
    code. `lateness` is start against due time, `round_trip` the last request of each poll,
    `poll_time` whole polls with their connection where one had to be made.
    """

    polls: int = 0
    predicted: int = 0
    predicted_refused: int = 0
    skipped: int = 0
    held_back: int = 0
    connects: int = 0
    connects_deferred: int = 0
    switches: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    lateness: Histogram = field(default_factory=Histogram)
    round_trip: Histogram = field(default_factory=Histogram)
    poll_time: Histogram = field(default_factory=Histogram)
