"""What people ask of a node, over a real broker: settings, restart, held counters, buttons."""

import asyncio
from pathlib import Path

import orjson
import pytest

from gateway.core.requests import (
    ApproveDevice,
    Body,
    Disconnect,
    IdentifyDevice,
    Recharge,
    Reconnect,
    RefuseDevice,
    ReleaseDevice,
    ReleaseQuarantine,
    ReplaceMeter,
    RestartDevice,
    Role,
    SetDevice,
)
from gateway.store.commands import find_outcome
from tests.app.control_site import PRICE_NANO
from tests.app.node_site import NodeSite, ScriptedNode, alive, until
from tests.south.mosquitto import Mosquitto, needs_broker

pytestmark = [needs_broker, pytest.mark.slow]


async def asked(site: NodeSite, body: Body, role: Role = Role.TECHNICIAN) -> tuple[str, str]:
    """Code and message of a request's outcome; the code is empty where it was executed."""
    site.keys += 1
    key = f"asked-{site.keys}"
    await site.do(body, role, key)
    outcome = find_outcome(site.file.connection, key)
    assert outcome is not None
    return outcome.code, outcome.message or str(outcome.result.get("message", ""))


def audited(site: NodeSite, action: str) -> list[dict[str, object]]:
    """What the audit chain holds of an action."""
    rows = site.file.connection.execute("SELECT body FROM audit ORDER BY seq").fetchall()
    found = [orjson.loads(row[0]) for row in rows]
    return [one for one in found if one.get("action") == action]


async def served(
    site: NodeSite, node: ScriptedNode, balance_nano: int = 10**6 * PRICE_NANO
) -> None:
    """The node of the file is read, its account open, its supply enforced, its lease granted."""
    await until(lambda: site.point(1).last is not None)
    await site.open_flat(balance_nano, index=1)
    await until(lambda: node.lease is not None)
    node.told.clear()


