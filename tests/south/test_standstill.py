"""When our own loop stood still, and when one lane is refused: the meter is not to blame."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine

import pytest
import uvloop

from gateway.app.clock import SystemClock
from gateway.core.reading import Lane
from gateway.south.link import open_link
from gateway.south.modbus import read_request
from gateway.south.pacing import RoundTrips
from gateway.south.poller import PollerOptions
from tests.south.south_peers import HOST, Peer, serving, until
from tests.south.test_poller import Site, polling

pytestmark = pytest.mark.slow


class PeerThread:
    """A peer that answers from a thread of its own, whatever the loop under test does."""

    def __init__(self) -> None:
        self.peer = Peer()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    async def _serve(self) -> None:
        async with serving(self.peer):
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Peer:
        self._thread.start()
        assert self._ready.wait(10)
        return self.peer

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()


Run = Callable[[Coroutine[None, None, None]], None]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_reply_that_waited_for_our_own_loop_is_taken(run: Run) -> None:
    """The loop stood still past the deadline, the reply lay in the socket: no time-out."""

    async def scene(peer: Peer) -> None:
        trips = RoundTrips(0.1)
        link = await open_link(
            HOST,
            peer.port,
            unit=1,
            pipeline=1,
            round_trips=trips,
            clock=SystemClock(),
            timeout_s=1.0,
        )
        here, there = socket.socketpair()
        # Within the callback of another socket, as a meter's reply is: timers may come next.
        asyncio.get_running_loop().add_reader(here, lambda: time.sleep(len(here.recv(8)) * 0.3))
        for _ in range(3):
            asking = asyncio.create_task(link.exchange((read_request(801, 8),)))
            while not link._in_flight:
                await asyncio.sleep(0)
            there.send(b".")
            assert len((await asking)[0].payload) == 16
        asyncio.get_running_loop().remove_reader(here)
        here.close()
        there.close()
        assert link.fault is None
        link.close()
        await link.wait_closed()

    with PeerThread() as peer:
        peer.latency_s = 0.03
        run(scene(peer))


async def test_a_slow_lane_that_is_refused_does_not_take_the_place_of_the_full_one() -> None:
    """An old firmware lacks a register of the slow lane: energy is read all the same."""
    peer = Peer()
    del peer.registers[841]
    async with serving(peer):
        site = Site([peer.port], PollerOptions(period_s=0.05, slow_every_s=0.5))
        async with polling(site):
            await until(lambda: len(site.failures) >= 2, 10)
            taken = len(site.of(0))
            assert taken >= 8
            await until(lambda: len(site.of(0)) >= taken + 3, 10)
        assert {reading.lane for reading in site.of(0)} == {Lane.FULL}


async def test_a_look_that_a_credit_needs_does_not_wait_for_the_grid_after_a_standstill() -> None:
    """It was due a moment after the regular poll, and both were missed: it comes at once."""
    peer = Peer()
    async with serving(peer):
        site = Site([peer.port], PollerOptions(period_s=0.5))
        async with polling(site):
            await until(lambda: bool(site.of(0)))
            meter = site.poller._meters[0]
            assert site.poller.request_poll(0, meter.due_ns + 1_000_000)
            time.sleep(1.2)  # noqa: ASYNC251 - the standstill
            await until(lambda: len(site.of(0)) >= 2)
            assert site.poller.metrics.predicted == 1
