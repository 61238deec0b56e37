"""Overrides: an owner, a reason and an end; they hold cuts back and bring nothing back."""

from dataclasses import replace

import pytest

from gateway.core.errors import RefusedError
from gateway.core.override import (
    HOUR_MS,
    OVERRIDES_MAX,
    SUSPENDED,
    Override,
    OverrideKind,
    Overrides,
    Scope,
    check_override,
)
from gateway.core.proof import NS
from gateway.core.requests import Role
from gateway.core.supply import Supply
from gateway.core.switching import ControlState, Reason, SupplyPolicy
from tests.core.test_supply import connected, cut, seen

KEEP = Override(
    number=1,
    kind=OverrideKind.KEEP_CONNECTED,
    scope=Scope.POINT,
    target="flat-1",
    from_utc_ms=0,
    until_utc_ms=8 * HOUR_MS,
    reason="oxygen machine",
    actor="anna",
    role=Role.TECHNICIAN,
)


@pytest.mark.parametrize(
    ("change", "code", "place"),
    [
        ({"reason": ""}, "REASON_MISSING", "reason"),
        ({"target": ""}, "OVERRIDE_SCOPE", "target"),
        ({"scope": Scope.SITE}, "OVERRIDE_SCOPE", "target"),
        ({"scope": Scope.SITE, "target": ""}, "OVERRIDE_SCOPE", "scope"),
        ({"until_utc_ms": 0}, "OVERRIDE_PAST", "until"),
        ({"until_utc_ms": -1}, "OVERRIDE_PAST", "until"),
        ({"until_utc_ms": 8 * HOUR_MS + 1}, "OVERRIDE_TOO_LONG", "until"),
        ({"role": Role.MANAGER, "until_utc_ms": 72 * HOUR_MS + 1}, "OVERRIDE_TOO_LONG", "until"),
        ({"role": Role.OPERATOR, "until_utc_ms": 1}, "OVERRIDE_TOO_LONG", "until"),
    ],
)
def test_an_override_that_may_not_stand_is_refused(
    change: dict[str, object], code: str, place: str
) -> None:
    """Each with its code and the field that is wrong."""
    with pytest.raises(RefusedError) as refused:
        check_override(replace(KEEP, **change))  # type: ignore[arg-type]
    assert (refused.value.refusal_code, refused.value.place) == (code, place)


def test_the_longest_that_each_role_may_answer_for_stands() -> None:
    """8 hours of a technician, 72 of a manager."""
    check_override(KEEP)
    check_override(replace(KEEP, role=Role.MANAGER, until_utc_ms=72 * HOUR_MS))
    check_override(replace(KEEP, kind=OverrideKind.MAINTENANCE, scope=Scope.SITE, target=""))


def test_an_override_covers_its_point_its_feeder_or_the_site() -> None:
    """Of several the one that stands longest answers."""
    feeder = replace(KEEP, number=2, scope=Scope.FEEDER, target="riser-a", until_utc_ms=9)
    site = replace(KEEP, number=3, scope=Scope.SITE, target="", until_utc_ms=5)
    standing = Overrides([KEEP, feeder, site])
    assert standing.covering("flat-1", "riser-a") == KEEP
    assert standing.covering("flat-2", "riser-a") == feeder
    assert standing.covering("flat-3", "riser-b") == site
    assert Overrides([KEEP]).covering("riser-a", "flat-1") is None


def test_an_override_expires_at_its_end_and_once() -> None:
    """Not a millisecond before."""
    standing = Overrides([KEEP])
    assert standing.expire(KEEP.until_utc_ms - 1) == ()
    assert standing.expire(KEEP.until_utc_ms) == (KEEP,)
    assert standing.expire(KEEP.until_utc_ms) == ()
    with pytest.raises(RefusedError) as refused:
        standing.named(1)
    assert refused.value.refusal_code == "OVERRIDE_UNKNOWN"


def test_the_number_of_overrides_has_a_bound() -> None:
    """Exceptions that are the rule are refused."""
    standing = Overrides(replace(KEEP, number=number) for number in range(OVERRIDES_MAX))
    with pytest.raises(RefusedError) as refused:
        standing.check_room()
    assert refused.value.refusal_code == "OVERRIDES_FULL"


