"""What governs supplies beside their own credit: limits, feeders, shedding, overrides.

The engine asks before it opens for credit and before it closes, tells of every good reading, and
lets time pass once a sweep. Reasons are set and cleared here; switching is the engine's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, cast

import structlog

from gateway.core.clock import Clock
from gateway.core.feeder import Feeder, FeederRules
from gateway.core.limiter import LimiterState, Limits
from gateway.core.override import (
    NOTHING,
    SUSPENDED,
    Override,
    OverrideKind,
    Overrides,
)
from gateway.core.point import Point, Step
from gateway.core.proof import NS
from gateway.core.shedding import PRIORITY_DEFAULT, Candidate, Shedder, ShedRules
from gateway.core.switching import NEVER_CRITICAL, ControlState, Reason

log = structlog.get_logger()

# Who sets TAMPER when the inference finds something.
INFERENCE: Final = "inference"
# A second manager has to agree within this.
RESTORATION_VALID_NS: Final = 600 * NS
# So long after a start a meter of which nothing is kept counts although it was not read: by then
# every meter that answers was.
UNREAD_NS: Final = 120 * NS


class EventLog(Protocol):
    """Where events go."""

    def event(self, kind: str, subject: str, severity: str, **facts: object) -> None:
        """Keep an event for people and for the north."""
        ...


class OverrideRecords(Protocol):
    """What is kept of overrides beside the requests that set and ended them."""

    def suppressed(self, override: Override, service_point_id: str, reason: Reason) -> None:
        """An override kept a supply from being cut."""
        ...

    def expired(self, override: Override) -> None:
        """An override's time is over."""
        ...


class NoRecords:
    """Keeps nothing."""

    def suppressed(self, override: Override, service_point_id: str, reason: Reason) -> None:
        """An override kept a supply from being cut."""

    def expired(self, override: Override) -> None:
        """An override's time is over."""


@dataclass(frozen=True, slots=True)
class GovernorTerms:
    """What the configuration says. `priorities` by point index, `capacities_w` by feeder.

    A reconnection is expected to draw what flowed before, or `inrush_percent` of the point's limit.
    `tamper_cuts` opens supply where tampering is inferred; otherwise it is only an alarm. `checks`
    are meters at the head of a feeder: what they see is what the others draw, once more.
    """

    feeder: FeederRules = field(default_factory=FeederRules)
    shed: ShedRules = field(default_factory=ShedRules)
    priorities: Sequence[int] = ()
    capacities_w: Mapping[str, int] | None = None
    inrush_percent: int = 30
    tamper_cuts: bool = False
    checks: frozenset[int] = frozenset()


