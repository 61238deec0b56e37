"""Switching when replies are lost, people act meanwhile, or the process dies between two steps."""

from gateway.core.proof import NS, Observation, Witness
from gateway.core.supply import Supply
from gateway.core.switching import (
    Alarm,
    ControlState,
    Fault,
    OrderKind,
    Reason,
    SupplyPolicy,
)
from tests.core.test_supply import ARM, connected, cut, seen


def confirmed() -> Supply:
    """A point that was cut, recharged, and confirmed by a person at 61 s."""
    supply = connected()
    cut(supply)
    supply.unblock(Reason.CREDIT)
    supply.observe(seen(61, closed=False, amps=0.0))
    supply.confirm(61 * NS)
    return supply


def test_a_lost_reply_says_nothing_against_the_contactor() -> None:
    """Unreachable is not stuck: attempts without an answer are no fault, and looked at first."""
    supply = connected()
    supply.block(Reason.CREDIT)
    supply.order(0, close=False)
    for attempt in range(1, 8):
        supply.send_failed(attempt * NS, "no answer")
        assert supply.tick((attempt + 30) * NS) == []
        assert [o.kind for o in supply.observe(seen(attempt + 0.5))] == [OrderKind.SEND]
    assert supply.fault is None


def test_writes_that_never_get_an_answer_are_given_up_in_the_end() -> None:
    """Readings arrive and writes do not (an IP filter): after ten a person has to look."""
    supply = connected()
    supply.block(Reason.CREDIT)
    supply.order(0, close=False)
    for attempt in range(1, 12):
        supply.send_failed(attempt * NS, "no answer")
        supply.observe(seen(attempt + 0.5))
    assert supply.fault is Fault.FAILED_TO_OPEN


def test_a_closing_is_not_repeated_after_somebody_disconnected() -> None:
    """The reply of a close was lost, then MANUAL was set: the line stays off."""
    supply = confirmed()
    supply.order(61 * NS, close=True)
    supply.send_failed(62 * NS, "no answer")
    supply.block(Reason.MANUAL)
    orders = supply.observe(seen(63, closed=False, amps=0.0))
    assert [(o.kind, o.detail) for o in orders] == [
        (OrderKind.FAILED, "overtaken by a newer decision")
    ]
    assert supply.wants(63 * NS) is None
    assert supply.alarms == set()


def test_an_opening_is_not_repeated_after_the_recharge() -> None:
    """Whoever has paid meanwhile is not cut by a retry."""
    supply = connected()
    supply.block(Reason.CREDIT)
    supply.order(0, close=False)
    supply.send_failed(NS, "no answer")
    supply.unblock(Reason.CREDIT)
    orders = supply.observe(seen(2))
    assert OrderKind.SEND not in [order.kind for order in orders]
    assert supply.state(2 * NS) is ControlState.CONNECTED


def test_an_opening_for_credit_is_not_repeated_on_doubtful_data() -> None:
    """I8 holds for retries too."""
    supply = connected()
    supply.block(Reason.CREDIT)
    supply.order(0, close=False)
    supply.send_failed(NS, "no answer")
    doubtful = Observation(2 * NS, output_closed=True, energy_wh=1000, trusted=False)
    assert OrderKind.SEND not in [order.kind for order in supply.observe(doubtful)]


def test_an_output_that_somebody_opened_stays_open_whatever_the_link_does() -> None:
    """OUTPUT_DIFFERS stands: neither a lost poll nor a restart of ours closes it; a person does."""
    supply = connected()
    supply.observe(seen(5, closed=False, amps=0.0))
    supply.disturbed()
    supply.observe(seen(6, closed=False, amps=0.0))
    assert supply.wants(6 * NS) is None
    again = Supply(ARM)
    again.enforced = True
    again.restore(supply.snapshot(6 * NS, 1_000), now_ns=7 * NS, utc_ms=2_000)
    again.observe(seen(8, closed=False, amps=0.0))
    assert again.wants(8 * NS) is None
    assert again.accept_open_output(8 * NS)
    assert again.wants(8 * NS) is True
    cleared = again.observe(seen(9))
    assert [order.alarm for order in cleared] == [Alarm.OUTPUT_DIFFERS]


