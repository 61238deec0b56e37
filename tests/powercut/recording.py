"""Recordings of a real writer process: the shim compiled, the process run, its log read."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from tests.powercut.disk import Disk, Kind, Record, read_log

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = Path(__file__).parent / "recorder.c"
TIMEOUT_S: Final = 120


class LifeError(Exception):
    """A writer process ended by an error of its own."""


@dataclass(frozen=True)
class Recording:
    """Everything that the processes of one seed did below `root`.

    `lives` holds the records of each process; all but the last were killed.
    """

    seed: int
    root: Path
    lives: tuple[tuple[Record, ...], ...]

    @property
    def size(self) -> int:
        """Records in all."""
        return sum(map(len, self.lives))


def compiler() -> str | None:
    """A C compiler of this machine, or None."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def build_recorder(directory: Path) -> Path:
    """Compile the shim into `directory`. Raises FileNotFoundError without a compiler."""
    command = compiler()
    if command is None:
        raise FileNotFoundError("no C compiler (cc, gcc or clang): apt install gcc libc6-dev")
    library = directory / "recorder.so"
    subprocess.run(
        [command, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"],
        check=True,
        timeout=TIMEOUT_S,
    )
    return library


def record(seed: int, recorder: Path, directory: Path, mutant: str = "") -> Recording:
    """Run the processes of a seed (one to three lives) in `directory`, which must be empty.

    The last life ends by itself, those before it by SIGKILL after a number of records, half of
    them in the middle of a commit. Raises
    LifeError when one ends otherwise, UnrecordedError when the log does not explain the files.
    """
    chance = Random(f"{seed} lives")
    root = directory / "state"
    root.mkdir()
    disk = Disk(root)
    lives: list[tuple[Record, ...]] = []
    last = chance.choice((0, 0, 1, 2))
    for life in range(last + 1):
        death = {} if life == last else {"POWERCUT_DIE_AFTER": str(chance.randint(250, 900))}
        if death and chance.random() < 0.5:
            death["POWERCUT_DIE_SYNCING"] = "1"
        records = _live(seed, life, recorder, directory, death=death, mutant=mutant)
        lives.append(records)
        for item in records:
            disk.play(item)
        disk.process_ended()
        disk.check_complete()
    return Recording(seed, root, tuple(lives))


def _live(
    seed: int, life: int, recorder: Path, directory: Path, *, death: dict[str, str], mutant: str
) -> tuple[Record, ...]:
    log = directory / f"life-{life}.log"
    environment = {
        **os.environ,
        "LD_PRELOAD": str(recorder),
        "POWERCUT_WATCH": str(directory / "state"),
        "POWERCUT_LOG": str(log),
        **death,
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    arguments = ["-m", "tests.powercut.workload", str(directory), str(seed), str(life), mutant]
    child = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    records = tuple(read_log(log)) if log.exists() else ()
    if child.returncode not in ((0, -9) if death else (0,)):
        raise LifeError(
            f"seed {seed}, life {life}: exit {child.returncode}\n{child.stderr[-3000:]}"
        )
    return records


def mark_of(record: Record) -> list[str]:
    """The words of a mark; none for another record."""
    return record.body.decode().split() if record.kind is Kind.MARK else []
