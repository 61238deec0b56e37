"""An output that is shown without energy: what it proves of a switch, and what it never allows."""

import pytest

from gateway.core.proof import NS, Observation, Witness
from gateway.core.supply import Supply
from gateway.core.switching import OrderKind, Reason
from tests.core.test_supply_cases import closed_point, look


def blind(at_s: float, *, closed: bool, amps: float | None = None) -> Observation:
    """What a node shows whose energy counts for nothing."""
    return Observation(round(at_s * NS), closed, None, amps, None, trusted=False)


def opening(reason: Reason = Reason.MANUAL) -> Supply:
    """A loaded supply whose opening was sent at 1 s."""
    supply = closed_point()
    supply.block(reason)
    assert supply.wants(NS) is False
    supply.order(NS, close=False)
    supply.sent(NS)
    return supply


def test_the_output_alone_proves_at_the_deadline_where_nothing_measures() -> None:
    """Not before: a module may come back, and contradict it."""
    supply = opening()
    assert supply.observe(blind(2, closed=False)) == []
    (verified,) = supply.tick(round((1 + supply.policy.verify_s) * NS))
    assert verified.kind is OrderKind.VERIFIED
    assert verified.witnesses == (Witness.OUTPUT,)
    assert verified.load_unproven
    assert supply.open_output.energy_wh is None
    # Watched on: what flows afterwards is told once it is measured again.
    (alarm,) = supply.observe(look(60, closed=False, amps=5.0))
    assert alarm.kind is OrderKind.ALARM


@pytest.mark.parametrize("first", [blind(2, closed=False, amps=8.0), look(2, closed=False)])
def test_a_current_that_was_seen_stands_against_an_output_that_goes_blind(
    first: Observation,
) -> None:
    """A welded contactor is not proved open by a module that falls silent."""
    supply = opening()
    supply.observe(first)
    supply.observe(blind(3, closed=False))
    orders = supply.tick(round((1 + supply.policy.verify_s) * NS))
    assert [order.kind for order in orders] == [OrderKind.SEND]


def test_a_current_that_was_seen_to_end_proves_though_it_goes_blind() -> None:
    """Then the load is proved."""
    supply = opening()
    supply.observe(blind(2, closed=False, amps=0.0))
    supply.observe(blind(3, closed=False))
    (verified,) = supply.tick(round((1 + supply.policy.verify_s) * NS))
    assert verified.witnesses == (Witness.OUTPUT, Witness.CURRENT)
    assert not verified.load_unproven


def test_an_output_that_reads_closed_is_no_proof() -> None:
    """The command is repeated, as ever."""
    supply = opening()
    supply.observe(blind(2, closed=True))
    orders = supply.tick(round((1 + supply.policy.verify_s) * NS))
    assert [order.kind for order in orders] == [OrderKind.SEND]


def test_nothing_is_cut_for_credit_or_closed_on_it() -> None:
    """Credit is judged on energy that counts; so is whoever is to be given supply."""
    supply = closed_point()
    supply.block(Reason.CREDIT)
    supply.observe(blind(1, closed=True))
    assert supply.wants(NS) is None
    supply.block(Reason.MANUAL)
    assert supply.wants(NS) is False
    supply.observe(look(2, closed=False, amps=0.0))
    supply.unblock(Reason.CREDIT)
    supply.unblock(Reason.MANUAL)
    supply.confirm(round((3 + supply.policy.min_off_s) * NS))
    at_s = 4 + supply.policy.min_off_s
    supply.observe(blind(at_s, closed=False))
    assert supply.wants(round(at_s * NS)) is None
    supply.observe(look(at_s, closed=False, amps=0.0))
    assert supply.wants(round(at_s * NS)) is True
