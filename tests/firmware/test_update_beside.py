"""An update is installed beside everything else: a slow flash starves no watchdog."""

import asyncio
import time
from pathlib import Path
from typing import IO, Any, Final, Self

import pytest

from gateway.app.clock import SystemClock
from gateway.sim.loads import steady_curve
from gateway.sim.node_board import NodeBoard, NodeFiles
from gateway.sim.pzem import PzemLine, PzemModule
from node import app, keys
from node.update import PART
from tests.firmware.node_site import DEVICE, MAC, SECRET
from tests.firmware.releases import bundle, public_keys

pytestmark = pytest.mark.slow

READ_S: Final = 0.1


class SlowFile:
    """A file of a worn flash."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, most: int = -1) -> bytes:
        """Read, slowly."""
        time.sleep(READ_S)
        return self._file.read(most)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class SlowFiles(NodeFiles):
    """A flash that takes its time for the bundle."""

    def open(self, path: str, mode: str) -> Any:
        """A file."""
        file = super().open(path, mode)
        return SlowFile(file) if (path, mode) == (PART, "rb") else file


async def test_the_watchdog_is_fed_and_the_module_asked_during_an_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both go on several times; then the node restarts into the other slot."""
    monkeypatch.setattr(keys, "KEYS", public_keys())
    line = PzemLine([PzemModule(steady_curve(100.0))])
    board = NodeBoard(tmp_path, SystemClock(), line, mac=MAC)
    board.provision(
        device_id=DEVICE, secret=SECRET, broker={"host": "127.0.0.1", "port": 1}, version="1"
    )
    board.files = SlowFiles(tmp_path / "flash")
    node = app.Node(board, "a")
    life = asyncio.create_task(node.live())
    raw = bundle("2", 2).raw
    offer = {"version": "2", "size": len(raw), "sha256": bundle("2", 2).sha256, "security": 2}
    node.updating.begin(offer)
    while wish := node.updating.want():
        offset = wish["offset"]
        node.updating.take(offset.to_bytes(4, "big") + raw[offset : offset + wish["count"]])
    fed, good = board.feeds, node.meter._bus.modules[1].good
    async with asyncio.timeout(60):
        while not node.supervisor.restart_reason:
            await asyncio.sleep(0.05)
    assert node.supervisor.restart_reason == "update"
    assert board.feeds >= fed + 4
    assert node.meter._bus.modules[1].good >= good + 2
    await asyncio.wait_for(life, 20)
    assert (tmp_path / "flash" / "slot").read_bytes() == b"b"
