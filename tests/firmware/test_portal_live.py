"""The set-up portal over real HTTP and UDP on a node that has no network, while it meters."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from gateway.app.clock import SystemClock
from gateway.sim.loads import steady_curve
from gateway.sim.node_board import NodeBoard, NodeDatagrams
from gateway.sim.pzem import PzemLine, PzemModule
from node.portal import Portal
from node.sealed import portal_password
from tests.firmware.node_site import MAC, SECRET

pytestmark = pytest.mark.slow

PASSWORD: Final = portal_password(SECRET)
FORM: Final = "ssid=home&password=secret+word&host=broker.lan&port=1883&key="
OURS: Final = "Host: 127.0.0.1\r\n"


class PortBoard(NodeBoard):
    """Listens where it finds free ports, and tells which."""

    port = 0
    name_port = 0
    access_point = ("", "")

    async def start_server(self, serve, port):  # type: ignore[no-untyped-def]
        """Listen."""
        assert port == 80
        server = await super().start_server(serve, 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def open_datagrams(self, port: int) -> NodeDatagrams:
        """Listen for names."""
        assert port == 53
        line = super().open_datagrams(0)
        self.name_port = line.port
        return line

    def wifi_access_point(self, ssid: str, password: str) -> str:
        """What the radio would show."""
        self.access_point = (ssid, password)
        return super().wifi_access_point(ssid, password)


class Open:
    """A portal that is open, and the task that runs it."""

    def __init__(self, place: Path) -> None:
        line = PzemLine([PzemModule(steady_curve(100.0))])
        self.board = PortBoard(place, SystemClock(), line, mac=MAC)
        kept = {"host": "old", "port": 8883, "ca": "PEM"}
        self.board.provision(device_id="node-1", secret=SECRET, broker=kept, version="1")
        self.board.nvs_set("wifi", b"{}")
        self.portal = Portal(self.board, "node-1", SECRET)
        self.task = asyncio.create_task(self.portal.run())

    async def request(self, raw: bytes) -> str:
        """The whole answer to a request."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.board.port)
        writer.write(raw)
        answer = await asyncio.wait_for(reader.read(), 15)
        writer.close()
        return answer.decode()

    async def post(self, body: str, headers: str = OURS) -> str:
        """The answer to a posted form."""
        head = f"POST / HTTP/1.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        return await self.request((head + body).encode())

    async def status(self, body: str, headers: str = OURS) -> int:
        """The status of the answer to a posted form."""
        return int((await self.post(body, headers)).split(" ")[1])


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    """A portal that listens."""
    made = Open(tmp_path)
    while not (made.board.port and made.board.name_port):
        await asyncio.sleep(0.01)
    yield made
    made.task.cancel()
    await asyncio.wait({made.task})


async def test_a_form_with_the_devices_password_is_kept(opened: Open) -> None:
    """The page shows nothing that is kept; a wrong password changes nothing; a CA stays."""
    board = opened.board
    assert board.access_point == ("node-1", PASSWORD)
    page = await opened.request(f"GET / HTTP/1.1\r\n{OURS}\r\n".encode())
    assert page.startswith("HTTP/1.0 200 OK")
    assert "old" not in page
    assert PASSWORD not in page
    assert "name=port value=8883" in page
    assert "frame-ancestors 'none'" in page
    assert await opened.status(FORM + "wrong") == 400
    assert "413" in await opened.request(
        f"POST / HTTP/1.1\r\n{OURS}Content-Length: 9999\r\n\r\n".encode()
    )
    assert "413" in await opened.request(b"x" * 5_000)
    assert board.nvs_get("wifi") == b"{}"
    assert "Saved" in await opened.post(FORM + PASSWORD)
    await asyncio.wait_for(asyncio.shield(opened.task), 10)
    assert json.loads(board.nvs_get("wifi") or b"") == {"ssid": "home", "password": "secret word"}
    broker = json.loads(board.nvs_get("broker") or b"")
    assert broker == {"host": "broker.lan", "port": 1_883, "ca": "PEM"}


