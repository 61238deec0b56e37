"""`verify_ledger`: a whole ledger proves itself, and each kind of tampering is named."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.ledger import reversal_of
from gateway.store.audit import append_audit
from gateway.store.db import Connection, open_reader
from gateway.store.ledger import LEDGER, ChainHead, append_transaction, ledger_head
from gateway.store.verify import PROBLEMS_MAX, SLICE, verify_ledger
from tests.store.store_files import ledger_file, line, recharge, settlement


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    """A ledger with recharges, rounds, a reversal and audit records; 8 transactions."""
    with ledger_file(tmp_path / "control") as file:
        opened = file.connection
        first = recharge("a", 1_000_000_000, key="A")
        append_transaction(opened, first)
        append_transaction(opened, recharge("b", 2_000_000_000, key="B"))
        for step in range(4):
            rounds = [line(name, 10 * step, 10 * step + 10) for name in ("a", "b")]
            append_transaction(opened, settlement(*rounds))
        append_transaction(
            opened, settlement(line("a", 40, 3, advance_wh=3, flags=("METER_RESET",)))
        )
        append_transaction(opened, reversal_of(first, 1, utc_ms=9, request_key="R"))
        for number in range(3):
            append_audit(opened, utc_ms=number, body={"n": number})
        yield opened


def tampered(connection: Connection, *statements: str) -> tuple[str, ...]:
    """What verify says after a thief with SQL dropped the triggers and changed rows."""
    for (name,) in connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
    ).fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("PRAGMA foreign_keys=OFF")
    for statement in statements:
        assert connection.execute(statement).rowcount > 0, statement
    report = verify_ledger(connection)
    assert not report.proved
    assert report.problem_count == len(report.problems)
    return report.problems


def test_untouched_ledger_is_proved(connection: Connection) -> None:
    """Counts, head and progress of a ledger in which nothing differs."""
    steps: list[tuple[int, int]] = []
    report = verify_ledger(connection, lambda done, total: steps.append((done, total)))
    assert report.problems == ()
    assert report.proved
    assert (report.transactions, report.audit_records) == (8, 3)
    assert report.head == ledger_head(connection)
    assert steps[-1] == (8, 8)


def test_empty_ledger_is_proved(tmp_path: Path) -> None:
    """Nothing posted, nothing wrong."""
    with ledger_file(tmp_path / "control") as file:
        assert verify_ledger(file.connection).proved


def test_changed_amount_is_found(connection: Connection) -> None:
    """More credit in an entry: the transaction does not balance and the balance differs."""
    problems = tampered(
        connection, "UPDATE entry SET amount_nano = amount_nano + 1 WHERE seq = 1 AND line = 1"
    )
    assert any("transaction 1:" in problem and "balance" in problem for problem in problems)


def test_balanced_forgery_is_found_by_the_chain(connection: Connection) -> None:
    """Both sides changed and the balances too: only the hash gives it away."""
    problems = tampered(
        connection,
        "UPDATE entry SET amount_nano = amount_nano * 2 WHERE seq = 2",
        "UPDATE balance SET amount_nano = amount_nano + 2000000000 "
        "WHERE ledger_account = 'wallet:b'",
        "UPDATE balance SET amount_nano = amount_nano - 2000000000 "
        "WHERE ledger_account = 'cash:counter'",
    )
    assert problems == ("transaction 2: its hash does not fit its content",)


@pytest.mark.parametrize(
    ("statement", "seq"),
    [
        ("UPDATE ledger_transaction SET utc_ms = utc_ms + 1 WHERE seq = 3", 3),
        ('UPDATE ledger_transaction SET memo = \'{"provider":"bank"}\' WHERE seq = 2', 2),
        ("UPDATE ledger_transaction SET request_key = 'C' WHERE seq = 2", 2),
        ("UPDATE ledger_transaction SET account_id = 'b' WHERE seq = 1", 1),
        ("UPDATE settlement SET from_utc_ms = 0 WHERE seq = 4", 4),
        ("UPDATE settlement SET period = '2026-12' WHERE seq = 5 AND line = 2", 5),
        ("UPDATE settlement SET flags = '[\"ESTIMATED_ALLOCATION\"]' WHERE seq = 6", 6),
    ],
)
def test_every_column_is_covered_by_the_hash(
    connection: Connection, statement: str, seq: int
) -> None:
    """A change of any posted column is found at its transaction, and only there."""
    assert tampered(connection, statement) == (
        f"transaction {seq}: its hash does not fit its content",
    )


def test_changed_hash_breaks_the_link_after_it(connection: Connection) -> None:
    """A forged hash fits neither its own content nor the next link."""
    problems = tampered(connection, "UPDATE ledger_transaction SET hash = zeroblob(32) WHERE seq=4")
    assert [problem[:14] for problem in problems] == ["transaction 4:", "transaction 5:"]


def test_missing_transaction_is_found(connection: Connection) -> None:
    """A deleted transaction leaves a gap, and registers that do not continue."""
    problems = tampered(
        connection,
        "DELETE FROM settlement WHERE seq = 4",
        "DELETE FROM entry WHERE seq = 4",
        "DELETE FROM ledger_transaction WHERE seq = 4",
    )
    assert "transactions 4 to 4 are missing" in problems
    assert any("begins at registers [20], the line before it ended at [10]" in p for p in problems)


def test_missing_tail_is_found_against_a_kept_head(connection: Connection) -> None:
    """Cutting off the end leaves a valid chain: an older head and the balances tell."""
    kept = ledger_head(connection)
    problems = tampered(
        connection,
        "DELETE FROM entry WHERE seq = 8",
        "DELETE FROM ledger_transaction WHERE seq = 8",
    )
    assert {problem.split(" is ")[0] for problem in problems} == {
        "balance of cash:counter",
        "balance of wallet:a",
    }
    report = verify_ledger(connection, since=kept)
    assert report.problems == ("the trusted head 8 is not part of this ledger",)


def test_forged_balance_is_found(connection: Connection) -> None:
    """The projection is compared with the sum of the entries."""
    problems = tampered(
        connection, "UPDATE balance SET amount_nano = 77 WHERE ledger_account = 'wallet:b'"
    )
    assert problems == ("balance of wallet:b is 77 nano, its entries sum to 1680000000",)


def test_row_of_no_transaction_is_found(connection: Connection) -> None:
    """Entries beyond the last transaction are not overlooked."""
    problems = tampered(connection, "INSERT INTO entry VALUES (99, 1, 'wallet:a', 5)")
    assert problems == ("1 rows of entry belong to no transaction",)


def test_unreadable_row_is_a_problem_not_a_crash(connection: Connection) -> None:
    """Broken JSON in a settlement is named; everything else is still proved."""
    problems = tampered(connection, "UPDATE settlement SET cells = '{' WHERE seq = 4 AND line = 1")
    assert any(problem.startswith("transaction 4: expected JSON") for problem in problems)
    assert not any("transaction 5:" in problem for problem in problems)


def test_changed_audit_record_is_found(connection: Connection) -> None:
    """The audit chain is proved beside the ledger; a missing record shows as a gap."""
    problems = tampered(
        connection,
        "UPDATE audit SET body = '{\"n\":7}' WHERE seq = 1",
        "DELETE FROM audit WHERE seq = 2",
    )
    assert problems == (
        "audit record 1: its hash does not fit its content",
        "audit records 2 to 2 are missing",
    )


def rehashed(connection: Connection, *lines_of_rounds: object) -> tuple[str, ...]:
    """What verify says of rounds that were posted with a good chain but wrong content."""
    for item in lines_of_rounds:
        append_transaction(connection, item)  # type: ignore[arg-type]
    return verify_ledger(connection).problems


def test_registers_must_continue(tmp_path: Path) -> None:
    """I4: a line begins where the one before it ended; a step without a flag is named."""
    with ledger_file(tmp_path / "c") as file:
        problems = rehashed(
            file.connection, settlement(line("a", 0, 10)), settlement(line("a", 12, 20))
        )
    assert problems == (
        "transaction 2, meter meter-a: begins at registers [12], the line before it ended at [10]",
    )


def test_settled_energy_must_equal_the_registers_advance(tmp_path: Path) -> None:
    """I4: registers moved by 10, 9 were settled, no flag: named. With a flag it is explained."""
    with ledger_file(tmp_path / "c") as file:
        problems = rehashed(file.connection, settlement(line("a", 0, 10, advance_wh=9)))
        explained = line("b", 0, 10, advance_wh=9, flags=("RELEASED",))
        assert rehashed(file.connection, settlement(explained)) == problems
    said = (
        "transaction 1, meter meter-a: registers moved by [10] Wh, settled were [9] Wh, and no "
        "flag says why"
    )
    assert problems == (said,)


def test_estimated_energy_is_no_excuse(tmp_path: Path) -> None:
    """Only flags that rebase a register explain a difference."""
    with ledger_file(tmp_path / "c") as file:
        odd = line("a", 0, 10, advance_wh=9, flags=("ESTIMATED_ALLOCATION",))
        assert len(rehashed(file.connection, settlement(odd))) == 1


def test_another_account_may_begin_anywhere(tmp_path: Path) -> None:
    """Between two accounts of a point energy may run uncharged; that is no gap of either."""
    with ledger_file(tmp_path / "c") as file:
        moved = replace(line("b", 17, 20), meter_id="meter-a", service_point_id="a")
        assert rehashed(file.connection, settlement(line("a", 0, 10)), settlement(moved)) == ()


def test_priced_energy_must_equal_settled_energy(tmp_path: Path) -> None:
    """Cells that price more than was settled are named."""
    with ledger_file(tmp_path / "c") as file:
        greedy = replace(line("a", 0, 10), cells=(("1/grid/all/1", 11),))
        problems = rehashed(file.connection, settlement(greedy))
    assert problems == ("transaction 1, meter meter-a: 11 Wh were priced, 10 Wh were settled",)


def test_wallet_must_lose_exactly_its_charges(tmp_path: Path) -> None:
    """Charges of the lines and the wallet's entry are compared."""
    with ledger_file(tmp_path / "c") as file:
        posted = settlement(line("a", 0, 10))
        cheap = replace(posted.settlements[0], charges=(("energy:grid", 1),))
        problems = rehashed(file.connection, replace(posted, settlements=(cheap,)))
    assert problems == ("transaction 1: wallet:a differs by -79999999 nano from its charges",)


