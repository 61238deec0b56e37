"""Many meters: the grid, dead meters, predicted polls, switching, stopping."""

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import uvloop

from gateway.app.clock import SystemClock
from gateway.core.errors import MeterError, MeterTimeoutError, MeterUnreachableError
from gateway.core.reading import Lane, Reading
from gateway.south.meter import MeterClient, MeterEndpoint
from gateway.south.poller import Poller, PollerOptions
from tests.south.south_peers import HOST, Peer, black_hole, float64, serving, until

pytestmark = pytest.mark.slow

MS = 1_000_000


class Site:
    """A running poller and what it reported."""

    def __init__(
        self,
        ports: Sequence[int],
        options: PollerOptions,
        *,
        timeout_s: float = 1.0,
        first_sequence: int = 1,
    ) -> None:
        self.clock = SystemClock()
        self.readings: list[tuple[int, Reading]] = []
        self.failures: list[tuple[int, MeterError]] = []
        clients = [
            MeterClient(
                MeterEndpoint(
                    meter_id=f"flat-{index}",
                    model="pac3220",
                    host=HOST,
                    port=port,
                    timeout_s=timeout_s,
                ),
                self.clock,
                first_sequence=first_sequence,
            )
            for index, port in enumerate(ports)
        ]
        self.poller = Poller(
            clients,
            self.clock,
            self.on_reading,
            lambda index, error: self.failures.append((index, error)),
            jitter=random.Random(5),
            options=options,
        )

    def on_reading(self, index: int, reading: Reading) -> None:
        """Keep a reading."""
        self.readings.append((index, reading))

    def of(self, index: int) -> list[Reading]:
        """The readings of one meter."""
        return [reading for at, reading in self.readings if at == index]


def gaps_ns(readings: Sequence[Reading]) -> list[int]:
    """The time from reading to reading."""
    return [later.mono_ns - earlier.mono_ns for earlier, later in pairwise(readings)]


@asynccontextmanager
async def polling(site: Site) -> AsyncIterator[Site]:
    """Run a site's poller while the block runs, then stop it."""
    task = asyncio.create_task(site.poller.run())
    try:
        yield site
    finally:
        await site.poller.aclose()
        await asyncio.wait_for(task, 5)


async def test_meters_are_polled_on_a_grid_that_does_not_drift() -> None:
    """Starts lie a whole number of periods apart, evenly spread over the meters."""
    peers = [Peer() for _ in range(5)]
    async with serving(*peers):
        site = Site([peer.port for peer in peers], PollerOptions(period_s=0.1))
        async with polling(site):
            await until(lambda: all(len(site.of(index)) >= 8 for index in range(5)))
        base_ns = site.poller._base_ns
        for meter in site.poller._meters:
            slots = [
                (reading.mono_ns - base_ns - meter.phase_ns) / (100 * MS)
                for reading in site.of(meter.index)
            ]
            assert [int(slot) for slot in slots[:8]] == list(range(8))
            assert [reading.sequence for reading in site.of(meter.index)[:8]] == [*range(1, 9)]
        assert sorted(meter.phase_ns for meter in site.poller._meters) == [
            20 * MS * place for place in range(5)
        ]
        assert [peer.connections for peer in peers] == [1] * 5
        assert site.poller.metrics.skipped == 0
        assert site.failures == []


async def test_sequences_go_on_from_where_they_were() -> None:
    """A restart continues the numbers it was given."""
    peer = Peer()
    async with serving(peer):
        site = Site([peer.port], PollerOptions(period_s=0.05), first_sequence=901)
        async with polling(site):
            await until(lambda: len(site.readings) >= 3)
    assert [reading.sequence for reading in site.of(0)[:3]] == [901, 902, 903]


@pytest.mark.alone
async def test_a_poll_whose_predecessor_still_runs_is_skipped_and_counted() -> None:
    """Never two polls of one meter at once; the places passed over are counted."""
    peer = Peer()
    async with serving(peer):
        site = Site([peer.port], PollerOptions(period_s=0.05))
        async with polling(site):
            await until(lambda: len(site.readings) >= 2)
            peer.latency_s = 0.04
            await until(lambda: len(site.readings) >= 6)
            metrics = site.poller.metrics
            assert metrics.skipped >= 6
            assert min(gaps_ns(site.of(0)[2:])) > 110 * MS
    assert peer.connections == 1


