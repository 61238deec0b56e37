"""What north refuses reaches north.db for the audit record: who, where from, route and place."""

import json
from typing import Any

from structlog.testing import capture_logs

from gateway.core.denials import FURTHER, Denial
from gateway.core.requests import Role
from gateway.north.context import NorthSettings
from gateway.store.db import Connection
from gateway.store.denials import WAITING_MAX, add_denials, denials_after
from gateway.store.requests import RequestReader
from tests.north.conftest import Served, serving
from tests.north.small_site import Executor

API = "/api/v1"
RECHARGES = f"{API}/accounts/flat-1/recharges"
VOUCHER = "12345678901234567890"


async def waiting(site: Served) -> list[Denial]:
    """What waits for control in north.db, oldest first."""

    def look(connection: Connection) -> list[Denial | None]:
        rows = denials_after(connection, None, WAITING_MAX).rows
        return [row.denial for row in rows]

    found = await site.context.north.read(look)
    assert all(found)
    return [denial for denial in found if denial is not None]


async def told(site: Served) -> list[tuple[str, str, str]]:
    """Role, action and code of what waits after a post."""
    await site.context.denial_post.post()
    return [(one.role, one.action, one.code) for one in await waiting(site)]


async def test_a_wrong_role_and_a_malformed_body_are_denials(site: Served) -> None:
    """A change that north refuses never reaches control: this is how it gets on record."""
    auditor, operator = await site.client(Role.AUDITOR), await site.client(Role.OPERATOR)
    assert (await auditor.post(RECHARGES, json={"amount": "5"})).status_code == 403
    key = {"idempotency-key": "till-1"}
    answer = await operator.post(RECHARGES, json={"amount": "five"}, headers=key)
    assert answer.json()["errors"][0]["place"] == "body.amount"
    assert (await operator.post(RECHARGES, json={"amount": "5"})).status_code == 400
    await site.context.denial_post.post()
    action = "POST /api/v1/accounts/{account_id}/recharges"
    forbidden, malformed, keyless = await waiting(site)
    assert (forbidden.role, forbidden.action, forbidden.code) == ("auditor", action, "FORBIDDEN")
    assert forbidden.actor.startswith("token:")
    assert (forbidden.source, forbidden.count) == ("127.0.0.1", 1)
    assert (malformed.code, malformed.place, malformed.request) == (
        "VALIDATION", "body.amount", "till-1"
    )  # fmt: skip
    assert dict(malformed.object) == {"account_id": "flat-1"}
    assert (keyless.code, keyless.place) == (
        "IDEMPOTENCY_KEY_MISSING", "header.idempotency-key"
    )  # fmt: skip


async def test_unknown_tokens_and_none_at_all_are_denials(site: Served) -> None:
    """Who did not prove who they are: the address is all that is known."""
    client = await site.client(None)
    headers = {"authorization": "Bearer pgw_guessed"}
    for _ in range(12):
        await client.get(f"{API}/meters", headers=headers)
    await client.get(f"{API}/meters")
    await site.context.denial_post.post()
    unknown, limited = await waiting(site)
    assert (unknown.action, unknown.code, unknown.place) == (
        "authentication", "UNAUTHENTICATED", "header.authorization"
    )  # fmt: skip
    # Ten failed attempts and the one without a token, then the limit.
    assert (unknown.count, limited.code, limited.count) == (11, "RATE_LIMITED", 2)
    assert (unknown.actor, unknown.role, unknown.source) == ("", "", "127.0.0.1")


async def test_what_belongs_on_record_and_what_does_not(site: Served) -> None:
    """Forbidden reads do; a wrong cursor, something unknown, and control's own refusals do not."""
    auditor, technician = await site.client(Role.AUDITOR), await site.client(Role.TECHNICIAN)
    operator = await site.client(Role.OPERATOR)
    assert (await technician.get(f"{API}/api-keys")).status_code == 403
    assert (await auditor.get(f"{API}/meters?cursor=zzz")).status_code == 400
    assert (await auditor.get(f"{API}/meters/nobody")).status_code == 404
    unknown = f"{API}/accounts/nobody/recharges"
    key = {"idempotency-key": "k"}
    answer = await operator.post(unknown, json={"amount": "5"}, headers=key)
    assert answer.json()["code"] == "ACCOUNT_UNKNOWN"
    assert (await operator.post(f"{API}/nothing")).status_code == 404
    assert await told(site) == [
        ("technician", "GET /api/v1/api-keys", "FORBIDDEN"),
        ("operator", "POST (no route)", "NOT_FOUND"),
    ]


