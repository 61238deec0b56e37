"""The worked examples of prepaid.yaml about supply, figure by figure (D01: test_limiter.py)."""

import pytest

from gateway.core.errors import RefusedError
from gateway.core.masscut import MassCutBreaker, MassCutLimits
from gateway.core.override import HOUR_MS, SUSPENDED, Override, OverrideKind, Overrides, Scope
from gateway.core.proof import NS, Observation
from gateway.core.requests import Role
from gateway.core.supply import Supply
from gateway.core.switching import Alarm, ControlState, Fault, OrderKind, Reason, SupplyPolicy
from tests.core.test_prepaid_cases import CASES, listed, nano, part

MINUTE_MS = 60_000


def look(
    at_s: float, *, closed: bool, wh: int = 1_000, amps: float = 13.0, watts: float = 3_000.0
) -> Observation:
    """A good reading at `at_s` seconds."""
    return Observation(round(at_s * NS), closed, wh, amps, watts)


def closed_point(policy: SupplyPolicy | None = None) -> Supply:
    """A commissioned point, closed at t=0 with 3 kW flowing."""
    supply = Supply(policy or SupplyPolicy())
    supply.enforced = True
    supply.observe(look(0, closed=True))
    return supply


def test_d02_a_cut_is_never_made_on_data_that_is_too_old() -> None:
    """15 minutes without a good reading: an alarm, no cut; the next good reading is judged."""
    given, expect = part("D02", "given"), part("D02", "expect")
    age_s = float(given["last_good_reading_age_s"])
    supply = closed_point(SupplyPolicy(max_reading_age_s=float(given["max_age_s"])))
    supply.block(Reason.CREDIT)
    now_ns = round(age_s * NS)
    assert supply.wants(now_ns) is None
    assert supply.observed is not None
    assert supply.output_closed
    orders = supply.look_at_age(now_ns)
    assert [(order.kind, order.alarm) for order in orders] == [
        (OrderKind.ALARM, Alarm(expect["alarm"]))
    ]
    assert supply.look_at_age(now_ns + NS) == []
    assert expect["queued_intent"] == "EVALUATE_ON_RETURN"
    supply.observe(look(age_s + 1, closed=True))
    assert [order.kind for order in supply.look_at_age(now_ns + NS)] == [OrderKind.CLEAR]
    assert supply.wants(now_ns + NS) is False


def test_d02_doubtful_readings_do_not_end_the_alarm() -> None:
    """A meter that answers and is not believed is as good as one that is away."""
    supply = closed_point()
    for second in range(1, 70):
        supply.observe(Observation(second * NS, True, 1_000, 13.0, 3_000.0, trusted=False))
    assert [order.alarm for order in supply.look_at_age(70 * NS)] == [Alarm.STALE_DATA]


def test_d04_three_witnesses_prove_an_opening() -> None:
    """Output reads open, no current, no energy: disconnected, and the result names all three."""
    given, expect = part("D04", "given"), part("D04", "expect")
    supply = closed_point(
        SupplyPolicy(
            verify_s=float(given["verify_s"]), starting_current_a=float(given["i_open_max_a"])
        )
    )
    supply.block(Reason.CREDIT)
    supply.order(0, close=False)
    supply.sent(0)
    orders = []
    for second in range(1, 11):
        orders += supply.observe(
            look(second, closed=False, amps=13.0 if second < 3 else 0.0, watts=0.0)
        )
    assert [order.kind for order in orders] == [OrderKind.VERIFIED]
    names = {"DO": "output", "CURRENT": "current", "ENERGY": "energy"}
    assert list(orders[0].witnesses) == [
        names[word] for word in listed("D04", "expect", "verified_by")
    ]
    assert supply.state(11 * NS).value.upper() == expect["control_state"]
    assert supply.output_closed is (expect["output_state"] == "true")


