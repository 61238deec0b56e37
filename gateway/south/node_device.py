"""What is known of one approved node while the gateway runs: session, order, sequence, presence."""

from dataclasses import dataclass, field

from gateway.core.node_message import NodeLease, NodeStatus, NodeTelemetry
from gateway.core.node_order import NodeOrder

# A step over whatever sequence a former run of the gateway may have used in the same session.
SEQUENCE_JUMP = 1 << 24


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
    spooled: int = 0
    heard_ns: int | None = None
    failed_ns: int = 0
    command_seq: int = 0
    lease_seq: int = 0
    read_at_ns: int | None = None
    read_ns: int = 0
    refused: int = 0

    def take_status(self, status: NodeStatus) -> None:
        """What a status says of the device itself."""
        self.online = status.online
        if not status.online:
            return
        self.session = status.session or self.session
        self.firmware = status.firmware or self.firmware
        self.hardware = status.hardware or self.hardware
        self.lease, self.spooled = status.lease, status.spooled

    def take_telemetry(self, told: NodeTelemetry, mono_ns: int) -> bool:
        """What telemetry says of the device; True when it is of a session not known before."""
        self.heard_ns = mono_ns
        self.online = True
        self.firmware = told.firmware or self.firmware
        self.relay_closed, self.reasons = told.relay_closed, told.reasons
        self.has_relay = self.has_relay or told.relay_closed is not None
        is_new = bool(told.session) and told.session != self.session
        self.session = told.session or self.session
        return is_new

    def next_seq(self, utc_ms: int) -> int:
        """The sequence of the next command; above those of an earlier run by the wall clock."""
        self.command_seq = max(self.command_seq + 1, utc_ms // 100)
        return self.command_seq

    def next_lease_seq(self, epoch: str) -> int:
        """The sequence of the next lease of this store's epoch."""
        told = self.lease.seq if self.lease is not None and self.lease.epoch == epoch else 0
        self.lease_seq = max(self.lease_seq, told) + 1
        return self.lease_seq
