"""Which nodes have been silent for too long; pure, times are monotonic."""

from collections.abc import Iterator, Mapping
from typing import Final

from gateway.core.errors import MeterError, MeterTimeoutError, MeterUnreachableError
from gateway.south.node_device import NS, NodeDevice

# Telemetry that is this many periods late counts as a failed reading.
MISSED_PERIODS: Final = 2.5


class Silence:
    """Tells of each of `count` nodes that is silent, once a period of `period_s`."""

    def __init__(self, count: int, period_s: float) -> None:
        self._count = count
        self._period_ns = round(period_s * NS)
        self._started_ns = 0
        self._told_ns: dict[int, int] = {}

    def begin(self, now_ns: int) -> None:
        """From now on telemetry is waited for."""
        self._started_ns = now_ns

    def found(self, now_ns: int, devices: Mapping[int, NodeDevice]) -> Iterator[tuple[int, int]]:
        """Nodes whose silence is to be told now, each with its seconds."""
        limit_ns = round(MISSED_PERIODS * self._period_ns)
        for index in range(self._count):
            device = devices.get(index)
            heard_ns = self._started_ns
            if device is not None and device.heard_ns is not None:
                heard_ns = device.heard_ns
            told_ns = self._told_ns.get(index, 0)
            if now_ns - heard_ns <= limit_ns or now_ns - told_ns < self._period_ns:
                continue
            self._told_ns[index] = now_ns
            yield index, (now_ns - heard_ns) // NS


def absence_of(device: NodeDevice | None, silent_s: int, *, is_connected: bool) -> MeterError:
    """Why nothing is heard of a node, as far as that is known."""
    if not is_connected:
        return MeterUnreachableError("the nodes' broker is away")
    if device is None:
        return MeterUnreachableError("no device of this meter was heard yet")
    if device.online is False:
        return MeterUnreachableError("the node is offline")
    return MeterTimeoutError(f"no telemetry for {silent_s} s")
