"""The counter on a whole installation: tenants imported, a shift counted, the ledger proved."""

import json
from pathlib import Path

import pytest

from tests.e2e.gateway_site import Gateway, closing

pytestmark = pytest.mark.slow

METERS = 40
HEADER = "account,name,opening_balance,emergency_limit,debt_amount,debt_share"


def test_tenants_are_imported_and_a_shift_is_counted(tmp_path: Path) -> None:
    """Killed north in the middle or not: each row once, sums exact, and a cashier's day after."""
    with closing(Gateway(tmp_path, meters=METERS)) as site:
        site.start()
        meters = sorted(meter["id"] for meter in site.call("GET", "/meters?limit=100")["items"])
        rows = [f"{meter},Tenant {n},{n}.25,,," for n, meter in enumerate(meters)]
        # The last one brings a loan and what is still owed for a cooker.
        rows[-1] = rows[-1].removesuffix(",,,") + ",50,120,25"
        file = tmp_path / "tenants.csv"
        file.write_text("\n".join([HEADER, *rows]), encoding="utf-8")
        words = ("account", "import", str(file), "--tariff", "home", "--json")
        dry = json.loads(site.cli(*words, "--dry-run").stdout)
        assert dry["totals"] == {"new": {"accounts": METERS, "opening_balances": "790"}}
        opened = imported(site, *words)
        assert opened == {"opened": {"accounts": METERS, "opening_balances": "790"}}
        # North comes up anew: what it kept answers for every row.
        site.kill("north")
        site.start_process("north")
        site.until(site.answers, "north")
        assert imported(site, *words) == {"there": {"accounts": METERS, "opening_balances": "790"}}
        balances = {a["id"]: a["balance"] for a in site.call("GET", "/accounts?limit=100")["items"]}
        assert balances == {meter: f"{n}.25" for n, meter in enumerate(meters)}
        debtor = site.call("GET", f"/accounts/{meters[-1]}")
        assert debtor["terms"]["emergency"]["limit"] == "50"
        (debt,) = debtor["debts"]
        assert (debt["id"], debt["remaining"], debt["share_percent"]) == ("taken-over", "120", "25")
        site.recharge(meters[-1], "40", "debtor")
        assert site.call("GET", f"/accounts/{meters[-1]}")["debts"][0]["remaining"] == "110"
        counted_day(site, meters[0])
        proof = site.cli("ledger", "verify")
        assert proof.returncode == 0, proof.stderr


def imported(site: Gateway, *words: str) -> object:
    """What an import that ended well counts."""
    ended = site.cli(*words)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)["totals"]


def counted_day(site: Gateway, account: str) -> None:
    """An operator with a key of their own takes money and counts; control restarts in between."""
    token = site.token("operator", "anna")
    status, begun = site.http(token, "POST", "/shifts", {"drawer": "till-1", "float": "50"}, "o")
    assert (status, begun["result"]["shift_number"]) == (201, 1)
    path = f"/accounts/{account}/recharges"
    assert site.http(token, "POST", path, {"amount": "12.50"}, "r-1")[0] == 201
    site.expect_new_control()
    site.kill("control")
    site.start_process("control")
    site.ready()
    assert site.http(token, "POST", path, {"amount": "7.50", "provider": "card"}, "r-2")[0] == 201
    count = {"counted": {"counter": "60", "card": "7.50"}}
    status, closed = site.http(token, "POST", "/shifts/1/closing", count, "c")
    assert (status, closed["result"]["difference"]) == (201, "-2.5")
    shown = site.http(token, "GET", "/shifts/1")[1]
    assert {m["provider"]: m["difference"] for m in shown["means"]} == {
        "card": "0",
        "counter": "-2.5",
    }
