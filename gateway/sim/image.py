"""The registers of a simulated meter as bytes, block by block (big-endian bytes and words)."""

import math
from collections.abc import Callable
from struct import Struct

from gateway.core.errors import MeterExceptionError
from gateway.sim.counters import RIGHT
from gateway.sim.electrics import measure, miswired, neutral_current_a
from gateway.sim.faults import FaultKind
from gateway.sim.meter import Meter
from gateway.sim.registers import (
    AVERAGE_PERIODS_S,
    COUNTER_MODULUS_WH,
    DEMAND_PERIOD_MIN,
    ENERGY_PARTS,
    FLOAT_PARTS,
    REGISTER_BYTES,
    SETTING_BY_ADDRESS,
    Block,
    Part,
    plan_read,
)

ILLEGAL_ADDRESS = 0x02

MANUFACTURER_ID = 42  # Siemens (PAC3200T manual p128)
ORDER_NUMBER = "7KM3220-0BA01-1DA0"
OTHER_ORDER_NUMBER = "7KM2200-2EA30-1EA1"  # a PAC2200, for the fault `identity`
MANUFACTURER_NAME = "Siemens AG"
DEVICE_NAME = "SENTRON PAC3220"
OTHER_DEVICE_NAME = "SENTRON PAC2200"
FIRMWARE = "V1.2.1"

INSTANTANEOUS = 37
MAXIMA = 35
THD_FIRST, THD_LAST = 21, 27  # places of the THD values, of which no minima exist
SAMPLES = 8  # looks at a past window for its maxima

_WORD = Struct(">H")
_LONG = Struct(">I")
_TWO_LONGS = Struct(">2I")
_STATUS = Struct(">10I")
_MODULES = Struct(">4I")
_FLOAT = Struct(">f")
_NEUTRAL = Struct(">3f")
_DEMAND = Struct(">8f")
_INSTANTANEOUS = Struct(f">{INSTANTANEOUS}f")
_MAXIMA = Struct(f">{MAXIMA}f")
_MINIMA = Struct(">29f")
_AVERAGES = Struct(">38f")
_TOTALS = Struct(">10d")
_PHASES = Struct(">30d")
_IDENTITY = Struct(">H20s16sHc3B5H")
_FLOAT_NAN = _FLOAT.pack(math.nan)
_DOUBLE_NAN = Struct(">d").pack(math.nan)


