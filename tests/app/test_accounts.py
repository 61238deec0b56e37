"""Accounts on real stores: several points, transfers, emergency credit, debts, move-out."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.app.reload import check_removed
from gateway.core.errors import ConfigurationError
from gateway.core.ledger import TransactionKind
from gateway.core.requests import (
    AddDebt,
    AddPoint,
    Body,
    ChangeTariff,
    CloseAccount,
    CommissionPoint,
    ConfigureAccount,
    InvokeEmergency,
    OpenAccount,
    PublishTariff,
    Recharge,
    RemovePoint,
    ReverseTransaction,
    ServeNotice,
    Transfer,
    WriteOff,
)
from gateway.core.switching import Reason
from gateway.store.commands import find_outcome
from gateway.store.ledger import ledger_head, read_balance, read_transaction
from gateway.store.registry import read_account
from tests.app.control_site import PRICE_NANO, TARIFF, ControlSite

NANO = 10**9
RICH = 1_000 * NANO
DAY_S = 86_400
# The month's fee of 50.00 for the 15th of January, the day of every test.
DAY_OF_FEE = 50 * NANO * 15 // 31 - 50 * NANO * 14 // 31
LOAN = '{"emergency": {"limit": "0.08", "threshold": "0.05"}}'


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ControlSite]:
    """Two meters, read once, clock trusted."""
    made = ControlSite(tmp_path)
    made.read(1_000)
    made.read(5_000, index=1)
    yield made
    made.crash()


async def begin(site: ControlSite, *balances_nano: int) -> None:
    """Open the accounts of the flats with these balances."""
    await site.sweeper.sweep()
    for index, balance_nano in enumerate(balances_nano):
        await site.open_flat(balance_nano, index=index)


async def ask(site: ControlSite, body: Body, key: str = "ask") -> str:
    """Carry out a request; `executed`, or the code of its refusal."""
    await site.do(body, key=key)
    outcome = find_outcome(site.file.connection, key)
    assert outcome is not None
    return outcome.code or outcome.status.value


def balance(site: ControlSite, name: str) -> int:
    """What a ledger account holds."""
    return read_balance(site.file.connection, name)


def kinds(site: ControlSite) -> Sequence[TransactionKind]:
    """The kinds of all transactions."""
    connection = site.file.connection
    found = (read_transaction(connection, seq + 1) for seq in range(ledger_head(connection).seq))
    return [transaction.kind for transaction in found if transaction is not None]


async def use(site: ControlSite, wh: int, *, index: int = 0, seconds: float = 10.0) -> None:
    """Draw energy over a time, then sweep."""
    site.clock.pass_s(seconds)
    registers_wh = site.engine.points[index].guard.registers_wh
    assert registers_wh is not None
    site.read(registers_wh[0] + wh, index=index)
    await site.sweeper.sweep()


def assert_proved(site: ControlSite) -> None:
    """Chain, sums, projections and registers agree."""
    assert site.proof().problems == ()


async def test_an_account_with_two_points_has_one_credit(site: ControlSite) -> None:
    """Both meters draw from it; both are cut when it is used up, both come back together."""
    await begin(site, 10 * PRICE_NANO)
    assert await ask(site, AddPoint("flat-1", "flat-2", "home")) == "executed"
    await site.do(CommissionPoint("flat-2"))
    first, second = site.engine.points
    assert second.account is first.account
    await use(site, 4)
    await use(site, 5, index=1)
    assert first.available_nano == second.available_nano == PRICE_NANO
    await use(site, 1)
    assert first.supply.reasons == {Reason.CREDIT}
    assert not second.supply.reasons, "only a reading of its own cuts a point"
    await use(site, 0, index=1)
    assert second.supply.reasons == {Reason.CREDIT}
    await site.do(Recharge("flat-1", NANO))
    assert not first.supply.reasons
    assert not second.supply.reasons
    await site.books.post([0, 1])
    assert balance(site, "wallet:flat-1") == NANO
    site.restart()
    first, second = site.engine.points
    assert second.account is first.account
    assert first.available_nano == NANO
    assert_proved(site)


async def test_a_point_is_given_up_and_the_last_one_stays(site: ControlSite) -> None:
    """Its energy is nobody's afterwards; the account goes on with the other."""
    await begin(site, RICH)
    await site.do(AddPoint("flat-1", "flat-2", "home"))
    assert await ask(site, OpenAccount("b", "flat-2", "home"), "taken") == "POINT_TAKEN"
    await use(site, 3, index=1)
    assert await ask(site, RemovePoint("flat-2"), "gone") == "executed"
    await use(site, 3, index=1)
    assert balance(site, "wallet:flat-1") == RICH - 3 * PRICE_NANO - DAY_OF_FEE
    assert site.engine.points[1].account is None
    assert not site.engine.points[1].supply.enforced
    assert await ask(site, RemovePoint("flat-2"), "free") == "POINT_FREE"
    assert await ask(site, RemovePoint("flat-1"), "last") == "LAST_POINT"
    assert await ask(site, OpenAccount("b", "flat-2", "home"), "next") == "executed"
    site.restart()
    assert site.engine.points[1].account_id == "b"
    assert_proved(site)


