"""Vouchers in `ledger.db`: sold, redeemed, taken back, and wrong tries.

Plain functions on a connection, as in `ledger.py`. Nothing here knows a key or a token.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.core.ledger import VOUCHERS
from gateway.core.voucher import COUNTERS
from gateway.store.ledger import read_balance
from gateway.store.rows import as_int, as_text, page_size

INT64_MAX: Final = 2**63 - 1


class VoucherState(StrEnum):
    """What became of a voucher that was sold here."""

    ISSUED = "issued"
    REDEEMED = "redeemed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class SoldVoucher:
    """A voucher that was sold here. `number` is assigned by the store and is the lists' cursor.

    `seq` is the transaction of the sale, `recovery` the number of the last RECOVERY before it (0:
    none), `key_mark` names the key. `closed_utc_ms` is when it was redeemed or cancelled.
    """

    number: int
    service_point_id: str
    counter: int
    account_id: str
    units: int
    amount_nano: int
    utc_ms: int
    actor: str
    provider: str
    payment_reference: str
    request_key: str
    seq: int
    key_mark: str
    recovery: int
    state: VoucherState = VoucherState.ISSUED
    closed_utc_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Redemption:
    """A counter that was redeemed at a point."""

    service_point_id: str
    counter: int
    account_id: str
    amount_nano: int
    sold_here: bool
    utc_ms: int
    actor: str
    source: str
    request_key: str
    seq: int


@dataclass(frozen=True, slots=True)
class Cancellation:
    """A voucher that was taken back."""

    service_point_id: str
    counter: int
    utc_ms: int
    actor: str
    reason: str
    request_key: str
    seq: int


@dataclass(frozen=True, slots=True)
class WrongTry:
    """20 digits that were no voucher, at a point and from an address."""

    service_point_id: str
    address: str
    utc_ms: int
    actor: str
    request_key: str


# -- sold, redeemed, taken back ----------------------------------------------------------------


def next_voucher_number(connection: sqlite3.Connection) -> int:
    """The number of the next sale of the site."""
    row = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM voucher").fetchone()
    return as_int(row[0])


def next_counter(connection: sqlite3.Connection, service_point_id: str) -> int:
    """The counter after all that this ledger knows of a point, sold or redeemed; 1 is the first."""
    row = connection.execute(
        "SELECT max(coalesce((SELECT max(counter) FROM voucher WHERE service_point_id = :point), 0)"
        ", coalesce((SELECT max(counter) FROM voucher_redemption "
        "WHERE service_point_id = :point), 0)) + 1",
        {"point": service_point_id},
    ).fetchone()
    return as_int(row[0])


def last_sale_recovery(connection: sqlite3.Connection, service_point_id: str) -> int:
    """The newest RECOVERY after which a voucher of this point was sold; 0 for none."""
    row = connection.execute(
        "SELECT coalesce(max(recovery), 0) FROM voucher WHERE service_point_id = ?",
        (service_point_id,),
    ).fetchone()
    return as_int(row[0])


def put_voucher(connection: sqlite3.Connection, sold: SoldVoucher) -> None:
    """Store a sale, in the transaction that books its money."""
    connection.execute(
        f"INSERT INTO voucher VALUES ({', '.join('?' * 14)})",  # noqa: S608 - a constant
        (
            sold.number,
            sold.service_point_id,
            sold.counter,
            sold.account_id,
            sold.units,
            sold.amount_nano,
            sold.utc_ms,
            sold.actor,
            sold.provider,
            sold.payment_reference,
            sold.request_key,
            sold.seq,
            sold.key_mark,
            sold.recovery,
        ),
    )


def put_redemption(connection: sqlite3.Connection, redeemed: Redemption) -> None:
    """Store that a counter is redeemed, in the transaction that credits it.

    Raises sqlite3.IntegrityError (a StoreError through the writer) for one that is used already.
    """
    connection.execute(
        "INSERT INTO voucher_redemption VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            redeemed.service_point_id,
            redeemed.counter,
            redeemed.account_id,
            redeemed.amount_nano,
            int(redeemed.sold_here),
            redeemed.utc_ms,
            redeemed.actor,
            redeemed.source,
            redeemed.request_key,
            redeemed.seq,
        ),
    )


def put_cancellation(connection: sqlite3.Connection, cancelled: Cancellation) -> None:
    """Store that a voucher is taken back, in the transaction that books its money back."""
    connection.execute(
        "INSERT INTO voucher_cancellation VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            cancelled.service_point_id,
            cancelled.counter,
            cancelled.utc_ms,
            cancelled.actor,
            cancelled.reason,
            cancelled.request_key,
            cancelled.seq,
        ),
    )


def read_voucher(
    connection: sqlite3.Connection, service_point_id: str, counter: int
) -> SoldVoucher | None:
    """A voucher that was sold here, or None."""
    where = "WHERE v.service_point_id = ? AND v.counter = ?"
    return next(iter(_sold(connection, where, service_point_id, counter)), None)


def vouchers_ending_in(
    connection: sqlite3.Connection, service_point_id: str, counter_low: int
) -> list[SoldVoucher]:
    """The point's vouchers whose counter has these low bits, newest first: one in 4,096."""
    # The plus keeps SQLite from walking all of the point's vouchers for the order.
    where = (
        f"WHERE v.service_point_id = ? AND v.counter & {COUNTERS - 1} = ? ORDER BY +v.counter DESC"
    )
    return _sold(connection, where, service_point_id, counter_low)


