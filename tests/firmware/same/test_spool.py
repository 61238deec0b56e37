"""Records and their ring: what comes out, what is lost when, and what a start finds."""

from node import records
from node.spool import Spool
from tests.firmware.same.memory import MemoryBoard
from tests.firmware.same.tools import refused

FIELDS = [0, 17, 1_764_000_000, 900, 12_345, 2_298, 1_234, 2_834, 98, 7]


def spool_of(files, board=None):
    """A spool of so many files on a board, opened."""
    board = board or MemoryBoard()
    spool = Spool(board.files, "/s", files)
    spool.open(lambda: None)
    return board, spool


def test_a_record_is_32_bytes():
    """Quarters of an hour of 90 days are 276,480 bytes; too large becomes the largest."""
    kept = records.pack(FIELDS)
    assert len(kept) == 32
    assert records.unpack(kept) == FIELDS
    assert records.unpack(records.pack([0, -1] + [1 << 40] * 8))[1:] == [
        0,
        0xFFFFFFFF,
        0xFFFFFFFF,
        0xFFFFFFFF,
        0xFFFF,
        0xFFFFFF,
        0xFFFFFF,
        255,
        255,
    ]
    assert records.unpack(b"\xff" * 32) is None
    assert records.unpack(kept[:-1]) is None


def test_segments_come_oldest_first_and_go_with_their_ack():
    """64 records at most; another segment's ack does nothing, a second one neither."""
    _, spool = spool_of(2)
    assert spool.oldest() is None
    for _ in range(100):
        assert spool.append(FIELDS) is None
    segment, found = spool.oldest()
    assert [fields[0] for fields in found] == list(range(1, 64))
    assert found[0][1:] == FIELDS[1:]
    assert not spool.acknowledge(segment + 1)
    assert spool.oldest() == (segment, found)
    assert spool.acknowledge(segment)
    assert not spool.acknowledge(segment)
    segment, found = spool.oldest()
    assert [fields[0] for fields in found] == list(range(64, 101))
    # What comes after it was sent waits for its own turn, in the same segment.
    spool.append(FIELDS)
    assert spool.acknowledge(segment)
    segment, found = spool.oldest()
    assert [fields[0] for fields in found] == [101]
    assert spool.acknowledge(segment)
    assert spool.waiting == 0


def test_a_full_ring_loses_the_oldest_and_says_so():
    """Each loss is told once, by its range."""
    _, spool = spool_of(1)
    for _ in range(128):
        assert spool.append(FIELDS) is None
    assert spool.append(FIELDS) == (1, 1)
    assert spool.append(FIELDS) == (2, 2)
    assert spool.lost == 2
    assert spool.waiting == 128
    assert spool.oldest()[1][0][0] == 3


def test_a_start_goes_on_where_it_was():
    """At every fill of the ring, twice around."""
    board, spool = spool_of(2)
    for seq in range(1, 520):
        spool.append(FIELDS)
        if seq % 41 == 0:
            spool = spool_of(2, board)[1]
        assert spool.next_seq == seq + 1
        assert spool.waiting == min(seq, 256)


def test_an_ack_survives_a_start():
    """What was acknowledged is not sent again, an empty ring goes on counting."""
    board, spool = spool_of(1)
    for _ in range(10):
        spool.append(FIELDS)
    spool.acknowledge(spool.oldest()[0])
    spool = spool_of(1, board)[1]
    assert spool.waiting == 0
    assert spool.next_seq == 11
    board.files.contents["/s/00.seg"] = b"\xff" * 4_096
    assert spool_of(1, board)[1].next_seq == 11


def test_a_damaged_record_is_a_gap():
    """The others come out, the ring goes on."""
    board, spool = spool_of(1)
    for _ in range(10):
        spool.append(FIELDS)
    content = bytearray(board.files.contents["/s/00.seg"])
    content[5 * 32 + 7] ^= 1
    board.files.contents["/s/00.seg"] = bytes(content)
    _, found = spool_of(1, board)[1].oldest()
    assert [fields[0] for fields in found] == [1, 2, 3, 4, 6, 7, 8, 9, 10]


def test_a_record_of_an_earlier_lap_is_a_gap_too():
    """It is whole and lies where it belongs, but is not the one that waits."""
    board, spool = spool_of(1)
    for _ in range(128):
        spool.append(FIELDS)
    old = board.files.contents["/s/00.seg"]
    for _ in range(10):
        spool.append(FIELDS)
    new = board.files.contents["/s/00.seg"]
    board.files.contents["/s/00.seg"] = new[:96] + old[96:128] + new[128:]
    while spool.oldest()[1][0][0] < 128:
        spool.acknowledge(spool.oldest()[0])
    assert [fields[0] for fields in spool.oldest()[1]] == [
        128,
        129,
        130,
        132,
        133,
        134,
        135,
        136,
        137,
        138,
    ]


def test_a_full_flash_stops_no_record():
    """The files were made before; without room for them the start says so."""
    board, spool = spool_of(2)
    board.files.full = True
    for _ in range(300):
        spool.append(FIELDS)
    assert spool.waiting == 256
    empty = MemoryBoard()
    empty.files.full = True
    refused(OSError, spool_of, 1, empty)


def test_its_watchdog_is_fed_between_files():
    """A start of many files takes seconds on the device."""
    board, fed = MemoryBoard(), []
    Spool(board.files, "/s", 5).open(lambda: fed.append(1))
    assert len(fed) == 10
