"""Status and RECOVERY over the API, and what north remembers of the ledger."""

import httpx

from gateway.core.recovery import KnownHead, RecoveryReason
from gateway.core.requests import Outcome, OutcomeStatus, Role
from gateway.north.known_head import HeadMemory
from gateway.store.commands import record_outcome
from gateway.store.ledger import ledger_head
from gateway.store.recovery import (
    enter_recovery,
    load_known_head,
    recovery_now,
    save_known_head,
)
from tests.north.conftest import Served

API = "/api/v1"
RELEASE = f"{API}/recovery/release"


def enter(site: Served) -> None:
    """The ledger is in RECOVERY."""
    site.executor.ledger.write(
        lambda c: enter_recovery(c, recovery_now(c, RecoveryReason.RESTORED, utc_ms=5_000))
    )


async def recharge(site: Served) -> None:
    """The ledger gets a transaction."""
    client = await site.client(Role.OPERATOR)
    answer = await client.post(
        f"{API}/accounts/flat-1/recharges",
        json={"amount": "5.00"},
        headers={"idempotency-key": "r-1"},
    )
    assert answer.status_code == 201


async def release(client: httpx.AsyncClient, key: str) -> httpx.Response:
    """Ask for the end of the RECOVERY."""
    return await client.post(RELEASE, json={"reason": "ok"}, headers={"idempotency-key": key})


async def test_status_tells_the_site_on_one_screen(site: Served) -> None:
    """What the ledger tells is there; figures of a control that shows none are null."""
    await recharge(site)
    client = await site.client(Role.AUDITOR)
    status = (await client.get(f"{API}/status")).json()
    assert (status["control"], status["recovery"]) == ("present", None)
    assert status["ledger"]["open_accounts"] >= 1
    assert status["ledger"]["transactions"] >= 1
    assert (status["meters"], status["clock_trusted"], status["disk_free_bytes"]) == (None,) * 3
    assert status["meters_away"] == []
    enter(site)
    status = (await client.get(f"{API}/status")).json()
    assert status["recovery"]["reason"] == "restored"
    assert status["recovery"]["since"].startswith("1970-01-01T00:00:05")


async def test_recovery_is_shown_with_what_was_refused_since_and_released_once(
    site: Served,
) -> None:
    """Counts by status, every refusal in words; a second release is refused."""
    client = await site.client(Role.MANAGER)
    before = (await client.get(f"{API}/recovery")).json()
    assert before == {"standing": None, "requests": {}, "refused": []}
    enter(site)
    refused = Outcome(
        key="old-1",
        type="publish_tariff",
        body_hash="",
        status=OutcomeStatus.REFUSED,
        code="TARIFF_RETROACTIVE",
        message="too late",
        result={},
        utc_ms=6_000,
    )
    site.executor.ledger.write(lambda c: record_outcome(c, refused))
    shown = (await client.get(f"{API}/recovery")).json()
    assert shown["requests"] == {"refused": 1}
    assert shown["refused"] == [
        {
            "key": "old-1",
            "type": "publish_tariff",
            "code": "TARIFF_RETROACTIVE",
            "message": "too late",
        }
    ]
    assert (await release(client, "k-1")).status_code == 201
    assert (await client.get(f"{API}/recovery")).json()["standing"] is None
    again = await release(client, "k-2")
    assert (again.status_code, again.json()["code"]) == (409, "NO_RECOVERY")


async def test_north_remembers_the_head_and_never_a_lower_one(site: Served) -> None:
    """It moves with the ledger; a head that the ledger lacks stays as evidence."""
    context = site.context
    await recharge(site)
    memory = HeadMemory(context)
    await memory.remember()
    head = await context.ledger.read(ledger_head)
    known = KnownHead(head.seq, head.hash)
    assert head.seq > 0
    assert await context.north.read(load_known_head) == known
    lost = KnownHead(head.seq + 50, b"l" * 32)
    await context.write(lambda c: save_known_head(c, lost, utc_ms=1))
    await memory.remember()
    assert await context.north.read(load_known_head) == lost
    # Once control has taken note of the loss, it moves on.
    site.executor.ledger.write(
        lambda c: enter_recovery(c, recovery_now(c, RecoveryReason.OLDER, utc_ms=1, known=lost))
    )
    await HeadMemory(context).remember()
    assert await context.north.read(load_known_head) == known
