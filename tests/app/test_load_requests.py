"""Requests about load on real stores: what they change, what they refuse, what survives."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.override import HOUR_MS, OverrideKind, Scope
from gateway.core.requests import (
    Body,
    Disconnect,
    EndOverride,
    EndShed,
    Reconnect,
    RestoreAll,
    Role,
    SetLimits,
    SetOverride,
    ShedLoad,
    UnlockOverload,
)
from gateway.core.switching import Reason
from gateway.store.commands import find_outcome
from gateway.store.supply_orders import limits_of, standing_overrides
from tests.app.control_site import PRICE_NANO, START_MS, ControlSite
from tests.app.test_control import begin, use

LATER_MS = START_MS + HOUR_MS


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ControlSite]:
    """A site with two flats on the feeder `main`."""
    made = ControlSite(tmp_path)
    yield made
    made.crash()


def code_of(site: ControlSite, key: str) -> str:
    """The refusal code on record for a request; empty when it was executed."""
    outcome = find_outcome(site.file.connection, key)
    assert outcome is not None
    return outcome.code


def audited(site: ControlSite) -> list[tuple[str, str]]:
    """(action, result) of every audit record; what control does itself has no result."""
    rows = site.file.connection.execute("SELECT body FROM audit ORDER BY seq").fetchall()
    bodies = [json.loads(row[0]) for row in rows]
    return [(body["action"], body.get("result", "")) for body in bodies]


KEEP = SetOverride("KEEP_CONNECTED", "point", "flat-1", LATER_MS, "oxygen machine")


@pytest.mark.parametrize(
    ("body", "role", "code"),
    [
        (SetLimits("flat-9", 1, 1, 1, "x"), Role.MANAGER, "POINT_UNKNOWN"),
        (SetLimits("flat-1", -1, 0, 0, "x"), Role.MANAGER, "LIMIT_RANGE"),
        (SetLimits("flat-1", 0, -5, 0, "x"), Role.MANAGER, "LIMIT_RANGE"),
        (SetLimits("flat-1", 0, 0, 10_000_001, "x"), Role.MANAGER, "LIMIT_RANGE"),
        (SetLimits("flat-1", 5_000, 0, 0, ""), Role.MANAGER, "REASON_MISSING"),
        (SetLimits("flat-1", 5_000, 0, 0, "x"), Role.OPERATOR, "FORBIDDEN"),
        (UnlockOverload("flat-9", "x"), Role.MANAGER, "POINT_UNKNOWN"),
        (UnlockOverload("flat-1", "x"), Role.MANAGER, "NOT_LOCKED"),
        (UnlockOverload("flat-1", ""), Role.MANAGER, "REASON_MISSING"),
        (ShedLoad("riser-9", "x", 5_000), Role.MANAGER, "FEEDER_UNKNOWN"),
        (ShedLoad("main", "", 5_000), Role.MANAGER, "REASON_MISSING"),
        (ShedLoad("main", "x"), Role.MANAGER, "SHED_TARGET"),
        (ShedLoad("main", "x", 5_000, 4), Role.MANAGER, "SHED_TARGET"),
        (ShedLoad("main", "x", -2), Role.MANAGER, "SHED_TARGET"),
        (ShedLoad("main", "x", -1, 1), Role.MANAGER, "SHED_TARGET"),
        (ShedLoad("main", "x", -1, 11), Role.MANAGER, "SHED_TARGET"),
        (EndShed("riser-9", "x"), Role.MANAGER, "FEEDER_UNKNOWN"),
        (EndShed("main", "x"), Role.MANAGER, "NO_SHED"),
        (EndShed("main", ""), Role.MANAGER, "REASON_MISSING"),
        (replace(KEEP, target="flat-9"), Role.MANAGER, "POINT_UNKNOWN"),
        (replace(KEEP, scope="feeder", target="riser-9"), Role.MANAGER, "FEEDER_UNKNOWN"),
        (replace(KEEP, kind="FOR_EVER"), Role.MANAGER, "OVERRIDE_KIND"),
        (replace(KEEP, kind="RESTORE_ALL"), Role.MANAGER, "OVERRIDE_KIND"),
        (replace(KEEP, scope="town"), Role.MANAGER, "OVERRIDE_SCOPE"),
        (replace(KEEP, scope="site", target=""), Role.MANAGER, "OVERRIDE_SCOPE"),
        (replace(KEEP, reason=""), Role.MANAGER, "REASON_MISSING"),
        (replace(KEEP, until_utc_ms=START_MS - 1), Role.MANAGER, "OVERRIDE_PAST"),
        (
            replace(KEEP, until_utc_ms=START_MS + 9 * HOUR_MS),
            Role.TECHNICIAN,
            "OVERRIDE_TOO_LONG",
        ),
        (replace(KEEP, until_utc_ms=START_MS + 73 * HOUR_MS), Role.MANAGER, "OVERRIDE_TOO_LONG"),
        (KEEP, Role.OPERATOR, "FORBIDDEN"),
        (EndOverride(1, "x"), Role.MANAGER, "OVERRIDE_UNKNOWN"),
        (EndOverride(1, ""), Role.MANAGER, "REASON_MISSING"),
        (RestoreAll(LATER_MS, "x"), Role.TECHNICIAN, "FORBIDDEN"),
        (RestoreAll(LATER_MS, ""), Role.MANAGER, "REASON_MISSING"),
        (RestoreAll(START_MS - 1, "x"), Role.MANAGER, "OVERRIDE_PAST"),
        (Disconnect("flat-1", "x", "CREDIT"), Role.MANAGER, "CAUSE_UNKNOWN"),
        (Disconnect("flat-1", "x", "LEGAL"), Role.TECHNICIAN, "FORBIDDEN"),
        (Disconnect("flat-1", "", "SAFETY"), Role.TECHNICIAN, "REASON_MISSING"),
        (Reconnect("flat-1", "x", "TAMPER"), Role.TECHNICIAN, "FORBIDDEN"),
        (Reconnect("flat-1", "x", "SAFETY"), Role.TECHNICIAN, "NOT_DISCONNECTED"),
    ],
)
async def test_a_refusal_changes_nothing_and_is_on_record(
    site: ControlSite, body: Body, role: Role, code: str
) -> None:
    """Its code in the outcome and in the audit chain; supply, limits and orders as before."""
    await begin(site)
    before = site.engine.snapshot(), site.books.states([0, 1])
    await site.do(body, role, key="bad")
    assert code_of(site, "bad") == code
    assert audited(site)[-1] == (body.TYPE, code)
    assert (site.engine.snapshot(), site.books.states([0, 1])) == before
    assert limits_of(site.file.connection, "flat-1") is None
    assert standing_overrides(site.file.connection) == []


async def test_limits_hold_at_once_and_after_a_restart(site: ControlSite) -> None:
    """30 s of 2.3 kW against a limit of 2 kW; nothing of it hangs on the process."""
    await begin(site)
    await site.do(SetLimits("flat-1", 2_000, 2_000, 0, "contract"), Role.TECHNICIAN)
    site.restart()
    site.engine.gate.chain_verified = True
    await use(site, 14, start_wh=1_000)
    assert site.engine.points[0].supply.reasons == set()
    await use(site, 3, start_wh=1_014)
    assert site.engine.points[0].supply.reasons == {Reason.OVERLOAD}
    site.restart()
    assert site.engine.points[0].supply.reasons == {Reason.OVERLOAD}


async def test_the_configurations_limits_hold_where_nobody_set_others(tmp_path: Path) -> None:
    """By register; a person's order takes their place, 0 takes them away."""
    site = ControlSite(tmp_path)
    text = site.directory / "config.yaml"
    text.write_text(
        text.read_text(encoding="utf-8").replace("p_max_w: 7360", "p_max_w: 7360, limit_t1_w: 99")
        + "feeders: [{id: main, capacity_w: 9000}]\n",
        encoding="utf-8",
    )
    site.crash()
    site = ControlSite(tmp_path)
    limits = site.engine.points[0].supply.limiter.limits
    assert limits.limit_w("grid", emergency=False) == 99
    assert limits.limit_w("generator", emergency=False) is None
    assert site.engine.governor.feeders["main"].capacity_w == 9_000
    await site.do(SetLimits("flat-1", 0, 0, 0, "none"))
    limits = site.engine.points[0].supply.limiter.limits
    assert limits.limit_w("grid", emergency=False) is None
    site.crash()


