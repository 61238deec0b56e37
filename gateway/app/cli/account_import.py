"""`account import`: open many accounts from a table, checked whole before anything is done."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.app.cli.local import local_client
from gateway.app.cli.output import (
    EXIT_FAILED,
    ConfigOption,
    JsonOption,
    complain,
    show_json,
    show_reasons,
    show_table,
)

if TYPE_CHECKING:
    from gateway.app.account_import import Result
    from gateway.core.money import Currency

FAILED: Final = ("refused", "waiting", "unreached")
MEANING: Final = {
    "new": "would be opened",
    "opened": "opened now",
    "there": "opened by this row before",
    "other": "there, but not by this row",
    "refused": "refused",
    "waiting": "kept, control has not answered yet",
    "unreached": "not asked: north did not answer",
}


def import_accounts(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The tenants (CSV).")],
    config: ConfigOption,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check, and show what would happen.")
    ] = False,
    tariff: Annotated[
        str | None, typer.Option("--tariff", help="Tariff of rows that name none.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Open the accounts of a table with their opening balances.

    Nothing is opened where any line is wrong. A run that was broken off is given again: nobody is
    opened twice.
    """
    from rich.console import Console
    from rich.progress import Progress

    from gateway.app.account_import import Importer, look_around
    from gateway.app.accounts_csv import compare, read_tenants
    from gateway.app.config import load_config
    from gateway.app.config_place import refuse
    from gateway.app.config_site import currency_of
    from gateway.app.paths import paths_of
    from gateway.core.errors import ConfigurationError

    loaded = load_config(config)
    site = loaded.site
    currency = currency_of(site)
    max_nano = currency.amount_max_nano
    try:
        tenants, problems = read_tenants(file, currency, tariff=tariff, max_nano=max_nano)
        with local_client(config) as north:
            present = look_around(north, currency)
        problems += compare(tenants, present)
        if problems:
            raise refuse(problems)
    except ConfigurationError as error:
        # The file is the person's, not the configuration: refused, status 1.
        complain(*error.problems)
        raise typer.Exit(EXIT_FAILED) from error
    importer = Importer(paths_of(loaded).socket, present, currency, dry=dry_run)
    console = Console(stderr=True)
    hidden = as_json or not console.is_terminal
    with Progress(console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("accounts", total=len(tenants))
        results = importer.run(tenants, lambda: bar.advance(task))
    if as_json:
        show_json(_document(results, currency, dry_run=dry_run))
    else:
        _show(str(file), results, currency, dry_run=dry_run)
    if any(result.fate in FAILED for result in results):
        raise typer.Exit(EXIT_FAILED)


def _show(title: str, results: "Sequence[Result]", currency: "Currency", *, dry_run: bool) -> None:
    from gateway.core.money import format_amount

    plain = ("opened", "there")
    shown = [result for result in results if dry_run or result.fate not in plain]
    if shown:
        show_table(
            f"{title}: {'what would happen' if dry_run else 'what was not opened'}",
            ("account", "service point", "tariff", "opening balance", "name", "what"),
            [
                (
                    result.tenant.account_id,
                    result.tenant.service_point_id,
                    result.tenant.tariff_id,
                    format_amount(result.tenant.opening_balance_nano, currency),
                    result.tenant.name,
                    MEANING[result.fate],
                )
                for result in shown
            ],
        )
        show_reasons(
            [
                (result.tenant.account_id, f"{result.code} {result.message}".strip())
                for result in shown
            ]
        )
    show_table(
        f"{title}: {len(results)} accounts{', nothing was changed' if dry_run else ''}",
        ("accounts", "what", "opening balances", "currency"),
        [
            (count, MEANING[fate], balances, currency.code)
            for fate, count, balances in _totals(results, currency)
        ],
    )


def _totals(results: "Sequence[Result]", currency: "Currency") -> list[tuple[str, int, str]]:
    """By fate, in the order of MEANING: how many, and the exact sum of their opening balances."""
    from gateway.core.money import format_amount

    found: list[tuple[str, int, str]] = []
    for fate in MEANING:
        amounts = [r.tenant.opening_balance_nano for r in results if r.fate == fate]
        if amounts:
            found.append((fate, len(amounts), format_amount(sum(amounts), currency)))
    return found


def _document(
    results: "Sequence[Result]", currency: "Currency", *, dry_run: bool
) -> dict[str, object]:
    from gateway.core.money import format_amount

    return {
        "dry_run": dry_run,
        "currency": currency.code,
        "totals": {
            fate: {"accounts": count, "opening_balances": balances}
            for fate, count, balances in _totals(results, currency)
        },
        "accounts": [
            {
                "account": result.tenant.account_id,
                "service_point": result.tenant.service_point_id,
                "tariff": result.tenant.tariff_id,
                "opening_balance": format_amount(result.tenant.opening_balance_nano, currency),
                "fate": result.fate.value,
                "code": result.code,
                "message": result.message,
            }
            for result in results
        ],
    }
