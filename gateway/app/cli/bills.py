"""`account statement`, `explain` and `receipt`: documents as tables with units."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final, cast
from urllib.parse import quote

import typer

from gateway.app.cli.civil import Civil
from gateway.app.cli.local import local_client
from gateway.app.cli.output import (
    EXIT_FAILED,
    ConfigOption,
    JsonOption,
    complain,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from gateway.north.client import LocalClient

Item = Mapping[str, object]
AccountArgument = Annotated[str, typer.Argument(metavar="ID", help="The account.")]
MonthOption = Annotated[
    str | None,
    typer.Option("--month", metavar="YYYY-MM", help="The month; without it the one that runs."),
]
TransactionOption = Annotated[
    int | None, typer.Option("--transaction", metavar="N", help="Only this transaction.")
]
PAGE: Final = 100


def register(group: typer.Typer) -> None:
    """Add the commands to the group of accounts."""
    group.command()(statement)
    group.command()(explain)
    group.command()(receipt)


def statement(
    account: AccountArgument,
    config: ConfigOption,
    month: MonthOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a month's statement: where the balance came from."""
    civil = Civil(config)
    with local_client(config) as north:
        label = month or civil.month_now()
        bill = north.call("GET", f"/accounts/{_part(account)}/bills/{_part(label)}")
    if as_json:
        show_json(bill)
        return
    columns = ("what", "energy", "price", str(bill["currency"]))
    show_table(_title(bill, civil), columns, list(_rows(bill, civil)), figures=columns[1:])
    _show_registers(bill, civil)
    flags = _items(bill, "flags")
    if flags:
        rows = [(flag["flag"], flag["lines"], _kwh(flag["energy_wh"])) for flag in flags]
        show_table("To be known", ("flag", "postings", "energy"), rows, figures=("energy",))
    off = _items(bill, "off_supply")
    if off:
        show_table(
            "Without supply",
            ("cause", "minutes", "times"),
            [(item["cause"], item["minutes"], item["times"]) for item in off],
        )


