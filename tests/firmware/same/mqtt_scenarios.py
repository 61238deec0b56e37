"""The MQTT client against a real broker, in scenes that CPython and MicroPython both play.

`control` orders what happens outside: `broker`, `freeze`, `thaw`, `kill`, `start`, `blackhole`,
`drop`, `send` and `seen` are those of test_mqtt_live.py.
"""

import asyncio

from node.mqtt import MOST_WAITING, Client, MqttError

COMMAND = "smartmeter/node-1/command"
STATUS = "smartmeter/node-1/status"
TELEMETRY = "smartmeter/node-1/telemetry"
WILL = (STATUS, b'{"online":false}', True)


async def connected(board, control, **changed):
    """A client that is logged in."""
    client = made(board, **changed)
    await client.connect("127.0.0.1", await control("port"))
    return client


def made(board, **changed):
    """A client with short times."""
    options = {"keepalive_s": 2, "timeout_s": 2, "most_bytes": 4_096}
    login = changed.pop("login", ("node-1", "secret"))
    options.update(changed)
    return Client(board, "node-1", login, WILL, **options)


async def failure(waiting):
    """What a call of the client raises."""
    try:
        await waiting
    except MqttError as error:
        return str(error)
    raise AssertionError("no MqttError")


async def since(board, start_ms):
    """Seconds since a tick."""
    return board.ticks_diff(board.ticks_ms(), start_ms) / 1_000


async def publishes(board, control):
    """What was published with QoS 1 is at the subscriber; a goodbye keeps the Will."""
    client = await connected(board, control)
    payload = bytes(range(256)) * 8
    await client.publish(TELEMETRY, payload)
    await asyncio.gather(*[client.publish(TELEMETRY, bytes((n,))) for n in range(MOST_WAITING)])
    await client.publish(STATUS, b"here", retain=True)
    seen = await control("seen", count=10)
    assert seen[0] == [TELEMETRY, payload.hex(), 1, False]
    assert sorted(text for _, text, _, _ in seen[1:9]) == [f"{n:02x}" for n in range(8)]
    assert seen[9] == [STATUS, b"here".hex(), 1, False]
    await client.disconnect()
    assert client.closed == "disconnected"
    assert "disconnected" in await failure(client.publish(STATUS, b""))
    await asyncio.sleep(0.3)
    assert len(await control("seen", count=0)) == 10
    assert await control("retained", topic=STATUS) == b"here".hex()


