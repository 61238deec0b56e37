"""What the bench's programs use of `machine`; /board.json says what the board is like."""

import binascii
import json

OUT = 3

with open("/board.json") as file:
    board = json.load(file)

# [pin, level, held] of every move; resets.
moves = []
resets = []
_greetings = [0]


def unique_id():
    """The address; the second of two when somebody swapped the board after the first greeting."""
    _greetings[0] += 1
    macs = board["macs"]
    return binascii.unhexlify(macs[min(_greetings[0], len(macs)) - 1])


def reset():
    resets.append(1)


class Timer:
    """The loader's; `started` counts what feeds the watchdog from then on."""

    PERIODIC = 1
    started = []

    def init(self, mode, period, callback):
        assert mode == Timer.PERIODIC
        Timer.started.append(period)


class Pin:
    OUT = OUT
    level = 0

    def __init__(self, number, mode, value, hold):
        assert mode == OUT
        moves.append([number, value, hold])
        if not board.get("shorted"):
            Pin.level = value

    def value(self):
        return Pin.level


def _crc(body):
    crc = 0xFFFF
    for byte in body:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc.to_bytes(2, "little")


class UART:
    """A PZEM at 230.1 V, 50.0 Hz, with a test load on the relay."""

    def __init__(self, number, baud, **options):
        assert (number, baud, options["tx"], options["rx"]) == (2, 9600, 17, 16)
        self._answer = b""

    def read(self, count=None):
        answer, self._answer = self._answer, b""
        return answer or None

    def write(self, request):
        if request != b"\xf8\x04\x00\x00\x00\x0a\x64\x64" or board.get("silent"):
            return
        closed = Pin.level or board.get("stuck")
        load_ma = board.get("load_ma", 0) if closed else 0
        registers = (2301, load_ma, 0, load_ma * 23 // 10, 0, 38, 0, 500, 100, 0)
        body = b"\xf8\x04\x14" + b"".join([value.to_bytes(2, "big") for value in registers])
        self._answer = body + _crc(body)
