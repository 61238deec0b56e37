"""All nodes as one group of meters: telemetry in, sealed commands out, presence.

Shaped like the group of polled meters, so that whoever decides need not care which kind a meter is.
What a node says is checked in size before it is parsed, in form before it is believed, in order
before it counts; what it is told is sealed, answered, and has a deadline.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Final

from gateway.core.clock import Clock
from gateway.core.errors import (
    MeterError,
    MeterProtocolError,
    MeterTimeoutError,
    MeterUnreachableError,
    NodeRefusedError,
)
from gateway.core.lease import Grant
from gateway.core.node_form import MESSAGE_BYTES_MAX
from gateway.core.node_message import (
    NodeBacklog,
    NodeLease,
    NodeResult,
    NodeTelemetry,
    device_of,
    parse_backlog,
    parse_event,
    parse_result,
    parse_status,
    parse_telemetry,
)
from gateway.core.node_order import Place
from gateway.core.reading import Lane
from gateway.core.sealing import Command, seal
from gateway.south.budget import FLOOD, Budget
from gateway.south.node_device import (
    SEQUENCE_LEAPS,
    NodeDevice,
    doubt_of,
    is_news,
    late_reading_of,
    lease_args,
    reading_of,
    seen_of,
)
from gateway.south.node_silence import Silence, absence_of
from gateway.south.node_wiring import Listener, MakeLink, OnFailure, OnReading, Registry
from gateway.south.tasks import ended

NS: Final = 1_000_000_000
# Status first: what is retained says what the other messages are.
KINDS: Final = ("status", "backlog", "telemetry", "event", "result")
TOPICS: Final = tuple(f"smartmeter/+/{kind}" for kind in KINDS)
WATCH_EVERY_S: Final = 1.0
# A node is asked for telemetry at most this often.
READ_GAP_NS: Final = NS // 2
COMMAND_DEADLINE_S: Final = 4.0
# A node that hears no command for five minutes takes the gateway for away and keeps its readings.
TOLD_EVERY_NS: Final = 120 * NS
# So many nodes are told the time, or asked, after one sweep: a start of ours meets all of them.
TOLD_PER_SWEEP: Final = 50
ORDER_EXPIRES_S: Final = 30
WAITING_MAX: Final = 1_000
# These are few, and are not held up by a crowd of others.
URGENT: Final = frozenset({"relay", "time"})


class NodeGroup:
    """The nodes of a site, addressed by their place among the nodes.

    `meter_ids` name the points, `period_s` is how often telemetry is expected,
    `first_sequences` continue the sequences of readings of an earlier run.
    """

    def __init__(
        self,
        meter_ids: Sequence[str],
        first_sequences: Sequence[int],
        clock: Clock,
        *,
        registry: Registry,
        listener: Listener,
        make_link: MakeLink,
        new_id: Callable[[], str],
        period_s: float = 10.0,
    ) -> None:
        self.counts: Final[Counter[str]] = Counter()
        self.devices: Final[dict[str, NodeDevice]] = {}
        self._by_index: dict[int, NodeDevice] = {}
        self._sequences = list(first_sequences)
        self._clock = clock
        self._registry = registry
        self._listener = listener
        self._link = make_link(self._message, self._state, self._admits)
        self._new_id = new_id
        self._budget = Budget()
        self._silence = Silence(len(meter_ids), period_s)
        self._waiting: dict[str, tuple[str, asyncio.Future[NodeResult]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_reading: OnReading | None = None
        self._on_failure: OnFailure | None = None
        self._stop = asyncio.Event()
        self._connected: bool | None = None
        self.failure: BaseException | None = None

    # -- as a group of meters --------------------------------------------------------------

    async def run(self, on_reading: OnReading, on_failure: OnFailure) -> None:
        """Hear nodes until `aclose`. Raises what a callback of ours raised."""
        self._on_reading, self._on_failure = on_reading, on_failure
        self._silence.begin(self._clock.mono_ns())
        link = asyncio.create_task(self._link.run(), name="nodes' broker")
        try:
            while not self._stop.is_set() and not link.done() and self.failure is None:
                self._watch()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._clock.loop_delay_s(WATCH_EVERY_S)):
                        await self._stop.wait()
            if link.done():
                await link
        finally:
            await ended({link, *self._tasks})
        if self.failure is not None:
            raise self.failure

    async def aclose(self) -> None:
        """Stop hearing nodes."""
        self._stop.set()

    def can_switch(self, index: int) -> bool:
        """Whether the node has shown a relay."""
        device = self._by_index.get(index)
        return device is not None and device.has_relay

    @property
    def is_connected(self) -> bool:
        """Whether the broker was there a moment ago."""
        return self._link.is_connected

    def device_at(self, index: int) -> NodeDevice | None:
        """The device that serves a point; None before it was heard."""
        return self._by_index.get(index)

    def forget(self, device_id: str) -> None:
        """A device lost its approval, or got one: it begins anew."""
        device = self.devices.pop(device_id, None)
        if device is not None:
            self._by_index.pop(device.index, None)

    def request_poll(self, index: int, due_mono_ns: int, lane: Lane = Lane.SHORT) -> bool:
        """Ask a node for telemetry at a time of the monotonic clock; whether that is possible."""
        del lane  # a node always tells everything
        device = self._by_index.get(index)
        if device is None or not device.session or not self._link.is_connected:
            return False
        due_ns = max(due_mono_ns, device.read_ns + READ_GAP_NS)
        if device.read_at_ns is not None and device.read_at_ns <= due_ns:
            return True
        device.read_at_ns = due_ns
        delay_s = max(0, due_ns - self._clock.mono_ns()) / NS
        loop = asyncio.get_running_loop()
        loop.call_later(self._clock.loop_delay_s(delay_s), self._read, device, due_ns)
        return True

    async def switch(self, index: int, *, closed: bool, deadline_s: float) -> None:
        """Command a relay by a sealed command. Raises a MeterError; returns once it was answered.

        What the relay did is shown by telemetry, as with every meter.
        """
        device = self._device(index)
        if not device.has_relay:
            raise MeterProtocolError("this node has shown no relay")
        try:
            async with asyncio.timeout(deadline_s):
                if closed:
                    await self._listener.before_close(index)
                await self.order(index, "relay", {"closed": closed})
        except TimeoutError:
            raise MeterTimeoutError(f"switch command not answered in {deadline_s} s") from None

    # -- commands --------------------------------------------------------------------------

    async def order(self, index: int, kind: str, args: Mapping[str, object]) -> NodeResult:
        """A command that nobody wants carried out late; a node whose clock is unset or ahead is
        told the time first. Raises as `command`.
        """
        try:
            return await self.command(index, kind, args, expires_in_s=ORDER_EXPIRES_S)
        except NodeRefusedError as refused:
            if refused.node_code not in ("CLOCK_UNSET", "EXPIRED"):
                raise
        await self._set_clock(self._device(index))
        return await self.command(index, kind, args, expires_in_s=ORDER_EXPIRES_S)

    async def command(
        self, index: int, kind: str, args: Mapping[str, object], *, expires_in_s: int = 0
    ) -> NodeResult:
        """Send a sealed command and wait for its result.

        With `expires_in_s` the node refuses it later than that (while the wall clock is trusted).
        Raises MeterUnreachableError (no broker, no session), MeterTimeoutError, NodeRefusedError.
        Nothing is repeated here but what was REPLAYED: after a time-out the node may have carried
        it out.
        """
        device = self._device(index)
        try:
            for leap in SEQUENCE_LEAPS:
                try:
                    return await self._commanded(device, kind, args, expires_in_s)
                except NodeRefusedError as refused:
                    if refused.node_code != "REPLAYED":
                        raise
                # An earlier run of ours went further: by a wrong clock, perhaps by far.
                device.command_seq += leap
            return await self._commanded(device, kind, args, expires_in_s)
        except MeterError as error:
            self.counts[f"failed {error.code}"] += 1
            raise

    async def _commanded(
        self, device: NodeDevice, kind: str, args: Mapping[str, object], expires_in_s: int
    ) -> NodeResult:
        if not device.session:
            raise MeterUnreachableError("the node has told no session yet")
        if len(self._waiting) >= WAITING_MAX and kind not in URGENT:
            raise MeterUnreachableError("too many commands wait for their results")
        now_s = self._listener.unix_s()
        command = Command(
            device=device.device_id,
            session=device.session,
            seq=device.next_seq(self._clock.utc_ms()),
            command_id=self._new_id(),
            type=kind,
            expires_s=now_s + expires_in_s if now_s and expires_in_s else 0,
            args=args,
        )
        message = seal(self._registry.key_of(device.device_id), command)
        answer: asyncio.Future[NodeResult] = asyncio.get_running_loop().create_future()
        self._waiting[command.command_id] = (device.device_id, answer)
        self.counts["commands"] += 1
        device.told_ns = self._clock.mono_ns()
        topic = f"smartmeter/{device.device_id}/command"
        try:
            async with asyncio.timeout(COMMAND_DEADLINE_S):
                await self._link.publish(topic, message, COMMAND_DEADLINE_S)
                result = await answer
        except TimeoutError:
            raise MeterTimeoutError(f"{kind} not answered in {COMMAND_DEADLINE_S} s") from None
        finally:
            self._waiting.pop(command.command_id, None)
        if result.ok:
            return result
        raise NodeRefusedError(result.code or "REFUSED", result.message)

    async def grant(self, index: int, lease: Grant, epoch: str) -> None:
        """Give a node its lease. Raises as `command`."""
        device = self._device(index)
        seq = device.next_lease_seq(epoch)
        await self.command(index, "lease", lease_args(lease, epoch, seq))
        device.lease = NodeLease(epoch, seq, lease.cutoff_wh, lease.expires_s, lease.limits)

    async def send_chunk(self, device_id: str, offset: int, chunk: bytes) -> None:
        """Send bytes of an update. Raises MeterUnreachableError, MeterTimeoutError."""
        topic = f"smartmeter/{device_id}/firmware"
        await self._link.publish(topic, offset.to_bytes(4, "big") + chunk, COMMAND_DEADLINE_S)

    def _device(self, index: int) -> NodeDevice:
        device = self._by_index.get(index)
        if device is None:
            raise MeterUnreachableError("no device of this meter was heard yet")
        return device

    async def _set_clock(self, device: NodeDevice) -> None:
        unix_s, session = self._listener.unix_s(), device.session
        if unix_s:
            device.timed_ns = self._clock.mono_ns()
            await self.command(device.index, "time", {"unix_s": unix_s})
            device.timed_session = session

    def _read(self, device: NodeDevice, due_ns: int) -> None:
        """The time of a wish for telemetry has come."""
        if device.read_at_ns != due_ns or self._stop.is_set():
            return
        device.read_at_ns = None
        device.read_ns = self._clock.mono_ns()
        self._send(device, "read", {})

    def _send(self, device: NodeDevice, kind: str, args: Mapping[str, object]) -> None:
        """A command of which nothing depends on the answer."""

        async def send() -> None:
            await self.command(device.index, kind, args)

        self.spawn(send(), f"{kind} {device.device_id}")

    def spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        """Run something that may fail as nodes fail: it was counted, and telemetry goes on."""
        task = asyncio.create_task(self._quietly(work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        # A task that is cancelled before its first step has not begun what it wraps.
        task.add_done_callback(lambda _task: work.close())

    async def _quietly(self, work: Coroutine[None, None, None]) -> None:
        with suppress(MeterError):
            await work

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failure = self.failure or task.exception()

    # -- messages --------------------------------------------------------------------------

    def _state(self, connected: bool, reason: str) -> None:  # noqa: FBT001 - the link's callback
        before, self._connected = self._connected, connected
        # The first connection is no news.
        if connected is not (True if before is None else before):
            self._listener.broker(connected=connected, reason=reason)

    def _admits(self, topic: str) -> bool:
        """Whether a message is heard at all; asked before there is any work on it."""
        device_id, kind = topic.split("/")[1:]
        admitted = self._budget.admits(device_id, kind, self._clock.mono_ns())
        if not admitted:
            self.counts[f"refused {MeterProtocolError.code}"] += 1
        return admitted

    def _message(self, topic: str, payload: bytes, retained: bool) -> None:  # noqa: FBT001
        """One message of the broker; nothing that a node sends gets out of here as an error."""
        self.counts["messages"] += 1
        device: NodeDevice | None = None
        try:
            device_id, kind = device_of(topic)
            device = self._known(device_id)
            if device is not None and self._budget.is_news(device_id):
                self._listener.refused(device.index, MeterProtocolError(FLOOD))
            if len(payload) > MESSAGE_BYTES_MAX:
                raise MeterProtocolError(f"a message of {len(payload)} bytes")
            if device is None:
                self._knock(device_id, kind, payload, retained=retained)
            elif kind == "status":
                self._status(device, payload)
            elif not retained:
                self._take(device, kind, payload)
        except MeterError as error:
            self.counts[f"refused {error.code}"] += 1
            if device is not None:
                device.refused += 1
                if device.refused == 1:
                    self._listener.refused(device.index, error)

    def _known(self, device_id: str) -> NodeDevice | None:
        index = self._registry.index_of(device_id)
        if index is None:
            self.forget(device_id)
            return None
        device = self.devices.get(device_id)
        if device is None or device.index != index:
            device = self.devices[device_id] = NodeDevice(device_id, index)
            device.order.restore(*self._registry.order_of(device_id))
            self._by_index[index] = device
        return device

    def _knock(self, device_id: str, kind: str, payload: bytes, *, retained: bool) -> None:
        if kind == "telemetry" and not retained:
            told = parse_telemetry(payload, device_id)
            self._registry.knock(device_id, told.firmware)

    def _take(self, device: NodeDevice, kind: str, payload: bytes) -> None:
        if kind == "telemetry":
            self._telemetry(device, parse_telemetry(payload, device.device_id))
        elif kind == "backlog":
            self._backlog(device, parse_backlog(payload, device.device_id))
        elif kind == "event":
            event = parse_event(payload, device.device_id)
            if event.chunk is not None or device.is_news(event):
                self._listener.event(device.index, event)
            else:
                self.counts["event duplicate"] += 1
        elif kind == "result":
            result = parse_result(payload, device.device_id)
            expected, answer = self._waiting.get(result.command_id, ("", None))
            if answer is not None and expected == device.device_id and not answer.done():
                answer.set_result(result)

    def _status(self, device: NodeDevice, payload: bytes) -> None:
        status = parse_status(payload, device.device_id)
        if status.online and status.session:
            place = device.order.announced(status.session, status.boot_id, self._clock.mono_ns())
            if not self._is_alone(device, place) or place is Place.OLDER:
                return
            device.drain.announced(status.spooled, status.session, self._clock.mono_ns())
        device.take_status(status)

    def _is_alone(self, device: NodeDevice, place: Place) -> bool:
        if place is not Place.TWIN:
            return True
        self._registry.quarantine(device.device_id, "two devices use this name in turn")
        self.forget(device.device_id)
        return False

    def _telemetry(self, device: NodeDevice, told: NodeTelemetry) -> None:
        now_ns = self._clock.mono_ns()
        place = device.order.place(told.boot_id, told.seq, told.session, now_ns)
        self.counts[f"telemetry {place.value}"] += 1
        if not self._is_alone(device, place) or place in (Place.DUPLICATE, Place.OLDER):
            return
        device.refused = 0
        device.take_telemetry(told, now_ns)
        self._listener.telemetry(device.index, told)
        error = doubt_of(told)
        if error is not None:
            self._fail(device.index, error)
        elif device.drain.holds(now_ns):
            self.counts["telemetry waiting"] += 1
        elif self._on_reading is not None:
            sequence, utc_ms = self._sequence(device.index), self._clock.utc_ms()
            self._on_reading(device.index, reading_of(told, sequence, now_ns, utc_ms))
            return
        if told.relay_closed is not None:
            self._listener.output(device.index, seen_of(told, now_ns))

    def _backlog(self, device: NodeDevice, backlog: NodeBacklog) -> None:
        """Kept readings, in their order through the same guard as live ones.

        A record without a time is passed over: the next one with a time has its energy. So is what
        is settled already, such as a segment that comes again, and what no node keeps for so long.
        While our own clock is in doubt none is judged: the node sends them again for the time.
        """
        if backlog.session != device.session:
            self.counts["backlog older"] += 1
            return
        now_ns, utc_ms = self._clock.mono_ns(), self._clock.utc_ms()
        if not self._listener.unix_s():
            self.counts["backlog waiting"] += 1
            device.timed_session = ""
            device.drain.postponed(now_ns)
            return
        for record in backlog.records:
            if not is_news(record, self._listener.settled(device.index), utc_ms):
                self.counts["backlog passed over"] += 1
                continue
            self.counts["backlog taken"] += 1
            device.drain.moved(now_ns)
            if self._on_reading is not None:
                sequence = self._sequence(device.index)
                late = late_reading_of(record, sequence, now_ns, utc_ms)
                self._on_reading(device.index, late)
        device.drain.taken(backlog.segment)

    def swept(self) -> None:
        """A sweep was committed: acknowledge segments whose readings are in it, be heard."""
        for device in self.devices.values():
            if (segment := device.drain.swept()) is not None:
                self._send(device, "ack", {"segment": segment})
        if self._link.is_connected:
            # Not into a broker that is away: what it takes up later would be an old time.
            self._tell()

    def _tell(self) -> None:
        """The time where a node's own is not right, a question where it would feel left alone."""
        now_ns, utc_ms, room = self._clock.mono_ns(), self._clock.utc_ms(), TOLD_PER_SWEEP
        knows = self._listener.unix_s() > 0
        for device in sorted(self.devices.values(), key=lambda one: one.told_ns):
            if not device.session or device.online is False or not room:
                continue
            if knows and device.needs_time(now_ns, utc_ms):
                self.spawn(self._set_clock(device), f"clock {device.device_id}")
            elif device.online and now_ns - device.told_ns >= TOLD_EVERY_NS:
                self._send(device, "read", {})
            else:
                continue
            device.told_ns = now_ns
            room -= 1

    def _sequence(self, index: int) -> int:
        sequence, self._sequences[index] = self._sequences[index], self._sequences[index] + 1
        return sequence

    # -- presence --------------------------------------------------------------------------

    def _watch(self) -> None:
        """Nodes that are silent for too long have failed, once a period."""
        for index, silent_s in self._silence.found(self._clock.mono_ns(), self._by_index):
            device, connected = self._by_index.get(index), self._link.is_connected
            self._fail(index, absence_of(device, silent_s, is_connected=connected))

    def _fail(self, index: int, error: MeterError) -> None:
        if self._on_failure is not None:
            self._on_failure(index, error)
