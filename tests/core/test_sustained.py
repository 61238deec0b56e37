"""Conditions with hysteresis: raised late, cleared late, and never for a moment's sake."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.sustained import STEP_MAX_S, TOLERANCE, Sustained

looks = st.lists(
    st.tuples(st.sampled_from([True, False, None]), st.floats(0.1, 120.0)), max_size=200
)


def see(held: Sustained, is_so: bool | None, seconds: float, *, span_s: float = 0.0) -> bool:
    """Ten seconds a look, 300 s to raise and 100 s to clear; whether it changed at all."""
    changed = False
    for _ in range(round(seconds / 10)):
        changed |= held.see(10.0, is_so=is_so, hold_s=300.0, clear_s=100.0, span_s=span_s)
    return changed


def test_raised_and_cleared_after_their_times() -> None:
    """290 s are not enough and 300 are; 90 s of the contrary do not clear, 100 do."""
    held = Sustained()
    assert not see(held, is_so=True, seconds=290)
    assert see(held, is_so=True, seconds=10)
    assert held.standing
    assert not see(held, is_so=False, seconds=90)
    assert see(held, is_so=False, seconds=10)
    assert not held.standing


def test_what_tells_nothing_interrupts_nothing() -> None:
    """A load that comes and goes adds up; hours without one do not."""
    held = Sustained()
    for _ in range(5):
        see(held, is_so=None, seconds=3_600)
        assert not held.standing
        see(held, is_so=True, seconds=60)
    assert held.standing


def test_more_than_a_twentieth_of_the_contrary_begins_anew() -> None:
    """15 s of 300 are let pass, 20 are not."""
    held = Sustained()
    see(held, is_so=True, seconds=200)
    see(held, is_so=False, seconds=10)
    assert held.towards_s == 200
    see(held, is_so=False, seconds=10)
    assert held.towards_s == 0


def test_a_span_waits_for_the_clock_too() -> None:
    """Enough evidence within an hour is not enough where a day and a night are asked for."""
    held = Sustained()
    assert not see(held, is_so=True, seconds=3_600, span_s=86_400.0)
    see(held, is_so=None, seconds=82_800)
    assert see(held, is_so=True, seconds=20, span_s=86_400.0)


@given(looks)
def test_it_never_changes_without_its_time_of_evidence(
    seen: list[tuple[bool | None, float]],
) -> None:
    """Between two changes lies at least the time asked for, and almost none of the contrary."""
    held = Sustained()
    towards = against = 0.0
    for is_so, elapsed_s in seen:
        before = held.standing
        step_s = min(elapsed_s, STEP_MAX_S)
        if is_so is not None:
            towards, against = (
                (towards, against + step_s) if is_so is before else (towards + step_s, against)
            )
        if held.see(elapsed_s, is_so=is_so, hold_s=300.0, clear_s=100.0):
            assert held.standing is not before
            assert towards >= (100.0 if before else 300.0) - 1e-6
            towards = against = 0.0
        elif held.towards_s == 0.0:
            towards = against = 0.0
        assert held.against_s <= TOLERANCE * 300.0


@given(looks, looks)
def test_a_restart_goes_on(
    first: list[tuple[bool | None, float]], second: list[tuple[bool | None, float]]
) -> None:
    """State that was kept and restored answers as what was never stopped (whole seconds)."""
    one = Sustained()
    for is_so, elapsed_s in first:
        one.see(round(elapsed_s), is_so=is_so, hold_s=300.0, clear_s=100.0)
    other = Sustained()
    other.restore(one.snapshot())
    for is_so, elapsed_s in second:
        changes = [
            held.see(round(elapsed_s), is_so=is_so, hold_s=300.0, clear_s=100.0)
            for held in (one, other)
        ]
        assert changes[0] == changes[1]
    assert one.snapshot() == other.snapshot()
