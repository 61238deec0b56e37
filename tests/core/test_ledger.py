"""Double entry and the hash chain."""

import pytest
import yaml

from gateway.core.ledger import (
    GENESIS,
    Entry,
    Transaction,
    TransactionKind,
    canonical_json,
    cash,
    chain_hash,
    charge_entries,
    merge_entries,
    reversal_of,
    transaction_body,
    wallet,
)
from tests.core.test_prepaid_cases import CASES_FILE


def recharge(amount_nano: int) -> Transaction:
    """A recharge of account a1."""
    return Transaction(
        TransactionKind.RECHARGE,
        1,
        (Entry(wallet("a1"), amount_nano), Entry(cash("counter"), -amount_nano)),
        account_id="a1",
        request_key="A",
    )


def test_chain_of_the_worked_example() -> None:
    """A01: SHA-256 over the previous hash's bytes and the canonical JSON of the entry."""
    document = yaml.safe_load(CASES_FILE.read_text(encoding="utf-8"))
    case = next(case for case in document["cases"] if case["id"] == "A01")
    previous = GENESIS
    assert previous.hex() == case["given"]["genesis"]
    hashes = []
    for entry in case["given"]["entries"]:
        previous = chain_hash(previous, entry)
        hashes.append(previous.hex())
    assert hashes == case["expect"]["hashes"]
    assert len(hashes) == 3


def test_unbalanced_transaction_cannot_exist() -> None:
    """I1: entries sum to zero or the object is refused."""
    with pytest.raises(ValueError, match="does not balance: 1 nano"):
        Transaction(TransactionKind.RECHARGE, 1, (Entry("wallet:a1", 1),))


def test_charges_leave_the_wallet_and_reach_income_and_tax() -> None:
    """Consumption debits the wallet by exactly the sum of its components."""
    entries = charge_entries("a1", {"energy:grid": 100, "tax:VAT": 18, "fixed": 0})
    assert entries == (
        Entry("wallet:a1", -118),
        Entry("income:energy:grid", 100),
        Entry("tax:VAT", 18),
    )


def test_merged_entries_keep_the_sum() -> None:
    """A posting round has one line per ledger account."""
    merged = merge_entries([Entry("x", 5), Entry("y", -5), Entry("x", -5), Entry("z", 5)])
    assert merged == (Entry("y", -5), Entry("z", 5))


def test_reversal_is_linked_and_opposite() -> None:
    """A correction undoes and names the original."""
    undone = reversal_of(recharge(500), 7, utc_ms=9, request_key="R")
    assert undone.reverses_seq == 7
    assert undone.entries == (Entry("wallet:a1", -500), Entry("cash:counter", 500))


def test_hash_covers_every_field() -> None:
    """Changing the account, amount, time or key changes the hash."""
    base = transaction_body(1, recharge(500))
    hashes = {chain_hash(GENESIS, base)}
    for field, value in (("account", "a2"), ("utc_ms", 2), ("request_key", "B"), ("seq", 2)):
        hashes.add(chain_hash(GENESIS, {**base, field: value}))
    hashes.add(chain_hash(GENESIS, transaction_body(1, recharge(501))))
    hashes.add(chain_hash(bytes(31) + b"\x01", base))
    assert len(hashes) == 7


def test_canonical_json_has_one_text_for_one_meaning() -> None:
    """Key order does not matter; text is UTF-8, not escaped."""
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
