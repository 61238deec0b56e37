"""The register guard, rule by rule, with one and with two registers."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import RefusedError
from gateway.core.guard import GuardEvent, RegisterGuard, Verdict, VerdictKind

NS = 10**9
P_MAX_W = 36_000  # 10 Wh a second


class Meter:
    """A guard fed once a second (or as told), with the next sequence each time."""

    def __init__(self, *opening_wh: int, modulus_wh: int = 10**12) -> None:
        self.guard = RegisterGuard(p_max_w=P_MAX_W, modulus_wh=modulus_wh)
        self.sequence = 0
        self.mono_ns = 0
        if opening_wh:
            self.read(*opening_wh)

    def read(
        self,
        *energy_wh: int,
        after_s: float = 1.0,
        restarted: bool = False,
        lost: bool = False,
        total_wh: int | None = None,
    ) -> Verdict:
        """The next reading."""
        self.sequence += 1
        self.mono_ns += round(after_s * NS)
        return self.guard.check(
            self.sequence,
            self.mono_ns,
            energy_wh,
            restarted=restarted,
            communication_lost=lost,
            total_wh=total_wh,
        )


def test_the_first_reading_is_the_base_and_charges_nothing() -> None:
    """What the registers showed before the first reading is nobody's energy."""
    guard = RegisterGuard(p_max_w=P_MAX_W)
    verdict = guard.check(1, 0, (5_000, 700))
    assert (verdict.kind, verdict.advance_wh) == (VerdictKind.BASELINE, (0, 0))
    assert guard.registers_wh == (5_000, 700)
    assert verdict.settles


def test_an_older_or_repeated_sequence_is_ignored() -> None:
    """A duplicate changes nothing, even with other registers."""
    meter = Meter(1_000)
    meter.read(1_005)
    for sequence in (2, 1):
        verdict = meter.guard.check(sequence, meter.mono_ns, (9_999,))
        assert verdict.kind is VerdictKind.DUPLICATE
        assert not verdict.settles
    assert meter.guard.registers_wh == (1_005,)


def test_both_registers_may_move_and_share_one_limit() -> None:
    """The plausible advance is over all registers together: a point has one breaker."""
    meter = Meter(1_000, 2_000)
    # 1 s at 36 kW and 0.2 s of refresh, 10 % more, floored, and 1 Wh: 14.
    assert meter.guard.allowed_wh(0, NS) == 14
    assert meter.read(1_007, 2_007).advance_wh == (7, 7)
    verdict = meter.read(1_015, 2_014)
    assert verdict.kind is VerdictKind.QUARANTINED
    assert verdict.advance_wh == (0, 0)
    assert meter.guard.held_wh == (8, 7)


