"""The command line: one file per group of commands.

A group is a module with `register(app)`. It imports typer and `output` at its top, and what its
commands work with inside them: `--help` answers at once and control loads no web framework.
Results go to standard output as a table, or as JSON with `--json`; everything else goes to
standard error. Exit codes: 0 ok, 1 refused or failed, 2 usage, configuration or a store that
needs a person.
"""

import sys
from collections.abc import Callable

import typer

from gateway import __version__
from gateway.app.cli import (
    account,
    backup,
    broker,
    check,
    clock,
    config,
    counter,
    demo,
    device,
    firmware,
    masscut,
    meter,
    operations,
    serve,
    simulate,
    stores,
    supply,
    tariff,
    voucher,
)
from gateway.app.cli.output import EXIT_FAILED, EXIT_USAGE, complain, told
from gateway.core.errors import (
    ConfigurationError,
    GatewayError,
    RefusedError,
    StoreCorruptError,
    StoreLockedError,
    StoreMissingError,
)

app = typer.Typer(
    name="prepaid-gateway",
    help="Prepaid electricity for one site.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Prepaid electricity for one site."""


for _group in (
    serve,
    check,
    config,
    demo,
    simulate,
    meter,
    device,
    account,
    tariff,
    masscut,
    clock,
    stores,
    operations,
    backup,
    counter,
    voucher,
    supply,
    firmware,
    broker,
):
    _group.register(app)


def main() -> None:
    """The program's entry point."""
    run(app)


def run(command: Callable[[], object]) -> None:
    """Run a command and exit with its code.

    Errors of our own tree become one line each on standard error; anything else is a defect and
    keeps its traceback.
    """
    try:
        command()
    except ConfigurationError as error:
        complain(*error.problems)
        sys.exit(EXIT_USAGE)
    except (StoreMissingError, StoreLockedError, StoreCorruptError) as error:
        # Trying again does not help: a person has to act first, and a supervisor must know that.
        complain(f"{error.code}: {error}")
        sys.exit(EXIT_USAGE)
    except RefusedError as error:
        complain(f"{error.refusal_code}: {told(error)}")
        sys.exit(EXIT_FAILED)
    except GatewayError as error:
        complain(f"{error.code}: {error}")
        sys.exit(EXIT_FAILED)
