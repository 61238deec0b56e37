"""ESP32 nodes end to end over a real broker: approved, metered, cut, restored, and faults."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.requests import (
    ApproveDevice,
    ConfirmReconnect,
    Recharge,
    Role,
)
from gateway.core.switching import Reason
from gateway.store.commands import find_outcome
from gateway.store.devices import DeviceStatus
from tests.app.control_site import PRICE_NANO
from tests.app.node_site import NodeSite, alive, until
from tests.south.mosquitto import OpenBroker, needs_broker

pytestmark = [needs_broker, pytest.mark.slow]


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[OpenBroker]:
    """A broker that runs."""
    made = OpenBroker(tmp_path)
    await made.start()
    yield made
    await made.kill()


def code_of(site: NodeSite, key: str) -> str:
    """Why a request was refused; empty when it was not."""
    outcome = find_outcome(site.file.connection, key)
    assert outcome is not None
    return outcome.code


async def test_a_node_is_approved_metered_cut_recharged_confirmed_and_closed(
    broker: OpenBroker, tmp_path: Path
) -> None:
    """The main job: a device nobody knows becomes a customer's meter, money decides its supply."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-aabbccddeeff")
    async with site.running(), alive(node):
        await until(lambda: site.events("DEVICE_PENDING"))
        assert site.device(node.device_id).status is DeviceStatus.PENDING
        assert site.point().last is None
        await site.do(ApproveDevice(node.device_id, "flat-1"), Role.TECHNICIAN)
        await until(lambda: site.point().last is not None)
        await site.open_flat(20 * PRICE_NANO)
        node.step_wh = 1
        await until(lambda: not node.closed)
        assert ("relay", {"closed": False}) in node.told
        await until(lambda: site.events("SUPPLY_CUT"))
        assert site.point().supply.reasons == {Reason.CREDIT}
        assert site.point().available_nano <= 0
        node.step_wh = 0
        await site.do(Recharge("flat-1", 1_000 * PRICE_NANO, "counter", "r-1"), Role.MANAGER)
        assert not site.point().supply.reasons
        await asyncio.sleep(0.5)
        assert not node.closed
        await site.do(ConfirmReconnect("flat-1"))
        await until(lambda: site.events("SUPPLY_RESTORED"))
        assert node.closed
    assert site.proof().problem_count == 0
    assert node.refused == []
    site.crash()
