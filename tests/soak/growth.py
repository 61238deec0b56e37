"""Memory, descriptors and threads of control and north at work, minute after minute."""

import csv
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

from gateway.north.client import LocalClient
from gateway.north.hub import KEPT_EVENTS
from gateway.store.db import PAGE_CACHE_KIB
from tests.e2e.gateway_site import Gateway

METERS: Final = 100
PROCESSES: Final = ("control", "north")
SAMPLE_S: Final = 5.0
# What is kept up to a bound fills before growth means anything. With money: north's events, and
# the pages that SQLite keeps of its file, where a recharge takes a quarter of a KiB (in those of
# the ledger two thirds). With time: the pages of the day's file, in three or four rounds of 300 s.
FILLED_BY: Final = max(KEPT_EVENTS, 4 * PAGE_CACHE_KIB)
WARM_UP_S: Final = 1200.0
WARM_UP_SHARE: Final = 1 / 3
# A shorter run shows no slope beside the noise of an allocator.
JUDGED_S: Final = 1800.0
GROWTH_MAX_PERCENT_PER_H: Final = 1.0
DESCRIPTORS_MAX_GROWTH: Final = 5
PAID: Final = 10


@dataclass(frozen=True)
class Sample:
    """A process at one moment. `at_s` counts from the start of the watch."""

    at_s: float
    resident_bytes: int
    descriptors: int
    threads: int


def watch(seconds: float, directory: Path, *, meters: int = METERS) -> Mapping[str, int]:
    """Run a site for so long, with money coming in; its figures.

    Raises AssertionError when memory grows by more than 1 % an hour (judged from half an hour on),
    when the warm-up did not fill what has a bound, or when descriptors or threads grow at all.
    """
    site = Gateway(directory, meters=meters, load_w=500)
    try:
        site.start()
        with (directory / "meters.csv").open(encoding="utf-8") as listed:
            paid = [row["id"] for row in csv.DictReader(listed)][:PAID]
        for meter in paid:
            site.open(meter, "1000")
        warm_up_s = WARM_UP_S if seconds >= JUDGED_S else seconds * WARM_UP_SHARE
        filled = _fill(site, paid, warm_up_s)
        samples = _sample(site, paid, seconds - warm_up_s)
        site.verify()
    finally:
        site.close()
    problems = growth_problems(samples, filled, judged=seconds >= JUDGED_S)
    figures = {"recharges of the warm-up": filled}
    for name, settled in samples.items():
        figures[f"{name} resident KiB"] = settled[-1].resident_bytes // 1024
        percent = growth_percent_per_h(settled)
        figures[f"{name} growth 1/1000 % per hour"] = round(1000 * percent)
        figures[f"{name} descriptors"] = settled[-1].descriptors
        figures[f"{name} threads"] = settled[-1].threads
    assert not problems, f"{problems}: {figures}"
    return figures


def growth_problems(
    samples: Mapping[str, Sequence[Sample]], filled: int, *, judged: bool
) -> list[str]:
    """What breaks the promise after a warm-up with `filled` recharges; memory only if `judged`."""
    problems: list[str] = []
    if judged and filled < FILLED_BY:
        problems.append(f"only {filled} recharges warmed up, of {FILLED_BY}")
    for name, settled in samples.items():
        percent = growth_percent_per_h(settled)
        if judged and percent > GROWTH_MAX_PERCENT_PER_H:
            problems.append(f"{name} grows by {percent:.2f} % per hour")
        for what in ("descriptors", "threads"):
            before, after = getattr(settled[0], what), getattr(settled[-1], what)
            if after > before + DESCRIPTORS_MAX_GROWTH:
                problems.append(f"{name} had {before} {what} and has {after}")
    return problems


def growth_percent_per_h(samples: Sequence[Sample]) -> float:
    """The slope of the least-squares line through resident memory, of its mean, per hour."""
    mean_s = fmean(sample.at_s for sample in samples)
    mean_bytes = fmean(sample.resident_bytes for sample in samples)
    spread = sum((sample.at_s - mean_s) ** 2 for sample in samples)
    if spread == 0:
        return 0.0
    slope = sum((s.at_s - mean_s) * (s.resident_bytes - mean_bytes) for s in samples) / spread
    return 100 * 3600 * slope / mean_bytes


def _fill(site: Gateway, paid: Sequence[str], seconds: float) -> int:
    """As many recharges as fill what has a bound, then rest until so many seconds are over."""
    end_s = time.monotonic() + seconds
    number = 0
    with LocalClient(site.paths.socket) as north:
        while number < FILLED_BY and time.monotonic() < end_s:
            place = f"/accounts/{paid[number % PAID]}/recharges"
            north.call("POST", place, {"amount": "1"}, f"fill-{number}")
            number += 1
    time.sleep(max(0.0, end_s - time.monotonic()))
    return number


def _sample(site: Gateway, paid: Sequence[str], seconds: float) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {name: [] for name in PROCESSES}
    began_s = time.monotonic()
    number = 0
    while (at_s := time.monotonic() - began_s) < seconds:
        for name in PROCESSES:
            samples[name].append(look(site.pid(name), at_s))
        # Customers pay and look meanwhile.
        meter = paid[number % PAID]
        site.recharge(meter, "1", f"soak-{number}")
        site.transactions(meter)
        number += 1
        time.sleep(max(0.0, min(SAMPLE_S * number, seconds) - (time.monotonic() - began_s)))
    return samples


def look(pid: int, at_s: float) -> Sample:
    """Memory, descriptors and threads of a process (proc(5))."""
    process = Path(f"/proc/{pid}")
    number: Callable[[str], int] = lambda line: int(line.split()[1])  # noqa: E731
    lines = (process / "status").read_text(encoding="ascii", errors="replace").splitlines()
    found = {line.partition(":")[0]: line for line in lines}
    return Sample(
        at_s,
        number(found["VmRSS"]) * 1024,
        len(os.listdir(process / "fd")),  # noqa: PTH208 - names only
        number(found["Threads"]),
    )
