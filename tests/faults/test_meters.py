"""Meters that answer well and lie, or do not do as they are told: live, one site for all."""

import time

import pytest

from gateway.core.reading import Quality
from gateway.core.switching import ControlState, Fault, Reason
from gateway.store.commands import CommandState, SwitchAction
from tests.e2e.books import advance_wh, charged_nano, check_books
from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import QUICK_SUPPLY, Gateway

pytestmark = pytest.mark.slow

BUSY, NO_VALUES, BACKWARDS, WORDS = "flat-101", "flat-102", "flat-103", "flat-104"
UNMOVED, HELD_ON, HELD_OFF, RECLOSED = "flat-105", "flat-106", "flat-107", "flat-108"
ALL = (BUSY, NO_VALUES, BACKWARDS, WORDS, UNMOVED, HELD_ON, HELD_OFF, RECLOSED)
LOAD_W = 6_000
SWITCH_REGISTER, SWITCH_ON = 60008, 0x0100


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Gateway:
    """Eight flats that draw nothing until told to; a failed switch is not tried again."""
    supply = {**QUICK_SUPPLY, "verify_s": 2, "fault_retry_s": 600}
    return make_site(meters=len(ALL), supply=supply).start()


def test_meters_that_are_not_read_are_not_cut_and_pay_later(site: Gateway) -> None:
    """Exception 06, words the wrong way round: no charge, no cut; both once readings are good."""
    lying = {BUSY: "busy", WORDS: "word_order"}
    opened_wh = {}
    for meter, kind in lying.items():
        site.open(meter, "0.024")  # 3 Wh
        opened_wh[meter] = site.register_wh(meter)[0]
        site.ask("fault", meter, kind=kind)
    site.load(LOAD_W, *lying)
    for meter in lying:
        past_wh = opened_wh[meter] + 8
        site.until(lambda m=meter, wh=past_wh: site.register_wh(m)[0] >= wh, "consumption")  # type: ignore[misc]
        assert not site.cuts(meter), meter
        assert charged_nano(site.transactions(meter)) == 0, meter
        site.until(lambda m=meter: site.events("METER_AWAY", m), f"the event of {meter}")  # type: ignore[misc]
    assert site.events("METER_AWAY", BUSY)[0].body["code"] == "METER_EXCEPTION"
    assert site.events("METER_AWAY", WORDS)[0].body["code"] == "METER_PROTOCOL"
    for meter in lying:
        site.ask("clear", meter)
    for meter in lying:
        cut = site.finished_cut(meter, 40.0)
        assert (cut.state, cut.reason) == (CommandState.VERIFIED, Reason.CREDIT), meter
    settle(site, *lying)


def settle(site: Gateway, *meters: str) -> None:
    """Take the load away, post what was used, and check the books to the last watt-hour."""
    site.rest(*meters)
    for meter in meters:
        site.recharge(meter, "0.001", f"settle-{meter}")
        check_books(site, meter, posted=True)


def test_measurements_that_are_no_numbers_stop_neither_charge_nor_cut(site: Gateway) -> None:
    """NaN in every measured value: shown as undefined; money follows the registers alone."""
    site.open(NO_VALUES, "0.024")
    site.ask("fault", NO_VALUES, kind="nan")
    # Only full reads bring measured values: the next one, before anything is used.
    site.until(lambda: site.row(NO_VALUES).power_w is None, "a full read without values")
    site.load(LOAD_W, NO_VALUES)
    site.until(lambda: site.cuts(NO_VALUES), "the cut")
    assert site.row(NO_VALUES).power_w is None
    site.until(lambda: site.row(NO_VALUES).output_closed is False, "the open output")
    assert not site.ask("state", NO_VALUES)["contactor_closed"]
    site.ask("clear", NO_VALUES)


