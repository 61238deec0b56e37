"""Modbus PDUs of a simulated meter, decoded here by hand."""

import math
import random
import struct
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from gateway.sim.device import Device
from gateway.sim.faults import fault_named
from gateway.sim.loads import Mains, steady_curve
from gateway.sim.meter import Meter, MeterOptions

PEER = "127.0.0.1"
THREE_PHASES = (0.5, 0.3, 0.2)


def device_of(**options: object) -> Device:
    generator = random.Random(5)
    chosen: dict[str, object] = {
        "start_wh": (1_000.0, 50.0),
        "utc_s": 1_750_000_000.0,
        "shares": THREE_PHASES,
        **options,
    }
    meter = Meter(
        MeterOptions(**chosen),  # type: ignore[arg-type]
        steady_curve(3_600),
        Mains(generator),
        generator,
    )
    return Device(meter, IPv4Address("127.20.0.1"))


def read(device: Device, t_s: float, start: int, count: int, function: int = 3) -> bytes:
    """The registers' bytes, or the exception reply."""
    reply = device.answer(t_s, struct.pack(">BHH", function, start, count), PEER)
    if reply[0] & 0x80:
        return reply
    assert reply[0] == function
    assert reply[1] == len(reply) - 2 == 2 * count
    return reply[2:]


def write(device: Device, t_s: float, start: int, payload: bytes, peer: str = PEER) -> bytes:
    """The reply to FC 0x10."""
    head = struct.pack(">BHHB", 0x10, start, len(payload) // 2, len(payload))
    return device.answer(t_s, head + payload, peer)


def test_instantaneous_values_hang_together() -> None:
    """P = V · I · PF per phase, totals are sums, averages are means, frequency is 50 Hz."""
    values = struct.unpack(">37f", read(device_of(), 10.0, 1, 74))
    volts, amps, apparent = values[0:3], values[6:9], values[9:12]
    watts, reactive, factors = values[12:15], values[15:18], values[18:21]
    for phase in range(3):
        assert watts[phase] == pytest.approx(3_600 * THREE_PHASES[phase], rel=1e-5)
        assert apparent[phase] == pytest.approx(volts[phase] * amps[phase], rel=1e-5)
        assert watts[phase] == pytest.approx(apparent[phase] * factors[phase], rel=1e-5)
        assert math.hypot(watts[phase], reactive[phase]) == pytest.approx(apparent[phase])
        assert 198 < volts[phase] < 242
    assert values[3] == pytest.approx(values[0] * math.sqrt(3), rel=0.01)
    assert values[27] == pytest.approx(50, abs=0.1)
    assert values[28] == pytest.approx(sum(volts) / 3, rel=1e-6)
    assert values[30] == pytest.approx(sum(amps) / 3, rel=1e-6)
    assert values[32] == pytest.approx(3_600, rel=1e-6)
    assert values[34] == pytest.approx(0.9, rel=1e-6)
    assert values[36] > 40  # the load is uneven


def test_energy_and_clock_are_big_endian_doubles_and_seconds() -> None:
    """(799, 42): UNIX seconds, then ten doubles; the phases sum to the totals."""
    device = device_of()
    clock_s, *totals = struct.unpack(">I10d", read(device, 100.0, 799, 42))
    assert clock_s == 1_750_000_100
    assert totals[0] == pytest.approx(1_100, abs=0.21)
    assert totals[1] == 50.0
    assert totals[2:4] == [0.0, 0.0]
    phases = struct.unpack(">30d", read(device, 100.0, 841, 120))
    for kind in range(10):
        assert phases[kind] + phases[kind + 10] + phases[kind + 20] == pytest.approx(totals[kind])


def test_fc04_serves_what_fc03_serves() -> None:
    """Both functions read the same registers (p113)."""
    device = device_of()
    for start, count in ((1, 74), (203, 26), (799, 42), (31001, 80), (51711, 3)):
        assert read(device, 7.0, start, count, 3) == read(device, 7.0, start, count, 4)


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (struct.pack(">BHH", 3, 2, 2), 2),
        (struct.pack(">BHH", 3, 229, 2), 2),
        (struct.pack(">BHH", 3, 1, 3), 2),
        (struct.pack(">BHH", 3, 1, 0), 3),
        (struct.pack(">BHH", 4, 1, 126), 3),
        (struct.pack(">BH", 3, 1), 3),
        (struct.pack(">BHH", 2, 6, 1), 2),
        (struct.pack(">BHH", 1, 300, 0), 3),
        (struct.pack(">BHH", 7, 0, 0), 1),
        (struct.pack(">BHH", 6, 801, 1), 2),
        (struct.pack(">BHH", 6, 60008, 0x0201), 3),
        (struct.pack(">BHH", 5, 0, 0xFF00), 2),
        (struct.pack(">BHH", 5, 300, 1), 3),
        (struct.pack(">BHHB", 16, 51712, 1, 4) + bytes(4), 3),
        (struct.pack(">BHHB", 16, 799, 2, 4) + bytes(4), 2),
        (struct.pack(">BHHB", 16, 801, 2, 4) + bytes(4), 2),
        (struct.pack(">BHHB", 16, 60008, 1, 2) + bytes(2), 2),
        (struct.pack(">BHHB", 16, 51712, 1, 2) + b"\x00\x06", 3),
        (struct.pack(">BHHB", 16, 801, 4, 8) + struct.pack(">d", math.nan), 3),
        (struct.pack(">BHHB", 16, 801, 4, 8) + struct.pack(">d", 1e12), 3),
        (b"\x2b\x0d\x01\x00", 1),
        (b"\x2b\x0e\x05\x00", 3),
        (b"\x2b\x0e\x04\x03", 2),
    ],
)
def test_bad_requests_answer_their_exception(request_bytes: bytes, code: int) -> None:
    """01 unknown function, 02 offset and length that fit nothing, 03 values out of range."""
    reply = device_of().answer(1.0, request_bytes, PEER)
    assert reply == bytes((request_bytes[0] | 0x80, code))


