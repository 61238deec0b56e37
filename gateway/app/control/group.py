"""Polled meters and nodes behind one index: meters first, then nodes."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from gateway.app.control.polls import FailSafe, PollGroup
from gateway.core.errors import MeterError
from gateway.core.reading import Lane, Reading
from gateway.south.meter import MeterClient
from gateway.south.nodes import NodeGroup
from gateway.south.poller import Poller


class Meters(Protocol):
    """All that control knows of the meters of a site."""

    @property
    def pollers(self) -> Sequence[Poller]:
        """What polls, for figures."""
        ...

    @property
    def fail_safes(self) -> Sequence[FailSafe | None]:
        """How each output falls without the gateway; None where it holds."""
        ...

    @property
    def is_stopping(self) -> bool:
        """Whether `aclose` was called."""
        ...

    def register_of(self, index: int, reading: Reading) -> int | None:
        """The tariff register that counted at a reading; None where it does not tell."""
        ...

    async def run(
        self,
        on_reading: Callable[[int, Reading], None],
        on_failure: Callable[[int, MeterError], None],
    ) -> None:
        """Read until `aclose`."""
        ...

    def request_poll(self, index: int, due_mono_ns: int, lane: Lane = Lane.SHORT) -> bool:
        """Read a meter at a time of the monotonic clock, if that is possible."""
        ...

    def can_switch(self, index: int) -> bool:
        """Whether there is anything to switch."""
        ...

    async def switch(self, index: int, *, closed: bool, deadline_s: float) -> None:
        """Command a supply. Raises a MeterError."""
        ...

    def client(self, index: int) -> MeterClient:
        """A polled meter. Raises LookupError for a node."""
        ...

    def expect_another_device(self, index: int) -> None:
        """A meter was exchanged."""
        ...

    async def aclose(self) -> None:
        """Stop reading and close all connections."""
        ...


class JoinedGroup:
    """Polled meters, then nodes, as one group."""

    def __init__(self, polls: PollGroup, nodes: NodeGroup, node_count: int) -> None:
        self.polls: Final = polls
        self.nodes: Final = nodes
        self._first = len(polls.fail_safes)
        self.fail_safes: Final = (*polls.fail_safes, *(None,) * node_count)

    @property
    def pollers(self) -> Sequence[Poller]:
        """What polls, for figures."""
        return self.polls.pollers

    @property
    def is_stopping(self) -> bool:
        """Whether `aclose` was called."""
        return self.polls.is_stopping

    def register_of(self, index: int, reading: Reading) -> int | None:
        """A node has one register, which always counts."""
        return self.polls.register_of(index, reading) if index < self._first else 0

    async def run(
        self,
        on_reading: Callable[[int, Reading], None],
        on_failure: Callable[[int, MeterError], None],
    ) -> None:
        """Read both kinds until `aclose`."""
        first = self._first

        def reading(index: int, taken: Reading) -> None:
            on_reading(first + index, taken)

        def failure(index: int, error: MeterError) -> None:
            on_failure(first + index, error)

        async with asyncio.TaskGroup() as group:
            group.create_task(self.polls.run(on_reading, on_failure), name="polled meters")
            group.create_task(self.nodes.run(reading, failure), name="nodes")

    def request_poll(self, index: int, due_mono_ns: int, lane: Lane = Lane.SHORT) -> bool:
        """Read a meter at a time of the monotonic clock, if that is possible."""
        if index < self._first:
            return self.polls.request_poll(index, due_mono_ns, lane)
        return self.nodes.request_poll(index - self._first, due_mono_ns, lane)

    def can_switch(self, index: int) -> bool:
        """Whether there is anything to switch: not every node has a relay."""
        return index < self._first or self.nodes.can_switch(index - self._first)

    async def switch(self, index: int, *, closed: bool, deadline_s: float) -> None:
        """Command a supply. Raises a MeterError."""
        if index < self._first:
            await self.polls.switch(index, closed=closed, deadline_s=deadline_s)
        else:
            await self.nodes.switch(index - self._first, closed=closed, deadline_s=deadline_s)

    def client(self, index: int) -> MeterClient:
        """A polled meter. Raises LookupError for a node."""
        if index >= self._first:
            raise LookupError("a node is no polled meter")
        return self.polls.client(index)

    def expect_another_device(self, index: int) -> None:
        """A meter was exchanged; a node's device is approved anew by a person."""
        if index < self._first:
            self.polls.expect_another_device(index)

    async def aclose(self) -> None:
        """Stop both kinds."""
        await asyncio.gather(self.polls.aclose(), self.nodes.aclose())
