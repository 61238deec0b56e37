"""Signed bundles for tests, made by the code that makes real ones."""

import hashlib
from functools import cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.app.firmware.bundle import Bundle, Release, pack, read_bundle, sign
from gateway.app.firmware.signing import EXPONENT, KEY_BITS, SigningKey

HARDWARE: Final = "esp32-pzem-1"
# Small files, and one that fills more than a block.
SIZES: Final = {"__init__": 24, "app": 900, "frames": 5000, "lease": 2600, "update": 3100}


@cache
def key(name: str) -> SigningKey:
    """The signing key of this name, made once in a test run."""
    assert name
    return SigningKey(rsa.generate_private_key(public_exponent=EXPONENT, key_size=KEY_BITS))


def noise(seed: str, size: int) -> bytes:
    """Bytes that do not compress."""
    parts = (size + 31) // 32
    return b"".join(hashlib.sha256(f"{seed} {n}".encode()).digest() for n in range(parts))[:size]


def modules_of(version: str) -> dict[str, bytes]:
    """An application's files, different in every version."""
    files = {f"{name}.mpy": noise(f"{name} {version}", size) for name, size in SIZES.items()}
    files["keys.mpy"] = key("current").public.modulus + key("next").public.modulus
    return files


@cache
def bundle(version: str, security: int, signer: str = "current") -> Bundle:
    """A signed bundle of a made-up application."""
    release = Release(hardware=HARDWARE, version=version, security=security)
    unsigned = read_bundle(pack(release, modules_of(version)))
    return read_bundle(sign(unsigned, key(signer)))


def public_keys() -> tuple[bytes, ...]:
    """What the nodes of these tests carry."""
    return tuple(key(name).public.modulus for name in ("current", "next"))
