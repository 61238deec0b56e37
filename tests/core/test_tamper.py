"""Signs of tampering: seen once, kept until a person answers, and never ours."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import RefusedError
from gateway.core.tamper import ANNOUNCED_MAX_S, Found, Look, Sign, TamperWatch

BASE = (3, 7, 0)


def look(counters: tuple[int, ...] | None = BASE, **more: Any) -> Look:
    """A reading with nothing odd but what is given."""
    return Look(counters, more.pop("reset_bit", False), **more)


def see(watch: TamperWatch, seen: Look, *, at: int = 1_000, watched: bool = True) -> Found:
    """Two readings in a row that show the same; what both found."""
    found = [watch.see(seen, utc_ms=at + n, watched=watched) for n in range(2)]
    return Found(
        tuple(sign for one in found for sign in one.suspected),
        "".join(one.settings for one in found),
        any(one.changed for one in found),
    )


def signs(found: Found) -> list[Sign]:
    """Which signs are new."""
    return [one.sign for one in found.suspected]


@pytest.fixture
def watch() -> TamperWatch:
    """A meter that was read before."""
    made = TamperWatch()
    assert signs(see(made, look())) == []
    return made


@pytest.mark.parametrize("moved", [(4, 7, 0), (3, 8, 0), (3, 7, 1), (3, 6, 0)])
def test_a_counter_that_moved_is_a_sign(watch: TamperWatch, moved: tuple[int, ...]) -> None:
    """Any of the three, up or down; told once, with both sets of counters."""
    found = see(watch, look(moved))
    assert signs(found) == [Sign.SETTINGS_CHANGED]
    assert "3/7/0" in found.suspected[0].detail
    assert "/".join(map(str, moved)) in found.suspected[0].detail
    assert signs(see(watch, look(moved))) == []
    assert watch.suspected


def test_one_odd_reading_is_no_sign(watch: TamperWatch) -> None:
    """Two readings in a row must agree."""
    assert signs(watch.see(look((9, 9, 9)), utc_ms=1, watched=True)) == []
    assert signs(see(watch, look())) == []
    assert watch.counters == BASE


def test_announced_and_unwatched_changes_are_told_and_are_no_sign(watch: TamperWatch) -> None:
    """A technician at work, and a point that is not in service yet; the base follows."""
    watch.announce(1_000, for_s=60)
    found = see(watch, look((5, 9, 0)), at=50_000)
    assert (signs(found), found.settings) == ([], "change counters 3/7/0 are now 5/9/0")
    assert signs(see(watch, look((5, 10, 0)), at=62_000)) == [Sign.SETTINGS_CHANGED]
    other = TamperWatch()
    see(other, look(), watched=False)
    found = see(other, look((4, 8, 0)), watched=False)
    assert signs(found) == []
    assert found.settings


def test_an_announcement_ends_with_a_clock_that_was_set_back(watch: TamperWatch) -> None:
    """A wall clock days back must not excuse everything for days."""
    watch.announce(90_000_000_000, for_s=60)
    assert signs(see(watch, look((4, 8, 0)), at=1_000)) == [Sign.SETTINGS_CHANGED]


def test_counters_that_fell_with_the_power_are_no_sign(watch: TamperWatch) -> None:
    """Whether a device keeps them is not documented; without a power cut a fall is a sign."""
    watch.see(look((0, 0, 0), disturbed=True), utc_ms=1, watched=True)
    found = watch.see(look((0, 0, 0)), utc_ms=2, watched=True)
    assert (signs(found), bool(found.settings)) == ([], True)
    watch.see(look((1, 0, 0), disturbed=True), utc_ms=3, watched=True)
    assert signs(watch.see(look((1, 0, 0)), utc_ms=4, watched=True)) == [Sign.SETTINGS_CHANGED]


def test_resets_and_supply_behind_an_open_output(watch: TamperWatch) -> None:
    """The guard's verdict, the meter's own bit, the supply's alarm: each its own sign."""
    assert signs(watch.see(look(was_reset=True), utc_ms=1, watched=True)) == [Sign.METER_RESET]
    assert signs(see(watch, look(reset_bit=True))) == [Sign.COUNTERS_RESET]
    assert signs(see(watch, look(reset_bit=True, unauthorised=True))) == [Sign.UNAUTHORISED_SUPPLY]
    assert watch.acknowledge() == (
        Sign.METER_RESET,
        Sign.COUNTERS_RESET,
        Sign.UNAUTHORISED_SUPPLY,
    )
    # What still stands was answered for; it is news again only after it was over.
    assert signs(see(watch, look(reset_bit=True, unauthorised=True))) == []
    see(watch, look())
    assert signs(see(watch, look(reset_bit=True))) == [Sign.COUNTERS_RESET]


def test_a_bit_that_stood_at_the_first_look_says_nothing() -> None:
    """A meter comes from its last place with the bit set."""
    watch = TamperWatch()
    assert signs(see(watch, look(reset_bit=True))) == []


def test_announced_work_excuses_resets_and_never_a_bridge(watch: TamperWatch) -> None:
    """Who works at a meter may reset it; supply behind an open output is no work."""
    watch.announce(1_000, for_s=60)
    assert signs(see(watch, look(was_reset=True, reset_bit=True))) == []
    assert signs(see(watch, look(unauthorised=True))) == [Sign.UNAUTHORISED_SUPPLY]


def test_refusals(watch: TamperWatch) -> None:
    """Nothing to answer for, and an announcement without end."""
    with pytest.raises(RefusedError, match="no sign") as caught:
        watch.acknowledge()
    assert caught.value.refusal_code == "NOTHING_SUSPECTED"
    for seconds in (0, -1, ANNOUNCED_MAX_S + 1):
        with pytest.raises(RefusedError) as caught:
            watch.announce(0, for_s=seconds)
        assert caught.value.refusal_code == "ANNOUNCED_RANGE"


def test_another_device_has_other_counters(watch: TamperWatch) -> None:
    """After an exchange the counters are a base; a sign of the old device stands."""
    see(watch, look((4, 7, 0)))
    watch.replaced()
    assert signs(see(watch, look((90, 91, 92), reset_bit=True))) == []
    assert list(watch.signs) == [Sign.SETTINGS_CHANGED]


@given(
    st.lists(
        st.builds(
            Look,
            st.one_of(st.none(), st.tuples(st.integers(0, 2), st.integers(0, 2))),
            st.one_of(st.none(), st.booleans()),
            was_reset=st.booleans(),
            unauthorised=st.booleans(),
        ),
        max_size=30,
    ),
    st.integers(0, 29),
)
def test_signs_latch_and_survive_a_restart(looks: list[Look], at: int) -> None:
    """No sign goes without a person; one that is kept at any moment answers like one that is not.

    (Counters that were seen once only are asked for again after a restart.)
    """
    watch, kept = TamperWatch(), TamperWatch()
    for place, seen in enumerate(looks):
        before = set(watch.signs)
        found = watch.see(seen, utc_ms=place, watched=True)
        assert before <= set(watch.signs)
        assert {one.sign for one in found.suspected} == set(watch.signs) - before
        if found.changed or place == at:
            kept = TamperWatch()
            kept.restore(watch.snapshot())
            assert kept.snapshot() == watch.snapshot()
            assert kept.signs == watch.signs
