"""What documents and explanations read from `ledger.db`, in pages that are short looks.

The ledger is append-only, so several looks at a range whose end is fixed see the same as one
would. Nothing here returns more than a page.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.core.documents.outages import Switched
from gateway.core.documents.posted import ACCUMULATED, DEBT, EMERGENCY, Posted
from gateway.core.ledger import Entry, SettlementLine, TransactionKind, wallet
from gateway.store.commands import CommandState, SwitchAction
from gateway.store.ledger import ledger_head, reversed_by, settlement_lines
from gateway.store.rows import as_int, as_text, text_pairs

# Of settlement lines, a page is read in about 20 ms; of plain entries, in about 10 ms.
POSTED_PAGE: Final = 200
LINES_PAGE: Final = 500
ENTRIES_PAGE: Final = 10_000
SWITCHES_PAGE: Final = 500
# Transactions that one look for recharges walks over, in about 50 ms.
RECHARGES_SPAN: Final = 100_000
SWITCHES_MAX: Final = 20_000


class EntryPlace(NamedTuple):
    """The last entry that was looked at: transaction and line in it."""

    seq: int
    line: int


def last_seq_before(connection: sqlite3.Connection, utc_ms: int) -> int:
    """The last transaction posted before an instant; 0 where there is none.

    Labels of transactions never go back, so the sequence is searched by halves.
    """
    low, high = 0, ledger_head(connection).seq
    while low < high:
        middle = (low + high + 1) // 2
        row = connection.execute(
            "SELECT utc_ms FROM ledger_transaction WHERE seq = ?", (middle,)
        ).fetchone()
        if row is not None and as_int(row[0]) < utc_ms:
            low = middle
        else:
            high = middle - 1
    return low


def last_posted_utc_ms(connection: sqlite3.Connection) -> int:
    """When the newest transaction was posted; 0 where there is none. Later ones are not older."""
    row = connection.execute(
        "SELECT utc_ms FROM ledger_transaction ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    return 0 if row is None else as_int(row[0])


def own_ledger_accounts(connection: sqlite3.Connection, account_id: str) -> tuple[str, ...]:
    """The ledger accounts of a customer's account that were ever used, the wallet first."""
    debts = f"{DEBT}:{account_id}"
    rows = connection.execute(
        "SELECT ledger_account FROM balance WHERE ledger_account IN (?, ?, ?) "
        "OR (ledger_account > ? AND ledger_account < ?)",
        # `;` follows `:`, so that the range holds `debt:<account>:` and nobody else's.
        (f"{EMERGENCY}:{account_id}", f"{ACCUMULATED}:{account_id}", debts, f"{debts}:",
         f"{debts};"),
    )  # fmt: skip
    return (wallet(account_id), *sorted(as_text(row[0]) for row in rows))


def posted_after(
    connection: sqlite3.Connection,
    account_id: str,
    names: Sequence[str],
    *,
    after_seq: int,
    to_seq: int,
    limit: int = POSTED_PAGE,
) -> list[Posted]:
    """What was posted to an account in (after, to], oldest first; `names` are its own accounts."""
    looks = ["SELECT seq FROM entry WHERE ledger_account = ? AND seq > ? AND seq <= ?"] * len(names)
    looks += ["SELECT seq FROM settlement WHERE account_id = ? AND seq > ? AND seq <= ?"]
    values: list[str | int] = []
    for name in (*names, account_id):
        values += [name, after_seq, to_seq]
    rows = connection.execute(
        f"{' UNION '.join(looks)} ORDER BY seq LIMIT ?",
        (*values, min(limit, POSTED_PAGE)),
    )
    return [_posted(connection, as_int(row[0]), account_id, names) for row in rows.fetchall()]


def lines_after(
    connection: sqlite3.Connection,
    account_id: str,
    *,
    after_seq: int,
    to_seq: int,
    limit: int = LINES_PAGE,
) -> list[tuple[int, SettlementLine]]:
    """An account's settlement lines in (after, to], oldest first, with their transactions.

    `limit` counts transactions: a page never ends in the middle of one.
    """
    seqs = connection.execute(
        "SELECT DISTINCT seq FROM settlement WHERE account_id = ? AND seq > ? AND seq <= ? "
        "ORDER BY seq LIMIT ?",
        (account_id, after_seq, to_seq, min(limit, LINES_PAGE)),
    ).fetchall()
    if not seqs:
        return []
    return settlement_lines(connection, account_id, as_int(seqs[0][0]), as_int(seqs[-1][0]))