async def test_a_lock_out_ends_by_a_request(site: ControlSite) -> None:
    """OVERLOAD is gone, and the next command carries the request's key."""
    await begin(site)
    supply = site.engine.points[0].supply
    supply.limiter.rules = replace(supply.limiter.rules, max_trips=1)
    await site.do(SetLimits("flat-1", 2_000, 2_000, 0, "contract"))
    await use(site, 17, start_wh=1_000)
    await site.do(UnlockOverload("flat-1", "heater gone"), Role.TECHNICIAN, key="unlock")
    assert code_of(site, "unlock") == ""
    assert supply.reasons == set()


async def test_an_order_to_shed_survives_a_crash_right_after_its_answer(site: ControlSite) -> None:
    """With its outcome in one commit; ended by a request."""
    await begin(site)
    await site.do(ShedLoad("main", "transformer hot", 0), Role.TECHNICIAN)
    site.restart()
    order = site.engine.governor.shedders["main"].order
    assert order is not None
    assert (order.to_w, order.actor, order.reason) == (0, "anna", "transformer hot")
    site.clock.pass_s(2)
    site.read(1_001)
    site.engine.decide_all()
    assert site.engine.points[0].supply.reasons == {Reason.SHED}
    await site.do(EndShed("main", "cool again"))
    assert site.engine.points[0].supply.reasons == set()
    site.restart()
    assert site.engine.governor.shedders["main"].order is None