def test_switching_reads_back_and_stops_the_current() -> None:
    """FC 06 is echoed; 207 reads the output, 209 the feedback, current falls to 0."""
    device = device_of()
    request = struct.pack(">BHH", 6, 60008, 0x0000)
    assert device.answer(10.0, request, PEER) == request
    outputs, inputs = struct.unpack(">2I", read(device, 11.0, 207, 4))
    assert (outputs, inputs) == (0, 0)
    values = struct.unpack(">37f", read(device, 11.0, 1, 74))
    assert values[6] == values[32] == 0.0
    assert values[0] > 198


def test_coils_and_inputs_share_one_map() -> None:
    """FC 01 and 02 at 300 read the output, at 201 the feedback; FC 05 and 0F switch."""
    device = device_of()
    assert device.answer(1.0, struct.pack(">BHH", 1, 300, 2), PEER) == b"\x01\x01\x01"
    assert device.answer(1.0, struct.pack(">BHH", 2, 200, 2), PEER) == b"\x02\x01\x02"
    device.answer(2.0, struct.pack(">BHH", 5, 300, 0x0000), PEER)
    assert device.answer(3.0, struct.pack(">BHH", 2, 300, 2), PEER) == b"\x02\x01\x00"
    reply = device.answer(4.0, struct.pack(">BHHB", 15, 300, 2, 1) + b"\x01", PEER)
    assert reply == struct.pack(">BHH", 15, 300, 2)
    assert device.answer(5.0, struct.pack(">BHH", 1, 300, 1), PEER) == b"\x01\x01\x01"
    device.answer(6.0, struct.pack(">BHH", 6, 60001, 0), PEER)
    assert device.answer(10.0, struct.pack(">BHH", 2, 111, 1), PEER) == b"\x02\x01\x01"


def test_parameters_are_written_whole_or_not_at_all() -> None:
    """One value out of range in a write leaves every value of it as it was."""
    device = device_of()
    assert write(device, 1.0, 51715, struct.pack(">3H", 2, 500, 29))[0] & 0x80
    assert read(device, 1.0, 51715, 3) == struct.pack(">3H", 0, 1, 100)
    assert write(device, 2.0, 51715, struct.pack(">3H", 2, 500, 30)) == struct.pack(
        ">BHH", 0x10, 51715, 3
    )
    assert read(device, 2.0, 51715, 3) == struct.pack(">3H", 2, 500, 30)
    _, all_changes = struct.unpack(">2I", read(device, 2.0, 217, 4))
    assert all_changes == 3


