"""Tariff drafts over HTTP: listed, decided by another person, and said clearly."""

import httpx
import pytest

from gateway.core.requests import Role
from gateway.north.tokens import create_token
from tests.north.conftest import Served

API = "/api/v1"
DRAFTS = f"{API}/tariff-drafts"
TARIFF = {
    "id": "villa",
    "name": "Villa",
    "currency": "INR",
    "timezone": "Asia/Kolkata",
    "effective_from": "2026-01-01T00:00:00+05:30",
    "grid": {"price": "8.00"},
}


async def second_manager(site: Served) -> httpx.AsyncClient:
    """A client with another manager's key."""
    client = await site.client(None)
    _, secret = await create_token(site.context, label="second", role=Role.MANAGER)
    client.headers["authorization"] = f"Bearer {secret}"
    return client


async def publish(client: httpx.AsyncClient, price: str, key: str) -> httpx.Response:
    """Ask for another price of the villa."""
    form = {**TARIFF, "grid": {"price": price}}
    return await client.post(f"{API}/tariffs", json=form, headers={"idempotency-key": key})


async def decide(
    client: httpx.AsyncClient, number: int, key: str, *, accept: object = True, reason: str = "x"
) -> httpx.Response:
    """Say a word on a draft."""
    form = {"accept": accept, "reason": reason}
    return await client.post(
        f"{DRAFTS}/{number}/decision", json=form, headers={"idempotency-key": key}
    )


async def test_a_draft_says_that_it_is_not_in_force_and_waits_in_the_list(site: Served) -> None:
    """201 with `published` false; the newest version stays the old one until the second word."""
    first, second = await site.client(Role.MANAGER), await second_manager(site)
    await publish(first, "8.00", "k-1")
    answer = await publish(first, "14.00", "k-2")
    result = answer.json()["result"]
    assert (answer.status_code, result["published"], result["draft"]) == (201, False, 1)
    assert f"POST {DRAFTS}/1/decision" in result["next"]
    assert "75 % more" in result["rise"]
    auditor = await site.client(Role.AUDITOR)
    (draft,) = (await auditor.get(DRAFTS)).json()["items"]
    assert (draft["number"], draft["tariff_id"], draft["rise"]) == (1, "villa", result["rise"])
    assert draft["document"]["grid"] == {"price": "14.00"}
    assert draft["drafted_at"].endswith("Z")
    shown = (await auditor.get(f"{API}/tariffs/villa")).json()
    assert (shown["version"], shown["document"]["grid"]) == (1, {"price": "8.00"})

    same = await decide(first, 1, "k-3")
    assert (same.status_code, same.json()["code"]) == (409, "SAME_PERSON")
    accepted = await decide(second, 1, "k-4")
    assert (accepted.status_code, accepted.json()["result"]["version"]) == (201, 2)
    repeat = await decide(second, 1, "k-4")
    assert (repeat.status_code, repeat.json()) == (200, accepted.json())
    assert (await auditor.get(DRAFTS)).json()["items"] == []
    assert (await auditor.get(f"{API}/tariffs/villa")).json()["versions"] == [1, 2]


async def test_drafts_come_in_pages_and_a_refused_one_goes(site: Served) -> None:
    """A cursor leads on; a draft that is refused, or never was, is 404 afterwards."""
    client = await site.client(Role.MANAGER)
    await publish(client, "8.00", "k-0")
    for number in range(1, 4):
        await publish(client, f"{20 + number}.00", f"k-{number}")
    page = (await client.get(f"{DRAFTS}?limit=2")).json()
    rest = (await client.get(f"{DRAFTS}?limit=2&cursor={page['next_cursor']}")).json()
    assert [item["number"] for item in (*page["items"], *rest["items"])] == [1, 2, 3]
    assert rest["next_cursor"] is None
    refused = await decide(client, 2, "k-no", accept=False)
    assert (refused.status_code, refused.json()["result"]["accepted"]) == (201, False)
    for number in (2, 99):
        again = await decide(client, number, f"k-again-{number}", accept=False)
        assert (again.status_code, again.json()["code"]) == (404, "DRAFT_UNKNOWN")


@pytest.mark.parametrize(("accept", "reason"), [("yes", "x"), (1, "x"), (True, "  ")])
async def test_a_decision_without_a_clear_word_and_a_reason_is_none(
    site: Served, accept: object, reason: str
) -> None:
    """Only true or false, and why."""
    answer = await decide(await site.client(Role.MANAGER), 1, "k-1", accept=accept, reason=reason)
    assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION")
    assert site.executor.executed == 0


async def test_every_version_stays_readable(site: Served) -> None:
    """An older version is shown as it was published; one that never was is 404."""
    client = await site.client(Role.MANAGER)
    await publish(client, "8.00", "k-1")
    await publish(client, "9.00", "k-2")
    auditor = await site.client(Role.AUDITOR)
    shown = [
        (await auditor.get(f"{API}/tariffs/villa{asked}")).json()
        for asked in ("?version=1", "?version=2", "")
    ]
    assert [(one["version"], one["document"]["grid"]["price"]) for one in shown] == [
        (1, "8.00"),
        (2, "9.00"),
        (2, "9.00"),
    ]
    assert {tuple(one["versions"]) for one in shown} == {(1, 2)}
    gone = await auditor.get(f"{API}/tariffs/villa?version=3")
    assert (gone.status_code, gone.json()["code"]) == (404, "TARIFF_UNKNOWN")
    assert (await auditor.get(f"{API}/tariffs/villa?version=0")).status_code == 400
