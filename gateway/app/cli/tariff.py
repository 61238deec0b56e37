"""`tariff`: check a document and publish it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from gateway.app.cli.local import KeyOption, key_or_new, local_client
from gateway.app.cli.output import ConfigOption, JsonOption, show_json

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Tariff document (YAML).")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Tariffs.", no_args_is_help=True)
    group.command()(check)
    group.command()(publish)
    app.add_typer(group, name="tariff")


def check(file: FileArgument, config: ConfigOption) -> None:
    """Check a tariff document against the site's currency; every problem at once."""
    from gateway.app.config import load_config
    from gateway.core.money import Currency
    from gateway.core.tariff_document import tariff_from_document

    site = load_config(config).site
    currency = Currency(site.currency, site.money_scale, site.minor_digits)
    tariff = tariff_from_document(read_tariff_file(file), currency)
    typer.echo(f"{file}: ok, tariff {tariff.tariff_id}")


def publish(
    file: FileArgument, config: ConfigOption, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Publish a tariff document as the next, immutable version."""
    document = read_tariff_file(file)
    with local_client(config) as north:
        answer = north.call("POST", "/tariffs", document, key_or_new(key))
    if as_json:
        show_json(answer)
    else:
        typer.echo(f"published {document.get('id')}")


def read_tariff_file(path: Path) -> Mapping[str, object]:
    """The document in a YAML file, scalars as text. Raises ConfigurationError, RefusedError."""
    from gateway.app.config_yaml import as_text, read_document
    from gateway.core.errors import ConfigurationError

    document = read_document(path)
    if document.problems:
        raise ConfigurationError(tuple(str(problem) for problem in document.problems))
    content = as_text(document.root)
    if not isinstance(content, dict):
        raise ConfigurationError((f"{path}:1:1: a tariff is a map of keys",))
    return content
