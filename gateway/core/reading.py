"""One answer of a meter, as the rules see it."""

from dataclasses import dataclass
from enum import StrEnum


class Quality(StrEnum):
    """How far a value may be trusted (OPC UA's three classes)."""

    GOOD = "good"
    UNCERTAIN = "uncertain"
    BAD = "bad"


class Lane(StrEnum):
    """Which set of registers a poll reads: all, only energy and output, or the slow extras."""

    FULL = "full"
    SHORT = "short"
    SLOW = "slow"


@dataclass(frozen=True, slots=True)
class Reading:
    """One successful poll of one meter.

    `sequence` is assigned by the gateway, per meter, increasing. `mono_ns` is when the reply with
    the energy registers arrived, `utc_ms` its wall label; `asked_ns` is when they were asked for
    (None: not known), and between the two they were taken, however long a reply lay in a queue;
    `begun_ns` is when the first registers were asked for: the output may be as old as that.
    `energy_wh` is the cumulative import per
    tariff register (PAC3220: T1, T2), each floored to whole Wh; `part_wh` is the largest part of a
    Wh that was floored away, for scheduling only. `output_closed` is the supply
    switch as its output reads back (True: supply connected), `feedback_closed` the contactor's
    auxiliary contact on a digital input where wired. `current_a` is the highest phase current.
    `restarted` is the meter's latched restart bit; the short lane reads neither it nor the
    diagnostics, and False or 0 there says nothing. `meter_clock_s` is the meter's own clock, which
    speaks for or against ours; `own_clock_ms` is one that others set, such as a node's: it only
    tells how long a machine was off. `values` are the measurements of the lane in the
    model's order: none in the short lane, the slow lane's begin with the full lane's; undefined
    ones are NaN. `late` says that it was kept somewhere and tells of the past: its energy counts,
    but it shows nothing of the supply as it is now.
    """

    sequence: int
    mono_ns: int
    utc_ms: int
    lane: Lane
    energy_wh: tuple[int, ...]
    output_closed: bool | None
    feedback_closed: bool | None = None
    current_a: float | None = None
    power_w: float | None = None
    voltage_v: float | None = None
    restarted: bool = False
    diagnostics: int = 0
    meter_clock_s: int | None = None
    own_clock_ms: int | None = None
    values: tuple[float, ...] = ()
    asked_ns: int | None = None
    begun_ns: int | None = None
    part_wh: float = 0.0
    late: bool = False
