"""Minutes without supply, by cause, from the switch commands that were proved."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Switched:
    """An output that was proved to have moved. `cause` are the reasons, such as `CREDIT,MANUAL`."""

    service_point_id: str
    utc_ms: int
    opened: bool
    cause: str = ""


@dataclass(frozen=True, slots=True)
class OffSupply:
    """How long and how often a point was switched off for one cause, within a period."""

    service_point_id: str
    cause: str
    off_ms: int
    times: int

    @property
    def minutes(self) -> int:
        """Whole minutes, floored."""
        return self.off_ms // MINUTE_MS


def off_supply(
    switched: Iterable[Switched], from_utc_ms: int, to_utc_ms: int
) -> tuple[OffSupply, ...]:
    """Time off within [from, to) by point and cause; `switched` in the order of each point.

    What happened before the period decides how it begins. A cut that has not ended counts up to
    the period's end. `times` counts cuts that reach into the period.
    """
    open_since: dict[str, Switched] = {}
    sums: dict[tuple[str, str], tuple[int, int]] = {}

    def count(cut: Switched, until_ms: int) -> None:
        off_ms = min(until_ms, to_utc_ms) - max(cut.utc_ms, from_utc_ms)
        if off_ms > 0:
            key = (cut.service_point_id, cut.cause)
            known_ms, times = sums.get(key, (0, 0))
            sums[key] = (known_ms + off_ms, times + 1)

    for event in switched:
        cut = open_since.get(event.service_point_id)
        if event.opened:
            # A second order to open changes neither the beginning nor the first cause.
            open_since.setdefault(event.service_point_id, event)
        elif cut is not None:
            count(cut, event.utc_ms)
            del open_since[event.service_point_id]
    for cut in open_since.values():
        count(cut, to_utc_ms)
    return tuple(OffSupply(*key, *value) for key, value in sorted(sums.items()))
