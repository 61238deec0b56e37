"""Shifts and payments on file: one open shift each, a count once, references and days found."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.errors import RefusedError
from gateway.core.ledger import recharge_of, reversal_of
from gateway.core.shift import Closing, MeansTotal, Shift, stamped
from gateway.store.db import Connection
from gateway.store.ledger import LEDGER, append_transaction
from gateway.store.shifts import (
    Payment,
    close_shift,
    known_providers,
    open_shift,
    open_shift_of,
    open_shifts,
    payment_known,
    read_payment,
    read_shift,
    record_payment,
    shift_transactions,
    shifts_before,
    taken_on,
)
from tests.store.store_files import ledger_file


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    """A new ledger."""
    with ledger_file(tmp_path / "control") as file:
        yield file.connection


def begin(connection: Connection, drawer: str = "till-1", cashier: str = "anna") -> Shift:
    """Open a shift."""
    return open_shift(
        connection,
        drawer=drawer,
        cashier=cashier,
        float_nano=100,
        cash_provider="counter",
        utc_ms=5,
        request_key=f"k-{drawer}-{cashier}",
    )


def end(connection: Connection, number: int) -> Closing:
    """Close a shift."""
    means = (
        MeansTotal("card", 0, 1, 7, counted_nano=7),
        MeansTotal("counter", 100, counted_nano=1),
    )
    closing = Closing(9, "berta", "a note", means, None)
    close_shift(connection, number, closing, request_key="k-c")
    return closing


def pay(
    connection: Connection, amount_nano: int, *, reference: str = "", shift: int | None = None
) -> int:
    """A recharge by anna on the 15th."""
    posted = recharge_of(
        "flat-1", amount_nano, "card", utc_ms=6, request_key=f"k{amount_nano}", reference=reference
    )
    posted = posted if shift is None else stamped(posted, shift)
    seq = append_transaction(connection, posted)
    payment = Payment(seq, "anna", "operator", "2027-01-15", "card", reference, amount_nano, shift)
    record_payment(connection, payment)
    assert read_payment(connection, seq) == payment
    return seq


def test_drawer_and_cashier_have_one_open_shift(connection: Connection) -> None:
    """Either is refused with the shift that stands; after the count both are free again."""
    first = begin(connection)
    for drawer, cashier in (("till-1", "berta"), ("till-2", "anna")):
        with pytest.raises(
            RefusedError, match="shift 1 of anna at drawer till-1 is open"
        ) as caught:
            begin(connection, drawer, cashier)
        assert caught.value.refusal_code == "SHIFT_OPEN"
    second = begin(connection, "till-2", "berta")
    assert (first.number, second.number) == (1, 2)
    closing = end(connection, 1)
    assert open_shift_of(connection, "anna") is None
    assert open_shift_of(connection, "berta") == second
    record = read_shift(connection, 1)
    assert record is not None
    assert (record.shift, record.closing) == (first, closing)
    assert begin(connection).number == 3
    assert [found.shift.number for found in open_shifts(connection)] == [2, 3]
    assert [found.shift.number for found in shifts_before(connection, 3)] == [2, 1]
    assert read_shift(connection, 9) is None


def test_schema_itself_keeps_the_rules(connection: Connection) -> None:
    """Past the functions: no second open shift, no gap, no second count, no change, no deletion."""
    begin(connection)
    row = "INSERT INTO shift VALUES (?, ?, ?, 1, 0, 'counter', 'k')"
    for values in ((2, "till-1", "x"), (2, "x", "anna"), (3, "x", "x")):
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(row, values)
    end(connection, 1)
    with pytest.raises(sqlite3.IntegrityError, match="closed once"):
        end(connection, 1)
    pay(connection, 5)
    with pytest.raises(sqlite3.IntegrityError, match="with its transaction"):
        record_payment(connection, Payment(1, "x", "x", "x", "x", "x", 1, None))
    for table in ("shift", "shift_closing", "payment"):
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(f"DELETE FROM {table}")  # noqa: S608 - a constant
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(f"UPDATE {table} SET rowid = 9")  # noqa: S608 - a constant


def test_reference_is_known_until_its_payment_is_reversed(connection: Connection) -> None:
    """The first payment of a reference is found; reversed, the slip may be used again."""
    seq = pay(connection, 5, reference="r-1")
    pay(connection, 6)
    known = payment_known(connection, "card", "r-1")
    assert known is not None
    assert known.seq == seq
    assert payment_known(connection, "mobile", "r-1") is None
    assert payment_known(connection, "card", "") is None
    assert taken_on(connection, "anna", "operator", "2027-01-15") == 11
    original = recharge_of("flat-1", 5, "card", utc_ms=6, request_key="k5", reference="r-1")
    undone = reversal_of(original, seq, utc_ms=7, request_key="k-r")
    append_transaction(connection, undone)
    assert payment_known(connection, "card", "r-1") is None
    assert taken_on(connection, "anna", "operator", "2027-01-15") == 6
    assert taken_on(connection, "anna", "operator", "2027-01-16") == 0
    assert taken_on(connection, "anna", "manager", "2027-01-15") == 0
    assert known_providers(connection) == {"card"}


def test_shift_has_its_own_transactions_only(connection: Connection) -> None:
    """What nobody's shift took is not in the report of one."""
    begin(connection)
    pay(connection, 5, shift=1)
    pay(connection, 6)
    pay(connection, 7, shift=1)
    amounts = [posted.entries[0].amount_nano for posted in shift_transactions(connection, 1)]
    assert amounts == [5, 7]


def test_payments_of_an_earlier_version_are_known(tmp_path: Path) -> None:
    """The migration takes references over from the ledger's own memos."""
    (path,) = LEDGER.folder.glob("*_counter.sql")
    script = path.read_text(encoding="utf-8")
    with ledger_file(tmp_path / "control") as file:
        connection = file.connection
        posted = recharge_of("flat-1", 5, "card", utc_ms=6, request_key="k", reference="old-1")
        append_transaction(connection, posted)
        for table in ("payment", "shift_closing", "shift"):
            connection.execute(f"DROP TABLE {table}")
        connection.executescript(script)
        known = payment_known(connection, "card", "old-1")
        assert known is not None
        assert (known.seq, known.amount_nano, known.shift) == (1, 5, None)
