"""Control with real time, a real broker, and nodes that a test scripts over aiomqtt."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import aiomqtt

from gateway.app.clock import SystemClock
from gateway.app.node_key import load_node_key
from gateway.app.paths import paths_of
from gateway.core.clock import Clock
from gateway.core.ledger import SettlementLine
from gateway.core.point import Point
from gateway.core.sealing import command_key, device_secret
from gateway.south.nodes import NodeGroup
from gateway.store.devices import DeviceRecord
from gateway.store.ledger import settlement_lines
from tests.app.control_site import ControlSite, HandClock

CONFIG = """\
site: {{id: palm, name: Palm, timezone: Asia/Kolkata, currency: INR}}
state_dir: state
runtime_dir: run
south: {{mqtt: {{host: 127.0.0.1, port: {port}}}}}
supply: {{min_off_s: 0, verify_s: 5}}
defaults: {{pzem-node: {{p_max_w: 400000}}}}
meters:
  - {{id: flat-1, model: pzem-node}}
  - {{id: flat-2, model: pzem-node, device: node-2}}
"""


class LiveClock(HandClock):
    """Real time, perhaps faster."""

    def __init__(self, speed: float = 1.0) -> None:
        super().__init__()
        self.system = SystemClock(speed)

    def mono_ns(self) -> int:
        return self.system.mono_ns()

    def utc_ms(self) -> int:
        return self.system.utc_ms()

    def loop_delay_s(self, seconds: float) -> float:
        return self.system.loop_delay_s(seconds)

    async def sleep(self, seconds: float) -> None:
        await self.system.sleep(seconds)


class ScriptedNode:
    """A node of a few lines: a counter, a relay, sealed commands. Not the firmware."""

    def __init__(
        self, port: int, device_id: str, key: bytes, clock: Clock | None = None, *, boot_id: int = 1
    ) -> None:
        self.port = port
        self.clock: Clock = clock or SystemClock()
        # How far its own clock is ahead; None while it is unset.
        self.ahead_s: int | None = None
        self.device_id = device_id
        self.key = key
        self.boot_id = boot_id
        self.session = hashlib.sha256(f"{device_id} {boot_id}".encode()).hexdigest()[:16]
        self.seq = 0
        self.energy_wh = 1_000
        self.step_wh = 0
        self.closed = True
        self.reasons: set[str] = set()
        self.lease: dict[str, object] | None = None
        self.has_relay = True
        self.answers = True
        self.told: list[tuple[str, dict[str, object]]] = []
        self.refused: list[str] = []
        self.last_seq = 0
        self.period_s = 0.1
        self.spool: dict[int, list[list[int]]] = {}
        self.can: list[str] = ["limits", "release"]
        self.held_wh: int | None = None
        self.modules: list[dict[str, object]] = []
        self.refuses: dict[str, str] = {}
        self.messages: dict[str, str] = {}
        self.deaf: set[str] = set()
        # What it tells in telemetry instead of what it measures.
        self.says: dict[str, object] = {}
        self._client: aiomqtt.Client | None = None

    def unix_s(self) -> int | None:
        """Its own time."""
        return None if self.ahead_s is None else self.clock.utc_ms() // 1_000 + self.ahead_s

    def telemetry(self, **changes: object) -> dict[str, object]:
        """What it measures now."""
        self.seq += 1
        flows = self.closed and self.step_wh > 0
        told: dict[str, object] = {
            "device_id": self.device_id,
            "timestamp": self.unix_s(),
            "voltage": 230.0,
            "current": 10.0 if flows else 0.0,
            "power_w": 2_300.0 if flows else 0.0,
            "energy_kwh": self.energy_wh / 1_000,
            "power_factor": 1.0,
            "rssi": -60,
        }
        if self.has_relay:
            told |= {
                "energy_wh": self.energy_wh,
                "seq": self.seq,
                "boot_id": self.boot_id,
                "session": self.session,
                "relay": "closed" if self.closed else "open",
                "reasons": sorted(self.reasons),
                "firmware": "0.0.1",
            }
        if self.held_wh is not None:
            told |= {"quality": "uncertain", "counter_wh": 500, "held_wh": self.held_wh}
        if self.modules:
            told["meters"] = self.modules
        return told | self.says | changes

    async def publish(self, kind: str, content: object, *, retain: bool = False) -> None:
        """Send something of a kind, as JSON unless it is bytes."""
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        assert self._client is not None
        await self._client.publish(f"smartmeter/{self.device_id}/{kind}", payload, 1, retain)

    async def run(self) -> None:
        """Live until cancelled; connect again when the broker went."""
        while True:
            try:
                await self._live()
            except aiomqtt.MqttError:
                self._client = None
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    # CPython 3.11's wait_for, in the library, may swallow a cancellation.
                    return
                await asyncio.sleep(0.2)

    def status(self) -> dict[str, object]:
        """Its retained status."""
        return {
            "device_id": self.device_id,
            "online": True,
            "session": self.session,
            "boot_id": self.boot_id,
            "lease": self.lease,
            "spooled": sum(map(len, self.spool.values())),
            "can": self.can,
        }

    async def _live(self) -> None:
        topic = f"smartmeter/{self.device_id}"
        will = aiomqtt.Will(f"{topic}/status", json.dumps({"online": False}), 1, retain=True)
        async with aiomqtt.Client("127.0.0.1", self.port, will=will, keepalive=5) as client:
            self._client = client
            await client.subscribe(f"{topic}/command", 1)
            if self.has_relay:
                await self.publish("status", self.status(), retain=True)
            ticking = asyncio.create_task(self._tick())
            try:
                async for message in client.messages:
                    await self._command(message.payload, retained=message.retain)
            finally:
                ticking.cancel()

    async def send_backlog(self) -> None:
        """Send the oldest segment that is not acknowledged."""
        segment = min(self.spool)
        told = {"session": self.session, "segment": segment, "records": self.spool[segment]}
        await self.publish("backlog", told)

    async def _tick(self) -> None:
        while True:
            if self.closed:
                self.energy_wh += self.step_wh
                if self.lease is not None and self.energy_wh >= cast(
                    "int", self.lease["cutoff_wh"]
                ):
                    self.closed = False
                    self.reasons.add("lease")
            await self.publish("telemetry", self.telemetry())
            await asyncio.sleep(self.period_s)

    async def _command(self, payload: bytes, *, retained: bool) -> None:
        envelope = json.loads(payload)
        mac = hmac.new(self.key, envelope["body"].encode(), hashlib.sha256).hexdigest()
        body = json.loads(envelope["body"])
        if retained or mac != envelope["mac"] or body["device"] != self.device_id:
            self.refused.append("BAD_SEAL")
            return
        code = "DONE"
        if body["session"] != self.session:
            code = "WRONG_SESSION"
        elif body["seq"] <= self.last_seq:
            code = "REPLAYED"
        else:
            self.last_seq = body["seq"]
            code = self._too_late(body["type"], body["expires"])
        if code == "DONE":
            self.told.append((body["type"], body["args"]))
            code = self._obey(body["type"], body["args"])
        if code != "DONE":
            self.refused.append(code)
        if self.answers and body["type"] not in self.deaf:
            await self.publish(
                "result",
                {
                    "device_id": self.device_id,
                    "session": self.session,
                    "id": body["id"],
                    "ok": code == "DONE",
                    "code": code,
                    "message": self.messages.get(body["type"], ""),
                },
            )
        if body["type"] in ("read", "relay"):
            await self.publish("telemetry", self.telemetry())

    def _too_late(self, kind: str, expires_s: int) -> str:
        """As the firmware: a command with an end needs a clock, and the end not to have come."""
        now_s = self.unix_s()
        if not expires_s or kind == "time":
            return "DONE"
        if now_s is None:
            return "CLOCK_UNSET"
        return "EXPIRED" if now_s >= expires_s else "DONE"

    def _obey(self, kind: str, args: dict[str, object]) -> str:
        if kind in self.refuses:
            return self.refuses[kind]
        if kind == "release":
            return self._release(count=args["count"] is True)
        if kind == "time":
            self.ahead_s = cast("int", args["unix_s"]) - self.clock.utc_ms() // 1_000
        elif kind == "ack":
            self.spool.pop(cast("int", args["segment"]), None)
        elif kind == "lease":
            self.lease = args
        elif kind == "settings" and "p_max_w" in args and self.held_wh is not None:
            self._release(count=True)
        elif kind == "relay":
            if not args["closed"]:
                self.reasons.add("command")
            elif self.lease is not None and self.energy_wh >= cast("int", self.lease["cutoff_wh"]):
                return "LEASE_REACHED"
            else:
                self.reasons.clear()
            self.closed = not self.reasons
        return "DONE"

    def _release(self, *, count: bool) -> str:
        """Go on from the held counter, 500 Wh of the module's being good last."""
        if self.held_wh is None:
            return "NOTHING_HELD"
        if count:
            self.energy_wh += self.held_wh - 500
        self.held_wh = None
        return "DONE"


