"""A simulated PZEM-004T v3/v4: request bytes in, reply bytes and their delay out.

It follows the data sheet: functions 3, 4, 6 and 0x42, the general address 0xF8, broadcast 0, its
own Wh counter that goes on where it was after a power loss and starts anew after 9,999.99 kWh. It
measures the voltage before the relay and the current after it, answers only while its mains are
live, and knows the faults that were seen in the field. All times in seconds of one clock.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from gateway.sim.loads import Curve
from gateway.sim.track import EnergyTrack

ROLL_OVER_WH: Final = 9_999_990
GENERAL: Final = 0xF8
BROADCAST: Final = 0x00
HIGHEST_ADDRESS: Final = 0xF7
HIGHEST_ALARM_W: Final = 23_000

READ_HOLDING: Final = 0x03
READ_INPUT: Final = 0x04
WRITE_ONE: Final = 0x06
RESET_ENERGY: Final = 0x42
ILLEGAL_FUNCTION: Final = 0x01
ILLEGAL_ADDRESS: Final = 0x02
ILLEGAL_VALUE: Final = 0x03

ALARM_REGISTER: Final = 1
ADDRESS_REGISTER: Final = 2
INPUT_REGISTERS: Final = 10

BYTE_S: Final = 10 / 9_600  # 8N1 at 9600 baud
FRAME_GAP_S: Final = 0.02  # after so long a silence a new request begins
LATE_S: Final = 0.4  # longer than any reader waits
NO_CURRENT_MA: Final = 20  # below its starting current a module shows none


class PzemFault(StrEnum):
    """What goes wrong with replies while it lasts."""

    SILENT = "silent"
    WRONG_CRC = "wrong_crc"
    SHORT = "short"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class PzemReply:
    """Bytes on the wire, complete `delay_s` after the request's last byte."""

    frame: bytes
    delay_s: float


@dataclass(slots=True)
class PzemMains:
    """The wires before the relay: what a module measures there and lives on."""

    voltage_dv: int = 2_300
    frequency_dhz: int = 500
    live: bool = True


def crc16(frame: bytes) -> int:
    """Modbus CRC: polynomial 0xA001, initial 0xFFFF."""
    crc = 0xFFFF
    for byte in frame:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xA001 if crc & 1 else 0)
    return crc


def sealed(body: bytes) -> bytes:
    """The bytes with their CRC, low byte first."""
    return body + crc16(body).to_bytes(2, "little")


@dataclass(slots=True)
class _Faults:
    """How many more replies each fault spoils; infinite: until cleared."""

    left: dict[PzemFault, float] = field(default_factory=dict)

    def strikes(self, fault: PzemFault) -> bool:
        """Whether it spoils this reply; uses it up by one."""
        left = self.left.get(fault, 0)
        if left <= 0:
            return False
        self.left[fault] = left - 1
        return True


