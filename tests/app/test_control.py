"""The control engine on real stores: restarts, crashes between commits, clocks that jump."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.requests import (
    Disconnect,
    Recharge,
    ReleaseHalt,
    ReleaseQuarantine,
    ReverseTransaction,
    Role,
)
from gateway.core.switching import Reason
from gateway.store.commands import find_outcome
from gateway.store.ledger import read_balance
from gateway.store.state import load_register_state
from tests.app.control_site import NS, PRICE_NANO, START_MS, ControlSite

DAY_S = 86_400
RICH = 1_000 * 10**9


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ControlSite]:
    """A site with both meters read once and a trusted clock."""
    made = ControlSite(tmp_path)
    yield made
    made.crash()


async def begin(site: ControlSite, balance_nano: int = RICH) -> None:
    """First readings, clock judged, account of flat 1 open."""
    site.read(1_000)
    site.read(5_000, index=1)
    await site.sweeper.sweep()
    assert site.engine.gate.clock.trusted
    await site.open_flat(balance_nano)


async def use(site: ControlSite, wh: int, *, start_wh: int, seconds: int | None = None) -> None:
    """Draw `wh` in as many readings, 2 s apart, with a sweep after each."""
    for step in range(1, wh + 1):
        site.clock.pass_s(2 if seconds is None else seconds)
        site.read(start_wh + step)
        await site.sweeper.sweep()


async def test_a_restart_goes_on_to_the_nano(site: ControlSite) -> None:
    """Registers, running consumption and balance are those of the last sweep."""
    await begin(site)
    await use(site, 5, start_wh=1_000)
    site.restart()
    point = site.engine.points[0]
    assert point.available_nano == RICH - 5 * PRICE_NANO
    assert point.running_nano == 5 * PRICE_NANO
    await use(site, 3, start_wh=1_005)
    assert point.available_nano == RICH - 8 * PRICE_NANO
    await site.books.post([0])
    assert site.proof().problem_count == 0
    assert read_balance(site.file.connection, "wallet:flat-1") == RICH - 8 * PRICE_NANO


async def test_crash_after_a_posting_and_before_the_next_sweep_charges_nothing_twice(
    site: ControlSite,
) -> None:
    """The posting's own state is newer than the sweep's: it counts."""
    await begin(site)
    await use(site, 5, start_wh=1_000)
    await site.books.post([0])
    site.restart()
    assert site.engine.points[0].running_nano == 0
    assert site.engine.points[0].available_nano == RICH - 5 * PRICE_NANO
    await use(site, 1, start_wh=1_005)
    await site.books.post([0])
    assert site.proof().problem_count == 0
    assert read_balance(site.file.connection, "wallet:flat-1") == RICH - 6 * PRICE_NANO


async def test_crash_before_any_sweep_loses_no_energy(site: ControlSite) -> None:
    """What was read and not committed is read again from the register."""
    await begin(site)
    await use(site, 2, start_wh=1_000)
    site.clock.pass_s(2)
    site.read(1_003)
    site.restart()
    site.clock.pass_s(2)
    site.read(1_004)
    assert site.engine.points[0].available_nano == RICH - 4 * PRICE_NANO


async def test_energy_of_a_long_power_cut_is_settled_after_a_reboot(site: ControlSite) -> None:
    """Another boot: the wall clock tells how long it was, so an honest advance is no jump."""
    await begin(site)
    await use(site, 2, start_wh=1_000)
    site.crash()
    site.clock.wall_ms += 3_600_000
    site.clock.now_ns = 50 * NS
    site.boot = "boot-2"
    site.open()
    site.read(1_002 + 5_000, clock_s=site.clock.wall_ms // 1000)
    assert not site.engine.points[0].guard.held
    assert site.engine.points[0].available_nano == RICH - 5_002 * PRICE_NANO


async def test_a_wall_clock_that_jumps_by_days_bills_nothing_for_them(site: ControlSite) -> None:
    """No fixed fee of a month that did not pass, no label in the future, energy as before."""
    await begin(site)
    await use(site, 2, start_wh=1_000)
    site.clock.wall_ms += 40 * DAY_S * 1000
    await use(site, 3, start_wh=1_002)
    assert site.engine.gate.clock.reason.startswith("it differs by 3456000 s")
    point = site.engine.points[0]
    assert point.available_nano == RICH - 5 * PRICE_NANO
    assert point.label_utc_ms < START_MS + DAY_S * 1000
    assert site.books.label() < START_MS + DAY_S * 1000
    site.clock.wall_ms -= 40 * DAY_S * 1000
    await use(site, 1, start_wh=1_005)
    assert site.engine.gate.clock.trusted
    assert point.available_nano == RICH - 6 * PRICE_NANO
    await site.books.post([0])
    assert site.proof().problem_count == 0


async def test_a_wall_clock_set_back_keeps_order_and_charge(site: ControlSite) -> None:
    """R10 live: labels are clamped, registers decide."""
    await begin(site)
    await use(site, 2, start_wh=1_000)
    label = site.engine.points[0].label_utc_ms
    site.clock.wall_ms -= 125_000
    await use(site, 3, start_wh=1_002)
    assert site.engine.points[0].label_utc_ms == label
    assert site.engine.points[0].available_nano == RICH - 5 * PRICE_NANO


async def test_running_out_commands_exactly_one_opening(site: ControlSite) -> None:
    """The last Wh: CREDIT stands, one command is on record, the balance is exactly zero."""
    await begin(site, 2 * PRICE_NANO)
    site.engine.gate.chain_verified = True
    await use(site, 2, start_wh=1_000)
    assert site.engine.points[0].supply.reasons == {Reason.CREDIT}
    assert len(site.engine.commands) == 1
    await site.engine.settle_tasks(5)
    rows = site.file.connection.execute("SELECT action, reason FROM switch_command").fetchall()
    assert rows == [("open", "CREDIT")]


async def test_nothing_is_switched_before_the_chain_is_verified(site: ControlSite) -> None:
    """The boot rule: a due cut waits for the proof, then goes out by itself."""
    await begin(site, 2 * PRICE_NANO)
    await use(site, 3, start_wh=1_000)
    assert site.engine.commands == {}
    site.engine.gate.chain_verified = True
    await use(site, 1, start_wh=1_003)
    assert len(site.engine.commands) == 1
    await site.engine.settle_tasks(5)


async def test_recharge_and_reversal_keep_memory_and_file_together(site: ControlSite) -> None:
    """P02 in the engine: 500 - 120 - 500 = -120, the second reversal is refused."""
    await begin(site, 0)
    await site.do(Recharge("flat-1", 500 * 10**9), key="A")
    await use(site, 15, start_wh=1_000)
    result = find_outcome(site.file.connection, "A")
    assert result is not None
    seq = result.result["transaction_seq"]
    assert isinstance(seq, int)
    await site.do(ReverseTransaction(seq, "wrong flat"), key="R1")
    await site.do(ReverseTransaction(seq, "wrong flat"), key="R2")
    second = find_outcome(site.file.connection, "R2")
    assert second is not None
    assert second.code == "ALREADY_REVERSED"
    assert site.engine.points[0].wallet_nano == -15 * PRICE_NANO
    assert read_balance(site.file.connection, "wallet:flat-1") == -15 * PRICE_NANO
    assert site.proof().problem_count == 0


@pytest.mark.parametrize("amount_nano", [0, -1, 10**17 + 1])
async def test_a_refused_recharge_changes_nothing(site: ControlSite, amount_nano: int) -> None:
    """Zero, negative, absurd: an outcome with the code, and the balance as it was."""
    await begin(site)
    await use(site, 2, start_wh=1_000)
    await site.do(Recharge("flat-1", amount_nano), key="bad")
    outcome = find_outcome(site.file.connection, "bad")
    assert outcome is not None
    assert outcome.code == "AMOUNT_RANGE"
    assert ("maximum of 10000000 INR" in outcome.message) == (amount_nano > 0)
    assert site.engine.points[0].available_nano == RICH - 2 * PRICE_NANO
    assert site.proof().problem_count == 0


async def test_control_checks_the_role_again(site: ControlSite) -> None:
    """A compromised north may write any row; the matrix is asked once more."""
    await begin(site)
    await site.do(Recharge("flat-1", 10**9), role=Role.ADMIN, key="forged")
    outcome = find_outcome(site.file.connection, "forged")
    assert outcome is not None
    assert outcome.code == "FORBIDDEN"


async def test_disconnection_survives_a_crash_before_it_was_sent(site: ControlSite) -> None:
    """MANUAL is committed with its outcome: after a restart it still stands."""
    await begin(site)
    await site.do(Disconnect("flat-1", "leak"))
    site.restart()
    assert site.engine.points[0].supply.reasons == {Reason.MANUAL}
    await site.engine.settle_tasks(5)


async def test_held_energy_survives_a_restart_and_is_released(site: ControlSite) -> None:
    """R06 over a restart: still held, still nobody cut, charged only by decision."""
    await begin(site)
    site.clock.pass_s(2)
    site.read(600_000)
    await site.sweeper.sweep()
    site.restart()
    assert site.engine.points[0].guard.held
    site.clock.pass_s(2)
    site.read(600_000)
    assert site.engine.points[0].available_nano == RICH
    await site.do(ReleaseQuarantine("flat-1", accept=False, reason="swapped cable"), key="Q")
    outcome = find_outcome(site.file.connection, "Q")
    assert outcome is not None
    assert outcome.code == ""
    site.clock.pass_s(2)
    site.read(600_001)
    await site.books.post([0])
    assert site.engine.points[0].available_nano == RICH - PRICE_NANO
    assert site.proof().problem_count == 0


@pytest.mark.slow
async def test_a_month_closes_once_with_its_fixed_fee(site: ControlSite) -> None:
    """The local month ends while nobody uses anything: 50.00 are charged, also after a crash."""
    await begin(site)
    await use(site, 1, start_wh=1_000)
    month_ms = 17 * DAY_S * 1000
    site.clock.pass_s(month_ms / 1000)
    site.read(1_001)
    await site.sweeper.sweep()
    await site.sweeper.sweep()
    await site.sweeper.sweep()
    expected = RICH - PRICE_NANO - 50 * 10**9
    assert site.engine.points[0].available_nano == expected
    site.restart()
    await site.sweeper.sweep()
    assert site.engine.points[0].available_nano == expected
    assert site.proof().problem_count == 0


async def test_sweep_state_is_small(site: ControlSite) -> None:
    """One compressed document holds every point; a sweep writes little."""
    await begin(site)
    await use(site, 1, start_wh=1_000)
    state = load_register_state(site.file.connection)
    assert state is not None
    size = site.file.connection.execute("SELECT length(body) FROM register_state").fetchone()[0]
    assert size < 1_500


async def test_a_halts_release_is_on_file_with_its_answer(site: ControlSite) -> None:
    """The first manager's release was answered: a crash before the next sweep does not lose it."""
    await site.open_flat(RICH)
    site.engine.breaker.halted = True
    await site.do(ReleaseHalt("a tariff's price was wrong, mended"))
    site.restart()
    kept = site.found.site["breaker"]
    assert isinstance(kept, dict)
    assert (kept["halted"], kept["released_by"]) == (True, ["anna"])


async def test_the_next_look_is_counted_from_when_the_registers_were_asked_for(
    site: ControlSite,
) -> None:
    """A reply that was under way for half a second tells of registers as old as that."""
    await begin(site, 2 * PRICE_NANO)
    meter, place = site.engine.polls.pollers[0]._meters[0], site.engine.points[0]
    looks: list[int | None] = []
    site.clock.pass_s(2)
    now_ns = site.clock.mono_ns()
    assert place.last is not None
    for number, late_ns in enumerate((0, NS // 2), start=1):
        meter.predicted_ns = None
        site.engine.on_reading(
            0,
            replace(
                place.last,
                sequence=place.last_sequence + number,
                mono_ns=now_ns,
                asked_ns=now_ns - late_ns,
                part_wh=0.5,
            ),
        )
        looks.append(meter.predicted_ns)
    due_ns = now_ns + 1.5 * 3_600 / 7_360 * NS
    assert looks == pytest.approx([due_ns, due_ns - NS // 2], abs=0.001 * NS)