def test_credit_that_runs_out_behind_an_open_output_needs_a_confirmation() -> None:
    """I9: the meter restarted with its output open as the credit ended: arm mode still holds."""
    supply = connected()
    supply.disturbed()
    supply.block(Reason.CREDIT)
    supply.observe(seen(5, closed=False, amps=0.0))
    supply.unblock(Reason.CREDIT)
    supply.observe(seen(6, closed=False, amps=0.0))
    assert supply.wants(6 * NS) is None
    assert supply.state(70 * NS) is ControlState.READY_FOR_RECONNECTION


def test_a_confirmation_lapses_and_an_old_reading_closes_nothing() -> None:
    """The meter was away for hours: nobody stands at the point any more."""
    supply = confirmed()
    assert supply.wants(122 * NS) is None
    supply.observe(seen(180, closed=False, amps=0.0))
    assert supply.wants(180 * NS) is True
    supply.observe(seen(190, closed=False, amps=0.0))
    assert supply.wants(190 * NS) is None


def test_a_point_made_critical_is_not_opened_for_old_credit() -> None:
    """I12 holds over a change of the configuration."""
    before = connected()
    before.block(Reason.CREDIT)
    after = Supply(SupplyPolicy(critical=True))
    after.enforced = True
    after.restore(before.snapshot(NS, 1_000), now_ns=2 * NS, utc_ms=2_000)
    after.observe(seen(3))
    assert after.wants(3 * NS) is None


def test_enforcement_that_finds_an_open_output_waits_for_a_person() -> None:
    """A flat that was never energised is not closed without confirmation in arm mode."""
    supply = Supply(ARM)
    supply.observe(seen(0, closed=False, amps=0.0))
    supply.enforce(on=True)
    supply.observe(seen(1, closed=False, amps=0.0))
    assert supply.wants(NS) is None
    assert supply.state(NS) is ControlState.READY_FOR_RECONNECTION


def test_load_that_was_not_measured_is_no_proof_of_no_load() -> None:
    """Without a power reading the current has to speak: output alone does not verify."""
    supply = Supply(ARM)
    supply.enforced = True
    supply.observe(Observation(0, output_closed=True, energy_wh=1000))
    supply.block(Reason.CREDIT)
    supply.order(0, close=False)
    supply.sent(0)
    assert supply.observe(Observation(NS, output_closed=False, energy_wh=1000)) == []
    assert supply.state(NS) is ControlState.DISCONNECTING


def test_voltage_behind_an_upstream_contactor_proves_without_load() -> None:
    """A dead conductor is a witness; its presence proves nothing."""
    supply = Supply(SupplyPolicy(upstream=True))
    supply.enforced = True
    supply.observe(seen(0, amps=0.0, watts=0.0))
    supply.block(Reason.CREDIT)
    supply.order(0, close=False)
    supply.sent(0)
    dead = Observation(NS, False, 1000, 0.0, 0.0, voltage_v=0.4)
    orders = supply.observe(dead)
    assert orders[0].witnesses == (Witness.OUTPUT, Witness.VOLTAGE)
    assert not orders[0].load_unproven


def test_a_load_that_comes_after_the_command_contradicts_the_opening() -> None:
    """No load before proves nothing, but current after it proves that the contact did not open."""
    supply = Supply(ARM)
    supply.enforced = True
    supply.observe(seen(0, amps=0.0, watts=0.0))
    supply.block(Reason.CREDIT)
    supply.order(0, close=False)
    supply.sent(0)
    failed = []
    for step in range(1, 40):
        for order in supply.observe(seen(step, closed=False, amps=9.0)):
            if order.kind is OrderKind.SEND:
                supply.sent(step * NS)
            else:
                failed.append(order)
    assert [order.kind for order in failed] == [OrderKind.FAILED, OrderKind.ALARM]
    assert "current still flows" in failed[1].detail


