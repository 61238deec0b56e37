"""Bundles as releases are made and checked here; the node reads them with its own code.

Layout: `PGN1`, header length (u32, big-endian), header (JSON), signature over all before it (384
bytes, zeros while unsigned), payload: one zlib stream of the files in the header's order.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.app.firmware.signing import SIGNATURE_BYTES, PublicKey, SigningKey
from gateway.core.errors import RefusedError

MAGIC: Final = b"PGN1"
PREFIX_BYTES: Final = 8
HEADER_MAX: Final = 8_192
FILES_MAX: Final = 64
FILE_MAX: Final = 65_536
UNPACKED_MAX: Final = 262_144
# A zlib stream of nothing.
PAYLOAD_LEAST: Final = 8
PAYLOAD_MAX: Final = 262_144
BUNDLE_MAX: Final = PREFIX_BYTES + HEADER_MAX + SIGNATURE_BYTES + PAYLOAD_MAX
# 4 KiB: what the node can spare while it unpacks.
WINDOW_BITS: Final = 12
SECURITY_MAX: Final = 0x7FFF_FFFF
UNSIGNED: Final = bytes(SIGNATURE_BYTES)
PRODUCT: Final = "prepaid-node"
# What the node's loader imports; without it a bundle starts nothing.
ENTRY: Final = "app.mpy"
# Holds the moduli of the keys that may sign the next update, as they are.
KEYS: Final = "keys.mpy"
_NAME: Final = re.compile(r"[a-z0-9_]{1,32}\.mpy", re.ASCII)
_TEXT: Final = re.compile(r"[A-Za-z0-9_.+-]{1,32}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Release:
    """For what and in which order a bundle is."""

    hardware: str
    version: str
    # Never lowered on a node: raised when an older version must not come back.
    security: int
    product: str = PRODUCT


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and whose payload is whole; `raw` are its bytes."""

    raw: bytes
    release: Release
    files: Mapping[str, bytes]
    header: bytes
    signature: bytes

    @property
    def is_signed(self) -> bool:
        """Whether there is a signature at all."""
        return self.signature != UNSIGNED

    @property
    def sha256(self) -> str:
        """What the node is told to expect, in hex."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def signed_part(self) -> bytes:
        """What the signature is over."""
        return self.raw[: PREFIX_BYTES + len(self.header)]

    def signer(self, keys: Sequence[PublicKey]) -> PublicKey | None:
        """Which of these keys signed it; None for none of them."""
        return next((key for key in keys if key.fits(self.signed_part, self.signature)), None)

    def slot_files(self, slot: str) -> dict[str, bytes]:
        """Path and content of everything that makes a flash image start it from `slot` (a, b)."""
        root = f"/slot_{slot}"
        found = {f"{root}/node/{name}": content for name, content in self.files.items()}
        return {**found, f"{root}/manifest": self.header, "/slot": slot.encode()}


def pack(release: Release, files: Mapping[str, bytes]) -> bytes:
    """An unsigned bundle; the same input gives the same bytes. Raises RefusedError BUNDLE_INVALID.

    `files`: content by name; in the bundle they stand in the order of their names.
    """
    order = sorted(files)
    stream = zlib.compressobj(9, zlib.DEFLATED, WINDOW_BITS)
    payload = b"".join([stream.compress(files[name]) for name in order]) + stream.flush()
    fields = {
        "product": release.product,
        "hardware": release.hardware,
        "version": release.version,
        "security": release.security,
        "files": [
            [name, len(files[name]), hashlib.sha256(files[name]).hexdigest()] for name in order
        ],
        "size": len(payload),
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    header = json.dumps(fields, separators=(",", ":")).encode()
    raw = MAGIC + len(header).to_bytes(4, "big") + header + UNSIGNED + payload
    if ENTRY not in files:
        raise RefusedError("BUNDLE_INVALID", f"there is no {ENTRY}: nothing would start")
    # What the node would refuse is refused before it is signed.
    return read_bundle(raw).raw


def sign(bundle: Bundle, key: SigningKey) -> bytes:
    """The bundle with this key's signature in place of the one it has.

    Raises RefusedError KEY_REFUSED: the bundle does not carry the key, so that nodes which run it
    would refuse whatever this key signs next.
    """
    if key.public.modulus not in bundle.files.get(KEYS, b""):
        raise RefusedError(
            "KEY_REFUSED", f"key {key.public.mark} is not among the keys that the bundle carries"
        )
    head = bundle.signed_part
    return head + key.sign(head) + bundle.raw[len(head) + SIGNATURE_BYTES :]


def read_bundle(raw: bytes) -> Bundle:
    """Read a bundle and check all but who signed it. Raises RefusedError BUNDLE_INVALID."""
    if raw[:4] != MAGIC:
        raise _invalid("it does not begin like a bundle")
    length = int.from_bytes(raw[4:PREFIX_BYTES], "big")
    start = PREFIX_BYTES + length + SIGNATURE_BYTES
    if not 2 <= length <= HEADER_MAX or len(raw) < start:
        raise _invalid(f"a header of {length} bytes does not fit, or the file is cut short")
    header = raw[PREFIX_BYTES : PREFIX_BYTES + length]
    payload = raw[start:]
    fields = _fields(header)
    release = Release(
        product=_text(fields, "product"),
        hardware=_text(fields, "hardware"),
        version=_text(fields, "version"),
        security=_number(fields, "security", 0, SECURITY_MAX),
    )
    entries = _entries(fields.get("files"))
    size = _number(fields, "size", PAYLOAD_LEAST, PAYLOAD_MAX)
    if not _DIGEST.fullmatch(str(fields.get("sha256"))):
        raise _invalid("sha256 is not 64 hex digits")
    if len(payload) != size:
        raise _invalid(f"the header says {size} bytes of payload, it has {len(payload)}")
    if hashlib.sha256(payload).hexdigest() != fields["sha256"]:
        raise _invalid("the payload is not the one that the header names")
    return Bundle(
        raw=raw,
        release=release,
        files=_unpacked(payload, entries),
        header=header,
        signature=raw[PREFIX_BYTES + length : start],
    )


def _unpacked(payload: bytes, entries: Sequence[tuple[str, int, str]]) -> dict[str, bytes]:
    stream = zlib.decompressobj(WINDOW_BITS)
    total = sum(size for _, size, _ in entries)
    try:
        content = stream.decompress(payload, total + 1)
    except zlib.error as error:
        raise _invalid(f"the payload cannot be unpacked ({error})") from error
    if len(content) != total or not stream.eof or stream.unused_data:
        raise _invalid("the payload is not as long as its files")
    files: dict[str, bytes] = {}
    for name, size, digest in entries:
        files[name], content = content[:size], content[size:]
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise _invalid(f"{name} is not the file that the header names")
    return files


def _fields(header: bytes) -> dict[str, object]:
    try:
        fields = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise _invalid("the header is not JSON") from error
    if not isinstance(fields, dict):
        raise _invalid("the header is no JSON object")
    return fields


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not _TEXT.fullmatch(value):
        raise _invalid(f"{name} is not 1 to 32 letters, digits or . _ + -")
    return value


def _number(fields: Mapping[str, object], name: str, least: int, most: int) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _invalid(f"{name} is not a number from {least} to {most}")
    return value


def _entries(value: object) -> list[tuple[str, int, str]]:
    """The files in the header: name, size, digest in hex."""
    if not isinstance(value, list) or not 1 <= len(value) <= FILES_MAX:
        raise _invalid(f"it has not 1 to {FILES_MAX} files")
    entries: list[tuple[str, int, str]] = []
    for row in value:
        match row:
            case [str(name), int(size), str(digest)] if _NAME.fullmatch(name):
                if isinstance(size, bool) or not 0 <= size <= FILE_MAX:
                    raise _invalid(f"{name} has {size} bytes, at most {FILE_MAX}")
                if not _DIGEST.fullmatch(digest):
                    raise _invalid(f"{name} has no SHA-256 beside it")
                entries.append((name, size, digest))
            case _:
                raise _invalid(f"{row!r} is no file of a bundle")
    if len({name for name, _, _ in entries}) != len(entries):
        raise _invalid("a file stands twice in it")
    if sum(size for _, size, _ in entries) > UNPACKED_MAX:
        raise _invalid(f"its files have more than {UNPACKED_MAX} bytes")
    return entries


def _invalid(why: str) -> RefusedError:
    return RefusedError("BUNDLE_INVALID", why)
