"""A site with a mosquitto of its own, on the files that `broker write` makes."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiomqtt
import pytest

from gateway.app.broker.users import gateway_password
from gateway.app.broker.write import Change, Written, write
from gateway.app.clock import SystemClock
from gateway.app.config import Config, load_config
from gateway.app.node_key import load_node_key
from gateway.app.paths import paths_of
from gateway.app.stores import create_stores
from gateway.core.clock import Clock
from gateway.core.sealing import device_secret, mqtt_password
from gateway.store.db import open_writer, own_directory
from gateway.store.devices import DeviceRecord, DeviceStatus, put_devices
from gateway.store.ledger import LEDGER
from gateway.store.writer import InlineWriter
from tests.south.mosquitto import PROGRAM

CONFIG = """\
site: {{id: palm, name: Palm, timezone: Asia/Kolkata, currency: INR}}
state_dir: state
runtime_dir: run
south:
  broker: {{names: [{names}], port: {port}{more}}}
"""
# As paho tells it, also for the 5 of MQTT 3.1.1.
NOT_AUTHORIZED = 0x87
# Debian's own, with other places: ours is read in the middle of it.
MAIN = """\
persistence true
persistence_location {directory}/
log_dest file {directory}/mosquitto.log
include_dir {directory}/conf.d
"""


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that the broker may enter, whatever user it becomes."""
    place = Path(tempfile.mkdtemp(prefix="broker-"))
    place.chmod(0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place)


class BrokerSite:
    """Stores, configuration and broker below `place`."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.directory = place / "broker"
        self.port = free_port()
        self.plain_port = free_port()
        self.configure()
        create_stores(self.config, SystemClock())
        self._process: asyncio.subprocess.Process | None = None

    def configure(self, names: str = "palm.lan", more: str = "", below: str = "") -> None:
        """Write the configuration; `below` follows the section `south.broker`."""
        text = CONFIG.format(names=names, port=self.port, more=more)
        (self.place / "config.yaml").write_text(text + below, encoding="utf-8")

    @property
    def config(self) -> Config:
        """The configuration as it is now."""
        return load_config(self.place / "config.yaml")

    def write(self, change: Change | None = None, clock: Clock | None = None) -> Written:
        """What the command does."""
        return write(self.config, self.directory, clock or SystemClock(), change)

    def record(
        self,
        device_id: str,
        status: DeviceStatus,
        generation: int = 1,
        meter_id: str | None = None,
    ) -> None:
        """Put a device on record, as control does."""
        found = DeviceRecord(device_id, status, meter_id, generation, "", 0, 0)
        path = paths_of(self.config).ledger
        owner = own_directory(path.parent, create=False)
        try:
            file = open_writer(path, LEDGER, owner=owner, create=False)
            InlineWriter(file).submit(lambda connection: put_devices(connection, [found])).result()
            file.stop()
        finally:
            owner.release()

    def password(self, device_id: str, generation: int = 1) -> str:
        """What a node of ours was provisioned with."""
        return mqtt_password(device_secret(self.key, device_id, generation))

    @property
    def key(self) -> bytes:
        """The site's node key."""
        return load_node_key(paths_of(self.config).control_dir)

    # -- the broker ------------------------------------------------------------------------

    async def start(self) -> None:
        """Start mosquitto as Debian does, with our file linked among its own."""
        assert PROGRAM is not None
        included = self.place / "conf.d"
        included.mkdir(exist_ok=True)
        linked = included / "prepaid-gateway.conf"
        if not linked.is_symlink():
            linked.symlink_to(self.directory / "broker.conf")
        main = self.place / "mosquitto.conf"
        main.write_text(MAIN.format(directory=self.place), encoding="utf-8")
        log = self.place / "mosquitto.log"
        log.touch()
        if os.geteuid() == 0:
            shutil.chown(log, "mosquitto")
        self._process = await asyncio.create_subprocess_exec(PROGRAM, "-c", str(main))
        for _ in range(200):
            if is_open(self.port):
                return
            await asyncio.sleep(0.02)
        pytest.fail(log.read_text(encoding="utf-8"))

    async def reload(self) -> None:
        """Send SIGHUP and wait until it was read."""
        log = self.place / "mosquitto.log"
        before = log.read_text(encoding="utf-8").count("Reloading config")
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)
        for _ in range(200):
            if log.read_text(encoding="utf-8").count("Reloading config") > before:
                await asyncio.sleep(0.1)
                return
            await asyncio.sleep(0.02)
        pytest.fail(log.read_text(encoding="utf-8"))

    async def stop(self) -> None:
        """End it."""
        await self.kill()

    async def kill(self) -> None:
        """End it without a goodbye."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.wait()

    # -- clients ---------------------------------------------------------------------------

    def client(
        self,
        user: str | None,
        password: str | None = None,
        *,
        identifier: str | None = None,
        protocol: aiomqtt.ProtocolVersion = aiomqtt.ProtocolVersion.V311,
        ca: Path | None = None,
    ) -> aiomqtt.Client:
        """A client over TLS that trusts the site's authority; a node's password unless given."""
        if user == "gateway" and password is None:
            password = gateway_password(self.key)
        elif user is not None and password is None:
            password = self.password(user)
        context = ssl.create_default_context(cafile=str(ca or self.directory / "ca.pem"))
        return aiomqtt.Client(
            "127.0.0.1",
            self.port,
            username=user,
            password=password,
            identifier=identifier,
            protocol=protocol,
            timeout=5,
            tls_context=context,
        )

    async def may_enter(self, user: str | None, password: str | None = None) -> bool:
        """Whether the broker lets somebody in. Fails on anything but a clear answer."""
        try:
            async with self.client(user, password):
                return True
        except aiomqtt.MqttCodeError as error:
            if error.rc != NOT_AUTHORIZED:
                raise
            return False


def is_open(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody listens."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


class Ear:
    """What a client hears, as (topic, payload)."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.ended = False

    @asynccontextmanager
    async def listening(self, client: aiomqtt.Client, *topics: str) -> AsyncIterator[None]:
        """Hear meanwhile; `client` is connected."""
        for topic in topics:
            await client.subscribe(topic, 1)

        async def hear() -> None:
            try:
                async for message in client.messages:
                    assert isinstance(message.payload, bytes)
                    self.heard.append((message.topic.value, message.payload))
            except aiomqtt.MqttError:
                self.ended = True

        task = asyncio.create_task(hear())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def has(self, topic: str, payload: bytes) -> bool:
        """Whether that came, after a while if need be."""
        for _ in range(150):
            if (topic, payload) in self.heard:
                return True
            await asyncio.sleep(0.02)
        return False
