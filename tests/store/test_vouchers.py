"""Vouchers in `ledger.db`: each counter ends in one way, whatever the program above does."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.ledger import voucher_redemption_of, voucher_sale_of
from gateway.store.ledger import append_transaction
from gateway.store.registry import ServicePoint, put_service_point
from gateway.store.verify import verify_ledger
from gateway.store.vouchers import (
    Cancellation,
    Redemption,
    SoldVoucher,
    VoucherState,
    WrongTry,
    last_tries,
    next_counter,
    next_voucher_number,
    put_cancellation,
    put_redemption,
    put_try,
    put_unlock,
    put_voucher,
    read_redemption,
    read_voucher,
    subject_of_address,
    subject_of_point,
    voucher_problem,
    vouchers_before,
    vouchers_ending_in,
)
from tests.store.store_files import ledger_file


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A ledger with two service points."""
    with ledger_file(tmp_path / "c") as file:
        for name in ("p1", "p2"):
            put_service_point(file.connection, ServicePoint(name, name))
        yield file.connection


def sell(ledger: sqlite3.Connection, point: str = "p1", counter: int | None = None) -> SoldVoucher:
    """A voucher over 5, its money booked."""
    number = next_voucher_number(ledger)
    key = f"sale-{number}"
    seq = append_transaction(
        ledger, voucher_sale_of("a", 5, "counter", utc_ms=1, request_key=key, memo=())
    )
    sold = SoldVoucher(
        number=number,
        service_point_id=point,
        counter=counter or next_counter(ledger, point),
        account_id="a",
        units=5,
        amount_nano=5,
        utc_ms=1,
        actor="eva",
        provider="counter",
        payment_reference="R-1",
        request_key=key,
        seq=seq,
        key_mark="0" * 16,
        recovery=0,
    )
    put_voucher(ledger, sold)
    return sold


def redeem(
    ledger: sqlite3.Connection, counter: int, *, here: bool = True, amount: int = 5
) -> Redemption:
    """Redeem a counter at p1."""
    key = f"take-{counter}-{ledger.total_changes}"
    seq = append_transaction(
        ledger,
        voucher_redemption_of("a", amount, sold_here=here, utc_ms=2, request_key=key, memo=()),
    )
    redeemed = Redemption("p1", counter, "a", amount, here, 2, "eva", "t", key, seq)
    put_redemption(ledger, redeemed)
    return redeemed


def cancel(ledger: sqlite3.Connection, counter: int) -> None:
    """Take a voucher of p1 back."""
    sold = read_voucher(ledger, "p1", counter)
    assert sold is not None
    put_cancellation(ledger, Cancellation("p1", counter, 3, "max", "wrong", f"c-{counter}", 1))


def test_states_and_lists(ledger: sqlite3.Connection) -> None:
    """Newest first, by point or all, each with what became of it."""
    for point in ("p1", "p2", "p1", "p1"):
        sell(ledger, point)
    redeemed = redeem(ledger, 1)
    cancel(ledger, 3)
    assert read_redemption(ledger, "p1", 1) == redeemed
    listed = [(v.number, v.counter, v.state, v.closed_utc_ms) for v in vouchers_before(ledger)]
    assert listed == [
        (4, 3, VoucherState.CANCELLED, 3),
        (3, 2, VoucherState.ISSUED, None),
        (2, 1, VoucherState.ISSUED, None),
        (1, 1, VoucherState.REDEEMED, 2),
    ]
    assert [v.number for v in vouchers_before(ledger, service_point_id="p1", limit=2)] == [4, 3]
    after = vouchers_before(ledger, service_point_id="p1", before_number=3)
    assert [v.number for v in after] == [1]


def test_the_next_counter_follows_sales_and_redemptions(ledger: sqlite3.Connection) -> None:
    """Also a counter that another machine sold is never sold again here."""
    assert next_counter(ledger, "p1") == 1
    sell(ledger)
    redeem(ledger, 40, here=False)
    assert (next_counter(ledger, "p1"), next_counter(ledger, "p2")) == (41, 1)


