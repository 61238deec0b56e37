"""What a customer has and owes: the recharge order, emergency credit, debts, notices."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.account import Account
from gateway.core.credit import (
    CreditBook,
    CreditTerms,
    DebtKind,
    DebtTerms,
    EmergencyState,
    Notice,
    PaymentMode,
    accumulated,
    debt,
    emergency,
)
from gateway.core.errors import RefusedError
from gateway.core.ledger import Entry, TransactionKind, wallet
from tests.core.test_prepaid_cases import listed, nano, part

DAY = 20_505  # a Saturday
PPM = 1_000_000


def book(
    *,
    wallet_nano: int = 0,
    terms: CreditTerms | None = None,
    debts: Sequence[tuple[DebtTerms, int]] = (),
) -> CreditBook:
    """A customer's credit."""
    made = CreditBook("a", terms or CreditTerms(), wallet_nano=wallet_nano)
    for one, remaining_nano in debts:
        made.add_debt(one, remaining_nano)
    return made


def remaining(credit: CreditBook) -> dict[str, int]:
    """What remains of each debt."""
    return {terms.debt_id: left_nano for terms, left_nano in credit.debts()}


def test_recharge_pays_in_the_order_of_the_rules() -> None:
    """P03: payment debt's share, accumulated debt, the negative wallet, emergency, the wallet."""
    facts, expect = part("P03", "given"), part("P03", "expect")
    share_ppm = int(facts["payment_debt_pct"]) * PPM // 100
    old = DebtTerms("old", DebtKind.PAYMENT, share_ppm=share_ppm)
    credit = book(wallet_nano=nano(facts["wallet"]), debts=[(old, nano(facts["payment_debt"]))])
    credit.accumulated_nano = nano(facts["accumulated_debt"])
    credit.emergency_used_nano = nano(facts["emergency_used"])
    entries = credit.split(nano("10.00"), DAY)
    debt_nano, accumulated_nano, negative_nano, emergency_nano, wallet_nano = map(
        nano, listed("P03", "expect", "split")
    )
    assert [(e.ledger_account, e.amount_nano) for e in entries] == [
        (debt("a", "old"), debt_nano),
        (accumulated("a"), accumulated_nano),
        (emergency("a"), emergency_nano),
        (wallet("a"), negative_nano + wallet_nano),
    ]
    credit.received(entries, DAY)
    assert remaining(credit) == {"old": nano(expect["payment_debt"])}
    assert credit.accumulated_nano == nano(expect["accumulated_debt"])
    assert credit.emergency_used_nano == nano(expect["emergency_used"])
    assert credit.wallet_nano == nano(expect["wallet"])


def test_time_debt_ends_with_what_is_left() -> None:
    """P05: 15.01 at 0.25 a day: a cent on the 61st day, then nothing."""
    facts, expect = part("P05", "given"), part("P05", "expect")
    terms = DebtTerms("old", DebtKind.TIME, daily_nano=nano(facts["rate_day"]))
    credit = book(wallet_nano=nano("100"), debts=[(terms, nano(facts["debt"]))])
    credit.collect(DAY, 0, is_disabled=False)
    for day in range(1, 61):
        credit.collect(DAY + day, 0, is_disabled=False)
    assert remaining(credit) == {"old": nano(expect["day60_remaining"])}
    before_nano = credit.wallet_nano
    credit.collect(DAY + 61, 0, is_disabled=False)
    assert before_nano - credit.wallet_nano == nano(expect["day61_collected"])
    assert remaining(credit) == {"old": nano(expect["remaining"])}
    assert credit.collect(DAY + 62, 0, is_disabled=False) == ()


def test_emergency_credit_bears_what_the_wallet_could_not() -> None:
    """P07: 0.30 from the wallet first, then 0.20 of the loan; supply stays on."""
    facts, expect = part("P07", "given"), part("P07", "expect")
    terms = CreditTerms(
        emergency_limit_nano=nano(facts["ec_limit"]),
        emergency_threshold_nano=nano(facts["ec_threshold"]),
    )
    account = Account("a", book(wallet_nano=nano(facts["wallet"]), terms=terms))
    credit = account.credit
    assert credit.emergency_state(0) is EmergencyState.SELECTABLE
    credit.invoke_emergency(0)
    assert credit.emergency_state(0) is EmergencyState.INVOKED
    credit.charge(nano("0.50"))
    (draw,) = account.take_postings(7)
    assert draw.kind is TransactionKind.EMERGENCY_DRAW
    assert credit.wallet_nano == nano(expect["wallet"])
    assert credit.emergency_used_nano == nano(expect["ec_used"])
    assert credit.emergency_left_nano == nano(expect["ec_remaining"])
    assert account.available_nano == nano(expect["available_credit"])
    assert credit.emergency_state(0) is EmergencyState.IN_USE
    assert account.cut_nano(7) > 0
    assert account.take_postings(8) == []


