"""What signs for a site, as the rules and the stores see it; the key itself is the app's."""

from typing import Protocol


class Signer(Protocol):
    """The site's private key (Ed25519, RFC 8032)."""

    def public_key(self) -> bytes:
        """The 32 raw bytes that anybody may know."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`."""
        ...


class SignatureCheck(Protocol):
    """Whether a signature is one of this key over this message; never raises for bad input."""

    def __call__(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """True only for a valid Ed25519 signature; keys and signatures of any length are taken."""
        ...