async def receives(board, control):
    """Far more than the broker would send without acknowledgements, in order, by QoS 0 and 1."""
    client = await connected(board, control)
    await client.subscribe(COMMAND)
    for number in range(60):
        await control("send", topic=COMMAND, payload=f"{number:04x}", qos=1 - number % 3 // 2)
        topic, payload, retained = await client.receive(2)
        assert (topic, payload.hex(), retained) == (COMMAND, f"{number:04x}", False)
    assert await client.receive(0.05) is None
    assert client.dropped == 0
    await client.disconnect()


async def sees_retained(board, control):
    """A retained message is told from a live one."""
    await control("send", topic=COMMAND, payload="aa", retain=True)
    client = await connected(board, control)
    await client.subscribe(COMMAND)
    assert await client.receive(2) == (COMMAND, b"\xaa", True)
    await control("send", topic=COMMAND, payload="bb")
    assert await client.receive(2) == (COMMAND, b"\xbb", False)
    await client.disconnect()


async def leaves_its_will(board, control):
    """A connection that breaks off publishes the Will, retained."""
    client = await connected(board, control)
    await control("drop")
    assert "lost" in await failure(client.receive(5))
    assert await control("seen", count=1) == [[STATUS, WILL[1].hex(), 1, False]]
    assert await control("retained", topic=STATUS) == WILL[1].hex()


async def is_kept_alive(board, control):
    """Idle for more than twice what the broker allows, and it still works."""
    client = await connected(board, control, keepalive_s=1)
    await client.subscribe(COMMAND)
    assert await client.receive(3.2) is None
    assert client.closed is None
    await control("send", topic=COMMAND, payload="aa")
    assert await client.receive(2) == (COMMAND, b"\xaa", False)
    await client.publish(TELEMETRY, b"x")
    assert await control("seen", count=2) == [
        [COMMAND, "aa", 1, False],
        [TELEMETRY, b"x".hex(), 1, False],
    ]
    await client.disconnect()


async def listens_without_talking(board, control):
    """A stream of messages that ask for no answer does not keep the client from its pings."""
    client = await connected(board, control, keepalive_s=1)
    await client.subscribe(COMMAND)
    for _ in range(16):
        await control("send", topic=COMMAND, payload="aa", qos=0)
        assert await client.receive(2) == (COMMAND, b"\xaa", False)
        await asyncio.sleep(0.2)
    assert client.closed is None
    await client.disconnect()


async def notices_a_frozen_broker(board, control):
    """Within the keep-alive time without traffic, within the deadline with; then anew."""
    client = await connected(board, control)
    await control("freeze")
    start_ms = board.ticks_ms()
    assert "silent peer" in await failure(client.receive(10))
    assert await since(board, start_ms) < 5
    assert "silent peer" in await failure(client.publish(TELEMETRY, b"x"))
    start_ms = board.ticks_ms()
    # The system still takes the connection; the login finds nobody.
    assert "refused" in await failure(made(board).connect("127.0.0.1", await control("port")))
    assert 1.5 < await since(board, start_ms) < 5
    await control("thaw")
    client = await connected(board, control)
    await control("freeze")
    start_ms = board.ticks_ms()
    assert "no acknowledgement" in await failure(client.publish(TELEMETRY, b"y")) or client.closed
    assert await since(board, start_ms) < 5
    await control("thaw")
    client = await connected(board, control)
    await client.publish(TELEMETRY, b"z")
    await client.disconnect()


async def notices_a_killed_broker(board, control):
    """At once; whoever waits is told; the next connection is a new client's."""
    client = await connected(board, control)
    waiting = asyncio.create_task(failure(client.receive(10)))
    await asyncio.sleep(0)
    await control("kill")
    start_ms = board.ticks_ms()
    assert "lost" in await waiting
    assert await since(board, start_ms) < 1
    assert await failure(client.publish(TELEMETRY, b"x"))
    assert "no connection" in await failure(made(board).connect("127.0.0.1", 1))
    await control("start")
    client = await connected(board, control)
    await client.publish(TELEMETRY, b"again")
    assert (await control("seen", count=1))[-1][1] == b"again".hex()
    await client.disconnect()


async def notices_a_half_open_connection(board, control):
    """Nothing comes and nothing says so: what is under way fails within its deadline."""
    client = await connected(board, control, keepalive_s=20)
    await control("blackhole")
    start_ms = board.ticks_ms()
    tasks = [asyncio.create_task(failure(client.publish(TELEMETRY, b"x"))) for _ in range(3)]
    for task in tasks:
        assert "no acknowledgement" in await task
    assert 1.5 < await since(board, start_ms) < 5


async def stops_at_a_peer_that_takes_nothing(board, control):
    """Nobody reads: sending ends at the deadline, with a bound on what waits."""
    client = await connected(board, control, keepalive_s=20)
    await control("blackhole")
    payload = bytes(8_192)
    tasks = [
        asyncio.create_task(failure(client.publish(TELEMETRY, payload)))
        for _ in range(MOST_WAITING + 4)
    ]
    failures = await asyncio.gather(*tasks)
    assert len([text for text in failures if "too much" in text]) == 4
    assert "too much" in await failure(client.publish(TELEMETRY, bytes(8_193)))


async def throws_huge_messages_away(board, control):
    """One of 60,000 bytes is acknowledged, counted, never held; the next one comes."""
    client = await connected(board, control)
    await client.subscribe(COMMAND)
    for count in range(1, 4):
        await control("send", topic=COMMAND, payload="55", times=60_000)
        await control("send", topic=COMMAND, payload="aa")
        assert await client.receive(2) == (COMMAND, b"\xaa", False)
        assert client.dropped == count
    await client.disconnect()


async def bounds_what_nobody_takes(board, control):
    """The queue holds 8; what finds it full is counted and left to its sender."""
    client = await connected(board, control)
    await client.subscribe(COMMAND)
    for number in range(12):
        await control("send", topic=COMMAND, payload=f"{number:02x}")
    await asyncio.sleep(0.3)
    assert client.dropped == 4
    for number in range(MOST_WAITING):
        assert await client.receive(1) == (COMMAND, bytes((number,)), False)
    assert await client.receive(0.1) is None
    await client.disconnect()


async def is_refused(board, control):
    """A wrong password is told as such, nobody is let in without one."""
    for login in (("node-1", "wrong"), None):
        client = made(board, login=login)
        text = await failure(client.connect("127.0.0.1", await control("port")))
        assert "not authorised" in text or "user or password" in text
        assert "refused" in await failure(client.publish(TELEMETRY, b"x"))
