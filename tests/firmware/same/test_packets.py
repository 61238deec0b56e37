"""MQTT packets: bytes of the standard, and what no broker may send."""

from node import packets
from tests.firmware.same.tools import refused


def test_packets_are_the_standards_bytes():
    """Worked out by hand from its figures."""
    hello = packets.connect("ab", "u", "pw", 60, ("t", b"gone", True))
    assert hello.hex() == (
        "101e" + "00044d51545404" + "ee" + "003c" + "00026162" + "000174" + "0004676f6e65"
        "000175" + "00027077"
    )  # fmt: skip
    assert packets.connect("ab", None, None, 60, None).hex() == ("100e00044d5154540402003c00026162")
    assert packets.publish("a/b", b"hi", 1, False, 10).hex() == "32090003612f62000a6869"
    assert packets.publish("a/b", b"", 0, True, 0).hex() == "31050003612f62"
    assert packets.puback(10).hex() == "4002000a"
    assert packets.subscribe(11, "a/b").hex() == "8208000b0003612f6201"


def test_lengths_at_the_edges_of_their_digits():
    """The standard's table of remaining lengths."""
    for length, digits in (
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (16_383, "ff7f"),
        (16_384, "808001"),
        (2_097_151, "ffff7f"),
    ):
        sent = packets.packet(packets.PUBLISH, 0, bytes(length))
        end = len(sent) - length
        assert sent[1:end].hex() == digits
        assert packets.read_length(sent[1:end]) == length
        assert end == 2 or packets.read_length(sent[1 : end - 1]) is None
    refused(packets.PacketError, packets.read_length, b"\xff\xff\xff\xff\x7f")


def test_acknowledgements():
    """CONNACK by its codes, PUBACK and SUBACK by their id."""
    assert packets.read_connack(b"\x00\x00") is None
    assert packets.read_connack(b"\x00\x04") == "user or password"
    assert packets.read_connack(b"\x00\x09") == "code 9"
    refused(packets.PacketError, packets.read_connack, b"\x00")
    assert packets.read_ack(b"\x01\x02") == (258, True)
    assert packets.read_ack(b"\x01\x02\x01") == (258, True)
    assert packets.read_ack(b"\x01\x02\x80") == (258, False)
    refused(packets.PacketError, packets.read_ack, b"\x01")


def test_what_is_no_publish_is_refused():
    """Each would otherwise be read as something else."""
    for flags, body in (
        (4, b"\x00\x01t\x00\x01"),  # QoS 2
        (6, b"\x00\x01t\x00\x01"),  # QoS 3
        (0, b""),
        (0, b"\x00"),
        (0, b"\x00\x05topi"),
        (2, b"\x00\x01t\x00"),
        (2, b"\x00\x01t\x00\x00"),  # packet id 0
    ):
        refused(packets.PacketError, packets.read_publish, flags, body)
    assert packets.read_publish(0, b"\x00\x01t") == ("t", b"", 0, False)
    assert packets.read_publish(3, b"\x00\x01t\x01\x02x") == ("t", b"x", 258, True)
