"""Nodes in control: made from configuration and ledger, heard, granted leases, kept."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from gateway.app.clock import seeded
from gateway.app.config import Config
from gateway.app.config_south import SouthMqtt
from gateway.app.control.books import Books
from gateway.app.control.devices import LIFTED, SET, DeviceBook, Teller
from gateway.app.control.group import JoinedGroup, Meters
from gateway.app.control.node_leases import LEASE_REASONS, Leases
from gateway.app.control.node_words import Buttons, ModuleWatch, Presses, node_figures
from gateway.app.control.polls import PollGroup
from gateway.app.control.rollouts import FirmwareFound, RolloutOffice, read_firmware
from gateway.app.control.shelf import TariffShelf
from gateway.app.node_key import load_node_key
from gateway.app.paths import paths_of
from gateway.core.clock import Clock
from gateway.core.errors import MeterError
from gateway.core.figures import Value
from gateway.core.node_message import CHUNK_WANTED, NodeEvent, NodeTelemetry
from gateway.core.point import Point
from gateway.core.proof import Observation
from gateway.core.switching import Reason
from gateway.south.node_device import NodeDevice, steady
from gateway.south.node_wiring import Link
from gateway.south.nodes import TOPICS, NodeGroup
from gateway.store.devices import DeviceStatus, put_devices, read_devices
from gateway.store.ledger import read_epoch
from gateway.store.writer import StoreWriter

if TYPE_CHECKING:
    from gateway.app.control.engine import Engine
    from gateway.south.mqtt import MqttLink

log = structlog.get_logger()

# Each node's lease is looked at every so many sweeps, in turn.
LEASE_ROUNDS: Final = 10
# What only moves on (sequence, time seen) is committed this often, anything else with the sweep.
KEEP_EVERY_MS: Final = 60_000
# A node that tells more events than this in a minute tells no more in it.
EVENTS_MAX: Final = 20
MINUTE_NS: Final = 60 * 1_000_000_000
# By which a node says that its own protection has opened it: whoever closes it answers for that.
PROTECTION: Final = frozenset({"overload", "voltage", "safety"})
WARNINGS: Final = frozenset(
    {
        "meter_silent",
        "register_reset",
        "register_regression",
        "register_jump",
        "trip",
        "relay_failed",
        "spool_lost",
        "memory_low",
        "task_failed",
        "command_refused",
        "update_failed",
    }
)


class NodeOffice:
    """Hears the nodes of a site and grants their leases. `first` is where their points begin."""

    def __init__(
        self,
        book: DeviceBook,
        clock: Clock,
        tell: Teller,
        *,
        first: int,
        epoch: str,
        shelf: TariffShelf,
        books: Books,
        firmware: FirmwareFound,
    ) -> None:
        self.book: Final = book
        self.rollouts: Final = RolloutOffice(firmware, book, books, tell, clock, first=first)
        self.first: Final = first
        self._clock = clock
        self._tell = tell
        self._epoch = epoch
        self._shelf = shelf
        self._books = books
        self._group: NodeGroup | None = None
        self._engine: Engine | None = None
        self.leases: Leases | None = None
        self._round = 0
        self._sessions: dict[int, str] = {}
        self._events: dict[tuple[int, str], deque[int]] = {}
        self._presses = Presses()
        self.events_dropped = 0
        self.link: MqttLink | None = None
        self._broker_away = False
        self.buttons: Final = Buttons(books)
        self._modules = ModuleWatch(book, self._told, self._may_tell)

    @property
    def group(self) -> NodeGroup | None:
        """The nodes that are heard; None without a broker."""
        return self._group

    def serve(self, group: NodeGroup, engine: "Engine") -> None:
        """Begin: whose nodes these are and who decides."""
        self._group, self._engine = group, engine
        self.leases = Leases(
            group,
            engine,
            self._clock,
            self._told,
            first=self.first,
            epoch=self._epoch,
            shelf=self._shelf,
            book=self.book,
            books=self._books,
        )
        self._own()
        self.rollouts.serve(group, engine)

    def forget(self, device_id: str) -> None:
        """Drop what is held in memory of a device; it may serve another point now, or none."""
        if self._group is not None:
            self._group.forget(device_id)
            self._own()

    def _own(self) -> None:
        """Say whose registers each point reads: no counter goes on from another device's.

        A device that counts here has counted nowhere else since.
        """
        owners = {index: device_id for device_id, index in self.book.serves.items()}
        for index in range(len(self.book.nodes)):
            guard = self._point(index).guard
            guard.read_from(owners.get(index, ""))
            if self.book.serves.get(guard.owner or "", index) != index:
                guard.disown()

    def figures(self) -> dict[str, Value]:
        """Figures for the board."""
        figures: dict[str, Value] = {
            **node_figures(self.book, self._group),
            "node_messages_dropped_total": 0 if self.link is None else self.link.dropped,
            "node_events_dropped_total": self.events_dropped,
        }
        if self._group is not None:
            figures["node_broker_away"] = float(self._broker_away)
        return figures

    # -- as the group's listener -----------------------------------------------------------

    def telemetry(self, index: int, told: NodeTelemetry) -> None:
        """A relay that a lease opened is closed by a reconnection, with its confirmation; one that
        its limit opened, as after a trip of our own; what its protection opened, by a person. In
        another session it was without power, perhaps, and its counter may be a little lower."""
        self._modules.look(index, self._point(index).terms.meter_id, told)
        self._presses.heard(index, told, self._clock.mono_ns())
        if told.session != self._sessions.get(index):
            self._sessions[index] = told.session
            self._point(index).guard.disturbed()
        if told.relay_closed is not False:
            return
        if PROTECTION.intersection(told.reasons):
            self._point(index).supply.opened_at_meter()
        if "limit" in told.reasons and "command" not in told.reasons:
            self._take_over(index)
        if not LEASE_REASONS.intersection(told.reasons):
            return
        point = self._point(index)
        if point.supply.opened_for_credit():
            self._tell(
                "SUPPLY_CUT",
                point.terms.service_point_id,
                "notice",
                command=None,
                reasons=[Reason.CREDIT.value],
                verified_by=["output"],
                by="lease",
            )

    def output(self, index: int, seen: Observation) -> None:
        """A relay that is shown while its energy is in doubt, or has to wait."""
        if self._engine is not None:
            self._engine.on_output(self.first + index, seen)

    def _take_over(self, index: int) -> None:
        """A node that was alone tripped: it is told to stay open, and the limiter does the rest."""
        group, engine = self._group, self._engine
        if group is None or engine is None:
            return
        if engine.governor.tripped_by_itself(self.first + index):
            group.spawn(self._hold_open(group, index), f"hold {index}")

    async def _hold_open(self, group: NodeGroup, index: int) -> None:
        await group.order(index, "relay", {"closed": False})

    def event(self, index: int, event: NodeEvent) -> None:
        """Keep what a node tells; its button confirms a reconnection."""
        meter_id = self._point(index).terms.meter_id
        device = None if self._group is None else self._group.device_at(index)
        if device is not None:
            self.rollouts.heard(device, meter_id, event)
        # A wish for a piece of an update is none of their news.
        if event.kind == CHUNK_WANTED:
            return
        is_press, now_ns = event.kind == "button", self._clock.mono_ns()
        is_fresh = self._presses.is_fresh(index, event, now_ns, self.unix_s())
        if not self._may_tell(index, "press" if is_press else "event"):
            return
        severity = "warning" if event.kind in WARNINGS else "notice"
        said = {"code": event.code, "message": event.message} if event.code else {}
        self._tell(
            "NODE_EVENT",
            meter_id,
            severity,
            what=event.kind,
            energy_wh=event.energy_wh,
            at_ms=event.node_ms,
            **said,
        )
        if is_press and is_fresh:
            self._confirm(index, event)

    def refused(self, index: int, error: MeterError) -> None:
        """Told once until the node sends something good again."""
        if not self._may_tell(index, "refused"):
            return
        meter_id = self._point(index).terms.meter_id
        log.warning("node.refused", meter=meter_id, code=error.code, reason=str(error))
        self._tell("NODE_MESSAGE_REFUSED", meter_id, "warning", code=error.code, reason=str(error))

    def broker(self, *, connected: bool, reason: str) -> None:
        """The broker of all nodes went or came."""
        self._broker_away = not connected
        (log.info if connected else log.warning)("nodes.broker", connected=connected, reason=reason)
        severity = "cleared" if connected else "warning"
        self._tell("NODE_BROKER_AWAY", "site", severity, reason=reason)

    def settled(self, index: int) -> tuple[int, int]:
        """Kept readings from before that are charged already."""
        point = self._point(index)
        return point.label_utc_ms, (point.guard.registers_wh or (0,))[0]

    def unix_s(self) -> int:
        """The wall time, while it is trusted."""
        engine = self._engine
        trusted = engine is not None and engine.gate.clock.trusted
        return self._clock.utc_ms() // 1_000 if trusted else 0

    async def before_close(self, index: int) -> None:
        """Grant what the credit allows now, whatever the node holds. Raises a MeterError."""
        if self.leases is not None:
            await self.leases.before_close(index)

    def _told(self, kind: str, subject: str, severity: str, **facts: object) -> None:
        self._tell(kind, subject, severity, **facts)

    def _may_tell(self, index: int, kind: str = "event") -> bool:
        """Whether a node may have one more event of a kind on record in this minute.

        Presses of its button and refusals are bounded by themselves: noise never costs a press.
        """
        now_ns = self._clock.mono_ns()
        recent = self._events.setdefault((index, kind), deque(maxlen=EVENTS_MAX))
        if len(recent) == EVENTS_MAX and now_ns - recent[0] < MINUTE_NS:
            self.events_dropped += 1
            return False
        recent.append(now_ns)
        return True

    def _confirm(self, index: int, event: NodeEvent) -> None:
        """The word of a person at the point: a request as from anywhere, once for each press.

        Where no reconnection waits nothing is asked for; the press is on record as NODE_EVENT.
        """
        point, group = self._point(index), self._group
        waits = point.supply.reconnection_pending and not point.supply.reasons
        if group is None or not waits:
            log.info("node.button", meter=point.terms.meter_id)
            return
        work = self.buttons.pressed(event, point.terms.service_point_id, self._clock.utc_ms())
        if work is not None:
            key, pressing = work
            group.spawn(pressing, key)

    # -- after every sweep -----------------------------------------------------------------

    def look(self) -> None:
        """Leases that moved are granted, records that changed are committed."""
        group = self._group
        if group is None:
            return
        group.swept()
        self._round = (self._round + 1) % LEASE_ROUNDS
        for device in group.devices.values():
            if self.leases is not None and device.index % LEASE_ROUNDS == self._round:
                self.leases.look(device)
            self._note(device)
        self.rollouts.look()
        changed = self.book.take_changed()
        if changed:
            self._books.commit(lambda connection: put_devices(connection, changed))

    def _note(self, device: NodeDevice) -> None:
        """Keep how far a device was read, and what it shows."""
        record = self.book.records.get(device.device_id)
        if record is None or record.status is not DeviceStatus.APPROVED:
            return
        state = device.shown()
        # What only telemetry tells stays as it was until there is some.
        kept = [SET, LIFTED]
        if device.heard_ns is None:
            kept += ["held", "modules"]
        state |= {name: record.state[name] for name in kept if name in record.state}
        utc_ms = self._clock.utc_ms()
        same = steady(state) == steady(record.state) and device.firmware == record.firmware
        if same and abs(utc_ms - record.seen_utc_ms) < KEEP_EVERY_MS:
            return
        order = device.order
        self.book.put(
            replace(
                record,
                firmware=device.firmware,
                seen_utc_ms=utc_ms if device.online else record.seen_utc_ms,
                boot_id=order.boot_id,
                seq=order.seq,
                state=state,
            )
        )

    def _point(self, index: int) -> Point:
        if self._engine is None:
            raise AssertionError("heard before it serves")
        return self._engine.points[self.first + index]


def node_office_of(
    config: Config,
    writer: StoreWriter,
    books: Books,
    shelf: TariffShelf,
    *,
    tell: Teller,
    clock: Clock,
) -> NodeOffice:
    """The office as the ledger left it; without a broker it only keeps the records of devices."""
    records = writer.submit(read_devices).result()
    epoch = writer.submit(read_epoch).result()
    served = config.south.mqtt is not None
    key = load_node_key(paths_of(config).control_dir) if served else b""
    book = DeviceBook(config.nodes, records, key, clock, tell)
    return NodeOffice(
        book,
        clock,
        tell,
        first=len(config.meters),
        epoch=epoch,
        shelf=shelf,
        books=books,
        firmware=writer.submit(read_firmware).result(),
    )


def meters_of(
    config: Config,
    office: NodeOffice,
    first_sequences: Sequence[int],
    clock: Clock,
    *,
    new_id: Callable[[], str],
) -> tuple[Meters, NodeGroup | None]:
    """All that is metered, and the nodes among it; None without a broker."""
    count, mqtt = len(config.meters), config.south.mqtt
    polls = PollGroup(config.meters, first_sequences[:count], clock)
    if mqtt is None:
        return polls, None
    group = _node_group(config, mqtt, office, first_sequences[count:], clock, new_id=new_id)
    return JoinedGroup(polls, group, len(config.nodes)), group


def _node_group(
    config: Config,
    mqtt: SouthMqtt,
    office: NodeOffice,
    first_sequences: Sequence[int],
    clock: Clock,
    *,
    new_id: Callable[[], str],
) -> NodeGroup:
    """The group of a site's nodes on its broker."""
    # Where nobody has nodes, nobody waits for the library.
    from gateway.south.mqtt import Broker, BrokerTls, MqttLink  # noqa: PLC0415

    tls = None if mqtt.tls is None else BrokerTls(mqtt.tls.ca, mqtt.tls.cert, mqtt.tls.key)
    broker = Broker(
        mqtt.host,
        mqtt.port,
        f"prepaid-gateway-{config.site.id}",
        mqtt.username,
        mqtt.password_file,
        tls,
    )

    def make_link(
        on_message: Callable[[str, bytes, bool], None],
        on_state: Callable[[bool, str], None],
        admits: Callable[[str], bool],
    ) -> Link:
        jitter = seeded(f"broker {config.site.id} {clock.utc_ms()}")
        office.link = MqttLink(
            broker, TOPICS, clock, on_message, on_state, admits=admits, jitter=jitter
        )
        return office.link

    return NodeGroup(
        [node.meter_id for node in config.nodes],
        first_sequences,
        clock,
        registry=office.book,
        listener=office,
        make_link=make_link,
        new_id=new_id,
    )