def test_low_bits_find_the_few_that_may_be_meant(ledger: sqlite3.Connection) -> None:
    """By an index: a point with thousands of vouchers is no slower."""
    for counter in (1, 2, 4_097, 8_193):
        sell(ledger, counter=counter)
    assert [v.counter for v in vouchers_ending_in(ledger, "p1", 1)] == [8_193, 4_097, 1]
    seen: list[str] = []
    ledger.set_trace_callback(seen.append)
    vouchers_ending_in(ledger, "p1", 1)
    ledger.set_trace_callback(None)
    plan = ledger.execute(f"EXPLAIN QUERY PLAN {seen[-1]}").fetchall()
    assert "voucher_low" in str(plan)


def test_a_counter_ends_in_one_way(ledger: sqlite3.Connection) -> None:
    """Redeemed twice, cancelled and redeemed, redeemed as other than it was sold: refused."""
    for _ in range(3):
        sell(ledger)
    redeem(ledger, 1)
    cancel(ledger, 2)
    for wrong in (
        lambda: redeem(ledger, 1),
        lambda: redeem(ledger, 2),
        lambda: cancel(ledger, 1),
        lambda: cancel(ledger, 2),
        lambda: redeem(ledger, 3, amount=6),
        lambda: redeem(ledger, 3, here=False),
        lambda: redeem(ledger, 9, here=True),
        lambda: sell(ledger, counter=1),
    ):
        ledger.execute("SAVEPOINT probe")
        with pytest.raises(sqlite3.IntegrityError):
            wrong()
        ledger.execute("ROLLBACK TO probe")


@pytest.mark.parametrize(
    "table",
    ["voucher", "voucher_redemption", "voucher_cancellation", "voucher_try", "voucher_unlock"],
)
def test_nothing_is_changed_or_deleted(ledger: sqlite3.Connection, table: str) -> None:
    """Every table is append-only, REPLACE included."""
    sell(ledger)
    sell(ledger)
    redeem(ledger, 1)
    cancel(ledger, 2)
    put_try(ledger, WrongTry("p1", "10.0.0.7", 1, "eva", "t-1"))
    put_unlock(ledger, "point:p1", utc_ms=1, actor="max", reason="torn", request_key="u-1")
    for statement in (
        f"UPDATE {table} SET utc_ms = 9",  # noqa: S608 - a name of this test
        f"DELETE FROM {table}",  # noqa: S608
        f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}",  # noqa: S608
    ):
        with pytest.raises(sqlite3.IntegrityError):
            ledger.execute(statement)


def test_the_proof_compares_open_vouchers_with_their_money(ledger: sqlite3.Connection) -> None:
    """A sale without its voucher is found by `ledger verify`."""
    sell(ledger)
    sell(ledger)
    redeem(ledger, 1)
    assert voucher_problem(ledger) is None
    assert verify_ledger(ledger).proved
    sale = voucher_sale_of("a", 7, "counter", utc_ms=1, request_key="lost", memo=())
    append_transaction(ledger, sale)
    assert verify_ledger(ledger).problems == (
        "vouchers holds 12 nano, the vouchers not redeemed come to 5",
    )


def test_tries_are_counted_by_subject_until_forgiven(ledger: sqlite3.Connection) -> None:
    """Newest first; a word for the point says nothing about the address."""
    wrong = WrongTry("p1", "10.0.0.7", 1, "eva", "t-1")
    for number in range(1, 5):
        put_try(ledger, replace(wrong, utc_ms=number, request_key=f"t-{number}"))
    put_try(ledger, replace(wrong, service_point_id="p2", utc_ms=9, request_key="t-9"))
    assert last_tries(ledger, subject_of_point("p1"), 3) == [4, 3, 2]
    assert last_tries(ledger, subject_of_address("10.0.0.7"), 5) == [9, 4, 3, 2, 1]
    put_unlock(ledger, "point:p1", utc_ms=5, actor="max", reason="torn", request_key="u")
    assert last_tries(ledger, subject_of_point("p1"), 3) == []
    assert len(last_tries(ledger, subject_of_address("10.0.0.7"), 5)) == 5
    put_try(ledger, replace(wrong, utc_ms=10, request_key="t-10"))
    assert last_tries(ledger, subject_of_point("p1"), 3) == [10]
