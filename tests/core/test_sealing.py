"""Keys of devices and the seal of commands, against figures of RFC 4231 and plain hashlib."""

import hashlib
import hmac
import json

import pytest

from gateway.core.sealing import (
    Command,
    command_key,
    device_secret,
    mqtt_password,
    portal_password,
    seal,
)

SITE_KEY = bytes(range(32))


def test_a_secret_is_of_one_device_and_one_generation() -> None:
    """A new generation revokes the old one; no two devices share a secret."""
    secrets = {device_secret(SITE_KEY, name, n) for name in ("node-1", "node-2") for n in (1, 2)}
    assert len(secrets) == 4
    expected = hmac.new(SITE_KEY, b"prepaid-node 1\nnode-1\n2", hashlib.sha256).digest()
    assert device_secret(SITE_KEY, "node-1", 2) == expected
    with pytest.raises(ValueError, match="generations"):
        device_secret(SITE_KEY, "node-1", 0)
    with pytest.raises(ValueError, match="32 bytes"):
        device_secret(b"short", "node-1", 1)


def test_passwords_have_their_forms_and_tell_nothing_of_the_command_key() -> None:
    """32 hex digits for the broker, 12 letters and digits for the portal."""
    secret = device_secret(SITE_KEY, "node-1", 1)
    assert len(bytes.fromhex(mqtt_password(secret))) == 16
    assert len(portal_password(secret)) == 12
    assert set(portal_password(secret)) <= set("abcdefghijklmnopqrstuvwxyz234567")
    assert mqtt_password(secret) not in command_key(secret).hex()


def test_a_sealed_command_carries_its_body_and_its_mac() -> None:
    """The MAC is over the very bytes of the body."""
    command = Command("node-1", "a" * 16, 7, "01J", "relay", 1_800_000_000, {"closed": False})
    envelope = json.loads(seal(b"k" * 32, command))
    assert (
        envelope["mac"]
        == hmac.new(b"k" * 32, envelope["body"].encode(), hashlib.sha256).hexdigest()
    )
    assert json.loads(envelope["body"]) == {
        "device": "node-1",
        "session": "a" * 16,
        "seq": 7,
        "id": "01J",
        "type": "relay",
        "expires": 1_800_000_000,
        "args": {"closed": False},
    }


def test_a_command_larger_than_nodes_take_is_refused_here() -> None:
    """Not sent to be refused there."""
    with pytest.raises(ValueError, match="bytes"):
        seal(b"k" * 32, Command("n-1", "a" * 16, 1, "i", "settings", 0, {"x": "y" * 2_100}))
    with pytest.raises(ValueError, match="brackets"):
        seal(b"k" * 32, Command("n-1", "a" * 16, 1, "i", "settings", 0, {"x": [[]] * 300}))
