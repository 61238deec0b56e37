"""Eight hundred meters in one process."""

import pytest

from bench.simulator import measure

METERS = 800
SECONDS = 5.0
READS_PER_POLL = 3


@pytest.mark.alone
async def test_one_process_serves_eight_hundred_meters() -> None:
    """Every one of 2,400 requests a second is answered, and memory stays small."""
    figures = await measure(METERS, SECONDS)
    assert figures.failed == 0
    assert figures.answered == METERS * SECONDS * READS_PER_POLL
    assert figures.rss_mb < 150
