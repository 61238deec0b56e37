"""The command registers of a PAC3220, written one at a time by FC 0x06 (manual p138-139)."""

from collections.abc import Callable

from gateway.core.errors import MeterExceptionError
from gateway.sim.meter import ILLEGAL_VALUE, Meter
from gateway.sim.registers import OUTPUT_BY_CODE, OUTPUTS

ILLEGAL_ADDRESS = 0x02


def carry_out(meter: Meter, t_s: float, register: int, value: int) -> None:
    """Carry out one command.

    Raises MeterExceptionError 02 for a register that is no command, 03 for a value out of range.
    """
    act = COMMANDS.get(register)
    if act is None:
        raise MeterExceptionError(f"{register} is no command", ILLEGAL_ADDRESS)
    act(meter, t_s, value)


def _within(value: int, low: int, high: int) -> None:
    """Refuse a command's value outside its range."""
    if not low <= value <= high:
        raise MeterExceptionError(f"{value} is outside {low} to {high}", ILLEGAL_VALUE)


def _factory_reset(meter: Meter, t_s: float, value: int) -> None:
    """60000: every parameter to its default; the output is no longer switchable."""
    _within(value, 0, 0)
    meter.reset_settings(t_s)


def _device_reset(meter: Meter, t_s: float, value: int) -> None:
    """60001: a restart; the manual names no value, so any will do."""
    _within(value, 0, 0xFFFF)
    meter.restart(t_s)


def _reset_maxima(meter: Meter, t_s: float, value: int) -> None:
    """60002."""
    _within(value, 0, 0)
    meter.advance(t_s)
    meter.extremes.reset_maxima()


def _reset_minima(meter: Meter, t_s: float, value: int) -> None:
    """60003."""
    _within(value, 0, 0)
    meter.advance(t_s)
    meter.extremes.reset_minima()


def _reset_counters(meter: Meter, t_s: float, value: int) -> None:
    """60004: 0 all, 1 … 10 one kind."""
    _within(value, 0, 10)
    meter.reset_counters(t_s, value)


def _synchronise(meter: Meter, t_s: float, value: int) -> None:
    """60005: a demand period starts now; the value is its length in minutes."""
    _within(value, 1, 60)
    meter.advance(t_s)
    meter.demand_start_s = t_s


def _tariff(meter: Meter, t_s: float, value: int) -> None:
    """60006: 0 on-peak (T1), 1 off-peak (T2)."""
    _within(value, 0, 1)
    meter.set_tariff(t_s, value)


def _acknowledge(meter: Meter, t_s: float, value: int) -> None:
    """60007: clear the latched diagnostics of the mask."""
    meter.advance(t_s)
    meter.latched &= ~value


def _switch_output(meter: Meter, t_s: float, value: int) -> None:
    """60008: state in the high byte, output code in the low byte."""
    state, code = divmod(value, 256)
    output = OUTPUT_BY_CODE.get(code)
    if state > 1 or output is None:
        raise MeterExceptionError(f"no output answers to {value:#06x}", ILLEGAL_VALUE)
    meter.switch(t_s, output, on=state == 1)


def _switch_group(meter: Meter, t_s: float, value: int) -> None:
    """60009: vector group in the high byte, state in the low byte: the other way round."""
    group, state = divmod(value, 256)
    if state > 1 or group > 99:
        raise MeterExceptionError(f"no group answers to {value:#06x}", ILLEGAL_VALUE)
    for output in OUTPUTS:
        if meter.settings[output.base] == group and meter.has_module(output.module):
            meter.switch(t_s, output, on=state == 1)


COMMANDS: dict[int, Callable[[Meter, float, int], None]] = {
    60000: _factory_reset,
    60001: _device_reset,
    60002: _reset_maxima,
    60003: _reset_minima,
    60004: _reset_counters,
    60005: _synchronise,
    60006: _tariff,
    60007: _acknowledge,
    60008: _switch_output,
    60009: _switch_group,
}
