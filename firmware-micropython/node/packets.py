"""MQTT 3.1.1 packets as a client sends and reads them. Pure.

Sections in brackets are those of the OASIS standard.
"""

import struct

from node.port import const

CONNECT = const(1)
CONNACK = const(2)
PUBLISH = const(3)
PUBACK = const(4)
SUBSCRIBE = const(8)
SUBACK = const(9)
PINGREQ = const(12)
PINGRESP = const(13)
DISCONNECT = const(14)

PING = b"\xc0\x00"
GOODBYE = b"\xe0\x00"
_SUBSCRIBE_REFUSED = const(0x80)

# What a broker says to CONNECT [3.2.2.3].
REFUSALS = ("", "protocol", "client id", "unavailable", "user or password", "not authorised")


class PacketError(Exception):
    """Bytes that no broker may send to a client."""


def text(value):
    """A string with its length before it [1.5.3]."""
    encoded = value.encode()
    return struct.pack(">H", len(encoded)) + encoded


def packet(kind, flags, body):
    """A packet with its fixed header [2.2]."""
    header = bytearray((kind << 4 | flags,))
    length = len(body)
    while True:
        header.append(length & 127 | (128 if length > 127 else 0))
        length >>= 7
        if not length:
            return bytes(header) + body


def connect(client_id, user, password, keepalive_s, will):
    """CONNECT with a clean session [3.1]; `will`: (topic, payload, retain), QoS 1, or None."""
    flags = 0x02
    body = text(client_id)
    if will:
        topic, payload, retain = will
        flags |= 0x0C | (0x20 if retain else 0)
        body += text(topic) + struct.pack(">H", len(payload)) + payload
    if user is not None:
        flags |= 0xC0
        body += text(user) + text(password)
    return packet(CONNECT, 0, b"\x00\x04MQTT\x04" + struct.pack(">BH", flags, keepalive_s) + body)


def publish(topic, payload, qos, retain, packet_id):
    """PUBLISH with QoS 0 or 1 [3.3]; payload in bytes."""
    number = struct.pack(">H", packet_id) if qos else b""
    return packet(PUBLISH, qos << 1 | (1 if retain else 0), text(topic) + number + payload)


def puback(packet_id):
    """PUBACK [3.4]."""
    return packet(PUBACK, 0, struct.pack(">H", packet_id))


def subscribe(packet_id, topic):
    """SUBSCRIBE to one filter with QoS 1 [3.8]."""
    return packet(SUBSCRIBE, 2, struct.pack(">H", packet_id) + text(topic) + b"\x01")


def read_length(digits):
    """The remaining length from its bytes so far, None while more must follow [2.2.3].

    Raises PacketError for a fifth byte.
    """
    if len(digits) > 4:
        raise PacketError("length of five bytes")
    if digits[-1] & 128:
        return None
    length = 0
    for i in range(len(digits) - 1, -1, -1):
        length = length << 7 | digits[i] & 127
    return length


def read_connack(body):
    """None when the broker lets the client in, else why not. Raises PacketError."""
    if len(body) != 2:
        raise PacketError("CONNACK")
    if not body[1]:
        return None
    return REFUSALS[body[1]] if body[1] < len(REFUSALS) else f"code {body[1]}"


def read_ack(body):
    """The packet id of a PUBACK or SUBACK, and whether it is a success. Raises PacketError."""
    if len(body) not in (2, 3):
        raise PacketError("acknowledgement")
    return body[0] << 8 | body[1], len(body) == 2 or body[2] != _SUBSCRIBE_REFUSED


def read_publish(flags, body):
    """(topic, payload, packet id or 0, retained) of a PUBLISH. Raises PacketError."""
    qos = flags >> 1 & 3
    if qos > 1:
        raise PacketError("QoS that nobody subscribed")
    if len(body) < 2:
        raise PacketError("PUBLISH")
    end = 2 + (body[0] << 8 | body[1])
    start = end + 2 * qos
    if start > len(body):
        raise PacketError("PUBLISH")
    try:
        topic = bytes(body[2:end]).decode()
    except ValueError:
        raise PacketError("topic is not UTF-8") from None
    packet_id = body[end] << 8 | body[end + 1] if qos else 0
    if qos and not packet_id:
        raise PacketError("packet id 0")
    return topic, bytes(body[start:]), packet_id, bool(flags & 1)
