"""`voucher`: sell, redeem, list, take back, print, unlock; exchange the site's key."""

from pathlib import Path
from typing import Annotated, cast

import typer

from gateway.app.cli.local import KeyOption, ask, is_pending, key_or_new, local_client, tell
from gateway.app.cli.output import ConfigOption, JsonOption, show_json, show_table

PointArgument = Annotated[str, typer.Argument(metavar="POINT", help="The service point.")]
CounterArgument = Annotated[
    int, typer.Argument(metavar="NUMBER", min=1, help="The voucher's number at its point.")
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Vouchers of 20 digits.", no_args_is_help=True)
    group.command()(issue)
    group.command()(redeem)
    group.command("list")(list_vouchers)
    group.command()(cancel)
    group.command("print")(print_slip)
    group.command()(unlock)
    group.command("rotate-key")(rotate_key)
    app.add_typer(group, name="voucher")


def issue(
    point: PointArgument,
    amount: Annotated[str, typer.Argument(help="Money taken in, major units, such as 500.00.")],
    config: ConfigOption,
    provider: Annotated[str, typer.Option("--provider", help="Who took the money.")] = "counter",
    reference: Annotated[str, typer.Option("--reference", help="Receipt or payment number.")] = "",
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sell a voucher: its 20 digits are shown, `voucher print` makes the slip."""
    from gateway.core.voucher import grouped

    body = {
        "service_point_id": point,
        "amount": amount,
        "provider": provider,
        "payment_reference": reference,
    }
    answer = ask(config, "POST", "/vouchers", body, key)
    done = ""
    if not is_pending(answer):
        sold = cast("dict[str, object]", answer["result"])
        digits = grouped(str(sold["token"]))
        done = (
            f"voucher {sold['counter']} of {point} over {sold['amount']} {sold['currency']}\n"
            f"{digits}"
        )
    tell(answer, done, as_json=as_json)


def redeem(
    point: PointArgument,
    token: Annotated[
        list[str], typer.Argument(metavar="DIGITS", help="20 digits, in groups or together.")
    ],
    config: ConfigOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Credit a point's account with a voucher."""
    body = {"service_point_id": point, "token": " ".join(token)}
    answer = ask(config, "POST", "/vouchers/redemptions", body, key)
    done = ""
    if not is_pending(answer):
        result = cast("dict[str, object]", answer["result"])
        done = (
            f"{result['amount']} {result['currency']} credited to {result['account_id']}, "
            f"balance {result['balance']}"
        )
    tell(answer, done, as_json=as_json)


def list_vouchers(
    config: ConfigOption,
    point: Annotated[
        str | None, typer.Argument(metavar="POINT", help="Of this service point only.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the vouchers that were sold here, newest first, without their digits."""
    with local_client(config) as north:
        asked = "/vouchers" if point is None else f"/vouchers?service_point_id={point}"
        items = list(north.pages(asked))
    if as_json:
        show_json(items)
        return
    show_table(
        "Vouchers",
        ("point", "number", "amount", "currency", "state", "sold", "by", "provider", "reference"),
        [
            (
                item["service_point_id"],
                item["counter"],
                item["amount"],
                item["currency"],
                item["state"],
                item["issued_at"],
                item["issued_by"],
                item["provider"],
                item["payment_reference"],
            )
            for item in items
        ],
    )


def cancel(
    point: PointArgument,
    number: CounterArgument,
    config: ConfigOption,
    reason: Annotated[str, typer.Option("--reason", help="Why it is taken back.")],
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a voucher back that is not redeemed; pay its money out."""
    with local_client(config) as north:
        path = f"/vouchers/{point}/{number}/cancellation"
        answer = north.call("POST", path, {"reason": reason}, key_or_new(key))
    done = ""
    if not is_pending(answer):
        result = cast("dict[str, object]", answer["result"])
        done = (
            f"voucher {number} of {point} is worth nothing any more: pay out "
            f"{result['amount']} {result['currency']} ({result['provider']})"
        )
    tell(answer, done, as_json=as_json)


def print_slip(
    point: PointArgument,
    number: CounterArgument,
    config: ConfigOption,
    width: Annotated[
        int, typer.Option("--width", min=32, max=48, help="Columns of the printer.")
    ] = 32,
    qr: Annotated[bool, typer.Option("--qr", help="A QR code of the digits below.")] = False,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="The QR code as a new SVG file.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="The QR code as a new PNG file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the slip of a voucher that was sold and not redeemed, as plain text."""
    from gateway.app.cli.slips import shown_slip, write_codes
    from gateway.app.config import load_config
    from gateway.core.errors import RefusedError

    with local_client(config) as north:
        sold = north.call("GET", f"/vouchers/{point}/{number}")
    token = sold["token"]
    if not isinstance(token, str):
        raise RefusedError(
            "VOUCHER_STATE", f"voucher {number} of {point} is {sold['state']}: nothing to print"
        )
    write_codes(token, {"svg": svg, "png": png})
    if as_json:
        show_json(sold)
        return
    typer.echo(shown_slip(load_config(config), sold, token, width=width, qr=qr), nl=False)


def unlock(
    config: ConfigOption,
    reason: Annotated[str, typer.Option("--reason", help="Why the wrong digits were no guess.")],
    point: Annotated[
        str | None, typer.Argument(metavar="POINT", help="The service point to unlock.")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="The address to unlock, as the refusal said.")
    ] = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """End the lock after wrong vouchers, of a service point, of an address, or of both."""
    body = {"service_point_id": point, "address": address, "reason": reason}
    answer = ask(config, "POST", "/vouchers/unlock", body, key)
    tell(answer, "unlocked", as_json=as_json)


def rotate_key(config: ConfigOption) -> None:
    """Put a new voucher key in force after the old one leaked; restart control afterwards.

    Vouchers that are on record stay good, nobody can make new ones with the old key.
    """
    from gateway.app.config import load_config
    from gateway.app.paths import paths_of
    from gateway.app.voucher_key import rotate_voucher_key

    mark = rotate_voucher_key(paths_of(load_config(config)).control_dir)
    typer.echo(f"voucher key {mark} is in force once control has started again: restart it now")
