"""The PZEM driver against simulated modules at the other end of a stream, in real time.

`control` orders what happens there: those of test_pzem_live.py.
"""

import asyncio

from node import frames
from node.pzem import Bus
from tests.firmware.same.wire import StreamUart


async def bus_on(board, control, addresses):
    """A driver whose UART is a stream to the modules."""
    uart = StreamUart(*await board.open_stream("127.0.0.1", await control("line"), None, 5_000))
    uart.start()
    return Bus(uart, addresses, 100_000), uart


async def failure(waiting):
    """The code with which a call of the driver fails."""
    try:
        await waiting
    except frames.FrameError as error:
        return error.code
    raise AssertionError("not refused")


async def measures(board, control):
    """Two modules on one line, each with its own values; addresses and thresholds are set."""
    bus, uart = await bus_on(board, control, (1, 2))
    for _ in range(3):
        first, second = await bus.read(1), await bus.read(2)
        assert (first.voltage_dv, first.power_dw, first.energy_wh) == (2_300, 24_000, 38)
        assert (second.power_dw, second.energy_wh) == (12_000, 9_999_000)
        assert (first.power_factor_pct, first.frequency_dhz) == (80, 500)
        assert abs(first.current_ma - 13_043) <= 1
    await bus.write_setting(2, frames.ALARM_REGISTER, 1_000)
    assert (await bus.read(2)).alarm
    await bus.write_setting(2, frames.ADDRESS_REGISTER, 7)
    assert await failure(bus.read(2)) == "SILENT"
    bus, again = await bus_on(board, control, (7,))
    assert await bus.read_settings(7) == (1_000, 7)
    assert (await bus.read(7)).energy_wh == 9_999_000
    uart.stop()
    again.stop()


async def bears_faults(board, control):
    """Each fault costs tries, never a wrong value; a dead module harms no other."""
    bus, uart = await bus_on(board, control, (1, 2))
    for fault, code in (("silent", "SILENT"), ("wrong_crc", "CRC"), ("short", "SHORT")):
        await control("fault", fault=fault, count=2)
        assert (await bus.read(1)).energy_wh == 38
        assert bus.modules[1].errors.pop(code) == 2
    # Late by more than the time-out: an answer may come into the next question to that module.
    await control("fault", fault="late", count=4)
    for _ in range(2):
        try:
            assert (await bus.read(1)).energy_wh == 38
        except frames.FrameError:
            pass
        assert (await bus.read(2)).energy_wh == 9_999_000
    assert (await bus.read(1)).energy_wh == 38
    await asyncio.sleep(0.5)
    await control("mains", live=False)
    for _ in range(3):
        assert await failure(bus.read(1)) == "SILENT"
        assert (await bus.read(2)).energy_wh == 9_999_000
    assert bus.modules[1].silent
    await control("mains", live=True)
    assert (await bus.read(1)).energy_wh == 38
    assert not bus.modules[1].silent
    uart.stop()


async def resets_a_counter(board, control):
    """0x42 and its echo; a refusal has five bytes and its own code."""
    bus, uart = await bus_on(board, control, (2,))
    await bus.reset_energy(2)
    assert (await bus.read(2)).energy_wh == 0
    assert await failure(bus.write_setting(2, frames.ADDRESS_REGISTER, 0xF8)) == "REFUSED"
    uart.stop()
