"""What is watched, end to end: simulated meters, the real engine, stores and requests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app.config import load_config
from gateway.core.errors import ConfigurationError
from gateway.core.feeder_balance import balance_of
from gateway.core.requests import (
    AcknowledgeChanges,
    CommissionPoint,
    OpenAccount,
    ReplaceMeter,
    Role,
)
from gateway.core.tamper import Sign
from gateway.sim.faults import fault_named
from gateway.sim.meter import ChangeCounters
from gateway.store.commands import find_outcome
from gateway.store.watch import WatchKind, read_watch_states
from tests.app.control_site import ControlSite
from tests.app.watched_site import WatchedSite

HALF_HOUR_S = 1_800
PRIMARY_CURRENT = 50_011
QUICK_S = 30.0  # less than the gap that makes a half hour an estimate


@pytest.fixture
def site(tmp_path: Path) -> Iterator[WatchedSite]:
    """Two flats behind a check meter, all read for a while."""
    made = WatchedSite(tmp_path)
    yield made
    made.crash()


async def begin(site: WatchedSite) -> None:
    """A trusted clock, and flat 1 in service."""
    await site.run(60)
    await site.open_flat(1_000 * 10**9)


def code_of(site: ControlSite, key: str) -> str:
    """How a request was answered."""
    outcome = find_outcome(site.file.connection, key)
    assert outcome is not None
    return outcome.code or outcome.status.value


async def test_a_setting_changed_at_the_meter_is_suspected_until_answered_for(
    site: WatchedSite,
) -> None:
    """The change counter moves: told once, kept over a crash, cleared by a technician's word."""
    await begin(site)
    assert site.told("TAMPER_SUSPECTED") == []
    site.flats[0].set_setting(site.now_s, PRIMARY_CURRENT, 200)
    await site.run(30)
    assert site.told("TAMPER_SUSPECTED") == [("flat-1", "critical")]
    site.restart()
    await site.run(30)
    assert site.told("TAMPER_SUSPECTED") == [("flat-1", "critical")]
    assert site.watchman.figures()["tamper_suspected"] == 1.0
    await site.do(AcknowledgeChanges("flat-1", "transformer exchanged"), Role.TECHNICIAN, "ack-1")
    assert code_of(site, "ack-1") == "executed"
    assert site.told("TAMPER_SUSPECTED")[-1] == ("flat-1", "cleared")
    site.restart()
    await site.run(30)
    assert site.watchman.figures()["tamper_suspected"] == 0.0
    await site.do(AcknowledgeChanges("flat-1", "again"), Role.MANAGER, "ack-2")
    assert code_of(site, "ack-2") == "NOTHING_SUSPECTED"
    await site.do(AcknowledgeChanges("flat-1", ""), Role.MANAGER, "ack-3")
    assert code_of(site, "ack-3") == "REASON_MISSING"
    await site.do(AcknowledgeChanges("flat-1", "x"), Role.OPERATOR, "ack-4")
    assert code_of(site, "ack-4") == "FORBIDDEN"


async def test_changes_while_the_gateway_was_off_are_seen(site: WatchedSite) -> None:
    """The counters were kept: a crash hides nothing."""
    await begin(site)
    site.flats[0].set_setting(site.now_s, PRIMARY_CURRENT, 200)
    site.restart()
    await site.run(30)
    assert site.told("TAMPER_SUSPECTED") == [("flat-1", "critical")]


async def test_announced_work_and_points_not_in_service_are_notices(site: WatchedSite) -> None:
    """A technician says so before; at flat 2 nobody lives yet."""
    await begin(site)
    await site.do(AcknowledgeChanges("flat-1", "new fuse", for_s=600), Role.TECHNICIAN)
    for flat in site.flats:
        flat.set_setting(site.now_s, PRIMARY_CURRENT, 200)
    await site.run(30)
    assert site.told("TAMPER_SUSPECTED") == []
    assert site.told("CHANGES_ANNOUNCED") == [("flat-1", "notice")]
    assert site.told("SETTINGS_CHANGED") == [("flat-1", "notice"), ("flat-2", "notice")]
    await site.run(600)
    site.flats[0].set_setting(site.now_s, PRIMARY_CURRENT, 300)
    await site.run(30)
    assert site.told("TAMPER_SUSPECTED") == [("flat-1", "critical")]


