"""`ledger verify`: does the ledger prove itself? Chain, sums, balances, registers against charges.

Reads in slices, each a snapshot of its own, so that it may run beside the writer for minutes
without holding the WAL; memory grows with meters and ledger accounts, not with transactions.
Checkpoints are proved on the way; from a trusted one a later proof may go on.
"""

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from gateway.core.errors import StoreCorruptError
from gateway.core.ledger import (
    GENESIS,
    Entry,
    ExportRegisters,
    RebaseFlag,
    SettlementLine,
    Transaction,
    TransactionKind,
    chain_hash,
    merge_entries,
    transaction_body,
    wallet,
)
from gateway.core.replay_times import REBASING
from gateway.core.tariff import EXPORT
from gateway.store.audit import audit_body
from gateway.store.checkpoints import (
    Checkpoint,
    KeyTrust,
    RegisterKey,
    Sums,
    chain_problem,
    checkpoint_places,
    read_checkpoint,
)
from gateway.store.ledger import (
    ChainHead,
    ledger_head,
    read_balances,
    read_site,
    read_transaction,
    read_transactions,
)
from gateway.store.provenance import RowProof, payment_problem
from gateway.store.rows import as_bytes, as_int, mapping
from gateway.store.vouchers import voucher_problem

# A slice ends at the first of these: 2,000 settlement lines are proved in about 100 ms, and no
# snapshot may be held for a second.
SLICE: Final = 250
SLICE_LINES: Final = 2_000
PROBLEMS_MAX: Final = 100
_EXPORT_REBASING: Final = REBASING | {RebaseFlag.EXPORT_BEGUN.value}

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a proof found. `problems` are the first 100 in words; `problem_count` counts all.

    `head` and `audit_head` are the chains' ends: whoever kept an older head can ask whether it
    is still part of the chain (`since`). `sums` are what the walk added up to: of the whole ledger
    when it began at the beginning or at a checkpoint. `foreign_checkpoints` are the days whose
    checkpoint a key signed that is not known as this site's; no problem of the ledger itself.
    """

    transactions: int
    audit_records: int
    problems: tuple[str, ...]
    problem_count: int
    head: ChainHead
    audit_head: ChainHead
    sums: Sums
    checkpoints: int = 0
    foreign_checkpoints: tuple[str, ...] = ()

    @property
    def proved(self) -> bool:
        """Nothing differs."""
        return self.problem_count == 0


@dataclass(slots=True)
class _Findings:
    """Counts every problem, keeps the first in words."""

    words: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, problem: str) -> None:
        self.count += 1
        if len(self.words) < PROBLEMS_MAX:
            self.words.append(problem)

    def add_all(self, problems: Iterable[str]) -> None:
        """Each of them."""
        for problem in problems:
            self.add(problem)


def verify_ledger(
    connection: sqlite3.Connection,
    progress: Progress | None = None,
    *,
    since: ChainHead | Checkpoint | None = None,
    trust: KeyTrust | None = None,
) -> VerifyReport:
    """Recompute everything that the ledger claims; `connection` is in autocommit mode.

    `progress` is called between two slices with the transactions done and those there are. With
    `since` only what came after it is proved: after a checkpoint everything, after a head (that
    somebody kept) the chain, sums and registers, but not the balances, which need the whole
    ledger. `trust` is needed to prove the signatures of the checkpoints met. Raises
    StoreCorruptError or sqlite3.Error when the file cannot be read at all.
    """
    findings = _Findings()
    start = since if isinstance(since, ChainHead) else ChainHead(0, GENESIS)
    audit_start, sums = ChainHead(0, GENESIS), Sums()
    if isinstance(since, Checkpoint):
        start, audit_start = since.head, since.audit_head
        sums = Sums.unpacked(since.packed_sums)
        problem = chain_problem(connection, since)
        if problem is not None:
            findings.add(problem)
    elif since is not None and since.seq > 0:
        _check_since(connection, since, findings)
    proof = _LedgerProof(findings, start, sums)
    marks = _Marks(connection, start, trust, findings)
    whole = not isinstance(since, ChainHead)
    done = False
    while not done:
        connection.execute("BEGIN")
        try:
            head = ledger_head(connection)
            last = slice_end(connection, proof.seq, head.seq)
            for seq, transaction, link in read_slice(connection, proof.seq + 1, last, findings.add):
                proof.take(connection, seq, transaction, link)
                if whole:
                    marks.compare(connection, proof)
            proof.end_slice(last)
            done = last >= head.seq
            if done and whole:
                proof.check_balances(connection, head.seq)
            if done and since is None:
                findings.add_all(filter(None, [voucher_problem(connection)]))
        finally:
            connection.execute("ROLLBACK")
        if progress is not None:
            progress(proof.seq, head.seq)
    row_proof = RowProof(connection) if since is None else None
    end, audit_records = _verify_audit(connection, audit_start, findings, row_proof)
    if row_proof is not None:
        findings.add_all(row_proof.problems(proof.settled()))
    return VerifyReport(
        transactions=proof.transactions,
        audit_records=audit_records,
        problems=tuple(findings.words),
        problem_count=findings.count,
        head=ChainHead(proof.seq, proof.link),
        audit_head=end,
        sums=proof.sums(),
        checkpoints=marks.count,
        foreign_checkpoints=tuple(marks.foreign),
    )


class _Marks:
    """The checkpoints behind the start of a proof, each compared when the walk reaches it."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        start: ChainHead,
        trust: KeyTrust | None,
        findings: _Findings,
    ) -> None:
        self.foreign: list[str] = []
        self._site_id = read_site(connection).site_id if trust is not None else ""
        self._trust = trust
        self._findings = findings
        self._at: dict[int, list[int]] = {}
        places = checkpoint_places(connection, start.seq + 1)
        self.count = len(places)
        for number, seq in places:
            self._at.setdefault(seq, []).append(number)
            self._prove(connection, number)

    def _prove(self, connection: sqlite3.Connection, number: int) -> None:
        """Signature, key, and whether the chains still hold what it names."""
        checkpoint = read_checkpoint(connection, number)
        if checkpoint is None:
            return
        problem = chain_problem(connection, checkpoint)
        if self._trust is not None:
            problem = self._trust.problem(checkpoint, self._site_id) or problem
            if not self._trust.knows(checkpoint):
                self.foreign.append(checkpoint.day)
        if problem is not None:
            self._findings.add(problem)

    def compare(self, connection: sqlite3.Connection, proof: "_LedgerProof") -> None:
        """At a checkpoint's transaction: the sums signed are those of the walk."""
        for number in self._at.get(proof.seq, ()):
            checkpoint = read_checkpoint(connection, number)
            if checkpoint is None:
                continue
            try:
                fits = Sums.unpacked(checkpoint.packed_sums) == proof.sums()
            except StoreCorruptError:
                fits = False
            if not fits:
                self._findings.add(
                    f"the checkpoint of {checkpoint.day}: its sums are not those of the ledger"
                )


