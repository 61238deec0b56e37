"""What a service point is told once, and what follows from each of its readings."""

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.switching import Order


@dataclass(frozen=True, slots=True)
class PointTerms:
    """What does not change while a point is served.

    `sources` names the energy source behind each import register (T1, T2). `p_max_w` is the
    limit or breaker of the point, `period_s` the regular poll period; energy across a rate boundary
    in a longer time than `gap_s` is flagged as estimated. The meter renews its registers every
    `refresh_s`.
    """

    service_point_id: str
    meter_id: str
    feeder: str
    sources: tuple[str, ...]
    p_max_w: int
    period_s: float
    gap_s: float = 60.0
    refresh_s: float = 0.2


@dataclass(frozen=True, slots=True)
class Slept:
    """A guard's state from another boot, with wall and meter clock (ms) of its base."""

    guard: Mapping[str, object]
    utc_ms: int
    meter_clock_ms: int | None


@dataclass(frozen=True, slots=True)
class Step:
    """What followed from one reading; control carries it out.

    `advance_wh` is the settled energy per register. `posting_due` asks for a posting with the next
    commit. `newly_due` says that the credit has just run out, `deferred` that a gap, a fee or the
    end of a calendar's window did it, which is no sign of bad data; `kept_on` that it has run out
    and a calendar keeps supply on. `predict_s` is when the credit
    could run out at full power, counted from when the registers were asked for, for a poll in the
    short lane; `read_again` asks for one at once. `fed_wh` was fed in and is paid for;
    `export_events` are those of the export registers.
    """

    settled: bool = False
    advance_wh: tuple[int, ...] = ()
    events: tuple[str, ...] = ()
    orders: tuple[Order, ...] = ()
    posting_due: bool = False
    newly_due: bool = False
    deferred: bool = False
    kept_on: bool = False
    fed_wh: int = 0
    export_events: tuple[str, ...] = ()
    predict_s: float | None = None
    read_again: bool = False
    flags: tuple[str, ...] = ()
