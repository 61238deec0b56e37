"""Roll-outs of firmware in control: looked at after every sweep, offered, served, kept on file.

An offer goes out once it is on file, and so does the last chunk: what a crash forgets, no node has
heard. Chunks are served from memory, one at a time to a node.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from gateway.app.control.books import Books, Operation
from gateway.app.control.devices import DeviceBook, Teller
from gateway.core.clock import Clock
from gateway.core.errors import NodeRefusedError, RefusedError, StoreCorruptError
from gateway.core.node_message import NodeEvent
from gateway.core.rollout import Rollout
from gateway.core.rollout_plan import (
    ACTIVE,
    AWAY,
    ChunkAsk,
    Member,
    News,
    Phase,
    Seen,
    Skip,
    State,
    ask_problem,
)
from gateway.south.node_device import NodeDevice
from gateway.south.nodes import NodeGroup
from gateway.store.audit import append_audit
from gateway.store.db import Connection
from gateway.store.devices import DeviceStatus
from gateway.store.firmware import (
    ImageRecord,
    RolloutRecord,
    put_progress,
    read_image_bytes,
    read_images,
    read_members,
    read_rollouts,
)

if TYPE_CHECKING:
    from gateway.app.control.engine import Engine

log = structlog.get_logger()

NS: Final = 1_000_000_000
# Telemetry comes every ten seconds.
PRESENT_NS: Final = 60 * NS
# An offer is repeated after so long at the soonest.
OFFER_AGAIN_NS: Final = 30 * NS
# A node gets at most five chunks a second: its wishes are half of the messages that it may send.
CHUNK_GAP_NS: Final = NS // 5
# A look costs some ten microseconds a device: one with 800 is looked at every four seconds.
LOOK_NS_A_DEVICE: Final = NS // 200
# How long something has lasted is kept this often, anything else with the sweep.
AGED_EVERY_NS: Final = 60 * NS
# A node that asks for what it is not to have is told of once in so long.
TELL_EVERY_NS: Final = 3_600 * NS
FAILED_SHOWN: Final = 20
STOP_ROLLOUT: Final = "stop_rollout"
REMEDY: Final = (
    "no other node gets this image; look at the reasons, put the release right, and begin a "
    "roll-out of a new version"
)


@dataclass(slots=True)
class Opened:
    """A roll-out that goes on, with its image in memory."""

    record: RolloutRecord
    rollout: Rollout
    content: bytes
    looked_ns: int = 0


@dataclass(slots=True)
class _Feeding:
    """What a node is being sent: at most one chunk under way and the newest wish behind it."""

    ask: ChunkAsk | None = None
    is_busy: bool = False
    next_ns: int = 0


@dataclass(frozen=True, slots=True)
class FirmwareFound:
    """What a start finds: images, roll-outs that go on, and the last number given."""

    images: dict[str, ImageRecord]
    opened: tuple[Opened, ...] = ()
    last_number: int = 0


class RolloutOffice:
    """All images, and the roll-outs that go on. `first` is where the points of nodes begin."""

    def __init__(
        self,
        found: FirmwareFound,
        book: DeviceBook,
        books: Books,
        tell: Teller,
        clock: Clock,
        *,
        first: int,
    ) -> None:
        self.images: Final = dict(found.images)
        self.opened: Final = {one.rollout.number: one for one in found.opened}
        self.last_number = found.last_number
        self.counts: Final[Counter[str]] = Counter()
        self._book = book
        self._books = books
        self._tell = tell
        self._clock = clock
        self._first = first
        self._group: NodeGroup | None = None
        self._engine: Engine | None = None
        self._aged_ns = 0
        self._kept: asyncio.Future[None] | None = None
        self._offer_after_ns: dict[str, int] = {}
        self._offering: set[str] = set()
        self._feeding: dict[str, _Feeding] = {}
        self._notes: dict[str, tuple[str, str]] = {}
        self._told_ns: dict[str, int] = {}
        # Nodes that were stopped while they fetched: nobody need hear of what they ask for yet.
        self._let_go: set[str] = set()
        self._end_after_ns: dict[str, int] = {}

    def serve(self, group: NodeGroup, engine: "Engine") -> None:
        """Begin: whose nodes these are and who switches them."""
        self._group, self._engine = group, engine
        self._aged_ns = self._clock.mono_ns()
        for opened in self.opened.values():
            opened.looked_ns = self._aged_ns

    # -- for requests ----------------------------------------------------------------------

    def named(self, number: int) -> Opened:
        """A roll-out that goes on. Raises RefusedError ROLLOUT_UNKNOWN, ROLLOUT_STATE."""
        found = self.opened.get(number)
        if found is None and 1 <= number <= self.last_number:
            raise RefusedError("ROLLOUT_STATE", f"roll-out {number} has ended", "rollout")
        if found is None:
            raise RefusedError("ROLLOUT_UNKNOWN", f"there is no roll-out {number}", "rollout")
        return found

    def holder_of(self, device_id: str) -> int | None:
        """The roll-out that has a device to itself; None for none."""
        held = (n for n, one in self.opened.items() if one.rollout.holds(device_id))
        return next(held, None)

    def members(self, device_ids: Sequence[str]) -> list[Member]:
        """The devices of a new roll-out; all approved ones, those that are there first, for none.

        Raises RefusedError DEVICE_UNKNOWN, DEVICE_IN_ROLLOUT.
        """
        for name in device_ids:
            if name not in self._book.records:
                raise RefusedError("DEVICE_UNKNOWN", f"no device {name} was ever heard", "devices")
            holder = self.holder_of(name)
            if holder is not None:
                raise RefusedError(
                    "DEVICE_IN_ROLLOUT", f"{name} is in roll-out {holder}", "devices"
                )
        if device_ids:
            return [Member(name) for name in device_ids]
        approved = [
            name
            for name, record in self._book.records.items()
            if record.status is DeviceStatus.APPROVED
        ]
        approved.sort(key=lambda name: (not self.seen(name).present, name))
        return [self._member(name) for name in approved]

    def _member(self, device_id: str) -> Member:
        if self.holder_of(device_id) is None:
            return Member(device_id)
        return Member(device_id, Phase.SKIPPED, code=Skip.IN_ROLLOUT.value)

    def taken(self, opened: Opened, *, by: str = "", aged: bool = False) -> Operation[None] | None:
        """What changed of a roll-out as an operation that must be committed; told already.

        `by` is the person whose request did it. None: nothing changed.
        """
        rollout = opened.rollout
        changes = rollout.take_changes(aged=aged)
        if changes is None:
            return None
        utc_ms, number, head = self._books.label(), rollout.number, rollout.head
        ended_ms = None if rollout.is_open else utc_ms
        stopped: dict[str, object] | None = None
        for news in rollout.take_news():
            self._tell_news(opened, news, by)
            if news.kind == "ROLLOUT_STOPPED" and not by:
                stopped = {"rollout": number, "reason": news.reason}
        if ended_ms is not None:
            self._close(opened)

        def operate(connection: Connection) -> None:
            put_progress(connection, number, head, changes, ended_utc_ms=ended_ms)
            if stopped is not None:
                body = {"actor": "control", "action": STOP_ROLLOUT, "object": stopped}
                append_audit(connection, utc_ms=utc_ms, body=body)

        return operate

    def tell_image(self, record: ImageRecord, *, by: str, added: bool) -> None:
        """An image came or went."""
        image = record.image
        kind = "FIRMWARE_IMAGE_ADDED" if added else "FIRMWARE_IMAGE_REMOVED"
        self._tell(
            kind,
            "site",
            "notice",
            version=image.version,
            hardware=image.hardware,
            sha256=image.sha256,
            by=by,
        )

    # -- after every sweep -----------------------------------------------------------------

    def look(self) -> None:
        """See how far the nodes are, tell those whose turn it is, keep what changed."""
        now_ns, group = self._clock.mono_ns(), self._group
        if group is None or not group.is_connected or self._is_held:
            # Nobody can be seen, or nothing may go on: no time counts.
            for opened in self.opened.values():
                opened.looked_ns = now_ns
            return
        aged = now_ns - self._aged_ns >= AGED_EVERY_NS
        if aged:
            self._aged_ns = now_ns
        for opened in tuple(self.opened.values()):
            passed_ns = now_ns - opened.looked_ns
            if aged or passed_ns >= LOOK_NS_A_DEVICE * len(opened.rollout.members):
                opened.looked_ns = now_ns
                self._look_at(group, opened, passed_ns // 1_000_000, aged=aged)

    def _look_at(self, group: NodeGroup, opened: Opened, elapsed_ms: int, *, aged: bool) -> None:
        rollout = opened.rollout
        seen = {
            member.device_id: self.seen(member.device_id)
            for member in rollout.members
            if member.phase not in (Phase.FAILED, Phase.SKIPPED)
        }
        rollout.look(seen, elapsed_ms)
        self._keep(opened, aged=aged)
        for device_id in rollout.offers(seen):
            self._begin_offer(group, opened, device_id)

    @property
    def _is_held(self) -> bool:
        """After a restore the file may tell of a roll-out that a person stopped since."""
        return self._engine is not None and self._engine.gate.recovery is not None

    def seen(self, device_id: str) -> Seen:
        """What is known of a device now."""
        record = self._book.records.get(device_id)
        if record is None or record.status is not DeviceStatus.APPROVED:
            return Seen(approved=False)
        group, engine = self._group, self._engine
        device = None if group is None else group.devices.get(device_id)
        if device is None or engine is None or device.heard_ns is None:
            return AWAY
        fresh = self._clock.mono_ns() - device.heard_ns < PRESENT_NS
        if not (device.online and fresh and device.told_session == device.session):
            return AWAY
        index, update = self._first + device.index, device.update
        code, message = self._notes.get(device_id, ("", ""))
        failed = "" if update is None else update.failed
        return Seen(
            present=True,
            session=device.session,
            firmware=device.firmware,
            hardware=device.hardware,
            on_trial=device.on_trial,
            busy=index in engine.commands or index in engine.inherited,
            update_version="" if update is None else update.version,
            offset=None if update is None else update.offset,
            failed=failed,
            note=message if code == failed else "",
        )

    def _keep(self, opened: Opened, *, aged: bool = False) -> None:
        if self.opened.get(opened.rollout.number) is not opened:
            return
        operation = self.taken(opened, aged=aged)
        if operation is not None:
            self._kept = self._books.commit(operation)

    def _close(self, opened: Opened) -> None:
        del self.opened[opened.rollout.number]
        for member in opened.rollout.members:
            self._feeding.pop(member.device_id, None)
            self._offer_after_ns.pop(member.device_id, None)
            self._notes.pop(member.device_id, None)
            if member.code == Skip.STOPPED:
                self._let_go.add(member.device_id)

    # -- offers ----------------------------------------------------------------------------

    def _begin_offer(self, group: NodeGroup, opened: Opened, device_id: str) -> None:
        now_ns = self._clock.mono_ns()
        early = now_ns < self._offer_after_ns.get(device_id, 0)
        device = group.devices.get(device_id)
        if early or device_id in self._offering or device is None:
            return
        self._offering.add(device_id)
        self._offer_after_ns[device_id] = now_ns + OFFER_AGAIN_NS
        self._let_go.discard(device_id)
        group.spawn(self._offer(group, opened, device), f"update {device_id}")

    async def _offer(self, group: NodeGroup, opened: Opened, device: NodeDevice) -> None:
        device_id, rollout, image = device.device_id, opened.rollout, opened.rollout.image
        try:
            await self._on_file()
            member = rollout.member(device_id)
            if rollout.state is not State.RUNNING or member is None or member.phase not in ACTIVE:
                return
            session = device.session
            args = {
                "version": image.version,
                "size": image.size,
                "sha256": image.sha256,
                "security": image.security,
            }
            await group.command(device.index, "update", args)
            # Its next status says the same; the one before may tell of an earlier failure.
            device.update = None
            rollout.accepted(device_id, session)
        except NodeRefusedError as refused:
            rollout.refused(device_id, refused.node_code, str(refused).partition(": ")[2])
        finally:
            self._offering.discard(device_id)
        self._keep(opened)

    async def _on_file(self) -> None:
        """Wait until everything that changed so far is durable."""
        if self._kept is not None:
            await asyncio.shield(self._kept)

    # -- chunks ----------------------------------------------------------------------------

    def heard(self, device: NodeDevice, meter_id: str, event: NodeEvent) -> None:
        """Take up an event that is about an update."""
        if event.kind == "update_failed":
            self._notes[device.device_id] = (event.code, event.message)
        ask = event.chunk
        if ask is None or ask.session != device.session or self._group is None:
            return
        holding = (one for one in self.opened.values() if one.rollout.holds(device.device_id))
        opened = next(holding, None)
        if opened is None:
            if device.device_id not in self._let_go:
                self._refuse(device.device_id, meter_id, "it is in no roll-out")
            self._end(self._group, device, ask.version)
            return
        problem = ask_problem(opened.rollout.image, ask)
        if problem:
            self._refuse(device.device_id, meter_id, problem)
        elif not self._is_held and opened.rollout.asked(device.device_id, ask):
            self._feed(self._group, opened, device.device_id, ask)
        else:
            self.counts["wishes not now"] += 1

    def _end(self, group: NodeGroup, device: NodeDevice, version: str) -> None:
        """Tell a node that fetches for no roll-out to give up; an older firmware asks on until it
        restarts."""
        now_ns, device_id = self._clock.mono_ns(), device.device_id
        if self._is_held or now_ns < self._end_after_ns.get(device_id, 0):
            return
        self._end_after_ns[device_id] = now_ns + OFFER_AGAIN_NS

        async def end() -> None:
            result = await group.command(device.index, "update_stop", {"version": version})
            log.info("firmware.stopped", device=device_id, version=version, said=result.message)

        group.spawn(end(), f"stop of update {device_id}")

    def _refuse(self, device_id: str, meter_id: str, reason: str) -> None:
        self.counts["wishes refused"] += 1
        now_ns, told_ns = self._clock.mono_ns(), self._told_ns.get(device_id)
        if told_ns is not None and now_ns - told_ns < TELL_EVERY_NS:
            return
        self._told_ns[device_id] = now_ns
        log.warning("firmware.refused", device=device_id, reason=reason)
        self._tell("FIRMWARE_WISH_REFUSED", meter_id, "warning", device=device_id, reason=reason)

    def _feed(self, group: NodeGroup, opened: Opened, device_id: str, ask: ChunkAsk) -> None:
        feeding = self._feeding.setdefault(device_id, _Feeding())
        feeding.ask = ask
        if not feeding.is_busy:
            feeding.is_busy = True
            group.spawn(self._send(group, opened, device_id, feeding), f"firmware {device_id}")

    async def _send(
        self, group: NodeGroup, opened: Opened, device_id: str, feeding: _Feeding
    ) -> None:
        rollout = opened.rollout
        try:
            while (ask := feeding.ask) is not None:
                feeding.ask = None
                wait_ns = feeding.next_ns - self._clock.mono_ns()
                if wait_ns > 0:
                    await self._clock.sleep(wait_ns / NS)
                end = ask.offset + ask.count
                if end == rollout.image.size:
                    self._keep(opened)
                    await self._on_file()
                if rollout.state is not State.RUNNING:
                    return
                feeding.next_ns = self._clock.mono_ns() + CHUNK_GAP_NS
                await group.send_chunk(device_id, ask.offset, opened.content[ask.offset : end])
                self.counts["chunks"] += 1
        finally:
            feeding.is_busy = False

    # -- what people hear ------------------------------------------------------------------

    def _tell_news(self, opened: Opened, news: News, by: str) -> None:
        rollout = opened.rollout
        facts: dict[str, object] = {"rollout": rollout.number, "version": rollout.image.version}
        if news.device_id:
            self._tell_device(news, facts)
            return
        log.info("rollout", what=news.kind, by=by or "control", reason=news.reason, **facts)
        facts["by"] = by or "control"
        match news.kind:
            case "ROLLOUT_BEGUN":
                self._tell("ROLLOUT_BEGUN", "site", "notice", **facts, devices=rollout.base)
            case "ROLLOUT_STAGE":
                percent = rollout.plan.stages[rollout.stage]
                self._tell("ROLLOUT_STAGE", "site", "notice", **facts, percent=percent)
            case "ROLLOUT_PAUSED":
                self._tell("ROLLOUT_PAUSED", "site", "notice", **facts)
            case "ROLLOUT_RESUMED":
                self._tell("ROLLOUT_RESUMED", "site", "notice", **facts)
            case "ROLLOUT_COMPLETED":
                done = sum(member.phase is Phase.DONE for member in rollout.members)
                self._tell("ROLLOUT_COMPLETED", "site", "notice", **facts, done=done)
            case _:
                severity = "notice" if by else "critical"
                failed = [
                    f"{member.device_id}: {member.code} {member.reason}".strip()
                    for member in rollout.members
                    if member.phase is Phase.FAILED
                ]
                facts |= {"reason": news.reason, "failed": failed[:FAILED_SHOWN]}
                if not by:
                    facts["next"] = REMEDY
                self._tell("ROLLOUT_STOPPED", "site", severity, **facts)

    def _tell_device(self, news: News, facts: dict[str, object]) -> None:
        record = self._book.records.get(news.device_id)
        meter_id = (record.meter_id if record is not None else None) or news.device_id
        facts["device"] = news.device_id
        if news.kind == "ROLLOUT_DEVICE_DONE":
            self._tell("ROLLOUT_DEVICE_DONE", meter_id, "notice", **facts)
            return
        log.warning("rollout.failed", code=news.code, reason=news.reason, **facts)
        facts |= {"code": news.code, "reason": news.reason}
        self._tell("ROLLOUT_DEVICE_FAILED", meter_id, "warning", **facts)


def read_firmware(connection: Connection) -> FirmwareFound:
    """What is on file. Raises StoreCorruptError: an image is gone that is being rolled out."""
    images = read_images(connection)
    records = read_rollouts(connection)
    opened = []
    for record in records:
        if record.ended_utc_ms is not None:
            continue
        content = read_image_bytes(connection, record.image.sha256)
        if content is None:
            raise StoreCorruptError(f"roll-out {record.number} has lost its image")
        members = read_members(connection, record.number)
        rollout = Rollout(record.number, record.image, record.plan, members, head=record.head)
        opened.append(Opened(record, rollout, content))
    return FirmwareFound(images, tuple(opened), max((one.number for one in records), default=0))
