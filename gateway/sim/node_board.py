"""A board for the node's firmware on CPython: a directory as flash, a simulated line as UART.

The firmware that runs on it is the very one of `firmware-micropython/node/`. What a node is made of
(docs/developer.md) is duck-typed there; this is one of its three forms. Wires of the module on the
line follow the relay. A reset raises `NodeResetError`; `live` starts the firmware again after it.
"""

import asyncio
import json
import secrets
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from gateway.core.clock import Clock
from gateway.sim.pzem import PzemLine

TICKS_PERIOD: Final = 1 << 30  # as MicroPython's: they wrap after 12 days
RTC_BYTES: Final = 2_048
NVS_FILE: Final = "nvs.json"
FLASH_BYTES: Final = 1_900_000  # what the ESP32's partition leaves
HARDWARE: Final = "esp32-pzem-1"
DEFAULT_RSSI_DBM: Final = -61
OWN_ADDRESS: Final = "127.0.0.1"

Run = Callable[["NodeBoard"], Awaitable[None]]


class NodeResetError(BaseException):
    """The node restarts: nothing in the firmware may catch this."""


class NodeFiles:
    """A directory as the device's file system. `full`: nothing more fits."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.full = False
        root.mkdir(parents=True, exist_ok=True)

    def open(self, path: str, mode: str) -> IO[bytes]:
        """A file, binary. Raises OSError."""
        if "b" not in mode:
            raise ValueError("binary files only")
        if self.full and mode[0] in "wa":
            raise OSError(28, "no space left")
        return self._at(path).open(mode)

    def rename(self, old: str, new: str) -> None:
        """Replace a file by another. Raises OSError."""
        self._at(old).replace(self._at(new))

    def remove(self, path: str) -> None:
        """Remove a file. Raises OSError."""
        self._at(path).unlink()

    def listdir(self, path: str) -> list[str]:
        """Names in a directory. Raises OSError."""
        return sorted(found.name for found in self._at(path).iterdir())

    def mkdir(self, path: str) -> None:
        """Make a directory. Raises OSError when it is there."""
        self._at(path).mkdir()

    def stat_size(self, path: str) -> int | None:
        """Bytes of a file; None when there is none."""
        try:
            return self._at(path).stat().st_size
        except OSError:
            return None

    def free_bytes(self) -> int:
        """What is left of the flash."""
        used = sum(path.stat().st_size for path in self._root.rglob("*") if path.is_file())
        return 0 if self.full else max(0, FLASH_BYTES - used)

    def sync(self) -> None:
        """The host's file system keeps what was closed."""

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")


class NodeDatagrams:
    """A UDP port."""

    def __init__(self, address: str, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(0)
        try:
            self._socket.bind((address, port))
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]

    async def receive(self) -> tuple[bytes, object]:
        """The next datagram and who sent it."""
        return await asyncio.get_running_loop().sock_recvfrom(self._socket, 512)

    def send(self, answer: bytes, sender: tuple[str, int]) -> None:
        """Answer; what does not fit now is lost, as datagrams are."""
        with suppress(OSError):
            self._socket.sendto(answer, sender)

    def close(self) -> None:
        """Close."""
        self._socket.close()


