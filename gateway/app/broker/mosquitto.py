"""What mosquitto reads: its configuration, the access list, lines of the password file.

Checked with mosquitto 2.0.11 (Debian 12). All of it is a pure function of its arguments.
"""

import hashlib
from base64 import b64encode
from pathlib import Path
from typing import Final

GATEWAY_USER: Final = "gateway"
NODE_SAYS: Final = ("telemetry", "backlog", "event", "result", "status")
NODE_HEARS: Final = ("command", "firmware")
# A payload of 8 KiB, its topic, and the packet's own bytes.
PACKET_BYTES_MAX: Final = 8_448
# 2,000 nodes, the gateway, and who is just coming again while the old connection still stands.
CONNECTIONS_MAX: Final = 2_500
INFLIGHT_MAX: Final = 20
# For the gateway, while it starts again: some seconds of the largest site.
QUEUED_MAX: Final = 2_000
SALT_BYTES: Final = 12
# Derived passwords are 128 random bits; one that a person chose has to be slow to try. The broker
# hashes in its only thread: 10,000 rounds hold it up for 10 ms.
ROUNDS_DERIVED: Final = 101
ROUNDS_CHOSEN: Final = 10_000

_CONFIGURATION: Final = """\
# Written by prepaid-gateway broker write; changes here are lost.
# A change of this file needs a restart of mosquitto, of every other file beside it a reload.

per_listener_settings false
allow_anonymous false
password_file {directory}/passwords
acl_file {directory}/acl

# Nothing on disk: nodes keep what was not acknowledged, and tell their status when they come again;
# a command that the broker kept would be of a session that has ended.
persistence false
queue_qos0_messages false

# A node that floods is dropped, one that sleeps costs little, and none of it grows without end.
max_packet_size {packet}
max_inflight_messages {inflight}
max_queued_messages {queued}
max_keepalive 600

listener {port}
protocol mqtt
certfile {cert}
keyfile {key}
tls_version tlsv1.2
max_connections {connections}
# Nobody takes another's connection away by calling himself like him.
use_username_as_clientid true
"""
_PLAIN: Final = """
listener {port} 127.0.0.1
protocol mqtt
max_connections 16
use_username_as_clientid true
"""


def configuration(
    directory: Path, port: int, plain_port: int | None, cert: Path, key: Path
) -> bytes:
    """The configuration; `directory` holds the other files. Paths are absolute."""
    text = _CONFIGURATION.format(
        directory=directory,
        packet=PACKET_BYTES_MAX,
        inflight=INFLIGHT_MAX,
        queued=QUEUED_MAX,
        port=port,
        cert=cert,
        key=key,
        connections=CONNECTIONS_MAX,
    )
    if plain_port is not None:
        text += _PLAIN.format(port=plain_port)
    return text.encode()


def access_list() -> bytes:
    """Each node speaks and hears under its own name only; `gateway` is the other end of all."""
    lines = [f"user {GATEWAY_USER}"]
    lines += [f"topic read smartmeter/+/{kind}" for kind in NODE_SAYS]
    lines += [f"topic write smartmeter/+/{kind}" for kind in NODE_HEARS]
    lines.append("")
    lines += [f"pattern write smartmeter/%u/{kind}" for kind in NODE_SAYS]
    lines += [f"pattern read smartmeter/%u/{kind}" for kind in NODE_HEARS]
    return "".join(f"{line}\n" for line in lines).encode()


def password_hash(password: str, salt: bytes, rounds: int) -> str:
    """Mosquitto's own form of a password: PBKDF2 with SHA-512, 64 bytes."""
    found = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds)
    return f"$7${rounds}${b64encode(salt).decode()}${b64encode(found).decode()}"
