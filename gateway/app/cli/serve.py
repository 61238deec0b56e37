"""`run`, `control`, `north`: the processes."""

import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

import typer

from gateway.app.cli.output import ConfigOption

if TYPE_CHECKING:
    from gateway.app.clock import SystemClock
    from gateway.core.errors import GatewayError

T = TypeVar("T")

# How a demo hands its clock to its processes.
SPEED_VARIABLE: Final = "PREPAID_GATEWAY_SPEED"
EPOCH_VARIABLE: Final = "PREPAID_GATEWAY_EPOCH_UTC_MS"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(run)
    app.command()(control)
    app.command()(north)


def run(config: ConfigOption) -> None:
    """Run control and north, supervised, until interrupted."""
    from gateway.app.config import load_config
    from gateway.app.logs import set_up_logs
    from gateway.app.notify import Notifier
    from gateway.app.signals import end_deaf, ignore_reload, wishes_of_signals
    from gateway.app.stores import create_stores, may_create
    from gateway.app.supervise import WATCHDOG_S, Child, Supervisor

    set_up_logs("run")
    ignore_reload()
    found = load_config(config)
    clock = clock_of_environment()
    if may_create(found):
        create_stores(found, clock)
    base = (sys.executable, "-m", "gateway")
    children = [
        Child(
            name,
            (*base, name, "--config", str(found.path)),
            essential=name == "control",
            watchdog_s=WATCHDOG_S,
        )
        for name in ("control", "north")
    ]

    async def supervise() -> int:
        wishes = wishes_of_signals()
        supervisor = Supervisor(children, clock, notifier=Notifier.of_environment())
        try:
            return await supervisor.run(wishes.stop, wishes.reload)
        finally:
            end_deaf()

    raise typer.Exit(run_loop(supervise))


def control(config: ConfigOption) -> None:
    """Run the control process: meters, money, supply."""
    from gateway.app.control.process import run_control

    _serve("control", config, run_control)


def north(config: ConfigOption) -> None:
    """Run the north process: HTTP API, and all that leaves the site."""
    from gateway.app.north import run_north

    _serve("north", config, run_north)


def clock_of_environment() -> "SystemClock":
    """The clock of this process: real, or the demo's faster one."""
    from gateway.app.clock import SystemClock

    speed = os.environ.get(SPEED_VARIABLE)
    if speed is None:
        return SystemClock()
    return SystemClock(float(speed), int(os.environ[EPOCH_VARIABLE]))


def run_loop(main: Callable[[], Awaitable[T]]) -> T:
    """Run an asynchronous function on uvloop.

    Raises what it raised; of a group of errors the first of ours, since tasks end together.
    """
    import uvloop

    async def wrapped() -> T:
        return await main()

    try:
        return uvloop.run(wrapped())
    except BaseExceptionGroup as group:
        ours = _first_of_ours(group)
        if ours is None:
            raise
        raise ours from group


def _first_of_ours(group: BaseExceptionGroup) -> "GatewayError | None":
    from gateway.core.errors import GatewayError

    for error in group.exceptions:
        found = _first_of_ours(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, GatewayError):
            return found
    return None


def _serve(name: str, path: ConfigOption, main: "Callable[..., Awaitable[None]]") -> None:
    from gateway.app.config import load_config
    from gateway.app.logs import set_up_logs
    from gateway.app.notify import Notifier
    from gateway.app.signals import end_deaf, ignore_reload, wishes_of_signals

    set_up_logs(name)
    ignore_reload()
    config = load_config(path)
    clock = clock_of_environment()

    async def serve() -> None:
        wishes = wishes_of_signals()
        try:
            await main(
                config,
                clock,
                wishes.stop,
                reload=wishes.reload,
                notifier=Notifier.of_environment(),
            )
        finally:
            end_deaf()

    run_loop(serve)