def test_energies_can_be_preset() -> None:
    """FC 0x10 on 801 sets the counter, and 219 shows that somebody wrote."""
    device = device_of()
    write(device, 10.0, 801, struct.pack(">2d", 7_000.0, 8_000.0))
    t1, t2 = struct.unpack(">2d", read(device, 10.0, 801, 8))
    assert (t1, t2) == (pytest.approx(7_000), pytest.approx(8_000))
    assert struct.unpack(">I", read(device, 10.0, 219, 2)) == (1,)


def test_marks_are_written_and_read_as_one_block() -> None:
    """I&M1 to I&M4 take 89 registers whole and keep them."""
    device = device_of()
    mark = b"flat-101".ljust(178, b" ")
    assert write(device, 1.0, 64028, mark[:-2])[0] & 0x80
    assert write(device, 1.0, 64028, mark)[0] == 0x10
    assert read(device, 2.0, 64028, 89) == mark


@pytest.mark.parametrize("kind", ["write_protected", "password", "subnet_filter"])
def test_protected_meters_refuse_writes_and_serve_reads(kind: str) -> None:
    """Writes answer 0xF0 (p112); reads go on, and 205 tells protection and password."""
    device = device_of()
    device.meter.add_fault(1.0, fault_named(kind))
    for request in (
        struct.pack(">BHH", 6, 60008, 0),
        struct.pack(">BHH", 5, 300, 0),
        struct.pack(">BHHB", 16, 51712, 1, 2) + b"\x00\x00",
    ):
        assert device.answer(2.0, request, PEER) == bytes((request[0] | 0x80, 0xF0))
    outputs = struct.unpack(">I", read(device, 3.0, 207, 2))
    (diagnostics,) = struct.unpack(">I", read(device, 3.0, 205, 2))
    assert outputs == (1,)
    bits = {"write_protected": 0x4000_0000, "password": 0x8000_0000, "subnet_filter": 0}
    assert diagnostics == bits[kind]


def test_the_subnet_filter_lets_neighbours_write() -> None:
    """The same write is taken from the meter's own /24 (63003)."""
    device = device_of()
    device.meter.add_fault(1.0, fault_named("subnet_filter"))
    request = struct.pack(">BHH", 6, 60008, 0)
    assert device.answer(2.0, request, "127.20.1.7")[0] == 0x86
    assert device.answer(2.0, request, "127.20.0.7") == request


def test_identification_names_the_device() -> None:
    """FC 2B/0E streams three objects and gives one alone; I&M0 carries vendor, order, serial."""
    device = device_of(serial="LQN/000100000042")
    reply = device.answer(1.0, b"\x2b\x0e\x01\x00", PEER)
    assert reply[:7] == b"\x2b\x0e\x01\x81\x00\x00\x03"
    assert b"\x00\x0aSiemens AG" in reply
    assert b"\x01\x0fSENTRON PAC3220" in reply
    one = device.answer(1.0, b"\x2b\x0e\x04\x01", PEER)
    assert one == b"\x2b\x0e\x04\x81\x00\x00\x01\x01\x0fSENTRON PAC3220"
    block = read(device, 1.0, 64001, 27)
    assert struct.unpack(">H20s16s", block[:38]) == (
        42,
        b"7KM3220-0BA01-1DA0  ",
        b"LQN/000100000042",
    )
    device.meter.add_fault(2.0, fault_named("identity"))
    assert b"PAC2200" in device.answer(3.0, b"\x2b\x0e\x01\x00", PEER)
    assert b"7KM2200" in read(device, 3.0, 64001, 27)


def test_averages_are_those_of_the_last_complete_period() -> None:
    """(30001, 80) stamps the end of a 10 s period and carries its mean power; FC 14 too."""
    device = device_of()
    block = read(device, 47.0, 30001, 80)
    stamp, flags = struct.unpack_from(">2I", block)
    assert stamp % 10 == 0
    assert 1_750_000_037 < stamp <= 1_750_000_047
    assert flags == 0
    assert struct.unpack_from(">f", block, 68 * 2) == (pytest.approx(3_600, rel=1e-5),)
    reply = device.answer(47.0, struct.pack(">BBBHHH", 0x14, 7, 6, 1, 1, 80), PEER)
    assert reply == bytes((0x14, 162, 161, 6)) + block


