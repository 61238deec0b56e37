"""What a stern review broke: each test is a scenario that once cost money, supply or the start."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.requests import (
    ConfirmReconnect,
    Disconnect,
    OpenAccount,
    PublishTariff,
    Recharge,
    ReleaseQuarantine,
    ReplaceMeter,
    Request,
    Role,
)
from gateway.core.switching import Reason
from gateway.store.commands import find_outcome
from gateway.store.ledger import read_balance
from gateway.store.registry import read_assignments, read_tariffs
from tests.app.control_site import NS, PRICE_NANO, TARIFF, ControlSite
from tests.app.test_control import RICH, begin, use


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ControlSite]:
    """A site with two flats."""
    made = ControlSite(tmp_path)
    yield made
    made.crash()


def code_of(site: ControlSite, key: str) -> str:
    """The refusal code on record for a request; empty when it was executed."""
    outcome = find_outcome(site.file.connection, key)
    assert outcome is not None
    return outcome.code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"timezone": "Europe/Berlin"}, "TARIFF_MIXED"),
        ({"generator": None}, "SOURCE_UNPRICED"),
        ({"effective_from": "2027-01-15T13:30:30+05:30"}, "TARIFF_RETROACTIVE"),
        ({"effective_from": "2020-01-01T00:00:00+05:30"}, "TARIFF_RETROACTIVE"),
    ],
)
async def test_a_version_that_does_not_fit_is_refused_before_it_is_kept(
    site: ControlSite, change: dict[str, object], code: str
) -> None:
    """A published version is for ever: what an account under it could not use is never kept."""
    await begin(site)
    document = {**json.loads(TARIFF), "effective_from": "2027-03-01T00:00:00+05:30", **change}
    if change.get("generator", 1) is None:
        del document["generator"]
    await site.do(PublishTariff(json.dumps(document)), key="bad")
    assert code_of(site, "bad") == code
    assert len(read_tariffs(site.file.connection)) == 1
    site.restart()
    assert site.engine.points[0].available_nano == RICH


async def test_a_fitting_version_reaches_the_accounts_under_the_tariff(site: ControlSite) -> None:
    """Published ahead, in force at its instant, also after a restart."""
    await begin(site)
    dear = {
        **json.loads(TARIFF),
        "effective_from": "2027-01-15T13:35:00+05:30",
        "grid": {"price": "12.00"},
    }
    await site.do(PublishTariff(json.dumps(dear)), key="good")
    assert code_of(site, "good") == ""
    site.restart()
    site.clock.pass_s(600)
    site.read(1_000)
    await site.sweeper.sweep()
    site.clock.pass_s(2)
    site.read(1_001)
    assert 2 * (RICH - site.engine.points[0].available_nano) == 3 * PRICE_NANO


async def test_released_energy_and_its_outcome_are_one_commit(site: ControlSite) -> None:
    """Nothing between them for a crash to split: the charge is there with the outcome."""
    await begin(site)
    site.clock.pass_s(2)
    site.read(2_000)
    await site.sweeper.sweep()
    commits: list[tuple[bool, bool]] = []
    original = site.books.commit

    def watched(operation, **options):  # type: ignore[no-untyped-def]
        future = original(operation, **options)
        charged = read_balance(site.file.connection, "wallet:flat-1") < RICH
        told = find_outcome(site.file.connection, "Q") is not None
        commits.append((charged, told))
        return future

    site.books.commit = watched  # type: ignore[method-assign]
    await site.do(ReleaseQuarantine("flat-1", accept=True, reason="seen"), key="Q")
    assert commits == [(True, True)]
    assert read_balance(site.file.connection, "wallet:flat-1") == RICH - 1_000 * PRICE_NANO


async def test_credit_does_not_outlive_a_recharge_over_a_crash(site: ControlSite) -> None:
    """The recharge is durable, the process dies before its effect is kept: CREDIT is gone."""
    await begin(site, 2 * PRICE_NANO)
    await use(site, 2, start_wh=1_000)
    await site.books.keep(0)
    assert site.engine.points[0].supply.reasons == {Reason.CREDIT}
    await site.do(Recharge("flat-1", 10**9), key="R")
    states = site.books.states([0])
    states["flat-1"]["supply"]["reasons"] = ["CREDIT"]  # type: ignore[index]
    site.file.connection.execute(
        "UPDATE point_state SET body = ? WHERE service_point_id = 'flat-1'",
        (json.dumps(states["flat-1"]),),
    )
    site.restart()
    assert site.engine.points[0].supply.reasons == set()


@pytest.mark.parametrize(
    "body",
    [
        OpenAccount("flat-2", "flat-2", "home", opening_balance_nano=-(2**63 - 1)),
        OpenAccount("flat-2", "flat-2", "home", disablement_threshold_nano=-(2**63 - 1)),
    ],
)
async def test_an_absurd_amount_opens_no_account(site: ControlSite, body: OpenAccount) -> None:
    """A number that would leave 64 bits at the next reading is refused at the door."""
    await begin(site)
    await site.do(body, key="absurd")
    assert code_of(site, "absurd") == "AMOUNT_RANGE"
    site.clock.pass_s(2)
    site.read(5_001, index=1)


async def test_an_exchange_with_a_slip_of_the_finger_is_refused(site: ControlSite) -> None:
    """A closing register of a billion kWh charges nobody and changes nothing."""
    await begin(site)
    await site.do(ReplaceMeter("flat-1", (10**12 - 1, 0), (0, 0), "broken"), key="X")
    assert code_of(site, "X") == "ENERGY_RANGE"
    site.clock.pass_s(2)
    site.read(1_001)
    assert site.engine.points[0].available_nano == RICH - PRICE_NANO


async def test_an_exchange_settles_the_old_device_and_dates_both_stays(site: ControlSite) -> None:
    """R07 live, though the new device was read before anybody said so."""
    await begin(site)
    site.clock.pass_s(2)
    site.read(700_017)
    assert site.engine.points[0].guard.held
    await site.do(ReplaceMeter("flat-1", (1_003, 0), (700_017, 0), "broken"), key="X")
    assert code_of(site, "X") == ""
    site.clock.pass_s(2)
    site.read(700_018)
    assert site.engine.points[0].available_nano == RICH - 4 * PRICE_NANO
    stays = [s for s in read_assignments(site.file.connection) if s.meter_id == "flat-1"]
    assert [(stay.opening_wh, stay.closing_wh) for stay in stays] == [
        ((0, 0), (1_003, 0)),
        ((700_017, 0), None),
    ]
    await site.books.post([0])
    assert site.proof().problem_count == 0
    site.restart()
    assert site.engine.points[0].available_nano == RICH - 4 * PRICE_NANO


async def test_an_account_opens_only_at_a_register_read_just_now(site: ControlSite) -> None:
    """A new customer never pays for energy from before the opening."""
    await begin(site)
    site.clock.pass_s(61)
    await site.sweeper.sweep()
    await site.do(OpenAccount("flat-2", "flat-2", "home"), key="stale")
    assert code_of(site, "stale") == "METER_AWAY"
    site.read(5_040, index=1)
    await site.do(OpenAccount("flat-2", "flat-2", "home", opening_balance_nano=RICH), key="fresh")
    assert code_of(site, "fresh") == ""
    site.clock.pass_s(2)
    site.read(5_041, index=1)
    assert site.engine.points[1].available_nano == RICH - PRICE_NANO


async def test_an_account_opens_only_under_a_trusted_clock(site: ControlSite) -> None:
    """A first label from a clock of 2050 would freeze every rate."""
    site.clock.wall_ms += 23 * 365 * 86_400_000
    site.read(1_000)
    await site.sweeper.sweep()
    await site.do(PublishTariff(TARIFF))
    await site.do(OpenAccount("flat-1", "flat-1", "home"), key="early")
    assert code_of(site, "early") == "CLOCK_UNTRUSTED"
    assert site.books.label_utc_ms == 0
    assert site.engine.points[0].label_utc_ms == 0


async def test_a_crash_between_opening_and_first_state_starts_again(site: ControlSite) -> None:
    """A sweep may be committed before the account's first state is kept."""
    await begin(site)
    await site.sweeper.sweep()
    site.file.connection.execute("DELETE FROM point_state WHERE service_point_id = 'flat-1'")
    site.restart()
    assert site.engine.points[0].available_nano == RICH


