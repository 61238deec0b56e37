"""Overload and voltage: delay, hold, window and lock-out, by example."""

from node import settings
from node.trips import Trips


def rules(**changed):
    """Rules with an overload limit of 1,000 W and voltage from 190 to 250 V."""
    chosen = {"limit_w": 1_000, "voltage_low_dv": 1_900, "voltage_high_dv": 2_500}
    chosen.update(changed)
    return Trips(settings.changed(settings.defaults(), chosen))


def test_without_limits_nothing_trips():
    """The defaults have none."""
    free = Trips(settings.defaults())
    for now_s in range(0, 1_000, 10):
        assert free.check(now_s, 10_000_000, 1) == []


def test_an_overload_trips_after_its_delay():
    """30 s without a pause, above and not at the limit."""
    trips = rules()
    for now_s in range(100):
        assert trips.check(now_s, 10_000, 2_300) == []
    assert trips.check(100, 10_001, 2_300) == []
    assert trips.check(129, 10_001, 2_300) == []
    assert trips.check(130, 10_001, 2_300) == ["overload"]
    assert trips.check(131, 0, 2_300) == []
    assert trips.reasons == ["overload"]


def test_a_pause_or_a_silence_starts_the_delay_anew():
    """Doubt never cuts."""
    for gap in (0, None):
        trips = rules()
        trips.check(0, 20_000, 2_300)
        trips.check(29, gap, 2_300)
        trips.check(30, 20_000, 2_300)
        assert trips.check(59, 20_000, 2_300) == []
        assert trips.check(60, 20_000, 2_300) == ["overload"]


def test_supply_returns_after_the_hold_and_locks_out_at_the_fourth_trip():
    """120 s each; four within 30 minutes stay until a command."""
    trips, now_s = rules(), 0
    for count in range(1, 5):
        trips.check(now_s, 20_000, 2_300)
        assert trips.check(now_s + 30, 20_000, 2_300) == ["overload"]
        assert trips.overload.locked == (count == 4)
        trips.check(now_s + 149, 0, 2_300)
        assert trips.reasons == ["overload"]
        trips.check(now_s + 150, 0, 2_300)
        assert trips.reasons == ([] if count < 4 else ["overload"])
        now_s += 200
    trips.check(now_s + 100_000, 0, 2_300)
    assert trips.reasons == ["overload"]
    trips.reset()
    assert trips.reasons == []


def test_trips_far_apart_lock_out_nobody():
    """The window of 30 minutes goes on with the time."""
    trips = rules()
    for now_s in range(0, 10_000, 700):
        trips.check(now_s, 20_000, 2_300)
        assert trips.check(now_s + 30, 20_000, 2_300) == ["overload"]
        trips.check(now_s + 200, 0, 2_300)
    assert trips.reasons == []


def test_voltage_must_be_good_for_all_of_its_hold():
    """It is measured before the relay: a bad value while open starts the hold anew."""
    for bad in (1_899, 2_501):
        trips = rules()
        trips.check(0, 0, bad)
        assert trips.check(5, 0, bad) == ["voltage"]
        trips.check(100, 0, bad)
        trips.check(219, 0, 2_300)
        assert trips.reasons == ["voltage"]
        trips.check(220, 0, 2_300)
        assert trips.reasons == []


def test_a_leases_limit_is_a_rule_of_its_own_beside_the_nodes():
    """0 is none; the lower of the two trips; what no longer holds starts the delay anew."""
    trips = rules()
    for now_s in range(0, 100, 10):
        assert trips.check(now_s, 9_000, 2_300, 0) == []
    assert trips.check(100, 9_000, 2_300, 500) == []
    assert trips.check(120, 9_000, 2_300, 0) == []
    assert trips.check(121, 9_000, 2_300, 500) == []
    assert trips.check(150, None, 2_300, 500) == []
    assert trips.check(151, 9_000, 2_300, 500) == []
    assert trips.check(180, 9_000, 2_300, 500) == []
    assert trips.check(181, 9_000, 2_300, 500) == ["limit"]
    assert trips.reasons == ["limit"]
    trips.check(300, 0, 2_300, 500)
    assert trips.reasons == ["limit"]
    trips.check(301, 0, 2_300, 500)
    assert trips.reasons == []
    free = Trips(settings.defaults())
    free.check(0, 5_000, 2_300, 500)
    assert free.check(40, 5_000, 2_300, 500) == []  # at the limit, not above
    free.check(41, 5_001, 2_300, 500)
    assert free.check(71, 5_001, 2_300, 500) == ["limit"]


def test_a_leases_limit_locks_out_at_the_fourth_trip_and_a_command_ends_it():
    """As the node's own rules; its hold goes on when nobody limits any more."""
    trips, now_s = rules(), 0
    for count in range(1, 5):
        trips.check(now_s, 9_000, 2_300, 500)
        assert trips.check(now_s + 30, 9_000, 2_300, 500) == ["limit"]
        assert trips.limit.locked == (count == 4)
        trips.check(now_s + 150, 0, 2_300, 0)
        assert trips.reasons == ([] if count < 4 else ["limit"])
        now_s += 200
    trips.reset()
    assert trips.reasons == []


def test_earlier_trips_and_a_delay_under_way_outlive_other_settings():
    """A lease comes often and makes the rules anew: the fourth trip locks out all the same."""
    trips, now_s = rules(), 0
    for count in range(1, 5):
        trips.check(now_s, 20_000, 2_300)
        fresh = rules()
        fresh.take_over(trips)
        trips = fresh
        assert trips.check(now_s + 30, 20_000, 2_300) == ["overload"]
        assert trips.locked == (["overload"] if count == 4 else [])
        trips.check(now_s + 150, 0, 2_300)
        now_s += 200


def test_a_rule_goes_on_after_a_restart_as_it_was():
    """Open with its hold from the start, or locked for good."""
    for locked in (False, True):
        trips = rules()
        trips.overload.go_on(locked)
        trips.check(119, 0, 2_300)
        assert trips.reasons == ["overload"]
        trips.check(120, 0, 2_300)
        assert trips.reasons == (["overload"] if locked else [])
