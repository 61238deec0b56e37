"""What documents read: every page boundary, and only what is the account's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.civil import DAY_MS
from gateway.core.documents.outages import Switched
from gateway.core.documents.posted import seen_by
from gateway.core.ledger import Entry, cash, wallet
from gateway.store.commands import CommandState, SwitchAction, SwitchCommand, put_switch_command
from gateway.store.db import Connection
from gateway.store.ledger import append_transaction, settlement_lines
from gateway.store.registry import (
    MeterAssignment,
    ServicePoint,
    assign_meter,
    put_service_point,
)
from gateway.store.statements import (
    EntryPlace,
    last_posted_utc_ms,
    last_seq_before,
    lines_after,
    meters_at,
    own_ledger_accounts,
    posted_after,
    sum_of_entries,
    switched_outputs,
)
from tests.core.ledger_maker import FLAT, LedgerMaker, adjustment
from tests.core.test_prepaid_cases import instant, tariff
from tests.store.store_files import ledger_file

DEBT = f"debt:{FLAT}:old"


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    """A new ledger with its site."""
    with ledger_file(tmp_path / "control") as file:
        yield file.connection


@pytest.fixture
def made(connection: Connection) -> LedgerMaker:
    """A ledger of one account beside others, in the file."""
    made = LedgerMaker([tariff({"price": "5"})], instant("2026-01-05T00:00:00+05:30"))
    made.open_with(7)
    seq = made.recharge(10**9, repaid={DEBT: 5, f"emergency:{FLAT}": 6})
    for _ in range(5):
        made.use({"grid": 10}, DAY_MS)
        made.settle(with_other=True)
    made.reverse(seq)
    stranger = (Entry(wallet("flat-10"), 5), Entry("debt:flat-10:old", 5), Entry("opening", -10))
    made.transactions.append(adjustment(stranger, made.now_ms))
    twice = (Entry(wallet(FLAT), 5), Entry(wallet(FLAT), -2), Entry(cash("bank"), -3))
    made.transactions.append(adjustment(twice, made.now_ms))
    for transaction in made.transactions:
        append_transaction(connection, transaction)
    return made


def test_own_ledger_accounts_are_nobody_elses(connection: Connection, made: LedgerMaker) -> None:
    """Wallet first, then what was ever used of debts and emergency credit."""
    assert made.posted()
    assert own_ledger_accounts(connection, FLAT) == (wallet(FLAT), DEBT, f"emergency:{FLAT}")
    assert own_ledger_accounts(connection, "flat") == (wallet("flat"),)


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_join_to_what_the_account_saw(
    connection: Connection, made: LedgerMaker, limit: int
) -> None:
    """Oldest first, each transaction once, others' left out."""
    names = own_ledger_accounts(connection, FLAT)
    found, after = [], 0
    while page := posted_after(connection, FLAT, names, after_seq=after, to_seq=10**6, limit=limit):
        found += page
        after = page[-1].seq
    expected = [posted for posted in made.posted() if posted.own or posted.lines]
    assert len(found) == len(expected) == 9
    for one, other in zip(found, expected, strict=True):
        assert one == other
    assert posted_after(connection, FLAT, names, after_seq=2, to_seq=3, limit=9) == found[2:3]
    assert seen_by(FLAT, 3, made.transactions[2]).lines == found[2].lines


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_lines_join_across_pages(connection: Connection, made: LedgerMaker, limit: int) -> None:
    """Settlement lines of the account alone, in order."""
    found, after = [], 0
    while page := lines_after(connection, FLAT, after_seq=after, to_seq=10**6, limit=limit):
        found += [line for _, line in page]
        after = page[-1][0]
    assert found == [line for posted in made.posted() for line in posted.lines]
    assert [seq for seq, _ in settlement_lines(connection, FLAT, 4, 5)] == [4, 5]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
def test_sums_join_across_pages(connection: Connection, made: LedgerMaker, limit: int) -> None:
    """A page may end between two entries of one transaction."""
    total, place = 0, EntryPlace(1, 0)
    while True:
        part, following = sum_of_entries(
            connection, wallet(FLAT), after=place, to_seq=10**6, limit=limit
        )
        total += part
        if following is None:
            break
        place = following
    assert total == made.balance(wallet(FLAT))
    assert sum_of_entries(connection, wallet(FLAT), after=EntryPlace(2, 0), to_seq=2)[0] == (
        10**9 - 11
    )


def test_the_last_transaction_before_an_instant(connection: Connection, made: LedgerMaker) -> None:
    """Found by halves as by walking; equal times stay together."""
    times = [transaction.utc_ms for transaction in made.transactions]
    for at_ms in sorted({*times, *(t + 1 for t in times), 0, 10**15}):
        expected = sum(1 for t in times if t < at_ms)
        assert last_seq_before(connection, at_ms) == expected
    assert last_posted_utc_ms(connection) == times[-1]


def test_an_empty_ledger_has_no_last_transaction(connection: Connection) -> None:
    """Nothing was posted before anything, and no time is known."""
    assert (last_seq_before(connection, 10**15), last_posted_utc_ms(connection)) == (0, 0)


def test_switches_are_the_proved_ones_and_the_last_before(connection: Connection) -> None:
    """What failed changed nothing; what came before the range says how it began."""
    put_service_point(connection, ServicePoint("p", "P"))
    assign_meter(connection, MeterAssignment("m", "p", 0, (0,)))
    proved = CommandState.VERIFIED
    for number, (action, state, at_ms) in enumerate(
        [
            (SwitchAction.OPEN, proved, 10),
            (SwitchAction.CLOSE, proved, 20),
            (SwitchAction.OPEN, CommandState.FAILED, 30),
            (SwitchAction.OPEN, proved, 40),
            (SwitchAction.CLOSE, proved, 50),
        ]
    ):
        command = SwitchCommand(
            command_id=f"c{number}",
            service_point_id="p",
            meter_id="m",
            action=action,
            reason="CREDIT",
            issued_utc_ms=at_ms - 1,
            state=state,
            finished_utc_ms=at_ms,
        )
        put_switch_command(connection, command)
    assert meters_at(connection, "p") == ("m",)
    assert switched_outputs(connection, "m", 25, 50) == [
        Switched("p", 20, opened=False),
        Switched("p", 40, opened=True, cause="CREDIT"),
    ]
    assert [one.utc_ms for one in switched_outputs(connection, "m", 0, 100)] == [10, 20, 40, 50]
