"""All meters' pollers as one: meters with the same periods share a poller."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

from gateway.app.clock import seeded
from gateway.app.config import MeterConfig
from gateway.core.clock import Clock
from gateway.core.errors import MeterError
from gateway.core.reading import Lane, Reading
from gateway.south.meter import MeterClient, MeterEndpoint
from gateway.south.models import meter_model
from gateway.south.poller import Poller, PollerOptions

STOP_DEADLINE_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class FailSafe:
    """An output that falls off `after_s` after its last command.

    `holds_closed` is what the supply is while the output is on; `poll_s` how often it is read.
    """

    holds_closed: bool
    after_s: int
    poll_s: float


class PollGroup:
    """Pollers of all meters, addressed by meter index.

    `first_sequences` continue the sequences of an earlier run. `run` is given who takes readings
    and failures.
    """

    def __init__(
        self, meters: Sequence[MeterConfig], first_sequences: Sequence[int], clock: Clock
    ) -> None:
        self.pollers: Final[list[Poller]] = []
        self._places: dict[int, tuple[Poller, int]] = {}
        self._tariff_places = [tariff_place(meter.model) for meter in meters]
        self.fail_safes: Final = tuple(fail_safe_of(meter) for meter in meters)
        self.is_stopping = False
        self._on_reading: Callable[[int, Reading], None] | None = None
        self._on_failure: Callable[[int, MeterError], None] | None = None
        groups: dict[tuple[float, float], list[int]] = {}
        for index, meter in enumerate(meters):
            periods = (meter.settings.poll_s, meter.settings.slow_poll_s)
            groups.setdefault(periods, []).append(index)
        for (poll_s, slow_s), indices in groups.items():
            poller = Poller(
                [
                    MeterClient(
                        endpoint_of(meters[index]), clock, first_sequence=first_sequences[index]
                    )
                    for index in indices
                ],
                clock,
                partial(self._reading, indices),
                partial(self._failure, indices),
                jitter=seeded(f"{poll_s} {slow_s}"),
                options=PollerOptions(period_s=poll_s, slow_every_s=slow_s),
            )
            self.pollers.append(poller)
            self._places.update({index: (poller, place) for place, index in enumerate(indices)})

    def register_of(self, index: int, reading: Reading) -> int | None:
        """The tariff register that counted at a reading (0 is T1); None where it does not tell."""
        place = self._tariff_places[index]
        tariff = reading.values[place] if place < len(reading.values) else None
        return int(tariff) if tariff in (0.0, 1.0) else None

    async def run(
        self,
        on_reading: Callable[[int, Reading], None],
        on_failure: Callable[[int, MeterError], None],
    ) -> None:
        """Poll until `aclose`."""
        self._on_reading, self._on_failure = on_reading, on_failure
        async with asyncio.TaskGroup() as group:
            for number, poller in enumerate(self.pollers):
                group.create_task(poller.run(), name=f"poller {number}")

    def request_poll(self, index: int, due_mono_ns: int, lane: Lane = Lane.SHORT) -> bool:
        """Poll a meter at a time of the monotonic clock."""
        poller, place = self._places[index]
        return poller.request_poll(place, due_mono_ns, lane)

    async def switch(self, index: int, *, closed: bool, deadline_s: float) -> None:
        """Command a supply, ahead of polls. Raises a MeterError."""
        poller, place = self._places[index]
        await poller.switch(place, closed=closed, deadline_s=deadline_s)

    def can_switch(self, index: int) -> bool:
        """Every polled meter has an output."""
        return index in self._places

    def expect_another_device(self, index: int) -> None:
        """A meter was exchanged: another serial number is accepted once."""
        self.client(index).expect_another_device()

    def client(self, index: int) -> MeterClient:
        """The meter at an index."""
        poller, place = self._places[index]
        return poller.client(place)

    async def aclose(self) -> None:
        """Stop polling and close all connections."""
        self.is_stopping = True
        await asyncio.gather(*(poller.aclose(STOP_DEADLINE_S) for poller in self.pollers))

    def _reading(self, indices: Sequence[int], place: int, reading: Reading) -> None:
        if self._on_reading is not None:
            self._on_reading(indices[place], reading)

    def _failure(self, indices: Sequence[int], place: int, error: MeterError) -> None:
        if self._on_failure is not None:
            self._on_failure(indices[place], error)


def endpoint_of(meter: MeterConfig) -> MeterEndpoint:
    """A configured meter as south addresses it."""
    settings = meter.settings
    return MeterEndpoint(
        meter_id=meter.meter_id,
        model=meter.model,
        host=meter.host,
        port=settings.port,
        unit=settings.unit,
        output=settings.output,
        output_on=settings.output_on,
        feedback=settings.feedback,
        timeout_s=settings.timeout_s,
        pipeline=settings.pipeline,
        serial_number=meter.serial_number,
    )


def fail_safe_of(meter: MeterConfig) -> FailSafe | None:
    """How a meter's output falls without the gateway; None where it holds its last state.

    A check meter's output switches nothing.
    """
    settings = meter.settings
    if settings.fail_safe == "hold_last" or meter.role == "check":
        return None
    closed = settings.fail_safe == "fail_disconnected"
    return FailSafe(closed, settings.fail_safe_after_s, settings.poll_s)


@cache
def tariff_place(model_name: str) -> int:
    """Where the values of a model's full lane tell the active tariff."""
    model = meter_model(model_name)
    return model.names(Lane.FULL).index(model.active_tariff)
