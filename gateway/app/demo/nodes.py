"""The demo's ESP32 nodes: the real firmware on simulated boards, over a broker of their own.

One process holds them all. What really happened goes to a file of JSON lines: every opening of a
relay with what had truly flowed by then.
"""

import asyncio
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.app.broker.mosquitto import GATEWAY_USER
from gateway.app.clock import seeded
from gateway.app.firmware.sources import firmware_directory
from gateway.core.clock import Clock
from gateway.core.sealing import device_secret, mqtt_password
from gateway.sim.loads import between, steady_curve, swing
from gateway.sim.node_board import NodeBoard, firmware_on_path, live
from gateway.sim.pzem import PzemLine, PzemModule

VERSION: Final = "1.0.0"
SWING: Final = 0.5
START_WH: Final = 12_000
# Locally administered, so that no real node has it.
MAC_PREFIX: Final = bytes.fromhex("022424")


@dataclass(frozen=True, slots=True)
class DemoNode:
    """One node: the meter that the gateway knows, its device id, its MAC."""

    meter_id: str
    device_id: str
    mac: bytes


@dataclass(frozen=True, slots=True)
class NodesOptions:
    """What to simulate: how many, where they keep things, the broker's port, who draws how much."""

    count: int
    directory: Path
    port: int
    load_w: int
    seed: int


def demo_nodes(count: int) -> list[DemoNode]:
    """The nodes of a demo, the same ones every time."""
    found = []
    for number in range(1, count + 1):
        mac = MAC_PREFIX + number.to_bytes(3, "big")
        found.append(DemoNode(f"kiosk-{number}", f"node-{mac.hex()}", mac))
    return found


async def run_nodes(
    options: NodesOptions, site_key: bytes, gateway_password: str, clock: Clock, stop: asyncio.Event
) -> None:
    """Run broker and nodes until `stop`; `nodes.ready` in the directory says that they live."""
    from gateway.app.demo.broker import DemoBroker  # noqa: PLC0415 - amqtt comes with the sources

    firmware_on_path(firmware_directory())
    from node import app  # noqa: PLC0415 - on the path since a line ago

    nodes = demo_nodes(options.count)
    secrets = {node.device_id: device_secret(site_key, node.device_id, 1) for node in nodes}
    passwords = {name: mqtt_password(secret) for name, secret in secrets.items()}
    broker = DemoBroker(options.port, {GATEWAY_USER: gateway_password, **passwords})
    await broker.start()
    try:
        async with asyncio.TaskGroup() as group:
            lives = []
            for node in nodes:
                board = _board(options, node, secrets[node.device_id], clock)
                lives.append(group.create_task(live(board, app.run), name=node.meter_id))
            ready_file(options.directory).touch()
            await stop.wait()
            for task in lives:
                task.cancel()
    finally:
        await broker.stop()


def ready_file(directory: Path) -> Path:
    """What says that broker and nodes live."""
    return directory / "nodes.ready"


def openings_file(directory: Path) -> Path:
    """Where every opening of a relay is told."""
    return directory / "openings.jsonl"


def openings(directory: Path, meter_id: str) -> list[tuple[float, float]]:
    """When the relay of a node opened (UTC ms) and what it had truly counted by then, in Wh."""
    path = openings_file(directory)
    if not path.exists():
        return []
    told = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(one["utc_ms"], one["true_wh"]) for one in told if one["meter"] == meter_id]


class _WatchedBoard(NodeBoard):
    """Tells what had flowed whenever its relay opens."""

    def watch(self, meter_id: str, origin_wh: int, path: Path, clock: Clock) -> None:
        """Begin to tell; the module counts `origin_wh` more than has flowed."""
        self._watched = (meter_id, origin_wh, path, clock)

    def relay_set(self, closed: bool) -> None:  # noqa: FBT001 - the firmware's interface
        """Move the relay."""
        opens = self.relay_get() and not closed
        super().relay_set(closed)
        if not opens or self.relay_get():
            return
        meter_id, origin_wh, path, clock = self._watched
        flowed_wh = self.line.modules[0].track.total_wh(clock.mono_ns() / 1e9)
        told = {"meter": meter_id, "utc_ms": clock.utc_ms(), "true_wh": origin_wh + flowed_wh}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")


def _board(options: NodesOptions, node: DemoNode, secret: bytes, clock: Clock) -> NodeBoard:
    random = seeded(f"demo node {options.seed} {node.meter_id}")
    curve = steady_curve(
        options.load_w, power_factor=between(random, 0.8, 0.95), pattern=swing(random, SWING)
    )
    module, now_s = PzemModule(curve), clock.mono_ns() / 1e9
    # The truth has run since the clock began; what the module shows begins here.
    module.move_counter(START_WH - module.counter_wh(now_s))
    origin_wh = START_WH - math.floor(module.track.total_wh(now_s) + 1e-9)
    place = options.directory / node.device_id
    place.mkdir(parents=True, exist_ok=True)
    board = _WatchedBoard(place, clock, PzemLine([module]), mac=node.mac)
    board.watch(node.meter_id, origin_wh, openings_file(options.directory), clock)
    board.ntp_answers = True
    board.provision(
        device_id=node.device_id,
        secret=secret,
        broker={"host": "127.0.0.1", "port": options.port},
        version=VERSION,
    )
    return board
