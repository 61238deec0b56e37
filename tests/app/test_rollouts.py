"""Roll-outs over a real broker: nodes that do well, fail, go away, and a control that dies."""

import asyncio
from pathlib import Path
from random import Random

import pytest

from gateway.app.control import rollouts
from gateway.core import rollout as machine
from gateway.core.requests import (
    Disconnect,
    PauseRollout,
    RemoveImage,
    ResumeRollout,
    Role,
    StopRollout,
)
from gateway.core.rollout_plan import Phase, State
from gateway.store.audit import audit_before
from gateway.store.firmware import (
    read_rollout,
)
from tests.app.node_site import alive, until
from tests.app.rollout_site import RolloutSite, ended, heard, living
from tests.firmware.releases import bundle
from tests.south.mosquitto import Mosquitto, needs_broker

pytestmark = [needs_broker, pytest.mark.slow]

NEW = bundle("2.0.0", 1)


async def test_all_nodes_get_an_image_a_few_at_once(broker: Mosquitto, tmp_path: Path) -> None:
    """Three nodes, two at once: each is told once, fetches every byte, proves itself, is done."""
    site = RolloutSite(tmp_path, broker.port, 3)
    nodes = site.updating()
    async with living(site, *nodes):
        await heard(site, nodes)
        assert await site.add(NEW) == ""
        assert await site.begin(NEW, parallel_max=2) == ""
        await until(lambda: ended(site), 30)
    assert site.phases() == [Phase.DONE] * 3
    assert [node.installed for node in nodes] == [["2.0.0"]] * 3
    assert [node.orders for node in nodes] == [1, 1, 1]
    assert {bytes(node.part) for node in nodes} == {NEW.raw}
    assert sorted(subject for subject, _ in site.events("ROLLOUT_DEVICE_DONE")) == [
        "flat-1",
        "flat-2",
        "flat-3",
    ]
    assert site.facts("ROLLOUT_COMPLETED")[0]["done"] == 3
    assert site.events("NODE_EVENT") == []
    assert site.proof().problem_count == 0
    site.crash()


async def test_a_bad_release_stops_by_itself(broker: Mosquitto, tmp_path: Path) -> None:
    """The first node goes back: no other node hears of it, and people are told what to do."""
    site = RolloutSite(tmp_path, broker.port, 3)
    nodes = site.updating()
    nodes[0].ends = "back"
    async with living(site, *nodes):
        await heard(site, nodes)
        await site.add(NEW)
        await site.begin(NEW, stages=(0, 100), observe_s=600)
        await until(lambda: ended(site), 30)
    record = read_rollout(site.file.connection, 1)
    assert record is not None
    assert record.head.state is State.STOPPED
    assert record.head.why == "1 device failed, failures_max is 1"
    failed, *others = site.members()
    assert (failed.phase, failed.code, failed.reason) == (
        Phase.FAILED,
        "UPDATE_BACK",
        "nothing of meter in 5 minutes",
    )
    assert [(one.phase, one.code) for one in others] == [(Phase.SKIPPED, "STOPPED")] * 2
    assert [node.orders for node in nodes] == [1, 0, 0]
    assert site.events("ROLLOUT_STOPPED") == [("site", "critical")]
    (told,) = site.facts("ROLLOUT_STOPPED")
    assert told["failed"] == ["node-1: UPDATE_BACK nothing of meter in 5 minutes"]
    assert told["by"] == "control"
    assert "new version" in str(told["next"])
    newest = audit_before(site.file.connection, before_seq=2**62, limit=1)[0].body
    assert (newest["actor"], newest["action"]) == ("control", "stop_rollout")
    # The devices are free again, and the version that failed may be tried on another one.
    assert await site.begin(NEW, device_ids=("node-2",)) == ""
    assert site.proof().problem_count == 0
    site.crash()


async def test_each_way_to_fail_is_told_with_its_reason(broker: Mosquitto, tmp_path: Path) -> None:
    """Refused at once, refused after it was fetched; others go on below failures_max."""
    site = RolloutSite(tmp_path, broker.port, 3)
    nodes = site.updating()
    nodes[0].refuses = {"update": "UPDATE_OLD"}
    nodes[1].ends = "refuse"
    async with living(site, *nodes):
        await heard(site, nodes)
        await site.add(NEW)
        await site.begin(NEW, failures_max=3)
        await until(lambda: ended(site), 30)
    assert [(one.phase, one.code, one.reason) for one in site.members()] == [
        (Phase.FAILED, "UPDATE_OLD", ""),
        (Phase.FAILED, "UPDATE_DAMAGED", "app.mpy is not"),
        (Phase.DONE, "", ""),
    ]
    assert site.events("NODE_EVENT") == [("flat-2", "warning")]
    assert site.facts("NODE_EVENT")[0]["code"] == "UPDATE_DAMAGED"
    site.crash()


