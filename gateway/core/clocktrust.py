"""Whether the wall clock may be used for rates and calendars (domain.md section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Final

STEP_MS: Final = 5_000
MAX_SKEW_MS: Final = 3_600_000
MIN_METERS: Final = 1


@dataclass(frozen=True, slots=True)
class ClockTrust:
    """Verdict on the wall clock with the reason that a person is told."""

    trusted: bool
    reason: str


def judge_clock(
    *,
    utc_ms: int,
    synchronised: bool,
    last_commit_utc_ms: int,
    meter_clocks_ms: Sequence[int],
    confirmed: bool,
) -> ClockTrust:
    """Trust a clock that the time service vouches for, that the meters agree with, or a person.

    `last_commit_utc_ms` is the newest wall time on record, `meter_clocks_ms` the meters' own clocks
    (PAC3220 register 799) brought to now. No internet is needed.
    """
    if synchronised:
        return ClockTrust(trusted=True, reason="the time service reports synchronisation")
    if confirmed:
        return ClockTrust(trusted=True, reason="confirmed by a person")
    if utc_ms < last_commit_utc_ms - STEP_MS:
        return ClockTrust(
            trusted=False,
            reason=f"it is {(last_commit_utc_ms - utc_ms) // 1000} s before the last record",
        )
    if len(meter_clocks_ms) < MIN_METERS:
        return ClockTrust(trusted=False, reason="no meter has told its own clock yet")
    skew_ms = utc_ms - median_low(meter_clocks_ms)
    if abs(skew_ms) > MAX_SKEW_MS:
        return ClockTrust(
            trusted=False, reason=f"it differs by {skew_ms // 1000} s from the meters' clocks"
        )
    return ClockTrust(trusted=True, reason="the meters' own clocks agree")


def stepped(elapsed_wall_ms: int, elapsed_mono_ms: int) -> bool:
    """Whether the wall clock moved by more than 5 s against the monotonic one."""
    return abs(elapsed_wall_ms - elapsed_mono_ms) > STEP_MS
