"""Power cuts by number: record a writer, cut it at random places, rebuild, check.

Cut `n` of a seed is the same cut every time: it belongs to the recording of `n // PER_RECORDING`,
and chance picks its place and what the disk kept from the seed and `n` alone.
"""

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Final

from tests.powercut.check import Confirmed, problems_of
from tests.powercut.disk import Disk, Kind, Record
from tests.powercut.recording import Recording, build_recorder, mark_of, record

PER_RECORDING: Final = 50
WORKERS: Final = 2
# So many marks a process makes when it begins, one for each stream that has something.
STREAMS: Final = 7
# Where files of a test are cheap; the temporary directory where there is no such place.
_MEMORY: Final = Path("/dev/shm")


@dataclass(frozen=True)
class Cut:
    """A cut after which something was wrong."""

    seed: int
    number: int
    place: int
    of_places: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"cut {self.number} of seed {self.seed} (after call {self.place} of {self.of_places}; "
            f"again: make soak ONLY=powercuts SEED={self.seed} FROM={self.number} COUNT=1): "
            + "; ".join(self.problems)
        )


def run_cuts(
    seed: int,
    start: int,
    count: int,
    *,
    mutant: str = "",
    directory_syncs: bool = True,
    workers: int = WORKERS,
) -> list[Cut]:
    """Cut `start` to `start + count - 1` of a seed; those after which something was wrong.

    Raises FileNotFoundError without a C compiler.
    """
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as name:
        recorder = build_recorder(Path(name))
        jobs = [
            (seed, numbers, recorder, Path(name), mutant, directory_syncs)
            for numbers in _by_recording(start, count)
        ]
        if workers == 1 or len(jobs) == 1:
            found = [_cut_recording(job) for job in jobs]
        else:
            with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
                found = list(pool.map(_cut_recording, jobs))
    return [cut for cuts in found for cut in cuts]


def _by_recording(start: int, count: int) -> Iterator[range]:
    end = start + count
    while start < end:
        stop = min(end, (start // PER_RECORDING + 1) * PER_RECORDING)
        yield range(start, stop)
        start = stop


def _cut_recording(job: tuple[int, range, Path, Path, str, bool]) -> list[Cut]:
    seed, numbers, recorder, directory, mutant, directory_syncs = job
    chosen = numbers.start // PER_RECORDING
    place = Path(tempfile.mkdtemp(dir=directory))
    try:
        recording = record(seed * 1_000_003 + chosen, recorder, place, mutant)
        return list(
            _cut_all(recording, seed, numbers, place / "cut", directory_syncs=directory_syncs)
        )
    finally:
        shutil.rmtree(place)


def _cut_all(
    recording: Recording, seed: int, numbers: range, directory: Path, *, directory_syncs: bool
) -> Iterator[Cut]:
    chance = {number: Random(f"{seed} cut {number}") for number in numbers}
    places = sorted((_place(recording, chance[number]), number) for number in numbers)
    disk = Disk(recording.root, directory_syncs=directory_syncs)
    confirmed = Confirmed()
    played = 0
    steps = _steps(recording)
    for place, number in places:
        while played < place:
            item = next(steps)
            if item is None:
                disk.process_ended()
                continue
            disk.play(item)
            confirmed.take(mark_of(item))
            played += 1
        state = directory / "state"
        state.mkdir(parents=True)
        disk.cut(chance[number], state)
        problems = problems_of(state, confirmed)
        if problems:
            yield Cut(seed, number, place, recording.size, tuple(problems))
        shutil.rmtree(directory)


def _place(recording: Recording, chance: Random) -> int:
    """After which call the power fails.

    Anywhere; or right after something was confirmed; or when the process that follows a killed one
    has just looked at what it found.
    """
    whole = [item for life in recording.lives for item in life]
    marks = [number for number, item in enumerate(whole, start=1) if item.kind is Kind.MARK]
    kind = chance.random()
    if kind < 0.5:
        return chance.randint(0, len(whole))
    if kind < 0.8 or len(recording.lives) == 1:
        return chance.choice(marks)
    born = sum(map(len, recording.lives[: chance.randrange(1, len(recording.lives))]))
    return chance.choice([number for number in marks if number > born][:STREAMS])


def _steps(recording: Recording) -> Iterator[Record | None]:
    """The records of all lives; None where a process was killed."""
    for life in recording.lives:
        yield from life
        yield None
