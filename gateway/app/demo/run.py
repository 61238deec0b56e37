"""`demo`: start everything, show it, end it, and tell what happened."""

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.progress import Progress
from rich.table import Table

from gateway.app.cli.serve import EPOCH_VARIABLE, SPEED_VARIABLE
from gateway.app.clock import SystemClock
from gateway.app.config import load_config
from gateway.app.demo.nodes import demo_nodes, ready_file
from gateway.app.demo.site import (
    CURRENCY,
    PRICE_MICRO,
    DemoFiles,
    open_accounts,
    power_of,
    wait_for,
)
from gateway.app.demo.truth import Cut, cuts, node_cuts, unproved
from gateway.app.node_key import load_node_key
from gateway.app.paths import Paths, paths_of
from gateway.app.signals import stop_on_signals
from gateway.app.stores import create_stores
from gateway.app.supervise import Child, Supervisor
from gateway.core.money import display_amount
from gateway.core.switching import ControlState
from gateway.store.db import open_reader
from gateway.store.ledger import LEDGER
from gateway.store.live import LiveTableReader
from gateway.store.verify import verify_ledger

WIDTH: Final = 110
REFRESH_S: Final = 0.5
ROWS_SHOWN: Final = 40
METER_PORT: Final = 5020
# What every customer draws on average, so that the demo is as lively by night as by day.
LOAD_W: Final = 2_000


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Knobs of the demo. `for_s` ends it by itself; None runs until interrupted."""

    meters: int = 20
    nodes: int = 0
    speed: float = 1.0
    port: int = 8080
    meter_port: int = METER_PORT
    for_s: float | None = None
    seed: int = 1
    directory: Path | None = None


async def run_demo(options: DemoOptions) -> int:
    """Run the demo; exit status 0 when the ledger verifies and every cut was proved."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    directory = options.directory or Path(tempfile.mkdtemp(prefix="prepaid-demo-"))
    directory.mkdir(parents=True, exist_ok=True)
    try:
        return await _Demo(options, DemoFiles(directory), console).run()
    finally:
        if options.directory is None:
            shutil.rmtree(directory, ignore_errors=True)


