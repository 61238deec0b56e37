"""`init` and `ledger`: the stores."""

import typer

from gateway.app.cli.output import (
    EXIT_FAILED,
    ConfigOption,
    JsonOption,
    complain,
    show_json,
    show_table,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(init)
    group = typer.Typer(help="Proof of the ledger.", no_args_is_help=True)
    group.command()(verify)
    app.add_typer(group, name="ledger")


def init(config: ConfigOption) -> None:
    """Create the stores of a new installation, once."""
    from gateway.app.cli.serve import clock_of_environment
    from gateway.app.config import load_config
    from gateway.app.stores import create_stores

    for path in create_stores(load_config(config), clock_of_environment()):
        typer.echo(f"created {path}")


def verify(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Prove the ledger: chain, sums, balances, registers against charges. Exit 0 or 1."""
    from rich.progress import Progress

    from gateway.app.config import load_config
    from gateway.app.paths import paths_of
    from gateway.store.db import check_whole, open_reader
    from gateway.store.ledger import LEDGER
    from gateway.store.verify import verify_ledger

    path = paths_of(load_config(config)).ledger
    connection = open_reader(path, LEDGER)
    try:
        with Progress(transient=True, disable=as_json) as bar:
            task = bar.add_task("verifying", total=None)
            check_whole(connection, path)
            report = verify_ledger(
                connection, lambda done, total: bar.update(task, completed=done, total=total)
            )
    finally:
        connection.close()
    if as_json:
        show_json(
            {
                "ok": not report.problem_count,
                "transactions": report.transactions,
                "problems": list(report.problems),
                "problem_count": report.problem_count,
                "head": report.head.hash.hex(),
            }
        )
    else:
        complain(*report.problems)
        show_table(
            "Ledger",
            ("what", "value"),
            [
                ("transactions", report.transactions),
                ("chain head", report.head.hash.hex()[:16] + "…"),
                ("problems", report.problem_count),
            ],
        )
    if report.problem_count:
        raise typer.Exit(EXIT_FAILED)
