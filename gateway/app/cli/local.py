"""How commands reach the running north: over its Unix socket, as who they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.app.cli.output import show_json

if TYPE_CHECKING:
    from gateway.app.config import Config
    from gateway.core.errors import RefusedError
    from gateway.north.client import LocalClient

KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key", help="Idempotency key: a repeat with the same key is executed only once."
    ),
]


def local_client(config: Path, *, timeout_s: float | None = None) -> "LocalClient":
    """A client of the north process that serves this configuration."""
    from gateway.app.config import load_config
    from gateway.app.paths import paths_of
    from gateway.north.client import TIMEOUT_S, LocalClient

    return LocalClient(paths_of(load_config(config)).socket, timeout_s=timeout_s or TIMEOUT_S)


def not_polled(config: "Config", meter_id: str) -> "RefusedError":
    """What to raise where the configuration has no polled meter of this name."""
    from gateway.core.errors import RefusedError

    if any(node.meter_id == meter_id for node in config.nodes):
        told = f"{meter_id} is a node, heard and not polled: `device show`, `device commission`"
    else:
        told = f"the configuration has no meter {meter_id}"
    return RefusedError("METER_UNKNOWN", told)


def key_or_new(key: str | None) -> str:
    """The key given, or a fresh one."""
    from ulid import ULID

    return key or str(ULID())


def ask(
    config: Path,
    method: str,
    path: str,
    body: Mapping[str, object] | None,
    key: str | None,
    *,
    timeout_s: float | None = None,
) -> dict[str, object]:
    """Ask the running north once for something; its answer. Raises StoreAwayError, RefusedError."""
    with local_client(config, timeout_s=timeout_s) as north:
        return north.call(method, path, body, key_or_new(key))


def is_pending(answer: Mapping[str, object]) -> bool:
    """Whether control has not answered a wish yet: it is kept."""
    return answer.get("state") == "pending"


def tell(answer: Mapping[str, object], done: str, *, as_json: bool) -> None:
    """Say what became of a wish: `done`, or that control has not answered yet."""
    if as_json:
        show_json(answer)
    elif is_pending(answer):
        typer.echo(f"accepted, control has not answered yet: request {answer['key']}")
    else:
        typer.echo(done)
