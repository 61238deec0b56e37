"""What the rest of the house may know of time."""

from typing import Protocol


class Clock(Protocol):
    """The one source of time: monotonic for scheduling, UTC for labels.

    A simulation or a demo replaces it; nothing else reads the operating system's clocks.
    """

    def mono_ns(self) -> int:
        """Monotonic nanoseconds since an arbitrary start; never goes back."""
        ...

    def utc_ms(self) -> int:
        """Wall clock in milliseconds since 1970 UTC; may step."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait this many seconds of this clock's time."""
        ...

    def loop_delay_s(self, seconds: float) -> float:
        """Event loop seconds that correspond to `seconds` of this clock (a demo may run faster)."""
        ...
