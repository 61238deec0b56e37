"""A clock that tests move by hand, and the real one."""

import asyncio
import time


class ManualClock:
    """Stands still until a test moves it."""

    def __init__(self, utc_ms: int = 1_780_000_000_000) -> None:
        self.now_utc_ms = utc_ms
        self.now_mono_ns = 0

    def mono_ns(self) -> int:
        """Nanoseconds that the test has let pass."""
        return self.now_mono_ns

    def utc_ms(self) -> int:
        """The label that the test set."""
        return self.now_utc_ms

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.now_mono_ns += int(seconds * 1e9)
        self.now_utc_ms += int(seconds * 1000)

    async def sleep(self, seconds: float) -> None:
        """Let the others run; this clock is moved by the test alone."""
        del seconds
        await asyncio.sleep(0)

    def loop_delay_s(self, seconds: float) -> float:
        """Loop time is real time here."""
        return seconds


class RealClock(ManualClock):
    """The operating system's time."""

    def mono_ns(self) -> int:
        """Monotonic time."""
        return time.monotonic_ns()

    def utc_ms(self) -> int:
        """Wall time."""
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        """Wait really."""
        await asyncio.sleep(seconds)
