"""What a meter model declares: registers, reads, outputs, diagnostics, identity. No I/O.

A model is data (`gateway/south/models/*.py`). It is checked once, when it is imported: a read that
starts inside a value, crosses an undocumented register or is too long never reaches a meter.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

from gateway.core.reading import Lane

# Modbus Application Protocol V1.1b3, 6.3: at most 125 registers in one read.
READ_REGISTERS_MAX: Final = 125
REGISTERS_MAX: Final = 65_536


class Format(StrEnum):
    """How a value lies in its registers: big-endian bytes, most significant word first."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    UINT32 = "uint32"
    UINT16 = "uint16"

    @property
    def code(self) -> str:
        """The `struct` code of one value."""
        return {"float32": "f", "float64": "d", "uint32": "I", "uint16": "H"}[self.value]

    @property
    def registers(self) -> int:
        """How many 16-bit registers one value takes."""
        return {"float32": 2, "float64": 4, "uint32": 2, "uint16": 1}[self.value]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One value of a meter: `name` ends in its unit, `address` is the PDU address.

    The decoded number times `scale` is the value in `unit`.
    """

    name: str
    address: int
    format: Format
    unit: str = ""
    scale: float = 1.0

    @property
    def end(self) -> int:
        """First address behind the value."""
        return self.address + self.format.registers


@dataclass(frozen=True, slots=True)
class Read:
    """One read request: `count` registers from `address`."""

    name: str
    address: int
    count: int

    @property
    def end(self) -> int:
        """First address behind the read."""
        return self.address + self.count


@dataclass(frozen=True, slots=True)
class Bit:
    """One bit of a status word; `bit` counts from the least significant one."""

    measurement: str
    bit: int

    @property
    def mask(self) -> int:
        """The bit as a mask of the 32-bit word."""
        return 1 << self.bit


@dataclass(frozen=True, slots=True)
class CommandCoding:
    """How a command register is written: which byte names the subject and which its state."""

    address: int
    subject_shift: int
    state_shift: int

    def word(self, subject: int, *, on: bool) -> int:
        """The 16-bit word that turns `subject` (output code or group, 0 … 255) on or off.

        Raises ValueError when the subject does not fit one byte.
        """
        if not 0 <= subject <= 0xFF:
            raise ValueError(f"subject {subject} does not fit one byte")
        return subject << self.subject_shift | int(on) << self.state_shift


@dataclass(frozen=True, slots=True)
class OutputChannel:
    """One digital output: its code in the switching command and where its state reads back.

    `mode_address`, `remote_timeout_address` and `group_address` are setting registers (uint16),
    None where the model's manual does not name them.
    """

    label: str
    code: int
    status: Bit
    mode_address: int | None = None
    remote_timeout_address: int | None = None
    group_address: int | None = None


@dataclass(frozen=True, slots=True)
class InputChannel:
    """One digital input and where its state is read."""

    label: str
    status: Bit


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """How a model switches. An output obeys commands only in mode `switching_mode`."""

    switch: CommandCoding
    group: CommandCoding
    acknowledge_address: int
    switching_mode: int
    channels: tuple[OutputChannel, ...]

    def channel(self, label: str) -> OutputChannel:
        """The output called `label`, such as "0.0". Raises ValueError when there is none."""
        for channel in self.channels:
            if channel.label == label:
                return channel
        known = ", ".join(channel.label for channel in self.channels)
        raise ValueError(f"no output {label!r}: this model has {known}")


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One bit of the diagnostics word; `is_latched` ones stay until they are acknowledged."""

    name: str
    mask: int
    is_latched: bool = False


