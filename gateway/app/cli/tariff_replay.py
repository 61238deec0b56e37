"""`tariff replay`: what accounts would have been charged under a draft."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.app.cli.output import ConfigOption, JsonOption, complain, show_json, show_table

if TYPE_CHECKING:
    from gateway.app.tariff_replay import ReplayReport
    from gateway.core.money import Currency
    from gateway.core.tariff import Tariff

# A replay has time: control comes first.
NICENESS: Final = 15

DraftArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The draft (YAML).")]
DaysOption = Annotated[
    int,
    typer.Option("--days", metavar="N", min=1, max=3_660, help="Days back, from local midnight."),
]
TariffOption = Annotated[
    list[str] | None,
    typer.Option("--tariff-id", metavar="ID", help="Accounts under it; without: the draft's id."),
]
AccountOption = Annotated[
    list[str] | None, typer.Option("--account", metavar="ID", help="Only these (repeat it).")
]


def replay(
    file: DraftArgument,
    config: ConfigOption,
    days: DaysOption = 30,
    tariff_id: TariffOption = None,
    account: AccountOption = None,
    as_json: JsonOption = False,
) -> None:
    """Price what was used lately under a draft, and show the difference by account.

    Only reads the stores, at low priority: control may run.
    """
    import os

    from rich.progress import Progress

    from gateway.app.config import load_config
    from gateway.app.config_site import currency_of
    from gateway.app.replay_report import report_json
    from gateway.app.tariff_file import tariff_of_file
    from gateway.app.tariff_replay import ReplayWish, replay_tariff

    loaded = load_config(config)
    site = loaded.site
    currency = currency_of(site)
    draft = tariff_of_file(file, currency)
    wish = ReplayWish(draft, days, tuple(account or ()), tuple(tariff_id or ()))
    os.nice(NICENESS)
    with Progress(transient=True, disable=as_json) as bar:
        task = bar.add_task("replaying", total=None)
        report = replay_tariff(
            loaded, wish, lambda done, total: bar.update(task, completed=done, total=total)
        )
    if as_json:
        show_json(report_json(report, draft, currency))
    else:
        _show(report, draft, currency, site.timezone)


def replay_row(
    name: str, wh: int, charged: int, drafted: int, currency: "Currency"
) -> tuple[str, ...]:
    """A row of who pays what: kWh, both amounts (nano-units) as shown, difference and its share."""
    from gateway.app.replay_report import percent
    from gateway.core.money import display_amount

    difference = display_amount(drafted - charged, currency)
    if drafted > charged:
        difference = f"+{difference}"
    return (
        name,
        f"{wh // 1000}.{wh % 1000:03d}",
        display_amount(charged, currency),
        display_amount(drafted, currency),
        difference,
        percent(drafted - charged, charged) or "",
    )


def _show(report: "ReplayReport", draft: "Tariff", currency: "Currency", zone: str) -> None:
    from zoneinfo import ZoneInfo

    from gateway.app.replay_report import sums

    rows = [
        replay_row(item.account_id, item.energy_wh, item.charged_nano, item.draft_nano, currency)
        for item in report.accounts
    ]
    total_wh = sum(item.energy_wh for item in report.accounts)
    rows.append(replay_row("all accounts", total_wh, *sums(report.accounts), currency))
    code = currency.code
    columns = ("account", "kWh", f"charged, {code}", f"draft, {code}", f"difference, {code}", "%")
    begun, ended = (
        _moment(utc_ms).astimezone(ZoneInfo(zone))
        for utc_ms in (report.from_utc_ms, report.until_utc_ms)
    )
    title = (
        f"Draft of {draft.tariff_id}, {begun:%Y-%m-%d %H:%M} to {ended:%Y-%m-%d %H:%M} {zone}, "
        "the biggest difference first"
    )
    show_table(title, columns, rows, figures=columns[1:])
    _show_doubts(report, currency)


def _show_doubts(report: "ReplayReport", currency: "Currency") -> None:
    from gateway.core.money import format_amount

    doubtful = [item for item in report.accounts if item.estimated_wh]
    if doubtful:
        wh = sum(item.estimated_wh for item in doubtful)
        complain(
            f"registers are missing: {wh / 1000:.3f} kWh of {len(doubtful)} accounts flowed across "
            "a change of rate of the draft and are shared out by time:",
            *(f"  {item.account_id}: {item.estimated_wh / 1000:.3f} kWh" for item in doubtful),
        )
    for item in report.accounts:
        if item.unexplained_nano:
            complain(
                f"{item.account_id}: the ledger charged "
                f"{format_amount(item.unexplained_nano, currency)} {currency.code} more than its "
                "tariff gives for the same energy"
            )


def _moment(utc_ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=utc_ms)
