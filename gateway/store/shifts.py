"""Cashier shifts and payments in `ledger.db`: who took which money, how drawers were counted."""

import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, cast

from gateway.core.errors import RefusedError, StoreCorruptError
from gateway.core.ledger import Transaction
from gateway.core.shift import Closing, MeansTotal, Shift
from gateway.store.ledger import read_transaction
from gateway.store.rows import as_int, as_text, document, items, page_size


@dataclass(frozen=True, slots=True)
class ShiftRecord:
    """A shift, and how it was closed; None while it is open."""

    shift: Shift
    closing: Closing | None


@dataclass(frozen=True, slots=True)
class Payment:
    """Money that the transaction `seq` took in (negative: gave back), and who did it.

    `day` is the local date on which it was asked for, `shift` the number of the cashier's shift.
    """

    seq: int
    actor: str
    role: str
    day: str
    provider: str
    reference: str
    amount_nano: int
    shift: int | None


# -- shifts ----------------------------------------------------------------------------------


def open_shift(
    connection: sqlite3.Connection,
    *,
    drawer: str,
    cashier: str,
    float_nano: int,
    cash_provider: str,
    utc_ms: int,
    request_key: str,
) -> Shift:
    """Begin a shift. Raises RefusedError SHIFT_OPEN: the drawer or the cashier has one."""
    standing = _newest_open(connection, "drawer", drawer)
    standing = standing or open_shift_of(connection, cashier)
    if standing is not None:
        raise RefusedError(
            "SHIFT_OPEN",
            f"shift {standing.number} of {standing.cashier} at drawer {standing.drawer} is open: "
            "count and close it first",
            "drawer",
        )
    number = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM shift").fetchone()[0]
    shift = Shift(as_int(number), drawer, cashier, utc_ms, float_nano, cash_provider)
    connection.execute(
        "INSERT INTO shift VALUES (?, ?, ?, ?, ?, ?, ?)",
        (shift.number, drawer, cashier, utc_ms, float_nano, cash_provider, request_key),
    )
    return shift


def close_shift(
    connection: sqlite3.Connection, number: int, closing: Closing, *, request_key: str
) -> None:
    """Keep the count that ends a shift; there is one in its life."""
    connection.execute(
        "INSERT INTO shift_closing VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            number,
            closing.utc_ms,
            closing.closed_by,
            closing.note,
            document([asdict(total) for total in closing.means]),
            closing.difference_seq,
            request_key,
        ),
    )


def read_shift(connection: sqlite3.Connection, number: int) -> ShiftRecord | None:
    """One shift, or None."""
    return next(iter(_shifts(connection, "WHERE s.number = ?", number)), None)


def all_shifts(connection: sqlite3.Connection) -> list[ShiftRecord]:
    """Every shift, oldest first."""
    return _shifts(connection, "ORDER BY s.number")


def open_shifts(connection: sqlite3.Connection) -> list[ShiftRecord]:
    """The shifts that nobody has closed, oldest first."""
    return _shifts(connection, "WHERE c.number IS NULL ORDER BY s.number")


def open_shift_of(connection: sqlite3.Connection, cashier: str) -> Shift | None:
    """The open shift of a cashier, or None."""
    return _newest_open(connection, "cashier", cashier)


def shifts_before(
    connection: sqlite3.Connection, before_number: int, limit: int = 50
) -> list[ShiftRecord]:
    """A page of shifts, newest first, before a number; at most 100."""
    where = "WHERE s.number < ? ORDER BY s.number DESC LIMIT ?"
    return _shifts(connection, where, before_number, page_size(limit))


# -- payments --------------------------------------------------------------------------------


def record_payment(connection: sqlite3.Connection, payment: Payment) -> None:
    """Keep who took a payment, with its transaction, the newest one."""
    connection.execute(
        "INSERT INTO payment VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            payment.seq,
            payment.actor,
            payment.role,
            payment.day,
            payment.provider,
            payment.reference,
            payment.amount_nano,
            payment.shift,
        ),
    )