async def test_change_counters_that_a_power_cut_took_are_a_notice(site: WatchedSite) -> None:
    """The meter was silent and begins at zero; the same fall without a silence is a sign."""
    for flat in site.flats:
        flat.set_setting(0.0, PRIMARY_CURRENT, 200)
    await begin(site)
    await site.run(60, without=0)
    site.flats[0].changes = ChangeCounters()
    await site.run(30)
    assert site.told("SETTINGS_CHANGED") == [("flat-1", "notice")]
    assert site.told("TAMPER_SUSPECTED") == []
    site.flats[0].set_setting(site.now_s, PRIMARY_CURRENT, 100)
    await site.run(30)
    assert site.told("TAMPER_SUSPECTED") == [("flat-1", "critical")]


async def test_an_exchanged_device_has_change_counters_of_its_own(site: WatchedSite) -> None:
    """After an exchange they are a new base, no sign."""
    await begin(site)
    now = site.engine.points[0].guard.registers_wh
    assert now is not None
    await site.do(ReplaceMeter("flat-1", now, now, "display broken"), Role.MANAGER, "exchange")
    assert code_of(site, "exchange") == "executed"
    site.flats[0].changes = ChangeCounters(40, 90)
    await site.run(30)
    assert site.told("TAMPER_SUSPECTED") == []
    assert site.watchman.is_dirty is False


async def test_counters_reset_by_hand_are_two_signs(site: WatchedSite) -> None:
    """The register falls to zero and the meter's own bit stands; who listens hears of it."""
    await begin(site)
    heard: list[tuple[int, bool]] = []

    def listen(index: int, *, standing: bool) -> None:
        heard.append((index, standing))

    site.watchman.on_tamper = listen
    site.flats[0].reset_counters(site.now_s, 0)
    await site.run(30)
    assert site.told("METER_RESET") == [("flat-1", "warning")]
    assert site.told("TAMPER_SUSPECTED") == [("flat-1", "critical")] * 2
    kept = read_watch_states(site.file.connection, WatchKind.TAMPER)
    signs = {row[0] for row in kept[WatchKind.TAMPER, "flat-1"].body["signs"]}  # type: ignore[attr-defined]
    assert signs == {Sign.METER_RESET, Sign.COUNTERS_RESET}
    await site.do(AcknowledgeChanges("flat-1", "seen by anna"), Role.MANAGER)
    assert {index for index, _ in heard} == {0}
    assert heard[-1] == (0, False)


@pytest.mark.slow
async def test_energy_stolen_before_a_meter_is_a_loss_of_the_feeder(site: WatchedSite) -> None:
    """Nothing is lost at first; 1 kW before flat 2's meter is 14 % of 7 kW: told after two half
    hours; the bridge taken away, over after two more."""
    await site.run(2 * HALF_HOUR_S, step_s=QUICK_S)
    balance = balance_of(site.watchman.feeders.snapshot("riser")["last"])  # type: ignore[arg-type]
    assert balance is not None
    assert balance.doubtful == ()
    assert abs(balance.loss_wh) <= 3
    assert balance.supplied_wh == pytest.approx(3_000, abs=5)
    site.flats[1].add_fault(site.now_s, fault_named("tapped", amount=1_000))
    await site.run(HALF_HOUR_S, step_s=QUICK_S)
    assert site.told("FEEDER_LOSS") == []
    await site.run(HALF_HOUR_S, step_s=QUICK_S)
    assert site.told("FEEDER_LOSS") == [("riser", "warning")]
    losses = site.watchman.feeders.losses_percent()
    assert losses == {"riser": pytest.approx(14.3, abs=0.3)}
    site.restart()
    site.flats[1].clear_faults(site.now_s)
    await site.run(4 * HALF_HOUR_S, step_s=QUICK_S)
    assert site.told("FEEDER_LOSS") == [("riser", "warning"), ("riser", "cleared")]


