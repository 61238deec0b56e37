"""`broker write`, `add-user`, `remove-user`: a mosquitto for the site's nodes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.app.cli.output import ConfigOption, JsonOption, complain, show_json

if TYPE_CHECKING:
    from gateway.app.broker.write import Change, Written

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the broker's files.")]
Device = Annotated[str, typer.Argument(metavar="DEVICE", help="Device id, which is its user name.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="A mosquitto for the site's nodes.", no_args_is_help=True)
    group.command()(write)
    group.command("add-user")(add_user)
    group.command("remove-user")(remove_user)
    app.add_typer(group, name="broker")


def write(directory: Directory, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Write the configuration, users and certificates; only what changed, so run it again."""
    _show(*_written(directory, config), as_json=as_json)


def add_user(
    directory: Directory,
    device: Device,
    config: ConfigOption,
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file",
            metavar="FILE",
            help="Its first line is the password, for a node that is not ours.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Let a device log in that neither the file nor the gateway knows yet, and write."""
    from gateway.app.broker.users import Added, added_user

    password = None if password_file is None else _first_line(password_file)
    user = added_user(device, password)

    def change(users: dict[str, Added]) -> None:
        users[device] = user

    _show(*_written(directory, config, change), as_json=as_json)


def remove_user(
    directory: Directory, device: Device, config: ConfigOption, as_json: JsonOption = False
) -> None:
    """Take back `add-user`, and write. A device that the gateway knows is refused there."""
    from gateway.app.broker.users import Added
    from gateway.core.errors import RefusedError

    def change(users: dict[str, Added]) -> None:
        if users.pop(device, None) is None:
            raise RefusedError("BROKER_USER", f"{device} was not added by add-user")

    _show(*_written(directory, config, change), as_json=as_json)


def _written(
    directory: Path, config: Path, change: "Change | None" = None
) -> "tuple[Path, Written, str | None]":
    from gateway.app.broker import write as broker
    from gateway.app.cli.serve import clock_of_environment
    from gateway.app.config import load_config

    loaded = load_config(config)
    made = broker.write(loaded, directory, clock_of_environment(), change)
    missing = None
    if loaded.south.mqtt is None and loaded.south.broker is not None:
        missing = (
            f"south:\n  mqtt: {{host: 127.0.0.1, port: {loaded.south.broker.port}, "
            f"username: gateway, password_file: {made.password}, tls: {{ca: {made.authority}}}}}"
        )
    return directory.absolute(), made, missing


def _first_line(path: Path) -> str:
    from gateway.core.errors import RefusedError

    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError("FILE_REFUSED", f"{path}: {error}") from error


def _show(directory: Path, made: "Written", missing: str | None, *, as_json: bool) -> None:
    steps = "none"
    if made.changed:
        steps = "restart" if made.must_restart else "reload"
    ends = None if made.ends is None else made.ends.date().isoformat()
    if as_json:
        show_json(
            {
                "changed": list(made.changed),
                "users": list(made.users),
                "certificate_ends": ends,
                "authority": str(made.authority),
                "mosquitto": steps,
            }
        )
        return
    if not made.readable_by_broker:
        complain("there is no group mosquitto: install it, and run this again")
    if missing is not None:
        typer.echo(f"the gateway's side is not configured yet; add:\n{missing}")
    typer.echo(f"{directory}: the gateway and {len(made.users)} nodes may log in")
    typer.echo(f"changed: {', '.join(made.changed) or 'nothing'}")
    if ends is not None:
        typer.echo(f"certificate until {ends}; nodes trust {made.authority}")
    if made.changed:
        typer.echo(f"next: systemctl {steps} mosquitto")
