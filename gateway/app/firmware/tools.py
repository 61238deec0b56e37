"""A board on a serial port: esptool writes its flash, mpremote runs programs on it.

Both are used by their command lines: mpremote declares no other interface stable.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from gateway.app.firmware import onboard
from gateway.app.firmware.bench import Bench
from gateway.app.firmware.image import IMAGE_OFFSET
from gateway.app.firmware.sources import bench_tool_missing
from gateway.core.errors import RefusedError

ESPTOOL: Final = "esptool"
MPREMOTE: Final = "mpremote"
WRITE_BAUD: Final = 460_800
# A base image of 1.8 MB takes about 40 s at that rate, and a minute at half of it.
WRITE_TIMEOUT_S: Final = 240
ASK_TIMEOUT_S: Final = 40
TEST_TIMEOUT_S: Final = 90
WIFI_WAIT_S: Final = 20
SETTLE_S: Final = 2
# MicroPython makes its first file system or mounts ours: the REPL answers after a second or two.
HELLO_TRIES: Final = 4
HELLO_PAUSE_S: Final = 2.0
_MAC: Final = re.compile(
    r"^MAC:\s+((?:[0-9a-f]{2}:){5}[0-9a-f]{2})\s*$", re.MULTILINE | re.IGNORECASE
)
_SUM: Final = re.compile(r"^sha256sum :(/\S+)\n([0-9a-f]{64})$", re.MULTILINE)


def command_of(tool: str) -> list[str]:
    """How to start a tool. Raises RefusedError FIRMWARE_TOOL."""
    if importlib.util.find_spec(tool) is not None:
        # -P: a file of that name in this directory is not the tool.
        return [sys.executable, "-P", "-m", tool]
    found = shutil.which(tool)
    if found is None:
        raise RefusedError("FIRMWARE_TOOL", bench_tool_missing(tool, "works on boards"))
    return [found]


def ports_there() -> list[str]:
    """Serial ports that USB adapters made."""
    return sorted(str(path) for name in ("ttyUSB*", "ttyACM*") for path in Path("/dev").glob(name))


def check_port(port: str) -> None:
    """Refuse a serial port that is not there or not ours. Raises RefusedError PORT_REFUSED."""
    if "://" in port:
        return
    if not Path(port).exists():
        there = ", ".join(ports_there()) or "none"
        raise RefusedError("PORT_REFUSED", f"there is no port {port}; there are: {there}")
    if not os.access(port, os.R_OK | os.W_OK):
        raise RefusedError(
            "PORT_REFUSED", f"{port} may not be used by you: add yourself to the group dialout"
        )


class SerialBoard:
    """A board at `port` (a device, or a URL of pyserial such as socket://)."""

    def __init__(self, port: str, *, settle_s: int = SETTLE_S, wait_s: int = WIFI_WAIT_S) -> None:
        self.port = port
        self._settle_s = settle_s
        self._wait_s = wait_s

    def mac(self) -> str:
        """The MAC of the chip, 12 hex digits, read by esptool. Raises RefusedError BOARD_FAILED."""
        answer = self._esptool(["read-mac"], ASK_TIMEOUT_S)
        found = _MAC.search(answer)
        if found is None:
            raise RefusedError("BOARD_FAILED", f"{self.port}: esptool told no MAC")
        return found[1].replace(":", "").lower()

    def write(self, bench: Bench) -> None:
        """Erase everything and write both images; starts nothing. Raises as `mac` does."""
        with _images(bench) as pairs:
            # What is started before the check writes to its files, and the check finds another
            # flash than was written.
            command = ["--after", "no-reset", "write-flash", "--erase-all", *pairs]
            self._esptool(command, WRITE_TIMEOUT_S)

    def verify(self, bench: Bench) -> None:
        """Compare the flash with both images, then start it. Raises as `mac` does."""
        with _images(bench) as pairs:
            self._esptool(["verify-flash", *pairs], WRITE_TIMEOUT_S)

    def hello(self) -> dict[str, Any]:
        """What runs there: `mac`, and `hardware` and `version` of slot a; empty for no ESP32.

        Raises RefusedError BOARD_FAILED.
        """
        for _ in range(HELLO_TRIES - 1):
            try:
                return self._run(onboard.HELLO, ASK_TIMEOUT_S)
            except RefusedError as error:
                if error.refusal_code != "BOARD_FAILED":
                    raise
                time.sleep(HELLO_PAUSE_S)
        return self._run(onboard.HELLO, ASK_TIMEOUT_S)

    def keep(self, values: Mapping[str, bytes]) -> Sequence[str]:
        """Write values to the NVS; the keys that read back otherwise. Raises as `hello` does."""
        return list(self._run(onboard.keep(values), ASK_TIMEOUT_S)["bad"])

    def sums(self, paths: Sequence[str]) -> dict[str, str]:
        """SHA-256 of files on the board, in hex. Raises as `hello` does."""
        names = [f":{path}" for path in paths]
        answer = self._mpremote(["fs", "sha256sum", *names], "", TEST_TIMEOUT_S)
        return dict(_SUM.findall(answer))

    def test(self, bench: Bench) -> dict[str, Any]:
        """The self-test (`onboard.self_test`). Raises as `hello` does."""
        program = onboard.self_test(bench.file, settle_s=self._settle_s, wait_s=self._wait_s)
        return self._run(program, TEST_TIMEOUT_S)

    def restart(self) -> None:
        """Start the application. Raises as `hello` does."""
        self._mpremote(["reset"], "", ASK_TIMEOUT_S)

    def _esptool(self, arguments: Sequence[str], timeout_s: int) -> str:
        options = ["--chip", "esp32", "--port", self.port, "--baud", str(WRITE_BAUD)]
        command = [*command_of(ESPTOOL), *options, *arguments]
        return _answer(self.port, ESPTOOL, command, "", timeout_s)

    def _mpremote(self, arguments: Sequence[str], program: str, timeout_s: int) -> str:
        # `resume`: no soft reset, which would start the application again.
        command = [*command_of(MPREMOTE), "connect", self.port, "resume", *arguments]
        return _answer(self.port, MPREMOTE, command, program, timeout_s)

    def _run(self, program: str, timeout_s: int) -> dict[str, Any]:
        answer = self._mpremote(["run", "/dev/stdin"], program, timeout_s)
        told = [line for line in answer.splitlines() if line.startswith(onboard.MARK)]
        try:
            found = json.loads(told[-1].removeprefix(onboard.MARK))
        except (IndexError, ValueError) as error:
            raise RefusedError(
                "BOARD_FAILED", f"{self.port}: the board's answer is not understood"
            ) from error
        return dict(found)


@contextmanager
def _images(bench: Bench) -> Iterator[list[str]]:
    """Offsets and files of both images, for a while and for nobody else."""
    with tempfile.TemporaryDirectory(prefix="prepaid-node-") as folder:
        pairs: list[str] = []
        for name, offset, content in (
            ("base.bin", bench.file.base.offset, bench.base),
            ("files.bin", IMAGE_OFFSET, bench.image),
        ):
            path = Path(folder) / name
            path.touch(0o600)
            path.write_bytes(content)
            pairs += [hex(offset), str(path)]
        yield pairs


def _answer(port: str, tool: str, command: Sequence[str], program: str, timeout_s: int) -> str:
    """Standard output of a tool that succeeded. Raises RefusedError BOARD_FAILED."""
    try:
        done = subprocess.run(
            command,
            input=program.encode(),
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"},
        )
    except subprocess.TimeoutExpired as error:
        raise RefusedError(
            "BOARD_FAILED", f"{port}: {tool} had no answer for {timeout_s} s"
        ) from error
    except OSError as error:
        raise RefusedError("FIRMWARE_TOOL", f"{tool} does not run: {error}") from error
    shown = done.stdout.decode("utf-8", "replace").replace("\r\n", "\n")
    if done.returncode:
        said = (shown + done.stderr.decode("utf-8", "replace")).strip().splitlines()
        # esptool names the cause before it points to a page.
        cause = [line for line in said if "fatal error" in line] or said or ["failed silently"]
        why = cause[-1].strip().removeprefix(f"{tool}: ")
        raise RefusedError("BOARD_FAILED", f"{port}: {tool}: {why}")
    return shown
