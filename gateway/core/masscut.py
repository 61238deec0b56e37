"""The mass-cut breaker: bad data or a bad tariff must never darken a site.

Two limits (domain.md section 6): a rate (at most `max(max_cuts, max_percent)` CREDIT cuts per
window) and a halt (so many points newly due within a short time that it looks like an error: no
cut at all until two different managers release it).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from gateway.core.errors import RefusedError

NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class MassCutLimits:
    """Limits of the breaker; percentages are of the points that are connected."""

    max_cuts: int = 10
    max_percent: int = 5
    window_s: int = 600
    halt_percent: int = 25
    halt_window_s: int = 60
    halt_min_points: int = 4


class MassCutBreaker:
    """Admits CREDIT cuts one by one, or none while halted.

    `due` is told of every point that newly falls due, `admit` is asked before each cut. Times are
    monotonic nanoseconds.
    """

    def __init__(self, limits: MassCutLimits) -> None:
        self.limits = limits
        self.halted = False
        self._cuts_ns: deque[int] = deque()
        self._due_ns: deque[tuple[int, str]] = deque()
        self._released_by: tuple[str, ...] = ()

    def due(self, point_id: str, now_ns: int, connected: int) -> bool:
        """Note that a point newly fell due; True when this trips the halt."""
        self._due_ns.append((now_ns, point_id))
        horizon = now_ns - self.limits.halt_window_s * NS
        while self._due_ns and self._due_ns[0][0] <= horizon:
            self._due_ns.popleft()
        count = len({point for _, point in self._due_ns})
        # A site of three flats would halt at its first cut: the percentage needs a few points.
        if count < self.limits.halt_min_points:
            return False
        if self.halted or count * 100 < self.limits.halt_percent * connected:
            return False
        self.halted = True
        self._released_by = ()
        return True

    def admit(self, now_ns: int, connected: int) -> bool:
        """Whether one more CREDIT cut may be commanded now; an admitted cut is counted."""
        if not self.has_room(now_ns, connected):
            return False
        self._cuts_ns.append(now_ns)
        return True

    def has_room(self, now_ns: int, connected: int) -> bool:
        """Whether `admit` would say yes; counts nothing."""
        if self.halted:
            return False
        horizon = now_ns - self.limits.window_s * NS
        while self._cuts_ns and self._cuts_ns[0] <= horizon:
            self._cuts_ns.popleft()
        allowed = max(self.limits.max_cuts, connected * self.limits.max_percent // 100)
        return len(self._cuts_ns) < allowed

    def release(self, actor: str) -> bool:
        """One manager's release; True when it was the second of two different ones.

        Raises RefusedError NOT_HALTED or SAME_PERSON.
        """
        if not self.halted:
            raise RefusedError("NOT_HALTED", "cuts are not halted: there is nothing to release")
        if actor in self._released_by:
            raise RefusedError(
                "SAME_PERSON", "a halt needs the release of a second, different manager"
            )
        self._released_by = (*self._released_by, actor)
        if len(self._released_by) < 2:
            return False
        self.halted = False
        self._due_ns.clear()
        return True

    def snapshot(self, now_ns: int) -> dict[str, object]:
        """JSON values that survive a restart: halt, releases, ages of cuts in ms."""
        return {
            "halted": self.halted,
            "released_by": list(self._released_by),
            "cut_ages_ms": [(now_ns - cut) // 1_000_000 for cut in self._cuts_ns],
        }

    def restore(self, state: Mapping[str, object], now_ns: int, elapsed_ms: int) -> None:
        """Take up a snapshot that was made `elapsed_ms` ago."""
        self.halted = bool(state["halted"])
        self._released_by = tuple(cast("Sequence[str]", state["released_by"]))
        ages = cast("Sequence[int]", state["cut_ages_ms"])
        self._cuts_ns = deque(now_ns - (age + elapsed_ms) * 1_000_000 for age in ages)
