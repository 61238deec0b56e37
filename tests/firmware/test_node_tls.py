"""The whole node over real TLS: mbedtls of MicroPython's unix port, mosquitto as we set it up."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, cast

import pytest

from gateway.app.broker.certificates import authority_of
from gateway.app.clock import SystemClock
from tests.firmware.gate import Hearing
from tests.firmware.micropython import RUNNER
from tests.firmware.node_site import PASSWORD
from tests.firmware.tls_site import TlsSite, tls_site
from tests.firmware.unix_node import needs_unix
from tests.south.mosquitto import needs_broker

pytestmark = [pytest.mark.slow, needs_broker, needs_unix]

# Types of TLS records.
CIPHER, ALERT, HANDSHAKE, APPLICATION = 20, 21, 22, 23
# Each step of a connection may take so long (node/link.py); a busy machine some seconds more.
DEADLINE_S: Final = 10.0
LATE_S: Final = 5.0
# Nothing may keep the node's loop from its other tasks for longer: no handshake, no silence.
MOST_BLOCKED_MS: Final = 1_000
# The first wait after a failure is anything up to ten seconds.
BACK_S: Final = 25.0
CERTIFICATE: Final = ("ca.pem", "ca.key", "server.pem", "server.key")
NTP_EPOCH_S: Final = 2_208_988_800
NTP_BYTES: Final = 48
# What the node holds in its heap, in bytes, with a session over TLS: twice as large pointers.
MOST_HELD: Final = 165_000
RECONNECTS: Final = 200
SETTLED: Final = 40


class Then(SystemClock):
    """A clock that is so far ahead, or behind."""

    def __init__(self, ahead: timedelta) -> None:
        super().__init__()
        self._ahead_ms = ahead // timedelta(milliseconds=1)

    def utc_ms(self) -> int:
        """As it tells it."""
        return super().utc_ms() + self._ahead_ms


@pytest.fixture
async def site() -> AsyncIterator[TlsSite]:
    """A site that is not on yet."""
    async with tls_site() as made:
        yield made


async def leased(site: TlsSite) -> int:
    """Let a node get a lease of the next watt-hours and lose its power; the lease's cut-off."""
    session = await site.start()
    await site.gateway.wait("telemetry", lambda t: t["quality"] == "good")
    cutoff_wh = site.counter_wh + 4
    assert (await site.gateway.grant(session, 1, cutoff_wh))["code"] == "DONE"
    await site.node.power_off()
    site.gate.said.clear()
    return cutoff_wh


async def opened(site: TlsSite, cutoff_wh: int) -> None:
    """The node has gone on metering all the time: its relay opens at the watt-hour."""
    await site.wait_relay(closed=False)
    assert site.counter_wh == cutoff_wh


async def until(what: str, holds: object, seconds: float) -> None:
    """Wait until something holds."""
    assert callable(holds)
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


async def test_a_node_lives_over_tls(site: TlsSite) -> None:
    """Login, telemetry, commands, 63 records in one message; the wire shows no word of it."""
    gateway = site.gateway
    session = await site.start()
    await gateway.wait("telemetry", lambda t: t["quality"] == "good")
    assert (await gateway.command(session, "read"))["ok"]
    assert (await gateway.command(session, "relay", closed=False))["ok"]
    await site.wait_relay(closed=False)
    assert (await site.node.look())["longest_ms"] < MOST_BLOCKED_MS
    assert site.node.sockets == 3  # UART, control, broker
    await site.broker_away()
    for _ in range(70):
        site.node.keep_record()
    await asyncio.sleep(0.1)
    await site.node.look()  # it answers when all of them are kept
    await site.node.power_off()
    await site.node.power_on()
    session = await site.broker_back()
    await gateway.command(session, "read")
    told = await gateway.wait("backlog", lambda b: b["segment"] == 0)
    assert [record[0] for record in told["records"]] == list(range(1, 64))
    wire = b"".join(site.gate.said)
    assert len(wire) > 6_000
    assert site.gate.records == {CIPHER, HANDSHAKE, APPLICATION}
    assert PASSWORD.encode() not in wire
    assert b"smartmeter" not in wire