class Governor:
    """Everything about supply that looks beyond one point or one reading.

    `points` are indexed as the engine's. `credit_deferred` says whether friendly hours defer a cut
    for credit at a point now. `due` are points whose state must be kept with the next sweep.
    """

    def __init__(
        self,
        points: Sequence[Point],
        events: EventLog,
        clock: Clock,
        *,
        terms: GovernorTerms,
        chance: Callable[[], float],
        overrides: Iterable[Override] = (),
        records: OverrideRecords | None = None,
    ) -> None:
        self.points: Final = tuple(points)
        self.terms: Final = terms
        self.overrides: Final = Overrides(overrides)
        self.credit_deferred: Callable[[int], bool] = lambda _: False
        self.due: set[int] = set()
        self.restoring: set[int] = set()
        self._events = events
        self._clock = clock
        self._records: OverrideRecords = records or NoRecords()
        capacities_w = terms.capacities_w or {}
        names = dict.fromkeys(point.terms.feeder for point in self.points)
        self.feeders: Final = {
            name: Feeder(terms.feeder, capacity_w=capacities_w.get(name), chance=chance)
            for name in names
        }
        self.shedders: Final = {name: Shedder(terms.shed) for name in names}
        self._on_feeder: Final = {
            name: tuple(i for i, point in enumerate(self.points) if point.terms.feeder == name)
            for name in names
        }
        self._sources = [point.terms.sources[0] for point in self.points]
        self._told = [set(point.supply.blocks.held_back) for point in self.points]
        self._overloaded: set[str] = set()
        self._restoration_asked: tuple[str, int, int] | None = None
        until_ns = clock.mono_ns() + UNREAD_NS
        for index, point in enumerate(self.points):
            if index not in terms.checks:
                feeder = self.feeders[point.terms.feeder]
                feeder.assume(index, self.expected_w(index), until_ns=until_ns)

    # -- readings ------------------------------------------------------------------------------

    def on_reading(self, index: int, step: Step, register: int | None) -> None:
        """A reading was taken in; `register` is the tariff register that counts, where known."""
        point = self.points[index]
        supply, seen = point.supply, point.supply.observed
        if not step.settled or seen is None:
            return
        source = self._source_of(index, step, register)
        feeder = self.feeders[point.terms.feeder]
        if index not in self.terms.checks:
            feeder.seen(index, seen.mono_ns, seen.power_w, is_open=seen.output_closed is False)
        is_generator = source != point.terms.sources[0]
        if feeder.source_seen(source, seen.mono_ns, is_generator=is_generator):
            self._events.event("GENERATOR_HOLD", point.terms.feeder, "notice", source=source)
        power_w = seen.power_w if supply.enforced else None
        if power_w is not None and supply.limit(seen.mono_ns, power_w, source):
            self._tripped(index, power_w, source)
        if step.newly_due:
            self._tell_held(index)
        if index in self.restoring and seen.output_closed:
            self.restoring.discard(index)

    def tripped_by_itself(self, index: int) -> bool:
        """A node that was alone opened for its lease's limit: from now on that is a trip as any.

        True when that is news. Nothing at a point that is not enforced.
        """
        point = self.points[index]
        now_ns = self._clock.mono_ns()
        if not point.supply.enforced or not point.supply.limiter.tripped_by_itself(now_ns):
            return False
        point.supply.settle_overload()
        self.due.add(index)
        locked = point.supply.limiter.state is LimiterState.LOCKED_OUT
        self._events.event(
            "OVERLOAD_LOCKED" if locked else "OVERLOAD_TRIPPED",
            point.terms.service_point_id,
            "critical" if locked else "notice",
            by="lease",
        )
        return True

    def _source_of(self, index: int, step: Step, register: int | None) -> str:
        sources = self.points[index].terms.sources
        if register is None:
            used = [number for number, wh in enumerate(step.advance_wh) if wh > 0]
            register = used[0] if len(used) == 1 else None
        if register is not None and register < len(sources):
            self._sources[index] = sources[register]
        return self._sources[index]

    def _tripped(self, index: int, power_w: float, source: str) -> None:
        point = self.points[index]
        self.due.add(index)
        locked = point.supply.limiter.state is LimiterState.LOCKED_OUT
        log.warning("limiter.tripped", point=point.terms.service_point_id, locked=locked)
        self._events.event(
            "OVERLOAD_LOCKED" if locked else "OVERLOAD_TRIPPED",
            point.terms.service_point_id,
            "critical" if locked else "notice",
            power_w=round(power_w),
            limit_w=point.supply.limiter.limits.limit_w(
                source, emergency=point.supply.emergency_in_use
            ),
            source=source,
        )

    # -- time ----------------------------------------------------------------------------------

    def pass_time(self, now_ns: int, utc_ms: int | None) -> None:
        """Once a sweep: ends of trips and overrides, then shedding; None is a doubtful clock."""
        if utc_ms is not None:
            for override in self.overrides.expire(utc_ms):
                self._records.expired(override)
                self._events.event(
                    "OVERRIDE_EXPIRED",
                    override.target or "site",
                    "notice",
                    number=override.number,
                    what=override.kind.value,
                    owner=override.actor,
                )
        for index, point in enumerate(self.points):
            if point.supply.limiter.pass_time(now_ns):
                point.supply.settle_overload()
                self.due.add(index)
            self.refresh(index)
        for name in self.shedders:
            self._shed(name, now_ns)

    def refresh(self, index: int) -> None:
        """Hold back what an override or friendly hours suspend now, and nothing else."""
        point = self.points[index]
        reasons, restores = NOTHING, False
        if self.overrides and self._override_of(index) is not None:
            reasons = SUSPENDED
            restores = any(one.kind is OverrideKind.RESTORE_ALL for one in self.overrides.standing)
        if self.credit_deferred(index):
            reasons = reasons | {Reason.CREDIT}
        blocks = point.supply.blocks
        if not reasons and not blocks.held_back and not blocks.suspended:
            return
        before = len(blocks.held_back)
        freed = point.supply.suspend(reasons, restores=restores)
        if freed or len(blocks.held_back) != before:
            self.due.add(index)
        self._tell_held(index)

    def refresh_all(self) -> None:
        """`refresh` everywhere: an override came or went."""
        for index in range(len(self.points)):
            self.refresh(index)

    def _override_of(self, index: int) -> Override | None:
        terms = self.points[index].terms
        return self.overrides.covering(terms.service_point_id, terms.feeder)

    def _tell_held(self, index: int) -> None:
        """Say once which cut is held back, and by whom."""
        point = self.points[index]
        held = point.supply.blocks.held_back
        news, self._told[index] = held - self._told[index], set(held)
        for reason in sorted(news):
            name, override = point.terms.service_point_id, self._override_of(index)
            if override is None:
                self._events.event("CUT_DEFERRED", name, "notice", reason=reason.value)
                continue
            self._records.suppressed(override, name, reason)
            self._events.event(
                "OVERRIDE_SUPPRESSED_CUT",
                name,
                "warning",
                number=override.number,
                owner=override.actor,
                reason=reason.value,
            )

    # -- shedding ------------------------------------------------------------------------------

    def _shed(self, name: str, now_ns: int) -> None:
        shedder, feeder = self.shedders[name], self.feeders[name]
        idle = shedder.order is None and feeder.capacity_w is None
        if idle and not any(
            Reason.SHED in self.points[i].supply.reasons for i in self._on_feeder[name]
        ):
            return
        result = shedder.judge(now_ns, self._candidates(name, now_ns), feeder.capacity_w)
        for index in result.go:
            self.points[index].supply.block(Reason.SHED)
        for index in result.back:
            self.points[index].supply.unblock(Reason.SHED)
        self.due.update(result.go, result.back)
        if result.go and name not in self._overloaded:
            self._overloaded.add(name)
            self._events.event(
                "LOAD_SHED",
                name,
                "warning",
                points=[self.points[i].terms.service_point_id for i in result.go],
                cause="capacity" if shedder.order is None else "order",
            )
        elif name in self._overloaded and not shedder.shed and not result.go:
            self._overloaded.discard(name)
            self._events.event("LOAD_SHED", name, "cleared")

    def _candidates(self, name: str, now_ns: int) -> list[Candidate]:
        fresh_w = self.feeders[name].fresh_w(now_ns, self._max_age_s(name))
        found: list[Candidate] = []
        for index in self._on_feeder[name]:
            supply = self.points[index].supply
            may_go = (
                supply.enforced
                and not supply.policy.critical
                and index in fresh_w
                and supply.output_closed is not False
                and Reason.SHED not in supply.blocks.suspended
            )
            # An opening that failed leaves a load that nobody can shed.
            stuck = supply.fault is not None
            found.append(
                Candidate(
                    point=index,
                    priority=self.priority_of(index),
                    load_w=fresh_w.get(index, 0.0),
                    expected_w=self.expected_w(index),
                    may_go=may_go and not stuck,
                    is_shed=Reason.SHED in supply.reasons and not stuck,
                )
            )
        return found

    def _max_age_s(self, name: str) -> float:
        return self.points[self._on_feeder[name][0]].supply.policy.max_reading_age_s

    def priority_of(self, index: int) -> int:
        """The lowest goes first when load is shed."""
        return self.terms.priorities[index] if self.terms.priorities else PRIORITY_DEFAULT

    # -- closings ------------------------------------------------------------------------------

    def expected_w(self, index: int) -> float:
        """What a reconnection will draw: as before, or a share of what the point may draw."""
        point = self.points[index]
        if point.supply.recent_w:
            return point.supply.recent_w
        limit_w = point.supply.limiter.limits.any_w() or point.terms.p_max_w
        return limit_w * self.terms.inrush_percent / 100

    def may_close(self, index: int, now_ns: int) -> bool:
        """Whether it is this point's turn on its feeder, and its load fits."""
        feeder = self.feeders[self.points[index].terms.feeder]
        return feeder.has_turn(now_ns) and feeder.has_room(index, self.expected_w(index), now_ns)

    def closing(self, index: int, now_ns: int) -> None:
        """A supply is being closed."""
        feeder = self.feeders[self.points[index].terms.feeder]
        feeder.closing(index, self.expected_w(index), now_ns)

    def vouch(self, index: int, now_ns: int) -> None:
        """Two managers restore the site: their word confirms here, when it is this point's turn."""
        if index not in self.restoring:
            return
        supply = self.points[index].supply
        ready = supply.state(now_ns) is ControlState.READY_FOR_RECONNECTION
        if ready and self.may_close(index, now_ns):
            supply.confirm(now_ns)

    def begin_restoration(self) -> int:
        """Bring back what rules had cut; how many supplies wait for that."""
        self.restoring = {
            index
            for index, point in enumerate(self.points)
            if point.supply.enforced
            and point.supply.reconnection_pending
            and point.supply.reasons <= NEVER_CRITICAL
        }
        return len(self.restoring)

    def asked_restoration(self, now_ns: int) -> tuple[str, int] | None:
        """The first manager who asked to restore the site, and until when; None when it lapsed."""
        asked = self._restoration_asked
        if asked is None or now_ns - asked[2] > RESTORATION_VALID_NS:
            return None
        return asked[0], asked[1]

    def ask_restoration(self, actor: str, until_utc_ms: int, now_ns: int) -> None:
        """The first of two managers asks."""
        self._restoration_asked = (actor, until_utc_ms, now_ns)

    def forget_restoration(self) -> None:
        """Both have asked."""
        self._restoration_asked = None

    # -- orders --------------------------------------------------------------------------------

    def set_limits(self, index: int, t1_w: int, t2_w: int, emergency_w: int) -> None:
        """Limits in W by tariff register and while emergency credit is in use; 0 is none."""
        by_source = {
            source: limit_w
            for source, limit_w in zip(self.points[index].terms.sources, (t1_w, t2_w), strict=False)
            if limit_w
        }
        self.points[index].supply.limiter.limits = Limits(by_source, emergency_w or None)

    def override_set(self, override: Override) -> None:
        """An override stands from now on."""
        self.overrides.add(override)
        restores = override.kind is OverrideKind.RESTORE_ALL
        waiting = self.begin_restoration() if restores else 0
        self._events.event(
            "SITE_RESTORED" if restores else "OVERRIDE_SET",
            override.target or "site",
            "warning" if restores else "notice",
            number=override.number,
            what=override.kind.value,
            owner=override.actor,
            until_utc_ms=override.until_utc_ms,
            reason=override.reason,
            **({"supplies": waiting} if restores else {}),
        )
        self.refresh_all()

    def override_ended(self, override: Override, actor: str) -> None:
        """A person ended an override."""
        self.overrides.end(override.number)
        self._events.event(
            "OVERRIDE_ENDED",
            override.target or "site",
            "notice",
            number=override.number,
            what=override.kind.value,
            owner=override.actor,
            by=actor,
        )
        self.refresh_all()

    def set_tamper(self, index: int, *, suspected: bool) -> None:
        """Tampering is inferred, or is not any more; by the policy that opens supply or not.

        Not while an override keeps the point on: who works there moves wires.
        """
        point = self.points[index]
        if suspected and self.terms.tamper_cuts and self._override_of(index) is None:
            point.supply.block(Reason.TAMPER, INFERENCE)
        elif not suspected:
            point.supply.unblock(Reason.TAMPER, INFERENCE)
        self.due.add(index)

    # -- persistence ---------------------------------------------------------------------------

    def snapshot(self, now_ns: int) -> dict[str, object]:
        """JSON values that survive a restart; limits and overrides are tables of their own."""
        names = {i: point.terms.service_point_id for i, point in enumerate(self.points)}
        asked = self._restoration_asked
        sheds = {name: shedder.snapshot(names) for name, shedder in self.shedders.items()}
        return {
            "feeders": {name: one.snapshot(now_ns) for name, one in self.feeders.items()},
            "loads": {
                names[index]: load
                for feeder in self.feeders.values()
                for index, load in feeder.loads(now_ns).items()
            },
            "sheds": {name: shed for name, shed in sheds.items() if shed is not None},
            "restoring": sorted(names[index] for index in self.restoring),
            "restoration_asked": None
            if asked is None
            else [asked[0], asked[1], (now_ns - asked[2]) // 1_000_000],
        }

    def restore(self, kept: Mapping[str, object], now_ns: int, elapsed_ms: int) -> None:
        """Take up a snapshot that was made `elapsed_ms` ago; what is gone is forgotten."""
        indices = {point.terms.service_point_id: i for i, point in enumerate(self.points)}
        feeders = cast("Mapping[str, Mapping[str, object]]", kept["feeders"])
        for name, feeder in self.feeders.items():
            if name in feeders:
                feeder.restore(feeders[name], now_ns, elapsed_ms)
        # Snapshots of older programs have none.
        loads = cast("Mapping[str, Sequence[int]]", kept.get("loads", {}))
        for index, point in enumerate(self.points):
            if (load := loads.get(point.terms.service_point_id)) is not None:
                self.feeders[point.terms.feeder].restore_load(index, load, now_ns, elapsed_ms)
        sheds = cast("Mapping[str, Mapping[str, object]]", kept["sheds"])
        for name, shedder in self.shedders.items():
            if name in sheds:
                shedder.restore(sheds[name], indices, now_ns)
                self._overloaded.add(name)
        restoring = cast("Sequence[str]", kept["restoring"])
        self.restoring = {indices[name] for name in restoring if name in indices}
        asked = cast("tuple[str, int, int] | None", kept["restoration_asked"])
        if asked is not None:
            actor, until_utc_ms, age_ms = asked
            asked_ns = now_ns - (age_ms + elapsed_ms) * 1_000_000
            self._restoration_asked = (actor, until_utc_ms, asked_ns)
