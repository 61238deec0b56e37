"""Roll-outs under every order of results: nodes of a few lines, crashes of control at any step.

The nodes keep what real ones keep: what they fetched, why an update failed, the version that works.
What is on file is only what was kept; a crash takes the rest.
"""

from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from hypothesis.strategies import DataObject, booleans, data, integers, sampled_from

from gateway.core.rollout import Rollout
from gateway.core.rollout_plan import (
    ACTIVE,
    ENDED,
    LEFT_OUT_MS,
    QUIET_MS,
    ChunkAsk,
    Head,
    Image,
    Member,
    Phase,
    Plan,
    Seen,
    State,
    count_of,
)

SIZE = 1_500
IMAGE = Image("a" * 64, "2.0.0", "esp32-pzem-1", 1, SIZE)
OFFLINE_S = 600
# What is said of a node that installed and went back.
FELL_BACK = {"UPDATE_BACK", "ROLLOUT_SILENT", "ROLLOUT_DEADLINE"}
FINAL = frozenset({Phase.DONE, Phase.FAILED, Phase.SKIPPED})


@dataclass
class Node:
    """A node as it is, whatever the gateway believes."""

    name: str
    firmware: str = "1.0.0"
    session: int = 1
    online: bool = True
    hardware: str = "esp32-pzem-1"
    busy: bool = False
    fetching: bool = False
    # What stands in its flash, in steps of a chunk.
    part: int = 0
    installing: bool = False
    trial: bool = False
    failed: str = ""
    installs: int = 0
    proofs: int = 0

    @property
    def session_id(self) -> str:
        return f"{self.session:016x}"

    def seen(self) -> Seen:
        """What its status tells."""
        if not self.online:
            return Seen()
        told = self.fetching or bool(self.failed)
        return Seen(
            present=True,
            session=self.session_id,
            firmware=self.firmware,
            hardware=self.hardware,
            on_trial=self.trial,
            busy=self.busy,
            update_version=IMAGE.version if told else "",
            offset=self.part if self.fetching else None,
            failed="" if self.fetching else self.failed,
        )

    def order(self) -> str:
        """The `update` command comes."""
        if self.trial:
            return "UPDATE_TRIAL"
        self.fetching, self.failed = True, ""
        self.installing = self.part == SIZE
        return "DONE"

    def ask(self) -> ChunkAsk | None:
        """What it wants next."""
        if not self.fetching or not self.online or self.part == SIZE:
            return None
        count = min(1_024, SIZE - self.part)
        return ChunkAsk(self.session_id, IMAGE.version, self.part, count)

    def take(self, count: int) -> None:
        """A chunk came."""
        self.part += count
        self.installing = self.part == SIZE

    def restart(self) -> None:
        """Power came back, or it restarted itself."""
        self.session += 1
        self.fetching = self.installing = False

    def refuse(self, code: str) -> None:
        """It does not install what it fetched."""
        self.fetching = self.installing = False
        self.part, self.failed = 0, code

    def install(self) -> None:
        """It changes to the other slot."""
        self.restart()
        self.firmware, self.trial, self.part = IMAGE.version, True, 0
        self.installs += 1

    def prove(self) -> None:
        """The gateway was heard."""
        self.trial = False
        self.proofs += 1

    def go_back(self) -> None:
        """The loader takes the version that worked."""
        self.restart()
        self.firmware, self.trial, self.failed = "1.0.0", False, "crash"


