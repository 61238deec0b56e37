"""Who is polled when: one heap, one timer, one call at the end of each poll.

Regular polls lie on a grid: start + phase of the meter + k x period, so that they never drift and
never bunch. A predicted poll is due when the credit of a meter could be used up at the earliest; it
takes the place of the next regular one, which then follows one period after it at the latest.

A poll of a meter that is connected is no task: the link calls `_polled` when it ends. Only
connecting is a task.
"""

import asyncio
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from gateway.core.clock import Clock
from gateway.core.errors import MeterError, MeterTimeoutError
from gateway.core.reading import Lane, Reading
from gateway.south.meter import MeterClient
from gateway.south.pacing import Jitter, PollerMetrics, backoff_s, phases_ns

NS_PER_S: Final = 1_000_000_000
# The meter renews its registers every 200 ms; asking more often than this only loads it.
PREDICTED_GAP_NS: Final = 50_000_000
# Event loops round timers to a millisecond; a poll due within half of one starts now, or the loop
# would spin until it is due.
EARLY_S: Final = 0.0005
CONNECT_RETRY_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PollerOptions:
    """Limits and periods of a poller, in seconds of the clock.

    `slow_every_s` is how often a regular poll takes the slow lane. `connect_limit` bounds first
    attempts to connect that run at once, `reconnect_limit` attempts to meters that failed before:
    two pools, so that the dead never keep the living waiting. `predicted_limit` bounds how many
    meters are polled ahead of the grid at once.
    """

    period_s: float = 1.0
    slow_every_s: float = 300.0
    connect_limit: int = 256
    reconnect_limit: int = 32
    predicted_limit: int = 100


class _Meter:
    """What the poller remembers of one meter.

    Of the poll that runs (`is_polled`): its `lane`, and whether it came ahead of the grid.
    """

    __slots__ = (
        "client",
        "connect_pool",
        "done",
        "due_ns",
        "failures",
        "full_ns",
        "index",
        "is_ahead",
        "is_polled",
        "is_predicted",
        "lane",
        "phase_ns",
        "predicted_lane",
        "predicted_ns",
        "slow_ns",
        "start_ns",
    )

    def __init__(self, index: int, client: MeterClient) -> None:
        self.index = index
        self.client = client
        self.phase_ns = 0
        self.due_ns = 0
        self.start_ns = 0
        self.full_ns = 0
        self.slow_ns = 0
        self.failures = 0
        self.predicted_ns: int | None = None
        self.predicted_lane = Lane.SHORT
        self.is_predicted = False
        self.connect_pool: int | None = None
        self.is_polled = False
        self.is_ahead = False
        self.lane = Lane.FULL
        self.done: Callable[[Reading | MeterError], None] = _nobody