def meter_clock_s(site: ControlSite) -> int:
    """What the first meter's own clock said last."""
    full = site.engine.points[0].last_full
    assert full is not None
    assert full.meter_clock_s is not None
    return full.meter_clock_s


def reboot(site: ControlSite, *, wall_ms: int) -> None:
    """The machine dies and boots with this wall clock; monotonic time begins anew."""
    site.crash()
    site.clock.wall_ms = wall_ms
    site.clock.now_ns = 50 * NS
    site.boot = "boot-2"
    site.open()


@pytest.mark.parametrize("wall_after_ms", [0, 4_000_000_000_000])
async def test_reboot_with_a_wrong_wall_clock_holds_no_honest_energy(
    site: ControlSite, wall_after_ms: int
) -> None:
    """1970 or 2096 at boot: the meter's own clock tells how long the machine was off."""
    await begin(site)
    await use(site, 2, start_wh=1_000)
    clock_s = meter_clock_s(site)
    reboot(site, wall_ms=wall_after_ms)
    site.read(1_002 + 5_000, clock_s=clock_s + 3_600)
    assert not site.engine.points[0].guard.held
    assert site.engine.points[0].available_nano == RICH - 5_002 * PRICE_NANO


async def test_reboot_never_makes_a_garbage_jump_plausible(site: ControlSite) -> None:
    """A wall clock decades ahead is no reason to believe a register."""
    await begin(site)
    await use(site, 1, start_wh=1_000)
    clock_s = meter_clock_s(site)
    reboot(site, wall_ms=site.clock.wall_ms + 30 * 365 * 86_400_000)
    site.read(50_000_000, clock_s=clock_s + 60)
    assert site.engine.points[0].guard.held