def test_reversal_must_undo_its_original(tmp_path: Path) -> None:
    """A reversal of another amount is named."""
    with ledger_file(tmp_path / "c") as file:
        false = reversal_of(recharge("a", 6), 1, utc_ms=2, request_key="R")
        problems = rehashed(file.connection, recharge("a", 5), false)
    assert problems == ("transaction 2 does not undo transaction 1",)


def test_proof_since_a_head_covers_the_rest(connection: Connection) -> None:
    """From a trusted head on only what follows is walked; damage there is found."""
    early = ChainHead(
        3, connection.execute("SELECT hash FROM ledger_transaction WHERE seq = 3").fetchone()[0]
    )
    assert verify_ledger(connection, since=early).transactions == 5
    assert verify_ledger(connection, since=early).proved
    tampered(connection, "UPDATE ledger_transaction SET utc_ms = 99 WHERE seq = 5")
    assert verify_ledger(connection, since=early).problems == (
        "transaction 5: its hash does not fit its content",
    )


@pytest.mark.slow
def test_proof_beside_a_writer_in_slices(tmp_path: Path) -> None:
    """More transactions than a slice, the writer posting meanwhile: still proved, all of them."""
    with ledger_file(tmp_path / "c") as file:
        opened = file.connection
        opened.execute("BEGIN")
        for number in range(2 * SLICE + 7):
            append_transaction(opened, recharge(f"a{number % 5}", number + 1))
        opened.execute("COMMIT")
        reader = open_reader(file.path, LEDGER)
        posted = 0

        def post(done: int, _: int) -> None:
            nonlocal posted
            if done <= SLICE:
                append_transaction(opened, recharge("late", 5))
                posted += 1

        report = verify_ledger(reader, post)
        assert (report.proved, posted) == (True, 1)
        assert report.transactions == 2 * SLICE + 8
        busy = opened.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        assert busy == 0
        reader.close()


def test_problems_are_counted_beyond_those_in_words(tmp_path: Path) -> None:
    """A ledger that is wrong everywhere does not fill the memory with sentences."""
    with ledger_file(tmp_path / "c") as file:
        opened = file.connection
        opened.execute("BEGIN")
        for number in range(PROBLEMS_MAX + 50):
            append_transaction(opened, recharge("a", number + 1))
        opened.execute("COMMIT")
        opened.execute("DROP TRIGGER ledger_transaction_frozen")
        opened.execute("UPDATE ledger_transaction SET utc_ms = 0")
        report = verify_ledger(opened)
    assert (len(report.problems), report.problem_count) == (PROBLEMS_MAX, PROBLEMS_MAX + 50)


def test_verify_leaves_no_transaction_open(connection: Connection) -> None:
    """Also when the connection breaks in the middle of a slice."""

    def stop(_: int, __: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify_ledger(connection, stop)
    assert not connection.in_transaction
