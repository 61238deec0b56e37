"""Links that lie, stall and break between the poller and an honest simulated meter."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from gateway.app.clock import SystemClock, seeded
from gateway.core.errors import MeterError
from gateway.core.reading import Reading
from gateway.sim.site import Site
from gateway.south.meter import MeterClient, MeterEndpoint
from gateway.south.poller import Poller, PollerOptions
from tests.faults.proxy import HOST, NAMES, FaultProxy, Trick, proxied
from tests.sim.sim_sites import running_site
from tests.south.south_peers import until

pytestmark = pytest.mark.slow

LOAD_W = 3_000
BACK_S = 20.0
# What a poll may end with under each fault; where nothing is named, readings go on.
CODES = {
    "refused": {"METER_UNREACHABLE"},
    "black_hole": {"METER_TIMEOUT", "METER_UNREACHABLE"},
    "silent": {"METER_TIMEOUT"},
    "close_mid_reply": {"METER_UNREACHABLE"},
    "drop_out": {"METER_UNREACHABLE"},
    "garbage": {"METER_PROTOCOL"},
    "truncated": {"METER_TIMEOUT"},
    "byte_by_byte": set(),
    "wrong_transaction": {"METER_PROTOCOL"},
    "wrong_unit": {"METER_PROTOCOL"},
    "wrong_function": {"METER_PROTOCOL"},
    "fewer_registers": {"METER_PROTOCOL"},
    "huge_length": {"METER_PROTOCOL"},
    "duplicate": {"METER_PROTOCOL", "METER_UNREACHABLE"},
    "late_reply": {"METER_TIMEOUT"},
    "busy": {"METER_EXCEPTION"},
    "bit_flip": {"METER_PROTOCOL", "METER_TIMEOUT"},
    "jitter": set(),
    "thin_line": set(),
    "reordered": set(),
    "stalled_requests": {"METER_TIMEOUT"},
    "stalled_replies": {"METER_TIMEOUT"},
}


class Watch:
    """A poller of meters behind proxies that believes no reading without the simulator's word."""

    def __init__(self, site: Site, ports: Sequence[int], *, pipeline: int = 1) -> None:
        self._customers = site.customers()
        self._site = site
        self.readings: list[list[Reading]] = [[] for _ in ports]
        self.failures: list[list[MeterError]] = [[] for _ in ports]
        clock = SystemClock()
        clients = [
            MeterClient(
                MeterEndpoint(
                    meter_id=customer.id,
                    model="pac3220",
                    host=HOST,
                    port=port,
                    timeout_s=0.8,
                    pipeline=pipeline,
                ),
                clock,
            )
            for customer, port in zip(self._customers, ports, strict=False)
        ]
        self.poller = Poller(
            clients,
            clock,
            self._on_reading,
            lambda index, error: self.failures[index].append(error),
            jitter=seeded(3),
            options=PollerOptions(period_s=0.2),
        )

    def codes(self, index: int) -> set[str]:
        """How polls of a meter failed."""
        return {error.code for error in self.failures[index]}

    def _on_reading(self, index: int, reading: Reading) -> None:
        meter, now_s = self._customers[index].meter, self._site.now_s()
        meter.advance(now_s)
        totals = meter.counters.totals(meter.counters.refreshed_s(now_s))
        shown = (int(totals[0]), int(totals[1]))
        for read_wh, shown_wh in zip(reading.energy_wh, shown, strict=True):
            assert 0 <= shown_wh - read_wh <= 3, f"{reading.energy_wh} read, {shown} shown"
        earlier = self.readings[index]
        if earlier:
            assert reading.sequence == earlier[-1].sequence + 1
            assert reading.energy_wh >= earlier[-1].energy_wh
        earlier.append(reading)


