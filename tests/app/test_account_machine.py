"""Accounts through random requests, readings, faults and restarts: money and cuts stay right."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.core.requests import (
    AddDebt,
    AddPoint,
    CancelVoucher,
    ChangeTariff,
    CloseAccount,
    CommissionPoint,
    ConfigureAccount,
    ConfirmReconnect,
    DecideTariff,
    InvokeEmergency,
    IssueVoucher,
    OpenAccount,
    PublishTariff,
    RedeemVoucher,
    ReleaseQuarantine,
    RemovePoint,
    ReplaceMeter,
    ReverseTransaction,
    Role,
    ServeNotice,
    Transfer,
    WriteOff,
)
from gateway.core.switching import Reason
from gateway.store.ledger import ledger_head
from tests.app.account_model import FRIENDLY, TARIFFS, Customer, Stay
from tests.app.account_world import NANO, POINTS, AccountWorld
from tests.core.slow_tariff import opening_of

# Power is not what fails here: a disk in memory is quicker to sync.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
POINT = st.integers(0, POINTS - 1)
ANY = st.integers(0, 99)
TARIFF = st.sampled_from(sorted(TARIFFS))
AMOUNT = st.sampled_from([1, 8_000_001, NANO, 20 * NANO, 333_333_333_333, 5_000 * NANO])
PERMILLE = st.sampled_from([0, 1, 30, 300, 1_000])
SECONDS = st.sampled_from([10, 600, 5_400, 43_200, 86_400])


class Accounts(RuleBasedStateMachine):
    """Three flats, their customers, and whatever may happen to their money."""

    def __init__(self) -> None:
        super().__init__()
        self.world = AccountWorld(Path(tempfile.mkdtemp(prefix="accounts-", dir=MEMORY)))

    def teardown(self) -> None:
        try:
            if self.world.asked:
                self.world.ask_again(next(iter(self.world.asked)))
        finally:
            self.world.close()

    # -- who there is ------------------------------------------------------------------------

    def customer(self, number: int) -> str:
        """One of the customers."""
        names = sorted(self.world.customers)
        return names[number % len(names)]

    def has_customers(self) -> bool:
        return bool(self.world.customers)

    def settled(self, index: int) -> bool:
        """Whether a point's register is known."""
        return not self.world.flats[index].held

    def stay(self, name: str, index: int, tariff: str) -> None:
        """A point's energy is a customer's from now on."""
        now_ms = self.world.now_ms
        stays = self.world.customers[name].stays
        # The periods of an account are those of its first point.
        opening = opening_of(stays[0].story(self.world.found_versions)) if stays else None
        stays.append(Stay(index, tariff, now_ms, now_ms, now_ms, opening=opening))

    # -- accounts ----------------------------------------------------------------------------

    @initialize()
    def two_have_moved_in(self) -> None:
        """One with emergency credit under times of use, one with a debt under blocks."""
        self.moves_in(0, "tou", 20 * NANO, "")
        self.moves_in(1, "block", 40 * NANO, "")
        first, second = sorted(self.world.customers)
        loan = {"emergency": {"limit": "30", "threshold": "10"}}
        assert self.world.ask(ConfigureAccount(first, json.dumps(loan))).code == ""
        self.world.pass_s(3_600)
        self.world.look(0, (2_500, 700))
        self.world.ask(InvokeEmergency(first))
        self.debt_is_agreed(sorted(self.world.customers).index(second), 20 * NANO, 0, payment=True)
        self.a_doubtful_reading(0, zero=False)
        self.somebody_decides_on_held_energy(0, accept=False)
        self.world.pass_s(3_600)
        self.world.look(1, (7_000, 0))
        assert self.world.site.engine.points[1].supply.reasons == {Reason.CREDIT}
        self.world.recharge(second, 200 * NANO)
        self.world.check()

    @rule(
        index=POINT,
        tariff=TARIFF,
        amount=AMOUNT,
        mode=st.sampled_from(["", '{"payment_mode": "credit", "notice_days": 1}']),
    )
    def moves_in(self, index: int, tariff: str, amount: int, mode: str) -> None:
        world = self.world
        if world.stay_at(index) is not None or not self.settled(index):
            return
        world.align()
        name = f"a{world.numbers}"
        opened = OpenAccount(name, f"flat-{index + 1}", tariff, "", amount, terms=mode)
        outcome = world.ask(opened)
        assert outcome.code == "", outcome
        world.customers[name] = Customer(name, amount)
        self.stay(name, index, tariff)
        assert world.ask(CommissionPoint(f"flat-{index + 1}")).code == ""

    @precondition(has_customers)
    @rule(number=ANY, refund=st.booleans())
    def moves_out(self, number: int, *, refund: bool) -> None:
        world, name = self.world, self.customer(number)
        customer = world.customers[name]
        standing = [stay for stay in customer.stays if not stay.ended]
        if not all(self.settled(stay.index) for stay in standing):
            return
        world.align()
        outcome = world.ask(CloseAccount(name, "moved", "counter" if refund else ""))
        if outcome.code:
            assert (outcome.code, refund) == ("REFUND_MISSING", False)
            return
        for stay in standing:
            stay.ended = True
        left_nano = customer.worth_nano(world.found_versions)
        paid = int(str(outcome.result["refund_nano"])) - int(str(outcome.result["owed_nano"]))
        assert paid == left_nano, "the end of an account is what it was worth"
        del world.customers[name]

    @precondition(has_customers)
    @rule(number=ANY, index=POINT, tariff=TARIFF)
    def a_second_point(self, number: int, index: int, tariff: str) -> None:
        world, name = self.world, self.customer(number)
        if not self.settled(index):
            return
        world.align()
        free = world.stay_at(index) is None
        outcome = world.ask(AddPoint(name, f"flat-{index + 1}", tariff))
        assert outcome.code == ("" if free else "POINT_TAKEN")
        if free:
            self.stay(name, index, tariff)
            world.ask(CommissionPoint(f"flat-{index + 1}"))

    @rule(index=POINT)
    def a_point_is_given_up(self, index: int) -> None:
        stay = self.world.stay_at(index)
        if stay is None or not self.settled(index):
            return
        self.world.align()
        if self.world.ask(RemovePoint(f"flat-{index + 1}")).code == "":
            stay.ended = True

    @rule(index=POINT, tariff=TARIFF)
    def another_tariff(self, index: int, tariff: str) -> None:
        world, stay = self.world, self.world.stay_at(index)
        if stay is None or not self.settled(index):
            return
        world.align()
        outcome = world.ask(ChangeTariff(f"flat-{index + 1}", tariff))
        if outcome.code:
            assert outcome.code == "SAME_TARIFF"
            return
        name = world.site.engine.points[index].account_id
        following = stay.followed(tariff, world.found_versions, world.now_ms)
        world.customers[name].stays.append(following)

    @precondition(has_customers)
    @rule(
        number=ANY,
        mode=st.sampled_from(["prepayment", "prepayment", "credit"]),
        threshold=st.sampled_from(["0", "0", "-5", "3.5"]),
        limit=st.sampled_from(["0", "2", "300"]),
        automatic=st.booleans(),
        friendly=st.booleans(),
        low=st.booleans(),
    )
    def other_terms(
        self,
        number: int,
        mode: str,
        threshold: str,
        limit: str,
        *,
        automatic: bool,
        friendly: bool,
        low: bool,
    ) -> None:
        terms: dict[str, object] = {
            "payment_mode": mode,
            "disablement_threshold": threshold,
            "emergency": {"limit": limit, "threshold": "1", "automatic": automatic},
            "notice_days": 1,
        }
        if friendly:
            terms["friendly_hours"] = FRIENDLY
        if low:
            terms["low_credit"] = ["100", "20 %", "3 days"]
        body = ConfigureAccount(self.customer(number), json.dumps(terms))
        assert self.world.ask(body).code == ""

    @rule(name=TARIFF, price=st.sampled_from(["20.00", "21.123456", "24.00", "90.00"]))
    def a_new_version(self, name: str, price: str) -> None:
        world = self.world
        document = world.document(name, effective=world.next_midnight(), price=price)
        outcome = world.ask(PublishTariff(document))
        assert outcome.code in ("", "TARIFF_ORDER", "TARIFF_RETROACTIVE"), outcome
        draft = outcome.result.get("draft") if not outcome.code else None
        if draft is not None:
            number = int(str(draft))
            assert world.ask(DecideTariff(number, True, "late")).code == "SAME_PERSON"
            world.ask(DecideTariff(number, price == "90.00", "seen"), actor="bela")

    # -- money ---------------------------------------------------------------------------------

    @precondition(has_customers)
    @rule(number=ANY, amount=AMOUNT)
    def recharge(self, number: int, amount: int) -> None:
        self.world.recharge(self.customer(number), amount)

    @precondition(lambda self: bool(self.world.recharges))
    @rule(number=ANY)
    def reverse(self, number: int) -> None:
        world = self.world
        seqs = sorted(world.recharges)
        seq = seqs[number % len(seqs)]
        name, amount_nano = world.recharges[seq]
        outcome = world.ask(ReverseTransaction(seq, "bounced"))
        if name not in world.customers:
            assert outcome.code in ("ACCOUNT_UNKNOWN", "ALREADY_REVERSED")
        elif amount_nano:
            assert outcome.code == ""
            world.customers[name].money_nano -= amount_nano
        else:
            assert outcome.code == "ALREADY_REVERSED", "I6"
        world.recharges[seq] = (name, 0)

    @precondition(lambda self: len(self.world.customers) > 1)
    @rule(number=ANY, other=ANY, amount=AMOUNT)
    def transfer(self, number: int, other: int, amount: int) -> None:
        world, giver, taker = self.world, self.customer(number), self.customer(other)
        outcome = world.ask(Transfer(giver, taker, amount, "family"))
        if outcome.code:
            assert outcome.code in ("SAME_ACCOUNT", "CREDIT_SHORT")
            return
        world.customers[giver].money_nano -= amount
        world.customers[taker].money_nano += amount

    @precondition(has_customers)
    @rule(number=ANY, amount=AMOUNT, payment=st.booleans(), cap=st.sampled_from([0, 5 * NANO]))
    def debt_is_agreed(self, number: int, amount: int, cap: int, *, payment: bool) -> None:
        world, name = self.world, self.customer(number)
        customer = world.customers[name]
        customer.debts += 1
        body = AddDebt(
            name,
            f"d{customer.debts}",
            "payment" if payment else "time",
            amount,
            "arrears",
            share_ppm=250_001 if payment else 0,
            daily_nano=0 if payment else 3 * NANO,
            weekly_cap_nano=0 if payment else cap,
        )
        assert world.ask(body).code == ""
        customer.money_nano -= amount

    @precondition(has_customers)
    @rule(
        number=ANY,
        amount=AMOUNT,
        what=st.sampled_from(["wallet", "accumulated", "d1", "d2"]),
    )
    def something_is_written_off(self, number: int, amount: int, what: str) -> None:
        world, name = self.world, self.customer(number)
        outcome = world.ask(WriteOff(name, what, amount, "hardship"))
        if outcome.code:
            assert outcome.code in ("DEBT_UNKNOWN", "AMOUNT_RANGE")
            return
        world.customers[name].money_nano += amount

    @precondition(has_customers)
    @rule(number=ANY)
    def emergency_is_accepted(self, number: int) -> None:
        self.world.ask(InvokeEmergency(self.customer(number)), Role.TENANT, "tom")

    @precondition(has_customers)
    @rule(number=ANY, amount=st.sampled_from([1, NANO]))
    def a_notice_is_served(self, number: int, amount: int) -> None:
        self.world.ask(ServeNotice(self.customer(number), amount))

    @rule(index=POINT, amount=st.sampled_from([NANO, 50 * NANO]))
    def a_voucher_is_sold(self, index: int, amount: int) -> None:
        world = self.world
        outcome = world.ask(IssueVoucher(f"flat-{index + 1}", amount), Role.OPERATOR, "olga")
        if world.stay_at(index) is None:
            assert outcome.code == "ACCOUNT_UNKNOWN"
            return
        assert outcome.code == "", outcome
        world.vouchers.append(index, str(outcome.result["token"]), amount)

    @precondition(lambda self: bool(self.world.vouchers.sold))
    @rule(number=ANY, cancel=st.booleans())
    def a_voucher_ends(self, number: int, *, cancel: bool) -> None:
        world = self.world
        voucher = world.vouchers.sold[number % len(world.vouchers.sold)]
        point = f"flat-{voucher.index + 1}"
        if cancel:
            outcome = world.ask(CancelVoucher(point, voucher.counter, "torn"))
        else:
            outcome = world.ask(RedeemVoucher(point, voucher.token), Role.TENANT, "tom")
        if voucher.ended or world.stay_at(voucher.index) is None:
            assert outcome.code or cancel, "a voucher is worth its money once"
            voucher.ended = voucher.ended or not outcome.code
            return
        if outcome.code:
            # Sold to who lived here before.
            assert outcome.code.startswith("VOUCHER_"), outcome
            return
        voucher.ended = True
        if not cancel:
            name = world.site.engine.points[voucher.index].account_id
            world.customers[name].money_nano += voucher.amount_nano
            world.customers[name].recharged(world.now_ms)

    # -- energy and time -----------------------------------------------------------------------

    @rule(index=POINT, seconds=SECONDS, grid=PERMILLE, generator=PERMILLE)
    def energy_is_used(self, index: int, seconds: int, grid: int, generator: int) -> None:
        world = self.world
        world.pass_s(seconds)
        most_wh = world.most_wh(index)
        share_wh = most_wh * grid // 1_000
        other_wh = (most_wh - share_wh) * generator // 1_000
        world.look(index, (share_wh, other_wh))

    @rule(days=st.integers(1, 9))
    def days_pass(self, days: int) -> None:
        for _ in range(days):
            self.world.pass_s(86_400)
            self.world.look()

    @rule(seconds=st.sampled_from([30, 90_000]))
    def no_meter_answers(self, seconds: int) -> None:
        world = self.world
        for index in range(POINTS):
            world.away(index)
        world.pass_s(seconds)
        world.sweep()
        world.look()

    @rule(index=POINT, back_wh=st.integers(1, 400))
    def a_counter_falls_back_after_a_power_cut(self, index: int, back_wh: int) -> None:
        world, flat = self.world, self.world.flats[index]
        if flat.held or flat.registers_wh[0] < 2_000 + back_wh:
            return
        world.look()
        world.away(index)
        world.pass_s(40)
        flat.registers_wh[0] -= back_wh
        world.look()

    @rule(index=st.integers(0, 1), zero=st.booleans())
    def a_doubtful_reading(self, index: int, *, zero: bool) -> None:
        """One that is nonsense: it charges nothing and cuts nobody, now and afterwards."""
        world = self.world
        point, flat = world.site.engine.points[index], world.flats[index]
        world.look()
        before = (point.available_nano, frozenset(point.supply.reasons), world.commands())
        if zero:
            world.offer(index, (0, 0))
        else:
            flat.held = True
            flat.registers_wh[1] += 700_000
            flat.unread_wh[1] += 700_000
            for _ in range(3):
                world.offer(index, tuple(flat.registers_wh))
        after = (point.available_nano, frozenset(point.supply.reasons), world.commands())
        assert after == before, "I8: a doubtful reading charged or cut"

    @rule(index=POINT, accept=st.booleans())
    def somebody_decides_on_held_energy(self, index: int, *, accept: bool) -> None:
        world, flat = self.world, self.world.flats[index]
        outcome = world.ask(ReleaseQuarantine(f"flat-{index + 1}", accept, "looked"))
        if not flat.held:
            assert outcome.code == "NOTHING_HELD"
            return
        assert outcome.code == ""
        flat.held = False
        stay = world.stay_at(index)
        if accept and stay is not None:
            stay.use_at_label((flat.unread_wh[0], flat.unread_wh[1]))
        flat.unread_wh = [0, 0]
        world.look()

    @rule(index=POINT, more_wh=st.integers(0, 300))
    def a_meter_is_replaced(self, index: int, more_wh: int) -> None:
        world, flat = self.world, self.world.flats[index]
        if flat.held:
            return
        world.look()
        closing = (flat.registers_wh[0] + more_wh, flat.registers_wh[1])
        body = ReplaceMeter(f"flat-{index + 1}", closing, (17, 5), "broken")
        if world.ask(body).code:
            return
        stay = world.stay_at(index)
        if stay is not None:
            stay.use_at_label((more_wh, 0))
        flat.registers_wh = [17, 5]
        world.look()

    @rule(index=POINT)
    def a_person_confirms(self, index: int) -> None:
        world = self.world
        world.pass_s(61)
        world.look()
        world.ask(ConfirmReconnect(f"flat-{index + 1}"), Role.TENANT, "tom")
        world.switch()
        world.look()

    # -- faults ------------------------------------------------------------------------------

    @rule(rebooted=st.booleans())
    def the_process_restarts(self, *, rebooted: bool) -> None:
        self.world.restart(boot=f"boot-{self.world.numbers}" if rebooted else "")

    @rule(index=POINT, permille=PERMILLE)
    def it_is_killed_between_reading_and_sweep(self, index: int, permille: int) -> None:
        world = self.world
        world.pass_s(600)
        world.crash_after_readings(index, (world.most_wh(index) * permille // 1_000, 0))

    @precondition(lambda self: bool(self.world.asked))
    @rule(number=ANY)
    def a_request_comes_again(self, number: int) -> None:
        keys = list(self.world.asked)
        head = ledger_head(self.world.site.file.connection)
        self.world.ask_again(keys[number % len(keys)])
        assert ledger_head(self.world.site.file.connection) == head

    @invariant()
    def invariants_hold(self) -> None:
        self.world.check()


def run_stories(number: int, *, examples: int, steps: int) -> None:
    """So many stories of so many steps; the same number gives the same ones."""
    limits = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        report_multiple_bugs=False,
        database=None,
        # A story takes a second: shrinking it would take minutes. Its steps are printed.
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seed(number)(Accounts), settings=limits)


@pytest.mark.slow
def test_accounts_hold_through_anything() -> None:
    """A modest number of stories."""
    run_stories(0, examples=5, steps=40)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_accounts_hold_through_longer_stories() -> None:
    """More of them, longer; `make soak ONLY=accounts` goes on with others."""
    run_stories(1, examples=40, steps=50)
