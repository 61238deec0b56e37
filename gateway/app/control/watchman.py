"""Looks at every reading and half hour for what should not be: tampering, losses, transformers.

It only tells: events, rows of `watch_state`, figures. Nothing here switches a supply or moves
money. The rules are pure modules of core; this file feeds them and keeps what they know.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, cast
from zoneinfo import ZoneInfo

import structlog

from gateway.app.config import Config, PointConfig
from gateway.app.control.boot import guard_of
from gateway.app.control.feeder_watch import CHECK, FeederWatch, Teller
from gateway.core.civil import local_time
from gateway.core.errors import RefusedError
from gateway.core.export import ExportCounter, ExportDay, ExportPolicy
from gateway.core.figures import Value
from gateway.core.guard import GuardEvent
from gateway.core.interval import Interval
from gateway.core.phases import phase_of
from gateway.core.point import Point, Step
from gateway.core.reading import Lane, Reading
from gateway.core.switching import Alarm
from gateway.core.tamper import Look, Sign, TamperWatch
from gateway.core.transformer_check import (
    TotalValues,
    TransformerChange,
    TransformerCheck,
    TransformerLimits,
    TransformerTerms,
)
from gateway.south.metering import Metering, metering
from gateway.store.watch import WatchKind, WatchState

log = structlog.get_logger()

TOTAL_VA: Final = "apparent_power_total_va"
# Conditions of transformers last minutes: a look now and then is enough, and costs a tenth.
LOOK_EVERY_NS: Final = 10_000_000_000
NS_PER_S: Final = 1e9
# A meter that was silent for longer may have been without power.
AWAY_MIN_S: Final = 5.0
AWAY_POLLS: Final = 3
RESET_DIAGNOSTIC: Final = "energy_reset_by_user"


class TamperListener(Protocol):
    """Whoever acts on signs of tampering."""

    def __call__(self, index: int, *, standing: bool) -> None:
        """A meter (index of its point) is newly suspected, or was answered for."""
        ...


class _Layout:
    """Where a model's values stand in a reading of its full lane; beyond it in the slow one."""

    def __init__(self, model: Metering) -> None:
        names = model.names(Lane.SLOW)
        self.places: Final = {name: index for index, name in enumerate(names)}
        self.counters: Final = tuple(self.places[name] for name in model.change_counters)
        self.export: Final = model.export_places
        self.power: Final = model.power
        bits = [one.mask for one in model.diagnostics if one.name == RESET_DIAGNOSTIC]
        self.reset_mask: Final = bits[0] if bits else 0

    def whole(self, values: Sequence[float], places: Sequence[int]) -> tuple[int, ...] | None:
        """Values at these places floored; None where this reading has not all of them."""
        if not places or places[-1] >= len(values):
            return None
        found = [values[place] for place in places]
        return tuple(map(int, found)) if all(map(math.isfinite, found)) else None


@dataclass(slots=True)
class _Watched:
    """What is watched of one meter."""

    meter: PointConfig
    layout: _Layout
    tamper: TamperWatch
    transformer: TransformerCheck
    export: ExportCounter
    day: ExportDay = field(default_factory=ExportDay)
    away_ns: int = 0
    seen_ns: int | None = None
    looked_ns: int | None = None
    half_hour_export_wh: int = 0
    disturbed: bool = False
    had_reset_bit: bool = False
    seen_before: tuple[Look, bool] | None = None
    exported: tuple[float, ...] = ()

    @property
    def meter_id(self) -> str:
        """Its name."""
        return self.meter.meter_id

    @property
    def alarms_export(self) -> bool:
        """Whether no energy is expected from this customer."""
        return alarms_export(self.meter)