class PzemModule:
    """One module behind a relay. `load` is what the customer would draw, were it closed."""

    def __init__(
        self, load: Curve, *, address: int = 1, energy_wh: int = 0, relay_closed: bool = True
    ) -> None:
        self.address = address
        self.alarm_w = HIGHEST_ALARM_W
        self.mains = PzemMains()
        self._relay_closed = relay_closed
        self.track = EnergyTrack(load, start_wh=(0.0, 0.0), conducting=relay_closed)
        # The counter is the truth plus this; Wh fractions stay in the truth as its remainder.
        self._offset_wh = energy_wh
        self._faults = _Faults()

    # --- the world ------------------------------------------------------------------------------

    def counter_wh(self, t_s: float) -> int:
        """What its Wh counter shows at an instant."""
        return (math.floor(self.track.total_wh(t_s) + 1e-9) + self._offset_wh) % ROLL_OVER_WH

    def set_load(self, t_s: float, load: Curve) -> None:
        """Another demand from `t_s` on."""
        self.track.change(t_s, curve=load)

    def set_relay(self, t_s: float, *, closed: bool) -> None:
        """The relay moves."""
        self._relay_closed = closed
        self._rewire(t_s)

    def cut_mains(self, t_s: float) -> None:
        """The mains side dies: no supply, no answer; the counter is kept."""
        self.mains.live = False
        self._rewire(t_s)

    def restore_mains(self, t_s: float, *, lost_wh: int = 0) -> None:
        """The mains are back; `lost_wh` of the counter had not been saved."""
        self.mains.live = True
        self._offset_wh -= min(lost_wh, self.counter_wh(t_s))
        self._rewire(t_s)

    def move_counter(self, by_wh: int) -> None:
        """The counter jumps (a dip of the voltage was seen to do it) or falls back."""
        self._offset_wh += by_wh

    def add_fault(self, fault: PzemFault, count: float = math.inf) -> None:
        """Spoil the next `count` replies."""
        self._faults.left[fault] = count

    def clear_faults(self) -> None:
        """Answer well again."""
        self._faults.left.clear()

    # --- the wire -------------------------------------------------------------------------------

    def answer(self, t_s: float, request: bytes) -> PzemReply | None:
        """The reply to one complete request with a good CRC, or None.

        A request to 0xF8 is answered from 0xF8, one to 0 is carried out without an answer.
        """
        address = request[0]
        if not self.mains.live or address not in (self.address, GENERAL, BROADCAST):
            return None
        body = self._carried_out(t_s, request)
        if address == BROADCAST or self._faults.strikes(PzemFault.SILENT):
            return None
        frame = sealed(body)
        delay_s = len(frame) * BYTE_S
        if self._faults.strikes(PzemFault.WRONG_CRC):
            frame = frame[:-1] + bytes((frame[-1] ^ 0x5A,))
        if self._faults.strikes(PzemFault.SHORT):
            frame = frame[: len(frame) // 2]
        if self._faults.strikes(PzemFault.LATE):
            delay_s += LATE_S
        return PzemReply(frame, delay_s)

    def _carried_out(self, t_s: float, request: bytes) -> bytes:
        """The body of the reply, after doing what was asked."""
        address, function = request[0], request[1]
        wanted = {READ_HOLDING: 8, READ_INPUT: 8, WRITE_ONE: 8, RESET_ENERGY: 4}.get(function)
        if wanted is None or len(request) != wanted:
            return bytes((address, function | 0x80, ILLEGAL_FUNCTION))
        if function == RESET_ENERGY:
            self._offset_wh -= self.counter_wh(t_s)
            return request[:-2]
        first = int.from_bytes(request[2:4], "big")
        value = int.from_bytes(request[4:6], "big")
        if function == WRITE_ONE:
            wrong = self._write(first, value)
            return bytes((address, function | 0x80, wrong)) if wrong else request[:-2]
        registers = (
            self._input_registers(t_s)
            if function == READ_INPUT
            else {ALARM_REGISTER: self.alarm_w, ADDRESS_REGISTER: self.address}
        )
        asked = range(first, first + value)
        if not value or any(register not in registers for register in asked):
            return bytes((address, function | 0x80, ILLEGAL_ADDRESS))
        words = b"".join(registers[register].to_bytes(2, "big") for register in asked)
        return bytes((address, function, len(words))) + words

    def _write(self, register: int, value: int) -> int:
        """0, or the code of the error."""
        if register == ALARM_REGISTER and value <= HIGHEST_ALARM_W:
            self.alarm_w = value
        elif register == ADDRESS_REGISTER and 1 <= value <= HIGHEST_ADDRESS:
            self.address = value
        else:
            known = register in (ALARM_REGISTER, ADDRESS_REGISTER)
            return ILLEGAL_VALUE if known else ILLEGAL_ADDRESS
        return 0

    def _input_registers(self, t_s: float) -> dict[int, int]:
        power_dw = round(self.track.power_w(t_s) * 10)
        factor_pct = round(self.track.power_factor(t_s) * 100)
        # W x 1000 / (V x factor), each in its unit.
        current_ma = round(power_dw * 100_000 / (self.mains.voltage_dv * factor_pct))
        if current_ma < NO_CURRENT_MA:
            power_dw = current_ma = factor_pct = 0
        energy_wh = self.counter_wh(t_s)
        values = (
            self.mains.voltage_dv,
            *(current_ma & 0xFFFF, current_ma >> 16),
            *(power_dw & 0xFFFF, power_dw >> 16),
            *(energy_wh & 0xFFFF, energy_wh >> 16),
            self.mains.frequency_dhz,
            factor_pct,
            0xFFFF if power_dw > self.alarm_w * 10 else 0,
        )
        return dict(enumerate(values))

    def _rewire(self, t_s: float) -> None:
        self.track.change(t_s, conducting=self.mains.live and self._relay_closed)


class PzemLine:
    """A UART with modules on it. A request may come in pieces; a silence ends a broken one."""

    def __init__(self, modules: Sequence[PzemModule]) -> None:
        self.modules = tuple(modules)
        self._pending = b""
        self._last_s = -math.inf

    def receive(self, t_s: float, piece: bytes) -> list[PzemReply]:
        """Take bytes; the replies that they cause (two modules of one address both answer)."""
        if t_s - self._last_s > FRAME_GAP_S:
            self._pending = b""
        self._last_s = t_s
        self._pending = (self._pending + piece)[-256:]
        if len(self._pending) < 4 or crc16(self._pending):
            return []
        request, self._pending = self._pending, b""
        answers = (module.answer(t_s, request) for module in self.modules)
        return [reply for reply in answers if reply is not None]