async def test_a_point_comes_back_to_the_account_that_gave_it_up(site: ControlSite) -> None:
    """What was used meanwhile is nobody's: the gap in its registers is no fault of the ledger."""
    await begin(site, RICH)
    await site.do(AddPoint("flat-1", "flat-2", "home"))
    await use(site, 3, index=1)
    assert await ask(site, RemovePoint("flat-2"), "gone") == "executed"
    await use(site, 5, index=1)
    assert await ask(site, AddPoint("flat-1", "flat-2", "home"), "back") == "executed"
    held = balance(site, "wallet:flat-1")
    await use(site, 2, index=1)
    await site.do(RemovePoint("flat-2"))
    fee = held - balance(site, "wallet:flat-1") - 2 * PRICE_NANO
    assert 0 <= fee <= 2 * NANO, "5 Wh were nobody's"
    assert_proved(site)


async def test_a_second_point_is_not_taken_out_of_the_configuration(site: ControlSite) -> None:
    """Its meter may go once the account has given it up."""
    await begin(site, RICH)
    await site.do(AddPoint("flat-1", "flat-2", "home"))
    without = replace(site.config, meters=site.config.meters[:1])
    with pytest.raises(ConfigurationError, match="flat-2 is gone, but account flat-1 is open"):
        check_removed(site.file.connection, site.config, without)
    await site.do(RemovePoint("flat-2"))
    check_removed(site.file.connection, site.config, without)


async def test_the_first_point_of_an_account_is_free_once_it_is_given_up(
    site: ControlSite,
) -> None:
    """The account goes on at its other point; somebody else may move in where it began."""
    await begin(site, RICH)
    await site.do(AddPoint("flat-1", "flat-2", "home"))
    assert await ask(site, RemovePoint("flat-1"), "gone") == "executed"
    record = read_account(site.file.connection, "flat-1")
    assert record is not None
    assert record.service_point_id == "flat-2"
    assert await ask(site, OpenAccount("next", "flat-1", "home"), "next") == "executed"
    site.restart()
    assert [point.account_id for point in site.engine.points] == ["next", "flat-1"]
    assert_proved(site)


