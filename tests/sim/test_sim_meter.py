"""One meter's behaviour over time, without sockets: time is an argument."""

import math
import random

import pytest

from gateway.core.errors import MeterExceptionError
from gateway.sim.commands import carry_out
from gateway.sim.faults import fault_named
from gateway.sim.loads import Mains, steady_curve
from gateway.sim.meter import (
    COUNTERS_RESET,
    PARAMETERS_CHANGED,
    RESTARTED,
    Meter,
    MeterOptions,
    OutputOn,
)
from gateway.sim.registers import COUNTER_MODULUS_WH, OUTPUT_BY_NAME

WH_PER_S = 1.0  # at 3.6 kW
SWITCH = 60008
ON, OFF = 0x0100, 0x0000


def meter_of(**options: object) -> Meter:
    generator = random.Random(5)
    return Meter(
        MeterOptions(**options),  # type: ignore[arg-type]
        steady_curve(3_600),
        Mains(generator),
        generator,
    )


def shown_wh(meter: Meter, t_s: float) -> tuple[float, float]:
    """Active import T1 and T2 as the registers show them."""
    meter.advance(t_s)
    totals = meter.counters.totals(meter.counters.refreshed_s(t_s))
    return totals[0], totals[1]


def test_registers_show_the_last_refresh() -> None:
    """Between two refreshes 0.2 s apart the counter stands still, and never lags more than that."""
    meter = meter_of()
    values = [shown_wh(meter, 10 + 0.01 * step)[0] for step in range(100)]
    assert len(set(values)) in (5, 6)
    for step, value in enumerate(values):
        truth = meter.track.total_wh(10 + 0.01 * step)
        assert 0 <= truth - value <= 0.2 * WH_PER_S + 1e-9


def test_switching_off_stops_the_energy_after_the_contactor() -> None:
    """60008 opens the output at once, the contactor tens of ms later, then nothing flows."""
    meter = meter_of()
    carry_out(meter, 10.0, SWITCH, OFF)
    assert meter.outputs(0) == 0
    assert meter.inputs & 0b10
    meter.advance(11.0)
    assert not meter.inputs & 0b10
    (cut,) = meter.journal.openings()
    assert cut.output_s == 10.0
    assert cut.output_wh == pytest.approx(10.0)
    assert cut.contactor_s is not None
    assert 0.02 <= cut.contactor_s - 10.0 <= 0.06
    assert meter.track.total_wh(1_000.0) == pytest.approx(cut.contactor_s)


def test_wiring_that_disconnects_when_energised() -> None:
    """With output_on: disconnects an energised output cuts, and a dead meter leaves supply on."""
    meter = meter_of(output_on=OutputOn.DISCONNECTS)
    assert meter.outputs(0) == 0
    carry_out(meter, 10.0, SWITCH, ON)
    meter.advance(11.0)
    assert not meter.inputs & 0b10
    meter.restart(12.0)
    meter.advance(13.0)
    assert meter.inputs & 0b10


def test_an_output_of_another_use_acknowledges_and_stays() -> None:
    """Without type of use 2 in 51712 a switch command changes nothing (p131)."""
    meter = meter_of(commissioned=False)
    carry_out(meter, 1.0, SWITCH, ON)
    assert meter.outputs(0) == 0
    meter.set_setting(2.0, 51712, 2)
    carry_out(meter, 3.0, SWITCH, ON)
    assert meter.outputs(0) == 1


def test_each_output_has_a_gate_of_its_own() -> None:
    """0.1 switches by its own 51721, and an absent module refuses with 03."""
    meter = meter_of()
    carry_out(meter, 1.0, SWITCH, 0x0101)
    assert meter.outputs(0) == 0b01
    meter.set_setting(2.0, 51721, 2)
    carry_out(meter, 3.0, SWITCH, 0x0101)
    assert meter.outputs(0) == 0b11
    with pytest.raises(MeterExceptionError) as refusal:
        carry_out(meter, 4.0, SWITCH, 0x0140)
    assert refusal.value.exception_code == 3
    fitted = meter_of(modules=frozenset({1}))
    fitted.set_setting(1.0, OUTPUT_BY_NAME["4.0"].mode, 2)
    carry_out(fitted, 2.0, SWITCH, 0x0140)
    assert fitted.outputs(1) == 1
    assert fitted.diagnostics & 0x0001_0000


