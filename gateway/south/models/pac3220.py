"""Siemens SENTRON PAC3220 (and the Ethernet side of its map).

Source: Siemens equipment manual "PAC3120 and PAC3220", 10/2019, L1V30425208F-01, appendix A.1
(EM; pages as printed). The printed offset is the address in the PDU. I&M0 layout as in the
sibling manual PAC2200, 12/2019, L1V30415167B-03, p115.
"""

from typing import Final

from gateway.south.registers import (
    Bit,
    CommandCoding,
    Diagnostic,
    Format,
    IdentitySpec,
    InputChannel,
    Measurement,
    MeterModel,
    NetworkSpec,
    OutputChannel,
    OutputSpec,
    Read,
    SettingsSpec,
)

F32: Final = Format.FLOAT32
F64: Final = Format.FLOAT64
U32: Final = Format.UINT32

# EM p113: instantaneous values.
INSTANTANEOUS: Final = (
    Measurement("voltage_l1_n_v", 1, F32, "V"),
    Measurement("voltage_l2_n_v", 3, F32, "V"),
    Measurement("voltage_l3_n_v", 5, F32, "V"),
    Measurement("voltage_l1_l2_v", 7, F32, "V"),
    Measurement("voltage_l2_l3_v", 9, F32, "V"),
    Measurement("voltage_l3_l1_v", 11, F32, "V"),
    Measurement("current_l1_a", 13, F32, "A"),
    Measurement("current_l2_a", 15, F32, "A"),
    Measurement("current_l3_a", 17, F32, "A"),
    Measurement("apparent_power_l1_va", 19, F32, "VA"),
    Measurement("apparent_power_l2_va", 21, F32, "VA"),
    Measurement("apparent_power_l3_va", 23, F32, "VA"),
    # Import positive, export negative.
    Measurement("active_power_l1_w", 25, F32, "W"),
    Measurement("active_power_l2_w", 27, F32, "W"),
    Measurement("active_power_l3_w", 29, F32, "W"),
    Measurement("reactive_power_l1_var", 31, F32, "var"),
    Measurement("reactive_power_l2_var", 33, F32, "var"),
    Measurement("reactive_power_l3_var", 35, F32, "var"),
    Measurement("power_factor_l1", 37, F32),
    Measurement("power_factor_l2", 39, F32),
    Measurement("power_factor_l3", 41, F32),
    Measurement("thd_voltage_l1_percent", 43, F32, "%"),
    Measurement("thd_voltage_l2_percent", 45, F32, "%"),
    Measurement("thd_voltage_l3_percent", 47, F32, "%"),
    Measurement("thd_current_l1_percent", 49, F32, "%"),
    Measurement("thd_current_l2_percent", 51, F32, "%"),
    Measurement("thd_current_l3_percent", 53, F32, "%"),
    Measurement("frequency_hz", 55, F32, "Hz"),
    Measurement("voltage_ln_average_v", 57, F32, "V"),
    Measurement("voltage_ll_average_v", 59, F32, "V"),
    Measurement("current_average_a", 61, F32, "A"),
    Measurement("apparent_power_total_va", 63, F32, "VA"),
    Measurement("active_power_total_w", 65, F32, "W"),
    Measurement("reactive_power_total_var", 67, F32, "var"),
    Measurement("power_factor_total", 69, F32),
    Measurement("voltage_unbalance_percent", 71, F32, "%"),
    Measurement("current_unbalance_percent", 73, F32, "%"),
)
# EM p116-117: status words, counters, modules. 229 and 230 are a hole.
STATUS: Final = (
    Measurement("limit_violations_bits", 203, U32, "bits"),
    Measurement("diagnostics_bits", 205, U32, "bits"),
    Measurement("outputs_bits", 207, U32, "bits"),
    Measurement("inputs_bits", 209, U32, "bits"),
    Measurement("active_tariff", 211, U32),
    Measurement("operating_time_s", 213, U32, "s"),
    Measurement("universal_count", 215, U32),
    Measurement("basic_parameter_change_count", 217, U32),
    Measurement("parameter_change_count", 219, U32),
    Measurement("limit_change_count", 221, U32),
    Measurement("current_neutral_a", 223, F32, "A"),
    Measurement("current_neutral_max_a", 225, F32, "A"),
    Measurement("current_neutral_min_a", 227, F32, "A"),
    # kWh or kvarh, as the device is set.
    Measurement("energy_configurable", 231, F32),
    Measurement("outputs_module_1_bits", 233, U32, "bits"),
    Measurement("inputs_module_1_bits", 235, U32, "bits"),
    Measurement("outputs_module_2_bits", 237, U32, "bits"),
    Measurement("inputs_module_2_bits", 239, U32, "bits"),
)
# EM p117: counters, cumulative and resettable by anyone with write access.
ENERGY: Final = (
    Measurement("meter_clock_s", 799, U32, "s"),
    Measurement("energy_import_t1_wh", 801, F64, "Wh"),
    Measurement("energy_import_t2_wh", 805, F64, "Wh"),
    Measurement("energy_export_t1_wh", 809, F64, "Wh"),
    Measurement("energy_export_t2_wh", 813, F64, "Wh"),
    Measurement("reactive_energy_import_t1_varh", 817, F64, "varh"),
    Measurement("reactive_energy_import_t2_varh", 821, F64, "varh"),
    Measurement("reactive_energy_export_t1_varh", 825, F64, "varh"),
    Measurement("reactive_energy_export_t2_varh", 829, F64, "varh"),
    Measurement("apparent_energy_t1_vah", 833, F64, "VAh"),
    Measurement("apparent_energy_t2_vah", 837, F64, "VAh"),
)
# The same ten counters per phase, 40 registers apart.
PHASE_ENERGY: Final = tuple(
    Measurement(f"{name}_l{phase}_{tariff}_{unit.lower()}", base + offset, F64, unit)
    for phase, base in ((1, 841), (2, 881), (3, 921))
    for name, tariff, unit, offset in (
        ("energy_import", "t1", "Wh", 0),
        ("energy_import", "t2", "Wh", 4),
        ("energy_export", "t1", "Wh", 8),
        ("energy_export", "t2", "Wh", 12),
        ("reactive_energy_import", "t1", "varh", 16),
        ("reactive_energy_import", "t2", "varh", 20),
        ("reactive_energy_export", "t1", "varh", 24),
        ("reactive_energy_export", "t2", "varh", 28),
        ("apparent_energy", "t1", "VAh", 32),
        ("apparent_energy", "t2", "VAh", 36),
    )
)

