"""Meters: do they answer, are they the right ones, will they switch. Read only and gentle."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from gateway.app.config import Config, MeterConfig
from gateway.app.control.polls import endpoint_of
from gateway.app.doctor.findings import Finding, fine, named, warn, wrong
from gateway.app.paths import paths_of
from gateway.core.clock import Clock
from gateway.core.errors import (
    MeterError,
    MeterIdentityError,
    MeterTimeoutError,
    MeterUnreachableError,
    StoreError,
)
from gateway.core.reading import Lane
from gateway.south.meter import MeterClient
from gateway.store.live import LiveTableReader

AT_ONCE: Final = 16
DEADLINE_S: Final = 15.0
CLOCK_OFF_S: Final = 120
AREA: Final = "meters"

Progress = Callable[[int, int], None]


def chosen_meters(meters: Sequence[MeterConfig], count: int | None) -> list[MeterConfig]:
    """All meters, or `count` of them spread over the whole list."""
    if count is None or count >= len(meters):
        return list(meters)
    return [meters[index * len(meters) // count] for index in range(count)]


async def look_at_meters(
    config: Config, clock: Clock, count: int | None, progress: Progress
) -> list[Finding]:
    """Connect to `count` meters (None: all), at most 16 at once, beside control's connection."""
    chosen = chosen_meters(config.meters, count)
    last_read = _last_read(config)
    places = asyncio.Semaphore(AT_ONCE)
    done = 0

    async def look(meter: MeterConfig) -> list[Finding]:
        nonlocal done
        async with places:
            found = await _look(meter, clock, last_read.get(meter.meter_id, 0))
        done += 1
        progress(done, len(chosen))
        return found

    results = await asyncio.gather(*(look(meter) for meter in chosen))
    good = [meter.meter_id for meter, found in zip(chosen, results, strict=True) if not found]
    findings = [finding for found in results for finding in found]
    if good:
        findings.insert(0, fine(AREA, f"{len(good)} answer and will switch: {named(good)}."))
    left = len(config.meters) - len(chosen)
    if left:
        findings.append(fine(AREA, f"{left} more were not asked; `--meters all` asks every one."))
    return findings


async def _look(meter: MeterConfig, clock: Clock, last_utc_ms: int) -> list[Finding]:
    """What is to be said of one meter; nothing when all is well."""
    who = f"{meter.meter_id} at {meter.host}"
    client = MeterClient(endpoint_of(meter), clock)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await client.connect()
            report = await client.check_output()
            reading = await client.poll(Lane.FULL)
    except MeterIdentityError as error:
        return [
            wrong(
                AREA,
                f"At {meter.host} another device answers than {meter.meter_id}: {error}.",
                "Compare labels and addresses; was the meter exchanged, a cable swapped?",
            )
        ]
    except (MeterTimeoutError, MeterUnreachableError, TimeoutError) as error:
        why = error.code if isinstance(error, MeterError) else "no end"
        return [
            wrong(
                AREA,
                f"{who} does not answer ({why}; last read {_when(last_utc_ms)}).",
                "Check its power, cable and address. It accepts three connections: who else asks?",
            )
        ]
    except MeterError as error:
        return [wrong(AREA, f"{who} answers wrongly: {error}.", "See docs/errors.md.")]
    finally:
        await client.close()
    found = [
        wrong(AREA, f"{who} will not switch: {problem}.", "Put it right at the meter.")
        for problem in report.problems
    ]
    if reading.meter_clock_s:
        off_s = reading.meter_clock_s - clock.utc_ms() // 1000
        if abs(off_s) > CLOCK_OFF_S:
            found.append(
                warn(
                    AREA,
                    f"The clock of {who} is off by {off_s} s.",
                    "Set it at the meter: it vouches for the time when no time service does.",
                )
            )
    return found


def _last_read(config: Config) -> Mapping[str, int]:
    """When control read each meter last, as the live table shows (UTC ms)."""
    live = LiveTableReader(paths_of(config).live_dir)
    try:
        live.refresh()
        rows = zip(live.meters, live.rows(), strict=True)
        return {meter.meter_id: row.utc_ms for meter, row in rows if row is not None}
    except StoreError:
        return {}
    finally:
        live.close()


def _when(utc_ms: int) -> str:
    if not utc_ms:
        return "never, or control is away"
    return f"{datetime.fromtimestamp(utc_ms / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"
