"""`backup` and `restore`: the site in one file, and back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from gateway.app.cli.output import ConfigOption, JsonOption, complain, show_json


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(backup)
    app.command()(restore)


def backup(
    config: ConfigOption,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="A new file, or a directory for a dated one; backup.directory unless given.",
        ),
    ] = None,
    telemetry: Annotated[
        bool, typer.Option("--telemetry", help="Add readings, half hours and events.")
    ] = False,
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=1, max=10_000, help="Keep so many dated ones in the directory."),
    ] = None,
    whole: Annotated[
        bool,
        typer.Option("--whole", help="Prove the ledger from its beginning, not its checkpoint."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy ledger and requests while everything runs, and open the copy before saying so."""
    from gateway.app.backup import BackupOptions, be_gentle, make_backup
    from gateway.app.cli.operations import spoken_bytes
    from gateway.app.cli.serve import clock_of_environment
    from gateway.app.config import load_config

    found = load_config(config)
    target = file or found.backup.directory
    if target is None:
        raise typer.BadParameter(
            "say where to, or set backup.directory in the configuration", param_hint="FILE"
        )
    options = BackupOptions(
        target,
        telemetry=telemetry,
        keep=keep or (None if file else found.backup.keep),
        whole=whole,
    )
    be_gentle()
    with _bar(hidden=as_json) as progress:
        made = make_backup(found, clock_of_environment(), options, progress)
    if as_json:
        show_json(
            {
                "file": str(made.path),
                "bytes": made.size_bytes,
                "site": made.manifest.site,
                "transactions": made.manifest.ledger_seq,
                "head": made.manifest.ledger_hash,
                "members": [member.name for member in made.manifest.members],
                "removed": [str(path) for path in made.removed],
            }
        )
        return
    typer.echo(
        f"{made.path}: {spoken_bytes(made.size_bytes)}, {made.manifest.ledger_seq} transactions, "
        f"head {made.manifest.ledger_hash[:16]}…; opened again and proved"
    )
    complain(*(f"removed {path}" for path in made.removed))


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")],
    config: ConfigOption,
    older: Annotated[
        bool, typer.Option("--older", help="Even where the present ledger goes further.")
    ] = False,
    north_of_backup: Annotated[
        bool,
        typer.Option("--north-of-backup", help="Do not keep the present requests, users and keys."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Put a backup in the place of the stores; control and north must be stopped.

    What is there now is moved aside, never deleted. The site is in RECOVERY afterwards.
    """
    from gateway.app.cli.serve import clock_of_environment
    from gateway.app.config import load_config
    from gateway.app.restore import RestoreOptions, restore_backup

    found = load_config(config)
    with _bar(hidden=as_json) as progress:
        done = restore_backup(
            found,
            clock_of_environment(),
            RestoreOptions(file, older=older, north_of_backup=north_of_backup),
            progress,
        )
    if as_json:
        show_json(
            {
                "site": done.manifest.site,
                "transactions": done.manifest.ledger_seq,
                "head": done.manifest.ledger_hash,
                "epoch": done.epoch,
                "north": "kept" if done.north_kept else "of the backup",
                "requests_to_replay": done.requests_newer,
                "lost_transactions": done.lost,
                "aside": [str(path) for path in done.aside],
            }
        )
        return
    typer.echo(
        f"{done.manifest.site} is restored to {done.manifest.ledger_seq} transactions, head "
        f"{done.manifest.ledger_hash[:16]}…"
    )
    complain(*(f"kept as {path}" for path in done.aside))
    complain(*done.notes)
    complain(
        "the site is in RECOVERY: nobody is cut for credit until a manager has compared accounts "
        "with receipts. Next: start control and north, then `prepaid-gateway recovery show`"
    )


@contextmanager
def _bar(*, hidden: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each thing that is told under a name of its own."""
    from rich.console import Console
    from rich.progress import Progress, TaskID

    with Progress(transient=True, disable=hidden, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield tell
