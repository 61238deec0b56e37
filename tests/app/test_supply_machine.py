"""Supplies through random orders, readings, faults and restarts: the invariants hold throughout."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.core.errors import RefusedError
from gateway.core.override import OverrideKind, Scope
from gateway.core.shedding import ShedOrder
from gateway.core.switching import Reason
from tests.app.supply_world import AUTO, POINTS, World

POINT = st.integers(0, POINTS - 1)
PERSONS = st.sampled_from([Reason.MANUAL, Reason.SAFETY, Reason.LEGAL, Reason.TAMPER])


class Supplies(RuleBasedStateMachine):
    """I7, I8, I9, I12 and I13 with overrides, shedding, limits and restarts mixed in."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(seconds=st.sampled_from([1, 3, 12, 65, 130]))
    def time_passes(self, seconds: int) -> None:
        self.world.pass_s(seconds)

    @rule(seconds=st.sampled_from([5, 61, 1_000]))
    def nobody_answers(self, seconds: int) -> None:
        self.world.wait_s(seconds)

    @rule(index=POINT, trusted=st.booleans())
    def a_reading(self, index: int, *, trusted: bool) -> None:
        self.world.read(index, trusted=trusted)
        self.world.decide()

    @rule(index=POINT)
    def credit_runs_out(self, index: int) -> None:
        self.world.block(index, Reason.CREDIT)

    @rule()
    def credit_runs_out_everywhere(self) -> None:
        for index in range(POINTS):
            self.world.block(index, Reason.CREDIT)

    @rule()
    def the_automatic_point_trips(self) -> None:
        self.world.known[AUTO].load_w = 2_500.0
        self.world.pass_s(12)

    @rule(index=POINT)
    def recharge(self, index: int) -> None:
        self.world.points[index].supply.unblock(Reason.CREDIT)
        self.world.act(index)

    @rule(index=POINT, reason=PERSONS, owner=st.sampled_from(["", "proof"]))
    def a_person_disconnects(self, index: int, reason: Reason, owner: str) -> None:
        self.world.block(index, reason, owner)

    @rule(index=POINT, reason=PERSONS, owner=st.sampled_from([None, "", "proof"]))
    def a_person_reconnects(self, index: int, reason: Reason, owner: str | None) -> None:
        self.world.points[index].supply.unblock(reason, owner)
        self.world.act(index)

    @rule(index=POINT)
    def a_person_confirms(self, index: int) -> None:
        self.world.confirm(index)

    @rule(index=POINT, load_w=st.sampled_from([0.0, 300.0, 1_500.0, 2_500.0]))
    def the_load_changes(self, index: int, load_w: float) -> None:
        self.world.known[index].load_w = load_w

    @rule(index=POINT)
    def the_contactor_sticks_or_is_freed(self, index: int) -> None:
        known = self.world.known[index]
        known.stuck = not known.stuck

    @rule(index=POINT, limit_w=st.sampled_from([0, 500, 2_000]))
    def a_limit_is_set(self, index: int, limit_w: int) -> None:
        self.world.governor.set_limits(index, limit_w, 0, 0)

    @rule(index=POINT)
    def a_lock_out_is_ended(self, index: int) -> None:
        supply = self.world.points[index].supply
        try:
            supply.limiter.unlock()
        except RefusedError:
            return
        supply.settle_overload()

    @rule(index=POINT, hours=st.sampled_from([1, 8]))
    def one_is_kept_on(self, index: int, hours: int) -> None:
        self.world.override(OverrideKind.KEEP_CONNECTED, Scope.POINT, f"flat-{index}", hours)

    @rule()
    def maintenance(self) -> None:
        self.world.override(OverrideKind.MAINTENANCE, Scope.FEEDER, "riser", 1)

    @rule()
    def the_site_is_restored(self) -> None:
        self.world.override(OverrideKind.RESTORE_ALL, Scope.SITE, "", 1)

    @rule()
    def an_override_is_ended(self) -> None:
        for override in self.world.governor.overrides.standing[:1]:
            self.world.governor.override_ended(override, "bela")

    @rule(to_w=st.sampled_from([None, 0, 1_500]))
    def shedding_is_ordered_or_ended(self, to_w: int | None) -> None:
        order = None if to_w is None else ShedOrder(to_w, None, "anna", "hot")
        self.world.governor.shedders["riser"].order = order

    @rule()
    def friendly_hours_begin_or_end(self) -> None:
        self.world.friendly = not self.world.friendly

    @rule(index=POINT)
    def a_meter_restarts(self, index: int) -> None:
        self.world.meter_restarts(index)

    @rule()
    def the_process_restarts(self) -> None:
        self.world.restart()

    @invariant()
    def invariants_hold(self) -> None:
        self.world.check()


Supplies.TestCase.settings = settings(
    max_examples=80, stateful_step_count=50, deadline=None, report_multiple_bugs=False
)
TestSupplies = pytest.mark.slow(Supplies.TestCase)
