"""The ledger in `ledger.db`: the site, transactions and their chain, balances.

Plain functions on a connection. Writers call them inside the transaction of `writer.py`, readers
inside `StoreReader.read`. Nothing here commits.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.core.errors import RefusedError, StoreCorruptError, StoreError
from gateway.core.ledger import (
    GENESIS,
    Entry,
    ExportRegisters,
    SettlementLine,
    Transaction,
    TransactionKind,
    chain_hash,
    export_body,
    transaction_body,
    wallet,
)
from gateway.store.db import StoreSchema
from gateway.store.rows import (
    as_bytes,
    as_int,
    as_text,
    document,
    integers,
    integers_of,
    mapping,
    names_of,
    page_size,
    text_pairs,
    texts,
)

LEDGER: Final = StoreSchema(
    name="ledger",
    application_id=0x5047_4C31,
    folder=Path(__file__).parent / "schema" / "ledger",
    small_tables=(
        "site",
        "store_epoch",
        "account",
        "account_point",
        "account_state",
        "service_point",
        "meter_assignment",
        "balance",
        "point_state",
        "register_state",
        "request_cursor",
    ),
)
INT64_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Site:
    """What is frozen at `init`. `money_scale` 9 (nano-units) or 6; `zone` is an IANA name."""

    site_id: str
    currency: str
    money_scale: int
    minor_digits: int
    zone: str
    created_utc_ms: int


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The last link of a hash chain; sequence 0 and GENESIS before the first."""

    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class AccountTransaction:
    """A transaction as one account sees it.

    `amount_nano` is what its wallet gained, `balance_nano` what the wallet held afterwards,
    `settlements` the lines of this account only.
    """

    seq: int
    kind: TransactionKind
    utc_ms: int
    amount_nano: int
    balance_nano: int
    request_key: str | None
    reverses_seq: int | None
    reversed_by_seq: int | None
    memo: tuple[tuple[str, str], ...]
    settlements: tuple[SettlementLine, ...]


# -- site ------------------------------------------------------------------------------------


def create_site(connection: sqlite3.Connection, site: Site, epoch: str) -> None:
    """Write the site's frozen facts and its first epoch (a ULID); once in a store's life.

    Raises sqlite3.IntegrityError (a StoreError through the writer) when there is a site already.
    """
    connection.execute(
        "INSERT INTO site VALUES (1, ?, ?, ?, ?, ?, ?)",
        (
            site.site_id,
            site.currency,
            site.money_scale,
            site.minor_digits,
            site.zone,
            site.created_utc_ms,
        ),
    )
    begin_epoch(connection, epoch, cause="created", utc_ms=site.created_utc_ms)


def read_site(connection: sqlite3.Connection) -> Site:
    """The site's frozen facts.

    Raises StoreCorruptError when the store was created without them.
    """
    row = connection.execute(
        "SELECT site_id, currency, money_scale, minor_digits, zone, created_utc_ms FROM site"
    ).fetchone()
    if row is None:
        raise StoreCorruptError("ledger.db names no site: its creation never finished")
    return Site(*row)


def begin_epoch(connection: sqlite3.Connection, epoch: str, *, cause: str, utc_ms: int) -> None:
    """Start a new epoch (ULID): `cause` is `created` or `restored`."""
    connection.execute(
        "INSERT INTO store_epoch SELECT coalesce(max(number), 0) + 1, ?, ?, ? FROM store_epoch",
        (epoch, cause, utc_ms),
    )


def read_epoch(connection: sqlite3.Connection) -> str:
    """The epoch in force.

    Raises StoreCorruptError when the store was created without one.
    """
    row = connection.execute(
        "SELECT epoch FROM store_epoch ORDER BY number DESC LIMIT 1"
    ).fetchone()
    if row is None:
        raise StoreCorruptError("ledger.db has no epoch: its creation never finished")
    return as_text(row[0])


# -- transactions ----------------------------------------------------------------------------


