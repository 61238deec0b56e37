"""Current transformers that look the wrong way or do not fit, told from readings while they run.

Commissioning looks at a moment with a known load (gateway/app/commission/electrical.py, on the same
phases); here nobody knows the load, so a condition must last. What may be real is not alarmed:
feed-in of a solar roof turns the power by day, so where feed-in is allowed a phase is suspect only
when it never took energy for a day and a night.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

from gateway.core.phases import OVERRANGE, PhaseValues
from gateway.core.proof import LOAD_PROOF_W
from gateway.core.sustained import Sustained

TOTAL: Final = "total"
# Rounding of small powers is no contradiction.
SMALL_VA: Final = 20.0


class Suspicion(StrEnum):
    """What is wrong with a current transformer, or with the ratio set for it."""

    REVERSED = "reversed"
    OVERLOADED = "overloaded"
    OVERSIZED = "oversized"
    CONTRADICTION = "contradiction"


@dataclass(frozen=True, slots=True)
class TransformerLimits:
    """How much and for how long. Seconds count only readings that show something."""

    reversed_s: float = 1_800.0
    feed_in_s: float = 86_400.0
    overload_percent: float = 120.0
    overload_s: float = 300.0
    oversized_percent: float = 1.0
    oversized_days: float = 7.0
    contradiction_percent: float = 10.0
    contradiction_s: float = 300.0
    clear_s: float = 900.0


@dataclass(frozen=True, slots=True)
class TransformerTerms:
    """What is built in: the point's highest power, the transformer's primary where stated.

    `may_feed_in` says that energy may flow from the customer (`export` is not `alarmed`).
    """

    p_max_w: int
    primary_a: float | None
    may_feed_in: bool


@dataclass(frozen=True, slots=True)
class TransformerChange:
    """A suspicion that was raised (`standing`) or is over; `phase` L1 to L3 or total."""

    suspicion: Suspicion
    phase: str
    standing: bool
    evidence: str


@dataclass(frozen=True, slots=True)
class TotalValues:
    """Sums over the phases as the meter gives them; NaN where it gives none."""

    active_w: float
    apparent_va: float


class TransformerCheck:
    """State of one meter's check; time comes as seconds since the look before."""

    def __init__(self, terms: TransformerTerms, limits: TransformerLimits) -> None:
        self._terms = terms
        self._limits = limits
        self._conditions: dict[tuple[Suspicion, str], Sustained] = {}

    @property
    def standing(self) -> tuple[tuple[Suspicion, str], ...]:
        """Suspicions that stand, each with its phase."""
        return tuple(key for key, held in self._conditions.items() if held.standing)

    def see(
        self, phases: Sequence[PhaseValues], total: TotalValues, elapsed_s: float
    ) -> list[TransformerChange]:
        """Take in one full reading; what is newly suspected or over."""
        changes = self._see_direction(phases, total, elapsed_s)
        changes += self._see_overload(phases, total, elapsed_s)
        changes += self._see_contradiction(phases, elapsed_s)
        if self._terms.primary_a is not None:
            changes += self._see_oversized(phases, self._terms.primary_a, elapsed_s)
        return changes

    def snapshot(self) -> dict[str, object]:
        """State as JSON values; empty where nothing was ever odd."""
        return {
            f"{suspicion.value} {phase}": held.snapshot()
            for (suspicion, phase), held in self._conditions.items()
            if not held.is_blank
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from `snapshot`; what this version does not know is left out."""
        for name, kept in state.items():
            word, _, phase = name.partition(" ")
            if word in Suspicion.__members__.values():
                held = Sustained()
                held.restore(cast("Sequence[object]", kept))
                self._conditions[Suspicion(word), phase] = held

    # -- inside ----------------------------------------------------------------------------

    def _see_direction(
        self, phases: Sequence[PhaseValues], total: TotalValues, elapsed_s: float
    ) -> list[TransformerChange]:
        limits = self._limits
        seen = phases
        if not any(phase.is_loaded for phase in phases):
            # Three-wire connections give no powers of phases.
            apparent_va = total.apparent_va if math.isfinite(total.apparent_va) else 0.0
            active_w = total.active_w if math.isfinite(total.active_w) else 0.0
            seen = [*phases, PhaseValues(TOTAL, 0.0, apparent_va, active_w, 0.0)]
        changes: list[TransformerChange] = []
        for phase in seen:
            held = self._judge(
                (Suspicion.REVERSED, phase.name),
                elapsed_s,
                is_so=phase.flows_backwards,
                hold_s=limits.reversed_s,
                span_s=limits.feed_in_s if self._terms.may_feed_in else 0.0,
            )
            if held is not None:
                evidence = (
                    f"{phase.active_w:.0f} W of {phase.apparent_va:.0f} VA, "
                    f"{phase.degrees:.0f}° behind its voltage"
                )
                changes.append(
                    TransformerChange(Suspicion.REVERSED, phase.name, held.standing, evidence)
                )
        return changes

    def _see_overload(
        self, phases: Sequence[PhaseValues], total: TotalValues, elapsed_s: float
    ) -> list[TransformerChange]:
        limits, terms = self._limits, self._terms
        power_w, kind = abs(total.active_w), Suspicion.OVERLOADED
        changes: list[TransformerChange] = []
        if math.isfinite(power_w):
            above = power_w * 100 > terms.p_max_w * limits.overload_percent
            held = self._judge((kind, TOTAL), elapsed_s, is_so=above, hold_s=limits.overload_s)
            if held is not None:
                evidence = f"{power_w:.0f} W, where {terms.p_max_w} W is the most"
                changes.append(TransformerChange(kind, TOTAL, held.standing, evidence))
        if terms.primary_a is None:
            return changes
        for phase in phases:
            above = phase.current_a > OVERRANGE * terms.primary_a
            held = self._judge((kind, phase.name), elapsed_s, is_so=above, hold_s=limits.overload_s)
            if held is not None:
                evidence = f"{phase.current_a:.1f} A through a transformer of {terms.primary_a:g} A"
                changes.append(TransformerChange(kind, phase.name, held.standing, evidence))
        return changes

    def _see_contradiction(
        self, phases: Sequence[PhaseValues], elapsed_s: float
    ) -> list[TransformerChange]:
        limits, kind = self._limits, Suspicion.CONTRADICTION
        changes: list[TransformerChange] = []
        for phase in phases:
            expected_va = phase.voltage_v * phase.current_a
            allowed_va = limits.contradiction_percent / 100 * phase.apparent_va + SMALL_VA
            impossible = abs(phase.active_w) > phase.apparent_va + allowed_va
            apart = expected_va > 0 and abs(expected_va - phase.apparent_va) > allowed_va
            loaded = max(abs(phase.active_w), phase.apparent_va, expected_va) >= LOAD_PROOF_W
            held = self._judge(
                (kind, phase.name),
                elapsed_s,
                is_so=(impossible or apart) if loaded else None,
                hold_s=limits.contradiction_s,
            )
            if held is not None:
                evidence = (
                    f"{phase.active_w:.0f} W and {phase.apparent_va:.0f} VA at "
                    f"{phase.voltage_v:.0f} V and {phase.current_a:.2f} A"
                )
                changes.append(TransformerChange(kind, phase.name, held.standing, evidence))
        return changes

    def _see_oversized(
        self, phases: Sequence[PhaseValues], primary_a: float, elapsed_s: float
    ) -> list[TransformerChange]:
        """The largest current against a transformer that measures from 1 % or 5 % on."""
        limits, kind = self._limits, Suspicion.OVERSIZED
        highest = max(phases, key=lambda phase: phase.current_a)
        small = 100 * highest.current_a < limits.oversized_percent * primary_a
        span_s = limits.oversized_days * 86_400
        held = self._judge(
            (kind, TOTAL),
            elapsed_s,
            is_so=small if highest.is_loaded else None,
            # A tenth of the time with a load is enough, where all of it says the same.
            hold_s=span_s / 10,
            span_s=span_s,
        )
        if held is None:
            return []
        evidence = (
            f"{highest.current_a:.2f} A now; below {limits.oversized_percent:g} % of its "
            f"{primary_a:g} A it does not measure well"
        )
        return [TransformerChange(kind, TOTAL, held.standing, evidence)]

    def _judge(
        self,
        key: tuple[Suspicion, str],
        elapsed_s: float,
        *,
        is_so: bool | None,
        hold_s: float,
        span_s: float = 0.0,
    ) -> Sustained | None:
        """Take in one look at one condition; the condition where it has just changed."""
        held = self._conditions.get(key)
        if held is None:
            if not is_so:
                return None
            held = self._conditions[key] = Sustained()
        changed = held.see(
            elapsed_s, is_so=is_so, hold_s=hold_s, clear_s=self._limits.clear_s, span_s=span_s
        )
        return held if changed else None
