"""The live stream over a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import httpx
import pytest
from ulid import ULID

from gateway.core.ledger import TransactionKind
from gateway.core.requests import Role
from gateway.core.switching import ControlState, Reason
from gateway.north.hub import MAX_LISTENERS
from gateway.store.commands import (
    CommandState,
    SwitchAction,
    SwitchCommand,
    put_switch_command,
)
from tests.north.conftest import Served

pytestmark = pytest.mark.slow

API = "/api/v1"
STREAM = f"{API}/stream"


@dataclass
class Frame:
    """One server-sent event."""

    id: str
    event: str
    data: dict[str, object]


class Follower:
    """Reads one stream."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()
        self.comments = 0

    async def next(self, kind: str = "") -> Frame:
        """The next event (of this kind)."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(10):
            async for line in self._lines:
                if line.startswith(":"):
                    self.comments += 1
                elif line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif "event" in fields:
                    frame = Frame(fields["id"], fields["event"], json.loads(fields["data"]))
                    fields = {}
                    if kind in ("", frame.event):
                        return frame
        raise AssertionError("the stream ended")

    async def rest(self) -> int:
        """Read to the end; how many lines came."""
        count = 0
        async with asyncio.timeout(10):
            async for _ in self._lines:
                count += 1
        return count


@asynccontextmanager
async def following(
    client: httpx.AsyncClient, events: str = "", last_event_id: str = ""
) -> AsyncIterator[Follower]:
    """Follow the stream."""
    headers = {"last-event-id": last_event_id} if last_event_id else {}
    async with client.stream("GET", STREAM, params={"events": events}, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Follower(answer)


async def test_readings_arrive_as_they_are_taken(site: Served) -> None:
    """Each new reading is an event with units in names and quality; never one twice."""
    client = await site.client(Role.AUDITOR)
    async with following(client, "measurement.updated") as follower:
        frames = [await follower.next() for _ in range(6)]
    seen: dict[object, int] = {}
    for frame in frames:
        sequence = frame.data["sequence"]
        assert isinstance(sequence, int)
        assert sequence > seen.get(frame.data["meter_id"], 0)
        seen[frame.data["meter_id"]] = sequence
    assert frames[-1].data["power_w"] == 1234.5
    assert frames[-1].data["quality"] == "good"
    assert set(seen) == {"flat-1", "flat-2", "flat-3"}


async def test_posting_is_a_balance_event(site: Served) -> None:
    """A posted transaction changes the balance that listeners see, exactly."""
    client = await site.client(Role.OPERATOR)
    async with following(client, "account.balance_changed") as follower:
        await asyncio.sleep(0.7)
        site.executor.post("flat-1", 1_500_000_001, TransactionKind.ADJUSTMENT)
        frame = await follower.next()
    assert frame.event == "account.balance_changed"
    assert frame.data["account_id"] == "flat-1"
    assert frame.data["balance"] == "1.500000001"
    assert frame.data["currency"] == "INR"


async def test_command_and_supply_are_followed(site: Served) -> None:
    """A disconnection is seen as a change of supply and as the command that proved it."""
    client = await site.client(Role.MANAGER)
    async with following(client, "supply.changed,command.updated") as follower:
        await asyncio.sleep(0.7)
        await client.post(
            f"{API}/meters/flat-2/commands",
            json={"action": "disconnect", "reason": "works"},
            headers={"idempotency-key": "k-1"},
        )
        supply = await follower.next("supply.changed")
        command = await follower.next("command.updated")
    assert supply.data["control_state"] == "disconnected"
    assert supply.data["block_reasons"] == ["MANUAL"]
    assert command.data["request_key"] == "k-1"
    assert (command.data["action"], command.data["state"]) == ("open", "verified")


async def test_resume_loses_nothing_and_repeats_nothing(site: Served) -> None:
    """With Last-Event-ID the events of the break come first, each once."""
    client = await site.client(Role.OPERATOR)
    kinds = "account.balance_changed"
    async with following(client, kinds) as follower:
        await asyncio.sleep(0.7)
        site.executor.post("flat-1", 1, TransactionKind.ADJUSTMENT)
        first = await follower.next()
    await _publish_three(site)
    async with following(client, kinds, last_event_id=first.id) as follower:
        missed = [await follower.next() for _ in range(3)]
        assert [frame.data["n"] for frame in missed] == [0, 1, 2]
        site.context.hub.publish("account.balance_changed", "flat-1", {"n": 3})
        assert (await follower.next()).data["n"] == 3


async def test_resume_from_another_run_says_so(site: Served) -> None:
    """An id that this process cannot know is answered by stream.reset, then live events."""
    client = await site.client(Role.OPERATOR)
    async with following(client, "account.balance_changed", last_event_id="OLD-7") as follower:
        assert (await follower.next()).event == "stream.reset"
        site.context.hub.publish("account.balance_changed", "flat-1", {"n": 1})
        assert (await follower.next()).data["n"] == 1


async def test_quiet_stream_has_heartbeats(site: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments keep a quiet connection alive through proxies and show that it lives."""
    monkeypatch.setattr("gateway.north.http.stream.HEARTBEAT_S", 0.05)
    client = await site.client(Role.OPERATOR)
    async with following(client, "account.balance_changed") as follower:
        await asyncio.sleep(0.3)
        site.context.hub.publish("account.balance_changed", "flat-1", {"n": 1})
        await follower.next()
        assert follower.comments >= 3


