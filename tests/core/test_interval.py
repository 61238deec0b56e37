"""Half-hour intervals: every Wh in exactly one of them."""

from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.interval import IntervalMeter

KOLKATA = ZoneInfo("Asia/Kolkata")
HALF_HOUR_MS = 1_800_000
START = 1_800_000_000_000 - 1_800_000_000_000 % HALF_HOUR_MS


def test_a_reading_across_the_boundary_is_split_and_floored() -> None:
    """10 Wh over 20 s, 15 s of them before the half hour ends: 7 and 3."""
    meter = IntervalMeter(KOLKATA, 1)
    assert meter.advance((0,), START, START + 1, 100.0) == []
    end = START + HALF_HOUR_MS
    assert meter.advance((5,), START + 1, end - 15_000, 3000.0) == []
    done = meter.advance((10,), end - 15_000, end + 5_000, 2000.0)
    assert [(item.energy_wh, item.max_power_w, item.readings) for item in done] == [
        ((12,), 3000.0, 2)
    ]
    assert meter.energy_wh == [3]
    assert not done[0].estimated


def test_a_gap_is_spread_and_marked() -> None:
    """Two and a half hours without readings: each half hour gets its share, marked estimated."""
    meter = IntervalMeter(KOLKATA, 2)
    done = meter.advance((500, 5), START, START + 5 * HALF_HOUR_MS, None)
    assert [item.energy_wh for item in done] == [(100, 1)] * 5
    assert all(item.estimated and item.max_power_w is None for item in done)


@given(
    st.lists(
        st.tuples(st.integers(0, 50_000), st.integers(0, 10_000_000)), min_size=1, max_size=40
    ),
    st.sampled_from(["Asia/Kolkata", "Asia/Kathmandu", "Europe/Berlin", "Australia/Lord_Howe"]),
)
def test_no_wh_is_lost_or_doubled(steps: list[tuple[int, int]], zone: str) -> None:
    """The half hours and what is under way add up to all that was settled, without holes."""
    meter = IntervalMeter(ZoneInfo(zone), 1)
    now, total, found = START, 0, 0
    ends: list[tuple[int, int]] = []
    for wh, elapsed_ms in steps:
        for item in meter.advance((wh,), now, now + elapsed_ms, None):
            found += item.energy_wh[0]
            ends.append((item.start_utc_ms, item.end_utc_ms))
        now += elapsed_ms
        total += wh
    assert found + meter.energy_wh[0] == total
    assert all(a[1] == b[0] for a, b in pairwise(ends))
