"""The load limiter of one point: over the limit too long opens, too often locks out.

COSEM's Limiter (class 71) with the over-power rules of domain.md section 6: `over_s` above the
limit trips, `restore_s` later the trip is over, and `max_trips` within `window_s` lock the point
out until a person unlocks it.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, cast

from gateway.core.errors import RefusedError
from gateway.core.proof import NS

# Nobody means a limit of more: 10 MW, the most that a point may draw at all.
LIMIT_MAX_W: Final = 10_000_000
# So long a power that was read is taken to flow on (as a load before a command is).
POWER_HOLDS_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class LimiterRules:
    """Times in seconds. `hold_s` is how long a reading's power is taken to last without another."""

    over_s: float = 30.0
    restore_s: float = 120.0
    max_trips: int = 4
    window_s: float = 1_800.0
    hold_s: float = POWER_HOLDS_S


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits in W: by energy source, and one more while emergency credit is in use.

    A source that is not named has no limit of its own.
    """

    by_source: Mapping[str, int] = field(default_factory=dict)
    emergency_w: int | None = None

    def limit_w(self, source: str, *, emergency: bool) -> int | None:
        """The limit that holds now: the lowest of those that apply; None for none."""
        own = self.by_source.get(source)
        if not emergency or self.emergency_w is None:
            return own
        return self.emergency_w if own is None else min(own, self.emergency_w)

    def any_w(self) -> int | None:
        """The highest limit of any source, for what a reconnection may draw; None for none."""
        return max(self.by_source.values(), default=None)


def check_limit(limit_w: int, place: str) -> None:
    """Refuse a limit that nobody means. Raises RefusedError LIMIT_RANGE; 0 stands for none."""
    if not 0 <= limit_w <= LIMIT_MAX_W:
        raise RefusedError(
            "LIMIT_RANGE", f"a limit is 0 (none) to {LIMIT_MAX_W} W, not {limit_w}", place
        )


class LimiterState(StrEnum):
    """What the limiter says of a point."""

    FREE = "free"
    TRIPPED = "tripped"
    LOCKED_OUT = "locked_out"


class Limiter:
    """Judges the power of good readings; whoever asks turns `blocks` into a reason.

    Only good readings are fed: a doubtful one neither trips nor resets. Times are monotonic
    nanoseconds.
    """

    def __init__(self, rules: LimiterRules | None = None, limits: Limits | None = None) -> None:
        self.rules = rules or LimiterRules()
        self.limits = limits or Limits()
        self.state = LimiterState.FREE
        self._trips_ns: deque[int] = deque(maxlen=self.rules.max_trips)
        self._restore_ns = 0
        self._over_ns = 0
        self._last_over_ns: int | None = None

    @property
    def blocks(self) -> bool:
        """Whether supply has to be open for overload."""
        return self.state is not LimiterState.FREE

    def observe(self, now_ns: int, power_w: float, source: str, *, emergency: bool) -> bool:
        """Take in the power of a good reading; True when it trips."""
        limit_w = self.limits.limit_w(source, emergency=emergency)
        if self.blocks or limit_w is None or power_w <= limit_w:
            self._over_ns, self._last_over_ns = 0, None
            return False
        if self._last_over_ns is not None:
            # Between two readings far apart nobody saw what flowed.
            gap_ns = now_ns - self._last_over_ns
            self._over_ns += max(0, min(gap_ns, round(self.rules.hold_s * NS)))
        self._last_over_ns = now_ns
        if self._over_ns < self.rules.over_s * NS:
            return False
        self._trip(now_ns)
        return True

    def tripped_by_itself(self, now_ns: int) -> bool:
        """A meter opened for its power while nobody here saw it; True when that is news."""
        if self.blocks:
            return False
        self._trip(now_ns)
        return True

    def pass_time(self, now_ns: int) -> bool:
        """Whether a trip is over by now; says so once."""
        if self.state is not LimiterState.TRIPPED or now_ns < self._restore_ns:
            return False
        self.state = LimiterState.FREE
        return True

    def unlock(self) -> None:
        """A person ends a lock-out; earlier trips are forgotten. Raises RefusedError NOT_LOCKED."""
        if self.state is not LimiterState.LOCKED_OUT:
            raise RefusedError("NOT_LOCKED", "no lock-out for overload stands at this point")
        self.state = LimiterState.FREE
        self._trips_ns.clear()

    def snapshot(self, now_ns: int) -> dict[str, object]:
        """JSON values that survive a restart: state, ages of trips and what is left to wait, ms."""
        return {
            "state": self.state.value,
            "trip_ages_ms": [(now_ns - trip) // 1_000_000 for trip in self._trips_ns],
            "left_ms": max(0, self._restore_ns - now_ns) // 1_000_000,
        }

    def restore(self, kept: Mapping[str, object], now_ns: int, elapsed_ms: int) -> None:
        """Take up a snapshot that was made `elapsed_ms` ago."""
        self.state = LimiterState(cast("str", kept["state"]))
        ages = cast("Sequence[int]", kept["trip_ages_ms"])
        self._trips_ns = deque(
            (now_ns - (age + elapsed_ms) * 1_000_000 for age in ages), self.rules.max_trips
        )
        left_ms = cast("int", kept["left_ms"]) - elapsed_ms
        self._restore_ns = now_ns + max(0, left_ms) * 1_000_000

    def _trip(self, now_ns: int) -> None:
        self._over_ns, self._last_over_ns = 0, None
        horizon_ns = now_ns - round(self.rules.window_s * NS)
        while self._trips_ns and self._trips_ns[0] <= horizon_ns:
            self._trips_ns.popleft()
        self._trips_ns.append(now_ns)
        self._restore_ns = now_ns + round(self.rules.restore_s * NS)
        locked = len(self._trips_ns) >= self.rules.max_trips
        self.state = LimiterState.LOCKED_OUT if locked else LimiterState.TRIPPED
