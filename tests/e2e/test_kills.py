"""Control killed where it hurts most: between the intent, the act and the proof of a switch.

Kills at random moments are in tests/faults/kill_loop.py.
"""

import time

import pytest

from gateway.core.switching import ControlState
from gateway.store.commands import CommandState, SwitchAction
from gateway.store.db import reading
from gateway.store.ledger import LEDGER
from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import Gateway

pytestmark = pytest.mark.slow

CUT_DONE, CUT_IGNORED, PAID, CONTROL_AWAY = "flat-101", "flat-102", "flat-103", "flat-104"


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Gateway:
    """Four flats that draw nothing until told to."""
    return make_site(meters=4).start()


def kill_control_between_intent_and_proof(site: Gateway, meter: str) -> None:
    """SIGKILL for control while its command is on record and not finished."""
    site.until(lambda: site.cuts(meter), f"a command for {meter}")
    site.kill("control")
    left = site.cuts(meter)
    assert [cut.state.finished for cut in left] == [False], "the kill came too late"


def test_crash_after_the_act_is_reconciled_by_looking(site: Gateway) -> None:
    """D14: the output obeyed and control died: no second command, one finished cut on record."""
    site.open(CUT_DONE, "0.008")
    # The reply to the command comes late, so that control waits for it when it is killed.
    site.ask("fault", CUT_DONE, kind="late_reply", function=6, amount=0.8)
    site.load(4_000, CUT_DONE)
    site.until(lambda: not site.ask("state", CUT_DONE)["contactor_closed"], "the opening")
    kill_control_between_intent_and_proof(site, CUT_DONE)
    site.ask("clear", CUT_DONE)
    site.start_process("control")
    site.ready()
    site.until(
        lambda: site.row(CUT_DONE).control_state is ControlState.DISCONNECTED, "the reconciliation"
    )
    time.sleep(2.0)
    cuts = site.cuts(CUT_DONE)
    assert [(cut.state, cut.attempts) for cut in cuts] == [(CommandState.VERIFIED, 1)]
    assert cuts[0].detail["reconciled"] is True
    assert len(site.ask("openings", CUT_DONE)["openings"]) == 1
    assert len(site.events("SUPPLY_CUT", CUT_DONE)) == 1
    assert not site.commands(CUT_DONE, SwitchAction.CLOSE)


def test_crash_before_the_act_is_made_good(site: Gateway) -> None:
    """D14: the output had not moved when control died: it is commanded once more, then open."""
    site.open(CUT_IGNORED, "0.008")
    site.ask("fault", CUT_IGNORED, kind="switch_ignored")
    site.ask("fault", CUT_IGNORED, kind="late_reply", function=6, amount=0.8)
    site.load(4_000, CUT_IGNORED)
    kill_control_between_intent_and_proof(site, CUT_IGNORED)
    site.ask("clear", CUT_IGNORED)
    assert site.ask("state", CUT_IGNORED)["contactor_closed"]
    site.start_process("control")
    site.until(
        lambda: [cut for cut in site.cuts(CUT_IGNORED) if cut.state is CommandState.VERIFIED],
        "the cut",
    )
    cuts = site.cuts(CUT_IGNORED)
    assert [(cut.state, cut.attempts) for cut in cuts] == [
        (CommandState.FAILED, 1),
        (CommandState.VERIFIED, 1),
    ]
    assert cuts[0].detail["reconciled"] is True
    assert len(site.ask("openings", CUT_IGNORED)["openings"]) == 1
    assert site.row(CUT_IGNORED).control_state is ControlState.DISCONNECTED


def test_a_recharge_from_before_the_start_comes_before_the_cut(site: Gateway) -> None:
    """Credit ran out while control was away, but it was paid: executed first, nobody is cut."""
    site.open(PAID, "0.016")
    site.open(CONTROL_AWAY, "0.016")  # the same story without a payment
    site.ready()
    site.kill("control")
    started_wh = site.register_wh(PAID)[0]
    site.load(6_000, PAID, CONTROL_AWAY)
    answer = site.recharge(PAID, "50", "paid-in-time")
    assert answer["state"] != "executed"
    site.until(lambda: site.register_wh(PAID)[0] >= started_wh + 5, "consumption past zero")
    site.start_process("control")
    assert site.finished_cut(CONTROL_AWAY).state is CommandState.VERIFIED
    site.until(lambda: site.outcome("paid-in-time") == "executed", "the recharge")
    assert site.recharge(PAID, "50", "paid-in-time")["state"] == "executed"
    time.sleep(2.0)
    assert not site.cuts(PAID)
    assert site.row(PAID).control_state is ControlState.CONNECTED
    assert site.ask("state", PAID)["contactor_closed"]


def test_the_ledger_proves_itself(site: Gateway) -> None:
    """After every kill above the chain holds, and no command was left unfinished."""
    site.load(0, CUT_DONE, CUT_IGNORED, PAID, CONTROL_AWAY)
    site.verify()
    with reading(site.paths.ledger, LEDGER) as connection:
        unfinished = connection.execute(
            "SELECT count(*) FROM switch_command WHERE finished_utc_ms IS NULL"
        ).fetchone()[0]
    assert unfinished == 0
