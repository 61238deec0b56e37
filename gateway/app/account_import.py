"""Opens the accounts of a tenants' file through a running north, so that twice is once.

What a tenant owes is agreed on right after, as a debt of its own with a key of its own.

Each row has a key of its content. A row that was refused (its meter did not answer, say) is tried
under the next one by a later run; one that was opened is found by its key and left alone.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from gateway.app.accounts_csv import Known, Present, Tenant
from gateway.core.errors import RefusedError, StoreAwayError
from gateway.core.money import Currency, format_amount, format_scaled, parse_amount
from gateway.core.tariff import PERCENT_SCALE
from gateway.north.client import LocalClient

# A fraction of what north takes at once (64): cashiers go on beside an import.
CALLERS: Final = 16
ATTEMPTS_MAX: Final = 50
PENDING_S: Final = 30.0
LOOK_EVERY_S: Final = 0.2
DEBT_ID: Final = "taken-over"
DEBT_REASON: Final = "taken over with the account"
BUSY_TRIES: Final = 6
BUSY_FIRST_S: Final = 0.1
TIMEOUT_S: Final = 10.0


class Fate(StrEnum):
    """What becomes of a row."""

    NEW = "new"  # it would be opened
    OPENED = "opened"
    THERE = "there"  # this very row opened it before
    OTHER = "other"  # the account is there, opened by something else
    REFUSED = "refused"
    WAITING = "waiting"  # kept, control has not answered yet
    UNREACHED = "unreached"  # north did not answer: run again


@dataclass(frozen=True, slots=True)
class Result:
    """A row and what became of it; `code` and `message` say why it was refused."""

    tenant: Tenant
    fate: Fate
    code: str = ""
    message: str = ""


def look_around(north: LocalClient, currency: Currency) -> Present:
    """What the site has. Raises StoreAwayError, RefusedError."""
    accounts = {
        str(item["id"]): Known(
            service_point_id=str(item["service_point_id"]),
            tariff_id=str(item["tariff_id"]),
            disablement_threshold_nano=parse_amount(item["disablement_threshold"], currency),
            is_closed=item["status"] == "closed",
        )
        for item in north.pages("/accounts")
    }
    return Present(
        points=frozenset(str(item["service_point_id"]) for item in north.pages("/meters")),
        tariffs=frozenset(str(item["id"]) for item in north.pages("/tariffs")),
        accounts=accounts,
    )


class Importer:
    """Brings tenants in, several at once; `dry` only looks."""

    def __init__(
        self,
        socket: Path,
        present: Present,
        currency: Currency,
        *,
        dry: bool,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._socket = socket
        self._present = present
        self._currency = currency
        self._dry = dry
        self._sleep = sleep

    def run(self, tenants: Sequence[Tenant], progress: Callable[[], None]) -> list[Result]:
        """What became of each row, in the order of the file."""
        free = SimpleQueue[LocalClient]()
        with ExitStack() as open_clients, ThreadPoolExecutor(CALLERS) as callers:
            for _ in range(CALLERS):
                client = LocalClient(self._socket, timeout_s=TIMEOUT_S)
                free.put(open_clients.enter_context(client))

            def one(tenant: Tenant) -> Result:
                north = free.get()
                try:
                    return self._bring_in(north, tenant)
                except StoreAwayError as away:
                    return Result(tenant, Fate.UNREACHED, away.code, str(away))
                finally:
                    free.put(north)
                    progress()

            try:
                return list(callers.map(one, tenants))
            except KeyboardInterrupt:
                callers.shutdown(wait=False, cancel_futures=True)
                raise

    def _bring_in(self, north: LocalClient, tenant: Tenant) -> Result:
        is_there = tenant.account_id in self._present.accounts
        if self._dry and not is_there:
            return Result(tenant, Fate.NEW)
        opening = _Wish("/accounts", _opening(tenant, self._currency), tenant.key)
        opened = self._once(north, tenant, opening, asks=not is_there)
        if self._dry or not tenant.debt_nano or opened.fate not in {Fate.OPENED, Fate.THERE}:
            return opened
        path = f"/accounts/{tenant.account_id}/debts"
        owed = self._once(
            north, tenant, _Wish(path, _debt(tenant, self._currency), tenant.debt_key)
        )
        return opened if owed.fate in {Fate.OPENED, Fate.THERE} else owed

    def _once(
        self, north: LocalClient, tenant: Tenant, wish: "_Wish", *, asks: bool = True
    ) -> Result:
        """Have a wish carried out once over all runs; without `asks` only what was asked before."""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            key = wish.key(attempt)
            stored = self._stored(north, key)
            state = None if stored is None else stored.get("state")
            if state == "executed":
                return Result(tenant, Fate.THERE)
            if state not in (None, "pending"):
                continue
            if not asks and state is None:
                return Result(
                    tenant, Fate.OTHER, message="its opening balance is not that of this row's"
                )
            return (
                Result(tenant, Fate.WAITING) if self._dry else self._ask(north, tenant, wish, key)
            )
        return Result(tenant, Fate.REFUSED, "ATTEMPTS", f"refused {ATTEMPTS_MAX} times before")

    def _ask(self, north: LocalClient, tenant: Tenant, wish: "_Wish", key: str) -> Result:
        try:
            answer: Mapping[str, object] | None = self._patient(
                lambda: north.call("POST", wish.path, wish.body, key)
            )
        except RefusedError as refused:
            return Result(tenant, Fate.REFUSED, refused.refusal_code, refused.message)
        waited_s = 0.0
        while answer is not None and answer.get("state") == "pending":
            if waited_s >= PENDING_S:
                return Result(tenant, Fate.WAITING)
            self._sleep(LOOK_EVERY_S)
            waited_s += LOOK_EVERY_S
            answer = self._stored(north, key)
        if answer is None or answer.get("state") != "executed":
            code, message = (str((answer or {}).get(name) or "") for name in ("code", "message"))
            return Result(tenant, Fate.REFUSED, code, message)
        return Result(tenant, Fate.OPENED)

    def _stored(self, north: LocalClient, key: str) -> Mapping[str, object] | None:
        """What became of an earlier attempt; None where there was none."""
        try:
            return self._patient(lambda: north.call("GET", f"/requests/{key}"))
        except RefusedError as refused:
            if refused.refusal_code == "REQUEST_UNKNOWN":
                return None
            raise

    def _patient(self, call: Callable[[], dict[str, object]]) -> dict[str, object]:
        """Try again, with growing pauses, while north is too busy or starting."""
        pause_s = BUSY_FIRST_S
        for _ in range(BUSY_TRIES - 1):
            try:
                return call()
            except StoreAwayError:
                self._sleep(pause_s)
                pause_s *= 2
        return call()


@dataclass(frozen=True, slots=True)
class _Wish:
    """What is asked of north, and the key of each attempt at it."""

    path: str
    body: dict[str, object]
    key: Callable[[int], str]


def _opening(tenant: Tenant, currency: Currency) -> dict[str, object]:
    threshold = format_amount(tenant.disablement_threshold_nano, currency)
    body: dict[str, object] = {
        "id": tenant.account_id,
        "service_point_id": tenant.service_point_id,
        "tariff_id": tenant.tariff_id,
        "name": tenant.name,
        "opening_balance": format_amount(tenant.opening_balance_nano, currency),
        "disablement_threshold": threshold,
    }
    if tenant.emergency_limit_nano:
        limit = format_amount(tenant.emergency_limit_nano, currency)
        body["terms"] = {"disablement_threshold": threshold, "emergency": {"limit": limit}}
    return body


def _debt(tenant: Tenant, currency: Currency) -> dict[str, object]:
    return {
        "id": DEBT_ID,
        "kind": "payment",
        "amount": format_amount(tenant.debt_nano, currency),
        "share_percent": format_scaled(tenant.debt_share_ppm, PERCENT_SCALE),
        "reason": DEBT_REASON,
    }
