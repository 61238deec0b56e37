"""Runs the long proofs of docs/promises.md, resumable; see docs/soak.md.

The state is kept in build/soak.json after every chunk, the table in build/soak.md.
"""

import argparse
import json
import math
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.soak.parts import PARTS, Figures, Part

BUILD: Final = Path(__file__).parents[2] / "build"
JOBS: Final = 2
_MEMORY: Final = Path("/dev/shm")
_TOLD_MAX: Final = 4_000


@dataclass
class Done:
    """How far a part has come. `failures` are chunks in which a promise was broken."""

    done: int = 0
    seconds: float = 0.0
    figures: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


@dataclass
class Soak:
    """The state of a run over all parts, kept in a file."""

    seed: int
    scale: float
    path: Path
    parts: dict[str, Done] = field(default_factory=dict)

    def target(self, part: Part) -> int:
        """How much of a part this run wants."""
        return max(1, math.ceil(part.target * self.scale))

    def of(self, part: Part) -> Done:
        """The state of a part."""
        return self.parts.setdefault(part.name, Done())

    def save(self) -> None:
        """Keep the state, whole or not at all."""
        self.path.parent.mkdir(exist_ok=True)
        young = self.path.with_suffix(".new")
        kept = {"seed": self.seed, "scale": self.scale}
        parts = {name: asdict(done) for name, done in self.parts.items()}
        young.write_text(json.dumps({**kept, "parts": parts}, indent=2), encoding="utf-8")
        young.replace(self.path)


def load(path: Path, seed: int, scale: float, *, fresh: bool) -> Soak:
    """Go on with an earlier run of the same seed and scale, or begin a new one."""
    if path.exists() and not fresh:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if (kept["seed"], kept["scale"]) == (seed, scale):
            parts = {name: Done(**done) for name, done in kept["parts"].items()}
            return Soak(seed, scale, path, parts)
    return Soak(seed, scale, path)


def run_part(soak: Soak, part: Part, console: Console) -> None:
    """Run what is left of a part."""
    state, target = soak.of(part), soak.target(part)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(f"{part.name} (seed {soak.seed})", total=target, completed=state.done)
        began_s = time.monotonic()
        for count, outcome in _chunks(part, soak.seed, state.done, target):
            if isinstance(outcome, str):
                state.failures.append(outcome)
                console.print(f"[red]{part.name}[/]: {outcome}", soft_wrap=True, highlight=False)
            else:
                state.figures = dict(Counter(state.figures) + Counter(outcome))
            state.done += count
            state.seconds += time.monotonic() - began_s
            began_s = time.monotonic()
            soak.save()
            bar.update(task, completed=state.done)


def _chunks(part: Part, seed: int, first: int, target: int) -> Iterator[tuple[int, Figures | str]]:
    """Each chunk in a process of its own, in order; its figures, or what was wrong."""
    # A process per chunk: what one leaves behind (stores are never closed) is not the next one's.
    with ProcessPoolExecutor(
        1 if part.alone else JOBS, get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        waiting = [
            (count, pool.submit(try_chunk, part.name, seed, start, count))
            for start in range(first, target, part.chunk)
            for count in (min(part.chunk, target - start),)
        ]
        try:
            for count, future in waiting:
                yield count, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def try_chunk(name: str, seed: int, start: int, count: int) -> Figures | str:
    """One chunk; its figures, or what was wrong and the command that shows it again.

    Not the error itself: not every one survives the way to another process.
    """
    try:
        return run_chunk(name, seed, start, count)
    except Exception as error:  # noqa: BLE001 - told, and the next chunk goes on
        words = f"make soak ONLY={name} SEED={seed} FROM={start} COUNT={count}"
        return f"{words}\n{type(error).__name__}: {error}"[:_TOLD_MAX]


def run_chunk(name: str, seed: int, start: int, count: int) -> Figures:
    """One chunk of a part, in a directory of its own. Raises what the part raises."""
    part = next(part for part in PARTS if part.name == name)
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as directory:
        return part.run(seed, start, count, Path(directory))


def table(soak: Soak) -> str:
    """The results as a Markdown table."""
    lines = [
        f"Seed {soak.seed}, scale {soak.scale:g}.",
        "",
        "| part | promise | done | of | failed chunks | minutes | counted |",
        "|---|---|---|---|---|---|---|",
    ]
    for part in PARTS:
        state = soak.of(part)
        counted = ", ".join(f"{name} {count:,}" for name, count in sorted(state.figures.items()))
        lines.append(
            f"| {part.name} | {part.promise} | {state.done:,} | {soak.target(part):,} {part.unit} "
            f"| {len(state.failures)} | {state.seconds / 60:.1f} | {counted} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Run the parts asked for; exit status 1 when a promise was broken."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--only", default=",".join(names), help=f"some of {', '.join(names)}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="0.01 runs a hundredth of each")
    parser.add_argument("--from", dest="first", type=int, help="repeat numbers from here on")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="forget an earlier run")
    parser.add_argument("--state", type=Path, default=BUILD / "soak.json")
    options = parser.parse_args(arguments)
    chosen = [part for part in PARTS if part.name in options.only.split(",")]
    if not chosen:
        parser.error(f"--only takes some of {', '.join(names)}")
    console = Console(width=None if sys.stdout.isatty() else 110)
    if options.first is not None:
        for part in chosen:
            figures = run_chunk(part.name, options.seed, options.first, options.count)
            console.print(f"{part.name} {options.first} + {options.count}: {dict(figures)}")
        return 0
    soak = load(options.state, options.seed, options.scale, fresh=options.fresh)
    console.print(f"seed {soak.seed}, scale {soak.scale:g}, state {soak.path}", soft_wrap=True)
    try:
        for part in chosen:
            run_part(soak, part, console)
    except KeyboardInterrupt:
        console.print(f"ended; go on with: make soak {shlex.join(_knobs(options))}")
        return 130
    finally:
        soak.save()
        text = table(soak)
        soak.path.with_suffix(".md").write_text(text, encoding="utf-8")
    console.print(text, soft_wrap=True, highlight=False)
    return int(any(soak.of(part).failures for part in chosen))


def _knobs(options: argparse.Namespace) -> list[str]:
    return [f"ONLY={options.only}", f"SEED={options.seed}", f"SCALE={options.scale:g}"]
