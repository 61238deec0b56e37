"""The contactor between a meter's digital output and the customer.

The output is a passive contact for 24 V and 50 mA: it drives an interposing relay and that the
contactor, so the main contacts follow some tens of milliseconds later (PAC3220 notes, section 4).
"""

import math
from collections import deque
from dataclasses import dataclass

from gateway.sim.loads import Random, between

BOUNCE_S = 0.003


@dataclass(frozen=True, slots=True)
class Move:
    """The main contacts change at `t_s`."""

    t_s: float
    closed: bool


class Contactor:
    """Main contacts that follow their coil after a delay, may bounce, may be welded shut.

    `operate_s` is the range of the delay; each movement draws its own.
    """

    __slots__ = ("_moves", "_operate_s", "_random", "_wanted", "closed")

    def __init__(
        self, random: Random, *, closed: bool, operate_s: tuple[float, float] = (0.02, 0.06)
    ) -> None:
        self.closed = closed
        self._wanted = closed
        self._random = random
        self._operate_s = operate_s
        self._moves: deque[Move] = deque()

    @property
    def next_s(self) -> float:
        """When the contacts move next; infinite when they rest."""
        return self._moves[0].t_s if self._moves else math.inf

    def command(self, t_s: float, *, close: bool, bounces: int = 0, welded: bool = False) -> None:
        """The coil is switched at `t_s`; call `step` for each movement that follows.

        A command to the state already on its way changes nothing, except that `welded` contacts
        do not open. A reversed one replaces what had not happened yet. `bounces` is how often the
        contacts part or meet again before they rest.
        """
        if welded and not close:
            self._moves.clear()
            self._wanted = self.closed
            return
        if close == self._wanted:
            return
        self._wanted = close
        self._moves.clear()
        if close == self.closed:
            return
        at_s = t_s + between(self._random, *self._operate_s)
        self._moves.append(Move(at_s, close))
        for turn in range(2 * bounces):
            at_s += BOUNCE_S
            self._moves.append(Move(at_s, close if turn % 2 else not close))

    def step(self) -> Move:
        """Carry out the next movement and return it. Raises IndexError when there is none."""
        move = self._moves.popleft()
        self.closed = move.closed
        return move