@pytest.mark.alone
async def test_black_holed_meters_delay_no_other() -> None:
    """With a third of the meters dead, every healthy one keeps its period."""
    peers = [Peer() for _ in range(20)]
    async with serving(*peers), black_hole() as hole:
        ports = [peer.port for peer in peers] + [hole] * 10
        site = Site(ports, PollerOptions(period_s=0.2), timeout_s=0.5)
        async with polling(site):
            await asyncio.sleep(3.0)
            metrics = site.poller.metrics
            assert metrics.lateness.quantile_ms(0.99) <= 50
        for index in range(20):
            assert len(site.of(index)) >= 13
            assert max(gaps_ns(site.of(index))) < 300 * MS
        assert {index for index, _ in site.failures} == set(range(20, 30))
        assert {type(error) for _, error in site.failures} == {MeterTimeoutError}
        assert metrics.skipped + metrics.held_back > 50
        assert metrics.failures == {"METER_TIMEOUT": len(site.failures)}


async def test_the_dead_do_not_use_up_the_places_for_connecting() -> None:
    """Even with one place for meters that failed before, a new one connects at once."""
    peer = Peer()
    async with serving(peer), black_hole() as hole:
        options = PollerOptions(period_s=0.05, connect_limit=6, reconnect_limit=1)
        site = Site([hole] * 5 + [peer.port], options, timeout_s=0.2)
        async with polling(site):
            await until(lambda: len(site.of(5)) >= 10, 2.0)
            site.poller.client(5).abort()
            before = len(site.of(5))
            await until(lambda: len(site.of(5)) >= before + 5, 1.0)
            await until(lambda: site.poller.metrics.connects_deferred > 0)


async def test_a_refused_meter_is_left_alone_longer_and_longer_and_comes_back() -> None:
    """Few attempts while it is down; readings again once it answers."""
    peer = Peer()
    async with serving(peer):
        port = peer.port
    site = Site([port], PollerOptions(period_s=0.02))
    async with polling(site):
        await asyncio.sleep(0.7)
        attempts = len(site.failures)
        assert 2 <= attempts <= 9
        assert {type(error) for _, error in site.failures} == {MeterUnreachableError}
        assert site.poller.metrics.held_back >= 15
        server = await asyncio.start_server(peer.serve, HOST, port)
        await until(lambda: len(site.readings) >= 3, 10.0)
        assert site.poller._meters[0].failures == 0
        server.close()


@pytest.mark.alone
async def test_one_timeout_is_retried_at_the_next_regular_time() -> None:
    """A single loss costs one period, on a new connection."""
    peer = Peer()
    async with serving(peer):
        site = Site([peer.port], PollerOptions(period_s=0.15), timeout_s=0.1)
        async with polling(site):
            await until(lambda: len(site.readings) >= 2)
            peer.latency_s = 0.2
            await until(lambda: len(site.failures) == 1)
            peer.latency_s = 0.0
            lost_ns = site.clock.mono_ns()
            seen = len(site.readings)
            await until(lambda: len(site.readings) > seen)
            assert site.readings[seen][1].mono_ns - lost_ns < 200 * MS
    assert peer.connections == 2
    assert isinstance(site.failures[0][1], MeterTimeoutError)


async def test_a_meter_that_answers_with_exceptions_keeps_its_connection_and_period() -> None:
    """Busy is not dead: no reconnect, no back-off."""
    peer = Peer()
    async with serving(peer):
        site = Site([peer.port], PollerOptions(period_s=0.05))
        async with polling(site):
            await until(lambda: len(site.readings) >= 1)
            peer.refuses = {3: 6}
            await until(lambda: len(site.failures) >= 4, 0.6)
            peer.refuses = {}
            seen = len(site.readings)
            await until(lambda: len(site.readings) > seen, 0.3)
    assert peer.connections == 1
    assert site.poller.metrics.failures.keys() == {"METER_EXCEPTION"}


@pytest.mark.alone
async def test_a_predicted_poll_is_short_on_time_and_replaces_the_next_regular_one() -> None:
    """Due in 150 ms: polled then by the short lane, and again a period later, not in between."""
    peer = Peer()
    async with serving(peer):
        site = Site([peer.port], PollerOptions(period_s=0.4, slow_every_s=1000))
        async with polling(site):
            await until(lambda: len(site.readings) == 2)
            due_ns = site.clock.mono_ns() + 250 * MS
            assert site.poller.request_poll(0, due_ns)
            await until(lambda: len(site.readings) == 4)
        first, second = site.of(0)[2:4]
        assert first.lane is Lane.SHORT
        assert -1 * MS <= first.mono_ns - due_ns < 60 * MS
        assert second.lane is Lane.FULL
        assert 380 * MS < second.mono_ns - first.mono_ns < 460 * MS
        assert site.poller.metrics.predicted == 1


