"""`ledger verify --replay`: a ledger follows from its rows and requests, to the nano-unit; one that
was changed so carefully that chain, sums and balances hold does not."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gateway.app.cli import app, run
from gateway.app.config import load_config
from gateway.app.paths import paths_of
from gateway.core.ledger import (
    Entry,
    SettlementLine,
    Transaction,
    TransactionKind,
    merge_entries,
    settlement_of,
)
from gateway.core.replay import OLD_LINES
from gateway.core.replay_money import FOREIGN_VOUCHER
from gateway.core.shift import cash_up, money_taken, shift_of
from gateway.store.ledger import append_transaction, ledger_head, read_transactions
from gateway.store.replay import ReplayReport, replay_ledger
from gateway.store.rows import document
from gateway.store.shifts import Payment, all_shifts, record_payment, shift_transactions
from gateway.store.verify import verify_ledger
from tests.app.busy_site import NANO, BusySite
from tests.app.control_site import ControlSite
from tests.app.voucher_site import Till

pytestmark = pytest.mark.slow

Transactions = list[Transaction]
KINDS = TransactionKind


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a site on which everything happened."""
    site = ControlSite(tmp_path_factory.mktemp("busy"), export="credited")
    asyncio.run(BusySite(site).live())
    site.crash()
    return site.directory


