"""`meter`: read a meter directly, switch one with proof, say that a point is commissioned."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from gateway.app.cli.local import KeyOption, key_or_new, local_client
from gateway.app.cli.output import (
    EXIT_FAILED,
    ConfigOption,
    JsonOption,
    complain,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from gateway.south.identity import Identity
    from gateway.south.meter import MeterClient

MeterArgument = Annotated[str, typer.Argument(metavar="ID", help="The meter.")]
FOLLOW_S: Final = 45.0
LOOK_EVERY_S: Final = 0.2


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Meters: field work.", no_args_is_help=True)
    group.command()(read)
    group.command()(switch)
    group.command()(commission)
    app.add_typer(group, name="meter")


def read(meter: MeterArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Read every value of a meter over a connection of its own, by name and unit."""
    client = client_of(config, meter)

    async def look() -> tuple[dict[str, float], str, tuple[str, ...]]:
        try:
            values = await client.read_values()
            identity = await client.identify()
            report = await client.check_output()
        finally:
            await client.close()
        return values, spoken(identity), report.problems

    from gateway.app.cli.serve import run_loop

    values, identity, problems = run_loop(look)
    model = client.model
    units = {name: model.measurement(name).unit for name in values}
    if as_json:
        show_json(
            {
                "meter": meter,
                "identity": identity,
                "values": values,
                "units": units,
                "output_problems": list(problems),
            }
        )
        return
    show_table(
        f"{meter}: {identity}",
        ("value", "is", "unit"),
        [
            (name, f"{value:.3f}".rstrip("0").rstrip("."), units[name])
            for name, value in values.items()
        ],
    )
    complain(*(f"cannot be switched: {problem}" for problem in problems))


def switch(
    meter: MeterArgument,
    state: Annotated[str, typer.Argument(metavar="on|off")],
    config: ConfigOption,
    reason: Annotated[str, typer.Option("--reason", help="Why; needed for off.")] = "",
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Connect or disconnect a supply through control, and wait for the proof.

    `off` stands until `on`; `on` clears it and confirms the reconnection where nothing else blocks.
    """
    if state not in ("on", "off"):
        raise typer.BadParameter("give on or off", param_hint="STATE")
    action = "disconnect" if state == "off" else "reconnect"
    with local_client(config) as north:
        command = north.call(
            "POST",
            f"/meters/{meter}/commands",
            {"action": action, "reason": reason},
            key_or_new(key),
        )
        waited_s = 0.0
        while command["state"] not in ("verified", "failed", "expired") and waited_s < FOLLOW_S:
            time.sleep(LOOK_EVERY_S)
            waited_s += LOOK_EVERY_S
            command = north.call("GET", f"/commands/{command['id']}")
            supply = cast(
                "dict[str, object]", north.call("GET", f"/meters/{meter}").get("supply") or {}
            )
            if state == "on" and supply.get("control_state") == "ready_for_reconnection":
                command = north.call(
                    "POST",
                    f"/meters/{meter}/commands",
                    {"action": "confirm_reconnect"},
                    key_or_new(None),
                )
    if as_json:
        show_json(command)
    else:
        proof = ", ".join(cast("list[str]", command["verified_by"])) or "nothing yet"
        typer.echo(f"{meter} {state}: {command['state']}, proved by {proof}")
        if command.get("message"):
            complain(str(command["message"]))
    if command["state"] != "verified":
        raise typer.Exit(EXIT_FAILED)


def commission(
    meter: MeterArgument,
    config: ConfigOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check identity and output of a meter; when they fit, enforce supply at its point."""
    from gateway.app.cli.serve import run_loop

    client = client_of(config, meter)

    async def look() -> tuple[str, tuple[str, ...]]:
        try:
            return spoken(await client.connect()), (await client.check_output()).problems
        finally:
            await client.close()

    identity, problems = run_loop(look)
    if problems:
        complain(*(f"{meter}: {problem}" for problem in problems))
        raise typer.Exit(EXIT_FAILED)
    with local_client(config) as north:
        answer = north.call("POST", f"/meters/{meter}/commissioning", None, key_or_new(key))
    if as_json:
        show_json({**answer, "identity": identity})
    else:
        typer.echo(f"{meter}: {identity}; output obeys; supply is enforced from now on")


def spoken(identity: "Identity") -> str:
    """A device's own words about itself."""
    words = (identity.manufacturer, identity.device_name, identity.firmware)
    serial = f"serial {identity.serial_number}" if identity.serial_number else ""
    return " ".join(word for word in (*words, serial) if word) or "a device without a name"


def client_of(config: Path, meter_id: str) -> "MeterClient":
    """A client of a configured meter, beside control's. Raises RefusedError METER_UNKNOWN."""
    from gateway.app.clock import SystemClock
    from gateway.app.config import load_config
    from gateway.app.control.polls import endpoint_of
    from gateway.core.errors import RefusedError
    from gateway.south.meter import MeterClient

    for meter in load_config(config).meters:
        if meter.meter_id == meter_id:
            return MeterClient(endpoint_of(meter), SystemClock())
    raise RefusedError("METER_UNKNOWN", f"the configuration has no meter {meter_id}")