STRANGERS: Final = {
    "authority": "not correctly signed",
    "name": "does not match",
    "expired": "has expired",
    "future": "starts in the future",
    "plain": None,
}


async def stranger(kind: str) -> None:
    """A node with a lease meets a broker that is none of its own; then it is the right one."""
    async with tls_site() as site, tls_site() as other:
        cutoff_wh = await leased(site)
        await disguise(kind, site, other)
        await site.node.power_on()
        await until("boot.py", lambda: site.node.relay_closed, LATE_S)
        await opened(site, cutoff_wh)
        await until("tries", lambda: len(site.gate.said) > 1, BACK_S)
        assert site.gate.records <= {HANDSHAKE, ALERT}
        assert PASSWORD.encode() not in b"".join(site.gate.said)
        look = await site.node.look()
        assert look["longest_ms"] < MOST_BLOCKED_MS
        await until("sockets", lambda: site.node.sockets == 2 + site.gate.connections, LATE_S)
        # Some seconds later: it comes neither at once nor in step.
        assert len(site.gate.said) < 12
        since = len(site.gateway.heard)
        site.gate.target = site.broker.port
        if kind == "name":
            await site.node.power_off()
            site.provision()
            await site.node.power_on()
        await asyncio.wait_for(back(site, since), BACK_S)
        if STRANGERS[kind] and kind != "name":
            told = await site.gateway.wait("event", lambda e: e["kind"] == "task_failed", since)
            assert STRANGERS[kind] in told["message"]
            assert told["message"].startswith("ValueError: ")
            assert "\n" not in told["message"]
            assert "\\n" not in told["message"]


async def disguise(kind: str, site: TlsSite, other: TlsSite) -> None:
    """Put another broker behind the gate, or give the node another name for it."""
    broker = other.broker
    if kind in {"expired", "future"}:
        days = -1_000 if kind == "expired" else 10
        for name in ("server.pem", "server.key"):
            (broker.directory / name).unlink()
        for name in ("ca.pem", "ca.key"):
            (broker.directory / name).write_bytes((site.broker.directory / name).read_bytes())
        broker.write(clock=Then(timedelta(days=days)))
    if kind == "name":
        site.provision(host="127.1")
        return
    await broker.start()
    site.gate.target = broker.plain_port if kind == "plain" else broker.port


async def back(site: TlsSite, since: int) -> None:
    """The node is online again."""
    while True:
        try:
            await site.gateway.session(since)
        except TimeoutError:
            continue
        return


async def test_strangers_hear_no_login_and_stop_no_metering() -> None:
    """Another authority, another name, a certificate that has ended or not begun, no TLS at all."""
    async with asyncio.TaskGroup() as group:
        for kind in STRANGERS:
            group.create_task(stranger(kind))


# How many bytes of the broker's the node still hears, and what comes then. A handshake of the
# broker has some 1,000; the rest of one is in the middle of a record.
SPOILS: Final = [
    (0, "silence"),
    (0, "close"),
    (0, "reset"),
    (3, "silence"),
    (60, "reset"),
    (700, "silence"),
    (700, "close"),
]


async def spoilt(most: int, end: str) -> None:
    """A node with a lease whose handshake breaks off; then all is well again."""
    async with tls_site() as site:
        cutoff_wh = await leased(site)
        site.gate.coming = [Hearing(most, end)]
        await site.node.power_on()
        await until("a try", lambda: site.gate.said, LATE_S)
        begun_s = site.now_s
        await until("its end", lambda: not site.gate.connections, DEADLINE_S + LATE_S)
        if end == "silence":
            assert site.now_s - begun_s > DEADLINE_S - 1
        await opened(site, cutoff_wh)
        since = len(site.gateway.heard)
        await asyncio.wait_for(back(site, since), BACK_S)
        assert (await site.node.look())["longest_ms"] < MOST_BLOCKED_MS
        assert site.node.sockets == 3
        assert site.gateway.events("memory_low") == []


