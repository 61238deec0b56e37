"""A real mosquitto for tests: a child process on a free loopback port.

Who may say what is the broker's configuration and tested with it (tests/app/test_broker_live.py).
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

# /usr/sbin is not in everyone's PATH.
SEARCH: Final = os.environ.get("PATH", "") + ":/usr/sbin"
PROGRAM: Final = shutil.which("mosquitto", path=SEARCH)
needs_broker = pytest.mark.skipif(PROGRAM is None, reason="there is no mosquitto: .ci/tools")


class Mosquitto:
    """One broker, for `users` by password or open to anybody.

    It forgets everything when it is killed.
    """

    def __init__(self, place: Path, users: Mapping[str, str] | None = None) -> None:
        self._place = place
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        # As root it would become a user who may not read what this user wrote.
        owner = "user root\n" if os.getuid() == 0 else ""
        who = "allow_anonymous true\n"
        if users is not None:
            who = f"allow_anonymous false\npassword_file {_passwords(place, users)}\n"
        text = f"{owner}listener {self.port} 127.0.0.1\n{who}persistence false\n"
        (place / "mosquitto.conf").write_text(text, encoding="utf-8")
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start and wait until it takes connections."""
        assert PROGRAM is not None
        with (self._place / "mosquitto.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                PROGRAM, "-c", str(self._place / "mosquitto.conf"), stdout=log, stderr=log
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
        pytest.fail((self._place / "mosquitto.log").read_text(encoding="utf-8"))

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


def _passwords(place: Path, users: Mapping[str, str]) -> Path:
    passwords = place / "passwords"
    text = "".join(f"{user}:{word}\n" for user, word in users.items())
    passwords.write_text(text, encoding="utf-8")
    hasher = shutil.which("mosquitto_passwd", path=SEARCH)
    assert hasher is not None
    subprocess.run([hasher, "-U", str(passwords)], check=True, timeout=30)
    return passwords