async def test_a_tariff_is_changed_in_the_instant_of_a_posting(site: ControlSite) -> None:
    """Every Wh has the price of its time, and the registers join without a hole."""
    await begin(site, RICH)
    dear = TARIFF.replace('"home"', '"dear"', 1).replace('"8.00"', '"10.00"')
    await site.do(PublishTariff(dear))
    await use(site, 3)
    assert await ask(site, ChangeTariff("flat-1", "dear")) == "executed"
    assert await ask(site, ChangeTariff("flat-1", "dear"), "again") == "SAME_TARIFF"
    await use(site, 2)
    await site.books.post([0])
    assert balance(site, "wallet:flat-1") == RICH - 3 * PRICE_NANO - DAY_OF_FEE - 2 * 10_000_000
    site.restart()
    await use(site, 1)
    used = 3 * PRICE_NANO + 3 * 10_000_000
    assert site.engine.points[0].available_nano == RICH - used - DAY_OF_FEE
    assert_proved(site)


async def test_emergency_credit_from_offer_to_repayment(site: ControlSite) -> None:
    """Refused while credit is there; invoked it keeps supply on, survives a restart, is repaid."""
    await begin(site, 10 * PRICE_NANO)
    assert await ask(site, InvokeEmergency("flat-1"), "none") == "EMERGENCY_NOT_OFFERED"
    assert await ask(site, ConfigureAccount("flat-1", LOAN), "terms") == "executed"
    assert await ask(site, InvokeEmergency("flat-1"), "early") == "EMERGENCY_NOT_SELECTABLE"
    await use(site, 5)
    assert await ask(site, InvokeEmergency("flat-1"), "now") == "executed"
    await use(site, 6)
    point = site.engine.points[0]
    assert not point.supply.reasons
    assert point.available_nano == 9 * PRICE_NANO
    await site.books.post([0])
    assert balance(site, "wallet:flat-1") == 0
    assert balance(site, "emergency:flat-1") == -PRICE_NANO
    site.restart()
    point = site.engine.points[0]
    assert point.available_nano == 9 * PRICE_NANO
    await use(site, 9)
    assert point.supply.reasons == {Reason.CREDIT}
    await site.do(Recharge("flat-1", 12 * PRICE_NANO))
    assert balance(site, "emergency:flat-1") == 0
    assert balance(site, "wallet:flat-1") == 2 * PRICE_NANO
    assert not point.supply.reasons
    assert TransactionKind.EMERGENCY_DRAW in kinds(site)
    assert_proved(site)


async def test_emergency_credit_brings_a_disabled_supply_back(site: ControlSite) -> None:
    """Invoked after the cut it clears CREDIT: a person may reconnect."""
    await begin(site, 2 * PRICE_NANO)
    await site.do(ConfigureAccount("flat-1", LOAN))
    await use(site, 2)
    point = site.engine.points[0]
    assert point.supply.reasons == {Reason.CREDIT}
    assert await ask(site, InvokeEmergency("flat-1")) == "executed"
    assert not point.supply.reasons


async def test_emergency_credit_that_invokes_itself_brings_every_point_back(
    site: ControlSite,
) -> None:
    """Agreed after a cut and taken up by the reading of another point: CREDIT stands nowhere."""
    await begin(site, 2 * PRICE_NANO)
    await use(site, 2)
    cut = site.engine.points[0]
    assert cut.supply.reasons == {Reason.CREDIT}
    loan = '{"emergency": {"limit": "5", "threshold": "1", "automatic": true}}'
    await site.do(ConfigureAccount("flat-1", loan))
    await site.do(AddPoint("flat-1", "flat-2", "home"))
    await site.do(CommissionPoint("flat-2"))
    await use(site, 1, index=1)
    assert cut.available_nano > 0
    assert not cut.supply.reasons
    assert_proved(site)


