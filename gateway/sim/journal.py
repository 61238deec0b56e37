"""The truth about one meter's switching, for whoever has to prove a cut."""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

KEPT_MOVES = 1_000


class Part(StrEnum):
    """What moved: the meter's digital output or the contactor's main contacts."""

    OUTPUT = "output"
    CONTACTOR = "contactor"


@dataclass(frozen=True, slots=True)
class Switched:
    """`part` went to connect the supply (`closed`) or not, with the true energy at that moment."""

    t_s: float
    part: Part
    closed: bool
    true_wh: float


@dataclass(slots=True)
class Opening:
    """One cut: when the output went to disconnect, and when the contacts came to rest open."""

    output_s: float
    output_wh: float
    contactor_s: float | None = None
    contactor_wh: float | None = None


class Journal:
    """The last KEPT_MOVES movements; `dropped` counts older ones that were forgotten."""

    __slots__ = ("_moves", "dropped")

    def __init__(self) -> None:
        self._moves: deque[Switched] = deque(maxlen=KEPT_MOVES)
        self.dropped = 0

    def note(self, move: Switched) -> None:
        """Remember a movement."""
        if len(self._moves) == KEPT_MOVES:
            self.dropped += 1
        self._moves.append(move)

    def moves(self) -> tuple[Switched, ...]:
        """All movements remembered, oldest first."""
        return tuple(self._moves)

    def openings(self) -> tuple[Opening, ...]:
        """Every cut remembered, oldest first; contacts that bounced count from their last rest."""
        found: list[Opening] = []
        cut: Opening | None = None
        for move in self._moves:
            if move.part is Part.OUTPUT:
                cut = None if move.closed else Opening(move.t_s, move.true_wh)
                if cut is not None:
                    found.append(cut)
            elif cut is not None:
                cut.contactor_s = None if move.closed else move.t_s
                cut.contactor_wh = None if move.closed else move.true_wh
        return tuple(found)