def test_a_suspended_reason_does_not_open_and_acts_when_it_is_let_go() -> None:
    """I7 holds all the while: intended closed, since the reason does not block."""
    supply = connected()
    supply.suspend(SUSPENDED)
    assert supply.block(Reason.CREDIT)
    assert not supply.block(Reason.CREDIT)
    assert (supply.reasons, supply.intended_closed) == (set(), True)
    assert supply.wants(NS) is None
    assert supply.suspend(frozenset()) == {Reason.CREDIT}
    assert supply.wants(NS) is False


def test_a_recharge_while_it_is_held_back_leaves_nothing_to_cut() -> None:
    """The reason is cleared by its own rule, held back or not."""
    supply = connected()
    supply.suspend(SUSPENDED)
    supply.block(Reason.CREDIT)
    assert supply.unblock(Reason.CREDIT)
    assert supply.suspend(frozenset()) == frozenset()
    assert supply.wants(NS) is None


def test_a_due_cut_that_was_not_commanded_yet_is_held_back() -> None:
    """The breaker held it, then friendly hours began."""
    supply = connected()
    supply.block(Reason.CREDIT)
    supply.suspend(frozenset({Reason.CREDIT}))
    assert supply.wants(NS) is None
    assert supply.intended_closed


def test_a_command_under_way_is_not_taken_back() -> None:
    """What was commanded before is proved; nothing is reconnected by it."""
    supply = connected()
    supply.block(Reason.CREDIT)
    supply.order(0, close=False)
    supply.suspend(frozenset({Reason.CREDIT}))
    assert supply.reasons == {Reason.CREDIT}


@pytest.mark.parametrize("reason", [Reason.MANUAL, Reason.SAFETY, Reason.LEGAL, Reason.OVERLOAD])
def test_what_persons_order_and_what_protects_is_not_suspended(reason: Reason) -> None:
    """An override holds back rules about money and load alone."""
    supply = connected()
    supply.suspend(SUSPENDED)
    supply.block(reason)
    assert supply.wants(NS) is False


def test_only_a_restoration_brings_back_what_was_cut() -> None:
    """An override at a dark point changes nothing; two managers' word makes it ready."""
    supply = connected()
    cut(supply)
    supply.suspend(SUSPENDED)
    assert supply.state(100 * NS) is ControlState.DISCONNECTED
    supply.suspend(SUSPENDED, restores=True)
    assert supply.state(100 * NS) is ControlState.READY_FOR_RECONNECTION
    supply.observe(seen(100, closed=False, amps=0.0, watts=0.0))
    assert supply.wants(100 * NS) is None
    supply.confirm(100 * NS)
    assert supply.wants(100 * NS) is True


def test_reasons_of_several_owners_go_with_the_last_of_them() -> None:
    """A switch proof takes back its own disconnection and nobody else's."""
    supply = connected()
    assert supply.block(Reason.MANUAL, "proof")
    assert not supply.block(Reason.MANUAL, "anna")
    assert supply.unblock(Reason.MANUAL, "proof")
    assert supply.reasons == {Reason.MANUAL}
    assert not supply.unblock(Reason.MANUAL, "proof")
    assert supply.unblock(Reason.MANUAL)
    assert supply.reasons == set()


def test_held_reasons_owners_and_trips_survive_a_restart() -> None:
    """And a snapshot of an older version, which knows none of them, loads as it always did."""
    supply = connected()
    supply.suspend(SUSPENDED)
    supply.block(Reason.CREDIT)
    supply.block(Reason.MANUAL, "proof")
    again = Supply(SupplyPolicy())
    again.restore(supply.snapshot(NS, 1_000), 5 * NS, 2_000)
    assert (again.blocks.held_back, again.reasons) == ({Reason.CREDIT}, {Reason.MANUAL})
    assert not again.unblock(Reason.MANUAL, "anna")
    assert again.unblock(Reason.MANUAL, "proof")
    older = {
        name: value
        for name, value in supply.snapshot(NS, 1_000).items()
        if name not in {"held_back", "owners", "needs_person", "recent_w", "limiter"}
    }
    again.restore(older, 5 * NS, 2_000)
    assert again.reasons == {Reason.MANUAL}
    assert again.unblock(Reason.MANUAL)