def recharges_after(
    connection: sqlite3.Connection, *, after_seq: int, to_seq: int
) -> list[tuple[int, int, str]]:
    """The recharges of all accounts in (after, to], at most RECHARGES_SPAN transactions apart.

    Each as transaction, time and account, oldest first.
    """
    rows = connection.execute(
        "SELECT seq, utc_ms, account_id FROM ledger_transaction WHERE kind = ? AND seq > ? "
        "AND seq <= ? AND account_id IS NOT NULL ORDER BY seq",
        (TransactionKind.RECHARGE.value, after_seq, min(to_seq, after_seq + RECHARGES_SPAN)),
    )
    return [(as_int(row[0]), as_int(row[1]), as_text(row[2])) for row in rows]


def sum_of_entries(
    connection: sqlite3.Connection,
    ledger_account: str,
    *,
    after: EntryPlace,
    to_seq: int,
    limit: int = ENTRIES_PAGE,
) -> tuple[int, EntryPlace | None]:
    """What the next entries of a ledger account in (after, to] sum to; where to go on, or None."""
    rows = connection.execute(
        "SELECT seq, line, amount_nano FROM entry WHERE ledger_account = ? "
        "AND (seq, line) > (?, ?) AND seq >= ? AND seq <= ? ORDER BY seq, line LIMIT ?",
        (ledger_account, after.seq, after.line, after.seq, to_seq, min(limit, ENTRIES_PAGE)),
    ).fetchall()
    total = sum(as_int(row[2]) for row in rows)
    return total, EntryPlace(rows[-1][0], rows[-1][1]) if len(rows) == limit else None


def switched_outputs(
    connection: sqlite3.Connection, meter_id: str, from_utc_ms: int, to_utc_ms: int
) -> list[Switched]:
    """Proved switches of a meter up to an instant, oldest first, and the last one before `from`.

    At most the newest SWITCHES_MAX are looked at.
    """
    found: list[Switched] = []
    before, seen = 2**63 - 1, 0
    while seen < SWITCHES_MAX:
        rows = connection.execute(
            "SELECT number, service_point_id, action, reason, finished_utc_ms FROM switch_command "
            "WHERE meter_id = ? AND number < ? AND state = ? ORDER BY number DESC LIMIT ?",
            (meter_id, before, CommandState.VERIFIED.value, SWITCHES_PAGE),
        ).fetchall()
        for _, point, action, reason, at_ms in rows:
            if at_ms < to_utc_ms:
                opened = action == SwitchAction.OPEN
                found.append(Switched(point, at_ms, opened=opened, cause=reason if opened else ""))
            if at_ms < from_utc_ms:
                return found[::-1]
        if len(rows) < SWITCHES_PAGE:
            break
        before, seen = as_int(rows[-1][0]), seen + len(rows)
    return found[::-1]


def meters_at(connection: sqlite3.Connection, service_point_id: str) -> tuple[str, ...]:
    """Every meter that was ever at a service point."""
    rows = connection.execute(
        "SELECT DISTINCT meter_id FROM meter_assignment WHERE service_point_id = ? ORDER BY 1",
        (service_point_id,),
    )
    return tuple(as_text(row[0]) for row in rows)


# -- inside ----------------------------------------------------------------------------------


def _posted(
    connection: sqlite3.Connection, seq: int, account_id: str, names: Sequence[str]
) -> Posted:
    kind, utc_ms, request_key, reverses_seq, memo = connection.execute(
        "SELECT kind, utc_ms, request_key, reverses_seq, memo FROM ledger_transaction "
        "WHERE seq = ?",
        (seq,),
    ).fetchone()
    settles = kind == TransactionKind.SETTLEMENT
    # The other side of a posting round is summed over all its accounts: several hundred entries.
    own: list[Entry] = []
    others: list[Entry] = []
    if settles:
        marks = ", ".join("?" * len(names))
        rows = connection.execute(
            # By account: the primary key would walk the entries of all accounts of the round.
            "SELECT ledger_account, amount_nano FROM entry INDEXED BY entry_account "  # noqa: S608
            f"WHERE ledger_account IN ({marks}) AND seq = ? ORDER BY line",
            (*names, seq),
        )
    else:
        rows = connection.execute(
            "SELECT ledger_account, amount_nano FROM entry WHERE seq = ? ORDER BY line", (seq,)
        )
    for name, amount_nano in rows:
        (own if name in names else others).append(Entry(as_text(name), as_int(amount_nano)))
    lines = [line for _, line in settlement_lines(connection, account_id, seq, seq)]
    return Posted(
        seq=seq,
        kind=as_text(kind),
        utc_ms=as_int(utc_ms),
        own=tuple(own),
        others=tuple(others),
        lines=tuple(lines),
        request_key=request_key,
        reverses_seq=reverses_seq,
        reversed_by_seq=reversed_by(connection, seq),
        memo=text_pairs(memo),
    )
