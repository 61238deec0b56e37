"""A whole node in its world: a real broker, a simulated module, and a gateway that a test scripts.

The keys are derived here as docs of the node say, by the standard library: not by the firmware.
"""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import aiomqtt

from gateway.app.clock import SystemClock
from gateway.sim.loads import steady_curve
from gateway.sim.node_board import NodeBoard, live
from gateway.sim.pzem import PzemLine, PzemModule
from node import app
from tests.app.broker_site import BrokerSite
from tests.firmware.chip_node import ChipNode
from tests.firmware.esp_node import EspNode
from tests.firmware.gate import Gate
from tests.firmware.unix_node import UnixNode
from tests.south.mosquitto import Mosquitto

DEVICE: Final = "node-1"
SITE_KEY: Final = bytes(range(32))
MAC: Final = bytes.fromhex("24a160012345")
LOAD_W: Final = 1_800.0  # a Wh in two seconds: no poll misses one
START_WH: Final = 12_345
WAIT_S: Final = 15.0


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


SECRET: Final = _hmac(SITE_KEY, f"prepaid-node 1\n{DEVICE}\n1")
PASSWORD: Final = _hmac(SECRET, "mqtt 1")[:16].hex()
COMMAND_KEY: Final = _hmac(SECRET, "command 1")


def sealed(body: dict[str, Any], key: bytes = COMMAND_KEY) -> bytes:
    """A command as it goes over the broker."""
    text = json.dumps(body)
    return json.dumps({"body": text, "mac": _hmac(key, text).hex()}).encode()


