"""What is known of one approved node while the gateway runs: session, order, sequence, presence."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import Final, cast

from gateway.core.errors import MeterError, MeterProtocolError, MeterTimeoutError
from gateway.core.lease import NO_LIMITS, Grant
from gateway.core.node_message import (
    HeldCounter,
    NodeEvent,
    NodeLease,
    NodeModule,
    NodeRecord,
    NodeStatus,
    NodeTelemetry,
    NodeUpdate,
)
from gateway.core.node_order import NodeOrder
from gateway.core.proof import Observation
from gateway.core.reading import Lane, Quality, Reading
from gateway.south.node_drain import Draining

NS: Final = 1_000_000_000
# How long a message may have been under way where the node's clock does not tell.
UNKNOWN_DELAY_NS: Final = 5 * NS
# Whole seconds at the node, and two clocks that were set over a network.
CLOCK_MARGIN_NS: Final = 2 * NS
# A clock that differs by more than this was never set.
DELAY_MAX_MS: Final = 3_600_000
# Steps over whatever sequence a former run of the gateway may have used in the same session, one
# after the other: a fortnight of its clock, then ever further, to more than a thousand years.
SEQUENCE_LEAPS: Final = tuple(1 << power for power in range(24, 40))
# A node's clock that is off by more than this is set, at most so often.
CLOCK_OFF_MS: Final = 5_000
TIME_EVERY_NS: Final = 60 * NS
# A node keeps its readings for 90 days.
KEPT_MAX_MS: Final = 100 * 86_400_000
# Of so many events it is known that they came: more than wait at a node.
EVENTS_KNOWN: Final = 128
DOUBTS: Final = "the node doubts its module's counter"
HOLDS: Final = "the node holds its module's counter: look at it, then `device release`"


@dataclass(slots=True)
class NodeDevice:
    """One device, approved for the point `index`. Times are monotonic."""

    device_id: str
    index: int
    order: NodeOrder = field(default_factory=NodeOrder)
    session: str = ""
    online: bool | None = None
    firmware: str = ""
    hardware: str = ""
    relay_closed: bool | None = None
    has_relay: bool = False
    reasons: tuple[str, ...] = ()
    lease: NodeLease | None = None
    can: tuple[str, ...] = ()
    held: HeldCounter | None = None
    modules: tuple[NodeModule, ...] = ()
    heard_ns: int | None = None
    command_seq: int = 0
    lease_seq: int = 0
    read_at_ns: int | None = None
    read_ns: int = 0
    told_ns: int = 0
    refused: int = 0
    drain: Draining = field(default_factory=Draining)
    # Its clock (wall ms) when it was heard last, None while unset; the session that took the time
    # from this run of the gateway, and when it was told last.
    clock_ms: int | None = None
    timed_session: str = ""
    timed_ns: int | None = None
    events: deque[tuple[str, int | None, int]] = field(
        default_factory=lambda: deque(maxlen=EVENTS_KNOWN)
    )
    # As its last status has it, and of which session that was.
    on_trial: bool = False
    update: NodeUpdate | None = None
    told_session: str = ""

    @property
    def spooled(self) -> int:
        """How many kept readings it says to have."""
        return self.drain.count

    def is_news(self, event: NodeEvent) -> bool:
        """Whether an event has not come yet: one whose receipt was lost is sent again."""
        if event.seq is None:
            return True
        identity = (event.session, event.boot_id, event.seq)
        if identity in self.events:
            return False
        self.events.append(identity)
        return True

    def take_status(self, status: NodeStatus) -> None:
        """What a status says of the device itself."""
        self.online = status.online
        if not status.online:
            return
        self._goes_on_in(status.session)
        self.firmware = status.firmware or self.firmware
        self.hardware = status.hardware or self.hardware
        self.lease, self.can = status.lease, status.can
        self.on_trial, self.update = status.trial, status.update
        self.told_session = status.session

    def take_telemetry(self, told: NodeTelemetry, mono_ns: int) -> None:
        """What telemetry says of the device itself."""
        self.heard_ns = mono_ns
        self.clock_ms = told.node_ms if told.sent_ms is None else told.sent_ms
        self.online = True
        self.firmware = told.firmware or self.firmware
        self.relay_closed, self.reasons = told.relay_closed, told.reasons
        self.held, self.modules = told.held, told.modules
        self.has_relay = self.has_relay or told.relay_closed is not None
        self._goes_on_in(told.session)

    def shown(self) -> dict[str, object]:
        """What it told last, for people, as JSON values."""
        lease, limits = self.lease, NO_LIMITS if self.lease is None else self.lease.limits
        return {
            "online": self.online,
            "session": self.session,
            "relay": self.relay_closed,
            "can_switch": self.has_relay,
            "reasons": list(self.reasons),
            "spooled": self.spooled,
            "lease": None
            if lease is None
            else [lease.epoch, lease.seq, lease.cutoff_wh, lease.expires_s, *astuple(limits)],
            "held": None if self.held is None else asdict(self.held),
            "modules": [
                {**asdict(one), "quality": one.quality.value, "held": one.held is not None}
                for one in self.modules
            ],
        }

    def needs_time(self, mono_ns: int, utc_ms: int) -> bool:
        """Whether it is to be told the time `utc_ms` now: its clock is unset or off, or its session
        has not heard it from this run, and its kept readings wait for that. Once a minute in a
        session.
        """
        if self.timed_ns is not None and mono_ns - self.timed_ns < TIME_EVERY_NS:
            return False
        if self.timed_session != self.session:
            return True
        if self.clock_ms is None or self.heard_ns is None:
            return True
        its_ms = self.clock_ms + (mono_ns - self.heard_ns) // 1_000_000
        return abs(its_ms - utc_ms) > CLOCK_OFF_MS

    def _goes_on_in(self, session: str) -> None:
        if session and session != self.session:
            # None of its sequences is used yet, and it may have lost its clock.
            self.session, self.command_seq, self.timed_ns = session, 0, None

    def next_seq(self, utc_ms: int) -> int:
        """The sequence of the next command; above those of an earlier run by the wall clock."""
        self.command_seq = max(self.command_seq + 1, utc_ms // 100)
        return self.command_seq

    def next_lease_seq(self, epoch: str) -> int:
        """The sequence of the next lease of this store's epoch."""
        told = self.lease.seq if self.lease is not None and self.lease.epoch == epoch else 0
        self.lease_seq = max(self.lease_seq, told) + 1
        return self.lease_seq


