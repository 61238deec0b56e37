"""How long the credit lasts, in the account's view over a real ledger."""

from gateway.core.credit import PaymentMode
from gateway.core.requests import Role
from gateway.store.forecasts import AccountForecast, save_forecast
from gateway.store.registry import Account, close_account, open_account
from tests.north.conftest import Served

API = "/api/v1"
HOUR_MS = 3_600_000


def keep(site: Served, account_id: str, *, age_ms: int = 0, tenths: int | None = 34) -> int:
    """Write a forecast as control does; its time."""
    utc_ms = site.context.clock.utc_ms() - age_ms
    known = tenths is not None
    kept = AccountForecast(
        account_id,
        utc_ms,
        tenths,
        utc_ms + 80 * HOUR_MS if known else None,
        utc_ms + 82 * HOUR_MS if known else None,
        utc_ms + 60 * HOUR_MS if known else None,
        "fair" if known else "none",
    )
    site.executor.ledger.write(lambda connection: save_forecast(connection, kept))
    return utc_ms


async def test_days_left_stand_in_the_account_and_in_the_list(site: Served) -> None:
    """Days, instants, confidence and time are those of the row; null before the first."""
    client = await site.client(Role.AUDITOR)
    assert (await client.get(f"{API}/accounts/flat-1")).json()["forecast"] is None
    keep(site, "flat-1")
    view = (await client.get(f"{API}/accounts/flat-1")).json()["forecast"]
    assert (view["days_left"], view["confidence"], view["beyond_horizon"]) == ("3.4", "fair", False)
    assert view["at"] < view["top_up_by"] < view["cut_expected_at"]
    assert view["stale"] is False
    (listed,) = (await client.get(f"{API}/accounts")).json()["items"]
    assert listed["forecast"] == view


async def test_what_is_not_known_yet_and_what_is_old_say_so(site: Served) -> None:
    """No number is null with confidence none; an hour without renewal is stale."""
    client = await site.client(Role.AUDITOR)
    keep(site, "flat-1", tenths=None)
    view = (await client.get(f"{API}/accounts/flat-1")).json()["forecast"]
    assert (view["days_left"], view["top_up_by"], view["confidence"]) == (None, None, "none")
    keep(site, "flat-1", age_ms=HOUR_MS + 60_000)
    view = (await client.get(f"{API}/accounts/flat-1")).json()["forecast"]
    assert (view["days_left"], view["stale"]) == ("3.4", True)


async def test_a_closed_account_has_none(site: Served) -> None:
    """Its last row says nothing any more."""
    client = await site.client(Role.AUDITOR)
    now = keep(site, "flat-1")
    site.executor.ledger.write(lambda connection: close_account(connection, "flat-1", utc_ms=now))
    assert (await client.get(f"{API}/accounts/flat-1")).json()["forecast"] is None


async def test_a_billed_customer_has_none(site: Served) -> None:
    """In credit mode nobody is cut when the credit ends."""
    billed = Account("flat-2", "Bela", "flat-2", "home", 1, payment_mode=PaymentMode.CREDIT)
    site.executor.ledger.write(lambda connection: open_account(connection, billed))
    keep(site, "flat-2")
    client = await site.client(Role.AUDITOR)
    found = (await client.get(f"{API}/accounts/flat-2")).json()
    assert (found["payment_mode"], found["forecast"]) == ("credit", None)
