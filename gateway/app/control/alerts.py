"""What a customer should hear of: credit that runs low, and a cut that a calendar puts off."""

from typing import Protocol

from gateway.core.account import Account
from gateway.core.lowcredit import EVENT, LowCredit
from gateway.core.point import Point, Step

CUT_DEFERRED = "CUT_DEFERRED"
FEED_IN_UNPRICED = "FEED_IN_UNPRICED"


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


def tell_feed_in(log: EventLog, point: Point, step: Step) -> None:
    """Tell what the export registers of a reading mean, where feed-in is paid for."""
    feed_in, meter_id = point.feed_in, point.terms.meter_id
    if feed_in is None:
        return
    for event in step.export_events:
        log.event(event, meter_id, "warning", register="export", held_wh=list(feed_in.held_wh))
    pricer = point.pricer
    if not step.fed_wh or pricer is None or pricer.pays_for_feed_in:
        return
    if feed_in.unpriced_under != point.tariff_id:
        # Once for each tariff, until the process starts again.
        feed_in.unpriced_under = point.tariff_id
        account_id = point.account_id
        log.event(FEED_IN_UNPRICED, meter_id, "warning", account=account_id, tariff=point.tariff_id)


def tell_low(log: EventLog, account: Account, alerts: tuple[LowCredit, ...]) -> None:
    """One event for each threshold that was reached."""
    for alert in alerts:
        facts: dict[str, object] = {"threshold": alert.threshold, "credit_nano": alert.credit_nano}
        if alert.days_left_tenths is not None:
            facts["days_left"] = alert.days_left_tenths / 10
        log.event(EVENT, account.account_id, "notice", **facts)
