"""`device list`, `show`, `approve`, `refuse`, `commission`: ESP32 nodes."""

from typing import Annotated, cast

import typer

from gateway.app.cli.local import KeyOption, ask, local_client, tell
from gateway.app.cli.output import ConfigOption, JsonOption, show_json, show_table

Answer = dict[str, object]
Device = Annotated[str, typer.Argument(metavar="DEVICE", help="Device id of the node.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="ESP32 nodes: who was heard, who serves.", no_args_is_help=True)
    group.command("list")(list_devices)
    group.command()(show)
    group.command()(approve)
    group.command()(refuse)
    group.command()(commission)
    app.add_typer(group, name="device")


def list_devices(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show all devices that were heard; pending ones wait for `device approve`."""
    with local_client(config) as north:
        found = north.call("GET", "/devices")
    if as_json:
        show_json(found)
        return
    items = cast("list[Answer]", found["items"])
    columns = ("device", "status", "meter", "online", "output", "firmware", "last seen")
    show_table("Devices", columns, [_row(item) for item in items])


def show(device: Device, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show everything that is known of a device, its credit lease included."""
    with local_client(config) as north:
        found = north.call("GET", f"/devices/{device}")
    if as_json:
        show_json(found)
        return
    lease = cast("Answer | None", found.pop("lease"))
    rows: list[tuple[object, object]] = [
        (name.replace("_", " "), _text(value)) for name, value in found.items()
    ]
    if found["can_be_cut"] is False:
        rows.append(("supply", "cannot be cut: this node has no relay"))
    if lease is not None:
        cutoff_wh = lease["cutoff_wh"]
        limit = "no cut-off" if cutoff_wh is None else f"opens at {cutoff_wh} Wh"
        rows.append(("lease", f"{limit}, until {lease['expires_at']}"))
    show_table(device, ("", ""), rows)


def approve(
    device: Device,
    meter: Annotated[str, typer.Argument(metavar="METER", help="A node of the configuration.")],
    config: ConfigOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that a device is the one of a meter: from now on its readings count."""
    answer = ask(config, "POST", f"/devices/{device}/approval", {"meter_id": meter}, key)
    tell(answer, f"{device} serves {meter}", as_json=as_json)


def refuse(
    device: Device,
    config: ConfigOption,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept.")],
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Shut a device out; one that was approved has to be provisioned anew to come back."""
    answer = ask(config, "POST", f"/devices/{device}/refusal", {"reason": reason}, key)
    tell(answer, f"{device} is refused", as_json=as_json)


def commission(
    meter: Annotated[str, typer.Argument(metavar="METER", help="A node of the configuration.")],
    config: ConfigOption,
    yes: Annotated[bool, typer.Option("--yes", help="The wiring was proved: do not ask.")] = False,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a node's point into service: from now on its supply is enforced."""
    if not yes:
        typer.confirm(
            f"Was it seen that {meter} measures its customer, and that its relay switches them?",
            abort=True,
            err=True,
        )
    answer = ask(config, "POST", f"/meters/{meter}/commissioning", None, key)
    tell(answer, f"{meter} is in service", as_json=as_json)


def _row(device: Answer) -> tuple[object, ...]:
    names = ("id", "status", "meter_id", "online", "output", "firmware", "last_seen_at")
    return tuple(_text(device[name]) for name in names)


def _text(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else value
