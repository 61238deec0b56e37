"""Check meters of feeders: half hours of the meters handed to their feeder's balance, and told."""

from collections.abc import Mapping
from typing import Final, Protocol

import structlog

from gateway.app.config import Config
from gateway.core.feeder_balance import (
    FeederBalance,
    FeederLimits,
    FeederStep,
    Imbalance,
    MeterHalfHour,
)
from gateway.core.interval import Interval
from gateway.store.watch import WatchKind, WatchState

log = structlog.get_logger()

CHECK: Final = "check"


class Teller(Protocol):
    """Where events go."""

    def __call__(self, kind: str, subject: str, severity: str, **facts: object) -> None:
        """Keep an event for people and for the north."""
        ...


class FeederWatch:
    """Every feeder that has a check meter, and at least one other meter behind it."""

    def __init__(
        self,
        config: Config,
        states: Mapping[tuple[WatchKind, str], WatchState],
        *,
        tell: Teller,
    ) -> None:
        self._tell = tell
        self.dirty: set[str] = set()
        limits = FeederLimits(**config.watch.feeder.model_dump())
        self._balances: dict[str, FeederBalance] = {}
        for feeder in sorted({meter.feeder for meter in config.points if meter.role == CHECK}):
            here = [meter for meter in config.points if meter.feeder == feeder]
            balance = FeederBalance(
                [meter.meter_id for meter in here if meter.role == CHECK],
                [meter.meter_id for meter in here if meter.role != CHECK],
                limits,
            )
            if (kept := states.get((WatchKind.FEEDER, feeder))) is not None:
                balance.restore(kept.body)
            self._balances[feeder] = balance
            self.dirty.add(feeder)
        self._feeder_of = {
            meter.meter_id: meter.feeder
            for meter in config.points
            if meter.feeder in self._balances
        }
        self._ended: dict[str, int] = {}

    def interval(self, meter_id: str, interval: Interval, exported_wh: int) -> None:
        """Take a finished half hour of a meter; one that did not follow another may be a part."""
        feeder = self._feeder_of.get(meter_id)
        if feeder is None:
            return
        follows = self._ended.get(meter_id) == interval.start_utc_ms
        self._ended[meter_id] = interval.end_utc_ms
        told = MeterHalfHour(
            interval.start_utc_ms,
            interval.end_utc_ms,
            sum(interval.energy_wh),
            exported_wh,
            whole=follows and not interval.estimated and interval.readings > 0,
        )
        for step in self._balances[feeder].add(meter_id, told):
            self.dirty.add(feeder)
            self._tell_step(feeder, step)

    def snapshot(self, feeder: str) -> dict[str, object]:
        """A feeder's state as it is kept."""
        return self._balances[feeder].snapshot()

    def losses_percent(self) -> dict[str, float]:
        """The last judged loss by feeder."""
        found: dict[str, float] = {}
        for feeder, balance in self._balances.items():
            last = balance.last
            if last is not None and not last.doubtful and last.loss_percent is not None:
                found[feeder] = last.loss_percent
        return found

    def _tell_step(self, feeder: str, step: FeederStep) -> None:
        balance = step.balance
        facts: dict[str, object] = {
            "supplied_wh": balance.supplied_wh,
            "used_wh": balance.used_wh,
            "loss_wh": balance.loss_wh,
            "loss_percent": None
            if balance.loss_percent is None
            else round(balance.loss_percent, 2),
            "half_hour_utc_ms": balance.start_utc_ms,
        }
        for imbalance, severity in ((step.cleared, "cleared"), (step.raised, "warning")):
            if imbalance is None:
                continue
            kind = "FEEDER_LOSS" if imbalance is Imbalance.LOSS else "FEEDER_SURPLUS"
            log.warning("feeder.balance", feeder=feeder, kind=kind, severity=severity, **facts)
            self._tell(kind, feeder, severity, **facts)
