"""The ESP32's modules as MicroPython 1.29 documents them, for its board file on CPython.

They take what the documentation names and nothing else: another keyword or an unknown constant is
an error here as it is there. https://docs.micropython.org/en/v1.29.0/ has them under
library/machine, library/esp32, library/network.WLAN and library/time.
"""

import calendar
import ssl
import time
import types
from typing import Any, Final

EPOCH_2000_S: Final = 946_684_800
# Names of the modules that the documentation of the ESP32 port has and the board may use.
DOCUMENTED: Final = {
    "machine": {
        *("Pin", "UART", "RTC", "WDT", "Timer", "reset", "reset_cause", "unique_id"),
        *("PWRON_RESET", "HARD_RESET", "WDT_RESET", "DEEPSLEEP_RESET", "SOFT_RESET"),
    },
    "esp32": {"NVS"},
    "network": {"WLAN", "STA_IF", "AP_IF", "AUTH_WPA2_PSK"},
    "time": {"ticks_ms", "ticks_diff", "gmtime", "mktime"},
    "os": {"urandom", "rename", "remove", "listdir", "mkdir", "stat", "statvfs"},
    "ssl": {"SSLContext", "PROTOCOL_TLS_CLIENT", "CERT_REQUIRED"},
    "socket": {"socket", "getaddrinfo", "AF_INET", "SOCK_DGRAM"},
    "asyncio": {"sleep", "wait_for", "open_connection", "start_server", "create_task"},
    "json": {"loads"},
    "struct": {"unpack"},
}


class Chip:
    """What the modules stand for: pins, UART, NVS, radio, resets."""

    def __init__(self) -> None:
        self.levels: dict[int, int] = {}
        self.held: set[int] = set()
        self.configured: list[tuple[int, int | None, int | None]] = []
        self.received = bytearray()
        self.sent = bytearray()
        self.kept: dict[str, bytes] = {}
        self.pending: dict[str, bytes] = {}
        self.memory = b""
        self.clock = (2000, 1, 1, 5, 0, 0, 0, 0)
        self.radio: list[tuple[object, ...]] = []
        self.is_connected = False
        self.joins = False
        self.cause = 1
        self.fed = 0


def modules(chip: Chip) -> dict[str, Any]:
    """`machine`, `esp32`, `network`, `time` and `ssl` by name."""
    return {
        "machine": _machine(chip),
        "esp32": types.SimpleNamespace(NVS=lambda namespace: _Nvs(chip, namespace)),
        "network": _network(chip),
        "time": _time(),
        "ssl": types.SimpleNamespace(
            SSLContext=MicroContext,
            PROTOCOL_TLS_CLIENT=ssl.PROTOCOL_TLS_CLIENT,
            CERT_REQUIRED=ssl.CERT_REQUIRED,
        ),
    }


class MicroContext(ssl.SSLContext):
    """MicroPython's: `cadata` is PEM or DER as bytes; there is no check of a name to switch off."""

    def load_verify_locations(self, *, cadata: bytes) -> None:  # type: ignore[override]
        """Trust certificates."""
        assert type(cadata) is bytes
        is_pem = cadata.startswith(b"-----BEGIN")
        super().load_verify_locations(cadata=cadata.decode("ascii") if is_pem else cadata)


class _Nvs:
    def __init__(self, chip: Chip, namespace: str) -> None:
        assert 1 <= len(namespace) <= 15
        self._chip = chip

    def get_blob(self, key: str, buffer: bytearray) -> int:
        value = self._chip.pending.get(key, self._chip.kept.get(key))
        if value is None:
            raise OSError(-4354, "ESP_ERR_NVS_NOT_FOUND")
        if len(value) > len(buffer):
            raise OSError(-4364, "ESP_ERR_NVS_INVALID_LENGTH")
        buffer[: len(value)] = value
        return len(value)

    def set_blob(self, key: str, value: bytes) -> None:
        if len(key) > 15:
            raise OSError(-4361, "ESP_ERR_NVS_KEY_TOO_LONG")
        self._chip.pending[key] = bytes(value)

    def commit(self) -> None:
        self._chip.kept |= self._chip.pending
        self._chip.pending.clear()