class _LedgerProof:
    """Walks the transactions in order."""

    def __init__(self, findings: _Findings, start: ChainHead, sums: Sums) -> None:
        self.seq = start.seq
        self.link = start.hash
        self.transactions = 0
        self._findings = findings
        self._sums = dict(sums.balances)
        self._registers = dict(sums.registers)
        self._export = dict(sums.export)

    def sums(self) -> Sums:
        """What the entries and registers up to here add up to."""
        balances = {name: nano for name, nano in self._sums.items() if nano}
        return Sums(balances, dict(self._registers), dict(self._export))

    def settled(self) -> set[tuple[str, str]]:
        """Meter and point of every line."""
        return {(meter_id, point_id) for meter_id, point_id, _ in self._registers}

    def take(
        self,
        connection: sqlite3.Connection,
        seq: int,
        transaction: Transaction | None,
        link: bytes,
    ) -> None:
        """Prove one transaction; None when its rows cannot be read (that was told already)."""
        gap = seq != self.seq + 1
        if gap:
            self._findings.add(f"transactions {self.seq + 1} to {seq - 1} are missing")
        if transaction is not None:
            if not gap and chain_hash(self.link, transaction_body(seq, transaction)) != link:
                self._findings.add(f"transaction {seq}: its hash does not fit its content")
            for entry in transaction.entries:
                before = self._sums.get(entry.ledger_account, 0)
                self._sums[entry.ledger_account] = before + entry.amount_nano
            self._check_charges(seq, transaction)
            for line in transaction.settlements:
                self._check_line(connection, seq, line)
            if transaction.reverses_seq is not None:
                self._check_reversal(connection, seq, transaction)
            if transaction.kind is not TransactionKind.SETTLEMENT:
                problem = payment_problem(connection, seq, transaction)
                if problem is not None:
                    self._findings.add(problem)
        self.transactions += 1
        self.seq, self.link = seq, link

    def end_slice(self, last_seq: int) -> None:
        """Go on after `last_seq`, also when the rows before it are missing."""
        if self.seq < last_seq:
            self._findings.add(f"transactions {self.seq + 1} to {last_seq} are missing")
            self.seq = last_seq

    def check_balances(self, connection: sqlite3.Connection, head_seq: int) -> None:
        """Compare the projection with the sums, and look for lines of no transaction."""
        stored = read_balances(connection)
        for name in sorted(stored.keys() | self._sums.keys()):
            summed_nano, stored_nano = self._sums.get(name, 0), stored.get(name, 0)
            if summed_nano != stored_nano:
                self._findings.add(
                    f"balance of {name} is {stored_nano} nano, its entries sum to {summed_nano}"
                )
        for table in ("entry", "settlement"):
            row = connection.execute(_STRAY[table], (head_seq,)).fetchone()
            if row[0]:
                self._findings.add(f"{row[0]} rows of {table} belong to no transaction")

    def _check_charges(self, seq: int, transaction: Transaction) -> None:
        """A settlement takes from each wallet exactly what its lines charge."""
        if transaction.kind is not TransactionKind.SETTLEMENT:
            return
        charged: dict[str, int] = {}
        for line in transaction.settlements:
            name = wallet(line.account_id)
            total = sum(amount for _, amount in line.charges)
            charged[name] = charged.get(name, 0) + total
        for entry in transaction.entries:
            if entry.ledger_account.startswith("wallet:"):
                name = entry.ledger_account
                charged[name] = charged.get(name, 0) + entry.amount_nano
        for name, left_nano in charged.items():
            if left_nano != 0:
                self._findings.add(
                    f"transaction {seq}: {name} differs by {left_nano} nano from its charges"
                )

    def _check_line(self, connection: sqlite3.Connection, seq: int, line: SettlementLine) -> None:
        place = f"transaction {seq}, meter {line.meter_id}"
        if not len(line.from_wh) == len(line.to_wh) == len(line.advance_wh):
            self._findings.add(f"{place}: its registers differ in number")
            return
        if any(wh < 0 for wh in line.advance_wh):
            self._findings.add(f"{place}: settled energy is negative")
        cells_wh = sum(wh for _, wh in line.cells)
        if cells_wh != sum(line.advance_wh):
            self._findings.add(
                f"{place}: {cells_wh} Wh were priced, {sum(line.advance_wh)} Wh were settled"
            )
        moved = tuple(b - a for a, b in zip(line.from_wh, line.to_wh, strict=True))
        if moved != line.advance_wh and REBASING.isdisjoint(line.flags):
            self._findings.add(
                f"{place}: registers moved by {list(moved)} Wh, settled were "
                f"{list(line.advance_wh)} Wh, and no flag says why"
            )
        key = (line.meter_id, line.service_point_id, line.account_id)
        before = self._registers.get(key)
        if before not in (None, line.from_wh) and not _begins_stay(connection, line):
            self._findings.add(
                f"{place}: begins at registers {list(line.from_wh)}, the line before it ended at "
                f"{list(before or ())}"
            )
        self._registers[key] = line.to_wh
        if line.export is not None:
            self._check_export(place, key, line.export)
        if dict(line.charges).get(EXPORT) and not line.fed_wh:
            self._findings.add(f"{place}: pays for energy that no export register shows")

    def _check_export(self, place: str, key: RegisterKey, export: ExportRegisters) -> None:
        from_wh, to_wh, advance_wh = export.from_wh, export.to_wh, export.advance_wh
        if not len(from_wh) == len(to_wh) == len(advance_wh):
            self._findings.add(f"{place}: its export registers differ in number")
            return
        if any(wh < 0 for wh in advance_wh):
            self._findings.add(f"{place}: energy fed in is negative")
        moved = tuple(b - a for a, b in zip(from_wh, to_wh, strict=True))
        if moved != advance_wh and _EXPORT_REBASING.isdisjoint(export.flags):
            self._findings.add(
                f"{place}: export registers moved by {list(moved)} Wh, fed in were "
                f"{list(advance_wh)} Wh, and no flag says why"
            )
        before = self._export.get(key)
        if before not in (None, from_wh) and RebaseFlag.EXPORT_BEGUN not in export.flags:
            self._findings.add(
                f"{place}: begins at export registers {list(from_wh)}, the line before it ended at "
                f"{list(before or ())}"
            )
        self._export[key] = to_wh

    def _check_reversal(
        self, connection: sqlite3.Connection, seq: int, transaction: Transaction
    ) -> None:
        try:
            original = read_transaction(connection, transaction.reverses_seq or 0)
        except (ValueError, StoreCorruptError):
            return  # told where the original itself was looked at
        undone = [Entry(e.ledger_account, -e.amount_nano) for e in transaction.entries]
        if original is None or merge_entries(original.entries) != merge_entries(undone):
            self._findings.add(
                f"transaction {seq} does not undo transaction {transaction.reverses_seq}"
            )


