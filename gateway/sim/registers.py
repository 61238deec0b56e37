"""The documented register map of a PAC3220 as data, and which reads of it are legal.

Source: Siemens Equipment Manual PAC3120/PAC3220, 10/2019, L1V30425208F-01, p111-144. An offset is
the address on the wire. Only what the manual lists exists here; limit parameters (50063 …) are
known from sibling models only and are left out.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

MAX_READ_REGISTERS = 125
MAX_WRITE_REGISTERS = 123
COUNTER_MODULUS_WH = 1e12  # p117

REGISTER_BYTES = 2


class Part(StrEnum):
    """A block of adjacent values that is encoded as one."""

    INSTANTANEOUS = "instantaneous"
    MAXIMA = "maxima"
    MINIMA = "minima"
    STATUS = "status"
    NEUTRAL = "neutral"
    CONFIGURABLE_COUNTER = "configurable_counter"
    MODULES = "modules"
    DEMAND = "demand"
    DEMAND_PERIOD = "demand_period"
    CLOCK = "clock"
    ENERGY_TOTAL = "energy_total"
    ENERGY_PHASE = "energy_phase"
    AVERAGE_1_STAMP = "average_1_stamp"
    AVERAGE_1 = "average_1"
    PEAK_1_STAMP = "peak_1_stamp"
    PEAK_1 = "peak_1"
    AVERAGE_2_STAMP = "average_2_stamp"
    AVERAGE_2 = "average_2"
    PEAK_2_STAMP = "peak_2_stamp"
    PEAK_2 = "peak_2"
    SETTING = "setting"
    IDENTITY = "identity"
    MARKING = "marking"
    MODULE_1_IDENTITY = "module_1_identity"
    MODULE_2_IDENTITY = "module_2_identity"


@dataclass(frozen=True, slots=True)
class Block:
    """`values` adjacent values of `words` registers each, from `start` on."""

    part: Part
    start: int
    values: int
    words: int

    @property
    def end(self) -> int:
        """The first register after the block."""
        return self.start + self.values * self.words


@dataclass(frozen=True, slots=True)
class Setting:
    """A parameter that FC 0x10 may write: unsigned, within low … high.

    `words` is 1 or 2 registers. `basic` ones move change counter 217 too (p116). `mirror` is the
    register that holds the same value where the manual lists it twice.
    """

    address: int
    words: int
    default: int
    low: int
    high: int
    basic: bool = False
    mirror: int | None = None


U32_MAX = 0xFFFF_FFFF

# --- outputs -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OutputPlace:
    """Where one digital output lives: its code in 60008, coil, status bit and parameters (p131).

    `module` is 0 for the meter itself, 1 and 2 for the expansion slots.
    """

    name: str
    code: int
    coil: int
    module: int
    bit: int
    base: int

    @property
    def mode(self) -> int:
        """Register of the type of use; 2 makes the output switchable."""
        return self.base + 1

    @property
    def remote_timeout(self) -> int:
        """Register of the remote timeout in s; 0 holds the output for ever."""
        return self.base + 7


OUTPUTS = (
    OutputPlace("0.0", 0, 300, 0, 0, 51711),
    OutputPlace("0.1", 1, 301, 0, 1, 51720),
    OutputPlace("4.0", 64, 332, 1, 0, 51729),
    OutputPlace("4.1", 65, 333, 1, 1, 51738),
    OutputPlace("8.0", 128, 364, 2, 0, 51747),
    OutputPlace("8.1", 129, 365, 2, 1, 51756),
)
OUTPUT_BY_CODE = {output.code: output for output in OUTPUTS}
OUTPUT_BY_NAME = {output.name: output for output in OUTPUTS}
OUTPUT_BY_COIL = {output.coil: output for output in OUTPUTS}
MODE_DEVICE_ACTIVE = 1
MODE_SWITCHING = 2

CONNECTION_TYPE = 50001
CONNECTION_SINGLE_PHASE = 4
INPUT_0_USE = 50025
INPUT_USE_TARIFF = 2
DEMAND_PERIOD_MIN = 50021
SUBNET_MASK = 63003
AVERAGE_PERIODS_S = (62983, 62987)

# --- discrete inputs and coils (p121): bit number in FC 01/02 ------------------------------------

DIAGNOSTIC_BITS = (*range(108, 113), *range(116, 119), *range(123, 132))  # 100 + bit of 205
DISCRETE_BITS = frozenset(
    (
        *range(6),
        51,
        *DIAGNOSTIC_BITS,
        *(200, 201, *range(232, 236), *range(264, 268)),
        *OUTPUT_BY_COIL,
    )
)

# --- parameters ----------------------------------------------------------------------------------


def _output_settings(output: OutputPlace) -> tuple[Setting, ...]:
    """The parameters of one output; base + 3 is a hole in the manual's list."""
    base = output.base
    return (
        Setting(base, 1, 0, 0, 99, mirror=50033 if output.code == 0 else None),
        Setting(base + 1, 1, 0, 0, 5),
        Setting(base + 2, 1, 0, 0, 6),
        Setting(base + 4, 1, 0, 0, 3),
        Setting(base + 5, 1, 1, 1, 4000),
        Setting(base + 6, 1, 100, 30, 500),
        Setting(base + 7, 1, 0, 0, 18_000),
        Setting(base + 8, 1, 0, 0, 3),
    )