@pytest.mark.alone
async def test_predicted_polls_are_at_least_50_ms_apart_and_never_overlap() -> None:
    """A meter at the edge is asked at most twenty times a second, each after the last reply."""
    peer = Peer()
    peer.latency_s = 0.005
    async with serving(peer):
        site = Site([peer.port], PollerOptions(period_s=0.5))

        def ask_again(index: int, reading: Reading) -> None:
            site.readings.append((index, reading))
            assert site.poller.request_poll(0, 0)

        site.poller._on_reading = ask_again
        async with polling(site):
            await until(lambda: len(site.readings) >= 16)
    gaps = gaps_ns(site.of(0)[2:])
    assert min(gaps) > 35 * MS
    assert sum(gaps) / len(gaps) < 75 * MS
    assert peer.most_open == 1


@pytest.mark.alone
async def test_a_meter_that_is_predicted_for_long_is_still_read_in_full() -> None:
    """Phases and diagnostics are never older than about two periods."""
    peer = Peer()
    async with serving(peer):
        site = Site([peer.port], PollerOptions(period_s=0.1, slow_every_s=1000))

        def ask_again(index: int, reading: Reading) -> None:
            site.readings.append((index, reading))
            site.poller.request_poll(0, 0)

        site.poller._on_reading = ask_again
        async with polling(site):
            await until(lambda: len(site.readings) >= 24)
    full = [reading for reading in site.of(0) if reading.lane is not Lane.SHORT]
    assert len(full) >= 4
    assert max(gaps_ns(full)) < 320 * MS
    assert sum(reading.lane is Lane.SHORT for reading in site.of(0)) > len(full)


@pytest.mark.alone
async def test_a_wish_waits_for_the_poll_that_runs() -> None:
    """Asked for while a poll is on the wire, the next begins right after it."""
    peer = Peer()
    async with serving(peer):
        site = Site([peer.port], PollerOptions(period_s=1.0))
        async with polling(site):
            await until(lambda: len(site.readings) == 1)
            peer.latency_s = 0.04
            site.poller.request_poll(0, 0, Lane.FULL)
            await until(lambda: site.poller._meters[0].is_polled)
            assert site.poller.request_poll(0, 0)
            await until(lambda: len(site.readings) == 3)
    full, short = site.of(0)[1:3]
    assert (full.lane, short.lane) == (Lane.FULL, Lane.SHORT)
    assert 70 * MS < short.mono_ns - full.mono_ns < 160 * MS


async def test_only_so_many_meters_are_polled_ahead_at_once() -> None:
    """Beyond the limit a wish is refused and counted, until another meter is done."""
    peers = [Peer() for _ in range(3)]
    async with serving(*peers):
        options = PollerOptions(period_s=0.3, predicted_limit=2)
        site = Site([peer.port for peer in peers], options)
        async with polling(site):
            await until(lambda: {index for index, _ in site.readings} == {0, 1, 2})
            due_ns = site.clock.mono_ns() + 60 * MS
            assert site.poller.request_poll(0, due_ns)
            assert site.poller.request_poll(1, due_ns)
            assert site.poller.request_poll(0, due_ns)
            assert not site.poller.request_poll(2, due_ns)
            assert site.poller.metrics.predicted_refused == 1
            await until(lambda: site.poller._predicted == 0)
            assert site.poller.request_poll(2, site.clock.mono_ns())


async def test_a_flood_of_wishes_does_not_grow_the_heap() -> None:
    """Each earlier wish voids an entry; void entries are swept away."""
    peer = Peer()
    async with serving(peer):
        site = Site([peer.port], PollerOptions(period_s=5.0))
        async with polling(site):
            await until(lambda: len(site.readings) == 1)
            now_ns = site.clock.mono_ns()
            for step in range(5000):
                site.poller.request_poll(0, now_ns + 4_000 * MS - step * 1000)
            assert len(site.poller._heap) <= 70


async def test_a_switch_overtakes_the_rest_of_a_poll() -> None:
    """It leaves after the reply to the request in flight, before the poll's other requests."""
    peer = Peer()
    async with serving(peer):
        site = Site([peer.port], PollerOptions(period_s=0.5))
        async with polling(site):
            await until(lambda: len(site.readings) == 1)
            peer.latency_s = 0.03
            peer.requests.clear()
            await until(lambda: len(peer.requests) == 1)
            await site.poller.switch(0, closed=True, deadline_s=1.0)
            await until(lambda: len(site.readings) == 2)
            assert [pdu[0] for pdu in peer.requests] == [3, 6, 3, 3]
            assert site.of(0)[1].output_closed is True
    assert peer.writes == [(60008, 0x0100)]


async def test_a_switch_reconnects_a_meter_that_is_being_left_alone() -> None:
    """A command does not wait for the end of a back-off."""
    peer = Peer()
    async with serving(peer):
        site = Site([peer.port], PollerOptions(period_s=0.05))
        async with polling(site):
            await until(lambda: len(site.readings) == 1)
            site.poller._meters[0].failures = 9
            site.poller._enter(site.poller._meters[0], site.clock.mono_ns() + 30_000 * MS)
            site.poller.client(0).abort()
            await site.poller.switch(0, closed=False, deadline_s=1.0)
    assert peer.writes == [(60008, 0)]