async def test_control_dies_in_the_middle_of_everything(broker: Mosquitto, tmp_path: Path) -> None:
    """While one fetches, one is on trial and one waits: nobody installs twice, all are counted."""
    site = RolloutSite(tmp_path, broker.port, 4)
    nodes = site.updating()
    fetching, on_trial = nodes[0], nodes[1]
    fetching.chunks_max = 5
    on_trial.ends = "wait"
    async with living(site, *nodes):
        await heard(site, nodes)
        await site.add(NEW)
        await site.begin(NEW, parallel_max=2)
        expected = [Phase.FETCHING, Phase.TRIAL, Phase.WAITING, Phase.WAITING]
        await until(lambda: site.phases() == expected)
    assert site.opened().rollout.members[0].offset > 0
    site.restart()
    assert site.phases() == expected
    fetching.chunks_max = 10_000
    fetching.part = fetching.part[:4_096]  # what its flash had
    async with living(site, *nodes):
        await until(lambda: Phase.TRIAL in site.phases())
        assert on_trial.orders == 1
        on_trial.ends = "prove"
        await until(lambda: Phase.DONE in site.phases())
        await until(lambda: site.phases()[2] is not Phase.WAITING)
    site.restart()
    async with living(site, *nodes):
        await until(lambda: ended(site), 60)
    assert site.phases() == [Phase.DONE] * 4
    assert [node.installed for node in nodes] == [["2.0.0"]] * 4
    assert len(site.events("ROLLOUT_DEVICE_DONE")) == 4
    assert site.proof().problem_count == 0
    site.crash()


