"""What a node says: telemetry, status, events and results, as values with units or a refusal.

Two forms of telemetry are read (docs/node-protocol.md): the older one (decimal kWh, no sequence)
and ours, which adds whole Wh, sequence, boot and session. Nothing here believes more than the
form: whether energy may be charged is the register guard's matter.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from gateway.core.errors import MeterIdentityError, MeterProtocolError
from gateway.core.lease import NO_LIMITS, PowerLimits
from gateway.core.reading import Quality
from gateway.core.rollout_plan import ChunkAsk

MESSAGE_BYTES_MAX: Final = 8_192
# A thousand times what a 100 A connection takes in its life; above it a counter is no counter.
ENERGY_WH_MAX: Final = 10**12
REASONS_MAX: Final = 16
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
NUMBER_MAX: Final = 2**53
# Epoch seconds reach this in the year 5138: larger numbers are milliseconds.
MILLISECONDS_FROM: Final = 10**11
DEVICE_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,31}")
SESSION: Final = re.compile(r"[0-9a-f]{16}")
_WORD: Final = re.compile(r"[\x20-\x7e]{0,64}")


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

    `energy_wh` is the cumulative import, floored to whole Wh. `node_ms` is the node's own time
    (wall ms). The older form has neither `seq`, `boot_id`, `session` nor `relay_closed`. `held` is
    the first module's counter where it waits; `modules` are all, where there are several.
    """

    device_id: str
    energy_wh: int | None
    quality: Quality
    node_ms: int | None = None
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
    found = _object(payload, device_id)
    quality = _quality(found)
    return NodeTelemetry(
        device_id=device_id,
        energy_wh=_energy_wh(found),
        quality=quality,
        node_ms=_time_ms(found.get("timestamp")),
        voltage_v=_number(found, "voltage", 0, 1_000),
        current_a=_number(found, "current", 0, 10_000),
        power_w=_number(found, "power_w", -10_000_000, 10_000_000),
        power_factor=_number(found, "power_factor", -1, 1),
        frequency_hz=_number(found, "frequency_hz", 0, 1_000),
        rssi_dbm=_number(found, "rssi", -200, 100),
        seq=_whole(found, "seq"),
        boot_id=_whole(found, "boot_id"),
        session=_session(found),
        relay_closed=_relay(found),
        reasons=_words(found, "reasons"),
        firmware=_text(found, "firmware"),
        held=_held(found),
        modules=_modules(found),
    )


def parse_status(payload: bytes, device_id: str) -> NodeStatus:
    """A status message. Raises as `parse_telemetry`."""
    found = _object(payload, device_id)
    online = found.get("online")
    if not isinstance(online, bool):
        raise MeterProtocolError("online is neither true nor false")
    return NodeStatus(
        device_id=device_id,
        online=online,
        session=_session(found),
        boot_id=_whole(found, "boot_id"),
        firmware=_text(found, "firmware"),
        hardware=_text(found, "hardware"),
        reset=_text(found, "reset"),
        slot=_text(found, "slot"),
        trial=found.get("trial") is True,
        spooled=_whole(found, "spooled") or 0,
        lease=_lease(found.get("lease")),
        can=_words(found, "can"),
        update=_update(found.get("update")),
    )


def parse_result(payload: bytes, device_id: str) -> NodeResult:
    """The answer to a command. Raises as `parse_telemetry`."""
    found = _object(payload, device_id)
    ok, command_id = found.get("ok"), _text(found, "id")
    if not isinstance(ok, bool) or not command_id:
        raise MeterProtocolError("a result has an id, and ok is true or false")
    return NodeResult(
        device_id=device_id,
        session=_session(found),
        command_id=command_id,
        ok=ok,
        code=_text(found, "code"),
        message=_text(found, "message"),
    )


def parse_event(payload: bytes, device_id: str) -> NodeEvent:
    """An event of a node. Raises as `parse_telemetry`."""
    found = _object(payload, device_id)
    kind = _text(found, "kind")
    if not kind:
        raise MeterProtocolError("an event has a kind")
    session = _session(found)
    return NodeEvent(
        device_id=device_id,
        session=session,
        kind=kind,
        node_ms=_time_ms(found.get("at")),
        energy_wh=_whole(found, "energy_wh"),
        boot_id=_whole(found, "boot_id"),
        seq=_whole(found, "seq"),
        chunk=_chunk(found, session) if kind == CHUNK_WANTED else None,
        code=_plain(found.get("code")),
        message=_plain(found.get("message")),
    )


def parse_backlog(payload: bytes, device_id: str) -> NodeBacklog:
    """Readings that a node kept, oldest first. Raises as `parse_telemetry`."""
    found = _object(payload, device_id)
    segment, rows = _whole(found, "segment"), found.get("records")
    if segment is None or not isinstance(rows, list) or len(rows) > RECORDS_MAX:
        raise MeterProtocolError("a backlog has a segment and a list of records")
    return NodeBacklog(device_id, _session(found), segment, tuple(map(_record, rows)))


def _record(row: object) -> NodeRecord:
    """[seq, boot_id, unix_s, ticks_s, energy_wh, dV, mA, dW, power factor in %, flags]."""
    if not isinstance(row, list) or len(row) != RECORD_FIELDS:
        raise MeterProtocolError(f"a record has {RECORD_FIELDS} fields")
    named = {str(place): value for place, value in enumerate(row)}
    values = [_whole(named, str(place)) for place in range(RECORD_FIELDS)]
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


# -- the form ------------------------------------------------------------------------------


