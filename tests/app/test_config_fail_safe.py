"""`fail_safe` against wiring, model and polling; what cannot be is named with its place."""

from pathlib import Path

import pytest

from gateway.app.config_print import as_document, as_yaml
from gateway.app.control.polls import FailSafe, fail_safe_of
from tests.app.test_config import SITE, load, problems

BROKER = "south: {mqtt: {host: 127.0.0.1}}\n"
FLAT = "meters: [{id: flat-1, model: pac3220, host: 10.10.1.11%s}]\n"
DEFAULTS = "defaults: {pac3220: {%s}}\n"


def test_each_policy_with_its_wiring_is_served(tmp_path: Path) -> None:
    """Own and default settings together; a check meter's output switches nothing."""
    text = SITE + DEFAULTS % "fail_safe: fail_disconnected" + "meters_file: meters.csv\n"
    head = "id,model,host,feeder,role,fail_safe,output_on,fail_safe_after_s,poll_s\n"
    csv = head + (
        "a,pac3220,10.0.0.1,f,supply,,,,\n"
        "b,pac3220,10.0.0.2,f,supply,fail_connected,disconnects,60,10\n"
        "c,pac3220,10.0.0.3,f,supply,hold_last,disconnects,,3600\n"
        "d,pac3220,10.0.0.4,f,check,,,,\n"
    )
    config = load(tmp_path, text, csv)
    assert [fail_safe_of(meter) for meter in config.meters] == [
        FailSafe(holds_closed=True, after_s=300, poll_s=1.0),
        FailSafe(holds_closed=False, after_s=60, poll_s=10.0),
        None,
        None,
    ]
    assert config.notes == ()
    shown = tmp_path / "shown"
    shown.mkdir()
    again = load(shown, as_yaml(as_document(config)))
    assert [meter.settings for meter in again.meters] == [m.settings for m in config.meters]


def test_the_time_alone_changes_nothing(tmp_path: Path) -> None:
    """With hold_last `fail_safe_after_s` has no effect and is not judged."""
    (meter,) = load(tmp_path, SITE + FLAT % ", fail_safe_after_s: 10, poll_s: 60").meters
    assert fail_safe_of(meter) is None


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (
            FLAT % ", fail_safe: fail_connected",
            "2:68: meters[0].fail_safe",
            "the active output connects here: wire it so, or set fail_safe: hold_last",
        ),
        (
            FLAT % ", fail_safe: fail_disconnected, output_on: disconnects",
            "2:68: meters[0].fail_safe",
            "fail_disconnected needs output_on: connects",
        ),
        (
            DEFAULTS % "fail_safe: fail_disconnected" + FLAT % ", output_on: disconnects",
            "3:68: meters[0].output_on",
            "fail_disconnected needs output_on: connects",
        ),
        (
            DEFAULTS % "fail_safe: fail_connected" + FLAT % "",
            "2:33: defaults.pac3220.fail_safe",
            "fail_connected needs output_on: disconnects",
        ),
        (
            FLAT.replace("pac3220", "pac2200") % ", fail_safe: fail_disconnected",
            "2:68: meters[0].fail_safe",
            "output 0.0 of a pac2200 has no remote timeout that fail_disconnected could use",
        ),
        (
            FLAT % ", fail_safe: fail_disconnected, poll_s: 60",
            "2:95: meters[0].poll_s",
            "for fail_safe_after_s: 300 poll_s may be 50.0 at most, and is 60",
        ),
        (
            FLAT % ", fail_safe: fail_disconnected, fail_safe_after_s: 9",
            "2:106: meters[0].fail_safe_after_s",
            "",
        ),
        (
            "meters: [{id: n, model: pzem-node, fail_safe: fail_disconnected}]\n" + BROKER,
            "2:47: meters[0].fail_safe",
            "a pzem-node has no such key",
        ),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, text: str, place: str, message: str) -> None:
    """The contrary wiring, no remote timeout, polls too rare to hold the output, a node."""
    found = problems(tmp_path, SITE + text)
    assert len(found) == 1
    assert found[0].startswith(f"config.yaml:{place}: ")
    assert message in found[0]
