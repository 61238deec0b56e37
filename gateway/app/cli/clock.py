"""`clock`: a person's word about the gateway's wall clock."""

from typing import Annotated

import typer

from gateway.app.cli.local import KeyOption, ask, tell
from gateway.app.cli.output import ConfigOption, JsonOption


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="The gateway's clock.", no_args_is_help=True)
    group.command()(confirm)
    app.add_typer(group, name="clock")


def confirm(
    config: ConfigOption,
    reason: Annotated[str, typer.Option("--reason", help="What it was compared with.")],
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Vouch for the gateway's wall clock, as it is now."""
    answer = ask(config, "POST", "/clock/confirmation", {"reason": reason}, key)
    tell(answer, "the clock is confirmed", as_json=as_json)