def vouchers_before(
    connection: sqlite3.Connection,
    *,
    service_point_id: str | None = None,
    before_number: int | None = None,
    limit: int = 50,
) -> list[SoldVoucher]:
    """Vouchers sold here, newest first, before a cursor; at most 100 at once."""
    before = INT64_MAX if before_number is None else before_number
    if service_point_id is None:
        where = "WHERE v.number < ? ORDER BY v.number DESC LIMIT ?"
        return _sold(connection, where, before, page_size(limit))
    where = "WHERE v.service_point_id = ? AND v.number < ? ORDER BY v.number DESC LIMIT ?"
    return _sold(connection, where, service_point_id, before, page_size(limit))


def unused_by_key(connection: sqlite3.Connection) -> dict[str, int]:
    """How many vouchers that were sold here wait to be redeemed, by the mark of their key."""
    rows = connection.execute(
        "SELECT v.key_mark, count(*) FROM voucher v WHERE NOT EXISTS (SELECT 1 FROM "
        "voucher_redemption r WHERE r.service_point_id = v.service_point_id "
        "AND r.counter = v.counter) AND NOT EXISTS (SELECT 1 FROM voucher_cancellation c "
        "WHERE c.service_point_id = v.service_point_id AND c.counter = v.counter) "
        "GROUP BY v.key_mark"
    )
    return {as_text(mark): as_int(count) for mark, count in rows}


def read_redemption(
    connection: sqlite3.Connection, service_point_id: str, counter: int
) -> Redemption | None:
    """How a counter was redeemed; None when it was not."""
    row = connection.execute(
        "SELECT account_id, amount_nano, sold_here, utc_ms, actor, source, request_key, seq "
        "FROM voucher_redemption WHERE service_point_id = ? AND counter = ?",
        (service_point_id, counter),
    ).fetchone()
    if row is None:
        return None
    return Redemption(
        service_point_id=service_point_id,
        counter=counter,
        account_id=as_text(row[0]),
        amount_nano=as_int(row[1]),
        sold_here=bool(as_int(row[2])),
        utc_ms=as_int(row[3]),
        actor=as_text(row[4]),
        source=as_text(row[5]),
        request_key=as_text(row[6]),
        seq=as_int(row[7]),
    )


def voucher_problem(connection: sqlite3.Connection) -> str | None:
    """What does not fit between the vouchers that are open and the money kept for them.

    None also for a file of a schema that had none.
    """
    known = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'voucher'"
    ).fetchone()
    if known is None:
        return None
    # Three walks without a look-up per row: the triggers see to it that each row fits its sale.
    open_nano = (
        _sum(connection, "voucher")
        - _sum(connection, "voucher_redemption WHERE sold_here = 1")
        - _sum(connection, "voucher_cancellation JOIN voucher USING (service_point_id, counter)")
    )
    kept_nano = read_balance(connection, VOUCHERS)
    if open_nano == kept_nano:
        return None
    return f"{VOUCHERS} holds {kept_nano} nano, the vouchers not redeemed come to {open_nano}"


