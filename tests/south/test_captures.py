"""Each model beside bytes that were worked out from its manual, apart from the model file."""

from pathlib import Path

import pytest

from gateway.core.reading import Lane
from gateway.south.modbus import check_reply, read_request
from gateway.south.models import meter_model, model_names
from gateway.south.plan import lane_plans

CAPTURES = Path(__file__).parent / "captures"

PHASES = {
    "voltage_l1_n_v": 230.5,
    "voltage_l2_n_v": 231.25,
    "voltage_l3_n_v": 229.75,
    "voltage_l1_l2_v": 400.0,
    "voltage_l2_l3_v": 399.5,
    "voltage_l3_l1_v": 398.75,
    "current_l1_a": 10.5,
    "current_l2_a": 11.25,
    "current_l3_a": 9.75,
    "apparent_power_l1_va": 2420.25,
    "apparent_power_l2_va": 2601.5,
    "apparent_power_l3_va": 2240.0,
    "active_power_l1_w": 2299.25,
    "active_power_l2_w": 2445.5,
    "active_power_l3_w": 2083.25,
    "reactive_power_l1_var": -350.5,
    "reactive_power_l2_var": -420.25,
    "reactive_power_l3_var": 310.75,
    "power_factor_l1": 0.9375,
    "power_factor_l2": 0.953125,
    "power_factor_l3": 0.921875,
}
DISTORTION = {
    "thd_voltage_l1_percent": 1.5,
    "thd_voltage_l2_percent": 1.625,
    "thd_voltage_l3_percent": 1.75,
    "thd_current_l1_percent": 12.5,
    "thd_current_l2_percent": 13.25,
    "thd_current_l3_percent": 14.75,
}
TOTALS = {
    "frequency_hz": 49.984375,
    "voltage_ln_average_v": 230.5,
    "voltage_ll_average_v": 399.375,
    "current_average_a": 10.5,
    "apparent_power_total_va": 7262.0,
    "active_power_total_w": 6828.0,
    "reactive_power_total_var": -460.0,
    "power_factor_total": 0.9375,
}
UNBALANCE = {"voltage_unbalance_percent": 0.5, "current_unbalance_percent": 7.25}
STATUS = {
    "diagnostics_bits": 0x10000800,
    "outputs_bits": 1,
    "inputs_bits": 2,
    "active_tariff": 1,
}
CHANGES = {"basic_parameter_change_count": 3, "parameter_change_count": 1234}
COUNTERS = {
    "operating_time_s": 7654321,
    "universal_count": 42,
    **CHANGES,
    "limit_change_count": 9,
    "current_neutral_a": 1.25,
    "current_neutral_max_a": 17.5,
    "current_neutral_min_a": 0.125,
}
ENERGY = {
    "meter_clock_s": 0x6A000000,
    "energy_import_t1_wh": 123456789.75,
    "energy_import_t2_wh": 2345678.5,
    "energy_export_t1_wh": 1024.25,
    "energy_export_t2_wh": 512.125,
    "reactive_energy_import_t1_varh": 45678901.5,
    "reactive_energy_import_t2_varh": 890123.25,
    "reactive_energy_export_t1_varh": 4567.75,
    "reactive_energy_export_t2_varh": 89.5,
    "apparent_energy_t1_vah": 130000000.5,
    "apparent_energy_t2_vah": 2500000.25,
}
# The capture's per-phase counters rise by 1111.25 from register to register.
PHASE_ENERGY = {
    f"{kind}_l{phase}_{tariff}_{unit}": 1000.5 + 1111.25 * (10 * (phase - 1) + 2 * place + at)
    for phase in (1, 2, 3)
    for place, (kind, unit) in enumerate(
        (
            ("energy_import", "wh"),
            ("energy_export", "wh"),
            ("reactive_energy_import", "varh"),
            ("reactive_energy_export", "varh"),
            ("apparent_energy", "vah"),
        )
    )
    for at, tariff in enumerate(("t1", "t2"))
}

