"""`meter`: find, read, commission, switch with proof, decide on its registers."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from gateway.app.cli import commission, scan, watch
from gateway.app.cli.local import (
    KeyOption,
    ask,
    is_pending,
    key_or_new,
    local_client,
    not_polled,
    tell,
)
from gateway.app.cli.output import (
    EXIT_FAILED,
    ConfigOption,
    JsonOption,
    complain,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from gateway.north.client import LocalClient
    from gateway.south.identity import Identity
    from gateway.south.meter import MeterClient, OutputReport

MeterArgument = Annotated[str, typer.Argument(metavar="ID", help="The meter.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is kept for good.")]
# Three attempts to open take half a minute; a closing waits for the minimum off time (60 s unless
# configured) and for its turn first.
FOLLOW_OFF_S: Final = 45
FOLLOW_ON_S: Final = 90
LOOK_EVERY_S: Final = 0.2
NS_PER_S: Final = 1_000_000_000
MANUAL: Final = "MANUAL"
READY: Final = "ready_for_reconnection"
ENDED: Final = ("verified", "failed", "expired")


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Meters: field work.", no_args_is_help=True)
    group.command()(read)
    group.command()(switch)
    group.command()(release)
    group.command()(replace)
    scan.add_to(group)
    commission.add_to(group)
    watch.add_to(group)
    app.add_typer(group, name="meter")


def read(meter: MeterArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Read every value of a meter over a connection of its own, by name and unit."""
    client = client_of(config, meter)

    async def look() -> "tuple[dict[str, float], str, OutputReport]":
        try:
            values = await client.read_values()
            identity = await client.identify()
            report = await client.check_output()
        finally:
            await client.close()
        return values, spoken(identity), report

    from gateway.app.cli.serve import run_loop

    values, identity, report = run_loop(look)
    model = client.model
    units = {name: model.measurement(name).unit for name in values}
    if as_json:
        show_json(
            {
                "meter": meter,
                "identity": identity,
                "values": values,
                "units": units,
                "output_problems": list(report.problems),
                "output_notes": list(report.notes),
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
    complain(*(f"cannot be switched: {problem}" for problem in report.problems))
    complain(*(f"note: {note}" for note in report.notes))


def switch(
    meter: MeterArgument,
    state: Annotated[str, typer.Argument(metavar="on|off")],
    config: ConfigOption,
    reason: Annotated[str, typer.Option("--reason", help="Why; needed for off.")] = "",
    cause: Annotated[
        str, typer.Option("--cause", help="MANUAL, SAFETY, LEGAL or TAMPER.")
    ] = MANUAL,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Connect or disconnect a supply through control, and wait for the proof.

    `off` stands until `on`; `on` clears it, waits for the minimum off time and confirms the
    reconnection where nothing else blocks.
    """
    from gateway.core.errors import RefusedError

    if state not in ("on", "off"):
        raise typer.BadParameter("give on or off", param_hint="STATE")
    action = "disconnect" if state == "off" else "reconnect"
    with local_client(config) as north:
        path = f"/meters/{meter}/commands"
        body = {"action": action, "reason": reason, "cause": cause}
        try:
            command = north.call("POST", path, body, key_or_new(key))
        except RefusedError as error:
            supply = north.call("GET", f"/meters/{meter}").get("supply") or {}
            is_ready = cast("dict[str, object]", supply).get("control_state") == READY
            if state == "off" or error.refusal_code != "NOT_DISCONNECTED" or not is_ready:
                raise
            # Its reason was taken back before: what is left is that a person confirms.
            command = north.call("POST", path, {"action": "confirm_reconnect"}, key_or_new(None))
        command = follow(north, meter, command, on=state == "on", cause=cause)
    if as_json:
        show_json(command)
    else:
        proof = ", ".join(cast("list[str]", command["verified_by"])) or "nothing yet"
        typer.echo(f"{meter} {state}: {command['state']}, proved by {proof}")
        if command.get("message"):
            complain(str(command["message"]))
    if command["state"] != "verified":
        raise typer.Exit(EXIT_FAILED)


def release(
    meter: MeterArgument,
    config: ConfigOption,
    accept: Annotated[
        bool, typer.Option("--accept/--reject", help="Charge what is held, or go on without.")
    ],
    reason: ReasonOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decide on the energy that a meter holds; it counts on from what it shows now."""
    body = {"accept": accept, "reason": reason}
    answer = ask(config, "POST", f"/meters/{meter}/quarantine-release", body, key)
    _tell_charged(answer, f"{meter}: held energy is decided on", as_json=as_json)


def replace(
    meter: MeterArgument,
    config: ConfigOption,
    closing: Annotated[
        str,
        typer.Option(
            "--closing", help="The old meter's last import registers in Wh, such as 812900,0."
        ),
    ],
    opening: Annotated[
        str, typer.Option("--opening", help="The new meter's first import registers in Wh.")
    ],
    reason: ReasonOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with another device behind a meter's id; the old one's last energy is charged."""
    body = {
        "closing_wh": registers_of(closing, "--closing"),
        "opening_wh": registers_of(opening, "--opening"),
        "reason": reason,
    }
    answer = ask(config, "POST", f"/meters/{meter}/replacement", body, key)
    _tell_charged(answer, f"{meter}: counts on with the new device", as_json=as_json)


def registers_of(text: str, option: str) -> list[int]:
    """Whole Wh between commas. Raises typer.BadParameter naming the option."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise typer.BadParameter("give whole Wh, such as 812900,0", param_hint=option)
    return [int(word) for word in words]


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
    from gateway.south.meter import MeterClient

    loaded = load_config(config)
    for meter in loaded.meters:
        if meter.meter_id == meter_id:
            return MeterClient(endpoint_of(meter), SystemClock())
    raise not_polled(loaded, meter_id)


def follow(
    north: "LocalClient",
    meter: str,
    command: dict[str, object],
    *,
    on: bool,
    cause: str = MANUAL,
    say: Callable[[str], None] = complain,
) -> dict[str, object]:
    """The command as it ended, or as it stands when nobody waits any longer.

    Says what it waits for, on standard error unless `say` is given. `on` confirms the
    reconnection, once, as soon as that is all that is missing.
    """
    from gateway.app.clock import SystemClock

    clock, follow_s = SystemClock(), FOLLOW_ON_S if on else FOLLOW_OFF_S
    until_ns = clock.mono_ns() + follow_s * NS_PER_S
    told, confirmed, quality = "", False, "good"
    while command["state"] not in ENDED:
        if clock.mono_ns() > until_ns:
            say(f"{meter}: not followed beyond {follow_s} s; waiting for {told or 'control'}")
            if quality != "good":
                say(f"{meter}: no good reading comes from it: `doctor` says why")
            break
        time.sleep(LOOK_EVERY_S)
        shown = north.call("GET", f"/meters/{meter}")
        quality = str(shown.get("quality", "good"))
        supply = cast("dict[str, object]", shown.get("supply") or {})
        if on and not confirmed and supply.get("control_state") == READY:
            confirmed = True
            body = {"action": "confirm_reconnect"}
            command = north.call("POST", f"/meters/{meter}/commands", body, key_or_new(None))
        else:
            command = north.call("GET", f"/commands/{command['id']}")
        awaited = awaited_of(supply, on=on, cause=cause)
        if awaited not in ("", told) and command["state"] not in ENDED:
            say(f"{meter}: waiting for {awaited}")
            told = awaited
    return command


def awaited_of(supply: Mapping[str, object], *, on: bool, cause: str = MANUAL) -> str:
    """What a switch waits for, as the supply shows it; empty where it shows nothing of it."""
    state = supply.get("control_state")
    if state in ("disconnecting", "reconnecting"):
        return "the proof of the switch"
    reasons = cast("list[str]", supply.get("block_reasons", []))
    if not on:
        return ""
    if state == "disconnected" and not reasons:
        return "the minimum off time"
    # The cause is the one that `on` itself takes back.
    others = [reason for reason in reasons if reason != cause]
    return f"what else blocks supply: {', '.join(others)}" if others else ""


def _tell_charged(answer: dict[str, object], title: str, *, as_json: bool) -> None:
    if as_json or is_pending(answer):
        tell(answer, "", as_json=as_json)
        return
    result = cast("dict[str, list[int]]", answer["result"])
    show_table(title, ("register", "charged Wh"), list(enumerate(result["charged_wh"], 1)))
    if "credited_wh" in result:
        rows = list(enumerate(result["credited_wh"], 1))
        show_table("Fed in", ("export register", "credited Wh"), rows)
