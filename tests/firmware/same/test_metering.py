"""What follows from what is measured: a held counter released, a lease's limit while alone."""

import json

from node import backlog, lease, telemetry
from node.commands import Commands
from node.spool import Spool
from tests.firmware.same.metered import MeteredBoard, MeteredNode
from tests.firmware.same.test_telemetry import SmallNode

LEASE = {
    "epoch": "E1",
    "seq": 1,
    "cutoff_wh": 0x7FFFFFFF,
    "expires": 0,
    "policy": "hold",
    "grace_wh": 0,
    "limit_w": 2_000,
    "emergency_limit_w": 500,
    "emergency_wh": 12_347,
}


def registers(counter_wh, power_dw=0):
    """What a module answers."""
    return (2_300, 0, 0, power_dw, 0, counter_wh, 0, 500, 100, 0)


class HeldNode(SmallNode):
    """A node of two modules whose first one jumped from 12,345 to 50,000 Wh."""

    def __init__(self):
        super().__init__(modules=[1, 7])
        self.asked = 0
        self.measured(0, registers(12_345))
        self.measured(1, registers(9))
        self.board.pass_s(1)
        self.measured(0, registers(50_000))
        self.meter.points[0].quality = "uncertain"
        self.commands = Commands(self)

    def ask_reading(self):
        self.asked += 1

    def tell(self, **args):
        """Code and message of a `release`."""
        return self.commands._carry_out({"type": "release", "args": args})


def test_a_held_counter_is_told_and_released_without_its_energy():
    """A module was exchanged: the total stands still, and goes on with the new counter."""
    node = HeldNode()
    first = told(node)
    assert (first["energy_wh"], first["counter_wh"], first["held_wh"]) == (12_345, 12_345, 50_000)
    assert "held_wh" not in first["meters"][1]
    assert node.tell(count=False) == ("DONE", "counts on from 50000 Wh")
    assert node.asked == 1
    assert node.meter.points[0].total_wh == 12_345
    node.board.pass_s(1)
    node.measured(0, registers(50_002))
    then = told(node)
    assert (then["energy_wh"], then["quality"]) == (12_347, "good")
    assert "held_wh" not in then
    event = json.loads(node.events.oldest()[1])
    assert (event["kind"], event["address"], event["counter_wh"]) == (
        "register_released",
        1,
        50_000,
    )
    assert (event["base_before_wh"], event["base_wh"]) == (0, 12_345 - 50_000)


def test_a_held_advance_counts_where_a_person_says_so():
    """It was energy: the total takes it over."""
    node = HeldNode()
    assert node.tell(count=True, address=1)[0] == "DONE"
    assert node.meter.points[0].total_wh == 50_000


def test_only_what_is_held_is_released():
    """By its address, once; and nothing of another form is taken."""
    node = HeldNode()
    assert node.tell(count=True, address=7)[0] == "NOTHING_HELD"
    for args in ({}, {"count": 1}, {"count": True, "more": 1}, {"count": True, "address": "1"}):
        assert node.tell(**args)[0] == "BAD_FORM"
    assert node.tell(count=False, address=9) == ("BAD_FORM", "address: no such module")
    assert node.meter.points[0].guard.held_wh == 50_000
    assert node.tell(count=False, address=1)[0] == "DONE"
    assert node.tell(count=False, address=1)[0] == "NOTHING_HELD"


def test_a_release_outlives_a_power_cut():
    """It is in NVS before it is answered."""
    node = HeldNode()
    node.tell(count=False)
    again = SmallNode(modules=[1, 7])
    again.board.nvs = dict(node.board.nvs)
    again.meter._restore()
    assert (again.meter.points[0].total_wh, again.meter.points[0].guard.held_wh) == (12_345, None)


def loaded(node, counter_wh, seconds):
    """So long at 1,500 W; the reasons of the relay then."""
    for _ in range(seconds):
        node.board.pass_s(1)
        node.measured(0, registers(counter_wh, 15_000))
        point = node.meter.points[0]
        point.answered = point.fresh = True
        node.meter._judge()
    return node.relay.reasons


def test_a_leases_limit_opens_the_relay_of_a_node_that_is_alone():
    """The lower one from the counter of emergency credit on; never beside a gateway."""
    node = SmallNode()
    node.meter.grant(lease.parse(LEASE, 0))
    node.measured(0, registers(12_345))
    alone = True
    node.meter.is_alone = lambda: alone
    assert loaded(node, 12_345, 40) == []
    alone = False
    assert loaded(node, 12_347, 40) == []
    alone = True
    assert loaded(node, 12_347, 20) == []
    assert loaded(node, 12_347, 20) == ["limit"]
    trip = json.loads(node.events.oldest()[1])
    assert (trip["kind"], trip["reason"], trip["locked"]) == ("trip", "limit", False)
    alone = False
    assert loaded(node, 12_347, 130) == []


def restarted(node, **changed):
    """The node after a reset."""
    board = MeteredBoard()
    board.nvs, board.rtc = dict(node.board.nvs), node.board.rtc
    board.files.contents = dict(node.board.files.contents)
    board.pin = node.board.pin
    return MeteredNode(board, **changed)


async def test_a_power_cut_takes_back_six_minutes_of_the_total_at_most():
    """Whatever the module has forgotten beside; the gateway goes on from that without a person."""
    for minutes in range(1, 13):
        for lost_wh in (0, 100, 290, 400):
            node = MeteredNode()
            node.board.unix = 1_800_000_000
            for minute in range(minutes):
                # 3.6 kW, read once a minute.
                node.board.counters = [5_000 + 60 * minute]
                node.board.pass_s(59)
                await node.poll()
            before_wh = node.meter.points[0].total_wh
            again = restarted(node)
            again.board.rtc, again.board.unix = b"", node.board.unix + 20
            again.board.counters = [max(0, before_wh - lost_wh)]
            await again.poll(2)
            assert again.meter.points[0].quality == "good"
            assert 0 <= before_wh - again.meter.points[0].total_wh <= 360


