"""A survey against the configuration: identity, ratio, tariff, output, protection, timing. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from gateway.app.commission.electrical import (
    SINGLE_PHASE,
    check_direction,
    check_reference,
    check_voltages,
)
from gateway.app.commission.findings import Check, Finding, failed, not_done, ok, warning
from gateway.app.commission.survey import WRITE_PROTECTION, Survey
from gateway.app.config import MeterConfig
from gateway.app.control.polls import fail_safe_of
from gateway.core.phases import OVERRANGE
from gateway.south.models import meter_model
from gateway.south.registers import MeterModel

NOMINAL_V: Final = 230.0
SLOW_REFRESH_S: Final = 1.0
CLOCK_OFFSET_S: Final = 60.0


def check_survey(
    meter: MeterConfig,
    seen: Survey,
    *,
    serials: Mapping[str, str],
    reference_w: float | None = None,
) -> list[Finding]:
    """Everything that can be told without switching.

    `serials` are the configured serial numbers of the site with their meters: a foreign one that
    stands there names the exchanged cable.
    """
    model = meter_model(meter.model)
    connection = seen.settings.connection
    upstream = meter.settings.contactor == "upstream"
    return [
        check_serial(meter, seen, serials),
        *check_voltages(seen.last, connection, is_closed=seen.output.is_closed, upstream=upstream),
        *check_direction(seen.first, seen.last, connection),
        *check_ratio(meter, seen),
        check_reference(seen.first[model.power], seen.last[model.power], reference_w),
        check_tariff(meter, model, seen),
        *check_output(meter, model, seen),
        *check_protection(seen),
        check_feedback(meter, model, seen),
        *check_timing(meter, seen),
    ]


def check_serial(meter: MeterConfig, seen: Survey, serials: Mapping[str, str]) -> Finding:
    """The device at this address is the one that belongs here."""
    found, wanted = seen.identity.serial_number, meter.serial_number
    if wanted is None:
        return warning(
            Check.SERIAL,
            f"serial number {found or 'not told'}; the configuration states none, so an "
            "exchanged cable shows only with a known load",
            "write serial_number into the meters file from the plate, not from the network",
        )
    if found == wanted:
        return ok(Check.SERIAL, f"serial number {found}")
    owner = serials.get(found)
    if owner is not None:
        return failed(
            Check.SERIAL,
            f"serial number {found} answers, which is {owner}'s meter; {wanted} belongs here",
            f"the network cables or addresses of {meter.meter_id} and {owner} are exchanged",
        )
    return failed(
        Check.SERIAL,
        f"serial number {found or 'none'} answers, {wanted} belongs here",
        "follow the network cable, or correct serial_number from the plate",
    )


def check_ratio(meter: MeterConfig, seen: Survey) -> Iterator[Finding]:
    """The transformer's ratio is entered once, in the meter, and agrees with the plate."""
    primary, secondary = seen.settings.primary_current_a, seen.settings.secondary_current_a
    if primary is None or secondary is None:
        yield not_done(
            Check.CT_RATIO, "this model does not tell its ratio", "compare it on the display"
        )
        return
    set_to, wanted = f"{primary}/{secondary}", meter.settings.ct_ratio
    if not primary or not secondary:
        yield failed(
            Check.CT_RATIO, f"the meter is set to {set_to}", "set the plate's ratio at the meter"
        )
        return
    if wanted is None:
        yield warning(
            Check.CT_RATIO,
            f"the meter is set to {set_to}; the configuration states no ct_ratio",
            "write the transformer's plate into ct_ratio and check again",
        )
    elif wanted == set_to:
        yield ok(Check.CT_RATIO, f"{set_to}, in the meter as in the configuration")
    else:
        first, _, second = wanted.partition("/")
        factor = primary * int(second) / (secondary * int(first))
        yield failed(
            Check.CT_RATIO,
            f"the meter is set to {set_to}, the configuration says {wanted}: "
            f"it counts {factor:.4g} times what flows",
            "set the plate's ratio at the meter (nothing here changes it), or correct ct_ratio",
        )
    phases = 1 if seen.settings.connection == SINGLE_PHASE else 3
    limit_w = primary * NOMINAL_V * phases * OVERRANGE
    if meter.settings.p_max_w > limit_w:
        yield warning(
            Check.P_MAX,
            f"p_max_w is {meter.settings.p_max_w} W, a transformer of {set_to} on {phases} "
            f"phase(s) measures up to {limit_w:.0f} W",
            "set p_max_w to the point's breaker",
        )


