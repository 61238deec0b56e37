"""The proof that an output falls off by itself: seen or not, nothing of the test stays behind."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from gateway.app.clock import SystemClock
from gateway.app.commission.fall_back import TEST_S
from gateway.app.commission.findings import Check, Finding, Result
from gateway.app.commission.report import meter_report
from gateway.app.commission.run import FAILED, PASSED, Examined, Wishes, examine
from gateway.app.commission.switchers import choose_switcher
from gateway.sim.faults import fault_named
from gateway.sim.meter import OutputOn
from tests.app.commission_north import StrictNorth, serving
from tests.app.commission_site import CommissionSite, commission_site

pytestmark = pytest.mark.slow
REMOTE_TIMEOUT = 51718
AFTER_S = 60
FAILS = {"fail_safe": "fail_disconnected", "fail_safe_after_s": AFTER_S}
CONNECTS = {**FAILS, "fail_safe": "fail_connected", "output_on": "disconnects"}


def timeout_s(site: CommissionSite, index: int) -> int:
    """What the meter holds."""
    return site.customer(index).meter.settings[REMOTE_TIMEOUT]


def is_closed(site: CommissionSite, index: int) -> bool:
    """Whether the customer has supply."""
    meter = site.customer(index).meter
    meter.advance(site.site.now_s())
    return meter.contactor.closed


def found(examined: Examined, check: Check) -> list[Finding]:
    """The findings of a check."""
    return [finding for finding in examined.findings if finding.check is check]


def wrong(examined: Examined) -> set[Check]:
    """The checks that failed."""
    return {finding.check for finding in examined.findings if finding.result is Result.FAILED}


async def test_a_fall_back_is_proved_set_and_told(tmp_path: Path) -> None:
    """--fix writes the time; the output is seen to fall; a meter that does not is no such point."""
    async with commission_site(tmp_path, meters=5) as site:
        ids = [meter.meter_id for meter in site.config.meters]
        await site.site.add_fault(ids[1], fault_named("remote_timeout_ignored"))
        site.site.set_setting(ids[2], REMOTE_TIMEOUT, AFTER_S)
        see = partial(site.examine, with_load=True, check_only=False)
        healthy, ignored, already, unset, holds = await asyncio.gather(
            see(site.meter(0, **FAILS), fix=True),
            see(site.meter(1, **FAILS), fix=True),
            see(site.meter(2, **FAILS)),
            see(site.meter(3, **FAILS)),
            see(site.meter(4)),
        )
        assert [timeout_s(site, at) for at in range(5)] == [AFTER_S, AFTER_S, AFTER_S, 0, 0]
        assert all(is_closed(site, at) for at in range(5))
        report = meter_report(site.config, site.meter(0, **FAILS), healthy, by="", at="")
        openings = len(site.customer(0).meter.journal.openings())
    assert (healthy.verdict, wrong(healthy)) == (PASSED, set())
    assert healthy.fixed == (f"remote timeout of output 0.0: 0 -> {AFTER_S}",)
    (told,) = found(healthy, Check.FALL_BACK)
    assert told.result is Result.OK
    seen_s = float(told.text.split()[2])
    assert TEST_S <= seen_s < TEST_S + 1.5
    assert openings == 2  # the switch proof, and the fall
    assert report["configured"]["fail_safe_after_s"] == AFTER_S  # type: ignore[index]
    assert report["found"]["remote_timeout_s"] == AFTER_S  # type: ignore[index]
    assert already.verdict == PASSED
    assert (ignored.verdict, wrong(ignored)) == (FAILED, {Check.FALL_BACK})
    (told,) = found(ignored, Check.FALL_BACK)
    assert "this meter does not fall back" in told.text
    assert "fail_safe: hold_last" in told.next_step
    assert (unset.verdict, wrong(unset)) == (FAILED, {Check.REMOTE_TIMEOUT, Check.UNPROVEN})
    assert f"set the remote timeout to {AFTER_S}" in found(unset, Check.REMOTE_TIMEOUT)[0].next_step
    assert holds.verdict == PASSED
    assert not found(holds, Check.FALL_BACK)


async def test_supply_that_falls_back_to_connected_is_proved(tmp_path: Path) -> None:
    """The output that takes supply away falls off: supply is there again by itself, or at last."""
    async with commission_site(tmp_path, meters=2, output_on=OutputOn.DISCONNECTS) as site:
        ids = [meter.meter_id for meter in site.config.meters]
        await site.site.add_fault(ids[1], fault_named("remote_timeout_ignored"))
        healthy, ignored = await asyncio.gather(
            *(site.examine(site.meter(at, **CONNECTS), with_load=True, fix=True) for at in (0, 1))
        )
        assert [timeout_s(site, at) for at in (0, 1)] == [AFTER_S, AFTER_S]
        await asyncio.sleep(0.2)
        assert all(is_closed(site, at) for at in (0, 1))
    assert (healthy.verdict, found(healthy, Check.FALL_BACK)[0].result) == (PASSED, Result.OK)
    assert wrong(ignored) == {Check.FALL_BACK}


@pytest.mark.parametrize("policy", [FAILS, CONNECTS], ids=["disconnected", "connected"])
async def test_a_cancelled_proof_leaves_neither_the_dark_nor_the_short_time(
    tmp_path: Path, policy: dict[str, object]
) -> None:
    """Ctrl-C while the short time runs: the command ends once both are as they were."""
    wiring = OutputOn(str(policy.get("output_on", "connects")))
    async with commission_site(tmp_path, meters=1, output_on=wiring) as site:
        work = asyncio.create_task(site.examine(site.meter(0, **policy), with_load=True, fix=True))
        async with asyncio.timeout(40):
            while timeout_s(site, 0) != TEST_S:
                await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)
        assert timeout_s(site, 0) == TEST_S
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert timeout_s(site, 0) == AFTER_S
        await asyncio.sleep(TEST_S + 1.0)
        assert is_closed(site, 0)


async def test_a_short_time_that_cannot_be_taken_back_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Write protection in the middle of the test: both findings say what to do."""
    monkeypatch.setattr("gateway.app.commission.fall_back.BRING_BACK_S", 2.0)
    async with commission_site(tmp_path, meters=1) as site:
        work = asyncio.create_task(site.examine(site.meter(0, **FAILS), with_load=True, fix=True))
        async with asyncio.timeout(40):
            while timeout_s(site, 0) != TEST_S:
                await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)
        await site.site.add_fault(site.config.meters[0].meter_id, fault_named("write_protected"))
        examined = await work
    assert wrong(examined) == {Check.REMOTE_TIMEOUT, Check.SWITCH_CLOSE}
    assert f"set it to {AFTER_S}" in found(examined, Check.REMOTE_TIMEOUT)[-1].next_step


