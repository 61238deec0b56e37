"""Requests repeated, control restarted, a backup's cursor taken for new: each executed once.

The real file of requests, the real inlet, executor and ledger; only the meters are not there.
"""

import asyncio
from collections import Counter
from pathlib import Path
from random import Random
from typing import Final

from gateway.app.control.inlet import Inlet
from gateway.core.errors import RefusedError
from gateway.core.ledger import wallet
from gateway.store.ledger import read_balance
from tests.app.control_site import ControlSite
from tests.app.test_control import RICH, begin
from tests.app.test_inlet import Office, inlet_of

BATCH: Final = 50
RUPEE: Final = 10**9


def replay(seed: int, start: int, count: int, directory: Path) -> Counter[str]:
    """Send `count` recharges one to three times each; what was sent, refused and executed.

    Raises AssertionError when a recharge was credited twice, or not at all.
    """
    return asyncio.run(_replay(Random(f"{seed} replays {start}"), count, directory))


async def _replay(chance: Random, count: int, directory: Path) -> Counter[str]:
    site = ControlSite(directory)
    # Their commits need no disk here: what is tried is who executes what, and how often.
    site.file.connection.execute("PRAGMA synchronous=OFF")
    await begin(site)
    office = Office(site)
    office.file.connection.execute("PRAGMA synchronous=OFF")
    counted: Counter[str] = Counter()
    amounts: dict[str, int] = {}
    known: set[str] = set()
    inlet = inlet_of(site)
    while len(amounts) < count:
        young = [f"paid-{len(amounts) + number}" for number in range(BATCH)][: count - len(amounts)]
        amounts |= {key: RUPEE + chance.randrange(RUPEE) for key in young}
        old = chance.choices(list(amounts), k=chance.randrange(BATCH))
        sent = [key for key in young for _ in range(chance.randint(1, 3))] + old
        chance.shuffle(sent)
        for key in sent:
            counted["sent"] += 1
            if key in known and chance.random() < 0.05:
                counted["conflicts"] += _conflicts(office, key, amounts[key] + RUPEE)
            else:
                office.recharge(key, amounts[key])
                known.add(key)
        await _settle(inlet)
        assert inlet.failure is None, inlet.failure
        if chance.random() < 0.3:
            inlet.keep_cursor()
        if chance.random() < 0.3:
            # Another inlet over the same files, as after a start: it begins at the kept cursor.
            inlet = inlet_of(site)
            counted["restarts"] += 1
    ledger = site.file.connection
    executed = ledger.execute(
        "SELECT count(*) FROM outcome WHERE request_key LIKE 'paid-%' AND status = 'executed'"
    ).fetchone()[0]
    assert executed == len(amounts), f"{len(amounts)} recharges, {executed} executed"
    assert read_balance(ledger, wallet("flat-1")) == RICH + sum(amounts.values())
    assert site.proof().proved
    office.close()
    site.crash()
    counted["executed"] = executed
    return counted


async def _settle(inlet: Inlet) -> None:
    """Let everything end: nothing may be in flight when another inlet takes over."""
    for _ in range(2_000):
        inlet.look()
        if not inlet._in_flight and not inlet._more:
            return
        await asyncio.sleep(0)
        if inlet.failure is not None:
            return
    raise AssertionError("requests did not end")


def _conflicts(office: Office, key: str, amount_nano: int) -> bool:
    """Whether the same key with another amount is refused."""
    try:
        office.recharge(key, amount_nano)
    except RefusedError as refused:
        return refused.refusal_code == "IDEMPOTENCY_CONFLICT"
    raise AssertionError(f"{key} was taken with another amount")
