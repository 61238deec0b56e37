"""When a meter is looked at next: never later than full power allows, and not more than helps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.foresight import LOOK_MIN_S, look_again_s


def look(left_wh: float, part_wh: float = 0.0, power_w: float | None = None) -> float | None:
    """A 3 kW point, registers renewed every 0.2 s, polled every second."""
    return look_again_s(
        left_wh, part_wh, p_max_w=3_000, power_w=power_w, refresh_s=0.2, period_s=1.0
    )


def test_full_power_decides_and_not_the_power_of_now() -> None:
    """1.5 Wh with half of one used: 1.5 Wh to go to the end of the second, none of it at 100 W."""
    assert look(1.5) is None
    assert look(1.5, part_wh=0.5, power_w=100.0) is None
    assert look(1.0, part_wh=0.5, power_w=100.0) == pytest.approx(0.6)
    assert look(0.4, part_wh=0.5, power_w=100.0) == pytest.approx(0.6)


def test_a_meter_that_shows_whole_wh_is_looked_at_with_every_renewal_of_the_last() -> None:
    """The last Wh may be nearly used: what cannot be seen is not waited for."""
    assert look(1.0) == pytest.approx(0.2)
    assert look(0.01) == LOOK_MIN_S


def test_the_last_moment_is_looked_at_more_often_only_while_power_flows() -> None:
    """0.1 Wh: at 2 kW over within a renewal; without load there is nothing to see before one."""
    assert look(1.0, part_wh=0.9, power_w=2_000.0) == LOOK_MIN_S
    for power_w in (0.0, None, 100.0, -500.0):
        assert look(1.0, part_wh=0.9, power_w=power_w) == pytest.approx(0.2)


def test_free_energy_needs_no_look() -> None:
    """What costs nothing ends no credit."""
    assert look(float("inf")) is None
    assert look(float("inf"), part_wh=0.3) is None


@given(
    left_wh=st.floats(0.0, 50.0),
    part_wh=st.floats(0.0, 0.999),
    power_w=st.none() | st.floats(-1e4, 1e4),
)
def test_what_flows_unseen_stays_within_the_promise(
    left_wh: float, part_wh: float, power_w: float | None
) -> None:
    """Full power from now to the next look passes zero by a Wh and a renewal at most."""
    seconds = look(left_wh, part_wh, power_w)
    assert seconds is None or LOOK_MIN_S <= seconds < 1.0
    flowing_wh = 3_000 * (1.0 if seconds is None else seconds) / 3600
    assert flowing_wh <= max(left_wh - part_wh, 0.0) + 1 + 3_000 * 0.2 / 3600 + 1e-9
