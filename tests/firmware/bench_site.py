"""A bench with a real release of the node's own sources, and boards that run real MicroPython."""

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.app.firmware.build import compiled
from gateway.app.firmware.bundle import Release, pack, read_bundle, sign
from gateway.app.firmware.image import make_image, node_files, read_image
from tests.firmware.micropython import FIRMWARE, MICROPYTHON, NODE, RUNNER
from tests.firmware.releases import HARDWARE, key

VERSION: Final = "1.2.0"
SSID: Final = "meters"
WIFI_PASSWORD: Final = "under the stairs"
NODE_KEY: Final = bytes(range(32))
CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
MAC: Final = "a0b1c2d3e4f5"


@cache
def release_bytes(version: str = VERSION) -> bytes:
    """A signed bundle of the node's sources; without an application of their own they get one."""
    with TemporaryDirectory() as place:
        folder = Path(place) / "node"
        shutil.copytree(FIRMWARE / "node", folder, ignore=shutil.ignore_patterns("__pycache__"))
        if not (folder / "app.py").exists():
            (folder / "app.py").write_text("def main(slot):\n    return slot\n")
        files = compiled(folder, [key("current").public])
    made = pack(Release(hardware=HARDWARE, version=version, security=3), files)
    return sign(read_bundle(made), key("current"))


def write_bench(folder: Path, **changes: object) -> Path:
    """A bench in a directory: bench.json and all that it names. `changes`: other keys in it."""
    base = b"\xe9" + bytes(range(255, -1, -1)) * 40
    (folder / "base.bin").write_bytes(base)
    (folder / "node.pgn").write_bytes(release_bytes())
    public = key("current")._private.public_key()
    (folder / "key.pub").write_bytes(
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (folder / "ca.pem").write_text(CERTIFICATE)
    node_key = folder / "node.key"
    node_key.write_text(NODE_KEY.hex() + "\n")
    node_key.chmod(0o600)
    bench = {
        "base": {"image": "base.bin", "sha256": hashlib.sha256(base).hexdigest()},
        "release": "node.pgn",
        "public": ["key.pub"],
        "firmware": str(FIRMWARE),
        "node_key": "node.key",
        "wifi": {"ssid": SSID, "password": WIFI_PASSWORD},
        "broker": {"host": "gateway.example", "ca": "ca.pem", "ntp": "time.example"},
        "tests": {"relay": True},
        **changes,
    }
    path = folder / "bench.json"
    path.write_text(json.dumps(bench))
    path.chmod(0o600)
    return path


@dataclass(frozen=True)
class LiveBoard:
    """A board that runs: its port as mpremote names it."""

    port: str
    process: subprocess.Popen[str]

    def wait_stalled(self) -> None:
        """Until it came to the program at which it answers no more."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "stalled\n"

    def ask(self, expression: str) -> Any:
        """What an expression is worth on the board, by a connection of its own."""
        program = f"import json, machine, esp32\nprint(json.dumps(({expression})))".encode()
        number = int(self.port.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", number), timeout=20) as there:
            there.sendall(b"\x01" + program + b"\x04")
            answer = b""
            while answer.count(b"\x04") < 2:
                answer += there.recv(65_536)
        shown, error = answer.split(b"OK", 1)[1].split(b"\x04")[:2]
        assert not error, error.decode()
        return json.loads(shown)


@contextmanager
def board(
    version: str = VERSION,
    *,
    files: Mapping[str, bytes] | None = None,
    without: str = "",
    spoiled: str = "",
    drop: str = "",
    stall: str = "",
    **traits: object,
) -> Iterator[LiveBoard]:
    """A board with `files`, else those of an image that was made and mounted again.

    `without`: a module that it has not; `spoiled`: a file with another content; `drop`, `stall`:
    serve.mjs; `traits`: runner/bench/machine.py.
    """
    found = dict(files or {})
    if files is None:
        image = make_image(node_files(FIRMWARE, read_bundle(release_bytes(version))))
        found = read_image(image)
    if spoiled:
        found[spoiled] += b"#"
    for path in (RUNNER / "bench").glob("*.py"):
        if path.stem != without:
            found[f"/lib/{path.name}"] = path.read_bytes()
    facts: Mapping[str, object] = {"macs": [MAC], "wifi": [SSID, WIFI_PASSWORD], **traits}
    found["/board.json"] = json.dumps(facts).encode()
    job = {
        "files": {path: base64.b64encode(content).decode() for path, content in found.items()},
        "drop": drop,
        "stall": stall,
    }
    process = subprocess.Popen(
        [str(NODE), str(RUNNER / "serve.mjs"), str(MICROPYTHON)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NODE_OPTIONS": ""},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(job))
        process.stdin.close()
        yield LiveBoard(f"socket://127.0.0.1:{int(process.stdout.readline())}", process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
