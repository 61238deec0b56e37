"""Who may log in at the broker: the gateway, the site's nodes, and those that a person added."""

import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from gateway.app.broker.mosquitto import (
    GATEWAY_USER,
    ROUNDS_CHOSEN,
    ROUNDS_DERIVED,
    SALT_BYTES,
    password_hash,
)
from gateway.core.errors import RefusedError
from gateway.core.node_message import DEVICE_ID
from gateway.core.sealing import device_secret, mqtt_password
from gateway.store.devices import DeviceRecord, DeviceStatus

PASSWORD_LEAST: Final = 12
PASSWORD_MOST: Final = 128


@dataclass(frozen=True, slots=True)
class Added:
    """A user that a person added; `hashed` is None for a node of ours (derived)."""

    name: str
    hashed: str | None


def added_user(name: str, password: str | None) -> Added:
    """A user to be added. Raises RefusedError BROKER_USER (its name or password will not do)."""
    if not DEVICE_ID.fullmatch(name) or name == GATEWAY_USER:
        raise RefusedError(
            "BROKER_USER",
            f"{name!r} is no device id: 2 to 32 small letters, digits and hyphens, no hyphen "
            f"first, not {GATEWAY_USER}",
        )
    if password is None:
        return Added(name, None)
    if not PASSWORD_LEAST <= len(password) <= PASSWORD_MOST:
        raise RefusedError(
            "BROKER_USER", f"a password has {PASSWORD_LEAST} to {PASSWORD_MOST} characters"
        )
    return Added(name, password_hash(password, secrets.token_bytes(SALT_BYTES), ROUNDS_CHOSEN))


def parse_added(text: str) -> dict[str, Added]:
    """The file of added users by name. Raises RefusedError BROKER_USER."""
    found: dict[str, Added] = {}
    for line in text.splitlines():
        name, separator, hashed = line.partition(":")
        if not DEVICE_ID.fullmatch(name) or (separator and not hashed.startswith("$7$")):
            raise RefusedError("BROKER_USER", f"added: {line[:40]!r} is no line of this file")
        found[name] = Added(name, hashed or None)
    return found


def show_added(users: Iterable[Added]) -> bytes:
    """The file of added users: a name a line, or name and hash of the password."""
    lines = [one.name if one.hashed is None else f"{one.name}:{one.hashed}" for one in users]
    return "".join(f"{line}\n" for line in sorted(lines)).encode()


def gateway_password(site_key: bytes) -> str:
    """The password of the gateway itself: 32 hex digits."""
    return _derived(site_key, "gateway mqtt 1")[:16].hex()


def own_nodes(
    configured: Iterable[str], records: Mapping[str, DeviceRecord], added: Mapping[str, Added]
) -> dict[str, int]:
    """Generation by device: named in the file, on record, or added; refused ones are left out."""
    names = {name for name in configured if DEVICE_ID.fullmatch(name)} | set(records) | set(added)
    return {
        name: record.generation if record else 1
        for name in sorted(names - {GATEWAY_USER})
        if (record := records.get(name)) is None or record.status is not DeviceStatus.REFUSED
    }


def password_file(site_key: bytes, nodes: Mapping[str, int], added: Mapping[str, Added]) -> bytes:
    """The password file. The same users have the same bytes: salts are derived too."""
    lines = [f"{GATEWAY_USER}:{_own(site_key, GATEWAY_USER, 1, gateway_password(site_key))}"]
    for name, generation in nodes.items():
        other = added.get(name)
        hashed = other.hashed if other is not None else None
        if hashed is None:
            password = mqtt_password(device_secret(site_key, name, generation))
            hashed = _own(site_key, name, generation, password)
        lines.append(f"{name}:{hashed}")
    return "".join(f"{line}\n" for line in lines).encode()


def _own(site_key: bytes, name: str, generation: int, password: str) -> str:
    salt = _derived(site_key, f"salt 1\n{name}\n{generation}")[:SALT_BYTES]
    return password_hash(password, salt, ROUNDS_DERIVED)


def _derived(site_key: bytes, purpose: str) -> bytes:
    return hmac.digest(site_key, f"prepaid-broker 1\n{purpose}".encode(), sha256)
