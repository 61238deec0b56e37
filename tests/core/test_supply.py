"""The supply state machine: level-triggered, proved by witnesses, never on doubtful data."""

import pytest

from gateway.core.errors import RefusedError
from gateway.core.proof import NS, Observation, Witness
from gateway.core.supply import Supply
from gateway.core.switching import Alarm, ControlState, Fault, OrderKind, Reason, SupplyPolicy

ARM = SupplyPolicy()
AUTO = SupplyPolicy(confirm_needed=False)


def seen(
    at_s: float,
    *,
    closed: bool = True,
    wh: int = 1000,
    amps: float | None = 13.0,
    watts: float = 3000.0,
    feedback: bool | None = None,
) -> Observation:
    """An observation at `at_s` seconds."""
    return Observation(round(at_s * NS), closed, wh, amps, watts, feedback)


def connected(policy: SupplyPolicy = ARM) -> Supply:
    """A commissioned point that was seen closed at t=0 with 3 kW flowing."""
    supply = Supply(policy)
    supply.enforced = True
    supply.observe(seen(0))
    return supply


def cut(supply: Supply, at_s: float = 0.0) -> None:
    """Block for credit, command and prove the opening within 10 s."""
    supply.block(Reason.CREDIT)
    now = round(at_s * NS)
    assert supply.wants(now) is False
    supply.order(now, close=False)
    supply.sent(now)
    for step in range(1, 11):
        supply.observe(seen(at_s + step, closed=False, amps=0.0, watts=0.0))
    assert supply.command is None


def test_nothing_is_switched_where_supply_is_not_enforced() -> None:
    """A new meter is never cut because its balance is still zero."""
    supply = Supply(ARM)
    supply.observe(seen(0))
    supply.block(Reason.CREDIT)
    assert supply.wants(0) is None


def test_cut_shows_disconnecting_until_witnesses_prove_it() -> None:
    """D04: output, current and energy witness the opening; state and result say so."""
    supply = connected()
    supply.block(Reason.CREDIT)
    supply.order(0, close=False)
    assert supply.state(0) is ControlState.DISCONNECTING
    supply.sent(0)
    assert supply.observe(seen(0.5, closed=False, amps=13.0)) == []
    assert supply.state(NS) is ControlState.DISCONNECTING
    assert supply.observe(seen(1, closed=False, amps=0.0, watts=0.0)) == []
    assert supply.state(NS) is ControlState.DISCONNECTED
    orders = supply.observe(seen(5, closed=False, amps=0.0, watts=0.0))
    assert [order.kind for order in orders] == [OrderKind.VERIFIED]
    assert orders[0].witnesses == (Witness.OUTPUT, Witness.CURRENT, Witness.ENERGY)
    assert orders[0].shown_ns == NS
    assert not orders[0].load_unproven


