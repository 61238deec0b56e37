"""Outputs that fall off without the gateway: held for as long as it runs, and what follows a fall.

Remote timeout 10 s at every simulated meter. The simulator's journal is the truth.
"""

import os
import signal
import time

import pytest

from gateway.core.reading import Quality
from gateway.core.switching import ControlState, Reason
from gateway.store.commands import CommandState, SwitchAction
from gateway.store.db import reading
from gateway.store.ledger import LEDGER
from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import QUICK_SUPPLY, Gateway

pytestmark = pytest.mark.slow

AFTER_S = 10
REMOTE_TIMEOUT = 51718
PAID, OPEN_POINT, PROTECTED, OUT = "flat-101", "flat-102", "flat-103", "flat-104"
DUE, HELD, DOUBTFUL = "flat-105", "flat-106", "flat-107"
SUPPLIED = (PAID, OPEN_POINT, PROTECTED, DUE, HELD, DOUBTFUL)


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Gateway:
    """fail_disconnected, and a breaker that lets one cut through in ten minutes.

    A paid flat, one without an account, one whose meter will refuse writes, one whose credit ends,
    one whose cut the breaker holds back, one whose readings are held, one whose meter counts NaN;
    control was started again since.
    """
    policy = {"fail_safe": "fail_disconnected", "fail_safe_after_s": AFTER_S}
    breaker = {"max_cuts": 1, "max_percent": 1, "halt_percent": 100, "halt_min_points": 1000}
    supply = {**QUICK_SUPPLY, "verify_s": 1, "fault_retry_s": 10, "mass_cut": breaker}
    site = make_site(meters=7, meter_defaults=policy, remote_timeout_s=AFTER_S, supply=supply)
    site.start()
    site.open(PAID, "100")
    site.open(PROTECTED, "100")
    site.open(OUT, "0.008")
    site.open(HELD, "100")
    site.open(DOUBTFUL, "100")
    site.load(1_000, PAID, OPEN_POINT, PROTECTED, HELD, DOUBTFUL)
    site.load(4_000, OUT)
    assert site.finished_cut(OUT).state is CommandState.VERIFIED
    site.open(DUE, "0.008")
    site.load(4_000, DUE)
    site.until(lambda: Reason.CREDIT in site.row(DUE).reasons, "credit that ended")
    site.ask("fault", HELD, kind="energy_jump")
    site.until(lambda: site.row(HELD).quality is Quality.UNCERTAIN, "a held reading")
    site.ask("fault", DOUBTFUL, kind="nan_energy")
    site.until(lambda: site.events("METER_AWAY", DOUBTFUL), "readings that are none")
    site.kill("control")
    site.start_process("control")
    site.until(lambda: len(site.events("METER_AWAY", DOUBTFUL)) == 2, "them after the start")
    return site


def is_on(site: Gateway, *meters: str) -> bool:
    """Whether supply runs at all of them, in truth."""
    return all(site.ask("state", meter)["contactor_closed"] for meter in meters)


def openings(site: Gateway, *meters: str) -> int:
    """How often these supplies went, in truth."""
    return sum(len(site.ask("openings", meter)["openings"]) for meter in meters)


def rows(site: Gateway) -> dict[str, int]:
    """What the ledger holds of commands, requests and audit."""
    with reading(site.paths.ledger, LEDGER) as connection:
        return {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
            for table in ("switch_command", "outcome", "audit")
        }


def test_outputs_are_held_without_a_trace(site: Gateway) -> None:
    """Three timeouts long nothing moves, and no row is written.

    Without an account, with held readings, with counters that are none, and with a cut that is due
    and not let through: what control does not decide, no timer does.
    """
    before, gone = rows(site), openings(site, *SUPPLIED)
    end_s = time.monotonic() + 3 * AFTER_S
    while time.monotonic() < end_s:
        assert is_on(site, *SUPPLIED)
        time.sleep(0.5)
    assert openings(site, *SUPPLIED) == gone == 0
    assert rows(site) == before
    for kind in ("OUTPUT_FELL_BACK", "RENEWAL_FAILED", "FAIL_SAFE_DIFFERS", "OUTPUT_DIFFERS"):
        assert not site.events(kind), kind
    assert not is_on(site, OUT)
    assert openings(site, OUT) == 1
    assert not site.cuts(DUE)
    assert site.row(HELD).quality is Quality.UNCERTAIN
    site.ask("clear", DOUBTFUL)
    site.until(lambda: site.row(DOUBTFUL).quality is Quality.GOOD, "good readings again")


