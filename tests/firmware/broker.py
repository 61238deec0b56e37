"""A real mosquitto for tests: a child process on a free loopback port."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Final

import pytest

# /usr/sbin is not in everyone's PATH.
SEARCH: Final = os.environ.get("PATH", "") + ":/usr/sbin"
MOSQUITTO: Final = shutil.which("mosquitto", path=SEARCH)
needs_mosquitto = pytest.mark.skipif(
    MOSQUITTO is None, reason="mosquitto is not installed: apt-get install mosquitto"
)


class Mosquitto:
    """One broker; `users` by password. It forgets everything when it is killed."""

    def __init__(self, place: Path, users: dict[str, str]) -> None:
        self.place = place
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        passwords = place / "passwords"
        passwords.write_text("".join(f"{user}:{word}\n" for user, word in users.items()))
        hasher = shutil.which("mosquitto_passwd", path=SEARCH)
        assert hasher is not None
        subprocess.run([hasher, "-U", str(passwords)], check=True, timeout=30)
        # As root it would become a user who may not read what this user wrote.
        owner = "user root\n" if os.getuid() == 0 else ""
        (place / "mosquitto.conf").write_text(
            f"{owner}listener {self.port} 127.0.0.1\nallow_anonymous false\n"
            f"password_file {passwords}\npersistence false\n"
        )
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start and wait until it takes connections."""
        assert MOSQUITTO is not None
        with (self.place / "mosquitto.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                MOSQUITTO, "-c", str(self.place / "mosquitto.conf"), stdout=log, stderr=log
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
        pytest.fail((self.place / "mosquitto.log").read_text())

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal: SIGSTOP freezes, SIGCONT thaws."""
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """End it without a goodbye."""
        if self._process:
            self._process.kill()
            await self._process.wait()
            self._process = None