def test_d05_a_stuck_contactor_is_told_and_goes_on_to_be_charged() -> None:
    """The output reads open, 4.1 A flow: three commands, FAILED_TO_OPEN, every Wh is owed."""
    given, expect = part("D05", "given"), part("D05", "expect")
    supply = closed_point(
        SupplyPolicy(verify_s=float(given["verify_s"]), retries=int(given["retry"]))
    )
    supply.block(Reason.CREDIT)
    supply.order(0, close=False)
    supply.sent(0)
    commands, alarms = 1, []
    for second in range(1, 61):
        wh = 1_000 + 40 * second // 60
        for order in supply.observe(look(second, closed=False, wh=wh, amps=4.1, watts=943.0)):
            if order.kind is OrderKind.SEND:
                commands += 1
                supply.sent(second * NS)
            alarms += [order.alarm] if order.alarm is not None else []
    assert commands == int(expect["open_commands_in_all"])
    assert supply.fault is Fault(expect["fault"])
    assert alarms == [Alarm.FAILED_TO_OPEN]
    assert supply.observed is not None
    assert supply.observed.energy_wh is not None
    taken_wh = supply.observed.energy_wh - 1_000
    # That charging goes on and how loud the alarm is: tests/e2e/test_faults.py.
    assert taken_wh * 8_000_000 == nano(expect["charge_at_8"])


def test_d08_in_arm_mode_off_time_and_a_person_come_before_power() -> None:
    """Recharge at 20 s, refused at 30 s, ready at 60 s, confirmed at 61 s."""
    given, expect = part("D08", "given"), part("D08", "expect")
    supply = closed_point(SupplyPolicy(min_off_s=float(given["min_off_s"])))
    supply.block(Reason.CREDIT)
    supply.order(0, close=False)
    supply.sent(0)
    for second in range(1, 11):
        supply.observe(look(second, closed=False, amps=0.0, watts=0.0))
    states = []
    supply.unblock(Reason.CREDIT)
    states.append(supply.state(20 * NS))
    with pytest.raises(RefusedError) as refused:
        supply.confirm(30 * NS)
    assert f"409 {refused.value.refusal_code}" == expect["confirm_at_30"]
    states += [supply.state(30 * NS), supply.state(60 * NS)]
    supply.observe(look(61, closed=False, amps=0.0, watts=0.0))
    assert supply.wants(61 * NS) is None
    supply.confirm(61 * NS)
    assert supply.wants(61 * NS) is True
    supply.order(61 * NS, close=True)
    supply.sent(61 * NS)
    supply.observe(look(62, closed=True))
    states.append(supply.state(62 * NS))
    assert [state.value.upper() for state in states] == listed("D08", "expect", "state")


def test_d09_a_recharge_clears_credit_and_nothing_else() -> None:
    """MANUAL stays, and so does the dark."""
    supply = closed_point()
    for name in listed("D09", "given", "reasons"):
        supply.block(Reason(name))
    supply.order(0, close=False)
    supply.sent(0)
    for second in range(1, 11):
        supply.observe(look(second, closed=False, amps=0.0, watts=0.0))
    supply.unblock(Reason.CREDIT)
    assert sorted(supply.reasons) == listed("D09", "expect", "reasons")
    assert supply.state(100 * NS).value.upper() == part("D09", "expect")["supply"]


def breaker_of(case: str) -> tuple[MassCutBreaker, int]:
    """The breaker of a case, and how many points it has."""
    given = part(case, "given")
    limits = MassCutLimits(
        max_percent=int(given["max_pct_per_window"]),
        window_s=int(given["window_s"]),
        halt_percent=int(given["halt_pct"]),
    )
    return MassCutBreaker(limits), int(given["points"])


def test_d11_a_hundred_and_twenty_due_points_are_cut_in_three_windows() -> None:
    """40 of 800 per ten minutes, and no halt."""
    breaker, points = breaker_of("D11")
    due = int(str(CASES["D11"]["when"]).split()[0])
    halts = [breaker.due(f"flat-{number}", 0, points) for number in range(due)]
    assert not any(halts)
    cuts = []
    for at_s in map(int, listed("D11", "expect", "at_s")):
        admitted = 0
        while due > 0 and breaker.admit(at_s * NS, points):
            admitted, due = admitted + 1, due - 1
        cuts.append(str(admitted))
        assert not breaker.admit((at_s + 599) * NS, points) or due == 0
    assert cuts == listed("D11", "expect", "cuts")
    assert (due, breaker.halted) == (0, part("D11", "expect")["halted"] == "true")


