"""The ESP32's `machine` in another build of MicroPython: pins and UART are wires to the test."""

import binascii
import time

import wires

PWRON_RESET = 1
HARD_RESET = 2
WDT_RESET = 3
DEEPSLEEP_RESET = 4
SOFT_RESET = 5

timers = []


class Running(BaseException):
    """This interpreter cannot block in asyncio.run: whoever started the firmware awaits it."""

    def __init__(self, work):
        self.work = work


class Pin:
    OUT = 3
    IN = 1
    PULL_UP = 2

    def __init__(self, number, mode=None, pull=None, *, value=None, hold=None):
        self._number = number
        if value is not None:
            self.value(value)

    def value(self, level=None):
        if level is None:
            return wires.pin_get(self._number)
        return wires.pin_set(self._number, level)


class UART:
    def __init__(self, number, baudrate, tx, rx, timeout):
        assert (number, baudrate, timeout) == (2, 9_600, 0)

    def any(self):
        return wires.uart_any()

    def read(self, count):
        return binascii.unhexlify(wires.uart_read(count)) or None

    def write(self, sent):
        wires.uart_write(binascii.hexlify(sent).decode())


class RTC:
    _offset_s = None  # none: the clock was not set in this boot

    def datetime(self, new=None):
        if new is not None:
            year, month, day, _, hour, minute, second, _ = new
            wanted_s = time.mktime((year, month, day, hour, minute, second, 0, 0))
            RTC._offset_s = wanted_s - int(time.time())
            wires.clock_set(RTC._offset_s)
            return None
        if RTC._offset_s is None:
            return (2000, 1, 1, 5, 0, 0, 0, 0)
        t = time.gmtime(RTC._offset_s + int(time.time()))
        return (t[0], t[1], t[2], t[6], t[3], t[4], t[5], 0)

    def memory(self, new=None):
        if new is None:
            return binascii.unhexlify(wires.rtc_read())
        assert len(new) <= 2_048
        return wires.rtc_write(binascii.hexlify(new).decode())


class Timer:
    ONE_SHOT = 0
    PERIODIC = 1

    def __init__(self, number):
        pass

    def init(self, mode, period, callback):
        timers.append((mode, period, callback))


class WDT:
    def __init__(self, timeout):
        self._timeout_ms = timeout
        self.feed()

    def feed(self):
        wires.feed(self._timeout_ms)


def unique_id():
    return binascii.unhexlify("24a160012345")


def reset():
    wires.reset()


def reset_cause():
    return {"watchdog": WDT_RESET, "software": SOFT_RESET}.get(wires.cause(), PWRON_RESET)
