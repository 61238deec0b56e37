"""`firmware flash`, `provision` and `labels`: boards at a bench (docs/flashing.md)."""

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from gateway.app.cli.output import EXIT_FAILED, JsonOption, complain, show_json

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from gateway.app.firmware.station import Order
    from gateway.core.errors import RefusedError

BenchArgument = Annotated[
    Path, typer.Argument(metavar="BENCH", help="What goes onto boards (docs/flashing.md).")
]
PortOption = Annotated[
    list[str] | None,
    typer.Option("--port", "-p", metavar="PORT", help="A serial port; repeatable."),
]
BoardsOption = Annotated[
    int, typer.Option("--boards", min=1, max=1000, help="At each port, one after the other.")
]
AgainOption = Annotated[
    bool, typer.Option("--again", help="Also boards that are done, with their serial.")
]
GenerationOption = Annotated[
    int, typer.Option("--generation", min=1, help="Of the secret; a new one revokes the old one.")
]
OperatorOption = Annotated[
    str, typer.Option("--operator", metavar="NAME", help="Who does it; the user's name else.")
]
SimulateOption = Annotated[
    int, typer.Option("--simulate", min=0, max=32, help="So many simulated ports; no hardware.")
]
BENCH = Path("bench.json")


def register(group: typer.Typer) -> None:
    """Add the commands to the group `firmware`."""
    group.command()(flash)
    group.command()(provision)
    group.command()(labels)


