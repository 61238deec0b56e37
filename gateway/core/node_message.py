"""What a node says: telemetry, status, events and results, as values with units or a refusal.

Two forms of telemetry are read (docs/node-protocol.md): the older one (decimal kWh, no sequence)
and ours, which adds whole Wh, sequence, boot and session. Nothing here believes more than the
form: whether energy may be charged is the register guard's matter.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.errors import MeterProtocolError
from gateway.core.lease import NO_LIMITS, PowerLimits
from gateway.core.node_form import (
    ENERGY_WH_MAX,
    energy_wh_of,
    number_of,
    object_of,
    quality_of,
    relay_of,
    session_of,
    text_of,
    time_ms_of,
    whole_of,
    words_of,
)
from gateway.core.reading import Quality
from gateway.core.rollout_plan import ChunkAsk

RECORDS_MAX: Final = 256
# Modules on one node's line.
MODULES_MAX: Final = 3
MODULE_ADDRESS_MAX: Final = 0xF7
RECORD_FIELDS: Final = 10
# The kind of event that asks for a piece of an update.
CHUNK_WANTED: Final = "update_want"
# Flags of a kept record.
CLOCK_SET: Final = 1
QUALITY_GOOD: Final = 4
METER_SILENT: Final = 8
DEVICE_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,31}")


@dataclass(frozen=True, slots=True)
class HeldCounter:
    """A module's own counter, in Wh: the last good one, and the one that waits for a person."""

    counter_wh: int
    held_wh: int


@dataclass(frozen=True, slots=True)
class NodeModule:
    """One of a node's several modules. None: it is silent, or was never read."""

    address: int
    quality: Quality
    energy_wh: int | None = None
    voltage_v: float | None = None
    current_a: float | None = None
    power_w: float | None = None
    held: HeldCounter | None = None