class NodeSite(ControlSite):
    """Control of two nodes, running."""

    def __init__(
        self, directory: Path, port: int, *, speed: float = 1.0, more: Sequence[str] = ()
    ) -> None:
        path = directory / "config.yaml"
        lines = "".join(f"  - {{id: {name}, model: pzem-node}}\n" for name in more)
        path.write_text(CONFIG.format(port=port) + lines, encoding="utf-8")
        super().__init__(directory, clock=LiveClock(speed))
        self.port = port
        self.happened: list[tuple[str, str, str, dict[str, object]]] = []

    def open(self) -> None:
        super().open()
        kept = self.display.event

        def tell(kind: str, subject: str, severity: str, **facts: object) -> None:
            self.happened.append((kind, subject, severity, facts))
            kept(kind, subject, severity, **facts)

        self.display.event = tell  # type: ignore[method-assign]
        self.nodes.book._tell = tell
        self.nodes._tell = tell
        self.engine.gate.chain_verified = True

    @asynccontextmanager
    async def running(
        self, *, sweeps: bool = True, is_clock_right: bool = True
    ) -> AsyncIterator[None]:
        """Hear and sweep; without somebody who vouches for the clock it is in doubt."""
        if is_clock_right:
            self.sweeper.confirm_clock()
        self.sweeper.judge()

        async def sweep() -> None:
            while sweeps or await asyncio.Event().wait():
                await self.sweeper.sweep()
                self.office.after_sweep()
                assert self.books.failure is None
                await asyncio.sleep(0.05)

        polling = asyncio.create_task(
            self.engine.polls.run(self.engine.on_reading, self.engine.on_failure)
        )
        sweeping = asyncio.create_task(sweep())
        try:
            yield
        finally:
            assert not sweeping.done(), sweeping
            sweeping.cancel()
            await self.engine.polls.aclose()
            await polling
            await asyncio.gather(sweeping, return_exceptions=True)
            await self.engine.settle_tasks(5)

    def node(self, device_id: str, generation: int = 1, *, boot_id: int = 1) -> ScriptedNode:
        """A node that was provisioned with its secret."""
        key = load_node_key(paths_of(self.config).control_dir)
        secret = device_secret(key, device_id, generation)
        return ScriptedNode(self.port, device_id, command_key(secret), self.clock, boot_id=boot_id)

    @property
    def group(self) -> NodeGroup:
        """The group under test."""
        group = self.nodes._group
        assert group is not None
        return group

    def point(self, index: int = 0) -> Point:
        """A point."""
        return self.engine.points[index]

    def device(self, device_id: str) -> DeviceRecord:
        """What is on record of a device."""
        return self.nodes.book.records[device_id]

    def settlements(self, index: int) -> list[SettlementLine]:
        """All lines of a point that no longer runs: of the ledger, and those that no sweep took."""
        point = self.point(index)
        kept = settlement_lines(self.file.connection, point.account_id, 0, 2**62)
        return [line for _, line in kept] + point.take_postings()

    def events(self, kind: str) -> list[tuple[str, str]]:
        """Subject and severity of events of a kind."""
        return [(subject, severity) for what, subject, severity, _ in self.happened if what == kind]


async def until(what: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait until something holds."""
    for _ in range(int(seconds / 0.02)):
        if what():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"did not come to hold in {seconds} s")


@asynccontextmanager
async def alive(*nodes: ScriptedNode) -> AsyncIterator[None]:
    """Nodes that live meanwhile."""
    tasks = [asyncio.create_task(node.run()) for node in nodes]
    try:
        yield
    finally:
        waiting = set(tasks)
        while waiting:
            # CPython 3.11's wait_for, in the library, may swallow a cancellation.
            for task in waiting:
                task.cancel()
            _, waiting = await asyncio.wait(waiting, timeout=1)
        await asyncio.gather(*tasks, return_exceptions=True)
