"""What is watched, over real Modbus and real processes: told, shown, answered for."""

import json

import pytest

from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import Gateway

pytestmark = pytest.mark.slow

PRIMARY_CURRENT = 50_011
REMOTE_TIMEOUT = 51_718


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Gateway:
    """Two flats under load of whom no feed-in is expected; a transformer is judged in 15 s."""
    site = make_site(
        meters=2,
        load_w=2_000,
        meter_defaults={"export": "alarmed"},
        watch={"transformer": {"reversed_s": 10}, "export_day_wh": 1},
    ).start()
    site.open("flat-101", "500.00")
    return site


def events(site: Gateway, kind: str) -> list[tuple[str, str]]:
    """Subject and severity of the events of a kind, oldest first."""
    found = site.call("GET", "/events?limit=100")["items"]
    return [(one["subject"], one["severity"]) for one in found if one["kind"] == kind][::-1]


def shown(site: Gateway) -> list[tuple[str, str]]:
    """What `meter suspicions` lists."""
    ended = site.cli("meter", "suspicions", "--json")
    assert ended.returncode == 0, ended.stderr
    return [(one["meter_id"], one["what"]) for one in json.loads(ended.stdout)["items"]]


def test_a_changed_setting_is_told_shown_and_answered_for(site: Gateway) -> None:
    """At the keys of the meter; the command line clears it."""
    site.ask("setting", "flat-101", address=PRIMARY_CURRENT, value=200)
    site.until(lambda: events(site, "TAMPER_SUSPECTED"), "a sign of tampering")
    site.until(lambda: ("flat-101", "settings_changed") in shown(site), "a suspicion that stands")
    done = site.cli("meter", "acknowledge", "flat-101", "--reason", "transformer exchanged")
    assert done.returncode == 0, done.stderr
    assert shown(site) == []
    again = site.cli("meter", "acknowledge", "flat-101", "--reason", "once more")
    assert (again.returncode, "NOTHING_SUSPECTED" in again.stderr) == (1, True)
    expected = [("flat-101", "critical"), ("flat-101", "cleared")]
    site.until(lambda: events(site, "TAMPER_SUSPECTED") == expected, "the end of it")


def test_commissioning_announces_what_it_changes(site: Gateway) -> None:
    """Somebody set a remote timeout: a sign. `--fix` sets it back: a notice."""
    before = len(events(site, "TAMPER_SUSPECTED"))
    site.ask("setting", "flat-101", address=REMOTE_TIMEOUT, value=30)
    site.until(lambda: len(events(site, "TAMPER_SUSPECTED")) == before + 1, "a foreign change")
    fixed = site.cli("meter", "commission", "flat-101", "--fix", "--check-only", "--json")
    assert json.loads(fixed.stdout)["fixed"], fixed.stderr
    site.until(lambda: events(site, "SETTINGS_CHANGED"), "the notice of it")
    assert len(events(site, "TAMPER_SUSPECTED")) == before + 1


def test_a_reversed_transformer_is_told(site: Gateway) -> None:
    """Negative power under load, and its energy as feed-in of the day."""
    site.ask("fault", "flat-102", kind="ct_reversed", amount=1)
    site.until(lambda: events(site, "CT_SUSPECT"), "a suspect transformer", 40.0)
    assert events(site, "CT_SUSPECT") == [("flat-102", "warning")]
    site.until(lambda: events(site, "EXPORT_SEEN") == [("flat-102", "warning")], "feed-in")
    assert ("flat-102", "reversed L1") in shown(site)
    table = site.cli("meter", "feeders")
    assert table.returncode == 0, table.stderr
