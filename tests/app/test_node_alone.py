"""What a node is granted, told and heard of around the times when it is alone; a real broker."""

import asyncio
import signal
from pathlib import Path

import pytest

from gateway.core.override import OverrideKind
from gateway.core.requests import (
    ConfigureAccount,
    ConfirmReconnect,
    Recharge,
    SetLimits,
    SetOverride,
)
from gateway.core.switching import Reason
from tests.app.control_site import NS, PRICE_NANO
from tests.app.node_site import NodeSite, ScriptedNode, alive, until
from tests.south.mosquitto import Mosquitto, needs_broker

pytestmark = [needs_broker, pytest.mark.slow]

UNLIMITED_WH = 2**31 - 1
EMERGENCY = '{"emergency": {"limit": "8.00", "threshold": "400.00"}}'


async def served(site: NodeSite, *, balance_nano: int = 10_000 * PRICE_NANO) -> None:
    """The node of the file is read, its account open, its supply enforced."""
    await until(lambda: site.point(1).last is not None)
    await site.open_flat(balance_nano, index=1)


def lease_of(node: ScriptedNode, *names: str) -> tuple[object, ...]:
    """Fields of the lease that a node holds; None for what is not in it."""
    lease = node.lease or {}
    return tuple(lease.get(name) for name in names)


LIMITS = ("limit_w", "emergency_limit_w", "emergency_wh")