def test_d12_two_hundred_and_forty_due_points_halt_until_two_managers_release() -> None:
    """30 % at once looks like a mistake: nobody is cut, one manager alone changes nothing."""
    breaker, points = breaker_of("D12")
    due = int(str(CASES["D12"]["when"]).split()[0])
    halts = [breaker.due(f"flat-{number}", 0, points) for number in range(due)]
    assert halts.count(True) == 1
    assert sum(breaker.admit(10**6 * NS, points) for _ in range(due)) == int(
        part("D12", "expect")["cuts"]
    )
    assert breaker.halted is (part("D12", "expect")["state"] == "MASS_CUT_HALT")
    assert part("D12", "expect")["release"] == "two distinct managers"
    assert not breaker.release("anna")
    with pytest.raises(RefusedError):
        breaker.release("anna")
    assert breaker.release("bela")
    assert breaker.admit(10**6 * NS, points)


def clock_ms(text: str) -> int:
    """A time of day as milliseconds."""
    hours, minutes = map(int, text.split(":"))
    return hours * HOUR_MS + minutes * MINUTE_MS


def test_d13_an_override_holds_a_cut_back_until_its_end() -> None:
    """Wallet at zero at 13:10, override until 14:00: connected, then the cut."""
    given = part("D13", "given")
    zero_ms = clock_ms(given["wallet_zero_at"])
    until_ms = clock_ms(given["override"].rpartition(" ")[2])
    override = Override(
        number=1,
        kind=OverrideKind.KEEP_CONNECTED,
        scope=Scope.POINT,
        target="flat-1",
        from_utc_ms=zero_ms - HOUR_MS,
        until_utc_ms=until_ms,
        reason="sick child",
        actor="anna",
        role=Role.MANAGER,
    )
    overrides, supply = Overrides([override]), Supply(SupplyPolicy())
    supply.enforced = True
    audit, states = ["OVERRIDE_SET"], []
    for minute_ms in range(zero_ms, until_ms + MINUTE_MS, MINUTE_MS):
        now_ns = minute_ms * 1_000_000
        supply.observe(look(now_ns / NS, closed=True))
        audit += ["OVERRIDE_EXPIRED" for _ in overrides.expire(minute_ms)]
        covered = overrides.covering("flat-1", "riser-a") is not None
        supply.suspend(SUSPENDED if covered else frozenset())
        if supply.block(Reason.CREDIT) and supply.blocks.held_back:
            audit.append("OVERRIDE_SUPPRESSED_CUT")
        if supply.wants(now_ns) is False:
            supply.order(now_ns, close=False)
            audit.append("CUT")
        if minute_ms in (zero_ms, until_ms):
            states.append(supply.state(now_ns).value.upper())
    assert states == listed("D13", "expect", "supply")
    assert audit == listed("D13", "expect", "audit")


def test_d14_a_crash_between_intent_and_act_is_reconciled_by_looking() -> None:
    """The opening is on file, the contactor is open: no command, one state, nothing to do."""
    expect = part("D14", "expect")
    before = closed_point()
    before.block(Reason.CREDIT)
    before.order(0, close=False)
    after = Supply(SupplyPolicy())
    after.enforced = True
    after.restore(before.snapshot(0, 1_000), 0, 6_000)
    after.observe(look(1, closed=False, amps=0.0, watts=0.0))
    sent = [after.wants(second * NS) for second in range(1, 30)]
    assert sent.count(False) + sent.count(True) == int(expect["commands_sent"])
    assert after.state(2 * NS).value.upper() == expect["state"]


def test_p10_a_friendly_window_never_reconnects() -> None:
    """Cut for credit, then friendly hours begin: the dark stays, and so does the reason."""
    given, expect = part("P10", "given"), part("P10", "expect")
    supply = closed_point(SupplyPolicy(confirm_needed=False))
    for name in listed("P10", "given", "reason"):
        supply.block(Reason(name))
    supply.order(0, close=False)
    supply.sent(0)
    for second in range(1, 11):
        supply.observe(look(second, closed=False, amps=0.0, watts=0.0))
    assert supply.state(11 * NS) is ControlState(given["supply"].lower())
    supply.suspend(frozenset({Reason.CREDIT}))
    for second in range(11, 300):
        supply.observe(look(second, closed=False, amps=0.0, watts=0.0))
        assert supply.wants(second * NS) is None
    assert supply.reasons == {Reason.CREDIT}
    assert supply.state(300 * NS).value.upper() == expect["supply"]
