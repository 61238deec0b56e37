"""Requests about a customer's credit: money in, corrections, transfers, debts, notices."""

from collections.abc import Mapping, Sequence

from gateway.app.control.crediting import commit_credit, credited_entries
from gateway.app.control.department import Method
from gateway.app.control.desk import Desk
from gateway.core import requests as wishes
from gateway.core.account import Account
from gateway.core.civil import DAY_MS
from gateway.core.credit import (
    CreditBook,
    DebtKind,
    DebtTerms,
    Notice,
    PaymentMode,
    accumulated,
    debt,
)
from gateway.core.errors import RefusedError
from gateway.core.ledger import (
    Transaction,
    TransactionKind,
    debt_of,
    recharge_of,
    reversal_of,
    transfer_of,
    wallet,
    write_off_of,
)
from gateway.core.requests import Request
from gateway.store.accounts import put_debt
from gateway.store.db import Connection
from gateway.store.ledger import append_transaction, read_balance, read_transaction
from gateway.store.recovery import last_recovery
from gateway.store.state import save_account_states


class CreditRequests:
    """Carries out the requests that move a customer's money."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    @property
    def methods(self) -> Mapping[type, Method]:
        """What this carries out, by the type of the body."""
        return {
            wishes.Recharge: self.recharge,
            wishes.ReverseTransaction: self.reverse,
            wishes.Transfer: self.transfer,
            wishes.InvokeEmergency: self.invoke_emergency,
            wishes.AddDebt: self.add_debt,
            wishes.WriteOff: self.write_off,
            wishes.ServeNotice: self.serve_notice,
        }

    async def recharge(self, body: wishes.Recharge, request: Request) -> None:
        """Credit an account, in the order of domain.md section 5.

        Refuses ACCOUNT_UNKNOWN, AMOUNT_RANGE, SHIFT_REQUIRED, PAYMENT_KNOWN, DAILY_LIMIT.
        """
        desk = self._desk
        account = desk.account(body.account_id)
        self._check_positive(body.amount_nano)
        desk.books.post(desk.indices_of(body.account_id))
        transaction = recharge_of(
            body.account_id,
            body.amount_nano,
            body.provider,
            credited_entries(desk, account, body.amount_nano),
            utc_ms=desk.books.label(),
            request_key=request.key,
            reference=body.payment_reference,
        )
        await self._commit(request, transaction, body.amount_nano, [account])

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
        account = desk.account(original.account_id)
        desk.books.post(desk.indices_of(account.account_id))
        transaction = reversal_of(original, seq, utc_ms=desk.books.label(), request_key=request.key)
        amount_nano = sum(e.amount_nano for e in original.entries if e.amount_nano < 0)
        await self._commit(request, transaction, amount_nano, [account])

    async def transfer(self, body: wishes.Transfer, request: Request) -> None:
        """Move credit from one account to another, where debts come first as with a recharge.

        Refuses ACCOUNT_UNKNOWN, SAME_ACCOUNT, AMOUNT_RANGE, CREDIT_SHORT, REASON_MISSING.
        """
        desk = self._desk
        giver = desk.account(body.from_account_id, "from_account_id")
        taker = desk.account(body.to_account_id, "to_account_id")
        if giver is taker:
            raise RefusedError("SAME_ACCOUNT", "both accounts are the same", "to_account_id")
        self._check_reason(body.reason)
        self._check_positive(body.amount_nano)
        desk.books.post((*desk.indices_of(giver.account_id), *desk.indices_of(taker.account_id)))
        # What is left must still be above the threshold: a transfer cuts nobody.
        left_nano = giver.credit.wallet_nano - giver.credit.terms.disablement_threshold_nano
        if body.amount_nano >= left_nano:
            raise RefusedError(
                "CREDIT_SHORT", "a transfer has to leave credit above the threshold", "amount"
            )
        transaction = transfer_of(
            body.from_account_id,
            body.to_account_id,
            body.amount_nano,
            taker.credit.split(body.amount_nano, desk.local_day()),
            utc_ms=desk.books.label(),
            request_key=request.key,
            reason=body.reason,
        )
        await self._commit(request, transaction, body.amount_nano, [giver, taker])

    async def invoke_emergency(self, body: wishes.InvokeEmergency, request: Request) -> None:
        """Take up emergency credit.

        Refuses ACCOUNT_UNKNOWN, EMERGENCY_NOT_OFFERED, EMERGENCY_INVOKED, EMERGENCY_NOT_SELECTABLE.
        """
        desk = self._desk
        account = desk.account(body.account_id)
        desk.books.post(desk.indices_of(body.account_id))
        after = account.copy()
        after.credit.invoke_emergency(account.running_nano)
        limit_nano = after.credit.terms.emergency_limit_nano

        def effect(connection: Connection) -> dict[str, object]:
            save_account_states(connection, {body.account_id: after.snapshot()})
            return {"account_id": body.account_id, "limit_nano": limit_nano}

        with desk.holding(account):
            await desk.commit(request, effect)
            account.take_over(after)
        await desk.settle_supply(account)

    async def add_debt(self, body: wishes.AddDebt, request: Request) -> None:
        """Agree on a debt and how it is collected.

        Refuses ACCOUNT_UNKNOWN, AMOUNT_RANGE, DEBT_INVALID, DEBT_EXISTS, REASON_MISSING.
        """
        desk = self._desk
        account = desk.account(body.account_id)
        self._check_reason(body.reason)
        self._check_positive(body.amount_nano)
        desk.check_amount(body.daily_nano, "daily")
        desk.check_amount(body.weekly_cap_nano, "weekly_cap")
        terms = _debt_terms(body)
        label = desk.books.label()
        transaction = debt_of(
            body.account_id,
            debt(body.account_id, body.debt_id),
            body.amount_nano,
            utc_ms=label,
            request_key=request.key,
            reason=body.reason,
        )

        def effect(connection: Connection) -> dict[str, object]:
            put_debt(connection, body.account_id, terms, utc_ms=label, actor=request.actor)
            return {"transaction_seq": append_transaction(connection, transaction)}

        with desk.holding(account):
            await desk.commit(request, effect)
            account.credit.add_debt(terms)
            account.credit.apply(transaction.entries)

    async def write_off(self, body: wishes.WriteOff, request: Request) -> None:
        """Give up what is owed: a debt, accumulated debt (`accumulated`) or a wallet below zero
        (`wallet`).

        Refuses ACCOUNT_UNKNOWN, DEBT_UNKNOWN, AMOUNT_RANGE, REASON_MISSING.
        """
        desk = self._desk
        account = desk.account(body.account_id)
        self._check_reason(body.reason)
        self._check_positive(body.amount_nano)
        desk.books.post(desk.indices_of(body.account_id))
        ledger_account, owed_nano = _owed(account.credit, body.debt_id)
        if body.amount_nano > owed_nano:
            raise RefusedError("AMOUNT_RANGE", "no more than that is owed there", "amount")
        transaction = write_off_of(
            body.account_id,
            ledger_account,
            body.amount_nano,
            utc_ms=desk.books.label(),
            request_key=request.key,
            reason=body.reason,
        )
        await self._commit(request, transaction, body.amount_nano, [account])

    async def serve_notice(self, body: wishes.ServeNotice, request: Request) -> None:
        """Record that a customer in credit mode was told what is overdue: supply may be cut for it
        once the days of notice have passed.

        Refuses ACCOUNT_UNKNOWN, NOT_CREDIT_MODE, NOTHING_OVERDUE, AMOUNT_RANGE, CLOCK_UNTRUSTED.
        """
        desk = self._desk
        account = desk.account(body.account_id)
        self._check_positive(body.amount_nano)
        terms = account.credit.terms
        if terms.payment_mode is not PaymentMode.CREDIT:
            raise RefusedError("NOT_CREDIT_MODE", "only an account in credit mode gets a notice")
        clock = desk.engine.gate.clock
        if not clock.trusted:
            raise RefusedError("CLOCK_UNTRUSTED", f"the wall clock is not trusted: {clock.reason}")
        if account.credit.wallet_nano - account.running_nano > -body.amount_nano:
            raise RefusedError("NOTHING_OVERDUE", "the account owes less than that", "amount")
        due_utc_ms = desk.books.label() + terms.notice_days * DAY_MS
        after = account.copy()
        after.credit.notice = Notice(body.amount_nano, due_utc_ms)

        def effect(connection: Connection) -> dict[str, object]:
            save_account_states(connection, {body.account_id: after.snapshot()})
            return {"account_id": body.account_id, "due_utc_ms": due_utc_ms}

        with desk.holding(account):
            await desk.commit(request, effect)
            account.take_over(after)
        # New days begin, also where the days of an earlier notice are over.
        await desk.settle_supply(account)

    # -- inside ----------------------------------------------------------------------------

    async def _commit(
        self,
        request: Request,
        transaction: Transaction,
        amount_nano: int,
        accounts: Sequence[Account],
    ) -> None:
        """Append a transaction through the till, with its outcome; credit and supply follow."""
        desk = self._desk

        def effect(connection: Connection) -> dict[str, object]:
            seq = desk.till.append(connection, request, transaction)
            name = wallet(transaction.account_id or "")
            return {
                "transaction_seq": seq,
                "amount_nano": amount_nano,
                "balance_nano": read_balance(connection, name),
            }

        await commit_credit(desk, request, transaction, accounts, effect)

    def _check_positive(self, amount_nano: int) -> None:
        if amount_nano <= 0:
            raise RefusedError("AMOUNT_RANGE", "the amount has to be above zero", "amount")
        self._desk.check_amount(amount_nano, "amount")

    @staticmethod
    def _check_reason(reason: str) -> None:
        if not reason:
            raise RefusedError("REASON_MISSING", "say why", "reason")


def _debt_terms(body: wishes.AddDebt) -> DebtTerms:
    """Raises RefusedError DEBT_INVALID for terms by which nothing would ever be collected."""
    kinds = {kind.value: kind for kind in DebtKind}
    kind = kinds.get(body.kind)
    if kind is None:
        raise RefusedError("DEBT_INVALID", f"{body.kind!r} is none of payment, time", "kind")
    if kind is DebtKind.PAYMENT and not 0 < body.share_ppm <= 1_000_000:
        raise RefusedError("DEBT_INVALID", "a share lies above 0 and up to 100 %", "share_percent")
    if kind is DebtKind.TIME and body.daily_nano <= 0:
        raise RefusedError("DEBT_INVALID", "the amount a day has to be above zero", "daily")
    if body.weekly_cap_nano < 0:
        raise RefusedError(
            "DEBT_INVALID", "a cap has to be above zero; leave it out for none", "cap"
        )
    if body.debt_id in ("wallet", "accumulated"):
        raise RefusedError("DEBT_INVALID", f"{body.debt_id} is no name for a debt", "debt_id")
    return DebtTerms(
        debt_id=body.debt_id,
        kind=kind,
        share_ppm=body.share_ppm if kind is DebtKind.PAYMENT else 0,
        daily_nano=body.daily_nano if kind is DebtKind.TIME else 0,
        weekly_cap_nano=body.weekly_cap_nano or None,
    )


def _owed(credit: CreditBook, debt_id: str) -> tuple[str, int]:
    """Ledger account and amount of something owed. Raises RefusedError DEBT_UNKNOWN."""
    name = credit.account_id
    if debt_id == "wallet":
        return wallet(name), max(0, -credit.wallet_nano)
    if debt_id == "accumulated":
        return accumulated(name), credit.accumulated_nano
    for terms, remaining_nano in credit.debts():
        if terms.debt_id == debt_id:
            return debt(name, debt_id), remaining_nano
    raise RefusedError("DEBT_UNKNOWN", f"account {name} has no debt {debt_id}", "debt_id")
