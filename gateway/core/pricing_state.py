"""What a pricer's saved state says, read back with every field checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.core.errors import RefusedError


@dataclass(frozen=True, slots=True)
class SavedLine:
    """Counts of one tariff version in one period: posted ones with charges, or those since.

    `cells` are (source, band, block, Wh), `charges` (component, nano-units).
    """

    posted: bool
    period: str
    tariff_id: str
    version: int
    cells: tuple[tuple[str, str, int, int], ...]
    charges: tuple[tuple[str, int], ...] = ()
    flags: tuple[str, ...] = ()


class SavedFeed(NamedTuple):
    """What was fed in under one tariff version in one period, and how much of it is posted."""

    period: str
    tariff_id: str
    version: int
    fed_wh: int
    posted_wh: int


@dataclass(frozen=True, slots=True)
class SavedPricing:
    """A pricer's state: periods that ended by `closed_utc_ms` are closed.

    The rest came later; in an older state the account started before everything (0), fees are
    accrued up to the open period, and no period saw a recharge. `occupancy_wh` is (source, Wh).
    """

    label_utc_ms: int
    closed_utc_ms: int
    posted_nano: int
    lines: tuple[SavedLine, ...]
    start_utc_ms: int | None = None
    accrued_utc_ms: int | None = None
    ended_utc_ms: int = 0
    recharged: tuple[str, ...] = ()
    occupancy_wh: tuple[tuple[str, int], ...] | None = None
    joined: bool = False
    opening_day: int | None = None
    carried: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    fed: tuple[SavedFeed, ...] = ()


def parse_state(state: Mapping[str, object]) -> SavedPricing:
    """Read a snapshot. Raises RefusedError PRICING_STATE for anything that is none."""
    lines: list[SavedLine] = []
    for row in _rows(state.get("posted"), 5):
        charges = tuple((_text(item[0]), _integer(item[1])) for item in _rows(row[4], 2))
        lines.append(_line(row, posted=True, charges=charges))
    for row in _rows(state.get("unposted"), 5):
        flags = tuple(_text(flag) for flag in _list(row[4]))
        lines.append(_line(row, posted=False, flags=flags))
    return SavedPricing(
        label_utc_ms=_integer(state.get("label_utc_ms")),
        closed_utc_ms=_integer(state.get("closed_utc_ms")),
        posted_nano=_integer(state.get("posted_nano")),
        lines=tuple(lines),
        start_utc_ms=_optional(state, "start_utc_ms"),
        accrued_utc_ms=_optional(state, "accrued_utc_ms"),
        ended_utc_ms=_optional(state, "ended_utc_ms") or 0,
        recharged=tuple(_text(label) for label in _list(state.get("recharged", ()))),
        occupancy_wh=_occupancy(state),
        joined=bool(_optional(state, "joined")),
        opening_day=_optional(state, "opening_day"),
        carried=_carried(state),
        fed=tuple(_feed(row) for row in _rows(state.get("fed", ()), 5)),
    )


def _occupancy(state: Mapping[str, object]) -> tuple[tuple[str, int], ...] | None:
    if "occupancy_wh" not in state:
        return None
    found = tuple((_text(row[0]), _integer(row[1])) for row in _rows(state["occupancy_wh"], 2))
    if any(wh < 0 for _, wh in found):
        raise _damaged(found)
    return found


def _carried(state: Mapping[str, object]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for label, source, wh in _rows(state.get("carried", ()), 3):
        found.setdefault(_text(label), {})[_text(source)] = _integer(wh)
    if any(wh < 0 for counted in found.values() for wh in counted.values()):
        raise _damaged(found)
    return found


def _feed(row: tuple[object, ...]) -> SavedFeed:
    feed = SavedFeed(_text(row[0]), _text(row[1]), *(_integer(item) for item in row[2:]))
    if not 0 <= feed.posted_wh <= feed.fed_wh:
        raise _damaged(row)
    return feed


def _line(
    row: tuple[object, ...],
    *,
    posted: bool,
    charges: tuple[tuple[str, int], ...] = (),
    flags: tuple[str, ...] = (),
) -> SavedLine:
    return SavedLine(
        posted=posted,
        period=_text(row[0]),
        tariff_id=_text(row[1]),
        version=_integer(row[2]),
        cells=tuple(
            (_text(cell[0]), _text(cell[1]), _integer(cell[2]), _integer(cell[3]))
            for cell in _rows(row[3], 4)
        ),
        charges=charges,
        flags=flags,
    )


def _list(value: object) -> list[object]:
    if not isinstance(value, list | tuple):
        raise _damaged(value)
    return list(value)


def _rows(value: object, width: int) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for item in _list(value):
        if not isinstance(item, list | tuple) or len(item) != width:
            raise _damaged(item)
        rows.append(tuple(item))
    return rows


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _damaged(value)
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _damaged(value)
    return value


def _optional(state: Mapping[str, object], name: str) -> int | None:
    return _integer(state[name]) if name in state else None


def _damaged(value: object) -> RefusedError:
    return RefusedError("PRICING_STATE", f"saved pricing state is damaged at {value!r}")
