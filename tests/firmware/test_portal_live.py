"""The set-up portal over real HTTP on a node that has no network, while it meters."""

import asyncio
import json
from pathlib import Path

import pytest

from gateway.app.clock import SystemClock
from gateway.sim.loads import steady_curve
from gateway.sim.node_board import NodeBoard
from gateway.sim.pzem import PzemLine, PzemModule
from node.portal import Portal
from node.sealed import portal_password
from tests.firmware.node_site import MAC, SECRET

pytestmark = pytest.mark.slow


class PortBoard(NodeBoard):
    """Listens where it finds a free port, and tells which."""

    port = 0
    access_point = ("", "")

    async def start_server(self, serve, port):  # type: ignore[no-untyped-def]
        """Listen."""
        assert port == 80
        server = await super().start_server(serve, 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def wifi_access_point(self, ssid: str, password: str) -> None:
        """What the radio would show."""
        self.access_point = (ssid, password)


async def request(board: PortBoard, raw: bytes) -> str:
    """The whole answer to a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", board.port)
    writer.write(raw)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer.decode()


def post(body: str) -> bytes:
    """A posted form."""
    return f"POST / HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


async def test_a_form_with_the_devices_password_is_kept(tmp_path: Path) -> None:
    """The page shows nothing that is kept; a wrong password changes nothing; a CA stays."""
    line = PzemLine([PzemModule(steady_curve(100.0))])
    board = PortBoard(tmp_path, SystemClock(), line, mac=MAC)
    kept = {"host": "old", "port": 8883, "ca": "PEM"}
    board.provision(device_id="node-1", secret=SECRET, broker=kept, version="1")
    board.nvs_set("wifi", b"{}")
    portal = Portal(board, "node-1", SECRET)
    task = asyncio.create_task(portal.run())
    while not board.port:
        await asyncio.sleep(0.01)
    password = portal_password(SECRET)
    assert board.access_point == ("node-1", password)
    page = await request(board, b"GET / HTTP/1.1\r\n\r\n")
    assert page.startswith("HTTP/1.0 200 OK")
    assert "old" not in page
    assert password not in page
    form = "ssid=home&password=secret+word&host=broker.lan&port=1883&key="
    assert "400 Bad Request" in await request(board, post(form + "wrong"))
    assert "413" in await request(board, b"POST / HTTP/1.1\r\nContent-Length: 9999\r\n\r\n")
    assert "413" in await request(board, b"x" * 5_000)
    assert board.nvs_get("wifi") == b"{}"
    assert "Saved" in await request(board, post(form + password))
    await asyncio.wait_for(task, 10)
    assert json.loads(board.nvs_get("wifi") or b"") == {"ssid": "home", "password": "secret word"}
    broker = json.loads(board.nvs_get("broker") or b"")
    assert broker == {"host": "broker.lan", "port": 1_883, "ca": "PEM"}