def test_a_vector_group_has_its_bytes_the_other_way_round() -> None:
    """60009: group in the high byte, state in the low byte; only its members move."""
    meter = meter_of(closed=False)
    meter.set_setting(1.0, 51711, 7)
    carry_out(meter, 2.0, 60009, 0x0801)
    assert meter.outputs(0) == 0
    carry_out(meter, 2.0, 60009, 0x0701)
    assert meter.outputs(0) == 1
    assert meter.settings[50033] == 7


def test_the_remote_timeout_opens_a_silent_output() -> None:
    """51718: off exactly that long after the last command, and each command starts it anew."""
    meter = meter_of()
    meter.set_setting(1.0, 51718, 30)
    carry_out(meter, 10.0, SWITCH, ON)
    carry_out(meter, 20.0, SWITCH, ON)
    meter.advance(49.9)
    assert meter.outputs(0) == 1
    meter.advance(60.0)
    assert meter.outputs(0) == 0
    assert meter.journal.openings()[0].output_s == 50.0


def test_a_planted_fault_takes_the_effect_of_the_remote_timeout() -> None:
    """`remote_timeout_ignored`: the setting reads as written, the output stays on."""
    meter = meter_of()
    meter.set_setting(1.0, 51718, 30)
    meter.add_fault(2.0, fault_named("remote_timeout_ignored"))
    carry_out(meter, 10.0, SWITCH, ON)
    meter.advance(100.0)
    assert (meter.settings[51718], meter.outputs(0)) == (30, 1)
    meter.clear_faults(101.0)
    carry_out(meter, 110.0, SWITCH, ON)
    meter.advance(141.0)
    assert meter.outputs(0) == 0


def test_a_restart_opens_outputs_and_latches_its_bit() -> None:
    """60001: silent while it starts, 0x800 until 60007 acknowledges it, counters kept."""
    meter = meter_of(start_wh=(500.0, 0.0))
    carry_out(meter, 100.0, 60001, 0)
    assert not meter.answers(102.9)
    assert meter.answers(103.0)
    assert meter.outputs(0) == 0
    assert meter.diagnostics & RESTARTED
    carry_out(meter, 104.0, 60007, 0x0100)
    assert meter.diagnostics & RESTARTED
    carry_out(meter, 105.0, 60007, 0x0800)
    assert not meter.diagnostics & RESTARTED
    assert shown_wh(meter, 110.0)[0] == pytest.approx(meter.track.total_wh(110.0))


def test_a_power_cut_loses_at_most_five_minutes_of_counting() -> None:
    """After a cut the counter falls back to its last save; the truth does not."""
    lost = []
    for cut_s in range(1_000, 1_600, 37):
        meter = meter_of(start_wh=(500.0, 0.0))
        before = shown_wh(meter, float(cut_s))[0]
        meter.cut_power(float(cut_s))
        meter.cut_power(cut_s + 5.0)
        assert not meter.answers(cut_s + 20.0)
        meter.restore_power(cut_s + 60.0)
        assert meter.answers(cut_s + 63.0)
        after = shown_wh(meter, cut_s + 70.0)[0]
        assert meter.track.total_wh(cut_s + 70.0) == pytest.approx(500 + cut_s)
        assert meter.diagnostics & RESTARTED
        lost.append(before - after)
    assert -0.2 <= min(lost) < 60
    assert 240 < max(lost) <= 300