def test_emergency_credit_is_used_up_and_comes_back_with_the_recharges() -> None:
    """Consumed at its limit: supply is due. Repaid in parts it stays in use, then is offered."""
    terms = CreditTerms(emergency_limit_nano=5, emergency_threshold_nano=1)
    account = Account("a", book(wallet_nano=1, terms=terms))
    credit = account.credit
    credit.invoke_emergency(0)
    credit.charge(7)
    account.take_postings(1)
    assert (credit.wallet_nano, credit.emergency_used_nano) == (-1, 5)
    assert credit.emergency_state(0) is EmergencyState.CONSUMED
    assert account.cut_nano(1) <= 0
    credit.received(credit.split(3, DAY), DAY)
    assert (credit.wallet_nano, credit.emergency_used_nano) == (0, 3)
    assert account.available_nano == 2
    credit.received(credit.split(4, DAY), DAY)
    assert (credit.wallet_nano, credit.emergency_used_nano) == (1, 0)
    assert credit.emergency_state(0) is EmergencyState.SELECTABLE


@pytest.mark.parametrize(
    ("terms", "wallet_nano", "invoked", "code"),
    [
        (CreditTerms(), -5, False, "EMERGENCY_NOT_OFFERED"),
        (
            CreditTerms(payment_mode=PaymentMode.CREDIT, emergency_limit_nano=5),
            -5,
            False,
            "EMERGENCY_NOT_OFFERED",
        ),
        (
            CreditTerms(emergency_limit_nano=5, emergency_threshold_nano=1),
            2,
            False,
            "EMERGENCY_NOT_SELECTABLE",
        ),
        (CreditTerms(emergency_limit_nano=5), 0, True, "EMERGENCY_INVOKED"),
    ],
)
def test_emergency_credit_that_is_not_to_be_had_is_refused(
    terms: CreditTerms, wallet_nano: int, invoked: bool, code: str
) -> None:
    """Not offered, not low enough, already taken: each by name, and nothing changes."""
    credit = book(wallet_nano=wallet_nano, terms=terms)
    credit.is_invoked = invoked
    with pytest.raises(RefusedError) as refused:
        credit.invoke_emergency(0)
    assert refused.value.refusal_code == code
    assert credit.is_invoked is invoked


def test_automatic_emergency_credit_keeps_supply_on_without_anybody() -> None:
    """At zero it is invoked by itself, once."""
    terms = CreditTerms(emergency_limit_nano=5, emergency_automatic=True)
    account = Account("a", book(wallet_nano=0, terms=terms))
    assert account.cut_nano(1) > 0
    assert account.credit.is_invoked
    account.credit.charge(5)
    account.take_postings(1)
    assert account.cut_nano(1) <= 0


def test_dues_never_use_up_the_credit() -> None:
    """Only electricity cuts: a due that would reach zero is accumulated and paid by a recharge."""
    terms = DebtTerms("old", DebtKind.TIME, daily_nano=10)
    account = Account("a", book(wallet_nano=25, debts=[(terms, 100)]))
    credit = account.credit
    account.pass_day(DAY, 1)
    for day in (1, 2, 3):
        account.pass_day(DAY + day, 1)
    assert credit.wallet_nano == 5
    assert credit.accumulated_nano == 10
    assert remaining(credit) == {"old": 70}
    assert account.cut_nano(1) > 0
    assert [t.kind for t in account.take_postings(1)] == [TransactionKind.DEBT_COLLECTION] * 3
    entries = credit.split(12, DAY + 3)
    assert entries == (Entry(accumulated("a"), 10), Entry(wallet("a"), 2))


def test_nothing_is_collected_while_supply_is_disabled() -> None:
    """Days without supply pass free of dues; they are not caught up."""
    terms = DebtTerms("old", DebtKind.TIME, daily_nano=10)
    credit = book(wallet_nano=100, debts=[(terms, 100)])
    credit.collect(DAY, 0, is_disabled=False)
    assert credit.collect(DAY + 5, 0, is_disabled=True) == ()
    assert len(credit.collect(DAY + 6, 0, is_disabled=False)) == 1
    assert credit.wallet_nano == 90


def test_days_that_the_gateway_was_off_are_caught_up_once() -> None:
    """Three days at once are three collections; asking again the same day is none."""
    terms = DebtTerms("old", DebtKind.TIME, daily_nano=10)
    credit = book(wallet_nano=100, debts=[(terms, 100)])
    credit.collect(DAY, 0, is_disabled=False)
    assert len(credit.collect(DAY + 3, 0, is_disabled=False)) == 3
    assert credit.collect(DAY + 3, 0, is_disabled=False) == ()
    assert credit.wallet_nano == 70