PAC3220_FULL = {
    **PHASES,
    **DISTORTION,
    **TOTALS,
    **UNBALANCE,
    "limit_violations_bits": 5,
    **STATUS,
    **COUNTERS,
    **ENERGY,
}
PAC2200_FULL = {**PHASES, **TOTALS, "current_neutral_a": 1.25, **STATUS, **ENERGY}


def frames(model: str) -> list[bytes]:
    """The frames of a capture; each begins after an empty line."""
    blocks = (CAPTURES / f"{model}.hex").read_text().split("\n\n")
    lines = ("".join(line.partition("#")[0] for line in block.splitlines()) for block in blocks[1:])
    return [bytes.fromhex(line) for line in lines]


def registers(model: str) -> dict[tuple[int, int], bytes]:
    """The register bytes of a capture by read, checked as the wire's are."""
    titles = (CAPTURES / f"{model}.hex").read_text().splitlines()
    reads = [
        tuple(int(part) for part in line.partition("(")[2].rstrip(")").split(","))
        for line in titles
        if line.startswith("# Reply to")
    ]
    found = {}
    for (address, count), frame in zip(reads, frames(model), strict=True):
        found[(address, count)] = check_reply(read_request(address, count), frame[7:])
    return found


@pytest.mark.parametrize(
    ("model", "lane", "expected"),
    [
        ("pac3220", Lane.FULL, PAC3220_FULL),
        ("pac3220", Lane.SLOW, {**PAC3220_FULL, **PHASE_ENERGY}),
        ("pac2200", Lane.FULL, PAC2200_FULL),
        ("pac2200", Lane.SLOW, {**PAC2200_FULL, **CHANGES, **PHASE_ENERGY}),
    ],
)
def test_every_value_of_a_lane_is_where_the_manual_says(
    model: str, lane: Lane, expected: dict[str, float]
) -> None:
    """The whole lane decodes to the capture's values, in the model's order and by name."""
    plan = lane_plans(meter_model(model), "0.0", None)[lane]
    held = registers(model)
    values = plan.decode([held[(read.address, read.count)] for read in plan.reads])
    assert dict(zip(plan.names, values, strict=True)) == expected
    assert list(plan.names) == list(expected)
    assert plan.value_count == len(expected)
    assert plan.energy_wh(values) == (123456789, 2345678)
    assert {type(value) for value in values} == {float}


@pytest.mark.parametrize("model", model_names())
def test_the_short_lane_reads_the_same_registers_as_the_full_one(model: str) -> None:
    """Output and import energy of the short lane equal those of the full lane."""
    held = registers(model)
    status_at, status = next(
        (read[0], words) for read, words in held.items() if read[0] <= 207 < sum(read)
    )
    energy = held[(799, 42)]
    plan = lane_plans(meter_model(model), "0.0", None)[Lane.SHORT]
    assert [(read.address, read.count) for read in plan.reads] == [(207, 2), (801, 8)]
    output = status[2 * (207 - status_at) :][:4]
    values = plan.decode([output, energy[4:20]])
    assert values == (1.0, 123456789.75, 2345678.5)
    assert plan.energy_wh(values) == (123456789, 2345678)


def test_outputs_of_a_module_are_read_in_both_lanes() -> None:
    """A supply on output 4.1 adds the module's status word, whose bit 1 the capture has on."""
    plans = lane_plans(meter_model("pac3220"), "4.1", None)
    module = registers("pac3220")[(231, 10)][4:8]
    held = registers("pac3220")
    for lane in (Lane.FULL, Lane.SLOW):
        plan = plans[lane]
        words = [held.get((read.address, read.count), module) for read in plan.reads]
        values = plan.decode(words)
        assert values[plan.statuses_at[0]] == 2.0
        assert len(values) == plan.value_count + 1
    assert [read.address for read in plans[Lane.SHORT].reads] == [207, 233, 801]


def test_every_model_has_a_capture() -> None:
    """A model file without bytes beside it is not finished."""
    assert {path.stem for path in CAPTURES.glob("*.hex")} == set(model_names())