def test_energy_that_goes_backwards_is_never_credited(site: Gateway) -> None:
    """1,000 Wh less than before: held, told, nobody cut; nothing lost or doubled after it."""
    site.open(BACKWARDS, "100")
    site.load(LOAD_W, BACKWARDS)
    before_wh = site.register_wh(BACKWARDS)[0]
    site.until(lambda: site.row(BACKWARDS).energy_wh[0] > before_wh, "consumption")
    site.ask("fault", BACKWARDS, kind="energy_backwards")
    site.until(lambda: site.events("REGISTER_HELD", BACKWARDS), "the alarm")
    site.until(lambda: site.row(BACKWARDS).quality is Quality.UNCERTAIN, "the doubt")
    site.recharge(BACKWARDS, "1", "while-backwards")
    assert advance_wh(site.transactions(BACKWARDS))[0] >= 0
    site.ask("clear", BACKWARDS)
    site.load(0, BACKWARDS)
    held_at = site.row(BACKWARDS).sequence
    # What is released is what two reads in a row agree on.
    site.until(lambda: site.row(BACKWARDS).sequence >= held_at + 4, "readings")
    assert site.row(BACKWARDS).quality is Quality.UNCERTAIN, "held until a person decides"
    assert not site.cuts(BACKWARDS)
    decision = {"accept": True, "reason": "the display shows it"}
    site.call("POST", f"/meters/{BACKWARDS}/quarantine-release", decision, "release-backwards")
    site.until(lambda: site.row(BACKWARDS).quality is Quality.GOOD, "good readings")
    settle(site, BACKWARDS)


def test_switches_that_do_not_move_are_alarms(site: Gateway) -> None:
    """Acknowledged and not moved, held closed by hand: three commands, an alarm, charged on."""
    stuck = {UNMOVED: "switch_ignored", HELD_ON: "manual_override"}
    for meter, kind in stuck.items():
        site.open(meter, "0.024")
        site.ask("fault", meter, kind=kind)
    site.load(LOAD_W, *stuck)
    for meter in stuck:
        cut = site.finished_cut(meter, 40.0)
        assert (cut.state, cut.attempts) == (CommandState.FAILED, 3), meter
        assert "output" not in cut.witnesses
        alarm = site.until(lambda m=meter: site.events("FAILED_TO_OPEN", m), "the alarm")  # type: ignore[misc]
        assert alarm[0].severity == "critical"
        site.until(lambda m=meter: site.row(m).fault is Fault.FAILED_TO_OPEN, "the live row")  # type: ignore[misc]
    failed_wh = {meter: site.register_wh(meter)[0] for meter in stuck}
    for meter, wh in failed_wh.items():
        site.until(lambda m=meter, wh=wh: site.register_wh(m)[0] >= wh + 3, "energy after it")  # type: ignore[misc]
    settle(site, *stuck)


def test_an_output_held_open_by_hand_is_told_and_left(site: Gateway) -> None:
    """Somebody turned it off at the device: an alarm, and no command until a person asks."""
    site.open(HELD_OFF, "100")
    site.load(LOAD_W, HELD_OFF)
    site.until(lambda: (site.row(HELD_OFF).power_w or 0) > 1_000, "the load")
    site.ask("fault", HELD_OFF, kind="manual_override", amount=0)
    site.until(lambda: site.events("OUTPUT_DIFFERS", HELD_OFF), "the alarm")
    time.sleep(2.0)
    assert not site.commands(HELD_OFF)
    assert site.row(HELD_OFF).intended_closed is True


def test_a_second_master_that_closes_a_cut_supply_is_overruled(site: Gateway) -> None:
    """Another client switches on what has no credit: it is opened again, what flowed is owed."""
    site.open(RECLOSED, "0.024")
    site.load(LOAD_W, RECLOSED)
    assert site.finished_cut(RECLOSED).state is CommandState.VERIFIED
    site.write_command(RECLOSED, SWITCH_REGISTER, SWITCH_ON)
    again = site.until(
        lambda: [cut for cut in site.cuts(RECLOSED)[1:] if cut.state.finished], "the second cut"
    )
    assert [(cut.state, cut.reason) for cut in again] == [(CommandState.VERIFIED, Reason.CREDIT)]
    assert site.row(RECLOSED).control_state is ControlState.DISCONNECTED
    assert not site.commands(RECLOSED, SwitchAction.CLOSE)
    settle(site, RECLOSED)


def test_the_ledger_proves_itself(site: Gateway) -> None:
    """After every lie above the chain, sums and registers agree."""
    assert site.verify()["transactions"] > 0
