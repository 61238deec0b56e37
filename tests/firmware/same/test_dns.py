"""The portal's name server: what it answers, and that hostile datagrams get nothing."""

import struct

from node import dns

ADDRESS = "192.168.4.1"
NAME = b"\x07captive\x05apple\x03com\x00"
A, AAAA, HTTPS, ANY = 1, 28, 65, 255


def question(name=NAME, kind=A, group=1, flags=0x0100, counts=(1, 0, 0, 0)):
    """A query as phones send it."""
    return struct.pack(">HHHHHH", 0x1234, flags, *counts) + name + struct.pack(">HH", kind, group)


def test_every_name_is_the_portal():
    """Number and wish for recursion come back, the question too, then one address."""
    for name in (NAME, b"\x01a\x00", b"\x00", b"\x03WWW\x03\xff\x00\x20\x00"):
        for kind in (A, ANY):
            asked = question(name, kind)
            told = dns.answer(asked, ADDRESS)
            assert struct.unpack_from(">HHHHHH", told) == (0x1234, 0x8500, 1, 1, 0, 0)
            assert told[12 : 12 + len(name) + 4] == asked[12:]
            record = told[12 + len(name) + 4 :]
            assert struct.unpack_from(">HHHIH", record) == (0xC00C, A, 1, 10, 4)
            assert tuple(record[12:]) == (192, 168, 4, 1)
    assert dns.answer(question(flags=0), ADDRESS)[2:4] == b"\x84\x00"


def test_other_kinds_have_no_answer_and_no_error():
    """So that a phone which asks for IPv6 and more takes the address at once."""
    for kind in (AAAA, HTTPS, 16, 0, 0xFFFF):
        told = dns.answer(question(kind=kind), ADDRESS)
        assert struct.unpack_from(">HHHHHH", told) == (0x1234, 0x8500, 1, 0, 0, 0)
        assert len(told) == 12 + len(NAME) + 4


def test_what_a_phone_adds_is_not_sent_back():
    """EDNS, behind the question, is no part of the answer."""
    asked = question(counts=(1, 0, 0, 1)) + b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00"
    told = dns.answer(asked, ADDRESS)
    assert struct.unpack_from(">HHHHHH", told) == (0x1234, 0x8500, 1, 1, 0, 0)
    assert len(told) == 12 + len(NAME) + 4 + 16


def test_answers_to_answers_and_strange_queries_are_never_sent():
    """Answers, other operations, no or two questions, another class."""
    assert dns.answer(question(flags=0x8180), ADDRESS) is None
    for operation in range(1, 16):
        assert dns.answer(question(flags=operation << 11), ADDRESS) is None
    for counts in ((0, 0, 0, 0), (2, 0, 0, 0), (1, 1, 0, 0), (0xFFFF, 0, 0, 0)):
        assert dns.answer(question(counts=counts), ADDRESS) is None
    assert dns.answer(question(group=3), ADDRESS) is None


def test_broken_names_are_not_followed():
    """Pointers, also to themselves, labels too long, names too long, and cut anywhere."""
    for name in (b"\xc0\x0c", b"\x01a\xc0\x0c", b"\x40" + b"a" * 64 + b"\x00", b"\x80\x00"):
        assert dns.answer(question(name), ADDRESS) is None
    longest = b"\x3f" + b"a" * 63
    assert dns.answer(question(longest * 3 + b"\x3d" + b"a" * 61 + b"\x00"), ADDRESS)
    assert dns.answer(question(longest * 3 + b"\x3e" + b"a" * 62 + b"\x00"), ADDRESS) is None
    assert dns.answer(question(longest * 7 + b"\x00"), ADDRESS) is None
    whole = question()
    for end in range(len(whole)):
        assert dns.answer(whole[:end], ADDRESS) is None
    assert dns.answer(whole + bytes(512), ADDRESS) is None


def test_any_changed_bit_breaks_nothing():
    """An answer or none, never longer than twice the question and a record."""
    whole = bytearray(question())
    for place in range(len(whole)):
        for bit in range(8):
            whole[place] ^= 1 << bit
            told = dns.answer(bytes(whole), ADDRESS)
            assert told is None or len(told) <= len(whole) + 16
            whole[place] ^= 1 << bit
