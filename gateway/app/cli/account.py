"""`account`: open, show, recharge, reverse, confirm, import; the rest: `bills.py`, `credit.py`."""

from pathlib import Path
from typing import Annotated, cast

import typer

from gateway.app.cli import account_import, bills, credit
from gateway.app.cli.civil import Civil
from gateway.app.cli.local import KeyOption, ask, is_pending, key_or_new, local_client, tell
from gateway.app.cli.output import ConfigOption, JsonOption, show_json, show_table

AccountArgument = Annotated[str, typer.Argument(metavar="ID", help="The account.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Accounts and money.", no_args_is_help=True)
    group.command("list")(list_accounts)
    group.command()(show)
    group.command("open")(open_account)
    group.command()(recharge)
    group.command()(reverse)
    group.command()(confirm)
    credit.add_to(group, app)
    group.command("import")(account_import.import_accounts)
    bills.register(group)
    app.add_typer(group, name="account")


def list_accounts(config: ConfigOption, as_json: JsonOption = False) -> None:
    """List all accounts with balance and supply."""
    with local_client(config) as north:
        items = list(north.pages("/accounts"))
    if as_json:
        show_json(items)
        return
    currency = f", amounts in {items[0]['currency']}" if items else ""
    show_table(
        f"Accounts{currency}",
        ("account", "status", "available", "balance", "supply", "reasons"),
        [
            (
                item["id"],
                item["status"],
                item["available"] or "?",
                item["balance"],
                _shown(_supply(item)),
                ", ".join(cast("list[str]", _supply(item).get("block_reasons", []))),
            )
            for item in items
        ],
    )


def show(account: AccountArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show one account and its latest transactions."""
    with local_client(config) as north:
        found = north.call("GET", f"/accounts/{account}")
        page = north.call("GET", f"/accounts/{account}/transactions?limit=10")
    transactions = cast("list[dict[str, object]]", page["items"])
    if as_json:
        show_json({**found, "transactions": transactions})
        return
    supply, civil = _supply(found), Civil(config)
    facts = [(key, found[key]) for key in ("status", "balance", "available", "currency")]
    facts += [("supply", _shown(supply))]
    if supply.get("fault"):
        facts += [("meant to be", supply["control_state"])]
    facts += [
        ("blocked by", ", ".join(cast("list[str]", supply.get("block_reasons", []))) or "nothing")
    ]
    facts += [
        (f"service point {point['service_point_id']}", f"tariff {point['tariff_id']}")
        for point in cast("list[dict[str, object]]", found["points"])
    ]
    facts += _lasting(found, civil)
    facts += _owed(found)
    show_table(f"Account {account}", ("what", "value"), facts)
    columns = ("amount", "balance_after", "energy_wh")
    show_table(
        f"Latest transactions, times in {civil.timezone}",
        ("number", "kind", "at", "amount", "balance after", "energy Wh"),
        [
            (t["id"], t["kind"], civil.time(t["at"]), *(t[name] for name in columns))
            for t in transactions
        ],
    )


def open_account(
    account: AccountArgument,
    config: ConfigOption,
    tariff: Annotated[str, typer.Option("--tariff", help="A published tariff.")],
    service_point: Annotated[
        str | None, typer.Option("--service-point", help="Unless it has the account's id.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name for people.")] = "",
    opening_balance: Annotated[
        str, typer.Option("--opening-balance", help="Credit brought along, major units.")
    ] = "0",
    terms: Annotated[
        Path | None,
        typer.Option("--terms", metavar="FILE", help="Terms (YAML); prepayment without them."),
    ] = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Open an account on a service point, with other terms than plain prepayment where given."""
    from gateway.app.cli.tariff import read_tariff_file

    body: dict[str, object] = {
        "id": account,
        "service_point_id": service_point,
        "tariff_id": tariff,
        "name": name,
        "opening_balance": opening_balance,
    }
    if terms is not None:
        body["terms"] = dict(read_tariff_file(terms))
    answer = ask(config, "POST", "/accounts", body, key)
    tell(answer, f"account {account} is open", as_json=as_json)


def recharge(
    account: AccountArgument,
    amount: Annotated[str, typer.Argument(help="Money taken in, major units, such as 500.00.")],
    config: ConfigOption,
    provider: Annotated[str, typer.Option("--provider", help="Who took the money.")] = "counter",
    reference: Annotated[str, typer.Option("--reference", help="Receipt or payment number.")] = "",
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recharge an account."""
    body = {"amount": amount, "provider": provider, "payment_reference": reference}
    answer = ask(config, "POST", f"/accounts/{account}/recharges", body, key)
    tell(answer, f"{amount} credited to {account}", as_json=as_json)


def reverse(
    transaction: Annotated[int, typer.Argument(metavar="N", help="As `account show` numbers it.")],
    config: ConfigOption,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept for good.")],
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Undo a recharge by a linked reversal; at most once, and never by deleting anything."""
    with local_client(config) as north:
        path = f"/transactions/{transaction}/reversal"
        answer = north.call("POST", path, {"reason": reason}, key_or_new(key))
    done = f"transaction {transaction} is reversed"
    if not is_pending(answer):
        number = cast("dict[str, object]", answer["result"])["transaction_seq"]
        done += f" by transaction {number}"
    tell(answer, done, as_json=as_json)


def confirm(
    account: AccountArgument,
    config: ConfigOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Confirm at the point that supply may come back (arm mode)."""
    with local_client(config) as north:
        point = north.call("GET", f"/accounts/{account}")["service_point_id"]
        meter = next(
            meter["id"] for meter in north.pages("/meters") if meter["service_point_id"] == point
        )
        answer = north.call(
            "POST",
            f"/meters/{meter}/commands",
            {"action": "confirm_reconnect"},
            key_or_new(key),
        )
    tell(answer, f"{account}: reconnection confirmed", as_json=as_json)


def _lasting(found: dict[str, object], civil: Civil) -> list[tuple[str, object]]:
    """How long the credit lasts and by when to top up; nothing where nobody is cut for credit."""
    if found["closed_at"] is not None or found["payment_mode"] == "credit":
        return []
    forecast = cast("dict[str, object] | None", found["forecast"])
    if forecast is None or forecast["days_left"] is None:
        return [("credit lasts", "unknown yet")]
    more = " or more" if forecast["beyond_horizon"] else ""
    told = f"{forecast['days_left']} days{more}, confidence {forecast['confidence']}"
    if forecast["stale"]:
        told += f", STALE: as of {civil.time(forecast['at'])} {civil.timezone}"
    facts: list[tuple[str, object]] = [("credit lasts", told)]
    for name, key in (("top up by", "top_up_by"), ("cut expected", "cut_expected_at")):
        if forecast[key] is not None:
            facts.append((name, f"{civil.time(forecast[key])} {civil.timezone}"))
    return facts


def _owed(found: dict[str, object]) -> list[tuple[str, object]]:
    """Emergency credit, debts and a notice, where there are any."""
    facts: list[tuple[str, object]] = []
    emergency = cast("dict[str, object] | None", found["emergency_credit"])
    if emergency is not None:
        told = f"{emergency['state']}: {emergency['used']} used of {emergency['limit']}"
        facts.append(("emergency credit", told))
    for debt in cast("list[dict[str, object]]", found["debts"]):
        how = f"{debt['share_percent']} % of a recharge"
        if debt["kind"] == "time":
            how = f"{debt['daily']} a day"
        facts.append((f"debt {debt['id']}", f"{debt['remaining']} left, {how}"))
    if found["accumulated_debt"] != "0":
        facts.append(("accumulated debt", found["accumulated_debt"]))
    if found["notice_due_at"] is not None:
        facts.append(("may be cut from", found["notice_due_at"]))
    return facts


def _supply(item: dict[str, object]) -> dict[str, object]:
    return cast("dict[str, object]", item.get("supply") or {})


def _shown(supply: dict[str, object]) -> str:
    """The fault where one stands: the control state says only what is meant to be."""
    return str(supply.get("fault") or supply.get("control_state", "?"))
