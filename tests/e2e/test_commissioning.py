"""Commissioning beside a running gateway: who switches, and what stands in the books after it."""

import json

import pytest

from gateway.core.switching import ControlState
from gateway.store.commands import CommandState, SwitchAction
from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import Gateway

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Gateway:
    """Two flats under load; the contactor's contact is wired back."""
    return make_site(meters=2, load_w=2_000, meter_defaults={"feedback": "0.1"}).start()


def findings(site: Gateway, meter: str, *words: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Status and findings by check of a commissioning with load."""
    ended = site.cli("meter", "commission", meter, "--with-load", "--yes", "--json", *words)
    assert ended.stdout, ended.stderr
    told = json.loads(ended.stdout)
    return ended.returncode, {finding["check"]: finding for finding in told["findings"]}


def test_a_new_point_is_switched_directly_and_then_enforced(site: Gateway) -> None:
    """Control leaves a point alone until it is commissioned, which takes a switch proof; the report
    is signed by the site."""
    unproven = site.cli("meter", "commission", "flat-101")
    assert (unproven.returncode, "UNPROVEN: " in unproven.stderr) == (1, True)
    assert site.call("GET", "/meters/flat-101")["commissioned"] is False
    status, found = findings(site, "flat-101")
    assert status == 0
    assert found["SWITCH_OPEN"]["text"].startswith("opened directly at the meter")
    assert found["SWITCH_CLOSE"]["result"] == "ok"
    assert site.call("GET", "/meters/flat-101")["commissioned"] is True
    report = site.directory / "commissioning" / "flat-101.json"
    verified = site.cli("meter", "verify-report", str(report))
    assert verified.returncode == 0, verified.stderr


def test_an_enforced_point_is_switched_by_control_alone(site: Gateway) -> None:
    """The proof goes as a request: two commands in the books, connected again at the end."""
    site.open("flat-102", "50.00")
    status, found = findings(site, "flat-102")
    assert status == 0, found
    assert found["SWITCH_OPEN"]["text"].startswith("opened through control")
    assert found["AUXILIARY"]["result"] == "ok"
    commands = site.commands("flat-102")
    assert [(command.action, command.state) for command in commands] == [
        (SwitchAction.OPEN, CommandState.VERIFIED),
        (SwitchAction.CLOSE, CommandState.VERIFIED),
    ]
    assert site.row("flat-102").control_state is ControlState.CONNECTED
