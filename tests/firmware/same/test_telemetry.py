"""Messages written from integers, events that are bounded, and when telemetry is due."""

import json

from node import frames, guard, metering, settings, telemetry
from node.clock import Clock
from node.relay import Relay
from tests.firmware.same.clocks import ClockBoard


class Wake:
    """What an event sets."""

    def set(self):
        pass


class SmallNode:
    """As much of a node as messages need."""

    device_id = "node-1"
    session = "00112233445566ff"
    boot_id = 3
    version = "1.0.0"
    Board = ClockBoard

    def __init__(self, board=None, **changed):
        self.board = board or self.Board()
        self.settings = settings.changed(settings.defaults(), changed)
        self.clock = Clock(self.board)
        self.relay = Relay(self.board)
        if not board:
            self.relay.clear("command")
        self.events = telemetry.Events()
        self.wake = Wake()
        self.meter = metering.Meter(self.board, self.settings, self.clock, self.relay, self.events)
        self.events.node = self

    def measured(self, place, registers):
        """A module has measured."""
        point = self.meter.points[place]
        point.values = frames.Values(registers)
        point.quality = "good"
        point.read_s = self.clock.now_s()
        verdict = guard.AGAIN
        while verdict == guard.AGAIN:
            verdict, _ = point.guard.check(point.values.energy_wh, self.clock.now_s(), 0)
        self.meter.polled = True


def test_decimals_come_from_integers():
    """Every digit is there, none is rounded, and none is lost below one."""
    for value, digits, text in (
        (2298, 1, "229.8"),
        (0, 3, "0.000"),
        (7, 3, "0.007"),
        (999, 3, "0.999"),
        (1000, 3, "1.000"),
        (-5, 1, "-0.5"),
        (98, 2, "0.98"),
        (12345, 0, "12345"),
        (4_294_967_295, 3, "4294967.295"),
        (None, 1, "null"),
    ):
        assert telemetry.decimal(value, digits) == text


def test_telemetry_is_json_with_every_figure():
    """One module at the top; with two, both in a list as well."""
    node = SmallNode(modules=[1, 7])
    node.measured(0, (2298, 1234, 0, 2834, 0, 12345, 0, 500, 98, 0))
    node.measured(1, (2301, 0, 0, 0, 0, 9, 0, 500, 0, 0))
    told = json.loads(telemetry.telemetry(node, 1042))
    assert (told["energy_wh"], told["seq"], told["boot_id"]) == (12345, 1042, 3)
    assert (told["relay"], told["reasons"], told["quality"]) == ("closed", [], "good")
    assert (told["timestamp"], told["rssi"]) == (None, -70)
    text = telemetry.telemetry(node, 1042).decode()
    for part in ('"voltage":229.8', '"current":1.234', '"power_w":283.4', '"energy_kwh":12.345'):
        assert part in text
    assert [m["address"] for m in told["meters"]] == [1, 7]
    assert told["meters"][1]["energy_wh"] == 9


def test_events_are_bounded_and_the_newest_stay():
    """The oldest go and are counted; one that was sent takes no other with it."""
    node = SmallNode()
    for place in range(40):
        node.events.add("button", place=place)
    event, message = node.events.oldest()
    told = json.loads(message)
    assert (told["place"], told["lost"], told["seq"], told["kind"]) == (
        8,
        8,
        event["seq"],
        "button",
    )
    node.events.add("button", place=40)
    node.events.sent(event)
    assert json.loads(node.events.oldest()[1])["place"] == 9
    node.events.sent(event)
    assert json.loads(node.events.oldest()[1])["place"] == 9


def test_telemetry_is_due_each_period_and_on_changes_that_matter():
    """Not before the first reading; power by a fifth and 50 W, once a second; the relay at once."""
    node = SmallNode()
    reporter = telemetry.Reporter()
    assert not reporter.due(node)
    node.measured(0, (2300, 1000, 0, 2300, 0, 5, 0, 500, 100, 0))
    assert reporter.due(node)
    reporter.sent(node)
    assert not reporter.due(node)
    node.measured(0, (2300, 1200, 0, 2760, 0, 5, 0, 500, 100, 0))
    node.board.pass_s(1)
    assert not reporter.due(node)  # 46 W
    node.measured(0, (2300, 2000, 0, 4600, 0, 5, 0, 500, 100, 0))
    assert reporter.due(node)
    reporter.sent(node)
    node.measured(0, (2300, 4000, 0, 9200, 0, 5, 0, 500, 100, 0))
    assert not reporter.due(node)
    node.relay.add("command")
    assert reporter.due(node)
    reporter.sent(node)
    node.board.pass_s(9)
    node.measured(0, (2300, 4000, 0, 9200, 0, 5, 0, 500, 100, 0))
    assert not reporter.due(node)
    node.board.pass_s(1)
    assert reporter.due(node)
