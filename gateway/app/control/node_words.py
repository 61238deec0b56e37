"""What a node says beside readings: a press of its button, modules that go silent, figures."""

from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from gateway.app.control.books import Books
from gateway.app.control.devices import DeviceBook, Teller
from gateway.core.figures import Value
from gateway.core.node_message import NodeEvent, NodeTelemetry
from gateway.core.proof import NS
from gateway.core.reading import Quality
from gateway.core.requests import ConfirmReconnect, Request, Role
from gateway.south.nodes import NodeGroup
from gateway.store.commands import find_outcome
from gateway.store.devices import DeviceStatus

# A press of the button confirms for so long: whoever pressed has seen that it is safe.
PRESENT_S: Final = 60
# A node whose telemetry never came later than this one after the other was never away.
GAP_NS: Final = 25 * NS
# What the group of nodes counts of messages that were good and change nothing.
LEFT_OUT: Final = (
    "telemetry duplicate",
    "telemetry older",
    "telemetry twin",
    "telemetry waiting",
    "backlog older",
    "backlog waiting",
    "backlog passed over",
    "event duplicate",
)
# A node that sends fewer events a minute than this keeps none of them back.
UNDELAYED: Final = 15

Execute = Callable[[Request], Coroutine[None, None, None]]


@dataclass(slots=True)
class _Heard:
    """A session's telemetry: since when without a gap, when last, and the node's time then."""

    session: str
    since_ns: int
    last_ns: int
    node_ms: int | None


class Presses:
    """Whether who pressed a button stands there still: nodes send later what they could not send.

    By the gateway's clock where that is trusted, else by the node's own. Where neither tells: a
    node sends what waits before it sends telemetry, so that an event of one which has been heard
    all the time is younger than the telemetry before it.
    """

    def __init__(self) -> None:
        self._heard: dict[int, _Heard] = {}
        self._events: dict[int, deque[int]] = {}

    def heard(self, index: int, told: NodeTelemetry, now_ns: int) -> None:
        """Telemetry of a node came."""
        before = self._heard.get(index)
        goes_on = (
            before is not None
            and before.session == told.session
            and now_ns - before.last_ns <= GAP_NS
        )
        since_ns = before.since_ns if before is not None and goes_on else now_ns
        self._heard[index] = _Heard(told.session, since_ns, now_ns, told.node_ms)

    def is_fresh(self, index: int, event: NodeEvent, now_ns: int, now_s: int) -> bool:
        """Whether an event that comes now has just happened; `now_s` 0: the clock is in doubt."""
        recent = self._events.setdefault(index, deque(maxlen=UNDELAYED))
        recent.append(now_ns)
        if event.node_ms is not None and now_s:
            return abs(now_s - event.node_ms // 1_000) <= PRESENT_S
        heard = self._heard.get(index)
        if heard is None or not event.session or heard.session != event.session:
            return False
        silent_ns = now_ns - heard.last_ns
        if event.node_ms is not None and heard.node_ms is not None:
            age_ms = heard.node_ms + silent_ns // 1_000_000 - event.node_ms
            return abs(age_ms) <= PRESENT_S * 1_000
        is_delayed = len(recent) == UNDELAYED and now_ns - recent[0] < PRESENT_S * NS
        return silent_ns <= GAP_NS and now_ns - heard.since_ns >= PRESENT_S * NS and not is_delayed


class Buttons:
    """Makes of a press what it is: the word of a person at the point, a request as any.

    `execute` carries requests out; it is set once everybody is there.
    """

    def __init__(self, books: Books) -> None:
        self.execute: Execute | None = None
        self._books = books
        self._pressed: set[str] = set()

    def pressed(
        self, event: NodeEvent, service_point_id: str, utc_ms: int
    ) -> tuple[str, Coroutine[None, None, None]] | None:
        """Key and work of the request that confirms here; None while this press is looked at."""
        number = event.node_ms if event.seq is None else event.seq
        key = f"button-{event.device_id}-{event.session}-{number}"
        if self.execute is None or key in self._pressed:
            return None
        self._pressed.add(key)
        request = Request(
            key=key,
            body=ConfirmReconnect(service_point_id),
            actor=event.device_id,
            role=Role.TENANT,
            source="button",
            created_utc_ms=utc_ms,
            expires_utc_ms=utc_ms + PRESENT_S * 1_000,
        )
        return key, self._press(request, self.execute)

    async def _press(self, request: Request, execute: Execute) -> None:
        try:
            # The broker may deliver an event twice, also across a restart.
            key = request.key
            if await self._books.commit(lambda connection: find_outcome(connection, key)) is None:
                await execute(request)
        finally:
            self._pressed.discard(request.key)


class ModuleWatch:
    """Says once that a module beyond the first went silent, and that it is back.

    The first one is the meter's: METER_AWAY says it. `may_tell` bounds what a node has on record.
    """

    def __init__(self, book: DeviceBook, tell: Teller, may_tell: Callable[[int], bool]) -> None:
        self._book = book
        self._tell = tell
        self._may_tell = may_tell
        self._silent: dict[str, set[int]] = {}

    def look(self, index: int, meter_id: str, told: NodeTelemetry) -> None:
        """Telemetry of a node came."""
        silent = self._silent.get(told.device_id)
        if silent is None:
            if not told.modules:
                return
            silent = self._silent[told.device_id] = self._told(told.device_id)
        now = {one.address for one in told.modules[1:] if one.quality is Quality.BAD}
        if now == silent or not self._may_tell(index):
            return
        for address in sorted(now ^ silent):
            severity = "warning" if address in now else "cleared"
            self._tell("NODE_MODULE_SILENT", meter_id, severity, address=address)
        self._silent[told.device_id] = now

    def _told(self, device_id: str) -> set[int]:
        """What an earlier run has said of a device's modules."""
        state = self._book.records[device_id].state
        modules = cast("Sequence[Mapping[str, object]]", state.get("modules", ()))
        bad = [one for one in modules[1:] if one["quality"] == Quality.BAD.value]
        return {cast("int", one["address"]) for one in bad}


def node_figures(book: DeviceBook, group: NodeGroup | None) -> dict[str, Value]:
    """Figures of the site as a whole, so that no device has a name there."""
    counts = Counter[str]() if group is None else group.counts
    devices = {} if group is None else group.devices
    states: Counter[str] = Counter()
    for name, record in book.records.items():
        if record.status is not DeviceStatus.APPROVED:
            states[record.status.value] += 1
            continue
        device = devices.get(name)
        states["online" if device is not None and device.online else "offline"] += 1
    return {
        "nodes": dict(states),
        "node_records_waiting": sum(one.spooled for one in devices.values()),
        "node_messages_total": counts["messages"],
        "node_messages_refused_total": _by_code(counts, "refused "),
        "node_messages_left_out_total": {
            name.replace(" ", "_"): counts[name] for name in LEFT_OUT if counts[name]
        },
        "node_devices_dropped_total": book.dropped,
        "node_commands_total": counts["commands"],
        "node_commands_failed_total": _by_code(counts, "failed "),
    }


def _by_code(counts: Counter[str], kind: str) -> dict[str, float]:
    """Counts of a kind by error code; codes are those of our own tree."""
    return {
        name.removeprefix(kind): count for name, count in counts.items() if name.startswith(kind)
    }
