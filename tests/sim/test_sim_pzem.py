"""The simulated PZEM: the data sheet's own bytes, its counter, its faults."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sim.loads import steady_curve
from gateway.sim.pzem import (
    GENERAL,
    LATE_S,
    ROLL_OVER_WH,
    PzemFault,
    PzemLine,
    PzemModule,
    PzemReply,
    crc16,
    sealed,
)

READ_ALL = bytes.fromhex("01040000000A700D")
GOLDEN = bytes.fromhex("01041408D1006C0000 00F40000002600 0001F4006400005134".replace(" ", ""))


def module_of(power_w: float = 3_600.0, *, address: int = 1, energy_wh: int = 0) -> PzemModule:
    """A module with a steady load of power factor 1."""
    load = steady_curve(power_w, power_factor=1.0)
    return PzemModule(load, address=address, energy_wh=energy_wh)


def asked(module: PzemModule, request: bytes, t_s: float = 0.0) -> bytes:
    """The frame that answers."""
    reply = module.answer(t_s, request)
    assert reply is not None
    return reply.frame


def test_the_golden_reply() -> None:
    """225.7 V, 0.108 A, 24.4 W, 38 Wh, 50.0 Hz, factor 1.00, byte by byte."""
    module = module_of(24.4, energy_wh=38)
    module.mains.voltage_dv = 2_257
    assert asked(module, READ_ALL) == GOLDEN


@pytest.mark.parametrize(
    ("request_hex", "answer_hex"),
    [
        ("F842C241", "F842C241"),
        ("F8030001000281A2", sealed(bytes.fromhex("F80304005A0001")).hex()),
        ("F806000200103DAF", "F806000200103DAF"),
        (sealed(b"\x01\x03\x00\x00\x00\x01").hex(), sealed(b"\x01\x83\x02").hex()),
        (sealed(b"\x01\x04\x00\x00\x00\x0b").hex(), sealed(b"\x01\x84\x02").hex()),
        (sealed(b"\x01\x04\x00\x00\x00\x00").hex(), sealed(b"\x01\x84\x02").hex()),
        (sealed(b"\x01\x06\x00\x02\x00\xf8").hex(), sealed(b"\x01\x86\x03").hex()),
        (sealed(b"\x01\x06\x00\x03\x00\x01").hex(), sealed(b"\x01\x86\x02").hex()),
        (sealed(b"\x01\x41\x00\x00").hex(), sealed(b"\x01\xc1\x01").hex()),
        (sealed(b"\x01\x42\x00").hex(), sealed(b"\x01\xc2\x01").hex()),
    ],
)
def test_each_request_has_its_answer(request_hex: str, answer_hex: str) -> None:
    """The data sheet's frames, and its errors for what it does not know."""
    module = module_of()
    module.alarm_w = 90
    assert asked(module, bytes.fromhex(request_hex)).hex() == answer_hex.lower()


def test_an_address_is_set_and_then_answered() -> None:
    """The old one falls silent, the general one answers always, the broadcast never."""
    module = module_of()
    asked(module, bytes.fromhex("F806000200103DAF"))
    assert module.address == 0x10
    assert module.answer(0.0, READ_ALL) is None
    general = bytes.fromhex("F8040000000A6464")
    assert asked(module, general)[0] == GENERAL
    assert module.answer(0.0, sealed(b"\x00\x06\x00\x02\x00\x11")) is None
    assert module.address == 0x11


@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 5_000)), max_size=12))
def test_its_counter_keeps_every_remainder(loads: list[tuple[int, int]]) -> None:
    """Whatever the load does, and however often it is read, the counter is the floor of its sum."""
    module, t_s, watt_seconds = module_of(0.0), 0, 0
    for power_w, seconds in loads:
        module.set_load(t_s, steady_curve(power_w))
        t_s += seconds
        watt_seconds += power_w * seconds
        assert module.counter_wh(t_s) == watt_seconds // 3_600


