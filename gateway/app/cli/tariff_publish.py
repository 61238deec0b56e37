"""`tariff publish`: who would have paid more, then the question, then the next version."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from gateway.app.cli.local import KeyOption, ask, is_pending, local_client, tell
from gateway.app.cli.output import ConfigOption, JsonOption, complain, show_table

if TYPE_CHECKING:
    from gateway.core.money import Currency

DAYS: Final = 7
TOP: Final = 20
# North counts a replay for three minutes at most, after that of somebody else.
PATIENCE_S: Final = 220.0

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Tariff document (YAML).")]
YesOption = Annotated[
    bool, typer.Option("--yes", help="Publish without asking, whoever pays more.")
]


def publish(
    file: FileArgument,
    config: ConfigOption,
    yes: YesOption = False,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish a tariff document as the next, immutable version.

    First the last 7 days are replayed under it, and who would have paid more is shown. Where its
    price rises by more than half it becomes a draft, and another manager decides.
    """
    from gateway.app.tariff_file import read_tariff_file, tariff_of_file

    currency = site_currency(config)
    # What is no tariff is told with its line before anything is counted or asked.
    tariff_of_file(file, currency)
    document = read_tariff_file(file).content
    if _show_replay(config, document, currency, quiet=as_json) and not yes:
        typer.confirm(
            f"Publish {document.get('id')}? (--yes answers beforehand)", abort=True, err=True
        )
    answer = ask(config, "POST", "/tariffs", document, key, timeout_s=PATIENCE_S)
    done = f"published {document.get('id')}"
    if not is_pending(answer):
        result = cast("dict[str, object]", answer["result"])
        if "draft" in result:
            done = (
                f"NOT in force: {result['rise']}.\n"
                f"Kept as draft {result['draft']}. Another manager decides: prepaid-gateway tariff "
                f"decide {result['draft']} --approve (or --refuse) --reason WHY -c {config}"
            )
    tell(answer, done, as_json=as_json)


def replay_words(replay: Mapping[str, object], currency: "Currency") -> str:
    """What a replay came to, in a sentence; empty where none was counted."""
    from gateway.core.money import display_amount, parse_amount

    def amount(found: Mapping[str, object]) -> str:
        nano, share = parse_amount(found["difference"], currency), found.get("difference_percent")
        signed = f"{'+' if nano > 0 else ''}{display_amount(nano, currency)} {currency.code}"
        return signed if share is None else f"{signed} ({share} %)"

    if not replay:
        return ""
    if not replay.get("compared"):
        return f"not compared: {replay.get('why')}"
    count, more, less = (int(str(replay[name])) for name in ("accounts", "pay_more", "pay_less"))
    words = [
        f"of {count} accounts {more} pay more, {less} less, {count - more - less} the same",
        f"all together {amount(replay)}",
    ]
    largest = replay.get("largest")
    if isinstance(largest, Mapping):
        words.append(f"the largest is {largest['account_id']}: {amount(largest)}")
    if replay.get("estimated_wh"):
        words.append(f"{int(str(replay['estimated_wh'])) / 1000:.3f} kWh of it are estimated")
    return "; ".join(words)


def site_currency(config: Path) -> "Currency":
    """The currency of a site, as it keeps money. Raises ConfigurationError."""
    from gateway.app.config import load_config
    from gateway.app.config_site import currency_of

    site = load_config(config).site
    return currency_of(site)


def _show_replay(
    config: Path, document: Mapping[str, object], currency: "Currency", *, quiet: bool
) -> bool:
    """Show who would have paid more; whether there is anything to ask about."""
    from gateway.core.errors import RefusedError, StoreAwayError

    try:
        with local_client(config, timeout_s=PATIENCE_S) as north:
            found = north.call(
                "POST", "/tariffs/replay", {"document": dict(document), "days": DAYS}
            )
    except RefusedError as error:
        if error.refusal_code == "NO_ACCOUNTS":
            complain(f"no account is under tariff {document.get('id')} yet: nobody pays more by it")
            return False
        complain(f"the last {DAYS} days could not be compared: {error.message}")
        return True
    except StoreAwayError as error:
        complain(f"the last {DAYS} days could not be compared: {error}")
        return True
    if not quiet:
        _show_table(config, found, currency)
    complain(replay_words(cast("Mapping[str, object]", found["summary"]), currency))
    return True


def _show_table(config: Path, found: Mapping[str, object], currency: "Currency") -> None:
    from gateway.app.cli.civil import Civil
    from gateway.app.cli.tariff_replay import replay_row
    from gateway.core.money import parse_amount

    civil = Civil(config)

    def row(name: str, item: Mapping[str, object]) -> tuple[str, ...]:
        charged, draft = (parse_amount(item[side], currency) for side in ("charged", "draft"))
        return replay_row(name, int(str(item["energy_wh"])), charged, draft, currency)

    accounts = cast("list[dict[str, object]]", found["accounts"])
    payers = [item for item in accounts if parse_amount(item["difference"], currency) > 0]
    rows = [row(str(item["account_id"]), item) for item in payers[:TOP]]
    rows.append(row("all accounts", cast("dict[str, object]", found["total"])))
    code = currency.code
    columns = ("account", "kWh", f"charged, {code}", f"draft, {code}", f"difference, {code}", "%")
    shown = (
        f"the {TOP} of {len(payers)} who pay most more" if len(payers) > TOP else "who pays more"
    )
    title = (
        f"Last {DAYS} days under this draft of {found['draft']}: {shown}, "
        f"{civil.time(found['from'])} to {civil.time(found['until'])} {civil.timezone}"
    )
    show_table(title, columns, rows, figures=columns[1:])