def read_payment(connection: sqlite3.Connection, seq: int) -> Payment | None:
    """The payment of a transaction, or None."""
    return next(iter(_payments(connection, "WHERE seq = ?", seq)), None)


def payment_known(connection: sqlite3.Connection, provider: str, reference: str) -> Payment | None:
    """The payment of this provider and reference that was credited and not reversed, if any."""
    where = (
        "WHERE provider = ? AND reference = ? AND reference <> '' AND amount_nano > 0 AND NOT "
        "EXISTS (SELECT 1 FROM ledger_transaction WHERE reverses_seq = payment.seq) LIMIT 1"
    )
    return next(iter(_payments(connection, where, provider, reference)), None)


def taken_on(connection: sqlite3.Connection, actor: str, role: str, day: str) -> int:
    """What somebody took in a role on a local day, in nano-units; what was reversed is left out."""
    payments = _payments(
        connection,
        "WHERE actor = ? AND role = ? AND day = ? AND amount_nano > 0 AND NOT EXISTS "
        "(SELECT 1 FROM ledger_transaction WHERE reverses_seq = payment.seq)",
        actor,
        role,
        day,
    )
    return sum(payment.amount_nano for payment in payments)


def shift_transactions(connection: sqlite3.Connection, number: int) -> list[Transaction]:
    """Every transaction of a shift, oldest first."""
    seqs = [payment.seq for payment in _payments(connection, "WHERE shift = ?", number)]
    found = (read_transaction(connection, seq) for seq in sorted(seqs))
    return [transaction for transaction in found if transaction is not None]


def known_providers(connection: sqlite3.Connection) -> frozenset[str]:
    """Every provider that ever took money."""
    rows = connection.execute(
        "SELECT substr(ledger_account, 6) FROM balance WHERE ledger_account GLOB 'cash:*'"
    )
    return frozenset(as_text(row[0]) for row in rows)


# -- inside ----------------------------------------------------------------------------------

_SHIFT: Final = (
    "SELECT s.number, s.drawer, s.cashier, s.opened_utc_ms, s.float_nano, s.cash_provider, "
    "c.utc_ms, c.closed_by, c.note, c.means, c.difference_seq "
    "FROM shift s LEFT JOIN shift_closing c ON c.number = s.number "
)
_PAYMENT: Final = (
    "SELECT seq, actor, role, day, provider, reference, amount_nano, shift FROM payment "
)


def _newest_open(connection: sqlite3.Connection, column: str, name: str) -> Shift | None:
    """The shift of a drawer or a cashier if it is open: only their newest can be."""
    where = f"WHERE s.{column} = ? ORDER BY s.number DESC LIMIT 1"
    newest = next(iter(_shifts(connection, where, name)), None)
    return None if newest is None or newest.closing is not None else newest.shift


def _shifts(connection: sqlite3.Connection, where: str, *values: str | int) -> list[ShiftRecord]:
    rows = connection.execute(_SHIFT + where, values).fetchall()
    return [
        ShiftRecord(Shift(*row[:6]), None if row[6] is None else _closing(row[6:])) for row in rows
    ]


def _closing(columns: Sequence[object]) -> Closing:
    try:
        means = [
            MeansTotal(**cast("dict[str, int]", total))  # type: ignore[arg-type]
            for total in items(columns[3])
        ]
    except TypeError as error:
        raise StoreCorruptError(f"expected a count of means, found {columns[3]!r:.80}") from error
    return Closing(
        utc_ms=as_int(columns[0]),
        closed_by=as_text(columns[1]),
        note=as_text(columns[2]),
        means=tuple(means),
        difference_seq=None if columns[4] is None else as_int(columns[4]),
    )


def _payments(connection: sqlite3.Connection, where: str, *values: str | int) -> list[Payment]:
    return [Payment(*row) for row in connection.execute(_PAYMENT + where, values).fetchall()]