def test_demand_covers_the_last_complete_period() -> None:
    """501 is exact over a cut in the middle; 517 is the period in s, 519 the time in it."""
    device = device_of()
    device.answer(1.0, struct.pack(">BHH", 6, 60005, 15), PEER)
    device.answer(451.0, struct.pack(">BHH", 6, 60008, 0), PEER)
    block = read(device, 951.0, 501, 20)
    assert struct.unpack_from(">f", block)[0] == pytest.approx(1_800, rel=1e-3)
    assert struct.unpack_from(">2I", block, 32) == (900, 50)


def test_extremes_follow_and_reset() -> None:
    """75 holds the highest values seen, 145 the lowest without THD, 60002 starts anew."""
    device = device_of()
    read(device, 1.0, 1, 74)
    device.meter.set_load(2.0, steady_curve(7_200))
    read(device, 3.0, 1, 74)
    device.meter.set_load(4.0, steady_curve(1_800))
    maxima = struct.unpack(">35f", read(device, 5.0, 75, 70))
    minima = struct.unpack(">29f", read(device, 5.0, 145, 58))
    assert maxima[33] == pytest.approx(7_200 / 0.9 * math.sqrt(1 - 0.81), rel=1e-4)
    assert maxima[32] == pytest.approx(7_200)
    assert minima[26] == pytest.approx(1_800)
    assert minima[21] == pytest.approx(50, abs=0.1)
    device.answer(6.0, struct.pack(">BHH", 6, 60002, 0), PEER)
    assert struct.unpack(">35f", read(device, 7.0, 75, 70))[32] == pytest.approx(1_800)


def spoilt(kind: str, amount: float | None = None) -> Device:
    device = device_of()
    device.meter.add_fault(1.0, fault_named(kind, amount=amount))
    return device


@pytest.mark.parametrize(
    ("kind", "amount", "check"),
    [
        ("energy_backwards", 400.0, lambda wh: wh == pytest.approx(620, abs=0.21)),
        ("energy_jump", 5_000.0, lambda wh: wh == pytest.approx(6_020, abs=0.21)),
        ("nan_energy", None, math.isnan),
    ],
)
def test_lying_energy(kind: str, amount: float | None, check: Callable[[float], bool]) -> None:
    """Active import T1 lies by the amount; cleared, it tells the truth again."""
    device = spoilt(kind, amount)
    (lied,) = struct.unpack(">d", read(device, 20.0, 801, 4))
    assert check(lied)
    device.meter.clear_faults(21.0)
    (true_wh,) = struct.unpack(">d", read(device, 22.0, 801, 4))
    assert true_wh == pytest.approx(1_022, abs=0.21)


def test_nan_spoils_measurements_and_spares_counters() -> None:
    """`nan` reaches every float32, no status bit and no energy."""
    device = spoilt("nan")
    assert all(math.isnan(value) for value in struct.unpack(">37f", read(device, 20.0, 1, 74)))
    assert struct.unpack(">I", read(device, 20.0, 207, 2)) == (1,)
    assert struct.unpack(">d", read(device, 20.0, 801, 4))[0] == pytest.approx(1_020, abs=0.21)


def test_swapped_words_swap_within_each_value() -> None:
    """`word_order` reverses the registers of floats, longs and doubles; 16-bit values stay."""
    honest, swapped = device_of(), spoilt("word_order")
    for start, count, words in ((1, 74, 2), (801, 40, 4), (207, 2, 2), (51711, 3, 1)):
        plain = struct.unpack(f">{count}H", read(honest, 20.0, start, count))
        other = struct.unpack(f">{count}H", read(swapped, 20.0, start, count))
        for first in range(0, count, words):
            assert other[first : first + words] == plain[first : first + words][::-1]


def test_a_wrong_clock_is_only_the_meters_clock() -> None:
    """`clock_offset` moves 799 and nothing else."""
    (clock_s,) = struct.unpack(">I", read(spoilt("clock_offset", 3_600.0), 20.0, 799, 2))
    assert clock_s == 1_750_003_620
