"""A quarter of the meters swallowed by the network: the others miss no poll (promise 12)."""

from pathlib import Path

import pytest

from tests.faults.dead_quarter import measure

pytestmark = pytest.mark.slow


async def test_a_black_holed_quarter_costs_the_others_no_poll(tmp_path: Path) -> None:
    """60 meters, 15 dead: 45 are read every second, as before."""
    alive, quarter = await measure(60, 15, 7.0, tmp_path)
    assert (alive.dead, quarter.dead) == (0, 15)
    assert alive.readings >= 60 * 2
    assert quarter.readings >= 45 * 2
    assert quarter.missed <= alive.missed, f"{alive}\n{quarter}"