async def test_d13_override_cut_held_back_expired_and_cut_are_on_record(site: ControlSite) -> None:
    """In the audit chain in that order, over a restart in between; the command comes at the end."""
    await begin(site, 2 * PRICE_NANO)
    site.engine.gate.chain_verified = True
    await site.do(replace(KEEP, until_utc_ms=START_MS + 60_000), key="keep")
    assert code_of(site, "keep") == ""
    await use(site, 3, start_wh=1_000)
    supply = site.engine.points[0].supply
    assert (supply.reasons, supply.blocks.held_back) == (set(), {Reason.CREDIT})
    assert site.engine.commands == {}
    await site.books.keep(0)
    site.restart()
    site.engine.gate.chain_verified = True
    supply = site.engine.points[0].supply
    await use(site, 3, start_wh=1_003)
    assert supply.blocks.held_back == {Reason.CREDIT}
    site.clock.pass_s(60)
    await use(site, 1, start_wh=1_006)
    assert supply.reasons == {Reason.CREDIT}
    assert [track.close for track in site.engine.commands.values()] == [False]
    told = [action for action, _ in audited(site) if "override" in action]
    assert told == ["set_override", "override_suppressed_cut", "override_expired"]
    assert standing_overrides(site.file.connection) == []
    assert site.proof().problem_count == 0


async def test_an_override_does_not_expire_by_a_doubtful_clock(site: ControlSite) -> None:
    """A wall clock years ahead ends nobody's protection."""
    await begin(site)
    await site.do(KEEP)
    site.clock.wall_ms += 10 * 365 * 86_400_000
    site.read(1_000)
    await site.sweeper.sweep()
    assert not site.engine.gate.clock.trusted
    assert len(site.engine.governor.overrides.standing) == 1