def _pin(chip: Chip) -> Any:
    class Pin:
        IN, OUT, PULL_UP = 1, 3, 2

        def __init__(
            self,
            number: int,
            mode: int | None = None,
            pull: int | None = -1,
            *,
            value: int | None = None,
            hold: bool | None = None,
        ) -> None:
            assert 0 <= number <= 39
            self._number = number
            if mode is not None:
                assert not (mode == self.OUT and number >= 34), "can only be input"
                chip.configured.append((number, mode, pull))
            if value is not None:
                self._set(value)
            if hold is not None:
                # Whatever was set on a held pad comes out now.
                chip.held.discard(number)
                chip.levels[number] = chip.levels.get(-1 - number, chip.levels.get(number, 0))
                if hold:
                    chip.held.add(number)

        def _set(self, level: int) -> None:
            chip.levels[-1 - self._number] = level
            if self._number not in chip.held:
                chip.levels[self._number] = level

        def value(self, level: int | None = None) -> int | None:
            if level is None:
                return chip.levels.get(self._number, 0)
            self._set(level)
            return None

    return Pin


def _machine(chip: Chip) -> Any:
    class Uart:
        def __init__(self, number: int, *, baudrate: int, tx: int, rx: int, timeout: int) -> None:
            assert (number, baudrate, timeout) == (2, 9_600, 0)
            assert {tx, rx}.isdisjoint({6, 7, 8, 9, 10, 11}), "the flash's pins"

        def any(self) -> int:
            return len(chip.received)

        def read(self, count: int) -> bytes | None:
            taken = bytes(chip.received[:count])
            del chip.received[:count]
            return taken or None

        def write(self, sent: bytes) -> int:
            chip.sent += sent
            return len(sent)

    class Rtc:
        def datetime(self, new: tuple[int, ...] | None = None) -> tuple[int, ...] | None:
            if new is None:
                return chip.clock
            year, month, day, _, hour, minute, second, _ = new
            weekday = calendar.weekday(year, month, day)
            chip.clock = (year, month, day, weekday, hour, minute, second, 0)
            return None

        def memory(self, new: bytes | None = None) -> bytes | None:
            if new is None:
                return chip.memory
            assert len(new) <= 2_048
            chip.memory = bytes(new)
            return None

    class Wdt:
        def __init__(self, *, timeout: int) -> None:
            assert timeout >= 1_000

        def feed(self) -> None:
            chip.fed += 1

    return types.SimpleNamespace(
        Pin=_pin(chip),
        UART=Uart,
        RTC=Rtc,
        WDT=Wdt,
        PWRON_RESET=1,
        HARD_RESET=2,
        WDT_RESET=3,
        DEEPSLEEP_RESET=4,
        SOFT_RESET=5,
        unique_id=lambda: bytes.fromhex("24a160012345"),
        reset_cause=lambda: chip.cause,
        reset=lambda: chip.radio.append(("reset",)),
    )


def _network(chip: Chip) -> Any:
    class Wlan:
        def __init__(self, interface: int) -> None:
            assert interface in {0, 1}
            self._interface = interface
            self._active = False

        def active(self, up: bool) -> None:
            self._active = up
            chip.radio.append(("active", self._interface))

        def isconnected(self) -> bool:
            return chip.is_connected

        def connect(self, ssid: str, password: str) -> None:
            assert self._active, "Wifi Not Started"
            assert ("connect",) not in chip.radio[-1:], "Wifi Internal Error: it connects already"
            chip.radio.append(("connect", ssid, password))
            chip.is_connected = chip.joins

        def disconnect(self) -> None:
            chip.radio.append(("disconnect",))

        def status(self, name: str) -> int:
            assert (name, chip.is_connected) == ("rssi", True)
            return -61

        def config(self, *, essid: str, password: str, authmode: int) -> None:
            assert self._interface == 1, "AP required"
            assert self._active
            assert 8 <= len(password) <= 63
            chip.radio.append(("config", essid, password, authmode))

        def ifconfig(self) -> tuple[str, str, str, str]:
            return ("10.0.0.9", "255.255.255.0", "10.0.0.1", "10.0.0.1")

    return types.SimpleNamespace(WLAN=Wlan, STA_IF=0, AP_IF=1, AUTH_WPA2_PSK=3)


def _time() -> Any:
    """The ESP32 counts from 2000; `mktime` takes eight numbers and knows no zone."""

    def gmtime(seconds: int) -> tuple[int, ...]:
        t = time.gmtime(seconds + EPOCH_2000_S)
        return (*t[:6], t.tm_wday, t.tm_yday)

    def mktime(parts: tuple[int, ...]) -> int:
        assert len(parts) == 8
        return calendar.timegm((*parts[:6], 0, 0, 0)) - EPOCH_2000_S

    def ticks_diff(later: int, earlier: int) -> int:
        return (later - earlier + (1 << 29)) % (1 << 30) - (1 << 29)

    return types.SimpleNamespace(
        ticks_ms=lambda: time.monotonic_ns() // 1_000_000 % (1 << 30),
        ticks_diff=ticks_diff,
        gmtime=gmtime,
        mktime=mktime,
    )
