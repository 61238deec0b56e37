"""Verifies RSA-3072 signatures, PKCS#1 v1.5 with SHA-256 (RFC 8017, 8.2.2), exponent 65537."""

SIZE = 384
# DigestInfo of SHA-256 (RFC 8017, 9.2, note 1).
_PREFIX = b"010\r\x06\t`\x86H\x01e\x03\x04\x02\x01\x05\x00\x04 "


def encoded(digest):
    """The whole message that a signature over this SHA-256 digest (32 bytes) opens to."""
    return b"\x00\x01" + b"\xff" * (SIZE - 54) + b"\x00" + _PREFIX + digest


def verified(modulus, digest, signature):
    """Whether the signature (384 bytes) is of the key with this modulus (384 bytes).

    What it opens to is compared whole with the one message it may be; nothing of it is parsed.
    """
    if len(signature) != SIZE or len(modulus) != SIZE or len(digest) != 32:
        return False
    n = int.from_bytes(modulus, "big")
    s = int.from_bytes(signature, "big")
    if s >= n:
        return False
    return pow(s, 65537, n).to_bytes(SIZE, "big") == encoded(digest)
