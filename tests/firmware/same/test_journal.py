"""Events that matter outlive resets and power cuts until the broker has them, each once."""

import json

from node.journal import MOST_AN_HOUR, RECORD_BYTES, SLOTS, Journal
from tests.firmware.same.memory import CutError, MemoryBoard
from tests.firmware.same.test_telemetry import SmallNode

PATH = "/data/events"


def opened(board):
    """A journal on a board, and what it found."""
    journal = Journal(board, PATH)
    return journal, journal.open()


def told(node):
    """What waits is sent, one after the other, as the link does it."""
    found = []
    waiting = node.events.oldest()
    while waiting:
        found.append(json.loads(waiting[1]))
        node.events.sent(waiting[0])
        waiting = node.events.oldest()
    return found


def node_on(board, session):
    """A node's next boot on what a board has kept."""
    node = SmallNode()
    node.session = session
    node.board.nvs, node.board.files.contents = board.nvs, board.files.contents
    node.events.keep_in(Journal(node.board, PATH))
    return node


def test_what_was_not_taken_is_found_again_in_order():
    """With every field, at every fill of the ring, twice around; the oldest go first."""
    board = MemoryBoard()
    journal, found = opened(board)
    assert found == []
    for number in range(1, 3 * SLOTS):
        assert journal.keep({"kind": "trip", "seq": number}, number * 3_600) == number
        _, found = opened(board)
        first = max(1, number - SLOTS + 1)
        assert found == [(n, {"kind": "trip", "seq": n}) for n in range(first, number + 1)]


def test_what_the_broker_has_is_not_found_again():
    """Its number lasts, and numbers go on behind it, also where the ring was lost."""
    board = MemoryBoard()
    journal, _ = opened(board)
    for _ in range(3):
        journal.keep({"kind": "trip"}, 0)
    journal.taken(2)
    journal, found = opened(board)
    assert [number for number, _ in found] == [3]
    journal.taken(3)
    journal.taken(1)
    board.files.contents = {}
    journal, found = opened(board)
    assert found == []
    assert journal.keep({"kind": "trip"}, 0) == 4


def test_a_cut_at_every_write_loses_no_event_that_was_kept():
    """What `keep` returned is there; nothing comes twice, nothing torn is believed."""
    for writes in range(40):
        board = MemoryBoard()
        journal, _ = opened(board)
        board.writes_left = writes
        kept, asked, taken = [], 0, 0
        try:
            for seq in range(20):
                number = journal.keep({"kind": "trip", "seq": seq}, 0)
                kept.append(number)
                if seq % 4 == 3:
                    asked = number
                    journal.taken(number)
                    taken = number
        except CutError:
            pass
        board = board.after_power_loss()
        _, found = opened(board)
        numbers = [number for number, _ in found]
        assert numbers == sorted(set(numbers))
        lowest = kept[-1] - SLOTS + 2 if kept else 0  # the one being written had its place
        for number in kept:
            # A mark under way may have lasted, one that returned has.
            assert number in numbers or number <= max(asked, lowest - 1)
        assert [n for n in numbers if n <= taken] == []
        for number, event in found:
            assert event == {"kind": "trip", "seq": number - 1}


def test_damage_and_noise_are_no_events():
    """Any changed byte, an event in another's place, text that is no JSON."""
    board = MemoryBoard()
    journal, _ = opened(board)
    journal.keep({"kind": "trip"}, 0)
    good = board.files.contents[PATH]
    for place in range(RECORD_BYTES, RECORD_BYTES + 40):
        spoilt = bytearray(good)
        spoilt[place] ^= 0x10
        board.files.contents[PATH] = bytes(spoilt)
        assert opened(board)[1] == []
    record = good[RECORD_BYTES : 2 * RECORD_BYTES]
    board.files.contents[PATH] = record + good[RECORD_BYTES:]
    assert len(opened(board)[1]) == 1
    board.files.contents[PATH] = b"\x00" * SLOTS * RECORD_BYTES
    assert opened(board)[1] == []


def test_the_flash_is_spared():
    """So many an hour, none that is too long, none after a flash that refused the ring."""
    board = MemoryBoard()
    journal, _ = opened(board)
    for place in range(MOST_AN_HOUR + 5):
        assert (journal.keep({}, 10) is not None) == (place < MOST_AN_HOUR)
    assert journal.keep({}, 3_600) is not None
    assert journal.keep({"message": "x" * RECORD_BYTES}, 7_200) is None
    board.files.full = True
    assert journal.keep({}, 7_200) is not None  # the ring has its room
    full = MemoryBoard()
    full.files.full = True
    node = node_on(full, "00")
    node.events.add("trip")
    assert [event["kind"] for event in told(node)] == ["trip"]


def test_events_come_after_a_power_cut_as_they_were():
    """With the boot, session and number they had, before those of this boot; each once."""
    board = MemoryBoard()
    first = node_on(board, "11")
    first.events.add("boot")
    first.events.add("trip", reason="overload")
    first.events.add("button")
    first.events.add("lease_reached", cutoff_wh=5)
    second = node_on(board, "22")
    second.boot_id = 4
    second.events.add("boot")
    second.events.add("trip", reason="voltage")
    found = told(second)
    assert [(e["kind"], e["session"], e["boot_id"], e["seq"]) for e in found] == [
        ("trip", "11", 3, 2),
        ("lease_reached", "11", 3, 4),
        ("boot", "22", 4, 1),
        ("trip", "22", 4, 2),
    ]
    assert found[0]["reason"] == "overload"
    assert "kept" not in found[0]
    assert told(node_on(board, "33")) == []


def test_a_crowd_of_others_pushes_out_no_event_that_matters():
    """The oldest of the others goes; with kept ones alone the oldest of those."""
    node = node_on(MemoryBoard(), "11")
    node.events.add("trip")
    for _ in range(40):
        node.events.add("button")
    assert node.events.lost == 9
    assert node.events.oldest()[0]["kind"] == "trip"


def test_a_minute_has_no_more_events_than_the_gateway_takes():
    """15 at once, then what a minute allows; the pieces of an update have their own pace."""
    node = node_on(MemoryBoard(), "11")
    for _ in range(32):
        node.events.add("button")
    assert len(told(node)) == 15
    node.board.pass_s(59)
    assert told(node) == []
    node.board.pass_s(1)
    assert len(told(node)) == 15
    while node.events.oldest() is None:
        node.board.pass_s(1)
    node = node_on(MemoryBoard(), "22")
    for _ in range(32):
        node.events.add("update_want")
    assert len(told(node)) == 32
