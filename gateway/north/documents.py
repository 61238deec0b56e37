"""Statements, explanations and receipts, read from the ledger in short looks."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final
from zoneinfo import ZoneInfo

from gateway.core.civil import zone_of
from gateway.core.documents.outages import OffSupply, Switched, off_supply
from gateway.core.documents.periods import DocumentPeriod, document_period
from gateway.core.documents.posted import Posted, seen_by, wallet_nano
from gateway.core.documents.rates import RateBook
from gateway.core.documents.receipt import Receipt, receipt_of
from gateway.core.documents.statement import Statement, StatementFold
from gateway.core.errors import RefusedError
from gateway.core.explain import Explainer, Explanation
from gateway.core.ledger import SettlementLine, wallet
from gateway.core.money import Currency
from gateway.core.tariff import Tariff
from gateway.core.tariff_document import tariff_from_document
from gateway.north.reader import Reader
from gateway.store.db import Connection
from gateway.store.ledger import ledger_head, read_balance, read_site, read_transaction
from gateway.store.registry import Account, read_account, read_tariff
from gateway.store.statements import (
    EntryPlace,
    last_posted_utc_ms,
    last_seq_before,
    lines_after,
    meters_at,
    own_ledger_accounts,
    posted_after,
    sum_of_entries,
    switched_outputs,
)

# A month has some 1,500 postings; this many are years of them, and the end of what one call does.
POSTED_MAX: Final = 100_000
TARIFFS_KEPT: Final = 512
OPEN: Final = "open"
SETTLING: Final = "settling"
FINAL: Final = "final"


@dataclass(frozen=True, slots=True)
class MonthlyStatement:
    """A statement and its state: `open` (runs), `settling` (may still grow) or `final`."""

    account: Account
    statement: Statement
    state: str


@dataclass(frozen=True, slots=True)
class ExplainedPage:
    """Explanations oldest first, the wallet after each, and where the next page begins."""

    items: tuple[tuple[Explanation, int], ...]
    next_seq: int | None


@dataclass(frozen=True, slots=True)
class _Scope:
    """An account, its ledger accounts, and the end of the ledger when it was looked up."""

    account: Account
    names: tuple[str, ...]
    head_seq: int
    newest_utc_ms: int
    balances: Mapping[str, int]
    zone: ZoneInfo


class DocumentReader:
    """Reads documents of accounts. `ledger` is the read side of control's file.

    Every method raises StoreAwayError when the file cannot be read now, RefusedError
    ACCOUNT_UNKNOWN, and what its docstring names.
    """

    def __init__(self, ledger: Reader, currency: Currency) -> None:
        self._ledger = ledger
        self._currency = currency
        # Published versions never change; a document that cannot be read has no prices.
        self._tariffs: dict[tuple[str, int], Tariff | None] = {}

    async def statement(self, account_id: str, label: str, now_utc_ms: int) -> MonthlyStatement:
        """The statement of a period, also of the one that runs.

        Raises RefusedError PERIOD_INVALID, PERIOD_FUTURE, PERIOD_UNKNOWN.
        """
        scope = await self._scope(account_id)
        period = document_period(scope.zone, label)
        account = scope.account
        if period.start_utc_ms > now_utc_ms:
            raise RefusedError("PERIOD_FUTURE", f"{label} has not begun", "period")
        if period.end_utc_ms <= account.opened_utc_ms:
            raise RefusedError(
                "PERIOD_UNKNOWN", f"account {account_id} was opened after {label}", "period"
            )
        first, last = await self._range(scope, period.start_utc_ms, period.final_utc_ms)
        # The ledger itself has gone past the period: nothing can be added to it any more.
        is_final = scope.newest_utc_ms >= period.final_utc_ms
        opening = {name: await self._balance_at(scope, name, first) for name in scope.names}
        rates = RateBook()
        fold = StatementFold(
            account_id,
            period,
            rates,
            opening_nano=opening.pop(wallet(account_id)),
            opening_others=opening,
        )
        async for page in self._pages(scope, first, last):
            await self._know(rates, [line for posted in page for line in posted.lines])
            for posted in page:
                fold.take(posted)
        statement = fold.done(
            off_supply=await self._off_supply(account, period, now_utc_ms), is_final=is_final
        )
        running = SETTLING if now_utc_ms >= period.end_utc_ms else OPEN
        return MonthlyStatement(account, statement, FINAL if is_final else running)

    async def explain(
        self, account_id: str, *, from_utc_ms: int | None, to_utc_ms: int | None,
        after_seq: int, limit: int,
    ) -> ExplainedPage:  # fmt: skip
        """What was posted to an account in a range of time, explained, oldest first.

        `after_seq` continues after a transaction.
        """
        scope = await self._scope(account_id)
        first, last = await self._range(scope, from_utc_ms, to_utc_ms)
        return await self._explained(scope, max(first, after_seq), last, limit)

    async def explain_period(
        self, account_id: str, label: str, *, after_seq: int, limit: int
    ) -> ExplainedPage:
        """What stands in the statement of a period, explained; a page may hold fewer.

        Raises RefusedError PERIOD_INVALID.
        """
        scope = await self._scope(account_id)
        period = document_period(scope.zone, label)
        first, last = await self._range(scope, period.start_utc_ms, period.final_utc_ms)
        page = await self._explained(scope, max(first, after_seq), last, limit)
        items = tuple(item for item in page.items if _stands_in(period, item[0].posted))
        return ExplainedPage(items, page.next_seq)

    async def explain_one(self, account_id: str, seq: int) -> ExplainedPage:
        """One transaction explained. Raises RefusedError TRANSACTION_UNKNOWN."""
        scope = await self._scope(account_id)
        page = await self._explained(scope, seq - 1, seq, 1)
        if not page.items:
            raise _unknown_transaction(account_id, seq)
        return page

    async def receipt(self, account_id: str, seq: int) -> Receipt:
        """The receipt of a recharge. Raises RefusedError TRANSACTION_UNKNOWN, NO_RECEIPT."""
        scope = await self._scope(account_id)
        found = await self._page(scope, seq - 1, seq, 1)
        if not found:
            raise _unknown_transaction(account_id, seq)
        before_nano = await self._balance_at(scope, wallet(account_id), seq - 1)
        return receipt_of(account_id, found[0], before_nano)

    # -- inside ----------------------------------------------------------------------------

    async def _scope(self, account_id: str) -> _Scope:
        def look(connection: Connection) -> _Scope | None:
            account = read_account(connection, account_id)
            if account is None:
                return None
            names = own_ledger_accounts(connection, account_id)
            return _Scope(
                account=account,
                names=names,
                head_seq=ledger_head(connection).seq,
                newest_utc_ms=last_posted_utc_ms(connection),
                balances={name: read_balance(connection, name) for name in names},
                zone=zone_of(read_site(connection).zone),
            )

        scope = await self._ledger.read(look)
        if scope is None:
            raise RefusedError("ACCOUNT_UNKNOWN", f"there is no account {account_id!r}")
        return scope

    async def _range(
        self, scope: _Scope, from_utc_ms: int | None, to_utc_ms: int | None
    ) -> tuple[int, int]:
        """The transactions (first, last] of a range of time, as far as the scope goes."""

        def look(connection: Connection) -> tuple[int, int]:
            head = scope.head_seq
            first = 0 if from_utc_ms is None else last_seq_before(connection, from_utc_ms)
            last = head if to_utc_ms is None else last_seq_before(connection, to_utc_ms)
            return min(first, head), min(last, head)

        return await self._ledger.read(look)

    async def _balance_at(self, scope: _Scope, name: str, seq: int) -> int:
        """What a ledger account held after a transaction, summed from the nearer end."""
        if seq * 2 <= scope.head_seq:
            return await self._sum(name, 0, seq)
        return scope.balances[name] - await self._sum(name, seq, scope.head_seq)

    async def _sum(self, name: str, after_seq: int, to_seq: int) -> int:
        total = 0
        place: EntryPlace | None = EntryPlace(after_seq + 1, 0)
        while place is not None:
            part, place = await self._ledger.read(
                partial(sum_of_entries, ledger_account=name, after=place, to_seq=to_seq)
            )
            total += part
        return total

    async def _page(
        self, scope: _Scope, after_seq: int, to_seq: int, limit: int | None = None
    ) -> list[Posted]:
        def look(connection: Connection) -> list[Posted]:
            bound = {} if limit is None else {"limit": limit}
            return posted_after(
                connection,
                scope.account.account_id,
                scope.names,
                after_seq=after_seq,
                to_seq=to_seq,
                **bound,
            )

        return await self._ledger.read(look)

    async def _pages(
        self, scope: _Scope, after_seq: int, to_seq: int
    ) -> AsyncIterator[list[Posted]]:
        count = 0
        while page := await self._page(scope, after_seq, to_seq):
            yield page
            count += len(page)
            if count > POSTED_MAX:
                raise RefusedError("PERIOD_TOO_LONG", f"over {POSTED_MAX} postings", "period")
            after_seq = page[-1].seq

    async def _explained(
        self, scope: _Scope, after_seq: int, to_seq: int, limit: int
    ) -> ExplainedPage:
        page = await self._page(scope, after_seq, to_seq, limit)
        if not page:
            return ExplainedPage((), None)
        lines = [line for posted in page for line in posted.lines]
        rates = RateBook()
        await self._know(rates, lines)
        explainer = Explainer(rates)
        await self._remember(explainer, scope, lines, page[0].seq - 1)
        balance_nano = await self._balance_at(
            scope, wallet(scope.account.account_id), page[0].seq - 1
        )
        items: list[tuple[Explanation, int]] = []
        for posted in page:
            original = await self._original(scope, posted)
            balance_nano += wallet_nano(posted, scope.account.account_id)
            items.append((explainer.take(posted, original), balance_nano))
        last_seq = page[-1].seq
        more = len(page) == limit and bool(await self._page(scope, last_seq, to_seq, 1))
        return ExplainedPage(tuple(items), last_seq if more else None)

    async def _remember(
        self, explainer: Explainer, scope: _Scope, lines: Sequence[SettlementLine], to_seq: int
    ) -> None:
        """Tell the explainer what came before in the periods of these lines."""
        labels = {line.period for line in lines}
        if not labels:
            return
        begun_ms = min(_begin_of(scope.zone, label) for label in labels)
        account_id, count = scope.account.account_id, 0
        after_seq = await self._ledger.read(
            lambda connection: last_seq_before(connection, begun_ms)
        )
        while True:
            found = await self._ledger.read(
                partial(lines_after, account_id=account_id, after_seq=after_seq, to_seq=to_seq)
            )
            if not found:
                return
            earlier = [line for _, line in found if line.period in labels]
            for line in earlier:
                explainer.remember(line)
            after_seq, count = found[-1][0], count + len(found)
            if count > POSTED_MAX:
                raise RefusedError("PERIOD_TOO_LONG", f"over {POSTED_MAX} postings", "period")

    async def _original(self, scope: _Scope, posted: Posted) -> Posted | None:
        seq = posted.reverses_seq
        if seq is None:
            return None
        found = await self._ledger.read(lambda connection: read_transaction(connection, seq))
        return None if found is None else seen_by(scope.account.account_id, seq, found)

    async def _know(self, rates: RateBook, lines: Sequence[SettlementLine]) -> None:
        """Take up the tariffs that lines refer to."""
        for tariff_id in sorted({line.tariff_id for line in lines}):
            if rates.versions(tariff_id):
                continue
            versions = await self._ledger.read(partial(read_tariff, tariff_id=tariff_id))
            for version in versions:
                tariff = self._tariff(tariff_id, version.version, version.document)
                if tariff is not None:
                    rates.add(tariff)

    def _tariff(self, tariff_id: str, number: int, document: Mapping[str, object]) -> Tariff | None:
        key = (tariff_id, number)
        if key not in self._tariffs:
            if len(self._tariffs) >= TARIFFS_KEPT:
                self._tariffs.clear()
            stored = self._currency.as_stored()
            try:
                self._tariffs[key] = tariff_from_document(document, stored, version=number)
            except RefusedError:
                self._tariffs[key] = None
        return self._tariffs[key]

    async def _off_supply(
        self, account: Account, period: DocumentPeriod, now_utc_ms: int
    ) -> tuple[OffSupply, ...]:
        """Time off at the account's point while the account was there."""
        point = account.service_point_id
        from_ms = max(period.start_utc_ms, account.opened_utc_ms)
        to_ms = min(period.end_utc_ms, now_utc_ms, account.closed_utc_ms or now_utc_ms)

        def look(connection: Connection) -> list[Switched]:
            found: list[Switched] = []
            for meter_id in meters_at(connection, point):
                found += switched_outputs(connection, meter_id, from_ms, to_ms)
            return found

        switched = [one for one in await self._ledger.read(look) if one.service_point_id == point]
        return off_supply(sorted(switched, key=lambda one: one.utc_ms), from_ms, to_ms)


def _stands_in(period: DocumentPeriod, posted: Posted) -> bool:
    """Whether any part of a transaction belongs to the documents of a period."""
    labels = [line.period for line in posted.lines] or [""]
    return any(period.place(posted.utc_ms, label) == 0 for label in labels)


def _begin_of(zone: ZoneInfo, label: str) -> int:
    """When a period of a settlement line began; 0 for one whose label tells nothing."""
    try:
        return document_period(zone, label).start_utc_ms
    except RefusedError:
        return 0


def _unknown_transaction(account_id: str, seq: int) -> RefusedError:
    return RefusedError(
        "TRANSACTION_UNKNOWN", f"account {account_id!r} has no transaction {seq}", "transaction_id"
    )
