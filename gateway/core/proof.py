"""How an opening is proved: output read-back, current near zero, no energy advance, feedback.

Domain rules of section 6: with no load before the command, current and energy prove nothing, and
the result says so (`load_unproven`).
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

NS: Final = 1_000_000_000
# Below this power before the command, current and energy prove nothing about an opening.
LOAD_PROOF_W: Final = 20.0
# Below this voltage the conductor behind an upstream contactor is dead.
DEAD_V: Final = 10.0


class Witness(StrEnum):
    """What proves that an opening happened."""

    OUTPUT = "output"
    CURRENT = "current"
    ENERGY = "energy"
    FEEDBACK = "feedback"
    VOLTAGE = "voltage"


# These prove the contact itself, load or not.
# A floored Wh counter may still show the Wh that was under way when the contact opened.
ENERGY_EDGE_WH: Final = 1
# A node may tell that it opened with the current of just before.
OPENING_NS: Final = 5 * NS
CONTACT_WITNESSES: Final = frozenset({Witness.FEEDBACK, Witness.VOLTAGE})


@dataclass(frozen=True, slots=True)
class Observation:
    """What a reading shows of the supply. `energy_wh` is the sum of the import registers; None
    where it is in doubt, or waits to be judged: then nothing is closed on it either.

    `current_a` is None where the reading did not measure it (short lane). `trusted` is False
    while its energy is held or quarantined: nobody is cut for credit on it.
    """

    mono_ns: int
    output_closed: bool | None
    energy_wh: int | None
    current_a: float | None = None
    power_w: float | None = None
    feedback_closed: bool | None = None
    voltage_v: float | None = None
    trusted: bool = True


@dataclass(slots=True)
class OpeningProof:
    """Collects witnesses reading by reading.

    `load_before_w` (None where not known: then it counts as a load) and `current_before_a` are what
    flowed when the command was issued,
    `starting_current_a` the smallest current that the transformer measures, `has_feedback`
    whether the contactor's auxiliary contact is wired to an input, `upstream` whether the contactor
    sits before the meter, so that an opening takes its voltage away.
    """

    load_before_w: float | None
    current_before_a: float
    starting_current_a: float
    has_feedback: bool
    upstream: bool = False
    witnesses: set[Witness] = field(default_factory=set)
    shown_ns: int | None = None
    is_flowing: bool = False
    _is_blind: bool = False
    _energy_wh: int | None = None
    _quiet_since_ns: int = 0

    @property
    def load_unproven(self) -> bool:
        """Nothing proves the contact itself: no load before the command, or nothing that measures
        since; no wired witness.
        """
        return self._unmeasured and not self.witnesses & CONTACT_WITNESSES

    @property
    def shows_open(self) -> bool:
        """Output reads open, and nothing that can speak contradicts it."""
        if Witness.OUTPUT not in self.witnesses or self.is_flowing:
            return False
        if self.has_feedback:
            return Witness.FEEDBACK in self.witnesses
        return self._unmeasured or Witness.CURRENT in self.witnesses

    @property
    def complete(self) -> bool:
        """Nothing more would be learned by waiting."""
        proved = Witness.ENERGY in self.witnesses or bool(self.witnesses & CONTACT_WITNESSES)
        return self.shows_open and (proved or self._without_load)

    def collect(self, seen: Observation) -> None:
        """Weigh one reading that was made after the command was sent."""
        self._note(Witness.OUTPUT, shown=seen.output_closed is False)
        if self.has_feedback and seen.feedback_closed is not None:
            self._note(Witness.FEEDBACK, shown=not seen.feedback_closed)
        if seen.current_a is not None:
            self._is_blind = False
            # A load that came after the command contradicts an opening as well as any other.
            limit_a = max(0.02 * self.current_before_a, self.starting_current_a)
            self.is_flowing = seen.current_a > limit_a
            if not self._without_load:
                self._note(Witness.CURRENT, shown=not self.is_flowing)
        if self.upstream and seen.voltage_v is not None:
            # Its presence proves nothing: another phase or a back-feed may hold it up.
            self._note(Witness.VOLTAGE, shown=seen.voltage_v < DEAD_V)
        if seen.energy_wh is None:
            self._is_blind = seen.current_a is None
        elif seen.energy_wh != self._energy_wh:
            self._energy_wh = seen.energy_wh
            self._quiet_since_ns = seen.mono_ns
            self.witnesses.discard(Witness.ENERGY)
        elif self.load_before_w is not None and not self._without_load:
            # Three steps of the counter would have come in this time at the load before.
            quiet_s = (seen.mono_ns - self._quiet_since_ns) / NS
            self._note(Witness.ENERGY, shown=quiet_s >= 3 * 3600.0 / self.load_before_w)
        if not self.shows_open:
            self.shown_ns = None
        elif self.shown_ns is None:
            self.shown_ns = seen.mono_ns

    @property
    def _without_load(self) -> bool:
        return self.load_before_w is not None and self.load_before_w < LOAD_PROOF_W

    @property
    def _unmeasured(self) -> bool:
        """The output alone can speak."""
        return self._without_load or (self._is_blind and Witness.CURRENT not in self.witnesses)

    def doubt(self) -> str:
        """What speaks against an opening, for a person."""
        if Witness.OUTPUT not in self.witnesses:
            return "the output still reads closed"
        if self.is_flowing:
            return "the output reads open, and current still flows: contactor welded or bridged?"
        return "the output reads open, and its effect could not be seen"

    def in_order(self) -> tuple[Witness, ...]:
        """The witnesses that stand, in the order of the enumeration."""
        return tuple(witness for witness in Witness if witness in self.witnesses)

    def _note(self, witness: Witness, *, shown: bool) -> None:
        if shown:
            self.witnesses.add(witness)
        else:
            self.witnesses.discard(witness)


@dataclass(slots=True)
class OpenOutput:
    """What is taken through an output at rest that reads open: supply that nobody gave.

    `energy_wh` is what the registers showed when it opened; None while it is closed, or not known.
    `seen_ns` is when it was seen open first.
    """

    energy_wh: int | None = None
    seen_ns: int | None = None

    def commanded(self, energy_wh: int | None) -> None:
        """It was opened by command, and that was proved at these registers."""
        self.energy_wh, self.seen_ns = energy_wh, -OPENING_NS

    def taken(self, seen: Observation, starting_current_a: float) -> str:
        """What was taken, in words; empty for nothing.

        One that opened by itself may be told of with the current of just before.
        """
        if seen.energy_wh is None:
            return ""
        if self.seen_ns is None:
            # What was open before a restart has not just opened: what was taken meanwhile shows.
            self.seen_ns = seen.mono_ns if self.energy_wh is None else -OPENING_NS
        is_new = seen.mono_ns - self.seen_ns < OPENING_NS
        if is_new or self.energy_wh is None:
            self.energy_wh = seen.energy_wh
        # The registers may have gone back (restart, reset): rest on the lower value.
        self.energy_wh = min(self.energy_wh, seen.energy_wh)
        taken_wh = seen.energy_wh - self.energy_wh
        flows = seen.current_a is not None and seen.current_a > starting_current_a
        if taken_wh > ENERGY_EDGE_WH or (flows and not is_new):
            return f"{taken_wh} Wh taken while the output is open"
        return ""