class RolloutWorld(RuleBasedStateMachine):
    """Control with a file, and nodes."""

    @initialize(
        count=integers(1, 6),
        failures_max=integers(1, 3),
        parallel_max=integers(1, 3),
        foreign=booleans(),
    )
    def begin(self, count: int, failures_max: int, parallel_max: int, *, foreign: bool) -> None:
        """A roll-out over some nodes."""
        names = [f"node-{number}" for number in range(count)]
        self.nodes = {name: Node(name) for name in names}
        if foreign and count > 1:
            self.nodes[names[-1]].hardware = "other"
        plan = Plan((0, 50, 100), 60, failures_max, parallel_max, OFFLINE_S)
        self.rollout = Rollout(1, IMAGE, plan, [Member(name) for name in names])
        self.rollout.begin(self.seen())
        self.calm_ms = 0
        self.file: tuple[Head, dict[str, Member]] = (self.rollout.head, {})
        self.keep()

    def seen(self) -> dict[str, Seen]:
        return {name: node.seen() for name, node in self.nodes.items()}

    def keep(self) -> None:
        """Commit what changed; ends that are on file stay."""
        changes = self.rollout.take_changes()
        if changes is None:
            return
        rows = dict(self.file[1])
        for _, member in changes:
            before = rows.get(member.device_id)
            if before is not None and before.phase in FINAL:
                fell = (before.phase, member.phase) == (Phase.DONE, Phase.FAILED)
                assert fell or member.phase is before.phase
            rows[member.device_id] = member
        self.file = (self.rollout.head, rows)

    def offer(self, *, answered: bool = True) -> None:
        """Tell those that are to be told, once that is on file."""
        self.keep()
        for name in self.rollout.offers(self.seen()):
            node = self.nodes[name]
            assert self.rollout.state is State.RUNNING
            assert node.online
            assert not node.busy
            assert (node.firmware, node.installs) == ("1.0.0", 0)
            code = node.order()
            if not answered:
                continue
            if code == "DONE":
                self.rollout.accepted(name, node.session_id)
            else:
                self.rollout.refused(name, code, "")
        self.keep()

    # -- what may happen -------------------------------------------------------------------

    @rule(seconds=sampled_from([1, 5, 40, 700]), answered=booleans())
    def look(self, seconds: int, *, answered: bool) -> None:
        stage, state = self.rollout.stage, self.rollout.state
        before = {m.device_id: m.phase for m in self.rollout.members}
        self.rollout.look(self.seen(), seconds * 1_000)
        done = [m for m in self.rollout.members if m.phase is Phase.DONE and m.stage == stage]
        fell = any(before[m.device_id] != m.phase and m.phase is Phase.FAILED for m in done)
        if fell or any(m.phase in ACTIVE for m in self.rollout.members):
            self.calm_ms = 0
        elif state is State.RUNNING and all(self.nodes[m.device_id].online for m in done):
            self.calm_ms += seconds * 1_000
        if self.rollout.stage != stage:
            assert self.rollout.stage == stage + 1
            assert self.calm_ms >= 60_000
            assert count_of(self.rollout.members, Phase.DONE) >= 1
            self.calm_ms = 0
        for member in self.rollout.members:
            node = self.nodes[member.device_id]
            if before[member.device_id] is Phase.TRIAL and node.online:
                failed = member.phase is Phase.FAILED and member.code == "UPDATE_BACK"
                assert failed is (node.firmware != IMAGE.version)
        self.offer(answered=answered)

    @rule(steps=integers(1, 8))
    def all_go_well(self, steps: int) -> None:
        """Every node that can does the next thing."""
        for _ in range(steps):
            for node in self.nodes.values():
                if node.ask() is not None:
                    self.fetch(node, served=True)
                elif node.installing:
                    node.install()
                elif node.trial and node.online:
                    node.prove()
            self.look(5, answered=True)

    @rule(chance=data(), served=booleans())
    def one_fetches(self, chance: DataObject, *, served: bool) -> None:
        self.fetch(chance.draw(sampled_from(list(self.nodes.values()))), served=served)

    def fetch(self, node: Node, *, served: bool) -> None:
        """A node asks for a chunk, where it wants one."""
        ask = node.ask()
        if ask is None:
            return
        taken = self.rollout.asked(node.name, ask)
        self.keep()
        member = self.rollout.member(node.name)
        assert member is not None
        assert not taken or self.rollout.state is State.RUNNING
        assert not taken or member.phase in (Phase.FETCHING, Phase.INSTALLING)
        if taken and served:
            node.take(ask.count)

    @rule(chance=data(), what=sampled_from(["install", "refuse", "go_back", "restart"]))
    def node_acts(self, chance: DataObject, what: str) -> None:
        node = chance.draw(sampled_from(list(self.nodes.values())))
        if what == "install" and node.installing:
            node.install()
        elif what == "refuse" and node.installing:
            node.refuse("UPDATE_DAMAGED")
        elif what == "go_back" and (node.trial or node.firmware == IMAGE.version):
            node.go_back()
        elif what == "restart":
            node.restart()

    @rule(chance=data(), online=booleans(), busy=booleans())
    def node_changes(self, chance: DataObject, *, online: bool, busy: bool) -> None:
        node = chance.draw(sampled_from(list(self.nodes.values())))
        node.online, node.busy = online, busy

    @rule()
    def crash(self) -> None:
        head, rows = self.file
        members = [replace(rows[name]) for name in self.nodes]
        self.rollout = Rollout(1, IMAGE, self.rollout.plan, members, head=head)
        if not self.rollout.is_open:
            assert self.rollout.offers(self.seen()) == []

    @precondition(lambda self: self.rollout.state is State.RUNNING)
    @rule()
    def pause(self) -> None:
        self.rollout.pause()
        assert self.rollout.offers(self.seen()) == []
        self.keep()

    @precondition(lambda self: self.rollout.state is State.PAUSED)
    @rule()
    def resume(self) -> None:
        self.rollout.resume()
        self.keep()

    @precondition(lambda self: self.rollout.state not in ENDED)
    @rule(really=sampled_from([False, False, False, True]))
    def stop(self, *, really: bool) -> None:
        if really:
            self.rollout.stop("a person says so")
            self.keep()

    # -- what always holds -----------------------------------------------------------------

    @invariant()
    def bounds_hold(self) -> None:
        if not hasattr(self, "rollout"):
            return
        rollout = self.rollout
        members = rollout.members
        active = [m for m in members if m.phase in ACTIVE]
        done, failed = count_of(members, Phase.DONE), count_of(members, Phase.FAILED)
        assert len(active) <= rollout.plan.parallel_max
        if rollout.state not in ENDED:
            left = sum(m.phase not in (Phase.FAILED, Phase.SKIPPED) for m in members)
            limit = rollout.plan.limit(rollout.stage, rollout.base, left)
            # Others may fail or be left out: whoever began stays.
            assert done + len(active) <= max(
                limit, rollout.plan.limit(rollout.stage, rollout.base, rollout.base)
            )
            assert failed < rollout.plan.failures_max
        else:
            assert not any(
                m.phase in (Phase.WAITING, Phase.OFFERED, Phase.FETCHING) for m in members
            )

    @invariant()
    def nobody_is_updated_twice(self) -> None:
        for node in getattr(self, "nodes", {}).values():
            assert node.installs <= 1
            member = self.rollout.member(node.name)
            assert member is not None
            if member.phase is Phase.DONE:
                assert node.proofs == 1
            if node.failed and member.phase is Phase.DONE:
                assert node.firmware == "1.0.0"
            if node.hardware != IMAGE.hardware:
                assert node.installs == 0

    def teardown(self) -> None:
        """Everything works from now on: it ends, and the rows say what is."""
        if not hasattr(self, "rollout"):
            return
        self.crash()
        if self.rollout.state is State.PAUSED:
            self.rollout.resume()
        for node in self.nodes.values():
            node.online, node.busy = True, False
        for _ in range(200):
            self.rollout.look(self.seen(), 5_000)
            self.offer()
            for node in self.nodes.values():
                ask = node.ask()
                if ask is not None and self.rollout.asked(node.name, ask):
                    node.take(ask.count)
                elif node.installing:
                    node.install()
                elif node.trial:
                    node.prove()
            self.keep()
            if not self.rollout.is_open:
                break
        else:
            # What never answers ends by its deadline.
            self.rollout.look(self.seen(), QUIET_MS + LEFT_OUT_MS)
            self.rollout.look(self.seen(), QUIET_MS)
        assert not self.rollout.is_open
        for member in self.rollout.members:
            node = self.nodes[member.device_id]
            assert member.phase in FINAL
            assert bool(member.code) is (member.phase is not Phase.DONE)
            if node.failed and node.installs and member.phase is Phase.FAILED:
                assert member.code in FELL_BACK
            # One that falls back after the end is nobody's to follow.
            if member.phase is Phase.DONE and not node.failed:
                assert (node.firmware, node.trial) == (IMAGE.version, False)
            if member.phase is Phase.SKIPPED:
                assert node.installs == 0
        if self.rollout.state is State.COMPLETED:
            assert count_of(self.rollout.members, Phase.FAILED) < self.rollout.plan.failures_max


RolloutWorld.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
TestRolloutWorld = pytest.mark.slow(RolloutWorld.TestCase)