def test_nothing_is_counted_in_the_dark_and_counting_goes_on_after() -> None:
    """Without supply no energy flows; switched on again the registers advance as the truth does."""
    meter = meter_of()
    meter.cut_power(1_000.0)
    meter.restore_power(2_000.0)
    kept = shown_wh(meter, 2_010.0)[0]
    carry_out(meter, 2_100.0, SWITCH, ON)
    assert shown_wh(meter, 2_110.0)[0] - kept == pytest.approx(9.9, abs=0.3)


def test_a_preset_survives_a_power_cut() -> None:
    """A written counter is saved at once: the fall-back never undoes it."""
    meter = meter_of()
    meter.counters.preset(1_000.0, {0: 5e6})
    meter.cut_power(1_001.0)
    meter.restore_power(1_100.0)
    assert 5e6 <= shown_wh(meter, 1_110.0)[0] <= 5e6 + 1.001


def test_counters_wrap_at_the_modulus() -> None:
    """At 1e12 Wh the register starts again at 0 (p117)."""
    meter = meter_of()
    meter.counters.preset(10.0, {0: COUNTER_MODULUS_WH - 5})
    assert shown_wh(meter, 14.0)[0] > COUNTER_MODULUS_WH - 5
    assert 4.5 <= shown_wh(meter, 20.0)[0] <= 5.1


def test_60004_resets_one_kind_or_all() -> None:
    """1 is active import T1 of the meter and of each phase, 0 everything; both latch 0x1000."""
    meter = meter_of(start_wh=(500.0, 300.0))
    carry_out(meter, 10.0, 60004, 1)
    assert shown_wh(meter, 10.0) == pytest.approx((0, 300))
    assert meter.counters.phases(10.0)[0] == pytest.approx(0)
    assert meter.diagnostics & COUNTERS_RESET
    carry_out(meter, 11.0, 60004, 0)
    assert shown_wh(meter, 11.0) == pytest.approx((0, 0))
    assert all(value < 1e-6 for value in meter.counters.totals(11.0))
    assert meter.track.total_wh(11.0) == pytest.approx(811)


def test_the_generator_input_moves_counting_to_t2() -> None:
    """Input 0.0 with use 2 splits by source inside the meter; 60006 has no say then."""
    meter = meter_of()
    meter.set_generator(10.0, running=True)
    assert (meter.tariff, meter.inputs & 1) == (1, 1)
    carry_out(meter, 15.0, 60006, 0)
    meter.set_generator(20.0, running=False)
    first, second = meter.track.energy(30.0)
    assert first.active_wh == pytest.approx(20)
    assert second.active_wh == pytest.approx(10)


def test_60006_switches_the_tariff_where_the_input_is_free() -> None:
    """With input 0.0 not in tariff use the bus decides, and the input has no say."""
    meter = meter_of()
    meter.set_setting(1.0, 50025, 0)
    carry_out(meter, 10.0, 60006, 1)
    meter.set_generator(12.0, running=True)
    assert meter.tariff == 1
    carry_out(meter, 20.0, 60006, 0)
    assert meter.track.energy(30.0)[1].active_wh == pytest.approx(10)


def test_parameter_writes_are_counted_and_latched() -> None:
    """217 counts basic parameters, 219 all; 0x100 is latched."""
    meter = meter_of()
    meter.set_setting(1.0, 51717, 40)
    assert (meter.changes.basic, meter.changes.all) == (0, 1)
    meter.set_setting(2.0, 50011, 50)
    assert (meter.changes.basic, meter.changes.all) == (1, 2)
    assert meter.diagnostics & PARAMETERS_CHANGED
    with pytest.raises(MeterExceptionError) as refusal:
        meter.set_setting(3.0, 51717, 501)
    assert refusal.value.exception_code == 3


def test_a_factory_reset_leaves_nothing_switchable() -> None:
    """60000 takes the type of use back to 0."""
    meter = meter_of()
    carry_out(meter, 1.0, 60000, 0)
    carry_out(meter, 5.0, SWITCH, ON)
    assert meter.outputs(0) == 0


