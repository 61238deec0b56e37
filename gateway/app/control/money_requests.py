"""Requests about money: recharge, reversal, accounts, tariffs."""

import orjson

from gateway.app.control.desk import Desk
from gateway.core import requests as wishes
from gateway.core.errors import RefusedError
from gateway.core.ledger import (
    Transaction,
    TransactionKind,
    opening_of,
    recharge_of,
    reversal_of,
    wallet,
)
from gateway.core.pricing import Pricer
from gateway.core.requests import Request
from gateway.core.tariff import Tariff
from gateway.core.tariff_document import tariff_from_document
from gateway.store.db import Connection
from gateway.store.ledger import append_transaction, read_balance, read_transaction
from gateway.store.recovery import last_recovery
from gateway.store.registry import (
    Account,
    AccountStatus,
    is_enforced,
    open_account,
    publish_tariff,
)


class MoneyRequests:
    """Carries out the requests that post to the ledger or change what energy costs."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def recharge(self, body: wishes.Recharge, request: Request) -> None:
        """Credit an account. Refuses ACCOUNT_UNKNOWN, AMOUNT_RANGE."""
        desk = self._desk
        index = desk.account(body.account_id)
        if body.amount_nano <= 0:
            raise RefusedError("AMOUNT_RANGE", "a recharge is above zero", "amount")
        desk.check_amount(body.amount_nano, "amount")
        transaction = recharge_of(
            body.account_id,
            body.amount_nano,
            body.provider,
            utc_ms=desk.books.label(),
            request_key=request.key,
            reference=body.payment_reference,
        )
        await self._post_and_credit(request, index, transaction, body.amount_nano)

    async def reverse(self, body: wishes.ReverseTransaction, request: Request) -> None:
        """Undo a recharge, once.

        Refuses TRANSACTION_UNKNOWN, NOT_REVERSIBLE, RENUMBERED, ALREADY_REVERSED.
        """
        desk, seq = self._desk, body.transaction_seq
        original = await desk.books.commit(lambda connection: read_transaction(connection, seq))
        if original is None:
            raise RefusedError(
                "TRANSACTION_UNKNOWN", f"there is no transaction {seq}", "transaction_seq"
            )
        if original.kind is not TransactionKind.RECHARGE or original.account_id is None:
            raise RefusedError(
                "NOT_REVERSIBLE",
                f"transaction {seq} is a {original.kind}; only a recharge can be reversed",
                "transaction_seq",
            )
        if "voucher" in dict(original.memo):
            raise RefusedError(
                "NOT_REVERSIBLE",
                f"transaction {seq} redeemed a voucher, which is redeemed for good",
                "transaction_seq",
            )
        last = await desk.books.commit(last_recovery)
        if last is not None and request.created_utc_ms < last.since_utc_ms and seq > last.head.seq:
            raise RefusedError(
                "RENUMBERED",
                f"asked for before a restore: transaction {seq} is another one now; look it up "
                "and ask again",
                "transaction_seq",
            )
        index = desk.account(original.account_id)
        name = wallet(original.account_id)
        amount_nano = sum(e.amount_nano for e in original.entries if e.ledger_account == name)
        transaction = reversal_of(original, seq, utc_ms=desk.books.label(), request_key=request.key)
        await self._post_and_credit(request, index, transaction, -amount_nano)

    async def open_account(self, body: wishes.OpenAccount, request: Request) -> None:
        """Open an account on a point that was read just now, from whose registers it is charged.

        Refuses POINT_UNKNOWN, POINT_TAKEN, TARIFF_UNKNOWN, CLOCK_UNTRUSTED, METER_AWAY,
        AMOUNT_RANGE, ACCOUNT_EXISTS.
        """
        desk = self._desk
        index = desk.point(body.service_point_id)
        point = desk.engine.points[index]
        if point.pricer is not None:
            raise RefusedError(
                "POINT_TAKEN",
                f"service point {body.service_point_id} has the open account {point.account_id}",
                "service_point_id",
            )
        desk.check_amount(body.opening_balance_nano, "opening_balance")
        desk.check_amount(body.disablement_threshold_nano, "disablement_threshold")
        self._check_readable(index)
        label = desk.books.label()
        # A trial first: whether the tariff fits is known before anything is written.
        Pricer(desk.shelf.versions(body.tariff_id), start_utc_ms=label, sources=point.terms.sources)
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
                opening = opening_of(
                    body.account_id,
                    body.opening_balance_nano,
                    utc_ms=label,
                    request_key=request.key,
                )
                append_transaction(connection, opening)
            return {"account_id": body.account_id}

        await desk.commit(request, effect)
        # Read anew: a version may have been published while this was committed.
        pricer = Pricer(
            desk.shelf.versions(body.tariff_id),
            start_utc_ms=max(label, point.label_utc_ms),
            sources=point.terms.sources,
        )
        point.attach_account(
            body.account_id,
            body.tariff_id,
            pricer,
            threshold_nano=body.disablement_threshold_nano,
        )
        point.wallet_nano = body.opening_balance_nano
        point.begin_line()
        desk.engine.set_flat(index, flat=desk.shelf.is_flat(body.tariff_id))
        await self.enforce(index)

    async def publish_tariff(self, body: wishes.PublishTariff, request: Request) -> None:
        """Publish the next version of a tariff.

        Refuses TARIFF_INVALID and the codes of its problems, TARIFF_ORDER, TARIFF_MIXED,
        TARIFF_RETROACTIVE, SOURCE_UNPRICED.
        """
        desk = self._desk
        try:
            document = orjson.loads(body.document)
        except orjson.JSONDecodeError as error:
            raise RefusedError("TARIFF_INVALID", f"not JSON: {error}", "document") from error
        if not isinstance(document, dict):
            raise RefusedError("TARIFF_INVALID", "a tariff document is an object", "document")
        draft = tariff_from_document(document, desk.currency)
        number = len(desk.shelf.known(draft.tariff_id)) + 1
        tariff = tariff_from_document(document, desk.currency, version=number)
        # Whatever could fail for an account under this tariff has to fail now, not after COMMIT.
        sources = {desk.engine.points[index].terms.sources for index in self._users(tariff)}
        desk.shelf.check_next(tariff, label_utc_ms=desk.books.label(), users_sources=sources)
        version = desk.shelf.version_of(tariff, document, desk.books.label(), request.actor)

        def effect(connection: Connection) -> dict[str, object]:
            publish_tariff(connection, version)
            return {"tariff_id": tariff.tariff_id, "version": tariff.version}

        await desk.commit(request, effect)
        desk.shelf.add(tariff)
        for index in self._users(tariff):
            pricer = desk.engine.points[index].pricer
            if pricer is not None:
                pricer.add_version(tariff)
            desk.engine.set_flat(index, flat=desk.shelf.is_flat(tariff.tariff_id))

    async def enforce(self, index: int) -> None:
        """Supply is enforced once the point is commissioned and its account is open."""
        desk = self._desk
        point = desk.engine.points[index]
        account_id, point_id = point.account_id, point.terms.service_point_id
        point.supply.enforce(
            on=await desk.books.commit(
                lambda connection: is_enforced(connection, account_id, point_id)
            )
        )
        await desk.books.keep(index)

    async def _post_and_credit(
        self, request: Request, index: int, transaction: Transaction, amount_nano: int
    ) -> None:
        """Post what was used so far, then the transaction with its outcome, then the effect."""
        desk = self._desk

        def effect(connection: Connection) -> dict[str, object]:
            seq = append_transaction(connection, transaction)
            name = wallet(transaction.account_id or "")
            return {
                "transaction_seq": seq,
                "amount_nano": amount_nano,
                "balance_nano": read_balance(connection, name),
            }

        # A commit of its own: the transaction may still be refused, the consumption may not.
        desk.books.post([index])
        await desk.commit(request, effect)
        if desk.engine.points[index].credited(amount_nano):
            await desk.books.keep(index)
        desk.engine.decide(index)

    def _check_readable(self, index: int) -> None:
        desk = self._desk
        point = desk.engine.points[index]
        if not desk.engine.gate.clock.trusted:
            raise RefusedError(
                "CLOCK_UNTRUSTED",
                f"the wall clock is not trusted ({desk.engine.gate.clock.reason}): set it right "
                "or confirm it",
            )
        max_age_s = point.supply.policy.max_reading_age_s
        if not point.is_settled(desk.clock.mono_ns(), max_age_s):
            raise RefusedError(
                "METER_AWAY",
                f"meter {point.terms.meter_id} has no good reading of the last "
                f"{max_age_s:.0f} s: an account begins at a known register",
            )

    def _users(self, tariff: Tariff) -> list[int]:
        return [
            index
            for index, point in enumerate(self._desk.engine.points)
            if point.pricer is not None and point.tariff_id == tariff.tariff_id
        ]
