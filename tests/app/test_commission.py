"""Commissioning simulated meters with planted mistakes: each is found and named."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from gateway.app.commission.findings import Check, Finding, Result
from gateway.app.commission.run import ACCEPTED, FAILED, PASSED, Examined
from gateway.sim.faults import fault_named
from gateway.sim.meter import REFRESH_S
from gateway.sim.registers import OUTPUTS
from tests.app.commission_site import LOAD_W, CommissionSite, commission_site

Plant = Callable[[CommissionSite, str], Awaitable[None]]
OUTPUT_MODE, REMOTE_TIMEOUT, INPUT_USE, PRIMARY_A = 51712, 51718, 50025, 50011


def fault(kind: str, amount: float | None = None) -> Plant:
    """Plant a fault of the simulator."""

    async def plant(site: CommissionSite, meter: str) -> None:
        await site.site.add_fault(meter, fault_named(kind, amount=amount))

    return plant


def setting(address: int, value: int) -> Plant:
    """Set a parameter wrong at the meter."""

    async def plant(site: CommissionSite, meter: str) -> None:
        site.site.set_setting(meter, address, value)

    return plant


async def nothing(_: CommissionSite, __: str) -> None:
    """A healthy meter."""


# One mistake a meter, and exactly the checks that fail for it.
MISTAKES: list[tuple[str, Plant, set[Check], str]] = [
    ("healthy", nothing, set(), ""),
    ("reversed", fault("ct_reversed", 2), {Check.CT_REVERSED, Check.REFERENCE}, "L2 -"),
    ("all reversed", fault("ct_reversed", 0), {Check.CT_REVERSED, Check.REFERENCE}, "export"),
    ("ratio built in", fault("ct_ratio", 10), {Check.REFERENCE}, "ten times too much"),
    ("ratio set", setting(PRIMARY_A, 200), {Check.CT_RATIO}, "counts 2 times what flows"),
    (
        "currents exchanged",
        fault("phases_exchanged", 1),
        {Check.PHASE_CURRENT, Check.REFERENCE},
        "L2 and L3 are exchanged",
    ),
    ("protected", fault("write_protected"), {Check.PROTECTION}, "hardware write protection"),
    ("password", fault("password"), {Check.PROTECTION}, "password"),
    ("filter", fault("subnet_filter"), {Check.WRITE}, "IP filter"),
    ("output mode", setting(OUTPUT_MODE, 1), {Check.OUTPUT_MODE}, "type of use 1"),
    ("timeout", setting(REMOTE_TIMEOUT, 60), {Check.REMOTE_TIMEOUT}, "falls back 60 s"),
    ("input", setting(INPUT_USE, 0), {Check.TARIFF_INPUT}, "generator would be counted as grid"),
    ("held by hand", fault("manual_override", 1), {Check.SWITCH_OPEN}, "output still reads closed"),
    ("welded", fault("contactor_welded"), {Check.SWITCH_OPEN}, "welded"),
    ("auxiliary", fault("auxiliary_behind_contactor"), {Check.AUXILIARY}, "lost its own supply"),
    ("another model", fault("identity"), {Check.IDENTITY}, "PAC2200"),
    ("silent", fault("black_hole"), {Check.REACH}, "no connection"),
]


def failed_checks(examined: Examined) -> set[Check]:
    """The checks that failed."""
    return {finding.check for finding in examined.findings if finding.result is Result.FAILED}


def found(examined: Examined, check: Check) -> Finding:
    """The one finding of a check."""
    (finding,) = [finding for finding in examined.findings if finding.check is check]
    return finding


@pytest.mark.slow
async def test_each_planted_mistake_is_found_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every meter has one mistake; it fails exactly the checks that are there for it."""
    monkeypatch.setattr("gateway.app.commission.proof.BRING_BACK_S", 2.0)
    async with commission_site(tmp_path, meters=len(MISTAKES) + 2) as site:
        ids = [meter.meter_id for meter in site.config.meters]
        for meter_id, (_, plant, _, _) in zip(ids, MISTAKES, strict=False):
            await plant(site, meter_id)
        await site.site.exchange_cables(ids[-2], ids[-1])
        examined = await asyncio.gather(
            *(
                site.examine(meter, with_load=True, reference_w=LOAD_W)
                for meter in site.config.meters
            )
        )
        closed = [customer.meter.contactor.closed for customer in site.site.customers()]
    for (name, _, wrong, words), outcome in zip(MISTAKES, examined, strict=False):
        said = "; ".join(f"{each.check}: {each.text}" for each in outcome.findings)
        seen = failed_checks(outcome) - ({Check.SWITCH_CLOSE} if name == "auxiliary" else set())
        assert seen == wrong, f"{name}: {said}"
        assert outcome.verdict == (FAILED if wrong else PASSED)
        assert words in " ".join(f"{each.text} {each.next_step}" for each in outcome.findings), name
    for outcome, other in zip(examined[-2:], (ids[-1], ids[-2]), strict=True):
        assert failed_checks(outcome) == {Check.SERIAL}
        assert f"which is {other}'s meter" in found(outcome, Check.SERIAL).text
        assert found(outcome, Check.SWITCH_OPEN).result is Result.NOT_DONE
    # Nobody is left in the dark, but the customer whose meter died with its contactor.
    dark = [name for (name, *_), up in zip(MISTAKES, closed, strict=False) if not up]
    assert dark == ["auxiliary"]
    healthy = examined[0]
    assert {each.result for each in healthy.findings} == {Result.OK}
    assert {each.check for each in healthy.findings} >= set(Check) - {
        *(Check.REACH, Check.P_MAX, Check.OUTPUT_GROUP, Check.UNPROVEN, Check.FALL_BACK)
    }


