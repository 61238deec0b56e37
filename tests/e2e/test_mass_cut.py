"""The mass-cut breaker, live: bad data or a bad tariff must never darken a site."""

from itertools import pairwise

import pytest

from gateway.store.commands import CommandState
from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import QUICK_SUPPLY, Gateway

pytestmark = pytest.mark.slow

POINTS = 12
MAX_CUTS = 4
WINDOW_S = 6
HALT_POINTS = 4


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Gateway:
    """Twelve flats; four cuts in six seconds at most, none when a quarter falls due at once."""
    mass_cut = {
        "max_cuts": MAX_CUTS,
        "max_percent": 0,
        "window_s": WINDOW_S,
        "halt_percent": 25,
        "halt_min_points": HALT_POINTS,
    }
    return make_site(meters=POINTS, supply={**QUICK_SUPPLY, "mass_cut": mass_cut}).start()


def test_a_halt_needs_two_managers_and_then_the_rate_holds(site: Gateway) -> None:
    """D12: twelve of twelve fall due: fewer than the halt are cut, the rest after two releases."""
    meters = [str(row["id"]) for row in site.ask("list")["meters"]]
    assert len(meters) == POINTS
    for meter in meters:
        site.open(meter, "0.008")
    site.load(4_000, *meters)
    halt = site.until(lambda: site.events("MASS_CUT_HALT"), "the halt")
    assert [event.severity for event in halt] == ["critical"]
    site.until(lambda: all(site.row(meter).reasons for meter in meters), "all twelve due")
    commanded = [cut for meter in meters for cut in site.cuts(meter)]
    assert len(commanded) < HALT_POINTS

    first, second = site.token("manager", "first"), site.token("manager", "second")
    operator = site.token("operator", "till")
    path, reason = "/mass-cut/release", {"reason": "the tariff is right"}
    assert site.http(operator, "POST", path, reason, "halt-op")[0] == 403
    assert site.http(first, "POST", path, reason, "halt-1")[0] == 201
    status, problem = site.http(first, "POST", path, reason, "halt-2")
    assert (status, problem["code"]) == (409, "SAME_PERSON")
    assert len([cut for meter in meters for cut in site.cuts(meter)]) == len(commanded)
    assert site.http(second, "POST", path, reason, "halt-3")[0] == 201
    site.until(lambda: all(site.cuts(meter) for meter in meters), "every cut", 40.0)
    finished = [site.finished_cut(meter) for meter in meters]

    assert {cut.state for cut in finished} == {CommandState.VERIFIED}
    issued_ms = sorted(cut.issued_utc_ms for cut in finished)
    for place, at_ms in enumerate(issued_ms[MAX_CUTS:]):
        assert at_ms - issued_ms[place] >= WINDOW_S * 1000 - 5, list(pairwise(issued_ms))
    assert len(site.events("MASS_CUT_HALT")) == 1
    site.verify()