async def test_no_secret_of_a_caller_gets_into_a_denial(site: Served) -> None:
    """A voucher or token in a body, a path, the name of a field or a key is not copied."""
    manager = await site.client(Role.MANAGER)
    token = site.secrets[Role.MANAGER]
    key = {"idempotency-key": VOUCHER}
    point = f"{API}/service-points/flat-1/vouchers/redeem"
    for path, body in (
        (f"{API}/vouchers", {"service_point_id": "flat-1", "amount": "1", VOUCHER: "1"}),
        (f"{API}/vouchers", {"service_point_id": "flat-1", "amount": "1", token: 1}),
        (f"{API}/accounts/{VOUCHER}/recharges", {"amount": VOUCHER + "x"}),
        (f"{API}/accounts/{token}/recharges", {"amount": "x"}),
        (point, {"token": VOUCHER, "more": token}),
    ):
        assert (await manager.post(path, json=body, headers=key)).status_code in (400, 404)
        # One kind is told once a minute: each is looked at by itself.
        await site.context.denial_post.post()
        site.context.denials._known.standing.clear()
    await manager.delete(f"{API}/api-keys/{token}")
    await site.context.denial_post.post()

    def bodies(connection: Connection) -> list[Any]:
        return connection.execute("SELECT body FROM denial").fetchall()

    kept = json.dumps(await site.context.north.read(bodies))
    assert len(json.loads(kept)) >= 6
    assert "body.1234****" in kept
    assert VOUCHER not in kept
    assert VOUCHER[:12] not in kept
    assert token not in kept


async def record_up_to(site: Served, denial_id: int) -> None:
    """As control does in the commit of its audit records."""
    epoch = (await site.context.north.read(lambda c: denials_after(c, None, 1))).epoch
    site.executor.ledger.write(
        lambda c: c.execute(
            "INSERT INTO denial_cursor VALUES (1, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "denial_id = excluded.denial_id",
            (epoch, denial_id),
        )
    )


async def test_with_control_away_a_bounded_number_waits_and_the_rest_is_counted(
    site: Served,
) -> None:
    """Said once; what control has on record is deleted, and the rest follows as a number."""
    auditor = await site.client(Role.AUDITOR)
    await auditor.post(RECHARGES)
    assert len(await told(site)) == 1
    (first,) = await waiting(site)
    more = [first] * WAITING_MAX
    assert await site.context.write(lambda c: add_denials(c, more, None)) == WAITING_MAX - 1
    with capture_logs() as lines:
        for path in (f"{API}/vouchers", f"{API}/tariffs"):
            await auditor.post(path)
            assert len(await told(site)) == WAITING_MAX
    said = [line["event"] for line in lines if line["event"] == "denials.summed"]
    assert said == ["denials.summed"]
    await record_up_to(site, WAITING_MAX)
    assert await told(site) == [("known", FURTHER, "DENIED")]
    (further,) = await waiting(site)
    assert further.count == 2


async def test_the_last_denials_are_written_when_north_ends(
    settings: NorthSettings, executor: Executor
) -> None:
    """A count that waits for the end of its minute is not lost with a stop."""
    async with serving(settings, executor) as site:
        auditor = await site.client(Role.AUDITOR)
        await auditor.post(RECHARGES)
        await told(site)
        for _ in range(5):
            await auditor.post(RECHARGES)
        assert len(await told(site)) == 1
    reader = RequestReader(settings.north_path)
    rows = reader.read(lambda c: denials_after(c, None, 10)).rows
    reader.close()
    assert [row.denial.count for row in rows if row.denial] == [1, 5]
