"""Whether the wall clock may be used for rates and calendars (domain.md section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Final

from gateway.core.reading import Reading

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


def elapsed_since(wall_ms: int, meter_ms: int | None) -> int:
    """How long a machine was off, in ms, from how far two clocks moved meanwhile.

    Two that agree within an hour are both believed, the longer one; otherwise the meter's own
    clock, which kept running; a clock that went back says nothing. 0 when neither can tell: then
    what flowed is held for a person.
    """
    if meter_ms is None or meter_ms < 0:
        return max(0, wall_ms)
    if wall_ms < 0 or abs(wall_ms - meter_ms) > MAX_SKEW_MS:
        return meter_ms
    return max(wall_ms, meter_ms)


def clock_of(reading: Reading, *, kept: bool = False) -> int | None:
    """The clock at a meter, in ms: it tells how long we were off. One that others set, and that
    was not right, is not `kept`: it would tell of too long a time.
    """
    if reading.meter_clock_s is not None:
        return reading.meter_clock_s * 1000
    own_ms = reading.own_clock_ms
    wrong = kept and own_ms is not None and abs(own_ms - reading.utc_ms) > MAX_SKEW_MS
    return None if wrong else own_ms


def stepped(elapsed_wall_ms: int, elapsed_mono_ms: int) -> bool:
    """Whether the wall clock moved by more than 5 s against the monotonic one."""
    return abs(elapsed_wall_ms - elapsed_mono_ms) > STEP_MS
