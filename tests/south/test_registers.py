"""What a model may declare, and what the two models declare."""

from dataclasses import replace

import pytest

from gateway.core.errors import MeterProtocolError
from gateway.core.reading import Lane
from gateway.south.models import meter_model, model_names
from gateway.south.plan import lane_plans
from gateway.south.registers import Bit, Format, Measurement, MeterModel, Read, merge

PAC3220 = meter_model("pac3220")


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (Read("mid", 2, 4), "lies inside voltage_l1_n_v"),
        (Read("end", 1, 3), "lies inside|ends inside"),
        (Read("hole", 203, 28), "ends inside a value or a hole"),
        (Read("across", 227, 6), "hole"),
        (Read("long", 799, 126), "126 registers"),
        (Read("none", 1, 0), "0 registers"),
        (Read("nowhere", 5000, 2), "hole"),
    ],
)
def test_a_read_that_a_meter_would_refuse_is_refused_at_import(read: Read, message: str) -> None:
    """Starts and ends inside values, holes and long reads never leave the house."""
    with pytest.raises(ValueError, match=message):
        replace(PAC3220, slow=(read,))


@pytest.mark.parametrize(
    "change",
    [
        {"energy_import": ()},
        {"energy_import": ("energy_export_t1_wh",)},
        {"energy_import": ("frequency_hz",)},
        {"power": "energy_import_l1_t1_wh"},
        {"clock": "no_such_name"},
        {"change_counters": ("outputs_module_1_bits",)},
        {"diagnostics_word": "frequency_hz"},
        {"diagnostics": ()},
        {"inputs": (replace(PAC3220.inputs[0], status=Bit("inputs_bits", 32)),)},
        {"outputs": replace(PAC3220.outputs, channels=())},
        {"measurements": (*PAC3220.measurements, PAC3220.measurements[-1])},
        {"measurements": (*PAC3220.measurements, Measurement("far", 65535, Format.UINT32))},
        {"measurements": PAC3220.measurements[::-1]},
    ],
)
def test_a_model_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    """Every role must name a value that its lane reads in the right format."""
    fields = {name: getattr(PAC3220, name) for name in MeterModel.__dataclass_fields__}
    with pytest.raises(ValueError, match=r"."):
        MeterModel(**{**fields, **change})


@pytest.mark.parametrize(
    ("output", "on", "off"),
    [
        ("0.0", 0x0100, 0x0000),
        ("0.1", 0x0101, 0x0001),
        ("4.0", 0x0140, 0x0040),
        ("4.1", 0x0141, 0x0041),
        ("8.0", 0x0180, 0x0080),
        ("8.1", 0x0181, 0x0081),
    ],
)
def test_switching_words_have_the_state_in_the_high_byte(output: str, on: int, off: int) -> None:
    """Register 60008: state high, output code low (manual p138-139)."""
    coding = PAC3220.outputs.switch
    code = PAC3220.outputs.channel(output).code
    assert (coding.word(code, on=True), coding.word(code, on=False)) == (on, off)
    assert coding.address == 60008


def test_group_words_are_the_other_way_round() -> None:
    """Register 60009: group high, state low."""
    group = PAC3220.outputs.group
    assert group.address == 60009
    assert (group.word(99, on=True), group.word(99, on=False)) == (0x6301, 0x6300)
    with pytest.raises(ValueError, match="does not fit"):
        group.word(256, on=True)


def test_setting_registers_of_an_output_follow_the_stride_of_nine() -> None:
    """Type of use and remote timeout are at base + 1 and base + 7, bases 9 apart from 51711."""
    for place, channel in enumerate(PAC3220.outputs.channels):
        base = 51711 + 9 * place
        assert (channel.mode_address, channel.remote_timeout_address) == (base + 1, base + 7)


def test_the_read_plan_is_the_one_that_was_checked_against_the_map() -> None:
    """Three requests a poll; one more in the slow lane."""
    assert [(read.address, read.count) for read in PAC3220.full] == [(1, 74), (203, 26), (799, 42)]
    assert [(read.address, read.count) for read in PAC3220.slow] == [(841, 120)]
    assert {(read.address, read.count) for read in PAC3220.short} == {(801, 8), (207, 2)}


def test_the_energy_is_read_last_so_that_a_decision_is_fresh() -> None:
    """In the lanes that cut, nothing is read between the energy and the decision."""
    for name in model_names():
        for lane, plan in lane_plans(meter_model(name), "0.0", None).items():
            if lane is not Lane.SLOW:
                assert plan.energy_read == len(plan.reads) - 1


