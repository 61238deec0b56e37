"""Cut-offs as they happen: how far past zero, how soon, and what they cost control.

    python -m bench.cutoff [--quick] [--meters 800] [--fail-safe-s 300]

A whole site on this machine: simulated meters, control and north as processes of their own, each
with its files. Every point draws power that swings by half within a second; one meter in ten dies
(half of them refuse, half answer nothing) once all accounts are open; then one balance after the
other runs out. What is printed compares the gateway's records with the simulator's truth. With
`--fail-safe-s` every output falls off after so long without a command, and control holds it.
"""

import argparse
import asyncio
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench._machine import cpu_s, machine, rss_kb, table
from gateway.app.clock import SystemClock
from gateway.app.config import load_config
from gateway.app.demo.site import PRICE_MICRO, DemoFiles, open_accounts, wait_for
from gateway.app.demo.truth import Cut, cuts
from gateway.app.paths import Paths, paths_of
from gateway.app.stores import create_stores
from gateway.core.switching import ControlState
from gateway.sim.control import ask
from gateway.south.models import meter_model
from gateway.store.live import LiveTableReader

SWING: Final = 0.5
DEAD_EVERY: Final = 10
DEAD_KINDS: Final = ("refused", "black_hole")
# The promise: energy past zero is at most P x (register refresh + this) + 1 Wh.
OWN_S: Final = 0.2
ROUNDING_WH: Final = 1.0
START_S: Final = 60.0
TIMEOUT: Final = 51718  # the register of output 0.0 at a PAC3220
LOOK_S: Final = 0.25
# The last balances outlast the plan when power swings low.
PATIENCE_S: Final = 60.0
PROVED_S: Final = 5.0
PROCESSES: Final = ("simulate", "control", "north")


@dataclass(frozen=True, slots=True)
class Scene:
    """What is played: credit lasts from `lasting_s[0]` to `lasting_s[1]` seconds.

    `fail_safe_s` is the remote timeout of every meter, 0 for none.
    """

    meters: int = 800
    load_w: int = 2_000
    lasting_s: tuple[float, float] = (40.0, 100.0)
    meter_port: int = 5021
    port: int = 8081
    fail_safe_s: int = 0

    @property
    def peak_w(self) -> float:
        """The highest power that a point may draw."""
        return self.load_w * (1 + SWING)

    @property
    def bound_wh(self) -> float:
        """What may flow past zero at that power."""
        seconds = meter_model("pac3220").refresh_s + OWN_S
        return self.peak_w * seconds / 3600 + ROUNDING_WH


@dataclass(frozen=True, slots=True)
class Report:
    """What was seen while one meter in ten was dead. CPU is of one core, over `seconds`."""

    scene: Scene
    cuts: tuple[Cut, ...]
    alive: int
    seconds: float
    core_percent: dict[str, float]
    memory_mb: dict[str, float]

    def past_zero_wh(self) -> list[float]:
        """Energy past zero of every cut whose truth is known, ascending."""
        return sorted(cut.past_zero_wh for cut in self.cuts if cut.past_zero_wh is not None)


