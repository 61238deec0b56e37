"""Leases where something is in doubt: the clock, the counter, the mass-cut breaker; real broker."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.masscut import MassCutLimits
from gateway.core.requests import CommissionPoint as Commission
from gateway.core.requests import (
    ConfirmReconnect,
    OpenAccount,
    PublishTariff,
    Recharge,
    Role,
    SetDevice,
)
from gateway.core.switching import Reason
from tests.app.control_site import PRICE_NANO, TARIFF
from tests.app.node_site import NodeSite, ScriptedNode, alive, until
from tests.south.mosquitto import Mosquitto, needs_broker

pytestmark = [needs_broker, pytest.mark.slow]

UNLIMITED_WH = 2**31 - 1
BY_TIME = TARIFF.replace(
    '"grid": {"price": "8.00"}',
    '"grid": {"bands": {"day": {"price": "8.00", "when": [{"from": "06:00", "to": "22:00"}]}, '
    '"night": {"price": "8.00", "when": [{"from": "22:00", "to": "06:00"}]}}}',
)
FREE_FIRST = TARIFF.replace(
    '"grid": {"price": "8.00"}',
    '"blocks_count": "occupancy", '
    '"grid": {"blocks": [{"upto_kwh": 1, "price": "0.00"}, {"price": "8.00"}]}',
)


async def served(site: NodeSite, node: ScriptedNode, *, balance_nano: int) -> int:
    """The node of the file has an account and its first lease; up to which counter."""
    await until(lambda: site.point(1).last is not None)
    await site.open_flat(balance_nano, index=1)
    await until(lambda: node.lease is not None)
    return cutoff_of(node)


def cutoff_of(node: ScriptedNode) -> int:
    """The counter at which a node opens by itself."""
    assert node.lease is not None
    return int(str(node.lease["cutoff_wh"]))


async def doubt_clock(site: NodeSite) -> None:
    """As after a power cut without a time service: nobody has confirmed the clock."""
    site.sweeper._confirmed = False
    site.sweeper._judged_ns = 0
    await until(lambda: not site.engine.gate.clock.trusted)


async def test_who_pays_while_the_clock_is_in_doubt_is_not_cut(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """The lease rises with a recharge, never ends, and is the usual one once the clock is known."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        first_wh = await served(site, node, balance_nano=50 * PRICE_NANO)
        await doubt_clock(site)
        await site.do(Recharge("flat-2", 1_000 * PRICE_NANO, "counter", "r-1"))
        await until(lambda: cutoff_of(node) > node.energy_wh + 1_050)
        assert node.lease is not None
        assert node.lease["expires"] == 0
        node.step_wh = 20
        await until(lambda: node.energy_wh > first_wh + 100)
        node.step_wh = 0
        assert node.closed
        site.sweeper.confirm_clock()
        await until(lambda: node.lease is not None and node.lease["expires"] != 0)
        assert node.closed
    assert site.proof().problem_count == 0
    site.crash()