def steady(state: Mapping[str, object]) -> dict[str, object]:
    """Of what `shown` says, whatever is worth a commit of its own: not each measured value."""
    modules = cast("Sequence[Mapping[str, object]]", state.get("modules", ()))
    return {
        **state,
        "held": state.get("held") is not None,
        "modules": [(one["address"], one["quality"], one["held"]) for one in modules],
    }


def lease_args(lease: Grant, epoch: str, seq: int) -> dict[str, object]:
    """The arguments of a `lease` command; without limits in the form that every firmware knows."""
    limits = lease.limits
    more = {"emergency_wh": limits.emergency_wh} if limits.emergency_wh else {}
    return {
        "epoch": epoch,
        "seq": seq,
        "cutoff_wh": lease.cutoff_wh,
        "expires": lease.expires_s,
        "policy": "grace" if lease.grace_wh else "hold",
        "grace_wh": lease.grace_wh,
        "limit_w": limits.limit_w,
        "emergency_limit_w": limits.emergency_w,
        **more,
    }


def reading_of(told: NodeTelemetry, sequence: int, mono_ns: int, utc_ms: int) -> Reading:
    """Telemetry that has just come, as a reading with the values of the node's model.

    It may have been taken as long ago as the node's clock says, or a few seconds without one.
    """
    delay_ns = UNKNOWN_DELAY_NS
    if told.node_ms is not None and abs(utc_ms - told.node_ms) <= DELAY_MAX_MS:
        delay_ns = max(0, utc_ms - told.node_ms) * 1_000_000 + CLOCK_MARGIN_NS
    energy_wh = told.energy_wh or 0
    nothing = float("nan")
    values = (
        told.voltage_v,
        told.current_a,
        told.power_w,
        told.power_factor,
        told.frequency_hz,
        float(energy_wh),
        told.rssi_dbm,
        0.0,
    )
    return Reading(
        sequence=sequence,
        mono_ns=mono_ns,
        utc_ms=utc_ms,
        lane=Lane.FULL,
        energy_wh=(energy_wh,),
        output_closed=told.relay_closed,
        current_a=told.current_a,
        power_w=told.power_w,
        voltage_v=told.voltage_v,
        own_clock_ms=told.node_ms,
        values=tuple(nothing if value is None else value for value in values),
        asked_ns=mono_ns - delay_ns,
    )


def doubt_of(told: NodeTelemetry) -> MeterError | None:
    """Why telemetry is no reading; None when it is one."""
    if told.quality is Quality.BAD:
        return MeterTimeoutError("the node's module does not answer")
    if told.quality is Quality.UNCERTAIN or told.energy_wh is None:
        return MeterProtocolError(DOUBTS if told.held is None else HOLDS)
    return None


def seen_of(told: NodeTelemetry, mono_ns: int) -> Observation:
    """What telemetry shows of the supply where its energy counts for nothing, or not yet."""
    return Observation(
        mono_ns=mono_ns,
        output_closed=told.relay_closed,
        energy_wh=None,
        current_a=told.current_a,
        power_w=told.power_w,
        voltage_v=told.voltage_v,
        trusted=False,
    )


def is_news(record: NodeRecord, settled: tuple[int, int], utc_ms: int) -> bool:
    """Whether a kept record counts, where energy is `settled` up to a wall time and a counter."""
    settled_ms, settled_wh = settled
    if not record.is_good or record.energy_wh < settled_wh:
        return False
    return max(settled_ms, utc_ms - KEPT_MAX_MS) < record.unix_s * 1_000 <= utc_ms


def late_reading_of(record: NodeRecord, sequence: int, mono_ns: int, utc_ms: int) -> Reading:
    """A kept record as a reading of its own time; `mono_ns` and `utc_ms` are now."""
    delay_ms = utc_ms - record.unix_s * 1_000
    taken_ns = mono_ns - delay_ms * 1_000_000
    return Reading(
        sequence=sequence,
        mono_ns=taken_ns,
        utc_ms=record.unix_s * 1_000,
        lane=Lane.FULL,
        energy_wh=(record.energy_wh,),
        output_closed=None,
        values=(
            record.voltage_v,
            record.current_a,
            record.power_w,
            record.power_factor,
            float("nan"),
            float(record.energy_wh),
            float("nan"),
            delay_ms / 1_000,
        ),
        asked_ns=taken_ns - CLOCK_MARGIN_NS,
        late=True,
    )
