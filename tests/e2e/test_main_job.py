"""The main job: credit runs out, supply is cut and proved, paid, confirmed and restored."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.errors import RefusedError
from gateway.core.switching import ControlState, Reason
from gateway.store.commands import CommandState, SwitchAction
from tests.core.test_prepaid_cases import listed, nano, part
from tests.e2e.books import (
    GENERATOR_NANO,
    PRICE_NANO,
    advance_wh,
    charged_nano,
    check_books,
)
from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import QUICK_SUPPLY, Gateway

pytestmark = pytest.mark.slow

POWER_W = 2_000
MIN_OFF_S = 6


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Gateway:
    """Nine flats that draw nothing until told to."""
    return make_site(meters=9, supply={**QUICK_SUPPLY, "min_off_s": MIN_OFF_S}).start()


def true_past_zero_wh(site: Gateway, meter: str, opening_nano: int) -> float:
    """Energy that the contacts let through after the credit was used up, by the truth."""
    first = next(line for t in site.transactions(meter) for line in t.settlements)
    zero_wh = first.from_wh[0] + opening_nano / PRICE_NANO
    opening = site.ask("openings", meter)["openings"][0]
    t2_wh = site.ask("state", meter)["true_t2_wh"]
    return float(opening["contactor_true_wh"] - t2_wh - zero_wh)


def test_credit_runs_out_is_cut_paid_and_confirmed(site: Gateway) -> None:
    """Cut within a watt-hour of zero and proved; recharge, minimum off time, one confirmation."""
    meter = "flat-101"
    site.open(meter, "0.054")  # 6.75 Wh
    site.load(POWER_W, meter)
    cut = site.finished_cut(meter, 40.0)

    assert cut.state is CommandState.VERIFIED
    assert cut.reason == Reason.CREDIT
    assert {"output", "current"} <= set(cut.witnesses)
    assert cut.detail["load_unproven"] is False
    assert isinstance(cut.detail["available_nano"], int)
    assert -PRICE_NANO < cut.detail["available_nano"] <= 0
    past_zero_wh = true_past_zero_wh(site, meter, 54_000_000)
    assert 0 <= past_zero_wh <= POWER_W * (0.2 + 0.2) / 3600 + 1
    assert site.row(meter).control_state is ControlState.DISCONNECTED
    assert not site.ask("state", meter)["contactor_closed"]

    site.recharge(meter, "10.00", "main-recharge")
    site.until(lambda: not site.row(meter).reasons, "CREDIT to be cleared")
    with pytest.raises(RefusedError) as early:
        site.order(meter, "confirm_reconnect", "main-early")
    assert early.value.refusal_code == "MIN_OFF_TIME"
    site.until(
        lambda: site.row(meter).control_state is ControlState.READY_FOR_RECONNECTION,
        "the end of the minimum off time",
    )
    assert not site.commands(meter, SwitchAction.CLOSE), "arm mode closes by confirmation only"
    site.order(meter, "confirm_reconnect", "main-confirm")
    site.until(lambda: site.row(meter).output_closed, "the supply to be closed")
    closed = site.until(
        lambda: [c for c in site.commands(meter, SwitchAction.CLOSE) if c.state.finished],
        "a proved reconnection",
    )
    assert [command.state for command in closed] == [CommandState.VERIFIED]
    assert closed[0].request_key == "main-confirm"
    assert site.ask("state", meter)["contactor_closed"]
    with pytest.raises(RefusedError) as again:
        site.order(meter, "confirm_reconnect", "main-again")
    assert again.value.refusal_code == "NOTHING_TO_CONFIRM"

    settle(site, meter, "main-last")
    check_books(site, meter, posted=True)
    site.verify()


def settle(site: Gateway, meter: str, key: str) -> None:
    """Take the load away and post everything up to the meter's register."""
    site.rest(meter)
    site.recharge(meter, "0.008", key)


def test_exactly_zero_cuts(site: Gateway) -> None:
    """P16: a wallet of 0.008 is used up by the first Wh; supply is cut at exactly zero."""
    meter = "flat-102"
    site.open(meter, "0.008")
    site.load(POWER_W, meter)
    cut = site.finished_cut(meter)
    assert cut.detail["available_nano"] == 0
    assert cut.state is CommandState.VERIFIED


