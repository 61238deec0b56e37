"""How commands answer: tables for people, JSON for programs, complaints on standard error."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from gateway.core.errors import RefusedError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="The configuration file (YAML).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs.")]


def complain(*lines: str) -> None:
    """Tell a person what is wrong, on standard error."""
    for line in lines:
        typer.echo(line, err=True)


def told(refused: "RefusedError") -> str:
    """A refusal as one text: its place first, unless the message begins with it."""
    place, message = refused.place, refused.message
    return message if not place or message.startswith(place) else f"{place}: {message}"


def show_json(value: object) -> None:
    """Print a JSON value, keys in the order given."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def show_reasons(reasons: Sequence[tuple[str, str]]) -> None:
    """Say below a table why, name and reason each: one reason of many once, none of an empty one.

    A column of a narrow terminal would break a sentence into a word a line.
    """
    from gateway.core.plain_text import visible

    found: dict[str, list[str]] = {}
    for name, reason in reasons:
        if reason:
            found.setdefault(reason, []).append(name)
    for reason, names in found.items():
        typer.echo(visible(f"{', '.join(names)}: {reason}"))


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    figures: Collection[str] = (),
) -> None:
    """Print a title, then rows under column names; numbers stand right.

    `figures` are columns of amounts as text: they stand right and are never broken, and the first
    column gives way to them.
    """
    # rich takes longer to load than most commands to run.
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from gateway.core.plain_text import visible

    table = Table(box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        figure = column in figures
        # The first names the row (an address, a meter): a narrow terminal never cuts it short.
        table.add_column(
            escape(column),
            justify="right" if numeric or figure else "left",
            no_wrap=figure or (index == 0 and not figures),
            overflow="fold",
        )
    for row in rows:
        # What a person named a meter must not become markup, nor move the reader's cursor.
        table.add_row(*(escape(visible(str(cell))) for cell in row))
    typer.echo(title)
    Console().print(table)