@asynccontextmanager
async def watching(
    meters: int, *, pipeline: int = 1, seed: int = 1
) -> AsyncIterator[tuple[Watch, list[FaultProxy]]]:
    """A simulated site behind proxies, polled and read once."""
    async with running_site(meters=meters, load_w=LOAD_W) as site:
        addresses = [(customer.port.host, customer.port.port) for customer in site.customers()]
        async with proxied(*addresses, seed=seed) as proxies:
            watch = Watch(site, [proxy.port for proxy in proxies], pipeline=pipeline)
            task = asyncio.create_task(watch.poller.run())
            try:
                await until(lambda: all(len(read) >= 2 for read in watch.readings), BACK_S)
                yield watch, proxies
            finally:
                if not task.done():
                    await watch.poller.aclose()
                await asyncio.wait_for(task, 10)


def test_every_fault_of_the_proxy_is_in_the_catalogue() -> None:
    """A fault that is added needs its expectation here."""
    assert set(CODES) == set(NAMES)


async def fail_and_heal(watch: Watch, proxies: Sequence[FaultProxy], index: int, name: str) -> None:
    """Put one fault on one link, wait for what it does, end it, wait for readings."""
    ill, codes, failures = proxies[index], CODES[name], watch.failures[index]
    readings = watch.readings[index]
    await ill.put(name)
    before = len(readings)
    await until(lambda: len(failures) >= 2 if codes else len(readings) >= before + 4, BACK_S)
    assert watch.codes(index) <= codes, failures
    assert ill.open <= 1, "a meter has three places for connections: one is ours"
    await ill.clear()
    again = len(readings)
    await until(lambda: len(readings) >= again + 2, BACK_S)
    assert ill.open == 1


@pytest.mark.alone
async def test_faulty_links_fail_by_name_and_heal() -> None:
    """No untrue reading, the error of its kind, readings when it ends; nothing at the neighbour."""
    async with watching(len(NAMES) + 1) as (watch, proxies):
        outcomes = await asyncio.gather(
            *(fail_and_heal(watch, proxies, index, name) for index, name in enumerate(NAMES)),
            return_exceptions=True,
        )
        wrong = {name: repr(told) for name, told in zip(NAMES, outcomes, strict=True) if told}
        assert not wrong
        assert not watch.failures[-1]
        assert proxies[-1].connections == 1


async def test_reordered_replies_of_a_pipeline_find_their_requests() -> None:
    """Three requests in flight, replies the other way round: matched by transaction alone."""
    async with watching(1, pipeline=3) as (watch, proxies):
        await proxies[0].put(Trick.REORDERED)
        before = len(watch.readings[0])
        await until(lambda: len(watch.readings[0]) >= before + 5, BACK_S)
        assert proxies[0].struck[Trick.REORDERED] > 5
        assert not watch.failures[0]


async def test_two_meters_that_changed_places_give_no_reading() -> None:
    """The device at the address has another serial number: METER_IDENTITY until it is put right."""
    async with watching(2) as (watch, proxies):
        first, second = proxies[0].upstream, proxies[1].upstream
        await proxies[0].move(second)
        await proxies[1].move(first)
        await until(lambda: all("METER_IDENTITY" in watch.codes(at) for at in (0, 1)), BACK_S)
        stopped = [len(read) for read in watch.readings]
        await asyncio.sleep(1.0)
        assert [len(read) for read in watch.readings] == stopped
        await proxies[0].move(first)
        await proxies[1].move(second)
        await until(
            lambda: all(len(watch.readings[at]) >= stopped[at] + 2 for at in (0, 1)), BACK_S
        )


async def test_a_storm_of_faults_makes_no_untrue_reading() -> None:
    """Every fault in any order at six meters: each reading is true, and all are read after it."""
    seed = time.time_ns() % 1_000_000
    print(f"storm: seed {seed}")  # noqa: T201 - the way back to a failure
    async with watching(7, seed=seed) as (watch, proxies):
        stormy = proxies[:6]
        await asyncio.gather(*(proxy.follow(proxy.storm(5.0)) for proxy in stormy))
        assert all(watch.failures[:6])
        assert not watch.failures[6], "the meter without faults"
        for proxy in stormy:
            await proxy.clear()
        read = [len(readings) for readings in watch.readings]
        await until(
            lambda: all(len(watch.readings[at]) >= read[at] + 2 for at in range(7)), 2 * BACK_S
        )
        await until(lambda: all(proxy.open == 1 for proxy in proxies), BACK_S)
