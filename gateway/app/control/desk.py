"""Where requests are carried out: what the request types share.

A request's effect, its postings, the states it changed and its outcome are one commit. Before it a
RefusedError is an outcome like any other; what fails after it ends the process, which then starts
again from the file.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import orjson
import structlog

from gateway.app.control.books import Books, Operation
from gateway.app.control.engine import Engine
from gateway.app.control.shelf import TariffShelf
from gateway.app.control.till import CounterRules, Till
from gateway.core import requests as wishes
from gateway.core.account import Account
from gateway.core.civil import local_time
from gateway.core.clock import Clock
from gateway.core.errors import RefusedError
from gateway.core.money import Currency, format_amount
from gateway.core.requests import Outcome, OutcomeStatus, Request, body_hash
from gateway.store.audit import append_audit
from gateway.store.commands import record_outcome
from gateway.store.db import Connection
from gateway.store.registry import is_enforced

log = structlog.get_logger()

Effect = Callable[[Connection], dict[str, object]]
MESSAGE_MAX: Final = 500
PLACE_MAX: Final = 200


class Desk:
    """Engine, books, tariffs and the look-ups and commits that all request types use."""

    def __init__(
        self,
        engine: Engine,
        books: Books,
        shelf: TariffShelf,
        currency: Currency,
        clock: Clock,
        *,
        accounts: Mapping[str, Account],
        counter: CounterRules,
    ) -> None:
        self.engine: Final = engine
        self.books: Final = books
        self.shelf: Final = shelf
        self.clock: Final = clock
        self.currency: Final = currency
        self.accounts: Final = dict(accounts)
        self.till: Final = Till(counter, currency)
        # Keys of requests under way whose effect is in the file.
        self.committed: set[str] = set()
        self._by_point = {
            point.terms.service_point_id: index for index, point in enumerate(engine.points)
        }
        self._by_meter = {point.terms.meter_id: i for i, point in enumerate(engine.points)}

    # -- commits ---------------------------------------------------------------------------

    async def commit(
        self,
        request: Request,
        effect: Effect,
        *,
        post: Iterable[int] = (),
        made: Mapping[str, object] | None = None,
    ) -> None:
        """Commit an effect and its outcome, and with them the postings and states of `post`.

        `made` is what rows hold of it that the request does not say: the audit record tells it, so
        that `ledger verify` can compare (`gateway/core/provenance.py`).

        An effect that may refuse must not be given points to post: their charges would have left
        the wallets in memory already. Raises RefusedError, StoreError.
        """
        chosen = tuple(post)
        posting = self.books.posting(chosen) if chosen else None
        await self.submit(request, effect, posting=posting, made=made)

    def submit(
        self,
        request: Request,
        effect: Effect,
        *,
        posting: Operation[None] | None = None,
        made: Mapping[str, object] | None = None,
    ) -> "asyncio.Future[None]":
        """As `commit`, without waiting: what the caller changes in memory before it awaits the
        future belongs to the same instant. `posting` is one of `Books.posting`; with it the effect
        must not refuse.
        """
        outcome = self.outcome(request, OutcomeStatus.EXECUTED)

        def operate(connection: Connection) -> None:
            if posting is not None:
                posting(connection)
            record_outcome(connection, replace(outcome, result=effect(connection)))
            body = _audit(request, "executed")
            if made is not None:
                body["made"] = dict(made)
            append_audit(connection, utc_ms=outcome.utc_ms, body=body)

        def counted(done: "asyncio.Future[None]") -> None:
            if not done.cancelled() and done.exception() is None:
                self.committed.add(request.key)
                self.engine.tallies.requests["executed"] += 1

        future = self.books.commit(operate, may_refuse=posting is None)
        future.add_done_callback(counted)
        return future

    async def close(
        self,
        request: Request,
        status: OutcomeStatus,
        refused: RefusedError,
        *,
        also: Callable[[Connection], object] | None = None,
    ) -> None:
        """Record that a request was refused or came too late, and `also` in the same commit."""
        outcome, code = self.outcome(request, status, refused), refused.refusal_code
        log.info("request.closed", key=request.key, type=outcome.type, status=status, code=code)

        def operate(connection: Connection) -> None:
            if also is not None:
                also(connection)
            record_outcome(connection, outcome)
            body = {**_audit(request, code), "place": outcome.place}
            append_audit(connection, utc_ms=outcome.utc_ms, body=body)

        await self.books.commit(operate)
        self.engine.tallies.requests[status.value] += 1

    async def close_damaged(self, key: str, kind: str, refused: RefusedError) -> None:
        """Record a row that is no request as refused, so that nobody waits for it."""
        message, code = refused.message[:MESSAGE_MAX], refused.refusal_code
        log.warning("request.damaged", key=key, type=kind, reason=message)
        outcome = Outcome(
            key=key,
            type=kind[:MESSAGE_MAX],
            body_hash="",
            status=OutcomeStatus.REFUSED,
            code=code,
            message=message,
            result={},
            utc_ms=self.books.label(),
            place=refused.place[:PLACE_MAX],
        )
        # Who wrote the row is not known, and nothing that it says of itself is believed.
        body = {"action": "damaged request", "request": key, "result": code, "place": outcome.place}

        def operate(connection: Connection) -> None:
            record_outcome(connection, outcome)
            append_audit(connection, utc_ms=outcome.utc_ms, body=body)

        await self.books.commit(operate)

    def outcome(
        self, request: Request, status: OutcomeStatus, refused: RefusedError | None = None
    ) -> Outcome:
        """An outcome of a request as of now, without a result."""
        return Outcome(
            key=request.key,
            type=request.body.TYPE,
            body_hash=body_hash(request.body),
            status=status,
            code=refused.refusal_code if refused else "",
            message=refused.message[:MESSAGE_MAX] if refused else "",
            result={},
            utc_ms=self.books.label(),
            place=refused.place[:PLACE_MAX] if refused else "",
        )

    # -- look-ups --------------------------------------------------------------------------

    def account(self, account_id: str, place: str = "account_id") -> Account:
        """An open account. Raises RefusedError ACCOUNT_UNKNOWN."""
        account = self.accounts.get(account_id)
        if account is None:
            raise RefusedError("ACCOUNT_UNKNOWN", f"there is no open account {account_id}", place)
        return account

    def indices_of(self, account_id: str) -> list[int]:
        """The points of an account."""
        return [
            index
            for index, point in enumerate(self.engine.points)
            if point.account is not None and point.account_id == account_id
        ]

    def payer_at(self, name: str) -> str:
        """The account that pays for the point or meter of this id; empty for none."""
        index = self._by_point.get(name, self._by_meter.get(name))
        return "" if index is None else self.engine.points[index].account_id

    def local_day(self) -> int:
        """The local day of the next record, in days since 1970."""
        return local_time(self.till.rules.zone, self.books.label()).day

    @contextmanager
    def holding(self, *accounts: Account) -> Iterator[None]:
        """Nothing is posted to these accounts meanwhile but what is committed here."""
        for account in accounts:
            account.held += 1
        try:
            yield
        finally:
            for account in accounts:
                account.held -= 1

    def point(self, service_point_id: str) -> int:
        """A service point. Raises RefusedError POINT_UNKNOWN."""
        index = self._by_point.get(service_point_id)
        if index is None:
            raise RefusedError(
                "POINT_UNKNOWN", f"no meter serves point {service_point_id}", "service_point_id"
            )
        return index

    def index_of_point(self, service_point_id: str) -> int | None:
        """A service point; None when no meter serves it."""
        return self._by_point.get(service_point_id)

    def meter(self, meter_id: str) -> int:
        """The point of a meter. Raises RefusedError METER_UNKNOWN."""
        index = self._by_meter.get(meter_id)
        if index is None:
            raise RefusedError("METER_UNKNOWN", f"there is no meter {meter_id}", "meter_id")
        return index

    async def enforce(self, index: int) -> None:
        """Supply is enforced once the point is commissioned and its account is open."""
        point = self.engine.points[index]
        account_id, point_id = point.account_id, point.terms.service_point_id
        point.supply.enforce(
            on=await self.books.commit(
                lambda connection: is_enforced(connection, account_id, point_id)
            )
        )
        await self.books.keep(index)

    async def settle_supply(self, account: Account) -> None:
        """The credit of an account changed: supply of its points follows."""
        indices = self.indices_of(account.account_id)
        cleared = account.credited(self.books.label())
        for index in indices:
            if self.engine.points[index] in cleared:
                await self.books.keep(index)
            self.engine.decide(index)

    def check_readable(self, index: int) -> None:
        """Refuse what needs a known register and a known time.

        Raises RefusedError CLOCK_UNTRUSTED, METER_AWAY.
        """
        point = self.engine.points[index]
        clock = self.engine.gate.clock
        if not clock.trusted:
            raise RefusedError(
                "CLOCK_UNTRUSTED",
                f"the wall clock is not trusted ({clock.reason}): start its time service, or "
                "compare and say `prepaid-gateway clock confirm`",
            )
        max_age_s = point.supply.policy.max_reading_age_s
        if not point.is_settled(self.clock.mono_ns(), max_age_s):
            raise RefusedError(
                "METER_AWAY",
                f"meter {point.terms.meter_id} has no good reading of the last "
                f"{max_age_s:.0f} s: an account begins and ends at a known register",
            )

    def check_amount(self, amount_nano: int, place: str) -> None:
        """Refuse an amount that no person means. Raises RefusedError AMOUNT_RANGE."""
        if abs(amount_nano) > self.currency.amount_max_nano:
            most = format_amount(self.currency.amount_max_nano, self.currency)
            raise RefusedError(
                "AMOUNT_RANGE",
                f"{place} is beyond the maximum of {most} {self.currency.code} at once",
                place,
            )


def json_object(text: str, code: str) -> dict[str, object]:
    """The JSON object in a request's document. Raises RefusedError of this code."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RefusedError(code, f"not JSON: {error}", "document") from error
    if not isinstance(document, dict):
        raise RefusedError(code, "expected an object", "document")
    return document


def _audit(request: Request, result: str) -> dict[str, object]:
    return {
        "actor": request.actor,
        "role": request.role.value,
        "source": request.source,
        "approver": request.approver,
        "action": request.body.TYPE,
        "object": wishes.audited_body(request.body),
        "request": request.key,
        "result": result,
    }