def _object(payload: bytes, device_id: str) -> Mapping[str, object]:
    if len(payload) > MESSAGE_BYTES_MAX:
        raise MeterProtocolError(f"a message of {len(payload)} bytes, at most {MESSAGE_BYTES_MAX}")
    try:
        found = json.loads(payload.decode(), parse_float=Decimal, parse_constant=_refuse)
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise MeterProtocolError("the message is no JSON in UTF-8") from error
    if not isinstance(found, dict):
        raise MeterProtocolError("the message is no JSON object")
    named = found.get("device_id", device_id)
    if named != device_id:
        raise MeterIdentityError(f"device_id is {named!r:.60}, the topic is of {device_id}")
    return found


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is no number")


def _decimal(name: str, value: object) -> Decimal | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise MeterProtocolError(f"{name} is no number")
    found = Decimal(value)
    # Compared before anything is computed: 1e999999 is short to write.
    if not found.is_finite() or not -NUMBER_MAX <= found <= NUMBER_MAX:
        raise MeterProtocolError(f"{name} is out of range")
    return found


def _number(found: Mapping[str, object], name: str, low: int, high: int) -> float | None:
    value = _decimal(name, found.get(name))
    if value is None:
        return None
    if not low <= value <= high:
        raise MeterProtocolError(f"{name} is outside {low} to {high}")
    return float(value)


def _whole(found: Mapping[str, object], name: str) -> int | None:
    value = found.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= NUMBER_MAX:
        raise MeterProtocolError(f"{name} is no whole number from 0")
    return value


def _energy_wh(found: Mapping[str, object]) -> int | None:
    energy_wh = _whole(found, "energy_wh")
    if energy_wh is None:
        energy_kwh = _decimal("energy_kwh", found.get("energy_kwh"))
        if energy_kwh is None:
            return None
        if not 0 <= energy_kwh <= ENERGY_WH_MAX // 1_000:
            raise MeterProtocolError("energy_kwh is out of range")
        energy_wh = int(energy_kwh * 1_000)
    if energy_wh >= ENERGY_WH_MAX:
        raise MeterProtocolError("energy_wh is out of range")
    return energy_wh


def _time_ms(value: object) -> int | None:
    """Epoch seconds, epoch milliseconds or ISO 8601 (UTC where it names no zone) as wall ms."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            when = datetime.fromisoformat(value)
        except ValueError as error:
            raise MeterProtocolError("the time is not ISO 8601") from error
        when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        since = when - datetime(1970, 1, 1, tzinfo=UTC)
        return since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000
    given = _decimal("the time", value)
    if given is None or given < 0:
        raise MeterProtocolError("the time lies before 1970")
    return int(given) if given >= MILLISECONDS_FROM else int(given * 1_000)


def _text(found: Mapping[str, object], name: str) -> str:
    value = found.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise MeterProtocolError(f"{name} is no short text")
    return value


def _session(found: Mapping[str, object]) -> str:
    session = _text(found, "session")
    if session and not SESSION.fullmatch(session):
        raise MeterProtocolError("session is not 16 hex digits")
    return session


def _quality(found: Mapping[str, object]) -> Quality:
    given = found.get("quality", Quality.GOOD.value)
    if given not in [one.value for one in Quality]:
        raise MeterProtocolError("quality is none of good, uncertain, bad")
    return Quality(str(given))


def _relay(found: Mapping[str, object]) -> bool | None:
    relay = found.get("relay")
    if relay not in (None, "closed", "open"):
        raise MeterProtocolError("relay is neither closed nor open")
    return None if relay is None else relay == "closed"


def _words(found: Mapping[str, object], name: str) -> tuple[str, ...]:
    given = found.get(name, [])
    if not isinstance(given, list) or len(given) > REASONS_MAX:
        raise MeterProtocolError(f"{name} are no short list")
    return tuple(_text({name: one}, name) for one in given)


def _held(found: Mapping[str, object]) -> HeldCounter | None:
    counter_wh, held_wh = _whole(found, "counter_wh"), _whole(found, "held_wh")
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
    address = _whole(given, "address")
    if address is None or not 1 <= address <= MODULE_ADDRESS_MAX:
        raise MeterProtocolError(f"an address of meters is 1 to {MODULE_ADDRESS_MAX}")
    return NodeModule(
        address=address,
        quality=_quality(given),
        energy_wh=_energy_wh(given),
        voltage_v=_number(given, "voltage", 0, 1_000),
        current_a=_number(given, "current", 0, 10_000),
        power_w=_number(given, "power_w", -10_000_000, 10_000_000),
        held=_held(given),
    )


def _plain(value: object) -> str:
    """What a program at the node says, perhaps of an exception: shortened and never refused."""
    text = value if isinstance(value, str) else ""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text[:64])


def _chunk(found: Mapping[str, object], session: str) -> ChunkAsk:
    offset, count = _whole(found, "offset"), _whole(found, "count")
    if offset is None or count is None:
        raise MeterProtocolError("a wish for a chunk has offset and count")
    return ChunkAsk(session, _text(found, "version"), offset, count)


def _update(given: object) -> NodeUpdate | None:
    if not isinstance(given, dict):
        return None
    return NodeUpdate(
        version=_plain(given.get("version")),
        offset=_whole(given, "offset"),
        failed=_plain(given.get("failed")),
    )


def _lease(given: object) -> NodeLease | None:
    if given is None:
        return None
    if not isinstance(given, dict):
        raise MeterProtocolError("lease is no object")
    return NodeLease(
        epoch=_text(given, "epoch"),
        seq=_whole(given, "seq") or 0,
        cutoff_wh=_whole(given, "cutoff_wh") or 0,
        expires_s=_whole(given, "expires") or 0,
        limits=PowerLimits(
            *(_whole(given, name) or 0 for name in ("limit_w", "emergency_limit_w", "emergency_wh"))
        ),
    )