def flash(
    bench: BenchArgument = BENCH,
    port: PortOption = None,
    boards: BoardsOption = 1,
    again: AgainOption = False,
    generation: GenerationOption = 1,
    operator: OperatorOption = "",
    simulate: SimulateOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Erase and write boards, give them keys and settings, test and record them."""
    order = _order(operator, flash=True, again=again, generation=generation)
    _work(bench, port or [], order, boards=boards, simulate=simulate, as_json=as_json)


def provision(
    bench: BenchArgument = BENCH,
    port: PortOption = None,
    boards: BoardsOption = 1,
    again: AgainOption = False,
    generation: GenerationOption = 1,
    operator: OperatorOption = "",
    as_json: JsonOption = False,
) -> None:
    """Give boards that are flashed their keys and settings, test and record them."""
    order = _order(operator, flash=False, again=again, generation=generation)
    _work(bench, port or [], order, boards=boards, simulate=0, as_json=as_json)


def labels(
    bench: BenchArgument,
    pdf: Annotated[Path, typer.Argument(metavar="PDF", help="The new file; it holds secrets.")],
    serial: Annotated[
        list[str] | None,
        typer.Option("--serial", metavar="SERIAL", help="Only this one; repeatable."),
    ] = None,
    skip: Annotated[
        int, typer.Option("--skip", min=0, max=23, help="Labels gone from the first sheet.")
    ] = 0,
) -> None:
    """Print labels of boards that are done, three by eight on A4 (70 x 37 mm)."""
    from gateway.app.firmware.bench import read_bench, read_node_key
    from gateway.app.firmware.labels import Label, labels_pdf
    from gateway.app.firmware.record import DONE, read_boards
    from gateway.app.firmware.signing import write_new
    from gateway.app.site_key import PRIVATE_MODE
    from gateway.core.errors import RefusedError
    from gateway.core.sealing import device_secret, portal_password

    file = read_bench(bench)
    key = read_node_key(bench.parent / file.node_key)
    record = bench.parent / file.record
    done = [line for line in read_boards(record) if line["result"] == DONE]
    if not done:
        raise RefusedError("ARGUMENT", f"no board is done in {record}: `firmware flash` fills it")
    unknown = set(serial or ()) - {str(line["serial"]) for line in done}
    if unknown:
        raise RefusedError("ARGUMENT", f"no board is done as {min(unknown)}")
    wanted = [
        Label(
            serial=line["serial"],
            mac=line["mac"],
            secret=portal_password(device_secret(key, line["device_id"], line["generation"])),
        )
        # Ports work side by side: boards end in any order, and are searched for by serial.
        for line in sorted(done, key=lambda line: (len(line["serial"]), line["serial"]))
        if not serial or line["serial"] in serial
    ]
    write_new(pdf, labels_pdf(wanted, skip), PRIVATE_MODE)
    typer.echo(f"{len(wanted)} labels in {pdf}; delete it when they are printed")


def _order(operator: str, *, flash: bool, again: bool, generation: int) -> "Order":
    import getpass

    from gateway.app.firmware.station import Order

    return Order(
        operator=operator or getpass.getuser(), flash=flash, again=again, generation=generation
    )


def _work(
    path: Path,
    ports: list[str],
    order: "Order",
    *,
    boards: int,
    simulate: int,
    as_json: bool,
) -> None:
    from gateway.app.clock import SystemClock
    from gateway.app.firmware.bench import load_bench
    from gateway.app.firmware.bench_run import run_ports
    from gateway.app.firmware.record import Record
    from gateway.app.firmware.simulated import SimulatedBoards
    from gateway.app.firmware.station import STEPS, Board, Station
    from gateway.app.firmware.tools import (
        ESPTOOL,
        MPREMOTE,
        SerialBoard,
        check_port,
        command_of,
        ports_there,
    )

    if ports and simulate:
        raise typer.BadParameter("real ports, or --simulate, not both", param_hint="--port")
    if not ports and not simulate:
        found = ", ".join(ports_there()) or "none (a cable may carry only power)"
        raise typer.BadParameter(f"give --port; there are: {found}", param_hint="--port")
    bench = load_bench(path)
    complain(*bench.warnings)
    record = bench.record
    make: Any = SerialBoard
    if simulate:
        # Serials of real boards are never spent on simulated ones.
        record = record.with_name(f"simulated-{record.name}")
        ports = [f"simulated-{number}" for number in range(1, simulate + 1)]
        make = SimulatedBoards().board_at
    else:
        for tool in (MPREMOTE, ESPTOOL) if order.flash else (MPREMOTE,):
            command_of(tool)
        for port in ports:
            check_port(port)
    with ExitStack() as stack:
        opened = stack.enter_context(Record.open(record, bench.file.serials))
        view = stack.enter_context(BenchView(len(STEPS), quiet=as_json))
        station = Station(bench, opened, order, SystemClock())

        def board_at(port: str) -> Board:
            board: Board = make(port)
            return board

        tally = run_ports(station, ports, board_at, view, boards=boards)
    if as_json:
        show_json(view.lines)
    else:
        typer.echo(f"{tally.done} done, {tally.failed} failed, {len(tally.refused)} refused")
    if tally.interrupted:
        complain("interrupted: the same command goes on with the next board")
    if tally.failed or tally.refused or tally.interrupted:
        raise typer.Exit(EXIT_FAILED)


class BenchView:
    """A line of progress for each port at a terminal; plain lines elsewhere."""

    def __init__(self, steps: int, *, quiet: bool) -> None:
        self.lines: list[dict[str, Any]] = []
        self._steps = steps
        self._quiet = quiet
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        import sys

        if sys.stdout.isatty() and not self._quiet:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                TextColumn("{task.fields[port]}", markup=False),
                BarColumn(),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
            )
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def step(self, port: str, step: str) -> None:
        """A step began."""
        if self._progress is None:
            return
        with self._lock:
            if step == "address" and port in self._tasks:
                self._progress.reset(self._tasks[port])
            elif port not in self._tasks:
                self._tasks[port] = self._progress.add_task("", total=self._steps, port=port)
            self._progress.update(self._tasks[port], advance=1, description=step)

    def ended(self, port: str, line: dict[str, Any]) -> None:
        """A board ended."""
        self.lines.append(line)
        name = f"{line['serial']}  {line['mac']}"
        if line["result"] == "done":
            self._say(port, f"DONE    {name}  {line['seconds']} s")
        else:
            self._say(port, f"FAILED  {name}  {line['step']}: {line['why']}")

    def refused(self, port: str, error: "RefusedError") -> None:
        """No board was begun."""
        code = error.refusal_code
        self.lines.append({"port": port, "result": "refused", "code": code, "why": error.message})
        self._say(port, f"{code}: {error.message}")

    def waiting(self, port: str) -> None:
        """The next board."""
        self._say(port, "unplug this board, plug in the next one")

    def _say(self, port: str, text: str) -> None:
        if self._quiet:
            return
        with self._lock:
            if self._progress is None:
                complain(f"{port}  {text}")
                return
            self._progress.print(f"{port}  {text}", markup=False, highlight=False)
            if port in self._tasks:
                self._progress.update(self._tasks[port], description=text.partition("  ")[0])