def test_a_lost_write_that_took_effect_is_proved_and_ends() -> None:
    """The output shows open after the lost reply: looked at once, the command ends in its time."""
    supply = Supply(ARM)
    supply.enforced = True
    supply.observe(Observation(0, output_closed=True, energy_wh=1000))
    supply.block(Reason.CREDIT)
    supply.order(0, close=False)
    supply.send_failed(NS, "no answer")
    for step in range(2, 13):
        supply.observe(seen(step, closed=False, amps=0.0, watts=0.0))
    assert supply.command is None
    assert supply.state(13 * NS) is ControlState.DISCONNECTED


def test_a_close_that_was_never_proved_needs_its_person_again() -> None:
    """Crash between the order and its proof: what starts anew is no restoration."""
    supply = confirmed()
    supply.order(61 * NS, close=True)
    again = Supply(ARM)
    again.enforced = True
    again.restore(supply.snapshot(62 * NS, 1_000), now_ns=0, utc_ms=50_000_000)
    again.observe(seen(1, closed=False, amps=0.0))
    assert again.wants(NS) is None
    assert again.state(NS) is ControlState.READY_FOR_RECONNECTION


def test_a_close_is_not_sent_again_hours_after_its_confirmation() -> None:
    """The write was lost and the meter away: whoever confirmed has gone."""
    supply = confirmed()
    supply.order(61 * NS, close=True)
    supply.send_failed(62 * NS, "no answer")
    orders = supply.observe(seen(20_000, closed=False, amps=0.0))
    assert OrderKind.SEND not in [order.kind for order in orders]
    assert supply.wants(20_000 * NS) is None


def test_a_word_for_an_opened_output_lapses() -> None:
    """Answering for an output that somebody opened holds for two minutes."""
    supply = connected()
    supply.observe(seen(5, closed=False, amps=0.0))
    assert supply.accept_open_output(6 * NS)
    supply.observe(seen(600, closed=False, amps=0.0))
    assert supply.wants(600 * NS) is None


def test_a_confirmation_lapses_over_a_start_with_a_clock_that_is_behind() -> None:
    """Nobody knows how long ago that person stood there: asked again, never closed by itself."""
    kept = confirmed().snapshot(61 * NS, 50_000_000)
    again = Supply(ARM)
    again.enforced = True
    again.restore(kept, now_ns=0, utc_ms=1_000)
    again.observe(seen(1, closed=False, amps=0.0))
    again.observe(seen(62, closed=False, amps=0.0))
    assert again.wants(62 * NS) is None
    assert again.state(62 * NS) is ControlState.READY_FOR_RECONNECTION


def test_an_output_is_held_as_it_reads_until_a_command_moves_it() -> None:
    """A cut that is only due (held by breaker, RECOVERY, a start) does not come by a timer."""
    supply = connected()
    assert supply.may_renew(closed=True)
    supply.block(Reason.CREDIT)
    assert supply.may_renew(closed=True)
    supply.order(0, close=False)
    assert not supply.may_renew(closed=True)
    assert not supply.may_renew(closed=False)
    supply.drop()
    assert supply.may_renew(closed=True)


def test_a_cut_that_was_sent_and_not_proved_is_not_worked_against() -> None:
    """FAILED_TO_OPEN: the output is let fall; paid again, it is held again."""
    supply = connected()
    supply.block(Reason.CREDIT)
    supply.fault = Fault.FAILED_TO_OPEN
    assert not supply.may_renew(closed=True)
    supply.unblock(Reason.CREDIT)
    supply.observe(seen(2))
    assert supply.may_renew(closed=True)


def test_an_open_output_is_held_open_where_supply_is_enforced() -> None:
    """With or without a reason: nothing closes without its person. Elsewhere it may fall closed."""
    supply = connected()
    cut(supply)
    assert supply.may_renew(closed=False)
    supply.unblock(Reason.CREDIT)
    assert supply.may_renew(closed=False)
    supply.fault = Fault.FAILED_TO_CLOSE
    assert supply.may_renew(closed=False)
    supply.enforce(on=False)
    assert not supply.may_renew(closed=False)
    assert supply.may_renew(closed=True)