async def nobody_answers() -> None:
    """The broker's machine takes no connection and refuses none: that ends by its deadline too."""
    async with tls_site() as site:
        cutoff_wh = await leased(site)
        await site.gate.stop()
        with socket.create_server(("127.0.0.1", site.gate.port), backlog=0), ExitStack() as queue:
            for _ in range(3):
                queued = queue.enter_context(socket.socket())
                queued.setblocking(False)
                queued.connect_ex(("127.0.0.1", site.gate.port))
            await site.node.power_on()
            await until("a try", lambda: site.node.relay_closed and site.node.sockets == 3, LATE_S)
            begun_s = site.now_s
            await until("its end", lambda: site.node.sockets == 2, DEADLINE_S + LATE_S)
            assert site.now_s - begun_s > DEADLINE_S - 1
        await opened(site, cutoff_wh)
        await site.gate.start(site.broker.port)
        await asyncio.wait_for(back(site, len(site.gateway.heard)), BACK_S)
        assert (await site.node.look())["longest_ms"] < MOST_BLOCKED_MS


async def half_a_record() -> None:
    """Half a record comes and nothing more: the session is given up, and another one begins."""
    async with tls_site() as site:
        await fall_silent(site)


async def fall_silent(site: TlsSite) -> None:
    """Let the broker do so in a session."""
    session = await site.start()
    await site.gateway.wait("telemetry", lambda t: t["quality"] == "good")
    site.gate.piece = 1  # byte by byte, as a record may come
    assert (await site.gateway.command(session, "read"))["ok"]
    site.gate.latest.most = 10
    await site.gateway.publish("command", b"x" * 200)
    await until("the end", lambda: not site.gate.latest.most, LATE_S)
    begun_s = site.now_s
    await until("its end", lambda: not site.gate.connections, DEADLINE_S + LATE_S)
    assert site.now_s - begun_s > 1
    since = len(site.gateway.heard)
    await asyncio.wait_for(back(site, since), BACK_S)
    assert (await site.gateway.command(session, "read"))["ok"]
    assert (await site.node.look())["longest_ms"] < MOST_BLOCKED_MS
    assert site.node.sockets == 3


async def test_what_breaks_off_anywhere_ends_by_its_deadline() -> None:
    """Silence, an end, a reset: before, in and between records; the loop is never kept."""
    async with asyncio.TaskGroup() as group:
        for most, end in SPOILS:
            group.create_task(spoilt(most, end))
        group.create_task(nobody_answers())
        group.create_task(half_a_record())


