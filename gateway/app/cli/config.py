"""`config`: about the configuration file's form."""

import typer

from gateway.app.cli.output import show_json


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="The configuration file's form.", no_args_is_help=True)
    group.command()(schema)
    group.command()(reference)
    app.add_typer(group, name="config")


def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from gateway.app.config_print import json_schema

    show_json(json_schema())


def reference() -> None:
    """Print the table of all keys as docs/configuration.md holds it."""
    from gateway.app.config_print import reference_table

    typer.echo(reference_table(), nl=False)
