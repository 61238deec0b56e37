"""Planted wiring mistakes: what a meter with one measures, counts and survives."""

import asyncio
import math
import struct

import pytest

from gateway.app.clock import seeded
from gateway.core.errors import RefusedError
from gateway.sim.electrics import measure, miswired
from gateway.sim.faults import FaultKind, fault_named
from gateway.sim.loads import Mains, steady_curve
from gateway.sim.meter import Meter, MeterOptions, OutputOn
from gateway.sim.registers import OUTPUTS
from tests.sim.sim_sites import RawClient, running_site

SHARES = (0.5, 0.3, 0.2)
IDENTIFY = bytes((0x2B, 0x0E, 1, 0))
SWITCH_OFF = struct.pack(">BHH", 6, 60008, 0x0000)


def meter_of(**options: object) -> Meter:
    """A three-phase meter at 3 kW."""
    chosen: dict[str, object] = {"shares": SHARES, "start_wh": (1_000.0, 0.0), **options}
    random = seeded(1)
    return Meter(
        MeterOptions(**chosen),  # type: ignore[arg-type]
        steady_curve(3_000.0),
        Mains(random),
        random,
    )


def advance_wh(meter: Meter, kind: int, from_s: float, to_s: float) -> float:
    """How far one of the ten counters goes between two instants."""
    return meter.counters.totals(to_s)[kind] - meter.counters.totals(from_s)[kind]


def test_a_reversed_transformer_counts_back() -> None:
    """One phase backwards takes its share away twice; all three count as export."""
    meter = meter_of()
    meter.add_fault(100.0, fault_named("ct_reversed", amount=2))
    assert advance_wh(meter, 0, 100.0, 3_700.0) == pytest.approx(3_000 * (1 - 2 * 0.3))
    meter.add_fault(3_700.0, fault_named("ct_reversed", amount=0))
    assert advance_wh(meter, 0, 3_700.0, 7_300.0) == pytest.approx(0.0)
    assert advance_wh(meter, 2, 3_700.0, 7_300.0) == pytest.approx(3_000.0)
    meter.clear_faults(7_300.0)
    assert advance_wh(meter, 0, 7_300.0, 10_900.0) == pytest.approx(3_000.0)


def test_a_wrong_ratio_multiplies_from_then_on() -> None:
    """No step when it begins or ends: what was counted stays; phases follow as the total does."""
    meter = meter_of()
    before = meter.counters.totals(3_600.0)[0]
    meter.add_fault(3_600.0, fault_named("ct_ratio", amount=10))
    assert meter.counters.totals(3_600.0)[0] == pytest.approx(before)
    assert advance_wh(meter, 0, 3_600.0, 7_200.0) == pytest.approx(30_000.0)
    first, second = meter.counters.phases(3_600.0), meter.counters.phases(7_200.0)
    grown = [second[10 * phase] - first[10 * phase] for phase in range(3)]
    assert grown == pytest.approx([30_000 * share for share in SHARES])


def values(*gains: float, places: tuple[int, int, int] = (0, 1, 2)) -> tuple[float, ...]:
    """Measured values of a three-phase load with these current transformers."""
    right = measure(
        voltage_v=230.0, power_w=3_000.0, power_factor=0.9, shares=SHARES, frequency_hz=50.0
    )
    first, second, third = gains or (1.0, 1.0, 1.0)
    return miswired(right, (first, second, third), places)


def test_right_wiring_changes_no_value() -> None:
    """Gains of 1 in place give what `measure` gives."""
    right = measure(
        voltage_v=230.0, power_w=3_000.0, power_factor=0.9, shares=SHARES, frequency_hz=50.0
    )
    assert values() == pytest.approx(right)
    assert len(values()) == len(right)


