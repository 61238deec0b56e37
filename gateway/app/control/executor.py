"""Requests executed exactly once: checked, in order per account or point, each with an outcome."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final, Protocol
from weakref import WeakValueDictionary

import structlog

from gateway.app.control.department import Department, Method
from gateway.app.control.desk import Desk
from gateway.app.control.sharing import SharedLock
from gateway.core import requests as wishes
from gateway.core.errors import RefusedError, StoreError
from gateway.core.requests import OutcomeStatus, Request, check_role
from gateway.store.ledger import read_transaction

log = structlog.get_logger()

INTERNAL_MESSAGE: Final = (
    "the gateway failed at this request and did nothing; its log says more under request {key}"
)
# Fields that name what a request works on.
LOCKING: Final = (
    "account_id",
    "from_account_id",
    "to_account_id",
    "service_point_id",
    "meter_id",
    "feeder",
)
# These start a pricer: they and a version that is published must not miss one another.
STARTING: Final = (wishes.OpenAccount, wishes.AddPoint, wishes.ChangeTariff)
PUBLISHING: Final = (wishes.PublishTariff, wishes.DecideTariff)
# One at a time at the whole site: a wrong try is counted before the next one is looked at.
VOUCHERS: Final = "vouchers"
VOUCHER_WISHES: Final = (
    wishes.IssueVoucher,
    wishes.RedeemVoucher,
    wishes.CancelVoucher,
    wishes.UnlockVouchers,
)
# What may end that a point is cut for credit.
LIFTING: Final = (wishes.Recharge, wishes.InvokeEmergency, wishes.WriteOff, wishes.ConfigureAccount)
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
    wishes.SetDevice,
    wishes.IdentifyDevice,
    wishes.RestartDevice,
    wishes.ReleaseDevice,
)


class Counter(Protocol):
    """Hears of every request that comes in and has its outcome."""

    def begun(self, request: Request) -> None:
        """It came in."""
        ...

    def ended(self, request: Request) -> None:
        """It has an outcome."""
        ...


class Executor:
    """Carries out the vocabulary of core/requests.py at a desk.

    `check` refuses what another rule forbids; `may_lift` says which point a voucher may lift.
    """

    def __init__(
        self,
        desk: Desk,
        departments: Iterable[Department],
        *,
        counter: Counter,
        check: Callable[[wishes.Body], None],
        may_lift: Callable[[wishes.RedeemVoucher], int | None],
    ) -> None:
        self._desk = desk
        self._counter = counter
        self._check = check
        self._may_lift = may_lift
        # A lock lives as long as somebody holds it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tariffs = SharedLock()
        self._methods: dict[type, Method] = {}
        for department in departments:
            self._methods.update(department.methods)
        missing = [kind for kind, body in wishes.BODIES.items() if body not in self._methods]
        if missing:
            raise ValueError(f"nobody carries out {', '.join(missing)}")

    async def execute(self, request: Request) -> None:
        """Carry out one request; its outcome is durable when this returns.

        Raises only what must end the process: a store that cannot be written, or a failure after
        the commit.
        """
        desk = self._desk
        begun_ns = desk.clock.mono_ns()
        self._counter.begun(request)
        try:
            check_role(request.body, request.role)
            _check_expiry(request)
            async with AsyncExitStack() as guards:
                for guard in await self._guards(request):
                    await guards.enter_async_context(guard)
                if self._has_expired(request):
                    late = RefusedError("EXPIRED", "came too late")
                    await desk.close(request, OutcomeStatus.EXPIRED, late)
                    return
                self._check(request.body)
                await self._methods[type(request.body)](request.body, request)
        except RefusedError as refused:
            if request.key in desk.committed:
                raise StoreError(f"request {request.key} failed after its commit") from refused
            await desk.close(request, OutcomeStatus.REFUSED, refused)
        except (ArithmeticError, ValueError, TypeError, LookupError) as error:
            # A defect of ours. With an outcome it is not tried again at every start; memory may be
            # ahead of the file, so the process ends all the same.
            # What went wrong is for the log, under the key that the caller has too.
            log.exception("request.failed", key=request.key, type=request.body.TYPE)
            if request.key not in desk.committed:
                defect = RefusedError("INTERNAL", INTERNAL_MESSAGE.format(key=request.key))
                await desk.close(request, OutcomeStatus.REFUSED, defect)
            raise StoreError(f"request {request.key} could not be carried out") from error
        finally:
            self._counter.ended(request)
            desk.engine.tallies.request_time.observe((desk.clock.mono_ns() - begun_ns) / 1e9)
            desk.committed.discard(request.key)

    async def refuse(self, key: str, kind: str, refused: RefusedError) -> None:
        """Record a row that is no request as refused, so that nobody waits for it."""
        await self._desk.close_damaged(key, kind, refused)

    def lifts(self, request: Request) -> Sequence[int]:
        """The points whose credit this request may lift; none for other requests."""
        body = request.body
        account_id = ""
        if isinstance(body, LIFTING):
            account_id = body.account_id
        elif isinstance(body, wishes.Transfer):
            account_id = body.to_account_id
        elif isinstance(body, wishes.RedeemVoucher):
            index = self._may_lift(body)
            account_id = "" if index is None else self._desk.engine.points[index].account_id
        return self._desk.indices_of(account_id) if account_id else ()

    def _has_expired(self, request: Request) -> bool:
        expires = request.expires_utc_ms
        return expires is not None and self._desk.clock.utc_ms() > expires

    async def _guards(self, request: Request) -> list[AbstractAsyncContextManager[object]]:
        """What nobody else may touch meanwhile, in an order that all keep: tariffs, then names of
        accounts and points."""
        body = request.body
        if isinstance(body, PUBLISHING):
            return [self._tariffs.alone()]
        names = {
            value
            for field in LOCKING
            if isinstance(value := getattr(body, field, None), str) and value
        }
        names |= {payer for name in names if (payer := self._desk.payer_at(name))}
        if isinstance(body, wishes.ReverseTransaction):
            names.add(await self._account_of(body.transaction_seq))
        if isinstance(body, VOUCHER_WISHES):
            names.add(VOUCHERS)
        if isinstance(device_id := getattr(body, "device_id", None), str):
            # No account's name: a node may take seconds to answer, and who pays waits for none.
            names.add(f"device {device_id}")
        guards: list[AbstractAsyncContextManager[object]] = []
        if isinstance(body, STARTING):
            guards.append(self._tariffs.shared())
        chosen = sorted(names or {body.TYPE})
        guards.extend(self._locks.setdefault(name, asyncio.Lock()) for name in chosen)
        return guards

    async def _account_of(self, seq: int) -> str:
        """The account that a transaction is of; empty for none."""
        found = await self._desk.books.commit(lambda connection: read_transaction(connection, seq))
        return "" if found is None else found.account_id or ""


def _check_expiry(request: Request) -> None:
    if request.expires_utc_ms is None and isinstance(request.body, MUST_EXPIRE):
        raise RefusedError("REQUEST_FIELD", "a switching request needs an expiry")