# EM p120-121, table A-8; byte 0 is the most significant. Bits 9, 16, 18, 23 and 28-31 follow from
# the list of discrete inputs, whose number is 100 + bit.
DIAGNOSTICS: Final = (
    Diagnostic("parameters_changed", 0x0000_0100, is_latched=True),
    Diagnostic("limit_violation", 0x0000_0200),
    Diagnostic("pulse_rate_was_exceeded", 0x0000_0400, is_latched=True),
    Diagnostic("restart", 0x0000_0800, is_latched=True),
    Diagnostic("energy_reset_by_user", 0x0000_1000, is_latched=True),
    Diagnostic("module_slot_1", 0x0001_0000),
    Diagnostic("pulse_rate_exceeded", 0x0002_0000),
    Diagnostic("module_slot_2", 0x0004_0000),
    Diagnostic("waiting_for_user", 0x0080_0000),
    Diagnostic("no_sync_pulse", 0x0100_0000),
    Diagnostic("settings_menu_open", 0x0200_0000),
    Diagnostic("voltage_overload", 0x0400_0000),
    Diagnostic("current_overload", 0x0800_0000),
    Diagnostic("clock_not_secure", 0x1000_0000),
    Diagnostic("update_in_progress", 0x2000_0000),
    Diagnostic("write_protected", 0x4000_0000),
    Diagnostic("password_protected", 0x8000_0000),
)

# EM p131-132 (settings, stride 9 from 51711), p138-139 (commands). The setting addresses of 4.1,
# 8.0 and 8.1 continue the stride. The printed range of 60008 ends at 0x1FF, so the state is in the
# high byte; 60009 is the other way round.
OUTPUTS: Final = OutputSpec(
    switch=CommandCoding(60008, subject_shift=0, state_shift=8),
    group=CommandCoding(60009, subject_shift=8, state_shift=0),
    acknowledge_address=60007,
    switching_mode=2,
    channels=(
        OutputChannel("0.0", 0, Bit("outputs_bits", 0), 51712, 51718, 51711),
        OutputChannel("0.1", 1, Bit("outputs_bits", 1), 51721, 51727, 51720),
        OutputChannel("4.0", 64, Bit("outputs_module_1_bits", 0), 51730, 51736, 51729),
        OutputChannel("4.1", 65, Bit("outputs_module_1_bits", 1), 51739, 51745, 51738),
        OutputChannel("8.0", 128, Bit("outputs_module_2_bits", 0), 51748, 51754, 51747),
        OutputChannel("8.1", 129, Bit("outputs_module_2_bits", 1), 51757, 51763, 51756),
    ),
)

# EM p119. Tables print the masks of bits 1 to 3 as decimal digits; the bit numbers hold.
INPUTS: Final = tuple(
    InputChannel(f"{byte}.{bit}", Bit(word, bit))
    for byte, word, bits in (
        (0, "inputs_bits", 2),
        (4, "inputs_module_1_bits", 4),
        (8, "inputs_module_2_bits", 4),
    )
    for bit in range(bits)
)

MODEL: Final = MeterModel(
    name="pac3220",
    title="Siemens SENTRON PAC3220",
    measurements=INSTANTANEOUS + STATUS + ENERGY + PHASE_ENERGY,
    full=(Read("instantaneous", 1, 74), Read("status", 203, 26), Read("energy", 799, 42)),
    short=(Read("output", 207, 2), Read("import", 801, 8)),
    slow=(Read("phase_energy", 841, 120),),
    energy_import=("energy_import_t1_wh", "energy_import_t2_wh"),
    energy_modulus_wh=10**12,  # EM p117
    phase_voltages=("voltage_l1_n_v", "voltage_l2_n_v", "voltage_l3_n_v"),
    phase_currents=("current_l1_a", "current_l2_a", "current_l3_a"),
    power="active_power_total_w",
    diagnostics_word="diagnostics_bits",
    clock="meter_clock_s",
    active_tariff="active_tariff",
    change_counters=(
        "basic_parameter_change_count",
        "parameter_change_count",
        "limit_change_count",
    ),
    diagnostics=DIAGNOSTICS,
    outputs=OUTPUTS,
    inputs=INPUTS,
    identity=IdentitySpec(
        manufacturer_pattern=r"siemens",
        device_pattern=r"PAC\s?3220",
        order_pattern=r"7KM3220",
        vendor_id=42,  # Siemens
        im0_address=64001,
        im0_count=27,
    ),
    network=NetworkSpec(ip_address=63001, mask_address=63003),  # EM p136
    settings=SettingsSpec(  # EM p123, table A-10
        connection_type=50001,
        connection_types=("3P4W", "3P3W", "3P4WB", "3P3WB", "1P2W"),
        primary_current_a=50011,
        secondary_current_a=50013,
        tariff_input="0.0",
        tariff_input_use=50025,
        tariff_use=2,
    ),
)
