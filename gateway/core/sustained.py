"""Whether something has lasted long enough to be said, and long gone enough to be taken back."""

from collections.abc import Sequence
from typing import Final, cast

# Of the time that is asked for: so much of the contrary interrupts nothing (a motor that brakes,
# one bad reading), more begins the wait anew.
TOLERANCE: Final = 0.05
# A reading stands for the time since the one before it, but for no longer than this.
STEP_MAX_S: Final = 60.0


class Sustained:
    """One condition with hysteresis, in seconds of evidence and without a clock of its own.

    It is raised after `hold_s` seconds in which it was seen, and cleared after `clear_s` seconds in
    which the contrary was. Readings that tell neither count for neither.
    """

    __slots__ = ("against_s", "span_s", "standing", "towards_s")

    def __init__(self) -> None:
        self.standing = False
        self.towards_s = 0.0
        self.against_s = 0.0
        self.span_s = 0.0

    def see(
        self,
        elapsed_s: float,
        *,
        is_so: bool | None,
        hold_s: float,
        clear_s: float,
        span_s: float = 0.0,
    ) -> bool:
        """Take in one look; True when `standing` has just changed.

        `elapsed_s` since the look before. With `span_s` a raise also waits until so much time has
        passed since the first evidence, whether anything was to be seen in it or not.
        """
        step_s = min(max(elapsed_s, 0.0), STEP_MAX_S)
        needed_s = clear_s if self.standing else hold_s
        if self.towards_s > 0.0:
            self.span_s += max(elapsed_s, 0.0)
        if is_so is None:
            return False
        if is_so is self.standing:
            self.against_s += step_s
            if self.against_s > TOLERANCE * needed_s:
                self._begin()
            return False
        self.towards_s += step_s
        if self.towards_s < needed_s or (not self.standing and self.span_s < span_s):
            return False
        self.standing = not self.standing
        self._begin()
        return True

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing to keep."""
        return not self.standing and self.towards_s == 0.0

    def snapshot(self) -> list[object]:
        """State as JSON values; no clock in it, so it holds for any boot."""
        seconds = (self.towards_s, self.against_s, self.span_s)
        return [self.standing, *(round(value) for value in seconds)]

    def restore(self, state: Sequence[object]) -> None:
        """Go on from `snapshot`."""
        standing, towards_s, against_s, span_s = state
        self.standing = bool(standing)
        self.towards_s = float(cast("int", towards_s))
        self.against_s = float(cast("int", against_s))
        self.span_s = float(cast("int", span_s))

    def _begin(self) -> None:
        self.towards_s = self.against_s = self.span_s = 0.0