def test_exchanged_currents_turn_by_a_third() -> None:
    """L2 and L3 exchanged: the sum of the three powers of a balanced load would be zero."""
    seen = values(places=(0, 2, 1))
    angle = math.degrees(math.atan2(seen[16], seen[13]))
    assert angle == pytest.approx(math.degrees(math.acos(0.9)) + 120)
    assert seen[7] == pytest.approx(values()[8], rel=0.02)  # the current of the other phase
    assert seen[13] < 0


def test_a_meter_behind_its_own_contactor_dies_with_it() -> None:
    """Opened, it is silent; with an output that disconnects it falls closed and starts again."""
    meter = meter_of()
    meter.add_fault(10.0, fault_named("auxiliary_behind_contactor"))
    meter.switch(20.0, OUTPUTS[0], on=False)
    meter.advance(21.0)
    assert not meter.powered
    assert not meter.contactor.closed
    other = meter_of(output_on=OutputOn.DISCONNECTS)
    other.add_fault(10.0, fault_named("auxiliary_behind_contactor"))
    other.switch(20.0, OUTPUTS[0], on=True)
    other.advance(21.0)
    assert other.powered
    assert other.contactor.closed
    assert not other.answers(21.0)
    assert other.answers(25.0)


@pytest.mark.slow
async def test_a_dead_meter_answers_nobody() -> None:
    """The command is acknowledged, the next request is not; new connections are swallowed."""
    async with running_site() as site:
        (customer,) = site.customers()
        await site.add_fault(customer.id, fault_named(FaultKind.AUXILIARY_BEHIND_CONTACTOR))
        client = await RawClient.connect(customer.port.host, customer.port.port)
        client.send(SWITCH_OFF)
        assert (await client.frame())[2] == SWITCH_OFF
        await asyncio.sleep(0.1)  # the contactor takes up to 60 ms
        client.send(IDENTIFY)
        with pytest.raises(TimeoutError):
            await client.frame(0.3)
        with pytest.raises(TimeoutError):
            await RawClient.connect(customer.port.host, customer.port.port)
        client.close()


async def test_cables_and_settings_are_changed_by_hand() -> None:
    """Exchanged cables answer at each other's address; a wrong parameter is refused."""
    async with running_site(meters=2) as site:
        first, second = site.customers()
        hosts = first.port.host, second.port.host
        await site.exchange_cables(first.id, second.id)
        assert [customer.port.host for customer in site.customers()] == [hosts[1], hosts[0]]
        assert site.customer(first.id).port.meter is first.meter
        client = await RawClient.connect(hosts[0], first.port.port)
        client.send(struct.pack(">BHH", 3, 64001, 27))
        assert second.meter.options.serial.encode() in (await client.frame())[2]
        client.close()
        site.set_setting(first.id, 51718, 60)
        assert first.meter.settings[51718] == 60
        for address, value in ((51718, 99_999), (1, 0)):
            with pytest.raises(RefusedError) as refused:
                site.set_setting(first.id, address, value)
            assert refused.value.refusal_code == "SETTING"


def test_a_roof_feeds_in_behind_the_contactor() -> None:
    """4 kW beside a load of 3 kW: import counts on, export counts 4 kW, power reads -1 kW."""
    meter = meter_of()
    meter.add_fault(0.0, fault_named("roof", amount=4_000.0))
    assert advance_wh(meter, 0, 0.2, 3_600.2) == pytest.approx(3_000.0)
    assert advance_wh(meter, 2, 0.2, 3_600.2) == pytest.approx(4_000.0)
    assert meter.net_w(1_800.0) == pytest.approx(-1_000.0)
    by_phase = meter.counters.phases(3_600.0)[2::10]
    assert by_phase == pytest.approx([2_000.0, 1_200.0, 800.0])
    meter.switch(3_600.0, OUTPUTS[0], on=False)
    meter.advance(3_610.0)
    assert advance_wh(meter, 2, 3_610.0, 7_200.0) == 0
    meter.clear_faults(7_200.0, FaultKind.ROOF)
    assert meter.net_w(7_200.0) == 0
