"""Keys of nodes, and the seal of a command: HMAC-SHA256 (RFC 2104) over the body's bytes.

The site's node key never leaves the gateway; a device has its own secret, and from that one key
for each purpose. A new generation of a device's secret revokes the one before.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

NODE_KEY_BYTES: Final = 32
COMMAND_BYTES_MAX: Final = 2_048
# Lists and objects in it: each costs the node memory.
COMMAND_BRACKETS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Command:
    """A command to a node. `expires_s` is wall seconds, 0: never; `args` are JSON values."""

    device: str
    session: str
    seq: int
    command_id: str
    type: str
    expires_s: int
    args: Mapping[str, object]


def device_secret(site_key: bytes, device_id: str, generation: int) -> bytes:
    """The 32-byte secret of a device's `generation` (from 1). Raises ValueError."""
    if len(site_key) != NODE_KEY_BYTES or generation < 1:
        raise ValueError("a node key has 32 bytes, and generations count from 1")
    return _hmac(site_key, f"prepaid-node 1\n{device_id}\n{generation}")


def command_key(secret: bytes) -> bytes:
    """What seals commands to this device."""
    return _hmac(secret, "command 1")


def mqtt_password(secret: bytes) -> str:
    """The broker's password of this device: 32 hex digits."""
    return _hmac(secret, "mqtt 1")[:16].hex()


def portal_password(secret: bytes) -> str:
    """The password of the set-up portal: 12 characters a-z, 2-7."""
    return base64.b32encode(_hmac(secret, "portal 1"))[:12].decode().lower()


def seal(key: bytes, command: Command) -> bytes:
    """The message that carries a command. Raises ValueError when it is larger than nodes take."""
    body = json.dumps(
        {
            "device": command.device,
            "session": command.session,
            "seq": command.seq,
            "id": command.command_id,
            "type": command.type,
            "expires": command.expires_s,
            "args": dict(command.args),
        },
        separators=(",", ":"),
        allow_nan=False,
    )
    mac = hmac.new(key, body.encode(), hashlib.sha256).hexdigest()
    message = json.dumps({"body": body, "mac": mac}, separators=(",", ":")).encode()
    if len(message) > COMMAND_BYTES_MAX:
        raise ValueError(f"a command of {len(message)} bytes, at most {COMMAND_BYTES_MAX}")
    brackets = message.count(b"[") + message.count(b"{")
    if brackets > COMMAND_BRACKETS_MAX:
        raise ValueError(f"a command of {brackets} brackets, at most {COMMAND_BRACKETS_MAX}")
    return message


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