def ledger_head(connection: sqlite3.Connection) -> ChainHead:
    """The last transaction's sequence and hash."""
    row = connection.execute(
        "SELECT seq, hash FROM ledger_transaction ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    return ChainHead(0, GENESIS) if row is None else ChainHead(as_int(row[0]), as_bytes(row[1]))


def append_transaction(connection: sqlite3.Connection, transaction: Transaction) -> int:
    """Append one balanced transaction, chain it and move the balances; its sequence number.

    Raises RefusedError ALREADY_REVERSED, TRANSACTION_UNKNOWN, AMOUNT_RANGE (a balance would leave
    64 bits); ValueError for what the rules above should never build (nothing in it, a name twice).
    """
    _check_shape(transaction)
    if transaction.reverses_seq is not None:
        _check_reversal(connection, transaction.reverses_seq)
    head = ledger_head(connection)
    seq = head.seq + 1
    link = chain_hash(head.hash, transaction_body(seq, transaction))
    connection.execute(
        "INSERT INTO ledger_transaction VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            seq,
            transaction.kind.value,
            transaction.utc_ms,
            transaction.account_id,
            transaction.request_key,
            transaction.reverses_seq,
            document(dict(transaction.memo)),
            link,
        ),
    )
    connection.executemany(
        "INSERT INTO entry VALUES (?, ?, ?, ?)",
        (
            (seq, line, entry.ledger_account, entry.amount_nano)
            for line, entry in enumerate(transaction.entries, start=1)
        ),
    )
    if transaction.settlements:
        connection.executemany(
            f"INSERT INTO settlement (seq, line, {_SETTLEMENT_COLUMNS}) "  # noqa: S608 - constants
            f"VALUES ({', '.join('?' * 17)})",
            (
                (seq, line, *_settlement_columns(settlement))
                for line, settlement in enumerate(transaction.settlements, start=1)
            ),
        )
    _move_balances(connection, transaction.entries)
    return seq


def read_transaction(connection: sqlite3.Connection, seq: int) -> Transaction | None:
    """A transaction as it was appended; None when there is none of this number."""
    return next(iter(read_transactions(connection, seq, seq)), (None, None))[0]


def read_transactions(
    connection: sqlite3.Connection, first_seq: int, last_seq: int
) -> list[tuple[Transaction, bytes]]:
    """The transactions first to last (both included), in order, each with its stored hash.

    Raises ValueError when a stored transaction does not balance: callers that look for damage
    read the rows themselves.
    """
    entries: dict[int, list[Entry]] = {}
    for seq, ledger_account, amount_nano in connection.execute(
        "SELECT seq, ledger_account, amount_nano FROM entry WHERE seq BETWEEN ? AND ? "
        "ORDER BY seq, line",
        (first_seq, last_seq),
    ):
        entries.setdefault(seq, []).append(Entry(ledger_account, amount_nano))
    settlements: dict[int, list[SettlementLine]] = {}
    for seq, *columns in connection.execute(
        f"SELECT seq, {_SETTLEMENT_COLUMNS} FROM settlement WHERE seq BETWEEN ? AND ? "  # noqa: S608
        "ORDER BY seq, line",
        (first_seq, last_seq),
    ):
        settlements.setdefault(seq, []).append(_settlement(columns))
    rows = connection.execute(
        "SELECT seq, kind, utc_ms, account_id, request_key, reverses_seq, memo, hash "
        "FROM ledger_transaction WHERE seq BETWEEN ? AND ? ORDER BY seq",
        (first_seq, last_seq),
    )
    return [
        (
            Transaction(
                kind=TransactionKind(kind),
                utc_ms=utc_ms,
                entries=tuple(entries.get(seq, ())),
                account_id=account_id,
                request_key=request_key,
                reverses_seq=reverses_seq,
                memo=text_pairs(memo),
                settlements=tuple(settlements.get(seq, ())),
            ),
            link,
        )
        for seq, kind, utc_ms, account_id, request_key, reverses_seq, memo, link in rows
    ]


def reversed_by(connection: sqlite3.Connection, seq: int) -> int | None:
    """The transaction that reverses `seq`, if there is one."""
    row = connection.execute(
        "SELECT seq FROM ledger_transaction WHERE reverses_seq = ?", (seq,)
    ).fetchone()
    return None if row is None else as_int(row[0])


