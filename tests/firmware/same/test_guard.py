"""The register guard: each rule of its list, by example."""

from node.guard import AGAIN, GOOD, HELD, ROLL_OVER_WH, Guard

UNIX = 1_700_000_000


def started(counter_wh, p_max_w=23_000):
    """A guard that has accepted one counter at second 0."""
    guard = Guard(p_max_w)
    assert twice(guard, counter_wh, 0, UNIX) == (GOOD, "register_begun")
    return guard


def twice(guard, counter_wh, now_s, unix_s):
    """What becomes of a counter that is asked about again, and comes again."""
    assert guard.check(counter_wh, now_s, unix_s) == (AGAIN, None)
    return guard.check(counter_wh, now_s, unix_s)


def restarted(guard):
    """The guard of the next boot: what was kept of it."""
    again = Guard(guard.p_max_w)
    assert again.unpack(guard.pack())
    return again


def test_an_advance_within_the_installation_counts():
    """23 kW for what may be nearly two seconds, half as much again and 2 Wh: 21 Wh; no more."""
    assert started(100).check(121, 1, UNIX + 1) == (GOOD, None)
    guard = started(100)
    assert guard.check(122, 1, UNIX + 1) == (HELD, "register_jump")
    assert guard.total_wh == 100


def test_an_honest_load_counts_however_often_it_is_read():
    """14 kW, polled four times a second and then every 1.99 s: clocks tell whole seconds."""
    for step_ms in (250, 1_990):
        guard, at_ms = started(0), 0
        for _ in range(400):
            at_ms += step_ms
            counter_wh = 14_000 * at_ms // 3_600_000
            assert guard.check(counter_wh, at_ms // 1_000, UNIX) == (GOOD, None)
    guard = started(5_000)
    assert guard.check(5_003, 0, UNIX) == (GOOD, None)


def test_a_single_wrong_counter_is_no_energy():
    """After a start or a silence 8 kWh may be: not on one reading, as the very first counter."""
    for now_s, unix_s in ((5, 0), (5, UNIX + 7_200)):
        guard = restarted(started(5_000))
        assert guard.check(13_000, now_s, unix_s) == (AGAIN, None)
        assert guard.check(5_001, now_s, unix_s) == (GOOD, None)
        assert guard.total_wh == 5_001
    guard = started(5_000)
    assert guard.check(13_000, 7_200, UNIX) == (AGAIN, None)
    # What comes instead must be confirmed in its turn.
    assert guard.check(9_000, 7_200, UNIX) == (AGAIN, None)
    assert guard.check(9_001, 7_201, UNIX) == (GOOD, None)
    assert guard.total_wh == 9_001
    guard = Guard(23_000)
    assert guard.check(13_000, 0, UNIX) == (AGAIN, None)
    assert twice(guard, 5_000, 0, UNIX) == (GOOD, "register_begun")
    assert guard.total_wh == 5_000


def test_what_was_held_by_too_low_a_maximum_counts_once_it_is_raised():
    """The jump is judged by its own time, not by how long it waits; what it was alone is told."""
    for restart in (False, True):
        guard = started(5_000, p_max_w=1_000)
        assert guard.check(5_014, 10, UNIX + 10) == (HELD, "register_jump")
        assert guard.check(5_015, 20, UNIX + 20) == (HELD, None)
        if restart:
            guard = restarted(guard)
        guard.p_max_w = 23_000
        assert guard.check(5_028, 30, UNIX + 30) == (GOOD, None)
        assert guard.total_wh == 5_028
    guard = started(5_000, p_max_w=1_000)
    guard.check(13_000, 1, UNIX)
    guard.p_max_w = 23_000
    assert guard.check(13_001, 86_400, UNIX) == (HELD, None)


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
    assert twice(guard, 700, 120, UNIX + 120) == (GOOD, None)
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
    """In the middle of work a counter near zero was reset; 21 Wh are near after a second."""
    guard = started(500_000)
    assert twice(guard, 21, 1, UNIX) == (GOOD, "register_reset")
    assert guard.total_wh == 500_021
    assert twice(started(500_000), 22, 1, UNIX) == (HELD, "register_jump")


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
    assert twice(restarted(kept), 100 + hour_wh, 5, UNIX + 3_600) == (GOOD, None)
    guard = restarted(kept)
    assert guard.check(100 + hour_wh, 5, 0) == (HELD, "register_jump")
    assert guard.check(100 + hour_wh + 1, 6, 0) == (HELD, None)
    assert guard.check(100 + hour_wh + 2, 8, UNIX + 3_603) == (GOOD, None)
    assert guard.total_wh == 102 + hour_wh
    guard = restarted(kept)
    guard.check(100 + hour_wh + 20, 5, 0)
    # The clock says that it cannot have been: that stands, however long it takes from then on.
    assert guard.check(100 + hour_wh + 20, 6, UNIX + 3_600) == (HELD, None)
    assert guard.check(100 + hour_wh + 20, 9_000, UNIX + 12_600) == (HELD, None)
    assert twice(restarted(kept), 100 + hour_wh // 4, 5, 0) == (GOOD, None)


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