async def test_at_a_point_that_control_switches_the_proof_waits(tmp_path: Path) -> None:
    """Control keeps the output on: not done, and no word that it was proved."""
    async with commission_site(tmp_path, meters=1) as site:
        site.site.set_setting(site.config.meters[0].meter_id, REMOTE_TIMEOUT, AFTER_S)
        clock, meter = SystemClock(), site.meter(0, **FAILS)
        with serving(StrictNorth(site)):
            choose = partial(choose_switcher, site.config, meter, clock)
            examined = await examine(meter, clock, Wishes(serials={}, with_load=True), choose)
        assert timeout_s(site, 0) == AFTER_S
    (told,) = found(examined, Check.FALL_BACK)
    assert told.result is Result.NOT_DONE
    assert wrong(examined) == {Check.UNPROVEN}
    assert "fall off" in found(examined, Check.UNPROVEN)[0].text


@pytest.mark.parametrize(("after_s", "result"), [(30, Result.NOT_DONE), (60, Result.OK)])
async def test_an_output_that_control_holds_too_often_is_not_called_one_that_never_falls(
    tmp_path: Path, after_s: int, result: Result
) -> None:
    """Control holds outputs also of points that it leaves alone; nothing was written for it."""
    async with commission_site(tmp_path, meters=1) as site:
        site.site.set_setting(site.config.meters[0].meter_id, REMOTE_TIMEOUT, after_s)
        policy = {**FAILS, "fail_safe_after_s": after_s}
        clock, meter = SystemClock(), site.meter(0, **policy)
        with serving(StrictNorth(site, is_enforced=False)):
            choose = partial(choose_switcher, site.config, meter, clock)
            examined = await examine(meter, clock, Wishes(serials={}, with_load=True), choose)
        assert timeout_s(site, 0) == after_s
        await asyncio.sleep(0.2)
        assert is_closed(site, 0)
    (told,) = found(examined, Check.FALL_BACK)
    assert told.result is result
    if result is Result.NOT_DONE:
        assert (told.text.split(",")[0], told.next_step) == (
            "control holds this output every 9 s",
            "stop the gateway and run again",
        )
