"""The register guard: each rule of its list, by example."""

from node.guard import AGAIN, GOOD, HELD, ROLL_OVER_WH, Guard

UNIX = 1_700_000_000


def started(counter_wh, p_max_w=23_000):
    """A guard that has accepted one counter at second 0."""
    guard = Guard(p_max_w)
    assert guard.check(counter_wh, 0, UNIX) == (GOOD, None)
    return guard


def restarted(guard):
    """The guard of the next boot: what was kept of it."""
    again = Guard(guard.p_max_w)
    assert again.unpack(guard.pack())
    return again


def test_an_advance_within_the_installation_counts():
    """23 kW for a second, half as much again and 2 Wh: 11 Wh; the twelfth is held."""
    assert started(100).check(111, 1, UNIX + 1) == (GOOD, None)
    guard = started(100)
    assert guard.check(112, 1, UNIX + 1) == (HELD, "register_jump")
    assert guard.total_wh == 100


def test_two_readings_within_one_second_may_be_a_second_apart():
    """A reading that was asked for comes between two polls: under full load it has 6 Wh more."""
    assert started(100).check(107, 0, UNIX) == (GOOD, None)
    assert started(100).check(112, 0, UNIX) == (HELD, "register_jump")


def test_a_jump_becomes_no_more_plausible_by_waiting():
    """Held after a second, it is still held after a day, through a restart too; told once."""
    guard = started(100)
    assert guard.check(5_000, 1, UNIX + 1) == (HELD, "register_jump")
    assert guard.check(5_010, 86_400, UNIX + 86_400) == (HELD, None)
    guard = restarted(guard)
    assert guard.check(5_010, 5, UNIX + 90_000) == (HELD, None)
    assert guard.total_wh == 100


def test_a_jump_that_comes_back_is_forgotten():
    """The next good counter is judged from the last good one, with all of the time."""
    guard = started(100)
    guard.check(9_000_000, 1, UNIX + 1)
    assert guard.check(700, 120, UNIX + 120) == (GOOD, None)
    assert guard.total_wh == 700
    assert guard.held_wh is None


def test_release_goes_on_with_or_without_the_held_energy():
    """A person decides whether a jump was energy; a fall never is."""
    for count, total_wh in ((False, 100), (True, 5_000)):
        guard = started(100)
        guard.check(5_000, 1, UNIX)
        assert guard.release(2, UNIX, count)
        assert guard.total_wh == total_wh
        assert guard.check(5_001, 3, UNIX) == (GOOD, None)
        assert guard.total_wh == total_wh + 1
        assert not guard.release(4, UNIX, count)


def test_a_drop_is_read_again_first():
    """A single low counter changes nothing."""
    guard = started(5_000)
    assert guard.check(0, 1, UNIX) == (AGAIN, None)
    assert guard.check(5_001, 2, UNIX) == (GOOD, None)
    assert guard.total_wh == 5_001


def test_a_roll_over_goes_on_in_the_total():
    """From 9,999.985 kWh over the end to 3 Wh: 8 Wh more."""
    guard = started(ROLL_OVER_WH - 5)
    assert guard.check(3, 1, UNIX) == (AGAIN, None)
    assert guard.check(3, 1, UNIX) == (GOOD, "rollover")
    assert guard.total_wh == ROLL_OVER_WH + 3


def test_a_reset_charges_what_the_counter_shows():
    """In the middle of work a counter near zero was reset; 11 Wh are near after a second."""
    guard = started(500_000)
    guard.check(11, 1, UNIX)
    assert guard.check(11, 1, UNIX) == (GOOD, "register_reset")
    assert guard.total_wh == 500_011
    guard = started(500_000)
    guard.check(12, 1, UNIX)
    assert guard.check(12, 1, UNIX) == (HELD, "register_jump")


def test_a_small_fall_after_a_silence_charges_nothing():
    """A module may lose what it had not saved: 300 s of full load, and no more."""
    most_wh = 23_000 * 300 // 2_400 + 2
    guard = started(500_000)
    guard.check(500_000 - most_wh, 60, UNIX)
    assert guard.check(500_000 - most_wh, 61, UNIX) == (GOOD, "register_regression")
    assert guard.total_wh == 500_000
    guard = started(500_000)
    guard.check(500_000 - most_wh - 1, 60, UNIX)
    assert guard.check(500_000 - most_wh - 1, 61, UNIX) == (HELD, "register_jump")


def test_a_fall_without_a_silence_is_held():
    """Nothing explains it: a person decides."""
    guard = started(500_000)
    guard.check(499_000, 1, UNIX)
    assert guard.check(499_000, 1, UNIX) == (HELD, "register_jump")
    assert guard.total_wh == 500_000


def test_after_a_restart_the_wall_clock_tells_the_time():
    """An hour off counts an hour; with an unset clock 15 minutes are believed, more is held until
    the clock is set.
    """
    kept = started(100)
    hour_wh = 23_000 * 3_600 // 2_400
    assert restarted(kept).check(100 + hour_wh, 5, UNIX + 3_600) == (GOOD, None)
    guard = restarted(kept)
    assert guard.check(100 + hour_wh, 5, 0) == (HELD, "register_jump")
    assert guard.check(100 + hour_wh + 1, 6, 0) == (HELD, None)
    assert guard.check(100 + hour_wh + 2, 8, UNIX + 3_603) == (GOOD, None)
    assert guard.total_wh == 102 + hour_wh
    guard = restarted(kept)
    guard.check(100 + hour_wh + 3, 5, 0)
    # The clock says that it cannot have been: that stands, however long it takes from then on.
    assert guard.check(100 + hour_wh + 3, 6, UNIX + 3_600) == (HELD, None)
    assert guard.check(100 + hour_wh + 3, 9_000, UNIX + 12_600) == (HELD, None)
    guard = restarted(kept)
    assert guard.check(100 + hour_wh // 4, 5, 0) == (GOOD, None)


def test_a_reset_while_off_is_seen_once_the_clock_is_set():
    """The counter of a reset module rises from zero: held first, then charged as it shows."""
    guard = restarted(started(500_000))
    guard.check(30_000, 1, 0)
    assert guard.check(30_000, 1, 0) == (HELD, "register_jump")
    assert guard.check(30_001, 2, UNIX + 86_400) == (GOOD, "register_reset")
    assert guard.total_wh == 530_001


def test_a_damaged_state_is_refused():
    """Each byte is under the CRC; a refused one leaves the guard as it was."""
    kept = started(100).pack()
    for place in range(len(kept)):
        spoilt = bytearray(kept)
        spoilt[place] ^= 1
        guard = started(7)
        assert not guard.unpack(bytes(spoilt))
        assert guard.total_wh == 7
    assert not Guard(1).unpack(None)