async def test_a_payment_debt_is_paid_by_recharges_and_comes_back_with_a_reversal(
    site: ControlSite,
) -> None:
    """A share goes to the debt, in the same transaction; the reversal restores both."""
    await begin(site, RICH)
    debt = AddDebt("flat-1", "old", "payment", 30 * NANO, "arrears", share_ppm=200_000)
    assert await ask(site, debt, "debt") == "executed"
    assert await ask(site, debt, "twice") == "DEBT_EXISTS"
    await site.do(Recharge("flat-1", 10 * NANO), key="paid")
    assert balance(site, "debt:flat-1:old") == -28 * NANO
    assert balance(site, "wallet:flat-1") == RICH + 8 * NANO
    paid = find_outcome(site.file.connection, "paid")
    assert paid is not None
    await site.do(ReverseTransaction(int(str(paid.result["transaction_seq"])), "bounced"))
    assert balance(site, "debt:flat-1:old") == -30 * NANO
    assert balance(site, "wallet:flat-1") == RICH
    site.restart()
    account = site.desk.account("flat-1")
    assert [left for _, left in account.credit.debts()] == [30 * NANO]
    assert await ask(site, WriteOff("flat-1", "old", 31 * NANO, "gone"), "over") == "AMOUNT_RANGE"
    assert await ask(site, WriteOff("flat-1", "old", 30 * NANO, "gone"), "off") == "executed"
    assert balance(site, "debt:flat-1:old") == 0
    assert await ask(site, WriteOff("flat-1", "no", NANO, "x"), "no") == "DEBT_UNKNOWN"
    assert_proved(site)


async def test_a_debt_by_the_day_is_collected_at_local_midnight(site: ControlSite) -> None:
    """Once a day, not again after a restart, never to the last nano of the credit."""
    await begin(site, 25 * NANO)
    debt = AddDebt("flat-1", "loan", "time", 100 * NANO, "cooker", daily_nano=10 * NANO)
    await site.do(debt)
    await use(site, 0)
    for _ in range(3):
        await use(site, 1, seconds=DAY_S)
        site.restart()
        await use(site, 0, seconds=60)
    assert balance(site, "debt:flat-1:loan") == -70 * NANO
    assert balance(site, "accumulated:flat-1") == -10 * NANO
    assert not site.engine.points[0].supply.reasons
    assert_proved(site)


async def test_a_transfer_leaves_its_giver_connected(site: ControlSite) -> None:
    """Never so much that the giver would be cut; debts of the taker come first."""
    await begin(site, 10 * NANO, NANO)
    debt = AddDebt("flat-2", "old", "payment", 30 * NANO, "arrears", share_ppm=500_000)
    await site.do(debt)
    whole = Transfer("flat-1", "flat-2", 10 * NANO, "moved in together")
    assert await ask(site, whole, "whole") == "CREDIT_SHORT"
    self = Transfer("flat-1", "flat-1", NANO, "x")
    assert await ask(site, self, "self") == "SAME_ACCOUNT"
    nobody = Transfer("flat-1", "nobody", NANO, "x")
    assert await ask(site, nobody, "nobody") == "ACCOUNT_UNKNOWN"
    part = Transfer("flat-1", "flat-2", 4 * NANO, "moved in together")
    assert await ask(site, part, "part") == "executed"
    assert balance(site, "wallet:flat-1") == 6 * NANO
    assert balance(site, "wallet:flat-2") == 3 * NANO
    assert balance(site, "debt:flat-2:old") == -28 * NANO
    assert_proved(site)


async def test_move_out_pays_what_is_owed_and_hands_out_the_rest(site: ControlSite) -> None:
    """The account ends at a known register with nothing left; the next tenant owes none of it."""
    await begin(site, RICH)
    debt = AddDebt("flat-1", "old", "payment", 30 * NANO, "arrears", share_ppm=1)
    await site.do(debt)
    await use(site, 5)
    early = CloseAccount("flat-1", "moved out")
    assert await ask(site, early, "early") == "REFUND_MISSING"
    assert await ask(site, CloseAccount("flat-1", "moved out", "counter"), "end") == "executed"
    ended = find_outcome(site.file.connection, "end")
    assert ended is not None
    refund_nano = int(str(ended.result["refund_nano"]))
    assert refund_nano == RICH - 5 * PRICE_NANO - 30 * NANO - DAY_OF_FEE
    assert ended.result["owed_nano"] == 0
    assert balance(site, "wallet:flat-1") == balance(site, "debt:flat-1:old") == 0
    assert balance(site, "cash:counter") == refund_nano
    await use(site, 7)
    assert await ask(site, Recharge("flat-1", NANO), "late") == "ACCOUNT_UNKNOWN"
    assert await ask(site, OpenAccount("next", "flat-1", "home"), "next") == "executed"
    site.restart()
    assert site.engine.points[0].account_id == "next"
    assert site.engine.points[0].available_nano == 0
    assert_proved(site)


