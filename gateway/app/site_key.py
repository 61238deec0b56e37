"""The site's signing key (Ed25519): made once, never leaves the machine, signs what others check.

`cryptography` is imported where it is used: starting control must not wait for it.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.core.errors import ConfigurationError, StoreError
from gateway.store.db import sync_directory

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_NAME: Final = "site-key.pem"
PUBLIC_NAME: Final = "site-key.pub"
# systemd hands the key to control alone: LoadCredential=site-key:FILE
CREDENTIAL: Final = "site-key"
CREDENTIALS_VARIABLE: Final = "CREDENTIALS_DIRECTORY"
PRIVATE_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o640


@dataclass(frozen=True)
class SiteKey:
    """A private key, behind core's `Signer`."""

    pem: bytes
    path: Path

    def public_key(self) -> bytes:
        """The 32 raw bytes of the public key."""
        return self._private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature (RFC 8032)."""
        return self._private.sign(message)

    @cached_property
    def _private(self) -> "Ed25519PrivateKey":
        from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
            Ed25519PrivateKey,
        )
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
            load_pem_private_key,
        )

        try:
            key = load_pem_private_key(self.pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigurationError(
                (f"{self.path}: not a private key in PEM: {error}",)
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigurationError((f"{self.path}: not an Ed25519 key",))
        return key


def load_site_key(control_dir: Path) -> SiteKey:
    """The key of this site: systemd's credential, else the file in control's directory.

    Makes one where there is none (mode 0600, beside it the public key in hex), so that an older
    installation and a restored one go on. Raises ConfigurationError (not a key, or readable by
    others) and StoreError (cannot be read or written).
    """
    path = control_dir / KEY_NAME
    try:
        credential = credential_file(CREDENTIAL)
        path = credential or path
        if credential is None and not path.exists():
            _make(path)
        key = SiteKey(path.read_bytes(), path) if credential else read_site_key(path)
        _publish(control_dir / PUBLIC_NAME, key.public_key())
    except OSError as error:
        raise StoreError(f"{error.filename or path}: {error.strerror}") from error
    return key


def read_site_key(path: Path) -> SiteKey:
    """The key in a file that its owner alone may read; makes nothing.

    Raises ConfigurationError (readable by others) and StoreError.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigurationError((f"{path}: others may read the site's key: chmod 600 {path}",))
        return SiteKey(path.read_bytes(), path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def credential_file(name: str) -> Path | None:
    """The file of a credential that systemd handed to this process; None without one.

    Raises OSError.
    """
    given = os.environ.get(CREDENTIALS_VARIABLE)
    path = Path(given) / name if given else None
    return path if path is not None and path.exists() else None


def signature_fits(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` over `message` is of `public_key` (32 bytes); False for any other."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PublicKey,
    )

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _make(path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PrivateKey,
    )
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    write_whole(path, pem, PRIVATE_MODE)


def _publish(path: Path, public_key: bytes) -> None:
    text = public_key.hex().encode() + b"\n"
    if not path.exists() or path.read_bytes() != text:
        write_whole(path, text, PUBLIC_MODE)


def write_whole(path: Path, content: bytes, mode: int) -> None:
    """Write a file whole or not at all, also through a power cut. Raises OSError."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    sync_directory(path.parent)
