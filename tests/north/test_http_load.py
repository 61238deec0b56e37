"""Limits, shedding, overrides and restoring the site over HTTP: forms, answers, refusals."""

from datetime import datetime, timedelta

import httpx
import pytest

from gateway.core.requests import Role
from tests.north.conftest import Served

pytestmark = pytest.mark.slow

API = "/api/v1"
LIMITS = {"limit_t1_w": 5_000, "limit_t2_w": 2_000, "limit_emergency_w": 0, "reason": "contract"}
UNTIL = "2999-01-01T00:00:00Z"
KEEP = {
    "kind": "KEEP_CONNECTED",
    "scope": "point",
    "target": "flat-1",
    "until": UNTIL,
    "reason": "oxygen machine",
}


async def post(client: httpx.AsyncClient, path: str, key: str, form: object) -> httpx.Response:
    """A POST with a key."""
    return await client.post(f"{API}{path}", json=form, headers={"idempotency-key": key})


async def test_limits_are_shown_as_a_person_set_them(site: Served) -> None:
    """null before; then who, when and why."""
    client = await site.client(Role.TECHNICIAN)
    path = "/meters/flat-1/limits"
    assert (await client.get(f"{API}{path}")).json()["ordered"] is None
    assert (await post(client, path, "k-1", LIMITS)).status_code == 201
    ordered = (await client.get(f"{API}{path}")).json()["ordered"]
    assert (ordered["limit_t1_w"], ordered["limit_t2_w"], ordered["limit_emergency_w"]) == (
        5_000,
        2_000,
        0,
    )
    assert (ordered["reason"], bool(ordered["set_by"])) == ("contract", True)


async def test_overrides_are_set_listed_by_pages_and_ended(site: Served) -> None:
    """The number in the result is the one that ends it."""
    client = await site.client(Role.MANAGER)
    refused = await post(client, "/overrides", "k-0", KEEP)
    assert (refused.status_code, refused.json()["code"]) == (422, "OVERRIDE_TOO_LONG")
    now = datetime.fromisoformat((await client.get(f"{API}/status")).json()["at"])
    end = (now + timedelta(hours=8)).isoformat()
    for number in (1, 2, 3):
        answer = await post(client, "/overrides", f"k-{number}", {**KEEP, "until": end})
        assert answer.json()["result"] == {"override": number}
    page = (await client.get(f"{API}/overrides?limit=2")).json()
    assert [item["number"] for item in page["items"]] == [1, 2]
    assert page["items"][0]["role"] == "manager"
    rest = (await client.get(f"{API}/overrides?cursor={page['next_cursor']}")).json()
    assert ([item["number"] for item in rest["items"]], rest["next_cursor"]) == ([3], None)
    ended = await post(client, "/overrides/2/end", "e-2", {"reason": "well again"})
    assert ended.status_code == 201
    left = (await client.get(f"{API}/overrides")).json()["items"]
    assert [item["number"] for item in left] == [1, 3]
    again = await post(client, "/overrides/2/end", "e-3", {"reason": "well again"})
    assert (again.status_code, again.json()["code"]) == (404, "OVERRIDE_UNKNOWN")


@pytest.mark.parametrize(
    ("path", "form", "status", "code"),
    [
        ("/meters/nobody/limits", LIMITS, 404, "METER_UNKNOWN"),
        ("/meters/flat-1/limits", {**LIMITS, "limit_t1_w": -1}, 400, "VALIDATION"),
        ("/meters/flat-1/limits", {**LIMITS, "limit_t1_w": 10_000_001}, 400, "VALIDATION"),
        ("/meters/flat-1/limits", {**LIMITS, "limit_t1_w": "5000"}, 400, "VALIDATION"),
        ("/meters/flat-1/limits", {**LIMITS, "reason": " "}, 400, "VALIDATION"),
        ("/meters/flat-1/overload-release", {"reason": "x"}, 409, "NOT_LOCKED"),
        ("/feeders/riser-9/shedding", {"to_w": 1, "reason": "x"}, 404, "FEEDER_UNKNOWN"),
        ("/feeders/Riser/shedding", {"to_w": 1, "reason": "x"}, 400, "VALIDATION"),
        ("/feeders/riser-a/shedding", {"to_w": -1, "reason": "x"}, 400, "VALIDATION"),
        ("/feeders/riser-a/shedding", {"below_priority": 1, "reason": "x"}, 400, "VALIDATION"),
        ("/feeders/riser-a/shedding/end", {"reason": "x"}, 409, "NO_SHED"),
        ("/overrides", {**KEEP, "kind": "RESTORE_ALL"}, 400, "VALIDATION"),
        ("/overrides", {**KEEP, "until": "2030-01-01T00:00:00"}, 400, "VALIDATION"),
        ("/overrides", {**KEEP, "until": "2020-01-01T00:00:00Z"}, 422, "OVERRIDE_PAST"),
        ("/overrides", {**KEEP, "target": ""}, 422, "OVERRIDE_SCOPE"),
        ("/overrides/0/end", {"reason": "x"}, 400, "VALIDATION"),
        ("/restoration", {"until": UNTIL}, 400, "VALIDATION"),
    ],
)
async def test_what_cannot_be_is_refused(
    site: Served, path: str, form: object, status: int, code: str
) -> None:
    """By its form before it is stored, by its rule from control."""
    client = await site.client(Role.MANAGER)
    answer = await post(client, path, "k", form)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_repeat_of_a_limit_is_harmless_and_another_body_a_conflict(site: Served) -> None:
    """The key names one wish for ever."""
    client = await site.client(Role.MANAGER)
    path = "/meters/flat-1/limits"
    first = await post(client, path, "k", LIMITS)
    repeat = await post(client, path, "k", LIMITS)
    assert (first.status_code, repeat.status_code) == (201, 200)
    other = await post(client, path, "k", {**LIMITS, "limit_t1_w": 1})
    assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_CONFLICT")


async def test_a_disconnection_carries_its_cause(site: Served) -> None:
    """A cause that no person sets is refused by the form."""
    client = await site.client(Role.TECHNICIAN)
    path = "/meters/flat-1/commands"
    form = {"action": "disconnect", "reason": "works", "cause": "SAFETY", "owner": "riser works"}
    assert (await post(client, path, "k-1", form)).status_code == 202
    bad = await post(client, path, "k-2", {**form, "cause": "CREDIT"})
    assert (bad.status_code, bad.json()["code"]) == (400, "VALIDATION")
