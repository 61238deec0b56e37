"""Money and switching: each wish exactly once, with an honest answer at every moment."""

import asyncio
import json
from dataclasses import replace

import httpx
import pytest

from gateway.core.requests import Role
from gateway.core.switching import Reason
from gateway.store.commands import commands_of
from gateway.store.ledger import read_balance
from tests.core.test_prepaid_cases import listed, part
from tests.north.conftest import Served

API = "/api/v1"
RECHARGE = f"{API}/accounts/flat-1/recharges"


async def test_recharge_is_executed_and_answered(site: Served) -> None:
    """A recharge that control executes within the wait is a 201 with the new balance."""
    client = await site.client(Role.OPERATOR)
    answer = await _post(client, RECHARGE, "k-1", {"amount": "500.25", "currency": "INR"})
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{API}/requests/k-1"
    body = answer.json()
    assert body["state"] == "executed"
    assert body["result"] == {"transaction_seq": 1, "balance": "500.25", "currency": "INR"}
    kept = (await client.get(answer.headers["location"])).json()
    assert {name: kept[name] for name in body} == body
    assert await _balance(client) == "500.25"


async def test_p01_one_key_is_one_recharge_over_http(site: Served) -> None:
    """Created, then the stored answer, then a conflict; the balance is the example's."""
    client = await site.client(Role.OPERATOR)
    await _post(client, RECHARGE, "before", {"amount": part("P01", "given")["wallet"]})
    answers = [
        await _post(client, RECHARGE, "A", {"amount": amount}) for amount in ("500", "500", "600")
    ]
    statuses = [str(answer.status_code) for answer in answers]
    assert statuses == listed("P01", "expect", "http")
    assert await _balance(client) == part("P01", "expect")["wallet"]