def _begins_stay(connection: sqlite3.Connection, line: SettlementLine) -> bool:
    """Whether the account took the point (again) within this line: what went before is nobody's."""
    found = connection.execute(
        "SELECT 1 FROM account_point WHERE account_id = ? AND service_point_id = ? "
        "AND from_utc_ms BETWEEN ? AND ?",
        (line.account_id, line.service_point_id, line.from_utc_ms, line.to_utc_ms),
    ).fetchone()
    return found is not None


# Two ranges of the primary key: with OR it would be a walk over the whole table.
_STRAY: Final = {
    table: f"SELECT (SELECT count(*) FROM {table} WHERE seq > ?) "  # noqa: S608 - constants
    f"+ (SELECT count(*) FROM {table} WHERE seq < 1)"
    for table in ("entry", "settlement")
}


def _check_since(connection: sqlite3.Connection, since: ChainHead, findings: _Findings) -> None:
    row = connection.execute(
        "SELECT hash FROM ledger_transaction WHERE seq = ?", (since.seq,)
    ).fetchone()
    if row is None or row[0] != since.hash:
        findings.add(f"the trusted head {since.seq} is not part of this ledger")


def slice_end(connection: sqlite3.Connection, done_seq: int, head_seq: int) -> int:
    """The last transaction of the slice after `done_seq`: at least one, not too many lines."""
    row = connection.execute(
        "SELECT seq FROM settlement WHERE seq > ? ORDER BY seq, line LIMIT 1 OFFSET ?",
        (done_seq, SLICE_LINES),
    ).fetchone()
    enough = head_seq if row is None else max(done_seq + 1, as_int(row[0]) - 1)
    return min(done_seq + SLICE, head_seq, enough)


