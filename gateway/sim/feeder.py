"""A feeder's check meter: it sees what all meters behind it let through, and what was tapped."""

import math
from collections.abc import Sequence

from gateway.sim.loads import Energy, Quarter
from gateway.sim.meter import Meter

# The sum has no closed inverse; halving 60 times tells an instant to well below a microsecond.
HALVINGS = 60
FAR_S = 10 * 366 * 86_400.0


class FeederCurve:
    """The sum of the meters behind a check meter, as a load curve (`Curve`)."""

    __slots__ = ("_meters",)

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = tuple(meters)

    @property
    def meters(self) -> tuple[Meter, ...]:
        """Who is behind."""
        return self._meters

    @property
    def peak_w(self) -> float:
        """No more than the peaks of all together."""
        tapped = [meter.tap for meter in self._meters if meter.tap is not None]
        tracks = [*(meter.track for meter in self._meters), *tapped]
        return sum(track.last.curve.peak_w for track in tracks)

    def power_w(self, t_s: float) -> float:
        """Power at an instant, in W."""
        total_w = 0.0
        for meter in self._meters:
            meter.advance(t_s)
            total_w += meter.track.power_w(t_s)
            total_w += meter.tap.power_w(t_s) if meter.tap is not None else 0.0
        return total_w

    def energy(self, t_s: float) -> Energy:
        """Energy that all of them had taken by an instant, whatever they show."""
        for meter in self._meters:
            meter.advance(t_s)
        return self._sum(t_s)

    def quarter(self, t_s: float) -> Quarter:
        """Power of now, with the power factor that the energies have together."""
        taken = self.energy(t_s)
        factor = taken.active_wh / taken.apparent_vah if taken.apparent_vah > 0 else 1.0
        return Quarter(self.power_w(t_s), min(max(factor, 0.1), 1.0))

    def time_of_energy(self, energy_wh: float) -> float:
        """The first instant at which this energy had been taken; infinite where it never is."""
        if self._sum(FAR_S).active_wh < energy_wh:
            return math.inf
        low_s, high_s = 0.0, FAR_S
        for _ in range(HALVINGS):
            middle_s = (low_s + high_s) / 2
            if self._sum(middle_s).active_wh < energy_wh:
                low_s = middle_s
            else:
                high_s = middle_s
        return high_s

    def _sum(self, t_s: float) -> Energy:
        """The same without letting anything happen, for an instant that lies ahead."""
        parts: list[Energy] = []
        for meter in self._meters:
            parts += meter.track.energy(t_s)
            parts += meter.tap.energy(t_s) if meter.tap is not None else ()
        return Energy(
            sum(part.active_wh for part in parts),
            sum(part.reactive_varh for part in parts),
            sum(part.apparent_vah for part in parts),
        )
