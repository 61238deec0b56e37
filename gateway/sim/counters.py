"""The energy registers of one meter: what it shows of the truth, and what it can lose.

Forty float64 counters from 801 on: ten kinds for the whole meter, then the same per phase. Each is
the truth plus an offset that resets, presets and power cuts move; it wraps at 1e12 (manual p117).
"""

import math

from gateway.sim.electrics import Phases
from gateway.sim.loads import Energy
from gateway.sim.registers import COUNTER_MODULUS_WH, ENERGY_VALUES
from gateway.sim.track import EnergyTrack

# Import T1 T2, export T1 T2, reactive import T1 T2, reactive export T1 T2, apparent T1 T2.
KINDS = 10
RIGHT: Phases = (1.0, 1.0, 1.0)
IMPORT_T1 = 0
EXPORT_T1 = 2


class Counters:
    """Energy registers of a meter whose measuring system refreshes them every `refresh_s`.

    They are kept over a power cut as they were at the last multiple of `save_s` since `boot_s`
    (the meter saves every five minutes).
    """

    __slots__ = (
        "_boot_s",
        "_gains",
        "_offsets",
        "_phase_s",
        "_refresh_s",
        "_save_s",
        "_shares",
        "_touched_s",
        "_track",
        "roof",
    )

    def __init__(
        self,
        track: EnergyTrack,
        shares: Phases,
        *,
        refresh_s: float,
        phase_s: float,
        save_s: float,
        boot_s: float,
    ) -> None:
        self._track = track
        # What a roof feeds in: energy in the other direction, on the same registers' tariffs.
        self.roof: EnergyTrack | None = None
        self._shares = shares
        self._refresh_s = refresh_s
        self._phase_s = phase_s
        self._save_s = save_s
        self._boot_s = boot_s
        self._touched_s = 0.0
        self._offsets = [0.0] * ENERGY_VALUES
        self._gains = RIGHT

    def refreshed_s(self, t_s: float) -> float:
        """The instant whose values the registers show at `t_s`."""
        steps = math.floor((t_s - self._phase_s) / self._refresh_s)
        return max(self._phase_s + steps * self._refresh_s, self._touched_s)

    def totals(self, at_s: float) -> tuple[float, ...]:
        """The ten counters of the whole meter as they were at an instant."""
        if self._gains is not RIGHT or self.roof is not None:
            raw = self._raw(at_s)[:KINDS]
            return tuple(
                (value + offset) % COUNTER_MODULUS_WH
                for value, offset in zip(raw, self._offsets, strict=False)
            )
        first, second = self._track.energy(at_s)
        offsets = self._offsets
        return (
            (first[0] + offsets[0]) % COUNTER_MODULUS_WH,
            (second[0] + offsets[1]) % COUNTER_MODULUS_WH,
            offsets[2],
            offsets[3],
            (first[1] + offsets[4]) % COUNTER_MODULUS_WH,
            (second[1] + offsets[5]) % COUNTER_MODULUS_WH,
            offsets[6],
            offsets[7],
            (first[2] + offsets[8]) % COUNTER_MODULUS_WH,
            (second[2] + offsets[9]) % COUNTER_MODULUS_WH,
        )

    def phases(self, at_s: float) -> tuple[float, ...]:
        """The thirty counters of L1, L2 and L3 as they were at an instant."""
        raw = self._raw(at_s)
        return tuple(
            (raw[index] + self._offsets[index]) % COUNTER_MODULUS_WH
            for index in range(KINDS, ENERGY_VALUES)
        )

    def set_gains(self, t_s: float, gains: Phases) -> None:
        """Multiply each phase's energy from an instant on; a negative one counts as export."""
        if gains == self._gains:
            return
        before = (*self.totals(t_s), *self.phases(t_s))
        self._gains = RIGHT if gains == RIGHT else gains
        self.preset(t_s, dict(enumerate(before)))

    def preset(self, t_s: float, values: dict[int, float]) -> None:
        """Set counters by index (0 … 39) at an instant, as FC 0x10 does."""
        raw = self._raw(t_s)
        for index, value in values.items():
            self._offsets[index] = value - raw[index]
        self._touched_s = t_s

    def reset(self, t_s: float, choice: int) -> None:
        """Set to 0: all counters (0) or one kind (1 … 10), of the meter and of each phase."""
        kinds = range(KINDS) if choice == 0 else (choice - 1,)
        self.preset(t_s, {kind + part * KINDS: 0.0 for kind in kinds for part in range(4)})

    def lose_since_save(self, cut_s: float) -> tuple[float, ...]:
        """What survives a power cut at `cut_s`: the counters at the last save before it.

        Resets and presets are saved at once.
        """
        saves = math.floor((cut_s - self._boot_s) / self._save_s)
        saved_s = max(self._boot_s + saves * self._save_s, self._touched_s)
        return (*self.totals(saved_s), *self.phases(saved_s))

    def resume(self, t_s: float, kept: tuple[float, ...]) -> None:
        """Go on from what survived, after the power is back at `t_s`."""
        self.preset(t_s, dict(enumerate(kept)))
        self._boot_s = t_s

    def _raw(self, at_s: float) -> tuple[float, ...]:
        """The forty counters without their offsets."""
        first, second = self._track.energy(at_s)
        parts = [share * gain for share, gain in zip(self._shares, self._gains, strict=True)]
        # Exactly 1 where nothing is wrong: shares that add up to almost 1 would bend a register.
        right = self._gains is RIGHT
        net, gross = (1.0, 1.0) if right else (sum(parts), sum(map(abs, parts)))
        total = _ten(first, second, net, gross)
        phases = [value for part in parts for value in _ten(first, second, part, abs(part))]
        found = [*total, *phases]
        if self.roof is not None:
            fed = [energy.active_wh for energy in self.roof.energy(at_s)]
            for place, share in enumerate((1.0, *self._shares)):
                for tariff in (0, 1):
                    found[place * KINDS + EXPORT_T1 + tariff] += fed[tariff] * share
        return tuple(found)


def _ten(first: Energy, second: Energy, net: float, gross: float) -> tuple[float, ...]:
    """The ten counters of energy that flows with a factor: backwards where it is negative."""
    forth, back = max(net, 0.0), max(-net, 0.0)
    return (
        *(first[0] * forth, second[0] * forth, first[0] * back, second[0] * back),
        *(first[1] * forth, second[1] * forth, first[1] * back, second[1] * back),
        *(first[2] * gross, second[2] * gross),
    )