async def test_a_node_takes_settings_blinks_and_restarts_and_says_so(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Sent once, sealed; kept with its record; each in the audit chain with who asked."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    node.messages["settings"] = "after a restart: modules"
    async with alive(node):
        async with site.running():
            await served(site, node)
            wanted = SetDevice("node-2", '{"poll_s": 2, "modules": [1, 2]}')
            assert await asked(site, wanted) == ("", "after a restart: modules")
            assert await asked(site, SetDevice("node-2", '{"poll_s": 3}'), Role.MANAGER) == (
                "",
                "after a restart: modules",
            )
            assert await asked(site, IdentifyDevice("node-2", 30)) == ("", "")
            assert await asked(site, RestartDevice("node-2")) == ("", "")
            orders = [told for told in node.told if told[0] not in ("read", "time", "lease")]
            assert orders == [
                ("settings", {"poll_s": 2, "modules": [1, 2]}),
                ("settings", {"poll_s": 3}),
                ("identify", {"seconds": 30}),
                ("restart", {}),
            ]
            node.energy_wh += 1
            await asyncio.sleep(0.5)
            kept = {"poll_s": 3, "modules": [1, 2]}
            assert site.device("node-2").state["settings"] == kept
            (first, _) = audited(site, "set_device")
            assert (first["actor"], first["role"], first["result"]) == (
                "anna",
                "technician",
                "executed",
            )
            assert len(audited(site, "restart_device")) == 1
        site.restart(boot="boot-1")
        async with site.running():
            await until(lambda: site.point(1).last is not None)
            assert site.device("node-2").state["settings"] == kept
            assert site.proof().problem_count == 0
    site.crash()


async def test_what_a_node_cannot_take_is_refused_with_the_reason(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Before anything is sent where it is known here; else in the node's own words."""
    site = NodeSite(tmp_path, broker.port)
    node, stranger = site.node("node-2"), site.node("node-9")
    async with site.running(), alive(node, stranger):
        await served(site, node)
        await until(lambda: site.events("DEVICE_PENDING"))
        before: list[tuple[Body, str]] = [
            (SetDevice("node-2", "[]"), "SETTINGS_DOCUMENT"),
            (SetDevice("node-2", "{}"), "SETTING_UNKNOWN"),
            (SetDevice("node-2", '{"wifi": "x"}'), "SETTING_UNKNOWN"),
            (SetDevice("node-2", '{"poll_s": 0}'), "SETTING_RANGE"),
            (IdentifyDevice("node-2", 601), "IDENTIFY_RANGE"),
            (ReleaseDevice("node-2", count=True, reason=""), "REASON_MISSING"),
            (ReleaseDevice("node-2", count=True, reason="x", module_address=248), "MODULE_ADDRESS"),
            (RestartDevice("node-8"), "DEVICE_UNKNOWN"),
            (RestartDevice("node-9"), "DEVICE_NOT_APPROVED"),
        ]
        for body, code in before:
            assert (await asked(site, body))[0] == code
        assert (await asked(site, RestartDevice("node-2"), Role.OPERATOR))[0] == "FORBIDDEN"
        assert {kind for kind, _ in node.told} <= {"read", "lease", "time"}
        node.refuses["settings"] = "STORAGE_FULL"
        node.messages["settings"] = "it could not be kept"
        code, message = await asked(site, SetDevice("node-2", '{"poll_s": 2}'))
        assert (code, message) == ("NODE_REFUSED", "STORAGE_FULL: it could not be kept")
        assert "settings" not in site.device("node-2").state
        node.refuses["release"] = "UNKNOWN_TYPE"
        code, message = await asked(site, ReleaseDevice("node-2", count=False, reason="x"))
        assert code == "NODE_REFUSED"
        assert "firmware" in message
        node.deaf.add("restart")
        assert (await asked(site, RestartDevice("node-2")))[0] == "DEVICE_SILENT"
        assert [kind for kind, _ in node.told].count("restart") == 1
        node.period_s = 60.0
        await asyncio.sleep(0.5)
        await node.publish("status", {"online": False}, retain=True)
        await until(lambda: site.group.devices["node-2"].online is False)
        assert (await asked(site, RestartDevice("node-2")))[0] == "DEVICE_AWAY"
        await broker.kill()
        await until(lambda: not site.group._link.is_connected)
        site.group.devices["node-2"].online = True
        assert (await asked(site, RestartDevice("node-2")))[0] == "DEVICE_AWAY"
    site.crash()


async def test_an_exchanged_module_goes_on_without_a_charge(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Held by the node, told with both counters, released: nothing charged, nobody cut."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site, node)
        node.held_wh = 88_000
        await until(lambda: ("flat-2", "warning") in site.events("METER_AWAY"))
        away = next(facts for kind, *_, facts in site.happened if kind == "METER_AWAY")
        assert "device release" in str(away["reason"])
        await until(lambda: site.device("node-2").state["held"])
        assert site.device("node-2").state["held"] == {"counter_wh": 500, "held_wh": 88_000}
        assert (await asked(site, ReleaseQuarantine("flat-2", True, "x"), Role.MANAGER))[
            0
        ] == "NOTHING_HELD"
        seen, charged = site.point(1).last_sequence, site.point(1).running_nano
        found = await asked(site, ReleaseDevice("node-2", count=False, reason="PZEM exchanged"))
        assert found[0] == ""
        assert ("release", {"count": False}) in node.told
        await until(lambda: site.point(1).last_sequence > seen + 2)
        assert site.point(1).running_nano == charged
        assert site.events("METER_BACK")[-1] == ("flat-2", "cleared")
        await until(lambda: site.device("node-2").state["held"] is None)
        assert node.closed
        (row,) = audited(site, "release_device")
        assert (row["actor"], row["object"]) == (
            "anna",
            {
                "device_id": "node-2",
                "count": False,
                "reason": "PZEM exchanged",
                "module_address": 0,
            },
        )
        # What the old module counted after its last reading, where it is known.
        total_wh, left_nano = node.energy_wh, site.point(1).available_nano
        await site.do(ReplaceMeter("flat-2", (total_wh + 40,), (total_wh,), "old module"))
        await asyncio.sleep(0.5)
        assert site.point(1).available_nano == left_nano - 40 * PRICE_NANO
        assert not site.point(1).guard.held
        assert (await asked(site, ReleaseDevice("node-2", count=False, reason="again")))[
            0
        ] == "NODE_REFUSED"
    assert site.proof().problem_count == 0
    site.crash()


async def test_a_counted_jump_is_judged_by_the_gateway_before_any_lease_cuts(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """No cut-off meanwhile; held for a manager, whose word about the money ends it."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site, node, balance_nano=2_000 * PRICE_NANO)
        lease = node.lease
        assert lease is not None
        assert int(str(lease["cutoff_wh"])) < 100_000
        node.held_wh = 900_000
        await until(lambda: site.device("node-2").state["held"])
        assert await asked(site, ReleaseDevice("node-2", count=True, reason="was off")) == ("", "")
        order = [kind for kind, _ in node.told if kind in ("lease", "release")]
        assert order == ["lease", "release"]
        assert node.lease is not None
        assert node.lease["cutoff_wh"] == 2**31 - 1
        await until(lambda: site.point(1).guard.held)
        await asyncio.sleep(1.0)
        assert site.events("IMPLAUSIBLE_ENERGY")
        assert node.closed
        assert node.lease["cutoff_wh"] == 2**31 - 1
        assert await asked(site, ReleaseQuarantine("flat-2", False, "not his"), Role.MANAGER) == (
            "",
            "",
        )
        await until(lambda: node.lease is not None and node.lease["cutoff_wh"] != 2**31 - 1)
        assert node.energy_wh < int(str(node.lease["cutoff_wh"])) < node.energy_wh + 2_200
        assert node.closed
        assert not site.point(1).supply.reasons
    assert site.proof().problem_count == 0
    site.crash()


async def test_a_counted_advance_that_fits_its_time_is_charged(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Nobody is asked twice; the lease follows the credit that is left."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site, node, balance_nano=2_000 * PRICE_NANO)
        node.held_wh = 550
        await until(lambda: site.device("node-2").state["held"])
        node.period_s = 4.0
        await asyncio.sleep(0.5)
        before = site.point(1).available_nano
        assert await asked(site, ReleaseDevice("node-2", count=True, reason="was off")) == ("", "")
        # As long as the new total was not read, every cut-off would be of the old one.
        await asyncio.sleep(2.0)
        assert site.point(1).available_nano == before
        assert node.lease is not None
        assert node.lease["cutoff_wh"] == 2**31 - 1
        await until(lambda: site.point(1).available_nano == before - 50 * PRICE_NANO)
        await until(lambda: node.lease is not None and node.lease["cutoff_wh"] != 2**31 - 1)
        assert node.closed
    assert site.proof().problem_count == 0
    site.crash()


async def test_settings_that_a_node_refused_leave_its_lease_to_follow_the_credit(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Where nothing was set no restart is waited for, also where the lease itself was refused."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site, node, balance_nano=2_000 * PRICE_NANO)
        before = node.lease
        assert before is not None
        for kind in ("settings", "lease"):
            node.refuses[kind] = "STORAGE_FULL"
            refused = await asked(site, SetDevice("node-2", '{"modules": [2]}'))
            assert refused[0] == "NODE_REFUSED"
            del node.refuses[kind]
            await until(lambda: node.lease is not None and node.lease["cutoff_wh"] != 2**31 - 1)
        await site.do(Recharge("flat-2", 5_000 * PRICE_NANO, "counter", "r-1"))
        most_wh = int(str(before["cutoff_wh"]))
        await until(lambda: node.lease is not None and int(str(node.lease["cutoff_wh"])) > most_wh)
    site.crash()


async def test_settings_by_which_the_total_may_jump_leave_the_node_without_a_cut_off(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """A raised maximum lets a held counter go on, another first module has another counter."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site, node, balance_nano=2_000 * PRICE_NANO)
        node.held_wh = 900_000
        await until(lambda: site.device("node-2").state["held"])
        assert await asked(site, SetDevice("node-2", '{"p_max_w": 9000}')) == ("", "")
        order = [kind for kind, _ in node.told if kind in ("lease", "settings")]
        assert order == ["lease", "settings"]
        await until(lambda: site.point(1).guard.held)
        assert node.lease is not None
        assert node.lease["cutoff_wh"] == 2**31 - 1
        assert node.closed
        assert await asked(site, ReleaseQuarantine("flat-2", False, "not his"), Role.MANAGER) == (
            "",
            "",
        )
        await until(lambda: node.lease is not None and node.lease["cutoff_wh"] != 2**31 - 1)
        # Another module becomes the first after the restart: no sooner is its counter judged.
        assert await asked(site, SetDevice("node-2", '{"modules": [2]}')) == ("", "")
        await asyncio.sleep(1.5)
        assert node.lease["cutoff_wh"] == 2**31 - 1
        node.boot_id, node.seq, node.session = node.boot_id + 1, 0, "00000009" + "0" * 8
        await node.publish("status", node.status(), retain=True)
        await until(lambda: node.lease is not None and node.lease["cutoff_wh"] != 2**31 - 1)
        assert node.closed
    assert site.proof().problem_count == 0
    site.crash()


async def test_a_control_that_starts_again_waits_for_the_nodes_restart_too(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Another first module was set: no lease cuts on the old one's counter, whoever died since."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with alive(node):
        async with site.running():
            await served(site, node, balance_nano=2_000 * PRICE_NANO)
            assert await asked(site, SetDevice("node-2", '{"modules": [2]}')) == ("", "")
            assert node.lease is not None
            assert node.lease["cutoff_wh"] == 2**31 - 1
        site.restart(boot="boot-1")
        # As if control had ended before the node was told: what it holds is an old one.
        node.lease = {**node.lease, "cutoff_wh": 3_110}
        await node.publish("status", node.status(), retain=True)
        async with site.running():
            await until(lambda: site.point(1).last is not None)
            await until(lambda: node.lease is not None and node.lease["cutoff_wh"] == 2**31 - 1)
            await asyncio.sleep(1.5)
            assert node.lease["cutoff_wh"] == 2**31 - 1
            # Somebody sets another thing: that is no restart.
            assert await asked(site, SetDevice("node-2", '{"p_max_w": 9000}')) == ("", "")
            await asyncio.sleep(1.5)
            assert node.lease["cutoff_wh"] == 2**31 - 1
            node.boot_id, node.seq, node.session = node.boot_id + 1, 0, "00000009" + "0" * 8
            await node.publish("status", node.status(), retain=True)
            await until(lambda: node.lease is not None and node.lease["cutoff_wh"] != 2**31 - 1)
            await until(lambda: "lifted" not in site.device("node-2").state)
            assert node.closed
    assert site.proof().problem_count == 0
    site.crash()


async def test_modules_beside_the_meter_leave_its_lease_alone(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """The first one stays: its counter goes on, with its cut-off."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    node.modules = [{"address": one, "quality": "good", "energy_wh": 1_000} for one in (1, 7)]
    async with site.running(), alive(node):
        await served(site, node, balance_nano=2_000 * PRICE_NANO)
        before = node.lease
        assert before is not None
        assert await asked(site, SetDevice("node-2", '{"modules": [1, 7, 8]}')) == ("", "")
        assert node.lease == before
        assert await asked(site, SetDevice("node-2", '{"modules": [7, 1]}')) == ("", "")
        assert node.lease["cutoff_wh"] == 2**31 - 1
    site.crash()


async def press(node: ScriptedNode, at_s: int | None, seq: int | None = None) -> None:
    """Tell of a press of the button."""
    told = {"device_id": node.device_id, "session": node.session, "kind": "button", "at": at_s}
    await node.publish("event", told if seq is None else {**told, "seq": seq})


async def test_the_button_confirms_for_who_stands_there_now(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """A press that was kept while the broker was away, or has no time, closes nothing later."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with site.running(), alive(node):
        await served(site, node, balance_nano=10 * PRICE_NANO)
        node.step_wh = 1
        await until(lambda: site.events("SUPPLY_CUT"))
        await site.do(Recharge("flat-2", 1_000 * PRICE_NANO, "counter", "r-1"))
        await until(lambda: not site.point(1).supply.reasons)
        now_s = site.clock.utc_ms() // 1_000
        for at_s in (now_s - 3_600, now_s + 3_600, None):
            await press(node, at_s)
        await until(lambda: len(site.events("NODE_EVENT")) == 3)
        await asyncio.sleep(0.5)
        assert not node.closed
        await press(node, now_s - 2)
        await until(lambda: node.closed)
    site.crash()


async def test_a_press_is_a_request_on_record_and_each_counts_once(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """By whom, whence, with which outcome; delivered twice it confirms nothing later on."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-2")
    async with alive(node):
        async with site.running():
            await served(site, node, balance_nano=10 * PRICE_NANO)
            now_s = site.clock.utc_ms() // 1_000
            await press(node, now_s, 1)
            node.step_wh = 1
            await until(lambda: site.events("SUPPLY_CUT"))
            await press(node, now_s, 2)
            await until(lambda: len(site.events("NODE_EVENT")) == 2)
            assert audited(site, "confirm_reconnect") == []
            node.step_wh = 0
            await site.do(Recharge("flat-2", 1_000 * PRICE_NANO, "counter", "r-1"))
            await until(lambda: not site.point(1).supply.reasons)
            for _ in range(3):
                await press(node, now_s, 3)
            await until(lambda: site.events("SUPPLY_RESTORED"))
            key = f"button-node-2-{node.session}-3"
            (row,) = audited(site, "confirm_reconnect")
            assert (row["actor"], row["source"], row["role"]) == ("node-2", "button", "tenant")
            assert (row["request"], row["result"]) == (key, "executed")
            assert row["object"] == {"service_point_id": "flat-2"}
            outcome = find_outcome(site.file.connection, key)
            assert outcome is not None
            (keyed,) = site.file.connection.execute(
                "SELECT request_key FROM switch_command WHERE action = 'close'"
            ).fetchall()
            assert keyed[0] == key
            assert site.proof().problem_count == 0
        site.restart(boot="boot-1")
        async with site.running():
            await until(lambda: site.point(1).last is not None)
            await site.do(Disconnect("flat-2", "work"))
            await until(lambda: not node.closed)
            await site.do(Reconnect("flat-2"))
            await until(lambda: not site.point(1).supply.command)
            assert site.point(1).supply.reconnection_pending
            await press(node, now_s, 3)
            await asyncio.sleep(0.5)
            assert not node.closed
            assert len(audited(site, "confirm_reconnect")) == 1
            await press(node, site.clock.utc_ms() // 1_000, 4)
            await until(lambda: node.closed)
            assert len(audited(site, "confirm_reconnect")) == 2
    assert site.proof().problem_count == 0
    site.crash()


async def test_a_device_is_told_nothing_while_it_is_refused(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """One decision at a time about a device; what was told of it before goes with its approval."""
    site = NodeSite(tmp_path, broker.port)
    node = site.node("node-1")
    async with site.running(), alive(node):
        await until(lambda: site.events("DEVICE_PENDING"))
        await site.do(ApproveDevice("node-1", "flat-1"))
        await until(lambda: site.point().last is not None)
        assert await asked(site, SetDevice("node-1", '{"poll_s": 2}')) == ("", "")
        assert site.device("node-1").state["settings"] == {"poll_s": 2}
        node.deaf.add("identify")
        found = await asyncio.gather(
            asked(site, IdentifyDevice("node-1")),
            asked(site, RefuseDevice("node-1", "stolen")),
            asked(site, IdentifyDevice("node-1")),
        )
        codes = [code for code, _ in found]
        assert codes == ["DEVICE_SILENT", "", "DEVICE_NOT_APPROVED"]
        assert "settings" not in site.device("node-1").state
    site.crash()
