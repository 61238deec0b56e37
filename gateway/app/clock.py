"""The clock object of a real process and the seed of its randomness.

The only file that reads the operating system's clocks or makes a random generator.
"""

import asyncio
import math
import random
import time
from typing import Final

NS_PER_MS: Final = 1_000_000
# A simulated year in nine hours at the most: faster, and one event-loop turn skips whole polls.
SPEED_MAX: Final = 1_000.0
SPEED_MIN: Final = 0.01


class SystemClock:
    """The operating system's time, optionally faster, behind core's `Clock`.

    `speed` is how many seconds of this clock pass in one real second (0.01 … 1000).
    `epoch_utc_ms` is the wall instant, in milliseconds since 1970 UTC, at which a clock that is not
    at speed 1 agrees with the real one. Processes that are given the same speed and epoch show the
    same UTC and the same monotonic time, since Linux keeps one boot clock for all of them; without
    an epoch the clock agrees with the real one at the moment of its construction.

    The monotonic time counts a suspended machine (CLOCK_BOOTTIME): meters went on counting, so
    a register guard that was told a shorter time would find their honest advance implausible.

    Raises ValueError when `speed` is out of range or not a number.
    """

    __slots__ = ("_denominator", "_epoch_ns", "_numerator", "speed")

    def __init__(self, speed: float = 1.0, epoch_utc_ms: int | None = None) -> None:
        if not (math.isfinite(speed) and SPEED_MIN <= speed <= SPEED_MAX):
            raise ValueError(f"speed is {speed}, not within {SPEED_MIN} … {SPEED_MAX}")
        self.speed = float(speed)
        # An exact ratio: nanoseconds since boot outgrow a float's 53 bits after 104 days.
        self._numerator, self._denominator = self.speed.as_integer_ratio()
        self._epoch_ns = time.time_ns() if epoch_utc_ms is None else epoch_utc_ms * NS_PER_MS

    def mono_ns(self) -> int:
        """Nanoseconds of this clock since the machine's boot; never goes back."""
        real_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return real_ns * self._numerator // self._denominator

    def utc_ms(self) -> int:
        """Wall clock of this clock, in milliseconds since 1970 UTC; may step as the real one."""
        since_epoch_ns = time.time_ns() - self._epoch_ns
        return (self._epoch_ns + since_epoch_ns * self._numerator // self._denominator) // NS_PER_MS

    async def sleep(self, seconds: float) -> None:
        """Wait this many seconds of this clock's time (at once when negative)."""
        await asyncio.sleep(self.loop_delay_s(seconds))

    def loop_delay_s(self, seconds: float) -> float:
        """Event loop seconds that pass in `seconds` of this clock's time; never negative."""
        return max(0.0, seconds / self.speed)


def kernel_monotonic_us() -> int:
    """Microseconds of CLOCK_MONOTONIC, by which systemd orders a reload (sd_notify(3))."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000


def seeded(seed: int | str) -> random.Random:
    """A generator of reproducible randomness: the same seed gives the same sequence.

    For jitter, phases and simulation. Tokens and keys come from `secrets`, never from here.
    """
    return random.Random(seed)  # noqa: S311 - jitter and simulation, never a secret
