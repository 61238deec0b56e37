"""ESP32 nodes end to end over a real broker: approved, metered, cut, restored, and faults."""

import asyncio
import signal
from pathlib import Path

import pytest

from gateway.core.reading import Reading
from gateway.core.requests import (
    ApproveDevice,
    ConfirmReconnect,
    Recharge,
    RefuseDevice,
    Role,
)
from gateway.core.switching import Reason
from gateway.store.commands import find_outcome
from gateway.store.devices import DeviceStatus, read_devices
from tests.app.control_site import NS, PRICE_NANO
from tests.app.node_site import NodeSite, alive, until
from tests.south.mosquitto import Mosquitto, needs_broker

pytestmark = [needs_broker, pytest.mark.slow]


def code_of(site: NodeSite, key: str) -> str:
    """Why a request was refused; empty when it was not."""
    outcome = find_outcome(site.file.connection, key)
    assert outcome is not None
    return outcome.code


async def test_a_node_is_approved_metered_cut_recharged_confirmed_and_closed(
    broker: Mosquitto, tmp_path: Path
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
        await until(lambda: node.closed)
    assert site.proof().problem_count == 0
    assert node.refused == []
    site.crash()


async def served(site: NodeSite, *, balance_nano: int = 10_000 * PRICE_NANO) -> None:
    """The second node is named by the file: it is read, its account open, its supply enforced."""
    await until(lambda: site.point(1).last is not None)
    await site.open_flat(balance_nano, index=1)


async def test_the_devices_of_the_file_are_approved_by_it_and_others_charge_nobody(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """A device id in the configuration, and a stranger beside it who is refused by a person."""
    site = NodeSite(tmp_path, broker.port)
    named, stranger = site.node("node-2"), site.node("node-9")
    async with site.running(), alive(named, stranger):
        await served(site)
        await until(lambda: site.events("DEVICE_PENDING"))
        assert site.events("DEVICE_APPROVED") == [("node-2", "notice")]
        assert site.point(0).last is None
        await site.do(RefuseDevice("node-9", ""), key="no-reason")
        await site.do(RefuseDevice("node-9", "not ours"), key="refused")
        await site.do(RefuseDevice("node-8", "never heard"), key="unknown")
        await site.do(ApproveDevice("node-9", "flat-2"), key="taken")
        await site.do(ApproveDevice("node-9", "flat-7"), key="no-meter")
        await site.do(ApproveDevice("node-9", "flat-1"), Role.OPERATOR, key="forbidden")
        keys = ("no-reason", "refused", "unknown", "taken", "no-meter", "forbidden")
        codes = [code_of(site, key) for key in keys]
        assert codes == [
            "REASON_MISSING",
            "",
            "DEVICE_UNKNOWN",
            "DEVICE_CONFIGURED",
            "METER_UNKNOWN",
            "FORBIDDEN",
        ]
        assert site.device("node-9").status is DeviceStatus.REFUSED
    assert read_devices(site.file.connection)["node-2"].meter_id == "flat-2"
    site.crash()


async def test_an_approved_device_that_is_refused_loses_its_secret(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Another generation: what was provisioned before obeys nobody and is obeyed by nobody."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-1")
    async with site.running(), alive(node):
        await until(lambda: site.events("DEVICE_PENDING"))
        await site.do(ApproveDevice("node-1", "flat-1"))
        await until(lambda: site.point().last is not None)
        before = site.nodes.book.key_of("node-1")
        await site.do(RefuseDevice("node-1", "stolen"))
        seen = site.point().last_sequence
        await asyncio.sleep(0.5)
        assert site.point().last_sequence == seen
        await site.do(ApproveDevice("node-1", "flat-1"))
        assert site.device("node-1").generation == 2
        assert site.nodes.book.key_of("node-1") != before
        await until(lambda: site.point().last_sequence > seen)
        node.told.clear()
        await until(lambda: "BAD_SEAL" in node.refused)
        assert node.told == []
    site.crash()


HOSTILE = (
    b"",
    b"\xff" * 100,
    b"[" * 8_000,
    b'{"energy_wh": NaN}',
    b'{"energy_wh": 1e400}',
    b'{"device_id": "node-3", "energy_wh": 1}',
    b"x" * 1_000_000,
    b'{"energy_wh": 999999999999, "seq": 99999999, "boot_id": 1, "session": "z"}',
)


async def test_hostile_messages_cost_an_event_and_nothing_else(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """NaN, a megabyte, another's id, a silly session: refused with a code; metering goes on."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site)
        node.period_s = 3.0
        await asyncio.sleep(0.3)
        for payload in HOSTILE:
            for kind in ("telemetry", "status", "event", "result"):
                await node.publish(kind, payload)
        await until(
            lambda: (
                site.group.counts["refused METER_PROTOCOL"]
                + site.group.counts["refused METER_IDENTITY"]
                >= 4 * len(HOSTILE)
            )
        )
        assert site.events("NODE_MESSAGE_REFUSED")
        assert not site.point(1).guard.held
        seen = site.point(1).last_sequence
        await until(lambda: site.point(1).last_sequence > seen)
        assert len(site.events("NODE_MESSAGE_REFUSED")) < len(HOSTILE)
    site.crash()


async def test_duplicates_and_older_messages_change_nothing(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Delivered twice, out of order, or kept by the broker: each message counts once."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site)
        node.period_s = 60.0
        await asyncio.sleep(0.3)
        first = node.telemetry(energy_wh=node.energy_wh + 3)
        second = node.telemetry(energy_wh=node.energy_wh + 5)
        for told in (first, second, second, first, first):
            await node.publish("telemetry", told)
        await node.publish("telemetry", first, retain=True)
        await until(lambda: site.group.counts["telemetry older"] >= 3)
        assert site.group.counts["telemetry duplicate"] == 1
        left_out = site.nodes.figures()["node_messages_left_out_total"]
        assert left_out == {"telemetry_duplicate": 1, "telemetry_older": 3}
        assert site.point(1).guard.registers_wh == (node.energy_wh + 5,)
        assert site.point(1).running_nano == 5 * PRICE_NANO
    site.crash()


async def test_a_counter_that_jumps_or_falls_with_another_boot_is_held(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """The guard judges nodes as it judges meters: no charge, no cut, a person decides."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    node.energy_wh = 100_000
    async with site.running(), alive(node):
        await served(site, balance_nano=50 * PRICE_NANO)
        node.boot_id, node.seq, node.session = 2, 0, "b" * 16
        # More than 400 kW can bring in the six minutes that a power cut may take back.
        node.energy_wh = 10
        await until(lambda: site.point(1).guard.held)
        assert site.events("REGISTER_HELD")
        assert site.point(1).running_nano == 0
        assert not site.point(1).supply.reasons
    site.crash()


async def test_what_a_power_cut_took_back_is_charged_once_and_nobody_is_asked(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Node and module were without power for a moment: the total is a little lower, and goes on."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    node.energy_wh = 500_000
    async with site.running(), alive(node):
        await served(site, balance_nano=10_000 * PRICE_NANO)
        node.energy_wh += 100
        await until(lambda: site.point(1).guard.registers_wh == (500_100,))
        before = site.point(1).available_nano
        node.boot_id, node.seq, node.session = 2, 0, "b" * 16
        node.energy_wh -= 40
        await until(lambda: site.point(1).guard.registers_wh == (500_060,))
        assert site.events("REGISTER_REGRESSION") == [("flat-2", "warning")]
        assert not site.point(1).guard.held
        assert site.point(1).available_nano == before
        node.energy_wh += 25
        await until(lambda: site.point(1).available_nano == before - 25 * PRICE_NANO)
        # Without a restart nothing explains such a fall.
        node.energy_wh -= 10
        await until(lambda: site.point(1).guard.held)
        assert site.events("REGISTER_HELD")
    assert site.proof().problem_count == 0
    site.crash()


async def test_two_devices_of_one_name_are_shut_out_and_others_go_on(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Sessions that take turns: quarantined, told, and approved anew by a person."""
    site = NodeSite(tmp_path, broker.port)
    twins = [site.node("node-2", boot_id=boot) for boot in (1, 2)]
    other = site.node("flat-1")
    async with site.running(), alive(*twins, other):
        await until(lambda: site.events("DEVICE_QUARANTINED"))
        seen = site.point(0).last_sequence
        await until(lambda: site.point(0).last_sequence > seen + 2)
        assert site.device("node-2").status is DeviceStatus.QUARANTINED
    site.crash()


async def test_a_broker_that_dies_is_told_once_and_found_again(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Killed and started anew: METER_AWAY after the nodes' time, then everything is back."""
    site = NodeSite(tmp_path, broker.port, speed=10)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site)
        await broker.kill()
        await until(lambda: ("flat-2", "warning") in site.events("METER_AWAY"))
        assert site.events("NODE_BROKER_AWAY")[-1] == ("site", "warning")
        assert [one for one in site.events("NODE_BROKER_AWAY") if one[1] == "warning"] == [
            ("site", "warning")
        ]
        await broker.start()
        await until(lambda: ("flat-2", "cleared") in site.events("METER_BACK"), 30)
        assert site.events("NODE_BROKER_AWAY")[-1] == ("site", "cleared")
    site.crash()


async def test_a_frozen_broker_is_noticed_and_a_cut_waits_for_it(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """It takes connections and says nothing: readings stop, nothing hangs, and it goes on."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site)
        broker.signal(signal.SIGSTOP)
        sweeps = site.engine.tallies.sweep_time.count
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await site.group.command(1, "read", {})
        assert site.engine.tallies.sweep_time.count > sweeps
        broker.signal(signal.SIGCONT)
        seen = site.point(1).last_sequence
        await until(lambda: site.point(1).last_sequence > seen, 40)
    site.crash()


async def test_control_stops_in_time_beside_a_frozen_broker(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """A goodbye that nobody takes is waited for no longer than a supervisor waits."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with alive(node):
        async with site.running():
            await served(site)
            broker.signal(signal.SIGSTOP)
            begun_ns = site.clock.mono_ns()
        assert site.clock.mono_ns() - begun_ns < 8 * NS
        broker.signal(signal.SIGCONT)
    site.crash()


async def test_a_gateway_that_dies_in_a_command_looks_before_it_repeats(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """The node opened and nobody heard it: the next run reads the output, sends nothing again."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with alive(node):
        async with site.running():
            await served(site, balance_nano=10 * PRICE_NANO)
            node.answers = False
            node.step_wh = 1
            await until(lambda: not node.closed)
            assert site.engine.commands
        site.restart(boot="boot-1")
        node.answers = True
        commands = [told for told in node.told if told[0] == "relay"]
        async with site.running():
            await until(lambda: site.point(1).supply.output_closed is False)
            await until(lambda: not site.engine.inherited)
            await asyncio.sleep(0.5)
            assert [told for told in node.told if told[0] == "relay"] == commands
            assert site.point(1).supply.reconnection_pending
    assert site.proof().problem_count == 0
    site.crash()


async def test_a_node_without_a_relay_is_metered_and_cannot_be_cut(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """The older form of telemetry: one alarm in place of a cut, cleared by a recharge."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    node.has_relay = False
    async with site.running(), alive(node):
        await served(site, balance_nano=5 * PRICE_NANO)
        node.step_wh = 1
        await until(lambda: site.events("CUT_IMPOSSIBLE"))
        await asyncio.sleep(0.5)
        assert site.events("CUT_IMPOSSIBLE") == [("flat-2", "critical")]
        assert site.point(1).supply.output_closed is None
        assert not site.events("FAILED_TO_OPEN")
        node.step_wh = 0
        await site.do(Recharge("flat-2", 1_000 * PRICE_NANO, "counter", "r-1"))
        await until(lambda: site.events("CUT_IMPOSSIBLE")[-1] == ("flat-2", "cleared"))
    assert site.proof().problem_count == 0
    site.crash()


async def test_a_lease_cuts_without_the_gateway_and_closing_needs_a_person(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Granted while all is well, reached while nobody looks; seen as the cut for credit."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with alive(node):
        async with site.running():
            await served(site, balance_nano=50 * PRICE_NANO)
            await until(lambda: node.lease is not None)
            lease = node.lease
            assert lease is not None
            base_wh = site.point(1).guard.registers_wh
            assert base_wh is not None
            assert base_wh[0] + 50 < int(str(lease["cutoff_wh"])) <= base_wh[0] + 50 + 110
            assert lease["policy"] == "hold"
        node.step_wh = 8
        await until(lambda: not node.closed)
        assert node.reasons == {"lease"}
        site.restart(boot="boot-1")
        relays = [told for told in node.told if told[0] == "relay"]
        async with site.running():
            await until(lambda: site.point(1).supply.output_closed is False)
            await asyncio.sleep(0.5)
            assert site.point(1).supply.reasons == {Reason.CREDIT}
            assert [told for told in node.told if told[0] == "relay"] == relays
            (cut,) = [facts for kind, *_, facts in site.happened if kind == "SUPPLY_CUT"]
            assert (cut["reasons"], cut["by"], cut["command"]) == (["CREDIT"], "lease", None)
            node.step_wh = 0
            await site.do(Recharge("flat-2", 1_000 * PRICE_NANO, "counter", "r-1"))
            await asyncio.sleep(0.5)
            assert not node.closed
            await site.do(ConfirmReconnect("flat-2"))
            await until(lambda: site.events("SUPPLY_RESTORED"))
            await until(lambda: node.closed)
    assert site.proof().problem_count == 0
    site.crash()


def kept(unix_s: int, energy_wh: int, *, flags: int = 7) -> list[int]:
    """A record of a node's memory: 230 V, 10 A, relay closed."""
    return [1, 1, unix_s, 0, energy_wh, 2_300, 10_000, 23_000, 100, flags]


async def test_what_a_node_kept_is_settled_in_its_order_before_what_is_live(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Each record at its own time; acknowledged once committed; sent again it changes nothing."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with alive(node):
        async with site.running():
            await served(site)
            begun_wh = node.energy_wh
        node.period_s = 0.3
        await asyncio.sleep(3.2)
        now_s = site.clock.utc_ms() // 1_000
        node.energy_wh += 90
        node.spool = {
            4: [kept(now_s - 2, begun_wh + 30), kept(0, begun_wh + 40, flags=6)],
            5: [kept(now_s - 1, begun_wh + 60), kept(now_s + 900, begun_wh + 999)],
        }
        await node.publish("status", node.status(), retain=True)
        site.restart(boot="boot-1")
        labels: list[tuple[int, bool]] = []
        taken = site.engine.on_reading

        def watch(index: int, reading: Reading) -> None:
            labels.append((reading.energy_wh[0] - begun_wh, reading.late))
            taken(index, reading)

        site.engine.on_reading = watch  # type: ignore[method-assign]
        async with site.running():
            await until(lambda: site.group.counts["telemetry waiting"] > 2)
            assert labels == []
            await node.send_backlog()
            await until(lambda: 4 not in node.spool)
            assert site.point(1).guard.registers_wh == (begun_wh + 30,)
            await node.send_backlog()
            await until(lambda: 5 not in node.spool)
            assert site.point(1).guard.registers_wh == (begun_wh + 60,)
            node.spool = {4: [kept(now_s - 2, begun_wh + 30)]}
            await node.send_backlog()
            await until(lambda: 4 not in node.spool)
            assert site.group.counts["backlog passed over"] == 3
            await node.publish("status", node.status(), retain=True)
            await until(lambda: site.point(1).guard.registers_wh == (begun_wh + 90,))
            assert labels[:3] == [(30, True), (60, True), (90, False)]
            assert not site.point(1).guard.held
            assert site.point(1).supply.output_closed
    assert site.proof().problem_count == 0
    site.crash()


async def test_live_readings_wait_a_minute_for_a_backlog_that_does_not_come(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """A node that says it has records and sends none is metered all the same."""
    site = NodeSite(tmp_path, broker.port, speed=30)
    node = site.node("node-2")
    node.spool = {1: [kept(0, 0)]}
    async with site.running(), alive(node):
        begun_ns = site.clock.mono_ns()
        await until(lambda: site.point(1).last is not None)
        assert 55 * NS < site.clock.mono_ns() - begun_ns < 90 * NS
        await node.publish("status", node.status(), retain=True)
        seen = site.point(1).last_sequence
        await until(lambda: site.point(1).last_sequence > seen + 3, 1.5)
    site.crash()


async def test_a_node_that_is_left_alone_hears_of_the_gateway(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """In five quiet minutes it would take the gateway for away and keep readings for nothing."""
    site = NodeSite(tmp_path, broker.port, speed=60)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site)
        await until(lambda: node.lease is not None)
        node.told.clear()
        begun_ns = site.clock.mono_ns()
        await until(lambda: len(node.told) > 1, 10)
        assert site.clock.mono_ns() - begun_ns < 300 * NS
        assert node.told[:2] == [("read", {})] * 2
    site.crash()
