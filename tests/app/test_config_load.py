"""Keys about load: limits, priorities, feeders; what is wrong is named with its place."""

from pathlib import Path

import pytest

from gateway.app.config_print import as_document
from gateway.app.reload import CONTROL, NORTH, read_again
from gateway.core.switching import Reason
from tests.app.test_config import SITE, load, problems

FLAT = "meters: [{id: flat-1, model: pac3220, host: 10.10.1.11, feeder: riser-a%s}]\n"


def test_limits_and_priority_come_from_meter_defaults_and_csv(tmp_path: Path) -> None:
    """As any other setting of a meter; the priority is the meter's own."""
    text = SITE + "defaults: {pac3220: {limit_t1_w: 5000}}\nmeters_file: meters.csv\n"
    head = "id,model,host,priority,limit_t2_w\n"
    csv = head + "flat-1,pac3220,10.0.0.1,2,700\nflat-2,pac3220,10.0.0.2,,\n"
    first, second = load(tmp_path, text, csv).meters
    assert (first.priority, second.priority) == (2, 5)
    sources = ("grid", "generator")
    assert first.settings.limits_w(sources) == {"grid": 5_000, "generator": 700}
    assert second.settings.limits_w(sources) == {"grid": 5_000}
    assert first.settings.limits_w(("grid",)) == {"grid": 5_000}


def test_nothing_returns_by_itself_unless_that_is_said(tmp_path: Path) -> None:
    """Arm mode asks a person, also after a trip."""
    assert load(tmp_path, SITE).supply.returns_by_itself == frozenset()
    text = SITE + "supply: {limiter: {auto_restore: true}}\n"
    assert load(tmp_path, text).supply.returns_by_itself == {Reason.OVERLOAD}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            FLAT % "" + "feeders: [{id: riser-b, capacity_w: 9000}]\n",
            "config.yaml:3:16: feeders[0].id: no meter is on feeder 'riser-b'",
        ),
        (
            FLAT % ", priority: 10",
            "config.yaml:2:84: meters[0].priority:",
        ),
        (FLAT % ", limit_t1_w: 0", "config.yaml:2:86: meters[0].limit_t1_w:"),
        (
            FLAT % "" + "feeders: [{id: riser-a}]\n",
            "config.yaml:3:11: feeders[0].capacity_w: is missing",
        ),
        (
            FLAT % "" + "feeders: [{id: riser-a, capacity_w: 1}, {id: riser-a, capacity_w: 2}]\n",
            "config.yaml:3:10: feeders: two entries for feeder 'riser-a'",
        ),
    ],
)
def test_a_slip_is_named_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    """A feeder that nobody is on, a priority beyond nine, no limit at all where one is meant."""
    found = problems(tmp_path, SITE + text)
    assert len(found) == 1
    assert found[0].startswith(problem), found


def test_feeders_are_shown_and_followed_by_control_alone(tmp_path: Path) -> None:
    """A reload changes a capacity; north has no use for it."""
    before = load(tmp_path, SITE + FLAT % "" + "feeders: [{id: riser-a, capacity_w: 9000}]\n")
    assert as_document(before)["feeders"] == [{"id": "riser-a", "capacity_w": 9_000}]
    load(tmp_path, SITE + FLAT % "" + "feeders: [{id: riser-a, capacity_w: 8000}]\n")
    assert len(read_again(before, CONTROL)[1]) == 1
    assert read_again(before, NORTH)[1] == ()
