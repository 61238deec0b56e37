"""Modbus as a PAC3220 speaks it: a request PDU in, a reply PDU out (manual p111-113, p139)."""

import math
from collections.abc import Callable
from ipaddress import IPv4Address
from struct import Struct

from gateway.core.errors import MeterExceptionError
from gateway.sim.commands import carry_out
from gateway.sim.faults import FaultKind
from gateway.sim.image import FIRMWARE, MANUFACTURER_NAME, Image
from gateway.sim.meter import Meter
from gateway.sim.registers import (
    BLOCK_AT,
    COUNTER_MODULUS_WH,
    DISCRETE_BITS,
    ENERGY_START,
    MAX_READ_REGISTERS,
    MAX_WRITE_REGISTERS,
    OPERATING_HOURS,
    OUTPUT_BY_COIL,
    REGISTER_BYTES,
    SUBNET_MASK,
    UNIVERSAL_COUNTER,
    Block,
    Part,
)

ILLEGAL_FUNCTION = 0x01
ILLEGAL_ADDRESS = 0x02
ILLEGAL_VALUE = 0x03
WRITE_PROTECTION_ON = 0xF0  # Siemens' own (p112)

READ_COILS = 0x01
READ_INPUTS = 0x02
READ_HOLDING = 0x03
READ_INPUT_REGISTERS = 0x04
WRITE_COIL = 0x05
WRITE_REGISTER = 0x06
WRITE_COILS = 0x0F
WRITE_REGISTERS = 0x10
READ_FILE = 0x14
READ_DEVICE = 0x2B

WRITES = frozenset({WRITE_COIL, WRITE_REGISTER, WRITE_COILS, WRITE_REGISTERS})
MAX_BITS = 2000
MAX_COILS_WRITTEN = 1968
MAX_FILE_BYTES = 251
FILE_REFERENCE = 6
FILE_BASES = {1: 30_000, 2: 31_000}
DEVICE_ID = 0x0E
CONFORMITY_BASIC = 0x81  # basic objects, by stream or one at a time

_TWO_WORDS = Struct(">HH")
_WRITE_MANY = Struct(">HHB")
_FILE_PART = Struct(">BHHH")
_DOUBLE = Struct(">d")


