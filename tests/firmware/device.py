"""A device that boots: the firmware's own boot.py and loader over recorded flash and NVS."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

import loader
from tests.firmware.flash import Files, Keep, Memory
from tests.firmware.micropython import FIRMWARE

RELAY_PIN: Final = 26
HARDWARE: Final = b"esp32-pzem-1"
# Which level closes the relay, and that it is latched closed.
FRESH_NVS: Final = {"relay_pin": bytes([RELAY_PIN, 1]), "relay": b"\1", "hardware": HARDWARE}
TICKS_PERIOD: Final = 1 << 30


class ResetError(BaseException):
    """The device restarts: nothing in the firmware may catch this."""


class FailedError(BaseException):
    """A test's own assertion failed inside the application."""


class SafeModeError(BaseException):
    """The device waits for a person."""


class Board:
    """What the update needs of the board."""

    def __init__(self, memory: Memory, good_minute: Callable[[], None]) -> None:
        self.memory = memory
        self.files = Files(memory)
        # The wrap of the ticks comes within the first minute of every boot.
        self.now_ms = TICKS_PERIOD - 1000
        # A minute passes: the loader's timer fires.
        self.good_minute = good_minute

    def nvs_get(self, key: str) -> bytes | None:
        """A value of the NVS."""
        return self.memory.nvs.get(key)

    def nvs_set(self, key: str, value: bytes) -> None:
        """Keep a value."""
        self.memory.do(Keep(key, value))

    def nvs_commit(self) -> None:
        """Each value was kept when it was set."""

    def ticks_ms(self) -> int:
        """Milliseconds; begins again at 0 as on the device."""
        return self.now_ms % TICKS_PERIOD

    def ticks_diff(self, later: int, earlier: int) -> int:
        """Milliseconds between two ticks."""
        return (later - earlier + TICKS_PERIOD // 2) % TICKS_PERIOD - TICKS_PERIOD // 2

    def reset(self) -> None:
        """Restart."""
        raise ResetError


class Machine(ModuleType):
    """MicroPython's `machine`, as far as boot and loader use it; journals the relay's pin."""

    def __init__(self) -> None:
        super().__init__("machine")
        # (pin, level, held) of every move of a pin, over all boots.
        self.pins: list[tuple[int, int, bool]] = []
        self.timer_ms = 0
        self.timer_callback: Callable[[object], None] | None = None
        self.watchdog_ms = 0
        self.feeds = 0
        machine = self

        class Pin:
            OUT = 3

            def __init__(self, number: int, _mode: int, *, value: int, hold: bool) -> None:
                machine.pins.append((number, value, hold))

        class Timer:
            ONE_SHOT = 0
            PERIODIC = 1

            def __init__(self, number: int) -> None:
                assert number == 0

            def init(self, *, mode: int, period: int, callback: Callable[[object], None]) -> None:  # noqa: ARG002
                machine.timer_ms = period
                machine.timer_callback = callback

        class Watchdog:
            def __init__(self, *, timeout: int) -> None:
                machine.watchdog_ms = timeout

            def feed(self) -> None:
                machine.feeds += 1

        self.Pin = Pin
        self.Timer = Timer
        self.WDT = Watchdog

    def reset(self) -> None:
        """Restart."""
        raise ResetError

    def fire_timer(self) -> None:
        """The loader's time has come."""
        assert self.timer_callback is not None
        self.timer_callback(None)


class Esp32(ModuleType):
    """MicroPython's `esp32`: its NVS, over the recorded one."""

    def __init__(self, board: Board) -> None:
        super().__init__("esp32")

        class Nvs:
            def __init__(self, namespace: str) -> None:
                assert namespace == "node"

            def get_blob(self, key: str, buffer: bytearray) -> int:
                value = board.nvs_get(key)
                if value is None or len(value) > len(buffer):
                    raise OSError(-4354)
                buffer[: len(value)] = value
                return len(value)

            def set_blob(self, key: str, value: bytes) -> None:
                board.nvs_set(key, bytes(value))

            def commit(self) -> None:
                board.nvs_commit()

        self.NVS = Nvs


Application = Callable[[Board, str], None]


class Device:
    """One device; power it on over what is left of its memory."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.machine = Machine()
        self.board = Board(memory, self.machine.fire_timer)
        # Slots that were started, in order.
        self.started: list[str] = []

    def boot(self, application: Application) -> None:
        """Power on: boot.py, then the loader and the application.

        Raises ResetError, SafeModeError, and what the application raises on purpose.
        """
        self.board = Board(self.memory, self.machine.fire_timer)
        with modules(machine=self.machine, esp32=Esp32(self.board)):
            exec(compile((FIRMWARE / "boot.py").read_text(), "boot.py", "exec"), {})  # noqa: S102

            def run(slot: str, safe: bool) -> None:
                if safe:
                    return
                self.started.append(slot)
                try:
                    application(self.board, slot)
                except AssertionError as error:
                    # The loader would take it for a failing application.
                    raise FailedError from error

            loader.start(self.board.files, loader.Nvs(), self.machine, run)
        raise SafeModeError

    def live(self, application: Application, boots: int) -> None:
        """Boot again after every reset, at most so many times."""
        for _ in range(boots):
            try:
                self.boot(application)
            except ResetError:
                continue
        msg = f"still restarting after {boots} boots"
        raise AssertionError(msg)


@contextmanager
def modules(**replaced: ModuleType) -> Iterator[None]:
    """MicroPython's own modules, for a while."""
    before = {name: sys.modules.get(name) for name in replaced}
    sys.modules.update(replaced)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def relay_never_moved(machine: Machine, nvs: dict[str, Any]) -> bool:
    """Whether every boot set the relay's pin, to the latched level, and held it."""
    level = nvs["relay_pin"][1] if nvs["relay"] == b"\1" else 1 - nvs["relay_pin"][1]
    return bool(machine.pins) and set(machine.pins) == {(nvs["relay_pin"][0], level, True)}
