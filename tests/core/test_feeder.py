"""Closings on one feeder: one after the other, never more than it carries, with chance between."""

import pytest

from gateway.core.feeder import SETTLE_NS, Feeder, FeederRules
from gateway.core.proof import NS


def feeder(
    *, capacity_w: int | None = None, chance: float = 0.0, rules: FeederRules | None = None
) -> Feeder:
    """A feeder whose chance is known."""
    return Feeder(rules or FeederRules(stagger_s=2.0), capacity_w=capacity_w, chance=lambda: chance)


def closings(one: Feeder, *, until_s: float, expected_w: float = 1_000.0) -> list[float]:
    """When closings come if somebody always waits, asked ten times a second."""
    times: list[float] = []
    for step in range(round(until_s * 10)):
        now_ns = step * NS // 10
        point = len(times)
        if one.has_turn(now_ns) and one.has_room(point, expected_w, now_ns):
            one.closing(point, expected_w, now_ns)
            times.append(step / 10)
    return times


def test_closings_are_spaced() -> None:
    """The first at once, then one every two seconds."""
    assert closings(feeder(), until_s=7) == [0.0, 2.0, 4.0, 6.0]


def test_a_burst_is_allowed_after_a_quiet_time() -> None:
    """Three at once, then as always."""
    rules = FeederRules(stagger_s=2.0, burst=3)
    assert closings(feeder(rules=rules), until_s=5) == [0.0, 0.1, 0.2, 2.0, 4.0]


def test_chance_adds_up_to_the_jitter() -> None:
    """With half of five seconds by chance the spacing is the longer of the two."""
    rules = FeederRules(stagger_s=2.0, jitter_s=5.0)
    assert closings(feeder(rules=rules, chance=0.5), until_s=8) == [0.0, 2.5, 5.0, 7.5]


def test_without_spacing_nobody_waits() -> None:
    """`stagger_s: 0` is the wish of whoever configures it."""
    assert len(closings(feeder(rules=FeederRules(stagger_s=0.0)), until_s=1)) == 10


def test_closings_stop_where_the_expected_load_would_not_fit() -> None:
    """3 kW flow, 5 kW are carried: two more of 1 kW, and the next when their load was measured."""
    one = feeder(capacity_w=5_000)
    one.seen(90, 0, 3_000.0, is_open=False)
    assert closings(one, until_s=20) == [0.0, 2.0]
    for point in (0, 1):
        one.seen(point, 30 * NS, 400.0, is_open=False)
    late_ns = 60 * NS
    assert one.load_w(late_ns) == 3_800.0
    assert one.has_room(2, 1_000.0, late_ns)
    assert not one.has_room(2, 1_201.0, late_ns)


def test_what_was_just_closed_counts_before_it_is_measured() -> None:
    """Expected load stands for half a minute, and gives way to what flows more."""
    one = feeder(capacity_w=5_000)
    one.closing(0, 2_000.0, 0)
    assert one.load_w(NS) == 2_000.0
    one.seen(0, 2 * NS, 2_500.0, is_open=False)
    assert one.load_w(3 * NS) == 2_500.0
    one.seen(0, 4 * NS, 100.0, is_open=False)
    assert one.load_w(5 * NS) == 2_000.0
    assert one.load_w(SETTLE_NS) == 100.0


def test_an_idle_feeder_takes_a_load_that_is_expected_to_be_too_large() -> None:
    """Expected is a guess: nobody stays dark for it where nothing else flows."""
    one = feeder(capacity_w=5_000)
    assert one.has_room(0, 9_000.0, 0)
    one.seen(1, 0, 1.0, is_open=False)
    assert not one.has_room(0, 9_000.0, 0)


def test_an_open_supply_draws_nothing() -> None:
    """What it drew before is gone, whatever the meter still averages."""
    one = feeder(capacity_w=5_000)
    one.seen(0, 0, 3_000.0, is_open=False)
    one.seen(0, NS, 2_900.0, is_open=True)
    assert one.load_w(NS) == 0.0


def test_a_change_to_the_generator_holds_closings() -> None:
    """Once per change, on the feeder where it was seen; going back to the grid holds nothing."""
    one = feeder(rules=FeederRules(stagger_s=1.0, generator_hold_s=60.0))
    assert not one.source_seen("grid", 0, is_generator=False)
    assert one.has_turn(0)
    assert one.source_seen("generator", NS, is_generator=True)
    assert not one.source_seen("generator", 2 * NS, is_generator=True)
    assert not one.has_turn(60 * NS)
    assert one.has_turn(61 * NS)
    assert not one.source_seen("grid", 62 * NS, is_generator=False)
    assert one.has_turn(62 * NS)


def test_a_start_on_the_generator_is_no_change() -> None:
    """What ran before the gateway did has settled."""
    one = feeder(rules=FeederRules(generator_hold_s=60.0))
    assert not one.source_seen("generator", 0, is_generator=True)
    assert one.has_turn(0)


@pytest.mark.parametrize(("elapsed_ms", "turn"), [(0, False), (1_000, False), (2_000, True)])
def test_the_wait_survives_a_reload(elapsed_ms: int, *, turn: bool) -> None:
    """A reload is no way around the spacing; the time that it took counts."""
    one = feeder()
    one.closing(0, 0.0, 100 * NS)
    again = feeder()
    again.restore(one.snapshot(100 * NS), 500 * NS, elapsed_ms)
    assert again.has_turn(500 * NS) is turn


def test_a_generator_hold_survives_a_restart() -> None:
    """So does the source: the same one after it is no change."""
    rules = FeederRules(generator_hold_s=60.0)
    one = feeder(rules=rules)
    one.source_seen("grid", 0, is_generator=False)
    one.source_seen("generator", NS, is_generator=True)
    again = feeder(rules=rules)
    again.restore(one.snapshot(11 * NS), 900 * NS, 10_000)
    assert not again.source_seen("generator", 900 * NS, is_generator=True)
    assert not again.has_turn(939 * NS)
    assert again.has_turn(940 * NS)


def test_what_was_seen_and_just_closed_counts_after_a_restart_until_it_is_read() -> None:
    """As long as it takes for what was seen; what a closing was expected to draw for its time."""
    one = feeder(capacity_w=5_000)
    one.seen(0, 0, 1_200.4, is_open=False)
    one.closing(1, 2_000.0, 0)
    again = feeder(capacity_w=5_000)
    for point, load in one.loads(10 * NS).items():
        again.restore_load(point, load, 500 * NS, 5_000)
    assert again.load_w(500 * NS) == 3_201.0
    assert again.fresh_w(500 * NS, 1e9) == {}, "nobody is shed on it"
    assert again.load_w(515 * NS) == 1_201.0
    again.seen(0, 516 * NS, 100.0, is_open=False)
    assert again.load_w(516 * NS) == 100.0