def test_another_meter_is_asked_for_its_own_time(site: Gateway) -> None:
    """Exchanged while it was away, and never set: told at once, not at the next start."""
    site.ask("fault", DOUBTFUL, kind="silent")
    site.until(lambda: len(site.events("METER_AWAY", DOUBTFUL)) == 3, "the absence")
    site.ask("setting", DOUBTFUL, address=REMOTE_TIMEOUT, value=0)
    site.ask("clear", DOUBTFUL)
    (told,) = site.until(lambda: site.events("FAIL_SAFE_DIFFERS", DOUBTFUL), "the event")
    assert (told.body["at_meter_s"], told.body["configured_s"]) == (0, AFTER_S)
    site.ask("setting", DOUBTFUL, address=REMOTE_TIMEOUT, value=AFTER_S)
    site.until(lambda: len(site.events("FAIL_SAFE_DIFFERS", DOUBTFUL)) == 2, "the end of it")
    assert is_on(site, DOUBTFUL)


def test_after_a_fall_supply_is_restored_without_a_person(site: Gateway) -> None:
    """kill -9: all fall off in time; the next start closes who paid, and nobody else."""
    site.kill("control")
    time.sleep(AFTER_S + 1.0)
    assert not any(is_on(site, meter) for meter in SUPPLIED)
    site.start_process("control")
    site.ready()
    site.until(lambda: is_on(site, PAID, PROTECTED, HELD), "the restoration")
    for meter in (PAID, PROTECTED, HELD):
        told = site.until(lambda m=meter: site.events("OUTPUT_FELL_BACK", m), "the event")  # type: ignore[misc]
        assert [event.body["supply"] for event in told] == ["open"]
        site.until(
            lambda m=meter: site.row(m).control_state is ControlState.CONNECTED,  # type: ignore[misc]
            "a supply that is connected",
        )
    assert not is_on(site, OPEN_POINT), "control switches nothing where nobody has an account"
    for meter in (OUT, DUE):
        assert not is_on(site, meter)
        assert not site.commands(meter, SwitchAction.CLOSE)
    for kind in ("OUTPUT_DIFFERS", "UNAUTHORISED_SUPPLY", "FAILED_TO_CLOSE"):
        assert not site.events(kind), kind


def test_a_control_that_stood_still_takes_a_fall_for_nobodys_hand(site: Gateway) -> None:
    """SIGSTOP for longer than the time, connections kept: restored as after a start."""
    os.kill(site.pid("control"), signal.SIGSTOP)
    time.sleep(AFTER_S + 1.0)
    assert not is_on(site, PAID)
    os.kill(site.pid("control"), signal.SIGCONT)
    site.until(lambda: is_on(site, PAID, PROTECTED, HELD), "the restoration")
    site.until(lambda: len(site.events("OUTPUT_FELL_BACK", PAID)) == 2, "the event")
    assert not site.events("OUTPUT_DIFFERS")


def test_a_renewal_that_fails_is_told_once_and_a_fall_is_made_good(site: Gateway) -> None:
    """Write protection: one event; the output falls, no hand's doing, and cannot be closed.

    Once it can, a person's word closes it, as ever after FAILED_TO_CLOSE, and it is held again.
    """
    site.ask("fault", PROTECTED, kind="write_protected")
    site.until(lambda: not is_on(site, PROTECTED), "the fall", 2.5 * AFTER_S)
    site.until(lambda: len(site.events("OUTPUT_FELL_BACK", PROTECTED)) == 3, "the event")
    told = site.events("RENEWAL_FAILED", PROTECTED)
    assert [(event.severity, event.body["code"]) for event in told] == [
        ("warning", "METER_EXCEPTION")
    ]
    site.until(lambda: site.events("FAILED_TO_CLOSE", PROTECTED), "the alarm")
    site.ask("clear", PROTECTED)
    site.order(PROTECTED, "confirm_reconnect", "after-protection")
    site.until(lambda: is_on(site, PROTECTED), "the closing")
    site.until(
        lambda: (
            [event.severity for event in site.events("RENEWAL_FAILED", PROTECTED)]
            == ["cleared", "warning"]
        ),
        "the end of it",
    )
    assert not site.events("OUTPUT_DIFFERS")
    time.sleep(AFTER_S + 1.0)
    assert is_on(site, PROTECTED)