class Device:
    """A meter behind its Modbus server. One request at a time, answered at an instant."""

    def __init__(self, meter: Meter, address: IPv4Address) -> None:
        self.meter = meter
        self._address = address
        self._image = Image(meter)
        self._functions: dict[int, Callable[[float, bytes], bytes]] = {
            READ_COILS: self._read_bits,
            READ_INPUTS: self._read_bits,
            READ_HOLDING: self._read_registers,
            READ_INPUT_REGISTERS: self._read_registers,
            WRITE_COIL: self._write_coil,
            WRITE_REGISTER: self._write_register,
            WRITE_COILS: self._write_coils,
            WRITE_REGISTERS: self._write_registers,
            READ_FILE: self._read_file,
            READ_DEVICE: self._read_device,
        }

    def answer(self, t_s: float, request: bytes, peer: str) -> bytes:
        """The reply to a request PDU of at least one byte, an exception reply where it is refused.

        `peer` is the address of the asker: the subnet filter looks at it before a write.
        """
        try:
            return request[:1] + self._act(t_s, request, peer)
        except MeterExceptionError as refusal:
            return bytes((request[0] | 0x80, refusal.exception_code))

    def _act(self, t_s: float, request: bytes, peer: str) -> bytes:
        """What follows the function code in the reply. Raises MeterExceptionError to refuse."""
        function = request[0]
        act = self._functions.get(function)
        if act is None:
            raise MeterExceptionError(f"no function {function:#04x}", ILLEGAL_FUNCTION)
        if function in WRITES and not self._may_write(peer):
            raise MeterExceptionError("writes are protected", WRITE_PROTECTION_ON)
        return act(t_s, request)

    def _may_write(self, peer: str) -> bool:
        """Whether protection, password and subnet filter let a write from this address pass."""
        faults = self.meter.faults
        if FaultKind.WRITE_PROTECTED in faults or FaultKind.PASSWORD in faults:
            return False
        if FaultKind.SUBNET_FILTER not in faults:
            return True
        mask = self.meter.settings[SUBNET_MASK]
        return int(IPv4Address(peer)) & mask == int(self._address) & mask

    # --- registers -------------------------------------------------------------------------------

    def _read_registers(self, t_s: float, request: bytes) -> bytes:
        """FC 03 and 04: the same content."""
        if len(request) != 5:
            raise MeterExceptionError("not a read", ILLEGAL_VALUE)
        start, count = _TWO_WORDS.unpack_from(request, 1)
        if not 1 <= count <= MAX_READ_REGISTERS:
            raise MeterExceptionError(f"{count} registers", ILLEGAL_VALUE)
        return bytes((count * REGISTER_BYTES,)) + self._image.read(t_s, start, count)

    def _write_register(self, t_s: float, request: bytes) -> bytes:
        """FC 06: command registers only; the reply is an echo."""
        if len(request) != 5:
            raise MeterExceptionError("not a write", ILLEGAL_VALUE)
        register, value = _TWO_WORDS.unpack_from(request, 1)
        carry_out(self.meter, t_s, register, value)
        return request[1:]

    def _write_registers(self, t_s: float, request: bytes) -> bytes:
        """FC 10: parameters, energy counters, I&M1 to I&M4; whole values, all or none."""
        if len(request) < 6:
            raise MeterExceptionError("not a write", ILLEGAL_VALUE)
        start, count, size = _WRITE_MANY.unpack_from(request, 1)
        payload = request[6:]
        fits = size == count * REGISTER_BYTES == len(payload)
        if not 1 <= count <= MAX_WRITE_REGISTERS or not fits:
            raise MeterExceptionError("count and bytes differ", ILLEGAL_VALUE)
        values = _written(start, payload)
        for block, address, part in values:
            self._check(block, address, part)
        energies: dict[int, float] = {}
        for block, address, part in values:
            if block.part in (Part.ENERGY_TOTAL, Part.ENERGY_PHASE):
                energies[(address - ENERGY_START) // block.words] = _double(part)
            else:
                self._store(t_s, block, address, part)
        if energies:
            self.meter.advance(t_s)
            self.meter.counters.preset(t_s, energies)
            self.meter.note_change(basic=False)
        return request[1:5]

    def _check(self, block: Block, address: int, part: bytes) -> None:
        """Refuse a value that may not be written, before anything is."""
        if block.part is Part.SETTING:
            self.meter.check_setting(address, int.from_bytes(part, "big"))
        elif block.part in (Part.ENERGY_TOTAL, Part.ENERGY_PHASE):
            if not 0.0 <= _double(part) < COUNTER_MODULUS_WH:
                raise MeterExceptionError(f"{address} is outside its range", ILLEGAL_VALUE)
        elif block.part is not Part.MARKING and address not in (
            OPERATING_HOURS,
            UNIVERSAL_COUNTER,
        ):
            raise MeterExceptionError(f"{address} is read only", ILLEGAL_ADDRESS)

    def _store(self, t_s: float, block: Block, address: int, part: bytes) -> None:
        """Write one value that was checked."""
        meter = self.meter
        if block.part is Part.SETTING:
            meter.set_setting(t_s, address, int.from_bytes(part, "big"))
            return
        if block.part is Part.MARKING:
            meter.marking = part
        elif address == OPERATING_HOURS:
            meter.operating_start_s = t_s - int.from_bytes(part, "big")
        else:
            meter.universal_counter = int.from_bytes(part, "big")
        meter.note_change(basic=False)

    def _read_file(self, t_s: float, request: bytes) -> bytes:
        """FC 14: files 1 and 2 are the averaging stages, a record number their offset (p141)."""
        size = request[1] if len(request) > 1 else 0
        if not size or size % _FILE_PART.size or len(request) != 2 + size:
            raise MeterExceptionError("not a file request", ILLEGAL_VALUE)
        answer = bytearray()
        for first in range(2, len(request), _FILE_PART.size):
            reference, file, record, count = _FILE_PART.unpack_from(request, first)
            if reference != FILE_REFERENCE or file not in FILE_BASES:
                raise MeterExceptionError(f"no file {file}", ILLEGAL_ADDRESS)
            if not 1 <= count <= MAX_READ_REGISTERS - 1:
                raise MeterExceptionError(f"{count} registers", ILLEGAL_VALUE)
            content = self._image.read(t_s, FILE_BASES[file] + record, count)
            answer += bytes((len(content) + 1, FILE_REFERENCE)) + content
            if len(answer) > MAX_FILE_BYTES:
                raise MeterExceptionError("the reply would be too long", ILLEGAL_VALUE)
        return bytes((len(answer),)) + bytes(answer)

    # --- bits ------------------------------------------------------------------------------------

    def _read_bits(self, t_s: float, request: bytes) -> bytes:
        """FC 01 and 02: the same bits; every one asked for must be documented (p121)."""
        if len(request) != 5:
            raise MeterExceptionError("not a read", ILLEGAL_VALUE)
        start, count = _TWO_WORDS.unpack_from(request, 1)
        if not 1 <= count <= MAX_BITS:
            raise MeterExceptionError(f"{count} bits", ILLEGAL_VALUE)
        if not all(bit in DISCRETE_BITS for bit in range(start, start + count)):
            raise MeterExceptionError(f"({start}, {count}) holds unknown bits", ILLEGAL_ADDRESS)
        self.meter.advance(t_s)
        packed = bytearray((count + 7) // 8)
        for place in range(count):
            packed[place // 8] |= self._bit(start + place) << place % 8
        return bytes((len(packed),)) + bytes(packed)

    def _bit(self, bit: int) -> int:
        """One documented bit: limits are never violated, inputs of modules are off."""
        meter = self.meter
        if bit in OUTPUT_BY_COIL:
            return int(meter.output_is_on(OUTPUT_BY_COIL[bit]))
        if bit in (200, 201):
            return meter.inputs >> (bit - 200) & 1
        if 100 <= bit < 132:
            return meter.diagnostics >> (bit - 100) & 1
        return 0

    def _write_coil(self, t_s: float, request: bytes) -> bytes:
        """FC 05 on an output; the reply is an echo."""
        if len(request) != 5:
            raise MeterExceptionError("not a write", ILLEGAL_VALUE)
        coil, value = _TWO_WORDS.unpack_from(request, 1)
        if value not in (0x0000, 0xFF00):
            raise MeterExceptionError(f"{value:#06x} is no state", ILLEGAL_VALUE)
        output = OUTPUT_BY_COIL.get(coil)
        if output is None:
            raise MeterExceptionError(f"{coil} is no output", ILLEGAL_ADDRESS)
        self.meter.switch(t_s, output, on=value != 0)
        return request[1:]

    def _write_coils(self, t_s: float, request: bytes) -> bytes:
        """FC 0F on adjacent outputs."""
        if len(request) < 7:
            raise MeterExceptionError("not a write", ILLEGAL_VALUE)
        start, count, size = _WRITE_MANY.unpack_from(request, 1)
        expected = (count + 7) // 8
        if not 1 <= count <= MAX_COILS_WRITTEN or size != expected or len(request) != 6 + size:
            raise MeterExceptionError("count and bytes differ", ILLEGAL_VALUE)
        if not all(coil in OUTPUT_BY_COIL for coil in range(start, start + count)):
            raise MeterExceptionError(f"({start}, {count}) are no outputs", ILLEGAL_ADDRESS)
        for place in range(count):
            on = request[6 + place // 8] >> place % 8 & 1
            self.meter.switch(t_s, OUTPUT_BY_COIL[start + place], on=on == 1)
        return request[1:5]

    # --- identification --------------------------------------------------------------------------

    def _read_device(self, _: float, request: bytes) -> bytes:
        """FC 2B/0E: objects 0 manufacturer, 1 device name, 2 firmware; no others (p139)."""
        if len(request) != 4 or request[1] != DEVICE_ID:
            raise MeterExceptionError("not a device identification", ILLEGAL_FUNCTION)
        code, wanted = request[2], request[3]
        objects = (MANUFACTURER_NAME, self._image.device_name(), FIRMWARE)
        if code not in (1, 2, 3, 4):
            raise MeterExceptionError(f"no read code {code}", ILLEGAL_VALUE)
        if code == 4:
            if wanted >= len(objects):
                raise MeterExceptionError(f"no object {wanted}", ILLEGAL_ADDRESS)
            chosen = [wanted]
        else:
            chosen = list(range(wanted if wanted < len(objects) else 0, len(objects)))
        answer = bytearray((DEVICE_ID, code, CONFORMITY_BASIC, 0, 0, len(chosen)))
        for number in chosen:
            text = objects[number].encode()
            answer += bytes((number, len(text))) + text
        return bytes(answer)


def _written(start: int, payload: bytes) -> list[tuple[Block, int, bytes]]:
    """The whole values that a write covers: block, address and bytes of each.

    Raises MeterExceptionError 02 where it begins or ends inside a value or leaves the map.
    """
    values: list[tuple[Block, int, bytes]] = []
    register, end = start, start + len(payload) // REGISTER_BYTES
    while register < end:
        block = BLOCK_AT.get(register)
        if block is None or (register - block.start) % block.words or register + block.words > end:
            raise MeterExceptionError(f"{register} is no whole value", ILLEGAL_ADDRESS)
        first = (register - start) * REGISTER_BYTES
        values.append((block, register, payload[first : first + block.words * REGISTER_BYTES]))
        register += block.words
    return values


def _double(part: bytes) -> float:
    """A float64; NaN and infinity are out of every range and become -1."""
    (value,) = _DOUBLE.unpack(part)
    return float(value) if math.isfinite(value) else -1.0
