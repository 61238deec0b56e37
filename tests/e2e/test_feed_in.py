"""A household that feeds in, over real Modbus: its balance rises, and supply comes back by it."""

import json
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.app.cli.stores import CHECKER
from gateway.core.switching import ControlState, Reason
from gateway.store.commands import CommandState, SwitchAction
from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import TARIFF, Gateway

pytestmark = pytest.mark.slow

SOLAR = {**TARIFF, "id": "solar", "feed_in": {"price": "3.00"}}
FEED_IN_NANO = 3_000_000
HOME, ROOF = "flat-101", "flat-102"


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Gateway:
    """A flat, and a meter of its account for the roof, which nothing switches."""
    site = make_site(meters=2, meter_defaults={"export": "credited"}).start()
    site.call("POST", "/tariffs", SOLAR, "tariff-solar")
    site.open(HOME, "0.016", tariff_id="solar")
    point = {"service_point_id": ROOF, "tariff_id": "solar"}
    site.call("POST", f"/accounts/{HOME}/points", point, "add-roof")
    return site


def balance_nano(site: Gateway) -> int:
    """The posted balance of the account."""
    return site.transactions(HOME)[-1].balance_nano


def test_feed_in_lifts_the_balance_and_gives_supply_back(site: Gateway) -> None:
    """Cut at zero; the roof lifts the credit above it, CREDIT goes, a person confirms, it closes.

    `ledger verify --replay`, the checker, statement and explanation tell the same Wh and money.
    """
    site.load(2_400, HOME)
    cut = site.finished_cut(HOME, 40.0)
    assert (cut.state, cut.reason) == (CommandState.VERIFIED, Reason.CREDIT)
    low_nano = balance_nano(site)
    assert low_nano <= 0

    site.ask("fault", ROOF, kind="roof", amount=7_000)
    site.until(lambda: not site.row(HOME).reasons, "CREDIT to be cleared by feed-in", 60.0)
    assert balance_nano(site) > max(0, low_nano)
    site.until(
        lambda: site.row(HOME).control_state is ControlState.READY_FOR_RECONNECTION,
        "the end of the minimum off time",
    )
    assert not site.commands(HOME, SwitchAction.CLOSE), "arm mode closes by confirmation only"
    site.order(HOME, "confirm_reconnect", "roof-confirm")
    site.until(lambda: site.row(HOME).output_closed, "the supply to be closed")
    site.load(0, HOME)
    site.ask("clear", ROOF, kind="roof")
    site.until(lambda: _settled(site), "the last watt-hour of the roof")
    _told_alike(site)


def _settled(site: Gateway) -> bool:
    """Whether a recharge, which posts what was used and fed in before it, found nothing new."""
    before_wh = _fed_wh(site)
    site.recharge(HOME, "0.01", f"roof-{secrets.token_hex(8)}")
    return before_wh == _fed_wh(site) > 0


def _fed_wh(site: Gateway) -> int:
    lines = [line for one in site.transactions(HOME) for line in one.settlements]
    return sum(line.fed_wh for line in lines)


def _told_alike(site: Gateway) -> None:
    lines = [line for one in site.transactions(HOME) for line in one.settlements]
    fed_wh = _fed_wh(site)
    paid_nano = -sum(dict(line.charges).get("export", 0) for line in lines)
    assert paid_nano == fed_wh * FEED_IN_NANO
    assert {line.meter_id for line in lines if line.fed_wh} == {ROOF}
    replayed = site.cli("ledger", "verify", "--replay", "--json")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    bill = json.loads(site.cli("account", "statement", HOME, "--json").stdout)
    assert bill["fed_in_wh"] == fed_wh
    (credit,) = [line for line in bill["charges"] if line["name"] == "export"]
    assert (credit["fed_in_wh"], credit["price_per_kwh"]) == (fed_wh, "3")
    told = json.loads(site.cli("account", "explain", HOME, "--all", "--json").stdout)
    assert all(item["adds_up"] for item in told)
    pairs = [line["feed_in"] for item in told for line in item["lines"] if line["feed_in"]]
    assert sum(pair["energy_wh"] for pair in pairs) == fed_wh
    file = site.directory / "ledger.jsonl"
    exported = site.cli("ledger", "export", str(file))
    assert exported.returncode == 0, exported.stderr
    _checked(file)


def _checked(file: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-I", "-S", str(file.parent / CHECKER), str(file)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
