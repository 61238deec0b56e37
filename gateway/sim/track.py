"""The truth about one meter's energy: what flowed through it, when, and on which tariff.

It never resets and never falls, whatever the registers of the meter show.
"""

from bisect import bisect_right
from dataclasses import dataclass

from gateway.sim.loads import Curve, Energy

KEPT_PIECES = 4_096  # about 100 kB; older ones are forgotten, and counted


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of time in which nothing but the load's own curve changes.

    `at_start` is the energy on T1 and T2 when it begins, `curve_start` the curve's own integral.
    """

    start_s: float
    curve: Curve
    curve_start: Energy
    conducting: bool
    tariff: int
    at_start: tuple[Energy, Energy]

    def total_wh(self) -> float:
        """Active energy on both tariffs at the start."""
        return self.at_start[0].active_wh + self.at_start[1].active_wh

    def energy(self, t_s: float) -> tuple[Energy, Energy]:
        """Energy on T1 and T2 at an instant of this piece."""
        if not self.conducting:
            return self.at_start
        now, start = self.curve.energy(t_s), self.curve_start
        before = self.at_start[self.tariff]
        grown = Energy(
            before[0] + now[0] - start[0],
            before[1] + now[1] - start[1],
            before[2] + now[2] - start[2],
        )
        return (grown, self.at_start[1]) if self.tariff == 0 else (self.at_start[0], grown)


class EnergyTrack:
    """Cumulative energy over time, made of pieces in order.

    `start_wh` is the active energy on T1 and T2 at t = 0 and gives the truth the same origin as
    the registers: both agree until somebody resets, presets or powers down the meter.
    """

    __slots__ = ("_pieces", "forgotten")

    def __init__(
        self, curve: Curve, *, start_wh: tuple[float, float], conducting: bool, tariff: int = 0
    ) -> None:
        at_start = (Energy(start_wh[0], 0.0, 0.0), Energy(start_wh[1], 0.0, 0.0))
        self._pieces = [Piece(0.0, curve, curve.energy(0.0), conducting, tariff, at_start)]
        self.forgotten = 0

    @property
    def last(self) -> Piece:
        """The piece that holds the present."""
        return self._pieces[-1]

    @property
    def pieces(self) -> int:
        """How many pieces are kept."""
        return len(self._pieces)

    def change(
        self,
        t_s: float,
        *,
        curve: Curve | None = None,
        conducting: bool | None = None,
        tariff: int | None = None,
    ) -> None:
        """Begin a new piece at `t_s`, with what is given changed.

        Raises ValueError for an instant before the last change: the past stands.
        """
        last = self._pieces[-1]
        if t_s < last.start_s:
            raise ValueError(f"{t_s} s is before the last change at {last.start_s} s")
        after = curve if curve is not None else last.curve
        flows = last.conducting if conducting is None else conducting
        register = last.tariff if tariff is None else tariff
        if (after, flows, register) == (last.curve, last.conducting, last.tariff):
            return
        self._pieces.append(Piece(t_s, after, after.energy(t_s), flows, register, last.energy(t_s)))
        if len(self._pieces) > KEPT_PIECES:
            drop = KEPT_PIECES // 2
            del self._pieces[:drop]
            self.forgotten += drop

    def energy(self, t_s: float) -> tuple[Energy, Energy]:
        """Energy on T1 and T2 at an instant, which may lie before the last change."""
        return self._piece(t_s).energy(t_s)

    def total_wh(self, t_s: float) -> float:
        """Active energy on both tariffs at an instant, in Wh."""
        first, second = self.energy(t_s)
        return first.active_wh + second.active_wh

    def power_w(self, t_s: float) -> float:
        """Active power that flows at an instant, in W."""
        piece = self._piece(t_s)
        return piece.curve.power_w(t_s) if piece.conducting else 0.0

    def power_factor(self, t_s: float) -> float:
        """The load's power factor at an instant, whether it is connected or not."""
        return self._piece(t_s).curve.quarter(t_s).power_factor

    def crossing_s(self, energy_wh: float, now_s: float, tariff: int | None = None) -> float | None:
        """The first instant at which the truth had reached `energy_wh`.

        `tariff` 0 or 1 asks for one register, None for the sum. None when that has not happened
        by `now_s`, or happened before the oldest piece kept.
        """

        def reached(piece: Piece) -> float:
            return piece.total_wh() if tariff is None else piece.at_start[tariff].active_wh

        if reached(self._pieces[0]) >= energy_wh:
            return None if self.forgotten else 0.0
        low, high = 0, len(self._pieces)
        while high - low > 1:
            middle = (low + high) // 2
            if reached(self._pieces[middle]) < energy_wh:
                low = middle
            else:
                high = middle
        piece = self._pieces[low]
        if not piece.conducting or (tariff is not None and piece.tariff != tariff):
            return None  # only the last piece can be flat and below: not reached yet
        missing_wh = energy_wh - reached(piece)
        at_s = piece.curve.time_of_energy(piece.curve_start.active_wh + missing_wh)
        at_s = max(at_s, piece.start_s)  # the two curves' rounding may differ by a nanosecond
        return at_s if at_s <= now_s else None

    def _piece(self, t_s: float) -> Piece:
        """The piece that holds an instant; the oldest kept for one before it."""
        last = self._pieces[-1]
        if t_s >= last.start_s:
            return last
        index = bisect_right(self._pieces, t_s, key=lambda piece: piece.start_s) - 1
        return self._pieces[max(index, 0)]
