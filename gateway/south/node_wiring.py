"""What the group of nodes asks of others: a link to the broker, the registry, a listener."""

from collections.abc import Callable
from typing import Protocol

from gateway.core.errors import MeterError
from gateway.core.node_message import NodeEvent, NodeTelemetry
from gateway.core.proof import Observation
from gateway.core.reading import Reading

OnReading = Callable[[int, Reading], None]
OnFailure = Callable[[int, MeterError], None]


class Link(Protocol):
    """The connection to the broker."""

    @property
    def is_connected(self) -> bool:
        """Whether the broker was there a moment ago."""
        ...

    async def run(self) -> None:
        """Keep the connection until cancelled."""
        ...

    async def publish(self, topic: str, payload: bytes, deadline_s: float) -> None:
        """Hand over a message. Raises MeterUnreachableError, MeterTimeoutError."""
        ...


# Of what is done with a message, with the connection's state, and whether a topic is heard now.
MakeLink = Callable[
    [Callable[[str, bytes, bool], None], Callable[[bool, str], None], Callable[[str], bool]], Link
]


class Registry(Protocol):
    """Which devices are whose, as the gateway's records have it."""

    def index_of(self, device_id: str) -> int | None:
        """The point (among nodes) that an approved device serves; None for any other device."""
        ...

    def key_of(self, device_id: str) -> bytes:
        """What seals commands to a device."""
        ...

    def order_of(self, device_id: str) -> tuple[int, int]:
        """Boot and sequence kept from an earlier run; -1 where there are none."""
        ...

    def knock(self, device_id: str, firmware: str) -> None:
        """A device that serves no point was heard."""
        ...

    def quarantine(self, device_id: str, reason: str) -> None:
        """Two devices use this name."""
        ...


class Listener(Protocol):
    """Who hears what nodes tell beside readings."""

    def telemetry(self, index: int, told: NodeTelemetry) -> None:
        """Telemetry in its order, just before its reading counts."""
        ...

    def output(self, index: int, seen: Observation) -> None:
        """A relay that is shown without energy that counts: in doubt, or behind kept readings."""
        ...

    def event(self, index: int, event: NodeEvent) -> None:
        """Something happened at a node."""
        ...

    def refused(self, index: int, error: MeterError) -> None:
        """A node begins to send what cannot be read."""
        ...

    def broker(self, *, connected: bool, reason: str) -> None:
        """The broker went or came."""
        ...

    def settled(self, index: int) -> tuple[int, int]:
        """Up to when (wall ms) and up to which counter (Wh) energy of a node is settled."""
        ...

    def unix_s(self) -> int:
        """The wall time that nodes may be set to; 0 while the gateway's own is in doubt."""
        ...

    async def before_close(self, index: int) -> None:
        """A relay is about to be told to close: see that its lease allows it."""
        ...
