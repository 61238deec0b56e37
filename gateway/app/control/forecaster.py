"""Days left of every account: one account after the other, never many at once.

A forecast walks an account's own pricer through two months, which takes milliseconds: one of them
after each sweep keeps the control path free, and a site of 800 is through in a quarter of an hour.
"""

from collections.abc import Mapping
from functools import partial
from typing import Final
from zoneinfo import ZoneInfo

from gateway.app.control.alerts import EventLog, tell_low
from gateway.app.control.desk import Desk
from gateway.core.account import Account
from gateway.core.credit import DebtKind, PaymentMode
from gateway.core.forecast import DailyDebt, Forecast, Load, forecast
from gateway.core.interval import Interval
from gateway.core.point import Point
from gateway.core.pricing import Pricer
from gateway.core.usage import UsageProfile
from gateway.store.forecasts import AccountForecast, save_forecast, save_profiles

# An account is looked at again when so much time has passed, or when its credit has risen: who
# has just paid asks how long it lasts.
EVERY_MS: Final = 30 * 60_000


class Forecaster:
    """Learns what points use, and tells how long the credit of accounts lasts.

    `profiles` are those on file: by service point, whose use it was and its snapshot.
    """

    def __init__(
        self,
        desk: Desk,
        log: EventLog,
        zone: ZoneInfo,
        profiles: Mapping[str, tuple[str, Mapping[str, object]]],
    ) -> None:
        self._desk = desk
        self._log = log
        self._zone = zone
        self._profiles: dict[int, tuple[str, UsageProfile]] = {}
        # By account: when it was looked at, and the lowest own credit since.
        self._looked: dict[str, tuple[int, int]] = {}
        for index, point in enumerate(desk.engine.points):
            account_id, state = profiles.get(point.terms.service_point_id, ("", {}))
            if state and account_id == point.account_id:
                self._profiles[index] = (account_id, UsageProfile.restore(zone, state))

    def learn(self, index: int, interval: Interval) -> None:
        """Take in a finished half hour of a point. What is nobody's use teaches nothing."""
        point = self._desk.engine.points[index]
        if point.account is None:
            self._profiles.pop(index, None)
            return
        is_off = point.supply.output_closed is False
        if not self._profile(index, point).learn(interval, supply_off=is_off):
            return
        name = point.terms.service_point_id
        body = (point.account_id, self._profile(index, point).snapshot())
        self._desk.books.commit(lambda connection: save_profiles(connection, {name: body}))

    def look(self) -> None:
        """Forecast the one account that has waited longest, if it is time. Called after a sweep."""
        desk = self._desk
        if not desk.engine.gate.clock.trusted:
            return
        now_ms = desk.books.label()
        waiting = [name for name in desk.accounts if self._waits(name, now_ms)]
        if not waiting:
            return
        account_id = min(waiting, key=lambda name: self._looked.get(name, (0, 0))[0])
        # Accounts that were closed are forgotten.
        self._looked = {name: seen for name, seen in self._looked.items() if name in desk.accounts}
        account = desk.accounts[account_id]
        own_nano = account.credit.own_nano(account.running_nano)
        self._looked[account_id] = (now_ms, own_nano)
        if account.credit.terms.payment_mode is PaymentMode.CREDIT:
            return
        found = self._forecast(account, now_ms)
        kept = _record(account_id, now_ms, found)
        desk.books.commit(lambda connection: save_forecast(connection, kept))
        alerts = account.low_credit.observe_days(found.days_left_tenths, own_nano)
        tell_low(self._log, account, alerts)
        if alerts:
            desk.engine.due.update(desk.indices_of(account_id))

    def _waits(self, account_id: str, now_ms: int) -> bool:
        """Whether an account is to be looked at; takes note of how low its credit went."""
        looked = self._looked.get(account_id)
        if looked is None:
            return True
        looked_ms, lowest_nano = looked
        account = self._desk.accounts[account_id]
        own_nano = account.credit.own_nano(account.running_nano)
        if own_nano < lowest_nano:
            self._looked[account_id] = (looked_ms, own_nano)
        # A clock that stepped back must not silence it.
        return own_nano > lowest_nano or not 0 <= now_ms - looked_ms < EVERY_MS

    def _forecast(self, account: Account, now_ms: int) -> Forecast:
        credit = account.credit
        debts = [
            DailyDebt(remaining_nano, terms.daily_nano)
            for terms, remaining_nano in credit.debts()
            if terms.kind is DebtKind.TIME and remaining_nano
        ]
        emergency_nano = credit.emergency_left_nano
        if credit.terms.emergency_automatic and not credit.is_invoked:
            emergency_nano = credit.terms.emergency_limit_nano
        return forecast(
            self._loads(account),
            zone=self._zone,
            now_utc_ms=now_ms,
            credit_nano=credit.own_nano(account.running_nano),
            emergency_nano=emergency_nano,
            debts=debts,
            calendar=credit.terms.calendar,
        )

    def _loads(self, account: Account) -> list[Load]:
        loads: list[Load] = []
        for index in self._desk.indices_of(account.account_id):
            point = self._desk.engine.points[index]
            if point.pricer is None:
                continue
            sources = point.terms.sources
            versions = self._desk.shelf.versions(point.tariff_id)
            loads.append(
                Load(
                    self._profile(index, point),
                    sources,
                    point.pricer.snapshot(),
                    partial(Pricer.restore, versions, sources=sources),
                )
            )
        return loads

    def _profile(self, index: int, point: Point) -> UsageProfile:
        """What this point's present account uses; a new tenant starts anew."""
        account_id, profile = self._profiles.get(index, ("", None))
        if profile is None or account_id != point.account_id:
            profile = UsageProfile(self._zone, len(point.terms.sources))
            self._profiles[index] = (point.account_id, profile)
        return profile


def _record(account_id: str, utc_ms: int, found: Forecast) -> AccountForecast:
    return AccountForecast(
        account_id=account_id,
        utc_ms=utc_ms,
        days_left_tenths=found.days_left_tenths,
        zero_utc_ms=found.zero_utc_ms,
        cut_utc_ms=found.cut_utc_ms,
        top_up_by_utc_ms=found.top_up_by_utc_ms,
        confidence=found.confidence.value,
        beyond_horizon=found.beyond_horizon,
    )
