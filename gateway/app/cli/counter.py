"""`counter`: a cashier's shift, from the float to the count."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, cast

import typer

from gateway.app.cli.local import KeyOption, ask, is_pending, key_or_new, local_client, tell
from gateway.app.cli.output import ConfigOption, JsonOption, show_json, show_table

if TYPE_CHECKING:
    from gateway.north.client import LocalClient

DrawerArgument = Annotated[str, typer.Argument(metavar="DRAWER", help="The drawer (till).")]
HIDDEN = "after the count"


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Cashiers: shifts and counts.", no_args_is_help=True)
    group.command("open")(open_shift)
    group.command("close")(close_shift)
    group.command()(report)
    group.command("list")(list_shifts)
    app.add_typer(group, name="counter")


def open_shift(
    drawer: DrawerArgument,
    config: ConfigOption,
    float_amount: Annotated[
        str, typer.Option("--float", help="Change in the drawer, major units.")
    ] = "0",
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Begin a shift; what you recharge from now on belongs to it."""
    body = {"drawer": drawer, "float": float_amount}
    answer = ask(config, "POST", "/shifts", body, key)
    result = cast("Mapping[str, object]", answer.get("result") or {})
    tell(answer, f"shift {result.get('shift_number')} is open at {drawer}", as_json=as_json)


def close_shift(
    drawer: DrawerArgument,
    config: ConfigOption,
    counted: Annotated[
        list[str],
        typer.Option(
            "--counted",
            metavar="PROVIDER=AMOUNT",
            help="What was counted, one for each means; cash with the float in it.",
        ),
    ],
    note: Annotated[str, typer.Option("--note", help="Why something differs; it is kept.")] = "",
    shift: Annotated[
        int | None, typer.Option("--shift", min=1, help="Its number; else the one that is open.")
    ] = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count a drawer and end its shift. A count is final; a difference is posted."""
    body = {"counted": counts_of(counted), "note": note}
    with local_client(config) as north:
        number = shift or _number_at(north, drawer)
        answer = north.call("POST", f"/shifts/{number}/closing", body, key_or_new(key))
        if as_json or is_pending(answer):
            tell(answer, "", as_json=as_json)
            return
        _show(north.call("GET", f"/shifts/{number}"))


def report(
    config: ConfigOption,
    number: Annotated[int | None, typer.Argument(metavar="[NUMBER]", min=1)] = None,
    drawer: Annotated[
        str | None, typer.Option("--drawer", help="The open shift there, else its last one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a shift: as it runs (X report), or as it was counted (Z report)."""
    if (number is None) == (drawer is None):
        raise typer.BadParameter("give the number of a shift or --drawer", param_hint="NUMBER")
    with local_client(config) as north:
        found = number if number is not None else _number_at(north, str(drawer))
        shift = north.call("GET", f"/shifts/{found}")
    if as_json:
        show_json(shift)
    else:
        _show(shift)


def list_shifts(
    config: ConfigOption,
    only_open: Annotated[bool, typer.Option("--open", help="Only those still open.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List shifts, newest first."""
    with local_client(config) as north:
        items = list(north.pages(f"/shifts?state={'open' if only_open else 'all'}"))
    if as_json:
        show_json(items)
        return
    show_table(
        "Shifts",
        (
            *("shift", "drawer", "cashier", "opened", "closed", "recharges"),
            *("expected", "counted", "difference", "currency"),
        ),
        [
            (
                *(item["number"], item["drawer"], item["cashier"], item["opened_at"]),
                *(item["closed_at"] or "open", item["recharges"]),
                *(_shown(item, name) for name in ("expected", "counted", "difference")),
                item["currency"],
            )
            for item in items
        ],
    )


def counts_of(words: Sequence[str]) -> dict[str, str]:
    """`counter=1250.00` words as a map. Raises typer.BadParameter."""
    counted: dict[str, str] = {}
    for word in words:
        provider, mark, amount = (part.strip() for part in word.partition("="))
        if not (provider and mark and amount):
            raise typer.BadParameter(
                "give PROVIDER=AMOUNT, such as counter=1250.00", param_hint="--counted"
            )
        if provider in counted:
            raise typer.BadParameter(f"{provider} stands twice", param_hint="--counted")
        counted[provider] = amount
    return counted


def _number_at(north: "LocalClient", drawer: str) -> object:
    """The newest shift of a drawer: only that one can be open."""
    from gateway.core.errors import RefusedError

    for shift in north.pages("/shifts"):
        if shift["drawer"] == drawer:
            return shift["number"]
    raise RefusedError("SHIFT_UNKNOWN", f"no shift was ever opened at drawer {drawer}", "drawer")


def _show(shift: Mapping[str, object]) -> None:
    facts = [(name, shift[name]) for name in ("drawer", "cashier", "opened_at")]
    if shift["closed_at"]:
        facts += [("closed_at", shift["closed_at"]), ("closed by", shift["closed_by"])]
    facts += [(name, shift[name]) for name in ("recharges", "vouchers", "reversals", "float")]
    facts += [(name, _shown(shift, name)) for name in ("expected", "counted", "difference")]
    facts += [("currency", shift["currency"])]
    if shift["difference_transaction"]:
        facts += [("posted by transaction", shift["difference_transaction"])]
    if shift["note"]:
        facts += [("note", shift["note"])]
    kind = "Z report" if shift["state"] == "closed" else "X report, shift still open"
    show_table(f"Shift {shift['number']}: {kind}", ("what", "value"), facts)
    columns = ("recharged", "vouchers_sold", "reversed", "float", "expected", "counted")
    means = cast("list[Mapping[str, object]]", shift["means"])
    show_table(
        "By means of payment",
        ("provider", "recharges", *(c.replace("_", " ") for c in columns), "difference"),
        [
            (
                total["provider"],
                total["recharges"],
                *(_shown({**total, "blind": shift["blind"]}, name) for name in columns),
                _shown({**total, "blind": shift["blind"]}, "difference"),
            )
            for total in means
        ],
    )


def _shown(item: Mapping[str, object], name: str) -> object:
    """An amount, or why there is none."""
    if item[name] is not None:
        return item[name]
    return HIDDEN if item["blind"] else "not counted"
