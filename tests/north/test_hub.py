"""The live events' memory and queues."""

import asyncio

import orjson
import pytest

from gateway.core.errors import RefusedError
from gateway.north.hub import (
    BALANCE,
    COMMAND,
    KEPT_EVENTS,
    KINDS,
    MAX_LISTENERS,
    MEASUREMENT,
    QUEUED_EVENTS,
    RESET,
    SUPPLY,
    Hub,
    Listener,
)

EPOCH = "run-a"


def frames_of(raw: bytes) -> list[tuple[str, str, object]]:
    """(id, event, data) of each frame."""
    frames = []
    for block in raw.decode().split("\n\n"):
        if block:
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            frames.append((fields["id"], fields["event"], orjson.loads(fields["data"])))
    return frames


async def taken(listener: Listener) -> list[tuple[str, str, object]]:
    """What waits in a listener now."""
    return frames_of(await listener.take(0.01))


async def test_listener_gets_events_of_its_kinds_in_order() -> None:
    """Events arrive in the order they were published, other kinds are left out."""
    hub = Hub(EPOCH)
    listener = hub.listen(frozenset({BALANCE, SUPPLY}), "")
    hub.publish(BALANCE, "a", {"n": 1})
    hub.publish(COMMAND, "c", {"n": 2})
    hub.publish(SUPPLY, "a", {"n": 3})
    assert await taken(listener) == [
        ("run-a-1", BALANCE, {"n": 1}),
        ("run-a-3", SUPPLY, {"n": 3}),
    ]
    assert await taken(listener) == []


async def test_waiting_measurements_of_one_meter_coalesce() -> None:
    """Of several measurements of a meter that wait, only the newest is sent."""
    hub = Hub(EPOCH)
    listener = hub.listen(KINDS, "")
    for n in range(5):
        hub.publish(MEASUREMENT, "flat-1", {"n": n})
    hub.publish(MEASUREMENT, "flat-2", {"n": 9})
    assert await taken(listener) == [
        ("run-a-5", MEASUREMENT, {"n": 4}),
        ("run-a-6", MEASUREMENT, {"n": 9}),
    ]


async def test_resume_sends_missed_states_and_newest_measurement() -> None:
    """A listener with the last id it saw gets every state event since, and the newest reading."""
    hub = Hub(EPOCH)
    hub.publish(BALANCE, "a", {"n": 1})
    hub.publish(MEASUREMENT, "flat-1", {"n": 2})
    hub.publish(COMMAND, "c", {"n": 3})
    hub.publish(MEASUREMENT, "flat-1", {"n": 4})
    listener = hub.listen(KINDS, "run-a-1")
    assert [frame[2] for frame in await taken(listener)] == [{"n": 3}, {"n": 4}]
    hub.publish(SUPPLY, "a", {"n": 5})
    assert [frame[0] for frame in await taken(listener)] == ["run-a-5"]


@pytest.mark.parametrize("seen", ["run-b-1", "nonsense", "run-a-", "run-a-99", "run-a-\u0663"])
async def test_unknown_last_id_is_answered_by_reset(seen: str) -> None:
    """An id of another run, of the future or of no run at all says: read again."""
    hub = Hub(EPOCH)
    hub.publish(BALANCE, "a", {"n": 1})
    frames = await taken(hub.listen(KINDS, seen))
    assert [(frame[0], frame[1]) for frame in frames] == [("run-a-1", RESET)]


async def test_forgotten_events_are_answered_by_reset() -> None:
    """Once an event after the last id was dropped from memory, the listener is told."""
    hub = Hub(EPOCH)
    for n in range(KEPT_EVENTS + 1):
        hub.publish(BALANCE, "a", {"n": n})
    assert [frame[1] for frame in await taken(hub.listen(KINDS, "run-a-0"))] == [RESET]
    resumed = await taken(hub.listen(KINDS, f"run-a-{KEPT_EVENTS}"))
    assert [frame[2] for frame in resumed] == [{"n": KEPT_EVENTS}]


async def test_rare_event_forgotten_under_a_flood_of_others_is_told() -> None:
    """A listener of one rare kind is told to read again when that event was pushed out."""
    hub = Hub(EPOCH)
    hub.publish(SUPPLY, "a", {"n": 0})
    for n in range(KEPT_EVENTS):
        hub.publish(BALANCE, "a", {"n": n})
    rare = frozenset({SUPPLY})
    assert [frame[1] for frame in await taken(hub.listen(rare, "run-a-0"))] == [RESET]
    assert await taken(hub.listen(rare, "run-a-1")) == []


async def test_measurements_alone_never_force_a_reset() -> None:
    """A flood of measurements does not make a resume fail: they are not kept one by one."""
    hub = Hub(EPOCH)
    hub.publish(BALANCE, "a", {"n": 0})
    for n in range(2 * KEPT_EVENTS):
        hub.publish(MEASUREMENT, "flat-1", {"n": n})
    hub.publish(BALANCE, "a", {"n": 1})
    assert [frame[1] for frame in await taken(hub.listen(KINDS, "run-a-1"))] == [
        MEASUREMENT,
        BALANCE,
    ]


async def test_slow_listener_is_ended_and_others_go_on() -> None:
    """A listener that takes nothing loses its stream at the bound; another one loses nothing."""
    hub = Hub(EPOCH)
    slow, quick = hub.listen(KINDS, ""), hub.listen(KINDS, "")
    received = 0
    for n in range(QUEUED_EVENTS + 10):
        hub.publish(BALANCE, "a", {"n": n})
        received += len(await taken(quick))
    assert slow.closed
    assert slow.lost > 0
    assert not quick.closed
    assert received == QUEUED_EVENTS + 10
    assert len(await taken(slow)) == QUEUED_EVENTS


async def test_listeners_are_bounded() -> None:
    """One listener too many is refused; a place freed can be taken again."""
    hub = Hub(EPOCH)
    listeners = [hub.listen(KINDS, "") for _ in range(MAX_LISTENERS)]
    with pytest.raises(RefusedError) as refusal:
        hub.listen(KINDS, "")
    assert refusal.value.refusal_code == "BUSY"
    hub.leave(listeners[0])
    hub.listen(KINDS, "")


async def test_take_wakes_at_once_on_an_event_and_on_close() -> None:
    """A waiting listener does not wait out its heartbeat when something happens."""
    hub = Hub(EPOCH)
    listener = hub.listen(KINDS, "")
    waiting = asyncio.create_task(listener.take(30))
    await asyncio.sleep(0)
    hub.publish(BALANCE, "a", {"n": 1})
    async with asyncio.timeout(1):
        assert frames_of(await waiting)
        waiting = asyncio.create_task(listener.take(30))
        await asyncio.sleep(0)
        hub.close()
        assert await waiting == b""
    assert listener.closed
    with pytest.raises(RefusedError):
        hub.listen(KINDS, "")
