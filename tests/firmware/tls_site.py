"""A site whose node speaks TLS with a broker as `broker write` makes it, through a gate."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.app.broker.users import gateway_password
from gateway.app.paths import paths_of
from gateway.store.devices import DeviceStatus
from tests.app.broker_site import BrokerSite, is_open, open_directory
from tests.firmware.node_site import DEVICE, SECRET, SITE_KEY, WAIT_S, Gateway, Site
from tests.firmware.unix_node import UnixNode


@asynccontextmanager
async def tls_site() -> AsyncIterator["TlsSite"]:
    """A site that is not on yet; off afterwards."""
    with open_directory() as place:
        made = TlsSite(place)
        try:
            yield made
        finally:
            await made.stop()


class TlsSite(Site):
    """The node is MicroPython's unix port; the gateway uses the broker's plain port."""

    broker: BrokerSite
    node: UnixNode

    def __init__(self, place: Path) -> None:
        super().__init__(place, "unix")

    async def start(self) -> str:
        """Everything on; the node's session."""
        self.provision()
        return await super().start()

    async def broker_on(self) -> None:
        """The broker takes connections."""
        await self.broker.start()
        # Its second listener comes after its first.
        async with asyncio.timeout(WAIT_S):
            while not is_open(self.broker.plain_port):
                await asyncio.sleep(0.02)

    def provision(self, *, time_s: int | None = None, **changes: object) -> None:
        """What the bench writes; it has `broker write` behind it. Raises OSError without."""
        ca = (self.broker.directory / "ca.pem").read_text(encoding="ascii")
        broker = {"host": "localhost", "port": self.gate.port, "ca": ca} | changes
        time_s = self.clock.utc_ms() // 1_000 if time_s is None else time_s
        self.node.provision(DEVICE, SECRET, broker, time_s)

    def _make_broker(self, place: Path) -> None:
        broker = self.broker = BrokerSite(place)
        broker.configure(more=f", plain_port: {broker.plain_port}")
        kept = paths_of(broker.config).control_dir / "node.key"
        kept.write_text(SITE_KEY.hex() + "\n", encoding="ascii")
        kept.chmod(0o600)
        broker.record(DEVICE, DeviceStatus.APPROVED)
        broker.write()
        self.gateway = Gateway(broker.plain_port, gateway_password(SITE_KEY))

    def _told_of_broker(self) -> dict[str, object]:
        return {}
