"""Meters, links and contactors that fail: said clearly, charged rightly, nobody cut by it."""

import time
from itertools import pairwise

import pytest

from gateway.core.reading import Quality
from gateway.core.switching import ControlState, Fault, Reason
from gateway.store.commands import CommandState, SwitchAction
from tests.core.test_prepaid_cases import part
from tests.e2e.books import PRICE_NANO, advance_wh, charged_nano, check_books
from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import QUICK_SUPPLY, Gateway

pytestmark = pytest.mark.slow

WELDED, PROTECTED, OTHER_MODE, JUMPING = "flat-101", "flat-102", "flat-103", "flat-104"
RESTARTED, OTHER_MASTER, HEALTHY, SWITCHED = "flat-105", "flat-106", "flat-107", "flat-108"
LATE_LOAD = "flat-118"
# What each of these meters does to its replies.
FAULTY = {
    "flat-109": "refused",
    "shop-10": "black_hole",
    "flat-111": "identity",
    "flat-112": "garbage",
    "flat-113": "truncated",
    "flat-114": "wrong_function",
    "flat-115": "fewer_registers",
    "flat-116": "late_reply",
    "flat-117": "nan_energy",
}
WATCH_S = 8.0


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Gateway:
    """Eighteen flats that draw nothing until told to; a failed switch is not tried again."""
    supply = {**QUICK_SUPPLY, "verify_s": 2, "fault_retry_s": 600}
    return make_site(meters=18, supply=supply).start()


def test_a_stuck_contactor_is_told_and_charged_on(site: Gateway) -> None:
    """D05: three commands to open, FAILED_TO_OPEN, no hammering, energy taken is energy owed."""
    site.open(WELDED, "0.080")  # 10 Wh, 6 s
    site.ask("fault", WELDED, kind="contactor_welded")
    site.load(6_000, WELDED)
    cut = site.finished_cut(WELDED)
    assert cut.state is CommandState.FAILED
    expect = part("D05", "expect")
    assert cut.attempts == int(expect["open_commands_in_all"])
    assert "current" not in cut.witnesses
    alarm = site.until(lambda: site.events(expect["fault"], WELDED), "the alarm")
    assert [event.severity for event in alarm] == [expect["alarm"]]
    # The live row shows it with the next reading.
    site.until(lambda: site.row(WELDED).fault is Fault.FAILED_TO_OPEN, "the fault on the live row")

    failed_wh = site.register_wh(WELDED)[0]
    site.until(lambda: site.register_wh(WELDED)[0] >= failed_wh + 3, "energy past the failure")
    site.rest(WELDED)
    assert len(site.cuts(WELDED)) == 1
    assert expect["charging"] == "continues"
    site.recharge(WELDED, "0.001", "welded-post")
    check_books(site, WELDED, posted=True)
    assert charged_nano(site.transactions(WELDED)) >= (10 + 3) * PRICE_NANO


def test_a_stuck_contactor_is_told_when_the_load_came_late(site: Gateway) -> None:
    """A load that was not seen before the command still disproves the opening: an alarm stands."""
    site.open(LATE_LOAD, "0.008")
    site.ask("fault", LATE_LOAD, kind="contactor_welded")
    site.load(6_000, LATE_LOAD)
    site.finished_cut(LATE_LOAD)
    told = site.until(
        lambda: (
            site.events("FAILED_TO_OPEN", LATE_LOAD)
            or site.events("UNAUTHORISED_SUPPLY", LATE_LOAD)
        ),
        "an alarm",
    )
    assert told[-1].severity == "critical"
    site.load(0, LATE_LOAD)


def test_write_protection_fails_by_name_and_alone(site: Gateway) -> None:
    """A meter that refuses writes fails with exception 0xF0 named; its neighbour is cut."""
    site.open(PROTECTED, "0.024")
    site.open(SWITCHED, "0.024")
    site.ask("fault", PROTECTED, kind="write_protected")
    site.load(4_000, PROTECTED, SWITCHED)
    assert site.finished_cut(SWITCHED).state is CommandState.VERIFIED
    cut = site.finished_cut(PROTECTED)
    assert cut.state is CommandState.FAILED
    assert cut.attempts == 3
    assert "METER_EXCEPTION" in str(cut.detail["reason"])
    assert "0xF0" in str(cut.detail["reason"])
    assert site.row(PROTECTED).output_closed is True
    assert site.row(SWITCHED).control_state is ControlState.DISCONNECTED
    site.load(0, PROTECTED)


