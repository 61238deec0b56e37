"""What governs supplies beside credit, on four points of one feeder and their contactors."""

import pytest

from gateway.core.override import OverrideKind, Scope
from gateway.core.shedding import ShedOrder
from gateway.core.switching import ControlState, Reason
from tests.app.supply_world import AUTO, CRITICAL, CUTS, POINTS, World


def state(world: World, index: int) -> ControlState:
    """What is shown of a point."""
    return world.points[index].supply.state(world.clock.now_ns)


def closed(world: World) -> list[int]:
    """Points whose contactor is closed."""
    return [index for index, known in enumerate(world.known) if known.closed]


@pytest.fixture
def world() -> World:
    """Four points with 1 kW each on a feeder that carries anything."""
    return World(capacity_w=None)


def test_an_overload_opens_and_only_a_person_or_the_policy_closes_it(world: World) -> None:
    """10 s over 2 kW; after 70 s the automatic point is back, the one in arm mode is ready."""
    for index in (0, AUTO):
        world.known[index].load_w = 2_500.0
    world.pass_s(12)
    assert closed(world) == [1, CRITICAL]
    assert world.events.kinds.count("OVERLOAD_TRIPPED") == 2
    for index in (0, AUTO):
        world.known[index].load_w = 100.0
    world.pass_s(80)
    assert closed(world) == [1, AUTO, CRITICAL]
    assert state(world, 0) is ControlState.READY_FOR_RECONNECTION
    world.confirm(0)
    world.pass_s(5)
    assert closed(world) == [0, 1, AUTO, CRITICAL]


def test_credit_that_ran_out_while_overloaded_needs_a_person(world: World) -> None:
    """What returns by itself does so only where nothing else had happened."""
    world.known[AUTO].load_w = 2_500.0
    world.pass_s(12)
    world.block(AUTO, Reason.CREDIT)
    world.points[AUTO].supply.unblock(Reason.CREDIT)
    world.pass_s(100)
    assert state(world, AUTO) is ControlState.READY_FOR_RECONNECTION


def test_doubtful_readings_neither_trip_nor_reset(world: World) -> None:
    """9 s over, a minute of doubt without load, two more seconds over."""
    world.known[0].load_w = 2_500.0
    world.pass_s(9)
    world.known[0].load_w = 0.0
    for _ in range(60):
        world.clock.now_ns += 10**9
        world.read(0, trusted=False)
    assert 0 in closed(world)
    world.known[0].load_w = 2_500.0
    world.pass_s(3)
    assert 0 not in closed(world)


def test_a_lower_limit_holds_while_emergency_credit_is_in_use(world: World) -> None:
    """Whoever keeps the account says so at the supply."""
    world.governor.set_limits(0, 2_000, 0, 500)
    world.pass_s(30)
    assert 0 in closed(world)
    world.points[0].supply.emergency_in_use = True
    world.pass_s(12)
    assert 0 not in closed(world)


def test_closings_come_one_after_the_other_after_a_blackout(world: World) -> None:
    """Restoration asks nobody, and the feeder is not hit by all at once."""
    for index in range(POINTS):
        world.known[index].closed = False
        world.points[index].supply.disturbed()
    counts = []
    for _ in range(8):
        world.pass_s(1)
        counts.append(len(closed(world)))
    assert counts == [1, 1, 2, 2, 3, 3, 4, 4]


def test_head_room_stops_a_closing_that_would_not_fit() -> None:
    """Three draw 1 kW each of 3.5 kW: the fourth waits until one draws less."""
    world = World(capacity_w=3_500)
    world.known[0].closed = False
    world.points[0].supply.disturbed()
    world.points[0].supply.recent_w = 1_000.0
    world.pass_s(20)
    assert closed(world) == [1, 2, 3]
    world.known[1].load_w = 400.0
    world.pass_s(5)
    assert closed(world) == [0, 1, 2, 3]


def test_a_feeder_over_its_capacity_sheds_its_lowest_priority() -> None:
    """4.0 kW on 3.5: flat-0 goes, nobody else; it is ready again when 0.5 kW less are drawn."""
    world = World(capacity_w=3_500)
    world.pass_s(12)
    assert closed(world) == [1, 2, 3]
    assert world.points[0].supply.reasons == {Reason.SHED}
    world.known[1].load_w = world.known[2].load_w = 300.0
    world.pass_s(100)
    assert state(world, 0) is ControlState.READY_FOR_RECONNECTION
    assert world.events.kinds.count("LOAD_SHED") == 2


