"""Everything that commissioning reads from a meter, over one connection and then a second probe.

Nothing here switches or changes a parameter.
"""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from gateway.app.config import MeterConfig
from gateway.app.control.polls import endpoint_of
from gateway.core.clock import Clock
from gateway.core.errors import MeterError, MeterExceptionError
from gateway.south.identity import Identity
from gateway.south.link import PIPELINE_MAX
from gateway.south.meter import MeterClient, OutputReport

# Ten renewals of a PAC3220's registers, and some sixty round trips.
LOOK_S: Final = 2.0
# Between two looks: a meter's processor has a display to draw too.
PAUSE_S: Final = 0.01
PIPELINE_ROUNDS: Final = 3
WRITE_PROTECTION: Final = 0xF0


@dataclass(frozen=True, slots=True)
class Settings:
    """Parameters as the meter holds them; None where the model has no such register."""

    connection: str | None = None
    primary_current_a: int | None = None
    secondary_current_a: int | None = None
    tariff_input_use: int | None = None
    output_group: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """What the link does. `refresh_s` is None where no value changed while it was looked at.

    `pipeline` is how many requests in flight were answered properly.
    """

    round_trips_ms: tuple[float, float, float]
    looks: int
    refresh_s: float | None
    pipeline: int
    pipeline_problem: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """One meter as it answered. `first` and `last` are all values, LOOK_S apart.

    `write_refusal` is the Modbus exception to a write that changes nothing; None where it was
    taken. `clock_offset_s` is the meter's clock minus ours.
    """

    identity: Identity
    output: OutputReport
    settings: Settings
    first: Mapping[str, float]
    last: Mapping[str, float]
    write_refusal: int | None
    timing: Timing
    clock_offset_s: float


def survey_client(meter: MeterConfig, clock: Clock, *, pipeline: int = 1) -> MeterClient:
    """A client beside control's that takes any device of the model: who it is, is a finding."""
    endpoint = replace(endpoint_of(meter), serial_number=None, pipeline=pipeline)
    return MeterClient(endpoint, clock)


async def survey(meter: MeterConfig, clock: Clock) -> Survey:
    """Read a meter for commissioning, about three seconds. Raises a MeterError."""
    client = survey_client(meter, clock)
    try:
        identity = await client.connect()
        output = await client.check_output()
        settings = await _settings(client)
        refusal = await _write_refusal(client)
        first = await client.read_values()
        timing = await _timing(client)
        last = await client.read_values()
    finally:
        await client.close()
    offset_s = last[client.model.clock] - clock.utc_ms() / 1000
    in_flight, problem = await _probe_pipeline(meter, clock, last)
    return Survey(
        identity=identity,
        output=output,
        settings=settings,
        first=first,
        last=last,
        write_refusal=refusal,
        timing=replace(timing, pipeline=in_flight, pipeline_problem=problem),
        clock_offset_s=offset_s,
    )


async def _settings(client: MeterClient) -> Settings:
    group_at = client.model.outputs.channel(client.endpoint.output).group_address
    group = None if group_at is None else await client.read_setting(group_at)
    spec = client.model.settings
    if spec is None:
        return Settings(output_group=group)
    connection = await client.read_setting(spec.connection_type, 2)
    names = spec.connection_types
    return Settings(
        connection=names[connection]
        if connection is not None and connection < len(names)
        else None,
        primary_current_a=await client.read_setting(spec.primary_current_a, 2),
        secondary_current_a=await client.read_setting(spec.secondary_current_a, 2),
        tariff_input_use=await client.read_setting(spec.tariff_input_use, 2),
        output_group=group,
    )


async def _write_refusal(client: MeterClient) -> int | None:
    """Acknowledge no diagnostics at all: the one write that changes nothing."""
    try:
        await client.acknowledge_diagnostics(0)
    except MeterExceptionError as error:
        return error.exception_code
    return None


async def _timing(client: MeterClient) -> Timing:
    """Look at one voltage again and again: how long replies take, how often it is renewed."""
    loop = asyncio.get_running_loop()
    item = client.model.measurement(client.model.phase_voltages[0])
    taken_s: list[float] = []
    changed_at_s: list[float] = []
    before: int | None = None
    end_s = loop.time() + LOOK_S
    while (sent_s := loop.time()) < end_s:
        seen = await client.read_setting(item.address, item.format.registers)
        taken_s.append(loop.time() - sent_s)
        if before is not None and seen != before:
            changed_at_s.append(sent_s)
        before = seen
        await asyncio.sleep(PAUSE_S)
    gaps_s = sorted(late - early for early, late in pairwise(changed_at_s))
    taken_s.sort()
    p50, p95, p99 = (_quantile(taken_s, share) * 1000 for share in (0.5, 0.95, 0.99))
    return Timing(
        round_trips_ms=(p50, p95, p99),
        looks=len(taken_s),
        refresh_s=_quantile(gaps_s, 0.5) if gaps_s else None,
        pipeline=1,
    )


async def _probe_pipeline(
    meter: MeterConfig, clock: Clock, known: Mapping[str, float]
) -> tuple[int, str]:
    """How many requests in flight a meter answers properly, and what went wrong with more."""
    client = survey_client(meter, clock, pipeline=PIPELINE_MAX)
    energies = client.model.energy_import
    try:
        for _ in range(PIPELINE_ROUNDS):
            values = await client.read_values()
            # A reply that belongs to another request would decode into something else.
            if any(values[name] < math.floor(known[name]) for name in energies):
                return 1, "with three requests in flight a counter read less than before"
    except MeterError as error:
        return 1, f"with three requests in flight: {error.code} {error}"
    finally:
        await client.close()
    return PIPELINE_MAX, ""


def _quantile(ordered: list[float], share: float) -> float:
    """The value below which `share` of an ordered, not empty list lies."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
