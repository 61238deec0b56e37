"""The portal's name server: every name is the portal, so that a phone opens the page by itself.

Pure. Sections in brackets are those of RFC 1035. What is no plain question gets no answer.
"""

import struct

from node.port import const

PORT = const(53)
_HEAD = const(12)
_MOST = const(512)
_MOST_NAME = const(255)
_MOST_LABEL = const(63)
_A = const(1)
_ANY = const(255)
_IN = const(1)
_TTL_S = const(10)  # a phone that has left finds the real one again
_NAME_AT = const(0xC00C)  # the question's own name [4.1.4]


def answer(message, address):
    """The answer to a datagram, an IPv4 address in dotted form for every name; None: none is due.

    A question for anything else than an address is answered with nothing, and not with an error:
    phones ask for IPv6 too, and wait for both.
    """
    if not _HEAD + 5 <= len(message) <= _MOST:
        return None
    number, flags, questions, answers = struct.unpack_from(">HHHH", message)
    # A query, of the standard kind, with one question [4.1.1].
    if flags & 0xF800 or questions != 1 or answers:
        return None
    end = _name_end(message)
    if end is None or end + 4 > len(message):
        return None
    kind, group = struct.unpack_from(">HH", message, end)
    if group not in (_IN, _ANY):
        return None
    found = kind in (_A, _ANY)
    head = struct.pack(">HHHHHH", number, 0x8400 | flags & 0x0100, 1, 1 if found else 0, 0, 0)
    record = b""
    if found:
        numbers = bytes(int(part) for part in address.split("."))
        record = struct.pack(">HHHIH", _NAME_AT, _A, _IN, _TTL_S, 4) + numbers
    return head + bytes(message[_HEAD : end + 4]) + record


def _name_end(message):
    """Where the question's name ends; None for a broken one, or one that points elsewhere."""
    place = _HEAD
    while place < len(message):
        length = message[place]
        place += 1
        if not length:
            return place
        if length > _MOST_LABEL:
            return None
        place += length
        if place - _HEAD >= _MOST_NAME:
            return None
    return None
