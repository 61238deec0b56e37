"""What a customer should hear of: credit that runs low, and a cut that a calendar puts off."""

from typing import Protocol

from gateway.core.account import Account
from gateway.core.lowcredit import EVENT, LowCredit
from gateway.core.point import Point, Step

CUT_DEFERRED = "CUT_DEFERRED"


class EventLog(Protocol):
    """Where events go."""

    def event(self, kind: str, subject: str, severity: str, **facts: object) -> None:
        """Keep an event."""
        ...


def tell_credit(log: EventLog, point: Point, step: Step) -> bool:
    """Tell what a settled reading means for its account; True when something was told, or a new
    threshold was armed, which must outlive the process."""
    account = point.account
    if account is None or not step.settled:
        return False
    waiting = account.low_credit.waiting
    alerts = account.alerts()
    tell_low(log, account, alerts)
    if step.kept_on:
        log.event(
            CUT_DEFERRED,
            account.account_id,
            "notice",
            point=point.terms.service_point_id,
            available_nano=account.available_nano,
        )
    return bool(alerts) or step.kept_on or account.low_credit.waiting != waiting


def tell_low(log: EventLog, account: Account, alerts: tuple[LowCredit, ...]) -> None:
    """One event for each threshold that was reached."""
    for alert in alerts:
        facts: dict[str, object] = {"threshold": alert.threshold, "credit_nano": alert.credit_nano}
        if alert.days_left_tenths is not None:
            facts["days_left"] = alert.days_left_tenths / 10
        log.event(EVENT, account.account_id, "notice", **facts)
