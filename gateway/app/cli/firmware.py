"""`firmware`: keys, releases and bundles of the ESP32 node; and what a site does with them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.app.cli import firmware_bench, firmware_image, firmware_rollout
from gateway.app.cli.output import JsonOption, show_json, show_table

if TYPE_CHECKING:
    from gateway.app.firmware.bundle import Bundle
    from gateway.app.firmware.signing import PublicKey, SigningKey

PassphraseOption = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="Its first line is the passphrase."),
]
BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle.")]
KeyOption = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="The private key that signs.")
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="Firmware of ESP32 nodes: keys, releases, roll-outs.", no_args_is_help=True
    )
    group.command()(keygen)
    group.command()(release)
    group.command()(sign)
    group.command()(inspect)
    firmware_bench.register(group)
    firmware_image.register(group)
    firmware_rollout.register(group)
    app.add_typer(group, name="firmware")


def keygen(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the private key goes.")],
    passphrase_file: PassphraseOption = None,
    ask: Annotated[bool, typer.Option("--ask", help="Ask for a passphrase here.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a key that signs firmware; its public half goes to FILE.pub."""
    from gateway.app.firmware.signing import make_key, public_path

    passphrase = _first_line(passphrase_file)
    if ask and passphrase is None:
        passphrase = str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True))
    public = make_key(file, passphrase)
    answer = {
        "private": str(file),
        "public": str(public_path(file)),
        "mark": public.mark,
        "encrypted": passphrase is not None,
    }
    if as_json:
        show_json(answer)
        return
    typer.echo(f"made key {public.mark}: {file} (keep it secret and safe), {public_path(file)}")
    if passphrase is None:
        typer.echo("it has no passphrase: whoever reads the file can sign", err=True)


def release(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The new bundle.")],
    version: Annotated[str, typer.Option("--version", help="Its version, such as 1.2.0.")],
    security: Annotated[
        int, typer.Option("--security", min=0, help="Raised when older ones must not come back.")
    ],
    hardware: Annotated[
        str, typer.Option("--hardware", help="The nodes that it is for.")
    ] = "esp32-pzem-1",
    source: Annotated[
        Path | None,
        typer.Option(
            "--source", metavar="DIRECTORY", help="The node's package; the program's own else."
        ),
    ] = None,
    key: KeyOption = None,
    public: Annotated[
        Path | None,
        typer.Option("--public", metavar="FILE", help="Without --key: sign it elsewhere later."),
    ] = None,
    next_key: Annotated[
        Path | None,
        typer.Option("--next", metavar="FILE", help="Public key that may sign from then on too."),
    ] = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compile the node's application and make a bundle of it, signed with --key."""
    from gateway.app.firmware import bundle as bundles
    from gateway.app.firmware.build import compiled
    from gateway.app.firmware.signing import load_public, write_new
    from gateway.app.firmware.sources import NODE_PACKAGE, firmware_directory

    if (key is None) == (public is None):
        raise typer.BadParameter("give --key, or --public to sign later", param_hint="--key")
    signing = None if key is None else _signing_key(key, passphrase_file)
    keys = [signing.public if signing is not None else load_public(public or Path())]
    if next_key is not None:
        keys.append(load_public(next_key))
    purpose = bundles.Release(hardware=hardware, version=version, security=security)
    raw = bundles.pack(purpose, compiled(source or firmware_directory() / NODE_PACKAGE, keys))
    made = bundles.read_bundle(raw)
    if signing is not None:
        made = bundles.read_bundle(bundles.sign(made, signing))
    write_new(bundle, made.raw)
    _show(bundle, made, keys, as_json=as_json)


def sign(
    bundle: BundleArgument,
    signed: Annotated[Path, typer.Argument(metavar="SIGNED", help="The signed bundle, new.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The private key.")],
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a bundle, for instance on a machine of its own that keeps the key."""
    from gateway.app.firmware import bundle as bundles
    from gateway.app.firmware.signing import write_new

    found = _bundle_in(bundle)
    signing = _signing_key(key, passphrase_file)
    made = bundles.read_bundle(bundles.sign(found, signing))
    write_new(signed, made.raw)
    _show(signed, made, [signing.public], as_json=as_json)


def inspect(
    bundle: BundleArgument,
    public: Annotated[
        list[Path] | None,
        typer.Option("--public", metavar="FILE", help="A key that may have signed; repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a bundle and check it whole; fails unless one of the keys given signed it."""
    from gateway.app.firmware.signing import load_public
    from gateway.core.errors import RefusedError

    found = _bundle_in(bundle)
    keys = [load_public(path) for path in public or ()]
    _show(bundle, found, keys, as_json=as_json)
    if keys and not found.is_signed:
        raise RefusedError("BUNDLE_UNSIGNED", f"{bundle} is not signed: firmware sign does it")
    if keys and found.signer(keys) is None:
        raise RefusedError("BUNDLE_FORGED", f"{bundle} is signed with none of the keys given")


def _bundle_in(path: Path) -> "Bundle":
    from gateway.app.firmware.bundle import read_bundle
    from gateway.app.firmware.signing import read_file
    from gateway.core.errors import RefusedError

    try:
        return read_bundle(read_file(path))
    except RefusedError as error:
        if error.refusal_code != "BUNDLE_INVALID":
            raise
        raise RefusedError("BUNDLE_INVALID", f"{path}: {error.message}") from error


def _signing_key(path: Path, passphrase_file: Path | None) -> "SigningKey":
    import sys

    from gateway.app.firmware.signing import load_key
    from gateway.core.errors import RefusedError

    passphrase = _first_line(passphrase_file)
    try:
        return load_key(path, passphrase)
    except RefusedError as error:
        if error.refusal_code != "PASSPHRASE_MISSING" or not sys.stdin.isatty():
            raise
    return load_key(path, str(typer.prompt(f"Passphrase of {path}", hide_input=True)))


def _first_line(path: Path | None) -> str | None:
    """The first line of a file. Raises RefusedError FILE_REFUSED, KEY_REFUSED (empty)."""
    if path is None:
        return None
    from gateway.app.firmware.signing import read_file
    from gateway.core.errors import RefusedError

    line = read_file(path).decode("utf-8", "replace").partition("\n")[0].rstrip("\r")
    if not line:
        raise RefusedError("KEY_REFUSED", f"{path}: its first line is no passphrase")
    return line


def _show(path: Path, bundle: "Bundle", keys: "list[PublicKey]", *, as_json: bool) -> None:
    signer = bundle.signer(keys) if bundle.is_signed else None
    if not bundle.is_signed:
        signature = "missing"
    elif not keys:
        signature = "not checked: give --public"
    else:
        signature = f"good, by key {signer.mark}" if signer else "by none of the keys given"
    facts: dict[str, object] = {
        "product": bundle.release.product,
        "hardware": bundle.release.hardware,
        "version": bundle.release.version,
        "security": bundle.release.security,
        "bytes": len(bundle.raw),
        "unpacked": sum(len(content) for content in bundle.files.values()),
        "sha256": bundle.sha256,
    }
    if as_json:
        show_json(
            {
                **facts,
                "signed": bundle.is_signed,
                "signer": signer.mark if signer else None,
                "files": {name: len(content) for name, content in bundle.files.items()},
            }
        )
        return
    show_table(str(path), ("what", "value"), [*facts.items(), ("signature", signature)])
    show_table(
        "Files", ("file", "bytes"), [(name, len(text)) for name, text in bundle.files.items()]
    )
