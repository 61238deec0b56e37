"""The relay: closed exactly while no reason stands, kept through resets and power losses."""

from node.relay import Relay
from tests.firmware.same.memory import MemoryBoard
from tests.firmware.same.tools import refused


def closed_relay():
    """A relay that was ordered to close."""
    board = MemoryBoard()
    relay = Relay(board)
    relay.clear("command")
    assert board.pin
    return board, relay


def test_a_new_node_stays_as_its_pin_shows():
    """Open is kept open until a command; closed is left closed."""
    board = MemoryBoard()
    relay = Relay(board)
    assert relay.reasons == ["command"]
    assert not board.pin
    board = MemoryBoard()
    board.pin = True
    assert Relay(board).reasons == []
    assert board.moves == 0


def test_it_closes_when_the_last_reason_goes():
    """Two reasons: the first that goes moves nothing."""
    board, relay = closed_relay()
    assert relay.add("lease")
    assert not board.pin
    assert relay.add("overload")
    assert not relay.add("lease")
    assert relay.clear("lease")
    assert not board.pin
    assert relay.reasons == ["overload"]
    assert not relay.clear("lease")
    relay.clear("overload", "lease")
    assert board.pin
    assert board.moves == 3


def test_reasons_survive_what_takes_the_rest():
    """NVS alone after a power loss; RTC memory alone when NVS is empty."""
    board, relay = closed_relay()
    relay.add("voltage")
    assert Relay(board.after_power_loss()).reasons == ["voltage"]
    board = board.after_reset()
    board.nvs = {}
    assert Relay(board).reasons == ["voltage"]
    assert board.nvs["relay"] == b"\x00"


def test_a_damaged_record_is_no_record():
    """The good copy wins; without any the pin tells."""
    board, relay = closed_relay()
    relay.add("lease")
    for place in range(len(board.rtc)):
        again = board.after_reset()
        spoilt = bytearray(again.rtc)
        spoilt[place] ^= 1
        again.rtc = bytes(spoilt)
        assert Relay(again).reasons == ["lease"]
        assert again.rtc[:6] == board.rtc[:6]
    again.nvs, again.rtc = {}, b"\xff" * 20
    assert Relay(again).reasons == ["command"]


def test_what_others_keep_in_rtc_memory_stays():
    """Its own record is the first 6 bytes."""
    board, relay = closed_relay()
    board.rtc_set(board.rtc + b"others")
    relay.add("lease")
    assert board.rtc[6:] == b"others"


def test_broken_nvs_opens_but_never_closes():
    """An opening is for safety and credit; a closing must be able to last."""
    board, relay = closed_relay()
    board.nvs_broken = True
    assert relay.add("lease")
    assert relay.unrecorded
    assert not board.pin
    assert Relay(board.after_reset()).reasons == ["lease"]
    refused(OSError, relay.clear, "lease")
    assert relay.reasons == ["lease"]
    assert not board.pin
    assert Relay(board.after_reset()).reasons == ["lease"]
    board.nvs_broken = False
    assert relay.clear("lease")
    assert not relay.unrecorded
    assert board.pin


def test_a_pin_that_does_not_follow_is_told():
    """And tried again with every refresh."""
    board, relay = closed_relay()
    board.pin_stuck = True
    relay.add("command")
    assert relay.failed
    board.pin_stuck = False
    relay.refresh()
    assert not relay.failed
    assert not board.pin
