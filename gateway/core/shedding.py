"""Load shedding of one feeder: who goes first when it carries too much, and who comes back first.

Two causes: a person's order (down to a power, or everybody below a priority), and a capacity that
was exceeded for `over_s`. Points go in the order of their priority, lowest first and the largest
load first among equals; they come back in the opposite order, each only when it fits.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from gateway.core.proof import NS

# A point that was let go is counted with what it will draw until it is seen to draw it.
RETURN_NS: Final = 60 * NS
# The lowest priority goes first.
PRIORITY_MIN: Final = 1
PRIORITY_MAX: Final = 9
PRIORITY_DEFAULT: Final = 5


@dataclass(frozen=True, slots=True)
class ShedRules:
    """A capacity is exceeded for `over_s` before anybody goes; the first comes back `release_s`
    after the last went, when `margin_percent` of the ceiling would still be free.
    """

    over_s: float = 30.0
    release_s: float = 120.0
    margin_percent: int = 10


@dataclass(frozen=True, slots=True)
class ShedOrder:
    """A person's order: down to `to_w`, or every point of a priority below `below_priority`.

    One of the two is None.
    """

    to_w: int | None
    below_priority: int | None
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point of the feeder as the shedder sees it.

    `load_w` is what it draws now, `expected_w` what it would draw if it were let back. `may_go` is
    whether it can be shed: closed, freshly read, neither critical nor kept on by an override.
    """

    point: int
    priority: int
    load_w: float
    expected_w: float
    may_go: bool
    is_shed: bool


@dataclass(frozen=True, slots=True)
class Shedding:
    """What follows: points that go, in this order, and points that may come back."""

    go: tuple[int, ...] = ()
    back: tuple[int, ...] = ()


class Shedder:
    """Decides for one feeder; `shed` are the points that went, in that order."""

    def __init__(self, rules: ShedRules) -> None:
        self.rules = rules
        self.order: ShedOrder | None = None
        self.shed: list[int] = []
        self._over_since_ns: int | None = None
        self._went_ns: int | None = None
        self._returning: dict[int, tuple[float, int]] = {}

    def judge(
        self, now_ns: int, candidates: Sequence[Candidate], capacity_w: int | None
    ) -> Shedding:
        """One level-triggered round over all points of the feeder."""
        self._adopt(candidates)
        order = self.order
        ordered_w = None if order is None else order.to_w
        ceilings = [one for one in (capacity_w, ordered_w) if one is not None]
        ceiling_w = min(ceilings, default=None)
        load_w = sum(one.load_w for one in candidates if not one.is_shed)
        go = self._below(candidates)
        gone = set(go)
        load_w -= sum(one.load_w for one in candidates if one.point in gone)
        if self._exceeds(now_ns, load_w, capacity_w, ordered_w) and ceiling_w is not None:
            go += self._largest(candidates, gone, load_w - ceiling_w)
        if go:
            self.shed += go
            self._went_ns = now_ns
            return Shedding(go=tuple(go))
        return Shedding(back=self._back(now_ns, candidates, load_w, ceiling_w))

    def snapshot(self, names: Mapping[int, str]) -> dict[str, object] | None:
        """JSON values that survive a restart; None when there is nothing to remember."""
        if not self.shed and self.order is None:
            return None
        order = self.order
        return {
            "shed": [names[point] for point in self.shed],
            "order": None
            if order is None
            else [order.to_w, order.below_priority, order.actor, order.reason],
        }

    def restore(self, kept: Mapping[str, object], points: Mapping[str, int], now_ns: int) -> None:
        """Take up a snapshot; points that are gone are forgotten. The wait begins anew."""
        names = cast("Sequence[str]", kept["shed"])
        self.shed = [points[name] for name in names if name in points]
        order = cast("Sequence[object] | None", kept["order"])
        if order is not None:
            to_w, below, actor, reason = order
            self.order = ShedOrder(
                cast("int | None", to_w), cast("int | None", below), str(actor), str(reason)
            )
        self._went_ns = now_ns

    # -- inside ------------------------------------------------------------------------------

    def _adopt(self, candidates: Iterable[Candidate]) -> None:
        """The reason at the points is the truth; this list only remembers their order."""
        standing = {one.point for one in candidates if one.is_shed}
        self.shed = [point for point in self.shed if point in standing]
        known = set(self.shed)
        self.shed += sorted(standing - known)

    def _below(self, candidates: Sequence[Candidate]) -> list[int]:
        limit = None if self.order is None else self.order.below_priority
        if limit is None:
            return []
        return [one.point for one in _in_turn(candidates) if one.priority < limit]

    def _exceeds(
        self, now_ns: int, load_w: float, capacity_w: int | None, ordered_w: int | None
    ) -> bool:
        if ordered_w is not None and load_w > ordered_w:
            return True
        if capacity_w is None or load_w <= capacity_w:
            self._over_since_ns = None
            return False
        if self._over_since_ns is None:
            self._over_since_ns = now_ns
        return now_ns - self._over_since_ns >= self.rules.over_s * NS

    @staticmethod
    def _largest(candidates: Sequence[Candidate], gone: set[int], excess_w: float) -> list[int]:
        chosen: list[int] = []
        for one in _in_turn(candidates):
            if excess_w <= 0:
                break
            if one.point not in gone and one.load_w > 0:
                chosen.append(one.point)
                excess_w -= one.load_w
        return chosen

    def _back(
        self,
        now_ns: int,
        candidates: Sequence[Candidate],
        load_w: float,
        ceiling_w: float | None,
    ) -> tuple[int, ...]:
        """The one point that may come back now: the last that went, when it fits."""
        by_point = {one.point: one for one in candidates}
        self._returning = {
            point: (expected_w, since_ns)
            for point, (expected_w, since_ns) in self._returning.items()
            if now_ns - since_ns < RETURN_NS and by_point[point].load_w <= 0
        }
        if not self.shed:
            return ()
        limit = None if self.order is None else self.order.below_priority
        if limit is not None:
            return ()
        last = by_point[self.shed[-1]]
        if ceiling_w is not None:
            waited = self._went_ns is None or now_ns - self._went_ns >= self.rules.release_s * NS
            coming_w = sum(expected_w for expected_w, _ in self._returning.values())
            free_w = ceiling_w * (100 - self.rules.margin_percent) / 100
            # Alone on the feeder it comes back all the same: what is expected is only a guess.
            fits = load_w + coming_w + last.expected_w <= free_w or load_w + coming_w <= 0
            if not (waited and fits):
                return ()
        self._returning[last.point] = (last.expected_w, now_ns)
        return (last.point,)


def _in_turn(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Who may go, in the order in which they go."""
    free = (one for one in candidates if one.may_go and not one.is_shed)
    return sorted(free, key=lambda one: (one.priority, -one.load_w, one.point))