async def test_where_time_sets_the_price_no_lease_cuts_while_the_clock_is_in_doubt(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Nor does the gateway itself there; both again with the clock."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await until(lambda: site.point(1).last is not None)
        await site.do(PublishTariff(BY_TIME))
        await site.do(OpenAccount("flat-2", "flat-2", "home", opening_balance_nano=50 * PRICE_NANO))
        await site.do(Commission("flat-2"))
        await until(lambda: node.lease is not None)
        first_wh = cutoff_of(node)
        assert first_wh < UNLIMITED_WH
        await doubt_clock(site)
        await until(lambda: cutoff_of(node) == UNLIMITED_WH)
        node.step_wh = 20
        await until(lambda: node.energy_wh > first_wh + 200)
        node.step_wh = 0
        assert node.closed
        site.sweeper.confirm_clock()
        await until(lambda: cutoff_of(node) < UNLIMITED_WH)
        await until(lambda: not node.closed)
    assert site.proof().problem_count == 0
    site.crash()


async def test_energy_that_is_held_cuts_nobody_and_locks_nobody_out(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """The lease is lifted with the hold, also where it had cut before: a confirmation closes."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        first_wh = await served(site, node, balance_nano=50 * PRICE_NANO)
        site.point(1).guard._p_max_w = 100
        node.energy_wh += 60
        await until(lambda: site.point(1).guard.held)
        # The node is faster than the gateway: its old lease has opened it.
        node.closed, node.reasons = False, {"lease"}
        await until(lambda: site.point(1).supply.reconnection_pending)
        assert Reason.CREDIT not in site.point(1).supply.reasons
        await until(lambda: cutoff_of(node) == UNLIMITED_WH)
        await site.do(ConfirmReconnect("flat-2"))
        await until(lambda: node.closed)
        node.step_wh = 20
        await until(lambda: node.energy_wh > first_wh + 200)
        assert node.closed
        assert not site.events("FAILED_TO_CLOSE")
    site.crash()


async def test_what_the_mass_cut_breaker_holds_back_no_lease_cuts(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """A cut that waits for its turn waits at the node too; then the gateway cuts."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        first_wh = await served(site, node, balance_nano=50 * PRICE_NANO)
        usual = site.engine.breaker.limits
        site.engine.breaker.limits = MassCutLimits(max_cuts=0, max_percent=0)
        node.step_wh = 2
        await until(lambda: Reason.CREDIT in site.point(1).supply.reasons)
        node.step_wh = 0
        await until(lambda: cutoff_of(node) == UNLIMITED_WH)
        node.step_wh = 20
        await until(lambda: node.energy_wh > first_wh + 200)
        node.step_wh = 0
        assert node.closed
        site.engine.breaker.limits = usual
        await until(lambda: not node.closed)
        assert node.reasons == {"command"}
        await until(lambda: cutoff_of(node) == node.energy_wh)
    site.crash()


async def test_a_lease_that_a_node_refuses_again_and_again_is_told_once(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """After three refusals; and when it takes one."""
    site = NodeSite(tmp_path, broker.port, speed=60)
    node = site.node("node-2")
    node.refuses["lease"] = "STORAGE_FULL"
    async with site.running(), alive(node):
        await until(lambda: site.point(1).last is not None)
        await site.open_flat(50 * PRICE_NANO, index=1)
        await until(lambda: node.refused.count("STORAGE_FULL") == 2)
        assert not site.events("NODE_LEASE_REFUSED")
        await until(lambda: node.refused.count("STORAGE_FULL") > 4)
        assert site.events("NODE_LEASE_REFUSED") == [("flat-2", "warning")]
        (facts,) = [facts for kind, *_, facts in site.happened if kind == "NODE_LEASE_REFUSED"]
        assert facts["code"] == "STORAGE_FULL"
        node.refuses.clear()
        await until(lambda: len(site.events("NODE_LEASE_REFUSED")) == 2)
        assert site.events("NODE_LEASE_REFUSED")[1] == ("flat-2", "cleared")
        await asyncio.sleep(0.2)
        assert node.lease is not None
    site.crash()


async def test_a_node_that_is_heard_and_answers_no_lease_is_told_once(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """It does not hear the gateway: that looks like nothing from outside, until it is alone."""
    site = NodeSite(tmp_path, broker.port, speed=60)
    node = site.node("node-2")
    node.deaf.add("lease")
    async with site.running(), alive(node):
        await until(lambda: site.point(1).last is not None)
        await site.open_flat(50 * PRICE_NANO, index=1)
        await until(lambda: site.events("NODE_LEASE_REFUSED"), 30)
        (facts,) = [facts for kind, *_, facts in site.happened if kind == "NODE_LEASE_REFUSED"]
        assert facts["code"] == "METER_TIMEOUT"
        assert site.group.counts["failed METER_TIMEOUT"] >= 3
        node.deaf.clear()
        await until(lambda: len(site.events("NODE_LEASE_REFUSED")) == 2)
        assert site.events("NODE_LEASE_REFUSED")[1] == ("flat-2", "cleared")
    site.crash()


async def test_where_only_the_first_energy_is_free_a_node_that_is_alone_cuts(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """One kWh is free, then 50 Wh are paid for: the lease is what is left of both."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await until(lambda: site.point(1).last is not None)
        await site.do(PublishTariff(FREE_FIRST))
        await site.do(OpenAccount("flat-2", "flat-2", "home", opening_balance_nano=50 * PRICE_NANO))
        await site.do(Commission("flat-2"))
        begun_wh = node.energy_wh
        await until(lambda: node.lease is not None)
        # With its margin of 100 Wh and one percent.
        assert cutoff_of(node) == begun_wh + 1_051 + 110
        assert node.lease is not None
        assert node.lease["policy"] == "hold"
        node.step_wh = 50
        await until(lambda: node.energy_wh > begun_wh + 1_000)
        node.step_wh = 0
        await until(lambda: cutoff_of(node) < begun_wh + 1_051 + 110)
        left_wh = begun_wh + 1_050 - node.energy_wh
        assert begun_wh + 1_050 <= cutoff_of(node) <= begun_wh + 1_051 + 3 * (100 + left_wh // 100)
    site.crash()


async def test_a_node_that_stays_alone_knows_of_the_months_to_come(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """One kWh is free each month: that of this one and of two more, whenever the lease ends."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    monthly = FREE_FIRST.replace('"blocks_count": "occupancy", ', "")
    async with site.running(), alive(node):
        await until(lambda: site.point(1).last is not None)
        await site.do(PublishTariff(monthly))
        await site.do(OpenAccount("flat-2", "flat-2", "home", opening_balance_nano=50 * PRICE_NANO))
        await site.do(Commission("flat-2"))
        await until(lambda: node.lease is not None)
        assert node.lease is not None
        assert node.lease["policy"] == "grace"
        # This month may end within the week, so the margin is of one kWh or of two.
        last_wh = cutoff_of(node) + int(str(node.lease["grace_wh"])) - node.energy_wh
        assert last_wh - 3_051 in (110, 120)
    site.crash()


async def test_what_an_older_gateway_has_kept_lifts_no_lease(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """It knew of no devices: until the first reading, which waits for kept ones, nothing moves."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with alive(node):
        async with site.running():
            first_wh = await served(site, node, balance_nano=50 * PRICE_NANO)
        site.restart(boot="boot-1")
        guard = site.point(1).guard
        kept = guard.snapshot()
        del kept["device"], kept["held_device"]
        guard.restore(kept, mono_ns=site.clock.mono_ns())
        node.spool = {1: [[1, 1, 0, 0, 1_000, 0, 0, 0, 0, 0]]}
        await node.publish("status", node.status(), retain=True)
        async with site.running():
            await until(lambda: site.group.counts["telemetry waiting"] > 15)
            assert site.point(1).last is None
            assert cutoff_of(node) == first_wh
    site.crash()


async def test_another_module_that_is_silent_after_the_restart_gets_no_cut_off_of_the_old_one(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """The node is back and its new meter says nothing, while kept readings of the old one come:
    the counter that it then shows is judged here first."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site, node, balance_nano=2_000 * PRICE_NANO)
        await site.do(SetDevice("node-2", '{"modules": [2]}'), Role.TECHNICIAN, "m-1")
        await asyncio.sleep(0.5)
        node.boot_id, node.seq, node.session = node.boot_id + 1, 0, "00000009" + "0" * 8
        node.says = {"quality": "bad"}
        node.last_seq = 0
        await node.publish("status", node.status(), retain=True)
        await asyncio.sleep(1.5)
        read, unix_s = site.point(1).last_sequence, node.clock.utc_ms() // 1_000
        node.spool = {1: [[1, 9, unix_s, 0, node.energy_wh, 2_300, 0, 0, 100, 7]]}
        await node.send_backlog()
        await until(lambda: not node.spool)
        assert site.point(1).last_sequence == read + 1
        await asyncio.sleep(1.5)
        assert cutoff_of(node) == UNLIMITED_WH
        await node.publish("status", node.status(), retain=True)
        node.energy_wh, node.says = 900_000, {}
        await until(lambda: site.point(1).guard.held)
        assert cutoff_of(node) == UNLIMITED_WH
        assert node.closed
    assert site.proof().problem_count == 0
    site.crash()


async def test_a_node_that_was_moved_waits_for_a_reading_of_where_it_is(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Its leases were held back at a point with a million readings; here are some dozens."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site, node, balance_nano=2_000 * PRICE_NANO)
        before = node.lease
        record = site.device("node-2")
        site.nodes.book.put(replace(record, state={**record.state, "lifted": [10**6, ""]}))
        await until(lambda: "lifted" not in site.device("node-2").state)
        await site.do(Recharge("flat-2", 5_000 * PRICE_NANO, "counter", "r-1"))
        await until(lambda: cutoff_of(node) != UNLIMITED_WH)
        await until(lambda: node.lease != before)
    site.crash()
