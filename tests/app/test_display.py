"""What control shows and keeps of readings."""

from pathlib import Path
from typing import cast

from tests.app.control_site import START_MS, ControlSite


async def test_energy_before_the_clock_is_trusted_falls_into_the_first_half_hour(
    tmp_path: Path,
) -> None:
    """A new site has no wall label at first: no half hour since 1970 is made up, no Wh is lost."""
    site = ControlSite(tmp_path)
    try:
        site.read(1_000)
        site.clock.pass_s(1)
        site.read(1_002)
        assert "flat-1" not in site.display.snapshot()
        await site.sweeper.sweep()
        site.clock.pass_s(1)
        site.read(1_003)
        start_ms, _, energy_wh = cast("list[object]", site.display.snapshot()["flat-1"])[:3]
        assert not site.keeper._intervals
        assert START_MS - 1_800_000 < cast("int", start_ms) <= START_MS
        assert energy_wh == [3, 0]
    finally:
        site.crash()
