"""A price that rises by more than half, live: two persons, both processes, a killed control."""

import json

import pytest

from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import TARIFF, Gateway

pytestmark = pytest.mark.slow

DEARER = {**TARIFF, "effective_from": "2027-06-01", "grid": {"price": "14.00"}}


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Gateway:
    """One flat."""
    return make_site(meters=1).start()


def test_one_person_drafts_and_another_puts_it_in_force(site: Gateway) -> None:
    """The terminal drafts and cannot approve; the draft outlives kill -9; a second key decides."""
    file = site.directory / "dearer.json"
    file.write_text(json.dumps(DEARER), encoding="utf-8")
    published = site.cli("tariff", "publish", str(file))
    assert published.returncode == 0, published.stderr
    assert published.stdout.startswith("NOT in force: grid energy: 75 % more.")
    assert "no account is under tariff home yet" in published.stderr
    same = site.cli("tariff", "decide", "1", "--approve", "--reason", "sure")
    assert (same.returncode, same.stderr.partition(":")[0]) == (1, "SAME_PERSON")

    site.expect_new_control()
    site.kill("control")
    site.start_process("control")
    site.ready()
    assert "75 % more" in site.cli("tariff", "drafts", "--json").stdout
    path, form = "/tariff-drafts/1/decision", {"accept": True, "reason": "agreed"}
    operator, manager = site.token("operator", "till"), site.token("manager", "second")
    assert site.http(operator, "POST", path, form, "decide-op")[0] == 403
    # Counted by a process that north starts, and it has nobody to count for here.
    status, problem = site.http(operator, "POST", "/tariffs/replay", {"document": DEARER}, "none")
    assert (status, problem["code"]) == (409, "NO_ACCOUNTS")
    status, answer = site.http(manager, "POST", path, form, "decide-1")
    assert (status, answer["result"]["version"]) == (201, 2)
    shown = site.call("GET", "/tariffs/home")
    assert (shown["version"], shown["document"]["grid"]) == (2, {"price": "14.00"})
    assert site.call("GET", "/tariff-drafts")["items"] == []
    site.verify()
