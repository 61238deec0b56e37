"""Events of nodes that come late, twice, or after another boot, over a real broker."""

import asyncio
from pathlib import Path
from typing import Final

import pytest

from tests.app.node_site import NodeSite, alive, until
from tests.south.mosquitto import Mosquitto, needs_broker

pytestmark = [needs_broker, pytest.mark.slow]

AT_S: Final = 1_764_000_000


async def test_an_event_counts_once_also_from_a_boot_that_is_over(tmp_path: Path) -> None:
    """Whose receipt was lost, that is sent again; the same number in another boot is another."""
    broker = Mosquitto(tmp_path)
    await broker.start()
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    try:
        async with site.running(), alive(node):
            await until(lambda: site.point(1).last is not None)

            async def tell(session: str, boot_id: int, seq: int | None) -> None:
                told = {"device_id": "node-2", "session": session, "kind": "trip"}
                await node.publish("event", told | {"at": AT_S, "boot_id": boot_id, "seq": seq})

            for session, boot_id in (("00000000000000aa", 1), (node.session, 2)):
                for seq in (1, 2, 1, 2, 2):
                    await tell(session, boot_id, seq)
            # The older form has no numbers: each is another.
            await tell(node.session, 2, None)
            await tell(node.session, 2, None)
            await until(lambda: len(site.events("NODE_EVENT")) == 6)
            await asyncio.sleep(0.3)
            found = site.events("NODE_EVENT")
            assert len(found) == 6
            bodies = [body for kind, _, _, body in site.happened if kind == "NODE_EVENT"]
            assert {body["at_ms"] for body in bodies} == {AT_S * 1_000}
            assert site.group.counts["event duplicate"] == 6
    finally:
        await broker.kill()
    site.crash()
