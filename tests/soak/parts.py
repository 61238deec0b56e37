"""The long proofs: what each runs, how much of it, and the promise that it stands for.

A part is a function of (seed, start, count, directory): what runs under a number depends on the
seed and the number alone, so a failure is seen again by running its numbers. It raises
AssertionError where a promise is broken and returns counts that are added up.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

Figures = Mapping[str, int]
Run = Callable[[int, int, int, Path], Figures]


@dataclass(frozen=True)
class Part:
    """`target` is the whole proof, run `chunk` by `chunk`; `alone` means nothing beside it."""

    name: str
    promise: int
    target: int
    chunk: int
    unit: str
    run: Run
    alone: bool = False


def power_cuts(seed: int, start: int, count: int, _: Path) -> Figures:
    """Promise 1: nothing confirmed is lost, nothing is corrupt."""
    from tests.powercut.cuts import run_cuts

    bad = run_cuts(seed, start, count, workers=1)
    assert not bad, "\n".join(map(str, bad))
    return {"cuts": count}


def kills(seed: int, start: int, count: int, directory: Path) -> Figures:
    """Promise 2: nothing acknowledged is lost with a process. Each block has a seed of its own."""
    from tests.faults.kill_loop import run_kills

    report = run_kills(seed * 1_000_003 + start // KILLS_AT_ONCE, count, directory)
    return {"kills": report.kills, "processes": report.deaths.total(), "payments": report.payments}


def frames(seed: int, start: int, count: int, _: Path) -> Figures:
    """Promise 13: of damaged frames none passes that could not be a reply."""
    from tests.south.test_frames_fuzz import changed_frames

    # What is accepted differs from the good frame inside its registers only: TCP's to notice.
    return {"passed (registers only)": changed_frames(f"{seed} {start}", count)}


def money(seed: int, start: int, count: int, _: Path) -> Figures:
    """Promise 3: meter-years of half hours whose money adds up to the nano-unit."""
    from tests.soak.money import meter_year

    postings = sum(meter_year(seed, year) for year in range(start, start + count))
    return {"postings": postings}


def accounts(seed: int, start: int, count: int, _: Path) -> Figures:
    """Promise 3: customers through random requests, readings, faults and restarts."""
    from tests.app.test_account_machine import run_stories

    for number in range(start, start + count):
        run_stories(seed * 1_000_003 + number, examples=STORIES_AT_ONCE, steps=50)
    return {"stories": count * STORIES_AT_ONCE}


def replays(seed: int, start: int, count: int, directory: Path) -> Figures:
    """Promise 7: requests sent one to three times, and control restarted: each executed once."""
    from tests.soak.replays import replay

    return replay(seed, start, count, directory)


def fuzz(seed: int, start: int, count: int, directory: Path) -> Figures:
    """Promise 18: requests of every kind, valid and hostile, and control killed in their midst."""
    from tests.app.fuzz_world import run_fuzz

    # In a process of its own: what control logs of every request would be all there is to read.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    found: Counter[str] = Counter()
    for number in range(start, start + count):
        counted = run_fuzz(f"{seed} {number}", STEPS_OF_FUZZ, directory / str(number)).counted
        found.update({name: counted[name] for name in FUZZ_TOLD})
    return found


def nodes(seed: int, start: int, count: int, directory: Path) -> Figures:
    """Promise 14: a node meters, cuts and tells right through weeks in which everything fails."""
    from gateway.sim.node_board import firmware_on_path

    firmware_on_path(Path(__file__).parents[2] / "firmware-micropython")
    from tests.soak.nodes import node_days

    return node_days(seed, start, count, directory)


def growth(seed: int, start: int, count: int, directory: Path) -> Figures:
    """Promise 14: a working gateway does not grow."""
    from tests.soak.growth import watch

    return watch(60.0 * count, directory)


KILLS_AT_ONCE: Final = 50
STORIES_AT_ONCE: Final = 10
STEPS_OF_FUZZ: Final = 250
FUZZ_TOLD: Final = ("executed", "refused", "repeats", "kills", "restarts", "cuts for credit")
PARTS: Final = (
    Part("powercuts", 1, 10_000, 250, "power cuts", power_cuts),
    Part("kills", 2, 1_000, KILLS_AT_ONCE, "kills", kills, alone=True),
    Part("money", 3, 1_000, 10, "meter-years", money),
    Part("accounts", 3, 500, 5, "tens of stories", accounts),
    Part("fuzz", 18, 1_000, 10, "sites", fuzz),
    Part("replays", 7, 1_000_000, 5_000, "requests", replays),
    Part("frames", 13, 10_000_000, 250_000, "frames", frames),
    Part("nodes", 14, 28, 1, "days", nodes),
    Part("growth", 14, 60, 60, "minutes", growth, alone=True),
)
