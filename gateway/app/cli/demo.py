"""`demo`: the main job on a simulated site."""

from pathlib import Path
from typing import Annotated

import typer

from gateway.app.cli.output import complain


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    meters: Annotated[int, typer.Option(min=1, max=2_000, help="Simulated flats.")] = 20,
    nodes: Annotated[
        int, typer.Option(min=0, max=500, help="Simulated ESP32 nodes: not in this version yet.")
    ] = 0,
    speed: Annotated[float, typer.Option(min=0.1, max=100, help="How much faster.")] = 1.0,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the API.")] = 8080,
    meter_port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of all meters.")] = 5020,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="60s", help="End after this time.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed makes the same customers.")] = 1,
    directory: Annotated[
        Path | None, typer.Option(help="Keep everything here; a temporary directory unless given.")
    ] = None,
) -> None:
    """Run simulated meters, control and north; watch flats use up their credit and be cut."""
    from gateway.app.cli.serve import run_loop
    from gateway.app.demo.run import DemoOptions, run_demo
    from gateway.app.logs import set_up_logs

    set_up_logs("demo")
    if nodes:
        complain(f"note: {nodes} simulated nodes were asked for; this version simulates none yet")
    options = DemoOptions(
        meters=meters,
        speed=speed,
        port=port,
        meter_port=meter_port,
        for_s=None if for_ is None else seconds_of(for_),
        seed=seed,
        directory=directory,
    )
    raise typer.Exit(run_loop(lambda: run_demo(options)))


def seconds_of(text: str) -> float:
    """`60s`, `2m` or `90` as seconds. Raises typer.BadParameter."""
    factor = {"s": 1.0, "m": 60.0}.get(text[-1:], 0.0)
    number = text[:-1] if factor else text
    try:
        found = float(number) * (factor or 1.0)
    except ValueError:
        found = 0.0
    if not 0 < found <= 86_400:
        raise typer.BadParameter(f"{text!r} is no time such as 60s or 2m", param_hint="--for")
    return found
