"""Cash-up of a shift: expected is the ledger's, a difference is posted as the books expect it."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import RefusedError
from gateway.core.ledger import (
    Entry,
    Transaction,
    TransactionKind,
    cash,
    recharge_of,
    reversal_of,
    wallet,
)
from gateway.core.shift import (
    CASH_DIFFERENCE,
    VOUCHERS,
    MeansTotal,
    Shift,
    cash_up,
    check_count,
    difference_of,
    money_taken,
    shift_of,
    stamped,
)

SHIFT = Shift(7, "till-1", "token:anna", 1_000, 100, "counter")
PROVIDERS = ("counter", "card", "mobile")


def recharge(amount_nano: int, provider: str = "counter") -> Transaction:
    """A recharge of this shift."""
    plain = recharge_of(
        "flat-1", amount_nano, provider, utc_ms=5, request_key=f"k-{amount_nano}", reference="r"
    )
    return stamped(plain, SHIFT.number)


def reversal(original: Transaction) -> Transaction:
    """Its reversal, in the same shift."""
    return stamped(reversal_of(original, 3, utc_ms=6, request_key="k"), SHIFT.number)


def voucher(amount_nano: int, provider: str = "counter") -> Transaction:
    """A voucher that was sold."""
    sale = Transaction(
        kind=TransactionKind.ADJUSTMENT,
        utc_ms=5,
        entries=(Entry(VOUCHERS, amount_nano), Entry(cash(provider), -amount_nano)),
    )
    return stamped(sale, SHIFT.number)


def test_float_recharges_vouchers_and_reversals_are_told_apart() -> None:
    """Cash is expected with the float in it; a means that was only paid back may be below zero."""
    first = recharge(500)
    means = cash_up(
        SHIFT, [first, recharge(40, "card"), voucher(60), reversal(first), recharge(5)], None
    )
    card, counter = means
    assert (card.provider, card.expected_nano, card.difference_nano) == ("card", 40, None)
    assert counter == MeansTotal("counter", 100, 2, 505, 1, 60, 1, 500)
    assert (counter.taken_nano, counter.expected_nano) == (65, 165)
    assert cash_up(SHIFT, [reversal(recharge(9, "card"))])[0].expected_nano == -9


def test_empty_shift_expects_its_float() -> None:
    """Nobody came: the drawer holds what it began with."""
    (counter,) = cash_up(SHIFT, [], {"counter": 100})
    assert (counter.expected_nano, counter.difference_nano) == (100, 0)
    assert difference_of(SHIFT, (counter,), utc_ms=9, request_key="k") is None


def test_missing_cash_is_a_loss_and_too_much_a_gain_each_for_itself() -> None:
    """5 missing in cash and 5 too many by card are two differences, not none; both balance."""
    means = cash_up(
        SHIFT, [recharge(50), recharge(20, "card")], {"counter": 145, "card": 25, "mobile": 0}
    )
    posted = difference_of(SHIFT, means, utc_ms=9, request_key="k-9")
    assert posted is not None
    assert posted.entries == (
        Entry("cash:card", -5),
        Entry(CASH_DIFFERENCE, 5),
        Entry("cash:counter", 5),
        Entry(CASH_DIFFERENCE, -5),
    )
    assert (posted.kind, posted.account_id) == (TransactionKind.ADJUSTMENT, None)
    assert dict(posted.memo)["closes_shift"] == "7"
    # It corrects the books of the shift and is no taking of it.
    assert shift_of(posted) is None


def test_count_names_every_means_and_tells_no_amount() -> None:
    """A means left out, or one that nobody ever paid by, is refused; the message has no figure."""
    takings = [recharge(50), recharge(1234, "card")]
    with pytest.raises(RefusedError) as missing:
        check_count(cash_up(SHIFT, takings, {"counter": 150}), ())
    assert missing.value.refusal_code == "COUNT_MISSING"
    assert "card" in missing.value.message
    assert "1234" not in missing.value.message
    with pytest.raises(RefusedError) as unknown:
        check_count(cash_up(SHIFT, takings, {"counter": 1, "card": 1, "crad": 1}), {"bank"})
    assert unknown.value.refusal_code == "PROVIDER_UNKNOWN"
    check_count(cash_up(SHIFT, takings, {"counter": 1, "card": 1, "bank": 1}), {"bank"})
    check_count(cash_up(SHIFT, takings, {"counter": 1, "card": 1, "none": 0}), ())


def test_transaction_of_another_shift_is_a_defect() -> None:
    """A sum over the wrong transactions must not pass for a report."""
    with pytest.raises(ValueError, match="of shift None, not 7"):
        cash_up(SHIFT, [replace(recharge(5), memo=())])


takings = st.lists(
    st.tuples(st.integers(1, 10**15), st.sampled_from(PROVIDERS), st.booleans(), st.booleans()),
    max_size=30,
)


@given(takings, st.randoms(use_true_random=False), st.integers(0, 10**12))
def test_expected_is_the_sum_of_the_cash_entries_in_any_order(
    made: list[tuple[int, str, bool, bool]], chance: random.Random, float_nano: int
) -> None:
    """Whatever the order of recharges, vouchers and reversals: expected is what the ledger says,
    and after the difference is posted the cash accounts hold exactly what was counted."""
    shift = replace(SHIFT, float_nano=float_nano)
    transactions: list[Transaction] = []
    for amount_nano, provider, is_voucher, is_reversed in made:
        taken = (voucher if is_voucher else recharge)(amount_nano, provider)
        transactions.append(taken)
        if is_reversed:
            transactions.append(reversal(taken))
    chance.shuffle(transactions)
    ledger: dict[str, int] = {}
    for transaction in transactions:
        for entry in transaction.entries:
            before = ledger.get(entry.ledger_account, 0)
            ledger[entry.ledger_account] = before + entry.amount_nano
    counted = {provider: chance.randrange(10**16) for provider in PROVIDERS}
    means = cash_up(shift, transactions, counted)
    assert {total.provider for total in means} == set(PROVIDERS)
    for total in means:
        start_nano = float_nano if total.provider == "counter" else 0
        assert total.expected_nano == start_nano - ledger.get(cash(total.provider), 0)
    posted = difference_of(shift, means, utc_ms=9, request_key="k")
    for entry in () if posted is None else posted.entries:
        before = ledger.get(entry.ledger_account, 0)
        ledger[entry.ledger_account] = before + entry.amount_nano
    for provider in PROVIDERS:
        start_nano = float_nano if provider == "counter" else 0
        assert -ledger.get(cash(provider), 0) == counted[provider] - start_nano
    gained_nano = sum(total.difference_nano or 0 for total in means)
    assert ledger.get(CASH_DIFFERENCE, 0) == gained_nano


def test_money_taken_is_seen_from_the_till() -> None:
    """A recharge brings money in, its reversal takes it out, a settlement touches none."""
    taken = recharge(5, "card")
    assert money_taken(taken) == {"card": 5}
    assert money_taken(reversal(taken)) == {"card": -5}
    entries = (Entry(wallet("a"), -5), Entry("income:energy:grid", 5))
    assert money_taken(Transaction(TransactionKind.SETTLEMENT, 1, entries)) == {}
