"""Bad input over HTTP and on the terminal, both processes running: refused with place and reason,
nothing changed, on record with who it was."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from gateway.store.db import reading
from gateway.store.ledger import LEDGER, ledger_head, read_balances
from tests.e2e.conftest import MakeSite
from tests.e2e.gateway_site import TARIFF, Gateway

pytestmark = pytest.mark.slow

FLAT, OTHER = "flat-101", "flat-102"
RECHARGES = f"/accounts/{FLAT}/recharges"


@dataclass(frozen=True)
class Bad:
    """A call that must be refused: status, code, place, and what its reason says."""

    method: str
    path: str
    body: Mapping[str, object]
    answer: tuple[int, str, str]
    said: str


def tariff(**changed: object) -> dict[str, object]:
    """The site's tariff as its next version, with something wrong in it."""
    return {**TARIFF, "effective_from": "2027-06-01", **changed}


def bands(night_from: str, night_to: str) -> dict[str, object]:
    """Two bands, of which the night is wrong."""
    return {
        "bands": {
            "day": {"price": "9", "when": [{"from": "06:00", "to": "22:00"}]},
            "night": {"price": "5", "when": [{"from": night_from, "to": night_to}]},
        }
    }


BLOCKS = {"blocks": [{"upto_kwh": 300, "price": "3"}, {"upto_kwh": 100, "price": "4"}]}
NEVER = {"friendly_hours": {"windows": [{"from": "00:00", "to": "24:00"}]}}
TARIFFS: dict[str, tuple[dict[str, object], tuple[int, str, str], str]] = {
    "gap": (tariff(grid=bands("22:00", "05:00")), (422, "TARIFF_INVALID", "grid.bands"), "05:00"),
    "overlap": (
        tariff(grid=bands("21:00", "06:00")), (422, "TARIFF_INVALID", "grid.bands"), "overlap",
    ),
    "decimals": (
        tariff(grid={"price": "8.1234567"}), (422, "PRICE_PRECISION", "grid.price"), "6 decimals",
    ),
    "zone": (tariff(timezone="Asia/Calcuta"), (422, "ZONE_UNKNOWN", "timezone"), "Asia/Calcuta"),
    "blocks": (
        tariff(grid=BLOCKS), (422, "TARIFF_INVALID", "grid.blocks[1].upto_kwh"), "upto_kwh",
    ),
    "fee": (
        tariff(fixed={"amount": "-50.00"}), (422, "TARIFF_INVALID", "fixed.amount"), "negative",
    ),
}  # fmt: skip
CASES = {
    **{name: Bad("POST", "/tariffs", *wrong) for name, wrong in TARIFFS.items()},
    "calendar": Bad(
        "PUT", f"/accounts/{FLAT}/terms", NEVER,
        (422, "CALENDAR_NEVER_CUTS", "friendly_hours.windows"), "",
    ),
    "recharge": Bad(
        "POST", RECHARGES, {"amount": "10000000.000000001"},
        (422, "AMOUNT_RANGE", "amount"), "10000000 INR",
    ),
    "form": Bad(
        "POST", RECHARGES, {"amount": "-5"}, (400, "VALIDATION", "body.amount"), "not well-formed",
    ),
    "nobody": Bad(
        "POST", "/accounts/nobody/recharges", {"amount": "5"},
        (404, "ACCOUNT_UNKNOWN", "account_id"), "nobody",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Gateway:
    """Two flats with accounts, nothing drawn."""
    made = make_site(meters=2).start()
    made.open(FLAT, "1000.00")
    made.open(OTHER, "1000.00")
    return made


@pytest.fixture(scope="module")
def manager(site: Gateway) -> str:
    """A manager's key."""
    return site.token("manager", "anna")


def books(site: Gateway) -> tuple[object, object]:
    """The ledger's head and every balance."""
    with reading(site.paths.ledger, LEDGER) as connection:
        return ledger_head(connection), read_balances(connection)


def records(site: Gateway) -> list[dict[str, Any]]:
    """The audit record."""
    with reading(site.paths.ledger, LEDGER) as connection:
        rows = connection.execute("SELECT body FROM audit ORDER BY seq").fetchall()
    return [json.loads(row[0]) for row in rows]


def on_record(site: Gateway, before: int, code: str) -> dict[str, Any]:
    """The one record since `before` with this result; what north refused comes within seconds."""

    def look() -> list[dict[str, Any]]:
        return [record for record in records(site)[before:] if record["result"] == code]

    (found,) = site.until(look, f"{code} in the audit record")
    return found


def refused(site: Gateway, manager: str, bad: Bad, key: str) -> dict[str, Any]:
    """Call, see the refusal twice and the books unchanged; its audit record."""
    before, head = len(records(site)), books(site)
    status, code, place = bad.answer
    for _ in range(2):
        got, problem = site.http(manager, bad.method, bad.path, bad.body, key)
        assert (got, problem["code"]) == (status, code), problem
        found = problem.get("place") or problem["errors"][0]["place"]
        assert found == place
        assert bad.said in problem["detail"]
    assert books(site) == head
    record = on_record(site, before, code)
    assert (record["actor"].partition(":")[0], record["role"]) == ("token", "manager")
    assert (record["place"], record["request"]) == (place, key)
    assert record["source"] == "127.0.0.1"
    return record


@pytest.mark.parametrize("name", CASES)
def test_bad_input_over_http(site: Gateway, manager: str, name: str) -> None:
    """The second time the same key gets the same answer, and is no second refusal of control."""
    record = refused(site, manager, CASES[name], f"bad-{name}")
    assert record.get("by") == ("north" if name == "form" else None)


def test_a_voucher_for_another_point(site: Gateway, manager: str) -> None:
    """Its digits are on no record, and still worth their money at their own point."""
    sale = {"service_point_id": FLAT, "amount": "50.00"}
    status, sold = site.http(manager, "POST", "/vouchers", sale, "sale")
    assert status == 201
    token = str(sold["result"]["token"])
    body = {"service_point_id": OTHER, "token": token}
    bad = Bad("POST", "/vouchers/redemptions", body, (422, "VOUCHER_WRONG", "token"), "compare")
    refused(site, manager, bad, "bad-voucher")
    body = {"service_point_id": token, "token": "1"}
    malformed = Bad(
        "POST", "/vouchers/redemptions", body, (400, "VOUCHER_FORMAT", "token"), "20 digits"
    )
    refused(site, manager, malformed, "bad-digits")
    assert not any(token[5:] in json.dumps(record) for record in records(site))
    body = {"service_point_id": FLAT, "token": token}
    assert site.http(manager, "POST", "/vouchers/redemptions", body, "good")[0] == 201


def test_a_reversal_of_a_reversal(site: Gateway, manager: str) -> None:
    """What was undone is done again by a new recharge."""
    _, paid = site.http(manager, "POST", RECHARGES, {"amount": "5"}, "paid")
    seq = paid["result"]["transaction_seq"]
    why = {"reason": "wrong flat"}
    _, undone = site.http(manager, "POST", f"/transactions/{seq}/reversal", why, "undone")
    path = f"/transactions/{undone['result']['transaction_seq']}/reversal"
    answer = (409, "NOT_REVERSIBLE", "transaction_seq")
    refused(site, manager, Bad("POST", path, why, answer, "is a reversal"), "bad-reversal")


def test_a_wrong_role_and_an_unknown_token_are_on_record(site: Gateway) -> None:
    """Who it was, or at least from where."""
    before, head = len(records(site)), books(site)
    auditor = site.token("auditor", "zoe")
    assert site.http(auditor, "POST", RECHARGES, {"amount": "5"}, "not-mine")[0] == 403
    assert site.http("pgw_guessed", "POST", RECHARGES, {"amount": "5"}, "guess")[0] == 401
    forbidden = on_record(site, before, "FORBIDDEN")
    assert (forbidden["role"], forbidden["action"], forbidden["object"]) == (
        "auditor", "POST /api/v1/accounts/{account_id}/recharges", {"account_id": FLAT},
    )  # fmt: skip
    unknown = on_record(site, before, "UNAUTHENTICATED")
    assert (unknown["actor"], unknown["source"]) == ("", "127.0.0.1")
    assert books(site) == head


@pytest.mark.parametrize("name", TARIFFS)
def test_a_bad_tariff_on_the_terminal(site: Gateway, name: str) -> None:
    """`tariff check` and `tariff publish` name line and place; neither asks the gateway for it."""
    document, (_, _, place), _ = TARIFFS[name]
    file = site.directory / f"{name}.yaml"
    file.write_text(json.dumps(document, indent=1), encoding="utf-8")
    before, head = len(records(site)), books(site)
    for words in (("tariff", "check"), ("tariff", "publish", "--yes")):
        answer = site.cli(*words, str(file))
        assert (answer.returncode, answer.stdout) == (2, "")
        assert re.search(rf"{name}\.yaml:\d+:\d+: {re.escape(place)}", answer.stderr), answer.stderr
    assert books(site) == head
    assert len(records(site)) == before


def test_bad_calls_on_the_terminal(site: Gateway) -> None:
    """One line with code, place and reason, status 1, nothing changed."""
    terms = site.directory / "terms.yaml"
    terms.write_text(json.dumps(NEVER), encoding="utf-8")
    paid = site.recharge(FLAT, "5", "paid-cli")["result"]["transaction_seq"]
    undone = site.call("POST", f"/transactions/{paid}/reversal", {"reason": "x"}, "undone-cli")
    reversal = undone["result"]["transaction_seq"]
    head = books(site)
    for words, said in (
        (("account", "recharge", FLAT, "10000001"), "AMOUNT_RANGE: amount is beyond"),
        (("account", "recharge", FLAT, "5,00"), "VALIDATION: "),
        (("account", "recharge", "nobody", "5"), "ACCOUNT_UNKNOWN: account_id: "),
        (
            ("account", "reverse", str(reversal), "--reason", "no"),
            "NOT_REVERSIBLE: transaction_seq",
        ),
        (("account", "terms", FLAT, str(terms)), "CALENDAR_NEVER_CUTS: friendly_hours.windows"),
        (("voucher", "redeem", OTHER, "1234"), "VOUCHER_FORMAT: token: "),
    ):
        before = len(records(site))
        answer = site.cli(*words)
        assert (answer.returncode, answer.stdout) == (1, ""), answer
        assert answer.stderr.startswith(said), answer.stderr
        code = said.partition(":")[0]
        assert on_record(site, before, code)["actor"].startswith("uid:")
    assert books(site) == head
    shown = json.loads(site.cli("ledger", "audit", "--refused", "--last", "2", "--json").stdout)
    assert [one["record"]["result"] for one in shown] == ["VOUCHER_FORMAT", "CALENDAR_NEVER_CUTS"]
    first = site.call("GET", "/audit-log?limit=2")
    second = site.call("GET", f"/audit-log?limit=2&cursor={first['next_cursor']}")
    seqs = [one["seq"] for one in first["items"] + second["items"]]
    assert seqs == list(range(len(records(site)), len(records(site)) - 4, -1))
    table = site.cli("ledger", "audit", "--refused", "--last", "2").stdout
    assert "CALENDAR_NEVER_CUTS" in table
    assert "friendly_hours.windows" in table


def test_a_flood_is_a_few_records_with_every_call_counted(site: Gateway, manager: str) -> None:
    """Recharges go on meanwhile; what was not told yet is on record once north has stopped."""
    before, number = len(records(site)), 500
    auditor = site.token("auditor", "loop")
    headers = {"authorization": f"Bearer {auditor}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{site.port}", headers=headers) as client:
        for count in range(number):
            assert client.post(f"/api/v1{RECHARGES}", json={"amount": "5"}).status_code == 403
            if count % 100 == 0:
                done = site.http(manager, "POST", RECHARGES, {"amount": "5"}, f"amid-{count}")
                assert done[0] in (200, 201)
    site.stop("north")

    def told() -> list[int] | None:
        found = [one["count"] for one in records(site)[before:] if one["result"] == "FORBIDDEN"]
        return found if sum(found) >= number else None

    counts = site.until(told, "every denial")
    assert sum(counts) == number
    assert len(counts) <= 4
    # Both chains hold with all of it, everything computed anew comes out the same.
    assert [record for record in records(site) if record.get("by") == "north"]
    site.verify()
    for words in (("verify", "--replay"), ("export", str(site.directory / "ledger.jsonl"))):
        proof = site.cli("ledger", *words)
        assert proof.returncode == 0, proof.stderr