async def test_unknown_kind_is_refused(site: Served) -> None:
    """A misspelt kind would be silent for ever, so it is a 400 that names those there are."""
    client = await site.client(Role.OPERATOR)
    answer = await client.get(STREAM, params={"events": "measurement.udpated"})
    assert (answer.status_code, answer.json()["place"]) == (400, "query.events")
    assert "measurement.updated" in answer.json()["detail"]


async def test_administrator_hears_no_money(site: Served) -> None:
    """Balances are left out of the stream of a role that may not see money."""
    client = await site.client(Role.ADMIN)
    async with following(client, "account.balance_changed,supply.changed") as follower:
        site.context.hub.publish("account.balance_changed", "flat-1", {"n": 1})
        site.context.hub.publish("supply.changed", "flat-1", {"n": 2})
        assert (await follower.next()).data == {"n": 2}


async def test_streams_are_bounded_and_freed(site: Served) -> None:
    """One stream too many is 503; a client that left makes room again."""
    client = await site.client(Role.OPERATOR)
    followers = [following(client, "command.updated") for _ in range(MAX_LISTENERS)]
    for follower in followers:
        await follower.__aenter__()
    busy = await client.get(STREAM)
    assert (busy.status_code, busy.json()["code"]) == (503, "BUSY")
    assert (await client.get(f"{API}/health")).json()["stream_clients"] == MAX_LISTENERS
    for follower in followers:
        await follower.__aexit__(None, None, None)
    for _ in range(100):
        if site.context.hub.listeners == 0:
            break
        await asyncio.sleep(0.02)
    assert site.context.hub.listeners == 0


async def test_client_that_stops_reading_is_dropped_and_others_go_on(
    site: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stalled client is cut off after its deadline; its place is freed."""
    monkeypatch.setattr("gateway.north.peer.UNREAD_DEADLINE_S", 0.3)
    client = await site.client(Role.OPERATOR)
    padding = "x" * 50_000
    async with following(client, "account.balance_changed"):
        # Not read any more: the socket's buffers fill up.
        for number in range(600):
            site.context.hub.publish("account.balance_changed", "a", {"n": number, "p": padding})
            await asyncio.sleep(0)
        other = await site.client(Role.OPERATOR)
        assert (await other.get(f"{API}/auth/me")).status_code == 200
        for _ in range(250):
            if site.context.hub.listeners == 0:
                break
            await asyncio.sleep(0.02)
        assert site.context.hub.listeners == 0


@pytest.mark.slow
async def test_command_under_way_is_told_once_per_state(site: Served) -> None:
    """Commits that do not concern a command do not repeat it; its next state is news."""
    client = await site.client(Role.OPERATOR)
    command = SwitchCommand(
        command_id=str(ULID()),
        service_point_id="flat-3",
        meter_id="flat-3",
        action=SwitchAction.OPEN,
        reason="CREDIT",
        issued_utc_ms=1_780_000_000_000,
        state=CommandState.SENT,
        attempts=1,
    )
    async with following(client, "command.updated") as follower:
        await asyncio.sleep(0.7)
        site.executor.ledger.write(lambda c: put_switch_command(c, command))
        for _ in range(3):
            await asyncio.sleep(0.55)
            site.executor.post("flat-1", 1, TransactionKind.ADJUSTMENT)
        proved = replace(command, state=CommandState.VERIFIED, finished_utc_ms=1_780_000_001_000)
        site.executor.ledger.write(lambda c: put_switch_command(c, proved))
        frames = [await follower.next(), await follower.next()]
    assert [frame.data["state"] for frame in frames] == ["sent", "verified"]
    assert [frame.data["block_reasons"] for frame in frames] == [["CREDIT"], ["CREDIT"]]


@pytest.mark.slow
async def test_restored_supply_of_one_meter_is_one_event(site: Served) -> None:
    """A change is told once, not at every look."""
    client = await site.client(Role.OPERATOR)
    async with following(client, "supply.changed") as follower:
        await asyncio.sleep(0.7)
        blocked = replace(
            site.executor.rows[0],
            control_state=ControlState.DISCONNECTED,
            reasons=frozenset({Reason.CREDIT}),
        )
        site.executor.show(0, blocked)
        await asyncio.sleep(1.2)
        site.executor.show(1, replace(site.executor.rows[1], output_closed=None))
        frames = [await follower.next(), await follower.next()]
    assert [frame.data["meter_id"] for frame in frames] == ["flat-1", "flat-2"]


async def _publish_three(site: Served) -> None:
    for number in range(3):
        site.context.hub.publish("account.balance_changed", "flat-1", {"n": number})
