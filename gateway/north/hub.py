"""Live events for any number of listeners: one bounded memory, no listener delays another.

State events (a balance, a supply, a command) are kept in a bounded memory, so a listener that
comes back with the last id it saw gets all it missed. Measurements are not: only the newest of
each meter counts, so a listener gets that.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from gateway.core.errors import RefusedError

KEPT_EVENTS: Final = 4096
QUEUED_EVENTS: Final = 1024
QUEUED_MEASUREMENTS: Final = 1024
MAX_LISTENERS: Final = 32
MEASUREMENT: Final = "measurement.updated"
BALANCE: Final = "account.balance_changed"
SUPPLY: Final = "supply.changed"
COMMAND: Final = "command.updated"
# Says that events were missed: read the resources again, then follow the stream.
RESET: Final = "stream.reset"
KINDS: Final = frozenset({MEASUREMENT, BALANCE, SUPPLY, COMMAND})


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """One event, encoded once. `place` is the meter, account or command that it is about."""

    number: int
    kind: str
    place: str
    frame: bytes


class Listener:
    """What waits to be sent to one client; bounded, with a count of what it could not hold."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self.kinds = kinds
        self.lost = 0
        self._states: deque[LiveEvent] = deque()
        self._newest: OrderedDict[str, LiveEvent] = OrderedDict()
        self._woken = asyncio.Event()
        self.closed = False

    def offer(self, event: LiveEvent) -> None:
        """Queue an event. A newer measurement of a meter replaces the one still waiting."""
        if event.kind not in self.kinds:
            return
        if event.kind == MEASUREMENT:
            self._newest.pop(event.place, None)
            self._newest[event.place] = event
            if len(self._newest) > QUEUED_MEASUREMENTS:
                self._newest.popitem(last=False)
                self.lost += 1
        elif len(self._states) >= QUEUED_EVENTS:
            # Too slow for the state events: the client is let go and resumes by its last id.
            self.lost += 1
            self.close()
        else:
            self._states.append(event)
        self._woken.set()

    def close(self) -> None:
        """End the stream after what is queued."""
        self.closed = True
        self._woken.set()

    async def take(self, timeout_s: float) -> bytes:
        """Everything that waits, in order of the events' numbers; empty after `timeout_s`."""
        if not (self._states or self._newest or self.closed):
            self._woken.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._woken.wait()
            except TimeoutError:
                return b""
        events = sorted((*self._states, *self._newest.values()), key=lambda event: event.number)
        self._states.clear()
        self._newest.clear()
        return b"".join(event.frame for event in events)


class Hub:
    """Hands each event to every listener. Lives on one event loop.

    `epoch` names this run: ids of an earlier run cannot be resumed and are answered by RESET.
    """

    def __init__(self, epoch: str) -> None:
        self._epoch = epoch
        self._number = 0
        self._kept: deque[LiveEvent] = deque(maxlen=KEPT_EVENTS)
        self._forgotten_number = 0
        self._newest: dict[str, LiveEvent] = {}
        self._listeners: set[Listener] = set()
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many clients listen now."""
        return len(self._listeners)

    def publish(self, kind: str, place: str, body: Mapping[str, object]) -> None:
        """Send an event about `place`; the body must be JSON values (NaN becomes null)."""
        self._number += 1
        frame = (
            f"id: {self._epoch}-{self._number}\nevent: {kind}\ndata: ".encode()
            + orjson.dumps(body)
            + b"\n\n"
        )
        event = LiveEvent(self._number, kind, place, frame)
        if kind == MEASUREMENT:
            self._newest[place] = event
        else:
            if len(self._kept) == KEPT_EVENTS:
                self._forgotten_number = self._kept[0].number
            self._kept.append(event)
        for listener in tuple(self._listeners):
            listener.offer(event)

    def listen(self, kinds: frozenset[str], last_event_id: str) -> Listener:
        """A new listener, with what it missed since `last_event_id` (may be empty) queued.

        Raises RefusedError BUSY at MAX_LISTENERS.
        """
        if self._closed or len(self._listeners) >= MAX_LISTENERS:
            raise RefusedError("BUSY", f"{MAX_LISTENERS} clients listen already")
        listener = Listener(kinds | {RESET})
        if last_event_id:
            self._catch_up(listener, last_event_id)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """Forget a listener."""
        self._listeners.discard(listener)

    def close(self) -> None:
        """End every stream; new listeners are refused."""
        self._closed = True
        for listener in tuple(self._listeners):
            listener.close()

    def _catch_up(self, listener: Listener, last_event_id: str) -> None:
        epoch, _, text = last_event_id.rpartition("-")
        known = epoch == self._epoch and text.isascii() and text.isdigit() and len(text) < 19
        seen = int(text) if known else -1
        missed = [
            event
            for event in (*self._kept, *self._newest.values())
            if event.number > seen and event.kind in listener.kinds
        ]
        states = sum(event.kind != MEASUREMENT for event in missed)
        forgotten = self._forgotten_number > seen
        if not known or seen > self._number or forgotten or states > QUEUED_EVENTS:
            frame = (
                f"id: {self._epoch}-{self._number}\nevent: {RESET}\n"
                f'data: {{"last_event_id":"{self._epoch}-{self._number}"}}\n\n'
            ).encode()
            listener.offer(LiveEvent(self._number, RESET, "", frame))
            return
        for event in missed:
            listener.offer(event)
