"""The clock object: exact, shared between processes, faster where a demo asks."""

import asyncio
import math
import subprocess
import sys
import time

import pytest

from gateway.app.clock import SystemClock, seeded
from gateway.core.clock import Clock

NS_PER_S = 1_000_000_000


def test_fits_the_protocol_of_core() -> None:
    """The rules take a SystemClock as their Clock (mypy checks the assignment)."""
    clock: Clock = SystemClock()
    assert clock.mono_ns() > 0


def test_real_speed_shows_the_real_time() -> None:
    """At speed 1 the wall label lies between two readings of the real wall clock."""
    clock = SystemClock()
    before_ms = time.time_ns() // 1_000_000
    shown_ms = clock.utc_ms()
    after_ms = time.time_ns() // 1_000_000
    assert before_ms <= shown_ms <= after_ms


def test_monotonic_time_never_goes_back() -> None:
    """Ten thousand readings are in order, at a speed that has no exact binary fraction."""
    clock = SystemClock(speed=0.1)
    readings = [clock.mono_ns() for _ in range(10_000)]
    assert readings == sorted(readings)


def test_speed_scales_both_clocks_alike() -> None:
    """At speed 60, monotonic and wall time advance sixty times the real monotonic time."""
    clock = SystemClock(speed=60)
    real_0, mono_0, utc_0 = time.monotonic_ns(), clock.mono_ns(), clock.utc_ms()
    time.sleep(0.05)
    mono_1, utc_1, real_1 = clock.mono_ns(), clock.utc_ms(), time.monotonic_ns()
    real_ns = real_1 - real_0
    assert 60 * 50_000_000 <= mono_1 - mono_0 <= 60 * real_ns
    assert 60 * 50 - 60 <= utc_1 - utc_0 <= 60 * real_ns / 1_000_000 + 60


def test_an_epoch_lies_where_it_was_said() -> None:
    """A clock of speed 10 whose epoch is one real hour ago shows ten hours after its epoch."""
    epoch_utc_ms = time.time_ns() // 1_000_000 - 3_600_000
    clock = SystemClock(speed=10, epoch_utc_ms=epoch_utc_ms)
    assert abs(clock.utc_ms() - (epoch_utc_ms + 36_000_000)) < 1_000


@pytest.mark.slow
def test_processes_of_one_epoch_agree() -> None:
    """Another process with the same speed and epoch shows the same UTC and monotonic time."""
    epoch_utc_ms = time.time_ns() // 1_000_000
    program = (
        "from gateway.app.clock import SystemClock; "
        f"clock = SystemClock(speed=5, epoch_utc_ms={epoch_utc_ms}); "
        "print(clock.utc_ms(), clock.mono_ns())"
    )
    clock = SystemClock(speed=5, epoch_utc_ms=epoch_utc_ms)
    utc_0, mono_0 = clock.utc_ms(), clock.mono_ns()
    answer = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=30
    )
    utc_1, mono_1 = clock.utc_ms(), clock.mono_ns()
    other_utc_ms, other_mono_ns = (int(word) for word in answer.stdout.split())
    assert utc_0 <= other_utc_ms <= utc_1
    assert mono_0 <= other_mono_ns <= mono_1


async def test_sleep_is_shorter_in_a_faster_clock() -> None:
    """Two seconds of a clock of speed 100 take about twenty real milliseconds."""
    clock = SystemClock(speed=100)
    started = asyncio.get_running_loop().time()
    await clock.sleep(2.0)
    assert 0.019 <= asyncio.get_running_loop().time() - started < 1.0


def test_loop_delay_is_never_negative() -> None:
    """A due time that has passed asks the loop for no delay, not for a negative one."""
    clock = SystemClock(speed=4)
    assert clock.loop_delay_s(2.0) == 0.5
    assert clock.loop_delay_s(-1.0) == 0.0


@pytest.mark.parametrize("speed", [0.0, -1.0, 1e6, math.inf, math.nan])
def test_a_speed_out_of_range_is_refused(speed: float) -> None:
    """A speed that would stop, reverse or blur time raises ValueError."""
    with pytest.raises(ValueError, match="speed is"):
        SystemClock(speed=speed)


def test_a_seed_repeats_its_sequence() -> None:
    """The same seed gives the same sequence, another seed another one."""
    first, again, other = seeded("site-1"), seeded("site-1"), seeded("site-2")
    drawn = [first.random() for _ in range(5)]
    assert drawn == [again.random() for _ in range(5)]
    assert drawn != [other.random() for _ in range(5)]


def test_monotonic_time_is_exact_beyond_a_float() -> None:
    """At speed 1 the time is the operating system's to the nanosecond, however long it runs."""
    clock = SystemClock()
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    shown = clock.mono_ns()
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert before <= shown <= after
    assert after - before < NS_PER_S