@pytest.mark.slow
async def test_other_wiring_and_odd_loads_are_told_apart(tmp_path: Path) -> None:
    """A contactor before the meter, a swinging load, no load, a reference that is elsewhere."""
    async with commission_site(tmp_path, meters=6, upstream=True) as site:
        ids = [meter.meter_id for meter in site.config.meters]
        site.site.set_load(ids[1], 0.0)
        site.site.set_load(ids[2], 100.0)
        site.site.set_load(ids[5], 0.0)
        await asyncio.sleep(2 * REFRESH_S)
        upstream, dark, small, downstream, bypassed, unlit = await asyncio.gather(
            site.examine(site.meter(0, contactor="upstream"), with_load=True),
            site.examine(site.meter(1, contactor="upstream", feedback=None), reference_w=LOAD_W),
            site.examine(site.meter(2, contactor="upstream", fail_safe="fail_disconnected")),
            site.examine(site.meter(3, contactor="downstream"), with_load=True),
            site.examine(site.meter(4, t2_source="grid", feedback="0.0", ct_ratio=None)),
            site.examine(site.meter(5, contactor="upstream", feedback=None), with_load=True),
        )
    assert upstream.verdict == PASSED
    assert "voltage" in found(upstream, Check.SWITCH_OPEN).text
    assert found(unlit, Check.SWITCH_OPEN).result is Result.OK  # the voltage went
    assert found(dark, Check.CT_REVERSED).result is Result.NOT_DONE
    assert found(dark, Check.FEEDBACK).result is Result.NOT_DONE
    assert "not on this meter" in found(dark, Check.REFERENCE).text
    assert failed_checks(small) == {Check.REMOTE_TIMEOUT}
    assert failed_checks(downstream) == {Check.CONTACTOR}
    assert failed_checks(bypassed) == {Check.FEEDBACK}
    assert found(bypassed, Check.CT_RATIO).result is Result.WARNING


@pytest.mark.slow
async def test_what_is_asked_for_is_put_right_and_read_back(tmp_path: Path) -> None:
    """`--fix` sets type of use and timeout, without leaving the supply open; nothing else."""
    async with commission_site(tmp_path, meters=3) as site:
        first, second, _ = (meter.meter_id for meter in site.config.meters)
        # Off as a switching output: in another mode the supply is on, and the change opens it.
        meter = site.customer(0).meter
        meter.switch(site.site.now_s(), OUTPUTS[0], on=False)
        site.site.set_setting(first, OUTPUT_MODE, 1)
        site.site.set_setting(first, REMOTE_TIMEOUT, 60)
        site.site.set_setting(second, OUTPUT_MODE, 1)
        await site.site.add_fault(second, fault_named("write_protected"))
        fixed, protected, untouched = await asyncio.gather(
            *(site.examine(meter, fix=True) for meter in site.config.meters)
        )
        assert (meter.settings[OUTPUT_MODE], meter.settings[REMOTE_TIMEOUT]) == (2, 0)
        assert site.customer(2).meter.changes.all == 0
        meter.advance(site.site.now_s())
        assert meter.contactor.closed
    assert fixed.verdict == PASSED
    assert list(fixed.fixed) == [
        "remote timeout of output 0.0: 60 -> 0",
        "type of use of output 0.0: 1 -> 2",
        "the supply, opened by the change, was closed again",
    ]
    assert untouched.fixed == protected.fixed == ()
    assert failed_checks(protected) == {Check.OUTPUT_MODE, Check.PROTECTION}


