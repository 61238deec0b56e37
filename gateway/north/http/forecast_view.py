"""How long an account's credit lasts, as the API shows it."""

from pydantic import BaseModel, Field

from gateway.core.credit import PaymentMode
from gateway.core.forecast import days_text
from gateway.north.http.forms import rfc3339, rfc3339_or_none
from gateway.north.records import AccountBalance
from gateway.store.registry import AccountStatus


class ForecastView(BaseModel):
    """What is expected of an account's credit, as of `at`; instants are null where nothing ends."""

    days_left: str | None = Field(
        description="Days of 24 hours with one decimal, floored; null while too little is known"
    )
    beyond_horizon: bool = Field(description="At least so many days: nobody looks further")
    top_up_by: str | None = Field(description="Safe even when more is used than expected")
    cut_expected_at: str | None
    confidence: str = Field(description="none, low, fair or good: how much use stands behind it")
    at: str
    stale: bool = Field(description="Too old to act on: it was not renewed for an hour")


def forecast_view(found: AccountBalance, now_utc_ms: int) -> ForecastView | None:
    """The latest forecast of an open prepaid account; None before the first."""
    kept, account = found.forecast, found.account
    if kept is None or account.status is AccountStatus.CLOSED:
        return None
    if found.credit.terms.payment_mode is PaymentMode.CREDIT:
        return None
    tenths = kept.days_left_tenths
    return ForecastView(
        days_left=None if tenths is None else days_text(tenths),
        beyond_horizon=kept.beyond_horizon,
        top_up_by=rfc3339_or_none(kept.top_up_by_utc_ms),
        cut_expected_at=rfc3339_or_none(kept.cut_utc_ms),
        confidence=kept.confidence,
        at=rfc3339(kept.utc_ms),
        stale=kept.is_stale(now_utc_ms),
    )
