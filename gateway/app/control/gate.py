"""What must hold before anything is switched, and before a wall label may choose a rate."""

from dataclasses import dataclass
from typing import Final

from gateway.core.clocktrust import ClockTrust, stepped
from gateway.core.reading import Reading
from gateway.core.recovery import Recovery

UNJUDGED: Final = ClockTrust(trusted=False, reason="not judged yet")


@dataclass(slots=True)
class Gate:
    """What must hold before anything is switched (domain.md section 6)."""

    chain_verified: bool = False
    recovery: Recovery | None = None
    clock: ClockTrust = UNJUDGED
    clock_offset_ms: int | None = None

    def knows_rates(self, reading: Reading) -> bool:
        """Whether a reading's wall label may choose its rate: trusted, and not stepped since."""
        if not self.clock.trusted or self.clock_offset_ms is None:
            return False
        offset_ms = reading.utc_ms - reading.mono_ns // 1_000_000
        return not stepped(offset_ms, self.clock_offset_ms)

    def blocker(self) -> str | None:
        """Why nothing may be switched; None when it may."""
        return None if self.chain_verified else "the ledger's chain is not verified"
