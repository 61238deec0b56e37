"""`device list`, `show`, `approve`, `refuse`, `commission`: ESP32 nodes."""

from typing import Annotated, cast

import typer

from gateway.app.cli import device_many
from gateway.app.cli.local import KeyOption, ask, local_client, tell
from gateway.app.cli.output import ConfigOption, JsonOption, show_json, show_table

Answer = dict[str, object]
Device = Annotated[str, typer.Argument(metavar="DEVICE", help="Device id of the node.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="ESP32 nodes: who was heard, who serves.", no_args_is_help=True)
    group.command("list")(list_devices)
    group.command()(show)
    device_many.register(group)
    group.command()(refuse)
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


def _row(device: Answer) -> tuple[object, ...]:
    names = ("id", "status", "meter_id", "online", "output", "firmware", "last_seen_at")
    return tuple(_text(device[name]) for name in names)


def _text(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else value
