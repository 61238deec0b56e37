"""Scripted nodes that take updates, and a site that rolls images out to them."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import aiomqtt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from ulid import ULID

from gateway.app.config import load_config
from gateway.app.control.rollouts import Opened
from gateway.app.firmware.bundle import Bundle
from gateway.app.firmware.signing import EXPONENT
from gateway.app.paths import paths_of
from gateway.core.requests import AddImage, BeginRollout, Role
from gateway.core.rollout_plan import Member, Phase
from gateway.store.commands import find_outcome
from gateway.store.db import open_writer, own_directory
from gateway.store.firmware import read_members, read_rollout
from gateway.store.requests import NORTH
from gateway.store.uploads import put_upload
from tests.app.node_site import LiveClock, NodeSite, ScriptedNode, alive, until
from tests.firmware.releases import HARDWARE, key

CONFIG = """\
site: {{id: palm, name: Palm, timezone: Asia/Kolkata, currency: INR}}
state_dir: state
runtime_dir: run
south:
  mqtt: {{host: 127.0.0.1, port: {port}}}
  firmware: {{public: [firmware.pem.pub]}}
supply: {{min_off_s: 0, verify_s: 5}}
defaults: {{pzem-node: {{p_max_w: 400000}}}}
meters:
"""


class UpdatingNode(ScriptedNode):
    """A node that fetches, installs, restarts and proves itself, or fails as it is told."""

    def __init__(self, port: int, device_id: str, node_key: bytes) -> None:
        super().__init__(port, device_id, node_key)
        # Wishes for chunks are messages, too.
        self.period_s = 0.5
        self.firmware = "1.0.0"
        self.hardware = HARDWARE
        self.on_trial = False
        self.update: dict[str, object] | None = None
        self.order: dict[str, object] | None = None
        self.orders = 0
        self.installed: list[str] = []
        self.part = bytearray()
        # What it does with the update: prove, back, refuse.
        self.ends = "prove"
        # How many chunks it takes before it asks for no more.
        self.chunks_max = 10_000
        self.chunks = 0
        self._restarting: set[asyncio.Task[None]] = set()

    def telemetry(self, **changes: object) -> dict[str, object]:
        return super().telemetry(**({"firmware": self.firmware} | changes))

    def status(self) -> dict[str, object]:
        return super().status() | {
            "firmware": self.firmware,
            "hardware": self.hardware,
            "trial": self.on_trial,
            "update": self.update,
        }

    async def _live(self) -> None:
        """As the node of a few lines, and the topic of chunks beside that of commands."""
        topic = f"smartmeter/{self.device_id}"
        will = aiomqtt.Will(f"{topic}/status", json.dumps({"online": False}), 1, retain=True)
        async with aiomqtt.Client("127.0.0.1", self.port, will=will, keepalive=5) as client:
            self._client = client
            await client.subscribe(f"{topic}/command", 1)
            await client.subscribe(f"{topic}/firmware", 1)
            if self.has_relay:
                await self.publish("status", self.status(), retain=True)
            ticking = asyncio.create_task(self._tick())
            try:
                async for message in client.messages:
                    payload = message.payload
                    if message.topic.value.endswith("/firmware"):
                        await self._chunk(payload)
                    else:
                        await self._command(payload, retained=message.retain)
                        await self._sealed()
            finally:
                ticking.cancel()

    def _obey(self, kind: str, args: dict[str, object]) -> str:
        if kind == "update_stop" and kind not in self.refuses:
            if self.order is not None and self.order["version"] == args["version"]:
                self.order = self.update = None
                self.part = bytearray()
            return "DONE"
        if kind != "update":
            return super()._obey(kind, args)
        self.orders += 1
        if kind in self.refuses:
            return self.refuses[kind]
        if self.on_trial:
            return "UPDATE_TRIAL"
        if self.order is None or self.order["sha256"] != args["sha256"]:
            self.part = bytearray()
        self.order = args
        self._tell_update()
        return "DONE"

    def _tell_update(self) -> None:
        assert self.order is not None
        self.update = {
            "version": self.order["version"],
            "offset": len(self.part),
            "size": self.order["size"],
        }

    async def _sealed(self) -> None:
        """A sealed command was heard: it proves a trial, and the next chunk may be asked for."""
        if self.on_trial and self.ends == "prove":
            self.on_trial = False
            await self.publish("status", self.status(), retain=True)
        elif self.order is not None and self.update is not None:
            await self.publish("status", self.status(), retain=True)
            await self._ask()

    async def _ask(self) -> None:
        if self.order is None or self.chunks >= self.chunks_max:
            return
        left = cast("int", self.order["size"]) - len(self.part)
        if left == 0:
            await self._install()
            return
        await self.want(self.order["version"], len(self.part), min(1_024, left))

    async def want(self, version: object, offset: object, count: object) -> None:
        """Send a wish for a chunk."""
        await self.event("update_want", version=version, offset=offset, count=count)

    async def event(self, kind: str, **more: object) -> None:
        """Send an event."""
        told = {"device_id": self.device_id, "session": self.session, "kind": kind}
        await self.publish("event", told | more)

    async def _chunk(self, payload: bytes) -> None:
        offset, chunk = int.from_bytes(payload[:4], "big"), payload[4:]
        self.chunks += 1
        if self.order is None or offset != len(self.part):
            return
        self.part += chunk
        self._tell_update()
        await self._ask()

    async def _install(self) -> None:
        assert self.order is not None
        version = cast("str", self.order["version"])
        self.order = None
        if self.ends == "refuse":
            self.part = bytearray()
            self.update = {"version": version, "failed": "UPDATE_DAMAGED"}
            await self.event("update_failed", code="UPDATE_DAMAGED", message="app.mpy is not")
            await self.publish("status", self.status(), retain=True)
            return
        self.installed.append(version)
        await self.restart(version, on_trial=True)
        if self.ends == "back":
            task = asyncio.create_task(self._go_back(version))
            self._restarting.add(task)
            task.add_done_callback(self._restarting.discard)

    async def _go_back(self, version: str) -> None:
        await asyncio.sleep(0.5)
        self.update = {"version": version, "failed": "nothing of meter in 5 minutes"}
        await self.restart("1.0.0", on_trial=False)

    async def restart(self, firmware: str, *, on_trial: bool) -> None:
        """Another session, with this version."""
        self.boot_id += 1
        self.session = f"{self.boot_id:08x}{self.session[8:]}"
        self.seq = self.last_seq = 0
        self.firmware, self.on_trial, self.order = firmware, on_trial, None
        if self.update is not None and "failed" not in self.update:
            self.update = None
        await self.publish("status", self.status(), retain=True)


class RolloutSite(NodeSite):
    """A site of some nodes that takes images signed with the tests' key."""

    def __init__(self, directory: Path, port: int, count: int, *, speed: float = 1.0) -> None:
        path = directory / "config.yaml"
        meters = "".join(
            f"  - {{id: flat-{n}, model: pzem-node, device: node-{n}}}\n"
            for n in range(1, count + 1)
        )
        path.write_text(CONFIG.format(port=port) + meters, encoding="utf-8")
        write_public(directory / "firmware.pem.pub")
        super(NodeSite, self).__init__(directory, clock=LiveClock(speed))
        self.port = port
        self.happened = []
        self.count = count

    def open(self) -> None:
        # The events of a run are those since it was opened first.
        self.happened = getattr(self, "happened", [])
        super().open()
        self.nodes.rollouts._tell = self.nodes._tell

    def updating(self) -> list[UpdatingNode]:
        """A node at every meter."""
        return [
            UpdatingNode(self.port, f"node-{n}", self.node(f"node-{n}").key)
            for n in range(1, self.count + 1)
        ]

    async def add(self, bundle: Bundle, *, size: int | None = None) -> str:
        """Upload and add an image; the code of a refusal, empty when it is there."""
        key_of = str(ULID())
        await asyncio.to_thread(upload, self.directory, bundle.sha256, bundle.raw)
        body = AddImage(bundle.sha256, len(bundle.raw) if size is None else size)
        await self.do(body, Role.TECHNICIAN, key_of)
        return self.code(key_of)

    async def add_raw(self, raw: bytes) -> str:
        """Upload and add bytes that may be no image; the code of the refusal."""
        key_of, sha256 = str(ULID()), hashlib.sha256(raw).hexdigest()
        await asyncio.to_thread(upload, self.directory, sha256, raw)
        await self.do(AddImage(sha256, len(raw)), Role.TECHNICIAN, key_of)
        return self.code(key_of)

    async def begin(self, bundle: Bundle, **changes: object) -> str:
        """Begin a roll-out in one stage unless told otherwise; the code of a refusal."""
        plan: dict[str, object] = {
            "stages": (100,),
            "observe_s": 0,
            "failures_max": 1,
            "parallel_max": 4,
            "offline_s": 3_600,
        }
        key_of = str(ULID())
        body = BeginRollout(sha256=bundle.sha256, **(plan | changes))  # type: ignore[arg-type]
        await self.do(body, Role.TECHNICIAN, key_of)
        return self.code(key_of)

    def code(self, key_of: str) -> str:
        """Why a request was refused; empty when it was not."""
        outcome = find_outcome(self.file.connection, key_of)
        assert outcome is not None
        return outcome.code

    def members(self, number: int = 1) -> list[Member]:
        """The devices of a roll-out as they are on file."""
        return read_members(self.file.connection, number)

    def phases(self, number: int = 1) -> list[Phase]:
        """Where they stand."""
        return [member.phase for member in self.members(number)]

    def opened(self, number: int = 1) -> Opened:
        """A roll-out that goes on."""
        return self.nodes.rollouts.opened[number]

    def facts(self, kind: str) -> list[dict[str, object]]:
        """What events of a kind say."""
        return [facts for what, _, _, facts in self.happened if what == kind]