SETTINGS = (
    Setting(CONNECTION_TYPE, 2, 0, 0, 4, basic=True),
    Setting(50003, 2, 0, 0, 1, basic=True),  # voltage transformer
    Setting(50005, 2, 400, 1, 999_999, basic=True),
    Setting(50007, 2, 400, 1, 480, basic=True),
    Setting(50011, 2, 100, 1, 99_999, basic=True),
    Setting(50013, 2, 5, 1, 5, basic=True),
    Setting(DEMAND_PERIOD_MIN, 2, 15, 1, 60),
    Setting(50023, 2, 0, 0, 2),
    Setting(INPUT_0_USE, 2, 0, 0, 3),
    Setting(50029, 2, 0, 0, 1),
    Setting(50031, 2, 1, 1, 4000),
    Setting(50033, 2, 0, 0, 99, mirror=51711),
    *(setting for output in OUTPUTS for setting in _output_settings(output)),
    Setting(62983, 2, 10, 4, U32_MAX),
    Setting(62985, 2, 0, 0, 2),
    Setting(62987, 2, 900, 4, U32_MAX),
    Setting(62989, 2, 0, 0, 2),
    Setting(62991, 2, 0, 0, 1),
    Setting(62993, 2, 0, 0, U32_MAX),
    Setting(62995, 2, 0, 0, 2),
    Setting(62999, 2, 502, 1, 65_535),
    Setting(63001, 2, 0, 0, U32_MAX),
    Setting(SUBNET_MASK, 2, 0xFFFF_FF00, 0, U32_MAX),
    Setting(63005, 2, 0, 0, U32_MAX),
    Setting(63019, 2, 1, 1, 247),
    Setting(63021, 2, 0, 0, 10),
    Setting(63023, 2, 0, 0, 3),
    Setting(63025, 2, 0, 0, 255),
)
SETTING_BY_ADDRESS = {setting.address: setting for setting in SETTINGS}

MARKING_START = 64028  # I&M1 to I&M4: plant and location marks, dates, descriptor, signature
MARKING_REGISTERS = 89
OPERATING_HOURS = 213
UNIVERSAL_COUNTER = 215
ENERGY_START = 801
ENERGY_VALUES = 40


def _averages(base: int, stamp: Part, values: Part, peak_stamp: Part, peak: Part) -> list[Block]:
    """One averaging stage: stamp and flags, 38 averages, and its maxima 256 further (p141)."""
    return [
        Block(stamp, base + 1, 2, 2),
        Block(values, base + 5, 38, 2),
        Block(peak_stamp, base + 257, 2, 2),
        Block(peak, base + 261, 38, 2),
    ]


BLOCKS = (
    Block(Part.INSTANTANEOUS, 1, 37, 2),
    Block(Part.MAXIMA, 75, 35, 2),
    Block(Part.MINIMA, 145, 29, 2),
    Block(Part.STATUS, 203, 10, 2),
    Block(Part.NEUTRAL, 223, 3, 2),
    Block(Part.CONFIGURABLE_COUNTER, 231, 1, 2),
    Block(Part.MODULES, 233, 4, 2),
    Block(Part.DEMAND, 501, 8, 2),
    Block(Part.DEMAND_PERIOD, 517, 2, 2),
    Block(Part.CLOCK, 799, 1, 2),
    Block(Part.ENERGY_TOTAL, ENERGY_START, 10, 4),
    Block(Part.ENERGY_PHASE, ENERGY_START + 40, 30, 4),
    *_averages(30000, Part.AVERAGE_1_STAMP, Part.AVERAGE_1, Part.PEAK_1_STAMP, Part.PEAK_1),
    *_averages(31000, Part.AVERAGE_2_STAMP, Part.AVERAGE_2, Part.PEAK_2_STAMP, Part.PEAK_2),
    *(Block(Part.SETTING, setting.address, 1, setting.words) for setting in SETTINGS),
    Block(Part.IDENTITY, 64001, 1, 27),
    Block(Part.MARKING, MARKING_START, 1, MARKING_REGISTERS),
    Block(Part.MODULE_1_IDENTITY, 64117, 1, 27),
    Block(Part.MODULE_2_IDENTITY, 64144, 1, 27),
)
BLOCK_AT = {register: block for block in BLOCKS for register in range(block.start, block.end)}
_STARTS = sorted(block.start for block in BLOCKS)
FLOAT_PARTS = frozenset(
    {
        *(Part.INSTANTANEOUS, Part.MAXIMA, Part.MINIMA, Part.NEUTRAL, Part.DEMAND),
        *(Part.AVERAGE_1, Part.PEAK_1, Part.AVERAGE_2, Part.PEAK_2, Part.CONFIGURABLE_COUNTER),
    }
)
ENERGY_PARTS = frozenset({Part.ENERGY_TOTAL, Part.ENERGY_PHASE})

# --- what a read touches -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slice:
    """Bytes `first` to `last` of one block; `block` None stands for a tolerated hole, read as 0."""

    block: Block | None
    first: int
    last: int


@lru_cache(maxsize=1024)
def plan_read(start: int, count: int, hole_registers: int) -> tuple[Slice, ...] | None:
    """How to answer a read of `count` registers from `start`; None where it is illegal.

    Legal reads begin and end on the edge of a value and touch only what is documented (p113).
    Holes of up to `hole_registers` between documented values are tolerated and read as 0: a
    sibling model was seen to do so, the PAC3220 is not proved to.
    """
    slices: list[Slice] = []
    register, end = start, start + count
    while register < end:
        block = BLOCK_AT.get(register)
        if block is None:
            after = next((first for first in _STARTS if first > register), None)
            starts_here = register == start
            if after is None or starts_here or after >= end or after - register > hole_registers:
                return None
            slices.append(Slice(None, 0, (after - register) * REGISTER_BYTES))
            register = after
            continue
        skip, take = register - block.start, min(block.end, end) - register
        if skip % block.words or take % block.words:
            return None
        slices.append(Slice(block, skip * REGISTER_BYTES, (skip + take) * REGISTER_BYTES))
        register += take
    return tuple(slices)