def test_an_open_relay_and_dead_mains_count_nothing() -> None:
    """3.6 kW are a Wh a second: only while both are closed."""
    module = module_of()
    module.set_relay(10.0, closed=False)
    module.set_relay(20.0, closed=True)
    module.cut_mains(30.0)
    assert module.answer(35.0, READ_ALL) is None
    module.restore_mains(40.0)
    assert module.counter_wh(50.0) == 30
    # Tapped before the relay: voltage stays, current goes.
    module.set_relay(50.0, closed=False)
    frame = asked(module, READ_ALL, 51.0)
    assert (frame[3:5].hex(), frame[5:13].hex()) == ("08fc", "00" * 8)


def test_its_counter_starts_anew_after_its_end() -> None:
    """9,999.98 kWh and 15 Wh more are 5 Wh."""
    module = module_of(energy_wh=ROLL_OVER_WH - 10)
    assert module.counter_wh(9.0) == ROLL_OVER_WH - 1
    assert module.counter_wh(10.0) == 0
    assert module.counter_wh(15.0) == 5


def test_it_is_reset_and_goes_on_from_zero() -> None:
    """By 0x42 only."""
    module = module_of()
    assert asked(module, sealed(b"\x01\x42"), 100.0) == sealed(b"\x01\x42")
    assert module.counter_wh(100.0) == 0
    assert module.counter_wh(107.0) == 7


def test_its_counter_jumps_and_falls_back() -> None:
    """What was seen at dips and after power losses; the truth knows better."""
    module = module_of()
    module.move_counter(5_000_000)
    assert module.counter_wh(1.0) == 5_000_001
    module.move_counter(-5_000_000)
    module.cut_mains(100.0)
    module.restore_mains(200.0, lost_wh=30)
    assert module.counter_wh(200.0) == 70
    module.cut_mains(201.0)
    module.restore_mains(202.0, lost_wh=1_000)
    assert module.counter_wh(202.0) == 0
    assert module.track.total_wh(202.0) == pytest.approx(101.0)


def test_its_alarm_shows_above_its_threshold() -> None:
    """Not at it."""
    module = module_of()
    module.alarm_w = 3_600
    assert asked(module, READ_ALL)[21:23] == b"\x00\x00"
    module.alarm_w = 3_599
    assert asked(module, READ_ALL)[21:23] == b"\xff\xff"


def test_faults_spoil_so_many_replies() -> None:
    """Each in its way; then it answers well again."""
    module = module_of()
    good = module.answer(0.0, READ_ALL)
    assert good is not None
    assert good.delay_s == pytest.approx(25 * 10 / 9_600)
    module.add_fault(PzemFault.SILENT, 2)
    assert [module.answer(0.0, READ_ALL) for _ in range(3)] == [None, None, good]
    module.add_fault(PzemFault.WRONG_CRC, 1)
    assert crc16(asked(module, READ_ALL)) != 0
    module.add_fault(PzemFault.SHORT, 1)
    assert asked(module, READ_ALL) == good.frame[:12]
    module.add_fault(PzemFault.LATE)
    late = PzemReply(good.frame, good.delay_s + LATE_S)
    assert [module.answer(0.0, READ_ALL) for _ in range(2)] == [late, late]
    module.clear_faults()
    assert module.answer(0.0, READ_ALL) == good


def test_a_line_takes_pieces_and_forgets_broken_ones() -> None:
    """A request byte by byte is one; half a request and a silence are none."""
    first, second = module_of(), module_of(address=2)
    line = PzemLine([first, second])
    replies: list[PzemReply] = []
    for place in range(8):
        replies += line.receive(place * 0.001, READ_ALL[place : place + 1])
    assert [reply.frame[0] for reply in replies] == [1]
    assert line.receive(1.0, READ_ALL[:5]) == []
    assert len(line.receive(2.0, READ_ALL)) == 1
    assert line.receive(3.0, READ_ALL[:-1] + b"\x00") == []
    # At the general address both answer: that is why it is for a single module.
    assert len(line.receive(4.0, bytes.fromhex("F8040000000A6464"))) == 2