def test_predicted_cut_stays_within_a_watt_hour(site: Gateway) -> None:
    """P18: 0.010 at 3 kW lasts 1.25 Wh, the balance ends between -0.008 and 0."""
    meter = "flat-103"
    given, power_w = part("P18", "given"), int(part("P18", "given")["power_w"])
    site.open(meter, given["wallet"])
    site.load(power_w, meter)
    site.finished_cut(meter)
    transactions = site.until(
        lambda: found if advance_wh(found := site.transactions(meter))[0] else None,
        "the posting of the cut",
    )
    lowest_nano, highest_nano = map(nano, listed("P18", "expect", "final_balance_between"))
    assert lowest_nano <= transactions[-1].balance_nano <= highest_nano
    past_zero_wh = true_past_zero_wh(site, meter, nano(given["wallet"]))
    # The meter renews its registers every 0.2 s and the gateway needs no longer than that.
    assert float(given["actuation_latency_s"]) == 0.2 + 0.2
    assert past_zero_wh <= power_w * (0.2 + 0.2) / 3600 + 1


def test_each_reason_is_cleared_by_its_own_rule(site: Gateway) -> None:
    """D09: a recharge clears CREDIT and leaves MANUAL standing; the supply stays off."""
    meter = "flat-104"
    site.open(meter, "0.008")
    site.load(POWER_W, meter)
    site.finished_cut(meter)
    site.order(meter, "disconnect", "reason-off", "works in the flat")
    site.recharge(meter, "500", "reason-recharge")
    site.until(lambda: site.row(meter).reasons == {Reason.MANUAL}, "MANUAL to stand alone")
    site.until(lambda: site.row(meter).posted_nano > 0, "the recharge")
    with pytest.raises(RefusedError) as blocked:
        site.order(meter, "confirm_reconnect", "reason-confirm")
    assert blocked.value.refusal_code == "SUPPLY_BLOCKED"
    assert site.row(meter).output_closed is False
    assert not site.commands(meter, SwitchAction.CLOSE)


def test_a_new_meter_is_not_cut_for_its_empty_account(site: Gateway) -> None:
    """Supply is enforced for a commissioned point only: before that a debt cuts nobody."""
    meter = "flat-105"
    site.open_account(meter, "0.008")
    site.load(6_000, meter)
    site.until(lambda: site.row(meter).available_nano < -PRICE_NANO, "a debt")
    assert not site.cuts(meter)
    site.call("POST", f"/meters/{meter}/commissioning", None, f"commission-{meter}")
    assert site.finished_cut(meter).state is CommandState.VERIFIED


def test_grid_and_generator_are_charged_at_their_prices(site: Gateway) -> None:
    """S01: T1 at 8.00 and T2 at 25.00, to the Wh that the meter's registers moved."""
    meter = "flat-106"
    site.open(meter, "100")
    started_wh = site.register_wh(meter)
    site.load(6_000, meter)
    site.until(lambda: site.register_wh(meter)[0] >= started_wh[0] + 3, "grid energy")
    site.ask("generator", state="on")
    site.until(lambda: site.register_wh(meter)[1] >= started_wh[1] + 3, "generator energy")
    site.load(0, meter)
    site.ask("generator", state="off")
    settle(site, meter, "sources-last")
    transactions = site.transactions(meter)
    ended_wh = site.register_wh(meter)
    moved_wh = (ended_wh[0] - started_wh[0], ended_wh[1] - started_wh[1])
    assert advance_wh(transactions) == moved_wh
    assert charged_nano(transactions) == moved_wh[0] * PRICE_NANO + moved_wh[1] * GENERATOR_NANO
    check_books(site, meter, posted=True)


def test_recharge_is_idempotent_over_http(site: Gateway) -> None:
    """P01: the same key answers 201, then 200, then 409 for another amount; one transaction."""
    account, expect = "flat-107", part("P01", "expect")
    site.open(account, part("P01", "given")["wallet"])
    token = site.token("operator", "till")
    path = f"/accounts/{account}/recharges"
    answers = [
        site.http(token, "POST", path, {"amount": amount}, "A") for amount in ("500", "500", "600")
    ]
    assert [str(status) for status, _ in answers] == listed("P01", "expect", "http")
    assert answers[1][1] == answers[0][1]
    assert answers[0][1]["result"]["balance"] == expect["wallet"]
    given = [t.amount_nano for t in site.transactions(account) if not t.settlements]
    assert given == [10 * 10**9, 500 * 10**9]
    assert site.http("nobody", "POST", path, {"amount": "1"}, "B")[0] == 401
    status, viewed = site.http(token, "GET", f"/accounts/{account}")
    assert (status, viewed["balance"]) == (200, expect["wallet"])


