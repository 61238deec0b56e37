"""`account …` and `debt …` for what a manager agrees: terms, points, debts, transfers, the end."""

from pathlib import Path
from typing import Annotated

import typer

from gateway.app.cli.local import KeyOption, ask, tell
from gateway.app.cli.output import ConfigOption, JsonOption

AccountArgument = Annotated[str, typer.Argument(metavar="ID", help="The account.")]
PointArgument = Annotated[str, typer.Argument(metavar="POINT", help="The service point.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the audit log.")]
TariffOption = Annotated[str, typer.Option("--tariff", help="A published tariff.")]
AmountArgument = Annotated[str, typer.Argument(help="Major units, such as 500.00.")]


def add_to(account: typer.Typer, app: typer.Typer) -> None:
    """Add the commands to the group `account`, and the group `debt`."""
    account.command("terms")(terms)
    account.command("add-point")(add_point)
    account.command("remove-point")(remove_point)
    account.command("change-tariff")(change_tariff)
    account.command("close")(close)
    account.command("transfer")(transfer)
    account.command("emergency")(emergency)
    account.command("notice")(notice)
    debt = typer.Typer(help="Debts and how they are collected.", no_args_is_help=True)
    debt.command("add")(add_debt)
    debt.command("write-off")(write_off)
    app.add_typer(debt, name="debt")


def terms(
    account: AccountArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Terms (YAML).")],
    config: ConfigOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Agree other terms with a customer: payment mode, threshold, emergency credit."""
    from gateway.app.cli.tariff import read_tariff_file

    body = dict(read_tariff_file(file))
    answer = ask(config, "PUT", f"/accounts/{account}/terms", body, key)
    tell(answer, f"{account}: terms agreed", as_json=as_json)


def add_point(
    account: AccountArgument,
    point: PointArgument,
    config: ConfigOption,
    tariff: TariffOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let an account pay for another service point too."""
    body = {"service_point_id": point, "tariff_id": tariff}
    answer = ask(config, "POST", f"/accounts/{account}/points", body, key)
    tell(answer, f"{account} pays for {point} from now on", as_json=as_json)


def remove_point(
    point: PointArgument, config: ConfigOption, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Let an account no longer pay for one of its service points."""
    answer = ask(config, "POST", f"/service-points/{point}/removal", None, key)
    tell(answer, f"{point} is nobody's from now on", as_json=as_json)


def change_tariff(
    point: PointArgument,
    config: ConfigOption,
    tariff: TariffOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Charge a service point by another tariff from now on."""
    answer = ask(config, "PUT", f"/service-points/{point}/tariff", {"tariff_id": tariff}, key)
    tell(answer, f"{point}: tariff {tariff} from now on", as_json=as_json)


def close(
    account: AccountArgument,
    config: ConfigOption,
    reason: ReasonOption,
    refund: Annotated[
        str, typer.Option("--refund", help="Who pays out what is left, such as counter.")
    ] = "",
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Close an account: move-out, with what is owed paid from its credit and the rest paid out."""
    body = {"reason": reason, "refund_provider": refund}
    answer = ask(config, "POST", f"/accounts/{account}/closure", body, key)
    result = answer.get("result")
    told = ""
    if isinstance(result, dict):
        told = f": pay out {result.get('refund')}, still owed {result.get('owed')}"
    tell(answer, f"account {account} is closed{told}", as_json=as_json)


def transfer(
    account: AccountArgument,
    to: Annotated[str, typer.Argument(help="The account that gets it.")],
    amount: AmountArgument,
    config: ConfigOption,
    reason: ReasonOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move credit to another account."""
    body = {"to": to, "amount": amount, "reason": reason}
    answer = ask(config, "POST", f"/accounts/{account}/transfers", body, key)
    tell(answer, f"{amount} moved from {account} to {to}", as_json=as_json)


def emergency(
    account: AccountArgument,
    config: ConfigOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take up emergency credit."""
    answer = ask(config, "POST", f"/accounts/{account}/emergency-credit", None, key)
    tell(answer, f"{account}: emergency credit is invoked", as_json=as_json)


def notice(
    account: AccountArgument,
    amount: AmountArgument,
    config: ConfigOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record a notice of what is overdue (credit mode)."""
    answer = ask(config, "POST", f"/accounts/{account}/notices", {"amount": amount}, key)
    tell(answer, f"{account}: notice of {amount} recorded", as_json=as_json)


def add_debt(
    account: AccountArgument,
    debt: Annotated[str, typer.Argument(help="A name for it, such as arrears-2025.")],
    amount: AmountArgument,
    config: ConfigOption,
    reason: ReasonOption,
    share: Annotated[
        str | None, typer.Option("--share", help="Percent of every recharge that goes to it.")
    ] = None,
    daily: Annotated[
        str | None, typer.Option("--daily", help="Amount that is collected a day.")
    ] = None,
    weekly_cap: Annotated[str, typer.Option("--weekly-cap", help="The most in a week.")] = "0",
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Agree on a debt, paid back by a share of every recharge or by an amount a day."""
    if (share is None) == (daily is None):
        raise typer.BadParameter("give one of --share and --daily")
    body: dict[str, object] = {
        "id": debt,
        "kind": "payment" if daily is None else "time",
        "amount": amount,
        "share_percent": share or "0",
        "daily": daily or "0",
        "weekly_cap": weekly_cap,
        "reason": reason,
    }
    answer = ask(config, "POST", f"/accounts/{account}/debts", body, key)
    tell(answer, f"{account}: debt {debt} of {amount}", as_json=as_json)


def write_off(
    account: AccountArgument,
    debt: Annotated[str, typer.Argument(help="The debt; or accumulated, or wallet.")],
    amount: AmountArgument,
    config: ConfigOption,
    reason: ReasonOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give up what is owed."""
    body = {"debt_id": debt, "amount": amount, "reason": reason}
    answer = ask(config, "POST", f"/accounts/{account}/write-offs", body, key)
    tell(answer, f"{account}: {amount} of {debt} written off", as_json=as_json)
