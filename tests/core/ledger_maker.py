"""Ledgers for tests, made with the real pricer and the real settlement functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.core.documents.periods import DocumentPeriod
from gateway.core.documents.posted import Posted, is_own, seen_by
from gateway.core.documents.rates import RateBook
from gateway.core.documents.statement import Statement, StatementFold
from gateway.core.ledger import (
    Entry,
    ExportRegisters,
    SettlementLine,
    Transaction,
    TransactionKind,
    cash,
    merge_entries,
    opening_of,
    recharge_of,
    reversal_of,
    settlement_of,
    wallet,
)
from gateway.core.pricing import Pricer
from gateway.core.tariff import Tariff

FLAT = "flat-1"
OTHER = SettlementLine(
    account_id="flat-2",
    service_point_id="flat-2",
    meter_id="flat-2",
    tariff_id="home",
    period="2026-01",
    from_utc_ms=0,
    to_utc_ms=1,
    from_wh=(0,),
    to_wh=(7,),
    advance_wh=(7,),
    cells=(("1/grid/all/0", 7),),
    charges=(("energy:grid", 7_000),),
)


@dataclass
class LedgerMaker:
    """One account's ledger: what is used is priced, what is settled becomes transactions."""

    versions: Sequence[Tariff]
    start_ms: int
    sources: tuple[str, ...] = ("grid",)
    transactions: list[Transaction] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pricer = Pricer(self.versions, start_utc_ms=self.start_ms, sources=self.sources)
        self.now_ms = self.start_ms
        self.line_from_ms = self.start_ms
        self.registers_wh = tuple(1_000 * (n + 1) for n in range(len(self.sources)))
        self.export_wh = 70
        self.rates = RateBook(self.versions)

    def use(self, wh: Mapping[str, int], span_ms: int) -> None:
        """Energy of some time; periods that end in it are closed."""
        self.pricer.advance(wh, self.now_ms, self.now_ms + span_ms)
        self.now_ms += span_ms
        self.pricer.close_periods(self.now_ms)

    def settle(self, *, emergency_nano: int = 0, with_other: bool = False) -> None:
        """Post what was used. Emergency credit pays `emergency_nano` of it."""
        lines: list[SettlementLine] = []
        flags: frozenset[str] = frozenset()
        for posting in self.pricer.settle():
            advance = tuple(
                sum(wh for cell, wh in posting.cells if cell.source == source)
                for source in self.sources
            )
            to_wh = tuple(a + b for a, b in zip(self.registers_wh, advance, strict=True))
            fed_to_wh, facts = self.export_wh + posting.fed_wh, tuple[int, ...]()
            export: ExportRegisters | None = None
            if posting.fed_wh:
                export = ExportRegisters((self.export_wh,), (fed_to_wh,), (posting.fed_wh,))
                facts = (posting.tariff_version, *map(int, posting.facts))
            lines.append(
                SettlementLine(
                    account_id=FLAT,
                    service_point_id=FLAT,
                    meter_id=FLAT,
                    tariff_id=posting.tariff_id,
                    period=posting.period,
                    from_utc_ms=self.line_from_ms,
                    to_utc_ms=self.pricer.label_utc_ms,
                    from_wh=self.registers_wh,
                    to_wh=to_wh,
                    advance_wh=advance,
                    cells=tuple((cell.key, wh) for cell, wh in posting.cells),
                    charges=posting.charges,
                    flags=tuple(sorted(flags.union(posting.flags))),
                    facts=facts,
                    export=export,
                )
            )
            self.registers_wh, self.export_wh = to_wh, fed_to_wh
        self.line_from_ms = self.pricer.label_utc_ms
        if with_other:
            lines.insert(0, OTHER)
        settlement = settlement_of(lines, utc_ms=self.now_ms)
        if settlement is None:
            return
        if emergency_nano:
            moved = (Entry(wallet(FLAT), emergency_nano),
                     Entry(f"emergency:{FLAT}", -emergency_nano))  # fmt: skip
            settlement = Transaction(
                kind=settlement.kind,
                utc_ms=settlement.utc_ms,
                entries=merge_entries([*settlement.entries, *moved]),
                settlements=settlement.settlements,
            )
        self.transactions.append(settlement)

    def recharge(self, amount_nano: int, *, repaid: Mapping[str, int] | None = None) -> int:
        """Money comes in, some of it to other ledger accounts; the transaction's number."""
        plain = recharge_of(
            FLAT,
            amount_nano,
            "bank",
            utc_ms=self.now_ms,
            request_key=f"key-{len(self.transactions)}",
            reference="R-7",
        )
        kept = amount_nano - sum((repaid or {}).values())
        entries = [Entry(wallet(FLAT), kept), Entry(cash("bank"), -amount_nano)]
        entries += [Entry(name, amount) for name, amount in (repaid or {}).items()]
        self.transactions.append(
            Transaction(
                kind=plain.kind,
                utc_ms=plain.utc_ms,
                entries=merge_entries(entries),
                account_id=FLAT,
                request_key=plain.request_key,
                memo=plain.memo,
            )
        )
        return len(self.transactions)

    def open_with(self, amount_nano: int) -> None:
        """The balance that was brought along."""
        self.transactions.append(
            opening_of(FLAT, amount_nano, utc_ms=self.now_ms, request_key="open")
        )

    def reverse(self, seq: int) -> None:
        """Undo a transaction."""
        self.transactions.append(
            reversal_of(self.transactions[seq - 1], seq, utc_ms=self.now_ms, request_key=f"u{seq}")
        )

    def posted(self) -> list[Posted]:
        """All transactions as the account sees them."""
        reversed_by = {t.reverses_seq: n for n, t in enumerate(self.transactions, start=1)}
        return [
            seen_by(FLAT, seq, transaction, reversed_by_seq=reversed_by.get(seq))
            for seq, transaction in enumerate(self.transactions, start=1)
        ]

    def balance(self, ledger_account: str, *, before_ms: int | None = None) -> int:
        """What the entries of a ledger account sum to, of all time or before an instant."""
        return sum(
            entry.amount_nano
            for transaction in self.transactions
            if before_ms is None or transaction.utc_ms < before_ms
            for entry in transaction.entries
            if entry.ledger_account == ledger_account
        )

    def statement(self, period: DocumentPeriod) -> Statement:
        """The statement of a period, read as the store reads it."""
        own = {
            entry.ledger_account
            for transaction in self.transactions
            for entry in transaction.entries
            if is_own(entry.ledger_account, FLAT)
        } - {wallet(FLAT)}
        fold = StatementFold(
            FLAT,
            period,
            self.rates,
            opening_nano=self.balance(wallet(FLAT), before_ms=period.start_utc_ms),
            opening_others={
                name: self.balance(name, before_ms=period.start_utc_ms) for name in own
            },
        )
        for posted in self.posted():
            if period.start_utc_ms <= posted.utc_ms < period.final_utc_ms:
                fold.take(posted)
        return fold.done(is_final=self.now_ms >= period.final_utc_ms)


def adjustment(entries: Sequence[Entry], utc_ms: int) -> Transaction:
    """A correction of some kind."""
    return Transaction(
        kind=TransactionKind.ADJUSTMENT, utc_ms=utc_ms, entries=tuple(entries), account_id=FLAT
    )
