"""The command line's way to a running north."""

import asyncio
from pathlib import Path

import pytest

from gateway.core.errors import RefusedError, StoreAwayError
from gateway.north.client import LocalClient
from tests.north.conftest import Served


async def test_client_calls_and_gets_objects(site: Served) -> None:
    """A recharge over the local socket, with the token of nobody, answered as an object."""

    def work() -> tuple[dict[str, object], dict[str, object]]:
        with LocalClient(site.context.settings.socket_path) as client:
            made = client.call(
                "POST", "/accounts/flat-1/recharges", {"amount": "7.50"}, idempotency_key="cli-1"
            )
            return made, client.call("GET", "/accounts/flat-1")

    made, account = await asyncio.to_thread(work)
    assert made["state"] == "executed"
    assert account["balance"] == "7.5"


async def test_refusals_keep_their_code_and_places(site: Served) -> None:
    """A rule's refusal is raised with its own code; wrong fields are named line by line."""

    def work() -> tuple[RefusedError, RefusedError]:
        with LocalClient(site.context.settings.socket_path) as client:
            with pytest.raises(RefusedError) as unknown:
                client.call("GET", "/accounts/nobody")
            with pytest.raises(RefusedError) as wrong:
                client.call("POST", "/accounts/flat-1/recharges", {"amount": "x"}, "cli-1")
            return unknown.value, wrong.value

    unknown, wrong = await asyncio.to_thread(work)
    assert unknown.refusal_code == "ACCOUNT_UNKNOWN"
    assert wrong.refusal_code == "VALIDATION"
    assert "body.amount: " in wrong.message


def test_absent_north_is_said_clearly(tmp_path: Path) -> None:
    """Without a running north the error names the socket and what to start."""
    path = tmp_path / "north.sock"
    with LocalClient(path) as client, pytest.raises(StoreAwayError) as away:
        client.call("GET", "/meters")
    assert str(path) in str(away.value)
    assert "prepaid-gateway run" in str(away.value)


async def test_away_ledger_is_away_for_the_client_too(site: Served) -> None:
    """A 503 of the API is StoreAwayError: try again."""
    path = site.context.settings.ledger_path
    path.rename(path.with_name("elsewhere.db"))

    def work() -> None:
        with LocalClient(site.context.settings.socket_path) as client:
            client.call("GET", "/accounts/flat-1")

    with pytest.raises(StoreAwayError, match="STORE_AWAY"):
        await asyncio.to_thread(work)
    path.with_name("elsewhere.db").rename(path)
    await asyncio.to_thread(work)
