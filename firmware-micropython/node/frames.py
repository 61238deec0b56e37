"""Frames of the PZEM-004T v3 and v4 (Modbus RTU): build requests, check and read replies.

Pure. A reply is believed only when address, function, length and CRC are those of the request.
Function 0x41 (calibrate) is not built here and must never be sent.
"""

from node.port import const

READ_HOLDING = const(0x03)
READ_INPUT = const(0x04)
WRITE_ONE = const(0x06)
RESET_ENERGY = const(0x42)

GENERAL_ADDRESS = const(0xF8)  # answered by any single module, from this address
FACTORY_ADDRESS = const(0x01)
HIGHEST_ADDRESS = const(0xF7)

ALARM_REGISTER = const(0x0001)  # threshold of the alarm in W
ADDRESS_REGISTER = const(0x0002)
HIGHEST_ENERGY_WH = const(9_999_999)  # 9,999.99 kWh and what may stand behind its last digit
_INPUT_REGISTERS = const(10)
_ALARM_ON = const(0xFFFF)


class FrameError(Exception):
    """A reply that is not the answer to the request; `code` says why."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class Values:
    """What one module measured, in whole numbers of the unit in the name."""

    def __init__(self, registers):
        r = registers
        self.voltage_dv = r[0]
        self.current_ma = r[1] | r[2] << 16
        self.power_dw = r[3] | r[4] << 16
        self.energy_wh = r[5] | r[6] << 16
        self.frequency_dhz = r[7]
        self.power_factor_pct = r[8]
        self.alarm = r[9] == _ALARM_ON


def crc16(frame):
    """Modbus CRC of bytes: polynomial 0xA001, initial 0xFFFF; goes onto the wire low byte first."""
    crc = 0xFFFF
    for byte in frame:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc


def seal(body):
    """The bytes with their CRC behind them."""
    return body + crc16(body).to_bytes(2, "little")


def read_all(address):
    """Ask for all ten input registers."""
    return _ask(address, READ_INPUT, 0, _INPUT_REGISTERS)


def read_settings(address):
    """Ask for alarm threshold and address."""
    return _ask(address, READ_HOLDING, ALARM_REGISTER, 2)


def write_setting(address, register, value):
    """Set the alarm threshold or the address; the module echoes the request."""
    return _ask(address, WRITE_ONE, register, value)


def reset_energy(address):
    """Set the module's Wh counter to 0; the last reading is folded into a base before."""
    return seal(bytes((address, RESET_ENERGY)))


def _ask(address, function, first, value):
    return seal(bytes((address, function, first >> 8, first & 255, value >> 8, value & 255)))


def reply_length(request):
    """How many bytes the good answer to a request has."""
    if request[1] in (READ_HOLDING, READ_INPUT):
        return 5 + 2 * request[5]
    return len(request)


def check(request, reply):
    """The registers (function 3 or 4) of a reply, or an empty tuple (an echo).

    Raises FrameError: SILENT, SHORT, CRC, ADDRESS, FUNCTION, REFUSED (the module's own error),
    LENGTH or ECHO (a write answered by something else than its echo).
    """
    if not reply:
        raise FrameError("SILENT", "no answer")
    if len(reply) < 4:
        raise FrameError("SHORT", f"{len(reply)} bytes")
    refused = reply[1] == request[1] | 0x80
    wanted = 5 if refused else reply_length(request)
    if len(reply) < wanted:
        raise FrameError("SHORT", f"{len(reply)} bytes instead of {wanted}")
    if len(reply) > wanted:
        raise FrameError("LENGTH", f"{len(reply)} bytes instead of {wanted}")
    if crc16(reply[:-2]) != reply[-2] | reply[-1] << 8:
        raise FrameError("CRC", "wrong checksum")
    if reply[0] != request[0]:
        raise FrameError("ADDRESS", f"answer of module {reply[0]}, asked {request[0]}")
    if refused:
        raise FrameError("REFUSED", f"code {reply[2]}")
    if reply[1] != request[1]:
        raise FrameError("FUNCTION", f"answer to function {reply[1]}")
    if reply[1] in (WRITE_ONE, RESET_ENERGY):
        if reply != request:
            raise FrameError("ECHO", "not an echo")
        return ()
    if reply[2] != wanted - 5:
        raise FrameError("LENGTH", f"says {reply[2]} bytes of data, {wanted - 5} follow")
    return tuple(reply[i] << 8 | reply[i + 1] for i in range(3, wanted - 2, 2))


def parse_values(request, reply):
    """The values in the reply to `read_all`. Raises FrameError as `check` does."""
    return Values(check(request, reply))


def implausible(values, max_current_ma):
    """The name of the first value that no such module can have measured, or None.

    Power may exceed 1.2 V I by 5 W: small currents are measured coarsely.
    """
    if values.voltage_dv and not 600 <= values.voltage_dv <= 3_000:
        return "voltage"
    if values.frequency_dhz and not 440 <= values.frequency_dhz <= 660:
        return "frequency"
    if values.power_factor_pct > 100:
        return "power_factor"
    if values.energy_wh > HIGHEST_ENERGY_WH:
        return "energy"
    if values.current_ma > max_current_ma * 6 // 5:
        return "current"
    # dV x mA is 1e-4 W, a dW is 1000 of it.
    if values.power_dw > values.voltage_dv * values.current_ma * 6 // 5_000 + 50:
        return "power"
    return None
