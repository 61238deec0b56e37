"""The device's board file, on modules of the shapes that MicroPython documents, and real TLS."""

import ast
import asyncio
import importlib.util
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.app.broker.certificates import Pair, authority_of, broker_of
from node import mqtt
from tests.firmware.esp_shapes import DOCUMENTED, Chip, modules
from tests.firmware.micropython import FIRMWARE
from tests.south.mosquitto import Mosquitto, needs_broker

SOURCE: Final = FIRMWARE / "node" / "board_esp32.py"
HIGH: Final = b"\x1a\x01"


def loaded(chip: Chip, patch: pytest.MonkeyPatch) -> Any:
    """The board's module, imported anew on this chip's modules."""
    for name, module in modules(chip).items():
        patch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("board_on_shapes", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    patch.undo()
    return module


@pytest.fixture
def chip() -> Chip:
    """A chip as the bench left it."""
    made = Chip()
    made.kept["relay_pin"] = HIGH
    return made


@pytest.fixture
def module(chip: Chip) -> Any:
    """The board's module on it."""
    with pytest.MonkeyPatch.context() as patch:
        return loaded(chip, patch)


@pytest.fixture
def board(module: Any) -> Any:
    """The board."""
    return module.Board()


def test_every_name_that_the_board_uses_is_documented() -> None:
    """Of the modules that only the device has, and of those that are smaller there."""
    used = {
        (node.value.id, node.attr)
        for node in ast.walk(ast.parse(SOURCE.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    strange = {
        f"{name}.{attribute}"
        for name, attribute in used
        if name in DOCUMENTED and attribute not in DOCUMENTED[name]
    }
    assert strange == set()
    assert ("machine", "Pin") in used


def test_the_relay_moves_only_when_told_and_is_held(chip: Chip, board: Any) -> None:
    """To make the board touches no pin of the relay; each level is set and held at once."""
    assert 26 not in {number for number, _, _ in chip.configured}
    assert board.relay_get() is False
    for closed in (True, False, True):
        board.relay_set(closed)
        assert (chip.levels[26], 26 in chip.held) == (int(closed), True)
        assert board.relay_get() is closed


def test_a_relay_that_is_closed_by_a_low_level(chip: Chip, module: Any) -> None:
    """`relay_pin` says so, as boot.py reads it too."""
    chip.kept["relay_pin"] = b"\x19\x00"
    board = module.Board()
    board.relay_set(True)
    assert (chip.levels[25], board.relay_get()) == (0, True)
    board.relay_set(False)
    assert (chip.levels[25], board.relay_get()) == (1, False)


def test_the_clock_of_2000_is_told_as_that_of_1970(chip: Chip, board: Any) -> None:
    """Unset is 0; what is set comes back to the second."""
    assert board.unix_s() == 0
    for unix_s in (1_764_000_000, 1_700_000_000, 2_000_000_000):
        board.set_unix_s(unix_s)
        assert board.unix_s() == unix_s
        assert chip.clock[:3] + chip.clock[4:7] == tuple(time.gmtime(unix_s)[:6])


def test_nvs_keeps_what_was_committed(chip: Chip, board: Any) -> None:
    """None for what is not there; up to 4 KiB, a CA included."""
    assert board.nvs_get("broker") is None
    board.nvs_set("broker", b"x" * 4_096)
    assert chip.kept.get("broker") is None
    board.nvs_commit()
    assert board.nvs_get("broker") == b"x" * 4_096 == chip.kept["broker"]


def test_a_restart_by_the_program_is_told_as_one(chip: Chip, board: Any) -> None:
    """machine.reset() is a HARD_RESET there."""
    told = {1: "power_on", 2: "software", 3: "watchdog", 4: "deep_sleep", 5: "software", 0: "0"}
    for cause, words in told.items():
        chip.cause = cause
        assert board.reset_cause() == words


async def test_the_uart_gives_what_came_by_its_deadline(chip: Chip, board: Any) -> None:
    """All of it at once, a part at the deadline, nothing of what was there before."""
    chip.received += b"old"
    board.uart_drain()
    assert await board.uart_read(4, 20) == b""
    chip.received += b"reply+"
    assert await board.uart_read(5, 1_000) == b"reply"
    assert await board.uart_read(5, 20) == b"+"
    board.uart_write(b"ask")
    assert bytes(chip.sent) == b"ask"


async def test_a_network_is_joined_anew_or_given_up(chip: Chip, board: Any) -> None:
    """A try under way is ended first; a deadline ends the wait."""
    assert not await board.wifi_connect("home", "secret word", 150)
    assert chip.radio == [("active", 0), ("disconnect",), ("connect", "home", "secret word")]
    assert board.wifi_rssi() is None
    chip.joins = True
    assert await board.wifi_connect("home", "secret word", 150)
    assert board.wifi_rssi() == -61
    assert board.wifi_access_point("node-1", "abcdefgh2345") == "192.168.4.1"
    assert chip.radio[-1] == ("config", "node-1", "abcdefgh2345", 3)


def test_the_watchdog_begins_with_its_first_feeding(chip: Chip, board: Any) -> None:
    """Safe mode never feeds it."""
    assert board._watchdog is None
    board.watchdog_feed()
    board.watchdog_feed()
    assert chip.fed == 2


@pytest.mark.slow
async def test_time_is_asked_of_a_server(module: Any, board: Any) -> None:
    """The second that it tells, also beyond 2036; silence, noise and no time are 0."""
    loop = asyncio.get_running_loop()
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    server.setblocking(False)
    place = [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", server.getsockname())]

    async def asked(answer: bytes) -> int:
        told = asyncio.create_task(board.ntp("time.lan", 300))
        request, sender = await asyncio.wait_for(loop.sock_recvfrom(server, 64), 5)
        assert (len(request), request[0]) == (48, 0x1B)
        await loop.sock_sendto(server, answer, sender)
        return int(await told)

    def answer(unix_s: int, stratum: int = 2) -> bytes:
        ntp_s = unix_s + 2_208_988_800
        return bytes((0x24, stratum)) + bytes(38) + struct.pack(">I", ntp_s & 0xFFFFFFFF) + bytes(4)

    with server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.socket, "getaddrinfo", lambda *_: place)
        assert await asked(answer(1_764_000_000)) == 1_764_000_000
        assert await asked(answer(2_100_000_000)) == 2_100_000_000
        for nothing in (b"", b"x" * 47, answer(1_764_000_000, 0), answer(-2_208_988_800)):
            assert await asked(nothing) == 0


class Micro:
    """A stream of CPython that closes as MicroPython's does: only by `wait_closed`."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.write, self.drain = writer.write, writer.drain

    def close(self) -> None:
        """Nothing."""

    async def wait_closed(self) -> None:
        """Close."""
        self._writer.close()


@pytest.fixture
def micro(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`asyncio` of the board with such streams; certificates that cannot be checked raise OSError
    there.
    """

    async def open_connection(
        host: str, port: int, ssl: Any, server_hostname: str | None
    ) -> tuple[asyncio.StreamReader, Micro]:
        reader, writer = await asyncio.open_connection(
            host, port, ssl=ssl.context, server_hostname=server_hostname
        )
        return reader, Micro(writer)

    shaped = {name: getattr(asyncio, name) for name in DOCUMENTED["asyncio"]}
    shaped["open_connection"] = open_connection
    monkeypatch.setattr(module, "asyncio", type("Asyncio", (), shaped))


class TlsBroker(Mosquitto):
    """A mosquitto with a certificate of the broker's authority."""

    def __init__(self, place: Path, names: list[str], now: datetime) -> None:
        super().__init__(place)
        self.authority = authority_of(None, "palm", now)
        pair = broker_of(None, self.authority, names, now)
        self.write(place, pair)

    def write(self, place: Path, pair: Pair) -> None:
        """Put certificate and key beside the configuration, and name them in it."""
        assert pair.key is not None
        (place / "broker.pem").write_bytes(pair.certificate)
        (place / "broker.key").write_bytes(pair.key)
        with (place / "mosquitto.conf").open("a") as conf:
            conf.write(f"certfile {place}/broker.pem\nkeyfile {place}/broker.key\n")


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[TlsBroker]:
    """One that runs."""
    made = TlsBroker(tmp_path, ["broker.lan"], datetime.now(UTC))
    await made.start()
    yield made
    await made.kill()


def client(board: Any) -> mqtt.Client:
    """The node's client."""
    return mqtt.Client(board, "node-1", None, None, keepalive_s=30, timeout_s=5, most_bytes=2_304)


@pytest.mark.slow
@needs_broker
@pytest.mark.usefixtures("micro")
async def test_the_node_speaks_tls_with_the_broker_that_its_authority_names(
    board: Any, broker: TlsBroker
) -> None:
    """Connected, published, heard; and the connection is really closed afterwards."""
    made = client(board)
    tls = {"ca": broker.authority.certificate, "host": "broker.lan"}
    await made.connect("127.0.0.1", broker.port, tls)
    await made.subscribe("smartmeter/node-1/command")
    await made.publish("smartmeter/node-1/command", b"x" * 2_000)
    message = await made.receive(5)
    assert message == ("smartmeter/node-1/command", b"x" * 2_000, False)
    await made.disconnect()
    reader, writer = await board.open_stream("127.0.0.1", broker.port, tls, 5_000)
    writer.close()
    assert await asyncio.wait_for(reader.read(), 5) == b""


@pytest.mark.slow
@needs_broker
@pytest.mark.usefixtures("micro")
async def test_strangers_are_no_brokers(board: Any, broker: TlsBroker, tmp_path: Path) -> None:
    """Another authority, another name, no certificate where one is due: no login is sent."""
    now = datetime.now(UTC)
    other = authority_of(None, "elsewhere", now)
    for ca, name in (
        (other.certificate, "broker.lan"),
        (broker.authority.certificate, "evil.lan"),
    ):
        with pytest.raises(mqtt.MqttError, match="no connection"):
            await client(board).connect("127.0.0.1", broker.port, {"ca": ca, "host": name})
    (tmp_path / "ended").mkdir()
    ended = TlsBroker(tmp_path / "ended", ["broker.lan"], now - timedelta(days=1_000))
    await ended.start()
    try:
        tls = {"ca": ended.authority.certificate, "host": "broker.lan"}
        with pytest.raises(mqtt.MqttError, match="expired"):
            await client(board).connect("127.0.0.1", ended.port, tls)
    finally:
        await ended.kill()


@pytest.mark.usefixtures("micro")
async def test_the_access_points_name_server_is_udp(module: Any) -> None:
    """Bound to one address, asked and answered; nothing has come for a while."""
    line = module.Datagrams("127.0.0.1", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(5)
        waiting = asyncio.create_task(line.receive())
        await asyncio.sleep(0.1)
        asking.sendto(b"question", line._socket.getsockname())
        asked, sender = await asyncio.wait_for(waiting, 5)
        assert asked == b"question"
        line.send(b"answer", sender)
        assert asking.recv(64) == b"answer"
    line.close()
