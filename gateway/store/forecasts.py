"""Usage profiles of service points and forecasts of accounts in `ledger.db`: replaced, not kept."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import orjson

from gateway.store.rows import mapping

# Control renews a forecast every half hour; one that missed two rounds tells of another time.
STALE_MS: Final = 60 * 60_000


@dataclass(frozen=True, slots=True)
class AccountForecast:
    """How long an account's credit lasts, as of `utc_ms`; None where it is not known."""

    account_id: str
    utc_ms: int
    days_left_tenths: int | None
    zero_utc_ms: int | None
    cut_utc_ms: int | None
    top_up_by_utc_ms: int | None
    confidence: str
    beyond_horizon: bool = False

    def is_stale(self, now_utc_ms: int) -> bool:
        """Whether it was not renewed for so long that nobody should act on it."""
        return abs(now_utc_ms - self.utc_ms) > STALE_MS


def save_profiles(
    connection: sqlite3.Connection, profiles: Mapping[str, tuple[str, Mapping[str, object]]]
) -> None:
    """Replace the profiles of these service points: whose use it is, and an opaque body."""
    connection.executemany(
        "INSERT INTO usage_profile VALUES (?, ?, ?) ON CONFLICT (service_point_id) DO UPDATE SET "
        "account_id = excluded.account_id, body = excluded.body",
        (
            (name, account_id, orjson.dumps(body).decode())
            for name, (account_id, body) in profiles.items()
        ),
    )


def load_profiles(connection: sqlite3.Connection) -> dict[str, tuple[str, dict[str, object]]]:
    """Every profile by service point: whose use it is, and its body."""
    rows = connection.execute("SELECT service_point_id, account_id, body FROM usage_profile")
    return {name: (account_id, mapping(body)) for name, account_id, body in rows}


def save_forecast(connection: sqlite3.Connection, forecast: AccountForecast) -> None:
    """Replace the forecast of an account."""
    connection.execute(
        "INSERT OR REPLACE INTO account_forecast VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            forecast.account_id,
            forecast.utc_ms,
            forecast.days_left_tenths,
            forecast.zero_utc_ms,
            forecast.cut_utc_ms,
            forecast.top_up_by_utc_ms,
            forecast.confidence,
            int(forecast.beyond_horizon),
        ),
    )


def read_forecast(connection: sqlite3.Connection, account_id: str) -> AccountForecast | None:
    """The latest forecast of an account; None before the first."""
    row = connection.execute(
        "SELECT account_id, utc_ms, days_left_tenths, zero_utc_ms, cut_utc_ms, top_up_by_utc_ms, "
        "confidence, beyond_horizon FROM account_forecast WHERE account_id = ?",
        (account_id,),
    ).fetchone()
    if row is None:
        return None
    found = AccountForecast(*row)
    return replace(found, beyond_horizon=bool(found.beyond_horizon))
