"""A device whose every boot is a fresh MicroPython: its files and NVS outlive the boots."""

import base64
import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from gateway.app.firmware.build import compiled
from gateway.app.firmware.bundle import Bundle, Release, pack, read_bundle, sign
from tests.firmware.device import FRESH_NVS
from tests.firmware.micropython import FIRMWARE, MICROPYTHON, NODE, RUNNER
from tests.firmware.releases import HARDWARE, key

DEVICE: Final = RUNNER / "device"
UPDATE_MODULES: Final = ("__init__", "bundle", "keys", "port", "rsa", "update")
NVS: Final = "/nvs.json"
PROGRAM: Final = """\
import sys
sys.path[:0] = ["/lib", "/"]
import machine
how = "safe mode"
try:
    for path in ("/boot.py", "/main.py"):
        with open(path) as file:
            exec(file.read(), {})
except machine.Reset:
    how = "reset"
import json, os, binascii
def walk(root):
    for name in os.listdir(root or "/"):
        path = root + "/" + name
        if path in ("/lib", "/tmp", "/home", "/dev", "/proc"):
            continue
        if os.stat(path)[0] & 0x4000:
            walk(path)
        else:
            with open(path, "rb") as file:
                print(json.dumps([path, ""]))
                part = file.read(512)
                while part:
                    print(json.dumps([path, binascii.hexlify(part).decode()]))
                    part = file.read(512)
walk("")
print(json.dumps(machine.journal + [[how]]))
"""


def source(folder: Path, version: str, extra: str = "") -> Path:
    """The package of a small application with the node's own update code."""
    for name in UPDATE_MODULES:
        shutil.copy(FIRMWARE / "node" / f"{name}.py", folder)
    text = (DEVICE / "app.py").read_text().replace('"VERSION"', f'"{version}"')
    (folder / "app.py").write_text(text + extra)
    return folder


@cache
def real_bundle(version: str, security: int = 1, extra: str = "") -> Bundle:
    """A release of that application: compiled, packed and signed as a real one."""
    with TemporaryDirectory() as folder:
        keys = [key("current").public, key("next").public]
        files = compiled(source(Path(folder), version, extra), keys)
    return signed(files, version, security)


def signed(files: dict[str, bytes], version: str, security: int = 1) -> Bundle:
    """A signed bundle of these files."""
    release = Release(hardware=HARDWARE, version=version, security=security)
    return read_bundle(sign(read_bundle(pack(release, files)), key("current")))


class RealDevice:
    """A node that boots in MicroPython, with version 1 of the application in slot a."""

    def __init__(self, plan: dict[str, str], first: Bundle | None = None) -> None:
        nvs = {name: value.hex() for name, value in FRESH_NVS.items()}
        self.files: dict[str, bytes] = {
            **(first or real_bundle("1")).slot_files("a"),
            **{f"/{n}.py": (FIRMWARE / f"{n}.py").read_bytes() for n in ("boot", "main", "loader")},
            NVS: json.dumps(nvs).encode(),
            "/plan": json.dumps(plan).encode(),
        }

    @property
    def nvs(self) -> dict[str, bytes]:
        """The values in the NVS."""
        return {name: bytes.fromhex(text) for name, text in json.loads(self.files[NVS]).items()}

    def offer(self, bundle: Bundle) -> None:
        """What version 1 will fetch."""
        told = {
            "version": bundle.release.version,
            "sha256": bundle.sha256,
            "security": bundle.release.security,
        }
        self.files |= {"/bundle": bundle.raw, "/offer": json.dumps(told).encode()}

    def boot(self) -> list[list[Any]]:
        """One boot; what the machine saw, at its end `["reset"]` or `["safe mode"]`."""
        library = {f"/lib/{path.name}": path.read_bytes() for path in DEVICE.glob("*.py")}
        *files, journal = run_micropython(PROGRAM, {**self.files, **library})
        self.files = {}
        for path, part in files:
            self.files[path] = self.files.get(path, b"") + bytes.fromhex(part)
        return [list(line) for line in journal if line[0] not in {"timer", "watchdog"}]


def run_micropython(program: str, files: dict[str, bytes]) -> list[Any]:
    """Run a program with these files alone; the JSON lists that it prints."""
    job = {
        "files": {path: base64.b64encode(content).decode() for path, content in files.items()},
        "program": program,
    }
    done = subprocess.run(
        [str(NODE), str(RUNNER / "run.mjs"), str(MICROPYTHON)],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "NODE_OPTIONS": ""},
    )
    assert done.returncode == 0, done.stderr or done.stdout
    # What boot and loader say to a person at the serial port is no JSON.
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