class Poller:
    """Polls meters and passes on what they answer.

    `on_reading(index, reading)` and `on_failure(index, error)` are called in the event loop with
    the place of the meter in `meters`; they must be quick and must not raise: an error of theirs
    ends `run`. `jitter` spreads reconnections.
    """

    def __init__(
        self,
        meters: Sequence[MeterClient],
        clock: Clock,
        on_reading: Callable[[int, Reading], None],
        on_failure: Callable[[int, MeterError], None],
        *,
        jitter: Jitter,
        options: PollerOptions | None = None,
    ) -> None:
        self.metrics: Final = PollerMetrics()
        self._clock = clock
        self._on_reading = on_reading
        self._on_failure = on_failure
        self._jitter = jitter
        self._options = options or PollerOptions()
        self._period_ns = round(self._options.period_s * NS_PER_S)
        if self._period_ns <= 0:
            raise ValueError(f"period {self._options.period_s} s is not positive")
        self._slow_period_ns = max(self._period_ns, round(self._options.slow_every_s * NS_PER_S))
        self._meters = [_Meter(index, client) for index, client in enumerate(meters)]
        for meter in self._meters:
            meter.done = partial(self._polled, meter)
        self._early_ns = round(EARLY_S / max(clock.loop_delay_s(1.0), 1e-9) * NS_PER_S)
        self._base_ns = 0
        self._heap: list[tuple[int, int]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._stopped: asyncio.Future[None] | None = None
        self._predicted = 0
        self._connecting = [0, 0]
        self._group: asyncio.TaskGroup | None = None
        self._connects: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Poll until `aclose` is called or the task is cancelled; then close every connection."""
        if self._group is not None:
            raise RuntimeError("a poller runs once")
        self._loop = asyncio.get_running_loop()
        self._stopped = self._loop.create_future()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._lay_out()
                if not self._is_stopping:
                    await self._stopped
                for task in self._connects:
                    task.cancel()
        finally:
            self._is_stopping = True
            if self._timer is not None:
                self._timer.cancel()
            for meter in self._meters:
                meter.client.abort()
            self._ended.set()

    async def aclose(self, deadline_s: float = 5.0) -> None:
        """Stop polling and close all connections, within `deadline_s` seconds of the event loop.

        Raises TimeoutError when that was not enough.
        """
        self._is_stopping = True
        self._end(None)
        if self._group is not None:
            async with asyncio.timeout(deadline_s):
                await self._ended.wait()
        async with asyncio.timeout(deadline_s):
            for meter in self._meters:
                await meter.client.close()

    def client(self, index: int) -> MeterClient:
        """The meter at this place."""
        return self._meters[index].client

    def request_poll(self, index: int, due_mono_ns: int, lane: Lane = Lane.SHORT) -> bool:
        """Poll a meter at `due_mono_ns` instead of at its next regular time.

        Not sooner than 50 ms after the start of its latest poll, and after the one that runs. The
        poll takes the full lane when the last full one is two periods old. Of several wishes the
        earliest counts; any poll that starts before uses them up, since its answer is newer than
        what they were made from. Returns False, and counts it, when the limit of meters polled
        ahead is reached, and False when the meter is being left alone after a failure.
        """
        meter = self._meters[index]
        if meter.failures or self._is_stopping:
            return False
        if not meter.is_predicted:
            if self._predicted >= self._options.predicted_limit:
                self.metrics.predicted_refused += 1
                return False
            meter.is_predicted = True
            self._predicted += 1
        due_ns = max(due_mono_ns, meter.start_ns + PREDICTED_GAP_NS)
        if meter.predicted_ns is None or due_ns < meter.predicted_ns:
            meter.predicted_ns = due_ns
            meter.predicted_lane = lane
            if not meter.is_polled and due_ns < meter.due_ns:
                self._enter(meter, due_ns)
        return True

    async def switch(self, index: int, *, closed: bool, deadline_s: float) -> None:
        """Command a supply closed or open, ahead of queued polls; connects when needed.

        `deadline_s` is in seconds of the event loop. What returning means, and the errors, are
        those of `MeterClient.switch`; MeterTimeoutError also when the deadline passed.
        """
        self.metrics.switches += 1
        try:
            async with asyncio.timeout(deadline_s):
                await self._meters[index].client.switch(closed=closed)
        except TimeoutError:
            raise MeterTimeoutError(f"switch command not answered in {deadline_s} s") from None

    def _lay_out(self) -> None:
        self._base_ns = self._clock.mono_ns()
        ids = [meter.client.endpoint.meter_id for meter in self._meters]
        for meter, phase_ns in zip(self._meters, phases_ns(ids, self._period_ns), strict=True):
            meter.phase_ns = phase_ns
            meter.slow_ns = self._base_ns + self._slow_period_ns * phase_ns // self._period_ns
            meter.full_ns = self._base_ns
            self._enter(meter, self._base_ns + phase_ns)

    def _tick(self) -> None:
        """Start every poll that is due; called by the one timer."""
        self._timer = None
        if self._is_stopping:
            return
        try:
            now_ns = self._clock.mono_ns()
            while self._heap and self._heap[0][0] <= now_ns + self._early_ns:
                due_ns, index = heapq.heappop(self._heap)
                meter = self._meters[index]
                # An entry whose meter was given another time, or is being polled, is void.
                if not meter.is_polled and meter.due_ns == due_ns:
                    self._start(meter, now_ns)
            if self._heap:
                self._arm(self._heap[0][0])
        except Exception as defect:  # noqa: BLE001 - handed to `run`, which raises it
            self._end(defect)

    def _arm(self, due_ns: int) -> None:
        if self._timer is not None and self._timer_ns <= due_ns:
            return
        if self._loop is None or self._is_stopping:
            return
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0, due_ns - self._clock.mono_ns()) / NS_PER_S
        self._timer = self._loop.call_later(self._clock.loop_delay_s(delay_s), self._tick)
        self._timer_ns = due_ns

    def _end(self, defect: Exception | None) -> None:
        """Let `run` return, or raise what should never happen."""
        if self._stopped is None or self._stopped.done():
            return
        if defect is None:
            self._stopped.set_result(None)
        else:
            self._stopped.set_exception(defect)

    def _enter(self, meter: _Meter, due_ns: int) -> None:
        meter.due_ns = due_ns
        heapq.heappush(self._heap, (due_ns, meter.index))
        # Void entries leave when they are due; a flood of wishes must not outgrow that.
        if len(self._heap) > 4 * len(self._meters) + 64:
            self._heap = [(item.due_ns, item.index) for item in self._meters if not item.is_polled]
            heapq.heapify(self._heap)
        self._arm(due_ns)

    def _start(self, meter: _Meter, now_ns: int) -> None:
        is_predicted = meter.predicted_ns is not None and meter.due_ns == meter.predicted_ns
        late_ns = now_ns - meter.due_ns
        if late_ns >= self._period_ns and not is_predicted:
            # The loop stood still or the machine slept: back to the grid, not all at once.
            next_ns = self._next_slot_ns(meter, now_ns)
            self.metrics.skipped += self._slot(meter, next_ns) - self._slot(meter, meter.due_ns)
            # A credit that may be used up does not wait for the grid.
            wish_ns = meter.predicted_ns
            self._enter(meter, next_ns if wish_ns is None else min(next_ns, wish_ns))
            return
        if not meter.client.is_connected and not self._take_connect_place(meter):
            self.metrics.connects_deferred += 1
            delay_s = self._jitter.random() * CONNECT_RETRY_S
            self._enter(meter, now_ns + max(self._early_ns + 1, round(delay_s * NS_PER_S)))
            return
        self.metrics.lateness.observe(max(0, late_ns) / NS_PER_S)
        meter.lane = self._lane(meter, now_ns, is_predicted=is_predicted)
        if meter.lane is Lane.SLOW:
            # Its turn is over however it ends: a device that refuses one of its registers must
            # still be read in full.
            behind = (now_ns - meter.slow_ns) // self._slow_period_ns
            meter.slow_ns += (behind + 1) * self._slow_period_ns
        meter.is_ahead = is_predicted
        meter.is_polled = True
        meter.predicted_ns = None
        meter.start_ns = now_ns
        if meter.connect_pool is None:
            self._begin(meter)
            return
        if self._group is None:
            raise AssertionError("scheduled without a task group")
        task = self._group.create_task(
            self._connect(meter), name=f"connect {meter.client.endpoint.meter_id}"
        )
        self._connects.add(task)
        task.add_done_callback(self._connects.discard)

    async def _connect(self, meter: _Meter) -> None:
        """Connect, then poll. The place for connecting is kept until the first poll has ended."""
        try:
            await meter.client.connect()
        except MeterError as error:
            self._polled(meter, error)
        else:
            self._begin(meter)

    def _begin(self, meter: _Meter) -> None:
        try:
            meter.client.begin_poll(meter.lane, meter.done)
        except MeterError as error:
            self._polled(meter, error)

    def _polled(self, meter: _Meter, outcome: Reading | MeterError) -> None:
        """A poll ended. Called by the link, which must not be given what goes wrong in here."""
        meter.is_polled = False
        if meter.connect_pool is not None:
            self._connecting[meter.connect_pool] -= 1
            meter.connect_pool = None
        if self._is_stopping:
            return
        try:
            now_ns = self._clock.mono_ns()
            if isinstance(outcome, MeterError):
                self._count_failure(meter, outcome)
                self._on_failure(meter.index, outcome)
            else:
                self._count_reading(meter, now_ns)
                self._on_reading(meter.index, outcome)
            self._enter(meter, self._next_due_ns(meter, now_ns))
        except Exception as defect:  # noqa: BLE001 - handed to `run`, which raises it
            self._end(defect)

    def _count_reading(self, meter: _Meter, now_ns: int) -> None:
        metrics = self.metrics
        metrics.polls += 1
        metrics.predicted += meter.is_ahead
        metrics.round_trip.observe(meter.client.round_trips.latest_s)
        metrics.poll_time.observe((now_ns - meter.start_ns) / NS_PER_S)
        meter.failures = 0
        if meter.lane is not Lane.SHORT:
            meter.full_ns = meter.start_ns

    def _count_failure(self, meter: _Meter, error: MeterError) -> None:
        failures = self.metrics.failures
        failures[error.code] = failures.get(error.code, 0) + 1
        meter.predicted_ns = None
        # A meter that answers, if only with an exception, is not left alone.
        if not meter.client.is_connected:
            meter.failures += 1

    def _next_due_ns(self, meter: _Meter, now_ns: int) -> int:
        if meter.predicted_ns is None and meter.is_predicted:
            meter.is_predicted = False
            self._predicted -= 1
        place = self._slot(meter, now_ns)
        if meter.failures > 1:
            pause_s = backoff_s(meter.failures - 1, self._jitter)
            due_ns = now_ns + round(pause_s * NS_PER_S)
            self.metrics.held_back += self._slot(meter, due_ns) - place
            self.metrics.skipped += place - self._slot(meter, meter.start_ns)
            return due_ns
        if meter.is_ahead and meter.failures == 0:
            # In place of the next regular poll, and never longer than a period after this one.
            due_ns = meter.start_ns + self._period_ns
        else:
            due_ns = self._base_ns + meter.phase_ns + (place + 1) * self._period_ns
            self.metrics.skipped += place - self._slot(meter, meter.start_ns)
        return due_ns if meter.predicted_ns is None else min(due_ns, meter.predicted_ns)

    def _lane(self, meter: _Meter, now_ns: int, *, is_predicted: bool) -> Lane:
        if is_predicted:
            is_full_old = now_ns - meter.full_ns >= 2 * self._period_ns
            return Lane.FULL if is_full_old else meter.predicted_lane
        return Lane.SLOW if now_ns >= meter.slow_ns else Lane.FULL

    def _take_connect_place(self, meter: _Meter) -> bool:
        pool = int(meter.failures > 1)
        limit = (self._options.connect_limit, self._options.reconnect_limit)[pool]
        if self._connecting[pool] >= limit:
            return False
        self._connecting[pool] += 1
        meter.connect_pool = pool
        self.metrics.connects += 1
        return True

    def _slot(self, meter: _Meter, at_ns: int) -> int:
        """The number of the grid place at or before `at_ns`."""
        return (at_ns + self._early_ns - self._base_ns - meter.phase_ns) // self._period_ns

    def _next_slot_ns(self, meter: _Meter, after_ns: int) -> int:
        place = self._slot(meter, after_ns) + 1
        return self._base_ns + meter.phase_ns + place * self._period_ns


def _nobody(_outcome: Reading | MeterError) -> None:
    """Where the outcome of a poll goes before the poller is built."""