@dataclass(frozen=True, slots=True)
class NodeTelemetry:
    """One telemetry message. None: the node did not say, or its module was silent.

    `energy_wh` is the cumulative import, floored to whole Wh. `node_ms` is when it was measured and
    `sent_ms` when it was told, by the node's own clock (wall ms). The older form has neither `seq`,
    `boot_id`, `session` nor `relay_closed`. `held` is the first module's counter where it waits;
    `modules` are all, where there are several.
    """

    device_id: str
    energy_wh: int | None
    quality: Quality
    node_ms: int | None = None
    sent_ms: int | None = None
    voltage_v: float | None = None
    current_a: float | None = None
    power_w: float | None = None
    power_factor: float | None = None
    frequency_hz: float | None = None
    rssi_dbm: float | None = None
    seq: int | None = None
    boot_id: int | None = None
    session: str = ""
    relay_closed: bool | None = None
    reasons: tuple[str, ...] = ()
    firmware: str = ""
    held: HeldCounter | None = None
    modules: tuple[NodeModule, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeLease:
    """The lease that a node says to hold."""

    epoch: str
    seq: int
    cutoff_wh: int
    expires_s: int
    limits: PowerLimits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class NodeUpdate:
    """An update that a node is fetching, with the bytes that it has, or that `failed`, and why."""

    version: str
    offset: int | None = None
    failed: str = ""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node's retained status; its Will is one with `online` False.

    `can` names what its firmware can do beyond the first form (`limits`, `release`).
    """

    device_id: str
    online: bool
    session: str = ""
    boot_id: int | None = None
    firmware: str = ""
    hardware: str = ""
    reset: str = ""
    slot: str = ""
    trial: bool = False
    spooled: int = 0
    lease: NodeLease | None = None
    can: tuple[str, ...] = ()
    update: NodeUpdate | None = None


@dataclass(frozen=True, slots=True)
class NodeResult:
    """A node's answer to a command."""

    device_id: str
    session: str
    command_id: str
    ok: bool
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """Something that happened at a node; `node_ms` by its own clock, None while that is unset.

    `session`, `boot_id` and `seq` are those of the boot in which it happened: it may come after a
    later one has begun, and twice. The older form has no `seq`.

    `chunk` is what it asks for (`update_want`); `code` and `message` say why something failed.
    """

    device_id: str
    session: str
    kind: str
    node_ms: int | None
    energy_wh: int | None
    boot_id: int | None = None
    seq: int | None = None
    chunk: ChunkAsk | None = None
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A reading that a node kept. `unix_s` is 0 where its clock was unset."""

    unix_s: int
    energy_wh: int
    voltage_v: float
    current_a: float
    power_w: float
    power_factor: float
    is_good: bool


@dataclass(frozen=True, slots=True)
class NodeBacklog:
    """One segment of kept readings, oldest first; the next comes after its acknowledgement."""

    device_id: str
    session: str
    segment: int
    records: tuple[NodeRecord, ...]


def device_of(topic: str) -> tuple[str, str]:
    """Device id and kind of message (telemetry, status, …) of a topic.

    Raises MeterProtocolError for a topic that is none of a node.
    """
    parts = topic.split("/")
    if len(parts) != 3 or parts[0] != "smartmeter" or not DEVICE_ID.fullmatch(parts[1]):
        raise MeterProtocolError("the topic is not smartmeter/<device id>/<kind>")
    return parts[1], parts[2]


def parse_telemetry(payload: bytes, device_id: str) -> NodeTelemetry:
    """One telemetry message that came under `device_id`.

    Raises MeterProtocolError (size, form, range, NaN) and MeterIdentityError (another id inside).
    """
    found = object_of(payload, device_id)
    quality = quality_of(found)
    return NodeTelemetry(
        device_id=device_id,
        energy_wh=energy_wh_of(found),
        quality=quality,
        node_ms=time_ms_of(found.get("timestamp")),
        sent_ms=time_ms_of(found.get("sent")),
        voltage_v=number_of(found, "voltage", 0, 1_000),
        current_a=number_of(found, "current", 0, 10_000),
        power_w=number_of(found, "power_w", -10_000_000, 10_000_000),
        power_factor=number_of(found, "power_factor", -1, 1),
        frequency_hz=number_of(found, "frequency_hz", 0, 1_000),
        rssi_dbm=number_of(found, "rssi", -200, 100),
        seq=whole_of(found, "seq"),
        boot_id=whole_of(found, "boot_id"),
        session=session_of(found),
        relay_closed=relay_of(found),
        reasons=words_of(found, "reasons"),
        firmware=text_of(found, "firmware"),
        held=_held(found),
        modules=_modules(found),
    )


def parse_status(payload: bytes, device_id: str) -> NodeStatus:
    """A status message. Raises as `parse_telemetry`."""
    found = object_of(payload, device_id)
    online = found.get("online")
    if not isinstance(online, bool):
        raise MeterProtocolError("online is neither true nor false")
    return NodeStatus(
        device_id=device_id,
        online=online,
        session=session_of(found),
        boot_id=whole_of(found, "boot_id"),
        firmware=text_of(found, "firmware"),
        hardware=text_of(found, "hardware"),
        reset=text_of(found, "reset"),
        slot=text_of(found, "slot"),
        trial=found.get("trial") is True,
        spooled=whole_of(found, "spooled") or 0,
        lease=_lease(found.get("lease")),
        can=words_of(found, "can"),
        update=_update(found.get("update")),
    )


def parse_result(payload: bytes, device_id: str) -> NodeResult:
    """The answer to a command. Raises as `parse_telemetry`."""
    found = object_of(payload, device_id)
    ok, command_id = found.get("ok"), text_of(found, "id")
    if not isinstance(ok, bool) or not command_id:
        raise MeterProtocolError("a result has an id, and ok is true or false")
    return NodeResult(
        device_id=device_id,
        session=session_of(found),
        command_id=command_id,
        ok=ok,
        code=text_of(found, "code"),
        message=text_of(found, "message"),
    )


def parse_event(payload: bytes, device_id: str) -> NodeEvent:
    """An event of a node. Raises as `parse_telemetry`."""
    found = object_of(payload, device_id)
    kind = text_of(found, "kind")
    if not kind:
        raise MeterProtocolError("an event has a kind")
    session = session_of(found)
    return NodeEvent(
        device_id=device_id,
        session=session,
        kind=kind,
        node_ms=time_ms_of(found.get("at")),
        energy_wh=whole_of(found, "energy_wh"),
        boot_id=whole_of(found, "boot_id"),
        seq=whole_of(found, "seq"),
        chunk=_chunk(found, session) if kind == CHUNK_WANTED else None,
        code=_plain(found.get("code")),
        message=_plain(found.get("message")),
    )


def parse_backlog(payload: bytes, device_id: str) -> NodeBacklog:
    """Readings that a node kept, oldest first. Raises as `parse_telemetry`."""
    found = object_of(payload, device_id)
    segment, rows = whole_of(found, "segment"), found.get("records")
    if segment is None or not isinstance(rows, list) or len(rows) > RECORDS_MAX:
        raise MeterProtocolError("a backlog has a segment and a list of records")
    return NodeBacklog(device_id, session_of(found), segment, tuple(map(_record, rows)))


def _record(row: object) -> NodeRecord:
    """[seq, boot_id, unix_s, ticks_s, energy_wh, dV, mA, dW, power factor in %, flags]."""
    if not isinstance(row, list) or len(row) != RECORD_FIELDS:
        raise MeterProtocolError(f"a record has {RECORD_FIELDS} fields")
    named = {str(place): value for place, value in enumerate(row)}
    values = [whole_of(named, str(place)) for place in range(RECORD_FIELDS)]
    whole = [-1 if value is None else value for value in values]
    if min(whole) < 0 or whole[4] >= ENERGY_WH_MAX:
        raise MeterProtocolError("a record holds whole numbers from 0")
    flags = whole[9]
    return NodeRecord(
        unix_s=whole[2] if flags & CLOCK_SET else 0,
        energy_wh=whole[4],
        voltage_v=whole[5] / 10,
        current_a=whole[6] / 1_000,
        power_w=whole[7] / 10,
        power_factor=whole[8] / 100,
        is_good=bool(flags & QUALITY_GOOD) and not flags & METER_SILENT,
    )


# -- members that are objects ---------------------------------------------------------------


def _held(found: Mapping[str, object]) -> HeldCounter | None:
    counter_wh, held_wh = whole_of(found, "counter_wh"), whole_of(found, "held_wh")
    if held_wh is None or counter_wh is None:
        return None
    if max(counter_wh, held_wh) >= ENERGY_WH_MAX:
        raise MeterProtocolError("held_wh is out of range")
    return HeldCounter(counter_wh, held_wh)


def _modules(found: Mapping[str, object]) -> tuple[NodeModule, ...]:
    given = found.get("meters", [])
    if not isinstance(given, list) or len(given) > MODULES_MAX:
        raise MeterProtocolError(f"meters are no list of at most {MODULES_MAX}")
    modules = tuple(map(_module, given))
    if len({one.address for one in modules}) != len(modules):
        raise MeterProtocolError("an address of meters stands twice")
    return modules


def _module(given: object) -> NodeModule:
    if not isinstance(given, dict):
        raise MeterProtocolError("meters hold objects")
    address = whole_of(given, "address")
    if address is None or not 1 <= address <= MODULE_ADDRESS_MAX:
        raise MeterProtocolError(f"an address of meters is 1 to {MODULE_ADDRESS_MAX}")
    return NodeModule(
        address=address,
        quality=quality_of(given),
        energy_wh=energy_wh_of(given),
        voltage_v=number_of(given, "voltage", 0, 1_000),
        current_a=number_of(given, "current", 0, 10_000),
        power_w=number_of(given, "power_w", -10_000_000, 10_000_000),
        held=_held(given),
    )


def _plain(value: object) -> str:
    """What a program at the node says, perhaps of an exception: shortened and never refused."""
    text = value if isinstance(value, str) else ""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text[:64])


def _chunk(found: Mapping[str, object], session: str) -> ChunkAsk:
    offset, count = whole_of(found, "offset"), whole_of(found, "count")
    if offset is None or count is None:
        raise MeterProtocolError("a wish for a chunk has offset and count")
    return ChunkAsk(session, text_of(found, "version"), offset, count)


def _update(given: object) -> NodeUpdate | None:
    if not isinstance(given, dict):
        return None
    return NodeUpdate(
        version=_plain(given.get("version")),
        offset=whole_of(given, "offset"),
        failed=_plain(given.get("failed")),
    )


def _lease(given: object) -> NodeLease | None:
    if given is None:
        return None
    if not isinstance(given, dict):
        raise MeterProtocolError("lease is no object")
    return NodeLease(
        epoch=text_of(given, "epoch"),
        seq=whole_of(given, "seq") or 0,
        cutoff_wh=whole_of(given, "cutoff_wh") or 0,
        expires_s=whole_of(given, "expires") or 0,
        limits=PowerLimits(
            limit_w=whole_of(given, "limit_w") or 0,
            emergency_w=whole_of(given, "emergency_limit_w") or 0,
            emergency_wh=whole_of(given, "emergency_wh") or 0,
        ),
    )