def test_an_output_in_another_mode_is_not_commissioned(site: Gateway) -> None:
    """`meter commission` refuses an output that does not obey, and accepts one that does."""
    site.write_command(OTHER_MODE, 60000, 0)  # factory defaults: the output is not switchable
    before = site.row(OTHER_MODE).sequence
    site.until(lambda: site.row(OTHER_MODE).sequence > before + 1, "the meter's restart")
    refused = site.cli("meter", "commission", OTHER_MODE)
    assert refused.returncode == 1
    assert "set it to 2 (switching output)" in refused.stderr
    assert site.call("GET", f"/meters/{OTHER_MODE}")["commissioned"] is False
    # Our side of the link is 127.0.0.1: one subnet with the meter when it says address and mask.
    site.write_setting(HEALTHY, 63001, 0x7F14_0007)
    site.write_setting(HEALTHY, 63003, 0xFF00_0000)
    word = ("--accept", "UNPROVEN", "--reason", "nobody draws here")
    accepted = site.cli("meter", "commission", HEALTHY, *word)
    assert accepted.returncode == 0, accepted.stderr
    assert site.call("GET", f"/meters/{HEALTHY}")["commissioned"] is True


def test_faulty_meters_disturb_nobody_and_are_not_cut(site: Gateway) -> None:
    """D02: no cut and no charge without good readings; the others keep their rhythm of 1 s."""
    for meter, kind in FAULTY.items():
        site.open(meter, "0.024")
        if kind == "identity":  # asked only when a connection is made
            site.ask("fault", meter, kind="drop_out", count=1)
        site.ask("fault", meter, kind=kind)
    before = {meter: site.transactions(meter) for meter in FAULTY}
    site.load(3_000, *FAULTY)
    healthy = [HEALTHY, RESTARTED, OTHER_MASTER, OTHER_MODE]
    labels: dict[str, list[int]] = {meter: [site.row(meter).utc_ms] for meter in healthy}
    end_s = time.monotonic() + WATCH_S
    while time.monotonic() < end_s:
        for meter, seen in labels.items():
            label = site.row(meter).utc_ms
            if label != seen[-1]:
                seen.append(label)
        time.sleep(0.02)
    for meter, seen in labels.items():
        gaps_ms = [after - first for first, after in pairwise(seen)]
        assert len(gaps_ms) >= WATCH_S - 1, f"{meter}: {gaps_ms}"
        assert max(gaps_ms) < 2_000, f"{meter}: {gaps_ms}"
    for meter in FAULTY:
        true_wh = site.ask("state", meter)["true_wh"]
        assert true_wh > 0
        assert not site.cuts(meter), meter
        assert charged_nano(site.transactions(meter)) == charged_nano(before[meter]), meter
    foreign = site.until(lambda: site.events("METER_AWAY", "flat-111"), "the identity fault")
    assert foreign[0].body["code"] == "METER_IDENTITY"
    assert "PAC2200" in str(foreign[0].body["reason"])
    assert site.events("METER_AWAY", "flat-109")[0].body["code"] == "METER_UNREACHABLE"


def test_faulty_meters_are_charged_exactly_when_they_are_back(site: Gateway) -> None:
    """Once readings are good again the gap is charged to the Wh, and the cut follows from them."""
    for meter in FAULTY:
        site.ask("clear", meter)
    for meter in FAULTY:
        assert site.finished_cut(meter, 40.0).state is CommandState.VERIFIED, meter
        assert len(site.cuts(meter)) == 1, meter
    site.rest(*FAULTY)
    for meter in FAULTY:
        site.until(
            lambda meter=meter: sum(advance_wh(site.transactions(meter))) > 3,  # type: ignore[misc]
            f"the posting of {meter}",
        )
        site.recharge(meter, "0.001", f"back-{meter}")
        check_books(site, meter, posted=True)


