"""The ledger's tables: append-only, chained, balanced, found again as written."""

# ruff: noqa: S608 - the table names are constants of this file

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import RefusedError, StoreCorruptError
from gateway.core.ledger import (
    GENESIS,
    Entry,
    Transaction,
    TransactionKind,
    chain_hash,
    reversal_of,
    transaction_body,
)
from gateway.store.audit import append_audit, audit_body, audit_head
from gateway.store.db import Connection
from gateway.store.ledger import (
    INT64_MAX,
    LEDGER,
    append_transaction,
    begin_epoch,
    create_site,
    ledger_head,
    read_balance,
    read_balances,
    read_epoch,
    read_site,
    read_transaction,
    transactions_of,
)
from gateway.store.state import (
    load_point_states,
    load_register_state,
    save_point_states,
    save_register_state,
)
from tests.store.store_files import EPOCH, SITE, ledger_file, line, recharge, settlement


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    """A new ledger with its site."""
    with ledger_file(tmp_path / "control") as file:
        yield file.connection


@pytest.fixture
def filled(connection: Connection) -> Connection:
    """A ledger in which every guarded table has a row."""
    append_transaction(connection, recharge("a", 500_000_000_000, key="k1"))
    append_transaction(connection, settlement(line("a", 0, 10)))
    append_audit(connection, utc_ms=1, body={"action": "probe"})
    connection.execute("INSERT INTO tariff VALUES ('home', 1, 0, '{}', 0, 'me')")
    connection.execute("INSERT INTO service_point VALUES ('a', 'A', '', 0, NULL)")
    connection.execute(
        "INSERT INTO account VALUES ('a', 'A', 'active', 'prepayment', 'a', 'home', 0, 0, NULL)"
    )
    connection.execute("INSERT INTO meter_assignment VALUES (1, 'm', 'a', 0, '[0]', 5, '[1]')")
    connection.execute(
        "INSERT INTO switch_command VALUES "
        "(1, 'c', 'a', 'm', 'open', 'CREDIT', NULL, 'verified', 1, 0, 5, '[]', '{}')"
    )
    connection.execute(
        "INSERT INTO outcome VALUES (1, 'k1', 'h', 'recharge', 'executed', '', '', '{}', 1)"
    )
    return connection


APPEND_ONLY = (
    "ledger_transaction",
    "entry",
    "settlement",
    "tariff",
    "audit",
    "outcome",
    "site",
    "store_epoch",
)


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_update_and_delete_are_refused_by_triggers(filled: Connection, table: str) -> None:
    """G02: SQL itself refuses to change or delete what was posted, column by column."""
    columns = [row[1] for row in filled.execute(f"PRAGMA table_info({table})")]
    assert filled.execute(f"SELECT count(*) FROM {table}").fetchone()[0] > 0
    for column in columns:
        with pytest.raises(sqlite3.IntegrityError):
            filled.execute(f"UPDATE {table} SET {column} = {column}")
    with pytest.raises(sqlite3.IntegrityError):
        filled.execute(f"DELETE FROM {table}")


@pytest.mark.parametrize("table", [*APPEND_ONLY[:6], "site"])
@pytest.mark.parametrize("recursive", [0, 1])
def test_replace_does_not_pass_the_triggers(filled: Connection, table: str, recursive: int) -> None:
    """INSERT OR REPLACE deletes silently: it is refused too, even where a tool set no pragma."""
    filled.execute(f"PRAGMA recursive_triggers={recursive}")
    before = filled.execute(f"SELECT * FROM {table}").fetchall()
    with pytest.raises(sqlite3.IntegrityError):
        filled.execute(f"INSERT OR REPLACE INTO {table} SELECT * FROM {table} LIMIT 1")
    assert filled.execute(f"SELECT * FROM {table}").fetchall() == before


@pytest.mark.parametrize("table", ["service_point", "account", "meter_assignment"])
def test_business_rows_are_never_deleted(filled: Connection, table: str) -> None:
    """Accounts, points and assignments end; they do not vanish."""
    with pytest.raises(sqlite3.IntegrityError):
        filled.execute(f"DELETE FROM {table}")


def test_lines_cannot_be_added_to_an_older_transaction(filled: Connection) -> None:
    """A posted transaction gets no further entries or settlements."""
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        filled.execute("INSERT INTO entry VALUES (1, 9, 'wallet:a', 5)")


def test_sequence_has_no_gaps(connection: Connection) -> None:
    """A transaction whose number is not the next is refused by the schema."""
    with pytest.raises(sqlite3.IntegrityError, match="gaps"):
        connection.execute(
            "INSERT INTO ledger_transaction VALUES (2, 'recharge', 0, NULL, NULL, NULL, '{}', ?)",
            (bytes(32),),
        )


