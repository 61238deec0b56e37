"""The key that signs firmware: RSA-3072, exponent 65537; the nodes carry its public half.

`cryptography` is imported where it is used: `--help` must not wait for it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.app.site_key import PRIVATE_MODE
from gateway.core.errors import RefusedError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

KEY_BITS: Final = 3072
MODULUS_BYTES: Final = KEY_BITS // 8
SIGNATURE_BYTES: Final = MODULUS_BYTES
EXPONENT: Final = 65537
PUBLIC_MODE: Final = 0o644
PASSPHRASE_LEAST: Final = 8


@dataclass(frozen=True)
class PublicKey:
    """A public key: 384 bytes of modulus, big-endian."""

    modulus: bytes

    @property
    def mark(self) -> str:
        """What names the key for people: the first 16 hex digits of its modulus' SHA-256."""
        import hashlib  # noqa: PLC0415

        return hashlib.sha256(self.modulus).hexdigest()[:16]

    def fits(self, message: bytes, signature: bytes) -> bool:
        """Whether `signature` over `message` is of this key."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

        numbers = rsa.RSAPublicNumbers(EXPONENT, int.from_bytes(self.modulus, "big"))
        try:
            numbers.public_key().verify(signature, message, padding.PKCS1v15(), SHA256())
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """A private key; never printed."""

    def __init__(self, private: "RSAPrivateKey") -> None:
        self._private = private

    @property
    def public(self) -> PublicKey:
        """Its public half."""
        return _public_of(self._private.public_key())

    def sign(self, message: bytes) -> bytes:
        """The signature, 384 bytes (PKCS#1 v1.5, SHA-256); the same for the same message."""
        from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

        return self._private.sign(message, padding.PKCS1v15(), SHA256())


def make_key(path: Path, passphrase: str | None) -> PublicKey:
    """Make a key pair: `path` (mode 0600) and `path`.pub, both PEM; nothing is overwritten.

    Raises RefusedError FILE_EXISTS, KEY_REFUSED (cannot be written, or a short passphrase).
    """
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        BestAvailableEncryption,
        Encoding,
        KeySerializationEncryption,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    if public_path(path).exists():
        # Looked at first: a private key without its public half beside it is no key pair.
        raise RefusedError("FILE_EXISTS", f"{public_path(path)} is there already")
    if passphrase is not None and len(passphrase) < PASSPHRASE_LEAST:
        raise RefusedError(
            "KEY_REFUSED", f"the passphrase is shorter than {PASSPHRASE_LEAST} characters"
        )
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(passphrase.encode())
    private = rsa.generate_private_key(public_exponent=EXPONENT, key_size=KEY_BITS)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    write_new(path, secret, PRIVATE_MODE)
    write_new(public_path(path), public, PUBLIC_MODE)
    return _public_of(private.public_key())


def public_path(path: Path) -> Path:
    """Where the public half of a key file stands."""
    return path.with_name(f"{path.name}.pub")


def load_key(path: Path, passphrase: str | None) -> SigningKey:
    """The private key in a file that its owner alone may read.

    Raises RefusedError FILE_REFUSED, KEY_REFUSED (readable by others, no such key, wrong
    passphrase), PASSPHRASE_MISSING (it is encrypted).
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_pem_private_key,
    )

    content = read_file(path)
    if b"BEGIN PUBLIC KEY" in content:
        raise RefusedError("KEY_REFUSED", f"{path} is the public half: give the private key")
    if path.stat().st_mode & 0o077:
        raise RefusedError("KEY_REFUSED", f"others may read {path}: chmod 600 {path}")
    encrypted = b"BEGIN ENCRYPTED PRIVATE KEY" in content
    if encrypted and passphrase is None:
        raise RefusedError("PASSPHRASE_MISSING", f"{path} is encrypted: give --passphrase-file")
    try:
        key = load_pem_private_key(
            content, passphrase.encode() if encrypted and passphrase is not None else None
        )
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = "wrong passphrase, or damaged" if encrypted else "not a private key in PEM"
        raise RefusedError("KEY_REFUSED", f"{path}: {why}") from error
    if not isinstance(key, RSAPrivateKey) or not _fits(key.public_key()):
        raise RefusedError("KEY_REFUSED", f"{path}: not an RSA key of {KEY_BITS} bits")
    return SigningKey(key)


def load_public(path: Path) -> PublicKey:
    """The public key in a PEM file. Raises RefusedError FILE_REFUSED, KEY_REFUSED."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        key = load_pem_public_key(read_file(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RefusedError("KEY_REFUSED", f"{path}: not a public key in PEM") from error
    if not isinstance(key, RSAPublicKey) or not _fits(key):
        raise RefusedError("KEY_REFUSED", f"{path}: not an RSA key of {KEY_BITS} bits")
    return _public_of(key)


def read_file(path: Path) -> bytes:
    """A whole file. Raises RefusedError FILE_REFUSED."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RefusedError("FILE_REFUSED", f"{path}: {error.strerror}") from error


def write_new(path: Path, content: bytes, mode: int = PUBLIC_MODE) -> None:
    """Write a file that is not there yet, whole or not at all.

    Raises RefusedError FILE_EXISTS, FILE_REFUSED.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            # A full disk, Ctrl-C: what is left would stand in the way of the next try.
            path.unlink(missing_ok=True)
            raise
    except FileExistsError as error:
        raise RefusedError("FILE_EXISTS", f"{path} is there already") from error
    except OSError as error:
        raise RefusedError("FILE_REFUSED", f"{path}: {error.strerror}") from error


def _fits(key: "RSAPublicKey") -> bool:
    return key.key_size == KEY_BITS and key.public_numbers().e == EXPONENT


def _public_of(key: "RSAPublicKey") -> PublicKey:
    return PublicKey(key.public_numbers().n.to_bytes(MODULUS_BYTES, "big"))