# -- wrong tries -------------------------------------------------------------------------------


def subject_of_point(service_point_id: str) -> str:
    """A service point as that which is locked and unlocked."""
    return f"point:{service_point_id}"


def subject_of_address(address: str) -> str:
    """An address as that which is locked and unlocked."""
    return f"address:{address}"


def put_try(connection: sqlite3.Connection, wrong: WrongTry) -> None:
    """Store a wrong try."""
    connection.execute(
        "INSERT INTO voucher_try SELECT coalesce(max(number), 0) + 1, ?, ?, ?, ?, ? "
        "FROM voucher_try",
        (wrong.service_point_id, wrong.address, wrong.utc_ms, wrong.actor, wrong.request_key),
    )


def last_tries(connection: sqlite3.Connection, subject: str, limit: int) -> list[int]:
    """When the last wrong tries of a subject were that nobody forgave, newest first (UTC ms)."""
    kind, _, name = subject.partition(":")
    column = {"point": "service_point_id", "address": "address"}[kind]
    rows = connection.execute(
        f"SELECT utc_ms FROM voucher_try WHERE {column} = ? AND number > "  # noqa: S608 - of two
        "(SELECT coalesce(max(try_number), 0) FROM voucher_unlock WHERE subject = ?) "
        "ORDER BY number DESC LIMIT ?",
        (name, subject, limit),
    )
    return [as_int(row[0]) for row in rows]


def put_unlock(
    connection: sqlite3.Connection,
    subject: str,
    *,
    utc_ms: int,
    actor: str,
    reason: str,
    request_key: str,
) -> None:
    """Forgive a subject all wrong tries so far."""
    connection.execute(
        "INSERT INTO voucher_unlock SELECT coalesce(max(number), 0) + 1, ?, "
        "(SELECT coalesce(max(number), 0) FROM voucher_try), ?, ?, ?, ? FROM voucher_unlock",
        (subject, utc_ms, actor, reason, request_key),
    )


# -- inside ------------------------------------------------------------------------------------

_SOLD: Final = (
    "SELECT v.number, v.service_point_id, v.counter, v.account_id, v.units, v.amount_nano, "
    "v.utc_ms, v.actor, v.provider, v.payment_reference, v.request_key, v.seq, v.key_mark, "
    "v.recovery, r.utc_ms, c.utc_ms FROM voucher v "
    "LEFT JOIN voucher_redemption r "
    "ON r.service_point_id = v.service_point_id AND r.counter = v.counter "
    "LEFT JOIN voucher_cancellation c "
    "ON c.service_point_id = v.service_point_id AND c.counter = v.counter "
)


def _sum(connection: sqlite3.Connection, rows: str) -> int:
    """The amounts of rows in nano-units; in two parts, since years of them leave SQLite's range."""
    part = 10**9
    row = connection.execute(
        f"SELECT coalesce(sum(amount_nano / {part}), 0), coalesce(sum(amount_nano % {part}), 0) "  # noqa: S608 - of three
        f"FROM {rows}"
    ).fetchone()
    return as_int(row[0]) * part + as_int(row[1])


def _sold(connection: sqlite3.Connection, where: str, *values: str | int) -> list[SoldVoucher]:
    return [_sold_of(row) for row in connection.execute(_SOLD + where, values)]


def _sold_of(row: Sequence[object]) -> SoldVoucher:
    redeemed, cancelled = row[14], row[15]
    state, closed = VoucherState.ISSUED, None
    if redeemed is not None:
        state, closed = VoucherState.REDEEMED, as_int(redeemed)
    elif cancelled is not None:
        state, closed = VoucherState.CANCELLED, as_int(cancelled)
    return SoldVoucher(
        number=as_int(row[0]),
        service_point_id=as_text(row[1]),
        counter=as_int(row[2]),
        account_id=as_text(row[3]),
        units=as_int(row[4]),
        amount_nano=as_int(row[5]),
        utc_ms=as_int(row[6]),
        actor=as_text(row[7]),
        provider=as_text(row[8]),
        payment_reference=as_text(row[9]),
        request_key=as_text(row[10]),
        seq=as_int(row[11]),
        key_mark=as_text(row[12]),
        recovery=as_int(row[13]),
        state=state,
        closed_utc_ms=closed,
    )