def test_transactions_are_numbered_and_chained(connection: Connection) -> None:
    """Each hash is SHA-256 over the one before and the canonical body, from the zero hash on."""
    first = recharge("a", 500, key="A")
    second = settlement(line("a", 0, 3), line("b", 5, 9))
    assert [append_transaction(connection, item) for item in (first, second)] == [1, 2]
    one = chain_hash(GENESIS, transaction_body(1, first))
    two = chain_hash(one, transaction_body(2, second))
    hashes = connection.execute("SELECT hash FROM ledger_transaction ORDER BY seq").fetchall()
    assert hashes == [(one,), (two,)]
    assert (ledger_head(connection).seq, ledger_head(connection).hash) == (2, two)


def test_hash_is_case_a01s_rule_written_out(connection: Connection) -> None:
    """A01 without our own helpers: SHA-256 of the 32 bytes before and sorted, tight JSON."""
    append_transaction(connection, recharge("é", 500, key="A", utc_ms=7))
    text = (
        '{"account":"é","entries":[["wallet:é",500],["cash:counter",-500]],"kind":"recharge",'
        '"memo":{"provider":"counter"},"request_key":"A","reverses":null,"seq":1,'
        '"settlements":[],"utc_ms":7}'
    )
    assert ledger_head(connection).hash == hashlib.sha256(bytes(32) + text.encode()).digest()


def test_transaction_reads_back_as_it_was_written(connection: Connection) -> None:
    """Entries, settlements, memo and links survive the way through the tables."""
    written = settlement(line("a", 0, 3), line("b", 5, 4, advance_wh=0, flags=("METER_RESET",)))
    append_transaction(connection, recharge("a", 7, key="é" * 3))
    append_transaction(connection, written)
    assert read_transaction(connection, 2) == written
    assert read_transaction(connection, 1) == recharge("a", 7, key="é" * 3)
    assert read_transaction(connection, 3) is None


def test_balances_follow_the_entries(connection: Connection) -> None:
    """Each ledger account holds the sum of its entries, and all of them sum to zero."""
    append_transaction(connection, recharge("a", 500_000_000_000))
    append_transaction(connection, settlement(line("a", 0, 37, nano_per_wh=7_333_333)))
    balances = read_balances(connection)
    assert balances["wallet:a"] == 500_000_000_000 - 37 * 7_333_333
    assert sum(balances.values()) == 0
    assert read_balance(connection, "wallet:nobody") == 0


def test_reversal_is_posted_at_most_once(connection: Connection) -> None:
    """P02: recharge 500, use 120, reverse: -120; the second reversal is refused, 3 rows remain."""
    original = recharge("a", 500, key="A")
    append_transaction(connection, original)
    append_transaction(connection, settlement(line("a", 0, 120, nano_per_wh=1)))
    append_transaction(connection, reversal_of(original, 1, utc_ms=3, request_key="R1"))
    with pytest.raises(RefusedError) as caught:
        append_transaction(connection, reversal_of(original, 1, utc_ms=4, request_key="R2"))
    assert caught.value.refusal_code == "ALREADY_REVERSED"
    assert read_balance(connection, "wallet:a") == -120
    seen = transactions_of(connection, "a")
    assert [item.kind for item in seen] == [
        TransactionKind.REVERSAL,
        TransactionKind.SETTLEMENT,
        TransactionKind.RECHARGE,
    ]
    assert (seen[0].reverses_seq, seen[2].reversed_by_seq) == (1, 3)


def test_reversal_of_nothing_is_refused(connection: Connection) -> None:
    """A reversal names a transaction that exists."""
    with pytest.raises(RefusedError) as caught:
        append_transaction(
            connection, reversal_of(recharge("a", 5), 41, utc_ms=3, request_key="R1")
        )
    assert caught.value.refusal_code == "TRANSACTION_UNKNOWN"


def test_one_key_posts_once_per_kind(connection: Connection) -> None:
    """I5: even if the program forgot to look, the schema lets a key recharge once."""
    append_transaction(connection, recharge("a", 5, key="A"))
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        append_transaction(connection, recharge("a", 5, key="A"))


def test_balance_cannot_leave_64_bits(connection: Connection) -> None:
    """An overflow is refused, never turned into a float."""
    append_transaction(connection, recharge("a", INT64_MAX - 5))
    connection.execute("SAVEPOINT s")
    with pytest.raises(RefusedError) as caught:
        append_transaction(connection, recharge("a", 6))
    connection.execute("ROLLBACK TO s")
    assert caught.value.refusal_code == "AMOUNT_RANGE"
    assert read_balance(connection, "wallet:a") == INT64_MAX - 5


