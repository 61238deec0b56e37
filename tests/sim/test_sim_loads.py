"""Load curves: closed formulas against numeric integration."""

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.sim.loads import (
    DAY_S,
    FLAT,
    HOUSEHOLD,
    PATTERN_S,
    QUARTERS,
    SHOP,
    LoadCurve,
    Mains,
    Profile,
    Quarter,
    Swing,
    profile_curve,
    steady_curve,
    swing,
)


def curve_of(seed: int, profile: Profile = HOUSEHOLD, day_start_s: float = 61_234.5) -> LoadCurve:
    return profile_curve(profile, random.Random(seed), swing_share=0.5, day_start_s=day_start_s)


@pytest.mark.parametrize("start_s", [0.0, 25_000.0, 2.5 * DAY_S - 40.0])
def test_energy_equals_the_numeric_integral_of_power(start_s: float) -> None:
    """The closed formula is the area under `power_w`, over quarter, pattern and midnight edges."""
    curve = curve_of(7)
    step_s = 0.05  # a divisor of every swing step
    steps = 40_000
    area_wh = sum(curve.power_w(start_s + (n + 0.5) * step_s) for n in range(steps)) * step_s / 3600
    exact_wh = curve.energy_wh(start_s + steps * step_s) - curve.energy_wh(start_s)
    # The start may fall inside a step of the swing: one sample's worth of power may differ.
    assert math.isclose(exact_wh, area_wh, rel_tol=1e-5)


@given(seed=st.integers(0, 50), t_s=st.floats(0, 40 * DAY_S))
@settings(max_examples=200, deadline=None)
def test_time_of_energy_inverts_energy(seed: int, t_s: float) -> None:
    """The inverse returns the instant, to a microsecond, over forty days."""
    curve = curve_of(seed)
    assert math.isclose(curve.time_of_energy(curve.energy_wh(t_s)), t_s, abs_tol=1e-5)


@given(seed=st.integers(0, 20), t_s=st.floats(0, 3 * DAY_S), gap_s=st.floats(0, 5_000))
@settings(max_examples=100, deadline=None)
def test_energy_never_falls(seed: int, t_s: float, gap_s: float) -> None:
    """Later is never less, in any of the three energies."""
    curve = curve_of(seed, SHOP)
    before, after = curve.energy(t_s), curve.energy(t_s + gap_s)
    assert all(late >= early - 1e-9 for early, late in zip(before, after, strict=True))


def test_reactive_and_apparent_follow_the_power_factor() -> None:
    """S² = P² + Q² and P = S · PF for a load with one power factor."""
    energy = steady_curve(3_000, power_factor=0.8).energy(7_200)
    assert energy.active_wh == pytest.approx(6_000)
    assert energy.apparent_vah == pytest.approx(7_500)
    assert energy.reactive_varh == pytest.approx(4_500)


@pytest.mark.parametrize("profile", [HOUSEHOLD, SHOP])
def test_profiles_stay_below_their_breaker(profile: Profile) -> None:
    """With a swing of 50 % no customer of 200 exceeds p_max, and none leaves PF 0.8 to 0.95."""
    for seed in range(200):
        curve = curve_of(seed, profile)
        assert 0 < curve.trough_w < curve.peak_w <= profile.p_max_w
        assert all(0.8 <= curve.quarter(900.0 * n).power_factor <= 0.95 for n in range(QUARTERS))


def test_a_household_has_its_evening_and_a_shop_its_day() -> None:
    """Over many customers the profiles have the shapes their names say."""

    def mean_w(profile: Profile, hour: float) -> float:
        curves = [curve_of(seed, profile, day_start_s=0.0) for seed in range(40)]
        return sum(c.energy_wh((hour + 1) * 3600) - c.energy_wh(hour * 3600) for c in curves)

    assert mean_w(HOUSEHOLD, 20) > 2 * mean_w(HOUSEHOLD, 14) > 2 * mean_w(HOUSEHOLD, 3)
    assert mean_w(SHOP, 12) > 4 * mean_w(SHOP, 3)


def test_power_swings_within_a_second() -> None:
    """A swing of 50 % moves the power by tens of percent between neighbouring seconds."""
    curve = steady_curve(3_000, pattern=swing(random.Random(3), 0.5))
    powers = [curve.power_w(float(second)) for second in range(120)]
    assert 1_500 <= min(powers) < 2_000
    assert 4_000 < max(powers) <= 4_500
    assert max(abs(a - b) for a, b in pairwise(powers)) > 1_500


def test_no_load_never_reaches_an_energy() -> None:
    """A load of 0 W has no crossing, and any load has reached 0 Wh at once."""
    assert steady_curve(0).time_of_energy(1.0) == math.inf
    assert steady_curve(10).time_of_energy(0.0) == 0.0


def test_a_pause_within_the_day_is_crossed_at_its_first_instant() -> None:
    """Energy reached before hours without load is dated before them, not after."""
    quarters = [Quarter(1_000 if n < 4 else 0, 0.9) for n in range(QUARTERS)]
    curve = LoadCurve(quarters, FLAT, 0.0)
    assert curve.time_of_energy(1_000) == pytest.approx(3_600)
    assert curve.time_of_energy(1_001) == pytest.approx(DAY_S + 3.6)


@pytest.mark.parametrize(
    ("factors", "step_s"), [((1.0,), 1.0), ((1.0, 0.0), PATTERN_S / 2), ((-1.0,), PATTERN_S)]
)
def test_a_swing_that_does_not_fit_is_refused(factors: tuple[float, ...], step_s: float) -> None:
    """Patterns that leave time undefined or stop the load are errors of the caller."""
    with pytest.raises(ValueError, match=r"steps|positive"):
        Swing(factors, step_s)


def test_voltage_and_frequency_stay_in_their_bands() -> None:
    """220 V ± 10 % and 50 Hz ± 0.1 at every customer, and not constant."""
    for seed in range(100):
        mains = Mains(random.Random(seed))
        volts = [mains.voltage_v(0.37 * n) for n in range(2_000)]
        assert 198 <= min(volts) < max(volts) <= 242
        assert max(volts) - min(volts) > 2
        assert all(49.9 < mains.frequency_hz(n * 1.3) < 50.1 for n in range(200))