def test_an_order_to_shed_never_takes_the_critical_point(world: World) -> None:
    """Down to nothing: everybody else goes, and comes back when the order is ended."""
    shedder = world.governor.shedders["riser"]
    shedder.order = ShedOrder(0, None, "anna", "works")
    world.pass_s(3)
    assert closed(world) == [CRITICAL]
    world.restart()
    world.pass_s(100)
    assert closed(world) == [CRITICAL]
    world.governor.shedders["riser"].order = None
    world.pass_s(10)
    assert closed(world) == [AUTO, CRITICAL]
    assert state(world, 0) is ControlState.READY_FOR_RECONNECTION


def test_a_point_that_an_override_keeps_on_is_not_shed(world: World) -> None:
    """The next one goes in its place."""
    world.override(OverrideKind.KEEP_CONNECTED, Scope.POINT, "flat-0", 1)
    world.governor.shedders["riser"].order = ShedOrder(3_000, None, "anna", "hot")
    world.pass_s(3)
    assert closed(world) == [0, AUTO, CRITICAL]


def test_friendly_hours_defer_the_cut_and_bring_nobody_back(world: World) -> None:
    """P10 live: one judgement at the end, at the breaker's rate."""
    world.block(0, Reason.CREDIT)
    world.pass_s(10)
    world.friendly = True
    world.pass_s(1)
    world.block(1, Reason.CREDIT)
    world.block(2, Reason.CREDIT)
    world.pass_s(100)
    assert closed(world) == [1, 2, 3]
    world.points[2].supply.unblock(Reason.CREDIT)
    world.friendly = False
    world.pass_s(2)
    assert closed(world) == [2, 3]


def test_cuts_that_were_deferred_keep_to_the_rate(world: World) -> None:
    """Three due at the window's end, two cuts per ten minutes, and no halt."""
    world.friendly = True
    world.pass_s(1)
    for index in range(3):
        world.block(index, Reason.CREDIT)
    world.pass_s(5)
    assert closed(world) == [0, 1, 2, 3]
    world.friendly = False
    world.pass_s(5)
    assert len(closed(world)) == POINTS - CUTS.max_cuts
    assert not world.breaker.halted
    world.pass_s(600)
    assert closed(world) == [CRITICAL]


def test_friendly_hours_that_began_since_the_last_sweep_defer_too(world: World) -> None:
    """The cut asks once more before it is commanded."""
    world.friendly = True
    world.block(0, Reason.CREDIT)
    assert closed(world) == [0, 1, 2, 3]
    assert world.points[0].supply.blocks.held_back == {Reason.CREDIT}


def test_restoring_the_site_closes_in_turn_without_a_person_at_each(world: World) -> None:
    """What rules had cut comes back; what a person switched off stays off."""
    for index in (0, 1):
        world.block(index, Reason.CREDIT)
    world.block(2, Reason.SAFETY)
    world.pass_s(70)
    assert closed(world) == [CRITICAL]
    world.override(OverrideKind.RESTORE_ALL, Scope.SITE, "", 1)
    counts = []
    for _ in range(5):
        world.pass_s(1)
        counts.append(len(closed(world)))
    assert counts == [2, 2, 3, 3, 3]
    assert closed(world) == [0, 1, CRITICAL]
    world.pass_s(1)
    world.restart()
    world.pass_s(60)
    assert closed(world) == [0, 1, CRITICAL]


def test_the_end_of_a_restoration_cuts_at_the_rate_again(world: World) -> None:
    """Credit that is still used up acts when the override's hour is over."""
    for index in (0, 1):
        world.block(index, Reason.CREDIT)
    world.pass_s(70)
    world.override(OverrideKind.RESTORE_ALL, Scope.SITE, "", 1)
    world.pass_s(3_500)
    assert closed(world) == [0, 1, 2, 3]
    world.pass_s(120)
    assert closed(world) == [2, 3]
    assert "OVERRIDE_EXPIRED" in world.events.kinds


@pytest.mark.parametrize("cuts", [False, True])
def test_inferred_tampering_cuts_by_policy_alone(world: World, *, cuts: bool) -> None:
    """Cleared by the inference, and by a person who clears TAMPER."""
    object.__setattr__(world.governor.terms, "tamper_cuts", cuts)
    world.governor.set_tamper(0, suspected=True)
    assert world.points[0].supply.reasons == ({Reason.TAMPER} if cuts else set())
    world.governor.set_tamper(0, suspected=False)
    assert world.points[0].supply.reasons == set()


def test_under_an_override_inferred_tampering_is_only_told(world: World) -> None:
    """Who renews the wiring moves wires."""
    object.__setattr__(world.governor.terms, "tamper_cuts", True)
    world.override(OverrideKind.MAINTENANCE, Scope.FEEDER, "riser", 1)
    world.governor.set_tamper(0, suspected=True)
    assert world.points[0].supply.reasons == set()