async def test_one_wrong_reading_after_a_power_cut_cuts_nobody():
    """It is asked again within the same poll, and the lease looks at what was confirmed."""
    node = MeteredNode()
    node.meter.grant(lease.parse(dict(LEASE, cutoff_wh=10_000), 0))
    await node.poll()
    again = restarted(node)
    board = again.board
    board.counters = [13_000, 5_001]
    await again.poll()
    assert board.polls == 2
    assert (again.relay.reasons, again.meter.points[0].total_wh) == ([], 5_001)
    assert again.meter.points[0].quality == "good"
    # What is true comes twice, and cuts.
    board.counters = [13_001]
    board.pass_s(3_600)
    await again.poll()
    assert (again.relay.reasons, again.meter.points[0].total_wh) == (["lease"], 13_001)


async def test_a_raised_maximum_lets_a_held_counter_go_on():
    """Seen too low, an honest load was held; the next poll after the settings counts it."""
    node = MeteredNode(p_max_w=1_000)
    await node.poll()
    node.board.counters = [5_011]
    await node.poll(3)
    point = node.meter.points[0]
    assert (point.quality, point.total_wh) == ("uncertain", 5_000)
    node.meter.apply(dict(node.settings, p_max_w=23_000))
    await node.poll()
    assert (point.quality, point.total_wh) == ("good", 5_011)


async def test_a_message_has_the_time_of_its_values():
    """However long ago they came, and although the clock was set since; a record too."""
    node = MeteredNode()
    await node.poll()
    node.board.pass_s(40)
    node.clock.set_by_gateway(1_800_000_040)
    node.board.pass_s(2)
    assert told(node)["timestamp"] == 1_800_000_000
    assert backlog._record(node)[2] == 1_800_000_000
    # Two polls without an answer leave the values as they were; from the third on there are none.
    node.board.answers = False
    await node.poll(2)
    assert (told(node)["timestamp"], told(node)["quality"]) == (1_800_000_000, "good")
    await node.poll(2)
    assert (told(node)["timestamp"], told(node)["quality"]) == (1_800_000_046, "bad")
    node.board.answers = True
    await node.poll()
    assert (told(node)["timestamp"], told(node)["quality"]) == (1_800_000_047, "good")


def told(node):
    """Its telemetry."""
    return json.loads(telemetry.telemetry(node, 1))


async def test_a_held_counter_wears_no_flash():
    """Whatever it counts on: NVS is written when it is held, and in five minutes again."""
    node = MeteredNode()
    await node.poll()
    node.board.counters = list(range(13_000, 13_200))
    await node.poll()
    node.board.nvs["guard"] = b""
    await node.poll(199)
    assert node.meter.points[0].guard.held_wh == 13_199
    assert node.board.nvs["guard"] == b""


async def test_the_total_of_a_module_outlives_settings_without_it():
    """It goes on where it was; one that has no record says with what it begins."""
    node = MeteredNode()
    await node.poll()
    node.board.counters = [13_000]
    await node.poll()
    node.meter.release(1, False)
    assert node.meter.points[0].total_wh == 5_000
    for modules, total_wh, kinds in (
        ([7], 13_000, ["register_begun"]),
        ([8, 9], 13_000, ["register_begun"] * 2),
        ([1, 7], 5_000, []),
    ):
        node = restarted(node, modules=modules)
        node.board.counters = [13_000]
        await node.poll()
        assert node.meter.points[0].total_wh == total_wh
        assert [event["kind"] for event in node.events._waiting] == kinds
    assert (node.meter.points[1].total_wh, len(node.meter._others)) == (13_000, 2)


async def test_a_close_that_could_not_be_kept_changes_nothing():
    """It is answered so, and the rule that locked out stands at the next poll."""
    node = MeteredNode(limit_w=500, limit_delay_s=1, trip_most=1)
    node.ask_reading = lambda: None
    node.board.power_dw, node.board.current_ma = 9_200, 4_000
    await node.poll(3)
    assert (node.relay.reasons, node.meter.trips.locked) == (["overload"], ["overload"])
    node.board.nvs_broken = True
    close = {"type": "relay", "args": {"closed": True}}
    assert Commands(node)._carry_out(close)[0] == "STORAGE_FULL"
    node.board.nvs_broken = False
    await node.poll()
    assert (node.relay.reasons, node.board.pin) == (["overload"], False)
    assert Commands(node)._carry_out(close)[0] == "DONE"
    assert (node.relay.reasons, node.board.pin) == ([], True)


def test_the_ring_keeps_its_size_while_readings_wait():
    """A record's place follows from it: another size would lose them untold."""
    node = MeteredNode()
    node.spool = Spool(node.board.files, "/s", node.settings["spool_files"])
    node.spool.open(lambda: None)
    node.spool.append([0, 1, 0, 1, 2, 3, 4, 5, 6, 7])
    change = {"type": "settings", "args": {"spool_files": 4}}
    refused = ("BAD_FORM", "spool_files: readings wait to be sent")
    assert Commands(node)._carry_out(change) == refused
    assert Commands(node)._carry_out({"type": "settings", "args": {"poll_s": 2}})[0] == "DONE"
    assert node.spool.acknowledge(node.spool.oldest()[0])
    assert Commands(node)._carry_out(change) == ("DONE", "after a restart: spool_files")
