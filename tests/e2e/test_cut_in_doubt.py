"""A person's cut at meters whose counters read NaN: proved by what can be measured, and told so."""

import pytest

from gateway.core.reading import Quality
from gateway.store.commands import CommandState
from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import Gateway

pytestmark = pytest.mark.slow

MEASURED, BLIND, WELDED = "flat-101", "flat-102", "flat-103"
POINTS = (MEASURED, BLIND, WELDED)


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Gateway:
    """One meter without counters, one without any value, one whose contactor is welded besides."""
    site = make_site(meters=3)
    site.start()
    for name in POINTS:
        site.open(name, "100")
    site.load(2_000, *POINTS)
    site.until(lambda: all(site.row(n).quality is Quality.GOOD for n in POINTS), "good readings")
    for name in POINTS:
        site.ask("fault", name, kind="nan_energy")
    site.ask("fault", BLIND, kind="nan")
    site.ask("fault", WELDED, kind="contactor_welded")
    site.until(lambda: all(site.events("METER_AWAY", n) for n in POINTS), "readings that are none")
    return site


def test_each_is_cut_by_one_command_and_told_with_its_witnesses(site: Gateway) -> None:
    """The output alone is no proof of the contact, and says so; no alarm, no second command."""
    for name in (MEASURED, BLIND):
        site.order(name, "disconnect", f"cut-{name}", "fire")
    measured, blind = site.finished_cut(MEASURED), site.finished_cut(BLIND)
    assert [one.state for one in (measured, blind)] == [CommandState.VERIFIED] * 2
    assert [one.attempts for one in (measured, blind)] == [1, 1]
    assert sorted(measured.witnesses) == ["current", "output"]
    assert list(blind.witnesses) == ["output"]
    for name, is_unproven in ((MEASURED, False), (BLIND, True)):
        assert not site.ask("state", name)["contactor_closed"]
        (told,) = site.until(lambda n=name: site.events("SUPPLY_CUT", n), "the event")  # type: ignore[misc]
        assert told.body["load_unproven"] is is_unproven
        assert not site.events("FAILED_TO_OPEN", name)


def test_current_that_flows_on_is_no_cut(site: Gateway) -> None:
    """The output reads open, and what is measured contradicts it."""
    site.order(WELDED, "disconnect", "cut-welded", "fire")
    assert site.finished_cut(WELDED, 60).state is CommandState.FAILED
    (told,) = site.until(lambda: site.events("FAILED_TO_OPEN", WELDED), "the alarm")
    assert "current still flows" in str(told.body["reason"])


def test_nothing_is_closed_before_the_counter_is_known(site: Gateway) -> None:
    """The person's word waits for a reading, and closes with the first one."""
    site.order(BLIND, "reconnect", "back", "put out")
    site.order(BLIND, "confirm_reconnect", "confirmed")
    assert not site.ask("state", BLIND)["contactor_closed"]
    site.ask("clear", BLIND)
    site.until(lambda: site.ask("state", BLIND)["contactor_closed"], "supply")
    site.verify()
