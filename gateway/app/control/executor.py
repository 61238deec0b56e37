"""Requests executed exactly once: the effect and its outcome are one commit.

Each request type has one method. What it changes in memory is kept in the same operation as the
outcome; a refusal is an outcome too. Requests of one account run one after the other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import orjson
import structlog

from gateway.app.control.books import Books
from gateway.app.control.engine import Engine
from gateway.app.control.shelf import TariffShelf
from gateway.core import requests as wishes
from gateway.core.clock import Clock
from gateway.core.errors import RefusedError
from gateway.core.ledger import TransactionKind, opening_of, recharge_of, reversal_of, wallet
from gateway.core.money import INT64_MAX, Currency
from gateway.core.point import Point
from gateway.core.pricing import Pricer
from gateway.core.requests import Outcome, OutcomeStatus, Request, body_hash, check_role
from gateway.core.supply import Reason
from gateway.core.tariff_document import tariff_from_document
from gateway.store.audit import append_audit
from gateway.store.commands import record_outcome
from gateway.store.db import Connection
from gateway.store.ledger import append_transaction, read_balance, read_transaction
from gateway.store.registry import (
    Account,
    AccountStatus,
    commission_point,
    open_account,
    publish_tariff,
    read_account,
)
from gateway.store.state import save_point_states

log = structlog.get_logger()

Effect = Callable[[Connection], dict[str, object]]
# Nobody recharges more than this at once: a slip of the finger, in major units.
MAX_RECHARGE_MAJOR: Final = 10_000_000
LOCKS_MAX: Final = 10_000


class Executor:
    """Carries out the vocabulary of core/requests.py on engine and books."""

    def __init__(
        self,
        engine: Engine,
        books: Books,
        shelf: TariffShelf,
        currency: Currency,
        clock: Clock,
        *,
        confirm_clock: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._books = books
        self._shelf = shelf
        self._currency = currency
        self._clock = clock
        self._confirm_clock = confirm_clock
        self._by_point = {
            point.terms.service_point_id: index for index, point in enumerate(engine.points)
        }
        self._by_meter = {point.terms.meter_id: i for i, point in enumerate(engine.points)}
        self._locks: dict[str, asyncio.Lock] = {}
        self._methods: Final[Mapping[type, Callable[..., Awaitable[None]]]] = {
            wishes.Recharge: self._recharge,
            wishes.ReverseTransaction: self._reverse,
            wishes.OpenAccount: self._open_account,
            wishes.PublishTariff: self._publish_tariff,
            wishes.CommissionPoint: self._commission,
            wishes.Disconnect: self._disconnect,
            wishes.Reconnect: self._reconnect,
            wishes.ConfirmReconnect: self._confirm,
            wishes.ReleaseQuarantine: self._release_quarantine,
            wishes.ReplaceMeter: self._replace_meter,
            wishes.ReleaseHalt: self._release_halt,
            wishes.ConfirmClock: self._confirm_the_clock,
        }

    async def execute(self, request: Request) -> None:
        """Carry out one request; its outcome is durable when this returns.

        Raises only what must end the process: a store that cannot be written.
        """
        expires = request.expires_utc_ms
        try:
            check_role(request.body, request.role)
            if expires is not None and self._clock.utc_ms() > expires:
                await self._close(request, OutcomeStatus.EXPIRED, "EXPIRED", "came too late")
                return
            async with self._lock(request):
                await self._methods[type(request.body)](request.body, request)
        except RefusedError as refused:
            await self._close(request, OutcomeStatus.REFUSED, refused.refusal_code, refused.message)

    async def refuse(self, key: str, kind: str, code: str, message: str) -> None:
        """Record a row that is no request as refused, so that nobody waits for it."""
        log.warning("request.damaged", key=key, type=kind, reason=message)
        outcome = Outcome(
            key=key,
            type=kind,
            body_hash="",
            status=OutcomeStatus.REFUSED,
            code=code,
            message=message,
            result={},
            utc_ms=self._books.label(),
        )
        await self._books.commit(lambda connection: record_outcome(connection, outcome))

    def holds_account(self, request: Request) -> int | None:
        """Index of the point whose balance this request may lift; None for other requests."""
        body = request.body
        if isinstance(body, wishes.Recharge):
            return self._index_of_account(body.account_id)
        return None

    # -- money -----------------------------------------------------------------------------

    async def _recharge(self, body: wishes.Recharge, request: Request) -> None:
        index = self._index_of_account(body.account_id)
        if index is None:
            raise _unknown_account(body.account_id)
        limit = min(MAX_RECHARGE_MAJOR * 10**self._currency.money_scale, INT64_MAX // 4)
        if not 0 < body.amount_nano <= limit:
            raise RefusedError(
                "AMOUNT_RANGE", "a recharge is above zero and below the maximum", "amount"
            )
        transaction = recharge_of(
            body.account_id,
            body.amount_nano,
            body.provider,
            utc_ms=self._books.label(),
            request_key=request.key,
            reference=body.payment_reference,
        )

        def effect(connection: Connection) -> dict[str, object]:
            seq = append_transaction(connection, transaction)
            balance_nano = read_balance(connection, wallet(body.account_id))
            return {
                "transaction_seq": seq,
                "amount_nano": body.amount_nano,
                "balance_nano": balance_nano,
            }

        self._books.post([index])
        await self._commit(request, effect)
        await self._credited(index, body.amount_nano)

    async def _reverse(self, body: wishes.ReverseTransaction, request: Request) -> None:
        original = await self._books.commit(
            lambda connection: read_transaction(connection, body.transaction_seq)
        )
        if original is None:
            raise RefusedError(
                "TRANSACTION_UNKNOWN",
                f"there is no transaction {body.transaction_seq}",
                "transaction_seq",
            )
        if original.kind is not TransactionKind.RECHARGE or original.account_id is None:
            raise RefusedError(
                "NOT_REVERSIBLE",
                f"transaction {body.transaction_seq} is a {original.kind}; only a recharge can be "
                "reversed",
                "transaction_seq",
            )
        index = self._index_of_account(original.account_id)
        if index is None:
            raise _unknown_account(original.account_id)
        amount_nano = next(
            entry.amount_nano
            for entry in original.entries
            if entry.ledger_account == wallet(original.account_id)
        )
        transaction = reversal_of(
            original, body.transaction_seq, utc_ms=self._books.label(), request_key=request.key
        )

        def effect(connection: Connection) -> dict[str, object]:
            seq = append_transaction(connection, transaction)
            balance_nano = read_balance(connection, transaction.entries[0].ledger_account)
            return {"transaction_seq": seq, "balance_nano": balance_nano}

        self._books.post([index])
        await self._commit(request, effect)
        await self._credited(index, -amount_nano)

    async def _credited(self, index: int, amount_nano: int) -> None:
        if self._engine.points[index].credited(amount_nano):
            await self._books.keep(index)
        self._engine.decide(index)

    # -- accounts and tariffs --------------------------------------------------------------

    async def _open_account(self, body: wishes.OpenAccount, request: Request) -> None:
        index = self._index_of_point(body.service_point_id)
        versions = self._shelf.versions(body.tariff_id)
        point = self._engine.points[index]
        if point.pricer is not None:
            raise RefusedError(
                "POINT_TAKEN",
                f"service point {body.service_point_id} has the open account {point.account_id}",
                "service_point_id",
            )
        label = self._books.label()
        # A trial first: whether the tariff fits is known before anything is written.
        Pricer(versions, start_utc_ms=label, sources=point.terms.sources)
        account = Account(
            account_id=body.account_id,
            name=body.name,
            service_point_id=body.service_point_id,
            tariff_id=body.tariff_id,
            opened_utc_ms=label,
            status=AccountStatus.ACTIVE,
            disablement_threshold_nano=body.disablement_threshold_nano,
        )

        def effect(connection: Connection) -> dict[str, object]:
            open_account(connection, account)
            if body.opening_balance_nano:
                append_transaction(
                    connection,
                    opening_of(
                        body.account_id,
                        body.opening_balance_nano,
                        utc_ms=label,
                        request_key=request.key,
                    ),
                )
            return {"account_id": body.account_id}

        await self._commit(request, effect)
        start_utc_ms = max(label, point.label_utc_ms)
        pricer = Pricer(versions, start_utc_ms=start_utc_ms, sources=point.terms.sources)
        point.attach_account(
            body.account_id,
            body.tariff_id,
            pricer,
            threshold_nano=body.disablement_threshold_nano,
        )
        point.wallet_nano = body.opening_balance_nano
        point.begin_line()
        self._engine.set_flat(index, flat=self._shelf.is_flat(body.tariff_id))
        await self._enforce(index)

    async def _publish_tariff(self, body: wishes.PublishTariff, request: Request) -> None:
        try:
            document = orjson.loads(body.document)
        except orjson.JSONDecodeError as error:
            raise RefusedError("TARIFF_INVALID", f"not JSON: {error}", "document") from error
        if not isinstance(document, dict):
            raise RefusedError("TARIFF_INVALID", "a tariff document is an object", "document")
        draft = tariff_from_document(document, self._currency)
        known = self._shelf.known(draft.tariff_id)
        tariff = tariff_from_document(document, self._currency, version=len(known) + 1)
        users = [
            index
            for index, point in enumerate(self._engine.points)
            if point.pricer is not None and point.tariff_id == tariff.tariff_id
        ]
        self._shelf.check_next(tariff, label_utc_ms=self._books.label(), in_use=bool(users))
        version = self._shelf.version_of(tariff, document, self._books.label(), request.actor)

        def effect(connection: Connection) -> dict[str, object]:
            publish_tariff(connection, version)
            return {"tariff_id": tariff.tariff_id, "version": tariff.version}

        await self._commit(request, effect)
        self._shelf.add(tariff)
        for index in users:
            pricer = self._engine.points[index].pricer
            if pricer is not None:
                pricer.add_version(tariff)
            self._engine.set_flat(index, flat=self._shelf.is_flat(tariff.tariff_id))

    async def _commission(self, body: wishes.CommissionPoint, request: Request) -> None:
        index = self._index_of_point(body.service_point_id)
        label = self._books.label()

        def effect(connection: Connection) -> dict[str, object]:
            commission_point(connection, body.service_point_id, utc_ms=label)
            return {"service_point_id": body.service_point_id}

        await self._commit(request, effect)
        await self._enforce(index)

    async def _enforce(self, index: int) -> None:
        """Supply is enforced once the point is commissioned and its account is open."""
        point = self._engine.points[index]
        account_id, point_id = point.account_id, point.terms.service_point_id
        point.supply.enforced = await self._books.commit(
            lambda connection: is_enforced(connection, account_id, point_id)
        )
        await self._books.keep(index)

    # -- supply ----------------------------------------------------------------------------

    async def _disconnect(self, body: wishes.Disconnect, request: Request) -> None:
        index = self._switchable(body.service_point_id)
        if not body.reason:
            raise RefusedError("REASON_MISSING", "say why supply is taken away", "reason")
        self._engine.points[index].supply.block(Reason.MANUAL)
        await self._commit_point(request, index)
        self._engine.requested(index, request.key)

    async def _reconnect(self, body: wishes.Reconnect, request: Request) -> None:
        index = self._switchable(body.service_point_id)
        supply = self._engine.points[index].supply
        if not supply.unblock(Reason.MANUAL) and not supply.accept_open_output():
            raise RefusedError("NOT_DISCONNECTED", "no manual disconnection stands here")
        await self._commit_point(request, index)
        self._engine.requested(index, request.key)

    async def _confirm(self, body: wishes.ConfirmReconnect, request: Request) -> None:
        index = self._switchable(body.service_point_id)
        self._engine.points[index].supply.confirm(self._clock.mono_ns())
        await self._commit_point(request, index)
        self._engine.requested(index, request.key)

    async def _release_halt(self, body: wishes.ReleaseHalt, request: Request) -> None:
        complete = self._engine.breaker.release(request.actor)
        await self._commit(request, lambda _: {"released": complete, "reason": body.reason})
        if complete:
            self._engine.decide_all()

    # -- registers and clock ---------------------------------------------------------------

    async def _release_quarantine(self, body: wishes.ReleaseQuarantine, request: Request) -> None:
        index = self._index_of_meter(body.meter_id)
        advance_wh = self._engine.points[index].release(accept=body.accept)
        self._books.post([index])
        await self._commit(request, lambda _: {"charged_wh": list(advance_wh)})

    async def _replace_meter(self, body: wishes.ReplaceMeter, request: Request) -> None:
        index = self._index_of_meter(body.meter_id)
        advance_wh = self._engine.points[index].replace_meter(body.closing_wh, body.opening_wh)
        self._books.post([index])
        await self._commit(request, lambda _: {"charged_wh": list(advance_wh)})

    async def _confirm_the_clock(self, body: wishes.ConfirmClock, request: Request) -> None:
        await self._commit(request, lambda _: {"reason": body.reason})
        self._confirm_clock()

    # -- outcomes --------------------------------------------------------------------------

    async def _commit(self, request: Request, effect: Effect) -> None:
        outcome = self._outcome(request, OutcomeStatus.EXECUTED, "", "")

        def operate(connection: Connection) -> None:
            result = effect(connection)
            record_outcome(
                connection,
                Outcome(
                    key=outcome.key,
                    type=outcome.type,
                    body_hash=outcome.body_hash,
                    status=outcome.status,
                    code="",
                    message="",
                    result=result,
                    utc_ms=outcome.utc_ms,
                ),
            )
            append_audit(connection, utc_ms=outcome.utc_ms, body=_audit(request, "executed"))

        await self._books.commit(operate)

    async def _commit_point(self, request: Request, index: int) -> None:
        """Commit an outcome together with the supply state that it changed in memory."""
        point = self._engine.points[index]
        states = self._books.states([index])

        def effect(connection: Connection) -> dict[str, object]:
            save_point_states(connection, states)
            return {"service_point_id": point.terms.service_point_id}

        await self._commit(request, effect)

    async def _close(
        self, request: Request, status: OutcomeStatus, code: str, message: str
    ) -> None:
        outcome = self._outcome(request, status, code, message)
        log.info("request.closed", key=request.key, type=outcome.type, status=status, code=code)

        def operate(connection: Connection) -> None:
            record_outcome(connection, outcome)
            append_audit(connection, utc_ms=outcome.utc_ms, body=_audit(request, code))

        await self._books.commit(operate)

    def _outcome(self, request: Request, status: OutcomeStatus, code: str, message: str) -> Outcome:
        return Outcome(
            key=request.key,
            type=request.body.TYPE,
            body_hash=body_hash(request.body),
            status=status,
            code=code,
            message=message,
            result={},
            utc_ms=self._books.label(),
        )

    # -- look-ups --------------------------------------------------------------------------

    def _lock(self, request: Request) -> asyncio.Lock:
        body = request.body
        name = (
            getattr(body, "account_id", None)
            or getattr(body, "service_point_id", None)
            or getattr(body, "meter_id", None)
            or "site"
        )
        if len(self._locks) > LOCKS_MAX:
            self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
        return self._locks.setdefault(str(name), asyncio.Lock())

    def _index_of_account(self, account_id: str) -> int | None:
        points: Sequence[Point] = self._engine.points
        return next(
            (
                index
                for index, point in enumerate(points)
                if point.pricer is not None and point.account_id == account_id
            ),
            None,
        )

    def _index_of_point(self, service_point_id: str) -> int:
        index = self._by_point.get(service_point_id)
        if index is None:
            raise RefusedError(
                "POINT_UNKNOWN", f"no meter serves point {service_point_id}", "service_point_id"
            )
        return index

    def _index_of_meter(self, meter_id: str) -> int:
        index = self._by_meter.get(meter_id)
        if index is None:
            raise RefusedError("METER_UNKNOWN", f"there is no meter {meter_id}", "meter_id")
        return index

    def _switchable(self, service_point_id: str) -> int:
        index = self._index_of_point(service_point_id)
        if not self._engine.points[index].supply.enforced:
            raise RefusedError(
                "NOT_ENFORCED",
                f"{service_point_id} is not commissioned or has no open account: "
                "its supply is not switched",
            )
        return index


def is_enforced(connection: Connection, account_id: str, service_point_id: str) -> bool:
    """Whether supply is enforced: account active, point commissioned."""
    account = read_account(connection, account_id) if account_id else None
    if account is None or account.status is not AccountStatus.ACTIVE:
        return False
    row = connection.execute(
        "SELECT commissioned_utc_ms FROM service_point WHERE service_point_id = ?",
        (service_point_id,),
    ).fetchone()
    return row is not None and row[0] is not None


def _audit(request: Request, result: str) -> dict[str, object]:
    return {
        "actor": request.actor,
        "role": request.role.value,
        "source": request.source,
        "approver": request.approver,
        "action": request.body.TYPE,
        "object": wishes.encode_body(request.body),
        "request": request.key,
        "result": result,
    }


def _unknown_account(account_id: str) -> RefusedError:
    return RefusedError("ACCOUNT_UNKNOWN", f"there is no open account {account_id}", "account_id")