async def test_a_lease_has_the_points_limits_and_the_counter_of_emergency_credit(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """As they are set, agreed and used; the cut-off is as without them."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site, balance_nano=50 * PRICE_NANO)
        await until(lambda: node.lease is not None)
        assert lease_of(node, *LIMITS) == (0, 0, None)
        await site.do(SetLimits("flat-2", 3_000, 0, 1_000, "contract"))
        await until(lambda: lease_of(node, "limit_w") == (3_000,))
        # No emergency credit was agreed: there is nothing for a lower limit.
        assert lease_of(node, *LIMITS) == (3_000, 0, None)
        await site.do(ConfigureAccount("flat-2", EMERGENCY))
        await until(lambda: lease_of(node, "emergency_limit_w") == (1_000,))
        begins_wh, cutoff_wh = lease_of(node, "emergency_wh", "cutoff_wh")
        base_wh = node.energy_wh
        assert base_wh + 50 < int(str(begins_wh)) <= base_wh + 50 + 110
        # 8.00 of emergency credit are 1,000 Wh more.
        assert base_wh + 1_050 < int(str(cutoff_wh)) <= base_wh + 1_050 + 120
        await site.do(SetLimits("flat-2", 0, 0, 0, "none any more"))
        await until(lambda: lease_of(node, *LIMITS) == (0, 0, None))
        assert site.device("node-2").state["lease"]
    assert site.proof().problem_count == 0
    site.crash()


async def test_an_older_firmware_gets_the_lease_that_it_knows(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Limits are 0, and there is no field that it would refuse."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    node.can = []
    async with site.running(), alive(node):
        await served(site, balance_nano=50 * PRICE_NANO)
        await site.do(ConfigureAccount("flat-2", EMERGENCY))
        await site.do(SetLimits("flat-2", 3_000, 0, 1_000, "contract"))
        node.told.clear()
        await site.do(Recharge("flat-2", 900 * PRICE_NANO, "counter", "r-1"))
        await until(lambda: [kind for kind, _ in node.told].count("lease") > 0)
        await asyncio.sleep(0.5)
        assert node.lease is not None
        assert sorted(node.lease) == [
            "cutoff_wh",
            "emergency_limit_w",
            "epoch",
            "expires",
            "grace_wh",
            "limit_w",
            "policy",
            "seq",
        ]
        assert lease_of(node, *LIMITS) == (0, 0, None)
    site.crash()


async def test_a_trip_of_a_node_that_was_alone_is_gone_on_with(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Told to stay open, told once, and closed as after a trip of the gateway's own."""
    site = NodeSite(tmp_path, broker.port, speed=30)
    node = site.node("node-2")
    async with alive(node):
        async with site.running():
            await served(site)
            await site.do(SetLimits("flat-2", 3_000, 0, 0, "contract"))
            await until(lambda: lease_of(node, "limit_w") == (3_000,))
        node.closed, node.reasons = False, {"limit"}
        node.told.clear()
        site.restart(boot="boot-1")
        async with site.running():
            await until(lambda: site.events("OVERLOAD_TRIPPED"))
            begun_ns = site.clock.mono_ns()
            await until(lambda: ("relay", {"closed": False}) in node.told)
            assert site.point(1).supply.reasons == {Reason.OVERLOAD}
            assert node.reasons == {"limit", "command"}
            # The node's own hold is over; supply is the gateway's matter.
            node.reasons = {"command"}
            await until(lambda: not site.point(1).supply.reasons)
            assert 115 * NS < site.clock.mono_ns() - begun_ns < 200 * NS
            if site.point(1).supply.needs_person:
                await site.do(ConfirmReconnect("flat-2"))
            await until(lambda: node.closed)
            assert site.events("OVERLOAD_TRIPPED") == [("flat-2", "notice")]
            assert not site.events("OUTPUT_DIFFERS")
            relays = [args for kind, args in node.told if kind == "relay"]
            assert relays == [{"closed": False}, {"closed": True}]
    assert site.proof().problem_count == 0
    site.crash()


async def test_who_is_cut_for_credit_has_no_margin_until_there_is_credit(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """The lease ends at the counter; with the first credit it is as for everybody."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site, balance_nano=50 * PRICE_NANO)
        await until(lambda: node.lease is not None)
        node.step_wh = 1
        await until(lambda: site.events("SUPPLY_CUT"))
        node.step_wh = 0
        await until(lambda: lease_of(node, "cutoff_wh") == (node.energy_wh,))
        node.told.clear()
        await asyncio.sleep(1.0)
        assert "lease" not in [kind for kind, _ in node.told]
        await site.do(Recharge("flat-2", 100 * PRICE_NANO, "counter", "r-1"))
        await site.do(ConfirmReconnect("flat-2"))
        await until(lambda: site.events("SUPPLY_RESTORED"))
        assert node.closed
        left_wh = site.point(1).available_nano // PRICE_NANO
        (cutoff_wh,) = lease_of(node, "cutoff_wh")
        assert node.energy_wh + left_wh + 100 <= int(str(cutoff_wh))
    assert site.proof().problem_count == 0
    site.crash()


async def test_who_an_override_keeps_on_is_not_cut_by_a_lease(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """From its beginning, also where nothing is held back yet."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site, balance_nano=50 * PRICE_NANO)
        await until(lambda: node.lease is not None)
        until_ms = site.clock.utc_ms() + 3_600_000
        kind = OverrideKind.KEEP_CONNECTED.value
        await site.do(SetOverride(kind, "point", "flat-2", until_ms, "illness"))
        await until(lambda: lease_of(node, "cutoff_wh") == (UNLIMITED_WH,))
    site.crash()


async def test_a_second_module_is_shown_and_its_silence_told_once(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Nobody is charged by it; its values cost no commit of their own."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    first = {"address": 1, "quality": "good", "energy_wh": 1_000, "power_w": 0.0}
    second = {"address": 7, "quality": "good", "energy_wh": 5, "power_w": 12.5}
    node.modules = [first, second]
    async with alive(node):
        async with site.running():
            await served(site)
            await until(lambda: node.lease is not None)
            await until(lambda: site.device("node-2").state.get("lease"))
            assert site.device("node-2").state["modules"]
            node.modules = [first, second | {"energy_wh": 9, "power_w": 99.0}]
            await asyncio.sleep(0.5)
            kept = site.device("node-2").state["modules"]
            assert isinstance(kept, list)
            assert (kept[1]["address"], kept[1]["energy_wh"], kept[1]["power_w"]) == (7, 5, 12.5)
            charged = site.point(1).running_nano
            node.modules = [first, {"address": 7, "quality": "bad", "energy_wh": 9}]
            await until(lambda: site.events("NODE_MODULE_SILENT"))
            await asyncio.sleep(0.5)
            assert site.events("NODE_MODULE_SILENT") == [("flat-2", "warning")]
            assert site.point(1).running_nano == charged
            assert not site.events("METER_AWAY")
        site.restart(boot="boot-1")
        async with site.running():
            await until(lambda: site.point(1).last is not None)
            await asyncio.sleep(0.5)
            assert len(site.events("NODE_MODULE_SILENT")) == 1
            node.modules = [first, second]
            await until(lambda: ("flat-2", "cleared") in site.events("NODE_MODULE_SILENT"))
            (told, _) = [f for kind, *_, f in site.happened if kind == "NODE_MODULE_SILENT"]
            assert told == {"address": 7}
    site.crash()


async def test_a_command_into_a_frozen_broker_is_sent_once(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """What timed out is looked at in telemetry; the node opens once and hears one command."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site, balance_nano=10 * PRICE_NANO)
        await until(lambda: node.lease is not None)
        sent = site.group.counts["commands"]
        broker.signal(signal.SIGSTOP)
        failed = asyncio.create_task(site.group.order(1, "relay", {"closed": False}))
        await asyncio.wait([failed])
        assert failed.exception() is not None
        assert site.group.counts["commands"] - sent <= 2
        broker.signal(signal.SIGCONT)
        await until(lambda: ("relay", {"closed": False}) in node.told, 30)
        await asyncio.sleep(1.0)
        assert node.told.count(("relay", {"closed": False})) == 1
    site.crash()


async def test_figures_tell_of_all_nodes_together(broker: Mosquitto, tmp_path: Path) -> None:
    """Messages, refusals and failures by code, devices by state, readings that wait."""
    site = NodeSite(tmp_path, broker.port)
    node, stranger = site.node("node-2"), site.node("node-9")
    async with site.running(), alive(node, stranger):
        await served(site)
        await until(lambda: site.events("DEVICE_PENDING"))
        # Before it knows the time it refuses an order for that, which is a failure of its own.
        await until(lambda: node.ahead_s is not None)
        await node.publish("telemetry", b"{")
        node.refuses["identify"] = "BAD_FORM"
        with pytest.raises(Exception, match="BAD_FORM"):
            await site.group.order(1, "identify", {"seconds": 1})
        node.spool = {4: [[1, 1, 0, 0, 1_000, 0, 0, 0, 0, 0]] * 3}
        await node.publish("status", node.status(), retain=True)
        await until(lambda: site.nodes.figures()["node_records_waiting"] == 3)
        figures = site.nodes.figures()
        assert figures["nodes"] == {"online": 1, "pending": 1}
        assert figures["node_messages_refused_total"] == {"METER_PROTOCOL": 1}
        assert figures["node_commands_failed_total"] == {"NODE_REFUSED": 1}
        assert isinstance(messages := figures["node_messages_total"], int)
        assert messages > 5
        assert isinstance(commands := figures["node_commands_total"], int)
        assert commands >= 2
    site.crash()
