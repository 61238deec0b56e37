"""The largest messages that can be: each within what the broker and the gateway take."""

import json

from node import frames, records
from node.backlog import Backlog
from node.spool import SEGMENT_RECORDS, Spool
from node.telemetry import telemetry
from tests.firmware.same.memory import MemoryBoard
from tests.firmware.same.test_telemetry import SmallNode

MOST_BYTES = 8_192
LONGEST_ID = "n" * 32


def test_a_backlog_of_the_largest_numbers_fits():
    """A whole segment with every digit that a record can hold."""
    node = SmallNode()
    node.device_id = LONGEST_ID
    node.spool = Spool(MemoryBoard().files, "/s", 2)
    node.spool.open(lambda: None)
    node.spool.next_seq = 4_294_967_040  # 128 from a segment's start, ten digits
    node.spool.acknowledged_seq = node.spool.next_seq - 1
    largest = [0] + list(records._HIGHEST[1:])
    for _ in range(SEGMENT_RECORDS):
        node.spool.append(largest)
    message = Backlog(node).next_message()
    told = json.loads(message)
    assert len(told["records"]) == SEGMENT_RECORDS
    assert told["records"][0][1:] == largest[1:]
    assert 6_000 < len(message) <= MOST_BYTES


class Heard:
    """A link that is up and a gateway that was heard at `heard_s`: one object for both."""

    connected = True
    heard_s = None


def test_a_gateway_is_away_after_five_minutes_of_silence():
    """Nobody heard yet, or a broken link, is away at once."""
    node = SmallNode()
    node.link = node.commands = heard = Heard()
    backlog = Backlog(node)
    assert backlog.is_away()
    heard.heard_s = node.clock.now_s()
    node.board.pass_s(299)
    assert not backlog.is_away()
    heard.connected = False
    assert backlog.is_away()
    heard.connected = True
    node.board.pass_s(1)
    assert backlog.is_away()


def test_telemetry_of_three_modules_fits():
    """With the largest registers and every reason."""
    node = SmallNode(modules=[1, 246, 247])
    node.device_id = LONGEST_ID
    for reason in ("command", "lease", "expired", "overload", "voltage", "safety"):
        node.relay.add(reason)
    for place in range(3):
        point = node.meter.points[place]
        point.values = frames.Values((65_535,) * 10)
        point.quality = "uncertain"
        point.guard.base_wh, point.guard.last_wh = 4_294_967_295, 9_999_990
    assert len(telemetry(node, 4_294_967_295)) <= MOST_BYTES // 4
