"""What `broker write` makes, under a real mosquitto: who gets in, and who may say what."""

import asyncio
import shutil
import socket
import ssl
from collections.abc import AsyncIterator

import aiomqtt
import pytest

from gateway.app.broker.mosquitto import NODE_HEARS, NODE_SAYS
from gateway.app.broker.users import added_user
from gateway.app.clock import SystemClock, seeded
from gateway.app.config import load_config
from gateway.south.mqtt import Broker, BrokerTls, MqttLink
from gateway.store.devices import DeviceStatus
from tests.app.broker_site import BrokerSite, Ear, is_open, open_directory
from tests.south.mosquitto import needs_broker

pytestmark = [needs_broker, pytest.mark.slow]

FIRST, SECOND, THIRD = "node-aaaaaaaaaaaa", "node-bbbbbbbbbbbb", "kiosk-of-others"
CHOSEN = "correct horse battery"


@pytest.fixture
async def site() -> AsyncIterator[BrokerSite]:
    """A broker that runs, with two nodes of ours and one of somebody else's."""
    with open_directory() as place:
        made = BrokerSite(place)
        assert made.key  # control makes it before it hears of a device
        for device in (FIRST, SECOND):
            made.record(device, DeviceStatus.APPROVED)
        made.write()
        made.write(lambda users: users.update({THIRD: added_user(THIRD, CHOSEN)}))
        await made.start()
        try:
            yield made
        finally:
            await made.stop()


async def test_only_those_with_their_own_password_get_in(site: BrokerSite) -> None:
    """Nodes, the gateway and the node of others; no wrong password, no name alone, nobody else."""
    assert await site.may_enter(FIRST)
    assert await site.may_enter("gateway")
    assert await site.may_enter(THIRD, CHOSEN)
    assert not await site.may_enter(FIRST, "0" * 32)
    assert not await site.may_enter(FIRST, site.password(SECOND))
    assert not await site.may_enter(FIRST, site.password(FIRST, 2))
    assert not await site.may_enter(THIRD)
    assert not await site.may_enter("gateway", site.password(FIRST))
    assert not await site.may_enter("node-cccccccccccc")
    assert not await site.may_enter(None)


async def test_tls_is_needed_and_proves_the_broker(site: BrokerSite) -> None:
    """No word without TLS; a client that does not trust the authority does not go on."""
    with pytest.raises(aiomqtt.MqttError):
        async with aiomqtt.Client(
            "127.0.0.1", site.port, username=FIRST, password=site.password(FIRST), timeout=3
        ):
            pass
    strangers = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection("127.0.0.1", site.port, ssl=strangers)
    old = ssl.create_default_context(cafile=str(site.directory / "ca.pem"))
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError, match=r"ALERT_PROTOCOL_VERSION"):
        await asyncio.open_connection("127.0.0.1", site.port, ssl=old)
    trusting = ssl.create_default_context(cafile=str(site.directory / "ca.pem"))
    for name in ("palm.lan", "localhost", "127.0.0.1"):
        _, writer = await asyncio.open_connection(
            "127.0.0.1", site.port, ssl=trusting, server_hostname=name
        )
        writer.close()
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection(
            "127.0.0.1", site.port, ssl=trusting, server_hostname="other.lan"
        )


async def test_the_gateway_hears_all_nodes_and_all_nodes_hear_it(site: BrokerSite) -> None:
    """Every kind of message in its direction, for nodes of ours and of others."""
    gateway = Ear()
    async with (
        site.client("gateway") as office,
        gateway.listening(office, *(f"smartmeter/+/{kind}" for kind in NODE_SAYS)),
    ):
        for device in (FIRST, SECOND, THIRD):
            node, password = Ear(), CHOSEN if device == THIRD else None
            async with (
                site.client(device, password) as client,
                node.listening(client, *(f"smartmeter/{device}/{kind}" for kind in NODE_HEARS)),
            ):
                for kind in NODE_SAYS:
                    await client.publish(f"smartmeter/{device}/{kind}", b"said", 1)
                    assert await gateway.has(f"smartmeter/{device}/{kind}", b"said")
                for kind in NODE_HEARS:
                    await office.publish(f"smartmeter/{device}/{kind}", b"told", 1)
                    assert await node.has(f"smartmeter/{device}/{kind}", b"told")