@pytest.mark.slow
async def test_a_meter_that_was_away_leaves_its_feeder_unjudged(site: WatchedSite) -> None:
    """Its half hours are estimated: named, and no loss for them."""
    await site.run(2 * HALF_HOUR_S, step_s=QUICK_S)
    site.flats[1].add_fault(site.now_s, fault_named("tapped", amount=1_000))
    await site.run(4 * HALF_HOUR_S, step_s=QUICK_S, without=0)
    await site.run(60)
    assert site.told("FEEDER_LOSS") == []
    kept = site.watchman.feeders.snapshot("riser")["last"]
    assert isinstance(kept, dict)
    assert kept["doubtful"] == ["flat-1"]


@pytest.mark.slow
async def test_a_reversed_transformer_is_found_and_its_feed_in_told(site: WatchedSite) -> None:
    """Flat 1 expects no feed-in: one phase for ten minutes. Flat 2 may feed in: after two hours."""
    await site.run(60)
    for flat in site.flats:
        flat.add_fault(site.now_s, fault_named("ct_reversed", amount=2))
    await site.run(700)
    assert site.told("CT_SUSPECT") == [("flat-1", "warning")]
    await site.run(7_200, step_s=QUICK_S)
    assert site.told("CT_SUSPECT") == [("flat-1", "warning"), ("flat-2", "warning")]
    assert site.watchman.figures()["transformers_suspect"] == 2.0
    site.restart()
    for flat in site.flats:
        flat.clear_faults(site.now_s)
    await site.run(1_000)
    assert site.told("CT_SUSPECT")[2:] == [("flat-1", "cleared"), ("flat-2", "cleared")]


@pytest.mark.slow
async def test_feed_in_is_told_once_a_day_where_none_is_expected(site: WatchedSite) -> None:
    """All phases backwards at both flats: flat 1 alone is told, a restart in between or not."""
    await site.run(60)
    for flat in site.flats:
        flat.add_fault(site.now_s, fault_named("ct_reversed", amount=0))
    await site.run(1_200)
    site.restart()
    await site.run(1_200)
    assert site.told("EXPORT_SEEN") == [("flat-1", "warning")]


async def test_a_check_meter_charges_nobody_and_is_never_switched(site: WatchedSite) -> None:
    """Neither account nor commissioning; tampering with it is watched all the same."""
    await begin(site)
    await site.do(OpenAccount("head", "head", "home"), key="open")
    await site.do(CommissionPoint("head"), key="commission")
    assert (code_of(site, "open"), code_of(site, "commission")) == ("CHECK_METER", "CHECK_METER")
    site.meters[2].set_setting(site.now_s, PRIMARY_CURRENT, 200)
    await site.run(30)
    assert site.told("TAMPER_SUSPECTED") == [("head", "critical")]


async def test_a_customers_meter_is_not_made_a_check_meter(site: WatchedSite) -> None:
    """With an account open there the configuration is refused, with the place."""
    await begin(site)
    path = site.directory / "config.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("host: 127.0.0.1, feeder: riser", "host: 127.0.0.1, role: check"),
        encoding="utf-8",
    )
    site.config = load_config(path)
    site.crash()
    with pytest.raises(ConfigurationError, match=r"role: flat-1 cannot check .* flat-1 is open"):
        site.open()
    site.file.stop()
    site.owner.release()
    path.write_text(text, encoding="utf-8")
    site.config = load_config(path)
    site.open()
