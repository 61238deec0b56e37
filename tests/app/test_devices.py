"""Devices on record: who serves whom, how many may wait, and what a site without nodes pays."""

import subprocess
import sys

import pytest

from gateway.app.config import NodeConfig
from gateway.app.config_model import MeterSettings
from gateway.app.config_place import Place
from gateway.app.control.devices import PENDING_MAX, PENDING_PER_MINUTE, DeviceBook
from gateway.core.sealing import command_key, device_secret
from gateway.store.devices import DeviceRecord, DeviceStatus
from tests.app.control_site import HandClock

KEY = bytes(32)


def node(meter_id: str, device: str = "") -> NodeConfig:
    """A node of the configuration."""
    return NodeConfig(
        meter_id=meter_id,
        model="pzem-node",
        label="",
        feeder="main",
        service_point_id=meter_id,
        account_id=meter_id,
        critical=False,
        settings=MeterSettings(),
        place=Place("config.yaml", 1, 1),
        device=device,
    )


def record(device_id: str, status: DeviceStatus, meter_id: str | None = None) -> DeviceRecord:
    """A device on record."""
    return DeviceRecord(device_id, status, meter_id, 1, "", 0, 0)


class Told:
    """Events, as they were told."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def __call__(self, kind: str, subject: str, severity: str, **facts: object) -> None:
        del subject, severity, facts
        self.kinds.append(kind)


def book(nodes: list[NodeConfig], *records: DeviceRecord) -> tuple[DeviceBook, HandClock, Told]:
    """A book, its clock, and what it told."""
    clock, told = HandClock(), Told()
    found = {one.device_id: one for one in records}
    return DeviceBook(nodes, found, KEY, clock, told), clock, told


def test_the_file_comes_first_then_a_persons_word_then_the_meters_own_name() -> None:
    """One device a meter; the others are strangers."""
    approved = record("node-b", DeviceStatus.APPROVED, "m-2")
    found, _, _ = book([node("m-1", "node-a"), node("m-2"), node("m-3")], approved)
    names = ("node-a", "node-b", "m-3", "m-1", "m-2", "node-z")
    assert [found.index_of(name) for name in names] == [0, 1, 2, None, None, None]


def test_the_file_approves_who_waits_and_nobody_who_is_shut_out() -> None:
    """A pending device that the file names serves at once; a person's refusal stands."""
    pending = record("node-a", DeviceStatus.PENDING)
    refused = record("node-b", DeviceStatus.REFUSED)
    shut_out = record("node-c", DeviceStatus.QUARANTINED, "m-3")
    nodes = [node(f"m-{n}", f"node-{c}") for n, c in ((1, "a"), (2, "b"), (3, "c"))]
    found, _, told = book(nodes, pending, refused, shut_out)
    assert [found.index_of(f"node-{c}") for c in "abc"] == [0, None, None]
    assert told.kinds == ["DEVICE_APPROVED"]
    assert [one.meter_id for one in found.take_changed()] == ["m-1"]
    assert found.take_changed() == []


def test_a_key_is_of_the_generation_on_record() -> None:
    """The third secret of this device, and no other."""
    one = DeviceRecord("node-a", DeviceStatus.APPROVED, "m-1", 3, "", 0, 0)
    found, _, _ = book([node("m-1")], one)
    assert found.key_of("node-a") == command_key(device_secret(KEY, "node-a", 3))


def test_a_flood_of_strangers_is_taken_up_slowly_and_to_a_bound() -> None:
    """So many a minute, so many at all; each is told once."""
    found, clock, told = book([node("m-1")])
    for number in range(1_000):
        found.knock(f"flood-{number}", "")
    assert len(found.records) == PENDING_PER_MINUTE
    for minute in range(20):
        clock.pass_s(61)
        for number in range(100):
            found.knock(f"flood-{minute}-{number}", "")
    assert len(found.records) == PENDING_MAX
    assert found.dropped == 1_000 + 2_000 - PENDING_MAX
    assert told.kinds == ["DEVICE_PENDING"] * PENDING_MAX


@pytest.mark.slow
def test_a_site_without_nodes_does_not_load_the_library_of_their_broker() -> None:
    """Control starts without it."""
    look = "import gateway.app.control.process, sys; sys.exit('aiomqtt' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0