def test_stuck_contactor_fails_after_three_commands_and_does_not_hammer() -> None:
    """D05: output reads open, 4.1 A still flow: three commands, FAILED_TO_OPEN, no more."""
    supply = connected()
    supply.block(Reason.CREDIT)
    sends = 1
    supply.order(0, close=False)
    supply.sent(0)
    failed = []
    for step in range(1, 61):
        for order in supply.observe(seen(step, closed=False, amps=4.1, wh=1000 + step * 40 // 60)):
            if order.kind is OrderKind.SEND:
                sends += 1
                supply.sent(step * NS)
            else:
                failed.append(order)
    assert sends == 3
    assert [order.kind for order in failed] == [OrderKind.FAILED, OrderKind.ALARM]
    assert supply.fault is Fault.FAILED_TO_OPEN
    assert Alarm.FAILED_TO_OPEN in supply.alarms
    assert supply.wants(61 * NS) is None


def test_failed_opening_is_tried_again_later_and_heals_by_itself() -> None:
    """A protected meter that was unlocked is cut at the slow retry; an opened one clears."""
    supply = connected()
    supply.block(Reason.CREDIT)
    supply.order(0, close=False)
    for attempt in range(3):
        supply.send_failed(attempt * NS, "write protection is on", refused=True)
        supply.observe(seen(attempt + 0.5))
    assert supply.fault is Fault.FAILED_TO_OPEN
    supply.observe(seen(903))
    assert supply.wants(903 * NS) is False
    orders = supply.observe(seen(904, closed=False, amps=0.0, watts=0.0))
    assert [order.alarm for order in orders] == [Alarm.FAILED_TO_OPEN]
    assert supply.fault is None


def test_lost_reply_is_never_repeated_blindly() -> None:
    """After a lost reply the output is looked at first; it moved, so nothing is sent again."""
    supply = connected()
    supply.block(Reason.CREDIT)
    supply.order(0, close=False)
    supply.send_failed(NS, "no reply")
    orders = supply.observe(seen(1.2, closed=False, amps=0.0, watts=0.0))
    assert OrderKind.SEND not in [order.kind for order in orders]
    assert supply.state(2 * NS) is ControlState.DISCONNECTED


def test_readings_from_before_the_command_prove_nothing() -> None:
    """A reply that was under way when the command went out is no witness."""
    supply = connected()
    supply.block(Reason.MANUAL)
    supply.order(2 * NS, close=False)
    supply.sent(2 * NS)
    supply.observe(seen(1.9, closed=False, amps=0.0))
    assert supply.command is not None
    assert supply.command.proof.witnesses == set()


def test_stale_observation_never_cuts_for_credit_but_a_person_may() -> None:
    """D02: a reading older than 60 s cuts nobody for credit; MANUAL goes on."""
    supply = connected()
    supply.block(Reason.CREDIT)
    assert supply.wants(900 * NS) is None
    supply.block(Reason.MANUAL)
    assert supply.wants(900 * NS) is False


def test_no_load_before_the_command_is_said() -> None:
    """With no load the last two witnesses prove nothing: `load_unproven`."""
    supply = Supply(ARM)
    supply.enforced = True
    supply.observe(seen(0, amps=0.0, watts=0.0))
    supply.block(Reason.CREDIT)
    supply.order(0, close=False)
    supply.sent(0)
    orders = supply.observe(seen(1, closed=False, amps=0.0, watts=0.0))
    assert orders[0].load_unproven
    assert orders[0].witnesses == (Witness.OUTPUT,)


def test_contactor_feedback_proves_without_load() -> None:
    """An auxiliary contact contradicts an output that reads open."""
    supply = Supply(SupplyPolicy(has_feedback=True))
    supply.enforced = True
    supply.observe(seen(0, amps=0.0, watts=0.0, feedback=True))
    supply.block(Reason.CREDIT)
    supply.order(0, close=False)
    supply.sent(0)
    assert supply.observe(seen(1, closed=False, amps=0.0, feedback=True)) == []
    assert supply.state(NS) is ControlState.DISCONNECTING
    orders = supply.observe(seen(2, closed=False, amps=0.0, feedback=False))
    assert orders[0].witnesses == (Witness.OUTPUT, Witness.FEEDBACK)


def test_arm_mode_waits_for_minimum_off_time_and_confirmation() -> None:
    """D08: recharge at 20 s, confirm refused at 30 s, ready at 60 s, confirmed at 61 s."""
    supply = connected()
    cut(supply)
    supply.unblock(Reason.CREDIT)
    assert supply.state(20 * NS) is ControlState.DISCONNECTED
    with pytest.raises(RefusedError) as refused:
        supply.confirm(30 * NS)
    assert refused.value.refusal_code == "MIN_OFF_TIME"
    supply.observe(seen(60, closed=False, amps=0.0))
    assert supply.state(60 * NS) is ControlState.READY_FOR_RECONNECTION
    assert supply.wants(60 * NS) is None
    supply.confirm(61 * NS)
    assert supply.wants(61 * NS) is True
    supply.order(61 * NS, close=True)
    supply.sent(61 * NS)
    assert supply.state(61 * NS) is ControlState.RECONNECTING
    orders = supply.observe(seen(62, closed=True, amps=1.0))
    assert [order.kind for order in orders] == [OrderKind.VERIFIED]
    assert supply.state(62 * NS) is ControlState.CONNECTED
    assert supply.intended_closed


def test_automatic_mode_closes_after_the_minimum_off_time() -> None:
    """Without arm mode no person is needed, the minimum off time still is."""
    supply = connected(AUTO)
    cut(supply)
    supply.unblock(Reason.CREDIT)
    supply.observe(seen(59, closed=False, amps=0.0))
    assert supply.wants(59 * NS) is None
    assert supply.wants(60 * NS) is True


def test_each_reason_is_cleared_only_by_its_own_rule() -> None:
    """D09: a recharge clears CREDIT and leaves MANUAL."""
    supply = connected()
    supply.block(Reason.MANUAL)
    cut(supply)
    supply.unblock(Reason.CREDIT)
    assert supply.reasons == {Reason.MANUAL}
    assert supply.state(100 * NS) is ControlState.DISCONNECTED
    with pytest.raises(RefusedError) as refused:
        supply.confirm(100 * NS)
    assert refused.value.refusal_code == "SUPPLY_BLOCKED"


def test_confirming_when_nothing_waits_is_refused() -> None:
    """A confirmation cannot be stored up for later."""
    with pytest.raises(RefusedError) as refused:
        connected().confirm(0)
    assert refused.value.refusal_code == "NOTHING_TO_CONFIRM"


def test_a_new_reason_takes_back_the_confirmation() -> None:
    """Confirmed, then blocked again before closing: the person has to confirm anew."""
    supply = connected()
    cut(supply)
    supply.unblock(Reason.CREDIT)
    supply.confirm(61 * NS)
    supply.block(Reason.CREDIT)
    supply.unblock(Reason.CREDIT)
    supply.observe(seen(62, closed=False, amps=0.0))
    assert supply.wants(62 * NS) is None


def test_restoration_after_a_meter_restart_needs_no_confirmation() -> None:
    """Closed was intended, the meter restarted with its output open: closed again at once."""
    supply = connected()
    supply.disturbed()
    supply.observe(seen(5, closed=False, amps=0.0))
    assert supply.wants(5 * NS) is True


def test_an_output_that_somebody_opened_is_alarmed_not_closed() -> None:
    """Without a restart an open output may mean a person at the wires."""
    supply = connected()
    orders = supply.observe(seen(5, closed=False, amps=0.0))
    assert [order.alarm for order in orders] == [Alarm.OUTPUT_DIFFERS]
    assert supply.wants(5 * NS) is None
    assert supply.observe(seen(6, closed=False, amps=0.0)) == []
    cleared = supply.observe(seen(7, closed=True))
    assert [order.kind for order in cleared] == [OrderKind.CLEAR]


def test_energy_while_open_is_unauthorised_supply() -> None:
    """A bridged contactor shows by current or by registers that go on."""
    supply = connected()
    cut(supply)
    assert supply.observe(seen(20, closed=False, amps=0.0, wh=1001)) == []
    orders = supply.observe(seen(21, closed=False, amps=0.0, wh=1005))
    assert [order.alarm for order in orders] == [Alarm.UNAUTHORISED_SUPPLY]


def test_an_output_that_has_just_opened_by_itself_is_not_accused_by_what_flowed_before() -> None:
    """A node tells its relay at once, and with the values of before; a bridge shows later, too."""
    supply = connected()
    orders = supply.observe(seen(5, closed=False, wh=1001))
    assert [order.alarm for order in orders] == [Alarm.OUTPUT_DIFFERS]
    assert supply.observe(seen(6, closed=False, amps=0.0, wh=1003)) == []
    assert supply.observe(seen(60, closed=False, amps=0.0, wh=1003)) == []
    # Back by itself, and open again much later: what was used between is nobody's theft.
    supply.observe(seen(70, closed=True, wh=1500))
    supply.observe(seen(100, closed=False, wh=1900))
    assert supply.observe(seen(106, closed=False, amps=0.0, wh=1900)) == []
    orders = supply.observe(seen(110, closed=False, amps=13.0, wh=1900))
    assert [order.alarm for order in orders] == [Alarm.UNAUTHORISED_SUPPLY]


def test_what_is_taken_while_control_is_away_is_told_at_the_first_look() -> None:
    """The output was open before: it has not just opened."""
    before = connected()
    cut(before)
    kept = before.snapshot(20 * NS, utc_ms=1_000_000)
    after = Supply(ARM)
    after.enforced = True
    after.restore(kept, now_ns=3 * NS, utc_ms=1_020_000)
    orders = after.observe(seen(4, closed=False, amps=0.0, wh=1500))
    assert Alarm.UNAUTHORISED_SUPPLY in [order.alarm for order in orders]


def test_crash_between_intent_and_act_is_reconciled_by_looking() -> None:
    """D14: the intent was kept, the field shows open: no command is sent at boot."""
    before = connected()
    before.block(Reason.CREDIT)
    before.order(10 * NS, close=False)
    kept = before.snapshot(10 * NS, utc_ms=1_000_000)
    after = Supply(ARM)
    after.enforced = True
    after.restore(kept, now_ns=3 * NS, utc_ms=1_020_000)
    after.observe(seen(4, closed=False, amps=0.0))
    assert after.wants(4 * NS) is None
    assert after.state(4 * NS) is ControlState.DISCONNECTED
    assert after.min_off_left_s(4 * NS) == pytest.approx(39.0)


def test_crash_before_the_command_left_is_commanded_after_boot() -> None:
    """The intent was kept and the field shows closed: level-triggered, the cut goes out."""
    before = connected()
    before.block(Reason.CREDIT)
    before.order(10 * NS, close=False)
    after = Supply(ARM)
    after.enforced = True
    after.restore(before.snapshot(10 * NS, 1_000_000), now_ns=3 * NS, utc_ms=1_020_000)
    after.observe(seen(4))
    assert after.wants(4 * NS) is False


def test_critical_point_is_never_blocked_for_credit() -> None:
    """I12: pumps and lifts stay on."""
    supply = connected(SupplyPolicy(critical=True))
    assert not supply.block(Reason.CREDIT)
    assert supply.reasons == set()


def test_supply_that_somebody_closed_with_credit_is_connected() -> None:
    """No reason stands and the output reads closed: nothing is left to reconnect."""
    supply = connected()
    cut(supply)
    supply.unblock(Reason.CREDIT)
    supply.observe(seen(80, closed=True))
    assert supply.state(80 * NS) is ControlState.CONNECTED


def test_failed_closing_is_an_alarm_and_asks_for_a_new_confirmation() -> None:
    """Nobody may stand there any more when the contactor pulls in a quarter of an hour later."""
    supply = connected()
    cut(supply)
    supply.unblock(Reason.CREDIT)
    supply.observe(seen(61, closed=False, amps=0.0))
    supply.confirm(61 * NS)
    supply.order(61 * NS, close=True)
    supply.sent(61 * NS)
    kinds = []
    for step in range(62, 100):
        for order in supply.observe(seen(step, closed=False, amps=0.0)):
            kinds.append(order.kind)
            if order.kind is OrderKind.SEND:
                supply.sent(step * NS)
    assert kinds == [OrderKind.SEND, OrderKind.SEND, OrderKind.FAILED, OrderKind.ALARM]
    assert supply.fault is Fault.FAILED_TO_CLOSE
    assert supply.wants(100 * NS) is None
    supply.confirm(100 * NS)
    assert supply.wants(100 * NS) is True


def test_what_a_meters_own_protection_opened_is_no_restoration() -> None:
    """After a restart or a lost link too: somebody is told, and only a person's word closes it."""
    supply = connected()
    supply.disturbed()
    supply.opened_at_meter()
    orders = supply.observe(seen(60, closed=False, amps=0.0))
    assert [order.alarm for order in orders] == [Alarm.OUTPUT_DIFFERS]
    supply.disturbed()
    assert supply.wants(60 * NS) is None
    assert supply.accept_open_output(60 * NS)
    assert supply.wants(60 * NS) is True
