"""Requests about accounts themselves: opened, changed, given other points or tariffs, closed."""

from collections.abc import Mapping

from gateway.app.control.books import Operation
from gateway.app.control.department import Method
from gateway.app.control.desk import Desk, json_object
from gateway.core import requests as wishes
from gateway.core.account import Account
from gateway.core.credit import CreditBook, CreditTerms
from gateway.core.errors import RefusedError
from gateway.core.ledger import closing_of, opening_of
from gateway.core.pricing import Pricer
from gateway.core.requests import Request
from gateway.core.schedule import day_of_month
from gateway.core.terms_document import terms_from_document, terms_to_document
from gateway.store.accounts import AccountPoint, add_point, end_point, points_of, put_terms
from gateway.store.db import Connection
from gateway.store.ledger import append_transaction
from gateway.store.registry import Account as AccountRecord
from gateway.store.registry import (
    AccountStatus,
    close_account,
    open_account,
    read_account,
    update_account,
)
from gateway.store.state import save_point_states


class AccountRequests:
    """Carries out the requests that begin, change and end accounts."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    @property
    def methods(self) -> Mapping[type, Method]:
        """What this carries out, by the type of the body."""
        return {
            wishes.OpenAccount: self.open_account,
            wishes.ConfigureAccount: self.configure,
            wishes.AddPoint: self.add_point,
            wishes.RemovePoint: self.remove_point,
            wishes.ChangeTariff: self.change_tariff,
            wishes.CloseAccount: self.close_account,
        }

    async def open_account(self, body: wishes.OpenAccount, request: Request) -> None:
        """Open an account on a point that was read just now, from whose registers it is charged.

        Refuses POINT_UNKNOWN, POINT_TAKEN, TARIFF_UNKNOWN, TERMS_INVALID, CLOCK_UNTRUSTED,
        METER_AWAY, FEED_IN_HELD, AMOUNT_RANGE, ACCOUNT_EXISTS.
        """
        desk = self._desk
        index = self._free_point(body.service_point_id)
        desk.check_amount(body.opening_balance_nano, "opening_balance")
        desk.check_amount(body.disablement_threshold_nano, "disablement_threshold")
        terms = CreditTerms(disablement_threshold_nano=body.disablement_threshold_nano)
        if body.terms:
            terms = self._terms(body.terms)
        self._check_edge(index)
        label, pricer = self._pricer(index, body.tariff_id)
        record = AccountRecord(
            account_id=body.account_id,
            name=body.name,
            service_point_id=body.service_point_id,
            tariff_id=body.tariff_id,
            opened_utc_ms=label,
            status=AccountStatus.ACTIVE,
            payment_mode=terms.payment_mode,
            disablement_threshold_nano=terms.disablement_threshold_nano,
        )
        stay = AccountPoint(body.account_id, body.service_point_id, body.tariff_id, label)
        opening = opening_of(
            body.account_id, body.opening_balance_nano, utc_ms=label, request_key=request.key
        )

        def effect(connection: Connection) -> dict[str, object]:
            open_account(connection, record)
            add_point(connection, stay)
            if body.terms:
                self._put_terms(connection, body.account_id, terms, request, label)
            if opening.entries:
                append_transaction(connection, opening)
            return {"account_id": body.account_id}

        await desk.commit(request, effect, made={"utc_ms": label})
        credit = CreditBook(body.account_id, terms)
        account = Account(body.account_id, credit, opened_utc_ms=label)
        account.credit.apply(opening.entries)
        desk.accounts[body.account_id] = account
        await self._begin(index, account, body.tariff_id, pricer)

    async def configure(self, body: wishes.ConfigureAccount, request: Request) -> None:
        """Agree other terms. Refuses ACCOUNT_UNKNOWN, TERMS_INVALID."""
        desk = self._desk
        account = desk.account(body.account_id)
        terms, label = self._terms(body.terms), desk.books.label()

        def effect(connection: Connection) -> dict[str, object]:
            update_account(
                connection,
                body.account_id,
                name=body.name or None,
                payment_mode=terms.payment_mode,
                disablement_threshold_nano=terms.disablement_threshold_nano,
            )
            number = self._put_terms(connection, body.account_id, terms, request, label)
            return {"account_id": body.account_id, "terms": number}

        await desk.commit(request, effect)
        account.agree(terms)
        await desk.settle_supply(account)

    async def add_point(self, body: wishes.AddPoint, request: Request) -> None:
        """Let an account pay for another point too; its periods are those of the account.

        Refuses ACCOUNT_UNKNOWN, POINT_UNKNOWN, POINT_TAKEN, TARIFF_UNKNOWN, CLOCK_UNTRUSTED,
        METER_AWAY, FEED_IN_HELD.
        """
        desk = self._desk
        account = desk.account(body.account_id)
        index = self._free_point(body.service_point_id)
        self._check_edge(index)
        label, pricer = self._pricer(index, body.tariff_id, opened_utc_ms=account.opened_utc_ms)
        stay = AccountPoint(body.account_id, body.service_point_id, body.tariff_id, label)

        def effect(connection: Connection) -> dict[str, object]:
            add_point(connection, stay)
            return {"account_id": body.account_id, "service_point_id": body.service_point_id}

        await desk.commit(request, effect, made={"utc_ms": label})
        await self._begin(index, account, body.tariff_id, pricer)

    async def remove_point(self, body: wishes.RemovePoint, request: Request) -> None:
        """Let an account no longer pay for a point.

        Refuses POINT_UNKNOWN, POINT_FREE, LAST_POINT, CLOCK_UNTRUSTED, METER_AWAY, FEED_IN_HELD.
        """
        desk = self._desk
        index = desk.point(body.service_point_id)
        account = self._payer(index)
        if len(account.points) == 1:
            raise RefusedError(
                "LAST_POINT",
                "an account keeps one point at least: close the account",
                "service_point_id",
            )
        self._check_edge(index)
        label = desk.books.label()

        def effect(connection: Connection) -> dict[str, object]:
            end_point(connection, body.service_point_id, utc_ms=label)
            # The record names a point that the account has: this one is free for another account.
            left = [stay.service_point_id for stay in points_of(connection, account.account_id)]
            record = read_account(connection, account.account_id)
            if record is not None and record.service_point_id not in left:
                update_account(connection, account.account_id, service_point_id=left[0])
            return {"service_point_id": body.service_point_id}

        posting = self._last_posting([index], label)
        committed = desk.submit(request, effect, posting=posting, made={"utc_ms": label})
        desk.engine.points[index].detach_account()
        await committed
        await desk.enforce(index)
        # What was paid ahead may have been given back.
        await desk.settle_supply(account)

    async def change_tariff(self, body: wishes.ChangeTariff, request: Request) -> None:
        """Charge a point by another tariff from now on; fees are divided by days.

        Refuses POINT_UNKNOWN, POINT_FREE, TARIFF_UNKNOWN, SAME_TARIFF, SOURCE_UNPRICED,
        TARIFF_NOT_EFFECTIVE, CLOCK_UNTRUSTED, METER_AWAY.
        """
        desk = self._desk
        index = desk.point(body.service_point_id)
        point, account = desk.engine.points[index], self._payer(index)
        if point.tariff_id == body.tariff_id:
            raise RefusedError("SAME_TARIFF", f"{body.tariff_id} is in force there", "tariff_id")
        desk.check_readable(index)
        label, pricer = self._pricer(index, body.tariff_id, goes_on=True)
        stay = AccountPoint(account.account_id, body.service_point_id, body.tariff_id, label)

        posting = self._last_posting([index], label)
        # In the instant of the posting: the next Wh is the new tariff's.
        point.detach_account()
        point.attach_account(account, body.tariff_id, pricer)
        states = desk.books.states([index])

        def effect(connection: Connection) -> dict[str, object]:
            end_point(connection, body.service_point_id, utc_ms=label)
            add_point(connection, stay)
            # Not the old tariff's, which the posting has kept: a start goes on under the new one.
            save_point_states(connection, states)
            return {"service_point_id": body.service_point_id, "tariff_id": body.tariff_id}

        await desk.submit(request, effect, posting=posting, made={"utc_ms": label})
        self._desk.engine.set_flat(index, flat=desk.shelf.is_flat(body.tariff_id))
        await desk.books.keep(index)
        # What was paid ahead may have been given back.
        await desk.settle_supply(account)

    async def close_account(self, body: wishes.CloseAccount, request: Request) -> None:
        """Move-out: last fees, what is owed is paid from the credit, the rest is paid out.

        Refuses ACCOUNT_UNKNOWN, REASON_MISSING, REFUND_MISSING, CLOCK_UNTRUSTED, METER_AWAY,
        FEED_IN_HELD.
        """
        desk = self._desk
        account = desk.account(body.account_id)
        if not body.reason:
            raise RefusedError("REASON_MISSING", "say why the account ends", "reason")
        indices = desk.indices_of(body.account_id)
        for index in indices:
            self._check_edge(index)
        credit = account.credit
        if not body.refund_provider and credit.wallet_nano - account.running_nano > 0:
            raise RefusedError(
                "REFUND_MISSING",
                "credit may be left: say who pays it out, or transfer it first",
                "refund_provider",
            )
        label = desk.books.label()
        posting = self._last_posting(indices, label)
        settled = credit.final_payments()
        credit.apply(settled)
        left_nano = max(0, credit.wallet_nano)
        closing = closing_of(
            body.account_id,
            settled,
            left_nano,
            body.refund_provider,
            utc_ms=label,
            request_key=request.key,
        )
        facts: dict[str, object] = {
            "account_id": body.account_id,
            "refund_nano": left_nano,
            "owed_nano": credit.owed_nano + max(0, -credit.wallet_nano),
        }

        def effect(connection: Connection) -> dict[str, object]:
            if closing.entries:
                desk.till.append(connection, request, closing)
            for stay in points_of(connection, body.account_id):
                end_point(connection, stay.service_point_id, utc_ms=label)
            close_account(connection, body.account_id, utc_ms=label)
            return facts

        committed = desk.submit(request, effect, posting=posting, made={"utc_ms": label})
        desk.accounts.pop(body.account_id)
        for index in indices:
            desk.engine.points[index].detach_account()
        await committed
        for index in indices:
            await desk.enforce(index)

    # -- inside ----------------------------------------------------------------------------

    def _free_point(self, service_point_id: str) -> int:
        index = self._desk.point(service_point_id)
        account = self._desk.engine.points[index].account
        if account is not None:
            raise RefusedError(
                "POINT_TAKEN",
                f"service point {service_point_id} has the open account {account.account_id}",
                "service_point_id",
            )
        return index

    def _check_edge(self, index: int) -> None:
        """Refuse to let an account begin or end where energy waits for a decision: what is fed in
        and held would be another's. Raises RefusedError CLOCK_UNTRUSTED, METER_AWAY, FEED_IN_HELD.
        """
        self._desk.check_readable(index)
        point = self._desk.engine.points[index]
        if point.feed_in is not None and point.feed_in.held:
            raise RefusedError(
                "FEED_IN_HELD",
                f"meter {point.terms.meter_id} holds energy that was fed in: decide on it first",
            )

    def _payer(self, index: int) -> Account:
        point = self._desk.engine.points[index]
        if point.account is None:
            name = point.terms.service_point_id
            raise RefusedError("POINT_FREE", f"no account pays for {name}", "service_point_id")
        return point.account

    def _pricer(
        self, index: int, tariff_id: str, *, goes_on: bool = False, opened_utc_ms: int | None = None
    ) -> tuple[int, Pricer]:
        """A pricer for a point from now on, and when that is; it `goes_on` from the present one.

        `opened_utc_ms` is when its account was opened, None for now. Raises RefusedError where the
        tariff does not fit, before anything is written.
        """
        point = self._desk.engine.points[index]
        start_utc_ms = max(self._desk.books.label(), point.label_utc_ms)
        versions = self._desk.shelf.versions(tariff_id)
        counted = point.pricer.counted if goes_on and point.pricer is not None else None
        since_utc_ms = start_utc_ms if opened_utc_ms is None else opened_utc_ms
        pricer = Pricer(
            versions,
            start_utc_ms=start_utc_ms,
            sources=point.terms.sources,
            opening_day=day_of_month(versions[0], since_utc_ms),
            counted=counted,
        )
        return start_utc_ms, pricer

    async def _begin(self, index: int, account: Account, tariff_id: str, pricer: Pricer) -> None:
        """A point's energy is an account's from here on."""
        desk = self._desk
        point = desk.engine.points[index]
        point.attach_account(account, tariff_id, pricer)
        point.begin_line()
        desk.engine.set_flat(index, flat=desk.shelf.is_flat(tariff_id))
        if pricer.has_unposted:
            # A fee that is due from the first moment.
            desk.engine.due.add(index)
        await desk.enforce(index)

    def _last_posting(self, indices: list[int], label: int) -> Operation[None]:
        """Everything that these points owe up to now, the last fees too, as an operation."""
        points = self._desk.engine.points
        for index in indices:
            pricer = points[index].pricer
            if pricer is not None:
                pricer.end(label)
        return self._desk.books.posting(indices)

    def _terms(self, text: str) -> CreditTerms:
        zone = self._desk.till.rules.zone.key
        document = json_object(text, "TERMS_INVALID")
        return terms_from_document(document, self._desk.currency, zone)

    def _put_terms(
        self,
        connection: Connection,
        account_id: str,
        terms: CreditTerms,
        request: Request,
        utc_ms: int,
    ) -> int:
        document = terms_to_document(terms, self._desk.currency)
        return put_terms(connection, account_id, document, utc_ms=utc_ms, actor=request.actor)