@dataclass(frozen=True, slots=True)
class IdentitySpec:
    """How a device of this model names itself.

    `manufacturer_pattern` and `device_pattern` are regular expressions for objects 0 and 1 of
    function 0x2B, `order_pattern` for the order number of the I&M0 block at `im0_address`, all
    matched without regard to case.
    """

    manufacturer_pattern: str
    device_pattern: str
    order_pattern: str
    vendor_id: int
    im0_address: int
    im0_count: int


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Where the device keeps its own IPv4 address and subnet mask (uint32 each)."""

    ip_address: int
    mask_address: int


@dataclass(frozen=True, slots=True)
class SettingsSpec:
    """Parameters that commissioning compares with the configuration, each a uint32 at its address.

    `connection_types` names the values of `connection_type`. `tariff_input` is the digital input
    that can choose the tariff register; it does so when `tariff_input_use` holds `tariff_use`.
    """

    connection_type: int
    connection_types: tuple[str, ...]
    primary_current_a: int
    secondary_current_a: int
    tariff_input: str
    tariff_input_use: int
    tariff_use: int


# The cumulative export registers (Wh), in the order of those of import.
EXPORT_NAMES: Final = ("energy_export_t1_wh", "energy_export_t2_wh")


@dataclass(frozen=True, slots=True)
class MeterModel:
    """One meter model, complete. Raises ValueError when it contradicts itself.

    `full`, `short` and `slow` are the reads of the lanes; the slow lane reads `full` and then
    `slow`, so that each of its answers is a whole reading. Put the read with the import energy
    last in `full` and `short`: a decision is then as fresh as the last reply.
    `energy_import` names the cumulative import registers (Wh) in the order of their sources;
    they wrap at `energy_modulus_wh`. `refresh_s` is how often the device renews its registers,
    `nvm_interval_s` how much counting a power cut may lose. One that `folds` goes on from resets
    of its counter by itself.
    """

    name: str
    title: str
    measurements: tuple[Measurement, ...]
    full: tuple[Read, ...]
    short: tuple[Read, ...]
    slow: tuple[Read, ...]
    energy_import: tuple[str, ...]
    energy_modulus_wh: int
    phase_voltages: tuple[str, ...]
    phase_currents: tuple[str, ...]
    power: str
    diagnostics_word: str
    clock: str
    active_tariff: str
    change_counters: tuple[str, ...]
    diagnostics: tuple[Diagnostic, ...]
    outputs: OutputSpec
    inputs: tuple[InputChannel, ...]
    identity: IdentitySpec
    network: NetworkSpec | None = None
    settings: SettingsSpec | None = None
    refresh_s: float = 0.2
    nvm_interval_s: int = 300
    folds: bool = False

    def __post_init__(self) -> None:
        _check_map(self.measurements)
        for lane in Lane:
            for read in self.reads(lane):
                self.tile(read)
        _check_roles(self)

    def reads(self, lane: Lane) -> tuple[Read, ...]:
        """The requests of one lane, in the order of the wire."""
        match lane:
            case Lane.FULL:
                return self.full
            case Lane.SHORT:
                return self.short
            case Lane.SLOW:
                return self.full + self.slow

    def names(self, lane: Lane) -> tuple[str, ...]:
        """Names of all measurements of one lane in the model's order.

        Those of the slow lane begin with those of the full lane.
        """
        return tuple(item.name for read in self.reads(lane) for item in self.tile(read))

    @property
    def export_places(self) -> tuple[int, ...]:
        """Where the export registers stand in a reading of the full lane; none: it has none."""
        names = self.names(Lane.FULL)
        return tuple(names.index(name) for name in EXPORT_NAMES if name in names)

    def measurement(self, name: str) -> Measurement:
        """The measurement called `name`. Raises ValueError when there is none."""
        for item in self.measurements:
            if item.name == name:
                return item
        raise ValueError(f"{self.name}: no measurement {name!r}")

    def unit(self, name: str) -> str:
        """The unit of a measurement. Raises ValueError when there is none of this name."""
        return self.measurement(name).unit

    def input(self, label: str) -> InputChannel:
        """The digital input called `label`. Raises ValueError when there is none."""
        for channel in self.inputs:
            if channel.label == label:
                return channel
        known = ", ".join(channel.label for channel in self.inputs)
        raise ValueError(f"no input {label!r}: this model has {known}")

    def diagnostic(self, name: str) -> Diagnostic:
        """The diagnostics bit called `name`. Raises ValueError when there is none."""
        for diagnostic in self.diagnostics:
            if diagnostic.name == name:
                return diagnostic
        raise ValueError(f"{self.name}: no diagnostic {name!r}")

    def diagnostic_names(self, word: int) -> tuple[str, ...]:
        """Names of the bits that stand in a diagnostics word."""
        return tuple(item.name for item in self.diagnostics if word & item.mask)

    def tile(self, read: Read) -> tuple[Measurement, ...]:
        """The measurements that make up a read, without a gap.

        Raises ValueError when the read is empty or too long, begins or ends inside a value or
        crosses a register that no measurement documents.
        """
        if not 1 <= read.count <= READ_REGISTERS_MAX:
            raise ValueError(f"{self.name}: read {read.name}: {read.count} registers")
        items = tuple(
            item
            for item in self.measurements
            if item.end > read.address and item.address < read.end
        )
        at = read.address
        for item in items:
            if item.address != at:
                raise ValueError(
                    f"{self.name}: read {read.name} ({read.address}, {read.count}): "
                    f"register {at} is a hole or lies inside {item.name}"
                )
            at = item.end
        if at != read.end:
            raise ValueError(
                f"{self.name}: read {read.name} ({read.address}, {read.count}) "
                f"ends inside a value or a hole: last whole value ends at {at}"
            )
        return items


def merge(reads: Sequence[Read]) -> tuple[Read, ...]:
    """Reads in the order of their addresses, those that touch joined where 125 registers allow."""
    joined: list[Read] = []
    for read in sorted(reads, key=lambda item: item.address):
        last = joined[-1] if joined else None
        if last is not None and last.end == read.address:
            count = last.count + read.count
            if count <= READ_REGISTERS_MAX:
                joined[-1] = Read(f"{last.name}+{read.name}", last.address, count)
                continue
        joined.append(read)
    return tuple(joined)


def covers(reads: Iterable[Read], item: Measurement) -> bool:
    """Whether one of the reads holds the whole measurement."""
    return any(read.address <= item.address and item.end <= read.end for read in reads)


def _check_map(measurements: Sequence[Measurement]) -> None:
    names = [item.name for item in measurements]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise ValueError(f"measurements named twice: {', '.join(sorted(doubled))}")
    for before, item in pairwise(measurements):
        if item.address < before.end:
            raise ValueError(f"{item.name} overlaps {before.name} or is out of order")
    for item in measurements:
        if item.address < 0 or item.end > REGISTERS_MAX:
            raise ValueError(f"{item.name}: address {item.address} is out of range")


def _check_roles(model: MeterModel) -> None:
    full = frozenset(model.names(Lane.FULL))
    short = frozenset(model.names(Lane.SHORT))
    roles = (*model.phase_voltages, *model.phase_currents, model.power, model.diagnostics_word)
    for name in (*roles, model.clock, model.active_tariff, *model.energy_import):
        if name not in full:
            raise ValueError(f"{model.name}: {name} is not in the full lane")
    if not model.energy_import:
        raise ValueError(f"{model.name}: no import energy")
    for name in model.energy_import:
        if name not in short or model.measurement(name).format is not Format.FLOAT64:
            raise ValueError(f"{model.name}: {name} must be a float64 of the short lane")
    slow = frozenset(model.names(Lane.SLOW))
    for name in model.change_counters:
        if name not in slow:
            raise ValueError(f"{model.name}: {name} is in no lane")
    statuses = [channel.status for channel in model.outputs.channels]
    statuses += [channel.status for channel in model.inputs]
    for status in (*statuses, Bit(model.diagnostics_word, 0)):
        if model.measurement(status.measurement).format is not Format.UINT32:
            raise ValueError(f"{model.name}: {status.measurement} is no 32-bit status word")
        if not 0 <= status.bit < 32:
            raise ValueError(f"{model.name}: bit {status.bit} of {status.measurement}")
    model.diagnostic("restart")
    if not model.outputs.channels:
        raise ValueError(f"{model.name}: no output to switch")
