"""`tariff`: write one from a preset, check a document, try and publish it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.app.cli import tariff_replay
from gateway.app.cli.local import KeyOption, key_or_new, local_client
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
    group.command()(publish)
    group.command()(tariff_replay.replay)
    group.command()(presets)
    group.command()(new)
    app.add_typer(group, name="tariff")


def check(file: FileArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Check a tariff document against the site's currency; every problem at once, and its place."""
    from gateway.app.cli.tariff_table import tariff_tables
    from gateway.app.config import load_config
    from gateway.app.tariff_file import tariff_of_file
    from gateway.core.money import Currency
    from gateway.core.tariff_writer import tariff_to_document

    site = load_config(config).site
    currency = Currency(site.currency, site.money_scale, site.minor_digits)
    tariff = tariff_of_file(file, currency)
    if as_json:
        show_json(tariff_to_document(tariff, currency))
        return
    typer.echo(f"{file}: ok, tariff {tariff.tariff_id}")
    for table in tariff_tables(tariff, currency):
        show_table(table.title, table.columns, table.rows)


def publish(
    file: FileArgument, config: ConfigOption, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Publish a tariff document as the next, immutable version."""
    document = read_tariff_file(file)
    with local_client(config) as north:
        answer: Any = north.call("POST", "/tariffs", document, key_or_new(key))
    if as_json:
        show_json(answer)
    else:
        typer.echo(f"published {document.get('id')}")


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