def test_a_reply_that_lay_in_a_queue_makes_no_honest_advance_implausible() -> None:
    """Registers taken at 1 s and seen at 5 s: the next ones, at 5.1 s, may show four seconds."""
    for asked_ns, kind in ((NS, VerdictKind.SETTLE), (None, VerdictKind.QUARANTINED)):
        guard = RegisterGuard(p_max_w=P_MAX_W)
        guard.check(1, 0, (1_000,))
        assert guard.check(2, 5 * NS, (1_010,), asked_ns=asked_ns).settles
        assert guard.check(3, 5 * NS + NS // 10, (1_050,)).kind is kind


def test_waiting_never_makes_a_jump_plausible() -> None:
    """The hold stays through plausible readings and days, and tells its alarm once."""
    meter = Meter(1_000)
    assert meter.read(50_000).events == (GuardEvent.IMPLAUSIBLE_ENERGY,)
    for after_s in (1.0, 3_600.0, 86_400.0):
        verdict = meter.read(50_001, after_s=after_s)
        assert (verdict.kind, verdict.advance_wh) == (VerdictKind.QUARANTINED, (0,))
        assert verdict.events == ()
    assert meter.guard.held


@pytest.mark.parametrize(("accept", "charged"), [(True, (49_012,)), (False, (0,))])
def test_a_person_decides_on_held_energy(*, accept: bool, charged: tuple[int, ...]) -> None:
    """Accepted energy is charged to the last reading; both ways the next one goes on from it."""
    meter = Meter(1_000)
    meter.read(50_000)
    meter.read(50_012)
    assert meter.guard.release(accept=accept) == charged
    assert not meter.guard.held
    assert meter.read(50_015).advance_wh == (3,)


def test_a_bad_read_during_a_hold_does_not_become_the_base() -> None:
    """A single zero while energy is held is not what a release goes on from."""
    meter = Meter(1_000)
    meter.read(50_000)
    meter.read(0)
    assert meter.guard.release(accept=True) == (49_000,)
    assert meter.read(50_010).advance_wh == (10,)


def test_a_hold_follows_a_meter_that_settles_elsewhere() -> None:
    """Two agreeing reads move the held registers, so a release does not hold at once again."""
    meter = Meter(1_000)
    meter.read(50_000)
    meter.read(1_020)
    meter.read(1_025)
    assert meter.guard.release(accept=True) == (25,)
    assert meter.read(1_030).advance_wh == (5,)


def test_nothing_can_be_released_without_a_hold() -> None:
    """A release without a hold is refused."""
    with pytest.raises(RefusedError) as refusal:
        Meter(1_000).guard.release(accept=True)
    assert refusal.value.refusal_code == "NOTHING_HELD"


def test_a_reply_that_came_late_is_as_old_after_a_restart() -> None:
    """What flowed while the last reply before the restart was under way is no jump after it."""
    meter = Meter(1_000)
    meter.guard.check(2, 5 * NS, (1_010,), asked_ns=2 * NS)
    kept = json.loads(json.dumps(meter.guard.snapshot()))
    for state, kind in (
        (kept, VerdictKind.SETTLE),
        ({**kept, "late_ns": 0}, VerdictKind.QUARANTINED),
        ({name: kept[name] for name in kept if name != "late_ns"}, VerdictKind.QUARANTINED),
    ):
        again = RegisterGuard(p_max_w=P_MAX_W)
        again.restore(state, mono_ns=5 * NS)
        assert again.check(3, 6 * NS, (1_050,)).kind is kind


def test_a_drop_is_asked_again_at_once_but_not_for_ever() -> None:
    """A meter that answers something else each time is asked three times, then as usual."""
    meter = Meter(1_000_000)
    verdicts = [meter.read(n) for n in (900_000, 700_000, 500_000, 300_000, 100_000)]
    assert [verdict.kind for verdict in verdicts] == [VerdictKind.RECHECK] * 5
    assert [verdict.read_again for verdict in verdicts] == [True, True, True, False, False]
    good = meter.read(1_000_010)
    assert (good.advance_wh, good.events) == ((10,), (GuardEvent.BAD_READ_QUARANTINED,))


def test_every_transient_drop_needs_a_second_read_of_its_own() -> None:
    """A bad read of an hour ago does not confirm the one of now."""
    meter = Meter(1_000_000)
    meter.read(0)
    meter.read(1_000_005)
    assert meter.read(3).kind is VerdictKind.RECHECK
    assert meter.read(1_000_010).advance_wh == (5,)


def test_a_bad_read_does_not_hide_a_jump() -> None:
    """After a transient drop the return is judged from the last good reading."""
    meter = Meter(1_000)
    meter.read(0)
    verdict = meter.read(5_000)
    assert verdict.kind is VerdictKind.QUARANTINED
    assert verdict.events == (GuardEvent.BAD_READ_QUARANTINED, GuardEvent.IMPLAUSIBLE_ENERGY)


def twice(meter: Meter, *energy_wh: int, restarted: bool = False, lost: bool = False) -> Verdict:
    """The second of two equal readings, the first of which must ask for it."""
    assert meter.read(*energy_wh, restarted=restarted, lost=lost).kind is VerdictKind.RECHECK
    return meter.read(*energy_wh, after_s=0.1)


def test_one_register_wraps_while_the_other_goes_on() -> None:
    """A rollover of T1 is charged over the modulus, the advance of T2 beside it."""
    meter = Meter(999_995, 400, modulus_wh=1_000_000)
    verdict = twice(meter, 3, 402)
    assert (verdict.kind, verdict.advance_wh) == (VerdictKind.ROLLOVER, (8, 2))
    assert verdict.events == (GuardEvent.ROLLOVER,)
    assert meter.read(5, 402).advance_wh == (2, 0)


def test_a_wrap_that_would_be_too_much_energy_is_no_rollover() -> None:
    """Near the modulus, a fall to a value out of reach is held."""
    meter = Meter(999_995, modulus_wh=1_000_000)
    assert twice(meter, 50_000).kind is VerdictKind.HELD


def test_a_fall_from_the_middle_of_the_range_is_no_rollover() -> None:
    """After a night out of reach 400 kWh would be possible, yet the counter was nowhere near."""
    meter = Meter(600_000, modulus_wh=1_000_000)
    meter.read(10, after_s=43_200.0)
    verdict = meter.read(10, after_s=0.1)
    assert (verdict.kind, verdict.advance_wh) == (VerdictKind.RESET, (10,))


def test_a_small_fall_after_a_restart_charges_nothing() -> None:
    """Both registers fall back to what the meter had saved; the next energy counts from there."""
    meter = Meter(5_000_000, 700_000)
    verdict = twice(meter, 4_999_000, 699_500, restarted=True)
    assert (verdict.kind, verdict.advance_wh) == (VerdictKind.REGRESSION, (0, 0))
    assert verdict.events == (GuardEvent.REGISTER_REGRESSION,)
    assert meter.read(4_999_004, 699_500).advance_wh == (4, 0)


def test_a_fall_of_one_register_keeps_the_advance_of_the_other() -> None:
    """T1 fell back and charges nothing; what T2 counted is charged."""
    meter = Meter(5_000_000, 700_000)
    verdict = twice(meter, 4_999_000, 700_006, lost=True)
    assert verdict.advance_wh == (0, 6)


@pytest.mark.parametrize("fall_wh", [1, 2_999, 3_000])
def test_a_fall_without_restart_is_no_regression(fall_wh: int) -> None:
    """Without a power cut counters do not fall: a person has to look."""
    meter = Meter(5_000_000)
    verdict = twice(meter, 5_000_000 - fall_wh)
    assert (verdict.kind, verdict.advance_wh) == (VerdictKind.HELD, (0,))
    assert verdict.events == (GuardEvent.REGISTER_HELD,)


def test_a_fall_of_more_than_a_saving_interval_is_held() -> None:
    """36 kW for 300 s are 3000 Wh; a Wh more is no power cut's work."""
    assert twice(Meter(5_000_000), 4_997_000, restarted=True).kind is VerdictKind.REGRESSION
    assert twice(Meter(5_000_000), 4_996_999, restarted=True).kind is VerdictKind.HELD


def test_a_restart_long_ago_excuses_no_fall() -> None:
    """The excuse ends with the first good reading after it."""
    meter = Meter(5_000_000)
    meter.read(5_000_001, restarted=True)
    meter.read(5_000_002)
    assert twice(meter, 4_999_900).kind is VerdictKind.HELD


def test_a_reset_charges_what_the_meter_shows() -> None:
    """Registers near zero are energy since the reset, with a tamper alarm."""
    meter = Meter(5_000_000, 700_000)
    verdict = twice(meter, 3, 2)
    assert (verdict.kind, verdict.advance_wh) == (VerdictKind.RESET, (3, 2))
    assert verdict.events == (GuardEvent.METER_RESET,)
    assert meter.read(8, 2).advance_wh == (5, 0)


def test_a_reset_that_shows_too_much_for_its_time_is_held() -> None:
    """A hundred Wh within a second is no consumption since a reset."""
    assert twice(Meter(5_000_000), 100).kind is VerdictKind.HELD


def test_a_preset_after_a_long_gap_is_not_charged_as_a_reset() -> None:
    """After a day out of reach a much lower value could be anything: it is held."""
    meter = Meter(5_000_000)
    assert meter.read(100_000, after_s=86_400.0).kind is VerdictKind.RECHECK
    assert meter.read(100_000, after_s=0.1).kind is VerdictKind.HELD


def test_a_total_that_does_not_fit_is_not_believed() -> None:
    """T1 + T2 may differ from the total by 2 Wh; beyond, nothing is charged until they agree."""
    meter = Meter(1_000, 500)
    assert meter.read(1_004, 500, total_wh=1_502).advance_wh == (4, 0)
    first = meter.read(1_008, 500, total_wh=1_511)
    second = meter.read(1_008, 500, total_wh=1_511)
    assert (first.kind, first.events, first.read_again) == (VerdictKind.RECHECK, (), True)
    assert second.events == (GuardEvent.TOTAL_MISMATCH,)
    assert meter.guard.registers_wh == (1_004, 500)
    assert meter.read(1_010, 500, total_wh=1_510).advance_wh == (6, 0)


def test_a_total_wraps_with_its_modulus() -> None:
    """The sum of two large registers is compared around the counter's end."""
    meter = Meter(600_000, 500_000, modulus_wh=1_000_000)
    verdict = meter.read(600_005, 500_000, total_wh=100_005)
    assert verdict.kind is VerdictKind.SETTLE


@pytest.mark.parametrize(
    ("closing", "opening"),
    [((999,), (0,)), ((1_000,), (-1,)), ((1_000,), (10**12,)), ((1_000, 0), (0, 0)), ((), ())],
)
def test_an_exchange_with_impossible_registers_is_refused(
    closing: Sequence[int], opening: Sequence[int]
) -> None:
    """Closing below the last reading, out of range or too few registers change nothing."""
    meter = Meter(1_000)
    with pytest.raises(RefusedError) as refusal:
        meter.guard.replace(closing, opening)
    assert refusal.value.refusal_code == "REPLACEMENT_REGISTERS"
    assert meter.guard.registers_wh == (1_000,)


def test_an_exchange_answers_what_the_new_device_made_the_guard_hold() -> None:
    """The device was swapped before anybody said so: closing counts from the last good register."""
    meter = Meter(1_000)
    meter.read(90_000)
    assert meter.guard.held
    assert meter.guard.replace((1_004,), (90_000,)) == (4,)
    assert meter.read(90_001).advance_wh == (1,)


def test_a_meter_never_read_has_nothing_to_close() -> None:
    """Without a baseline the old device's last energy is unknown."""
    with pytest.raises(RefusedError) as unread:
        RegisterGuard(p_max_w=P_MAX_W).replace((1,), (0,))
    assert unread.value.refusal_code == "NO_BASELINE"


@pytest.mark.parametrize("hold", [False, True])
def test_a_guard_goes_on_after_a_restart_of_the_gateway(*, hold: bool) -> None:
    """State survives JSON; time since the last good reading is what the new boot says."""
    meter = Meter(1_000, 500)
    meter.read(1_005, 502, lost=True)
    if hold:
        meter.read(70_000, 502, after_s=2.0)
    again = RegisterGuard(p_max_w=P_MAX_W)
    # The new boot's clock began 100 s after the last good reading.
    again.restore(json.loads(json.dumps(meter.guard.snapshot())), mono_ns=-100 * NS)
    assert again.registers_wh == (1_005, 502)
    assert again.held is hold
    if hold:
        assert again.release(accept=True) == (68_995, 0)
        assert again.check(9, -98 * NS + NS, (70_010, 502)).advance_wh == (10, 0)
    else:
        assert again.check(9, 0, (2_005, 502)).advance_wh == (1_000, 0)
        assert again.check(2, NS, (2_006, 502)).kind is VerdictKind.DUPLICATE


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": "1"},
        {"mono_ns": None},
        {"registers_wh": [-1]},
        {"registers_wh": []},
        {"registers_wh": "12"},
        {"latch": "settle", "held_wh": [1]},
        {"latch": "held"},
        {"held_wh": [5]},
    ],
)
def test_a_damaged_state_is_refused(change: dict[str, object]) -> None:
    """A saved state is checked before it decides about money."""
    state = {**Meter(1_000).guard.snapshot(), **change}
    with pytest.raises(RefusedError) as refusal:
        RegisterGuard(p_max_w=P_MAX_W).restore(state, mono_ns=0)
    assert refusal.value.refusal_code == "GUARD_STATE"