class Image:
    """What a read of a meter's registers returns at an instant."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._measured_s = -math.inf
        self._values: tuple[float, ...] = ()
        self._encoders: dict[Part, Callable[[float], bytes]] = {
            Part.INSTANTANEOUS: self._instantaneous,
            Part.MAXIMA: self._maxima,
            Part.MINIMA: self._minima,
            Part.STATUS: self._status,
            Part.NEUTRAL: self._neutral,
            Part.CONFIGURABLE_COUNTER: self._configurable_counter,
            Part.MODULES: self._modules,
            Part.DEMAND: self._demand,
            Part.DEMAND_PERIOD: self._demand_period,
            Part.CLOCK: self._clock,
            Part.ENERGY_TOTAL: self._energy_total,
            Part.ENERGY_PHASE: self._energy_phase,
            Part.AVERAGE_1_STAMP: lambda t_s: self._stamp(t_s, 0),
            Part.AVERAGE_1: lambda t_s: self._averages(t_s, 0),
            Part.PEAK_1_STAMP: lambda t_s: self._stamp(t_s, 0),
            Part.PEAK_1: lambda t_s: self._peaks(t_s, 0),
            Part.AVERAGE_2_STAMP: lambda t_s: self._stamp(t_s, 1),
            Part.AVERAGE_2: lambda t_s: self._averages(t_s, 1),
            Part.PEAK_2_STAMP: lambda t_s: self._stamp(t_s, 1),
            Part.PEAK_2: lambda t_s: self._peaks(t_s, 1),
            Part.IDENTITY: self._identity,
            Part.MARKING: lambda _: meter.marking,
            Part.MODULE_1_IDENTITY: lambda _: bytes(_IDENTITY.size),
            Part.MODULE_2_IDENTITY: lambda _: bytes(_IDENTITY.size),
        }

    def read(self, t_s: float, start: int, count: int) -> bytes:
        """`count` registers from `start` on, two bytes each.

        Raises MeterExceptionError 02 where the read does not fit the documented values (p113).
        """
        meter = self._meter
        slices = plan_read(start, count, meter.options.hole_registers)
        if slices is None:
            raise MeterExceptionError(f"({start}, {count}) fits no values", ILLEGAL_ADDRESS)
        meter.advance(t_s)
        return b"".join(
            bytes(piece.last)
            if piece.block is None
            else self._block(t_s, piece.block)[piece.first : piece.last]
            for piece in slices
        )

    def device_name(self) -> str:
        """Object 1 of the device identification."""
        other = FaultKind.IDENTITY in self._meter.faults
        return OTHER_DEVICE_NAME if other else DEVICE_NAME

    # --- blocks ----------------------------------------------------------------------------------

    def _block(self, t_s: float, block: Block) -> bytes:
        """One whole block, with the faults that bite on its bytes."""
        part, faults = block.part, self._meter.faults
        if part is Part.SETTING:
            encoded = self._setting(block.start)
        elif FaultKind.NAN in faults and part in FLOAT_PARTS:
            encoded = _FLOAT_NAN * block.values
        elif FaultKind.NAN_ENERGY in faults and part in ENERGY_PARTS:
            encoded = _DOUBLE_NAN * block.values
        else:
            encoded = self._encoders[part](t_s)
        if FaultKind.WORD_ORDER in faults and block.words in (2, 4):
            return swap_words(encoded, block.words)
        return encoded

    def _measured(self, t_s: float) -> tuple[float, ...]:
        """The instantaneous values of the last refresh, computed once per refresh."""
        meter = self._meter
        at_s = meter.counters.refreshed_s(t_s)
        if at_s != self._measured_s:
            self._values = self._values_at(at_s, meter.net_w(at_s))
            self._measured_s = at_s
            meter.extremes.note((*self._values[:MAXIMA], neutral_current_a(self._values)))
        return self._values

    def _values_at(self, at_s: float, power_w: float) -> tuple[float, ...]:
        """The 37 values for a power at an instant; negative: it is fed in."""
        meter = self._meter
        values = measure(
            voltage_v=meter.mains.voltage_v(at_s) if meter.energised else 0.0,
            power_w=abs(power_w),
            power_factor=meter.track.power_factor(at_s),
            shares=meter.options.shares,
            frequency_hz=meter.mains.frequency_hz(at_s),
        )
        gains, places = meter.current_gains, meter.current_places
        if power_w < 0:
            gains = (-gains[0], -gains[1], -gains[2])
        if gains == RIGHT and places == (0, 1, 2):
            return values
        return miswired(values, gains, places)

    def _instantaneous(self, t_s: float) -> bytes:
        return _INSTANTANEOUS.pack(*self._measured(t_s))

    def _maxima(self, t_s: float) -> bytes:
        values = self._measured(t_s)
        return _MAXIMA.pack(*(self._meter.extremes.maxima or values)[:MAXIMA])

    def _minima(self, t_s: float) -> bytes:
        values = self._measured(t_s)
        minima = (self._meter.extremes.minima or values)[:MAXIMA]
        return _MINIMA.pack(*minima[:THD_FIRST], *minima[THD_LAST:])

    def _status(self, t_s: float) -> bytes:
        meter = self._meter
        hours_s = int(t_s - meter.operating_start_s) % 1_000_000_000
        return _STATUS.pack(
            0,  # limits are parameters of sibling models only: none is ever violated
            meter.diagnostics,
            meter.outputs(0),
            meter.inputs,
            meter.tariff,
            hours_s,
            meter.universal_counter,
            meter.changes.basic & 0xFFFF_FFFF,
            meter.changes.all & 0xFFFF_FFFF,
            0,
        )

    def _neutral(self, t_s: float) -> bytes:
        now = neutral_current_a(self._measured(t_s))
        extremes = self._meter.extremes
        highest = extremes.maxima[-1] if extremes.maxima else now
        lowest = extremes.minima[-1] if extremes.minima else now
        return _NEUTRAL.pack(now, highest, lowest)

    def _configurable_counter(self, t_s: float) -> bytes:
        totals = self._totals(t_s)
        return _FLOAT.pack((totals[0] + totals[1]) / 1000)

    def _modules(self, t_s: float) -> bytes:
        self._meter.advance(t_s)
        return _MODULES.pack(self._meter.outputs(1), 0, self._meter.outputs(2), 0)

    def _clock(self, t_s: float) -> bytes:
        meter = self._meter
        clock_s = meter.options.utc_s + t_s + meter.faults.amount(FaultKind.CLOCK_OFFSET)
        return _LONG.pack(int(clock_s) & 0xFFFF_FFFF)

    def _totals(self, t_s: float) -> tuple[float, ...]:
        """The ten counters as shown, with the faults that bend active import T1."""
        meter, faults = self._meter, self._meter.faults
        totals = meter.counters.totals(meter.counters.refreshed_s(t_s))
        if FaultKind.ENERGY_BACKWARDS not in faults and FaultKind.ENERGY_JUMP not in faults:
            return totals
        back_wh = faults.amount(FaultKind.ENERGY_BACKWARDS)
        jump_wh = faults.amount(FaultKind.ENERGY_JUMP)
        return (max(0.0, totals[0] - back_wh + jump_wh) % COUNTER_MODULUS_WH, *totals[1:])

    def _energy_total(self, t_s: float) -> bytes:
        return _TOTALS.pack(*self._totals(t_s))

    def _energy_phase(self, t_s: float) -> bytes:
        counters = self._meter.counters
        return _PHASES.pack(*counters.phases(counters.refreshed_s(t_s)))

    def _setting(self, address: int) -> bytes:
        value = self._meter.settings[address]
        return _WORD.pack(value) if SETTING_BY_ADDRESS[address].words == 1 else _LONG.pack(value)

    def _identity(self, _: float) -> bytes:
        """I&M0 as PROFIBUS International lays it out: 54 bytes."""
        other = FaultKind.IDENTITY in self._meter.faults
        order = OTHER_ORDER_NUMBER if other else ORDER_NUMBER
        return _IDENTITY.pack(
            MANUFACTURER_ID,
            order.encode().ljust(20),
            self._meter.options.serial.encode().ljust(16),
            1,  # hardware revision
            b"V",
            *(1, 2, 1),  # software revision
            *(0, 0, 0),  # revision counter, profile, profile specific type
            0x0101,  # version of I&M
            0x001E,  # I&M1 to I&M4 are supported
        )

    # --- averages over past windows --------------------------------------------------------------

    def _window(self, t_s: float, length_s: float, origin_s: float) -> tuple[float, float]:
        """The last complete window of a length, counted from an origin; empty at first."""
        end_s = origin_s + math.floor((t_s - origin_s) / length_s) * length_s
        return max(0.0, end_s - length_s), max(0.0, end_s)

    def _mean_power_w(self, first_s: float, last_s: float) -> float:
        """Exact mean power of a window."""
        if last_s <= first_s:
            return 0.0
        track = self._meter.track
        return (track.total_wh(last_s) - track.total_wh(first_s)) * 3600 / (last_s - first_s)

    def _sampled_w(self, first_s: float, last_s: float) -> list[float]:
        """Power at SAMPLES instants of a window."""
        step_s = (last_s - first_s) / SAMPLES
        return [self._meter.track.power_w(first_s + step_s * turn) for turn in range(SAMPLES)]

    def _average_window(self, t_s: float, stage: int) -> tuple[float, float]:
        """The last complete window of an averaging stage, aligned with the meter's clock."""
        length_s = self._meter.settings[AVERAGE_PERIODS_S[stage]]
        return self._window(t_s, length_s, -self._meter.options.utc_s % length_s)

    def _stamp(self, t_s: float, stage: int) -> bytes:
        _, last_s = self._average_window(t_s, stage)
        return _TWO_LONGS.pack(int(self._meter.options.utc_s + last_s) & 0xFFFF_FFFF, 0)

    def _averages(self, t_s: float, stage: int) -> bytes:
        first_s, last_s = self._average_window(t_s, stage)
        values = self._values_at(last_s, self._mean_power_w(first_s, last_s))
        return _AVERAGES.pack(*values, neutral_current_a(values))

    def _peaks(self, t_s: float, stage: int) -> bytes:
        first_s, last_s = self._average_window(t_s, stage)
        values = self._values_at(last_s, max(self._sampled_w(first_s, last_s)))
        return _AVERAGES.pack(*values, neutral_current_a(values))

    def _demand(self, t_s: float) -> bytes:
        meter = self._meter
        length_s = meter.settings[DEMAND_PERIOD_MIN] * 60
        first_s, last_s = self._window(t_s, length_s, meter.demand_start_s)
        mean_w, sampled = self._mean_power_w(first_s, last_s), self._sampled_w(first_s, last_s)
        factor = meter.track.power_factor(last_s)
        tangent = math.sqrt(1.0 - factor * factor) / factor
        top_w, low_w = max(sampled), min(sampled)
        return _DEMAND.pack(
            mean_w, mean_w * tangent, 0.0, 0.0, top_w, low_w, top_w * tangent, low_w * tangent
        )

    def _demand_period(self, t_s: float) -> bytes:
        length_s = self._meter.settings[DEMAND_PERIOD_MIN] * 60
        return _TWO_LONGS.pack(length_s, int((t_s - self._meter.demand_start_s) % length_s))


def swap_words(encoded: bytes, words: int) -> bytes:
    """Each value of `words` registers with its registers in reverse order."""
    size = words * REGISTER_BYTES
    swapped = bytearray()
    for first in range(0, len(encoded), size):
        value = encoded[first : first + size]
        for word in range(words - 1, -1, -1):
            swapped += value[word * REGISTER_BYTES : (word + 1) * REGISTER_BYTES]
    return bytes(swapped)
