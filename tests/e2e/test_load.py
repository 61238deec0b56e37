"""Limits and shedding, live: simulated meters, real Modbus, both processes, a killed control."""

from functools import partial

import pytest

from gateway.core.switching import ControlState, Reason
from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import QUICK_SUPPLY, Gateway

pytestmark = pytest.mark.slow

OVER_S = 3
RESTORE_S = 10


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Gateway:
    """Three flats with credit; overload returns by itself, shedding waits for a person."""
    limiter = {"over_s": OVER_S, "restore_s": RESTORE_S, "auto_restore": True}
    supply = {**QUICK_SUPPLY, "limiter": limiter, "reconnect_jitter_s": 0.1}
    return make_site(meters=3, supply=supply).start()


def meters_of(site: Gateway) -> list[str]:
    """The meters, in order."""
    return [str(row["id"]) for row in site.ask("list")["meters"]]


def is_ready(site: Gateway, meter: str) -> bool:
    """Whether a point waits for a person's word alone."""
    return site.row(meter).control_state is ControlState.READY_FOR_RECONNECTION


def test_an_overload_opens_and_returns_without_a_person(site: Gateway) -> None:
    """4 kW against a limit of 2: opened with proof after three seconds, closed ten later."""
    meter = meters_of(site)[0]
    site.open(meter, "100.00")
    limits = {"limit_t1_w": 2_000, "limit_t2_w": 2_000, "limit_emergency_w": 0}
    site.call("POST", f"/meters/{meter}/limits", {**limits, "reason": "contract"}, "limit-1")
    site.load(4_000, meter)
    site.until(lambda: site.row(meter).output_closed is False, "the trip")
    assert site.row(meter).reasons == {Reason.OVERLOAD}
    site.load(500, meter)
    site.until(lambda: site.row(meter).output_closed, "the return")
    (trip,) = site.until(lambda: site.events("OVERLOAD_TRIPPED"), "the event")
    assert (trip.subject, trip.body["limit_w"]) == (meter, 2_000)
    (cut,) = site.until(lambda: site.events("SUPPLY_CUT"), "the cut")
    (back,) = site.until(lambda: site.events("SUPPLY_RESTORED"), "the return on record")
    assert back.utc_ms - trip.utc_ms >= RESTORE_S * 1_000
    assert cut.body["reasons"] == ["OVERLOAD"]


def test_shedding_survives_a_killed_control_and_ends_by_request(site: Gateway) -> None:
    """Everybody goes, the order outlives kill -9, and each comes back after a person's word."""
    meters = meters_of(site)
    for meter in meters[1:]:
        site.open(meter, "100.00")
    site.load(1_000, *meters)
    (feeder,) = {str(row["feeder"]) for row in site.ask("list")["meters"]}
    order = {"to_w": 0, "reason": "transformer hot"}
    site.call("POST", f"/feeders/{feeder}/shedding", order, "shed-1")
    site.until(lambda: all(site.row(meter).output_closed is False for meter in meters), "all shed")
    site.kill("control")
    site.start_process("control")
    site.ready()
    assert all(site.row(meter).reasons == {Reason.SHED} for meter in meters)
    site.call("POST", f"/feeders/{feeder}/shedding/end", {"reason": "cool again"}, "shed-2")
    for meter in meters:
        site.until(partial(is_ready, site, meter), "ready")
        site.order(meter, "confirm_reconnect", f"confirm-{meter}")
    site.until(lambda: all(site.row(meter).output_closed for meter in meters), "all back")
