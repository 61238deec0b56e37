"""A feeder's check meter against the sum of the meters behind it, per local half hour.

    supplied = import of the check meters + feed-in of the points
    loss     = supplied - import of the points - export of the check meters

A half hour is judged when every meter told it whole: none estimated, none begun in its middle.
Whole Wh all along; the only division makes the percent that is shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

# Meters tell a half hour at their own first reading after it; one that is away tells it late, and
# then estimated. More than this many half hours are not waited for.
PENDING_MAX: Final = 4


class Imbalance(StrEnum):
    """What a feeder's balance can show."""

    LOSS = "loss"
    SURPLUS = "surplus"


@dataclass(frozen=True, slots=True)
class FeederLimits:
    """Both must be exceeded, `half_hours` times in a row; over below `clear_percent` as often."""

    loss_percent: float = 5.0
    loss_wh: int = 200
    clear_percent: float = 3.0
    half_hours: int = 4


@dataclass(frozen=True, slots=True)
class MeterHalfHour:
    """What one meter counted in a half hour; `whole` is False when part of it is unknown."""

    start_utc_ms: int
    end_utc_ms: int
    import_wh: int
    export_wh: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Balance:
    """One half hour of a feeder. `doubtful` names meters whose half hour was not whole or missing;
    with any of them nothing was judged.
    """

    start_utc_ms: int
    end_utc_ms: int
    supplied_wh: int
    used_wh: int
    doubtful: tuple[str, ...] = ()

    @property
    def loss_wh(self) -> int:
        """What went in and came out nowhere; negative when more came out."""
        return self.supplied_wh - self.used_wh

    @property
    def loss_percent(self) -> float | None:
        """The loss as a share of what was supplied; None when nothing was."""
        return 100 * self.loss_wh / self.supplied_wh if self.supplied_wh > 0 else None


@dataclass(frozen=True, slots=True)
class FeederStep:
    """What a half hour brought: its balance, and what was raised or is over by it."""

    balance: Balance
    raised: Imbalance | None = None
    cleared: Imbalance | None = None


class FeederBalance:
    """State of one feeder with `checks` (one, or several incomers) and the `points` behind."""

    def __init__(self, checks: Sequence[str], points: Sequence[str], limits: FeederLimits) -> None:
        self.checks: Final = tuple(checks)
        self.points: Final = tuple(points)
        self.last: Balance | None = None
        self.standing: Imbalance | None = None
        self._limits = limits
        self._pending: dict[int, dict[str, MeterHalfHour]] = {}
        self._row: Imbalance | None = None
        self._row_length = 0
        self._calm_length = 0
        self._done_until_utc_ms = 0

    def add(self, meter_id: str, told: MeterHalfHour) -> list[FeederStep]:
        """Take in a meter's half hour; the balances that are complete by it, oldest first."""
        if told.start_utc_ms < self._done_until_utc_ms:
            return []
        self._pending.setdefault(told.start_utc_ms, {})[meter_id] = told
        steps: list[FeederStep] = []
        expected = len(self.checks) + len(self.points)
        for start_utc_ms in sorted(self._pending):
            waiting = len(self._pending) > PENDING_MAX
            if len(self._pending[start_utc_ms]) < expected and not waiting:
                break
            steps.append(self._close(self._pending.pop(start_utc_ms)))
        return steps

    def snapshot(self) -> dict[str, object]:
        """State as JSON values; half hours that are not complete are not kept."""
        last = self.last
        return {
            "standing": self.standing,
            "row": self._row,
            "row_length": self._row_length,
            "calm_length": self._calm_length,
            "checks": list(self.checks),
            "points": len(self.points),
            "last": None
            if last is None
            else {
                "start_utc_ms": last.start_utc_ms,
                "end_utc_ms": last.end_utc_ms,
                "supplied_wh": last.supplied_wh,
                "used_wh": last.used_wh,
                "doubtful": list(last.doubtful),
            },
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from `snapshot`."""
        self.standing = _imbalance(state["standing"])
        self._row = _imbalance(state["row"])
        self._row_length = cast("int", state["row_length"])
        self._calm_length = cast("int", state["calm_length"])
        self.last = balance_of(cast("Mapping[str, object] | None", state["last"]))
        if self.last is not None:
            self._done_until_utc_ms = self.last.end_utc_ms

    # -- inside ----------------------------------------------------------------------------

    def _close(self, told: Mapping[str, MeterHalfHour]) -> FeederStep:
        first = next(iter(told.values()))
        # Half hours of different lengths (a change of summer time) are not added up.
        doubtful = [
            name
            for name in (*self.checks, *self.points)
            if name not in told or not told[name].whole or told[name].end_utc_ms != first.end_utc_ms
        ]
        checks = [told[name] for name in self.checks if name in told]
        points = [told[name] for name in self.points if name in told]
        balance = Balance(
            first.start_utc_ms,
            first.end_utc_ms,
            supplied_wh=sum(one.import_wh for one in checks) + sum(o.export_wh for o in points),
            used_wh=sum(one.import_wh for one in points) + sum(o.export_wh for o in checks),
            doubtful=tuple(doubtful),
        )
        self._done_until_utc_ms = max(self._done_until_utc_ms, first.end_utc_ms)
        self.last = balance
        return FeederStep(balance) if doubtful else self._judge(balance)

    def _judge(self, balance: Balance) -> FeederStep:
        seen = self._seen(balance)
        self._row_length = self._row_length + 1 if seen is not None and seen is self._row else 1
        self._row = seen
        cleared = self._calm(balance, seen)
        raised = None
        enough = self._row_length >= self._limits.half_hours
        if seen is not None and enough and self.standing is not seen:
            cleared = self.standing or cleared
            self.standing = raised = seen
            self._calm_length = 0
        return FeederStep(balance, raised, cleared)

    def _seen(self, balance: Balance) -> Imbalance | None:
        limits, loss_wh = self._limits, balance.loss_wh
        above = abs(loss_wh) * 100 > limits.loss_percent * max(balance.supplied_wh, 0)
        if not above or abs(loss_wh) <= limits.loss_wh:
            return None
        return Imbalance.LOSS if loss_wh > 0 else Imbalance.SURPLUS

    def _calm(self, balance: Balance, seen: Imbalance | None) -> Imbalance | None:
        """Count half hours in which what stands was clearly not there; what is over by it."""
        if self.standing is None:
            return None
        limits = self._limits
        small = abs(balance.loss_wh) * 100 <= limits.clear_percent * max(balance.supplied_wh, 0)
        calm = (
            small
            or seen not in (None, self.standing)
            or (
                # Little was used: the absolute limit says nothing is wrong, if well kept.
                2 * abs(balance.loss_wh) <= limits.loss_wh
            )
        )
        self._calm_length = self._calm_length + 1 if calm else 0
        if self._calm_length < limits.half_hours:
            return None
        over, self.standing, self._calm_length = self.standing, None, 0
        return over


def balance_of(state: Mapping[str, object] | None) -> Balance | None:
    """A balance from its JSON values."""
    if state is None:
        return None
    return Balance(
        cast("int", state["start_utc_ms"]),
        cast("int", state["end_utc_ms"]),
        cast("int", state["supplied_wh"]),
        cast("int", state["used_wh"]),
        tuple(cast("Sequence[str]", state["doubtful"])),
    )


def _imbalance(value: object) -> Imbalance | None:
    return None if value is None else Imbalance(cast("str", value))
