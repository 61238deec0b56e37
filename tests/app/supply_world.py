"""Four supplies on one feeder without a process: what the engine decides, checked at every switch.

`act` mirrors `Engine.decide`; contactors follow at once unless they are stuck. Every command is
held against the invariants I8, I9, I12 and I13 of domain.md when it is sent.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.app.control.governor import Governor, GovernorTerms
from gateway.core.errors import RefusedError
from gateway.core.feeder import FeederRules
from gateway.core.guard import RegisterGuard
from gateway.core.limiter import Limiter, LimiterRules, Limits
from gateway.core.masscut import MassCutBreaker, MassCutLimits
from gateway.core.override import Override, OverrideKind, Scope
from gateway.core.point import Point, PointTerms, Step
from gateway.core.proof import NS, Observation
from gateway.core.requests import Role
from gateway.core.shedding import ShedRules
from gateway.core.supply import Supply
from gateway.core.switching import (
    NEVER_CRITICAL,
    UNCONDITIONAL,
    Order,
    OrderKind,
    Reason,
    SupplyPolicy,
)

POINTS = 4
CRITICAL = 3
AUTO = 2
CUTS = MassCutLimits(max_cuts=2, max_percent=0, window_s=600, halt_min_points=100)
WATCHED = frozenset({Reason.OVERLOAD, Reason.SHED})


@dataclass
class Events:
    """Events by kind, as the governor tells them."""

    kinds: list[str] = field(default_factory=list)

    def event(self, kind: str, *_told: str, **_facts: object) -> None:
        """Keep the kind."""
        self.kinds.append(kind)


@dataclass
class Known:
    """What the test itself knows of one point, beside the machine."""

    load_w: float = 1_000.0
    closed: bool = True
    stuck: bool = False
    opened_ns: int | None = None
    needs_person: bool = True
    said_ns: int | None = None
    disturbed: bool = False
    energy_wh: int = 1_000


class HandClock:
    """Time that the world moves."""

    def __init__(self) -> None:
        self.now_ns = 1_000 * NS

    def mono_ns(self) -> int:
        return self.now_ns

    def utc_ms(self) -> int:
        return self.now_ns // 1_000_000

    def loop_delay_s(self, seconds: float) -> float:
        return seconds

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


class World:
    """The supplies, their contactors, and a clock that only `pass_s` moves."""

    def __init__(self, *, capacity_w: int | None = 3_500) -> None:
        self.clock = HandClock()
        self.events = Events()
        self.known = [Known() for _ in range(POINTS)]
        self.cuts_ns: list[int] = []
        self.breaker = MassCutBreaker(CUTS)
        self.numbers = 0
        self.friendly = False
        self.capacity_w = capacity_w
        self.points = [self._point(index) for index in range(POINTS)]
        self.governor = self._governor(())
        for index in range(POINTS):
            self.read(index)

    # -- what happens --------------------------------------------------------------------------

    def pass_s(self, seconds: int) -> None:
        """Time passes, with a good reading of every point and a round of decisions each second."""
        for _ in range(seconds):
            self.clock.now_ns += NS
            for index in range(POINTS):
                self.read(index)
            self.decide()

    def wait_s(self, seconds: int) -> None:
        """Time passes and no meter answers."""
        self.clock.now_ns += seconds * NS
        self.decide()

    def read(self, index: int, *, trusted: bool = True) -> None:
        """A reading of one point."""
        known, point = self.known[index], self.points[index]
        power_w = known.load_w if self._flows(known) else 0.0
        known.energy_wh += round(power_w / 3_600) if power_w else 0
        seen = Observation(
            self.clock.now_ns,
            known.closed,
            known.energy_wh,
            power_w / 230,
            power_w,
            trusted=trusted,
        )
        pending = point.supply.reconnection_pending
        self._carry_out(index, point.supply.observe(seen))
        if point.supply.reconnection_pending and not pending and known.disturbed:
            # What a meter's restart opened is no act of a person.
            known.needs_person = False
        known.disturbed = known.disturbed and not known.closed
        self.governor.on_reading(index, Step(settled=trusted, advance_wh=(1, 0)), None)
        self._note_needs(index)

    def decide(self) -> None:
        """One round, as the sweep makes it."""
        self.governor.pass_time(self.clock.now_ns, self.clock.utc_ms())
        for index, point in enumerate(self.points):
            self._carry_out(index, point.supply.look_at_age(self.clock.now_ns))
            if point.supply.command is not None:
                self._carry_out(index, point.supply.tick(self.clock.now_ns))
            else:
                self.act(index)

    def block(self, index: int, reason: Reason, owner: str = "") -> None:
        """A reason is set."""
        self.points[index].supply.block(reason, owner)
        self._note_needs(index)
        self.act(index)

    def confirm(self, index: int) -> None:
        """A person confirms, or is refused."""
        try:
            self.points[index].supply.confirm(self.clock.now_ns)
        except RefusedError:
            return
        self.known[index].said_ns = self.clock.now_ns
        self.act(index)

    def override(self, kind: OverrideKind, scope: Scope, target: str, hours: int) -> None:
        """An override stands from now on."""
        self.numbers += 1
        utc_ms = self.clock.utc_ms()
        self.governor.override_set(
            Override(
                self.numbers,
                kind,
                scope,
                target,
                utc_ms,
                utc_ms + hours * 3_600_000,
                "because",
                "anna",
                Role.MANAGER,
            )
        )
        for index in range(POINTS):
            self._note_needs(index)

    def meter_restarts(self, index: int) -> None:
        """A meter loses power: its output opens by that."""
        self.known[index].closed = False
        self.known[index].disturbed = True
        self.points[index].supply.disturbed()

    def restart(self) -> None:
        """Everything is built anew from what is on file."""
        now_ns, utc_ms = self.clock.now_ns, self.clock.utc_ms()
        supplies = [point.supply.snapshot(now_ns, utc_ms) for point in self.points]
        site, cuts = self.governor.snapshot(now_ns), self.breaker.snapshot(now_ns)
        limits = [point.supply.limiter.limits for point in self.points]
        self.points = [self._point(index) for index in range(POINTS)]
        for known in self.known:
            # Nobody looked while it was away: what is open may be a restart's.
            known.disturbed = True
        for point, kept, limit in zip(self.points, supplies, limits, strict=True):
            point.supply.restore(kept, now_ns, utc_ms)
            point.supply.limiter.limits = limit
        self.breaker = MassCutBreaker(CUTS)
        self.breaker.restore(cuts, now_ns, 0)
        self.governor = self._governor(self.governor.overrides.standing)
        self.governor.restore(site, now_ns, 0)

    # -- decisions -----------------------------------------------------------------------------

    def act(self, index: int) -> None:
        """`Engine.decide` for one point."""
        supply, now_ns = self.points[index].supply, self.clock.now_ns
        vouched = supply.confirmed_ns
        self.governor.vouch(index, now_ns)
        if supply.confirmed_ns is not vouched:
            self.known[index].said_ns = now_ns
        close = supply.wants(now_ns)
        if close is None:
            return
        if close:
            if not self.governor.may_close(index, now_ns):
                return
            self._check_close(index)
            self.governor.closing(index, now_ns)
        elif supply.reasons <= {Reason.CREDIT}:
            self.governor.refresh(index)
            if supply.wants(now_ns) is not False or not self.breaker.admit(now_ns, POINTS):
                return
            self.cuts_ns.append(now_ns)
        if not close:
            self._check_open(index)
            known = self.known[index]
            known.needs_person = known.needs_person and supply.reconnection_pending
            self._note_needs(index)
        self._carry_out(index, [supply.order(now_ns, close=close)])

    def _carry_out(self, index: int, orders: Iterable[Order]) -> None:
        known, supply = self.known[index], self.points[index].supply
        for order in orders:
            if order.kind is OrderKind.SEND:
                supply.sent(self.clock.now_ns)
                if not known.stuck:
                    known.closed = order.close
                if order.close:
                    known.opened_ns, known.said_ns = None, None
                elif order.attempt == 1:
                    known.opened_ns = self.clock.now_ns
            elif order.kind is OrderKind.VERIFIED and order.close:
                known.needs_person = True

    # -- invariants ----------------------------------------------------------------------------

    def _check_open(self, index: int) -> None:
        supply, now_ns = self.points[index].supply, self.clock.now_ns
        assert supply.reasons, "opened without a reason"
        if not supply.reasons & UNCONDITIONAL:
            seen = supply.observed
            assert seen is not None
            assert seen.trusted, "I8: opened on a doubtful reading"
            assert now_ns - seen.mono_ns <= supply.policy.max_reading_age_s * NS, "I8: too old"
        if index == CRITICAL:
            assert not supply.reasons & NEVER_CRITICAL, "I12: a critical point is opened"
        recent = [at_ns for at_ns in self.cuts_ns if now_ns - at_ns < CUTS.window_s * NS]
        assert len(recent) <= CUTS.max_cuts, "I13: too many cuts in a window"

    def _check_close(self, index: int) -> None:
        supply, known, now_ns = self.points[index].supply, self.known[index], self.clock.now_ns
        assert not supply.reasons, "I7: closed against a reason"
        assert supply.fault is None or now_ns - supply.fault_ns >= 900 * NS, "I9: with a fault"
        if not supply.reconnection_pending:
            return  # restoration after a restart of the meter
        if known.opened_ns is not None:
            assert now_ns - known.opened_ns >= 60 * NS, "I9: before the minimum off time"
        if supply.policy.confirm_needed and known.needs_person:
            said_ns = known.said_ns
            assert said_ns is not None, "I9: nobody confirmed"
            assert now_ns - said_ns <= 120 * NS, "I9: the confirmation has lapsed"

    def check(self) -> None:
        """What holds at every moment."""
        for index, point in enumerate(self.points):
            supply = point.supply
            pending = supply.reconnection_pending
            assert supply.intended_closed == (not supply.reasons and not pending), "I7"
            assert not supply.reasons & supply.blocks.held_back
            assert (Reason.OVERLOAD in supply.reasons) == supply.limiter.blocks
            if index == CRITICAL:
                assert not (supply.reasons | supply.blocks.held_back) & NEVER_CRITICAL, "I12"

    def _note_needs(self, index: int) -> None:
        """A person is needed once anything stood that does not return by itself."""
        supply, known = self.points[index].supply, self.known[index]
        auto = supply.policy.returns_by_itself
        known.needs_person = known.needs_person or not supply.reasons <= auto

    # -- building ------------------------------------------------------------------------------

    @staticmethod
    def _flows(known: Known) -> bool:
        return known.closed or known.stuck

    def _point(self, index: int) -> Point:
        terms = PointTerms(
            f"flat-{index}", f"flat-{index}", "riser", ("grid", "generator"), 7_360, 1.0
        )
        policy = SupplyPolicy(
            critical=index == CRITICAL,
            returns_by_itself=WATCHED if index == AUTO else frozenset(),
            verify_s=5.0,
        )
        limiter = Limiter(LimiterRules(over_s=10, restore_s=70), Limits({"grid": 2_000}))
        supply = Supply(policy, limiter)
        supply.enforced = True
        return Point(terms, RegisterGuard(p_max_w=7_360), supply)

    def _governor(self, standing: Iterable[Override]) -> Governor:
        governor = Governor(
            self.points,
            self.events,
            self.clock,
            terms=GovernorTerms(
                feeder=FeederRules(stagger_s=2.0, jitter_s=1.0),
                shed=ShedRules(over_s=10, release_s=30),
                priorities=(1, 2, 3, 4),
                capacities_w={} if self.capacity_w is None else {"riser": self.capacity_w},
            ),
            chance=lambda: 0.5,
            overrides=standing,
        )
        governor.credit_deferred = lambda _: self.friendly
        return governor