async def test_repeat_gets_the_stored_answer_and_credits_once(site: Served) -> None:
    """The same key and body again: 200, the same body, no second credit."""
    client = await site.client(Role.OPERATOR)
    first = await _post(client, RECHARGE, "k-1", {"amount": "500.00"})
    again = await _post(client, RECHARGE, "k-1", {"amount": "500"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert await _balance(client) == "500"


async def test_concurrent_repeats_credit_once(site: Served) -> None:
    """Twenty callers with one key at the same moment: one credit, all told the same."""
    client = await site.client(Role.OPERATOR)
    answers = await asyncio.gather(
        *(_post(client, RECHARGE, "k-1", {"amount": "5"}) for _ in range(20))
    )
    assert {answer.status_code for answer in answers} == {200, 201}
    assert len({answer.text for answer in answers}) == 1
    assert sum(answer.status_code == 201 for answer in answers) == 1
    assert await _balance(client) == "5"


async def test_same_key_with_another_body_is_a_conflict(site: Served) -> None:
    """A key names one wish for ever: another amount, account or type under it is 409."""
    client = await site.client(Role.MANAGER)
    await _post(client, RECHARGE, "k-1", {"amount": "500.00"})
    others = [
        (RECHARGE, {"amount": "501.00"}),
        (f"{API}/accounts/flat-2/recharges", {"amount": "500.00"}),
        (f"{API}/transactions/1/reversal", {"reason": "x"}),
        (f"{API}/meters/flat-1/commands", {"action": "disconnect", "reason": "x"}),
    ]
    for path, form in others:
        answer = await _post(client, path, "k-1", form)
        assert (answer.status_code, answer.json()["code"]) == (409, "IDEMPOTENCY_CONFLICT")
    assert await _balance(client) == "500"


async def test_key_is_required_and_checked(site: Served) -> None:
    """Without a usable Idempotency-Key nothing that moves money or supply is taken."""
    client = await site.client(Role.MANAGER)
    forms = {
        RECHARGE: {"amount": "5"},
        f"{API}/accounts": {"id": "flat-2", "tariff_id": "home"},
        f"{API}/transactions/1/reversal": {"reason": "x"},
        f"{API}/meters/flat-1/commands": {"action": "disconnect", "reason": "x"},
        f"{API}/meters/flat-1/commissioning": {},
        f"{API}/mass-cut/release": {"reason": "x"},
        f"{API}/meters/flat-1/quarantine-release": {"accept": True, "reason": "x"},
        f"{API}/meters/flat-1/replacement": {
            "closing_wh": [0],
            "opening_wh": [0],
            "reason": "x",
        },
        f"{API}/clock/confirmation": {"reason": "x"},
        f"{API}/tariffs": {"id": "x"},
        f"{API}/vouchers": {"service_point_id": "flat-1", "amount": "1"},
        f"{API}/vouchers/redemptions": {"service_point_id": "flat-1", "token": "1" * 20},
        f"{API}/vouchers/unlock": {"service_point_id": "flat-1", "reason": "x"},
        f"{API}/vouchers/flat-1/1/cancellation": {"reason": "x"},
    }
    for path, form in forms.items():
        answer = await client.post(path, json=form)
        assert (path, answer.status_code) == (path, 400)
        assert answer.json()["code"] == "IDEMPOTENCY_KEY_MISSING"
        for key in ("a b", "x" * 129, ""):
            answer = await _post(client, path, key, form)
            assert (answer.status_code, answer.json()["code"]) == (400, "IDEMPOTENCY_KEY_INVALID")
    assert site.executor.executed == 0


async def test_any_key_can_be_asked_for_again(site: Served) -> None:
    """A key may hold any printable ASCII: its Location leads back to it."""
    client = await site.client(Role.OPERATOR)
    for key in ("a/b/../c", "100%", "?x=1#y", "%2F", '"quoted"', "~" * 128):
        answer = await _post(client, RECHARGE, key, {"amount": "1"})
        assert answer.status_code == 201
        found = await client.get(answer.headers["location"])
        assert (found.status_code, found.json()["key"]) == (200, key)


@pytest.mark.slow
async def test_control_that_does_not_answer_gives_202_and_executes_later(
    site: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wish is durable before it is acknowledged, and executed once control goes on."""
    monkeypatch.setattr("gateway.north.wishes.OUTCOME_WAIT_S", 0.1)
    client = await site.client(Role.OPERATOR)
    site.executor.paused.set()
    await asyncio.sleep(0.05)
    answer = await _post(client, RECHARGE, "k-1", {"amount": "5"})
    assert answer.status_code == 202
    assert answer.json()["state"] == "pending"
    location = answer.headers["location"]
    assert (await client.get(location)).json()["state"] == "pending"
    repeat = await _post(client, RECHARGE, "k-1", {"amount": "5"})
    assert repeat.status_code == 202
    site.executor.paused.clear()
    final = await _post(client, RECHARGE, "k-1", {"amount": "5"}, wait=True)
    assert (final.status_code, final.json()["state"]) == (200, "executed")
    assert await _balance(client) == "5"


@pytest.mark.slow
async def test_refusals_of_control_become_problems(site: Served) -> None:
    """Each rule's code has its status; the repeat of a refused wish is refused the same way."""
    client = await site.client(Role.MANAGER)
    await _post(client, RECHARGE, "k-0", {"amount": "5"})
    await _post(client, f"{API}/transactions/1/reversal", "k-00", {"reason": "wrong flat"})
    refused = [
        (f"{API}/accounts/nobody/recharges", {"amount": "5"}, 404, "ACCOUNT_UNKNOWN"),
        (RECHARGE, {"amount": "0"}, 422, "AMOUNT_NOT_POSITIVE"),
        (f"{API}/transactions/99/reversal", {"reason": "x"}, 404, "TRANSACTION_UNKNOWN"),
        (f"{API}/transactions/1/reversal", {"reason": "x"}, 409, "ALREADY_REVERSED"),
        (f"{API}/accounts", {"id": "flat-1", "tariff_id": "home"}, 409, "ACCOUNT_EXISTS"),
        (
            f"{API}/accounts",
            {"id": "new", "service_point_id": "flat-1", "tariff_id": "home"},
            409,
            "POINT_TAKEN",
        ),
        (f"{API}/accounts", {"id": "flat-2", "tariff_id": "none"}, 404, "TARIFF_UNKNOWN"),
        (f"{API}/tariffs", {"name": "no id"}, 422, "TARIFF_INVALID"),
        (f"{API}/mass-cut/release", {"reason": "x"}, 409, "NOT_HALTED"),
    ]
    for number, (path, form, status, code) in enumerate(refused):
        for _ in range(2):
            answer = await _post(client, path, f"k-{number + 1}", form)
            assert (path, answer.status_code, answer.json()["code"]) == (path, status, code)
            assert answer.headers["content-type"] == "application/problem+json"
    asked = (await client.get(f"{API}/requests/k-2")).json()
    assert (asked["state"], asked["code"], asked["place"]) == (
        "refused", "AMOUNT_NOT_POSITIVE", "amount"
    )  # fmt: skip
    again = await _post(client, RECHARGE, "k-2", {"amount": "0"})
    assert again.json()["place"] == "amount"


async def test_a_request_tells_who_made_it_and_for_what(site: Served) -> None:
    """Actor, role, address, time and body, money as decimal text: for the auditor."""
    operator = await site.client(Role.OPERATOR)
    me = (await operator.get(f"{API}/auth/me")).json()
    await _post(operator, f"{API}/accounts/flat-1/recharges", "k-1", {"amount": "500.25"})
    auditor = await site.client(Role.AUDITOR)
    told = (await auditor.get(f"{API}/requests/k-1")).json()
    assert (told["made_by"], told["role"], told["source"]) == (me["actor"], "operator", "127.0.0.1")
    assert told["made_at"] <= told["finished_at"]
    assert told["asked"] == {
        "account_id": "flat-1",
        "amount": "500.25",
        "provider": "counter",
        "payment_reference": "",
        "currency": "INR",
    }
    voucher = {"service_point_id": "flat-1", "token": "1" * 20}
    await _post(operator, f"{API}/vouchers/redemptions", "k-2", voucher)
    assert "1" * 20 not in (await auditor.get(f"{API}/requests/k-2")).text


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        {"amount": 5},
        {"amount": 5.5},
        {"amount": "-5"},
        {"amount": "5e3"},
        {"amount": "NaN"},
        {"amount": "0.0000000001"},
        {"amount": ""},
        {"amount": "\u0665"},
        {},
        {"amount": "5", "amuont": "6"},
        {"amount": "5", "currency": 7},
        {"amount": "5", "provider": "Not An Id"},
        {"amount": "5", "payment_reference": "\ud800"},
        {"amount": "5", "payment_reference": "R-1\x1bp"},
        {"amount": "5", "payment_reference": "R-1\u009b2J"},
        {"amount": "5", "payment_reference": "R-1\0"},
        [],
        "5",
        None,
    ],
)
async def test_malformed_recharge_is_refused_before_it_is_stored(
    site: Served, form: object
) -> None:
    """Money is decimal text; whatever else is 400 and leaves no request behind."""
    client = await site.client(Role.OPERATOR)
    answer = await _post(client, RECHARGE, "k-1", form)
    assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION")
    assert (await client.get(f"{API}/requests/k-1")).status_code == 404


async def test_a_malformed_amount_says_how_one_is_written(site: Served) -> None:
    """A cashier reads this, who knows no regular expression."""
    client = await site.client(Role.OPERATOR)
    for form, place, example in (
        ({"amount": "5,00"}, "body.amount", "such as 500.00"),
        ({"amount": "5", "provider": "The Bank"}, "body.provider", "lower-case letters"),
    ):
        errors = (await _post(client, RECHARGE, "k-1", form)).json()["errors"]
        assert [error["place"] for error in errors] == [place]
        assert example in errors[0]["message"]


async def test_amounts_out_of_range_or_of_another_currency_are_refused(site: Served) -> None:
    """64 bits of nano-units are the end; another currency is never converted silently."""
    client = await site.client(Role.OPERATOR)
    too_large = await _post(client, RECHARGE, "k-1", {"amount": "9" * 18})
    assert (too_large.status_code, too_large.json()["code"]) == (422, "MONEY_RANGE")
    foreign = await _post(client, RECHARGE, "k-2", {"amount": "5", "currency": "EUR"})
    assert (foreign.status_code, foreign.json()["code"]) == (422, "CURRENCY_MISMATCH")


@pytest.mark.slow
async def test_account_is_opened_and_recharge_reversed(site: Served) -> None:
    """Open, recharge, reverse: the statement shows all three linked, newest first."""
    client = await site.client(Role.MANAGER)
    opened = await _post(
        client, f"{API}/accounts", "k-1", {"id": "flat-2", "tariff_id": "home", "name": "Ravi"}
    )
    assert opened.status_code == 201
    path = f"{API}/accounts/flat-2"
    assert (await client.get(path)).json()["name"] == "Ravi"
    await _post(client, f"{path}/recharges", "k-2", {"amount": "40", "payment_reference": "slip 7"})
    reversal = await _post(client, f"{API}/transactions/1/reversal", "k-3", {"reason": "wrong"})
    assert reversal.status_code == 201
    items = (await client.get(f"{path}/transactions")).json()["items"]
    assert [(item["kind"], item["amount"], item["balance_after"]) for item in items] == [
        ("reversal", "-40", "0"),
        ("recharge", "40", "40"),
    ]
    assert items[0]["reverses"] == items[1]["id"]
    assert items[1]["reversed_by"] == items[0]["id"]
    assert items[1]["request_key"] == "k-2"


async def test_tariff_is_published_once_and_guarded_by_its_version(site: Served) -> None:
    """If-Match with an outdated ETag is 412; a repeat of an executed wish is not judged again."""
    client = await site.client(Role.MANAGER)
    tag = (await client.get(f"{API}/tariffs/home")).headers["etag"]
    document = {"id": "home", "grid": {"price": "9.00"}}
    guarded = {"if-match": tag}
    first = await _post(client, f"{API}/tariffs", "k-1", document, headers=guarded)
    assert (first.status_code, first.json()["result"]["version"]) == (201, 2)
    repeat = await _post(client, f"{API}/tariffs", "k-1", document, headers=guarded)
    assert repeat.status_code == 200
    late = await _post(client, f"{API}/tariffs", "k-2", document, headers=guarded)
    assert (late.status_code, late.json()["code"]) == (412, "PRECONDITION_FAILED")
    tariff = (await client.get(f"{API}/tariffs/home")).json()
    assert (tariff["version"], tariff["versions"]) == (2, [1, 2])
    assert tariff["document"] == document


async def test_tariff_with_nan_or_broken_text_is_refused(site: Served) -> None:
    """What is no JSON or no Unicode never reaches the store."""
    client = await site.client(Role.MANAGER)
    headers = {"idempotency-key": "k-1", "content-type": "application/json"}
    for content in ('{"id": "x", "a": NaN}', '{"id": "\\ud800"}', '{"\\udfff": 1}', "{", "[]", ""):
        answer = await client.post(f"{API}/tariffs", content=content, headers=headers)
        assert (content, answer.status_code) == (content, 400)


async def test_disconnect_and_reconnect_are_followed_to_their_proof(site: Served) -> None:
    """A command is 202 with a place to follow it; the switch that proved it is listed."""
    client = await site.client(Role.TECHNICIAN)
    path = f"{API}/meters/flat-1/commands"
    asked = await _post(client, path, "k-1", {"action": "disconnect", "reason": "works"})
    assert asked.status_code == 202
    assert asked.headers["location"] == f"{API}/commands/k-1"
    command = (await client.get(asked.headers["location"])).json()
    assert (command["id"], command["action"], command["state"]) == ("k-1", "disconnect", "verified")
    assert command["verified_by"] == ["output", "current"]
    meter = (await client.get(f"{API}/meters/flat-1")).json()
    assert meter["supply"]["block_reasons"] == ["MANUAL"]
    listed = (await client.get(path)).json()["items"]
    assert [(item["action"], item["request_key"]) for item in listed] == [("open", "k-1")]
    by_id = (await client.get(f"{API}/commands/{listed[0]['id']}")).json()
    assert (by_id["id"], by_id["request_key"]) == (listed[0]["id"], "k-1")
    back = await _post(client, path, "k-2", {"action": "reconnect"})
    assert back.status_code == 202
    repeat = await _post(client, path, "k-2", {"action": "reconnect"})
    assert repeat.status_code == 200
    again = (await client.get(path)).json()["items"]
    assert [item["action"] for item in again] == ["close", "open"]


async def test_disconnect_needs_a_reason(site: Served) -> None:
    """Nobody is cut without a stated reason, not even one of spaces."""
    client = await site.client(Role.MANAGER)
    for form in ({"action": "disconnect"}, {"action": "disconnect", "reason": "  "}):
        answer = await _post(client, f"{API}/meters/flat-1/commands", "k-1", form)
        assert (answer.status_code, answer.json()["code"]) == (400, "REASON_MISSING")


async def test_refused_command_is_a_problem_and_shown_as_failed(site: Served) -> None:
    """A confirmation that nothing waits for is refused; its command resource says why."""
    client = await site.client(Role.OPERATOR)
    path = f"{API}/meters/flat-1/commands"
    answer = await _post(client, path, "k-1", {"action": "confirm_reconnect"})
    assert (answer.status_code, answer.json()["code"]) == (409, "NOTHING_TO_CONFIRM")
    command = (await client.get(f"{API}/commands/k-1")).json()
    assert (command["state"], command["code"]) == ("failed", "NOTHING_TO_CONFIRM")


async def test_executed_wish_without_a_switch_is_judged_by_the_output(site: Served) -> None:
    """Already open: verified by the output. Still blocked by credit: queued, and it says why."""
    client = await site.client(Role.MANAGER)
    path = f"{API}/meters/flat-1/commands"
    row = site.executor.rows[0]
    site.executor.show(0, replace(row, output_closed=False))
    opened = await _post(client, path, "k-1", {"action": "disconnect", "reason": "works"})
    assert (opened.json()["state"], opened.json()["verified_by"]) == ("verified", ["output"])
    assert site.executor.ledger.write(lambda c: commands_of(c, "flat-1")) == []
    await _post(client, path, "k-2", {"action": "reconnect"})
    wish = (await client.get(f"{API}/commands/k-2")).json()
    assert wish["state"] == "verified"
    site.executor.show(0, replace(site.executor.rows[0], output_closed=True))
    await _post(client, path, "k-3", {"action": "reconnect"})
    site.executor.show(0, replace(row, output_closed=False, reasons=frozenset({Reason.CREDIT})))
    waiting = (await client.get(f"{API}/commands/k-3")).json()
    assert waiting["state"] == "queued"
    assert "CREDIT" in waiting["message"]


@pytest.mark.slow
async def test_switch_that_control_finds_too_late_has_expired(
    site: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late cut is worse than none: a switch that waited too long is not carried out."""
    monkeypatch.setattr("gateway.north.wishes.OUTCOME_WAIT_S", 0.05)
    monkeypatch.setattr("gateway.north.http.commands.SWITCH_EXPIRY_MS", 100)
    client = await site.client(Role.MANAGER)
    site.executor.paused.set()
    await asyncio.sleep(0.05)
    path = f"{API}/meters/flat-1/commands"
    asked = await _post(client, path, "k-1", {"action": "disconnect", "reason": "works"})
    assert (asked.status_code, asked.json()["state"]) == (202, "queued")
    await asyncio.sleep(0.15)
    site.executor.paused.clear()
    monkeypatch.setattr("gateway.north.wishes.OUTCOME_WAIT_S", 2.0)
    late = await _post(client, path, "k-1", {"action": "disconnect", "reason": "works"})
    assert (late.status_code, late.json()["code"]) == (409, "REQUEST_EXPIRED")
    assert (await client.get(f"{API}/commands/k-1")).json()["state"] == "expired"
    assert (await client.get(f"{API}/meters/flat-1")).json()["supply"]["output_closed"] is True


async def test_commissioning_is_recorded(site: Served) -> None:
    """A technician says that a point's wiring was proved; the meter shows it from then on."""
    client = await site.client(Role.TECHNICIAN)
    answer = await _post(client, f"{API}/meters/flat-2/commissioning", "k-1", None)
    assert answer.status_code == 201
    assert answer.json()["result"]["commissioned_at"].endswith("Z")
    assert (await client.get(f"{API}/meters/flat-2")).json()["commissioned"] is True


async def test_request_carries_actor_role_and_source(site: Served) -> None:
    """What control is told of the caller is what the token says, never what the caller says."""
    client = await site.client(Role.OPERATOR)
    await _post(client, RECHARGE, "k-1", {"amount": "5"}, headers={"x-forwarded-for": "9.9.9.9"})
    stored = await site.context.records.request("k-1")
    assert stored is not None
    request = stored.request
    me = (await client.get(f"{API}/auth/me")).json()
    assert (request.actor, request.role, request.source) == (me["actor"], "operator", "127.0.0.1")
    assert request.expires_utc_ms is None
    held = site.executor.ledger.write(lambda c: read_balance(c, "wallet:flat-1"))
    assert held == 5_000_000_000


async def _post(
    client: httpx.AsyncClient,
    path: str,
    key: str,
    form: object,
    *,
    headers: dict[str, str] | None = None,
    wait: bool = False,
) -> httpx.Response:
    sent = {"idempotency-key": key, "content-type": "application/json", **(headers or {})}
    for _ in range(100 if wait else 1):
        answer = await client.post(path, content=json.dumps(form), headers=sent)
        if answer.status_code != 202:
            break
        await asyncio.sleep(0.02)
    return answer


async def _balance(client: httpx.AsyncClient) -> str:
    account = (await client.get(f"{API}/accounts/flat-1")).json()
    return str(account["balance"])