def test_welded_contacts_keep_the_load_and_show_it() -> None:
    """The output reads off while feedback stays on and energy flows; freed, they open."""
    meter = meter_of()
    meter.add_fault(5.0, fault_named("contactor_welded"))
    carry_out(meter, 10.0, SWITCH, OFF)
    meter.advance(20.0)
    assert meter.outputs(0) == 0
    assert meter.inputs & 0b10
    assert meter.track.total_wh(20.0) == pytest.approx(20)
    assert meter.journal.openings()[0].contactor_s is None
    meter.clear_faults(30.0)
    meter.advance(31.0)
    assert not meter.inputs & 0b10
    assert meter.track.total_wh(40.0) == pytest.approx(30, abs=0.1)


def test_bounces_count_from_the_last_rest() -> None:
    """The opening is dated when the contacts rest, and what flowed meanwhile is in the truth."""
    meter = meter_of()
    meter.add_fault(5.0, fault_named("contactor_bounces", amount=3))
    carry_out(meter, 10.0, SWITCH, OFF)
    meter.advance(11.0)
    (cut,) = meter.journal.openings()
    assert cut.contactor_s is not None
    first_open = next(m.t_s for m in meter.journal.moves() if m.part == "contactor")
    assert cut.contactor_s - first_open == pytest.approx(6 * 0.003)
    assert meter.track.total_wh(11.0) == pytest.approx(first_open + 3 * 0.003)


def test_a_bridge_past_the_contactor_feeds_on() -> None:
    """Bypassed: contacts and feedback are open, the load is not off."""
    meter = meter_of()
    carry_out(meter, 10.0, SWITCH, OFF)
    meter.advance(11.0)
    off_wh = meter.track.total_wh(11.0)
    meter.add_fault(20.0, fault_named("contactor_bypassed"))
    assert not meter.inputs & 0b10
    assert meter.track.total_wh(30.0) - off_wh == pytest.approx(10)


def test_an_upstream_contactor_takes_the_voltage_too() -> None:
    """Upstream wiring: open contacts leave the voltage inputs dead; downstream they do not."""
    for upstream in (True, False):
        meter = meter_of(upstream=upstream)
        carry_out(meter, 10.0, SWITCH, OFF)
        meter.advance(11.0)
        assert meter.energised is not upstream


def test_an_ignored_switch_and_a_held_output() -> None:
    """`switch_ignored` acknowledges without effect; `manual_override` holds a state by hand."""
    meter = meter_of()
    meter.add_fault(1.0, fault_named("switch_ignored"))
    carry_out(meter, 2.0, SWITCH, OFF)
    assert meter.outputs(0) == 1
    meter.clear_faults(3.0)
    meter.add_fault(4.0, fault_named("manual_override", amount=0))
    assert meter.outputs(0) == 0
    carry_out(meter, 5.0, SWITCH, ON)
    assert meter.outputs(0) == 0
    meter.clear_faults(6.0)
    assert meter.outputs(0) == 1


def test_commands_refuse_what_the_manual_does_not_list() -> None:
    """Values out of range answer 03, registers that are no command 02."""
    meter = meter_of()
    for register, value in (
        (60000, 1),
        (60002, 1),
        (60003, 7),
        (60004, 11),
        (60005, 0),
        (60005, 61),
        (60006, 2),
        (SWITCH, 0x0200),
        (SWITCH, 0x0102),
        (60009, 0x6401),
        (60009, 0x0002),
    ):
        with pytest.raises(MeterExceptionError) as refusal:
            carry_out(meter, 1.0, register, value)
        assert refusal.value.exception_code == 3
    with pytest.raises(MeterExceptionError) as refusal:
        carry_out(meter, 1.0, 60010, 0)
    assert refusal.value.exception_code == 2


def test_restoring_a_meter_that_has_power_changes_nothing() -> None:
    """`restore_power` without a cut is no restart."""
    meter = meter_of()
    meter.restore_power(10.0)
    assert meter.answers(10.0)
    assert not meter.diagnostics & RESTARTED
    assert meter.ready_s == -math.inf
