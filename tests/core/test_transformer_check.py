"""Current transformers judged while they run: wrong ones are found, roofs and motors are not."""

import math
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.phases import PhaseValues
from gateway.core.transformer_check import (
    Suspicion,
    TotalValues,
    TransformerChange,
    TransformerCheck,
    TransformerLimits,
    TransformerTerms,
)

STEP_S = 10.0
LIMITS = TransformerLimits()
DAY_S = 86_400


def phase(
    name: str, active_w: float, *, degrees: float = 25.0, volts: float = 230.0
) -> PhaseValues:
    """A phase whose meter is right: S = U x I, P = S x cos; negative power turns the current."""
    if active_w == 0:
        return PhaseValues(name, volts, 0.0, 0.0, 0.0)
    apparent = abs(active_w) / math.cos(math.radians(degrees))
    reactive = math.copysign(apparent * math.sin(math.radians(degrees)), active_w)
    return PhaseValues(name, volts, apparent, active_w, reactive, apparent / volts)


def three(*watts: float) -> list[PhaseValues]:
    """L1 to L3."""
    return [phase(f"L{number}", power) for number, power in enumerate(watts, 1)]


def check(*, may_feed_in: bool = False, primary_a: float | None = None) -> TransformerCheck:
    """A point of 22 kW."""
    return TransformerCheck(TransformerTerms(22_000, primary_a, may_feed_in), LIMITS)


def run(
    held: TransformerCheck, seconds: float, phases: Sequence[PhaseValues]
) -> list[TransformerChange]:
    """The same values for so long."""
    total = TotalValues(sum(one.active_w for one in phases), sum(one.apparent_va for one in phases))
    found: list[TransformerChange] = []
    for _ in range(round(seconds / STEP_S)):
        found += held.see(phases, total, STEP_S)
    return found


def told(changes: Iterable[TransformerChange]) -> list[tuple[Suspicion, str, bool]]:
    """What was raised and cleared."""
    return [(one.suspicion, one.phase, one.standing) for one in changes]


def test_a_reversed_phase_is_named_and_cleared() -> None:
    """L2 backwards for half an hour; turned round, over after a quarter."""
    held = check()
    assert run(held, 1_790, three(800, -500, 900)) == []
    (change,) = run(held, 10, three(800, -500, 900))
    assert told([change]) == [(Suspicion.REVERSED, "L2", True)]
    assert "-500 W" in change.evidence
    assert run(held, 890, three(800, 500, 900)) == []
    assert told(run(held, 10, three(800, 500, 900))) == [(Suspicion.REVERSED, "L2", False)]


def test_all_phases_reversed_are_three_suspicions() -> None:
    """Each transformer is a visit of its own."""
    names = [one.phase for one in run(check(), 1_800, three(-800, -500, -900))]
    assert names == ["L1", "L2", "L3"]


def test_the_total_speaks_where_no_phase_does() -> None:
    """A three-wire connection leaves its phases undefined."""
    held, nothing = check(), three(0, 0, 0)
    found: list[TransformerChange] = []
    for _ in range(180):
        found += held.see(nothing, TotalValues(-3_000.0, 3_200.0), STEP_S)
    assert told(found) == [(Suspicion.REVERSED, "total", True)]


def test_a_motor_that_brakes_does_not_alarm() -> None:
    """A lift: a minute up, twenty seconds back, all day."""
    held = check()
    for _ in range(500):
        assert run(held, 60, three(4_000, 4_000, 4_000)) == []
        assert run(held, 20, three(-2_000, -2_000, -2_000)) == []


@pytest.mark.slow
def test_a_roof_does_not_alarm_where_it_may_feed_in() -> None:
    """Eleven hours of sun, then the evening's load, for a week; the same without leave does."""
    held = check(may_feed_in=True)
    for _ in range(7):
        assert run(held, 11 * 3_600, three(-3_000, 200, 200)) == []
        assert run(held, 13 * 3_600, three(600, 200, 200)) == []
    assert told(run(check(), 11 * 3_600, three(-3_000, 200, 200))) == [
        (Suspicion.REVERSED, "L1", True)
    ]


