"""Energy from the customer: counted once, and told once a day."""

import pytest

from gateway.core.export import ExportCounter, ExportDay
from gateway.core.guard import RegisterGuard

NS = 1_000_000_000


def counter() -> ExportCounter:
    """A meter of a 10 kW point that was read at 0 Wh."""
    made = ExportCounter(RegisterGuard(p_max_w=10_000))
    assert made.see(1, 0, (0, 0), disturbed=False) == 0
    return made


def test_advances_count_and_jumps_do_not() -> None:
    """What a point could have fed in counts; a jump is dropped and the next one counts again."""
    meter = counter()
    assert meter.see(2, 10 * NS, (20, 5), disturbed=False) == 25
    assert meter.see(3, 11 * NS, (1_000_020, 5), disturbed=False) == 0
    assert meter.see(4, 12 * NS, (1_000_022, 5), disturbed=False) == 2


def test_a_day_is_told_once() -> None:
    """At the first moment of the day that is above the limit, with the day's energy."""
    day = ExportDay()
    told = [day.see(1, 40, alarm_wh=100) for _ in range(5)]
    assert told == [None, None, 120, None, None]
    kept = ExportDay()
    kept.restore(day.snapshot())
    assert kept.see(1, 500, alarm_wh=100) is None
    assert kept.see(2, 500, alarm_wh=100) == 500


def test_registers_that_cannot_be_are_refused() -> None:
    """The guard's own check: the watchman leaves such a reading out."""
    with pytest.raises(ValueError, match="outside"):
        counter().see(2, NS, (-1, 0), disturbed=False)
