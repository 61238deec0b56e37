"""`tariff`: write one from a preset, check a document, try and publish it; be the second person."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, cast

import typer

from gateway.app.cli import tariff_publish, tariff_replay
from gateway.app.cli.local import KeyOption, ask, is_pending, local_client, tell
from gateway.app.cli.output import ConfigOption, JsonOption, show_json, show_table

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Tariff document (YAML).")]
PresetArgument = Annotated[str, typer.Argument(metavar="PRESET", help="See `tariff presets`.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there; never over one.")
]
SiteOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Take currency and time zone of a site."),
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Tariffs.", no_args_is_help=True)
    group.command()(check)
    group.command()(tariff_publish.publish)
    group.command("list")(list_tariffs)
    group.command()(show)
    group.command()(drafts)
    group.command()(decide)
    group.command()(tariff_replay.replay)
    group.command()(presets)
    group.command()(new)
    app.add_typer(group, name="tariff")


def check(file: FileArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Check a tariff document against the site's currency; every problem at once, and its place."""
    from gateway.app.cli.tariff_table import tariff_tables
    from gateway.app.config import load_config
    from gateway.app.config_site import currency_of
    from gateway.app.tariff_file import tariff_of_file
    from gateway.core.tariff_writer import tariff_to_document

    site = load_config(config).site
    currency = currency_of(site)
    tariff = tariff_of_file(file, currency)
    if as_json:
        show_json(tariff_to_document(tariff, currency))
        return
    typer.echo(f"{file}: ok, tariff {tariff.tariff_id}")
    for table in tariff_tables(tariff, currency):
        show_table(table.title, table.columns, table.rows)


def list_tariffs(config: ConfigOption, as_json: JsonOption = False) -> None:
    """List the published tariffs, each with its newest version."""
    from gateway.app.cli.civil import Civil

    with local_client(config) as north:
        items = list(north.pages("/tariffs"))
    if as_json:
        show_json({"items": items})
        return
    civil = Civil(config)
    show_table(
        f"Tariffs, times in {civil.timezone}",
        ("tariff", "newest version", "in force from", "published", "by"),
        [
            (
                item["id"],
                item["version"],
                civil.time(item["effective_from"]),
                civil.time(item["published_at"]),
                item["published_by"],
            )
            for item in items
        ],
    )


def show(
    tariff: Annotated[str, typer.Argument(metavar="ID", help="The tariff.")],
    config: ConfigOption,
    version: Annotated[
        int | None, typer.Option("--version", min=1, help="A version; the newest unless given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a published version of a tariff: what each kWh costs by it, and what comes beside it."""
    from urllib.parse import quote

    from gateway.app.cli.civil import Civil
    from gateway.app.cli.tariff_table import tariff_tables
    from gateway.app.config import load_config
    from gateway.app.config_site import currency_of
    from gateway.core.tariff_document import tariff_from_document

    asked = "" if version is None else f"?version={version}"
    with local_client(config) as north:
        found = north.call("GET", f"/tariffs/{quote(tariff, safe='')}{asked}")
    if as_json:
        show_json(found)
        return
    site, civil = load_config(config).site, Civil(config)
    currency = currency_of(site)
    document = cast("dict[str, object]", found["document"])
    versions = cast("list[int]", found["versions"])
    typer.echo(
        f"{tariff}, version {found['version']} of {len(versions)}, in force from "
        f"{civil.time(found['effective_from'])} {civil.timezone}, published "
        f"{civil.time(found['published_at'])} by {found['published_by']}"
    )
    for table in tariff_tables(tariff_from_document(document, currency.as_stored()), currency):
        show_table(table.title, table.columns, table.rows)


def drafts(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show the tariffs that are not in force because a second manager has to decide."""
    from gateway.app.cli.civil import Civil

    with local_client(config) as north:
        items = list(north.pages("/tariff-drafts"))
    if as_json:
        show_json({"items": items})
        return
    civil = Civil(config)
    show_table(
        f"Drafts that wait for a second manager, times in {civil.timezone}",
        ("draft", "tariff", "what rises most", "from", "drafted", "by"),
        [
            (
                item["number"],
                item["tariff_id"],
                item["rise"],
                cast("dict[str, object]", item["document"])["effective_from"],
                civil.time(item["drafted_at"]),
                item["drafted_by"],
            )
            for item in items
        ],
    )
    currency = tariff_publish.site_currency(config)
    for item in items:
        number, now = item["number"], item["rise_now"]
        if now not in (None, item["rise"]):
            typer.echo(f"draft {number}: another version came since, now {now or 'nothing rises'}")
        replay = cast("dict[str, object]", item["replay"])
        words = tariff_publish.replay_words(replay, currency)
        if words:
            typer.echo(f"draft {number}, the 7 days before it was made: {words}")


def decide(
    draft: Annotated[int, typer.Argument(metavar="N", help="As `tariff drafts` shows it.")],
    config: ConfigOption,
    accept: Annotated[
        bool, typer.Option("--approve/--refuse", help="Publish it, or let it never be in force.")
    ],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept for good.")],
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Be the second manager: publish a drafted tariff, or refuse it."""
    body = {"accept": accept, "reason": reason}
    answer = ask(config, "POST", f"/tariff-drafts/{draft}/decision", body, key)
    done = f"draft {draft} is refused: its tariff never comes into force"
    if accept and not is_pending(answer):
        result = cast("dict[str, object]", answer["result"])
        done = f"published {result['tariff_id']}, version {result['version']}"
    tell(answer, done, as_json=as_json)


def presets(as_json: JsonOption = False) -> None:
    """List the tariffs that `tariff new` writes."""
    from gateway.core.tariff_presets import PRESETS

    if as_json:
        show_json([{"name": preset.name, "title": preset.title} for preset in PRESETS.values()])
        return
    rows = [(preset.name, preset.title, preset.currency.code) for preset in PRESETS.values()]
    show_table("Presets", ("name", "what", "example in"), rows)


def new(preset: PresetArgument, output: OutputOption = None, config: SiteOption = None) -> None:
    """Write a commented tariff document to edit, to the terminal or to a new file."""
    from gateway.app.config import load_config
    from gateway.core.errors import ConfigurationError
    from gateway.core.tariff_presets import preset_of

    found = preset_of(preset)
    site = load_config(config).site if config is not None else None
    text = found.text() if site is None else found.text(site.currency, site.timezone)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise ConfigurationError((f"{output}: cannot be written: {error.strerror}",)) from error
    typer.echo(f"wrote {output}")


def read_tariff_file(path: Path) -> Mapping[str, object]:
    """The document in a YAML file, scalars as text. Raises ConfigurationError."""
    from gateway.app.tariff_file import read_tariff_file as read

    return read(path).content
