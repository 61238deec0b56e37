"""`masscut`: the breaker that keeps bad data from darkening a site."""

from typing import Annotated, cast

import typer

from gateway.app.cli.local import KeyOption, ask, is_pending, tell
from gateway.app.cli.output import ConfigOption, JsonOption


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="The breaker against mass cuts.", no_args_is_help=True)
    group.command()(release)
    app.add_typer(group, name="masscut")


def release(
    config: ConfigOption,
    reason: Annotated[str, typer.Option("--reason", help="What was found and put right.")],
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Be one of the two managers who release a halt of all cuts for credit."""
    answer = ask(config, "POST", "/mass-cut/release", {"reason": reason}, key)
    done = "released: cuts for credit go on"
    if not is_pending(answer) and not cast("dict[str, object]", answer["result"])["released"]:
        done = "noted; a second, different manager has to release it too"
    tell(answer, done, as_json=as_json)
