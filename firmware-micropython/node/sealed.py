"""Sealed commands: HMAC-SHA256, keys derived from the device's secret, and what a command must be.

Pure. MicroPython has no hmac; this one is RFC 2104 over its native SHA-256.
"""

import binascii
import hashlib
import json

from node.port import const

MOST_BYTES = const(2_048)
# Each is 36 bytes while JSON is read, and the envelope is read before the seal is known.
MOST_BRACKETS = const(256)
_BLOCK = const(64)


class RefusedError(Exception):
    """A command that is not carried out; `code` is the result's code.

    `body` is what it asked for; None: the seal was wrong or it has no id, and nobody is answered.
    """

    def __init__(self, code, body=None):
        super().__init__(code)
        self.code = code
        self.body = body


def hmac_sha256(key, message):
    """HMAC-SHA256 of bytes under a key of any length: 32 bytes."""
    if len(key) > _BLOCK:
        key = hashlib.sha256(key).digest()
    key = key + bytes(_BLOCK - len(key))
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in key))
    inner.update(message)
    outer = hashlib.sha256(bytes(b ^ 0x5C for b in key))
    outer.update(inner.digest())
    return outer.digest()


def equal(a, b):
    """Whether two byte strings are the same, in a time that tells only their lengths."""
    if len(a) != len(b):
        return False
    difference = 0
    for i in range(len(a)):
        difference |= a[i] ^ b[i]
    return difference == 0


def derive(secret, purpose):
    """The key for one purpose ("command 1", "mqtt 1", "portal 1") from the device's secret."""
    return hmac_sha256(secret, purpose.encode())


def mqtt_password(secret):
    """The broker's password of this device: 32 hex digits."""
    return binascii.hexlify(derive(secret, "mqtt 1")[:16]).decode()


def portal_password(secret):
    """The password of the set-up portal: 12 characters a-z, 2-7."""
    number = int.from_bytes(derive(secret, "portal 1")[:8], "big") >> 4
    return "".join(
        "abcdefghijklmnopqrstuvwxyz234567"[number >> 5 * i & 31] for i in range(11, -1, -1)
    )


class Seal:
    """Opens this device's commands for one boot: each sequence once, in this session only."""

    def __init__(self, secret, device_id, session):
        self._key = derive(secret, "command 1")
        self.device_id = device_id
        self.session = session
        self.last_seq = 0
        self.forged = 0  # messages with a wrong seal since the boot

    def open(self, message, retained, now_s):
        """The body of a command that may be carried out. `now_s` is wall time, 0 while unset.

        Raises RefusedError: BAD_FORM, BAD_SEAL, NOT_MINE, WRONG_SESSION, REPLAYED, CLOCK_UNSET,
        EXPIRED. The last two use up the command's sequence, as success does.
        """
        body = self._unsealed(message, retained)
        if body["device"] != self.device_id:
            raise RefusedError("NOT_MINE", body)
        if body["session"] != self.session:
            raise RefusedError("WRONG_SESSION", body)
        if body["seq"] <= self.last_seq:
            raise RefusedError("REPLAYED", body)
        self.last_seq = body["seq"]
        if body["expires"] and body["type"] != "time":
            if not now_s:
                raise RefusedError("CLOCK_UNSET", body)
            if now_s >= body["expires"]:
                raise RefusedError("EXPIRED", body)
        return body

    def _unsealed(self, message, retained):
        if retained or len(message) > MOST_BYTES:
            raise RefusedError("BAD_FORM")
        if message.count(b"[") + message.count(b"{") > MOST_BRACKETS:
            raise RefusedError("BAD_FORM")
        envelope = _object(message)
        text, mac = envelope.get("body"), envelope.get("mac")
        if not isinstance(text, str) or not isinstance(mac, str):
            raise RefusedError("BAD_FORM")
        try:
            text, mac = text.encode(), mac.encode()
        except ValueError:  # half a surrogate pair is a str, but not UTF-8
            raise RefusedError("BAD_FORM") from None
        if not equal(binascii.hexlify(hmac_sha256(self._key, text)), mac):
            self.forged += 1
            raise RefusedError("BAD_SEAL")
        body = _object(text)
        for key, kind in _FIELDS:
            if type(body.get(key)) is not kind:
                raise RefusedError("BAD_FORM", body if type(body.get("id")) is str else None)
        return body


_FIELDS = (
    ("device", str),
    ("session", str),
    ("seq", int),
    ("id", str),
    ("type", str),
    ("expires", int),
    ("args", dict),
)


def _object(text):
    """A JSON object. Raises RefusedError(BAD_FORM); endless nesting too is no more than that."""
    try:
        found = json.loads(text)
    except (ValueError, RuntimeError):
        raise RefusedError("BAD_FORM") from None
    if not isinstance(found, dict):
        raise RefusedError("BAD_FORM")
    return found