@pytest.fixture
def ledger(busy: Path, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A copy of its ledger that anybody may write."""
    shutil.copytree(busy, tmp_path / "copy")
    path = paths_of(load_config(tmp_path / "copy" / "config.yaml")).ledger
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()


def transactions_of(connection: sqlite3.Connection) -> Transactions:
    """All of them, in their order."""
    found = read_transactions(connection, 1, ledger_head(connection).seq)
    return [transaction for transaction, _ in found]


def unlock(connection: sqlite3.Connection) -> None:
    """Take away what keeps rows as they are, as the owner of the file can."""
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for (name,) in names:
        connection.execute(f"DROP TRIGGER {name}")


def forge(connection: sqlite3.Connection, transactions: Sequence[Transaction]) -> None:
    """Write the ledger anew: its chain, sums and balances hold, and so do rows that repeat it."""
    unlock(connection)
    known = {
        (key, kind): row
        for key, kind, *row in connection.execute(
            "SELECT t.request_key, t.kind, p.actor, p.role, p.day FROM payment p "
            "JOIN ledger_transaction t USING (seq)"
        )
    }
    connection.execute("DELETE FROM payment")
    for table in ("entry", "settlement", "ledger_transaction", "balance"):
        connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names of tables
    for transaction in transactions:
        seq = append_transaction(connection, transaction)
        taken = money_taken(transaction)
        if taken and transaction.kind is not KINDS.ADJUSTMENT:
            key = (transaction.request_key, transaction.kind.value)
            actor, role, day = known.get(key, ("anna", "manager", "2027-01-15"))
            provider, reference = next(iter(taken)), dict(transaction.memo).get("reference", "")
            amount_nano, shift = sum(taken.values()), shift_of(transaction)
            paid = Payment(seq, actor, role, day, provider, reference, amount_nano, shift)
            record_payment(connection, paid)
    for record in all_shifts(connection):
        if record.closing is not None:
            number = record.shift.number
            counted = {
                one.provider: one.counted_nano
                for one in record.closing.means
                if one.counted_nano is not None
            }
            means = cash_up(record.shift, shift_transactions(connection, number), counted)
            connection.execute(
                "UPDATE shift_closing SET means = ? WHERE number = ?",
                (document([asdict(one) for one in means]), number),
            )


def first(
    transactions: Transactions, kind: TransactionKind, account: str = "", *, number: int = 0
) -> int:
    """The place of a transaction of a kind."""
    found = [
        at
        for at, one in enumerate(transactions)
        if one.kind is kind and any(entry.ledger_account == account for entry in one.entries)
    ]
    return found[number]


def moved(transaction: Transaction, from_account: str, to_account: str, nano: int) -> Transaction:
    """The transaction with an amount on another account."""
    change = (Entry(from_account, -nano), Entry(to_account, nano))
    return replace(transaction, entries=merge_entries((*transaction.entries, *change)))


def recharged(transactions: Transactions, change: Callable[[SettlementLine], object]) -> int:
    """Change the first line that a function changes, with the entries that go with it."""
    for at, transaction in enumerate(transactions):
        lines = [change(line) or line for line in transaction.settlements]
        if tuple(lines) != transaction.settlements:
            good = [line for line in lines if isinstance(line, SettlementLine)]
            made = settlement_of(good, utc_ms=transaction.utc_ms)
            assert made is not None
            transactions[at] = made
            return at
    raise AssertionError("no line was changed")


def with_charge(line: SettlementLine, name: str, nano: int) -> SettlementLine | None:
    """The line with more or less of a charge that it has."""
    charges = dict(line.charges)
    if name not in charges:
        return None
    return replace(line, charges=tuple({**charges, name: charges[name] + nano}.items()))


def test_everything_that_happened_follows(ledger: sqlite3.Connection) -> None:
    """Every kind of transaction is computed again without a difference, and nothing is left out."""
    steps: list[tuple[int, int]] = []
    report = replay_ledger(ledger, lambda done, total: steps.append((done, total)))
    assert [one.words for one in report.differences] == []
    assert (report.proved, report.unproved, report.balances) == (True, {}, {})
    assert {one.kind for one in transactions_of(ledger)} == set(KINDS) - {KINDS.REFUND}
    assert steps[-1] == (report.transactions, report.transactions)
    assert report.head == ledger_head(ledger)


# -- forgeries: each leaves a ledger that `verify` finds nothing in ------------------------------


def fee(made: Transactions) -> tuple[int, str]:
    """A nano more of a fee."""
    return recharged(made, lambda line: with_charge(line, "fixed", 1)), "income:fixed"


def tax(made: Transactions) -> tuple[int, str]:
    """A nano less of a tax."""
    return recharged(made, lambda line: with_charge(line, "tax:VAT", -1)), "tax:VAT"


def minimum(made: Transactions) -> tuple[int, str]:
    """A minimum charge that is waived."""

    def waived(line: SettlementLine) -> SettlementLine | None:
        charges = tuple(item for item in line.charges if item[0] != "minimum")
        return None if charges == line.charges else replace(line, charges=charges)

    return recharged(made, waived), "income:minimum"


def rebate(made: Transactions) -> tuple[int, str]:
    """A rebate that is a rupee larger."""
    name = "rebate:Lifeline"
    return recharged(made, lambda line: with_charge(line, name, -NANO)), f"income:{name}"


def feed_in(made: Transactions) -> tuple[int, str]:
    """A credit of a rupee more for what was fed in."""
    return recharged(made, lambda line: with_charge(line, "export", -NANO)), "income:export"


def facts(made: Transactions) -> tuple[int, str]:
    """A fee for one day more than has passed, as the facts claim and the charge does not."""

    def later(line: SettlementLine) -> SettlementLine | None:
        if "fixed" not in dict(line.charges) or line.account_id != "asha":
            return None
        number, accrued_utc_ms, *rest = line.facts
        return replace(line, facts=(number, accrued_utc_ms + 86_400_000, *rest))

    return recharged(made, later), "fixed"


def recharge_taxes(made: Transactions) -> tuple[int, str]:
    """A tax on a recharge that the customer keeps."""
    at = first(made, KINDS.RECHARGE, "tax:Levy", number=1)
    made[at] = moved(made[at], "tax:Levy", "wallet:asha", NANO)
    return at, "tax:Levy"


def order(made: Transactions) -> tuple[int, str]:
    """A recharge that passes a debt by."""
    at = first(made, KINDS.RECHARGE, "debt:asha:old", number=1)
    made[at] = moved(made[at], "debt:asha:old", "wallet:asha", NANO)
    return at, "debt:asha:old"


def paid(made: Transactions) -> tuple[int, str]:
    """A recharge of more than was asked for."""
    at = first(made, KINDS.RECHARGE, "cash:card")
    made[at] = moved(made[at], "cash:card", "wallet:asha", NANO)
    return at, "cash:card"


def another(made: Transactions) -> tuple[int, str]:
    """A recharge of another account."""
    at = first(made, KINDS.RECHARGE, "wallet:bela")
    entries = [
        replace(e, ledger_account=e.ledger_account.replace("bela", "asha"))
        for e in made[at].entries
    ]
    made[at] = replace(made[at], account_id="asha", entries=tuple(entries))
    return at, "wallet:bela"


def transferred(made: Transactions) -> tuple[int, str]:
    """A transfer of more."""
    at = first(made, KINDS.TRANSFER, "wallet:bela")
    made[at] = moved(made[at], "wallet:bela", "wallet:asha", 1)
    return at, "wallet:bela"


def drawn(made: Transactions) -> tuple[int, str]:
    """Emergency credit that bears a nano more than the wallet lacks."""
    at = first(made, KINDS.EMERGENCY_DRAW, "wallet:asha")
    made[at] = moved(made[at], "emergency:asha", "wallet:asha", 1)
    return at, "emergency:asha"


def collected(made: Transactions) -> tuple[int, str]:
    """A day's due that is larger than agreed."""
    at = first(made, KINDS.DEBT_COLLECTION, "debt:asha:loan", number=1)
    made[at] = moved(made[at], "wallet:asha", "debt:asha:loan", 1)
    return at, "debt:asha:loan"


def refunded(made: Transactions) -> tuple[int, str]:
    """A refund at the end that is smaller."""
    at = first(made, KINDS.CLOSING, "wallet:bela")
    made[at] = moved(made[at], "cash:counter", "wallet:bela", 1)
    return at, "wallet:bela"


def written_off(made: Transactions) -> tuple[int, str]:
    """More given up than was asked for."""
    at = first(made, KINDS.WRITE_OFF, "write_off")
    made[at] = moved(made[at], "write_off", "debt:asha:gift", NANO)
    return at, "write_off"


def agreed(made: Transactions) -> tuple[int, str]:
    """A debt of more than was agreed."""
    at = first(made, KINDS.DEBT, "debt:asha:old")
    made[at] = moved(made[at], "debt:asha:old", "opening", NANO)
    return at, "debt:asha:old"


def opened(made: Transactions) -> tuple[int, str]:
    """An opening balance of more."""
    at = first(made, KINDS.OPENING, "wallet:asha")
    made[at] = moved(made[at], "opening", "wallet:asha", NANO)
    return at, "opening"


def redeemed(made: Transactions) -> tuple[int, str]:
    """A voucher whose tax the customer keeps."""
    at = first(made, KINDS.RECHARGE, "vouchers")
    made[at] = moved(made[at], "tax:Levy", "wallet:asha", 1)
    return at, "tax:Levy"


def counted(made: Transactions) -> tuple[int, str]:
    """A drawer that lacks less than was counted."""
    at = first(made, KINDS.ADJUSTMENT, "cash:card")
    made[at] = moved(made[at], "cash:card", "income:cash_difference", NANO // 2)
    return at, "cash:card"


FORGERIES = (
    fee, tax, minimum, rebate, feed_in, facts, recharge_taxes, order, paid, another, transferred,
    drawn, collected, refunded, written_off, agreed, opened, redeemed, counted,
)  # fmt: skip


@pytest.mark.parametrize("change", FORGERIES)
def test_a_change_that_verify_does_not_see_is_found(
    ledger: sqlite3.Connection, change: Callable[[Transactions], tuple[int, str]]
) -> None:
    """The first difference is the transaction that was changed; account and amounts are told."""
    before = transactions_of(ledger)
    made = list(before)
    at, account = change(made)
    forge(ledger, made)
    assert verify_ledger(ledger).problems == (), "the forgery is not careful enough"
    report = replay_ledger(ledger)
    assert not report.proved
    seqs = {one.seq for one in report.differences}
    # Other facts are an earlier time for the fees that come after them, too.
    assert seqs == {at + 1} or (change is facts and min(seqs) == at + 1), report.differences
    told = [one for one in report.differences if one.account == account][-1]
    if change is facts:
        return
    true = {e.ledger_account: e.amount_nano for e in merge_entries(before[at].entries)}
    false = {e.ledger_account: e.amount_nano for e in merge_entries(made[at].entries)}
    assert (told.expected_nano, told.found_nano) == (true.get(account, 0), false.get(account, 0))
    stored_nano, computed_nano = report.balances[account]
    assert stored_nano - computed_nano == told.found_nano - told.expected_nano


def test_energy_in_a_cheaper_block_is_found(ledger: sqlite3.Connection) -> None:
    """The count of the period decides on the block, whatever the line says and charges."""
    made = transactions_of(ledger)

    def cheaper(line: SettlementLine) -> SettlementLine | None:
        cells = dict(line.cells)
        if cells.get("1/grid/rest/1", 0) < 1_000 or cells.get("1/grid/rest/2", 0) < 1_000:
            return None
        cells["1/grid/rest/1"] += 1_000
        cells["1/grid/rest/2"] -= 1_000
        return replace(line, cells=tuple(cells.items()))

    at = recharged(made, cheaper)
    forge(ledger, made)
    words = [one.words for one in replay_ledger(ledger).differences]
    assert f"transaction {at + 1}: asha at flat-1, 2027-01: block 2 of grid has " in words[0]
    assert "belong there" in words[0]


def test_a_recharge_that_nobody_asked_for_is_found(ledger: sqlite3.Connection) -> None:
    """Neither one with a key of its own nor one that uses a request again."""
    made = transactions_of(ledger)
    paid_at = first(made, KINDS.RECHARGE, "wallet:bela")
    credit = (Entry("wallet:asha", NANO), Entry("cash:bank", -NANO))
    for key in ("no such request", made[first(made, KINDS.TRANSFER, "wallet:bela")].request_key):
        free = replace(
            made[paid_at],
            account_id="asha",
            entries=credit,
            request_key=key,
            utc_ms=made[-1].utc_ms,
        )
        made.append(free)
    forge(ledger, made)
    assert verify_ledger(ledger).problems == ()
    report = replay_ledger(ledger)
    words = [one.words for one in report.differences]
    assert words == [
        f"transaction {len(made) - 1}: recharge: nobody asked for it",
        f"transaction {len(made)}: recharge: its request was carried out before",
    ]


def test_a_collection_twice_a_day_is_found(ledger: sqlite3.Connection) -> None:
    """A day is collected once; what nobody asked for is no adjustment either."""
    made = transactions_of(ledger)
    at = first(made, KINDS.DEBT_COLLECTION, "debt:asha:loan")
    made.insert(at + 1, made[at])
    made.append(replace(made[at], kind=KINDS.ADJUSTMENT))
    forge(ledger, made)
    found = replay_ledger(ledger).differences
    assert (found[0].seq, found[0].expected_nano) == (at + 2, 0)
    assert found[-1].words == f"transaction {len(made)}: adjustment: nobody asked for it"


@pytest.mark.parametrize("account", ["cash:card", "cash:counter"])
def test_a_recharge_that_is_gone_is_found(ledger: sqlite3.Connection, account: str) -> None:
    """Its request was carried out; what was paid is in no account."""
    made = transactions_of(ledger)
    at = first(made, KINDS.RECHARGE, account)
    gone = made.pop(at)
    made = [
        replace(one, reverses_seq=one.reverses_seq - (one.reverses_seq > at))
        if one.reverses_seq
        else one
        for one in made
    ]
    forge(ledger, made)
    words = [one.words for one in replay_ledger(ledger).differences]
    missing = f"request {gone.request_key} (recharge) was carried out, and nothing was posted"
    assert words[0] == missing


def test_a_tariff_that_was_changed_is_found(ledger: sqlite3.Connection) -> None:
    """The document is the one that was asked for, or none of its prices is believed."""
    unlock(ledger)
    ledger.execute(
        "UPDATE tariff SET document = replace(document, '4.25', '4.26') WHERE version = 2"
    )
    assert verify_ledger(ledger).problems == ()
    found = replay_ledger(ledger).differences
    assert found[0].words == "version 2 of tariff home is not one that was asked for"
    assert any(one.account == "income:energy:grid" for one in found[1:])


def older(made: Transaction) -> Transaction:
    """A transaction with its lines as an older program wrote them."""
    lines = (replace(line, facts=(), export=None) for line in made.settlements)
    return replace(made, settlements=tuple(lines))


def test_what_cannot_be_computed_is_counted_by_name(
    ledger: sqlite3.Connection, tmp_path: Path
) -> None:
    """Lines of an older program and vouchers of another machine are no difference, nor proved."""
    made = [older(one) for one in transactions_of(ledger)]
    forge(ledger, made)
    report = replay_ledger(ledger)
    assert (report.proved, report.balances) == (True, {})
    assert report.unproved == {OLD_LINES: sum(len(one.settlements) for one in made)}
    # Energy of theirs is priced all the same.
    at = recharged(made, lambda line: with_charge(line, "energy:grid", 1))
    forge(ledger, made)
    assert {one.seq for one in replay_ledger(ledger).differences} == {at + 1}
    (tmp_path / "other").mkdir()
    assert asyncio.run(_foreign_voucher(tmp_path / "other")).unproved == {FOREIGN_VOUCHER: 1}


async def _foreign_voucher(directory: Path) -> ReplayReport:
    site = ControlSite(directory)
    site.read(1_000)
    site.sweeper.judge()
    await site.open_flat(NANO)
    site.engine.gate.chain_verified = True
    till = Till(site)
    assert await till.code(till.elsewhere(41)) == ""
    report = replay_ledger(site.file.connection)
    site.crash()
    assert report.differences == ()
    return report


def test_rows_that_cannot_be_read_are_told(ledger: sqlite3.Connection) -> None:
    """A transaction that does not balance, one that is missing: told, and the rest is computed."""
    unlock(ledger)
    seq = ledger_head(ledger).seq
    ledger.execute("UPDATE entry SET amount_nano = amount_nano + 1 WHERE seq = 2 AND line = 1")
    ledger.execute("DELETE FROM ledger_transaction WHERE seq = ?", (seq - 1,))
    words = [one.words for one in replay_ledger(ledger).differences]
    assert any("transaction 2: " in one and "does not balance" in one for one in words)
    assert f"of transactions 1 to {seq} some are missing" in words


def test_the_command_shows_both_proofs(
    ledger: sqlite3.Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 0 and what was computed, as table and as JSON; exit 1 with the first difference."""

    def verify(*words: str) -> tuple[object, str, str]:
        config = str(tmp_path / "copy" / "config.yaml")
        with pytest.raises(SystemExit) as ended:
            run(lambda: app(["ledger", "verify", *words, "-c", config]))
        told = capsys.readouterr()
        return ended.value.code, told.out, told.err

    count = ledger_head(ledger).seq
    status, out, _ = verify("--replay")
    assert status == 0
    assert f"computed again {count}" in " ".join(out.split())
    status, out, _ = verify("--replay", "--json")
    replayed = json.loads(out)["replay"]
    assert (status, replayed["transactions"], replayed["unproved"]) == (0, count, {})
    made = transactions_of(ledger)
    at, _ = fee(made)
    forge(ledger, made)
    assert verify()[0] == 0
    status, out, err = verify("--replay")
    assert status == 1
    assert f"transaction {at + 1}: " in err
    assert "computed again by" in err
    status, out, _ = verify("--replay", "--json")
    answer = json.loads(out)
    assert (status, answer["ok"], answer["problems"]) == (1, False, [])
    assert {one["seq"] for one in answer["replay"]["differences"]} == {at + 1}
    assert "wallet:bela" in {one["account"] for one in answer["replay"]["balances"]}
