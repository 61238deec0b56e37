"""Days left, from readings through the real control to the row in the ledger's file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app.control.forecaster import EVERY_MS
from gateway.core.requests import CloseAccount, Recharge
from gateway.store.forecasts import STALE_MS, AccountForecast, read_forecast
from gateway.store.forecasts import save_forecast as save
from tests.app.control_site import PRICE_NANO, ControlSite
from tests.app.test_control import RICH, begin

NANO = 10**9
STEP_S = 30
WH_PER_STEP = 10
WH_PER_DAY = WH_PER_STEP * 86_400 // STEP_S
# A day of use, without the month's fee: that falls due at the end of January only.
DAY_NANO = WH_PER_DAY * PRICE_NANO


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ControlSite]:
    """Two meters, read once, clock trusted."""
    made = ControlSite(tmp_path)
    made.read(1_000)
    made.read(5_000, index=1)
    yield made
    made.crash()


def forecast_of(site: ControlSite) -> AccountForecast | None:
    """What is on file of flat 1."""
    return read_forecast(site.file.connection, "flat-1")


async def use(site: ControlSite, hours: int, *, start_wh: int = 1_000) -> int:
    """Draw 1.2 kW for so long, swept after every reading; the register then."""
    wh = start_wh
    for _ in range(hours * 3_600 // STEP_S):
        site.clock.pass_s(STEP_S)
        wh += WH_PER_STEP
        site.read(wh)
        await site.sweeper.sweep()
        site.office.after_sweep()
    return wh


async def test_nothing_is_known_of_a_new_account(site: ControlSite) -> None:
    """Before the first use there is a row, and no number in it."""
    await site.sweeper.sweep()
    await site.open_flat(3 * DAY_NANO)
    assert forecast_of(site) is None
    site.office.after_sweep()
    found = forecast_of(site)
    assert found is not None
    assert (found.days_left_tenths, found.cut_utc_ms, found.confidence) == (None, None, "none")


@pytest.mark.slow
async def test_days_left_follow_use_and_a_recharge_at_once(site: ControlSite) -> None:
    """Three days of credit at 1.2 kW are three days; who has paid does not wait half an hour."""
    await site.sweeper.sweep()
    await site.open_flat(3 * DAY_NANO)
    wh = await use(site, 3)
    found = forecast_of(site)
    assert found is not None
    assert found.days_left_tenths in (28, 29)
    assert found.confidence == "low"
    assert found.cut_utc_ms == found.zero_utc_ms
    assert found.cut_utc_ms is not None
    assert found.top_up_by_utc_ms is not None
    assert found.utc_ms < found.top_up_by_utc_ms < found.cut_utc_ms
    assert found.beyond_horizon is False

    await site.do(Recharge("flat-1", 2 * DAY_NANO))
    site.clock.pass_s(1)
    site.read(wh)
    await site.sweeper.sweep()
    site.office.after_sweep()
    later = forecast_of(site)
    assert later is not None
    assert later.utc_ms - found.utc_ms < 30 * 60_000
    assert later.days_left_tenths in (48, 49)


@pytest.mark.slow
async def test_without_a_recharge_an_account_is_looked_at_every_half_hour(
    site: ControlSite,
) -> None:
    """An hour of sweeps writes twice."""
    await site.sweeper.sweep()
    await site.open_flat(3 * DAY_NANO)
    wh = await use(site, 2)
    seen = set()
    for _ in range(3_600 // STEP_S):
        wh += WH_PER_STEP
        site.clock.pass_s(STEP_S)
        site.read(wh)
        await site.sweeper.sweep()
        site.office.after_sweep()
        found = forecast_of(site)
        assert found is not None
        seen.add(found.utc_ms)
    first, second = sorted(seen)
    assert second - first == 30 * 60_000


async def test_a_closed_account_is_looked_at_no_more(site: ControlSite) -> None:
    """Its last row stays as it was."""
    await site.sweeper.sweep()
    await site.open_flat(3 * DAY_NANO)
    wh = await use(site, 1)
    await site.do(CloseAccount("flat-1", "moved out", "counter"))
    found = forecast_of(site)
    await use(site, 1, start_wh=wh)
    assert forecast_of(site) == found


@pytest.mark.parametrize(
    ("age_ms", "stale"),
    [(0, False), (STALE_MS, False), (STALE_MS + 1, True), (-STALE_MS - 1, True)],
)
def test_an_old_row_is_stale(site: ControlSite, age_ms: int, *, stale: bool) -> None:
    """So is one of a future that a wrong clock had seen; what is read is what was written."""
    kept = AccountForecast("flat-1", 10**12, 600, None, None, None, "good", beyond_horizon=True)
    save(site.file.connection, kept)
    found = read_forecast(site.file.connection, "flat-1")
    assert found == kept
    assert found.is_stale(10**12 + age_ms) is stale


async def test_accounts_that_were_closed_are_forgotten(site: ControlSite) -> None:
    """Tenants come and go for years: when each was looked at is known of those who are there."""
    forecaster = site.office.forecaster
    await begin(site)
    await site.open_flat(RICH, index=1)
    forecaster.look()
    forecaster.look()
    assert forecaster._looked.keys() == {"flat-1", "flat-2"}
    await site.do(CloseAccount("flat-1", "moved out", "counter"))
    site.clock.pass_s(EVERY_MS / 1000)
    site.read(5_001, index=1)
    await site.sweeper.sweep()
    forecaster.look()
    assert forecaster._looked.keys() == {"flat-2"}