def test_a_reversal_is_linked_and_happens_once(site: Gateway) -> None:
    """P02: 500 given, some used, 500 taken back; a second reversal is 409 ALREADY_REVERSED."""
    account = "flat-108"
    manager = site.token("manager", "manager-p02")
    operator = site.token("operator", "till-p02")
    # Who stands at zero for long is cut, and waits for a confirmation.
    site.open(account, "0")
    path = f"/accounts/{account}/recharges"
    status, given = site.http(operator, "POST", path, {"amount": "500"}, "P02-A")
    assert status == 201
    site.load(6_000, account)
    started_wh = site.register_wh(account)[0]
    site.until(lambda: site.register_wh(account)[0] >= started_wh + 3, "consumption")
    reversal = f"/transactions/{given['result']['transaction_seq']}/reversal"
    reason = {"reason": "wrong account"}
    assert site.http(operator, "POST", reversal, reason, "P02-op")[0] == 403
    assert site.http(manager, "POST", reversal, reason, "P02-B")[0] == 201
    status, problem = site.http(manager, "POST", reversal, reason, "P02-C")
    assert (status, problem["code"]) == (409, "ALREADY_REVERSED")

    site.finished_cut(account)
    history = site.transactions(account)
    assert [t.amount_nano for t in history if not t.settlements] == [500 * 10**9, -500 * 10**9]
    used_wh = advance_wh(history)[0]
    assert used_wh >= 3
    assert history[-1].balance_nano == -used_wh * PRICE_NANO
    given_seq, undone_seq = (t.seq for t in history if not t.settlements)
    by_seq = {t.seq: t for t in history}
    assert by_seq[given_seq].reversed_by_seq == undone_seq
    assert by_seq[undone_seq].reverses_seq == given_seq
    _, page = site.http(manager, "GET", f"/accounts/{account}/transactions")
    assert [item["id"] for item in page["items"]] == [t.seq for t in reversed(history)]


def test_the_ledger_proves_itself(site: Gateway) -> None:
    """After everything above the chain, sums and registers agree, and no alarm stands."""
    assert site.verify()["transactions"] > 0
    assert not site.events("FAILED_TO_OPEN")
    assert not site.events("UNAUTHORISED_SUPPLY")


def test_a_cut_is_in_the_figures(site: Gateway) -> None:
    """Prometheus sees polls, the cut with its delays, commits and the process, within seconds."""
    meter = "flat-109"
    site.open(meter, "0.030")
    site.load(POWER_W, meter)
    site.finished_cut(meter, 40.0)
    token = site.token("auditor", "figures")

    def scrape() -> dict[str, float] | None:
        answer = httpx.get(
            f"http://127.0.0.1:{site.port}/metrics",
            headers={"authorization": f"Bearer {token}"},
            timeout=10.0,
        )
        samples = {
            ",".join((sample.name, *sample.labels.values())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
        return samples if samples.get("prepaid_gateway_switches_total,open verified") else None

    found = site.until(scrape, "the cut in the figures")
    assert found["prepaid_gateway_control_up"] == 1
    assert found["prepaid_gateway_meters,good"] == 9
    assert found["prepaid_gateway_chain_verified"] == 1
    assert found["prepaid_gateway_points_blocked,CREDIT"] >= 1
    assert found["prepaid_gateway_polls_total"] > 8
    assert found["prepaid_gateway_cut_decision_seconds_count"] >= 1
    assert found["prepaid_gateway_cut_write_seconds_count"] >= 1
    assert found["prepaid_gateway_requests_total,executed"] >= 1
    assert found["prepaid_gateway_ledger_commits_total"] > 0
    assert found["prepaid_gateway_resident_memory_bytes"] > 1e7
    assert found["prepaid_gateway_store_bytes,ledger"] > 0
    site.rest(meter)
