"""What a meter measures on each phase, and what the angle of its current says about the wiring."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.proof import LOAD_PROOF_W

PHASES: Final = ("L1", "L2", "L3")
# A transformer measures up to 120 % of its primary current (IEC 61869-2, extended range apart).
OVERRANGE: Final = 1.2
# Loads draw their current from 10 degrees before to 50 degrees behind their voltage (power factor
# 0.98 capacitive to 0.64 inductive). The circle then has six sectors, one for each wiring mistake.
LOAD_CENTRE_DEGREES: Final = 20.0
SECTOR_DEGREES: Final = 60.0
# Of the apparent power. Below it a phase takes next to nothing but reactive power, and the
# transformer's own phase error may turn its sign.
DIRECTION_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class PhaseValues:
    """What a meter measures on one phase; `current_a` is 0 where it was not asked for."""

    name: str
    voltage_v: float
    apparent_va: float
    active_w: float
    reactive_var: float
    current_a: float = 0.0

    @property
    def is_loaded(self) -> bool:
        """Whether enough flows to judge its direction."""
        return self.apparent_va >= LOAD_PROOF_W

    @property
    def degrees(self) -> float:
        """The angle of the current behind its voltage, -180 to 180."""
        return math.degrees(math.atan2(self.reactive_var, self.active_w))

    @property
    def sector(self) -> int:
        """How far, in sixths of a turn, the current is from where a load would have it."""
        return round((self.degrees - LOAD_CENTRE_DEGREES) / SECTOR_DEGREES) % 6

    @property
    def flows_backwards(self) -> bool | None:
        """Whether energy runs from the customer; None where too little flows to tell."""
        if not self.is_loaded or abs(self.active_w) < DIRECTION_SHARE * self.apparent_va:
            return None
        return self.active_w < 0


def phase_of(value: Callable[[str], float], phase: int) -> PhaseValues:
    """Phase 1 to 3 from measurements by standard name; undefined ones count as nothing."""
    return PhaseValues(
        name=PHASES[phase - 1],
        voltage_v=finite(value(f"voltage_l{phase}_n_v")),
        apparent_va=finite(value(f"apparent_power_l{phase}_va")),
        active_w=finite(value(f"active_power_l{phase}_w")),
        reactive_var=finite(value(f"reactive_power_l{phase}_var")),
        current_a=finite(value(f"current_l{phase}_a")),
    )


def phases_from(values: Mapping[str, float], count: int) -> tuple[PhaseValues, ...]:
    """The first `count` phases of named values; a name that is missing counts as nothing."""
    return tuple(phase_of(lambda name: values.get(name, 0.0), n + 1) for n in range(count))


def finite(value: float) -> float:
    """A meter leaves undefined what is not connected."""
    return value if math.isfinite(value) else 0.0