def explain(
    account: AccountArgument,
    config: ConfigOption,
    transaction: TransactionOption = None,
    month: MonthOption = None,
    whole: Annotated[
        bool, typer.Option("--all", help="From the first transaction to the present balance.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Trace every amount of a month, of one transaction, or of all, to registers and prices.

    Exit 1 when something does not add up.
    """
    if (transaction is not None) + (month is not None) + whole > 1:
        raise typer.BadParameter("name one of --transaction, --month and --all")
    civil = Civil(config)
    asked = f"period={_part(month or civil.month_now())}&"
    if transaction is not None:
        asked = f"transaction={transaction}&"
    elif whole:
        asked = ""
    with local_client(config) as north:
        items = list(_explained(north, account, asked))
    if as_json:
        show_json(items)
    elif items:
        money = f"amounts in {civil.currency}"
        typer.echo(f"Account {account}, {money}, times in {civil.timezone}")
        for item in items:
            _show_explained(item, civil)
    else:
        typer.echo("nothing was posted")
    wrong = [item["transaction"] for item in items if not item["adds_up"]]
    if wrong:
        complain(f"these transactions do not add up: {', '.join(map(str, wrong))}")
        raise typer.Exit(EXIT_FAILED)


def receipt(
    account: AccountArgument,
    transaction: Annotated[int, typer.Argument(metavar="N", help="The recharge's transaction.")],
    config: ConfigOption,
    as_json: JsonOption = False,
) -> None:
    """Show the receipt of a recharge."""
    with local_client(config) as north:
        found = north.call("GET", f"/accounts/{_part(account)}/recharges/{transaction}/receipt")
    if as_json:
        show_json(found)
        return
    rows: list[tuple[object, ...]] = [
        ("paid", found["amount"]),
        *((f"from {e['ledger_account']}", e["amount"]) for e in _items(found, "came_from")),
        *((f"to {e['ledger_account']}", e["amount"]) for e in _items(found, "went_to")),
        ("balance before", found["balance_before"]),
        ("balance after", found["balance_after"]),
        ("at", Civil(config).time(found["at"])),
        ("provider", found["provider"]),
        ("reference", found["reference"]),
        ("key", found["request_key"]),
    ]
    if found["reversed_by"] is not None:
        rows.append(("REVERSED by transaction", found["reversed_by"]))
    title = f"Receipt {transaction} of account {account}, amounts in {found['currency']}"
    show_table(title, ("what", "value"), rows)


# -- asking ----------------------------------------------------------------------------------


def _explained(north: "LocalClient", account: str, asked: str) -> Iterator[Item]:
    """What moved an account's balance, oldest first, page by page."""
    path = f"/accounts/{_part(account)}/explanation?{asked}limit={PAGE}"
    cursor = ""
    while True:
        page = north.call("GET", f"{path}&cursor={cursor}")
        yield from _items(page, "items")
        cursor = str(page["next_cursor"] or "")
        if not cursor:
            return


def _part(text: str) -> str:
    return quote(text, safe="")


# -- showing ---------------------------------------------------------------------------------


def _title(bill: Item, civil: Civil) -> str:
    period = cast("Item", bill["period"])
    name = f", {bill['name']}" if bill["name"] else ""
    state = {
        "open": "the month runs",
        "settling": f"may still change until {civil.time(period['final_at'])}",
        "final": "final",
    }[str(bill["state"])]
    return f"Statement {period['label']} of account {bill['account_id']}{name} ({state})"


def _rows(bill: Item, civil: Civil) -> Iterator[tuple[object, ...]]:
    """The statement from opening to closing, as shown; the amounts foot."""
    label = cast("Item", bill["period"])["label"]
    yield ("opening balance", "", "", bill["opening_shown"])
    for line in _items(bill, "money"):
        yield (_money_text(line, civil), "", "", line["shown"])
    for line in _items(bill, "energy"):
        name, price = _rate_text(line), f"{line['price_per_kwh']}/kWh"
        yield (_late(line, label) + name, _kwh(line["energy_wh"]), price, line["shown"])
    for line in _items(bill, "charges"):
        name = str(line["name"]).replace(":", " ")
        fed_wh = cast("int", line["fed_in_wh"])
        if not fed_wh:
            yield (_late(line, label) + name, "", "", line["shown"])
            continue
        worth = "no price" if line["price_per_kwh"] is None else f"{line['price_per_kwh']}/kWh"
        yield (_late(line, label) + "fed in", _kwh(-fed_wh), worth, line["shown"])
    for line in _items(bill, "moved"):
        yield (_moved_text(line), "", "", line["shown"])
    if str(bill["rounding_shown"]).strip("-0."):
        yield ("rounding of what is shown", "", "", bill["rounding_shown"])
    yield ("closing balance", _kwh(bill["energy_wh"]), "", bill["closing_shown"])


def _money_text(line: Item, civil: Civil) -> str:
    what = f"{line['kind']} {line['transaction']}, {civil.date(line['at'])}"
    source = " ".join(str(line[name]) for name in ("provider", "reference") if line[name])
    if source:
        what += f", {source}"
    if line["reverses"] is not None:
        what += f", of {line['reverses']}"
    if line["reversed_by"] is not None:
        what += f", reversed by {line['reversed_by']}"
    return what


def _moved_text(line: Item) -> str:
    """`to debt oven, 10 still owed`: where money went, or came from, and what remains."""
    kind, _, rest = str(line["ledger_account"]).partition(":")
    name = {
        "emergency": "emergency credit",
        "accumulated": "accumulated debt",
        "debt": f"debt {rest.partition(':')[2]}",
    }.get(kind, str(line["ledger_account"]))
    way = "from" if str(line["amount"]).startswith("-") else "to"
    owed = str(line["closing"])
    left = f"{owed[1:]} still owed" if owed.startswith("-") else "nothing owed"
    return f"{way} {name}, {left}"


def _rate_text(line: Item) -> str:
    """Source, time of use, and which block where there is more than one."""
    name = f"{line['source']}, {line['time_of_use']}"
    low, high = cast("int", line["block_from_wh"]), cast("int | None", line["block_upto_wh"])
    if high is not None:
        return f"{name}, {low / 1000:g} to {high / 1000:g} kWh"
    return f"{name}, over {low / 1000:g} kWh" if low else name


def _late(line: Item, label: object) -> str:
    return "" if line["period"] == label else f"{line['period']}: "


def _show_registers(bill: Item, civil: Civil) -> None:
    rows: list[tuple[object, ...]] = []
    for meter in _items(bill, "meters"):
        registers = (meter["opening_wh"], meter["closing_wh"], meter["advance_wh"])
        columns = zip(*(cast("list[int]", wh) for wh in registers), strict=True)
        for number, (opening, closing, advance) in enumerate(columns, start=1):
            name = f"{meter['meter_id']} T{number}"
            rows.append((name, _kwh(opening), _kwh(closing), _kwh(advance)))
        for rebase in _items(meter, "rebases"):
            flags = ", ".join(cast("list[str]", rebase["flags"])) or "no flag"
            rows.append((f"  {civil.date(rebase['at'])} {flags}",
                         _kwhs(rebase["from_wh"]), _kwhs(rebase["to_wh"]),
                         _kwhs(rebase["advance_wh"])))  # fmt: skip
    if rows:
        show_table(
            "Registers",
            ("meter", "from", "to", "settled"),
            rows,
            figures=("from", "to", "settled"),
        )


def _show_explained(item: Item, civil: Civil) -> None:
    typer.echo(_heading(item, civil))
    for entry in _items(item, "entries"):
        typer.echo(f"    {_entry_text(item, entry)}")
    for entry in _items(item, "other_side"):
        typer.echo(f"    other side: {entry['ledger_account']} {entry['amount']}")
    memo = cast("dict[str, str]", item["memo"])
    notes = [f"{key} {value}" for key, value in memo.items() if value and key != "reverses"]
    if item["request_key"] is not None:
        notes.append(f"request {item['request_key']}")
    if notes:
        typer.echo(f"    {', '.join(notes)}")
    for line in _items(item, "lines"):
        begun, ended = civil.time(line["starts_at"]), civil.time(line["ends_at"])
        typer.echo(f"    {begun} to {ended}, period {line['period']}")
        typer.echo(f"    meter {line['meter_id']}: {_registers_text(line)}{_flags_text(line)}")
        if (fed := cast("Item | None", line["feed_in"])) is not None:
            typer.echo(f"    fed in: {_registers_text(fed, 'export T')}{_flags_text(fed)}")
        tariff = f"tariff {line['tariff_id']}, version {line['tariff_version']}"
        show_table(
            f"    {tariff}",
            ("charge", "what it is made of", "amount"),
            list(_parts(line)),
            figures=("amount",),
        )
    for problem in cast("list[str]", item["problems"]):
        typer.echo(f"    DOES NOT ADD UP: {problem}")


def _heading(item: Item, civil: Civil) -> str:
    text = f"{item['transaction']} {item['kind']}, {civil.time(item['at'])}"
    if item["reverses"] is not None:
        text += f", reverses {item['reverses']}"
    if item["reversed_by"] is not None:
        text += f", reversed by {item['reversed_by']}"
    return text


def _entry_text(item: Item, entry: Item) -> str:
    text = f"{entry['ledger_account']} {entry['amount']}"
    if str(entry["ledger_account"]).startswith("wallet:"):
        text += f", balance then {item['balance_after']}"
    return text


def _parts(line: Item) -> Iterator[tuple[object, ...]]:
    """Each charge of a line with its calculation, and their sum."""
    for part in _items(line, "energy"):
        price = part["price_per_kwh"]
        if price is None:
            yield (part["cell"], f"{_kwh(part['energy_wh'])}, no price is known", part["amount"])
        else:
            yield (_rate_text(part), f"{_kwh(part['energy_wh'])} x {price}/kWh", part["amount"])
    fed = cast("Item | None", line["feed_in"])
    if fed is not None and fed["energy_wh"]:
        price = fed["price_per_kwh"]
        made = "no feed-in price" if price is None else f"x {price}/kWh, given"
        yield ("fed in", f"{_kwh(fed['energy_wh'])} {made}", fed["amount"])
    for part in _items(line, "charges"):
        basis = cast("Item | None", part["basis"])
        made = f"in the period {part['after']}, before {part['before']}"
        if basis is not None:
            within = "contained in" if basis["inclusive"] else "of"
            of = " + ".join(cast("list[str]", basis["of"]))
            made = (
                f"{basis['rate_percent']} % {within} {of} in the period: {basis['after']} gives "
                f"{part['after']}, before it was {basis['before']} and {part['before']}"
            )
        yield (str(part["name"]).replace(":", " "), made, part["amount"])
    yield ("sum", "", line["amount"])


def _registers_text(line: Item, name: str = "T") -> str:
    registers = (line["from_wh"], line["to_wh"], line["advance_wh"])
    columns = zip(*(cast("list[int]", wh) for wh in registers), strict=True)
    return "; ".join(
        f"{name}{number} {low} to {high} Wh" + ("" if high - low == wh else f", settled {wh} Wh")
        for number, (low, high, wh) in enumerate(columns, start=1)
    )


def _flags_text(line: Item) -> str:
    flags = cast("list[str]", line["flags"])
    return f" [{', '.join(flags)}]" if flags else ""


def _kwh(wh: object) -> str:
    """Wh as kWh with all three decimals, by integers."""
    value = cast("int", wh)
    whole, part = divmod(abs(value), 1000)
    return f"{'-' if value < 0 else ''}{whole}.{part:03d} kWh"


def _kwhs(registers: object) -> str:
    return " / ".join(_kwh(wh) for wh in cast("Sequence[int]", registers))


def _items(holder: Item, name: str) -> Sequence[Item]:
    return cast("Sequence[Item]", holder[name])