@contextmanager
def processes(scene: Scene, files: DemoFiles) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Run simulator, control and north of a new site; end them with the block."""
    files.write_config(meters=scene.meters, port=scene.port)
    if scene.fail_safe_s:
        policy = f"{{fail_safe: fail_disconnected, fail_safe_after_s: {scene.fail_safe_s}}}"
        with files.config.open("a", encoding="utf-8") as config:
            config.write(f"defaults: {{pac3220: {policy}}}\n")
    with ExitStack() as owned:

        def spawn(name: str, *arguments: str) -> subprocess.Popen[bytes]:
            log = owned.enter_context((files.directory / f"{name}.log").open("ab"))
            child = subprocess.Popen(
                [sys.executable, "-m", "gateway", name, *arguments], stdout=log, stderr=log
            )
            owned.callback(_end, child)
            return child

        simulator = spawn(
            "simulate",
            *("--meters", str(scene.meters), "--port", str(scene.meter_port)),
            *("--load-w", str(scene.load_w), "--meters-file", str(files.meters)),
            *("--control-socket", str(files.simulator_socket)),
        )
        _until(lambda: files.meters.exists() and files.simulator_socket.exists(), simulator)
        create_stores(load_config(files.config), SystemClock())
        gateway = {name: spawn(name, "--config", str(files.config)) for name in PROCESSES[1:]}
        yield {"simulate": simulator, **gateway}


def _until(condition: Callable[[], bool], child: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + START_S
    while not condition():
        if child.poll() is not None or time.monotonic() > end_s:
            raise RuntimeError("the simulator did not start")
        time.sleep(0.05)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(15)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(15)


async def play(scene: Scene, directory: Path) -> Report:
    """Play a scene in an empty directory. Raises RuntimeError or RefusedError where it fails."""
    files = DemoFiles(directory)
    with processes(scene, files) as children:
        paths = paths_of(load_config(files.config))
        live = LiveTableReader(paths.live_dir)
        ended = asyncio.Event()
        await wait_for(lambda: _all_read(live), "the first reading", ended, START_S)
        if scene.fail_safe_s:
            for listed in live.meters:
                setting = {"address": TIMEOUT, "value": scene.fail_safe_s}
                await ask(files.simulator_socket, "setting", meter=listed.meter_id, **setting)
        await wait_for(paths.socket.exists, "north", ended, START_S)
        await open_accounts(paths.socket, live, lambda _count: None, scene.lasting_s)
        ids = [meter.meter_id for meter in live.meters]
        dead = set(ids[DEAD_EVERY // 2 :: DEAD_EVERY])
        for number, meter in enumerate(sorted(dead)):
            kind = DEAD_KINDS[number % len(DEAD_KINDS)]
            await ask(files.simulator_socket, "fault", meter=meter, kind=kind)
        since_ms, since_s = SystemClock().utc_ms(), time.monotonic()
        before = {name: cpu_s(child.pid) for name, child in children.items()}
        await _all_cut(live, dead, scene.lasting_s[1] + PATIENCE_S)
        seconds = time.monotonic() - since_s
        spent = {name: cpu_s(child.pid) - before[name] for name, child in children.items()}
        memory = {name: rss_kb(child.pid) / 1e3 for name, child in children.items()}
        await asyncio.sleep(PROVED_S)
        found = await _seen(paths, files, [meter for meter in ids if meter not in dead])
    return Report(
        scene,
        tuple(cut for cut in found if cut.issued_utc_ms >= since_ms),
        len(ids) - len(dead),
        seconds,
        {name: 100 * used / seconds for name, used in spent.items()},
        memory,
    )


async def _seen(paths: Paths, files: DemoFiles, meter_ids: Sequence[str]) -> list[Cut]:
    return await cuts(paths.ledger, files.simulator_socket, meter_ids, PRICE_MICRO)


def _all_read(live: LiveTableReader) -> bool:
    rows = live.rows()
    return bool(rows) and all(rows)


async def _all_cut(live: LiveTableReader, dead: set[str], patience_s: float) -> None:
    """Wait until every living point was cut, or patience is at its end."""
    end_s = time.monotonic() + patience_s
    while time.monotonic() < end_s:
        rows = zip(live.meters, live.rows(), strict=True)
        if not any(
            row is not None and row.control_state is ControlState.CONNECTED
            for meter, row in rows
            if meter.meter_id not in dead
        ):
            return
        await asyncio.sleep(LOOK_S)


def quantile(ascending: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed; nan of nothing."""
    if not ascending:
        return math.nan
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


def show(report: Report) -> None:
    """Print what was found."""
    scene = report.scene
    print(machine("uvloop"))
    print(
        f"{scene.meters} meters at 1 s, {scene.meters - report.alive} of them dead, "
        f"{scene.load_w} W ±{100 * SWING:.0f} % within a second; "
        f"{len(report.cuts)} cuts in {report.seconds:.0f} s"
        + (f"; outputs fall off after {scene.fail_safe_s} s\n" if scene.fail_safe_s else "\n")
    )
    past = report.past_zero_wh()
    rows = [_line("Wh past zero", past, 2, f"{scene.bound_wh:.2f} at {scene.peak_w / 1e3:g} kW")]
    for name, values, digits, bound in (
        ("crossing to output, ms", [cut.to_output_ms for cut in report.cuts], 0, "p50 50, p99 200"),
        (
            "reply to decision, ms",
            [_ms(cut.reply_to_decision_us) for cut in report.cuts],
            2,
            "p99 3",
        ),
        (
            "decision to write, ms",
            [_ms(cut.decision_to_write_us) for cut in report.cuts],
            2,
            "p99 20",
        ),
    ):
        rows.append(_line(name, sorted(v for v in values if v is not None), digits, bound))
    print(table(("cut-off", "number", "p50", "p99", "worst", "to reach"), rows))
    over = sum(wh > scene.bound_wh for wh in past)
    early = sum(wh < 0 for wh in past)
    open_still = sum(cut.state != "verified" for cut in report.cuts)
    print(f"\nover the bound: {over}; before zero: {early}; not proved by the end: {open_still}\n")
    print(
        table(
            ("process", "core %", "MB"),
            [
                (name, f"{report.core_percent[name]:.1f}", f"{report.memory_mb[name]:.0f}")
                for name in PROCESSES
            ],
        )
    )


def _ms(duration_us: int | None) -> float | None:
    return None if duration_us is None else duration_us / 1e3


def _line(name: str, ascending: Sequence[float], digits: int, bound: str) -> tuple[str, ...]:
    figures = (quantile(ascending, 0.5), quantile(ascending, 0.99), quantile(ascending, 1.0))
    return (name, f"{len(ascending)}", *(f"{figure:.{digits}f}" for figure in figures), bound)


def main() -> None:
    """Play the scene and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100 meters, half a minute of cuts")
    parser.add_argument("--meters", type=int)
    parser.add_argument("--fail-safe-s", type=int, default=0)
    given = parser.parse_args()
    scene = Scene(given.meters or 800, fail_safe_s=given.fail_safe_s)
    if given.quick:
        quick_s = (10.0, 30.0)
        scene = Scene(given.meters or 100, lasting_s=quick_s, fail_safe_s=given.fail_safe_s)
    directory = Path(tempfile.mkdtemp(prefix="prepaid-cutoff-"))
    try:
        show(asyncio.run(play(scene, directory)))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
