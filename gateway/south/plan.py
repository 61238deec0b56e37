"""A model compiled for one wiring: which registers to ask for, and one decode call per lane."""

import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from gateway.core.errors import MeterProtocolError
from gateway.core.reading import Lane
from gateway.south.registers import (
    Bit,
    Measurement,
    MeterModel,
    Read,
    covers,
    merge,
)

# A real counter moves in steps far above a micro-watt-hour. A smaller positive number is what a
# swapped word order makes of a float64.
ENERGY_STEP_MIN_WH: Final = 1e-6


class LanePlan:
    """What one lane of one model asks, and how its answer becomes numbers.

    `value_count` is how many of the decoded values belong to the model; further ones were read
    for the wiring (status words of expansion modules). The `…_at` are places in the decoded values,
    empty or None where the lane lacks the measurement; `statuses_at` follows the order of
    `statuses`. `energy_read` is the place in `reads` of the last one with import energy.
    """

    __slots__ = (
        "_energy_at",
        "_modulus_wh",
        "_scales",
        "_struct",
        "clock_at",
        "currents_at",
        "diagnostics_at",
        "energy_read",
        "lane",
        "names",
        "power_at",
        "reads",
        "statuses_at",
        "value_count",
        "voltages_at",
    )

    def __init__(self, model: MeterModel, lane: Lane, statuses: Sequence[Bit]) -> None:
        reads = model.reads(lane)
        extras = tuple(
            Read(item.name, item.address, item.format.registers)
            for item in _missing(model, reads, statuses)
        )
        self.lane: Final = lane
        self.value_count: Final = 0 if lane is Lane.SHORT else len(model.names(lane))
        # The short lane has no layout to keep, so a status word beside another rides with it.
        self.reads: Final = merge(reads + extras) if lane is Lane.SHORT else reads + merge(extras)
        items = [item for read in self.reads for item in model.tile(read)]
        self.names: Final = tuple(item.name for item in items)
        places = {name: at for at, name in enumerate(self.names)}
        self._struct = struct.Struct(">" + "".join(item.format.code for item in items))
        scales = tuple(item.scale for item in items)
        self._scales = None if all(scale == 1.0 for scale in scales) else scales
        self._energy_at = tuple(places[name] for name in model.energy_import)
        self._modulus_wh = model.energy_modulus_wh
        self.energy_read: Final = max(
            index
            for index, read in enumerate(self.reads)
            if any(covers((read,), model.measurement(name)) for name in model.energy_import)
        )
        self.statuses_at: Final = tuple(places[status.measurement] for status in statuses)
        self.diagnostics_at: Final = places.get(model.diagnostics_word)
        self.clock_at: Final = places.get(model.clock)
        self.power_at: Final = places.get(model.power)
        self.currents_at: Final = _places(places, model.phase_currents)
        self.voltages_at: Final = _places(places, model.phase_voltages)

    def decode(self, payloads: Sequence[bytes]) -> tuple[float, ...]:
        """Decode the register bytes of all reads, in the order of `reads`, in one call.

        Undefined floats stay NaN. Raises MeterProtocolError when the number of bytes is wrong.
        """
        try:
            values: tuple[float, ...] = self._struct.unpack(b"".join(payloads))
        except struct.error:
            size = sum(map(len, payloads))
            raise MeterProtocolError(
                f"{self.lane} lane: {size} bytes, {self._struct.size} expected"
            ) from None
        if self._scales is None:
            return tuple(map(float, values))
        return tuple(value * scale for value, scale in zip(values, self._scales, strict=True))

    def energy_wh(self, values: Sequence[float]) -> tuple[int, ...]:
        """The import registers, each floored to whole Wh.

        Raises MeterProtocolError when one is no possible counter: NaN, infinite, negative, above
        the modulus, or so near zero that its words must be swapped.
        """
        floored: list[int] = []
        for at in self._energy_at:
            value = values[at]
            # Written so that NaN, which compares false with everything, is refused as well.
            if not (value == 0.0 or ENERGY_STEP_MIN_WH <= value < self._modulus_wh):
                raise MeterProtocolError(f"{self.names[at]} reads {value!r}: no possible counter")
            floored.append(int(value))
        return tuple(floored)

    def is_undefined(self, values: Sequence[float]) -> bool:
        """Whether an import register says that it has no value: what is beside it is in order."""
        return any(math.isnan(values[at]) for at in self._energy_at)

    def part_wh(self, values: Sequence[float]) -> float:
        """The largest part of a Wh that `energy_wh` floors away, 0 … 1."""
        return max(values[at] % 1.0 for at in self._energy_at)


@lru_cache(maxsize=256)
def lane_plans(model: MeterModel, output: str, feedback: str | None) -> dict[Lane, LanePlan]:
    """The plans of all lanes for a supply output and an optional feedback input.

    Meters of one model and wiring share them. Raises ValueError when the model lacks either.
    """
    statuses = [model.outputs.channel(output).status]
    if feedback is not None:
        statuses.append(model.input(feedback).status)
    return {lane: LanePlan(model, lane, statuses) for lane in Lane}


def _places(places: dict[str, int], names: Sequence[str]) -> tuple[int, ...]:
    return tuple(places[name] for name in names if name in places)


def _missing(
    model: MeterModel, reads: Sequence[Read], statuses: Sequence[Bit]
) -> tuple[Measurement, ...]:
    names = dict.fromkeys(status.measurement for status in statuses)
    items = (model.measurement(name) for name in names)
    return tuple(item for item in items if not covers(reads, item))
