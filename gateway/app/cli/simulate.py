"""`simulate`: the simulated site alone, for this gateway or anybody else's."""

from pathlib import Path
from typing import Annotated

import typer

from gateway.app.cli.output import complain


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(simulate)


def simulate(
    meters: Annotated[int, typer.Option(min=1, max=20_000, help="Number of PAC3220.")] = 20,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="TCP port of every meter.")] = 5020,
    seed: Annotated[int, typer.Option(help="The same seed makes the same customers.")] = 1,
    load_w: Annotated[
        int | None, typer.Option(min=0, help="Average load of every meter instead of profiles.")
    ] = None,
    speed: Annotated[float, typer.Option(help="How much faster than real time runs.")] = 1.0,
    epoch_utc_ms: Annotated[
        int | None, typer.Option(help="Instant at which a faster clock agrees with the real one.")
    ] = None,
    control_socket: Annotated[
        Path | None, typer.Option(help="Unix socket for commands: faults, truth, loads.")
    ] = None,
    check_meters: Annotated[
        bool, typer.Option("--check-meters", help="A check meter at the head of each feeder, too.")
    ] = False,
    output_disconnects: Annotated[
        bool, typer.Option("--output-disconnects", help="An active output takes supply away.")
    ] = False,
    meters_file: Annotated[
        Path | None, typer.Option(help="Write the meters there as the gateway's meters_file.")
    ] = None,
) -> None:
    """Serve simulated PAC3220 over Modbus TCP on 127.20.x.y until interrupted."""
    import asyncio

    from gateway.app.cli.serve import run_loop
    from gateway.app.clock import SystemClock, seeded
    from gateway.app.signals import stop_on_signals
    from gateway.sim.control import serve
    from gateway.sim.meter import OutputOn
    from gateway.sim.site import Site, SiteOptions

    clock = SystemClock(speed, epoch_utc_ms)
    options = SiteOptions(
        meters=meters,
        port=port,
        seed=seed,
        load_w=load_w,
        control_socket=control_socket,
        check_meters=check_meters,
        output_on=OutputOn.DISCONNECTS if output_disconnects else OutputOn.CONNECTS,
    )
    if meters_file is not None:
        meters_file.write_text(Site(options, clock, seeded).meters_csv(), encoding="utf-8")

    async def run() -> None:
        stop, ready = stop_on_signals(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(serve(options, clock, stop, seeded=seeded, ready=ready))
            ended = group.create_task(stop.wait())
            started = group.create_task(ready.wait())
            await asyncio.wait((ended, started), return_when=asyncio.FIRST_COMPLETED)
            if started.done():
                complain(f"{meters} simulated PAC3220 at 127.20.0.1 … port {port}; Ctrl-C ends")
            started.cancel()

    run_loop(run)
