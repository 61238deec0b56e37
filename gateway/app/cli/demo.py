"""`demo`: the main job on a simulated site."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)
    app.command("demo-nodes", hidden=True)(demo_nodes)


def demo(
    meters: Annotated[int, typer.Option(min=1, max=2_000, help="Simulated flats.")] = 20,
    nodes: Annotated[
        int, typer.Option(min=0, max=500, help="Simulated ESP32 nodes; needs the sources.")
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
        _may_have_nodes(speed)
    options = DemoOptions(
        meters=meters,
        nodes=nodes,
        speed=speed,
        port=port,
        meter_port=meter_port,
        for_s=None if for_ is None else seconds_of(for_),
        seed=seed,
        directory=directory,
    )
    raise typer.Exit(run_loop(lambda: run_demo(options)))


def demo_nodes(
    config: Annotated[Path, typer.Argument(help="Configuration of the demo.")],
    count: Annotated[int, typer.Option(min=1)],
    directory: Annotated[Path, typer.Option()],
    port: Annotated[int, typer.Option(min=1, max=65_535)],
    load_w: Annotated[int, typer.Option(min=0)],
    seed: Annotated[int, typer.Option()],
) -> None:
    """Run the demo's nodes and their broker."""
    import asyncio
    import logging

    from gateway.app.cli.serve import run_loop
    from gateway.app.clock import SystemClock
    from gateway.app.config import load_config
    from gateway.app.demo.nodes import NodesOptions, run_nodes
    from gateway.app.demo.site import DemoFiles
    from gateway.app.node_key import load_node_key
    from gateway.app.paths import paths_of
    from gateway.app.signals import stop_on_signals

    # amqtt tells every connection that ends.
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    site_key = load_node_key(paths_of(load_config(config)).control_dir)
    password = DemoFiles(config.parent).broker_password.read_text(encoding="ascii").strip()
    directory.mkdir(parents=True, exist_ok=True)
    options = NodesOptions(count, directory, port, load_w, seed)

    async def run() -> None:
        stop: asyncio.Event = stop_on_signals()
        await run_nodes(options, site_key, password, SystemClock(), stop)

    run_loop(run)


def _may_have_nodes(speed: float) -> None:
    from importlib.util import find_spec

    from gateway.app.firmware.sources import firmware_directory

    if speed != 1.0:
        raise typer.BadParameter("the nodes' firmware runs in real time", param_hint="--speed")
    if find_spec("amqtt") is None or not (firmware_directory() / "node" / "app.py").exists():
        raise typer.BadParameter(
            "nodes need the sources and their tools: make demo there", param_hint="--nodes"
        )


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
