"""What voltages, currents and powers say about wiring. Pure: values in, findings out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from gateway.app.commission.findings import Check, Finding, failed, not_done, ok, warning
from gateway.core.phases import PHASES, PhaseValues, finite, phases_from

SINGLE_PHASE: Final = "1P2W"
FOUR_WIRE: Final = "3P4W"
# Of the highest phase voltage: below it a phase is missing or its fuse is gone.
MISSING_SHARE: Final = 0.8
LEVEL_V: Final = (90.0, 300.0)
LINE_TOLERANCE: Final = 0.1
REFERENCE_TOLERANCE: Final = 0.1
NAMED_TOLERANCE: Final = 0.06
NO_LOAD_SHARE: Final = 0.02
ROOT3: Final = math.sqrt(3)
NAMED_FACTORS: Final = (
    (10.0, "ten times too much: the ratio set in the meter is ten times the transformer's"),
    (0.1, "a tenth: the ratio set in the meter is a tenth of the transformer's"),
    (5.0, "five times too much: secondary 1 A set, a transformer of 5 A built in"),
    (0.2, "a fifth: secondary 5 A set, a transformer of 1 A built in"),
    (2.0, "twice as much: another transformer than the meter is set to"),
    (0.5, "half: another transformer than the meter is set to"),
    (ROOT3, "√3 times too much: a voltage between phases taken for one to neutral"),
    (1 / ROOT3, "1/√3: a voltage to neutral taken for one between phases"),
    (3.0, "three times too much: one phase counted for three"),
    (2 / 3, "two thirds: one of three phases is not measured"),
    (1 / 3, "a third: two of three phases are not measured"),
    (-1.0, "the other direction: the current transformers are the wrong way round"),
)


def phases_of(values: Mapping[str, float], connection: str | None) -> tuple[PhaseValues, ...]:
    """The phases that a connection of this type uses."""
    return phases_from(values, 1 if connection == SINGLE_PHASE else 3)


def check_voltages(
    values: Mapping[str, float], connection: str | None, *, is_closed: bool, upstream: bool
) -> Iterator[Finding]:
    """Every phase there, of one height, 120 degrees apart."""
    if connection not in (None, SINGLE_PHASE, FOUR_WIRE):
        yield not_done(
            Check.VOLTAGE, f"connection type {connection}: look at the voltages on the display"
        )
        return
    phases = phases_of(values, connection)
    highest_v = max(phase.voltage_v for phase in phases)
    if upstream and not is_closed:
        yield not_done(
            Check.VOLTAGE, "the contactor before the meter is open", "close it and check again"
        )
        return
    missing = [p.name for p in phases if p.voltage_v < max(MISSING_SHARE * highest_v, 1.0)]
    if missing:
        step = "look for a fuse or a loose wire"
        if connection != SINGLE_PHASE and missing == ["L2", "L3"]:
            step += f"; at a single-phase point set the connection type to {SINGLE_PHASE}"
        yield failed(Check.VOLTAGE, f"no voltage on {', '.join(missing)}", step)
        return
    shown = ", ".join(f"{phase.name} {phase.voltage_v:.1f} V" for phase in phases)
    if LEVEL_V[0] <= highest_v <= LEVEL_V[1]:
        yield ok(Check.VOLTAGE, shown)
    else:
        yield warning(Check.VOLTAGE, f"unusual: {shown}", "check the voltage transformer's setting")
    if len(phases) == 3:
        yield _line_voltages(values, phases)


def _line_voltages(values: Mapping[str, float], phases: Sequence[PhaseValues]) -> Finding:
    wrong = []
    for first, second in ((0, 1), (1, 2), (2, 0)):
        between_v = finite(values[f"voltage_l{first + 1}_l{second + 1}_v"])
        a, b = phases[first].voltage_v, phases[second].voltage_v
        expected_v = math.sqrt(a * a + b * b + a * b)
        if abs(between_v / expected_v - 1) > LINE_TOLERANCE:
            wrong.append(
                f"{PHASES[first]}-{PHASES[second]} {between_v:.0f} V, {expected_v:.0f} V expected"
            )
    if not wrong:
        return ok(
            Check.VOLTAGE_ORDER,
            "phases are 120° apart (no register tells the direction of rotation)",
        )
    return failed(
        Check.VOLTAGE_ORDER,
        "; ".join(wrong),
        "two voltage inputs carry the same phase, or neutral and a phase are exchanged",
    )


def check_direction(
    first: Mapping[str, float], last: Mapping[str, float], connection: str | None
) -> Iterator[Finding]:
    """Current transformers the right way round, each on the phase of its voltage."""
    phases = phases_of(last, connection)
    loaded = [phase for phase in phases if phase.is_loaded]
    if not loaded:
        yield not_done(
            Check.CT_REVERSED,
            "no load: nothing tells which way the current transformers look",
            "switch a load on and check again",
        )
        return
    # Seen in the whole pattern only: one phase alone may have an odd power factor.
    turned = [phase for phase in loaded if phase.sector in (1, 2, 4, 5)]
    if len(turned) >= 2:
        yield _exchanged(turned)
    backwards = [
        p
        for p in loaded
        if p.sector == 3 or (p.active_w < 0 and (len(turned) < 2 or p not in turned))
    ]
    if backwards:
        yield _reversed(backwards, first, last)
    if len(turned) < 2 and not backwards:
        names = ", ".join(phase.name for phase in loaded)
        yield ok(Check.CT_REVERSED, f"{names}: current flows towards the customer")
        if len(phases) == 3:
            yield _assignment(phases, loaded, turned)


def _assignment(
    phases: Sequence[PhaseValues], loaded: Sequence[PhaseValues], turned: Sequence[PhaseValues]
) -> Finding:
    dark = [phase.name for phase in phases if phase not in loaded]
    if dark:
        return not_done(
            Check.PHASE_CURRENT,
            f"no load on {', '.join(dark)}",
            "switch a load on there and check again",
        )
    if turned:
        return warning(
            Check.PHASE_CURRENT,
            f"{turned[0].name} has an unusual power factor",
            "compare its current and voltage at the terminals",
        )
    return ok(Check.PHASE_CURRENT, "every current belongs to its voltage")


def _exchanged(turned: Sequence[PhaseValues]) -> Finding:
    names = " and ".join(phase.name for phase in turned)
    what = "are exchanged" if len(turned) == 2 else "have each moved on by one phase"
    return failed(
        Check.PHASE_CURRENT,
        f"the currents of {names} {what}",
        "put each current transformer's wires on the input of its own phase",
    )


def _reversed(
    backwards: Sequence[PhaseValues], first: Mapping[str, float], last: Mapping[str, float]
) -> Finding:
    names = ", ".join(f"{phase.name} {phase.active_w:.0f} W" for phase in backwards)
    exported_wh = sum(
        last[name] - first[name]
        for name in ("energy_export_t1_wh", "energy_export_t2_wh")
        if name in last
    )
    counted = f"; the export counter advanced by {exported_wh:.3f} Wh" if exported_wh > 0 else ""
    plural = "s look" if len(backwards) > 1 else " looks"
    return failed(
        Check.CT_REVERSED,
        f"negative power on {names}: the current transformer{plural} the wrong way{counted}",
        "exchange S1 (k) and S2 (l) of that current transformer; with a generator behind the "
        "meter, switch it off first",
    )


def check_reference(earlier_w: float, power_w: float, reference_w: float | None) -> Finding:
    """A known load against what the meter measures, now and two seconds before."""
    if reference_w is None:
        return not_done(
            Check.REFERENCE,
            "no known load was stated",
            "switch a known load on alone and give --reference-w",
        )
    if abs(power_w - earlier_w) > REFERENCE_TOLERANCE * max(abs(power_w), abs(earlier_w)):
        return not_done(
            Check.REFERENCE,
            f"the load is not steady: {earlier_w:.0f} W, then {power_w:.0f} W",
            "switch everything else off",
        )
    factor = power_w / reference_w
    shown = f"{power_w:.0f} W measured, {reference_w:.0f} W stated"
    if abs(factor - 1) <= REFERENCE_TOLERANCE:
        return ok(Check.REFERENCE, shown)
    if abs(factor) < NO_LOAD_SHARE:
        return failed(
            Check.REFERENCE,
            f"{shown}: the load is not on this meter",
            "another meter's network cable, or another customer's load? See which meter rises",
        )
    for named, meaning in NAMED_FACTORS:
        if abs(factor / named - 1) <= NAMED_TOLERANCE:
            return failed(
                Check.REFERENCE, f"{shown}: {meaning}", "compare the transformer's plate with it"
            )
    return failed(
        Check.REFERENCE,
        f"{shown}: {factor:.2f} times",
        "compare the transformer's plate with the meter's setting; is other load switched on?",
    )