def test_diagnostics_of_the_manual_have_their_bits() -> None:
    """Byte 0 is the most significant: restart is byte 2 bit 3, write protection byte 0 bit 6."""
    assert PAC3220.diagnostic_names(0x40000800) == ("restart", "write_protected")
    assert PAC3220.diagnostic_names(0) == ()
    assert all(item.mask <= 0xFFFF for item in PAC3220.diagnostics if item.is_latched)
    with pytest.raises(ValueError, match="no diagnostic"):
        PAC3220.diagnostic("haunted")


def test_names_end_in_their_unit() -> None:
    """A reader of a name knows the unit, in every model."""
    for name in model_names():
        for item in meter_model(name).measurements:
            if item.unit:
                suffix = {"%": "percent"}.get(item.unit, item.unit.lower())
                assert item.name.endswith("_" + suffix), item.name


def test_a_feedback_input_rides_with_the_output_in_the_short_lane() -> None:
    """Registers that touch are read in one request."""
    plan = lane_plans(PAC3220, "0.0", "0.1")[Lane.SHORT]
    assert [(read.address, read.count) for read in plan.reads] == [(207, 4), (801, 8)]
    plan = lane_plans(PAC3220, "4.0", "4.3")[Lane.FULL]
    assert (plan.reads[-1].address, plan.reads[-1].count) == (233, 4)


def test_reads_are_not_joined_beyond_the_limit() -> None:
    """Touching reads of more than 125 registers together stay two."""
    reads = (Read("b", 101, 100), Read("a", 1, 100), Read("c", 201, 25))
    assert [(read.address, read.count) for read in merge(reads)] == [(1, 100), (101, 125)]


def test_unknown_names_say_what_there_is() -> None:
    """A wrong model, output or input names the right ones."""
    with pytest.raises(ValueError, match="pac2200, pac3220"):
        meter_model("pac9999")
    with pytest.raises(ValueError, match=r"0\.0, 0\.1"):
        PAC3220.outputs.channel("7.7")
    with pytest.raises(ValueError, match=r"8\.3"):
        PAC3220.input("0.2")
    with pytest.raises(ValueError, match="no measurement"):
        PAC3220.measurement("nothing")


@pytest.mark.parametrize(
    "reads_wh",
    [float("nan"), float("inf"), float("-inf"), -0.001, 1e12 + 1, 5e-324, 2.0e-32],
)
def test_an_impossible_counter_is_refused(reads_wh: float) -> None:
    """NaN, infinite, negative, beyond the modulus, or with swapped words: no energy."""
    plan = lane_plans(PAC3220, "0.0", None)[Lane.SHORT]
    with pytest.raises(MeterProtocolError, match="energy_import_t2_wh"):
        plan.energy_wh((1.0, 10.0, reads_wh))


@pytest.mark.parametrize(
    ("reads_wh", "whole_wh"), [(0.0, 0), (0.999, 0), (1.0, 1), (999999999999.9, 999999999999)]
)
def test_energy_is_floored_to_whole_watt_hours(reads_wh: float, whole_wh: int) -> None:
    """Never rounded up: a customer is not charged for a watt-hour that is not whole."""
    plan = lane_plans(PAC3220, "0.0", None)[Lane.SHORT]
    assert plan.energy_wh((1.0, reads_wh, 7.9)) == (whole_wh, 7)


def test_a_scale_turns_the_register_into_its_unit() -> None:
    """A model whose register counts kW gives watts."""
    items = tuple(
        replace(item, scale=1000.0) if item.name == "active_power_total_w" else item
        for item in PAC3220.measurements
    )
    scaled = replace(PAC3220, measurements=items)
    plan = lane_plans(scaled, "0.0", None)[Lane.FULL]
    plain = lane_plans(PAC3220, "0.0", None)[Lane.FULL]
    payloads = [bytes(range(1, 1 + 2 * read.count)) for read in plan.reads]
    place = plan.names.index("active_power_total_w")
    assert plan.decode(payloads)[place] == plain.decode(payloads)[place] * 1000.0


def test_too_few_bytes_are_no_reading() -> None:
    """Decoding insists on the size of the lane."""
    plan = lane_plans(PAC3220, "0.0", None)[Lane.SHORT]
    with pytest.raises(MeterProtocolError, match="19 bytes, 20 expected"):
        plan.decode([b"\0" * 4, b"\0" * 15])
