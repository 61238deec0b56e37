"""Devices (ESP32 nodes): who is whose, who waits to be approved, who is shut out."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

import structlog

from gateway.app.config import NodeConfig
from gateway.app.control.department import Method
from gateway.app.control.desk import Desk
from gateway.core.clock import Clock
from gateway.core.errors import RefusedError
from gateway.core.requests import ApproveDevice, RefuseDevice, Request
from gateway.core.sealing import command_key, device_secret
from gateway.store.db import Connection
from gateway.store.devices import DeviceRecord, DeviceStatus, put_devices

log = structlog.get_logger()

# A person looks through them; whoever floods the broker with names gets no further.
PENDING_MAX: Final = 50
PENDING_PER_MINUTE: Final = 10
MINUTE_NS: Final = 60 * 1_000_000_000
# What of a device's state is no word of its own: what it was set to from here, and (by sequence of
# readings and session) after which reading its leases follow the credit again.
SET: Final = "settings"
LIFTED: Final = "lifted"


class Teller(Protocol):
    """Where events go."""

    def __call__(self, kind: str, subject: str, severity: str, **facts: object) -> None:
        """Keep an event for people and for the north."""
        ...


class DeviceBook:
    """All devices on record, and which of them serve the configured `nodes`.

    `key` is the site's node key. What changes waits in `take_changed` to be committed.
    """

    def __init__(
        self,
        nodes: Sequence[NodeConfig],
        records: Mapping[str, DeviceRecord],
        key: bytes,
        clock: Clock,
        tell: Teller,
    ) -> None:
        self.nodes: Final = tuple(nodes)
        self.records: Final = dict(records)
        self.dropped = 0
        self._key = key
        self._clock = clock
        self._tell = tell
        self.serves: dict[str, int] = {}
        self._keys: dict[tuple[str, int], bytes] = {}
        self._knocks: deque[int] = deque(maxlen=PENDING_PER_MINUTE)
        self._changed: set[str] = set()
        self._assign()

    # -- as the group's registry -----------------------------------------------------------

    def index_of(self, device_id: str) -> int | None:
        """The node that an approved device serves; one that the file names is approved by it."""
        index = self.serves.get(device_id)
        if index is None:
            return None
        record, meter_id = self.records.get(device_id), self.nodes[index].meter_id
        if record is None or record.status is DeviceStatus.PENDING:
            self._approve_by_file(device_id, meter_id)
        elif record.status is not DeviceStatus.APPROVED:
            return None
        elif record.meter_id != meter_id:
            # The file has given it to another meter since.
            self._approve_by_file(device_id, meter_id)
        return index

    def key_of(self, device_id: str) -> bytes:
        """What seals commands to a device."""
        generation = self.records[device_id].generation
        found = self._keys.get((device_id, generation))
        if found is None:
            found = command_key(device_secret(self._key, device_id, generation))
            self._keys[device_id, generation] = found
        return found

    def order_of(self, device_id: str) -> tuple[int, int]:
        """Boot and sequence of the telemetry that counted last; -1 where there is none."""
        record = self.records[device_id]
        return record.boot_id, record.seq

    def knock(self, device_id: str, firmware: str) -> None:
        """A device that serves nobody was heard: it waits for a person, within bounds."""
        record, utc_ms = self.records.get(device_id), self._clock.utc_ms()
        if record is not None:
            if utc_ms - record.seen_utc_ms >= MINUTE_NS // 1_000_000:
                self.put(replace(record, seen_utc_ms=utc_ms, firmware=firmware))
            return
        now_ns = self._clock.mono_ns()
        pending = sum(one.status is DeviceStatus.PENDING for one in self.records.values())
        crowded = len(self._knocks) == PENDING_PER_MINUTE
        if pending >= PENDING_MAX or (crowded and now_ns - self._knocks[0] < MINUTE_NS):
            self.dropped += 1
            return
        self._knocks.append(now_ns)
        self.put(DeviceRecord(device_id, DeviceStatus.PENDING, None, 1, firmware, utc_ms, utc_ms))
        log.info("device.pending", device=device_id)
        self._tell("DEVICE_PENDING", device_id, "notice", firmware=firmware)

    def quarantine(self, device_id: str, reason: str) -> None:
        """Shut a device out until a person has looked."""
        record = self.records[device_id]
        if record.status is DeviceStatus.QUARANTINED:
            return
        self.put(replace(record, status=DeviceStatus.QUARANTINED, note=reason))
        log.error("device.quarantined", device=device_id, reason=reason)
        self._tell(
            "DEVICE_QUARANTINED", device_id, "critical", meter=record.meter_id, reason=reason
        )

    # -- records ---------------------------------------------------------------------------

    def put(self, record: DeviceRecord) -> None:
        """Take a record that is still to be committed."""
        self.records[record.device_id] = record
        self._changed.add(record.device_id)

    def adopt(self, record: DeviceRecord) -> None:
        """Take a record that was committed, and assign devices anew."""
        self.records[record.device_id] = record
        self._changed.discard(record.device_id)
        self._assign()

    def take_changed(self) -> list[DeviceRecord]:
        """Records that changed since the last call; the caller commits them."""
        changed, self._changed = self._changed, set()
        return [self.records[name] for name in sorted(changed)]

    def device_of(self, meter_id: str) -> DeviceRecord | None:
        """The approved device of a meter."""
        for device_id, index in self.serves.items():
            if self.nodes[index].meter_id == meter_id:
                record = self.records.get(device_id)
                approved = record is not None and record.status is DeviceStatus.APPROVED
                return record if approved else None
        return None

    def meter_of(self, device_id: str) -> NodeConfig | None:
        """The node of the configuration that a device serves, or would if it were heard."""
        index = self.serves.get(device_id)
        return None if index is None else self.nodes[index]

    def _assign(self) -> None:
        """The one map of whom a device serves, from file and records; each way one to one.

        The file's device, else the one that a person approved, else one of the meter's name.
        """
        approved = {
            record.meter_id: record.device_id
            for record in self.records.values()
            if record.status is DeviceStatus.APPROVED
        }
        given = [(index, node.meter_id, node.device) for index, node in enumerate(self.nodes)]
        choices = (
            [(index, device) for index, _, device in given],
            [(index, "" if device else approved.get(name, "")) for index, name, device in given],
            [(index, "" if device else name) for index, name, device in given],
        )
        self.serves = {}
        served: set[int] = set()
        for choice in choices:
            for index, device_id in choice:
                if device_id and index not in served and device_id not in self.serves:
                    self.serves[device_id] = index
                    served.add(index)

    def _approve_by_file(self, device_id: str, meter_id: str) -> None:
        utc_ms = self._clock.utc_ms()
        known = self.records.get(device_id)
        fresh = known or DeviceRecord(device_id, DeviceStatus.PENDING, None, 1, "", utc_ms, utc_ms)
        self.put(replace(fresh, status=DeviceStatus.APPROVED, meter_id=meter_id))
        log.info("device.approved", device=device_id, meter=meter_id, by="configuration")
        self._tell("DEVICE_APPROVED", device_id, "notice", meter=meter_id, by="configuration")


class DeviceRequests:
    """Carries out what people decide about devices. `forget` drops what is held of a device."""

    def __init__(
        self, desk: Desk, book: DeviceBook, tell: Teller, forget: Callable[[str], None]
    ) -> None:
        self._desk = desk
        self._book = book
        self._tell = tell
        self._forget = forget

    @property
    def methods(self) -> Mapping[type, Method]:
        """What this carries out, by the type of the body."""
        return {ApproveDevice: self.approve, RefuseDevice: self.refuse}

    async def approve(self, body: ApproveDevice, request: Request) -> None:
        """Let a device serve a node of the configuration.

        Refuses DEVICE_UNKNOWN, METER_UNKNOWN, DEVICE_CONFIGURED, DEVICE_TAKEN. Another node than
        the one it serves already: refuse it there first, lest a slip takes somebody's meter away.
        """
        record = self._known(body.device_id)
        node = next((one for one in self._book.nodes if one.meter_id == body.meter_id), None)
        if node is None:
            raise RefusedError(
                "METER_UNKNOWN",
                f"the configuration has no node {body.meter_id}: add it (model pzem-node) first",
                "meter_id",
            )
        if node.device and node.device != body.device_id:
            raise RefusedError(
                "DEVICE_CONFIGURED",
                f"the configuration gives {body.meter_id} the device {node.device}",
                "meter_id",
            )
        other = self._book.meter_of(body.device_id)
        if other is not None and other.meter_id != body.meter_id:
            if body.device_id in (other.device, other.meter_id):
                raise RefusedError(
                    "DEVICE_CONFIGURED",
                    f"the configuration gives {body.device_id} to {other.meter_id}, "
                    "by `device` or by its name",
                    "device_id",
                )
            raise RefusedError(
                "DEVICE_TAKEN",
                f"{body.device_id} serves {other.meter_id}: refuse it there first",
                "device_id",
            )
        serving = self._book.device_of(body.meter_id)
        if serving is not None and serving.device_id != body.device_id:
            raise RefusedError(
                "DEVICE_TAKEN",
                f"{body.meter_id} has the device {serving.device_id}: refuse that one first",
                "meter_id",
            )
        fresh = replace(
            record, status=DeviceStatus.APPROVED, meter_id=body.meter_id, note=request.actor
        )
        await self._keep(request, fresh)
        self._tell(
            "DEVICE_APPROVED", body.device_id, "notice", meter=body.meter_id, by=request.actor
        )

    async def refuse(self, body: RefuseDevice, request: Request) -> None:
        """Shut a device out. Refuses DEVICE_UNKNOWN, REASON_MISSING."""
        record = self._known(body.device_id)
        if not body.reason:
            raise RefusedError("REASON_MISSING", "say why the device is refused", "reason")
        had_secret = record.status in (DeviceStatus.APPROVED, DeviceStatus.QUARANTINED)
        fresh = replace(
            record,
            status=DeviceStatus.REFUSED,
            meter_id=None,
            generation=record.generation + had_secret,
            note=body.reason,
            # Whoever comes back under this name was provisioned anew.
            state={name: value for name, value in record.state.items() if name != SET},
        )
        await self._keep(request, fresh)
        self._tell("DEVICE_REFUSED", body.device_id, "notice", by=request.actor, reason=body.reason)

    def _known(self, device_id: str) -> DeviceRecord:
        record = self._book.records.get(device_id)
        if record is None:
            raise RefusedError(
                "DEVICE_UNKNOWN", f"no device {device_id} was ever heard", "device_id"
            )
        return record

    async def _keep(self, request: Request, record: DeviceRecord) -> None:
        def effect(connection: Connection) -> dict[str, object]:
            put_devices(connection, [record])
            return {
                "device_id": record.device_id,
                "status": record.status.value,
                "meter_id": record.meter_id,
                "generation": record.generation,
            }

        await self._desk.commit(request, effect)
        self._book.adopt(record)
        self._forget(record.device_id)
