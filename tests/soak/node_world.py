"""The world around a node whose time is fast, and what must hold in it at any moment."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from gateway.app.firmware.build import compiled
from gateway.app.firmware.bundle import Bundle
from gateway.sim.loads import steady_curve
from gateway.sim.pzem import PzemLine, PzemModule
from tests.firmware.fast_node import TICKS_PERIOD_MS, FastNode, WorldTime
from tests.firmware.micropython import FIRMWARE
from tests.firmware.node_site import DEVICE, PASSWORD, SECRET, Gateway, sealed
from tests.firmware.real_device import signed
from tests.firmware.releases import key
from tests.south.mosquitto import Mosquitto

START_WH: Final = 12_345
CALL_S: Final = 120  # as the gateway does: no node goes without a command for longer
STEP_S: Final = 60
RECOVERY_S: Final = 150  # waits between tries of a minute, deadlines of 10 s, and the greeting
SETTINGS: Final = {
    "limit_w": 5_000,
    "limit_delay_s": 30,
    "voltage_low_dv": 1_900,
    "voltage_high_dv": 2_600,
    "trip_most": 20,
    "spool_files": 4,
}
# What must never be exceeded: of the firmware's own bounds, and what was measured beside them.
BOUNDS: Final = {"events": 32, "results": 16, "messages": 8, "unanswered": 8, "spooled": 512}
# The program itself is some 80,000 of it. An update has its own: a window, and what it reads.
HELD_BYTES: Final = 106_000
HELD_UPDATING_BYTES: Final = 150_000
# From the first hour of a boot to its last; what a first reconnection takes stays.
HELD_GROWTH_BYTES: Final = 4_096
WARM_S: Final = 1_800
WATCHDOG_MS: Final = 60_000


def release(version: str, security: int) -> Bundle:
    """The very application, signed as a release."""
    keys = [key("current").public, key("next").public]
    return signed(compiled(FIRMWARE / "node", keys), version, security)


class World:
    """Broker, module, gateway and one node. `closed` is where the relay has to be (None: either).

    The gateway calls every two minutes, takes backlogs, hands out an update's pieces, and judges
    whatever it hears; what is wrong ends the next step.
    """

    def __init__(self, place: Path, seed: str) -> None:
        self.random = random.Random(seed)
        self.time = WorldTime()
        self.module = PzemModule(steady_curve(800.0), energy_wh=START_WH)
        self.module.move_counter(START_WH - self.module.counter_wh(self.time.now_s))
        for name in ("broker", "node"):
            (place / name).mkdir()
        self.broker = Mosquitto(place / "broker", {DEVICE: PASSWORD, "gateway": "gateway"})
        self.gateway = Gateway(self.broker.port)
        # The ticks wrap in the first hours.
        ticks_ms = TICKS_PERIOD_MS - self.random.randrange(60_000, 7_200_000)
        line = PzemLine([self.module])
        self.node = FastNode(place / "node", self.time, line, ticks_ms)
        self.node.install(release("1.0.0", 1))
        self.node.provision(DEVICE, SECRET, {"host": "127.0.0.1", "port": self.broker.port})
        self.node.settings(**SETTINGS)
        self.closed: bool | None = True
        self.session = ""
        self.lost_wh = 0  # of the module's own memory, at all power cuts
        # At the last one: where the node went down too, its newest counter is as old as NVS's, and
        # what the module forgot is missing until it is used again.
        self.forgotten_wh = 0
        self.counted: Counter[str] = Counter()
        self.bundle: bytes | None = None
        self.spoil = False
        self._last_wh = 0
        self._records: dict[int, list[int]] = {}
        self._events: dict[tuple[str, int], str] = {}
        self._read = 0
        self._called_s = 0.0
        self._problems: list[str] = []
        self._attending: asyncio.Task[None] | None = None

    @property
    def truth_wh(self) -> int:
        """What the node's total must be: the counter, and what the module forgot."""
        return self.module.counter_wh(self.time.now_s) + self.lost_wh

    async def start(self) -> None:
        """Everything on, until the node measures."""
        await self.broker.start()
        await self.gateway.start()
        self._attending = asyncio.create_task(self._attend())
        await self.node.power_on()
        await self.recovered()
        await self.command("time", unix_s=self.time.now_ms // 1_000)

    async def stop(self) -> None:
        """Everything off."""
        if self._attending:
            self._attending.cancel()
            with suppress(asyncio.CancelledError):
                await self._attending
        await self.node.power_off()
        await self.gateway.stop()
        await self.broker.kill()

    async def pass_s(self, seconds: float) -> None:
        """Let time go on; the gateway calls, and everything is judged step by step."""
        end_ms = self.time.now_ms + round(seconds * 1_000)
        while self.time.now_ms < end_ms:
            await self.node.until(min(end_ms, self.time.now_ms + STEP_S * 1_000))
            assert not self._problems, self._problems
            if self.closed is not None and self.node.is_on:
                assert self.node.relay_closed is self.closed, (self.node.relay_moves, self.closed)
            if self.time.now_s - self._called_s >= CALL_S:
                self._called_s = self.time.now_s
                await self._send("read")

    async def command(self, kind: str, **args: Any) -> str:
        """Send a command while time stands; the code of its result."""
        return str((await self.gateway.command(self.session, kind, **args))["code"])

    async def recovered(self) -> None:
        """The node is back within its deadlines, and its total is the truth."""
        began_s, since = self.time.now_s, len(self.gateway.heard)
        while True:
            await self.pass_s(5)
            found = [
                told
                for kind, told in self.gateway.heard[since:]
                if kind == "telemetry" and told["quality"] == "good"
            ]
            if found and found[-1]["session"] == self.session:
                break
            taken_s = self.time.now_s - began_s
            assert taken_s < RECOVERY_S, (taken_s, self.gateway.heard[since:][-3:])
        self.counted["recoveries"] += 1
        self.counted["seconds of recovery"] += round(self.time.now_s - began_s)
        since = len(self.gateway.heard)
        await self.command("read")
        await self.pass_s(2)
        told = [told for kind, told in self.gateway.heard[since:] if kind == "telemetry"][-1]
        assert told["quality"] == "good", told
        # A counter that fell by what the module forgot is met by the reading before it.
        lowest_wh = self.truth_wh - self.lost_wh - 4
        assert lowest_wh <= told["energy_wh"] <= self.truth_wh, (told, self.truth_wh)

    def events(self, kind: str) -> int:
        """How many different events of a kind came."""
        return sum(found == kind for found in self._events.values())

    def judge_samples(self) -> None:
        """What the node held in memory, boot by boot."""
        # A connection has its buffers: what grows is looked for with one, and without.
        boots: dict[tuple[int, bool], list[dict[str, Any]]] = {}
        for sample in self.node.samples:
            for name, most in BOUNDS.items():
                assert sample[name] <= most, sample
            assert sample["failures"] == 0, sample
            most = HELD_UPDATING_BYTES if sample["updating"] else HELD_BYTES
            assert sample["bytes"] <= most, sample
            boots.setdefault((sample["boot"], sample["connected"]), []).append(sample)
        for samples in boots.values():
            calm = [s for s in samples if s["uptime_s"] >= WARM_S and not s["events"]]
            if len(calm) >= 12:
                early = min(s["bytes"] for s in calm[:6])
                late = min(s["bytes"] for s in calm[-6:])
                growth = late - early
                assert growth <= HELD_GROWTH_BYTES, [s["bytes"] for s in calm]
        assert self.node.longest_ms < WATCHDOG_MS
        assert not [text for text in self.node.said if "Traceback" in text], self.node.said

    async def _send(self, kind: str, **args: Any) -> None:
        """Send a command and wait for nothing."""
        with suppress(Exception):
            body = self.gateway.body(self.session, kind, args)
            await self.gateway.publish("command", sealed(body))

    async def _attend(self) -> None:
        """Be the gateway: judge and answer whatever comes."""
        while True:
            while self._read < len(self.gateway.heard):
                kind, told = self.gateway.heard[self._read]
                self._read += 1
                try:
                    await getattr(self, f"_hear_{kind}")(told)
                except AssertionError as error:
                    self._problems.append(f"{kind}: {error}")
            await asyncio.sleep(0.002)

    async def _hear_status(self, told: dict[str, Any]) -> None:
        if told["online"]:
            self.session = told["session"]

    async def _hear_result(self, told: dict[str, Any]) -> None:
        self.counted[f"results {told['code']}"] += 1

    async def _hear_telemetry(self, told: dict[str, Any]) -> None:
        self.counted["telemetry"] += 1
        energy_wh = told["energy_wh"]
        if energy_wh is not None:
            lowest_wh = self._last_wh - (self.forgotten_wh if told["seq"] == 1 else 0)
            assert energy_wh >= lowest_wh, (told, self._last_wh)
            self.counted["Wh back after a cut"] += max(0, self._last_wh - energy_wh)
            assert energy_wh <= self.truth_wh, (told, self.truth_wh)
            self._last_wh = energy_wh

    async def _hear_event(self, told: dict[str, Any]) -> None:
        identity = told["session"], told["seq"]
        if identity in self._events:
            self.counted["events sent again"] += 1
            assert self._events[identity] == told["kind"]
        self._events[identity] = told["kind"]
        if told["kind"] == "update_want" and self.bundle:
            offset = told["offset"]
            piece = self.bundle[offset : offset + told["count"]]
            if self.spoil:
                piece = self.random.randbytes(len(piece))
            with suppress(Exception):
                await self.gateway.publish("firmware", offset.to_bytes(4, "big") + piece)

    async def _hear_backlog(self, told: dict[str, Any]) -> None:
        for record in told["records"]:
            seq = record[0]
            if seq in self._records:
                self.counted["records sent again"] += 1
                assert self._records[seq] == record, (record, self._records[seq])
                continue
            before = [old for old in self._records if old < seq]
            if before:
                assert record[4] >= self._records[max(before)][4], record
            assert record[4] <= self.truth_wh, record
            self._records[seq] = record
            self.counted["records"] += 1
        await self._send("ack", segment=told["segment"])

    @property
    def record_gap(self) -> int:
        """How many records are missing between the first and the last."""
        found = sorted(self._records)
        return found[-1] - found[0] + 1 - len(found) if found else 0