@pytest.mark.parametrize("registers", [(), (-1,), (10**12,), (1, 2)])
def test_registers_that_no_meter_has_are_an_error(registers: tuple[int, ...]) -> None:
    """South refuses such replies; one that comes through is a fault of the program."""
    meter = Meter(1_000)
    with pytest.raises(ValueError, match="registers"):
        meter.read(*registers)


STEP = st.tuples(
    st.sampled_from([0.05, 1.0, 1.0, 1.0, 10.0, 4_000.0]),
    st.integers(-30, 40) | st.integers(-(10**6), 10**6),
    st.integers(-30, 40) | st.just(0),
    st.sampled_from([False, False, True]),
    st.sampled_from(["", "", "", "", "accept", "reject", "restore"]),
)


@given(
    start=st.integers(0, 999_999),
    modulus=st.sampled_from([1_000_000, 10**12]),
    steps=st.lists(STEP, max_size=40),
)
def test_no_reading_settles_more_than_the_point_could_take(
    start: int, modulus: int, steps: list[tuple[float, int, int, bool, str]]
) -> None:
    """Whatever a meter shows: an advance is never negative, never above the limit since the last
    good reading, and a good reading is the base of the next."""
    guard = RegisterGuard(p_max_w=P_MAX_W, modulus_wh=modulus)
    registers = [start, 0]
    mono_ns = good_ns = 0
    guard.check(0, 0, registers)
    for sequence, (after_s, first, second, lost, deed) in enumerate(steps, start=1):
        mono_ns += round(after_s * NS)
        registers = [(registers[0] + first) % modulus, (registers[1] + second) % modulus]
        before = guard.registers_wh
        assert before is not None
        verdict = guard.check(sequence, mono_ns, registers, communication_lost=lost)
        assert min(verdict.advance_wh) >= 0
        assert sum(verdict.advance_wh) <= guard.allowed_wh(good_ns, mono_ns)
        if verdict.settles:
            good_ns = mono_ns
            assert guard.registers_wh == tuple(registers)
        else:
            assert sum(verdict.advance_wh) == 0
            assert guard.registers_wh == before
        if verdict.kind is VerdictKind.SETTLE:
            moved = tuple(now - old for now, old in zip(registers, before, strict=True))
            assert verdict.advance_wh == moved
        if guard.held and deed in {"accept", "reject"}:
            assert min(guard.release(accept=deed == "accept")) >= 0
            good_ns = min(good_ns, mono_ns)
        elif deed == "restore":
            restored = RegisterGuard(p_max_w=P_MAX_W, modulus_wh=modulus)
            restored.restore(guard.snapshot(), mono_ns=good_ns)
            assert restored.snapshot() == {
                **guard.snapshot(),
                "mono_ns": good_ns,
                "held_mono_ns": restored.snapshot()["held_mono_ns"],
            }
            guard = restored