class _Demo:
    def __init__(self, options: DemoOptions, files: DemoFiles, console: Console) -> None:
        self._options = options
        self._files = files
        self._console = console
        self._clock = SystemClock(options.speed)
        self._shown: dict[str, ControlState] = {}
        self._nodes = demo_nodes(options.nodes)
        self._broker_port = _free_port() if options.nodes else 0

    async def run(self) -> int:
        options, files = self._options, self._files
        stop = stop_on_signals()
        files.write_config(
            meters=options.meters,
            port=options.port,
            nodes=self._nodes,
            broker_port=self._broker_port,
        )
        environment = self._environment()
        simulator = Supervisor([self._simulator(environment)], self._clock)
        gateway = Supervisor(self._gateway(environment), self._clock)
        ending = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(simulator.run(ending))]
            try:
                await wait_for(self._simulator_is_up, "the simulator", ending)
                config = load_config(files.config)
                paths = paths_of(config)
                create_stores(config, self._clock)
                if self._nodes:
                    load_node_key(paths.control_dir)
                    nodes = Supervisor([self._node_site()], self._clock)
                    running.append(group.create_task(nodes.run(ending)))
                    await wait_for(ready_file(files.nodes).exists, "the nodes", ending)
                running.append(group.create_task(gateway.run(ending)))
                live = LiveTableReader(paths.live_dir)
                await wait_for(
                    lambda: self._all_read(live), "the first reading of every meter", ending
                )
                await wait_for(paths.socket.exists, "north", ending)
                await self._open(paths, live)
                self._explain(paths)
                await self._show(live, stop)
                found = await self._cuts(paths, live)
            finally:
                ending.set()
        return self._summary(paths, found)

    # -- processes -------------------------------------------------------------------------

    def _environment(self) -> Mapping[str, str]:
        if self._options.speed == 1.0:
            return {}
        return {
            SPEED_VARIABLE: str(self._options.speed),
            EPOCH_VARIABLE: str(self._clock.utc_ms()),
        }

    def _simulator(self, environment: Mapping[str, str]) -> Child:
        options, files = self._options, self._files
        arguments = ["--meters", str(options.meters), "--port", str(options.meter_port)]
        arguments += [
            "--load-w",
            str(LOAD_W),
            "--seed",
            str(options.seed),
            "--meters-file",
            str(files.meters),
        ]
        arguments += ["--control-socket", str(files.simulator_socket)]
        if environment:
            arguments += ["--speed", environment[SPEED_VARIABLE]]
            arguments += ["--epoch-utc-ms", environment[EPOCH_VARIABLE]]
        argv = (sys.executable, "-m", "gateway", "simulate", *arguments)
        return Child("simulate", argv)

    def _node_site(self) -> Child:
        options, files = self._options, self._files
        arguments = [str(files.config), "--count", str(options.nodes)]
        arguments += ["--directory", str(files.nodes), "--port", str(self._broker_port)]
        arguments += ["--load-w", str(LOAD_W), "--seed", str(options.seed)]
        return Child("nodes", (sys.executable, "-m", "gateway", "demo-nodes", *arguments))

    def _gateway(self, environment: Mapping[str, str]) -> list[Child]:
        quiet = {**environment, "LOG_LEVEL": os.environ.get("LOG_LEVEL", "ERROR")}
        return [
            Child(
                name,
                (sys.executable, "-m", "gateway", name, "--config", str(self._files.config)),
                environment=quiet,
            )
            for name in ("control", "north")
        ]

    def _simulator_is_up(self) -> bool:
        return self._files.meters.exists() and self._files.simulator_socket.exists()

    def _all_read(self, live: LiveTableReader) -> bool:
        rows = live.rows()
        return bool(rows) and all(rows)

    async def _open(self, paths: Paths, live: LiveTableReader) -> None:
        with Progress(console=self._console, transient=True) as bar:
            task = bar.add_task("opening accounts", total=len(live.meters))
            advance: Callable[[int], None] = lambda count: bar.advance(task, count)  # noqa: E731
            await open_accounts(paths.socket, live, advance)

    async def _cuts(self, paths: Paths, live: LiveTableReader) -> list[Cut]:
        files = self._files
        nodes = [node.meter_id for node in self._nodes]
        meters = [each.meter_id for each in live.meters if each.meter_id not in nodes]
        found = await cuts(paths.ledger, files.simulator_socket, meters, PRICE_MICRO)
        return found + node_cuts(paths.ledger, files.nodes, nodes, PRICE_MICRO)

    # -- what one sees ---------------------------------------------------------------------

    def _explain(self, paths: Paths) -> None:
        options = self._options
        say = self._console.print
        say(f"[bold]{options.meters} simulated flats[/] on 127.20.0.1 … port {options.meter_port}")
        if self._nodes:
            say(f"[bold]{options.nodes} simulated ESP32 nodes[/], with the firmware itself")
        say(f"API      http://127.0.0.1:{options.port}/api/v1  (token: {paths.setup_token})")
        say(f"config   {self._files.config}")
        first = load_config(self._files.config).meters[0].meter_id
        say("Each flat has credit for 20 to 120 seconds. When one is cut, in another terminal:")
        program = ".venv/bin/prepaid-gateway account"
        for words in (f"recharge {first} 50", f"confirm {first}"):
            say(f"  {program} {words} -c {self._files.config}", soft_wrap=True)
        say("Demo limits: no mass-cut breaker, 10 s minimum off time. Ctrl-C ends.\n")

    async def _show(self, live: LiveTableReader, stop: asyncio.Event) -> None:
        until_s = self._options.for_s
        elapsed_s = 0.0
        terminal = self._console.is_terminal
        with Live(console=self._console, refresh_per_second=2, auto_refresh=False) as view:
            while not stop.is_set() and (until_s is None or elapsed_s < until_s):
                if terminal:
                    view.update(self._table(live), refresh=True)
                else:
                    self._lines(live)
                try:
                    async with asyncio.timeout(REFRESH_S):
                        await stop.wait()
                except TimeoutError:
                    elapsed_s += REFRESH_S

    def _table(self, live: LiveTableReader) -> Table:
        table = Table(title="Palm Court", title_justify="left")
        for name in ("flat", "power W", "available INR", "supply", "blocked by"):
            table.add_column(name, justify="right" if name[0] in "pa" else "left")
        for meter, row in list(zip(live.meters, live.rows(), strict=True))[:ROWS_SHOWN]:
            if row is not None:
                cut = row.control_state is not ControlState.CONNECTED
                table.add_row(
                    meter.meter_id,
                    f"{power_of(row):.0f}",
                    display_amount(row.available_nano, CURRENCY),
                    row.control_state.value,
                    ", ".join(sorted(row.reasons)),
                    style="red" if cut else None,
                )
        return table

    def _lines(self, live: LiveTableReader) -> None:
        """On no terminal: a line whenever a supply changes."""
        for meter, row in zip(live.meters, live.rows(), strict=True):
            if row is None or self._shown.get(meter.meter_id) is row.control_state:
                continue
            if meter.meter_id in self._shown:
                balance = display_amount(row.available_nano, CURRENCY)
                self._console.print(
                    f"{meter.meter_id}: {row.control_state.value}, available {balance} INR"
                )
            self._shown[meter.meter_id] = row.control_state

    def _summary(self, paths: Paths, found: list[Cut]) -> int:
        table = Table(title="Cuts, beside the simulator's truth", title_justify="left")
        for name in (
            "flat", "balance at the cut INR", "Wh past zero", "crossing to output ms",
            "crossing to verified ms", "proved by",
        ):  # fmt: skip
            table.add_column(name, justify="left" if name in ("flat", "proved by") else "right")
        for cut in found:
            table.add_row(
                cut.meter_id,
                f"{cut.available_nano / 1e9:.6f}",
                _shown(cut.past_zero_wh, 3),
                _shown(cut.to_output_ms, 0),
                _shown(cut.to_verified_ms, 0),
                ", ".join(cut.verified_by) or cut.state,
            )
        self._console.print(table)
        _worst(self._console, found)
        connection = open_reader(paths.ledger, LEDGER)
        try:
            report = verify_ledger(connection)
        finally:
            connection.close()
        verdict = "clean" if not report.problem_count else f"{report.problem_count} problems"
        self._console.print(f"ledger verify: {report.transactions} transactions, {verdict}")
        for problem in report.problems:
            self._console.print(f"  {problem}")
        return 1 if report.problem_count or _open_too_long(found) else 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _open_too_long(found: list[Cut]) -> bool:
    """A cut that failed; one that was still being proved when the demo ended is none."""
    return any(cut.state in ("failed", "expired") for cut in unproved(found))


def _shown(value: float | None, digits: int) -> str:
    return "?" if value is None else f"{value:.{digits}f}"


def _worst(console: Console, found: list[Cut]) -> None:
    past = sorted(cut.past_zero_wh for cut in found if cut.past_zero_wh is not None)
    late = sorted(cut.to_output_ms for cut in found if cut.to_output_ms is not None)
    if past and late:
        console.print(
            f"{len(found)} cuts: Wh past zero median {past[len(past) // 2]:.3f}, "
            f"worst {past[-1]:.3f}; "
            f"crossing to output median {late[len(late) // 2]:.0f} ms, worst {late[-1]:.0f} ms"
        )
