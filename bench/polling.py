"""CPU of polling: our poller beside a plain pymodbus loop, in one run on one machine.

    python -m bench.polling [--quick] [--meters 800]

Every client polls the same simulated meters once a second with the same three reads and decodes
every value. Meters are processes of their own that answer after 15 to 25 ms. CPU is user plus
system time of the client's process in the steady state, connecting is not counted; of two rounds
the cheaper one counts, since what else runs on the machine only ever adds. Then the number of
meters is raised until something gives way.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

import uvloop

from bench._machine import machine, table
from bench._polling_clients import CLIENTS, NAIVE, READS, Asked, Result, asked_of, run_client
from bench._polling_meters import respond

ME: Final = (sys.executable, "-m", "bench.polling")
ONE, THREE = tuple(CLIENTS)[:2]
SIZES: Final[dict[int, tuple[str, ...]]] = {
    100: (ONE, THREE, NAIVE),
    800: tuple(CLIENTS),
    2_000: (ONE, THREE, NAIVE),
}
STEPS: Final = (4_000, 8_000, 12_000, 16_000, 20_000, 24_000)
DEAD_SHARE: Final = 0.05
LATE_MS: Final = 100.0
WARM_UP_S: Final = 3.0
# What a process opens beside its meters.
FILES_BESIDE: Final = 64
RESPONDERS: Final = 2
# From here on the share of a core says that nothing of it was left.
FULL_PERCENT: Final = 92.0
HEADS: Final = (
    "client", "core %", "µs/request", "of it user", "ratio", "missed", "late p50 ms",
    "late p99 ms", "KB/link",
)  # fmt: skip


class Effort(NamedTuple):
    """How long to measure."""

    seconds: float
    rounds: int


@contextmanager
def responders(count: int) -> Iterator[tuple[int, ...]]:
    """Run processes that answer for meters, each at a port of its own."""
    with ExitStack() as owned:
        children = []
        for _ in range(count):
            child = subprocess.Popen([*ME, "--role", "meters"], stdout=subprocess.PIPE, text=True)
            owned.enter_context(child)
            owned.callback(child.terminate)
            children.append(child)
        ports = []
        for child in children:
            assert child.stdout is not None
            ports.append(int(child.stdout.readline()))
        yield tuple(ports)


def measured(name: str, asked: Asked) -> Result:
    """Run one client in a process of its own."""
    command = [*ME, "--role", name, "--ports", *map(str, asked.ports), "--asked"]
    command += [str(word) for word in asked[1:]]
    limit_s = asked.seconds + asked.warm_up_s + 120
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr}")
    sys.stderr.write(done.stderr[-2000:])
    return Result(*json.loads(done.stdout))


def asked_for(ports: tuple[int, ...], meters: int, seconds: float, dead: int = 0) -> Asked:
    """One measurement, with time to connect first."""
    return Asked(ports, meters, WARM_UP_S, seconds, dead)


def best(name: str, asked: Asked, rounds: int) -> Result:
    """The round with the least CPU."""
    return min((measured(name, asked) for _ in range(rounds)), key=lambda done: done.cpu_s)


def row(name: str, done: Result, naive: Result | None) -> tuple[str, ...]:
    """A line of the table."""
    ratio = "" if naive is None else f"{naive.us_per_request / done.us_per_request:.1f}"
    user_us = done.us_per_request * done.user_s / done.cpu_s
    return (
        name,
        f"{done.core_percent:.1f}",
        f"{done.us_per_request:.1f}",
        f"{user_us:.1f}",
        ratio,
        f"{done.missed}",
        f"≤ {done.late_p50_ms:.0f}",
        f"≤ {done.late_p99_ms:.0f}",
        f"{done.link_kb:.1f}",
    )


def compare(meters: int, names: Sequence[str], effort: Effort) -> None:
    """Print the table of one number of meters, with the dead at 800."""
    with responders(1) as ports:
        asked = asked_for(ports, meters, effort.seconds)
        results = {name: best(name, asked, effort.rounds) for name in names}
        if len(names) > len(SIZES[100]):
            dead = round(DEAD_SHARE * meters)
            name = f"ours, 1 in flight, {dead} of them dead"
            asked = asked_for(ports, meters, effort.seconds, dead)
            results[name] = best(ONE, asked, effort.rounds)
    naive = results.get(NAIVE)
    print(f"\n**{meters} meters at 1 s**, {len(READS)} reads each\n")
    print(table(HEADS, [row(name, done, naive) for name, done in results.items()]), flush=True)


def largest(name: str, effort: Effort, steps: Sequence[int]) -> tuple[str, ...]:
    """Raise the number of meters until a poll is missed or late; say what gave way."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - FILES_BESIDE
    kept: tuple[int, Result] | None = None
    reason = f"nothing: the largest step was {steps[-1]}"
    for asked_meters in steps:
        meters = min(asked_meters, files)
        if kept is not None and kept[0] == meters:
            break
        with responders(RESPONDERS) as ports:
            done = measured(name, asked_for(ports, meters, effort.seconds))
        if done.missed or done.late_p99_ms > LATE_MS:
            ours = done.core_percent
            what = "the engine" if ours >= FULL_PERCENT else "the machine, with the simulator on it"
            late = f"p99 ≤ {done.late_p99_ms:.0f} ms late"
            reason = f"{what}: at {meters} {ours:.0f} % of a core, {done.missed} missed, {late}"
            break
        kept = (meters, done)
        if meters < asked_meters:
            reason = f"the file limit ({files + FILES_BESIDE})"
            break
    if kept is None:
        return (name, f"< {steps[0]}", "", "", "", reason)
    meters, done = kept
    return (
        name,
        f"{meters}",
        f"{done.core_percent:.0f}",
        f"{done.us_per_request:.1f}",
        f"≤ {done.late_p99_ms:.0f}",
        reason,
    )


def show(sizes: Sequence[int], effort: Effort, steps: Sequence[int]) -> None:
    """Print everything."""
    print(machine("pymodbus", "uvloop"))
    print("Each request is answered after 15 to 25 ms. On uvloop where no loop is named.")
    for meters in sizes:
        compare(meters, SIZES.get(meters, SIZES[100]), effort)
    print("\nratio: CPU per request of the plain pymodbus loop on asyncio over that of the row;")
    print("late: upper bound of the start lateness that half and 99 % of the polls keep;")
    print("missed: polls left out or begun a period late (beside the dead: of the healthy alone)")
    if steps:
        heads = ("largest number at 1 s", "meters", "core %", "µs/request", "late p99 ms", "bound")
        print(f"\n{table(heads, [largest(name, effort, steps) for name in (ONE, THREE)])}")


def main() -> None:
    """Run the meters and one client after the other, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="800 meters only, a second or two")
    parser.add_argument("--meters", type=int, help="only this many")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--ports", type=int, nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--asked", type=float, nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role == "meters":
        uvloop.run(respond())
        return
    if given.role is not None:
        print(json.dumps(run_client(given.role, asked_of(given.asked, given.ports))))
        return
    effort = Effort(
        given.seconds or (3.0 if given.quick else 5.0), given.rounds or 1 + (not given.quick)
    )
    if given.meters is not None:
        show((given.meters,), effort, ())
    elif given.quick:
        show((800,), effort, STEPS[1:3])
    else:
        show(tuple(SIZES), effort, STEPS)


if __name__ == "__main__":
    main()