def test_a_jump_is_held_until_a_manager_decides(site: Gateway) -> None:
    """R06: 50 Wh in a second are quarantined: no charge, no cut; released, charged, then cut."""
    site.open(JUMPING, "0.080")  # 10 Wh
    opened_wh = site.row(JUMPING).energy_wh
    site.ask("fault", JUMPING, kind="energy_jump", amount=50)
    event = site.until(lambda: site.events("IMPLAUSIBLE_ENERGY", JUMPING), "the event")
    assert len(event) == 1
    time.sleep(3.0)  # never plausible by waiting
    assert not site.cuts(JUMPING)
    assert site.row(JUMPING).quality is Quality.UNCERTAIN
    assert site.row(JUMPING).output_closed is True
    assert charged_nano(site.transactions(JUMPING)) == 0
    assert len(site.events("IMPLAUSIBLE_ENERGY", JUMPING)) == 1

    decision = {"accept": True, "reason": "the display shows it"}
    site.call("POST", f"/meters/{JUMPING}/quarantine-release", decision, "release-jump")
    site.until(lambda: site.outcome("release-jump") == "executed", "the release")
    assert site.row(JUMPING).energy_wh == (opened_wh[0] + 50, opened_wh[1])
    site.until(lambda: charged_nano(site.transactions(JUMPING)), "the charge")
    assert charged_nano(site.transactions(JUMPING)) == 50 * PRICE_NANO
    lines = [line for t in site.transactions(JUMPING) for line in t.settlements]
    assert "RELEASED" in lines[-1].flags
    assert lines[-1].to_wh == site.row(JUMPING).energy_wh
    cut = site.finished_cut(JUMPING)
    assert (cut.state, cut.reason) == (CommandState.VERIFIED, Reason.CREDIT)


def test_a_restarted_meter_is_restored_without_a_confirmation(site: Gateway) -> None:
    """An output that a meter's restart opened is closed again: closed was intended all along."""
    site.open(RESTARTED, "100")
    site.load(500, RESTARTED)
    site.ask("restart", RESTARTED)
    site.until(lambda: not site.ask("state", RESTARTED)["contactor_closed"], "the opening")
    restored = site.until(
        lambda: [c for c in site.commands(RESTARTED) if c.state.finished], "the restoration", 30.0
    )
    assert [(c.action, c.state) for c in restored] == [(SwitchAction.CLOSE, CommandState.VERIFIED)]
    assert restored[0].request_key is None
    assert site.ask("state", RESTARTED)["contactor_closed"]
    assert not site.row(RESTARTED).reasons


def test_an_output_opened_by_another_master_is_told_and_left(site: Gateway) -> None:
    """Somebody may be working on the wires: an alarm, no closing, until a person asks for it."""
    site.open(OTHER_MASTER, "100")
    site.load(500, OTHER_MASTER)
    site.until(lambda: (site.row(OTHER_MASTER).power_w or 0) > 400, "the load")
    site.write_command(OTHER_MASTER, 60008, 0)
    alarm = site.until(lambda: site.events("OUTPUT_DIFFERS", OTHER_MASTER), "the alarm")
    assert alarm[0].severity == "critical"
    time.sleep(4.0)
    row = site.row(OTHER_MASTER)
    assert (row.output_closed, row.intended_closed) == (False, True)
    assert not site.commands(OTHER_MASTER)
    site.order(OTHER_MASTER, "reconnect", "other-master-done", "work is finished")
    site.until(lambda: site.row(OTHER_MASTER).output_closed, "the reconnection")
    site.until(lambda: len(site.events("OUTPUT_DIFFERS", OTHER_MASTER)) == 2, "the all-clear")
    assert site.events("OUTPUT_DIFFERS", OTHER_MASTER)[0].severity == "cleared"


def test_the_ledger_proves_itself(site: Gateway) -> None:
    """After every fault above the chain, sums and registers agree."""
    assert site.verify()["transactions"] > 0
