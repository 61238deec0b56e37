"""Who is forecast when: what control remembers of that is bounded by the accounts that are open."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app.control.forecaster import EVERY_MS
from gateway.core.requests import CloseAccount
from tests.app.control_site import ControlSite
from tests.app.test_control import RICH, begin


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ControlSite]:
    """Two flats."""
    made = ControlSite(tmp_path)
    yield made
    made.crash()


async def test_accounts_that_were_closed_are_forgotten(site: ControlSite) -> None:
    """Tenants come and go for years: when each was looked at is known of those who are there."""
    forecaster = site.office.forecaster
    await begin(site)
    await site.open_flat(RICH, index=1)
    forecaster.look()
    forecaster.look()
    assert forecaster._looked_ms.keys() == {"flat-1", "flat-2"}
    await site.do(CloseAccount("flat-1", "moved out", "counter"))
    site.clock.pass_s(EVERY_MS / 1000)
    site.read(5_001, index=1)
    await site.sweeper.sweep()
    forecaster.look()
    assert forecaster._looked_ms.keys() == {"flat-2"}
