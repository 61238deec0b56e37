"""Whose counter is charged when devices take turns at a meter, over a real broker."""

import asyncio
from pathlib import Path

import pytest

from gateway.core.requests import (
    ApproveDevice,
    Body,
    RefuseDevice,
    ReleaseQuarantine,
    ReplaceMeter,
    Role,
)
from gateway.store.commands import find_outcome
from gateway.store.replay import replay_ledger
from tests.app.control_site import PRICE_NANO
from tests.app.node_site import NodeSite, ScriptedNode, alive, until
from tests.south.mosquitto import Mosquitto, needs_broker

pytestmark = [needs_broker, pytest.mark.slow]


async def asked(site: NodeSite, body: Body, role: Role = Role.MANAGER) -> str:
    """Why a request was refused; empty where it was executed."""
    site.keys += 1
    key = f"asked-{site.keys}"
    await site.do(body, role, key)
    outcome = find_outcome(site.file.connection, key)
    assert outcome is not None
    return outcome.code


async def approve(site: NodeSite, node: ScriptedNode, meter_id: str) -> None:
    """Let a node that speaks serve a meter."""
    await until(lambda: node.device_id in site.nodes.book.records)
    assert await asked(site, ApproveDevice(node.device_id, meter_id)) == ""


async def serving(site: NodeSite, old: ScriptedNode) -> int:
    """The first device serves the first flat, has an account and was refused; its last counter."""
    async with alive(old):
        await approve(site, old, "flat-1")
        await until(lambda: site.point().last is not None)
        assert not site.point().guard.held
        await site.open_flat(10_000 * PRICE_NANO)
        old.energy_wh += 7
        await until(lambda: site.point().guard.registers_wh == (old.energy_wh,))
    assert await asked(site, RefuseDevice(old.device_id, "broken")) == ""
    sweeps = site.engine.tallies.sweep_time.count
    await until(lambda: site.engine.tallies.sweep_time.count > sweeps + 1)
    return old.energy_wh


def proved(site: NodeSite) -> None:
    """Chain, sums and replay agree."""
    assert site.proof().problem_count == 0
    assert replay_ledger(site.file.connection).differences == ()


@pytest.mark.parametrize("has_relay", [True, False])
async def test_an_exchanged_node_charges_nothing_before_a_person_gave_both_counters(
    broker: Mosquitto, tmp_path: Path, *, has_relay: bool
) -> None:
    """A counter a little higher fits the time since the last reading, and is not this customer's.

    Control starts anew before the other device is approved, and while it is held.
    """
    site = NodeSite(tmp_path, broker.port)
    old, new = site.node("node-a"), site.node("node-b")
    old.has_relay = new.has_relay = has_relay
    async with site.running():
        last_wh = await serving(site, old)
        owed_nano = site.point().running_nano
        assert owed_nano == 7 * PRICE_NANO
    new.energy_wh = last_wh + 20
    async with alive(new):
        site.restart()
        async with site.running():
            await approve(site, new, "flat-1")
            await until(lambda: site.point().guard.held)
            assert site.events("REGISTER_HELD") == [("flat-1", "warning")]
            new.energy_wh += 3
            await until(lambda: site.point().guard.held_wh == (23,))
        site.restart(boot="boot-2")
        async with site.running():
            seen = site.point().last_sequence
            await until(lambda: site.point().last_sequence > seen + 1)
            assert site.point().guard.held
            assert site.point().guard.registers_wh == (last_wh,)
            closing, opening = (last_wh + 2,), (new.energy_wh,)
            assert await asked(site, ReplaceMeter("flat-1", closing, opening, "broke")) == ""
            new.energy_wh += 5
            await until(lambda: site.point().guard.registers_wh == (new.energy_wh,))
            used_nano = 10_000 * PRICE_NANO - site.point().available_nano
            assert used_nano == (7 + 2 + 5) * PRICE_NANO
            assert not site.point().guard.held
    proved(site)
    site.crash()


