"""The bundle of an update: `PGN1`, header length (u32, big-endian), header, signature, payload.

The header is JSON, signed together with what stands before it. The payload is one zlib stream of
the files in the header's order, its window at most 4 KiB. Every limit is checked before anything is
allocated by it.
"""

import json

from node import port

MAGIC = b"PGN1"
PREFIX = 8
SIGNATURE = 384
HEADER_MAX = 8192
FILES_MAX = 64
FILE_MAX = 65536
UNPACKED_MAX = 262144
PAYLOAD_MAX = 262144
BUNDLE_MAX = PREFIX + HEADER_MAX + SIGNATURE + PAYLOAD_MAX
WINDOW_BITS_MAX = 12
SECURITY_MAX = 0x7FFFFFFF
NAME_MAX = 32

_NAME = "abcdefghijklmnopqrstuvwxyz0123456789_"
_TEXT = _NAME + "ABCDEFGHIJKLMNOPQRSTUVWXYZ.+-"
_HEX = "0123456789abcdef"


class UpdateError(Exception):
    """Why an update is refused: `code` for programs, `message` for people."""

    def __init__(self, code, message):
        super().__init__(code + ": " + message)
        self.code = code
        self.message = message


def header_length(prefix):
    """Bytes of the header, from the first 8 of a bundle. Raises UpdateError UPDATE_FORM."""
    if len(prefix) != PREFIX or prefix[:4] != MAGIC:
        raise UpdateError("UPDATE_FORM", "not a bundle")
    length = int.from_bytes(prefix[4:], "big")
    if not 2 <= length <= HEADER_MAX:
        raise UpdateError("UPDATE_FORM", f"header of {length} bytes")
    return length


class Header:
    """What a bundle says about itself; only to be made of what a signature vouches for."""

    def __init__(self, raw):
        """Take the header's bytes. Raises UpdateError UPDATE_FORM."""
        try:
            fields = json.loads(raw.decode())
            self.product = _text(fields["product"])
            self.hardware = _text(fields["hardware"])
            self.version = _text(fields["version"])
            self.security = _number(fields["security"], 0, SECURITY_MAX)
            self.size = _number(fields["size"], 8, PAYLOAD_MAX)
            self.sha256 = _digest(fields["sha256"])
            self.files = [
                (_name(name), _number(size, 0, FILE_MAX), _digest(sha256))
                for name, size, sha256 in fields["files"]
            ]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UpdateError("UPDATE_FORM", "the header is not of its form") from None
        if not 1 <= len(self.files) <= FILES_MAX:
            raise UpdateError("UPDATE_FORM", f"{len(self.files)} files")
        if len({name for name, _, _ in self.files}) != len(self.files):
            raise UpdateError("UPDATE_FORM", "a file stands twice")
        self.unpacked = sum([size for _, size, _ in self.files])
        if self.unpacked > UNPACKED_MAX:
            raise UpdateError("UPDATE_FORM", f"{self.unpacked} bytes unpacked")


def _number(value, low, high):
    # True is an int to Python.
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError
    return value


def _made_of(value, letters, shortest, longest):
    if not isinstance(value, str) or not shortest <= len(value) <= longest:
        raise ValueError
    for letter in value:
        if letter not in letters:
            raise ValueError
    return value


def _text(value):
    return _made_of(value, _TEXT, 1, NAME_MAX)


def _digest(value):
    return bytes.fromhex(_made_of(value, _HEX, 64, 64))


def _name(value):
    """A module of the package: no path can be written like that."""
    if not isinstance(value, str) or value[-4:] != ".mpy":
        raise ValueError
    _made_of(value[:-4], _NAME, 1, NAME_MAX)
    return value


def window_fits(first):
    """Whether the first two bytes of a payload ask for a window that the node can spare."""
    return len(first) == 2 and first[0] & 15 == 8 and first[0] >> 4 <= WINDOW_BITS_MAX - 8


class Inflate:
    """Reads the unpacked bytes of a payload from a file that stands at its beginning."""

    def __init__(self, file):
        self._stream = port.inflate(file, WINDOW_BITS_MAX)

    def read(self, count):
        """At most `count` bytes, none at the end. Raises UpdateError UPDATE_DAMAGED."""
        try:
            return self._stream.read(count)
        except (OSError, EOFError, ValueError):
            raise UpdateError("UPDATE_DAMAGED", "the payload cannot be unpacked") from None