class Gateway:
    """Hears everything of the node and sends what a test wants."""

    def __init__(self, port: int, password: str | None = None) -> None:
        self._port = port
        self._password = password or "gateway"
        self._task: asyncio.Task[None] | None = None
        self._client: aiomqtt.Client | None = None
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self._changed = asyncio.Event()
        self._seq = 0

    async def start(self) -> None:
        """Connect and subscribe."""
        ready = asyncio.Event()
        self._task = asyncio.create_task(self._run(ready))
        await asyncio.wait_for(ready.wait(), WAIT_S)

    async def stop(self) -> None:
        """Go away."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError, aiomqtt.MqttError):
                await self._task
        self._task = self._client = None

    async def _run(self, ready: asyncio.Event) -> None:
        async with aiomqtt.Client(
            "127.0.0.1", self._port, username="gateway", password=self._password
        ) as client:
            await client.subscribe("smartmeter/+/+", 1)
            self._client = client
            ready.set()
            async for message in client.messages:
                kind = str(message.topic).split("/")[2]
                if kind in {"command", "firmware"}:
                    continue
                assert isinstance(message.payload, bytes)
                assert len(message.payload) <= 8_192
                self.heard.append((kind, json.loads(message.payload)))
                self._changed.set()

    async def publish(self, kind: str, payload: bytes, *, retain: bool = False) -> None:
        """Send raw bytes to the node."""
        assert self._client is not None
        await self._client.publish(f"smartmeter/{DEVICE}/{kind}", payload, 1, retain)

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Every message of a kind so far."""
        return [told for heard, told in self.heard if heard == kind]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Every event of a kind so far."""
        return [told for told in self.all("event") if told["kind"] == kind]

    async def wait(
        self, kind: str, fits: Callable[[dict[str, Any]], bool] = lambda _: True, since: int = 0
    ) -> dict[str, Any]:
        """The first message of a kind that fits, also an earlier one from place `since` on."""
        async with asyncio.timeout(WAIT_S):
            while True:
                self._changed.clear()
                for heard, told in self.heard[since:]:
                    if heard == kind and fits(told):
                        return told
                await self._changed.wait()

    async def session(self, since: int = 0) -> str:
        """The session of the node that is online."""
        told = await self.wait("status", lambda s: s["online"] is True, since)
        return str(told["session"])

    def body(self, session: str, kind: str, args: dict[str, Any], **changes: Any) -> dict[str, Any]:
        """The body of the next command."""
        self._seq += 1
        return {
            "device": DEVICE,
            "session": session,
            "seq": self._seq,
            "id": f"c{self._seq}",
            "type": kind,
            "expires": 0,
            "args": args,
        } | changes

    async def command(self, session: str, kind: str, **args: Any) -> dict[str, Any]:
        """Send a sealed command; its result."""
        return await self.send(self.body(session, kind, args))

    async def send(self, body: dict[str, Any]) -> dict[str, Any]:
        """Send a body sealed; its result."""
        since = len(self.heard)
        await self.publish("command", sealed(body))
        return await self.wait("result", lambda r: r["id"] == body["id"], since)

    async def grant(self, session: str, seq: int, cutoff_wh: int, **more: Any) -> dict[str, Any]:
        """Send a lease; its result."""
        args = {"epoch": "E1", "seq": seq, "cutoff_wh": cutoff_wh, "expires": 0} | {
            "policy": "hold",
            "grace_wh": 0,
            "limit_w": 0,
            "emergency_limit_w": 0,
        }
        return await self.command(session, "lease", **(args | more))


class CpythonNode:
    """The firmware in this process, on the board of the demo."""

    def __init__(self, place: Path, clock: SystemClock, line: PzemLine, port: int) -> None:
        self.board = NodeBoard(place, clock, line, mac=MAC)
        self.board.provision(
            device_id=DEVICE,
            secret=SECRET,
            broker={"host": "127.0.0.1", "port": port},
            version="1.0.0",
        )
        self._task: asyncio.Task[None] | None = None
        self._app: Any = None

    async def power_on(self) -> None:
        """Start."""
        self.board.restart("power_on")
        self._start()

    async def power_off(self) -> None:
        """Cut the power."""
        await self._stop()

    async def watchdog(self) -> None:
        """The watchdog bites: what is in RTC memory stays."""
        await self._stop()
        self.board.restart("watchdog")
        self._start()

    @property
    def relay_closed(self) -> bool:
        """Where the relay is."""
        return self.board.relay_get()

    @property
    def moves(self) -> int:
        """How often the relay moved."""
        return self.board.moves

    def wifi(self, *, up: bool) -> None:
        """The network around the node."""
        self.board.wifi_up = up

    def button(self, *, down: bool) -> None:
        """Somebody presses it."""
        self.board.button = down

    def flash_full(self, *, full: bool) -> None:
        """Nothing more fits."""
        self.board.files.full = full

    def settings(self, **changes: int) -> None:
        """What the node was set to before it starts."""
        with suppress(OSError):
            self.board.files.mkdir("/data")
        with self.board.files.open("/data/settings.json", "wb") as file:
            file.write(json.dumps(changes).encode())

    def keep_record(self) -> None:
        """A quarter of an hour is over."""
        assert self._app is not None
        self._app.backlog.keep()

    def _start(self) -> None:
        self._task = asyncio.create_task(live(self.board, self._run))

    async def _run(self, board: NodeBoard) -> None:
        self._app = app.Node(board, "a")
        await self._app.live()

    async def _stop(self) -> None:
        if self._task:
            self._task.cancel()
            _, still = await asyncio.wait({self._task}, timeout=WAIT_S)
            assert not still, [task.get_stack() for task in asyncio.all_tasks()]
            self._task = None


class Site:
    """Broker, module, node and gateway of one test."""

    def __init__(self, place: Path, interpreter: str) -> None:
        self.clock = SystemClock()
        self.module = PzemModule(steady_curve(LOAD_W), energy_wh=START_WH)
        # Its load runs since the clock's own start.
        self.module.move_counter(START_WH - self.counter_wh)
        self.line = PzemLine([self.module])
        self.gate = Gate()
        self._make_broker(place)
        (place / "node").mkdir()
        self.node: CpythonNode | ChipNode
        if interpreter == "cpython":
            self.node = CpythonNode(place / "node", self.clock, self.line, self.gate.port)
        else:
            made = UnixNode if interpreter == "unix" else EspNode
            self.node = made(place / "node", self.clock, self.line)
            self.node.provision(DEVICE, SECRET, self._told_of_broker())

    def _make_broker(self, place: Path) -> None:
        broker_place = place / "broker"
        broker_place.mkdir()
        self.broker: Mosquitto | BrokerSite
        self.broker = Mosquitto(broker_place, {DEVICE: PASSWORD, "gateway": "gateway"})
        self.gateway = Gateway(self.broker.port)

    def _told_of_broker(self) -> dict[str, object]:
        return {"host": "127.0.0.1", "port": self.gate.port}

    @property
    def now_s(self) -> float:
        """The module's time."""
        return self.clock.mono_ns() / 1e9

    @property
    def counter_wh(self) -> int:
        """What the module counts."""
        return self.module.counter_wh(self.now_s)

    async def start(self) -> str:
        """Everything on; the node's session."""
        await self.open()
        await self.node.power_on()
        return await self.gateway.session()

    async def open(self) -> None:
        """The broker takes connections; of the node once the gateway hears what it says."""
        await self.broker_on()
        await self.gateway.start()
        await self.gate.start(self.broker.port)

    async def broker_on(self) -> None:
        """The broker takes connections."""
        await self.broker.start()

    async def broker_away(self) -> None:
        """Gateway and broker stop."""
        await self.gateway.stop()
        await self.broker.kill()
        await self.gate.stop()

    async def broker_back(self) -> str:
        """They come back; the node's session."""
        since = len(self.gateway.heard)
        await self.open()
        return await self.gateway.session(since)

    async def wait_relay(self, *, closed: bool) -> None:
        """Until the relay is there."""
        async with asyncio.timeout(WAIT_S):
            while self.node.relay_closed is not closed:
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Everything off."""
        await self.node.power_off()
        await self.gateway.stop()
        await self.broker.kill()
        await self.gate.stop()