async def test_a_switching_request_without_an_end_is_refused(site: ControlSite) -> None:
    """north.db is not trusted to have set one."""
    await begin(site)
    request = Request(
        key="endless",
        body=Disconnect("flat-1", "leak"),
        actor="anna",
        role=Role.MANAGER,
        source="test",
        created_utc_ms=site.clock.utc_ms(),
    )
    await site.executor.execute(request)
    assert code_of(site, "endless") == "REQUEST_FIELD"
    assert site.engine.points[0].supply.reasons == set()


async def test_an_expired_confirmation_is_recorded_and_does_nothing(site: ControlSite) -> None:
    """Two minutes later nobody stands there any more."""
    await begin(site)
    request = Request(
        key="late",
        body=ConfirmReconnect("flat-1"),
        actor="anna",
        role=Role.TENANT,
        source="test",
        created_utc_ms=site.clock.utc_ms() - 200_000,
        expires_utc_ms=site.clock.utc_ms() - 80_000,
    )
    await site.executor.execute(request)
    assert code_of(site, "late") == "EXPIRED"


async def test_a_fee_at_the_months_close_is_no_mass_cut(site: ControlSite) -> None:
    """Every flat at once below zero for the fixed fee: cut at the rate, and no halt."""
    await begin(site, 40 * 10**9)
    site.engine.breaker.limits = type(site.engine.breaker.limits)(halt_percent=1, halt_min_points=1)
    site.clock.pass_s(17 * 86_400)
    site.read(1_000)
    await site.sweeper.sweep()
    await site.sweeper.sweep()
    site.clock.pass_s(1)
    site.read(1_000)
    assert site.engine.points[0].supply.reasons == {Reason.CREDIT}
    assert not site.engine.breaker.halted


async def test_one_meters_impossible_reading_stops_no_other(site: ControlSite) -> None:
    """The rules refuse it, it is said once, and the next meter is charged as ever."""
    await begin(site)
    site.clock.pass_s(2)
    site.read(-5)
    site.read(5_001, index=1)
    assert site.engine.points[0].available_nano == RICH
    site.clock.pass_s(2)
    site.read(1_001)
    assert site.engine.points[0].available_nano == RICH - PRICE_NANO


