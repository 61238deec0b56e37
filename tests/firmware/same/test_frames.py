"""Frames of the PZEM-004T: golden bytes, and every way in which a reply is not the answer."""

from node import frames
from tests.firmware.same.tools import refused

GOLDEN = bytes.fromhex("01041408D1006C0000 00F40000002600 0001F4006400005134".replace(" ", ""))


def test_requests_are_the_documented_bytes():
    """Each golden request of the data sheet."""
    assert frames.read_all(1).hex() == "01040000000a700d"
    assert frames.read_all(0xF8).hex() == "f8040000000a6464"
    assert frames.reset_energy(0xF8).hex() == "f842c241"
    assert frames.read_settings(0xF8).hex() == "f8030001000281a2"
    request = frames.write_setting(0xF8, frames.ADDRESS_REGISTER, 0x10)
    assert request.hex() == "f806000200103daf"


def test_the_golden_reply_is_read():
    """225.7 V, 0.108 A, 24.4 W, 38 Wh, 50.0 Hz, power factor 1.00, no alarm."""
    values = frames.parse_values(frames.read_all(1), GOLDEN)
    assert values.voltage_dv == 2257
    assert values.current_ma == 108
    assert values.power_dw == 244
    assert values.energy_wh == 38
    assert values.frequency_dhz == 500
    assert values.power_factor_pct == 100
    assert values.alarm is False
    assert frames.implausible(values, 100_000) is None


def test_long_values_come_low_word_first():
    """The second word counts 65,536 of each unit."""
    words = (2300, 1, 2, 3, 4, 5, 6, 500, 99, 0xFFFF)
    body = bytes((1, 4, 20)) + b"".join(word.to_bytes(2, "big") for word in words)
    values = frames.parse_values(frames.read_all(1), frames.seal(body))
    assert values.current_ma == 1 + 2 * 65_536
    assert values.power_dw == 3 + 4 * 65_536
    assert values.energy_wh == 5 + 6 * 65_536
    assert values.alarm is True


def test_what_is_not_the_answer_is_refused():
    """Each defect has its own code."""
    ask = frames.read_all(1)
    other = frames.seal(b"\x02" + GOLDEN[1:-2])
    cases = (
        (b"", "SILENT"),
        (GOLDEN[:3], "SHORT"),
        (GOLDEN[:-1], "SHORT"),
        (GOLDEN + b"\x00", "LENGTH"),
        (GOLDEN[:-1] + b"\x35", "CRC"),
        (other, "ADDRESS"),
        (frames.seal(b"\x01\x03" + GOLDEN[2:-2]), "FUNCTION"),
        (frames.seal(b"\x01\x04\x13" + GOLDEN[3:-2]), "LENGTH"),
        (frames.seal(b"\x01\x84\x02"), "REFUSED"),
    )
    for reply, code in cases:
        assert refused(frames.FrameError, frames.check, ask, reply).code == code


def test_every_flipped_bit_is_found():
    """The CRC finds each of the 200 single errors of a reply."""
    ask = frames.read_all(1)
    for bit in range(len(GOLDEN) * 8):
        spoilt = bytearray(GOLDEN)
        spoilt[bit >> 3] ^= 1 << (bit & 7)
        refused(frames.FrameError, frames.check, ask, bytes(spoilt))


def test_a_write_is_answered_by_its_echo():
    """An echo of another value is no success; the reset's error has five bytes."""
    ask = frames.write_setting(1, frames.ADDRESS_REGISTER, 7)
    assert frames.check(ask, ask) == ()
    other = frames.write_setting(1, frames.ADDRESS_REGISTER, 8)
    assert refused(frames.FrameError, frames.check, ask, other).code == "ECHO"
    reset = frames.reset_energy(1)
    assert frames.check(reset, reset) == ()
    error = frames.seal(b"\x01\xc2\x04")
    assert refused(frames.FrameError, frames.check, reset, error).code == "REFUSED"


def test_what_no_module_can_measure_is_named():
    """Each limit holds at its edge and not beyond."""

    def name(**changed):
        values = frames.parse_values(frames.read_all(1), GOLDEN)
        for key, value in changed.items():
            setattr(values, key, value)
        return frames.implausible(values, 100_000)

    assert name(voltage_dv=599, power_dw=0) == "voltage"
    assert name(voltage_dv=600, power_dw=0) is None
    assert name(voltage_dv=3_001) == "voltage"
    assert name(voltage_dv=0, current_ma=0, power_dw=0, frequency_dhz=0) is None
    assert name(frequency_dhz=661) == "frequency"
    assert name(power_factor_pct=101) == "power_factor"
    assert name(current_ma=120_001) == "current"
    assert name(energy_wh=9_999_999) is None
    assert name(energy_wh=10_000_000) == "energy"
    # 225.7 V x 0.108 A x 1.2 + 5 W = 34.2 W
    assert name(power_dw=342) is None
    assert name(power_dw=343) == "power"