def test_caps_hold_for_a_local_week() -> None:
    """A payment debt takes no more than its cap from Monday to Sunday, however many recharges."""
    terms = DebtTerms("old", DebtKind.PAYMENT, share_ppm=PPM // 2, weekly_cap_nano=30)
    credit = book(debts=[(terms, 1_000)])
    saturday, monday = DAY, DAY + 2
    for day, taken in ((saturday, 25), (saturday + 1, 5), (saturday + 1, 0), (monday, 25)):
        entries = credit.split(50, day)
        assert {e.ledger_account: e.amount_nano for e in entries}.get(debt("a", "old"), 0) == taken
        credit.received(entries, day)
    assert remaining(credit) == {"old": 945}


def test_a_reversal_brings_back_what_the_recharge_paid() -> None:
    """The opposite entries restore debt and emergency credit as they were."""
    terms = DebtTerms("old", DebtKind.PAYMENT, share_ppm=PPM // 10)
    credit = book(wallet_nano=-3, terms=CreditTerms(emergency_limit_nano=9), debts=[(terms, 50)])
    credit.emergency_used_nano = 9
    before = (credit.wallet_nano, credit.emergency_used_nano, remaining(credit))
    entries = credit.split(40, DAY)
    credit.received(entries, DAY)
    assert credit.emergency_used_nano == 0
    credit.received([Entry(e.ledger_account, -e.amount_nano) for e in entries], DAY)
    assert (credit.wallet_nano, credit.emergency_used_nano, remaining(credit)) == before


def test_credit_mode_is_cut_only_after_a_notice_that_ran_out() -> None:
    """No balance, however low, cuts without notice; payment of what was overdue ends it."""
    terms = CreditTerms(payment_mode=PaymentMode.CREDIT)
    account = Account("a", book(wallet_nano=-1_000, terms=terms))
    assert account.cut_nano(10**15) > 0
    account.credit.notice = Notice(600, due_utc_ms=500)
    assert account.cut_nano(499) > 0
    assert account.cut_nano(500) <= 0
    account.credit.received(account.credit.split(599, DAY), DAY)
    assert account.cut_nano(500) <= 0
    account.credit.received(account.credit.split(1, DAY), DAY)
    assert account.cut_nano(500) > 0
    assert account.credit.snapshot()["notice"] is None


def test_the_end_of_an_account_pays_what_is_owed() -> None:
    """Accumulated debt, emergency credit, then debts, as far as the wallet goes."""
    terms = DebtTerms("old", DebtKind.PAYMENT, share_ppm=1)
    credit = book(wallet_nano=50, debts=[(terms, 100)])
    credit.accumulated_nano, credit.emergency_used_nano = 7, 8
    entries = credit.final_payments()
    assert sum(entry.amount_nano for entry in entries) == 0
    credit.apply(entries)
    assert (credit.wallet_nano, credit.accumulated_nano, credit.emergency_used_nano) == (0, 0, 0)
    assert remaining(credit) == {"old": 65}
    assert credit.final_payments() == ()


def test_state_survives_a_restart() -> None:
    """Balances come from the ledger, everything else from the snapshot."""
    terms = DebtTerms("old", DebtKind.PAYMENT, share_ppm=PPM // 2, weekly_cap_nano=30)
    credit = book(wallet_nano=5, terms=CreditTerms(emergency_limit_nano=9), debts=[(terms, 1_000)])
    credit.received(credit.split(50, DAY), DAY)
    credit.is_invoked = True
    credit.notice = Notice(3, 4)
    again = book(terms=credit.terms, debts=[(terms, 0)])
    balances = {wallet("a"): credit.wallet_nano, debt("a", "old"): -remaining(credit)["old"]}
    again.restore(balances, credit.snapshot())
    assert again == credit
    assert again.split(50, DAY) == credit.split(50, DAY)


amounts = st.integers(0, 10**12)


@pytest.mark.slow
@settings(max_examples=200)
@given(
    st.integers(-(10**12), 10**12),
    amounts,
    amounts,
    st.lists(
        st.tuples(st.integers(1, PPM), amounts, st.none() | st.integers(1, 10**9)), max_size=4
    ),
    st.lists(st.integers(1, 10**12), min_size=1, max_size=8),
)
def test_every_nano_of_a_recharge_goes_somewhere_once(
    wallet_nano: int,
    accumulated_nano: int,
    used_nano: int,
    debts: list[tuple[int, int, int | None]],
    recharges: list[int],
) -> None:
    """Nothing appears or vanishes; nobody pays more than is owed; the order is kept."""
    credit = book(
        wallet_nano=wallet_nano,
        debts=[
            (DebtTerms(f"d{n}", DebtKind.PAYMENT, share_ppm=share, weekly_cap_nano=cap), left)
            for n, (share, left, cap) in enumerate(debts)
        ],
    )
    credit.accumulated_nano, credit.emergency_used_nano = accumulated_nano, used_nano
    for amount_nano in recharges:
        worth_nano = credit.wallet_nano - credit.owed_nano
        entries = credit.split(amount_nano, DAY)
        assert sum(entry.amount_nano for entry in entries) == amount_nano
        assert all(entry.amount_nano > 0 for entry in entries)
        credit.received(entries, DAY)
        assert credit.wallet_nano - credit.owed_nano == worth_nano + amount_nano
        assert credit.accumulated_nano >= 0
        assert credit.emergency_used_nano >= 0
        assert all(left >= 0 for left in remaining(credit).values())
        if wallet_nano <= 0 < credit.wallet_nano:
            assert credit.accumulated_nano == credit.emergency_used_nano == 0
