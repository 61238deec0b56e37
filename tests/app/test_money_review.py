"""Money where the parts meet: what a review broke, each test a scenario that once cost money."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.requests import Body, Recharge, Request, ReverseTransaction, Role
from gateway.store.commands import find_outcome
from tests.app.control_site import ControlSite
from tests.app.test_accounts import NANO, RICH, assert_proved, balance, begin


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ControlSite]:
    """Two meters, read once, clock trusted."""
    made = ControlSite(tmp_path)
    made.read(1_000)
    made.read(5_000, index=1)
    yield made
    made.crash()


def asked(site: ControlSite, body: Body, key: str) -> Request:
    """A manager's request of now."""
    return Request(key, body, "anna", Role.MANAGER, "test", site.clock.utc_ms())


async def test_a_reversal_and_recharges_at_once_are_all_in_memory(site: ControlSite) -> None:
    """A reversal names no account, and waits all the same for what is under way there."""
    await begin(site, RICH)
    await site.do(Recharge("flat-1", 7 * NANO), key="first")
    outcome = find_outcome(site.file.connection, "first")
    assert outcome is not None
    seq = int(str(outcome.result["transaction_seq"]))
    bodies = [Recharge("flat-1", 5 * NANO), ReverseTransaction(seq, "x"), Recharge("flat-1", NANO)]
    async with asyncio.TaskGroup() as group:
        for number, body in enumerate(bodies):
            group.create_task(site.executor.execute(asked(site, body, f"k-{number}")))
    assert balance(site, "wallet:flat-1") == RICH + 6 * NANO
    assert site.engine.points[0].wallet_nano == RICH + 6 * NANO
    assert_proved(site)
