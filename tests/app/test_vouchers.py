"""Vouchers in control: sold, redeemed once, taken back; whatever is killed or done twice."""

import asyncio
import json
from pathlib import Path

import pytest

from gateway.core.account import Account
from gateway.core.errors import StoreError
from gateway.core.recovery import RecoveryReason
from gateway.core.requests import (
    CloseAccount,
    IssueVoucher,
    OpenAccount,
    RedeemVoucher,
    ReleaseRecovery,
    Request,
    ReverseTransaction,
    Role,
)
from gateway.core.switching import Reason
from gateway.core.voucher import COUNTERS, UNITS_MAX
from gateway.store.recovery import enter_recovery, recovery_now
from gateway.store.vouchers import VoucherState, read_redemption, vouchers_before
from tests.app.backup_site import store
from tests.app.control_site import PRICE_NANO, ControlSite
from tests.app.test_inlet import inlet_of, settle
from tests.app.voucher_site import PAISA, RUPEE, Till, off_by_one

CREDIT = 1_000 * PRICE_NANO


@pytest.fixture
async def till(tmp_path: Path) -> Till:
    """Two flats with an account each, and a till."""
    site = ControlSite(tmp_path)
    site.read(1_000)
    site.read(1_000, index=1)
    site.sweeper.judge()
    await site.open_flat(CREDIT)
    await site.open_flat(CREDIT, index=1)
    site.engine.gate.chain_verified = True
    return Till(site)


async def test_a_voucher_is_sold_and_redeemed(till: Till) -> None:
    """Money: cash, then vouchers, then the wallet; the ledger proves itself after each step."""
    token = await till.sell()
    assert (till.balance("vouchers"), till.balance("cash:counter")) == (500 * RUPEE, -500 * RUPEE)
    assert till.balance("wallet:flat-1") == CREDIT
    assert till.site.proof().problems == ()
    outcome = await till.redeem(token)
    assert outcome.result == {
        "account_id": "flat-1",
        "service_point_id": "flat-1",
        "counter": 1,
        "transaction_seq": outcome.result["transaction_seq"],
        "amount_nano": 500 * RUPEE,
        "balance_nano": CREDIT + 500 * RUPEE,
    }
    assert till.balance("vouchers") == 0
    assert till.site.engine.points[0].wallet_nano == CREDIT + 500 * RUPEE
    (sold,) = vouchers_before(till.site.file.connection)
    assert (sold.counter, sold.state, sold.provider) == (1, VoucherState.REDEEMED, "counter")
    assert (sold.actor, sold.payment_reference, sold.account_id) == ("eva", "R-1", "flat-1")
    assert till.site.proof().problems == ()


async def test_a_voucher_works_once_also_after_a_restart(till: Till) -> None:
    """Replay is refused, and does not count as a wrong try."""
    token = await till.sell()
    assert await till.code(token) == ""
    assert [await till.code(token) for _ in range(6)] == ["VOUCHER_REDEEMED"] * 6
    till.site.restart()
    assert await till.code(token) == "VOUCHER_REDEEMED"
    assert till.balance("wallet:flat-1") == CREDIT + 500 * RUPEE


async def test_a_voucher_of_another_point_is_refused(till: Till) -> None:
    """Its digits are simply wrong there, and right where they belong."""
    token = await till.sell()
    assert await till.code(token, "flat-2") == "VOUCHER_WRONG"
    assert await till.code(token, "no-such") == "POINT_UNKNOWN"
    assert await till.code(token) == ""


async def test_two_redemptions_at_once_credit_once(till: Till) -> None:
    """One of them is told that it was redeemed already."""
    token = await till.sell()
    outcomes = await asyncio.gather(*(till.redeem(token) for _ in range(8)))
    assert sorted(outcome.code for outcome in outcomes) == ["", *["VOUCHER_REDEEMED"] * 7]
    assert till.balance("wallet:flat-1") == CREDIT + 500 * RUPEE


