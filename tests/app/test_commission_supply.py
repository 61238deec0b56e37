"""Commissioning leaves nobody in the dark, and closes nothing that somebody else keeps open."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from gateway.app.cli import app, run
from gateway.app.clock import SystemClock
from gateway.app.commission.findings import NEVER_ACCEPTED, Check, Result
from gateway.app.commission.run import Examined, Wishes, examine
from gateway.app.commission.switchers import choose_switcher
from gateway.sim.faults import fault_named
from gateway.sim.registers import OUTPUTS
from tests.app.commission_north import StrictNorth, serving
from tests.app.commission_site import CommissionSite, commission_site

pytestmark = pytest.mark.slow
OUTPUT_MODE, REMOTE_TIMEOUT = 51712, 51718


def is_closed(site: CommissionSite, index: int = 0) -> bool:
    """Whether the customer has supply."""
    meter = site.customer(index).meter
    meter.advance(site.site.now_s())
    return meter.contactor.closed


async def until_open(site: CommissionSite) -> None:
    """Return once the contactor is open."""
    async with asyncio.timeout(20):
        while is_closed(site):
            await asyncio.sleep(0.05)


async def through_control(site: CommissionSite) -> Examined:
    """Prove the first meter with load, through whoever answers as north."""
    clock, meter = SystemClock(), site.meter(0)
    choose = partial(choose_switcher, site.config, meter, clock)
    return await examine(meter, clock, Wishes(serials={}, with_load=True), choose)


def finding(examined: Examined, check: Check) -> tuple[Result, str]:
    """Result and words of a check."""
    (found,) = [each for each in examined.findings if each.check is check]
    return found.result, found.text


async def test_a_meter_that_cannot_be_read_is_closed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its counter turns to nonsense while the supply is open: the command does not wait for it."""
    monkeypatch.setattr("gateway.app.commission.proof.BRING_BACK_S", 2.0)
    async with commission_site(tmp_path, meters=1) as site:
        name = site.config.meters[0].meter_id
        site.site.set_load(name, 60.0)
        work = asyncio.create_task(site.examine(site.meter(0, feedback=None), with_load=True))
        await until_open(site)
        await site.site.add_fault(name, fault_named("nan_energy"))
        examined = await work
        assert is_closed(site)
    assert examined.verdict == "failed"


async def test_ctrl_c_does_not_cut_short_the_closing(tmp_path: Path) -> None:
    """The meter takes its time to obey, and the person who waits gives up."""
    async with commission_site(tmp_path, meters=1) as site:
        name = site.config.meters[0].meter_id
        work = asyncio.create_task(site.examine(site.meter(0), with_load=True))
        await until_open(site)
        await site.site.add_fault(name, fault_named("switch_ignored"))
        await asyncio.sleep(4.0)  # the proof of the opening takes less
        assert not work.done()
        work.cancel()
        await asyncio.sleep(0.5)
        await site.site.clear_faults(name)
        await asyncio.wait([work], timeout=20)
        assert work.cancelled()
        await asyncio.sleep(0.2)
        assert is_closed(site)


async def test_a_request_under_way_is_taken_back_after_it_arrived(tmp_path: Path) -> None:
    """Ctrl-C while the disconnection is on its way: the reconnection comes after it, not before."""
    async with commission_site(tmp_path, meters=1) as site:
        with serving(StrictNorth(site, arrives_late_s=2.0)) as north:
            work = asyncio.create_task(through_control(site))
            await asyncio.sleep(4.0)  # the survey takes three seconds
            while not work.done() and not north.asked:
                work.cancel()
                await asyncio.wait([work], timeout=30)
            await asyncio.wait([work])
            await asyncio.sleep(1.0)
        assert north.asked == ["disconnect", "reconnect", "confirm_reconnect"]
        assert is_closed(site)


@pytest.mark.parametrize("action", ["disconnect", "reconnect", "confirm_reconnect"])
async def test_a_lost_answer_leaves_nobody_in_the_dark(tmp_path: Path, action: str) -> None:
    """Control carries a request out and nobody hears of it: it is taken back, or gone on with."""
    async with commission_site(tmp_path, meters=1) as site:
        with serving(StrictNorth(site, lost_answers={action: 1})) as north:
            examined = await through_control(site)
            await asyncio.sleep(0.5)
        assert is_closed(site), north.asked
        assert north.reasons == set()
    assert finding(examined, Check.SWITCH_CLOSE)[0] is Result.OK