@pytest.mark.slow
async def test_a_responsible_person_may_accept_some_failures(tmp_path: Path) -> None:
    """A failed check with a reason passes as accepted; another device or a dead meter never."""
    async with commission_site(tmp_path, meters=2) as site:
        meter = site.meter(0, ct_ratio="200/5")
        why = {"CT_RATIO": "plate unreadable", "P_MAX": "not failed", "IDENTITY": "no"}
        accepted, other = await asyncio.gather(
            site.examine(meter, accepted=why),
            site.examine(site.meter(0, port=1), accepted={"REACH": "trust me"}),
        )
    assert (accepted.verdict, accepted.accepted) == (ACCEPTED, {"CT_RATIO": "plate unreadable"})
    assert other.verdict == FAILED


@pytest.mark.slow
async def test_supply_is_enforced_with_a_proof_or_a_persons_word(tmp_path: Path) -> None:
    """Who saw nothing open and close enforces nothing: not asked for, no load and no contact's
    witness, or hindered by a mistake that a person accepted for itself alone."""
    async with commission_site(tmp_path, meters=7) as site:
        for dark in (2, 3):
            site.site.set_load(site.config.meters[dark].meter_id, 0.0)
        site.site.set_setting(site.config.meters[4].meter_id, REMOTE_TIMEOUT, 60)
        await asyncio.sleep(2 * REFRESH_S)
        see = partial(site.examine, check_only=False)
        word = {"UNPROVEN": "nobody at home"}
        unasked, proven, dark_coil, dark_contact, hindered, answered, looked = await asyncio.gather(
            see(site.meter(0)),
            see(site.meter(1), with_load=True),
            see(site.meter(2, feedback=None), with_load=True),
            see(site.meter(3), with_load=True),
            see(site.meter(4), with_load=True, accepted={"REMOTE_TIMEOUT": "no tool here"}),
            see(site.meter(5), accepted=word),
            site.examine(site.meter(6)),
        )
    for outcome in (unasked, dark_coil):
        assert (outcome.verdict, failed_checks(outcome)) == (FAILED, {Check.UNPROVEN})
    # A coil that was told proves neither contacts nor whose supply hangs on them.
    assert not [each for each in dark_coil.findings if each.check is Check.AUXILIARY]
    assert found(dark_coil, Check.SWITCH_OPEN).result is Result.NOT_DONE
    assert (hindered.verdict, failed_checks(hindered)) == (
        FAILED,
        {Check.REMOTE_TIMEOUT, Check.UNPROVEN},
    )
    assert "--with-load while a load is on" in found(unasked, Check.UNPROVEN).next_step
    for outcome in (proven, dark_contact, looked):
        assert (outcome.verdict, failed_checks(outcome)) == (PASSED, set())
    assert (answered.verdict, answered.accepted) == (ACCEPTED, word)


@pytest.mark.slow
async def test_a_cancelled_proof_closes_the_supply_first(tmp_path: Path) -> None:
    """Ctrl-C while the contactor is open: the command ends after the supply is closed again."""
    async with commission_site(tmp_path, meters=1) as site:
        meter = site.customer(0).meter
        # Without feedback and with little load the proof would watch for half a minute.
        site.site.set_load(site.config.meters[0].meter_id, 60.0)
        work = asyncio.create_task(site.examine(site.meter(0, feedback=None), with_load=True))

        def is_closed() -> bool:
            meter.advance(site.site.now_s())
            return meter.contactor.closed

        while is_closed():
            await asyncio.sleep(0.05)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        await asyncio.sleep(0.2)
        assert is_closed()
