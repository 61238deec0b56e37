"""Memory, descriptors and threads of control and north at work, minute after minute."""

import csv
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

from tests.e2e.gateway_site import Gateway

METERS: Final = 100
PROCESSES: Final = ("control", "north")
SAMPLE_S: Final = 5.0
# Caches fill and the first chunks are folded before growth means anything.
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

    Raises AssertionError when memory grows by more than 1 % an hour, or descriptors or threads
    grow at all (judged from half an hour on).
    """
    site = Gateway(directory, meters=meters, load_w=500)
    try:
        site.start()
        with (directory / "meters.csv").open(encoding="utf-8") as listed:
            paid = [row["id"] for row in csv.DictReader(listed)][:PAID]
        for meter in paid:
            site.open(meter, "1000")
        samples = _sample(site, paid, seconds)
        site.verify()
    finally:
        site.close()
    figures: dict[str, int] = {}
    problems: list[str] = []
    for name, taken in samples.items():
        settled = taken[int(len(taken) * WARM_UP_SHARE) :]
        percent = growth_percent_per_h(settled)
        figures[f"{name} resident KiB"] = settled[-1].resident_bytes // 1024
        figures[f"{name} growth 1/1000 % per hour"] = round(1000 * percent)
        figures[f"{name} descriptors"] = settled[-1].descriptors
        figures[f"{name} threads"] = settled[-1].threads
        if seconds >= JUDGED_S and percent > GROWTH_MAX_PERCENT_PER_H:
            problems.append(f"{name} grows by {percent:.2f} % per hour")
        for what in ("descriptors", "threads"):
            before, after = getattr(settled[0], what), getattr(settled[-1], what)
            if after > before + DESCRIPTORS_MAX_GROWTH:
                problems.append(f"{name} had {before} {what} and has {after}")
    assert not problems, f"{problems}: {figures}"
    return figures


def growth_percent_per_h(samples: Sequence[Sample]) -> float:
    """The slope of the least-squares line through resident memory, of its mean, per hour."""
    mean_s = fmean(sample.at_s for sample in samples)
    mean_bytes = fmean(sample.resident_bytes for sample in samples)
    spread = sum((sample.at_s - mean_s) ** 2 for sample in samples)
    if spread == 0:
        return 0.0
    slope = sum((s.at_s - mean_s) * (s.resident_bytes - mean_bytes) for s in samples) / spread
    return 100 * 3600 * slope / mean_bytes


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