async def test_a_voucher_brings_supply_back(till: Till) -> None:
    """CREDIT is cleared by its posting like by any recharge."""
    token = await till.sell()
    for minute in range(1, 12):
        till.site.clock.pass_s(60)
        till.site.sweeper.judge()
        till.site.read(1_000 + 100 * minute)
    point = till.site.engine.points[0]
    assert (len(till.site.engine.commands), point.supply.reasons) == (1, {Reason.CREDIT})
    assert await till.code(token) == ""
    assert point.available_nano > 0
    assert not point.supply.reasons


async def test_nobody_is_cut_while_a_voucher_waits(till: Till) -> None:
    """A redemption in flight may lift the balance; a refused one holds nothing for a minute."""
    executor, token = till.site.executor, await till.sell()
    request = Request("k", RedeemVoucher("flat-1", token), "eva", Role.TENANT, "t", 0)
    assert executor.lifts(request) == [0]
    await till.redeem(off_by_one(token))
    assert executor.lifts(request) == ()
    till.site.clock.pass_s(61)
    assert executor.lifts(request) == [0]
    elsewhere = Request("k", RedeemVoucher("nowhere", token), "eva", Role.TENANT, "t", 0)
    assert executor.lifts(elsewhere) == ()


async def test_a_kill_between_commit_and_answer_credits_once(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has it, memory has not: the process ends, starts again and has it once."""
    site, token = till.site, await till.sell()
    request = RedeemVoucher("flat-1", token)

    def killed(_account: Account, _copy: Account) -> None:
        raise ValueError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr(Account, "take_over", killed)
        with pytest.raises(StoreError):
            await till.ask(request, key="once")
    site.restart()
    assert till.balance("wallet:flat-1") == CREDIT + 500 * RUPEE
    assert site.engine.points[0].wallet_nano == CREDIT + 500 * RUPEE


async def test_a_request_seen_again_redeems_once(till: Till) -> None:
    """Made durable by north, executed, the machine dies, and all requests are looked at again."""
    token = await till.sell()
    body = RedeemVoucher("flat-1", token)
    store(till.site, Request("once", body, "eva", Role.TENANT, "t", till.site.clock.utc_ms()))
    await settle(inlet_of(till.site))
    till.site.restart()
    again = inlet_of(till.site)
    again._cursor = None
    await settle(again)
    assert till.balance("wallet:flat-1") == CREDIT + 500 * RUPEE


async def test_amounts_that_no_voucher_can_carry_are_refused(till: Till) -> None:
    """The maximum is named, nothing is booked."""
    most = UNITS_MAX * PAISA
    for amount, code, words in (
        (most + PAISA, "AMOUNT_RANGE", "10485.75 INR"),
        (0, "AMOUNT_RANGE", "above zero"),
        (PAISA + 1, "VOUCHER_UNIT", "multiple of 0.01 INR"),
    ):
        outcome = await till.ask(IssueVoucher("flat-1", amount))
        assert (outcome.code, words in outcome.message) == (code, True)
    assert till.balance("vouchers") == 0
    assert await till.code(await till.sell(most)) == ""


async def test_a_configured_unit_binds_what_is_sold(till: Till) -> None:
    """Whole units only; what was sold before keeps its worth when the unit changes."""
    earlier, foreign = await till.sell(7 * PAISA), till.elsewhere(2)
    till.site.crash()
    path = till.site.directory / "config.yaml"
    text = path.read_text(encoding="utf-8") + 'vouchers: {voucher_unit: "0.50"}\n'
    path.write_text(text, encoding="utf-8")
    till.site = ControlSite(till.site.directory)
    till.site.sweeper.judge()
    assert (await till.ask(IssueVoucher("flat-1", 75 * PAISA))).code == "VOUCHER_UNIT"
    assert await till.code(await till.sell(150 * PAISA)) == ""
    assert await till.code(earlier) == ""
    # Units of another machine that still counts paise: never taken for fifty times as much.
    assert await till.code(foreign) == "VOUCHER_WRONG"
    assert till.balance("wallet:flat-1") == CREDIT + 157 * PAISA


async def test_a_voucher_that_another_machine_sold_is_taken_once(till: Till) -> None:
    """It need not be known: the key proves it, the counter makes it single."""
    token = till.elsewhere(41)
    assert await till.code(token) == ""
    assert till.balance("cash:voucher") == -200 * RUPEE
    assert till.balance("vouchers") == 0
    assert await till.code(token) == "VOUCHER_REDEEMED"
    redeemed = read_redemption(till.site.file.connection, "flat-1", 41)
    assert redeemed is not None
    assert (redeemed.sold_here, redeemed.amount_nano) == (False, 200 * RUPEE)
    # Our own next one follows the highest counter that we know.
    await till.sell()
    assert vouchers_before(till.site.file.connection)[0].counter == 42
    assert await till.code(till.elsewhere(42)) == "VOUCHER_TAKEN"
    assert till.site.proof().problems == ()


async def test_counters_wrap_and_old_vouchers_stay_good(till: Till) -> None:
    """A slip that lay in a drawer for thousands of others is on record and taken."""
    old = await till.sell()
    assert await till.code(till.elsewhere(2_000)) == ""
    assert await till.code(till.elsewhere(4_000)) == ""
    assert await till.code(till.elsewhere(1 + COUNTERS)) == ""
    assert await till.code(till.elsewhere(1 + COUNTERS + 2_047 + 2)) == "VOUCHER_WRONG"
    assert await till.code(old) == ""
    assert await till.code(till.elsewhere(2)) == "VOUCHER_WRONG"


async def test_a_voucher_is_taken_back(till: Till) -> None:
    """Its money leaves by the provider that took it in; then it is worth nothing."""
    token = await till.sell()
    assert await till.cancel(1, "") == "REASON_MISSING"
    assert await till.cancel(1) == ""
    assert (till.balance("vouchers"), till.balance("cash:counter")) == (0, 0)
    assert await till.code(token) == "VOUCHER_CANCELLED"
    assert await till.cancel(1) == "VOUCHER_CANCELLED"
    assert await till.cancel(9) == "VOUCHER_UNKNOWN"
    redeemed = await till.sell()
    assert await till.code(redeemed) == ""
    assert await till.cancel(2) == "VOUCHER_REDEEMED"
    assert till.site.proof().problems == ()


async def test_neither_sale_nor_redemption_is_reversed_behind_the_vouchers_back(
    till: Till,
) -> None:
    """A reversal would leave the slip worth money, or worth nothing: there is `cancel` for it."""
    outcome = await till.redeem(await till.sell())
    seq = int(str(outcome.result["transaction_seq"]))
    for number in (seq, seq - 1):
        refused = await till.ask(ReverseTransaction(number, "typed wrongly"))
        assert refused.code == "NOT_REVERSIBLE"


async def test_after_a_move_the_old_tenants_voucher_is_not_the_new_ones(till: Till) -> None:
    """It was paid for by somebody else: refused by name, not counted, and taken back."""
    site, token = till.site, await till.sell()
    await site.do(CloseAccount("flat-1", "moved out", "counter"))
    assert await till.code(token) == "ACCOUNT_UNKNOWN"
    await site.do(OpenAccount("tenant-2", "flat-1", "home"))
    assert [await till.code(token) for _ in range(6)] == ["VOUCHER_ACCOUNT"] * 6
    assert await till.cancel(1) == ""
    assert await till.code(await till.sell()) == ""
    assert till.balance("wallet:tenant-2") == 500 * RUPEE


async def test_roles(till: Till) -> None:
    """The technician redeems and sells nothing; only a manager takes back and unlocks."""
    token = await till.sell()
    for body, role in (
        (IssueVoucher("flat-1", RUPEE), Role.TECHNICIAN),
        (IssueVoucher("flat-1", RUPEE), Role.TENANT),
        (RedeemVoucher("flat-1", token), Role.AUDITOR),
        (RedeemVoucher("flat-1", token), Role.ADMIN),
    ):
        assert (await till.ask(body, role)).code == "FORBIDDEN"
    assert (await till.ask(RedeemVoucher("flat-1", token), Role.TECHNICIAN)).code == ""


async def test_a_refused_token_is_masked_in_the_audit_record(till: Till) -> None:
    """A wrong one is a digit away from a right one, and a right one may come later."""
    token = await till.sell()
    await till.redeem(off_by_one(token))
    await till.redeem(token, "flat-2")
    rows = till.site.file.connection.execute("SELECT body FROM audit").fetchall()
    records = [json.loads(row[0]) for row in rows]
    tried = [record for record in records if record["action"] == "redeem_voucher"]
    assert [record["result"] for record in tried] == ["VOUCHER_WRONG", "VOUCHER_WRONG"]
    assert {record["object"]["token"] for record in tried} == {token[:4] + "*" * 16}
    assert all(token[4:] not in row[0] for row in rows)


async def test_in_recovery_only_what_was_sold_since_is_taken(till: Till) -> None:
    """Nobody knows whether an older one was redeemed; it stays good for after the release."""
    site, before = till.site, await till.sell()
    connection = site.file.connection
    site.clock.pass_s(60)
    entered = recovery_now(connection, RecoveryReason.RESTORED, utc_ms=site.clock.utc_ms())
    enter_recovery(connection, entered)
    foreign = till.elsewhere(2)
    assert await till.code(before) == "VOUCHER_RECOVERY"
    assert await till.code(foreign) == "VOUCHER_RECOVERY"
    since = await till.sell()
    assert await till.code(since) == ""
    assert await till.code(off_by_one(before)) == "VOUCHER_WRONG"
    site.engine.gate.recovery = entered
    await site.do(ReleaseRecovery("receipts compared"))
    assert await till.code(before) == ""


async def test_what_is_replayed_after_a_restore_does_what_it_did(till: Till) -> None:
    """The same digits for a sale, the credit for a redemption, no lock for wrong tries of then."""
    site = till.site
    connection, then = site.file.connection, site.clock.utc_ms()
    site.clock.pass_s(60)
    enter_recovery(
        connection, recovery_now(connection, RecoveryReason.RESTORED, utc_ms=site.clock.utc_ms())
    )
    digits = till.elsewhere(1, 100)
    sale = await till.ask(IssueVoucher("flat-1", RUPEE), created_utc_ms=then)
    assert sale.result["token"] == digits
    for _ in range(6):
        wrong = RedeemVoucher("flat-1", off_by_one(digits))
        assert (await till.ask(wrong, created_utc_ms=then)).code == "VOUCHER_WRONG"
    assert await till.code(digits) == "VOUCHER_RECOVERY"
    # A lock of now is not in the way of what was taken then.
    await till.guess(5)
    assert await till.code(digits) == "VOUCHER_LOCKED"
    replayed = await till.ask(RedeemVoucher("flat-1", digits), created_utc_ms=then)
    assert replayed.code == ""


async def test_after_a_recovery_no_new_slip_shows_the_digits_of_a_lost_one(till: Till) -> None:
    """A sale that is lost may have had the next counter and the same amount."""
    site = till.site
    lost = till.elsewhere(1, 100)
    enter_recovery(
        site.file.connection,
        recovery_now(site.file.connection, RecoveryReason.RESTORED, utc_ms=site.clock.utc_ms() - 1),
    )
    assert await till.sell(RUPEE) != lost
    await till.sell(RUPEE)
    counters = [sold.counter for sold in vouchers_before(site.file.connection)]
    assert counters == [258, 257]
