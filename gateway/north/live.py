"""Control's live table by meter id."""

from dataclasses import dataclass
from pathlib import Path

from gateway.store.live import LiveRow, LiveTableReader


@dataclass(frozen=True, slots=True)
class MeterNow:
    """A meter's newest row, and the names of its values in their order."""

    row: LiveRow
    value_names: tuple[str, ...]


class LiveMeters:
    """Looks rows up by meter id, following control when it makes a new table.

    Reading costs microseconds and never waits, so it is done on the event loop.
    """

    def __init__(self, directory: Path) -> None:
        self._table = LiveTableReader(directory)
        self._index: dict[str, int] = {}
        self._generation = 0

    def now(self, meter_id: str) -> MeterNow | None:
        """The newest row of a meter; None when it was never read or has no row."""
        self._table.refresh()
        if self._generation != self._table.generation:
            self._generation = self._table.generation
            self._index = {meter.meter_id: at for at, meter in enumerate(self._table.meters)}
        index = self._index.get(meter_id)
        row = None if index is None else self._table.row(index)
        if index is None or row is None:
            return None
        return MeterNow(row, self._table.meters[index].value_names)

    def stale(self, now_utc_ms: int) -> bool:
        """Whether control was silent for too long, or was never there."""
        return self._table.stale(now_utc_ms)

    def heartbeat_utc_ms(self) -> int | None:
        """When control last said that it is alive; None when it never did."""
        return self._table.heartbeat_utc_ms() or None

    def close(self) -> None:
        """Let go of the table."""
        self._table.close()