def transactions_of(
    connection: sqlite3.Connection,
    account_id: str,
    *,
    before_seq: int | None = None,
    limit: int = 50,
) -> list[AccountTransaction]:
    """What happened to an account, newest first, before a cursor; at most 100 at once."""
    name = wallet(account_id)
    before = INT64_MAX if before_seq is None else before_seq
    seqs = [
        as_int(row[0])
        for row in connection.execute(
            "SELECT seq FROM entry WHERE ledger_account = :wallet AND seq < :before "
            "UNION SELECT seq FROM settlement WHERE account_id = :account AND seq < :before "
            "ORDER BY seq DESC LIMIT :limit",
            {
                "wallet": name,
                "account": account_id,
                "before": before,
                "limit": page_size(limit),
            },
        )
    ]
    if not seqs:
        return []
    later_nano = connection.execute(
        "SELECT coalesce(sum(amount_nano), 0) FROM entry WHERE ledger_account = ? AND seq > ?",
        (name, seqs[0]),
    ).fetchone()[0]
    balance_nano = read_balance(connection, name) - as_int(later_nano)
    found: list[AccountTransaction] = []
    for seq in seqs:
        seen = _as_account_sees(connection, seq, account_id, balance_nano)
        balance_nano -= seen.amount_nano
        found.append(seen)
    return found


def settlement_lines(
    connection: sqlite3.Connection, account_id: str, first_seq: int, last_seq: int
) -> list[tuple[int, SettlementLine]]:
    """An account's settlement lines of the transactions first to last, with their numbers."""
    rows = connection.execute(
        f"SELECT seq, {_SETTLEMENT_COLUMNS} FROM settlement "  # noqa: S608 - a constant
        "WHERE account_id = ? AND seq BETWEEN ? AND ? ORDER BY seq, line",
        (account_id, first_seq, last_seq),
    )
    return [(as_int(seq), _settlement(columns)) for seq, *columns in rows]


def read_balance(connection: sqlite3.Connection, ledger_account: str) -> int:
    """What a ledger account holds, in nano-units; 0 for one that was never used."""
    row = connection.execute(
        "SELECT amount_nano FROM balance WHERE ledger_account = ?", (ledger_account,)
    ).fetchone()
    return 0 if row is None else as_int(row[0])


def read_balances(connection: sqlite3.Connection) -> dict[str, int]:
    """Every ledger account that was ever used, with what it holds in nano-units."""
    return dict(connection.execute("SELECT ledger_account, amount_nano FROM balance").fetchall())


# -- inside ----------------------------------------------------------------------------------

_SETTLEMENT_COLUMNS: Final = (
    "account_id, service_point_id, meter_id, tariff_id, period, from_utc_ms, to_utc_ms, "
    "from_wh, to_wh, advance_wh, cells, charges, flags, facts, export"
)


def _settlement_columns(line: SettlementLine) -> tuple[str | int | None, ...]:
    return (
        line.account_id,
        line.service_point_id,
        line.meter_id,
        line.tariff_id,
        line.period,
        line.from_utc_ms,
        line.to_utc_ms,
        document(list(line.from_wh)),
        document(list(line.to_wh)),
        document(list(line.advance_wh)),
        document(dict(line.cells)),
        document(dict(line.charges)),
        document(list(line.flags)),
        document(list(line.facts)) if line.facts else None,
        document(export_body(line.export)) if line.export is not None else None,
    )


def _settlement(columns: Sequence[object]) -> SettlementLine:
    return SettlementLine(
        account_id=as_text(columns[0]),
        service_point_id=as_text(columns[1]),
        meter_id=as_text(columns[2]),
        tariff_id=as_text(columns[3]),
        period=as_text(columns[4]),
        from_utc_ms=as_int(columns[5]),
        to_utc_ms=as_int(columns[6]),
        from_wh=integers(columns[7]),
        to_wh=integers(columns[8]),
        advance_wh=integers(columns[9]),
        cells=integers_of(columns[10]),
        charges=integers_of(columns[11]),
        flags=texts(columns[12]),
        facts=() if columns[13] is None else integers(columns[13]),
        export=None if columns[14] is None else _export_registers(columns[14]),
    )