def check_tariff(meter: MeterConfig, model: MeterModel, seen: Survey) -> Finding:
    """The input that tells grid from generator chooses the register."""
    spec, use = model.settings, seen.settings.tariff_input_use
    two = meter.settings.t1_source != meter.settings.t2_source
    if not two:
        return ok(Check.TARIFF_INPUT, f"both registers count {meter.settings.t1_source}")
    if spec is None or use is None:
        return not_done(
            Check.TARIFF_INPUT,
            "this model does not tell the use of its input",
            "switch the source and see the other register advance",
        )
    if meter.settings.feedback == spec.tariff_input:
        return failed(
            Check.TARIFF_INPUT,
            f"input {spec.tariff_input} is configured as feedback and chooses the tariff too",
            "wire the feedback contact to another input",
        )
    if use != spec.tariff_use:
        return failed(
            Check.TARIFF_INPUT,
            f"input {spec.tariff_input} has use {use}: {meter.settings.t2_source} would be "
            f"counted as {meter.settings.t1_source}",
            f"set it to {spec.tariff_use} (on-/off-peak) at the meter, or, without a second "
            f"source, t2_source: {meter.settings.t1_source}",
        )
    status = model.input(spec.tariff_input).status
    is_second = bool(int(seen.last[status.measurement]) & status.mask)
    if is_second != bool(int(seen.last[model.active_tariff])):
        return failed(
            Check.TARIFF_INPUT,
            f"input {spec.tariff_input} is {'on' if is_second else 'off'} and the other register "
            "counts",
            "look whether somebody chooses the tariff over the bus",
        )
    source = meter.settings.t2_source if is_second else meter.settings.t1_source
    return ok(Check.TARIFF_INPUT, f"input {spec.tariff_input} chooses; now {source} is counted")


def check_output(meter: MeterConfig, model: MeterModel, seen: Survey) -> Iterator[Finding]:
    """The output obeys commands, and no timer or group moves it."""
    label, report, wanted = meter.settings.output, seen.output, model.outputs.switching_mode
    if report.mode is None:
        yield not_done(
            Check.OUTPUT_MODE,
            f"this model does not tell the use of output {label}",
            "prove it by switching: --with-load",
        )
    elif report.mode == wanted:
        yield ok(Check.OUTPUT_MODE, f"output {label} is a switching output")
    else:
        yield failed(
            Check.OUTPUT_MODE,
            f"output {label} has type of use {report.mode}",
            f"set it to {wanted} (switching output) at the meter, or with --fix",
        )
    if seen.settings.output_group:
        yield warning(
            Check.OUTPUT_GROUP,
            f"output {label} is in group {seen.settings.output_group}: a command to that group "
            "switches it too",
            "set the group to 0",
        )
    yield check_remote_timeout(meter, report.remote_timeout_s)


def check_remote_timeout(meter: MeterConfig, timeout_s: int | None) -> Finding:
    """The output holds, or falls off, as `fail_safe` says."""
    rule = fail_safe_of(meter)
    policy = "hold_last" if rule is None else meter.settings.fail_safe
    wanted_s = 0 if rule is None else rule.after_s
    if timeout_s is None:
        return not_done(Check.REMOTE_TIMEOUT, "this model does not tell its remote timeout")
    if timeout_s == wanted_s:
        does = "holds its last state" if rule is None else f"falls off after {wanted_s} s"
        return ok(Check.REMOTE_TIMEOUT, f"the output {does}, as fail_safe: {policy}")
    does = f"falls back {timeout_s} s after a command" if timeout_s else "never falls off"
    return failed(
        Check.REMOTE_TIMEOUT,
        f"the output {does}; fail_safe is {policy}",
        f"set the remote timeout to {wanted_s} at the meter, or with --fix",
    )