@pytest.mark.parametrize(
    "transaction",
    [
        Transaction(TransactionKind.ADJUSTMENT, 1, ()),
        Transaction(TransactionKind.ADJUSTMENT, 1, (Entry("wallet:a", 0),)),
        Transaction(
            TransactionKind.ADJUSTMENT,
            1,
            (Entry("x", 1), Entry("y", -1)),
            memo=(("note", "1"), ("note", "2")),
        ),
    ],
)
def test_shapes_that_lose_something_are_refused(
    connection: Connection, transaction: Transaction
) -> None:
    """Nothing in it, a line of zero, a name twice: refused before anything is written."""
    with pytest.raises(ValueError, match=r"neither|zero|twice"):
        append_transaction(connection, transaction)
    assert ledger_head(connection).seq == 0


def test_account_pages_carry_running_balances(connection: Connection) -> None:
    """Pages of any size give the same rows with the balance after each, newest first."""
    for number in range(1, 8):
        append_transaction(connection, recharge("a", number, key=f"k{number}"))
        append_transaction(connection, recharge("b", 1))
    append_transaction(connection, settlement(line("a", 0, 5, nano_per_wh=0), line("b", 0, 1)))
    whole = transactions_of(connection, "a", limit=100)
    assert [item.balance_nano for item in whole] == [28, 28, 21, 15, 10, 6, 3, 1]
    assert whole[0].amount_nano == 0
    assert [settled.account_id for settled in whole[0].settlements] == ["a"]
    paged, before = [], None
    while page := transactions_of(connection, "a", before_seq=before, limit=3):
        paged += page
        before = page[-1].seq
    assert paged == whole
    assert transactions_of(connection, "nobody") == []


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(amounts=st.lists(st.integers(-(10**15), 10**15).filter(bool), min_size=1, max_size=30))
def test_balance_is_the_fold_of_entries(amounts: list[int]) -> None:
    """I1, I2: whatever is posted, the projection equals the fold and everything sums to zero."""
    opened = sqlite3.connect(":memory:", isolation_level=None)
    for script in LEDGER.migrations():
        opened.executescript(script)
    for number, amount in enumerate(amounts):
        append_transaction(opened, recharge(f"a{number % 3}", amount))
    for index in range(3):
        assert read_balance(opened, f"wallet:a{index}") == sum(amounts[index::3])
    assert sum(read_balances(opened).values()) == 0
    opened.close()


def test_site_is_frozen_and_epochs_follow_each_other(connection: Connection) -> None:
    """Currency and scale never change; a restore begins a new epoch."""
    assert read_site(connection) == SITE
    assert read_epoch(connection) == EPOCH
    with pytest.raises(sqlite3.IntegrityError):
        create_site(connection, SITE, "01JD0000000000000000000001")
    begin_epoch(connection, "01JD0000000000000000000002", cause="restored", utc_ms=5)
    assert read_epoch(connection) == "01JD0000000000000000000002"


def test_register_state_is_replaced_and_unpacked(connection: Connection) -> None:
    """One state is kept, the newest; it comes back as the JSON values that went in."""
    assert load_register_state(connection) is None
    for sequence in (1, 2):
        body = {"meters": {f"m{n}": [sequence, [n, 2**52]] for n in range(800)}}
        save_register_state(connection, utc_ms=sequence, sequence=sequence, body=body)
    found = load_register_state(connection)
    assert found is not None
    assert (found.utc_ms, found.sequence, found.body) == (2, 2, body)
    connection.execute("UPDATE register_state SET body = x'00'")
    with pytest.raises(StoreCorruptError):
        load_register_state(connection)


def test_point_states_are_kept_one_by_one(connection: Connection) -> None:
    """Saving some points leaves the others as they were."""
    save_point_states(connection, {"a": {"x": 1}, "b": {"x": 2}})
    save_point_states(connection, {"b": {"x": 3}})
    assert load_point_states(connection) == {"a": {"x": 1}, "b": {"x": 3}}


def test_audit_is_a_chain_of_its_own(connection: Connection) -> None:
    """Records are numbered from 1 and each hash covers the one before."""
    assert audit_head(connection).seq == 0
    assert append_audit(connection, utc_ms=5, body={"b": 1, "a": "é"}) == 1
    assert append_audit(connection, utc_ms=6, body={}) == 2
    one = chain_hash(GENESIS, audit_body(1, 5, {"a": "é", "b": 1}))
    assert audit_head(connection).hash == chain_hash(one, audit_body(2, 6, {}))