async def test_a_device_that_was_not_read_yet_has_no_lease_of_the_one_before(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Its counter is far above, its module silent: the other's cut-off would cut it."""
    site = NodeSite(tmp_path, broker.port)
    old, new = site.node("node-a"), site.node("node-b")
    new.energy_wh = 10**6
    async with site.running():
        await serving(site, old)
        measured = new.telemetry
        new.telemetry = lambda **more: measured(quality="bad", **more)  # type: ignore[method-assign]
        async with alive(new):
            await approve(site, new, "flat-1")
            await until(lambda: site.group.device_at(0) is not None)
            await asyncio.sleep(1.5)
            assert new.lease is None
            new.telemetry = measured  # type: ignore[method-assign]
            await until(lambda: site.point().guard.held)
            await asyncio.sleep(1.0)
            assert new.closed
    site.crash()


async def test_a_held_exchange_may_be_answered_by_charging_nothing(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """`meter release --reject`: the new device's counter is the base from there on."""
    site = NodeSite(tmp_path, broker.port)
    old, new = site.node("node-a"), site.node("node-b")
    async with site.running():
        new.energy_wh = await serving(site, old) + 20
        async with alive(new):
            await approve(site, new, "flat-1")
            await until(lambda: site.point().guard.held)
            assert (
                await asked(
                    site, ReleaseQuarantine("flat-1", accept=False, reason="nobody counted")
                )
                == ""
            )
            new.energy_wh += 5
            await until(lambda: site.point().guard.registers_wh == (new.energy_wh,))
            assert 10_000 * PRICE_NANO - site.point().available_nano == 12 * PRICE_NANO
    proved(site)
    site.crash()


async def test_the_same_device_goes_on_where_it_was(broker: Mosquitto, tmp_path: Path) -> None:
    """Refused by mistake and approved again: nobody else counted, nothing is held."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-a")
    async with site.running():
        await serving(site, node)
        node.energy_wh += 2
        async with alive(node):
            await approve(site, node, "flat-1")
            await until(lambda: site.point().guard.registers_wh == (node.energy_wh,))
            assert site.point().running_nano == 9 * PRICE_NANO
    site.crash()


async def test_a_device_that_served_another_meter_meanwhile_is_another_device(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """What it counted there is charged there alone; the first meter that never had one is free."""
    site = NodeSite(tmp_path, broker.port, more=("flat-3",))
    node, other = site.node("node-a"), site.node("node-c")
    async with site.running():
        last_wh = await serving(site, node)
        async with alive(node):
            await approve(site, node, "flat-3")
            await until(lambda: site.point(2).last is not None)
            assert not site.point(2).guard.held
            node.energy_wh += 11
            await until(lambda: site.point(2).guard.registers_wh == (node.energy_wh,))
        assert await asked(site, RefuseDevice("node-a", "goes home")) == ""
    site.restart()
    async with site.running():
        async with alive(node):
            await approve(site, node, "flat-1")
            await until(lambda: site.point().guard.held)
            assert site.point().guard.registers_wh == (last_wh,)
            assert 10_000 * PRICE_NANO - site.point().available_nano == 7 * PRICE_NANO
        other.energy_wh = node.energy_wh + 1
        async with alive(other):
            await approve(site, other, "flat-3")
            await until(lambda: site.point(2).guard.held)
    proved(site)
    site.crash()


async def test_a_device_is_approved_for_nobody_but_whom_file_and_records_give_it(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Neither the file's device, nor one of a meter's name, nor one that serves another."""
    site = NodeSite(tmp_path, broker.port, more=("flat-3",))
    named, like, free = site.node("node-2"), site.node("flat-3"), site.node("node-a")
    async with site.running(), alive(named, like, free):
        await until(lambda: site.point(1).last is not None and site.point(2).last is not None)
        await approve(site, free, "flat-1")
        await until(lambda: site.point(0).last is not None)
        codes = [
            await asked(site, ApproveDevice(device_id, meter_id))
            for device_id, meter_id in (
                ("node-2", "flat-1"),
                ("flat-3", "flat-1"),
                ("node-a", "flat-3"),
                ("node-a", "flat-2"),
                ("node-2", "flat-2"),
                ("node-a", "flat-1"),
            )
        ]
        taken, given = "DEVICE_TAKEN", "DEVICE_CONFIGURED"
        assert codes == [given, given, taken, given, "", ""]
        book = site.nodes.book
        assert book.serves == {"node-2": 1, "node-a": 0, "flat-3": 2}
        owners = [site.device(name).meter_id for name in ("node-a", "node-2", "flat-3")]
        assert owners == ["flat-1", "flat-2", "flat-3"]
        await asyncio.sleep(0.3)
        assert [site.point(index).guard.owner for index in range(3)] == [
            "node-a",
            "node-2",
            "flat-3",
        ]
    site.crash()