async def test_a_supply_that_control_keeps_open_is_left_open(tmp_path: Path) -> None:
    """The credit ran out during the proof: nobody is told to bridge the contactor."""
    async with commission_site(tmp_path, meters=1) as site:
        with serving(StrictNorth(site, credit_ends=True)) as north:
            examined = await through_control(site)
        assert not is_closed(site)
        assert north.reasons == {"CREDIT"}
    result, text = finding(examined, Check.SWITCH_CLOSE)
    assert (result, "CREDIT" in text) == (Result.NOT_DONE, True)
    assert "bridge" not in " ".join(each.next_step for each in examined.findings)


async def test_what_somebody_else_switches_off_meanwhile_stays_off(tmp_path: Path) -> None:
    """The proof takes back its own disconnection by its name; a person's stands, and is told."""
    async with commission_site(tmp_path, meters=1) as site:
        with serving(StrictNorth(site, somebody_else=True)) as north:
            examined = await through_control(site)
        assert not is_closed(site)
        assert (north.asked, north.reasons) == (["disconnect", "reconnect"], {"MANUAL"})
    assert len(set(north.owners)) == 1
    assert north.owners[0].startswith("proof ")
    result, text = finding(examined, Check.SWITCH_CLOSE)
    assert (result, "MANUAL" in text) == (Result.NOT_DONE, True)


async def test_nobody_elses_reason_is_taken_back(tmp_path: Path) -> None:
    """A reason stands although the output reads closed: nothing is asked for."""
    async with commission_site(tmp_path, meters=1) as site:
        with serving(StrictNorth(site, reasons={"MANUAL"})) as north:
            examined = await through_control(site)
        assert (north.asked, north.reasons) == ([], {"MANUAL"})
    result, text = finding(examined, Check.SWITCH_OPEN)
    assert (result, "blocked already: MANUAL" in text) == (Result.FAILED, True)


async def test_a_reconnection_that_only_waits_for_a_person_is_confirmed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The proof was killed after its reason was taken back: `meter switch ID on` goes on there."""
    async with commission_site(tmp_path, meters=1) as site:
        name, meter = site.config.meters[0].meter_id, site.customer(0).meter
        meter.switch(site.site.now_s(), OUTPUTS[0], on=False)
        words = ["meter", "switch", name, "on", "-c", str(site.path)]

        def switch() -> object:
            with pytest.raises(SystemExit) as ended:
                run(lambda: app(words))
            return ended.value.code

        with serving(StrictNorth(site, state="ready_for_reconnection")) as north:
            assert await asyncio.to_thread(switch) == 0, capsys.readouterr().err
            await asyncio.sleep(0.2)
            assert is_closed(site)
            assert await asyncio.to_thread(switch) == 1  # connected: there is nothing to do
        assert north.asked == ["reconnect", "confirm_reconnect", "reconnect"]


async def test_a_timer_that_would_open_the_supply_again_prevents_the_proof(tmp_path: Path) -> None:
    """Each command starts the remote timeout: after the proof the output would fall back."""
    async with commission_site(tmp_path, meters=1) as site:
        site.site.set_setting(site.config.meters[0].meter_id, REMOTE_TIMEOUT, 5)
        examined = await site.examine(site.meter(0), with_load=True)
        assert is_closed(site)
    result, text = finding(examined, Check.SWITCH_OPEN)
    assert (result, "REMOTE_TIMEOUT" in text) == (Result.NOT_DONE, True)


async def test_a_fix_that_is_interrupted_closes_the_supply_first(tmp_path: Path) -> None:
    """The change of use opens the supply; Ctrl-C in that moment."""
    async with commission_site(tmp_path, meters=1) as site:
        meter = site.customer(0).meter
        meter.switch(site.site.now_s(), OUTPUTS[0], on=False)
        site.site.set_setting(site.config.meters[0].meter_id, OUTPUT_MODE, 1)
        assert is_closed(site)
        work = asyncio.create_task(site.examine(site.meter(0), fix=True))
        await until_open(site)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        await asyncio.sleep(0.2)
        assert is_closed(site)


async def test_another_meter_is_not_fixed(tmp_path: Path) -> None:
    """Cables exchanged: the neighbour's meter is looked at and not written to."""
    async with commission_site(tmp_path, meters=2) as site:
        first, second = (meter.meter_id for meter in site.config.meters)
        for name in (first, second):
            site.site.set_setting(name, REMOTE_TIMEOUT, 60)
        await site.site.exchange_cables(first, second)
        examined = await site.examine(site.meter(0), fix=True)
        assert [c.meter.settings[REMOTE_TIMEOUT] for c in site.site.customers()] == [60, 60]
    assert examined.fixed == ()
    assert finding(examined, Check.SERIAL)[0] is Result.FAILED


def test_a_supply_that_does_not_come_back_is_accepted_by_nobody() -> None:
    """A cut there would be for good."""
    assert {Check.SWITCH_CLOSE, Check.AUXILIARY, Check.REACH, Check.IDENTITY} == NEVER_ACCEPTED
