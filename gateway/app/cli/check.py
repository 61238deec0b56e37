"""`check`: is this configuration good, and what does it come to."""

from typing import Annotated

import typer

from gateway.app.cli.output import (
    EXIT_USAGE,
    ConfigOption,
    JsonOption,
    complain,
    show_json,
    show_table,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(check)


def check(
    config: ConfigOption,
    show: Annotated[
        bool, typer.Option("--print", help="Print every key in force, defaults included.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Validate a configuration: exit 0, or 2 with every problem and its place."""
    from gateway.app.config import load_config
    from gateway.app.config_print import as_document, as_yaml
    from gateway.core.errors import ConfigurationError

    try:
        found = load_config(config)
    except ConfigurationError as error:
        if as_json:
            show_json({"ok": False, "problems": list(error.problems)})
        else:
            complain(*error.problems)
        raise typer.Exit(EXIT_USAGE) from error
    document = as_document(found)
    if as_json:
        shown = {"configuration": document} if show else {}
        show_json({"ok": True, "meters": len(found.meters), "notes": list(found.notes), **shown})
    elif show:
        typer.echo(as_yaml(document), nl=False)
    else:
        models = sorted({meter.model for meter in found.meters})
        rows: list[tuple[str, int]] = [
            (model, sum(meter.model == model for meter in found.meters)) for model in models
        ]
        if found.nodes:
            rows.append(("nodes", len(found.nodes)))
        show_table(f"{config}: ok, site {found.site.id}", ("model", "meters"), rows)
    if not as_json:
        complain(*(f"note: {note}" for note in found.notes))
