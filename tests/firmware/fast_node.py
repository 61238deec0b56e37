"""A node in real MicroPython whose time passes as fast as it lives through it.

Its clock, timers and watchdog jump (tests/firmware/runner/virtual.mjs); broker, sockets, flash and
process are real. The module's line is asked and answered while time stands, so that not a
millisecond of the driver's waiting is different from a real one's.
"""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.sim.pzem import PzemLine
from tests.firmware.device import RELAY_PIN
from tests.firmware.esp_node import EspNode

START_MS: Final = 1_800_000_000_000
TICKS_PERIOD_MS: Final = 1 << 30
SAMPLE_S: Final = 300
# No step of the world may take longer than this in real time.
STEP_REAL_S: Final = 300.0


@dataclass
class WorldTime:
    """The time of module, node and everything around: milliseconds since 1970."""

    now_ms: int = START_MS

    def mono_ns(self) -> int:
        """The same, as a clock."""
        return self.now_ms * 1_000_000

    @property
    def now_s(self) -> float:
        """In seconds, as the module has it."""
        return self.now_ms / 1_000


class FastNode(EspNode):
    """`until` lets time go on; between two calls it stands, and what is due now still happens."""

    def __init__(self, place: Path, time: WorldTime, line: PzemLine, ticks_ms: int) -> None:
        super().__init__(place, time, line)
        self.time = time
        self._ticks_ms = ticks_ms
        self._next_ms = time.now_ms
        self._reached = asyncio.Event()
        self._boots = 0
        self.samples: list[dict[str, Any]] = []
        self.relay_moves: list[tuple[int, int]] = []
        self.longest_ms = 0
        self.impatient = 0

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return self._life is not None

    async def until(self, at_ms: int) -> None:
        """Let time go on to `at_ms`. Fails when the node ends or stands still."""
        if at_ms <= self.time.now_ms:
            return
        if self._life is None:
            self.time.now_ms = at_ms
            return
        self._next_ms = at_ms
        self._reached.clear()
        self._order(next_ms=at_ms)
        waiting = asyncio.create_task(self._reached.wait())
        done, _ = await asyncio.wait(
            {waiting, self._life}, timeout=STEP_REAL_S, return_when=asyncio.FIRST_COMPLETED
        )
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        if self._life in done:
            self._life.result()
        assert done, f"time stands at {self.time.now_ms}, not {at_ms}: {self.said[-1:]}"

    async def run_and_cut(self, at_ms: int, real_s: float) -> None:
        """Let time go on, and cut the power wherever the node is after so long in real time."""
        self._next_ms = at_ms
        self._order(next_ms=at_ms)
        await asyncio.sleep(real_s)
        await self.power_off()

    def _more(self) -> dict[str, Any]:
        self._boots += 1
        return {
            "virtual": {
                "now_ms": self.time.now_ms,
                "ticks_ms": self._ticks_ms if self._boots == 1 else 0,
                "next_ms": max(self._next_ms, self.time.now_ms),
                "sample_s": SAMPLE_S,
            }
        }

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._control = writer
        self._order(next_ms=self._next_ms)
        with suppress(ConnectionResetError):  # its power was cut
            while line := await reader.readline():
                self._hear(json.loads(line), writer)
        writer.close()

    def _hear(self, told: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        """What the node's pins and line do, and how far its time is."""
        self.time.now_ms = max(self.time.now_ms, told["t"])
        if "uart" in told:
            replies = self._line.receive(self.time.now_s, bytes.fromhex(told["uart"]))
            answers = [(reply.delay_s * 1_000, reply.frame.hex()) for reply in replies]
            writer.write(json.dumps({"replies": answers}).encode() + b"\n")
        elif "pin" in told:
            self._pin(str(told["pin"]), told["level"])
        elif "sample" in told:
            self.longest_ms = max(self.longest_ms, told["longest_ms"])
            self.impatient = max(self.impatient, told["impatient"])
            self.samples.append(told["sample"] | {"boot": self._boots})
        elif told["at"] >= self._next_ms:
            self._reached.set()

    def _pin(self, number: str, level: int) -> None:
        if number == str(RELAY_PIN) and self._pins.get(number, 0) != level:
            self.moves += 1
            self.relay_moves.append((self.time.now_ms, level))
            for module in self._line.modules:
                module.set_relay(self.time.now_s, closed=level == 1)
        self._pins[number] = level