class NodeBoard:
    """One simulated node: `place` keeps its flash and NVS, `line` is its UART with modules.

    What may be changed from outside at any time: `button`, `wifi_up`, `ntp_answers`, `rssi_dbm`,
    `relay_stuck`, `files.full`.
    """

    def __init__(self, place: Path, clock: Clock, line: PzemLine, *, mac: bytes) -> None:
        self._place = place
        self._clock = clock
        self.line = line
        self._mac = mac
        self.files = NodeFiles(place / "flash")
        self._nvs: dict[str, bytes] = {}
        self._load_nvs()
        self._rtc = b""
        self._cause = "power_on"
        self._started_ms = self._now_ms()
        self._clock_offset_s: int | None = None
        self._received = bytearray()
        self._arrived = asyncio.Event()
        self._timers: list[asyncio.TimerHandle] = []
        self._closed = self._nvs.get("relay", b"\1") == b"\1"
        self.lamp = False
        self.moves = 0
        self.feeds = 0
        self.button = False
        self.wifi_up = True
        self.ntp_answers = False
        self.rssi_dbm: int | None = DEFAULT_RSSI_DBM
        self.relay_stuck = False
        self._wire()

    # -- outside the firmware --------------------------------------------------------------

    def provision(
        self, *, device_id: str, secret: bytes, broker: Mapping[str, object], version: str
    ) -> None:
        """What the bench writes: identity, broker (`host`, `port`, perhaps `ca`), release."""
        self._nvs |= {
            "device_id": device_id.encode(),
            "secret": secret,
            "broker": json.dumps(dict(broker)).encode(),
            "wifi": json.dumps({"ssid": "sim", "password": "simulated"}).encode(),
            "hardware": HARDWARE.encode(),
        }
        self.nvs_commit()
        slot = self._place / "flash" / "slot_a"
        (slot / "node").mkdir(parents=True, exist_ok=True)
        manifest = {"version": version, "security": 0}
        (slot / "manifest").write_text(json.dumps(manifest), encoding="ascii")

    def restart(self, cause: str) -> None:
        """Begin a new boot: `power_on` loses RTC memory and clock, every other cause keeps them."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._received.clear()
        self._cause = cause
        self._started_ms = self._now_ms()
        self._load_nvs()
        if cause == "power_on":
            self._rtc = b""
            self._clock_offset_s = None
        # boot.py: the pin takes the latched level before anything else.
        self._closed = self._nvs.get("relay", b"\1") == b"\1"
        self._wire()

    # -- what the firmware sees ------------------------------------------------------------

    def ticks_ms(self) -> int:
        """Milliseconds since the start; wraps."""
        return (self._now_ms() - self._started_ms) % TICKS_PERIOD

    def ticks_diff(self, later: int, earlier: int) -> int:
        """Milliseconds between two ticks."""
        return (later - earlier + TICKS_PERIOD // 2) % TICKS_PERIOD - TICKS_PERIOD // 2

    def unix_s(self) -> int:
        """Wall time; 0 while it is not set."""
        if self._clock_offset_s is None:
            return 0
        return self._now_ms() // 1_000 + self._clock_offset_s

    def set_unix_s(self, unix_s: int) -> None:
        """Set the wall time."""
        self._clock_offset_s = unix_s - self._now_ms() // 1_000

    def uart_write(self, sent: bytes) -> None:
        """Send to the modules; their replies arrive after their delays."""
        loop = asyncio.get_running_loop()
        self._timers = [timer for timer in self._timers if timer.when() > loop.time()]
        for reply in self.line.receive(self._clock.mono_ns() / 1e9, sent):
            self._timers.append(loop.call_later(reply.delay_s, self._arrive, reply.frame))

    async def uart_read(self, count: int, deadline_ms: int) -> bytes:
        """So many bytes, or what has come by the deadline."""
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline_ms / 1_000):
                while len(self._received) < count:
                    self._arrived.clear()
                    await self._arrived.wait()
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    def uart_drain(self) -> None:
        """Forget what has come."""
        self._received.clear()

    def relay_set(self, closed: bool) -> None:  # noqa: FBT001 - the firmware's interface
        """Move the relay; a stuck one stays."""
        if not self.relay_stuck and closed != self._closed:
            self._closed = closed
            self.moves += 1
            self._wire()

    def relay_get(self) -> bool:
        """Whether it is closed."""
        return self._closed

    def led(self, on: bool) -> None:  # noqa: FBT001 - the firmware's interface
        """The lamp."""
        self.lamp = on

    def button_pressed(self) -> bool:
        """Whether the button is held down."""
        return self.button

    def nvs_get(self, key: str) -> bytes | None:
        """A value of the NVS."""
        return self._nvs.get(key)

    def nvs_set(self, key: str, value: bytes) -> None:
        """Put a value, kept by `nvs_commit`."""
        if len(key) > 15:
            raise ValueError("a key of NVS has at most 15 characters")
        self._nvs[key] = bytes(value)

    def nvs_commit(self) -> None:
        """Keep what was put. Raises OSError."""
        text = json.dumps({key: value.hex() for key, value in self._nvs.items()})
        fresh = self._place / (NVS_FILE + ".new")
        fresh.write_text(text, encoding="ascii")
        fresh.replace(self._place / NVS_FILE)

    def rtc_get(self) -> bytes:
        """Memory that survives resets, not power loss."""
        return self._rtc

    def rtc_set(self, value: bytes) -> None:
        """Replace it."""
        if len(value) > RTC_BYTES:
            raise ValueError("RTC memory is 2,048 bytes")
        self._rtc = bytes(value)

    async def wifi_connect(self, ssid: str, password: str, deadline_ms: int) -> bool:
        """Join a network; whether that worked."""
        del ssid, password, deadline_ms
        await asyncio.sleep(0)
        return self.wifi_up

    def wifi_connected(self) -> bool:
        """Whether the network is there."""
        return self.wifi_up

    def wifi_rssi(self) -> int | None:
        """Signal in dBm."""
        return self.rssi_dbm if self.wifi_up else None

    def wifi_access_point(self, ssid: str, password: str) -> str:
        """Open an access point and tell the own address in it: there is no radio here."""
        del ssid, password
        return OWN_ADDRESS

    def wifi_address(self) -> str:
        """The node's own address."""
        return OWN_ADDRESS

    async def open_stream(
        self, host: str, port: int, tls: Mapping[str, object] | None, deadline_ms: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection; `tls`: {"ca": PEM bytes, "host": name}. Raises OSError, TimeoutError."""
        if not self.wifi_up:
            raise OSError(113, "no network")
        context: ssl.SSLContext | None = None
        name: str | None = None
        if tls is not None:
            ca = tls["ca"]
            context = ssl.create_default_context(
                cadata=ca.decode() if isinstance(ca, bytes) else str(ca)
            )
            name = str(tls["host"])
        async with asyncio.timeout(deadline_ms / 1_000):
            return await asyncio.open_connection(host, port, ssl=context, server_hostname=name)

    async def start_server(
        self,
        serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
        port: int,
    ) -> asyncio.Server:
        """Listen on this machine for the portal."""
        return await asyncio.start_server(serve, OWN_ADDRESS, port)

    def open_datagrams(self, port: int) -> "NodeDatagrams":
        """A UDP port of this machine. Raises OSError."""
        return NodeDatagrams(OWN_ADDRESS, port)

    def random(self, count: int) -> bytes:
        """Bytes nobody can guess."""
        return secrets.token_bytes(count)

    def unique_id(self) -> bytes:
        """The MAC, 6 bytes."""
        return self._mac

    def reset(self) -> None:
        """Restart. Raises NodeResetError."""
        raise NodeResetError

    def reset_cause(self) -> str:
        """Why this boot began."""
        return self._cause

    def watchdog_feed(self) -> None:
        """Counted."""
        self.feeds += 1

    async def resolve(self, host: str) -> str:
        """The address of a host name. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, None)
        return str(found[0][4][0])

    async def ntp(self, host: str, deadline_ms: int) -> int:
        """Wall time of a time server; 0: no answer."""
        del host, deadline_ms
        await asyncio.sleep(0)
        return self._clock.utc_ms() // 1_000 if self.ntp_answers and self.wifi_up else 0

    # -- inside ----------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return self._clock.mono_ns() // 1_000_000

    def _arrive(self, frame: bytes) -> None:
        self._received += frame
        self._arrived.set()

    def _load_nvs(self) -> None:
        with suppress(OSError):
            text = (self._place / NVS_FILE).read_text(encoding="ascii")
            self._nvs = {key: bytes.fromhex(value) for key, value in json.loads(text).items()}

    def _wire(self) -> None:
        for module in self.line.modules:
            module.set_relay(self._clock.mono_ns() / 1e9, closed=self._closed)


async def live(board: NodeBoard, run: Run) -> None:
    """Run the firmware (`run` is `node.app.run`) and start it again whenever it resets.

    Runs until cancelled; what the firmware raises ends it.
    """
    while True:
        with suppress(NodeResetError):
            await run(board)
        board.restart("software")


def firmware_on_path(root: Path) -> None:
    """Make `import node.app` find the firmware below `root` (`firmware-micropython`)."""
    place = str(root)
    if place not in sys.path:
        sys.path.insert(0, place)