async def test_an_override_is_ended_by_its_equal(site: ControlSite) -> None:
    """A technician ends a technician's, not a manager's."""
    await begin(site)
    await site.do(KEEP)
    await site.do(replace(KEEP, target="flat-2"), Role.TECHNICIAN)
    await site.do(EndOverride(1, "x"), Role.TECHNICIAN, key="no")
    assert code_of(site, "no") == "FORBIDDEN"
    await site.do(EndOverride(2, "x"), Role.TECHNICIAN, key="yes")
    await site.do(EndOverride(1, "x"), Role.MANAGER, key="also")
    assert (code_of(site, "yes"), code_of(site, "also")) == ("", "")
    site.restart()
    assert site.engine.governor.overrides.standing == ()


async def test_restoring_the_site_needs_two_and_survives_restarts(site: ControlSite) -> None:
    """The same manager twice is one; the earlier end of the two holds."""
    await begin(site)
    await site.do(RestoreAll(LATER_MS, "wrong tariff"), key="first")
    outcome = find_outcome(site.file.connection, "first")
    assert outcome is not None
    assert outcome.result == {"restored": False}
    site.restart()
    await site.do(RestoreAll(LATER_MS, "wrong tariff"), key="again")
    assert code_of(site, "again") == "SAME_PERSON"
    site.actor = "bela"
    await site.do(RestoreAll(LATER_MS + 5, "wrong tariff"), key="second")
    site.restart()
    (override,) = site.engine.governor.overrides.standing
    assert (override.kind, override.scope) == (OverrideKind.RESTORE_ALL, Scope.SITE)
    assert (override.actor, override.until_utc_ms) == ("anna, bela", LATER_MS)


async def test_a_first_word_for_a_restoration_lapses(site: ControlSite) -> None:
    """Eleven minutes later it is the first again."""
    await begin(site)
    await site.do(RestoreAll(LATER_MS, "x"))
    site.clock.pass_s(660)
    site.read(1_000)
    await site.sweeper.sweep()
    site.actor = "bela"
    await site.do(RestoreAll(LATER_MS, "x"), key="late")
    outcome = find_outcome(site.file.connection, "late")
    assert outcome is not None
    assert outcome.result == {"restored": False}


async def test_each_cause_stands_and_goes_by_itself(site: ControlSite) -> None:
    """SAFETY of a technician, LEGAL of a manager; a switch proof takes back only its own."""
    await begin(site)
    await site.do(Disconnect("flat-1", "works", "SAFETY"), Role.TECHNICIAN)
    await site.do(Disconnect("flat-1", "court order", "LEGAL"))
    await site.do(Disconnect("flat-1", "proof", owner="proof 1"))
    await site.do(Disconnect("flat-1", "moving out"))
    supply = site.engine.points[0].supply
    await site.do(Reconnect("flat-1", owner="proof 1"), key="ours")
    assert code_of(site, "ours") == ""
    site.restart()
    supply = site.engine.points[0].supply
    assert supply.reasons == {Reason.SAFETY, Reason.LEGAL, Reason.MANUAL}
    await site.do(Reconnect("flat-1", owner="proof 1"), key="twice")
    assert code_of(site, "twice") == "NOT_DISCONNECTED"
    for cause in ("MANUAL", "SAFETY", "LEGAL"):
        await site.do(Reconnect("flat-1", "done", cause))
    assert supply.reasons == set()


async def test_a_request_that_waits_for_its_switch_is_known_after_a_reload(
    site: ControlSite,
) -> None:
    """The command that comes later still carries the key; a later one does not."""
    await begin(site)
    site.engine.expect(0, "mine", close=True)
    await site.sweeper.sweep()
    site.restart()
    assert site.engine._request_of(0, close=True, now_ns=site.clock.mono_ns()) == "mine"
    assert site.engine._request_of(0, close=True, now_ns=site.clock.mono_ns()) is None