def check_protection(seen: Survey) -> Iterator[Finding]:
    """Nothing refuses writes: protection, password, IP filter."""
    problems = [
        text
        for text, stands in (
            ("hardware write protection is on", seen.output.is_write_protected),
            ("writes are password-protected", seen.output.is_password_protected),
        )
        if stands
    ]
    if problems:
        yield failed(
            Check.PROTECTION, "protected meter: " + ", ".join(problems), "release it at the meter"
        )
    else:
        yield ok(Check.PROTECTION, "neither write protection nor password")
    if seen.write_refusal is None:
        yield ok(Check.WRITE, "a write that changes nothing was taken")
    elif seen.write_refusal != WRITE_PROTECTION:
        yield not_done(
            Check.WRITE,
            f"a write that changes nothing was answered with exception {seen.write_refusal:#04x}",
            "prove writing by switching: --with-load",
        )
    elif not problems:
        where = "" if seen.output.is_in_own_subnet is not False else " from outside its subnet"
        yield failed(
            Check.WRITE,
            f"the meter refuses writes{where} (exception 0xF0)",
            "switch its IP filter off, or give this machine an address in the meter's subnet",
        )


def check_feedback(meter: MeterConfig, model: MeterModel, seen: Survey) -> Finding:
    """The contactor's auxiliary contact agrees with the output."""
    label = meter.settings.feedback
    if label is None:
        return not_done(
            Check.FEEDBACK,
            "no feedback input is configured: without load nobody sees the contacts",
            "recommended: the contactor's auxiliary contact on a free input",
        )
    status = model.input(label).status
    is_closed = bool(int(seen.last[status.measurement]) & status.mask)
    shown = f"output {'closed' if seen.output.is_closed else 'open'}, feedback " + (
        "closed" if is_closed else "open"
    )
    if is_closed == seen.output.is_closed:
        return ok(Check.FEEDBACK, shown)
    return failed(
        Check.FEEDBACK,
        shown,
        f"check the wire to input {label}, output_on, and whether the contact is a closing one",
    )


def check_timing(meter: MeterConfig, seen: Survey) -> Iterator[Finding]:
    """How quick the meter is, and whether its clock can vouch for ours."""
    timing = seen.timing
    if timing.refresh_s is None:
        yield not_done(Check.REFRESH, "no voltage changed while it was looked at")
    else:
        told = f"registers renewed every {timing.refresh_s * 1000:.0f} ms"
        slow = timing.refresh_s > SLOW_REFRESH_S
        yield (
            warning(Check.REFRESH, told, "cuts come late by that")
            if slow
            else ok(Check.REFRESH, told)
        )
    p50, p95, p99 = timing.round_trips_ms
    told = f"round trip {p50:.1f} / {p95:.1f} / {p99:.1f} ms (p50/p95/p99 of {timing.looks})"
    if p99 > meter.settings.timeout_s * 500:
        yield warning(Check.ROUND_TRIP, told, "look at the network; or raise timeout_s")
    else:
        yield ok(Check.ROUND_TRIP, told)
    if timing.pipeline > 1:
        advice = "" if meter.settings.pipeline > 1 else f"; pipeline: {timing.pipeline} may be set"
        yield ok(Check.PIPELINE, f"{timing.pipeline} requests in flight are answered{advice}")
    elif meter.settings.pipeline > 1:
        yield failed(Check.PIPELINE, timing.pipeline_problem, "set pipeline: 1")
    else:
        yield warning(Check.PIPELINE, timing.pipeline_problem, "leave pipeline at 1")
    if abs(seen.clock_offset_s) > CLOCK_OFFSET_S:
        yield warning(
            Check.CLOCK,
            f"the meter's clock is {seen.clock_offset_s:+.0f} s from this machine's",
            "let it follow a time server (SNTP), or set it at the meter",
        )
    else:
        yield ok(Check.CLOCK, f"the meter's clock is {seen.clock_offset_s:+.1f} s from ours")


def serials_of(meters: Sequence[MeterConfig]) -> dict[str, str]:
    """The configured serial numbers with their meters."""
    return {meter.serial_number: meter.meter_id for meter in meters if meter.serial_number}
