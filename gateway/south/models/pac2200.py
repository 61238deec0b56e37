"""Siemens SENTRON PAC2200: near the PAC3220, but 71 is the neutral current and 43 to 54 are a hole.

Source: Siemens equipment manual "PAC2200", 12/2019, L1V30415167B-03, appendix A.1 (pages as
printed): p99-101 measured values, p109 status words, p115 I&M0; commands as in 05/2018,
L1V30415167B-02, p104. One output and one input. The setting registers of the output were not
seen, so commissioning reports its mode as unknown.
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
    OutputChannel,
    OutputSpec,
    Read,
)

F32: Final = Format.FLOAT32
F64: Final = Format.FLOAT64
U32: Final = Format.UINT32

MEASUREMENTS: Final = (
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
    Measurement("active_power_l1_w", 25, F32, "W"),
    Measurement("active_power_l2_w", 27, F32, "W"),
    Measurement("active_power_l3_w", 29, F32, "W"),
    Measurement("reactive_power_l1_var", 31, F32, "var"),
    Measurement("reactive_power_l2_var", 33, F32, "var"),
    Measurement("reactive_power_l3_var", 35, F32, "var"),
    Measurement("power_factor_l1", 37, F32),
    Measurement("power_factor_l2", 39, F32),
    Measurement("power_factor_l3", 41, F32),
    Measurement("frequency_hz", 55, F32, "Hz"),
    Measurement("voltage_ln_average_v", 57, F32, "V"),
    Measurement("voltage_ll_average_v", 59, F32, "V"),
    Measurement("current_average_a", 61, F32, "A"),
    Measurement("apparent_power_total_va", 63, F32, "VA"),
    Measurement("active_power_total_w", 65, F32, "W"),
    Measurement("reactive_power_total_var", 67, F32, "var"),
    Measurement("power_factor_total", 69, F32),
    Measurement("current_neutral_a", 71, F32, "A"),
    Measurement("diagnostics_bits", 205, U32, "bits"),
    Measurement("outputs_bits", 207, U32, "bits"),
    Measurement("inputs_bits", 209, U32, "bits"),
    Measurement("active_tariff", 211, U32),
    Measurement("basic_parameter_change_count", 217, U32),
    Measurement("parameter_change_count", 219, U32),
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

# Published only by independent drivers for this model; as on the PAC3220, 40 registers apart.
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

MODEL: Final = MeterModel(
    name="pac2200",
    title="Siemens SENTRON PAC2200",
    measurements=MEASUREMENTS + PHASE_ENERGY,
    full=(
        Read("phases", 1, 42),
        Read("totals", 55, 18),
        Read("status", 205, 8),
        Read("energy", 799, 42),
    ),
    short=(Read("output", 207, 2), Read("import", 801, 8)),
    slow=(Read("changes", 217, 4), Read("phase_energy", 841, 120)),
    energy_import=("energy_import_t1_wh", "energy_import_t2_wh"),
    energy_modulus_wh=10**12,
    phase_voltages=("voltage_l1_n_v", "voltage_l2_n_v", "voltage_l3_n_v"),
    phase_currents=("current_l1_a", "current_l2_a", "current_l3_a"),
    power="active_power_total_w",
    diagnostics_word="diagnostics_bits",
    clock="meter_clock_s",
    active_tariff="active_tariff",
    change_counters=("basic_parameter_change_count", "parameter_change_count"),
    diagnostics=(
        Diagnostic("parameters_changed", 0x0000_0100, is_latched=True),
        Diagnostic("pulse_rate_was_exceeded", 0x0000_0400, is_latched=True),
        Diagnostic("restart", 0x0000_0800, is_latched=True),
        Diagnostic("energy_reset_by_user", 0x0000_1000, is_latched=True),
        Diagnostic("pulse_rate_exceeded", 0x0002_0000),
        Diagnostic("waiting_for_user", 0x0080_0000),
        Diagnostic("no_sync_pulse", 0x0100_0000),
        Diagnostic("settings_menu_open", 0x0200_0000),
        Diagnostic("voltage_overload", 0x0400_0000),
        Diagnostic("current_overload", 0x0800_0000),
        Diagnostic("update_in_progress", 0x2000_0000),
        Diagnostic("write_protected", 0x4000_0000),
        Diagnostic("password_protected", 0x8000_0000),
    ),
    outputs=OutputSpec(
        switch=CommandCoding(60008, subject_shift=0, state_shift=8),
        group=CommandCoding(60009, subject_shift=8, state_shift=0),
        acknowledge_address=60007,
        switching_mode=2,
        channels=(OutputChannel("0.0", 0, Bit("outputs_bits", 0)),),
    ),
    inputs=(InputChannel("0.0", Bit("inputs_bits", 0)),),
    identity=IdentitySpec(
        manufacturer_pattern=r"siemens",
        device_pattern=r"PAC\s?2200(?!\s?CLP)",  # the CLP variant has a map of its own
        order_pattern=r"7KM2200",
        vendor_id=42,
        im0_address=64001,
        im0_count=27,
    ),
)