def _export_registers(text: object) -> ExportRegisters:
    """Raises StoreCorruptError for what `export_body` never writes: the hash would not see it."""
    body = mapping(text)
    if sorted(body) != ["advance_wh", "flags", "from_wh", "to_wh"]:
        raise StoreCorruptError(f"export registers are not what is written: {text!r:.80}")
    return ExportRegisters(
        integers(document(body["from_wh"])),
        integers(document(body["to_wh"])),
        integers(document(body["advance_wh"])),
        texts(document(body["flags"])),
    )


def _check_shape(transaction: Transaction) -> None:
    if not transaction.entries and not transaction.settlements:
        raise ValueError(f"transaction {transaction.kind} has neither entries nor settlements")
    if any(entry.amount_nano == 0 for entry in transaction.entries):
        raise ValueError(f"transaction {transaction.kind} has an entry of zero")
    _check_names(names_of(transaction.memo))
    for line in transaction.settlements:
        _check_names(names_of(line.cells))
        _check_names(names_of(line.charges))


def _check_names(names: Iterable[str]) -> None:
    listed = list(names)
    if len(set(listed)) != len(listed):
        raise ValueError(f"a name stands twice among {listed}: one of its values would be lost")


def _check_reversal(connection: sqlite3.Connection, reverses_seq: int) -> None:
    row = connection.execute(
        "SELECT 1 FROM ledger_transaction WHERE seq = ?", (reverses_seq,)
    ).fetchone()
    if row is None:
        raise RefusedError(
            "TRANSACTION_UNKNOWN", f"there is no transaction {reverses_seq}", "transaction_seq"
        )
    reversing_seq = reversed_by(connection, reverses_seq)
    if reversing_seq is not None:
        raise RefusedError(
            "ALREADY_REVERSED",
            f"transaction {reverses_seq} was reversed by {reversing_seq}",
            "transaction_seq",
        )


def _move_balances(connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    try:
        connection.executemany(
            "INSERT INTO balance VALUES (?, ?) ON CONFLICT (ledger_account) "
            "DO UPDATE SET amount_nano = amount_nano + excluded.amount_nano",
            ((entry.ledger_account, entry.amount_nano) for entry in entries),
        )
    except sqlite3.IntegrityError as error:
        # SQLite turns an overflowing sum into a float, which the STRICT column refuses.
        raise RefusedError("AMOUNT_RANGE", "a balance would leave the range of money") from error


def _as_account_sees(
    connection: sqlite3.Connection, seq: int, account_id: str, balance_nano: int
) -> AccountTransaction:
    row = connection.execute(
        "SELECT kind, utc_ms, request_key, reverses_seq, memo FROM ledger_transaction "
        "WHERE seq = ?",
        (seq,),
    ).fetchone()
    if row is None:
        raise StoreError(f"ledger.db: lines of transaction {seq} without the transaction")
    amount_nano = connection.execute(
        "SELECT coalesce(sum(amount_nano), 0) FROM entry WHERE seq = ? AND ledger_account = ?",
        (seq, wallet(account_id)),
    ).fetchone()[0]
    lines = connection.execute(
        f"SELECT {_SETTLEMENT_COLUMNS} FROM settlement "  # noqa: S608 - a constant
        "WHERE seq = ? AND account_id = ? ORDER BY line",
        (seq, account_id),
    )
    return AccountTransaction(
        seq=seq,
        kind=TransactionKind(row[0]),
        utc_ms=as_int(row[1]),
        amount_nano=as_int(amount_nano),
        balance_nano=balance_nano,
        request_key=row[2],
        reverses_seq=row[3],
        reversed_by_seq=reversed_by(connection, seq),
        memo=text_pairs(row[4]),
        settlements=tuple(_settlement(columns) for columns in lines),
    )