class Watchman:
    """Watches all meters of a site, in the order of the engine's points.

    `tell` keeps events.
    """

    def __init__(
        self,
        config: Config,
        states: Mapping[tuple[WatchKind, str], WatchState],
        *,
        tell: Teller,
    ) -> None:
        self._tell = tell
        self._zone = ZoneInfo(config.site.timezone)
        self._export_day_wh = config.watch.export_day_wh
        layouts = {name: _Layout(metering(name)) for name in {m.model for m in config.points}}
        limits = _limits_of(config)
        self._watched = [
            _watched(meter, layouts[meter.model], limits, states) for meter in config.points
        ]
        self._by_meter = {one.meter_id: index for index, one in enumerate(self._watched)}
        self.feeders: Final = FeederWatch(config, states, tell=tell)
        self._dirty: set[tuple[WatchKind, str]] = set()
        self.on_tamper: TamperListener = _nobody
        # Asked when a sign must be on record before the energy that it explains is.
        self.keep: Callable[[], object] = bool

    # -- from control ----------------------------------------------------------------------

    def reading(self, index: int, point: Point, reading: Reading, step: Step) -> None:
        """Look at a reading that the engine has taken; short ones show the guard's word only."""
        one = self._watched[index]
        away = one.seen_ns is None or reading.mono_ns - one.seen_ns > one.away_ns
        one.disturbed = one.disturbed or reading.restarted or away
        one.seen_ns = reading.mono_ns
        if step.settled:
            self._see_tamper(index, one, point, reading, step)
        if not reading.values:
            return
        if step.settled:
            self._see_export(one, point, reading)
            one.disturbed = False
        # Also a reading whose energy is held: a wrong ratio shows there first.
        self._see_transformer(one, reading)

    def interval(self, index: int, interval: Interval) -> None:
        """Take a half hour that a meter has finished."""
        one = self._watched[index]
        exported_wh, one.half_hour_export_wh = one.half_hour_export_wh, 0
        self.feeders.interval(one.meter_id, interval, exported_wh)
        # Waits of hours and days survive a restart to the half hour.
        if one.transformer.snapshot():
            self._dirty.add((WatchKind.TRANSFORMER, one.meter_id))
        if one.day.fed_wh:
            self._dirty.add((WatchKind.EXPORT, one.meter_id))

    # -- for requests ----------------------------------------------------------------------

    def is_check(self, index: int) -> bool:
        """Whether a meter charges nobody and is never switched."""
        return self._watched[index].meter.role == CHECK

    def acknowledge(self, index: int, utc_ms: int, *, for_s: int) -> tuple[Sign, ...]:
        """Answer for a meter's signs (which stood), or with `for_s` announce work at it.

        Raises RefusedError NOTHING_SUSPECTED, ANNOUNCED_RANGE.
        """
        one = self._watched[index]
        stood: tuple[Sign, ...] = ()
        if for_s:
            one.tamper.announce(utc_ms, for_s=for_s)
        else:
            stood = one.tamper.acknowledge()
        self._dirty.add((WatchKind.TAMPER, one.meter_id))
        return stood

    def tell_acknowledged(
        self, index: int, stood: Sequence[Sign], *, by: str, reason: str, for_s: int
    ) -> None:
        """Say that it was acknowledged, once that is on record."""
        meter_id = self._watched[index].meter_id
        if stood:
            signs = [sign.value for sign in stood]
            self._tell("TAMPER_SUSPECTED", meter_id, "cleared", signs=signs, by=by, reason=reason)
            self.on_tamper(index, standing=False)
        if for_s:
            self._tell("CHANGES_ANNOUNCED", meter_id, "notice", by=by, reason=reason, for_s=for_s)

    def reset_mask(self, index: int) -> int:
        """The meter's latched bit of a reset by hand, where it stands; 0 where it does not."""
        one = self._watched[index]
        return one.layout.reset_mask if one.had_reset_bit else 0

    def replaced(self, index: int) -> None:
        """Another device was built in."""
        one = self._watched[index]
        one.tamper.replaced()
        one.export = _export_counter(one.meter)
        one.seen_before = None
        self._dirty.add((WatchKind.TAMPER, one.meter_id))

    # -- what is kept and shown ------------------------------------------------------------

    @property
    def is_dirty(self) -> bool:
        """Whether a state waits to be kept."""
        return bool(self._dirty or self.feeders.dirty)

    def take_states(self, utc_ms: int) -> list[WatchState]:
        """States that changed since the last call; the caller commits them."""
        dirty, self._dirty = self._dirty, set()
        dirty |= {(WatchKind.FEEDER, name) for name in self.feeders.dirty}
        self.feeders.dirty.clear()
        return [
            WatchState(kind, subject, utc_ms, self._body(kind, subject))
            for kind, subject in sorted(dirty)
        ]

    def figures(self) -> dict[str, Value]:
        """Figures for the board."""
        return {
            "tamper_suspected": float(sum(one.tamper.suspected for one in self._watched)),
            "transformers_suspect": float(
                sum(bool(one.transformer.standing) for one in self._watched)
            ),
            "feeder_loss_percent": self.feeders.losses_percent(),
        }

    # -- inside ----------------------------------------------------------------------------

    def _body(self, kind: WatchKind, subject: str) -> Mapping[str, object]:
        if kind is WatchKind.FEEDER:
            return self.feeders.snapshot(subject)
        one = self._watched[self._by_meter[subject]]
        if kind is WatchKind.TAMPER:
            return one.tamper.snapshot()
        if kind is WatchKind.TRANSFORMER:
            return one.transformer.snapshot()
        return {"day": one.day.snapshot()}

    def _see_tamper(
        self, index: int, one: _Watched, point: Point, reading: Reading, step: Step
    ) -> None:
        # The short lane reads neither counters nor diagnostics.
        tells_bits = bool(reading.values) and one.layout.reset_mask != 0
        if tells_bits:
            one.had_reset_bit = bool(reading.diagnostics & one.layout.reset_mask)
        look = Look(
            counters=one.layout.whole(reading.values, one.layout.counters),
            reset_bit=one.had_reset_bit if tells_bits else None,
            was_reset=GuardEvent.METER_RESET in step.events,
            unauthorised=Alarm.UNAUTHORISED_SUPPLY in point.supply.alarms,
            disturbed=one.disturbed,
        )
        watched = point.supply.enforced or one.meter.role == CHECK
        if (look, watched) == one.seen_before:
            # Almost every reading: nothing moved, and nothing waits to be confirmed.
            return
        found = one.tamper.see(look, utc_ms=reading.utc_ms, watched=watched)
        quiet = not (found.changed or one.tamper.waits or look.was_reset or look.disturbed)
        one.seen_before = (look, watched) if quiet else None
        if not found.changed:
            return
        self._dirty.add((WatchKind.TAMPER, one.meter_id))
        if found.settings:
            self._tell("SETTINGS_CHANGED", one.meter_id, "notice", reason=found.settings)
        for sign in found.suspected:
            log.error("tamper.suspected", meter=one.meter_id, sign=sign.sign, reason=sign.detail)
            self._tell(
                "TAMPER_SUSPECTED",
                one.meter_id,
                "critical",
                sign=sign.sign.value,
                reason=sign.detail,
            )
        if found.suspected:
            self.keep()
            self.on_tamper(index, standing=True)

    def _see_export(self, one: _Watched, point: Point, reading: Reading) -> None:
        raw = tuple([reading.values[place] for place in one.layout.export])
        if raw == one.exported:
            # Most meters never export.
            return
        one.exported = raw
        registers_wh = one.layout.whole(reading.values, one.layout.export)
        if registers_wh is None or min(registers_wh) < 0:
            return
        try:
            fed_wh = one.export.see(
                reading.sequence, reading.mono_ns, registers_wh, disturbed=one.disturbed
            )
        except (RefusedError, ValueError):
            return
        one.half_hour_export_wh += fed_wh
        if not fed_wh or not one.alarms_export:
            return
        if not point.label_utc_ms:
            return
        day = local_time(self._zone, point.label_utc_ms).day
        day_wh = one.day.see(day, fed_wh, alarm_wh=self._export_day_wh)
        if day_wh is not None:
            self._dirty.add((WatchKind.EXPORT, one.meter_id))
            self._tell(
                "EXPORT_SEEN",
                one.meter_id,
                "warning",
                energy_wh=day_wh,
                registers_wh=list(registers_wh),
            )

    def _see_transformer(self, one: _Watched, reading: Reading) -> None:
        if TOTAL_VA not in one.layout.places:
            # A node measures one phase: there is nothing to compare it with.
            return
        since_ns, mono_ns = one.looked_ns, reading.mono_ns
        if since_ns is not None and mono_ns - since_ns < LOOK_EVERY_NS:
            return
        one.looked_ns = mono_ns
        if since_ns is None:
            return
        values, places = reading.values, one.layout.places

        def value(name: str) -> float:
            return values[places[name]]

        changes = one.transformer.see(
            [phase_of(value, phase) for phase in (1, 2, 3)],
            TotalValues(value(one.layout.power), value(TOTAL_VA)),
            (mono_ns - since_ns) / NS_PER_S,
        )
        for change in changes:
            self._tell_transformer(one, change)

    def _tell_transformer(self, one: _Watched, change: TransformerChange) -> None:
        self._dirty.add((WatchKind.TRANSFORMER, one.meter_id))
        log.warning(
            "transformer.suspect" if change.standing else "transformer.cleared",
            meter=one.meter_id,
            suspicion=change.suspicion,
            phase=change.phase,
        )
        self._tell(
            "CT_SUSPECT",
            one.meter_id,
            "warning" if change.standing else "cleared",
            suspicion=change.suspicion.value,
            phase=change.phase,
            evidence=change.evidence,
        )