async def test_a_switch_has_a_deadline() -> None:
    """A silent meter: MeterTimeoutError within the caller's patience."""
    async with black_hole() as hole:
        site = Site([hole], PollerOptions(), timeout_s=60.0)
        async with asyncio.timeout(10):
            with pytest.raises(MeterTimeoutError, match="switch"):
                await site.poller.switch(0, closed=False, deadline_s=0.1)
        await site.poller.aclose()


async def test_the_slow_lane_comes_round_on_its_own_period() -> None:
    """Now and then a regular poll carries the slow registers, and is a reading like the others."""
    peer = Peer()
    peer.set(841, float64(12.0))
    async with serving(peer):
        site = Site([peer.port], PollerOptions(period_s=0.05, slow_every_s=0.2))
        async with polling(site):
            await until(lambda: len(site.readings) >= 17)
    lanes = [reading.lane for reading in site.of(0)[:17]]
    assert 4 <= lanes.count(Lane.SLOW) <= 6
    assert lanes.count(Lane.SHORT) == 0


async def test_after_a_standstill_meters_return_to_the_grid() -> None:
    """When the loop stood still for periods, the places passed are counted, not caught up with."""
    peers = [Peer() for _ in range(4)]
    async with serving(*peers):
        site = Site([peer.port for peer in peers], PollerOptions(period_s=0.1))
        async with polling(site):
            await until(lambda: all(len(site.of(index)) >= 2 for index in range(4)))
            polls = site.poller.metrics.polls
            time.sleep(0.55)  # noqa: ASYNC251 - the standstill itself
            await asyncio.sleep(0.12)
            assert site.poller.metrics.polls - polls <= 10
            assert site.poller.metrics.skipped >= 12


async def test_an_error_of_the_rules_ends_the_run_and_closes_everything() -> None:
    """A defect in a callback is not swallowed: supervision must see it."""
    peer = Peer()
    async with serving(peer):
        site = Site([peer.port], PollerOptions(period_s=0.05))

        def broken(_index: int, _reading: Reading) -> None:
            raise ZeroDivisionError

        site.poller._on_reading = broken
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(site.poller.run(), 5)
        assert caught.value.subgroup(ZeroDivisionError) is not None
        await until(lambda: peer.open == 0)


async def test_stopping_is_quick_with_silent_meters_and_leaves_nothing_open() -> None:
    """`aclose` does not wait for deadlines of dead meters."""
    peer = Peer()
    async with serving(peer), black_hole() as hole:
        site = Site([peer.port] + [hole] * 5, PollerOptions(period_s=0.05), timeout_s=60.0)
        task = asyncio.create_task(site.poller.run())
        await until(lambda: len(site.readings) >= 2)
        async with asyncio.timeout(10):
            await site.poller.aclose()
            await task
        await until(lambda: peer.open == 0)
        assert not site.poller.request_poll(0, 0)
        with pytest.raises(RuntimeError):
            await site.poller.run()


async def test_cancelling_the_run_closes_every_connection() -> None:
    """The lead's task group may simply cancel it."""
    peer = Peer()
    async with serving(peer):
        site = Site([peer.port], PollerOptions(period_s=0.05))
        task = asyncio.create_task(site.poller.run())
        await until(lambda: len(site.readings) >= 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: peer.open == 0)


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_poller_runs_on_either_event_loop(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """asyncio's loop and uvloop: polls, a switch, a silent meter, no Nagle, a clean end."""

    async def scene() -> None:
        peer = Peer()
        async with serving(peer), black_hole() as hole:
            site = Site([peer.port, hole], PollerOptions(period_s=0.05), timeout_s=0.1)
            async with polling(site):
                await until(lambda: len(site.of(0)) >= 3 and len(site.failures) >= 2)
                await site.poller.switch(0, closed=True, deadline_s=1.0)
                link = site.poller.client(0)._link
                assert link is not None
                assert link._transport is not None
                sock = link._transport.get_extra_info("socket")
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
                await until(lambda: site.of(0)[-1].output_closed is True)
            await until(lambda: peer.open == 0)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(scene())


def test_a_period_of_nothing_is_refused() -> None:
    """A period must be positive."""
    with pytest.raises(ValueError, match="not positive"):
        Poller(
            [],
            SystemClock(),
            lambda _index, _reading: None,
            lambda _index, _error: None,
            jitter=random.Random(1),
            options=PollerOptions(period_s=0.0),
        )