def write_public(path: Path) -> None:
    """The public half of the tests' key, as `firmware keygen` writes it."""
    modulus = int.from_bytes(key("current").public.modulus, "big")
    public = RSAPublicNumbers(EXPONENT, modulus).public_key()
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def upload(directory: Path, sha256: str, raw: bytes) -> None:
    """What north keeps of an upload, while no north runs."""
    place = paths_of(load_config(directory / "config.yaml")).north_dir
    owner = own_directory(place, create=False)
    try:
        file = open_writer(place / "north.db", NORTH, owner=owner, create=False)
        put_upload(file.connection, sha256, raw)
        file.stop()
    finally:
        owner.release()


@asynccontextmanager
async def living(site: RolloutSite, *nodes: UpdatingNode) -> AsyncIterator[None]:
    """Site and nodes run meanwhile."""
    async with site.running(), alive(*nodes):
        yield


async def heard(site: RolloutSite, nodes: list[UpdatingNode]) -> None:
    """All of these nodes are approved, and there."""
    rollouts_ = site.nodes.rollouts
    await until(lambda: all(rollouts_.seen(node.device_id).present for node in nodes))


def ended(site: RolloutSite, number: int = 1) -> bool:
    """Whether a roll-out has its end on file."""
    record = read_rollout(site.file.connection, number)
    return record is not None and record.ended_utc_ms is not None