def read_slice(
    connection: sqlite3.Connection, first_seq: int, last_seq: int, tell: Callable[[str], None]
) -> list[tuple[int, Transaction | None, bytes]]:
    """The transactions of a slice with number and hash; None for one that cannot be read, of which
    `tell` hears in words."""
    seqs = connection.execute(
        "SELECT seq, hash FROM ledger_transaction WHERE seq BETWEEN ? AND ? ORDER BY seq",
        (first_seq, last_seq),
    ).fetchall()
    try:
        read = read_transactions(connection, first_seq, last_seq)
    except (ValueError, StoreCorruptError):
        return [_alone(connection, as_int(seq), as_bytes(link), tell) for seq, link in seqs]
    return [
        (as_int(seq), transaction, as_bytes(link))
        for (seq, link), (transaction, _) in zip(seqs, read, strict=True)
    ]


def _alone(
    connection: sqlite3.Connection, seq: int, link: bytes, tell: Callable[[str], None]
) -> tuple[int, Transaction | None, bytes]:
    try:
        return seq, read_transaction(connection, seq), link
    except (ValueError, StoreCorruptError) as error:
        tell(f"transaction {seq}: {error}")
        return seq, None, link


def _verify_audit(
    connection: sqlite3.Connection,
    start: ChainHead,
    findings: _Findings,
    row_proof: RowProof | None,
) -> tuple[ChainHead, int]:
    head, records = start, 0
    while True:
        rows = connection.execute(
            "SELECT seq, utc_ms, body, hash FROM audit WHERE seq > ? ORDER BY seq LIMIT ?",
            (head.seq, SLICE),
        ).fetchall()
        if not rows:
            return head, records
        for seq, utc_ms, body, link in rows:
            if seq != head.seq + 1:
                findings.add(f"audit records {head.seq + 1} to {seq - 1} are missing")
            elif not _audit_link_fits(head.hash, seq, utc_ms, body, link):
                findings.add(f"audit record {seq}: its hash does not fit its content")
            if row_proof is not None:
                row_proof.record(as_int(seq), as_int(utc_ms), body)
            head = ChainHead(as_int(seq), as_bytes(link))
            records += 1


def _audit_link_fits(previous: bytes, seq: int, utc_ms: int, body: object, link: object) -> bool:
    try:
        return chain_hash(previous, audit_body(seq, utc_ms, mapping(body))) == link
    except StoreCorruptError:
        return False