class TimeServer(asyncio.DatagramProtocol):
    """A server of the right time that is silent until it is told to answer."""

    def __init__(self) -> None:
        self.answers = False
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A port is there."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """A question."""
        self.asked += len(data) == NTP_BYTES
        if self.answers:
            ntp_s = SystemClock().utc_ms() // 1_000 + NTP_EPOCH_S
            answer = bytes((0x24, 2)) + bytes(38) + struct.pack(">I", ntp_s & 0xFFFFFFFF) + bytes(4)
            self._transport.sendto(answer, addr)


def foreign_authority() -> str:
    """A certificate that stands before the right one."""
    return authority_of(None, "elsewhere", datetime.now(UTC)).certificate.decode()


async def test_a_node_without_the_time_waits_for_it_and_then_knows_it(site: TlsSite) -> None:
    """In 2000 no certificate is good; a server tells the time, later the floor is enough."""
    loop = asyncio.get_running_loop()
    wire, server = await loop.create_datagram_endpoint(TimeServer, local_addr=("127.0.0.1", 0))
    try:
        site.node.ntp_port = wire.get_extra_info("sockname")[1]
        await site.open()
        authorities = foreign_authority() + (site.broker.directory / "ca.pem").read_text()
        site.provision(time_s=0, ntp="localhost", ca=authorities)
        await site.node.power_on()
        await until("tries", lambda: len(site.gate.said) > 1, BACK_S)
        assert server.asked
        assert site.gate.records == {HANDSHAKE, ALERT}
        since = len(site.gateway.heard)
        server.answers = True
        await site.node.power_off()
        await site.node.power_on()
        session = await site.gateway.session(since)
        told = await site.gateway.wait("event", lambda e: e["kind"] == "boot")
        assert told["boot_id"] == 2
        now_s = site.clock.utc_ms() // 1_000
        assert (await site.gateway.command(session, "time", unix_s=now_s))["ok"]
        since = len(site.gateway.heard)
        server.answers = False
        await site.node.power_off()
        await site.node.power_on()
        session = await site.gateway.session(since)
        told = await site.gateway.wait("telemetry", lambda t: t["session"] == session, since)
        assert told["timestamp"] is None  # the floor dates certificates, it is no time
    finally:
        wire.close()


async def test_hundreds_of_sessions_leave_nothing_behind(site: TlsSite) -> None:
    """Good ones and refused ones: no socket, nothing in the heap, nothing of mbedtls's memory."""
    site.node.write_flash({"/main.py": (RUNNER / "unix" / "reconnect.py").read_bytes()})
    site.provision()
    # Without the gateway: what it sends is no telemetry.
    await site.broker_on()
    await site.gate.start(site.broker.port)
    await site.node.power_on()
    counts = site.node.counts
    await until("settled", lambda: counts and counts[-1]["count"] >= SETTLED, 60)
    settled, memory = counts[-1], resident_kib(site.node.pid)
    await until("many", lambda: counts[-1]["count"] >= RECONNECTS, 60)
    assert counts[-1]["refused"] == counts[-1]["count"] // 3
    assert counts[-1]["held"] <= settled["held"] + 512
    # One session's buffers are more than 20 KiB.
    assert resident_kib(site.node.pid) - memory < 1_024
    assert site.node.sockets <= 3


def resident_kib(pid: int) -> int:
    """Memory of a process, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


async def test_it_lives_in_a_small_heap(site: TlsSite) -> None:
    """256 KiB with pointers of 64 bits, of which the stand-ins have 32: no failed allocation."""
    site.node.heap = "256k"
    session = await site.start()
    await site.gateway.wait("telemetry", lambda t: t["quality"] == "good")
    assert (await site.gateway.command(session, "read"))["ok"]
    for _ in range(3):
        site.gate.cut()
        await site.node.power_off()
        since = len(site.gateway.heard)
        await site.node.power_on()
        session = await site.gateway.session(since)
        assert (await site.gateway.command(session, "read"))["ok"]
    look = await site.node.look()
    assert look["held"] - look["before"] < MOST_HELD
    assert site.gateway.events("memory_low") == []
    assert [boot["reset"] for boot in site.gateway.events("boot")] == ["power_on"] * 4


async def test_a_littlefs_without_a_free_block_stops_neither_lease_nor_relay(site: TlsSite) -> None:
    """Not even what is there can be written anew then: NVS has the lease, a refusal says why."""
    gateway = site.gateway
    session = await site.start()
    await gateway.wait("telemetry", lambda t: t["quality"] == "good")
    site.node.flash_full(full=True)
    assert (await gateway.command(session, "settings", poll_s=2))["code"] == "STORAGE_FULL"
    cutoff_wh = site.counter_wh + 2
    assert (await gateway.grant(session, 1, cutoff_wh))["code"] == "DONE"
    site.node.keep_record()
    await gateway.wait("event", lambda e: e["kind"] == "storage_failed")
    await opened(site, cutoff_wh)
    await site.node.power_off()
    since = len(gateway.heard)
    await site.node.power_on()
    session = await gateway.session(since)
    status = await gateway.wait("status", lambda s: s["session"] == session)
    assert (status["relay"], status["lease"]["cutoff_wh"]) == ("open", cutoff_wh)
    site.node.flash_full(full=False)
    assert (await gateway.command(session, "settings", poll_s=2))["ok"]