@pytest.mark.slow
async def test_credit_mode_is_cut_only_after_its_notice(site: ControlSite) -> None:
    """Billed customers run up a balance; a notice, its days, then the cut; payment ends it."""
    await begin(site)
    await site.do(PublishTariff(TARIFF))
    terms = '{"payment_mode": "credit", "notice_days": 15}'
    await site.do(OpenAccount("flat-1", "flat-1", "home", terms=terms))
    await site.do(CommissionPoint("flat-1"))
    point = site.engine.points[0]
    await use(site, 100, seconds=600)
    assert not point.supply.reasons
    assert await ask(site, ServeNotice("flat-1", RICH), "much") == "NOTHING_OVERDUE"
    assert await ask(site, ServeNotice("flat-1", 50 * PRICE_NANO), "notice") == "executed"
    await use(site, 1, seconds=14 * DAY_S)
    assert not point.supply.reasons
    site.restart()
    point = site.engine.points[0]
    await use(site, 1, seconds=DAY_S)
    await use(site, 0)  # the first reading after a start comes before the clock is judged
    assert point.supply.reasons == {Reason.CREDIT}
    await site.do(Recharge("flat-1", 50 * PRICE_NANO))
    assert not point.supply.reasons
    assert_proved(site)


@pytest.mark.parametrize(
    ("terms", "place"),
    [
        ("[]", "expected an object"),
        ('{"payment_mode": "later"}', "payment_mode"),
        ('{"emergency": {"limit": "-1"}}', "emergency.limit"),
        ('{"emergency": {"limit": "0.0000000001"}}', "emergency.limit"),
        ('{"emergencyy": {}}', "did you mean 'emergency'"),
        ('{"disablement_threshold": "-9223372036.85"}', "disablement_threshold"),
        ('{"emergency": {"limit": "10000000.01"}}', "emergency.limit"),
        ('{"notice_days": 4000}', "notice_days"),
        ('{"notice_days": "0000000009999"}', "notice_days"),
        ('{"notice_days": "' + 9 * "0" + 5_000 * "1" + '"}', "notice_days"),
    ],
)
async def test_wrong_terms_change_nothing(site: ControlSite, terms: str, place: str) -> None:
    """Refused with the place; the refusal is on record."""
    await begin(site, RICH)
    before = site.desk.account("flat-1").credit.terms
    assert await ask(site, ConfigureAccount("flat-1", terms)) == "TERMS_INVALID"
    outcome = find_outcome(site.file.connection, "ask")
    assert outcome is not None
    assert place in outcome.message
    assert site.desk.account("flat-1").credit.terms == before


async def test_recharges_and_sweeps_at_once_keep_the_order_of_the_ledger(
    site: ControlSite,
) -> None:
    """A sweep in the midst of a recharge posts after it: what it computed was still true."""
    await begin(site, PRICE_NANO)
    account = site.desk.account("flat-1")
    await use(site, 3)
    with site.desk.holding(account):
        await use(site, 2)
        assert account.running_nano == 2 * PRICE_NANO
        assert site.books.postponed == set()
        site.engine.due.add(0)
        await site.sweeper.sweep()
        assert site.books.postponed == {0}
        assert account.running_nano == 2 * PRICE_NANO
    await site.sweeper.sweep()
    assert account.running_nano == 0
    assert_proved(site)
