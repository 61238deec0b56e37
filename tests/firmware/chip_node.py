"""The node inside real MicroPython: boot.py, main.py, loader and board as on the device.

What is around the interpreter is here: wires, flash, NVS, restarts. Two builds of MicroPython are
run so: tests/firmware/esp_node.py (WebAssembly) and tests/firmware/unix_node.py (with TLS).
"""

import asyncio
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from gateway.app.firmware.bundle import Bundle
from gateway.sim.node_board import HARDWARE
from gateway.sim.pzem import PzemLine, PzemReply
from tests.firmware.device import RELAY_PIN
from tests.firmware.micropython import FIRMWARE, application, compiled

BUTTON_PIN: Final = 0
LED_PIN: Final = 2
RESET_STATUS: Final = 3
WATCHDOG_STATUS: Final = 4


class ChipNode(ABC):
    """One device: `place` keeps its flash, NVS and RTC memory; it restarts by itself."""

    def __init__(self, place: Path, clock: Any, line: PzemLine) -> None:
        self.place = place
        self._clock = clock
        self._line = line
        self._pins: dict[str, int] = {}
        self._wifi = True
        self._process: asyncio.subprocess.Process | None = None
        self._servers: list[asyncio.Server] = []
        self._control: asyncio.StreamWriter | None = None
        self._life: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.moves = 0
        self.said: list[str] = []
        self.install()

    @abstractmethod
    def write_flash(self, files: Mapping[str, bytes]) -> None:
        """Put files beside those that are there; absolute paths. The node is off."""

    @abstractmethod
    def _program(self, job: dict[str, Any]) -> tuple[Sequence[str], bytes]:
        """The command of one boot and its standard input; `job` is what the wires are told."""

    def install(self, release: Bundle | None = None) -> None:
        """What the flasher writes: loader, and a release or the application as it ships."""
        files = {f"/slot_a/node/{path.stem}.mpy": compiled(path) for path in application()}
        files["/slot_a/manifest"] = json.dumps({"version": "1.0.0", "security": 0}).encode()
        files |= release.slot_files("a") if release else {}
        for name in ("boot", "main", "loader"):
            files[f"/{name}.py"] = (FIRMWARE / f"{name}.py").read_bytes()
        self.write_flash(files)

    def provision(
        self,
        device_id: str,
        secret: bytes,
        broker: Mapping[str, object],
        time_s: int | None = None,
    ) -> None:
        """What the bench writes into NVS; `time_s` is its clock, as it was."""
        values = {
            "device_id": device_id.encode(),
            "secret": secret,
            "broker": json.dumps(broker).encode(),
            "wifi": b'{"ssid": "sim", "password": "simulated"}',
            "hardware": HARDWARE.encode(),
            "relay_pin": bytes((RELAY_PIN, 1)),
            "relay": b"\1",
        }
        if time_s is not None:
            values["time"] = time_s.to_bytes(4, "big")
        text = json.dumps({key: value.hex() for key, value in values.items()})
        (self.place / "nvs.json").write_text(text, encoding="ascii")

    async def power_on(self) -> None:
        """Start: pins are low, RTC memory is empty."""
        (self.place / "rtc").unlink(missing_ok=True)
        self._pins = {str(BUTTON_PIN): 1}
        self._life = asyncio.create_task(self._live("power_on"))

    async def power_off(self) -> None:
        """Cut the power, wherever it is."""
        if self._life:
            self._life.cancel()
            with suppress(asyncio.CancelledError):
                await self._life
            self._life = None

    async def watchdog(self) -> None:
        """As the watchdog does it: an end anywhere; pins and RTC memory hold."""
        await self.power_off()
        self._life = asyncio.create_task(self._live("watchdog"))

    @property
    def relay_closed(self) -> bool:
        """Where the relay is."""
        return self._pins.get(str(RELAY_PIN)) == 1

    def wifi(self, *, up: bool) -> None:
        """The network around the node."""
        self._wifi = up
        self._order(wifi=up)

    def button(self, *, down: bool) -> None:
        """Somebody presses it."""
        self._pins[str(BUTTON_PIN)] = 0 if down else 1
        self._order(pin=BUTTON_PIN, level=0 if down else 1)

    def flash_full(self, *, full: bool) -> None:
        """No new file fits."""
        self._order(full=full)

    def keep_record(self) -> None:
        """A quarter of an hour is over."""
        self._order(quarters=1)

    def settings(self, **changes: int) -> None:
        """What the node was set to before it starts."""
        self.write_flash({"/data/settings.json": json.dumps(changes).encode()})

    def _order(self, **order: object) -> None:
        if self._control:
            self._control.write(json.dumps(order).encode() + b"\n")

    async def _live(self, cause: str) -> None:
        """Boot after boot."""
        uart = await asyncio.start_server(self._wire, "127.0.0.1", 0)
        control = await asyncio.start_server(self._listen, "127.0.0.1", 0)
        ports = [server.sockets[0].getsockname()[1] for server in (uart, control)]
        try:
            while True:
                status = await self._boot(cause, *ports)
                cause = {RESET_STATUS: "software", WATCHDOG_STATUS: "watchdog"}.get(status, "")
                assert cause, (status, self.said)
        finally:
            for server in (uart, control):
                server.close()
            for task in self._tasks:
                task.cancel()

    async def _boot(self, cause: str, uart: int, control: int) -> int:
        job = {
            "place": str(self.place),
            "uart": uart,
            "control": control,
            "pins": self._pins,
            "wifi": self._wifi,
            "cause": cause,
        }
        command, told = self._program(job)
        process = self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "NODE_OPTIONS": ""},
        )
        try:
            shown, _ = await process.communicate(told)
            self.said.append(shown.decode())
            return process.returncode or 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _wire(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The line of the modules."""
        with closing(writer), suppress(ConnectionResetError):  # its power was cut
            while piece := await reader.read(64):
                for reply in self._line.receive(self._clock.mono_ns() / 1e9, piece):
                    task = asyncio.create_task(_answer(writer, reply))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What the pins do."""
        self._control = writer
        with closing(writer), suppress(ConnectionResetError):
            while line := await reader.readline():
                self._told(json.loads(line))

    def _told(self, told: dict[str, Any]) -> None:
        """One line of the wires."""
        number, level = str(told["pin"]), told["level"]
        if told["pin"] == RELAY_PIN and self._pins.get(number, 0) != level:
            self.moves += 1
            for module in self._line.modules:
                module.set_relay(self._clock.mono_ns() / 1e9, closed=level == 1)
        self._pins[number] = level


async def _answer(writer: asyncio.StreamWriter, reply: PzemReply) -> None:
    await asyncio.sleep(reply.delay_s)
    if not writer.is_closing():
        writer.write(reply.frame)
