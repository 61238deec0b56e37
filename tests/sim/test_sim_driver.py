"""The gateway's own driver against a simulated meter: both follow the manual independently."""

import asyncio

import pytest

from gateway.app.clock import SystemClock
from gateway.core.errors import MeterExceptionError, MeterIdentityError
from gateway.core.reading import Lane
from gateway.sim.faults import fault_named
from gateway.sim.site import Site
from gateway.south.meter import MeterClient, MeterEndpoint
from tests.sim.sim_sites import running_site


def client_of(site: Site) -> MeterClient:
    """The driver at the site's first meter, with feedback on input 0.1."""
    port = site.customers()[0].port
    endpoint = MeterEndpoint(
        meter_id="flat-101", model="pac3220", host=port.host, port=port.port, feedback="0.1"
    )
    return MeterClient(endpoint, SystemClock())


async def test_the_driver_reads_the_truth() -> None:
    """A full poll carries the registers, floored, with power, current, output and feedback."""
    async with running_site(load_w=5_000, swing=0.0) as site:
        meter, client = site.customers()[0].meter, client_of(site)
        try:
            await client.connect()
            before = meter.track.energy(site.now_s() - 0.2)
            reading = await client.poll(Lane.FULL)
            after = meter.track.energy(site.now_s())
            assert int(before[0].active_wh) <= reading.energy_wh[0] <= after[0].active_wh
            assert reading.energy_wh[1] == int(after[1].active_wh)
            assert reading.power_w == pytest.approx(5_000)
            assert reading.voltage_v is not None
            assert 198 < reading.voltage_v < 242
            assert reading.current_a == pytest.approx(5_000 / reading.voltage_v, rel=0.3)
            assert (reading.output_closed, reading.feedback_closed) == (True, True)
            assert reading.meter_clock_s == pytest.approx(site.utc_ms(site.now_s()) / 1000, abs=2)
            for lane in (Lane.SHORT, Lane.SLOW):
                assert (await client.poll(lane)).energy_wh[1] == reading.energy_wh[1]
        finally:
            await client.close()


async def test_the_driver_cuts_and_sees_it() -> None:
    """A commissioned output obeys; afterwards output, feedback and current say so."""
    async with running_site() as site:
        client = client_of(site)
        try:
            await client.connect()
            assert (await client.check_output()).mode == 2
            await client.switch(closed=False)
            await asyncio.sleep(0.35)
            reading = await client.poll(Lane.FULL)
            assert (reading.output_closed, reading.feedback_closed) == (False, False)
            assert reading.current_a == 0
            (cut,) = site.openings("flat-101")
            assert reading.energy_wh[0] <= (cut.contactor_wh or 0)
        finally:
            await client.close()


async def test_the_driver_is_refused_by_protection_and_by_another_device() -> None:
    """Write protection is exception 0xF0, a PAC2200 at the address an identity error."""
    async with running_site() as site:
        client = client_of(site)
        try:
            await client.connect()
            await site.add_fault("flat-101", fault_named("write_protected"))
            assert (await client.check_output()).is_write_protected
            with pytest.raises(MeterExceptionError) as refusal:
                await client.switch(closed=False)
            assert refusal.value.exception_code == 0xF0
        finally:
            await client.close()
        await site.add_fault("flat-101", fault_named("identity"))
        stranger = client_of(site)
        try:
            with pytest.raises(MeterIdentityError):
                await stranger.connect()
        finally:
            await stranger.close()