async def test_a_node_speaks_and_hears_under_its_own_name_only(site: BrokerSite) -> None:
    """Another's topics, commands to itself, and anything else are neither sent nor heard."""
    gateway, other = Ear(), Ear()
    async with (
        site.client("gateway") as office,
        site.client(FIRST) as first,
        site.client(SECOND) as second,
        gateway.listening(office, "smartmeter/#", "other/#"),
        other.listening(second, "smartmeter/#", f"smartmeter/{FIRST}/command", "#", "$SYS/#"),
    ):
        for topic in (
            *(f"smartmeter/{FIRST}/{kind}" for kind in (*NODE_SAYS, *NODE_HEARS)),
            f"smartmeter/{SECOND}/command",
            f"smartmeter/{SECOND}/else",
            f"smartmeter/{SECOND}/telemetry/more",
            "other/topic",
        ):
            await second.publish(topic, b"forged", 1)
        await office.publish(f"smartmeter/{FIRST}/command", b"for the first", 1)
        await first.publish(f"smartmeter/{FIRST}/status", b"private", 1, retain=True)
        await office.publish(f"smartmeter/{SECOND}/command", b"for the second", 1)
        await second.publish(f"smartmeter/{SECOND}/telemetry", b"last", 1)
        assert await gateway.has(f"smartmeter/{SECOND}/telemetry", b"last")
        assert await other.has(f"smartmeter/{SECOND}/command", b"for the second")
    assert not [topic for topic, payload in gateway.heard if payload == b"forged"]
    assert {payload for _, payload in other.heard} == {b"for the second"}


async def test_a_last_will_is_confined_too(site: BrokerSite) -> None:
    """The broker sends it for the node that left: under the node's own name only."""
    gateway = Ear()
    async with (
        site.client("gateway") as office,
        gateway.listening(office, "smartmeter/+/status"),
    ):
        for device in (FIRST, SECOND):
            topic = f"smartmeter/{SECOND}/status"
            client = site.client(device)
            client._client.will_set(topic, device.encode(), 1, retain=True)
            async with client:
                lost = client._client.socket()
                assert isinstance(lost, socket.socket)
                lost.shutdown(socket.SHUT_RDWR)
        assert await gateway.has(f"smartmeter/{SECOND}/status", SECOND.encode())
        assert len(gateway.heard) == 1


