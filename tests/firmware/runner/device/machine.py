"""The ESP32's `machine` for boot.py and loader.py; what it was told stands in `journal`."""

journal = []


class Reset(BaseException):
    pass


class Pin:
    OUT = 3

    def __init__(self, number, mode, value, hold):
        journal.append(["pin", number, value, hold])


class Timer:
    ONE_SHOT = 0

    def __init__(self, number):
        self.number = number

    def init(self, mode, period, callback):
        journal.append(["timer", self.number, period])


def WDT(timeout):  # noqa: N802
    journal.append(["watchdog", timeout])


def reset():
    raise Reset
