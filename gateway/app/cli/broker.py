"""`broker write`, `add-user`, `remove-user`: a mosquitto for the site's nodes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.app.cli.output import EXIT_FAILED, ConfigOption, JsonOption, complain, show_json

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
    config: ConfigOption,
    device: Annotated[
        str | None, typer.Argument(metavar="DEVICE", help="Device id, which is its user name.")
    ] = None,
    record: Annotated[
        list[Path] | None,
        typer.Option(
            "--record",
            metavar="FILE",
            help="All boards that are done in a bench's record (boards.jsonl); repeatable.",
        ),
    ] = None,
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
    """Let devices log in that neither the file nor the gateway knows yet, and write.

    DEVICE, or with --record all boards of a bench: those that may log in already stay as they are.
    """
    from gateway.app.broker.users import Added, added_user

    if (device is None) == (not record) or (record and password_file):
        raise typer.BadParameter("give DEVICE, or --record alone", param_hint="DEVICE")
    password = None if password_file is None else _first_line(password_file)
    names = _boards_of(config, record or []) if device is None else [device]
    made = [added_user(name, password) for name in names]

    def change(users: dict[str, Added]) -> None:
        users.update({user.name: user for user in made})

    _show(*_written(directory, config, change), as_json=as_json)


def _boards_of(config: Path, records: list[Path]) -> list[str]:
    """Device ids of all boards that are done and may log in; ends with every problem's place."""
    from gateway.app.broker.write import device_records
    from gateway.app.config import load_config
    from gateway.app.config_place import Problem, refuse
    from gateway.app.paths import paths_of
    from gateway.app.placing.boards import read_records
    from gateway.app.placing.places import generation_problem
    from gateway.core.errors import ConfigurationError, RefusedError
    from gateway.store.devices import DeviceStatus

    known = device_records(paths_of(load_config(config)).ledger)
    names: list[str] = []
    problems: list[Problem] = []
    try:
        boards = read_records(records)
        for board in boards.done.values():
            found = known.get(board.device_id)
            if found is not None and found.status is DeviceStatus.REFUSED:
                complain(f"{board.serial} ({board.device_id}) is refused: left out")
                continue
            wrong = generation_problem(board, 1 if found is None else found.generation)
            if wrong:
                problems.append(Problem(board.place, "generation", wrong))
            names.append(board.device_id)
        if problems:
            raise refuse(problems)
    except ConfigurationError as error:
        complain(*error.problems)
        raise typer.Exit(EXIT_FAILED) from error
    if not boards.done:
        raise RefusedError("ARGUMENT", boards.problem)
    return names


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
