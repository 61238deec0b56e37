"""The PZEM driver over a wire that answers as told: retries, draining, health of each module."""

import asyncio

from node import frames, pzem
from tests.firmware.same.tools import refused


def answer(address=1, energy_wh=38, voltage_dv=2_257):
    """A good reply to `read_all`."""
    words = (voltage_dv, 108, 0, 244, 0, energy_wh & 0xFFFF, energy_wh >> 16, 500, 100, 0)
    body = bytes((address, 4, 20)) + b"".join(word.to_bytes(2, "big") for word in words)
    return frames.seal(body)


class Wire:
    """A UART whose other end sends the next of `replies` for each request."""

    def __init__(self, *replies):
        self.replies = list(replies)
        self.sent = []
        self.pending = b""
        self.noise = b""  # comes at every read
        self.stale = 0

    def uart_drain(self):
        self.stale += len(self.pending)
        self.pending = b""

    def uart_write(self, request):
        self.sent.append(request)
        self.pending += self.replies.pop(0) if self.replies else b""

    async def uart_read(self, most, _deadline_ms):
        await asyncio.sleep(0)
        found, self.pending = self.pending[:most], self.pending[most:]
        return found or self.noise


def bus_on(*replies, addresses=(1,)):
    """A bus whose wire answers so."""
    wire = Wire(*replies)
    return pzem.Bus(wire, addresses, 100_000), wire


async def failed(waiting):
    """The code with which a call of the driver fails."""
    try:
        await waiting
    except frames.FrameError as error:
        return error.code
    raise AssertionError("not refused")


async def test_a_good_answer_is_read_at_once():
    """One request, values, no error counted."""
    bus, wire = bus_on(answer())
    values = await bus.read(1)
    assert values.energy_wh == 38
    assert wire.sent == [frames.read_all(1)]
    assert bus.modules[1].values is values
    assert bus.modules[1].errors == {}


async def test_a_spoilt_answer_is_asked_for_again():
    """Two wrong, the third good; what follows a wrong one is thrown away."""
    bus, wire = bus_on(answer()[:-1] + b"\x00" + b"noise", b"", answer())
    assert (await bus.read(1)).energy_wh == 38
    assert len(wire.sent) == 3
    assert bus.modules[1].errors == {"CRC": 1, "SILENT": 1}
    assert wire.pending == b""
    assert wire.stale == 0


async def test_a_line_that_is_never_quiet_is_a_silent_module():
    """Noise without end costs three bounded tries, as silence does."""
    bus, wire = bus_on()
    wire.noise = b"\x55"
    for count in range(1, 4):
        assert await asyncio.wait_for(failed(bus.read(1)), 2) == "SHORT"
        assert bus.modules[1].silent == (count == 3)
    wire.noise = b""
    wire.replies.append(answer())
    assert (await bus.read(1)).energy_wh == 38


async def test_what_came_late_is_drained_before_the_next_request():
    """A reply that nobody waits for any more answers no later question."""
    bus, wire = bus_on(answer(energy_wh=2))
    wire.pending = answer(energy_wh=1)
    assert (await bus.read(1)).energy_wh == 2
    assert wire.stale == 25


async def test_three_polls_without_an_answer_are_a_silence():
    """Entered once, left by the first good answer; the values before stay."""
    bus, wire = bus_on(answer())
    module = bus.modules[1]
    await bus.read(1)
    for count in range(1, 4):
        assert await failed(bus.read(1)) == "SILENT"
        assert module.silent == (count == 3)
    assert module.values.energy_wh == 38
    assert len(wire.sent) == 10
    wire.replies.append(answer(energy_wh=40))
    assert (await bus.read(1)).energy_wh == 40
    assert not module.silent


async def test_modules_have_their_own_health():
    """One that is dead leaves the other alone; an answer of the wrong one is none."""
    replies = [b""] * 3 + [answer(2)] * 4
    bus, _ = bus_on(*replies, addresses=(1, 2))
    assert await failed(bus.read(1)) == "SILENT"
    assert (await bus.read(2)).energy_wh == 38
    assert await failed(bus.read(1)) == "ADDRESS"
    assert bus.modules[2].errors == {}
    assert bus.modules[1].errors == {"SILENT": 3, "ADDRESS": 3}


async def test_an_impossible_value_is_no_reading():
    """It is not asked for again at once: the module means it."""
    bus, wire = bus_on(answer(voltage_dv=3_100))
    assert await failed(bus.read(1)) == "IMPLAUSIBLE"
    assert bus.modules[1].values is None
    assert len(wire.sent) == 1
    wire.replies = [answer(voltage_dv=3_100)] * 2
    assert await failed(bus.read(1)) == "IMPLAUSIBLE"
    assert not bus.modules[1].silent
    # Three polls, as with any other fault.
    assert await failed(bus.read(1)) == "IMPLAUSIBLE"
    assert bus.modules[1].silent
    assert bus.modules[1].errors == {"IMPLAUSIBLE": 3}


async def test_two_tasks_share_the_wire_in_turn():
    """Requests never overlap."""
    bus, wire = bus_on(answer(), answer(), answer())
    found = await asyncio.gather(bus.read(1), bus.read(1), bus.read(1))
    assert [values.energy_wh for values in found] == [38, 38, 38]
    assert wire.stale == 0


async def test_settings_and_reset_are_echoed():
    """A reset is sent once only, whatever comes back."""
    request = frames.write_setting(0xF8, frames.ADDRESS_REGISTER, 5)
    bus, wire = bus_on(frames.seal(b"\xf8\x03\x04\x00\x64\x00\x05"), request, b"", b"\x01")
    assert await bus.read_settings(0xF8) == (100, 5)
    await bus.write_setting(0xF8, frames.ADDRESS_REGISTER, 5)
    assert await failed(bus.reset_energy(1)) == "SILENT"
    assert await failed(bus.reset_energy(1)) == "SHORT"
    assert wire.sent[2:] == [frames.reset_energy(1)] * 2


def test_refusals_carry_their_code():
    """In the text too, for a person."""
    error = refused(frames.FrameError, frames.check, frames.read_all(1), b"")
    assert str(error) == "SILENT: no answer"
