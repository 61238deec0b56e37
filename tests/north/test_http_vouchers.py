"""Vouchers over HTTP: sold, shown to those who sell, redeemed, taken back."""

import httpx
import pytest

from gateway.core.requests import Role
from gateway.core.voucher import grouped
from tests.north.conftest import Served

API = "/api/v1"


async def post(client: httpx.AsyncClient, path: str, key: str, form: object) -> httpx.Response:
    """A wish."""
    return await client.post(f"{API}{path}", json=form, headers={"idempotency-key": key})


async def sell(client: httpx.AsyncClient, key: str = "s-1", amount: str = "500.00") -> str:
    """The digits of a voucher for flat-1."""
    form = {"service_point_id": "flat-1", "amount": amount, "payment_reference": "R-1"}
    answer = await post(client, "/vouchers", key, form)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["result"]["token"])


async def test_a_voucher_is_sold_shown_and_redeemed(site: Served) -> None:
    """The answer has the digits; a repeat of the key is the same voucher; then it is credit."""
    client = await site.client(Role.OPERATOR)
    token = await sell(client)
    again = await post(
        client,
        "/vouchers",
        "s-1",
        {"service_point_id": "flat-1", "amount": "500", "payment_reference": "R-1"},
    )
    assert (again.status_code, again.json()["result"]["token"]) == (200, token)
    shown = (await client.get(f"{API}/vouchers/flat-1/1")).json()
    assert shown["token"] == token
    assert (shown["state"], shown["amount"], shown["currency"]) == ("issued", "500", "INR")
    assert (shown["payment_reference"], shown["closed_at"]) == ("R-1", None)
    form = {"service_point_id": "flat-1", "token": f" {grouped(token)} "}
    answer = await post(client, "/vouchers/redemptions", "r-1", form)
    assert answer.status_code == 201
    assert (answer.json()["result"]["balance"], answer.json()["result"]["counter"]) == ("500", 1)
    twice = await post(client, "/vouchers/redemptions", "r-2", form)
    assert (twice.status_code, twice.json()["code"]) == (409, "VOUCHER_REDEEMED")
    # The same wish, typed without spaces: the stored answer.
    plain = {"service_point_id": "flat-1", "token": token}
    assert (await post(client, "/vouchers/redemptions", "r-1", plain)).status_code == 200
    shown = (await client.get(f"{API}/vouchers/flat-1/1")).json()
    assert (shown["state"], shown["token"]) == ("redeemed", None)


async def test_only_who_may_sell_sees_the_digits(site: Served) -> None:
    """Neither a list, nor the voucher, nor the request's own record shows them to others."""
    operator = await site.client(Role.OPERATOR)
    token = await sell(operator)
    assert token not in (await operator.get(f"{API}/vouchers")).text
    assert token in (await operator.get(f"{API}/requests/s-1")).text
    for role in (Role.AUDITOR, Role.TECHNICIAN):
        client = await site.client(role)
        for path in ("vouchers", "vouchers/flat-1/1", "requests/s-1", "accounts/flat-1"):
            answer = await client.get(f"{API}/{path}")
            assert (path, answer.status_code, token in answer.text) == (path, 200, False)


async def test_vouchers_are_paged_newest_first(site: Served) -> None:
    """By point or all; a cursor leads on without loss."""
    client = await site.client(Role.MANAGER)
    for number in range(5):
        await sell(client, f"s-{number}", "1")
    seen: list[int] = []
    cursor = ""
    while True:
        answer = await client.get(
            f"{API}/vouchers",
            params={"service_point_id": "flat-1", "limit": 2, "cursor": cursor},
        )
        page = answer.json()
        seen += [item["counter"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [5, 4, 3, 2, 1]
    other = await client.get(f"{API}/vouchers", params={"service_point_id": "flat-2"})
    assert other.json() == {"items": [], "next_cursor": None}


@pytest.mark.slow
async def test_a_voucher_is_taken_back_by_a_manager(site: Served) -> None:
    """With a reason, once; an unknown one is 404."""
    manager = await site.client(Role.MANAGER)
    await sell(manager)
    path = "/vouchers/flat-1/1/cancellation"
    blank = await post(manager, path, "c-0", {"reason": " "})
    assert (blank.status_code, blank.json()["code"]) == (400, "VALIDATION")
    done = await post(manager, path, "c-1", {"reason": "wrong amount"})
    assert (done.status_code, done.json()["result"]["amount"]) == (201, "500")
    twice = await post(manager, path, "c-2", {"reason": "again"})
    assert (twice.status_code, twice.json()["code"]) == (409, "VOUCHER_CANCELLED")
    missing = await manager.get(f"{API}/vouchers/flat-1/9")
    assert (missing.status_code, missing.json()["code"]) == (404, "VOUCHER_UNKNOWN")


async def test_what_is_no_voucher_is_refused_and_not_echoed(site: Served) -> None:
    """By its form before it is stored, by its digits after."""
    client = await site.client(Role.OPERATOR)
    digits = "18451462421805660642"
    for key, token, status, code in (
        ("f-1", digits[:-1], 400, "VOUCHER_FORMAT"),
        ("f-2", digits[:-1] + "O", 400, "VOUCHER_FORMAT"),
        ("f-3", digits, 422, "VOUCHER_WRONG"),
        ("f-4", "1" * 65, 400, "VALIDATION"),
    ):
        form = {"service_point_id": "flat-1", "token": token}
        answer = await post(client, "/vouchers/redemptions", key, form)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert digits[5:15] not in answer.text
    assert (await client.get(f"{API}/requests/f-1")).status_code == 404


async def test_amounts_and_locks_have_their_codes(site: Served) -> None:
    """Too much, no whole unit, another currency; nothing locked."""
    client = await site.client(Role.MANAGER)
    for key, form, status, code in (
        ("a-1", {"amount": "10485.76"}, 422, "AMOUNT_RANGE"),
        ("a-2", {"amount": "0.001"}, 422, "VOUCHER_UNIT"),
        ("a-3", {"amount": "5", "currency": "EUR"}, 422, "CURRENCY_MISMATCH"),
    ):
        answer = await post(client, "/vouchers", key, {"service_point_id": "flat-1", **form})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    form = {"service_point_id": "flat-1", "address": "10.0.0.7", "reason": "torn"}
    answer = await post(client, "/vouchers/unlock", "u-1", form)
    assert (answer.status_code, answer.json()["code"]) == (409, "VOUCHER_NOT_LOCKED")