async def test_what_ended_while_control_was_away_is_counted_once(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """A trial that went back meanwhile: its status says why, and the roll-out stops."""
    site = RolloutSite(tmp_path, broker.port, 2)
    nodes = site.updating()
    nodes[0].ends = "wait"
    async with living(site, *nodes):
        await heard(site, nodes)
        await site.add(NEW)
        await site.begin(NEW, stages=(0, 100), observe_s=600)
        await until(lambda: site.phases()[0] is Phase.TRIAL)
    nodes[0].update = {"version": "2.0.0", "failed": "crash"}
    nodes[0].firmware, nodes[0].on_trial = "1.0.0", False
    nodes[0].boot_id, nodes[0].seq = 9, 0
    nodes[0].session = "9" * 16
    nodes[0].last_seq = 0
    site.restart()
    async with living(site, *nodes):
        await until(lambda: ended(site), 30)
    assert [(one.phase, one.code, one.reason) for one in site.members()] == [
        (Phase.FAILED, "UPDATE_BACK", "crash"),
        (Phase.SKIPPED, "STOPPED", ""),
    ]
    assert nodes[1].orders == 0
    site.crash()


async def test_who_is_away_is_waited_for_and_holds_up_nobody(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """The others are done; it gets the image when it comes, without a person."""
    site = RolloutSite(tmp_path, broker.port, 3)
    nodes = site.updating()
    async with living(site, *nodes[1:]):
        await heard(site, nodes[1:])
        await site.add(NEW)
        await site.begin(NEW, device_ids=("node-2", "node-3"))
        await until(lambda: ended(site), 30)
        assert await site.begin(NEW) == "ROLLOUT_EMPTY"
    later = bundle("3.0.0", 1)
    site.restart()
    async with living(site, nodes[0]):
        await heard(site, nodes[:1])
        await site.add(later)
    site.restart()
    async with living(site, *nodes[1:]):
        await heard(site, nodes[1:])
        assert await site.begin(later, stages=(0, 100)) == ""
        await until(lambda: site.phases(2).count(Phase.DONE) == 2, 30)
        await asyncio.sleep(0.3)
        assert not ended(site, 2)
        nodes[0].chunks = 0
        task = asyncio.create_task(nodes[0].run())
        await until(lambda: ended(site, 2), 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert site.phases(2) == [Phase.DONE] * 3
    assert nodes[0].installed == ["3.0.0"]
    site.crash()


async def test_pause_resume_and_stop(broker: Mosquitto, tmp_path: Path) -> None:
    """Paused nobody is served; stopped it stays stopped, and the node may have another one."""
    site = RolloutSite(tmp_path, broker.port, 2)
    nodes = site.updating()
    nodes[0].chunks_max = 3
    async with living(site, *nodes):
        await heard(site, nodes)
        await site.add(NEW)
        await site.begin(NEW, parallel_max=1, device_ids=("node-1", "node-2"))
        await until(lambda: nodes[0].chunks == 3)
        await site.do(PauseRollout(1, "noon"), Role.MANAGER, "p-1")
        nodes[0].chunks_max = 10_000
        await nodes[0]._ask()
        await asyncio.sleep(0.3)
        assert nodes[0].chunks == 3
        assert site.facts("FIRMWARE_WISH_REFUSED") == []
        await site.do(PauseRollout(1, "again"), Role.MANAGER, "p-2")
        assert site.code("p-2") == "ROLLOUT_STATE"
        await site.do(ResumeRollout(1, "on"), Role.MANAGER, "r-1")
        nodes[0].chunks_max = 6
        await nodes[0]._ask()
        await until(lambda: nodes[0].chunks == 6)
        await site.do(StopRollout(1, "enough"), Role.MANAGER, "s-1")
        assert [(one.phase, one.code) for one in site.members()] == [(Phase.SKIPPED, "STOPPED")] * 2
        nodes[0].chunks_max = 10_000
        await nodes[0]._ask()
        await asyncio.sleep(0.3)
        assert nodes[0].chunks == 6
        for act, code in (
            (StopRollout(1, "x"), "ROLLOUT_STATE"),
            (StopRollout(7, "x"), "ROLLOUT_UNKNOWN"),
        ):
            await site.do(act, Role.MANAGER, f"s-{code}")
            assert site.code(f"s-{code}") == code
        await site.begin(NEW)
        await until(lambda: ended(site, 2), 30)
    assert site.phases(2) == [Phase.DONE] * 2
    (stopped,) = site.facts("ROLLOUT_STOPPED")
    assert (stopped["by"], stopped["reason"]) == ("anna", "enough")
    assert site.events("ROLLOUT_STOPPED") == [("site", "notice")]
    site.crash()


async def test_a_node_that_was_stopped_while_it_fetched_gives_up(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Told at its next wish, also by a control that has started since; an older firmware goes on
    asking, is told so twice a minute, and gets nothing."""
    site = RolloutSite(tmp_path, broker.port, 2)
    node, older = site.updating()
    older.refuses["update_stop"] = "UNKNOWN_TYPE"
    node.chunks_max = older.chunks_max = 3
    stop: tuple[str, dict[str, object]] = ("update_stop", {"version": "2.0.0"})
    async with alive(node, older):
        async with site.running():
            await heard(site, [node, older])
            await site.add(NEW)
            await site.begin(NEW)
            await until(lambda: node.chunks == older.chunks == 3)
            await site.do(StopRollout(1, "enough"), Role.MANAGER, "s-1")
            older.chunks_max = 10_000
            sent = site.group.counts["failed NODE_REFUSED"]
            for _ in range(5):
                await older._ask()
            await until(lambda: site.group.counts["failed NODE_REFUSED"] == sent + 1)
            await asyncio.sleep(0.3)
            assert site.group.counts["failed NODE_REFUSED"] == sent + 1
            assert older.order is not None
            assert older.chunks == 3
            assert site.facts("FIRMWARE_WISH_REFUSED") == []
        site.restart(boot="boot-1")
        async with site.running():
            await heard(site, [node, older])
            assert stop not in node.told
            node.chunks_max = 10_000
            await node._ask()
            await until(lambda: node.order is None)
            assert node.told.count(stop) == 1
            assert node.chunks == 3
            assert await site.begin(NEW, device_ids=("node-1",)) == ""
            await until(lambda: ended(site, 2), 30)
    assert site.phases(2) == [Phase.DONE]
    site.crash()


async def test_who_is_left_out_and_never_two_rollouts_on_one_device(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Same version, other hardware, somebody else's node, not approved, in another roll-out."""
    site = RolloutSite(tmp_path, broker.port, 5)
    nodes = site.updating()
    nodes[0].firmware = "2.0.0"
    nodes[1].hardware = "esp32-other"
    nodes[2].has_relay = False  # the older form tells no session
    nodes[3].chunks_max = 2
    async with living(site, *nodes):
        await until(lambda: len(site.nodes.book.records) == 5)
        await heard(site, nodes[3:])
        await heard(site, nodes[:2])
        assert await site.add(NEW) == ""
        assert await site.begin(NEW, device_ids=("node-4",)) == ""
        await until(lambda: site.phases() == [Phase.FETCHING])
        assert await site.begin(NEW, device_ids=("node-4", "node-5")) == "DEVICE_IN_ROLLOUT"
        assert await site.begin(NEW, device_ids=("node-9",)) == "DEVICE_UNKNOWN"
        assert await site.begin(NEW) == ""
        await until(lambda: ended(site, 2), 30)
        await site.do(RemoveImage(NEW.sha256), Role.MANAGER, "rm-1")
        assert site.code("rm-1") == "IMAGE_IN_USE"
    assert {one.device_id: one.code for one in site.members(2)} == {
        "node-1": "SAME_VERSION",
        "node-2": "OTHER_HARDWARE",
        "node-3": "THIRD_PARTY",
        "node-4": "IN_ROLLOUT",
        "node-5": "",
    }
    assert [node.orders for node in nodes] == [0, 0, 0, 1, 1]
    site.crash()


async def test_no_update_begins_while_a_relay_is_being_switched(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """It begins when the command has ended."""
    site = RolloutSite(tmp_path, broker.port, 1)
    (node,) = site.updating()
    async with living(site, node):
        await until(lambda: site.point().last is not None)
        await site.open_flat(10**12)
        await heard(site, [node])
        await site.add(NEW)
        node.answers = False
        await site.do(Disconnect("flat-1", "works"), Role.MANAGER, "d-1")
        await until(lambda: site.engine.commands)
        await site.begin(NEW)
        await asyncio.sleep(0.5)
        assert (node.orders, site.phases()) == (0, [Phase.WAITING])
        node.answers = True
        await until(lambda: ended(site), 30)
    assert site.phases() == [Phase.DONE]
    assert not node.closed
    site.crash()


async def test_a_node_that_says_nothing_more_is_given_up(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again now and then, and its silence is a failure in the end."""
    monkeypatch.setattr(machine, "STALL_MS", 300)
    monkeypatch.setattr(machine, "QUIET_MS", 2_000)
    monkeypatch.setattr(rollouts, "OFFER_AGAIN_NS", 10**8)
    site = RolloutSite(tmp_path, broker.port, 1)
    (node,) = site.updating()
    node.chunks_max = 0
    async with living(site, node):
        await heard(site, [node])
        await site.add(NEW)
        await site.begin(NEW)
        await until(lambda: ended(site), 30)
    assert node.orders > 1
    assert site.members()[0].code == "ROLLOUT_DEADLINE"
    site.crash()


async def test_a_broker_that_is_away_is_nobodys_failure(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No time counts meanwhile; it goes on where it was."""
    monkeypatch.setattr(machine, "QUIET_MS", 2_500)
    site = RolloutSite(tmp_path, broker.port, 1)
    (node,) = site.updating()
    node.chunks_max = 2
    async with living(site, node):
        await heard(site, [node])
        await site.add(NEW)
        await site.begin(NEW, offline_s=2)
        await until(lambda: node.chunks == 2)
        await broker.kill()
        await asyncio.sleep(4)
        node.chunks_max = 10_000
        await broker.start()
        await until(lambda: node._client is not None, 30)
        await until(lambda: site.group.is_connected, 30)
        await node._ask()
        await until(lambda: ended(site), 30)
    assert site.phases() == [Phase.DONE]
    site.crash()


async def test_control_dies_again_and_again(broker: Mosquitto, tmp_path: Path) -> None:
    """At moments that no step is safe from: each node installs once, each end is counted once."""
    site = RolloutSite(tmp_path, broker.port, 4)
    nodes = site.updating()
    nodes[3].ends = "back"
    chance = Random(7)
    async with alive(*nodes):
        async with site.running():
            await heard(site, nodes)
            await site.add(NEW)
            await site.begin(NEW, parallel_max=2, failures_max=2)
        for _ in range(60):
            site.restart()
            async with site.running():
                await asyncio.sleep(chance.uniform(0.1, 0.9))
            if ended(site):
                break
    assert [(one.phase, one.code) for one in site.members()] == [
        (Phase.DONE, ""),
        (Phase.DONE, ""),
        (Phase.DONE, ""),
        (Phase.FAILED, "UPDATE_BACK"),
    ]
    assert [node.installed for node in nodes] == [["2.0.0"]] * 4
    assert len(site.events("ROLLOUT_DEVICE_FAILED")) == 1
    assert site.proof().problem_count == 0
    site.crash()
