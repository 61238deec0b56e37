"""One feeder: when its supplies may be closed again, one after the other and within its capacity.

A token bucket spaces the closings, a random delay keeps feeders and sites from closing in step,
and the head-room left by what is measured, plus what was closed and is not measured yet, has to
hold what a closing is expected to draw.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, cast

from gateway.core.proof import NS

# So long a closed supply counts with what it was expected to draw, if that is more than it draws.
SETTLE_NS: Final = 30 * NS


@dataclass(frozen=True, slots=True)
class FeederRules:
    """`burst` closings may come at once, one more every `stagger_s` and up to `jitter_s` by chance.

    A hold of `generator_hold_s` follows a change of the source to a generator.
    """

    stagger_s: float = 0.5
    burst: int = 1
    jitter_s: float = 0.0
    generator_hold_s: float = 0.0


@dataclass(slots=True)
class Load:
    """What a point draws as last seen, when, and whether it is shut off.

    Before it was seen (`seen_ns` None) it is an assumption, which counts until `until_ns`.
    """

    power_w: float = 0.0
    seen_ns: int | None = None
    is_open: bool = False
    until_ns: int | None = None


class Feeder:
    """Measured load and closings of one feeder. `chance` gives a number in 0 … 1.

    Points are named by their index; times are monotonic nanoseconds.
    """

    def __init__(
        self, rules: FeederRules, *, capacity_w: int | None, chance: Callable[[], float]
    ) -> None:
        self.rules = rules
        self.capacity_w = capacity_w
        self._chance = chance
        self._loads: dict[int, Load] = {}
        self._expected: dict[int, tuple[float, int]] = {}
        self._tokens = float(rules.burst)
        self._filled_ns: int | None = None
        self._not_before_ns = 0
        self._held_until_ns = 0
        self._source: str | None = None

    # -- what is measured --------------------------------------------------------------------

    def seen(self, point: int, now_ns: int, power_w: float | None, *, is_open: bool) -> None:
        """A good reading of one of its points; power that was not measured leaves the last."""
        load = self._loads.setdefault(point, Load())
        load.is_open = is_open
        load.seen_ns = now_ns
        load.until_ns = None
        if is_open:
            load.power_w = 0.0
        elif power_w is not None:
            load.power_w = max(0.0, power_w)

    def assume(self, point: int, power_w: float, *, until_ns: int | None = None) -> None:
        """Count a point that was not read yet, until it is read, or until an instant at most."""
        self._loads[point] = Load(power_w, until_ns=until_ns)

    def load_w(self, now_ns: int, *, without: frozenset[int] = frozenset()) -> float:
        """What flows, or will in a moment: measured, or expected of supplies that just closed."""
        total_w = 0.0
        for point in tuple(self._loads.keys() | self._expected.keys()):
            if point in without:
                continue
            total_w += max(self._last_w(point, now_ns), self._expected_w(point, now_ns))
        return total_w

    def fresh_w(self, now_ns: int, max_age_s: float) -> dict[int, float]:
        """What each point draws, of those that were seen a moment ago: nobody is shed on less."""
        limit_ns = max_age_s * NS
        return {
            point: load.power_w
            for point, load in self._loads.items()
            if load.seen_ns is not None and now_ns - load.seen_ns <= limit_ns
        }

    def source_seen(self, source: str, now_ns: int, *, is_generator: bool) -> bool:
        """The source that feeds it; True when it has just changed to a generator."""
        before, self._source = self._source, source
        if not is_generator or before is None or before == source:
            return False
        self._held_until_ns = now_ns + round(self.rules.generator_hold_s * NS)
        return self.rules.generator_hold_s > 0

    # -- closings ----------------------------------------------------------------------------

    def has_turn(self, now_ns: int) -> bool:
        """Whether a closing may come now as far as time is concerned."""
        if now_ns < self._not_before_ns or now_ns < self._held_until_ns:
            return False
        return self.rules.stagger_s <= 0 or self._filled(now_ns) >= 1.0

    def has_room(self, point: int, expected_w: float, now_ns: int) -> bool:
        """Whether what a closing is expected to draw fits beside what flows already."""
        if self.capacity_w is None:
            return True
        others_w = self.load_w(now_ns, without=frozenset({point}))
        # An idle feeder takes anybody: what is expected is only a guess.
        return others_w + min(expected_w, self.capacity_w) <= self.capacity_w

    def closing(self, point: int, expected_w: float, now_ns: int) -> None:
        """One of its supplies is being closed."""
        self._tokens = max(0.0, self._filled(now_ns) - 1.0)
        self._expected[point] = (expected_w, now_ns + SETTLE_NS)
        delay_s = self._chance() * self.rules.jitter_s
        self._not_before_ns = now_ns + round(delay_s * NS)

    # -- persistence -------------------------------------------------------------------------

    def snapshot(self, now_ns: int) -> dict[str, object]:
        """JSON values that survive a restart."""
        return {
            "tokens": round(self._filled(now_ns), 3),
            "wait_ms": max(0, self._not_before_ns - now_ns) // 1_000_000,
            "hold_ms": max(0, self._held_until_ns - now_ns) // 1_000_000,
            "source": self._source,
        }

    def restore(self, kept: Mapping[str, object], now_ns: int, elapsed_ms: int) -> None:
        """Take up a snapshot that was made `elapsed_ms` ago."""

        def left_ns(name: str) -> int:
            return max(0, cast("int", kept[name]) - elapsed_ms) * 1_000_000

        self._tokens = min(float(self.rules.burst), float(cast("float", kept["tokens"])))
        self._filled_ns = now_ns - elapsed_ms * 1_000_000
        self._not_before_ns = now_ns + left_ns("wait_ms")
        self._held_until_ns = now_ns + left_ns("hold_ms")
        self._source = cast("str | None", kept["source"])

    def loads(self, now_ns: int) -> dict[int, tuple[int, int, int]]:
        """What each point counts with, for a start that has not read it yet: W as last seen, W that
        its closing is expected to draw, and for how many more milliseconds. Assumptions are none.
        """
        assumed = {point for point, load in self._loads.items() if load.until_ns is not None}
        return {
            point: (
                ceil(self._last_w(point, now_ns)),
                ceil(self._expected_w(point, now_ns)),
                max(0, self._expected.get(point, (0.0, 0))[1] - now_ns) // 1_000_000,
            )
            for point in sorted((self._loads.keys() | self._expected.keys()) - assumed)
        }

    def restore_load(self, point: int, kept: Sequence[int], now_ns: int, elapsed_ms: int) -> None:
        """Count a point as `loads` had it `elapsed_ms` ago, until it is read."""
        power_w, expected_w, left_ms = kept
        self.assume(point, power_w)
        if left_ms > elapsed_ms:
            self._expected[point] = (expected_w, now_ns + (left_ms - elapsed_ms) * 1_000_000)

    # -- inside ------------------------------------------------------------------------------

    def _last_w(self, point: int, now_ns: int) -> float:
        load = self._loads.get(point)
        if load is None or (load.until_ns is not None and now_ns >= load.until_ns):
            return 0.0
        return load.power_w

    def _filled(self, now_ns: int) -> float:
        """Tokens by now."""
        if self._filled_ns is not None and self.rules.stagger_s > 0:
            gained = (now_ns - self._filled_ns) / NS / self.rules.stagger_s
            self._tokens = min(float(self.rules.burst), self._tokens + max(0.0, gained))
        self._filled_ns = now_ns
        return self._tokens

    def _expected_w(self, point: int, now_ns: int) -> float:
        expected_w, until_ns = self._expected.get(point, (0.0, now_ns))
        if now_ns >= until_ns:
            self._expected.pop(point, None)
            return 0.0
        return expected_w
