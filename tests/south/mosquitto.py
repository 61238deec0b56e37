"""A real mosquitto for tests of nodes: a child process on a free loopback port, open to anybody.

Who may say what is the broker's configuration and tested with it.
"""

import asyncio
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Final

import pytest

# /usr/sbin is not in everyone's PATH.
PROGRAM: Final = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
needs_broker = pytest.mark.skipif(PROGRAM is None, reason="there is no mosquitto: .ci/tools")


class OpenBroker:
    """One broker; it forgets everything when it is killed."""

    def __init__(self, place: Path) -> None:
        self._place = place
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        owner = "user root\n" if os.getuid() == 0 else ""
        text = f"{owner}listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
        (place / "broker.conf").write_text(text, encoding="utf-8")
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start and wait until it takes connections."""
        assert PROGRAM is not None
        with (self._place / "broker.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                PROGRAM, "-c", str(self._place / "broker.conf"), stdout=log, stderr=log
            )
        for _ in range(200):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            await writer.wait_closed()
            return
        pytest.fail((self._place / "broker.log").read_text(encoding="utf-8"))

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP freezes it, SIGCONT thaws it."""
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """End it without a goodbye."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.wait()
