"""Ports and processes for the end-to-end tests."""

import os
import secrets
import signal
import socket
from pathlib import Path
from typing import Final

# What is not yet gone when its parent dies is killed by the kernel, also across exec (prctl(2)).
LAUNCH: Final = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os.execv(sys.executable, [sys.executable, '-m', 'gateway', *sys.argv[1:]])"
)
# A test that runs in the background ignores SIGINT, and so would its children.
AT_A_TERMINAL: Final = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from gateway.app.cli import main; main()"
)


def free_port(host: str = "127.0.0.1") -> int:
    """A free port outside the range from which the kernel takes ports for outgoing connections.

    A port of that range could be taken while a killed process is away.
    """
    span = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    first = min(int(span[0]), 32_768)
    for _ in range(100):
        port = 10_000 + secrets.randbelow(max(1_000, first - 10_000))
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port at {host}")


def children_of(pid: int) -> dict[str, int]:
    """Process ids of the commands that a `run` supervises, by name."""
    found: dict[str, int] = {}
    tasks = Path(f"/proc/{pid}/task")
    for listing in tasks.glob("*/children"):
        for child in listing.read_text(encoding="ascii").split():
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            found.update({n: int(child) for n in ("control", "north") if n.encode() in words})
    return found


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def kill_now(pid: int) -> None:
    """SIGKILL a process that is no child of ours."""
    os.kill(pid, signal.SIGKILL)