def _watched(
    meter: PointConfig,
    layout: _Layout,
    limits: TransformerLimits,
    states: Mapping[tuple[WatchKind, str], WatchState],
) -> _Watched:
    ratio = meter.settings.ct_ratio
    terms = TransformerTerms(
        p_max_w=meter.settings.p_max_w,
        primary_a=None if ratio is None else primary_of(ratio),
        may_feed_in=not alarms_export(meter),
    )
    one = _Watched(
        meter, layout, TamperWatch(), TransformerCheck(terms, limits), _export_counter(meter)
    )
    one.away_ns = round(max(AWAY_MIN_S, AWAY_POLLS * meter.settings.poll_s) * NS_PER_S)
    tamper = states.get((WatchKind.TAMPER, meter.meter_id))
    if tamper is not None:
        one.tamper.restore(tamper.body)
    transformer = states.get((WatchKind.TRANSFORMER, meter.meter_id))
    if transformer is not None:
        one.transformer.restore(transformer.body)
    export = states.get((WatchKind.EXPORT, meter.meter_id))
    if export is not None:
        one.day.restore(cast("Sequence[object]", export.body["day"]))
    return one


def alarms_export(meter: PointConfig) -> bool:
    """Whether no energy is expected from this customer."""
    return ExportPolicy(meter.settings.export) is ExportPolicy.ALARMED


def _export_counter(meter: PointConfig) -> ExportCounter:
    return ExportCounter(guard_of(meter))


def primary_of(ratio: str) -> float:
    """Amperes of the primary side of a ratio such as 200/5."""
    return float(ratio.partition("/")[0])


def _limits_of(config: Config) -> TransformerLimits:
    section = config.watch.transformer
    return TransformerLimits(**section.model_dump())


def _nobody(index: int, *, standing: bool) -> None:
    """Nobody acts on tampering: it is an alarm only."""
    del index, standing