def test_a_meter_that_falls_sooner_than_configured_is_held_by_its_own_time(site: Gateway) -> None:
    """A longer time in the file alone, followed with SIGHUP, darkens nobody."""
    before = openings(site, PAID, PROTECTED)
    text = site.config.read_text(encoding="utf-8")
    site.config.write_text(text.replace('_after_s": 10', '_after_s": 600'), encoding="utf-8")
    os.kill(site.pid("control"), signal.SIGHUP)
    for meter in (PAID, PROTECTED):
        (told,) = site.until(lambda m=meter: site.events("FAIL_SAFE_DIFFERS", m), "the event")  # type: ignore[misc]
        assert (told.body["at_meter_s"], told.body["configured_s"]) == (AFTER_S, 600)
    end_s = time.monotonic() + 2 * AFTER_S
    while time.monotonic() < end_s:
        assert is_on(site, PAID, PROTECTED)
        time.sleep(0.5)
    assert openings(site, PAID, PROTECTED) == before
    site.ask("setting", PAID, address=REMOTE_TIMEOUT, value=600)
    site.until(
        lambda: (
            [event.severity for event in site.events("FAIL_SAFE_DIFFERS", PAID)]
            == ["cleared", "warning"]
        ),
        "the end of it",
    )


def test_the_ledger_proves_itself(site: Gateway) -> None:
    """After every fall the chain holds."""
    site.load(0, *SUPPLIED, OUT)
    site.verify()


def test_a_cut_that_fell_back_to_connected_is_made_again(make_site: MakeSite) -> None:
    """fail_connected: a cut is kept; without control supply runs, is charged, and is cut again."""
    policy = {
        "fail_safe": "fail_connected",
        "fail_safe_after_s": AFTER_S,
        "output_on": "disconnects",
    }
    site = make_site(
        meters=2,
        meter_defaults=policy,
        remote_timeout_s=AFTER_S,
        simulate=("--output-disconnects",),
    ).start()
    cut, paid = "flat-101", "flat-102"
    site.open(paid, "100")
    site.open(cut, "0.008")
    site.load(4_000, cut, paid)
    assert site.finished_cut(cut).state is CommandState.VERIFIED
    end_s = time.monotonic() + 2.5 * AFTER_S
    while time.monotonic() < end_s:
        assert not is_on(site, cut)
        time.sleep(0.5)
    assert len(site.cuts(cut)) == 1
    site.kill("control")
    site.until(lambda: is_on(site, cut), "the fall", AFTER_S + 2.0)
    used_wh = site.register_wh(cut)[0]
    site.until(lambda: site.register_wh(cut)[0] > used_wh + 2, "energy that flows meanwhile")
    site.start_process("control")
    site.ready()
    site.until(lambda: not is_on(site, cut), "the cut")
    again = site.until(
        lambda: [one for one in site.cuts(cut)[1:] if one.state.finished], "the second cut"
    )
    assert [one.state for one in again] == [CommandState.VERIFIED]
    told = site.until(lambda: site.events("OUTPUT_FELL_BACK", cut), "the event")
    assert [event.body["supply"] for event in told] == ["closed"]
    time.sleep(AFTER_S + 1.0)
    assert not is_on(site, cut)
    assert is_on(site, paid)
    assert openings(site, paid) == 0
    for kind in ("UNAUTHORISED_SUPPLY", "OUTPUT_DIFFERS", "TAMPER_SUSPECTED", "MASS_CUT_HALT"):
        assert not site.events(kind), kind
    assert not site.events("OUTPUT_FELL_BACK", paid)
    site.load(0, cut, paid)
    site.verify()