async def test_what_phones_look_for_leads_to_the_page(opened: Open) -> None:
    """Android, iOS, Windows and Firefox ask under names of their own; so does any favicon."""
    for host, path in (
        ("connectivitycheck.gstatic.com", "/generate_204"),
        ("clients3.google.com", "/gen_204"),
        ("captive.apple.com", "/hotspot-detect.html"),
        ("www.apple.com", "/library/test/success.html"),
        ("www.msftconnecttest.com", "/connecttest.txt"),
        ("www.msftncsi.com", "/ncsi.txt"),
        ("detectportal.firefox.com", "/canonical.html"),
        ("captive.apple.com", "/"),
        ("127.0.0.1", "/favicon.ico"),
    ):
        answer = await opened.request(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert answer.startswith("HTTP/1.0 302 Found"), (host, path)
        assert "\r\nLocation: http://127.0.0.1/\r\n" in answer
    # Without any host, as the oldest clients ask.
    assert (await opened.request(b"GET / HTTP/1.0\r\n\r\n")).startswith("HTTP/1.0 302")


async def test_every_name_is_answered_over_udp(opened: Open) -> None:
    """A real resolver's question; noise before it is left alone."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        await loop.sock_connect(asking, ("127.0.0.1", opened.board.name_port))
        asked = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + b"\x05apple\x03com\x00\0\1\0\1"
        for datagram in (b"", b"\xff" * 600, asked[:-1], asked):
            await loop.sock_sendall(asking, datagram)
        told = await asyncio.wait_for(loop.sock_recv(asking, 512), 5)
    assert told[:2] == b"\0\7"
    assert told[-4:] == bytes((127, 0, 0, 1))


async def test_another_page_cannot_send_the_form(opened: Open) -> None:
    """Not under another name that leads here, not from another origin, even with the password."""
    body = FORM + PASSWORD
    for headers in (
        "Host: evil.example\r\n",
        "",
        f"{OURS}Origin: http://evil.example\r\n",
        f"{OURS}Origin: null\r\n",
        f"{OURS}Origin: https://127.0.0.1\r\n",
        f"{OURS}Host: evil.example\r\n",
        f"{OURS}Origin: http://127.0.0.1\r\nOrigin: http://evil.example\r\n",
    ):
        assert await opened.status(body, headers) == 403, headers
    assert opened.board.nvs_get("wifi") == b"{}"
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        answer = await opened.request(f"{method} / HTTP/1.1\r\n{OURS}\r\n".encode())
        assert answer.startswith("HTTP/1.0 405")
    assert await opened.status(body, f"{OURS}Origin: http://127.0.0.1\r\n") == 200


async def test_guessing_closes_the_form_for_ever_longer(opened: Open) -> None:
    """Five wrong passwords are free; then none is looked at for 30 s, 60 s, at most 10 minutes."""
    assert [await opened.status(FORM + "wrong") for _ in range(5)] == [400] * 5
    told = await opened.post(FORM + PASSWORD)
    assert told.startswith("HTTP/1.0 429")
    assert "again in 30 s" in told or "again in 29 s" in told
    assert opened.board.nvs_get("wifi") == b"{}"
    for seconds in (60, 120, 240, 480, 600, 600):
        # The time is over.
        opened.portal._closed_s = 0
        assert await opened.status(FORM + "wrong") == 400
        assert opened.portal._closed_s in {seconds, seconds - 1}
    opened.portal._closed_s = 1
    await asyncio.sleep(2.1)
    assert "Saved" in await opened.post(FORM + PASSWORD)


async def test_whoever_holds_connections_open_is_bounded(opened: Open) -> None:
    """Three that say nothing hold up nobody; with four, the fifth is closed at once."""
    held = [await asyncio.open_connection("127.0.0.1", opened.board.port) for _ in range(3)]
    page = await opened.request(f"GET / HTTP/1.1\r\n{OURS}\r\n".encode())
    assert page.startswith("HTTP/1.0 200 OK")
    held += [await asyncio.open_connection("127.0.0.1", opened.board.port) for _ in range(2)]
    try:
        assert await asyncio.wait_for(held[4][0].read(), 5) == b""
    finally:
        for _, writer in held:
            writer.close()
    await asyncio.sleep(0.1)
    page = await opened.request(f"GET / HTTP/1.1\r\n{OURS}\r\n".encode())
    assert page.startswith("HTTP/1.0 200 OK")
