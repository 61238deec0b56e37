"""The check meter of a simulated feeder: the sum of those behind it, whatever they show."""

import math

import pytest

from gateway.app.clock import SystemClock, seeded
from gateway.sim.faults import fault_named
from gateway.sim.feeder import FeederCurve
from gateway.sim.loads import Mains, steady_curve
from gateway.sim.meter import Meter, MeterOptions
from gateway.sim.registers import OUTPUTS
from gateway.sim.site import Site, SiteOptions


def meter_of(power_w: float) -> Meter:
    """A meter with a constant load."""
    random = seeded(1)
    return Meter(MeterOptions(), steady_curve(power_w), Mains(random), random)


def test_a_tap_is_seen_by_the_check_meter_alone() -> None:
    """500 W before one of two meters, for an hour; taken away, nothing more is lost."""
    flats = [meter_of(1_000.0), meter_of(2_000.0)]
    curve = FeederCurve(flats)
    flats[0].add_fault(3_600.0, fault_named("tapped"))
    assert curve.energy(3_600.0).active_wh == pytest.approx(3_000)
    assert curve.power_w(4_000.0) == pytest.approx(3_500)
    flats[0].clear_faults(7_200.0)
    assert curve.energy(10_800.0).active_wh == pytest.approx(9_500)
    assert sum(flat.track.total_wh(10_800.0) for flat in flats) == pytest.approx(9_000)


def test_a_cut_behind_it_is_seen() -> None:
    """A meter whose supply is open adds nothing."""
    flats = [meter_of(1_000.0), meter_of(2_000.0)]
    curve = FeederCurve(flats)
    curve.energy(3_600.0)
    flats[1].switch(3_600.0, OUTPUTS[0], on=False)
    assert curve.power_w(3_700.0) == pytest.approx(1_000)


def test_when_an_energy_was_reached() -> None:
    """The inverse, by halving; an energy that is never taken is never reached."""
    curve = FeederCurve([meter_of(1_000.0), meter_of(2_000.0)])
    assert curve.time_of_energy(3_000.0) == pytest.approx(3_600.0, abs=1e-3)
    assert curve.time_of_energy(1e15) == math.inf


def test_a_site_lists_its_check_meters_with_their_role() -> None:
    """One per feeder, after the customers; without the option the file is as it always was."""
    options = SiteOptions(meters=3, meters_per_feeder=2, check_meters=True)
    site = Site(options, SystemClock(), seeded)
    header, *rows = site.meters_csv().split()
    assert header.endswith(",feeder,role")
    assert [(row.split(",")[0], row.split(",")[-1]) for row in rows] == [
        ("flat-101", "supply"),
        ("flat-102", "supply"),
        ("flat-103", "supply"),
        ("check-riser-1", "check"),
        ("check-riser-2", "check"),
    ]
    plain = Site(SiteOptions(meters=3), SystemClock(), seeded)
    assert "role" not in plain.meters_csv()