def test_a_reversed_transformer_is_found_where_feed_in_is_allowed() -> None:
    """Never taking energy for a day and a night is no roof."""
    held = check(may_feed_in=True)
    assert run(held, DAY_S - 20, three(-400, 300, 300)) == []
    assert told(run(held, 40, three(-400, 300, 300))) == [(Suspicion.REVERSED, "L1", True)]


def test_nearly_pure_reactive_power_tells_no_direction() -> None:
    """Filters at night: the transformer's own phase error may turn the sign."""
    held = check()
    odd = [PhaseValues(f"L{n}", 230.0, 60.0, -6.0, -59.0, 0.26) for n in (1, 2, 3)]
    assert run(held, DAY_S, odd) == []


def test_more_than_breaker_or_transformer_carries() -> None:
    """Five minutes above 120 %; a start of a minute is none."""
    held = check(primary_a=30.0)
    assert run(held, 60, three(11_000, 9_000, 9_000)) == []
    assert run(held, 3_600, three(6_000, 6_000, 6_000)) == []
    found = told(run(held, 300, three(11_000, 9_000, 9_000)))
    assert found == [(Suspicion.OVERLOADED, "total", True)] + [
        (Suspicion.OVERLOADED, name, True) for name in ("L1", "L2", "L3")
    ]


@pytest.mark.slow
def test_a_transformer_that_is_far_too_large() -> None:
    """600 A for a flat of 3 A: below 1 % for a week. One evening of cooking, and it is not."""
    held = check(primary_a=600.0)
    assert run(held, 7 * DAY_S - 100, three(600, 500, 400)) == []
    assert told(run(held, 200, three(600, 500, 400))) == [(Suspicion.OVERSIZED, "total", True)]
    held = check(primary_a=600.0)
    for _ in range(9):
        assert run(held, DAY_S - 7_200, three(600, 500, 400)) == []
        assert run(held, 7_200, three(2_500, 500, 400)) == []


def test_values_that_contradict_each_other() -> None:
    """More active than apparent power, or apparent power apart from U x I."""
    wrong = [PhaseValues("L1", 230.0, 500.0, 800.0, 0.0, 500 / 230), *three(0, 300, 300)[1:]]
    assert told(run(check(), 300, wrong)) == [(Suspicion.CONTRADICTION, "L1", True)]
    apart = [PhaseValues("L1", 230.0, 900.0, 800.0, 0.0, 10.0), *three(0, 300, 300)[1:]]
    assert told(run(check(), 300, apart)) == [(Suspicion.CONTRADICTION, "L1", True)]


def test_undefined_totals_are_no_overload() -> None:
    """NaN says nothing."""
    held = check()
    for _ in range(100):
        assert held.see(three(100, 100, 100), TotalValues(math.nan, math.nan), STEP_S) == []


def test_a_restart_goes_on_and_forgets_what_it_does_not_know() -> None:
    """Half of the wait before it, half after; what stands is not told again."""
    held = check()
    run(held, 1_000, three(800, -500, 900))
    other = check()
    other.restore({**held.snapshot(), "unknown L1": [True, 0, 0, 0]})
    assert told(run(other, 800, three(800, -500, 900))) == [(Suspicion.REVERSED, "L2", True)]
    third = check()
    third.restore(other.snapshot())
    assert third.standing == ((Suspicion.REVERSED, "L2"),)
    assert run(third, 3_600, three(800, -500, 900)) == []


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.floats(0, 7_000), st.floats(0, 7_000), st.floats(0, 7_000), st.floats(-9, 49)),
        max_size=200,
    )
)
@pytest.mark.parametrize("may_feed_in", [True, False])
def test_no_honest_load_is_suspect(
    may_feed_in: bool, loads: list[tuple[float, float, float, float]]
) -> None:
    """Any load within breaker and power factor, however it swings, never alarms."""
    held = check(may_feed_in=may_feed_in, primary_a=32.0)
    for first, second, third, degrees in loads:
        phases = [
            phase(f"L{n}", power, degrees=degrees)
            for n, power in enumerate((first, second, third), 1)
        ]
        changes = run(held, 60, phases)
        assert [one for one in changes if one.suspicion is not Suspicion.OVERLOADED] == []
        assert all(one.phase != "total" for one in changes)