async def test_a_decision_between_a_boot_and_the_first_reading_counts_once(
    site: ControlSite,
) -> None:
    """Held energy is released while the meter is still away: the first reading keeps that base."""
    await begin(site)
    site.clock.pass_s(2)
    site.read(2_000)
    await site.sweeper.sweep()
    site.restart(boot="boot-2")
    await site.do(ReleaseQuarantine("flat-1", accept=True, reason="seen"), key="Q")
    site.clock.pass_s(2)
    site.read(2_001)
    assert not site.engine.points[0].guard.held
    assert site.engine.points[0].available_nano == RICH - 1_001 * PRICE_NANO


async def test_how_long_it_was_off_outlives_a_start_without_a_reading(site: ControlSite) -> None:
    """Boot, a sweep with the meter away, another start: an hour's honest use is still settled."""
    await begin(site)
    await use(site, 1, start_wh=1_000)
    clock_s = meter_clock_s(site)
    reboot(site, wall_ms=site.clock.wall_ms + 3_600_000)
    await site.sweeper.sweep()
    site.restart()
    site.clock.pass_s(2)
    site.read(1_001 + 5_000, clock_s=clock_s + 3_602)
    assert not site.engine.points[0].guard.held
    assert site.engine.points[0].available_nano == RICH - 5_001 * PRICE_NANO


async def test_a_fee_charged_by_the_reading_itself_is_no_mass_cut(site: ControlSite) -> None:
    """The reading crosses the month before the sweep does: the same fee, the same rule."""
    await begin(site, 40 * 10**9)
    end_ms = 1_801_420_200_000  # 2027-02-01T00:00+05:30
    site.clock.pass_s((end_ms - site.clock.wall_ms) / 1000 - 1)
    site.read(1_000)
    await site.sweeper.sweep()
    site.clock.pass_s(2)
    site.engine.breaker.limits = type(site.engine.breaker.limits)(halt_percent=1, halt_min_points=1)
    site.read(1_001)
    assert site.engine.points[0].supply.reasons == {Reason.CREDIT}
    assert not site.engine.breaker.halted


async def test_what_somebody_opened_is_on_file_within_a_sweep(site: ControlSite) -> None:
    """A restart of ours must not close an output that a person opened."""
    await begin(site)
    site.engine.gate.chain_verified = True
    site.clock.pass_s(2)
    site.read(1_000)
    site.clock.pass_s(2)
    site.read(1_000, closed=False)
    await site.sweeper.sweep()
    site.restart()
    site.clock.pass_s(2)
    site.read(1_000, closed=False)
    assert site.engine.points[0].supply.wants(site.clock.mono_ns()) is None


async def test_a_version_and_an_account_under_it_do_not_miss_one_another(
    site: ControlSite,
) -> None:
    """Both at once: one of them is refused or both fit; never a start that fails for ever."""
    await begin(site)
    other = {**json.loads(TARIFF), "id": "other"}
    await site.do(PublishTariff(json.dumps(other)))
    second = {**other, "effective_from": "2027-03-01T00:00:00+05:30"}
    del second["generator"]
    await asyncio.gather(
        site.do(OpenAccount("flat-2", "flat-2", "other"), key="open"),
        site.do(PublishTariff(json.dumps(second)), key="publish"),
    )
    assert [code_of(site, key) for key in ("open", "publish")] in (
        ["", "SOURCE_UNPRICED"],
        ["SOURCE_UNPRICED", ""],
    )
    site.restart()
    assert len(site.engine.points) == 2


async def test_a_customer_whose_meter_left_the_file_is_named_and_charged_when_it_is_back(
    site: ControlSite,
) -> None:
    """A start without the meter's line goes on for the others; every Wh is charged once."""
    await begin(site)
    site.clock.pass_s(60)
    site.read(1_100)
    await site.sweeper.sweep()
    whole = site.config
    site.config = replace(whole, meters=whole.meters[1:])
    site.restart()
    without = site.found.unmetered
    await site.sweeper.sweep()
    site.clock.pass_s(600)
    site.config = whole
    site.restart()
    assert (without, site.found.unmetered) == (("flat-1",), ())
    site.sweeper.judge()
    site.read(1_300)
    assert site.engine.points[0].available_nano == RICH - 300 * PRICE_NANO
