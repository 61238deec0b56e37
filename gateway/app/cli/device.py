"""`device list`, `show`, `approve`, …: ESP32 nodes, and what they are told by people."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, cast

import typer

from gateway.app.cli import device_many
from gateway.app.cli.local import KeyOption, ask, is_pending, key_or_new, local_client, tell
from gateway.app.cli.output import ConfigOption, JsonOption, show_json, show_table

Answer = dict[str, object]
# North waits two seconds for an answer; a node has four for each of two commands.
ASKED_MAX: Final = 5
Device = Annotated[str, typer.Argument(metavar="DEVICE", help="Device id of the node.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="ESP32 nodes: who was heard, who serves.", no_args_is_help=True)
    group.command("list")(list_devices)
    group.command()(show)
    device_many.register(group)
    group.command()(refuse)
    group.command()(settings)
    group.command()(identify)
    group.command()(restart)
    group.command()(release)
    app.add_typer(group, name="device")


def list_devices(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show all devices that were heard; pending ones wait for `device approve`."""
    from gateway.app.cli.serve import clock_of_environment

    with local_client(config) as north:
        found = north.call("GET", "/devices")
    if as_json:
        show_json(found)
        return
    items = cast("list[Answer]", found["items"])
    columns = ("device", "status", "meter", "online", "output", "firmware")
    now_utc_ms = clock_of_environment().utc_ms()
    show_table("Devices", columns, [_row(item, now_utc_ms) for item in items])


def show(device: Device, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show everything that is known of a device, its credit lease included."""
    with local_client(config) as north:
        found = north.call("GET", f"/devices/{device}")
    if as_json:
        show_json(found)
        return
    lease = cast("Answer | None", found.pop("lease"))
    held = cast("Answer | None", found.pop("held"))
    modules = cast("list[Answer]", found.pop("modules"))
    chosen = cast("Answer", found.pop("settings"))
    rows: list[tuple[object, object]] = [
        (name.replace("_", " "), _text(value)) for name, value in found.items()
    ]
    if found["can_be_cut"] is False:
        rows.append(("supply", "cannot be cut: this node has no relay"))
    if lease is not None:
        cutoff_wh = lease["cutoff_wh"]
        limit = "no cut-off" if cutoff_wh is None else f"opens at {cutoff_wh} Wh"
        rows.append(("lease", f"{limit}, until {lease['expires_at']}"))
        rows.extend(_limit_rows(lease))
    if held is not None:
        told = f"the module shows {held['held_wh']} Wh, {held['counter_wh']} Wh were good last"
        rows.append(("held", f"{told}: look at it, then `device release`"))
    rows.extend((f"set {name}", _text(value)) for name, value in chosen.items())
    show_table(device, ("", ""), rows)
    if modules:
        columns = ("address", "quality", "energy Wh", "V", "A", "W", "held")
        names = ("address", "quality", "energy_wh", "voltage_v", "current_a", "power_w", "held")
        show_table("Modules", columns, [[_text(one[name]) for name in names] for one in modules])


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


def settings(
    device: Device,
    changes: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE…", help="Such as poll_s=2 limit_w=3000 modules=1,2."),
    ],
    config: ConfigOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change settings of a node; those that are not named stay."""
    body = {"settings": settings_of(changes)}
    answer = _order(config, f"/devices/{device}/settings", body, key)
    tell(answer, _said(answer, f"{device} has its settings"), as_json=as_json)


def identify(
    device: Device,
    config: ConfigOption,
    for_s: Annotated[int, typer.Option("--for", min=1, max=600, help="Seconds.")] = 60,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the node's lamp blink quickly, so that who stands there finds it."""
    answer = _order(config, f"/devices/{device}/identification", {"for_s": for_s}, key)
    tell(answer, f"{device} blinks for {for_s} s", as_json=as_json)


def restart(
    device: Device, config: ConfigOption, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Restart the node; its relay stays as it is."""
    answer = _order(config, f"/devices/{device}/restart", None, key)
    tell(answer, f"{device} restarts", as_json=as_json)


def release(
    device: Device,
    config: ConfigOption,
    count: Annotated[
        bool,
        typer.Option(
            "--count/--no-count",
            help="The advance to the held counter was energy, or (a module was exchanged, reset, "
            "preset) nothing is charged for it.",
        ),
    ],
    reason: Annotated[str, typer.Option("--reason", help="What was found; it is kept.")],
    address: Annotated[
        int, typer.Option("--address", min=0, max=247, help="Of the module; 0: the first one.")
    ] = 0,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that the counter which a node holds is its module's: it counts on from there."""
    body = {"count": count, "reason": reason, "module_address": address}
    answer = _order(config, f"/devices/{device}/counter-release", body, key)
    tell(answer, _said(answer, f"{device}: the counter is released"), as_json=as_json)


def settings_of(changes: Sequence[str]) -> dict[str, int | list[int]]:
    """NAME=VALUE of whole numbers, `modules` with commas. Raises typer.BadParameter."""
    found: dict[str, int | list[int]] = {}
    for change in changes:
        name, _, value = change.partition("=")
        words = value.split(",") if name == "modules" else [value]
        right = all(word.isascii() and word.isdigit() and len(word) <= 9 for word in words)
        if not name or not right:
            raise typer.BadParameter(
                "give NAME=VALUE with whole numbers, such as poll_s=2", param_hint="NAME=VALUE"
            )
        numbers = [int(word) for word in words]
        found[name] = numbers if name == "modules" else numbers[0]
    return found


def _order(config: Path, path: str, body: Mapping[str, object] | None, key: str | None) -> Answer:
    """Ask for something that a node carries out, until it has answered."""
    key = key_or_new(key)
    with local_client(config) as north:
        answer = north.call("POST", path, body, key)
        for _ in range(ASKED_MAX - 1):
            if not is_pending(answer):
                break
            answer = north.call("POST", path, body, key)
    return answer


def _said(answer: Answer, done: str) -> str:
    message = cast("Answer", answer.get("result") or {}).get("message")
    return f"{done}: {message}" if message else done


def _limit_rows(lease: Answer) -> list[tuple[object, object]]:
    rows: list[tuple[object, object]] = []
    if lease["limit_w"] is not None:
        rows.append(("limit", f"{lease['limit_w']} W while the gateway is away"))
    if lease["emergency_limit_w"] is not None:
        limit = f"{lease['emergency_limit_w']} W from {lease['emergency_wh']} Wh on"
        rows.append(("emergency limit", limit))
    return rows


def _row(device: Answer, now_utc_ms: int) -> tuple[object, ...]:
    names = ("id", "status", "meter_id", "online", "output", "firmware")
    away = f"no for {_age(str(device['last_seen_at']), now_utc_ms)}"
    shown = {**device, "online": "yes" if device["online"] else away}
    return tuple(_text(shown[name]) for name in names)


def _age(at: str, now_utc_ms: int) -> str:
    """How long ago, in one unit: a list of many nodes has to fit a terminal."""
    age_s = max(0, now_utc_ms - round(datetime.fromisoformat(at).timestamp() * 1_000)) // 1_000
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if age_s >= seconds:
            return f"{age_s // seconds} {unit}"
    return f"{age_s} s"


def _text(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else value
