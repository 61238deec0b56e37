"""The truth about energy: pieces, tariffs, crossings."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.sim.loads import steady_curve, swing
from gateway.sim.track import KEPT_PIECES, EnergyTrack


def track_of(power_w: float = 3_600.0, start_wh: tuple[float, float] = (0.0, 0.0)) -> EnergyTrack:
    return EnergyTrack(steady_curve(power_w), start_wh=start_wh, conducting=True)


def test_energy_flows_only_while_conducting() -> None:
    """1 Wh per second at 3.6 kW, none while the contactor is open."""
    track = track_of()
    track.change(10.0, conducting=False)
    track.change(25.0, conducting=True)
    assert track.total_wh(10.0) == pytest.approx(10)
    assert track.total_wh(20.0) == pytest.approx(10)
    assert track.total_wh(30.0) == pytest.approx(15)
    assert track.power_w(20.0) == 0.0
    assert track.power_w(26.0) == 3_600.0


def test_tariffs_count_apart() -> None:
    """Each second of energy lands on the register in force then, in all three energies."""
    track = track_of(start_wh=(100.0, 7.0))
    track.change(10.0, tariff=1)
    track.change(14.0, tariff=0)
    first, second = track.energy(20.0)
    assert first.active_wh == pytest.approx(116)
    assert second.active_wh == pytest.approx(11)
    assert second.apparent_vah == pytest.approx(4 / 0.9)


def test_the_past_can_be_read_and_not_rewritten() -> None:
    """Values before the last change stay readable; a change before it is an error."""
    track = track_of()
    track.change(10.0, conducting=False)
    assert track.total_wh(4.0) == pytest.approx(4)
    with pytest.raises(ValueError, match="before the last change"):
        track.change(9.0, conducting=True)


@pytest.mark.slow
@given(
    seed=st.integers(0, 1_000),
    changes=st.lists(
        st.tuples(st.floats(0.001, 50), st.booleans(), st.integers(0, 1)), max_size=12
    ),
    share=st.floats(0.001, 0.999),
    tariff=st.sampled_from([None, 0, 1]),
)
@settings(max_examples=200, deadline=None)
def test_a_crossing_is_where_the_energy_is_reached(
    seed: int, changes: list[tuple[float, bool, int]], share: float, tariff: int | None
) -> None:
    """At the crossing the energy is the one asked for, and a moment earlier it was less."""
    curve = steady_curve(5_000, pattern=swing(random.Random(seed), 0.5))
    track = EnergyTrack(curve, start_wh=(50.0, 20.0), conducting=True)
    t_s = 0.0
    for wait_s, conducting, register in changes:
        t_s += wait_s
        track.change(t_s, conducting=conducting, tariff=register)
    end_s = t_s + 10.0

    def reached(at_s: float) -> float:
        return track.total_wh(at_s) if tariff is None else track.energy(at_s)[tariff].active_wh

    wanted_wh = reached(0.0) + (reached(end_s) - reached(0.0)) * share
    crossed_s = track.crossing_s(wanted_wh, end_s, tariff)
    if reached(end_s) == reached(0.0):
        assert crossed_s == 0.0
        return
    assert crossed_s is not None
    assert reached(crossed_s) == pytest.approx(wanted_wh, abs=1e-6)
    assert crossed_s < 1e-4 or reached(crossed_s - 1e-4) < wanted_wh


def test_what_has_not_happened_has_no_crossing() -> None:
    """Neither the future nor an energy behind an open contactor is dated."""
    track = track_of()
    assert track.crossing_s(50.0, now_s=20.0) is None
    track.change(30.0, conducting=False)
    assert track.crossing_s(50.0, now_s=1e6) is None
    assert track.crossing_s(30.0, now_s=1e6) == pytest.approx(30)
    assert track.crossing_s(0.5, now_s=1e6, tariff=1) is None


def test_history_is_bounded_and_says_so() -> None:
    """Old pieces are forgotten in halves and counted; a forgotten crossing is None, not wrong."""
    track = track_of()
    for second in range(1, KEPT_PIECES + 2):
        track.change(float(second), conducting=second % 2 == 0)
    assert track.pieces <= KEPT_PIECES
    assert track.forgotten > 0
    assert track.crossing_s(5.5, now_s=1e6) is None
    assert track.crossing_s(KEPT_PIECES / 2 - 0.5, now_s=1e6) == pytest.approx(KEPT_PIECES - 1.5)
