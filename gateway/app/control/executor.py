"""Requests executed exactly once: checked, in order per account or point, each with an outcome."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from gateway.app.control.desk import Desk
from gateway.app.control.load_requests import LoadRequests
from gateway.app.control.money_requests import MoneyRequests
from gateway.app.control.recovery import RecoveryWatch
from gateway.app.control.supply_requests import SupplyRequests
from gateway.app.control.sweeper import Sweeper
from gateway.core import requests as wishes
from gateway.core.errors import RefusedError, StoreError
from gateway.core.requests import OutcomeStatus, Request, check_role

LOCKS_MAX: Final = 10_000
COMMITTED_MAX: Final = 10_000
TARIFFS: Final = "tariffs"
# Late switching is worse than none: these are only taken with an end.
MUST_EXPIRE: Final = (
    wishes.Disconnect,
    wishes.Reconnect,
    wishes.ConfirmReconnect,
    wishes.ReleaseHalt,
    wishes.ReleaseRecovery,
    wishes.UnlockOverload,
    wishes.ShedLoad,
    wishes.EndShed,
    wishes.SetOverride,
    wishes.EndOverride,
    wishes.RestoreAll,
)


class Executor:
    """Carries out the vocabulary of core/requests.py at a desk."""

    def __init__(self, desk: Desk, *, sweeper: Sweeper, recovery: RecoveryWatch) -> None:
        self._desk = desk
        self._locks: dict[str, asyncio.Lock] = {}
        money = MoneyRequests(desk)
        supply = SupplyRequests(desk, money, sweeper)
        load = LoadRequests(desk, supply, sweeper)
        self._methods: Final[Mapping[type, Callable[..., Awaitable[None]]]] = {
            wishes.Recharge: money.recharge,
            wishes.ReverseTransaction: money.reverse,
            wishes.OpenAccount: money.open_account,
            wishes.PublishTariff: money.publish_tariff,
            wishes.CommissionPoint: supply.commission,
            wishes.Disconnect: supply.disconnect,
            wishes.Reconnect: supply.reconnect,
            wishes.ConfirmReconnect: supply.confirm,
            wishes.ReleaseQuarantine: supply.release_quarantine,
            wishes.ReplaceMeter: supply.replace_meter,
            wishes.ReleaseHalt: supply.release_halt,
            wishes.ReleaseRecovery: recovery.release,
            wishes.ConfirmClock: supply.confirm_clock,
            wishes.SetLimits: load.set_limits,
            wishes.UnlockOverload: load.unlock,
            wishes.ShedLoad: load.shed,
            wishes.EndShed: load.end_shed,
            wishes.SetOverride: load.set_override,
            wishes.EndOverride: load.end_override,
            wishes.RestoreAll: load.restore_all,
        }

    async def execute(self, request: Request) -> None:
        """Carry out one request; its outcome is durable when this returns.

        Raises only what must end the process: a store that cannot be written, or a failure after
        the commit.
        """
        desk = self._desk
        begun_ns = desk.clock.mono_ns()
        try:
            check_role(request.body, request.role)
            _check_expiry(request)
            async with self._lock(request):
                if self._has_expired(request):
                    await desk.close(request, OutcomeStatus.EXPIRED, "EXPIRED", "came too late")
                    return
                await self._methods[type(request.body)](request.body, request)
        except RefusedError as refused:
            if request.key in desk.committed:
                raise StoreError(f"request {request.key} failed after its commit") from refused
            await desk.close(request, OutcomeStatus.REFUSED, refused.refusal_code, refused.message)
        except (ArithmeticError, ValueError, TypeError, LookupError) as error:
            # A defect of ours. With an outcome it is not tried again at every start; memory may be
            # ahead of the file, so the process ends all the same.
            if request.key not in desk.committed:
                await desk.close(request, OutcomeStatus.REFUSED, "INTERNAL", str(error))
            raise StoreError(f"request {request.key} could not be carried out") from error
        finally:
            desk.engine.tallies.request_time.observe((desk.clock.mono_ns() - begun_ns) / 1e9)
            if len(desk.committed) > COMMITTED_MAX:
                desk.committed.clear()

    async def refuse(self, key: str, kind: str, code: str, message: str) -> None:
        """Record a row that is no request as refused, so that nobody waits for it."""
        await self._desk.close_damaged(key, kind, code, message)

    def lifts(self, request: Request) -> int | None:
        """Index of the point whose balance this request may lift; None for other requests."""
        body = request.body
        if isinstance(body, wishes.Recharge):
            return self._desk.index_of_account(body.account_id)
        return None

    def _has_expired(self, request: Request) -> bool:
        expires = request.expires_utc_ms
        return expires is not None and self._desk.clock.utc_ms() > expires

    def _lock(self, request: Request) -> asyncio.Lock:
        body = request.body
        name = (
            # A version and an account under it must not miss one another.
            (isinstance(body, wishes.OpenAccount | wishes.PublishTariff) and TARIFFS)
            or getattr(body, "account_id", None)
            or getattr(body, "service_point_id", None)
            or getattr(body, "meter_id", None)
            or getattr(body, "feeder", None)
            or body.TYPE
        )
        if len(self._locks) > LOCKS_MAX:
            self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
        return self._locks.setdefault(str(name), asyncio.Lock())


def _check_expiry(request: Request) -> None:
    if request.expires_utc_ms is None and isinstance(request.body, MUST_EXPIRE):
        raise RefusedError("REQUEST_FIELD", "a switching request needs an expiry")