async def test_the_broker_says_that_it_refused_a_publish(site: BrokerSite) -> None:
    """Where the protocol can tell it (MQTT 5), with the reason: not authorized."""
    async with site.client(SECOND, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.publish(f"smartmeter/{SECOND}/telemetry", b"mine", 1)
        reasons: list[int] = []
        client._client.on_publish = lambda *given: reasons.append(given[3].value)
        client._client.publish(f"smartmeter/{FIRST}/telemetry", b"forged", 1)
        for _ in range(100):
            await asyncio.sleep(0.02)
            if reasons:
                break
        assert reasons == [0x87]


async def test_the_gateway_itself_cannot_speak_for_a_node(site: BrokerSite) -> None:
    """Its user is not above the rules: readings come from nodes."""
    gateway = Ear()
    async with (
        site.client("gateway") as office,
        gateway.listening(office, "smartmeter/#"),
        site.client(FIRST) as first,
    ):
        await office.publish(f"smartmeter/{FIRST}/telemetry", b"forged", 1)
        await first.publish(f"smartmeter/{FIRST}/telemetry", b"true", 1)
        assert await gateway.has(f"smartmeter/{FIRST}/telemetry", b"true")
    assert gateway.heard == [(f"smartmeter/{FIRST}/telemetry", b"true")]


async def test_nobody_takes_another_ones_connection_by_its_name(site: BrokerSite) -> None:
    """The client id is the user's name, whatever a client calls itself."""
    gateway = Ear()
    async with (
        site.client("gateway", identifier="gateway") as office,
        gateway.listening(office, "smartmeter/+/telemetry"),
        site.client(FIRST, identifier=FIRST) as first,
    ):
        for name in (FIRST, "gateway"):
            async with site.client(SECOND, identifier=name) as thief:
                await thief.publish(f"smartmeter/{SECOND}/telemetry", name.encode(), 1)
        await first.publish(f"smartmeter/{FIRST}/telemetry", b"still here", 1)
        assert await gateway.has(f"smartmeter/{FIRST}/telemetry", b"still here")
    assert not gateway.ended


async def test_a_huge_message_is_refused_and_harms_nobody(site: BrokerSite) -> None:
    """8 KiB pass; beyond it the sender is dropped, and nobody else."""
    gateway = Ear()
    async with (
        site.client("gateway") as office,
        gateway.listening(office, "smartmeter/+/backlog"),
        site.client(FIRST) as first,
    ):
        await first.publish(f"smartmeter/{FIRST}/backlog", b"x" * 8_192, 1)
        assert await gateway.has(f"smartmeter/{FIRST}/backlog", b"x" * 8_192)
        async with site.client(SECOND) as second:
            for size in (9_000, 5_000_000):
                with pytest.raises(aiomqtt.MqttError):
                    await second.publish(f"smartmeter/{SECOND}/backlog", b"x" * size, 1, timeout=3)
        await first.publish(f"smartmeter/{FIRST}/backlog", b"after", 1)
        assert await gateway.has(f"smartmeter/{FIRST}/backlog", b"after")
    assert len(gateway.heard) == 2


async def test_a_reload_takes_a_node_in_and_drops_nobody_but_the_refused(site: BrokerSite) -> None:
    """SIGHUP: new users get in, connections go on, a refused node's connection ends."""
    third = "node-cccccccccccc"
    gateway, refused = Ear(), Ear()
    async with (
        site.client("gateway") as office,
        gateway.listening(office, "smartmeter/+/telemetry"),
        site.client(FIRST) as first,
        site.client(SECOND) as second,
        refused.listening(second, f"smartmeter/{SECOND}/command"),
    ):
        assert not await site.may_enter(third)
        site.record(third, DeviceStatus.PENDING)
        assert site.write().changed == ("passwords",)
        await site.reload()
        assert await site.may_enter(third)
        await second.publish(f"smartmeter/{SECOND}/telemetry", b"goes on", 1)
        assert await gateway.has(f"smartmeter/{SECOND}/telemetry", b"goes on")
        site.record(SECOND, DeviceStatus.REFUSED, generation=2)
        assert not site.write().must_restart
        await site.reload()
        await first.publish(f"smartmeter/{FIRST}/telemetry", b"goes on", 1)
        assert await gateway.has(f"smartmeter/{FIRST}/telemetry", b"goes on")
        assert not await site.may_enter(SECOND)
        assert refused.ended
        assert not gateway.ended


async def test_a_new_certificate_is_taken_by_a_reload(site: BrokerSite) -> None:
    """Renewed under the same authority, so that no node has to be touched."""
    trusting = ssl.create_default_context(cafile=str(site.directory / "ca.pem"))

    async def serial() -> object:
        _, writer = await asyncio.open_connection("127.0.0.1", site.port, ssl=trusting)
        certificate = writer.get_extra_info("peercert")
        writer.close()
        return certificate["serialNumber"]

    before = await serial()
    (site.directory / "server.pem").unlink()
    made = site.write()
    assert set(made.changed) == {"server.pem", "server.key"}
    assert not made.must_restart
    await site.reload()
    assert await serial() != before
    assert await site.may_enter(FIRST)


async def test_without_tls_only_on_loopback_and_only_if_asked(site: BrokerSite) -> None:
    """A second listener stands on 127.0.0.1, with the same users."""
    assert not is_open(site.plain_port)
    await site.stop()
    shutil.rmtree(site.place / "conf.d")
    site.configure(more=f", plain_port: {site.plain_port}")
    assert site.write().must_restart
    await site.start()
    for _ in range(200):
        # Its second listener comes after its first, that was waited for.
        if is_open(site.plain_port):
            break
        await asyncio.sleep(0.02)
    assert is_open(site.plain_port)
    assert is_open(site.port, "127.0.0.2")
    assert not is_open(site.plain_port, "127.0.0.2")
    async with aiomqtt.Client(
        "127.0.0.1", site.plain_port, username=FIRST, password=site.password(FIRST)
    ) as client:
        await client.publish(f"smartmeter/{FIRST}/telemetry", b"plain", 1)
    with pytest.raises(aiomqtt.MqttError):
        async with aiomqtt.Client("127.0.0.1", site.plain_port):
            pass


async def test_control_connects_with_what_the_command_tells_to_configure(site: BrokerSite) -> None:
    """The gateway's own client, configured as printed, hears a node."""
    made = site.write()
    site.configure(
        below=f"  mqtt: {{host: 127.0.0.1, port: {site.port}, username: gateway, "
        f"password_file: {made.password}, tls: {{ca: {made.authority}}}}}\n"
    )
    mqtt = load_config(site.place / "config.yaml").south.mqtt
    assert mqtt is not None
    assert mqtt.tls is not None
    heard: list[tuple[str, bytes]] = []
    states: list[tuple[bool, str]] = []
    link = MqttLink(
        Broker(
            mqtt.host,
            mqtt.port,
            "palm",
            mqtt.username,
            mqtt.password_file,
            BrokerTls(mqtt.tls.ca, mqtt.tls.cert, mqtt.tls.key),
        ),
        ("smartmeter/+/telemetry",),
        SystemClock(),
        lambda topic, payload, _retained: heard.append((topic, payload)),
        lambda connected, reason: states.append((connected, reason)),
        admits=lambda _topic: True,
        jitter=seeded("broker"),
    )
    task = asyncio.create_task(link.run())
    try:
        for _ in range(200):
            await asyncio.sleep(0.02)
            if link.is_connected:
                break
        async with site.client(FIRST) as first:
            await first.publish(f"smartmeter/{FIRST}/telemetry", b"hello", 1)
            for _ in range(100):
                await asyncio.sleep(0.02)
                if heard:
                    break
        assert heard == [(f"smartmeter/{FIRST}/telemetry", b"hello")]
        assert states == [(True, "")]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
