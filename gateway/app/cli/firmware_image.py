"""`firmware image`: the signed images that a running site may roll out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from gateway.app.cli.local import KeyOption, is_pending, key_or_new, local_client, tell
from gateway.app.cli.output import ConfigOption, JsonOption, show_json, show_table

if TYPE_CHECKING:
    from gateway.north.client import LocalClient

Answer = dict[str, object]
ImageArgument = Annotated[
    str,
    typer.Argument(metavar="IMAGE", help="A version, or the first digits of a SHA-256."),
]
DIGITS_LEAST: Final = 8
DIGITS_SHOWN: Final = 16


def register(group: typer.Typer) -> None:
    """Add `image` to `firmware`."""
    image = typer.Typer(help="Signed images for the nodes of a site.", no_args_is_help=True)
    image.command()(add)
    image.command("list")(list_images)
    image.command()(remove)
    group.add_typer(image, name="image")


def add(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A signed bundle.")],
    config: ConfigOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a signed bundle to the gateway, which checks it; the same one again is harmless."""
    from gateway.app.firmware.signing import read_file

    content = read_file(bundle)
    with local_client(config) as north:
        answer = north.call("POST", "/firmware-images", None, key_or_new(key), content=content)
    result = cast("Answer", answer.get("result") or {})
    known = " (it was there already)" if result.get("known") else ""
    done = "" if is_pending(answer) else f"image {result['version']} for {result['hardware']}"
    tell(answer, f"{done}: {result.get('sha256')}{known}", as_json=as_json)


def list_images(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show the images that can be rolled out."""
    with local_client(config) as north:
        found = north.call("GET", "/firmware-images")
    if as_json:
        show_json(found)
        return
    items = cast("list[Answer]", found["items"])
    columns = ("version", "hardware", "security", "bytes", "sha256", "signed by", "added")
    show_table(
        "Firmware images",
        columns,
        [
            (
                one["version"],
                one["hardware"],
                one["security"],
                one["size"],
                str(one["sha256"])[:DIGITS_SHOWN],
                one["signer"],
                one["added_at"],
            )
            for one in items
        ],
    )


def remove(
    image: ImageArgument,
    config: ConfigOption,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forget an image that no roll-out needs any more."""
    with local_client(config) as north:
        sha256 = image_named(north, image)
        answer = north.call("DELETE", f"/firmware-images/{sha256}", None, key_or_new(key))
    tell(answer, f"image {image} is removed", as_json=as_json)


def image_named(north: "LocalClient", name: str) -> str:
    """The SHA-256 of the one image of this version or with these first digits.

    Raises RefusedError IMAGE_UNKNOWN (none, or several).
    """
    from gateway.core.errors import RefusedError

    items = cast("list[Answer]", north.call("GET", "/firmware-images")["items"])
    short = len(name) < DIGITS_LEAST
    found = [
        str(one["sha256"])
        for one in items
        if one["version"] == name or (not short and str(one["sha256"]).startswith(name))
    ]
    if len(found) != 1:
        why = "there is no image" if not found else f"{len(found)} images are of"
        raise RefusedError("IMAGE_UNKNOWN", f"{why} {name}: see `firmware image list`", "image")
    return found[0]
